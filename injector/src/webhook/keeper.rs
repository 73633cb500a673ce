//! The webhook's certificate in the cluster: the Secret that all replicas serve from, and the caBundle by which the API server
//! knows them.
//!
//! Several replicas agree without a leader: each does the next step that is due, on the version of an object that it has
//! read, and of two that do it at once the API server lets one win. What is written for the API server is read first and
//! the Secret second, so a replica that is late never takes away what another one has added.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams, WatchParams};
use kube::{Api, Client, Resource};
use rustls::ServerConfig;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use weft_daemon::ready::Gate;

use super::config::Settings;
use super::metrics::Metrics;
use super::pair::Pair;
use super::rotation::{Held, Step};
use super::stored;

/// How long nothing is looked at when nothing is heard of changes.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long at least, however often somebody writes against us.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// What one round may take.
const ROUND: Duration = Duration::from_secs(10);
/// A file of a certificate is smaller.
const FILE_MAX: u64 = 1 << 20;

/// What opens when there is something to serve, and somebody who knows it.
pub(super) struct Gates {
    pub(super) certificate: Gate,
    pub(super) bundle: Gate,
}

/// Keeps certificate and caBundle.
pub(super) struct Keeper {
    configurations: Api<MutatingWebhookConfiguration>,
    configuration: String,
    secrets: Api<Secret>,
    secret: String,
    directory: Option<PathBuf>,
    names: Vec<String>,
    lifetime: Duration,
    overlap: Duration,
    serving: watch::Sender<Option<Arc<ServerConfig>>>,
    gates: Gates,
    metrics: Arc<Metrics>,
}

