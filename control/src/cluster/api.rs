//! Requests to the API server: each with a deadline and a bound on its answer.
//!
//! Answers are JSON values, not typed objects: a field that this version does not know must be found, and not dropped.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

/// A request that is not a list or a watch is answered within this.
pub(super) const CALL: Duration = Duration::from_secs(5);
/// A page of a list is answered within this.
const LIST: Duration = Duration::from_secs(60);
/// The answer to anything but a list: an object has at most 1.5 MiB in etcd.
const ANSWER_MAX: usize = 4 << 20;
/// A page of a list.
const PAGE_MAX: usize = 64 << 20;
/// One event of a watch: an object, and what is around it.
const EVENT_MAX: usize = 4 << 20;

/// Of what it says when it refuses, so many characters are told.
const MESSAGE_MAX: usize = 500;

/// Who writes what is applied.
pub(super) const FIELD_MANAGER: &str = "weft-control";

/// The way to the API server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It was not reached, or did not answer in time.
    #[error("the API server is away: {0}")]
    Away(String),
    /// A watch is silent. It may be away, or only have nothing to say.
    #[error("the API server says nothing: {0}")]
    Silent(String),
    /// It refused.
    #[error("the API server refused {what}: {code} {reason}: {message}")]
    Refused {
        /// Method and path.
        what: String,
        /// The HTTP status.
        code: u16,
        /// The word of its answer: `Forbidden`, `Conflict`, …
        reason: String,
        /// Its sentence.
        message: String,
    },
    /// What it said cannot be read.
    #[error("the API server's answer to {what}: {why}")]
    Answer {
        /// Method and path.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// What it said is too large.
    #[error("the API server's answer to {what} has more than {max} bytes")]
    Large {
        /// Method and path.
        what: String,
        /// The bound.
        max: usize,
    },
}

/// One page of a list.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Page {
    pub(super) metadata: ListMetadata,
    #[serde(default)]
    pub(super) items: Option<Vec<Value>>,
}

/// The metadata of a list.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) next: String,
}

/// The events of a watch, line by line.
pub(super) struct Events {
    what: String,
    body: Body,
    buffer: BytesMut,
    /// So much of the buffer has no end of line in it.
    searched: usize,
    ended: bool,
}

impl Fault {
    /// What the request is about is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// The API server itself says so, and not something between that answers 404 to everything.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, reason, .. } if reason == "NotFound")
    }

    /// Somebody else was faster.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }

    /// It was there once, or was not yet: what is known of it is too old, or too new.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Refused { code, reason, .. } => *code == 410 || matches!(reason.as_str(), "Gone" | "Expired"),
            _ => false,
        }
    }

    /// It may be there again a little later, without anybody doing anything.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Away(_) | Self::Silent(_) => true,
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            Self::Answer { .. } | Self::Large { .. } => false,
        }
    }

    /// The same, and no other request would have fared better: 500 is what a webhook makes of one object, too.
    pub(super) fn is_away_for_all(&self) -> bool {
        self.is_away() && !matches!(self, Self::Refused { code: 500 | 504, .. })
    }
}

