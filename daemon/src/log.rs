//! Events to stderr.
//!
//! What is written is chosen by `WEFT_LOG` (tracing's filter syntax: `info`, `weft_proxy=debug,info`), and its form by
//! `WEFT_LOG_FORMAT` (`text` or `json`). The text of an event is constant, lower case; data goes in fields.
//!
//! Nobody waits for the log: lines go through a bounded queue to one thread. When whoever reads stderr is too slow, lines
//! are dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

use crate::settings::Variable;

/// What is written.
pub const FILTER: Variable = Variable {
    name: "WEFT_LOG",
    value: "a log filter: `info`, `weft_proxy=debug,info`",
    default: "`info`",
    by: "proxy, control plane, webhook, `weft up`",
    meaning: "What is logged, to standard error. In a pod: the annotation `config.weft.dev/log-level`.",
};
/// The form of a line.
pub const FORMAT: Variable = Variable {
    name: "WEFT_LOG_FORMAT",
    value: "`text` or `json`",
    default: "`text`",
    by: "proxy, control plane, webhook, `weft up`",
    meaning: "The form of the log's lines.",
};
/// Whether there are colours.
pub const NO_COLOR: Variable = Variable {
    name: "NO_COLOR",
    value: "anything",
    default: "colours on a terminal, none elsewhere",
    by: "everything",
    meaning: "Where it is set to something, there are no colours.",
};

/// A few hundred KB of lines: what a burst may take before lines are dropped.
const QUEUE_LINES: usize = 2048;
/// What the process waits for the last lines at its end.
const LAST_LINES: Duration = Duration::from_secs(1);

static PANICS: AtomicU64 = AtomicU64::new(0);

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: with colours where stderr is a terminal and `NO_COLOR` is not set.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// The log of this process. Keep it until the end: dropping it writes the last lines.
#[derive(Debug)]
pub struct Log {
    switch: Switch,
    queue: Queue,
    done: Option<Receiver<()>>,
}

/// Changes at run time what is written.
#[derive(Clone, Debug)]
pub struct Switch {
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    dropped: Arc<AtomicU64>,
}

/// Why a log could not be started or switched.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("WEFT_LOG: {0:?} is not a log filter such as info or weft_proxy=debug,info")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// There is no such format.
    #[error("WEFT_LOG_FORMAT: {0:?} is neither text nor json")]
    Format(String),
    /// The thread could not be started.
    #[error("starting the log's thread")]
    Thread(#[source] io::Error),
}

/// Starts the log as `WEFT_LOG` and `WEFT_LOG_FORMAT` say. A process that has one already keeps it.
pub fn start() -> Result<Log, LogError> {
    let filter = std::env::var(FILTER.name).unwrap_or_default();
    let format = match std::env::var(FORMAT.name).unwrap_or_default().as_str() {
        "" | "text" => Format::Text,
        "json" => Format::Json,
        other => return Err(LogError::Format(other.to_owned())),
    };
    start_with(&filter, format)
}

/// Starts the log. An empty filter means `info`.
pub fn start_with(filter: &str, format: Format) -> Result<Log, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let (queue, lines) = Queue::new();
    let dropped = queue.dropped.clone();
    let layer = match format {
        Format::Text => {
            let colours = io::stderr().is_terminal() && colours_wanted();
            tracing_subscriber::fmt::layer()
                .with_writer(queue.clone())
                .with_ansi(colours)
                .boxed()
        }
        Format::Json => tracing_subscriber::fmt::layer()
            .with_writer(queue.clone())
            .json()
            .flatten_event(true)
            .boxed(),
    };
    if tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .is_err()
    {
        return Ok(Log {
            switch: Switch { filter: None, dropped },
            queue,
            done: None,
        });
    }
    let (finished, done) = sync_channel(1);
    let writer = move || {
        write_lines(&lines);
        // The receiver is gone where nobody waits for the last lines.
        let _ = finished.send(());
    };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(writer)
        .map_err(LogError::Thread)?;
    report_panics();
    Ok(Log {
        switch: Switch {
            filter: Some(handle),
            dropped,
        },
        queue,
        done: Some(done),
    })
}

