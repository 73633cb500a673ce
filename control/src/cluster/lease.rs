//! Which replica writes to the cluster: the holder of the Lease `weft-control`. All replicas serve proxies.
//!
//! Clocks are not compared: a lease is over when it has not changed for its duration, as seen from here.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use weft_daemon::drain::Tasks;

use super::api::{Api, Fault};
use super::pause::Pause;

/// The Lease, in the control plane's namespace.
const LEASE: &str = "weft-control";
/// Without a renewal for so long, another replica may take it.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long does nothing more: before another one may.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The holder renews so often.
const RENEW: Duration = Duration::from_secs(4);
/// The others look so often.
const LOOK: Duration = Duration::from_secs(2);

/// Takes the lease, and keeps it.
pub(super) struct Lease {
    api: Api,
    namespace: String,
    /// Who we are: unique among all processes.
    holder: String,
    /// What was last seen of another's lease, and since when it is unchanged.
    seen: Option<(Value, Instant)>,
    leads: watch::Sender<bool>,
}

impl Lease {
    pub(super) fn new(api: Api, namespace: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            api,
            namespace: namespace.to_owned(),
            holder: format!("{}_{:016x}", host.trim(), rand::random::<u64>()),
            seen: None,
            leads: watch::Sender::new(false),
        }
    }

    /// Who we are.
    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    /// Whether this replica leads.
    pub(super) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Holds the lease whenever it can, until tasks drain; then lets go of it, so that nobody has to wait.
    pub(super) async fn run(mut self, tasks: Tasks) {
        tokio::select! {
            () = tasks.draining() => {}
            () = self.hold() => {}
        }
        if self.leads.send_replace(false) {
            let release = self.write(|spec| spec["holderIdentity"] = json!(""));
            if let Err(fault) = release.await {
                tracing::debug!(error = %fault, "the lease was not let go of");
            }
        }
    }

    async fn hold(&mut self) {
        let mut pause = Pause::default();
        let mut renewed = Instant::now();
        loop {
            let (asked, leading) = (Instant::now(), *self.leads.borrow());
            let taken = match leading {
                true => timeout_at(renewed + GIVE_UP, self.take()).await.unwrap_or_else(|_| {
                    let why = format!("not renewed within {GIVE_UP:?}");
                    Err(Fault::Away(why))
                }),
                false => self.take().await,
            };
            match taken {
                Ok(held) => {
                    pause.reset();
                    if held {
                        renewed = asked;
                    }
                    self.lead(held);
                    // One that took long is renewed the sooner.
                    sleep(if held {
                        RENEW.saturating_sub(asked.elapsed())
                    } else {
                        LOOK.mul_f64(0.75 + rand::random::<f64>() / 2.0)
                    })
                    .await;
                }
                Err(fault) => {
                    if pause.is_first() {
                        tracing::warn!(error = %fault, "the lease is not known, without which this replica cannot lead");
                    }
                    let left = GIVE_UP.saturating_sub(renewed.elapsed());
                    if left.is_zero() || !*self.leads.borrow() {
                        self.lead(false);
                        pause.wait().await;
                    } else if tokio::time::timeout(left, pause.wait()).await.is_err() {
                        self.lead(false);
                    }
                }
            }
        }
    }

    fn lead(&self, leads: bool) {
        self.leads.send_if_modified(|before| {
            let changed = *before != leads;
            *before = leads;
            changed
        });
    }

    /// Takes or renews it, if nobody else has it. Says whether it is ours now.
    async fn take(&mut self) -> Result<bool, Fault> {
        let lease = match self.api.get(&self.path()).await {
            Ok(lease) => lease,
            Err(fault) if fault.is_missing() => return self.make().await,
            Err(fault) => return Err(fault),
        };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let ours = holder == self.holder;
        if !ours && !holder.is_empty() && !self.is_over(&lease["spec"]) {
            return Ok(false);
        }
        let mut lease = lease;
        let (now, transitions) = (now(), lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default());
        let spec = &mut lease["spec"];
        if !spec.is_object() {
            *spec = json!({});
        }
        spec["holderIdentity"] = json!(self.holder);
        spec["leaseDurationSeconds"] = json!(DURATION.as_secs());
        spec["renewTime"] = json!(now);
        if !ours {
            spec["acquireTime"] = json!(now);
            spec["leaseTransitions"] = json!(transitions + 1);
        }
        self.settled(self.api.replace(&self.path(), &lease).await)
    }

    async fn make(&self) -> Result<bool, Fault> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": LEASE, "namespace": self.namespace,
                "labels": {"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"}
            },
            "spec": {
                "holderIdentity": self.holder, "leaseDurationSeconds": DURATION.as_secs(),
                "acquireTime": now(), "renewTime": now(), "leaseTransitions": 0
            }
        });
        self.settled(self.api.create(&self.all(), &lease).await)
    }

    /// Changes a lease that is ours.
    async fn write(&self, change: impl FnOnce(&mut Value)) -> Result<(), Fault> {
        let mut lease = self.api.get(&self.path()).await?;
        if lease["spec"]["holderIdentity"] == self.holder.as_str() {
            change(&mut lease["spec"]);
            self.api.replace(&self.path(), &lease).await?;
        }
        Ok(())
    }

    /// Of several that write at once, one has it.
    fn settled(&self, written: Result<Value, Fault>) -> Result<bool, Fault> {
        match written {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_conflict() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Whether another's lease has not changed for its duration.
    fn is_over(&mut self, spec: &Value) -> bool {
        match &self.seen {
            Some((seen, since)) if seen == spec => {
                let written = spec["leaseDurationSeconds"].as_u64().map(Duration::from_secs);
                since.elapsed() > written.unwrap_or(DURATION).max(Duration::from_secs(1))
            }
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn all(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{LEASE}", self.all())
    }
}

/// Now, as Kubernetes writes a MicroTime.
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Server, server};
    use super::*;
    use weft_daemon::drain::Drain;

    fn lease(holder: &str, renewed: &str) -> Value {
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed});
        json!({"metadata": {"name": LEASE, "resourceVersion": "5"}, "spec": spec})
    }

    fn start() -> (Server, watch::Receiver<bool>, Drain) {
        let (server, api) = server();
        let lease = Lease::new(api, "weft-system");
        let (drain, tasks) = Drain::new();
        let leads = lease.leads();
        tasks.spawn(lease.run(tasks.clone()));
        (server, leads, drain)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_leads_and_lets_go_when_it_ends() {
        let (mut server, mut leads, drain) = start();
        server.next().await.refuse(404, "NotFound");
        let made = server.next().await;
        let mut held = made.body.clone();
        made.answer(201, &held);
        leads.wait_for(|leads| *leads).await.unwrap();
        server.next().await.answer(200, &held);
        let renewal = server.next().await;
        assert_eq!(renewal.method, "PUT");
        held = renewal.body.clone();
        renewal.answer(200, &held);
        drain.begin();
        server.next().await.answer(200, &held);
        let release = server.next().await;
        assert_eq!(release.body["spec"]["holderIdentity"], "");
        assert!(!*leads.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn anothers_lease_is_taken_when_it_has_not_changed_for_its_duration() {
        let (mut server, leads, _drain) = start();
        let begun = Instant::now();
        // Its clock may say what it likes.
        for renewed in ["2001-01-01T00:00:00.000000Z", "2001-01-01T00:00:04.000000Z"] {
            server.next().await.answer(200, &lease("other", renewed));
        }
        let taken = loop {
            let request = server.next().await;
            match request.method.as_str() {
                "GET" => request.answer(200, &lease("other", "2001-01-01T00:00:04.000000Z")),
                _ => break request,
            }
        };
        assert!(begun.elapsed() > DURATION && !*leads.borrow());
        assert_eq!(taken.body["metadata"]["resourceVersion"], "5");
        assert_eq!(taken.body["spec"]["leaseTransitions"], 1);
        taken.refuse(409, "Conflict");
        server.next().await.answer(200, &lease("third", "x"));
        assert!(!*leads.borrow(), "another one was faster");
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_leads_no_more_before_another_one_may() {
        let (mut server, mut leads, _drain) = start();
        server.next().await.refuse(404, "NotFound");
        let made = server.next().await;
        let held = made.body.clone();
        made.answer(201, &held);
        leads.wait_for(|leads| *leads).await.unwrap();
        let begun = Instant::now();
        tokio::select! {
            () = async { loop { drop(server.next().await) } } => {}
            lost = leads.wait_for(|leads| !*leads) => drop(lost.unwrap()),
        }
        assert!(begun.elapsed() <= GIVE_UP, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_makes_nobody_lead_for_longer() {
        let (mut server, mut leads, _drain) = start();
        server.next().await.refuse(404, "NotFound");
        let made = server.next().await;
        let held = made.body.clone();
        made.answer(201, &held);
        leads.wait_for(|leads| *leads).await.unwrap();
        let begun = Instant::now();
        // It reads at the last moment, and does not write in time.
        let slow = async {
            let mut kept = Vec::new();
            loop {
                let asked = server.next().await;
                if asked.method == "GET" {
                    sleep(Duration::from_millis(4900)).await;
                    asked.answer(200, &held);
                } else {
                    kept.push(asked);
                }
            }
        };
        tokio::select! {
            () = slow => {}
            lost = leads.wait_for(|leads| !*leads) => drop(lost.unwrap()),
        }
        assert!(begun.elapsed() <= GIVE_UP, "{:?}", begun.elapsed());
    }
}
