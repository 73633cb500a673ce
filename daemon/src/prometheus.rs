//! The text that scrapers read: Prometheus exposition format 0.0.4, or OpenMetrics 1.0 for those that ask for it.

use std::fmt::{Display, Write};
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use crate::admin::{self, Request, Response};

/// Text under construction. Families in the order in which they are begun; a family's samples follow it.
#[derive(Clone, Debug, Default)]
pub struct Text {
    out: String,
    family: String,
    open_metrics: bool,
}

/// One observation of a histogram, and the trace that it is part of. Written in OpenMetrics only.
#[derive(Clone, Debug)]
pub struct Example {
    /// The trace's id, in hex.
    pub trace_id: String,
    /// The span's id, in hex.
    pub span_id: String,
    /// What was observed, in the family's unit.
    pub value: f64,
    /// When, since 1970.
    pub at: Duration,
}

/// Whether a scraper takes OpenMetrics.
pub fn wants_open_metrics(request: &Request) -> bool {
    let accepts = request.headers().get_all(header::ACCEPT).iter();
    let mut types = accepts
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    types.any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        // A weight of nothing says that it is not wanted (RFC 9110 section 12.4.2).
        named && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
    })
}

impl Text {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing yet, in OpenMetrics' format.
    pub fn open_metrics() -> Self {
        Self {
            open_metrics: true,
            ..Self::default()
        }
    }

    /// Begins a family that only rises. The name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> &mut Self {
        self.begin(name, "counter", help)
    }

    /// Begins a family of values that go up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> &mut Self {
        self.begin(name, "gauge", help)
    }

    /// Begins a family of histograms; see [`Text::histogram_sample`].
    pub fn histogram(&mut self, name: &str, help: &str) -> &mut Self {
        self.begin(name, "histogram", help)
    }

    /// One value of the current family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, None, value, None)
    }

    /// One histogram of the current family: upper bounds (in the family's unit) with the observations at or below each but
    /// above the one before; then those above all bounds, and the sum of all.
    pub fn histogram_sample(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        above: u64,
        sum: f64,
    ) -> &mut Self {
        self.histogram_with_examples(labels, buckets, above, sum, |_| None)
    }

    /// The same with examples. `example`: one of a bucket, by its place; that above all bounds is the last.
    pub fn histogram_with_examples(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        above: u64,
        sum: f64,
        example: impl Fn(usize) -> Option<Example>,
    ) -> &mut Self {
        let (mut count, mut place) = (0, 0);
        let example = |place, open_metrics| if open_metrics { example(place) } else { None };
        for (bound, observed) in buckets {
            count += observed;
            // OpenMetrics writes a bound as a number with a point.
            let bound = if self.open_metrics {
                format!("{bound:?}")
            } else {
                bound.to_string()
            };
            self.line(
                "_bucket",
                labels,
                Some(&bound),
                count,
                example(place, self.open_metrics),
            );
            place += 1;
        }
        count += above;
        self.line(
            "_bucket",
            labels,
            Some("+Inf"),
            count,
            example(place, self.open_metrics),
        );
        self.line("_sum", labels, None, sum, None);
        self.line("_count", labels, None, count, None)
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.open_metrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// The answer to `GET /metrics`.
    pub fn response(self) -> Response {
        let version = match self.open_metrics {
            true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            false => "text/plain; version=0.0.4; charset=utf-8",
        };
        let version = HeaderValue::from_static(version);
        let mut response = admin::text(StatusCode::OK, self.finish());
        response.headers_mut().insert(header::CONTENT_TYPE, version);
        response
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        name.clone_into(&mut self.family);
        // In OpenMetrics a counter's family has no suffix; its samples have.
        let name = match kind {
            "counter" if self.open_metrics => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail; the same below.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<&str>,
        value: impl Display,
        example: Option<Example>,
    ) -> &mut Self {
        self.out.push_str(&self.family);
        self.out.push_str(suffix);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (name, value) in labels {
            let _ = write!(self.out, "{separator}{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.out.push('}');
        }
        let _ = write!(self.out, " {value}");
        if let Some(Example {
            trace_id,
            span_id,
            value,
            at,
        }) = example
        {
            let at = at.as_secs_f64();
            let _ = write!(
                self.out,
                " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {value} {at:.3}"
            );
        }
        self.out.push('\n');
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_samples_are_lines() {
        let mut text = Text::new();
        text.counter("weft_acks_total", "Batches acknowledged.").sample(&[], 3);
        text.gauge("weft_proxies", "Proxies.")
            .sample(&[("state", "connected"), ("x", "a\"b\\c\nd")], 1.5);
        let want = "# HELP weft_acks_total Batches acknowledged.\n# TYPE weft_acks_total counter\nweft_acks_total 3\n\
            # HELP weft_proxies Proxies.\n# TYPE weft_proxies gauge\n\
            weft_proxies{state=\"connected\",x=\"a\\\"b\\\\c\\nd\"} 1.5\n";
        assert_eq!(text.finish(), want);
    }

    #[test]
    fn open_metrics_has_examples_and_an_end() {
        let example = |place| {
            (place == 1).then(|| Example {
                trace_id: "ab".into(),
                span_id: "cd".into(),
                value: 0.7,
                at: Duration::from_millis(1_500),
            })
        };
        let write = |mut text: Text| {
            text.counter("weft_acks_total", "Acks.").sample(&[], 3);
            text.histogram("x_seconds", "X.")
                .histogram_with_examples(&[], [(0.1, 2), (1.0, 1)], 0, 9.0, example);
            text.finish()
        };
        let open = write(Text::open_metrics());
        assert_eq!(
            open,
            "# HELP weft_acks Acks.\n# TYPE weft_acks counter\nweft_acks_total 3\n# HELP x_seconds X.\n\
             # TYPE x_seconds histogram\nx_seconds_bucket{le=\"0.1\"} 2\n\
             x_seconds_bucket{le=\"1.0\"} 3 # {trace_id=\"ab\",span_id=\"cd\"} 0.7 1.500\n\
             x_seconds_bucket{le=\"+Inf\"} 3\nx_seconds_sum 9\nx_seconds_count 3\n# EOF\n"
        );
        let plain = write(Text::new());
        assert!(
            !plain.contains("trace_id") && !plain.contains("EOF") && plain.contains("le=\"1\""),
            "{plain}"
        );
    }

    #[test]
    fn only_who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, wants) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text;q=0", false),
            ("text/plain", false),
            ("*/*", false),
        ] {
            let request = Request::new(bytes::Bytes::new());
            let (mut parts, body) = request.into_parts();
            parts.headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wants_open_metrics(&Request::from_parts(parts, body)), wants, "{accept}");
        }
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut text = Text::new();
        text.histogram("weft_compile_seconds", "Compiles.")
            .histogram_sample(&[], [(0.1, 2), (0.5, 1)], 1, 9.0);
        let text = text.finish();
        for line in [
            "{le=\"0.1\"} 2",
            "{le=\"0.5\"} 3",
            "{le=\"+Inf\"} 4",
            "_sum 9",
            "_count 4",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
    }
}
