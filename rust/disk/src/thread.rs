//! The thread that writes and syncs: it takes records in order, gathers those that came while a sync ran, and wakes the
//! broker's loop by a descriptor when they are durable. Another thread makes the next segment ready.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use sagacore_broker::log::{
    Config, Disk, DiskError, Durability, Entry, FrameType, LogError, Preparation, Prepared, Recovered, Writer, recover,
};

use crate::Directory;
use crate::pace::Pace;

/// Records that may wait to be written; the broker's loop waits where there are more.
const ORDERS_MAX: usize = 1024;
/// Bytes of records that one sync takes at most, so that a stall is not paid twice.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// A log that is idle for so long says in the log that all is durable.
const IDLE: Duration = Duration::from_millis(20);
/// After the disk was full, or what is free was last looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How the log is written.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub config: Config,
    /// Under load, syncs begin at least so far apart.
    pub sync_interval: Duration,
}

/// What the thread last saw.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The first LSN of each segment, oldest first.
    pub first_lsns: Vec<u64>,
    /// Bytes that the disk has left, those of freed and prepared segments included.
    pub free_bytes: u64,
    /// Why nothing is written any more.
    pub poisoned: Option<String>,
}

/// A log that was read.
#[derive(Debug)]
pub struct Opened {
    pub recovered: Recovered,
    /// The LSN that the next record gets.
    pub next_lsn: u64,
}

enum Order {
    Append { kind: FrameType, time_ms: u64, payload: Vec<u8> },
    Release { before_lsn: u64 },
    Seal { time_ms: u64 },
}

struct Shared {
    durable_lsn: AtomicU64,
    wake: OwnedFd,
    status: Mutex<Status>,
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::host_endian_bytes, reason = "the system's own counter, never stored")]
    fn wake(&self) {
        // Fails only when the counter is at its end, and then the descriptor is readable anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes()[..]);
    }
}

/// See the module's text.
pub struct LogThread {
    orders: Option<SyncSender<Order>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Reads the log in a directory, giving `sink` each frame, and begins to write it.
    ///
    /// # Errors
    /// What is wrong with the log or the disk; nothing was changed but a torn tail.
    pub fn open(
        directory: &Path,
        settings: Settings,
        sink: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(Self, Opened), LogError> {
        let disk = Directory::open(directory)?;
        let recovered = recover(&disk, &settings.config, sink)?;
        let writer = Writer::start(disk.clone(), settings.config, &recovered, recovered.last_time_ms)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| setup("make the descriptor of", &error.to_string()))?;
        let durable_lsn = AtomicU64::new(writer.durable_lsn());
        let shared = Arc::new(Shared { durable_lsn, wake, status: Mutex::new(Status::default()) });
        let opened = Opened { next_lsn: writer.next_lsn(), recovered };
        let (orders, received) = sync_channel(ORDERS_MAX);
        let mut work = Work::new(writer, disk, settings, Arc::clone(&shared))?;
        work.look();
        let thread = std::thread::Builder::new()
            .name("sagacore-log".to_owned())
            .spawn(move || work.run(&received))
            .map_err(|error| setup("start the thread of", &error.to_string()))?;
        Ok((Self { orders: Some(orders), shared, thread: Some(thread) }, opened))
    }

    /// Hands a record over. It gets the next LSN; it is durable when `durable_lsn` says so.
    pub fn append(&self, kind: FrameType, time_ms: u64, payload: Vec<u8>) {
        self.order(Order::Append { kind, time_ms, payload });
    }

    /// Everything before this LSN is not needed any more.
    pub fn release(&self, before_lsn: u64) {
        self.order(Order::Release { before_lsn });
    }

    /// All records up to this one are durable. Clears the descriptor.
    pub fn durable_lsn(&self) -> u64 {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8][..]);
        self.shared.durable_lsn.load(Ordering::Acquire)
    }

    /// What the thread last saw.
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }

    /// Writes what is left, seals the log and ends.
    pub fn close(&mut self, time_ms: u64) {
        self.order(Order::Seal { time_ms });
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on stderr; the next start finds an unclean stop.
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        // A thread that is gone has said why in its status, and woken the loop.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }
}

