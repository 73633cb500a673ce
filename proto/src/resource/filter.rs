//! What a rule does beside choosing a backend: filters, redirects, timeouts and retries.

use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use weft_model::filter::{Filters, HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Scheme};
use weft_model::route::{Retry, RetryBudget, Timeouts};

use super::field::{self, FieldError};
use super::{service, traffic};
use crate::discovery;

/// Reads filters. None are the same as empty ones.
pub(super) fn decode_filters(wire: Option<discovery::Filters>) -> Result<Filters, FieldError> {
    let Some(wire) = wire else {
        return Ok(Filters::default());
    };
    let changes = |field: &'static str, wire: Option<discovery::HeaderChanges>| {
        let changes = wire.map(decode_changes).transpose();
        changes
            .map(Option::unwrap_or_default)
            .map_err(|error| error.within(field))
    };
    Ok(Filters {
        request_headers: changes("request_headers", wire.request_headers)?,
        response_headers: changes("response_headers", wire.response_headers)?,
        rewrite: wire
            .rewrite
            .map(decode_rewrite)
            .transpose()
            .map_err(|error| error.within("rewrite"))?,
        mirrors: field::list("mirrors", wire.mirrors, field::MIRRORS_MAX, decode_mirror)?,
    })
}

/// Writes filters. Empty ones are none.
pub(super) fn encode_filters(filters: &Filters) -> Option<discovery::Filters> {
    let changes = |changes: &HeaderChanges| (!changes.is_empty()).then(|| encode_changes(changes));
    (!filters.is_empty()).then(|| discovery::Filters {
        request_headers: changes(&filters.request_headers),
        response_headers: changes(&filters.response_headers),
        rewrite: filters.rewrite.as_ref().map(|rewrite| discovery::Rewrite {
            host: rewrite.host.clone().unwrap_or_default(),
            path: rewrite.path.as_ref().map(encode_path),
        }),
        mirrors: filters.mirrors.iter().map(encode_mirror).collect(),
    })
}

/// Reads a redirect.
pub(super) fn decode_redirect(wire: discovery::Redirect) -> Result<Redirect, FieldError> {
    let scheme = match wire.scheme.as_str() {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => {
            let reason = format!("must be http or https, and is {other:?}");
            return Err(FieldError::new("scheme", reason));
        }
    };
    let port = match wire.port {
        0 => None,
        port => Some(field::port("port", port)?),
    };
    let status = match wire.status {
        301 | 302 | 303 | 307 | 308 => wire.status as u16,
        other => {
            let reason = format!("must be 301, 302, 303, 307 or 308, and is {other}");
            return Err(FieldError::new("status", reason));
        }
    };
    Ok(Redirect {
        scheme,
        host: host(wire.host)?,
        port,
        path: wire
            .path
            .map(decode_path)
            .transpose()
            .map_err(|error| error.within("path"))?,
        status,
    })
}

/// Writes a redirect.
pub(super) fn encode_redirect(redirect: &Redirect) -> discovery::Redirect {
    discovery::Redirect {
        scheme: redirect.scheme.map(Scheme::as_str).unwrap_or_default().to_owned(),
        host: redirect.host.clone().unwrap_or_default(),
        port: u32::from(redirect.port.unwrap_or(0)),
        path: redirect.path.as_ref().map(encode_path),
        status: u32::from(redirect.status),
    }
}

/// Reads the two timeouts, in milliseconds.
pub(super) fn decode_timeouts(request: u32, backend_request: u32) -> Timeouts {
    let some = |ms: u32| (ms != 0).then(|| millis(ms));
    Timeouts {
        request: some(request),
        backend_request: some(backend_request),
    }
}

/// Writes a timeout in milliseconds, at least one.
pub(super) fn encode_timeout(timeout: Option<Duration>) -> u32 {
    timeout.map_or(0, |timeout| to_millis(timeout).max(1))
}

/// Reads what is retried.
pub(super) fn decode_retry(wire: discovery::Retry) -> Result<Retry, FieldError> {
    if wire.attempts > field::ATTEMPTS_MAX {
        let reason = format!("must be at most {}, and is {}", field::ATTEMPTS_MAX, wire.attempts);
        return Err(FieldError::new("attempts", reason));
    }
    let within = |field: &'static str, from: u16, to: u16| {
        move |code: u32| match u16::try_from(code) {
            Ok(code) if (from..=to).contains(&code) => Ok(code),
            _ => Err(FieldError::new("", format!("must be from {from} to {to}, and is {code}")).within(field)),
        }
    };
    Ok(Retry {
        attempts: wire.attempts,
        backoff: millis(wire.backoff_ms),
        codes: field::list("codes", wire.codes, field::CODES_MAX, within("", 400, 599))?,
        grpc_statuses: field::list("grpc_statuses", wire.grpc_statuses, field::CODES_MAX, within("", 1, 16))?,
    })
}

/// Writes what is retried.
pub(super) fn encode_retry(retry: &Retry) -> discovery::Retry {
    discovery::Retry {
        attempts: retry.attempts,
        backoff_ms: to_millis(retry.backoff),
        codes: retry.codes.iter().copied().map(u32::from).collect(),
        grpc_statuses: retry.grpc_statuses.iter().copied().map(u32::from).collect(),
    }
}

