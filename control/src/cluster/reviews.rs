//! Tokens, reviewed by the API server that made them (TokenReview): it knows its keys, and whether the pod is still there.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use weft_certs::token::{self, AUDIENCE, Bearer, NamedObject, TokenError};

use super::api::{Api, CALL, Fault};
use crate::serve::outcome::Outcome;
use crate::serve::tokens::Unverified;

/// Reviews at once: an API server has other things to do. Each takes some milliseconds.
const AT_ONCE: usize = 32;
/// After a review that failed, tokens count as unverifiable for so long, unless one goes well.
const AWAY: Duration = Duration::from_secs(30);

/// Reviews tokens.
pub(crate) struct Reviews {
    api: Api,
    at_once: Semaphore,
    /// The same while the API server is away.
    probe: Semaphore,
    /// When a review last failed because the API server was away. Locked to copy it.
    away: Mutex<Option<Instant>>,
}

impl Reviews {
    pub(crate) fn new(api: Api) -> Self {
        Self {
            api,
            at_once: Semaphore::new(AT_ONCE),
            probe: Semaphore::new(1),
            away: Mutex::new(None),
        }
    }

    /// Whom a token is for, if the API server says that it is good for us.
    pub(crate) async fn verify(&self, token: &str, now: SystemTime) -> Result<Bearer, Unverified> {
        // What cannot be good for us by what it says itself takes nobody's turn.
        // Whether its time is over is said by the API server, if it is there: while it is not, nobody gets a new one.
        match token::unverified(AUDIENCE, token, now) {
            Ok(_) | Err(TokenError::Expired | TokenError::NotYet) => {}
            Err(error) => return Err(Unverified::refused(&error)),
        }
        let _turn = self.turn().await?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.trim(), "audiences": [AUDIENCE]}
        });
        match self
            .api
            .create("/apis/authentication.k8s.io/v1/tokenreviews", &review)
            .await
        {
            Ok(review) => {
                *self.away() = None;
                bearer(&review["status"]).map_err(|error| explained(error, &review["status"], token, now))
            }
            // Of these a caller can cause none by what it sends: only then may a leaf stand in for a token.
            Err(fault) if fault.is_away() || matches!(fault, Fault::Refused { code: 401 | 403, .. }) => {
                *self.away() = Some(Instant::now());
                Err(Unverified::NoKeys(fault.to_string()))
            }
            Err(fault) => {
                tracing::warn!(error = %fault, "a token was not reviewed");
                Err(Unverified::refused(&TokenError::Form(
                    "the API server does not review it",
                )))
            }
        }
    }

    /// Waits for a turn. While the API server is away one asks at a time, to find it again, and nobody waits for that: each
    /// attempt may take seconds.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Unverified> {
        let away = || Unverified::NoKeys("the API server does not review tokens now".to_owned());
        if !self.available() {
            return self.probe.try_acquire().map_err(|_| away());
        }
        match timeout(CALL, self.at_once.acquire()).await {
            Ok(Ok(turn)) if self.available() => Ok(turn),
            // It went away meanwhile.
            _ if !self.available() => Err(away()),
            _ => Err(Unverified::Busy),
        }
    }

    /// Whether tokens can be checked now, as far as the last review says.
    pub(crate) fn available(&self) -> bool {
        self.away().is_none_or(|at| at.elapsed() > AWAY)
    }

    fn away(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a review says. Error: `None` where it refuses without a reason that stands for itself.
fn bearer(status: &Value) -> Result<Bearer, Option<TokenError>> {
    if status["authenticated"] != true {
        return Err(None);
    }
    // An authenticator that knows nothing of audiences leaves them out, and the token may be for anybody.
    let audiences = status["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.filter_map(|one| Some(one.as_str()?.to_owned())).collect();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Some(TokenError::Audience {
            expected: AUDIENCE.to_owned(),
            found: audiences,
        }));
    }
    let user = &status["user"];
    let name = user["username"].as_str().unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:");
    let Some((namespace, account)) = account.and_then(|name| name.split_once(':')) else {
        return Err(Some(TokenError::Form("it is not of a service account")));
    };
    let extra = |key: &str| {
        let value = user["extra"][format!("authentication.kubernetes.io/{key}")][0].as_str();
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let named = |name: &str, uid: &str| {
        Some(NamedObject {
            name: extra(name)?,
            uid: extra(uid)?,
        })
    };
    Ok(Bearer {
        namespace: namespace.to_owned(),
        service_account: NamedObject {
            name: account.to_owned(),
            uid: user["uid"].as_str().unwrap_or_default().to_owned(),
        },
        pod: named("pod-name", "pod-uid").ok_or(Some(TokenError::NoPod))?,
        node: named("node-name", "node-uid"),
    })
}

