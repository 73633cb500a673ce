//! Observe: B3, Zipkin's trace context, in its two forms (<https://github.com/openzipkin/b3-propagation>).
//!
//! Read where there is no `traceparent`; written back, beside that, in the form in which it came. What cannot be read counts as
//! if it had not come.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Context, SAMPLED, hex, write_hex};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const STATE: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// How a context came, and so how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// One header, `b3`; else one for each part.
    single: bool,
    /// The trace's id has 64 bits.
    short: bool,
    /// Whoever began the trace wants to see all of it, whatever samplers say.
    debug: bool,
}

/// A context in one of the forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct B3 {
    /// How it came.
    pub form: Form,
    /// The caller's trace and span. `None`: only a decision came.
    pub parent: Option<Context>,
    /// The caller's decision. `None`: it is left to us.
    pub sampled: Option<bool>,
}

impl B3 {
    /// The context of a request. `None`: there is none that is readable.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(SINGLE) {
            return Self::parse(only(headers, &SINGLE)??);
        }
        let (trace, span) = (only(headers, &TRACE)?, only(headers, &SPAN)?);
        let (state, flags) = (only(headers, &STATE)?, only(headers, &FLAGS)?);
        if trace.is_none() && span.is_none() && state.is_none() && flags.is_none() {
            return None;
        }
        let debug = flags == Some(b"1");
        let sampled = match state {
            _ if debug => Some(true),
            None => None,
            Some(b"1" | b"true") => Some(true),
            Some(b"0" | b"false") => Some(false),
            Some(_) => return None,
        };
        // A parent is nobody's business here, but has to be one.
        let grandparent = only(headers, &PARENT)?.map(hex_of::<8>);
        let ids = match (trace, span) {
            (Some(trace), Some(span)) => Some(ids(trace, span)?),
            (None, None) => None,
            _ => return None,
        };
        if grandparent == Some(None) {
            return None;
        }
        Some(Self::new(false, debug, ids, sampled))
    }

    /// Reads `<trace>-<span>[-<state>[-<parent>]]`, or a state alone.
    fn parse(value: &[u8]) -> Option<Self> {
        let state = |text: &[u8]| match text {
            b"0" => Some((Some(false), false)),
            b"1" => Some((Some(true), false)),
            b"d" => Some((Some(true), true)),
            _ => None,
        };
        if let Some((sampled, debug)) = state(value) {
            return Some(Self::new(true, debug, None, sampled));
        }
        let mut parts = value.split(|b| *b == b'-');
        let ids = ids(parts.next()?, parts.next()?)?;
        let (sampled, debug) = match parts.next() {
            Some(text) => state(text)?,
            None => (None, false),
        };
        if parts.next().is_some_and(|parent| hex_of::<8>(parent).is_none()) || parts.next().is_some() {
            return None;
        }
        Some(Self::new(true, debug, Some(ids), sampled))
    }

    fn new(single: bool, debug: bool, ids: Option<(Context, bool)>, sampled: Option<bool>) -> Self {
        let flags = if sampled == Some(true) { SAMPLED } else { 0 };
        Self {
            form: Form {
                single,
                short: ids.is_some_and(|(_, short)| short),
                debug,
            },
            parent: ids.map(|(context, _)| Context { flags, ..context }),
            sampled,
        }
    }
}

impl Form {
    /// Writes a span's context. `parent`: all zero where it has none.
    pub fn write(self, context: &Context, parent: [u8; 8], headers: &mut HeaderMap) {
        let trace = &context.trace[if self.short && context.trace[..8] == [0; 8] {
            8
        } else {
            0
        }..];
        let parent = (parent != [0; 8]).then_some(parent);
        let state = if self.debug { "d" } else { "1" };
        if self.single {
            let mut text = format!("{}-{}-{state}", text(trace), text(&context.span));
            if let Some(parent) = parent {
                text = format!("{text}-{}", self::text(&parent));
            }
            return insert(headers, SINGLE, text);
        }
        remove(headers);
        insert(headers, TRACE, text(trace));
        insert(headers, SPAN, text(&context.span));
        if let Some(parent) = parent {
            insert(headers, PARENT, text(&parent));
        }
        let (name, value) = if self.debug { (FLAGS, "1") } else { (STATE, "1") };
        headers.insert(name, HeaderValue::from_static(value));
    }

    /// Adds to a context without a decision that it is not sampled.
    pub fn decide_against(self, headers: &mut HeaderMap) {
        if !self.single {
            headers.insert(STATE, HeaderValue::from_static("0"));
        } else if let Some(ids) = headers.get(SINGLE).and_then(|value| value.to_str().ok()) {
            insert(headers, SINGLE, format!("{ids}-0"));
        }
    }

    /// Writes that nothing is sampled.
    pub fn deny(self, headers: &mut HeaderMap) {
        remove(headers);
        headers.insert(if self.single { SINGLE } else { STATE }, HeaderValue::from_static("0"));
    }
}

/// Takes what nobody can read.
pub fn remove(headers: &mut HeaderMap) {
    for name in [SINGLE, TRACE, SPAN, PARENT, STATE, FLAGS] {
        headers.remove(name);
    }
}

