//! How long requests may take, and when another try is made: the texts and numbers of the Gateway API in, the model's out.

use std::time::Duration;

use weft_model::route::{Retry, RetryBudget};

use super::kept::Refusal;
use crate::objects::weft::{BudgetSpec, GrpcStatus, RateSpec, RetryConstraint, RetrySpec};
use crate::objects::{duration, filter};

/// Tries beyond the first, where nothing is said of their number.
const ATTEMPTS: u32 = 2;
/// The most of them.
const ATTEMPTS_MAX: i64 = 100;
/// The wait before the first of them, where nothing is said of it.
const BACKOFF: Duration = Duration::from_millis(25);
/// Statuses in one list.
const CODES_MAX: usize = 64;
/// What is allowed at any load at most (GEP-3388).
const COUNT_MAX: i64 = 1_000_000;
/// The longest time that a budget looks back on, and the shortest of its share.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
/// The statuses of gRPC, by number.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// How long requests may take, as far as it is said. Zero: as long as they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) request: Option<Duration>,
    pub(crate) backend_request: Option<Duration>,
}

/// Reads timeouts that stand in `field`.
pub(crate) fn limits(written: Option<&filter::Timeouts>, field: &str, refusals: &mut Vec<Refusal>) -> Limits {
    let Some(filter::Timeouts {
        request,
        backend_request,
    }) = written
    else {
        return Limits::default();
    };
    let mut read = |part: &str, text: Option<&String>| duration(text?, &format!("{field}.{part}"), refusals);
    let limits = Limits {
        request: read("request", request.as_ref()),
        backend_request: read("backendRequest", backend_request.as_ref()),
    };
    if let (Some(request), Some(one)) = (limits.request, limits.backend_request)
        && !request.is_zero()
        && one > request
    {
        let message = "one try may not take longer than the request with all its tries";
        let fix = format!("at most {request:?}");
        refusals.push(Refusal::value(format!("{field}.backendRequest"), message, fix));
    }
    limits
}

/// Reads what is retried, that stands in `field`.
pub(crate) fn retry(written: &filter::Retry, field: &str, refusals: &mut Vec<Refusal>) -> Retry {
    let filter::Retry {
        codes: statuses,
        attempts: tries,
        backoff,
    } = written;
    Retry {
        attempts: attempts(*tries, field, refusals),
        backoff: backoff_of(backoff.as_ref(), field, refusals),
        codes: codes(statuses, &format!("{field}.codes"), refusals),
        grpc_statuses: Vec::new(),
    }
}

/// Reads what a policy retries, that stands in `field`.
pub(crate) fn retry_of_policy(written: &RetrySpec, field: &str, refusals: &mut Vec<Refusal>) -> Retry {
    let RetrySpec {
        codes: statuses,
        grpc_statuses: names,
        attempts: tries,
        backoff,
    } = written;
    Retry {
        attempts: attempts(*tries, field, refusals),
        backoff: backoff_of(backoff.as_ref(), field, refusals),
        codes: codes(statuses, &format!("{field}.codes"), refusals),
        grpc_statuses: grpc_statuses(names, &format!("{field}.grpcStatuses"), refusals),
    }
}

fn attempts(written: Option<i64>, field: &str, refusals: &mut Vec<Refusal>) -> u32 {
    match written {
        None => ATTEMPTS,
        Some(attempts @ 0..=ATTEMPTS_MAX) => attempts as u32,
        Some(other) => {
            let message = format!("{other} is no number of tries");
            let fix = format!("from 0 to {ATTEMPTS_MAX}");
            refusals.push(Refusal::value(format!("{field}.attempts"), message, fix));
            0
        }
    }
}

fn backoff_of(written: Option<&String>, field: &str, refusals: &mut Vec<Refusal>) -> Duration {
    written
        .and_then(|text| duration(text, &format!("{field}.backoff"), refusals))
        .unwrap_or(BACKOFF)
}

/// Reads what retries may add (GEP-3388), that stands in `field`.
pub(crate) fn budget(written: &RetryConstraint, field: &str, refusals: &mut Vec<Refusal>) -> RetryBudget {
    let mut budget = RetryBudget::default();
    let RetryConstraint {
        budget: share,
        min_retry_rate: rate,
    } = written;
    let number = |written: Option<i64>, default: u32, (least, most): (i64, i64), part: &str, refusals: &mut Vec<_>| {
        let number = written.unwrap_or(i64::from(default));
        if (least..=most).contains(&number) {
            return number as u32;
        }
        let (message, fix) = (format!("{number} is out of bounds"), format!("from {least} to {most}"));
        refusals.push(Refusal::value(format!("{field}.{part}"), message, fix));
        default
    };
    if let Some(BudgetSpec { percent, interval }) = share {
        budget.percent = number(*percent, budget.percent, (0, 100), "budget.percent", refusals);
        let field = format!("{field}.budget.interval");
        budget.interval = self::interval(interval.as_ref(), budget.interval, SECOND, &field, refusals);
    }
    if let Some(RateSpec { count, interval }) = rate {
        budget.min_retries = number(
            *count,
            budget.min_retries,
            (1, COUNT_MAX),
            "minRetryRate.count",
            refusals,
        );
        let (field, least) = (format!("{field}.minRetryRate.interval"), Duration::from_millis(1));
        budget.min_interval = self::interval(interval.as_ref(), budget.min_interval, least, &field, refusals);
    }
    budget
}

fn interval(
    written: Option<&String>,
    default: Duration,
    least: Duration,
    field: &str,
    refusals: &mut Vec<Refusal>,
) -> Duration {
    let Some(read) = written.and_then(|text| duration(text, field, refusals)) else {
        return default;
    };
    if !(least..=INTERVAL_MAX).contains(&read) {
        let (message, fix) = (format!("{read:?} is out of bounds"), format!("from {least:?} to 1h"));
        refusals.push(Refusal::value(field, message, fix));
    }
    read
}

/// Reads statuses of gRPC, by name or number. OK is none that could be retried.
fn grpc_statuses(written: &[GrpcStatus], field: &str, refusals: &mut Vec<Refusal>) -> Vec<u16> {
    let mut read = Vec::new();
    if written.len() > CODES_MAX {
        let message = format!("has {} entries, and {CODES_MAX} is the limit", written.len());
        refusals.push(Refusal::value(field, message, "name each status once"));
    }
    for (i, status) in written.iter().enumerate().take(CODES_MAX) {
        let (number, shown) = match status {
            GrpcStatus::Number(number) => (usize::try_from(*number).ok(), number.to_string()),
            GrpcStatus::Name(name) => (GRPC.iter().position(|known| known == name), format!("{name:?}")),
        };
        match number.filter(|number| (1..GRPC.len()).contains(number)) {
            Some(number) => read.push(number as u16),
            None => {
                let message = format!("{shown} is no status of gRPC that can be retried");
                let fix = "a name, as UNAVAILABLE, or a number from 1 to 16";
                refusals.push(Refusal::value(format!("{field}[{i}]"), message, fix));
            }
        }
    }
    read.sort_unstable();
    read.dedup();
    read
}

/// Reads statuses of responses.
fn codes(written: &[i64], field: &str, refusals: &mut Vec<Refusal>) -> Vec<u16> {
    let (first, last) = (400, 599);
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
    let read = duration::parse(text);
    if read.is_none() {
        let message = format!("{text:?} is no duration");
        let fix = "a number with its unit h, m, s or ms, as in 500ms or 1m30s (GEP-2257)";
        refusals.push(Refusal::value(field, message, fix));
    }
    read
}
