//! Observe: spans to the collector.
//!
//! In: ended spans, from a bounded queue. Out: batches over OTLP/gRPC. A collector that is dead, slow or gone costs the spans
//! and a counter that rises, and never a request: the workers put spans in without waiting, and what does not fit is dropped.

mod otlp;

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::transport::Channel;

use super::metrics::{Counter, Writer, table};
use super::trace::Finished;
use crate::config::Settings;
use crate::discover::Beliefs;
use crate::discover::dial::{self, chain};

/// How often the queue is looked into. The workers never wake the exporter: a wake-up costs more than the span.
const TICK: Duration = Duration::from_millis(200);
/// Spans in one request to the collector (OTEL_BSP_MAX_EXPORT_BATCH_SIZE's default).
const BATCH: usize = 512;
/// How long the collector may take for a batch.
const ANSWER: Duration = Duration::from_secs(5);
/// After a failure it is left alone so long; doubling up to the second.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the last spans may take when the process ends.
const LAST: Duration = Duration::from_secs(2);

/// Takes spans to the collector. Runs on the back thread.
#[derive(Debug)]
pub struct Exporter {
    /// `host:port`.
    collector: String,
    mark: Option<u32>,
    spans: mpsc::Receiver<Finished>,
    channel: Option<Channel>,
    pod: otlp::Pod,
    beliefs: Beliefs,
    exported: Counter,
    failed: Counter,
    abandoned: Counter,
}

impl Exporter {
    /// `collector`: as [`weft_daemon::settings::collector`] gives it.
    pub fn new(
        collector: String,
        settings: &Settings,
        beliefs: Beliefs,
        spans: mpsc::Receiver<Finished>,
        writer: &Writer,
    ) -> Self {
        Self {
            collector,
            mark: settings.mark,
            spans,
            channel: None,
            pod: otlp::Pod::new(settings),
            beliefs,
            exported: writer.counter(&table::TRACES_EXPORTED, &[]),
            failed: writer.counter(&table::TRACES_DROPPED, &["collector"]),
            abandoned: writer.counter(&table::TRACES_DROPPED, &["shutdown"]),
        }
    }

    /// Runs until `ending`, and then takes the last spans out within a bound.
    pub async fn run(mut self, ending: impl Future<Output = ()>) {
        tokio::select! {
            never = self.follow() => match never {},
            () = ending => {}
        }
        let (mut last, mut left) = (Vec::new(), 0);
        let sent = timeout(LAST, async {
            while self.take(&mut last) > 0 {
                left = last.len();
                self.send(&last).await?;
                self.exported.add(left as u64);
                left = 0;
                last.clear();
            }
            Ok::<_, String>(())
        });
        if !matches!(sent.await, Ok(Ok(()))) {
            self.abandoned.add((left + self.spans.len()) as u64);
        }
    }

    async fn follow(&mut self) -> std::convert::Infallible {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let (mut pause, mut not_before) = (PAUSE_MIN, Instant::now());
        loop {
            ticks.tick().await;
            while self.take(&mut batch) > 0 {
                if Instant::now() < not_before {
                    // The queue stays short for what comes when the collector is back.
                    self.failed.add(batch.len() as u64);
                    batch.clear();
                    continue;
                }
                let count = batch.len() as u64;
                match self.send(&batch).await {
                    Ok(()) => {
                        self.exported.add(count);
                        pause = PAUSE_MIN;
                    }
                    Err(error) => {
                        self.failed.add(count);
                        tracing::warn!(
                            error,
                            collector = self.collector,
                            "the collector did not take spans: dropped"
                        );
                        self.channel = None;
                        not_before = Instant::now() + pause;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
                batch.clear();
            }
        }
    }

    /// Fills a batch with what waits. Gives how many spans it has.
    fn take(&mut self, batch: &mut Vec<Finished>) -> usize {
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
        batch.len()
    }

    /// Sends a batch within [`ANSWER`]. A collector closes connections that are idle, which is often seen only by the next
    /// batch: that one goes out once more, over a new connection.
    async fn send(&mut self, batch: &[Finished]) -> Result<(), String> {
        let twice = async {
            let is_used = self.channel.is_some();
            match self.send_once(batch).await {
                Err(Failure::Connection(_)) if is_used => {
                    self.channel = None;
                    self.send_once(batch).await
                }
                sent => sent,
            }
        };
        match timeout(ANSWER, twice).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failure::Connection(why) | Failure::Refused(why))) => Err(why),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    async fn send_once(&mut self, batch: &[Finished]) -> Result<(), Failure> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let channel = dial::channel(self.mark, &self.collector, None)
                    .await
                    .map_err(|error| Failure::Connection(chain(&error)))?;
                self.channel.insert(channel).clone()
            }
        };
        let request = otlp::request(
            batch,
            &self.pod,
            self.beliefs.state().inbound().map(|inbound| &**inbound),
        );
        let sent = TraceServiceClient::new(channel).export(request).await;
        sent.map(drop).map_err(|status| {
            let why = format!("{}: {}", status.code(), status.message());
            // A status that the collector wrote has no cause on this side.
            match status.source() {
                Some(_) => Failure::Connection(why),
                None => Failure::Refused(why),
            }
        })
    }
}

/// Why a batch was not taken.
enum Failure {
    /// There was no connection, or it ended before the answer.
    Connection(String),
    /// The collector said no.
    Refused(String),
}

#[cfg(test)]
mod tests;