/// The only value of a header. `None`: there are several.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a [u8]>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(HeaderValue::as_bytes);
    values.next().is_none().then_some(value)
}

/// Trace and span, and whether the trace's id is a short one.
fn ids(trace: &[u8], span: &[u8]) -> Option<(Context, bool)> {
    let short = trace.len() == 16;
    let mut id = [0; 16];
    match short {
        true => id[8..].copy_from_slice(&hex_of::<8>(trace)?),
        false => id = hex_of::<16>(trace)?,
    }
    let context = Context {
        trace: id,
        span: hex_of(span)?,
        flags: 0,
    };
    (context.trace != [0; 16] && context.span != [0; 8]).then_some((context, short))
}

fn hex_of<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() == 2 * N { hex(text) } else { None }
}

fn text(bytes: &[u8]) -> String {
    let mut text = vec![0; 2 * bytes.len()];
    write_hex(&mut text, bytes);
    String::from_utf8(text).unwrap_or_default()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: &str = "80f198ee56343ba864fe8b2a57d3eff7";

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn written(of: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut headers = headers(of);
        let b3 = B3::read(&headers).expect("it is readable");
        let parent = b3.parent.expect("it has a parent");
        let context = Context { span: [7; 8], ..parent };
        b3.form.write(&context, parent.span, &mut headers);
        let mut all: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_context_is_written_in_the_form_in_which_it_came() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (came, went) in [
            (
                format!("{TRACE_ID}-e457b5a2e4d86bd1-1"),
                format!("{TRACE_ID}-0707070707070707-1-e457b5a2e4d86bd1"),
            ),
            (
                format!("{TRACE_ID}-e457b5a2e4d86bd1-d-05e3ac9a4f6e3b90"),
                format!("{TRACE_ID}-0707070707070707-d-e457b5a2e4d86bd1"),
            ),
            (
                "64fe8b2a57d3eff7-e457b5a2e4d86bd1".to_owned(),
                "64fe8b2a57d3eff7-0707070707070707-1-e457b5a2e4d86bd1".to_owned(),
            ),
        ] {
            assert_eq!(written(&[("b3", &came)]), [pair("b3", &went)]);
        }
        let went = written(&[
            ("x-b3-traceid", "64fe8b2a57d3eff7"),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
            ("x-b3-sampled", "true"),
        ]);
        assert_eq!(
            went,
            [
                pair("x-b3-parentspanid", "e457b5a2e4d86bd1"),
                pair("x-b3-sampled", "1"),
                pair("x-b3-spanid", "0707070707070707"),
                pair("x-b3-traceid", "64fe8b2a57d3eff7"),
            ]
        );
        let debug = written(&[
            ("x-b3-traceid", TRACE_ID),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("x-b3-flags", "1"),
        ]);
        assert!(debug.contains(&pair("x-b3-flags", "1")) && !debug.iter().any(|(n, _)| n == "x-b3-sampled"));
    }

    #[test]
    fn a_decision_may_come_alone_or_be_left_to_us() {
        for (value, sampled) in [("0", Some(false)), ("1", Some(true)), ("d", Some(true))] {
            let b3 = B3::read(&headers(&[("b3", value)])).unwrap();
            assert_eq!((b3.parent, b3.sampled), (None, sampled), "{value}");
        }
        assert_eq!(
            B3::read(&headers(&[("x-b3-sampled", "0")])).unwrap().sampled,
            Some(false)
        );
        let open = B3::read(&headers(&[("b3", &format!("{TRACE_ID}-e457b5a2e4d86bd1"))])).unwrap();
        assert!(open.parent.is_some() && open.sampled.is_none());
        assert_eq!(B3::read(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_malformed_is_no_context() {
        let long = "a".repeat(20_000);
        for value in [
            "",
            "2",
            "-",
            TRACE_ID,
            "80f198ee56343ba864fe8b2a57d3eff7-",
            "80f198ee56343ba864fe8b2a57d3eff-e457b5a2e4d86bd1-1",
            "80F198EE56343BA864FE8B2A57D3EFF7-e457b5a2e4d86bd1-1",
            "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-x",
            "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3",
            "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90-1",
            "00000000000000000000000000000000-e457b5a2e4d86bd1-1",
            "80f198ee56343ba864fe8b2a57d3eff7-0000000000000000-1",
            &long,
        ] {
            assert_eq!(B3::read(&headers(&[("b3", value)])), None, "{value}");
        }
        let (trace, span) = (("x-b3-traceid", TRACE_ID), ("x-b3-spanid", "e457b5a2e4d86bd1"));
        for wrong in [
            vec![trace],
            vec![span],
            vec![trace, trace, span],
            vec![trace, span, ("x-b3-sampled", "yes")],
            vec![trace, span, ("x-b3-parentspanid", "no")],
            vec![trace, ("x-b3-spanid", "e457")],
        ] {
            assert_eq!(B3::read(&headers(&wrong)), None, "{wrong:?}");
        }
        assert_eq!(B3::read(&headers(&[("b3", "1"), ("b3", "0")])), None, "two are none");
    }
}
