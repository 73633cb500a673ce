//! Builds the rooms, joins them, and runs them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use http::StatusCode;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_daemon::admin::{self, Admin, Listener, Response};
use weft_daemon::drain::{Drain, Tasks};
use weft_daemon::listen;
use weft_daemon::log::Switch;
use weft_daemon::ready::Ready;

use super::config::Settings;
use super::keeper::{self, Keeper};
use super::metrics::Metrics;
use super::namespaces::{Fetch, Namespaces};
use super::serve::{self, Bounds, Webhook};

/// A webhook that runs.
pub(super) struct App {
    /// Ends its tasks.
    pub(super) drain: Drain,
    /// Serves admin until it is dropped.
    pub(super) admin: JoinSet<()>,
}

impl App {
    /// Starts everything. Listens before it returns.
    pub(super) async fn start(settings: Settings, log: Switch) -> Result<Self> {
        let client = Client::try_default().await.context("finding the API server")?;
        let ready = Ready::new();
        let metrics = Arc::new(Metrics::default());
        let (drain, tasks) = Drain::new();
        let (reviews, certificate) = (tasks.named("listener"), tasks.named("certificate"));
        let parts = [reviews.clone(), certificate.clone()];
        let admin = serve_admin(&settings, &ready, &metrics, log, parts).await?;

        let listening = ready.gate("listener");
        let (serving, tls) = watch::channel(None);
        let gates = keeper::Gates {
            certificate: ready.gate("certificate"),
            bundle: ready.gate("caBundle of the webhook's configuration"),
        };
        let listener = listen::tcp(settings.listen)
            .await
            .with_context(|| format!("listening on {}", settings.listen))?;
        let webhook = Arc::new(Webhook::new(
            settings.sidecar.settings(),
            settings.sidecar.control_namespace.clone(),
            Namespaces::new(fetch(client.clone())),
            metrics.clone(),
        ));
        let bounds = Bounds {
            connections: settings.connections.max(1),
            per_address: settings.connections_per_address.max(1),
        };
        let linger = settings.drain * 3 / 4;
        tracing::info!(address = %settings.listen, admin = %settings.admin, image = webhook.settings.image, "serving");
        reviews.spawn(serve::serve(webhook, listener, tls, bounds, linger, tasks.clone()));
        listening.open();
        let keeper = Keeper::new(client, &settings, serving, gates, metrics);
        let kept = certificate.clone();
        certificate.spawn(async move {
            tokio::select! {
                () = kept.draining() => {}
                () = keeper.keep() => {}
            }
        });
        Ok(Self { drain, admin })
    }
}

/// What the API server says, in its words; and what helps, where the injector may not ask.
fn why(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "{}; fix: run weft install again, the ClusterRoleBinding weft-injector is missing or changed",
            status.message
        ),
        kube::Error::Api(status) if !status.message.is_empty() => status.message,
        other => other.to_string(),
    }
}

fn fetch(client: Client) -> Fetch {
    let api: Api<Namespace> = Api::all(client);
    Box::new(move |name| {
        let api = api.clone();
        Box::pin(async move {
            let found = api.get_metadata_opt(&name).await.map_err(why)?;
            found
                .map(serde_json::to_value)
                .transpose()
                .map_err(|error| error.to_string())
        })
    })
}

/// `parts`: tasks without which nothing is left to do but to begin anew.
async fn serve_admin(
    settings: &Settings,
    ready: &Ready,
    metrics: &Arc<Metrics>,
    log: Switch,
    parts: [Tasks; 2],
) -> Result<JoinSet<()>> {
    let listener = Listener::tcp(settings.admin)
        .await
        .with_context(|| format!("listening on {}", settings.admin))?;
    let (ready, metrics) = (ready.clone(), metrics.clone());
    let routes = Admin::new()
        .get("/live", move |_| live(&parts))
        .get("/ready", move |_| ready.response())
        .get("/metrics", move |_| metrics.text(&log).response());
    let mut serving = JoinSet::new();
    serving.spawn(async move { match routes.serve(vec![listener]).await {} });
    Ok(serving)
}

/// Whether each part still runs, until all of them are to end. One that panicked is not begun again but by the kubelet.
fn live(parts: &[Tasks]) -> Response {
    match parts.iter().all(|part| part.running() > 0 || part.is_draining()) {
        true => admin::text(StatusCode::OK, "live\n"),
        false => admin::text(StatusCode::SERVICE_UNAVAILABLE, "a part has ended\n"),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_of_the_api_server_is_told_in_its_words_and_a_forbidden_one_with_what_helps() {
        let refused = |message: &str, code| {
            let mut status = Status::failure(message, "Reason");
            status.code = code;
            why(kube::Error::Api(Box::new(status)))
        };
        assert_eq!(refused("the server is overloaded", 503), "the server is overloaded");
        let said = refused("namespaces \"lab\" is forbidden", 403);
        assert!(
            said.starts_with("namespaces \"lab\" is forbidden; fix: run weft install again"),
            "{said}"
        );
        assert!(!said.contains("Status"), "{said}");
    }

    #[tokio::test]
    async fn it_is_not_alive_without_one_of_its_parts() {
        let (drain, tasks) = Drain::new();
        let parts = [tasks.named("a"), tasks.named("b")];
        parts[0].spawn(std::future::pending());
        let b = parts[1].spawn(std::future::pending());
        assert_eq!(live(&parts).status(), StatusCode::OK);
        b.abort();
        assert!(b.await.is_err());
        assert_eq!(live(&parts).status(), StatusCode::SERVICE_UNAVAILABLE);
        drain.begin();
        assert_eq!(live(&parts).status(), StatusCode::OK);
    }
}