/// What a replica remembers from round to round.
#[derive(Default)]
struct Memory {
    served: Option<Pair>,
    /// The bundle that the API server was seen with, and since when.
    known: Option<(String, Instant)>,
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        settings: &Settings,
        serving: watch::Sender<Option<Arc<ServerConfig>>>,
        gates: Gates,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            configurations: Api::all(client.clone()),
            configuration: settings.configuration.clone(),
            secrets: Api::namespaced(client, &settings.sidecar.control_namespace),
            secret: settings.secret.clone(),
            directory: settings.tls_dir.clone(),
            names: settings.names().to_vec(),
            lifetime: settings.certificate_lifetime,
            overlap: settings.certificate_overlap,
            serving,
            gates,
            metrics,
        }
    }

    /// Keeps both, for ever. What fails is tried again.
    pub(super) async fn keep(&self) {
        let wake = Notify::new();
        let secret = async {
            if self.directory.is_none() {
                changes(&self.secrets, &self.secret, &wake).await;
            }
        };
        let configuration = changes(&self.configurations, &self.configuration, &wake);
        tokio::join!(self.rounds(&wake), secret, configuration);
    }

    async fn rounds(&self, wake: &Notify) {
        let pause = (self.overlap / 4).clamp(PAUSE_MIN, PAUSE_MAX);
        let mut memory = Memory::default();
        loop {
            match timeout(ROUND, self.round(&mut memory)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = format!("{error:#}"), "keeping the webhook's certificate failed");
                }
                Err(_) => tracing::warn!("keeping the webhook's certificate took too long"),
            }
            sleep(PAUSE_MIN).await;
            // Either is a reason to look again.
            let _ = timeout(pause, wake.notified()).await;
        }
    }

    /// One look at everything, and at most one step.
    async fn round(&self, memory: &mut Memory) -> Result<()> {
        // Before the Secret: what this says is written only if nobody has written it since.
        let configuration = self.configurations.get_opt(&self.configuration).await;
        let configuration = configuration.with_context(|| self.configured());
        if let Some(directory) = &self.directory {
            let (pair, bundle) = supplied(directory).await?;
            self.serve(pair, memory)?;
            return match bundle {
                // Whoever supplies the certificate keeps the caBundle as well.
                None => {
                    self.gates.bundle.open();
                    Ok(())
                }
                Some(bundle) => self.publish(configuration?.as_ref(), &bundle, memory).await,
            };
        }
        let secret = self.secrets.get_opt(&self.secret).await.context("reading the Secret")?;
        let Some(held) = secret.as_ref().and_then(stored::read) else {
            // It is served once the Secret is read with it: another replica may be faster.
            return self.store(secret.as_ref(), &Held::new(self.make()?), "made").await;
        };
        self.serve(held.current.clone(), memory)?;
        let configuration = configuration?;
        let bundle = held.bundle();
        let known = self.known(configuration.as_ref(), &bundle, memory);
        match held.step(SystemTime::now(), known, self.overlap, &self.names[0]) {
            Step::Wait => Ok(()),
            Step::WriteBundle => self.publish(configuration.as_ref(), &bundle, memory).await,
            Step::Prepare => {
                let next = Some(self.make()?);
                self.store(secret.as_ref(), &Held { next, ..held }, "prepared").await
            }
            Step::Store(held) => self.store(secret.as_ref(), &held, "changed").await,
        }
    }

    fn make(&self) -> Result<Pair> {
        Pair::make(&self.names, self.lifetime, SystemTime::now()).context("making a certificate")
    }

    fn serve(&self, pair: Pair, memory: &mut Memory) -> Result<()> {
        if memory.served.as_ref() != Some(&pair) {
            self.serving.send_replace(Some(pair.serve()?));
            self.metrics.serving_until(pair.not_after());
            self.gates.certificate.open();
            tracing::info!("the webhook serves another certificate");
            memory.served = Some(pair);
        }
        Ok(())
    }

    /// For how long the API server has been seen with this bundle.
    fn known(
        &self,
        configuration: Option<&MutatingWebhookConfiguration>,
        bundle: &str,
        memory: &mut Memory,
    ) -> Option<Duration> {
        let has = configuration.is_some_and(|configuration| wrong(configuration, bundle).is_empty());
        match &memory.known {
            _ if !has => memory.known = None,
            Some((before, _)) if before == bundle => {}
            _ => memory.known = Some((bundle.to_owned(), Instant::now())),
        }
        if has {
            self.gates.bundle.open();
        }
        memory.known.as_ref().map(|(_, since)| since.elapsed())
    }

    /// Makes the API server know these CAs.
    async fn publish(
        &self,
        configuration: Option<&MutatingWebhookConfiguration>,
        bundle: &str,
        memory: &mut Memory,
    ) -> Result<()> {
        if self.known(configuration, bundle, memory).is_some() {
            return Ok(());
        }
        let Some(configuration) = configuration else {
            anyhow::bail!(
                "{} does not exist: no pod is injected; the chart makes it",
                self.configured()
            );
        };
        let base = json!(ByteString(bundle.as_bytes().to_vec()));
        let mut ops = vec![json!({
            "op": "test", "path": "/metadata/resourceVersion", "value": configuration.metadata.resource_version,
        })];
        ops.extend(wrong(configuration, bundle).into_iter().map(|place| {
            let path = format!("/webhooks/{place}/clientConfig/caBundle");
            json!({"op": "add", "path": path, "value": base})
        }));
        let patch: json_patch::Patch = serde_json::from_value(json!(ops)).context("the patch of the caBundle")?;
        self.configurations
            .patch(&self.configuration, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await
            .with_context(|| format!("writing the caBundle of {}", self.configured()))?;
        self.metrics.bundle_written();
        tracing::info!(configuration = self.configuration, "the caBundle was written");
        Ok(())
    }

    /// Writes the Secret, if it is still what it was.
    async fn store(&self, before: Option<&Secret>, held: &Held, what: &str) -> Result<()> {
        let secret = stored::write(&self.secret, before, held);
        let params = PostParams::default();
        let written = match before {
            Some(_) => self.secrets.replace(&self.secret, &params, &secret).await,
            None => self.secrets.create(&params, &secret).await,
        };
        match written {
            Ok(_) => tracing::info!(secret = self.secret, step = what, "the webhook's Secret was written"),
            // Another replica was faster: the next round sees what it has done.
            Err(kube::Error::Api(refused)) if refused.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("writing the Secret {}", self.secret)),
        }
        Ok(())
    }

    fn configured(&self) -> String {
        format!("MutatingWebhookConfiguration {}", self.configuration)
    }
}

