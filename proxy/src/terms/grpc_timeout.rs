//! The deadline that a gRPC client says: `grpc-timeout`, at most eight digits and a unit. Pure.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("grpc-timeout");
/// The units, finest first, in nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];
/// The largest number that may stand before a unit.
const MOST: u128 = 99_999_999;

/// How long the client waits. `None`: for ever, or it says something else, which is left to the app.
pub(super) fn read(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(NAME)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let nanos = u128::from(number) * nanos;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// Says how long the client still waits.
pub(super) fn write(headers: &mut HeaderMap, left: Duration) {
    let nanos = left.as_nanos();
    let fits = UNITS.iter().find(|(_, unit)| nanos / unit <= MOST);
    let (name, number) = fits.map_or((b'H', MOST), |(name, unit)| (*name, nanos / unit));
    // Digits and a letter may stand in a header.
    if let Ok(value) = HeaderValue::try_from(format!("{number}{}", char::from(name))) {
        headers.insert(NAME, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, text.parse().unwrap());
        read(&headers)
    }

    #[test]
    fn a_timeout_is_read_in_every_unit() {
        for (text, want) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(said(text), Some(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_timeout_is_left_alone() {
        for text in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789S", "1SS"] {
            assert_eq!(said(text), None, "{text:?}");
        }
        assert_eq!(read(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_left_is_written_as_finely_as_fits_and_never_as_more() {
        for (left, want) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_millis(2_500), "2500000u"),
            (Duration::from_secs(200), "200000m"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(u64::MAX), "99999999H"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, "1S".parse().unwrap());
            write(&mut headers, left);
            assert_eq!(headers[NAME], want, "{left:?}");
            assert!(read(&headers).unwrap() <= left);
        }
    }
}
