//! Observe: W3C Trace Context, level 1 (`traceparent`).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::b3::Form;

/// The header that names trace, parent and flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that vendors add to. Passed through as it is.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The flag that says that the caller may have recorded its span.
pub const SAMPLED: u8 = 1;

/// Trace, span and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace's id: not all zero.
    pub trace: [u8; 16],
    /// The span's id: not all zero.
    pub span: [u8; 8],
    /// The flags.
    pub flags: u8,
}

/// What was decided about a request's trace. Small, and copied from the request to its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Tracing is off.
    Off,
    /// The caller sent its context.
    Child {
        /// The caller's.
        parent: Context,
        /// Whether spans are made.
        sampled: bool,
        /// The form of B3 in which it came as well, or only.
        b3: Option<Form>,
    },
    /// The trace begins here.
    Root {
        /// Its id.
        trace: [u8; 16],
        /// Whether spans are made.
        sampled: bool,
        /// The form of B3 in which the caller's decision came.
        b3: Option<Form>,
    },
}

impl Context {
    /// The context of a request. `None`: there is none that is readable, so a new trace begins.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        // Two parents are none (section 3.2).
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; of a later version, what stands in these places.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(55)?;
        let version = hex::<1>(&head[..2])?[0];
        let allowed = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !allowed || head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let context = Self {
            trace: hex(&head[3..35])?,
            span: hex(&head[36..52])?,
            flags: hex::<1>(&head[53..55])?[0] & SAMPLED,
        };
        (context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// As a header's value.
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..], &self.trace);
        write_hex(&mut text[36..], &self.span);
        write_hex(&mut text[53..], &[self.flags]);
        HeaderValue::from_bytes(&text).expect("hex digits and dashes")
    }
}

/// Writes two digits for each byte.
pub(super) fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Lower-case hex digits only, as the specification demands.
pub(super) fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}