/// The webhooks of a configuration that have another caBundle than this.
fn wrong(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Vec<usize> {
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let has = |held: &Option<ByteString>| held.as_ref().is_some_and(|held| held.0 == bundle.as_bytes());
    webhooks
        .filter(|(_, webhook)| !has(&webhook.client_config.ca_bundle))
        .map(|(place, _)| place)
        .collect()
}

/// Wakes whenever something happens to an object.
async fn changes<K>(api: &Api<K>, name: &str, wake: &Notify)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut told = false;
    loop {
        // Any version will do: a round reads what is there now. It ends after some minutes at the latest.
        let watched = async {
            let woken = |_| async {
                wake.notify_one();
                Ok(())
            };
            api.watch_metadata(&only, "0").await?.try_for_each(woken).await
        };
        match watched.await {
            Ok(()) => told = false,
            // Without the right to watch it fails for ever: once is enough.
            Err(error) if !told => {
                tracing::warn!(name, %error, pause = ?PAUSE_MAX, "watching failed, so changes are only seen now and then");
                told = true;
            }
            Err(_) => {}
        }
        sleep(PAUSE_MAX / 4).await;
    }
}

/// A certificate that somebody else keeps in a directory, and its CA if that is there.
async fn supplied(directory: &Path) -> Result<(Pair, Option<String>)> {
    let read = async |name: &str| {
        let path = directory.join(name);
        let named = || path.display().to_string();
        let length = tokio::fs::metadata(&path).await.with_context(named)?.len();
        anyhow::ensure!(length <= FILE_MAX, "{} is larger than 1 MiB", named());
        tokio::fs::read_to_string(&path).await.with_context(named)
    };
    let ca = match tokio::fs::try_exists(directory.join("ca.crt")).await {
        Ok(true) => Some(read("ca.crt").await?),
        _ => None,
    };
    let pair = Pair::read(
        ca.clone().unwrap_or_default(),
        read("tls.crt").await?,
        read("tls.key").await?,
    );
    Ok((pair.with_context(|| directory.display().to_string())?, ca))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_supplied_certificate_is_read_with_its_ca_where_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let pair = Pair::make(&["a.b.svc".to_owned()], Duration::from_secs(60), SystemTime::now()).unwrap();
        let error = supplied(directory.path()).await.unwrap_err();
        assert!(format!("{error:#}").contains("tls.crt"), "{error:#}");
        put("tls.crt", &pair.certificate);
        put("tls.key", &pair.key);
        let (read, ca) = supplied(directory.path()).await.unwrap();
        assert_eq!((read.certificate.as_str(), ca), (pair.certificate.as_str(), None));
        put("ca.crt", &pair.ca);
        assert_eq!(supplied(directory.path()).await.unwrap(), (pair.clone(), Some(pair.ca)));
        put("tls.key", "not a key");
        let error = supplied(directory.path()).await.unwrap_err();
        assert!(format!("{error:#}").contains("tls.key"), "{error:#}");
    }

    #[test]
    fn every_webhook_of_the_configuration_that_has_another_bundle_is_found() {
        let webhook = |bundle: Option<&str>| k8s_openapi::api::admissionregistration::v1::MutatingWebhook {
            client_config: k8s_openapi::api::admissionregistration::v1::WebhookClientConfig {
                ca_bundle: bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec())),
                ..Default::default()
            },
            ..Default::default()
        };
        let configuration = MutatingWebhookConfiguration {
            webhooks: Some([Some("ours"), None, Some("other")].map(webhook).to_vec()),
            ..Default::default()
        };
        assert_eq!(wrong(&configuration, "ours"), [1, 2]);
    }
}
