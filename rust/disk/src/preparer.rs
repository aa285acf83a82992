//! Makes the next segment ready on a thread of its own, so that filling it with zeros does not hold up a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sagacore_broker::log::{Disk, DiskError, LogError, Preparation, Prepared};

use crate::shared::Shared;

/// While the disk is full it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What came of a preparation.
pub enum Outcome<F> {
    Ready(Prepared<F>),
    /// The disk is full; it is tried again.
    NoSpace,
    Failed(LogError),
}

/// The thread, as the log's thread sees it.
pub struct Preparer<D: Disk> {
    jobs: Option<Sender<Preparation<D>>>,
    outcomes: Receiver<Outcome<D::File>>,
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Signals {
    /// Somebody waits: no pauses between the pieces.
    is_urgent: AtomicBool,
    is_stopping: AtomicBool,
}

impl<D> Preparer<D>
where
    D: Disk + Send + 'static,
    D::File: Send,
{
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, received) = channel();
        let (sender, outcomes) = channel();
        let signals = Arc::new(Signals::default());
        let worker = Worker::<D> { outcomes: sender, shared, signals: signals.clone() };
        let thread = std::thread::Builder::new().name("log-segments".to_owned()).spawn(move || {
            for preparation in received {
                worker.prepare(preparation);
            }
        })?;
        Ok(Self { jobs: Some(jobs), outcomes, signals, thread: Some(thread) })
    }

    pub fn begin(&self, preparation: Preparation<D>) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only with this.
            let _ = jobs.send(preparation);
        }
    }

    /// What has come out since, if anything.
    pub fn poll(&self) -> Option<Outcome<D::File>> {
        self.outcomes.try_recv().ok()
    }

    /// Waits for what comes out next.
    pub fn wait(&self) -> Outcome<D::File> {
        self.signals.is_urgent.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        let outcome = self.outcomes.recv();
        self.signals.is_urgent.store(false, Ordering::Relaxed);
        let gone = || Outcome::Failed(LogError::Poisoned { text: "the thread for segments is gone".to_owned() });
        outcome.unwrap_or_else(|_| gone())
    }
}

impl<D: Disk> Drop for Preparer<D> {
    fn drop(&mut self) {
        self.signals.is_stopping.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // If it panicked, nobody waits for what it made.
            let _ = thread.join();
        }
    }
}

struct Worker<D: Disk> {
    outcomes: Sender<Outcome<D::File>>,
    shared: Arc<Shared>,
    signals: Arc<Signals>,
}

impl<D: Disk> Worker<D> {
    fn prepare(&self, mut preparation: Preparation<D>) {
        while !self.signals.is_stopping.load(Ordering::Relaxed) {
            let began = Instant::now();
            match preparation.step() {
                Ok(None) => self.pause(began.elapsed()),
                Ok(Some(prepared)) => {
                    self.shared.is_full.store(false, Ordering::Relaxed);
                    return self.tell(Outcome::Ready(prepared));
                }
                Err(LogError::Disk { error: DiskError::Full, .. }) => {
                    preparation.begin_again();
                    self.shared.is_full.store(true, Ordering::Relaxed);
                    self.tell(Outcome::NoSpace);
                    self.pause(RETRY_AFTER);
                }
                Err(error) => {
                    self.shared.poison(&error.to_string());
                    return self.tell(Outcome::Failed(error));
                }
            }
        }
        preparation.begin_again();
    }

    /// Leaves the disk to the commits for a while, unless somebody waits.
    fn pause(&self, time: Duration) {
        if !self.signals.is_urgent.load(Ordering::Relaxed) && !self.signals.is_stopping.load(Ordering::Relaxed) {
            std::thread::park_timeout(time);
        }
    }

    fn tell(&self, outcome: Outcome<D::File>) {
        // Nobody listens any more when the log ends.
        let _ = self.outcomes.send(outcome);
    }
}
