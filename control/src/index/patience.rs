//! How long requests may take, and when another try is made: the texts and numbers of the Gateway API in, the model's out.

use std::time::Duration;

use weft_model::route::{Retry, Timeouts};

use super::kept::Refusal;
use crate::objects::filter;

/// Tries beyond the first, where nothing is said of their number.
const ATTEMPTS: u32 = 2;
/// The most of them.
const ATTEMPTS_MAX: i64 = 100;
/// The wait before the first of them, where nothing is said of it.
const BACKOFF: Duration = Duration::from_millis(25);
/// Statuses in one list.
const CODES_MAX: usize = 64;

/// Reads timeouts that stand in `field`.
pub(crate) fn timeouts(written: Option<&filter::Timeouts>, field: &str, refusals: &mut Vec<Refusal>) -> Timeouts {
    let Some(filter::Timeouts {
        request,
        backend_request,
    }) = written
    else {
        return Timeouts::default();
    };
    let mut read = |part: &str, text: Option<&String>| {
        let duration = duration(text?, &format!("{field}.{part}"), refusals)?;
        // Zero switches it off.
        (!duration.is_zero()).then_some(duration)
    };
    let timeouts = Timeouts {
        request: read("request", request.as_ref()),
        backend_request: read("backendRequest", backend_request.as_ref()),
    };
    if let (Some(request), Some(one)) = (timeouts.request, timeouts.backend_request)
        && one > request
    {
        let message = "one try may not take longer than the request with all its tries";
        let fix = format!("at most {request:?}");
        refusals.push(Refusal::value(format!("{field}.backendRequest"), message, fix));
    }
    timeouts
}

/// Reads what is retried, that stands in `field`.
pub(crate) fn retry(written: &filter::Retry, field: &str, refusals: &mut Vec<Refusal>) -> Retry {
    let attempts = match written.attempts {
        None => ATTEMPTS,
        Some(attempts @ 0..=ATTEMPTS_MAX) => attempts as u32,
        Some(other) => {
            let message = format!("{other} is no number of tries");
            let fix = format!("from 0 to {ATTEMPTS_MAX}");
            refusals.push(Refusal::value(format!("{field}.attempts"), message, fix));
            0
        }
    };
    let backoff = written.backoff.as_ref();
    Retry {
        attempts,
        backoff: backoff
            .and_then(|text| duration(text, &format!("{field}.backoff"), refusals))
            .unwrap_or(BACKOFF),
        codes: codes(&written.codes, (400, 599), &format!("{field}.codes"), refusals),
        grpc_statuses: Vec::new(),
    }
}

/// Reads statuses, each from the first to the last of a range.
pub(crate) fn codes(written: &[i64], (first, last): (u16, u16), field: &str, refusals: &mut Vec<Refusal>) -> Vec<u16> {
    if written.len() > CODES_MAX {
        let message = format!("has {} entries, and {CODES_MAX} is the limit", written.len());
        refusals.push(Refusal::value(
            field,
            message,
            "name only those that another try may mend",
        ));
    }
    let mut read = Vec::new();
    for (i, &code) in written.iter().enumerate().take(CODES_MAX) {
        match u16::try_from(code) {
            Ok(code) if (first..=last).contains(&code) => read.push(code),
            _ => {
                let message = format!("{code} is no status that can be retried");
                let fix = format!("from {first} to {last}");
                refusals.push(Refusal::value(format!("{field}[{i}]"), message, fix));
            }
        }
    }
    read.sort_unstable();
    read.dedup();
    read
}

/// Reads a duration (GEP-2257): one to four numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`.
pub(crate) fn duration(text: &str, field: &str, refusals: &mut Vec<Refusal>) -> Option<Duration> {
    let read = parse(text);
    if read.is_none() {
        let message = format!("{text:?} is no duration");
        let fix = "a number with its unit h, m, s or ms, as in 500ms or 1m30s (GEP-2257)";
        refusals.push(Refusal::value(field, message, fix));
    }
    read
}

fn parse(text: &str) -> Option<Duration> {
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
