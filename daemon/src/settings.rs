//! How values are written in flags and `WEFT_*` variables. Each function fits clap's `value_parser`.

use std::time::Duration;

/// A setting that is a variable of the environment only, with no flag. Readers take its name from here, and
/// `docs/settings.md` is written from it.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub value: &'static str,
    /// What holds where it is not set or empty.
    pub default: &'static str,
    /// Who reads it.
    pub by: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// Why a value could not be read. Says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {wanted}")]
pub struct SettingError {
    value: String,
    wanted: &'static str,
}

/// Reads a duration: a whole number with a unit (`250ms`, `30s`, `10m`, `24h`, `7d`), several in a row (`1h30m`), or `0`.
///
/// A number without a unit is refused, because nobody can tell what was meant.
pub fn duration(value: &str) -> Result<Duration, SettingError> {
    let wrong = || SettingError {
        value: value.to_owned(),
        wanted: "a duration: whole numbers with the units ms, s, m, h or d, such as 250ms, 30s, 1h30m",
    };
    if value == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = value;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, after) = rest.split_at(digits);
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = Duration::from_millis(number.checked_mul(ms).ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if value.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// Reads where a collector of traces is, OTLP/gRPC without TLS: its `host:port`.
pub fn collector(value: &str) -> Result<String, SettingError> {
    let wrong = || SettingError {
        value: value.to_owned(),
        wanted: "a collector of OTLP/gRPC without TLS: http://HOST:PORT, as in http://collector:4317",
    };
    let uri: http::Uri = value.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(4317)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_plain_http_with_a_host() {
        for (value, address) in [
            ("http://collector:4317", "collector:4317"),
            ("http://[fd00::1]:4317/", "[fd00::1]:4317"),
            ("http://10.0.0.1", "10.0.0.1:4317"),
        ] {
            assert_eq!(collector(value).as_deref(), Ok(address));
        }
        for wrong in [
            "",
            "collector:4317",
            "https://collector:4317",
            "http://",
            "http://c:4317/v1/traces",
            "http://c:4317?x",
        ] {
            let error = collector(wrong).unwrap_err().to_string();
            assert!(error.contains("http://collector:4317"), "{error}");
        }
    }

    #[track_caller]
    fn check(value: &str, want: Option<u64>) {
        assert_eq!(duration(value).ok(), want.map(Duration::from_millis), "{value:?}");
    }

    #[test]
    fn durations_are_numbers_with_units() {
        check("250ms", Some(250));
        check("30s", Some(30_000));
        check("1h30m", Some(5_400_000));
        check("24h", Some(86_400_000));
        check("7d", Some(604_800_000));
        check("0", Some(0));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for value in [
            "",
            "30",
            "s",
            "-1s",
            "1.5h",
            "1 s",
            "1y",
            "99999999999999999999s",
            "ünf",
            "1s ",
        ] {
            check(value, None);
        }
    }
}