/// Whether the environment allows colours (<https://no-color.org>: a variable that is set to nothing forbids none).
pub fn colours_wanted() -> bool {
    std::env::var_os(NO_COLOR.name).is_none_or(|value| value.is_empty())
}

/// How many panics this process has survived.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

impl Log {
    /// What changes it at run time.
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(done) = &self.done {
            // Late lines are lost rather than waited for.
            let _ = done.recv_timeout(LAST_LINES);
        }
    }
}

impl Switch {
    /// Writes from now on what `filter` says. Does nothing where the process had another log before.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        if let Some(handle) = &self.filter {
            // It fails only when the subscriber is gone, and then there is nothing to switch.
            let _ = handle.reload(filter);
        }
        Ok(())
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.filter
            .as_ref()
            .and_then(|handle| handle.with_current(ToString::to_string).ok())
            .unwrap_or_default()
    }

    /// How many lines were dropped because stderr was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Whether a process would start with this filter.
///
/// # Errors
/// It would not.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let filter = if filter.is_empty() { "info" } else { filter };
    // Values of fields are plain text: a pattern of a few characters can take gigabytes, and filters come from annotations too.
    EnvFilter::builder()
        .with_regex(false)
        .parse(filter)
        .map_err(|error| LogError::Filter(filter.to_owned(), error))
}

/// A panic is one event with its place, beside the counter: a caught one must not go unseen, also where the log is off.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        if !tracing::enabled!(tracing::Level::ERROR) {
            return before(panic);
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current();
        let message = panic.payload_as_str().unwrap_or_default();
        tracing::error!(place, message, thread = thread.name().unwrap_or_default(), "panic");
    }));
}

/// The way to the thread that writes.
#[derive(Clone, Debug)]
struct Queue {
    /// `None` once closed. Read for each line, written once.
    sender: Arc<RwLock<Option<SyncSender<Vec<u8>>>>>,
    dropped: Arc<AtomicU64>,
}

/// Collects one event.
struct Line<'a> {
    bytes: Vec<u8>,
    queue: &'a Queue,
}

impl Queue {
    fn new() -> (Self, Receiver<Vec<u8>>) {
        let (sender, lines) = sync_channel(QUEUE_LINES);
        (
            Self {
                sender: Arc::new(RwLock::new(Some(sender))),
                dropped: Arc::default(),
            },
            lines,
        )
    }

    fn push(&self, line: Vec<u8>) {
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_ref() else {
            return;
        };
        if let Err(TrySendError::Full(_)) = sender.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        self.sender.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            bytes: Vec::with_capacity(256),
            queue: self,
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.queue.push(std::mem::take(&mut self.bytes));
    }
}

/// Writes until the queue is closed and empty. A stderr that fails loses its lines, not the process.
fn write_lines(lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        let _ = io::stderr().lock().write_all(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_too_slow_costs_lines_and_no_time() {
        let (queue, lines) = Queue::new();
        for _ in 0..QUEUE_LINES + 3 {
            queue.make_writer().write_all(b"line\n").unwrap();
        }
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(lines.try_iter().count(), QUEUE_LINES);
    }

    #[test]
    fn what_is_no_filter_is_refused_by_name() {
        let error = parse("weft_proxy=loud").unwrap_err();
        assert!(error.to_string().contains("weft_proxy=loud"), "{error}");
        assert_eq!(parse("").unwrap().to_string(), "info");
    }

    #[test]
    fn a_log_can_be_switched_while_it_runs() {
        let log = start_with("warn", Format::Text).unwrap();
        let switch = log.switch();
        assert_eq!(switch.filter(), "warn");
        switch.set("weft_proxy=debug").unwrap();
        assert_eq!(switch.filter(), "weft_proxy=debug");
        assert!(switch.set("x=y=z=").is_err());
        let before = panics();
        assert!(std::panic::catch_unwind(|| panic!("seen")).is_err());
        assert_eq!(panics(), before + 1);
    }
}
