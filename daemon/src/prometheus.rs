//! The text that scrapers read: Prometheus exposition format 0.0.4.

use std::fmt::{Display, Write};

use http::{HeaderValue, StatusCode, header};

use crate::admin::{self, Response};

/// Text under construction. Families in the order in which they are begun; a family's samples follow it.
#[derive(Clone, Debug, Default)]
pub struct Text {
    out: String,
    family: String,
}

impl Text {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
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
        self.line("", labels, None, value)
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
        let mut count = 0;
        for (bound, observed) in buckets {
            count += observed;
            self.line("_bucket", labels, Some(&bound.to_string()), count);
        }
        count += above;
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count)
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.out
    }

    /// The answer to `GET /metrics`.
    pub fn response(self) -> Response {
        let mut response = admin::text(StatusCode::OK, self.out);
        let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, version);
        response
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        name.clone_into(&mut self.family);
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail; the same below.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: impl Display) -> &mut Self {
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
        let _ = writeln!(self.out, " {value}");
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