/// Reads a budget. None is the default.
pub(super) fn decode_budget(wire: Option<discovery::RetryBudget>) -> Result<RetryBudget, FieldError> {
    let Some(wire) = wire else {
        return Ok(RetryBudget::default());
    };
    if wire.percent > 100 {
        let reason = format!("must be at most 100, and is {}", wire.percent);
        return Err(FieldError::new("percent", reason));
    }
    for (name, ms) in [
        ("interval_ms", wire.interval_ms),
        ("min_interval_ms", wire.min_interval_ms),
    ] {
        if !(1..=field::BUDGET_INTERVAL_MAX_MS).contains(&ms) {
            let reason = format!("must be from 1 to {}, and is {ms}", field::BUDGET_INTERVAL_MAX_MS);
            return Err(FieldError::new(name, reason));
        }
    }
    field::at_most("min_retries", wire.min_retries as usize, field::WEIGHT_MAX as usize)?;
    Ok(RetryBudget {
        percent: wire.percent,
        interval: millis(wire.interval_ms),
        min_retries: wire.min_retries,
        min_interval: millis(wire.min_interval_ms),
    })
}

/// Writes a budget.
pub(super) fn encode_budget(budget: &RetryBudget) -> discovery::RetryBudget {
    discovery::RetryBudget {
        percent: budget.percent,
        interval_ms: to_millis(budget.interval),
        min_retries: budget.min_retries,
        min_interval_ms: to_millis(budget.min_interval),
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

fn to_millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn decode_changes(wire: discovery::HeaderChanges) -> Result<HeaderChanges, FieldError> {
    Ok(HeaderChanges {
        remove: field::list("remove", wire.remove, field::CONDITIONS_MAX, |name| {
            header_name("", &name)
        })?,
        set: field::list("set", wire.set, field::CONDITIONS_MAX, decode_header)?,
        add: field::list("add", wire.add, field::CONDITIONS_MAX, decode_header)?,
    })
}

fn encode_changes(changes: &HeaderChanges) -> discovery::HeaderChanges {
    let header = |(name, value): &(HeaderName, HeaderValue)| discovery::Header {
        name: name.to_string(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    discovery::HeaderChanges {
        remove: changes.remove.iter().map(ToString::to_string).collect(),
        set: changes.set.iter().map(header).collect(),
        add: changes.add.iter().map(header).collect(),
    }
}

fn decode_header(wire: discovery::Header) -> Result<(HeaderName, HeaderValue), FieldError> {
    field::at_most("value", wire.value.len(), field::VALUE_MAX)?;
    let name = header_name("name", &wire.name)?;
    let value = HeaderValue::from_bytes(&wire.value)
        .map_err(|_| FieldError::new("value", "has characters that no header may have"))?;
    Ok((name, value))
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, FieldError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| FieldError::new(field, format!("must be the name of a header, and is {name:?}")))
}

fn decode_rewrite(wire: discovery::Rewrite) -> Result<Rewrite, FieldError> {
    Ok(Rewrite {
        host: host(wire.host)?,
        path: wire
            .path
            .map(decode_path)
            .transpose()
            .map_err(|error| error.within("path"))?,
    })
}

fn decode_path(wire: discovery::PathChange) -> Result<PathChange, FieldError> {
    use discovery::path_change::Change as Wire;
    let path = |field: &str, text: String| {
        field::at_most(field, text.len(), field::VALUE_MAX)?;
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
        {
            return Err(FieldError::new(field, format!("must be a path, and is {text:?}")));
        }
        Ok(text)
    };
    match field::required("change", wire.change)? {
        Wire::Full(text) => Ok(PathChange::Full(path("full", text)?)),
        Wire::Prefix(change) => Ok(PathChange::Prefix {
            from: path("prefix.from", change.from)?,
            to: path("prefix.to", change.to)?,
        }),
    }
}

fn encode_path(path: &PathChange) -> discovery::PathChange {
    use discovery::path_change::Change as Wire;
    let change = match path {
        PathChange::Full(text) => Wire::Full(text.clone()),
        PathChange::Prefix { from, to } => Wire::Prefix(discovery::PrefixChange {
            from: from.clone(),
            to: to.clone(),
        }),
    };
    discovery::PathChange { change: Some(change) }
}

/// A host, perhaps with a port.
fn host(text: String) -> Result<Option<String>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let valid = text.len() <= field::NAME_MAX + 6 && !text.contains('@') && text.parse::<Authority>().is_ok();
    if !valid {
        return Err(FieldError::new("host", format!("must be a host, and is {text:?}")));
    }
    Ok(Some(text))
}

fn decode_mirror(wire: discovery::Mirror) -> Result<Mirror, FieldError> {
    let backend = field::required("backend", wire.backend)?;
    let backend = service::decode_backend(backend).map_err(|error| error.within("backend"))?;
    if !backend.filters.is_empty() {
        return Err(FieldError::new("backend.filters", "mean nothing for a mirror"));
    }
    if wire.denominator == 0 || wire.numerator > wire.denominator {
        let reason = format!(
            "must be from 0 to the denominator {}, and is {}",
            wire.denominator, wire.numerator
        );
        return Err(FieldError::new("numerator", reason));
    }
    Ok(Mirror {
        place: backend.place,
        service: backend.service,
        subset: backend.subset,
        numerator: wire.numerator,
        denominator: wire.denominator,
        traffic: backend.traffic,
    })
}

fn encode_mirror(mirror: &Mirror) -> discovery::Mirror {
    let backend = discovery::Backend {
        traffic: mirror.traffic.as_deref().map(traffic::encode),
        ..service::encode_place(&mirror.place, &mirror.service, &mirror.subset)
    };
    discovery::Mirror {
        backend: Some(backend),
        numerator: mirror.numerator,
        denominator: mirror.denominator,
    }
}
