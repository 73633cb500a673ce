//! Durations as the Gateway API writes them (GEP-2257): `500ms`, `1m30s`.

use std::time::Duration;

/// Reads one to four numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`. `None`: it is no duration.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0_u64;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(unit);
        let scale = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        if !(1..=5).contains(&digits) {
            return None;
        }
        millis += number.parse::<u64>().ok()? * scale;
        rest = after;
        if rest.is_empty() {
            return Some(Duration::from_millis(millis));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        for (text, millis) in [
            ("0s", 0),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1h2m3s4ms", 3_723_004),
            ("99999ms", 99_999),
            ("10s5s", 15_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "0",
            "1",
            "1d",
            "1.5s",
            "-1s",
            "123456ms",
            "1h1m1s1ms1ms",
            "1 s",
            "s",
            "1us",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
