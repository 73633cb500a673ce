//! Requests to the API server: each with a deadline, lists by pages and with a bound.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use http::Request;
use http::header::DATE;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pages of one list, of 500 objects each.
const PAGES_MAX: usize = 400;
/// What is told where the API server takes nobody's word for who asks (401): a token or a certificate has ended.
pub(crate) const UNKNOWN: &str = "the API server does not know who you are (fix: renew the credentials of the context)";

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It is so.
    Is(Value),
    /// There is no such object, or no such kind.
    Missing,
    /// Who asks may not know.
    Forbidden(String),
}

impl Answer {
    /// The object, if it could be read.
    pub(crate) fn object(&self) -> Option<&Value> {
        match self {
            Self::Is(value) => Some(value),
            Self::Missing | Self::Forbidden(_) => None,
        }
    }
}

/// The API server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    /// The one that a client leads to.
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// For what is no single request.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What it says at a path.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        let request = Request::get(path).body(Vec::new())?;
        self.ask(path, request).await
    }

    /// Creates an object that is a question: a review of access.
    pub(crate) async fn review(&self, path: &str, object: &Value) -> Result<Answer> {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(object)?)?;
        self.ask(path, request).await
    }

    async fn ask(&self, path: &str, request: Request<Vec<u8>>) -> Result<Answer> {
        let answered = timeout(PATIENCE, self.client.request::<Value>(request)).await;
        let answered = answered.with_context(|| format!("the API server did not answer {path} within {PATIENCE:?}"))?;
        answer(path, answered)
    }

    /// All objects of a list, which may have a query.
    pub(crate) async fn list(&self, path: &str) -> Result<Answer> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut more = String::new();
        for _ in 0..PAGES_MAX {
            let mut page = match self.get(&format!("{path}{sign}limit=500{more}")).await? {
                Answer::Is(page) => page,
                other => return Ok(other),
            };
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => more = format!("&continue={next}"),
                _ => return Ok(Answer::Is(items.into())),
            }
        }
        bail!("{path}: more than {} objects", PAGES_MAX * 500)
    }

    /// Its version, and how far its clock is ahead of this machine's, in seconds.
    pub(crate) async fn version(&self) -> Result<(Value, Option<i64>)> {
        let request = Request::get("/version").body(Body::empty())?;
        let asked = SystemTime::now();
        let answered = timeout(PATIENCE, self.client.send(request)).await;
        let answered = answered.with_context(|| format!("the API server did not answer within {PATIENCE:?}"))?;
        let answered = answered.context("asking the API server for its version")?;
        let date = answered.headers().get(DATE).and_then(|date| date.to_str().ok());
        let ahead = date.and_then(|date| ahead(date, asked, SystemTime::now()));
        match self.get("/version").await? {
            Answer::Is(version) => Ok((version, ahead)),
            other => bail!("the API server does not tell its version: {other:?}"),
        }
    }
}

fn answer(path: &str, answered: kube::Result<Value>) -> Result<Answer> {
    match answered {
        Ok(value) => Ok(Answer::Is(value)),
        Err(kube::Error::Api(status)) => match status.code {
            404 => Ok(Answer::Missing),
            // No permission would help who is nobody.
            401 => bail!("{UNKNOWN}"),
            403 => Ok(Answer::Forbidden(status.message.clone())),
            code => bail!("the API server refused {path}: {code} {}", status.message),
        },
        Err(error) => Err(error).with_context(|| format!("asking the API server for {path}")),
    }
}

/// How far a clock is ahead that showed `date` somewhen between two moments of ours. The header has whole seconds.
fn ahead(date: &str, before: SystemTime, after: SystemTime) -> Option<i64> {
    let theirs = OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822)
        .ok()?
        .unix_timestamp();
    let (before, after) = (OffsetDateTime::from(before), OffsetDateTime::from(after));
    Some(match theirs {
        early if early < before.unix_timestamp() => early - before.unix_timestamp(),
        late if late > after.unix_timestamp() => late - after.unix_timestamp(),
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_have_ended_are_told_apart_from_a_permission_that_is_missing() {
        let refused = |code: u16| {
            let status = kube::core::Status::failure("no", "No").with_code(code);
            answer("/api/v1/pods", Err(kube::Error::Api(status.boxed())))
        };
        assert_eq!(refused(401).unwrap_err().to_string(), UNKNOWN);
        assert_eq!(refused(403).unwrap(), Answer::Forbidden("no".to_owned()));
        assert_eq!(refused(404).unwrap(), Answer::Missing);
        assert!(refused(409).unwrap_err().to_string().contains("409 no"));
    }

    #[test]
    fn a_clock_is_ahead_by_what_the_answer_took_too_little_to_explain() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT"; // 784111777
        assert_eq!(ahead(date, at(784_111_777), at(784_111_777)), Some(0));
        assert_eq!(ahead(date, at(784_111_770), at(784_111_780)), Some(0));
        assert_eq!(ahead(date, at(784_111_800), at(784_111_801)), Some(-23));
        assert_eq!(ahead(date, at(784_111_700), at(784_111_702)), Some(75));
        assert_eq!(ahead("yesterday", at(0), at(1)), None);
    }
}
