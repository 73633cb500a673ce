//! What tokens are checked with: the issuer's keys, from a file that is read again when it changes, or the API server.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use weft_certs::token::{self, AUDIENCE, Bearer, Jwks, TokenClaims, TokenError};

use super::outcome::Outcome;
use crate::authority::Chain;
use crate::cluster::Reviews;

/// The file is looked at no more often than this.
const SPACING: Duration = Duration::from_secs(1);
/// A key set of 32 keys has about 16 KiB.
const FILE_MAX: u64 = 1 << 20;

/// Checks tokens.
pub(crate) enum Tokens {
    /// By the keys of their issuer.
    Keys(TokenKeys),
    /// By asking the API server that made them.
    Reviews(Reviews),
}

/// Checks tokens of one issuer.
#[derive(Debug)]
pub(crate) struct TokenKeys {
    path: Option<PathBuf>,
    issuer: String,
    /// Locked for the look at the file and to copy a pointer.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<Jwks>>,
    /// Which file that was: device, inode, size and time.
    file: Option<(u64, u64, u64, i64, i64)>,
    looked: Option<Instant>,
}

/// Why a token is not verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// It is not good.
    Refused {
        /// The word.
        outcome: Outcome,
        /// The sentence.
        message: String,
        /// Whom it claims to be for, where that may explain the refusal. Nothing may be allowed because of it.
        claimed: Option<Box<Bearer>>,
    },
    /// There is nothing to check it with. For people: why.
    NoKeys(String),
    /// Too many are checked at once.
    Busy,
}

impl Unverified {
    /// A token that is not good.
    pub(crate) fn refused(error: &TokenError) -> Self {
        let outcome = match error {
            TokenError::Audience { .. } => Outcome::TokenAudience,
            TokenError::Expired => Outcome::TokenExpired,
            TokenError::NoPod => Outcome::TokenUnbound,
            _ => Outcome::TokenRefused,
        };
        Self::Refused {
            outcome,
            message: error.to_string(),
            claimed: None,
        }
    }
}

impl Tokens {
    /// Whom a token is for, if it is good for us.
    pub(crate) async fn verify(&self, token: &str, now: SystemTime) -> Result<Bearer, Unverified> {
        match self {
            Self::Keys(keys) => keys.verify(token, now).map(|claims| claims.bearer),
            Self::Reviews(reviews) => reviews.verify(token, now).await,
        }
    }

    /// Whether tokens can be checked now.
    pub(crate) fn available(&self) -> bool {
        match self {
            Self::Keys(keys) => keys.available(),
            Self::Reviews(reviews) => reviews.available(),
        }
    }
}

impl TokenKeys {
    /// Keys from a file. `None`: no token can be checked.
    pub(crate) fn new(path: Option<PathBuf>, issuer: String) -> Self {
        Self {
            path,
            issuer,
            state: Mutex::default(),
        }
    }

    /// Verifies a token for this audience of ours.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<TokenClaims, Unverified> {
        let Some(keys) = self.keys() else {
            let why = match &self.path {
                Some(path) => format!("the key set {} cannot be read", path.display()),
                None => "no key set is configured (--token-jwks)".to_owned(),
            };
            return Err(Unverified::NoKeys(why));
        };
        token::verify(&keys, &self.issuer, AUDIENCE, token, now).map_err(|error| Unverified::refused(&error))
    }

    /// Whether tokens can be checked now.
    pub(crate) fn available(&self) -> bool {
        self.keys().is_some()
    }

    /// The keys, read again if the file is another. One that cannot be read leaves the last good ones: they were valid, and
    /// an outage must not lock anybody out.
    fn keys(&self) -> Option<Arc<Jwks>> {
        let path = self.path.as_ref()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_some_and(|at| at.elapsed() < SPACING) {
            return state.keys.clone();
        }
        state.looked = Some(Instant::now());
        let file = std::fs::metadata(path).ok().filter(|file| file.len() <= FILE_MAX);
        if file.as_ref().map(which) == state.file && state.keys.is_some() {
            return state.keys.clone();
        }
        match std::fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|text| Jwks::from_json(&text).map_err(|error| Chain(&error).to_string()))
        {
            Ok(keys) => {
                tracing::info!(path = %path.display(), "read the key set of tokens");
                state.keys = Some(Arc::new(keys));
                state.file = file.as_ref().map(which);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "the key set of tokens cannot be read")
            }
        }
        state.keys.clone()
    }
}

fn which(file: &Metadata) -> (u64, u64, u64, i64, i64) {
    (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec())
}