impl Api {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads an object.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.call(request(Method::GET, path, "application/json", None)?, ANSWER_MAX, CALL)
            .await
    }

    /// Makes an object; the path is that of its collection.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, Fault> {
        let request = request(Method::POST, path, "application/json", Some(object))?;
        self.call(request, ANSWER_MAX, CALL).await
    }

    /// Replaces an object. Where it names a resource version, only if the object still has that.
    pub(crate) async fn replace(&self, path: &str, object: &Value) -> Result<Value, Fault> {
        let request = request(Method::PUT, path, "application/json", Some(object))?;
        self.call(request, ANSWER_MAX, CALL).await
    }

    /// Applies what is ours of an object, and takes fields over from whoever else wrote them.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<Value, Fault> {
        self.apply_as(path, FIELD_MANAGER, object).await
    }

    /// The same for a field manager of another name.
    pub(super) async fn apply_as(&self, path: &str, manager: &str, object: &Value) -> Result<Value, Fault> {
        let path = format!("{path}?fieldManager={}&force=true", encoded(manager));
        let request = request(Method::PATCH, &path, "application/apply-patch+yaml", Some(object))?;
        self.call(request, ANSWER_MAX, CALL).await
    }

    /// Applies what is ours of an object, and takes nothing over: where others say otherwise, that is a conflict.
    pub(super) async fn apply_beside(&self, path: &str, manager: &str, object: &Value) -> Result<Value, Fault> {
        let path = format!("{path}?fieldManager={}", encoded(manager));
        let request = request(Method::PATCH, &path, "application/apply-patch+yaml", Some(object))?;
        self.call(request, ANSWER_MAX, CALL).await
    }

    /// Changes an object by a list of operations (RFC 6902): all of them, or none.
    pub(super) async fn patch(&self, path: &str, manager: &str, operations: &Value) -> Result<Value, Fault> {
        let path = format!("{path}?fieldManager={}", encoded(manager));
        let request = request(Method::PATCH, &path, "application/json-patch+json", Some(operations))?;
        self.call(request, ANSWER_MAX, CALL).await
    }

    /// Deletes exactly this object, and none that took its name.
    pub(crate) async fn delete(&self, path: &str, uid: &str) -> Result<(), Fault> {
        self.delete_if(path, &serde_json::json!({"uid": uid})).await
    }

    /// The same, if nobody has changed it since it had this version.
    pub(super) async fn delete_as_seen(&self, path: &str, uid: &str, version: &str) -> Result<(), Fault> {
        let seen = serde_json::json!({"uid": uid, "resourceVersion": version});
        self.delete_if(path, &seen).await
    }

    async fn delete_if(&self, path: &str, preconditions: &Value) -> Result<(), Fault> {
        let options = serde_json::json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
        let request = request(Method::DELETE, path, "application/json", Some(&options))?;
        self.call::<Value>(request, ANSWER_MAX, CALL).await.map(drop)
    }

    /// Asks which kinds are served: the document, and its tag. `None`: it is still the one of that tag.
    pub(super) async fn served(&self, tag: Option<&str>) -> Result<Option<(Value, Option<String>)>, Fault> {
        let mut request = request(Method::GET, "/apis", "application/json", None)?;
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                      application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        let headers = request.headers_mut();
        headers.insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
        if let Some(tag) = tag.and_then(|tag| http::HeaderValue::from_str(tag).ok()) {
            headers.insert(http::header::IF_NONE_MATCH, tag);
        }
        let work = async {
            let response = self.client.send(request).await.map_err(|error| away(&error))?;
            if response.status() == http::StatusCode::NOT_MODIFIED {
                return Ok(None);
            }
            let tag = response.headers().get(http::header::ETAG);
            let tag = tag.and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            let document = read::<Value>("GET /apis".to_owned(), response, PAGE_MAX).await?;
            Ok(Some((document, tag)))
        };
        timeout(CALL, work).await.unwrap_or_else(|_| Err(late(CALL)))
    }

    /// One page of a consistent list: no resource version is asked for, so it is as new as anything that anybody has seen.
    pub(super) async fn page(&self, path: &str, query: &str, limit: usize, next: &str) -> Result<Page, Fault> {
        let mut path = format!("{path}?{query}limit={limit}");
        if !next.is_empty() {
            path.push_str("&continue=");
            path.push_str(&encoded(next));
        }
        self.call(request(Method::GET, &path, "application/json", None)?, PAGE_MAX, LIST)
            .await
    }

    /// Watches a collection from a resource version on.
    pub(super) async fn watch(&self, path: &str, query: &str, version: &str, life: Duration) -> Result<Events, Fault> {
        let what = format!("WATCH {path}");
        let path = format!(
            "{path}?{query}watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            life.as_secs(),
            encoded(version)
        );
        let request = request(Method::GET, &path, "application/json", None)?;
        let work = async {
            let response = self.client.send(request).await.map_err(|error| away(&error))?;
            if !response.status().is_success() {
                return Err(refusal(what.clone(), response).await);
            }
            Ok(response.into_body())
        };
        let body = timeout(CALL, work).await.unwrap_or_else(|_| Err(late(CALL)))?;
        Ok(Events {
            what,
            body,
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        max: usize,
        patience: Duration,
    ) -> Result<T, Fault> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let work = async {
            let response = self.client.send(request).await.map_err(|error| away(&error))?;
            read(what, response, max).await
        };
        timeout(patience, work).await.unwrap_or_else(|_| Err(late(patience)))
    }
}

impl Events {
    /// The next line. `None`: the watch has ended in order. Cancel safe.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, Fault> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > EVENT_MAX {
                return Err(Fault::Large {
                    what: self.what.clone(),
                    max: EVENT_MAX,
                });
            }
            if self.ended {
                return Ok(None);
            }
            match timeout_at(deadline, self.body.frame()).await {
                Err(_) => return Err(Fault::Silent(format!("{}: nothing for {patience:?}", self.what))),
                Ok(None) => self.ended = true,
                Ok(Some(Err(error))) => return Err(Fault::Away(format!("{}: {error}", self.what))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn request(method: Method, path: &str, content: &'static str, body: Option<&Value>) -> Result<Request<Body>, Fault> {
    let what = || format!("{method} {path}");
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONTENT_TYPE, content);
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    request.body(Body::from(body)).map_err(|error| Fault::Answer {
        what: what(),
        why: error.to_string(),
    })
}

async fn read<T: DeserializeOwned>(what: String, response: http::Response<Body>, max: usize) -> Result<T, Fault> {
    if !response.status().is_success() {
        return Err(refusal(what, response).await);
    }
    let bytes = bounded(&what, response.into_body(), max).await?;
    serde_json::from_slice(&bytes).map_err(|error| Fault::Answer {
        what,
        why: format!("no JSON: {error}"),
    })
}

async fn bounded(what: &str, mut body: Body, max: usize) -> Result<BytesMut, Fault> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::Away(format!("{what}: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(Fault::Large {
                what: what.to_owned(),
                max,
            });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// What an answer that is no success says: a `Status` object, as a rule.
async fn refusal(what: String, response: http::Response<Body>) -> Fault {
    let code = response.status().as_u16();
    let body = bounded(&what, response.into_body(), ANSWER_MAX).await;
    let status: Value = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok())
        .unwrap_or_default();
    refused(what, code, &status)
}

/// A `Status` object, as the answer to a request or as an event of a watch.
fn refused(what: String, code: u16, status: &Value) -> Fault {
    // A webhook's words come through it, as many as it likes.
    let word = |field: &str| {
        let text = status[field].as_str().unwrap_or_default();
        text.chars().take(MESSAGE_MAX).collect()
    };
    Fault::Refused {
        what,
        code,
        reason: word("reason"),
        message: word("message"),
    }
}

/// An event of a watch that says that the watch has failed.
pub(super) fn failed_watch(path: &str, status: &Value) -> Fault {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    refused(format!("WATCH {path}"), code.unwrap_or(500), status)
}

fn late(patience: Duration) -> Fault {
    Fault::Away(format!("no answer within {patience:?}"))
}

/// What is at the bottom of it: what lies above only says that a client failed.
fn away(error: &kube::Error) -> Fault {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Fault::Away(cause.to_string())
}

/// Percent-encoded for a query (RFC 3986, unreserved characters stay).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