/// Why a token was refused: what it says of itself explains that, as the API server's words are for people and change.
fn explained(error: Option<TokenError>, status: &Value, token: &str, now: SystemTime) -> Unverified {
    match (error, token::unverified(AUDIENCE, token, now)) {
        (Some(error), _) | (None, Err(error)) => Unverified::refused(&error),
        (None, Ok(claims)) => {
            let said = status["error"].as_str().unwrap_or("without a reason");
            Unverified::Refused {
                outcome: Outcome::TokenRefused,
                message: format!("the API server does not take the token: {said}"),
                claimed: Some(Box::new(claims.bearer)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_certs::key::Key;
    use weft_certs::token::{Signer, TOKEN_MAX};

    use super::super::tests::server;
    use super::*;

    fn token(audience: &str, made: SystemTime) -> String {
        let signer = Signer::new("https://issuer.test", &Key::generate().unwrap()).unwrap();
        let bearer = bearer(&status()).unwrap();
        signer.sign(&bearer, audience, Duration::from_secs(600), made).unwrap()
    }

    fn status() -> Value {
        json!({
            "authenticated": true, "audiences": ["weft"],
            "user": {
                "username": "system:serviceaccount:shop:web", "uid": "s",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["web-1"],
                    "authentication.kubernetes.io/pod-uid": ["u"],
                    "authentication.kubernetes.io/node-name": ["n"]
                }
            }
        })
    }

    #[test]
    fn a_review_names_account_and_pod_or_nobody() {
        let good = bearer(&status()).unwrap();
        assert_eq!(
            (good.namespace.as_str(), good.service_account.name.as_str()),
            ("shop", "web")
        );
        assert_eq!((good.pod.name.as_str(), good.pod.uid.as_str()), ("web-1", "u"));
        let without = |pointer: &str, value: Value| {
            let mut status = status();
            *status.pointer_mut(pointer).unwrap() = value;
            bearer(&status)
        };
        assert_eq!(without("/authenticated", json!(false)), Err(None));
        assert_eq!(without("/authenticated", json!("true")), Err(None));
        for audiences in [json!([]), json!(["vault"]), Value::Null] {
            let found = without("/audiences", audiences);
            assert!(matches!(found, Err(Some(TokenError::Audience { .. }))), "{found:?}");
        }
        assert!(without("/user/username", json!("alice")).is_err());
        assert_eq!(without("/user/extra", json!({})), Err(Some(TokenError::NoPod)));
        assert_eq!(bearer(&Value::Null), Err(None));
    }

    #[tokio::test]
    async fn while_the_api_server_is_away_no_token_can_be_checked() {
        let (mut server, api) = server();
        let reviews = Reviews::new(api);
        assert!(reviews.available());
        let now = SystemTime::now();
        let t = token(AUDIENCE, now);
        let (answer, ()) = tokio::join!(reviews.verify(&t, now), async { drop(server.next().await) });
        assert!(matches!(answer, Err(Unverified::NoKeys(_))));
        assert!(!reviews.available());
        let old = token(AUDIENCE, now - Duration::from_secs(700));
        let (answer, ()) = tokio::join!(reviews.verify(&t, now), async {
            let asked = server.next().await;
            // One asks; the others hear at once that nobody can tell, also of a token that could not be renewed.
            for token in [&t, &old] {
                assert!(matches!(reviews.verify(token, now).await, Err(Unverified::NoKeys(_))));
            }
            assert_eq!(asked.body["spec"], json!({"token": t, "audiences": ["weft"]}));
            asked.answer(201, &json!({"status": status()}));
        });
        assert!(answer.is_ok() && reviews.available());
    }

    #[tokio::test]
    async fn what_a_caller_sends_never_makes_tokens_unverifiable() {
        let (mut server, api) = server();
        let reviews = Reviews::new(api);
        let refuse = async { server.next().await.refuse(400, "BadRequest") };
        let now = SystemTime::now();
        let t = token(AUDIENCE, now);
        let (answer, ()) = tokio::join!(reviews.verify(&t, now), refuse);
        let refused = matches!(
            answer,
            Err(Unverified::Refused {
                outcome: Outcome::TokenRefused,
                ..
            })
        );
        assert!(refused && reviews.available());
        for bad in ["x".repeat(TOKEN_MAX + 1), "\u{1}".to_owned(), token("vault", now)] {
            assert!(reviews.verify(&bad, now).await.is_err(), "not sent at all");
        }
        assert!(reviews.available());
    }
}
