//! Tasks that have names, an owner and an end.
//!
//! Every task of a process is spawned through [`Tasks`]. Two signals end them: *draining* (finish what you have; a task
//! listens to it by itself) and *forced* (dropped where it stands). [`Drain::end`] gives the first, waits, and gives the
//! second to what is left.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Ends all tasks. Held by whoever runs the process.
#[derive(Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// Spawns tasks under one name. Clones count together.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
    running: Arc<AtomicUsize>,
}

/// How the tasks ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All of them finished by themselves.
    Gently,
    /// These were dropped: the name, and how many.
    ByForce(Vec<(&'static str, usize)>),
}

#[derive(Debug, Default)]
struct Shared {
    tracker: TaskTracker,
    draining: CancellationToken,
    forced: CancellationToken,
    /// How many run, by name. Locked to add a name and to list, never to spawn.
    names: Mutex<Vec<(&'static str, Arc<AtomicUsize>)>>,
}

/// Counts one running task. Dropped with it, also when it panics.
struct Running(Arc<AtomicUsize>);

impl Drain {
    /// A drain, and the tasks that it ends.
    pub fn new() -> (Self, Tasks) {
        let shared = Arc::new(Shared::default());
        let drain = Self { shared: shared.clone() };
        (drain, Tasks::new("tasks", shared))
    }

    /// Gives the signal to finish, without waiting.
    pub fn begin(&self) {
        self.shared.draining.cancel();
    }

    /// Lets tasks finish for as long as `grace`, then drops those that are left.
    pub async fn end(self, grace: Duration) -> Ended {
        self.begin();
        self.shared.tracker.close();
        if tokio::time::timeout(grace, self.shared.tracker.wait()).await.is_ok() {
            return Ended::Gently;
        }
        let left = self.running();
        self.shared.forced.cancel();
        Ended::ByForce(left)
    }

    /// The names under which tasks run now, and how many.
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        let names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .iter()
            .map(|(name, n)| (*name, n.load(Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }
}

impl Drop for Drain {
    /// Nobody can wait any more: what is left is dropped.
    fn drop(&mut self) {
        self.shared.draining.cancel();
        self.shared.forced.cancel();
    }
}

impl Tasks {
    fn new(name: &'static str, shared: Arc<Shared>) -> Self {
        let running = Arc::new(AtomicUsize::new(0));
        shared
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, running.clone()));
        Self { shared, running }
    }

    /// Tasks of the same drain under another name. Call it once for each kind of task, not once for each task.
    pub fn named(&self, name: &'static str) -> Self {
        Self::new(name, self.shared.clone())
    }

    /// Spawns a task on the current runtime. It is dropped when the process is forced to end.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.shared.tracker.spawn(self.bound(future))
    }

    /// Spawns a task on the current [`LocalSet`](tokio::task::LocalSet), and so on the current thread.
    pub fn spawn_local(&self, future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
        self.shared.tracker.spawn_local(self.bound(future))
    }

    /// How many run under this name.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Waits for the signal to finish what one has. Cancel safe.
    pub async fn draining(&self) {
        self.shared.draining.cancelled().await;
    }

    /// Whether that signal was given.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_cancelled()
    }

    /// Waits for the end by force: for work that is not a task of its own (a thread, say). Cancel safe.
    pub async fn forced(&self) {
        self.shared.forced.cancelled().await;
    }

    fn bound<F: Future<Output = ()>>(&self, future: F) -> impl Future<Output = ()> + use<F> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(self.running.clone());
        let shared = self.shared.clone();
        async move {
            let _running = running;
            tokio::select! {
                biased; // the work first: looking at the other is for a task that waits
                () = future => {}
                () = shared.forced.cancelled() => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn tasks_that_finish_in_time_end_gently() {
        let (drain, tasks) = Drain::new();
        let tasks = tasks.named("connections");
        tasks.spawn({
            let tasks = tasks.clone();
            async move {
                tasks.draining().await;
                sleep(GRACE / 2).await;
            }
        });
        assert_eq!(tasks.running(), 1);
        assert_eq!(drain.end(GRACE).await, Ended::Gently);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_is_dropped_and_named() {
        let (drain, tasks) = Drain::new();
        let tasks = tasks.named("connections");
        let stuck = tasks.spawn(std::future::pending());
        assert_eq!(drain.end(GRACE).await, Ended::ByForce(vec![("connections", 1)]));
        stuck.await.unwrap();
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_own_task() {
        let (drain, tasks) = Drain::new();
        let bad = tasks.spawn(async { panic!("only this one") });
        let good = tasks.spawn(async {});
        assert!(bad.await.unwrap_err().is_panic());
        good.await.unwrap();
        assert_eq!(tasks.running(), 0);
        assert_eq!(drain.end(GRACE).await, Ended::Gently);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_of_one_thread_drain_too() {
        let (drain, tasks) = Drain::new();
        let local = tokio::task::LocalSet::new();
        let held = std::rc::Rc::new(());
        local
            .run_until(async move {
                tasks.spawn_local(async move {
                    std::future::pending::<()>().await;
                    drop(held);
                });
                assert_eq!(drain.end(GRACE).await, Ended::ByForce(vec![("tasks", 1)]));
            })
            .await;
    }
}
