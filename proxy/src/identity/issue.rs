//! Identity: one certificate, asked for.
//!
//! In: the directory of roots, the token's file, the certificate that is about to end if there is one. Out: a new one, checked
//! to be ours, or why not. Whoever answers must prove to be the control plane before the token is read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::time::timeout;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::credential::{Credential, bootstrap_client_config};
use weft_certs::csr;
use weft_certs::key::Key;
use weft_model::identity::{Identity, TrustDomain};
use weft_proto::identity as wire;
use weft_proto::identity::identity_client::IdentityClient;
use weft_proto::resource::bundles;

use crate::config::Settings;
use crate::discover::dial::{self, DialError};
use crate::discover::roots;

/// How long the control plane may take to issue.
const ANSWER: Duration = Duration::from_secs(15);
/// The largest file of the trust directory, and the largest token.
const FILE_MAX: u64 = 1024 * 1024;

/// Asks for certificates.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// `host:port` of the control plane.
    pub address: String,
    /// The packet mark.
    pub mark: Option<u32>,
    /// `roots.pem`, `trust-domain`, `control-namespace`.
    pub trust_dir: PathBuf,
    /// The service-account token.
    pub token_file: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
}

/// A certificate that came.
#[derive(Debug)]
pub struct Issued {
    /// Leaf, key, and the bundles that came with them.
    pub credential: Arc<Credential>,
    /// Its remaining life when it was received.
    pub valid_for: Duration,
    /// Seconds that this clock is ahead of the control plane's.
    pub skew: f64,
}