impl AsFd for LogThread {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

fn setup(action: &'static str, text: &str) -> LogError {
    LogError::Disk { action, file: "the log".to_owned(), error: DiskError::Failed(text.to_owned()) }
}

/// What a preparation ended with.
type Made = Result<Prepared<std::fs::File>, LogError>;

struct Work {
    writer: Writer<Directory>,
    disk: Directory,
    settings: Settings,
    shared: Arc<Shared>,
    pace: Pace,
    began: Instant,
    looked: Instant,
    /// Preparations go out here and come back as prepared segments.
    to_make: Sender<Preparation<Directory>>,
    made: Receiver<Made>,
    marked: bool,
}

impl Work {
    fn new(
        writer: Writer<Directory>,
        disk: Directory,
        settings: Settings,
        shared: Arc<Shared>,
    ) -> Result<Self, LogError> {
        let (to_make, orders) = channel();
        let (results, made) = channel();
        std::thread::Builder::new()
            .name("sagacore-segments".to_owned())
            .spawn(move || prepare(&orders, &results))
            .map_err(|error| setup("start the second thread of", &error.to_string()))?;
        let now = Instant::now();
        let pace = Pace::new(settings.sync_interval);
        Ok(Self { writer, disk, settings, shared, pace, began: now, looked: now, to_make, made, marked: false })
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let stopped = match orders.recv_timeout(if self.marked { LOOK } else { IDLE }) {
                Ok(order) => self.group(order, orders),
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = stopped {
                self.shared.status().poisoned = Some(error.to_string());
                self.shared.wake();
                return;
            }
            if self.looked.elapsed() >= LOOK {
                self.look();
            }
        }
    }

    /// Appends an order and all that wait behind it, and makes them durable with one sync.
    fn group(&mut self, first: Order, orders: &Receiver<Order>) -> Result<(), LogError> {
        self.marked = false;
        self.take(first)?;
        let wait = self.pace.wait(self.began.elapsed());
        if wait > Duration::ZERO && self.settings.config.durability == Durability::Sync {
            std::thread::sleep(wait);
        }
        while self.writer.buffered_bytes() < GROUP_BYTES_MAX {
            match orders.try_recv() {
                Ok(order) => self.take(order)?,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        if self.writer.poisoned().is_some() {
            return Ok(()); // it was sealed
        }
        self.pace.begin(self.began.elapsed(), self.writer.buffered_bytes());
        let durable_lsn = self.writer.commit()?;
        self.shared.durable_lsn.store(durable_lsn, Ordering::Release);
        self.shared.wake();
        self.keep_ready()
    }

    fn take(&mut self, order: Order) -> Result<(), LogError> {
        match order {
            Order::Append { kind, time_ms, payload } => {
                if !self.writer.has_room(payload.len()) {
                    self.wait_for_segment()?;
                }
                self.writer.append(kind, time_ms, &payload).map(|_| ())
            }
            Order::Release { before_lsn } => {
                self.writer.release_before(before_lsn)?;
                self.look();
                Ok(())
            }
            Order::Seal { time_ms } => self.writer.seal(time_ms),
        }
    }

    /// Nothing has come for a while.
    fn idle(&mut self) -> Result<(), LogError> {
        if !self.marked {
            self.writer.mark()?;
            self.marked = true;
        }
        self.keep_ready()
    }

    /// Has the next segment made while this one is written.
    fn keep_ready(&mut self) -> Result<(), LogError> {
        while let Ok(made) = self.made.try_recv() {
            self.end_preparation(made)?;
        }
        if let Some(preparation) = self.writer.begin_preparation() {
            // The other thread lives as long as this one.
            let _ = self.to_make.send(preparation);
        }
        Ok(())
    }

    /// The current segment is full before the next one is ready: there is nothing to do but wait for it.
    fn wait_for_segment(&mut self) -> Result<(), LogError> {
        self.keep_ready()?;
        if let Ok(made) = self.made.recv_timeout(Duration::from_secs(60)) {
            self.end_preparation(made)?;
        }
        Ok(())
    }

    fn end_preparation(&mut self, made: Made) -> Result<(), LogError> {
        match made {
            Ok(prepared) => {
                self.writer.end_preparation(prepared);
                self.look();
                Ok(())
            }
            Err(LogError::Disk { error: DiskError::Full, .. }) => {
                self.writer.set_full();
                self.look();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the broker what there is: it refuses new sagas long before the log has no room.
    fn look(&mut self) {
        self.looked = Instant::now();
        let left = self.disk.free_bytes().unwrap_or(0) + self.writer.room_bytes();
        let free_bytes = if self.writer.is_full() { self.writer.room_bytes() } else { left };
        let mut status = self.shared.status();
        status.free_bytes = free_bytes;
        status.first_lsns = self.writer.segments().map(|segment| segment.first_lsn).collect();
    }
}

/// The second thread: makes segments ready, and tries again where the disk was full.
fn prepare(orders: &Receiver<Preparation<Directory>>, results: &Sender<Made>) {
    for mut preparation in orders {
        let made = loop {
            match preparation.step() {
                Ok(Some(prepared)) => break Ok(prepared),
                Ok(None) => {}
                Err(full @ LogError::Disk { error: DiskError::Full, .. }) => {
                    preparation.begin_again();
                    if results.send(Err(full)).is_err() {
                        return;
                    }
                    std::thread::sleep(LOOK);
                }
                Err(error) => break Err(error),
            }
        };
        if results.send(made).is_err() {
            return;
        }
    }
}
