//! Observe: where the counters lie, and how a scrape reads them.
//!
//! Each worker has cells of its own for each series, which only it writes: recording is a plain load and store without
//! ordering or a lock prefix. A scrape adds the workers' cells up. The one lock is taken when a worker uses a series for the
//! first time, and by a scrape.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use weft_daemon::prometheus::{Example, Text};

use super::example::Slot;
use super::table::{FAMILIES, Family, Kind, MESH_LABELS, Merge, SERVICE_LABELS, Scope};
use crate::observe::trace::context::Context;

/// Series of traffic and of Services that the proxy keeps at most. What goes over is counted as `other`.
pub const SERIES_MAX: usize = 2_000;

/// Upper bounds of the duration buckets in seconds (OpenTelemetry semantic conventions, HTTP metrics).
pub const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The same in nanoseconds, to be compared without floating point.
const BUCKETS_NANOS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// All series of the process.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
}

/// Makes counters for one thread, which alone writes them.
#[derive(Debug)]
pub struct Writer {
    registry: Arc<Registry>,
    id: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// Per family, in the table's order, and within it by label values.
    families: BTreeMap<usize, BTreeMap<Values, Vec<(usize, Cells)>>>,
    /// Series of families that are capped.
    capped: usize,
    /// Writers made.
    writers: usize,
}

/// Values of a family's labels, in the order of its labels.
type Values = Box<[Box<str>]>;

/// One worker's cells of one series.
type Cells = Arc<Own>;

#[derive(Debug)]
struct Own {
    cells: Box<[AtomicU64]>,
    /// Of a histogram's buckets, once a request was sampled.
    examples: OnceLock<Box<[Slot; BUCKETS.len() + 1]>>,
}

impl std::ops::Deref for Own {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.cells
    }
}

/// A counter with a single writer.
#[derive(Clone, Debug)]
pub struct Counter(Cells);

/// A gauge with a single writer.
#[derive(Clone, Debug)]
pub struct Gauge(Cells);

/// A histogram of durations with a single writer.
#[derive(Clone, Debug)]
pub struct Histogram(Cells);

impl Registry {
    /// Nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A writer for one thread.
    pub fn writer(self: &Arc<Self>) -> Writer {
        let mut inner = self.lock();
        inner.writers += 1;
        Writer {
            registry: self.clone(),
            id: inner.writers,
        }
    }

    /// How many series of traffic and of Services there are.
    pub fn series(&self) -> usize {
        self.lock().capped
    }

    /// The text that a scraper reads.
    pub fn text(&self) -> Text {
        self.write(Text::new())
    }

    /// The same in OpenMetrics' format, with examples.
    pub fn open_metrics(&self) -> Text {
        self.write(Text::open_metrics())
    }

    fn write(&self, mut text: Text) -> Text {
        let inner = self.lock();
        for (index, series) in &inner.families {
            let family = FAMILIES[*index];
            match family.kind {
                Kind::Counter => text.counter(family.name, family.help),
                Kind::Gauge(_) => text.gauge(family.name, family.help),
                Kind::Histogram => text.histogram(family.name, family.help),
            };
            let mesh = mesh_labels(family);
            for (values, writers) in series {
                let names = mesh.iter().chain(family.labels);
                let labels: Vec<(&str, &str)> = names.copied().zip(values.iter().map(|value| &**value)).collect();
                sample(&mut text, family, &labels, writers);
            }
        }
        text
    }

    /// The cells of one writer in one series: the same each time.
    fn cells(&self, writer: usize, family: &'static Family, values: &[&str], cells: usize) -> Cells {
        debug_assert_eq!(
            values.len(),
            mesh_labels(family).len() + family.labels.len(),
            "{} has other labels",
            family.name
        );
        let index = index(family);
        let mut values: Values = values.iter().map(|value| Box::from(*value)).collect();
        let mut inner = self.lock();
        let Inner { families, capped, .. } = &mut *inner;
        let series = families.entry(index).or_default();
        let fresh = || {
            Arc::new(Own {
                cells: (0..cells).map(|_| AtomicU64::new(0)).collect(),
                examples: OnceLock::new(),
            })
        };
        if family.scope != Scope::Process && !series.contains_key(&values) {
            if *capped < SERIES_MAX {
                *capped += 1;
            } else if matches!(family.kind, Kind::Gauge(Merge::Min | Merge::Max)) {
                // Many things under one name would say nothing of any of them, so it is not printed.
                return fresh();
            } else {
                values = others(&values);
            }
        }
        let writers = series.entry(values).or_default();
        if let Some((_, cells)) = writers.iter().find(|(id, _)| *id == writer) {
            return cells.clone();
        }
        let cells = fresh();
        writers.push((writer, cells.clone()));
        cells
    }