/// What the pod was told of whom to trust.
#[derive(Debug)]
pub struct Trust {
    /// The roots.
    pub bundles: Arc<TrustBundles>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Who the control plane must be.
    pub control: Identity,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file that the pod was to be given cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No key or request could be made.
    #[error("making the request: {0}")]
    Request(String),
    /// The control plane was not reached, or is somebody else. No token was sent.
    #[error("no token was sent")]
    Unreachable(#[source] DialError),
    /// The control plane did not answer in time.
    #[error("the control plane did not answer within {} s", ANSWER.as_secs())]
    Slow,
    /// The control plane refused.
    #[error("the control plane refused: {}: {}", .0.code(), .0.message())]
    Refused(tonic::Status),
    /// What came is not a certificate for us.
    #[error("what came is no certificate of ours: {0}")]
    Invalid(String),
}

impl IssueError {
    /// The place in the outcomes that metrics tell apart.
    pub(super) fn outcome(&self) -> usize {
        match self {
            Self::Refused(status) if status.code() != tonic::Code::Unavailable => 1,
            Self::Refused(_) | Self::Unreachable(_) | Self::Slow => 2,
            Self::File { .. } | Self::Request(_) | Self::Invalid(_) => 3,
        }
    }
}

impl Issuer {
    /// From the settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            address: settings.control_address.clone(),
            mark: settings.mark,
            trust_dir: settings.trust_dir.clone(),
            token_file: settings.token_file.clone(),
            namespace: settings.pod_namespace.clone(),
            service_account: settings.service_account.clone(),
        }
    }

    /// Asks for a certificate, with the one that is about to end if there is one.
    pub async fn issue(&self, current: Option<Arc<Credential>>) -> Result<Issued, IssueError> {
        let trust = Trust::read(&self.trust_dir)?;
        let key = Key::generate().map_err(|error| IssueError::Request(error.to_string()))?;
        let csr = csr::make(&key).map_err(|error| IssueError::Request(error.to_string()))?;
        let channel = self
            .dial(&trust, current.as_deref())
            .await
            .map_err(IssueError::Unreachable)?;
        // Only now: whoever answers has proved to be the control plane.
        let token = match read(&self.token_file) {
            Ok(token) => token.trim().to_owned(),
            // The leaf may speak for itself where there is one.
            Err(_) if current.is_some() => String::new(),
            Err(error) => return Err(error),
        };
        let request = wire::IssueRequest { csr: csr.into(), token };
        let answer = timeout(ANSWER, IdentityClient::new(channel).issue(request))
            .await
            .map_err(|_| IssueError::Slow)?;
        self.check(&trust, key, answer.map_err(IssueError::Refused)?.into_inner())
    }

    /// The control plane, verified: against what is trusted already, which the stream keeps current, else against the trust
    /// directory, which is all that a new pod has and which may know a root that was made while we were away.
    async fn dial(&self, trust: &Trust, current: Option<&Credential>) -> Result<tonic::transport::Channel, DialError> {
        let Some(current) = current else {
            let tls = bootstrap_client_config(trust.bundles.clone(), &trust.control, &[b"h2"]);
            return dial::channel(self.mark, &self.address, Some(tls)).await;
        };
        let tls = current.client_config_expecting(&trust.control, &[b"h2"]);
        match dial::channel(self.mark, &self.address, Some(tls)).await {
            Err(DialError::Stranger(..)) => {
                let current = current.with_bundles(trust.bundles.clone(), current.generation());
                let tls = current.client_config_expecting(&trust.control, &[b"h2"]);
                dial::channel(self.mark, &self.address, Some(tls)).await
            }
            other => other,
        }
    }

    fn check(&self, trust: &Trust, key: Key, answer: wire::IssueResponse) -> Result<Issued, IssueError> {
        let invalid = |reason: String| IssueError::Invalid(reason);
        let bundles = bundles::from_identity(answer.bundles).and_then(roots);
        let bundles = bundles.map_err(|error| invalid(format!("{}: {}", error.field, error.reason)))?;
        let bundles = TrustBundles::new(bundles).map_err(|error| invalid(error.to_string()))?;
        let chain = answer
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let credential =
            Credential::new(chain, key, Arc::new(bundles), 0).map_err(|error| invalid(dial::chain(&error)))?;
        let own = Identity::new(trust.trust_domain.clone(), &self.namespace, &self.service_account);
        let own = own.map_err(|error| invalid(error.to_string()))?;
        if *credential.identity() != own {
            return Err(invalid(format!(
                "it is for {}, and this pod is {own}",
                credential.identity()
            )));
        }
        let valid_for = Duration::from_millis(answer.valid_for_ms);
        if valid_for.is_zero() {
            return Err(invalid("it has ended already".to_owned()));
        }
        // By the control plane's clock: ours may be wrong, and the life counts on the monotonic one.
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_millis(answer.now_unix_ms);
        credential.verify(theirs).map_err(|error| invalid(error.to_string()))?;
        let skew = match SystemTime::now().duration_since(theirs) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        if skew.abs() > 60.0 {
            tracing::warn!(
                skew,
                "this clock and the control plane's differ: peers may refuse the certificate"
            );
        }
        Ok(Issued {
            credential: Arc::new(credential),
            valid_for,
            skew,
        })
    }
}

impl Trust {
    /// Reads the trust directory.
    pub fn read(directory: &Path) -> Result<Self, IssueError> {
        let file = |name: &str| directory.join(name);
        let bad = |name: &str, reason: String| IssueError::File {
            path: file(name),
            reason,
        };
        let trust_domain = TrustDomain::new(read(&file("trust-domain"))?.trim());
        let trust_domain = trust_domain.map_err(|error| bad("trust-domain", error.to_string()))?;
        let control = Identity::control_plane(trust_domain.clone(), read(&file("control-namespace"))?.trim());
        let control = control.map_err(|error| bad("control-namespace", error.to_string()))?;
        let bundle = Bundle::from_pem(trust_domain.clone(), read(&file("roots.pem"))?.as_bytes(), 0);
        let bundles = bundle.and_then(|bundle| TrustBundles::new([bundle]));
        let bundles = Arc::new(bundles.map_err(|error| bad("roots.pem", error.to_string()))?);
        Ok(Self {
            bundles,
            trust_domain,
            control,
        })
    }
}

fn read(path: &Path) -> Result<String, IssueError> {
    use std::io::Read as _;
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    read().map_err(|error| IssueError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