    /// Forgets the series of Services that are gone, but not those that somebody still counts in. `exists`: whether there is
    /// a Service of this namespace and name, with this subset where one is named.
    pub fn forget_services(&self, exists: impl Fn(&str, &str, Option<&str>) -> bool) {
        let mut inner = self.lock();
        let Inner { families, capped, .. } = &mut *inner;
        families.retain(|index, series| {
            let family = FAMILIES[*index];
            if family.scope != Scope::Service {
                return true;
            }
            let has_subset = family.labels.get(SERVICE_LABELS.len()) == Some(&"subset");
            let before = series.len();
            series.retain(|values, writers| {
                let subset = has_subset.then(|| &*values[2]);
                exists(&values[0], &values[1], subset)
                    || *values == others(values)
                    || writers.iter().any(|(_, cells)| Arc::strong_count(cells) > 1)
            });
            *capped -= before - series.len();
            !series.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panicking worker left is whole: cells are added in one step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The labels that a family has beside its own, in front of them.
fn mesh_labels(family: &Family) -> &'static [&'static str] {
    match family.scope {
        Scope::Traffic => MESH_LABELS,
        Scope::Service | Scope::Process => &[],
    }
}

fn index(family: &'static Family) -> usize {
    FAMILIES
        .iter()
        .position(|known| *known == family)
        .expect("every family is in the table")
}

/// The labels under which everything over the cap is counted.
fn others(values: &Values) -> Values {
    values.iter().map(|_| Box::from("other")).collect()
}

impl Writer {
    /// A counter. The labels' values come in the table's order, the mesh's labels first.
    pub fn counter(&self, family: &'static Family, values: &[&str]) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        Counter(self.registry.cells(self.id, family, values, 1))
    }

    /// A gauge.
    pub fn gauge(&self, family: &'static Family, values: &[&str]) -> Gauge {
        debug_assert!(matches!(family.kind, Kind::Gauge(_)), "{}", family.name);
        Gauge(self.registry.cells(self.id, family, values, 1))
    }

    /// A histogram.
    pub fn histogram(&self, family: &'static Family, values: &[&str]) -> Histogram {
        debug_assert_eq!(family.kind, Kind::Histogram, "{}", family.name);
        // The buckets, those above all bounds, and the sum in nanoseconds.
        Histogram(self.registry.cells(self.id, family, values, BUCKETS.len() + 2))
    }
}

impl Counter {
    /// Counts.
    pub fn add(&self, count: u64) {
        add(&self.0[0], count);
    }

    /// Takes over a count that somebody else keeps, and that only rises.
    pub fn set(&self, count: u64) {
        self.0[0].store(count, Ordering::Relaxed);
    }
}

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0[0].store(value.to_bits(), Ordering::Relaxed);
    }

    /// Changes the value.
    pub fn add(&self, change: f64) {
        self.set(self.value() + change);
    }

    fn value(&self) -> f64 {
        f64::from_bits(self.0[0].load(Ordering::Relaxed))
    }
}

impl Histogram {
    /// Counts one duration. `trace`: what it is an example of, if that is sampled.
    pub fn record(&self, took: Duration, trace: Option<Context>) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Most requests are in the first buckets, so looking from the front beats halving.
        let bucket = BUCKETS_NANOS
            .iter()
            .position(|bound| nanos <= *bound)
            .unwrap_or(BUCKETS.len());
        add(&self.0[bucket], 1);
        if let Some(trace) = trace {
            self.0.examples.get_or_init(Box::default)[bucket].set(&trace, nanos);
        }
        add(&self.0[BUCKETS.len() + 1], nanos);
    }
}

/// Only the cell's own writer calls this, so nothing is lost between the load and the store.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// The last example of a bucket, of all workers'.
fn newest(writers: &[(usize, Cells)], bucket: usize) -> Option<Example> {
    let each = writers
        .iter()
        .filter_map(|(_, own)| own.examples.get()?.get(bucket)?.get());
    each.max_by_key(|example| example.at)
}

fn sample(text: &mut Text, family: &Family, labels: &[(&str, &str)], writers: &[(usize, Cells)]) {
    let sum = |cell: usize| {
        writers
            .iter()
            .map(|(_, cells)| cells[cell].load(Ordering::Relaxed))
            .sum::<u64>()
    };
    match family.kind {
        // A counter of time counts nanoseconds.
        Kind::Counter if family.unit == "seconds" => text.sample(labels, sum(0) as f64 / 1e9),
        Kind::Counter => text.sample(labels, sum(0)),
        Kind::Gauge(merge) => {
            let values = writers
                .iter()
                .map(|(_, cells)| f64::from_bits(cells[0].load(Ordering::Relaxed)));
            text.sample(
                labels,
                match merge {
                    Merge::Sum => values.sum(),
                    Merge::Min => values.fold(f64::INFINITY, f64::min),
                    Merge::Max => values.fold(f64::NEG_INFINITY, f64::max),
                },
            )
        }
        Kind::Histogram => {
            let buckets = BUCKETS.iter().enumerate().map(|(index, bound)| (*bound, sum(index)));
            let nanos = sum(BUCKETS.len() + 1);
            text.histogram_with_examples(labels, buckets, sum(BUCKETS.len()), nanos as f64 / 1e9, |bucket| {
                newest(writers, bucket)
            })
        }
    };
}
