//! The log's thread: it writes and syncs what the broker's loop hands it, and wakes the loop.
//!
//! One commit is in flight at a time. What is handed over meanwhile goes out together with the next one. When the log
//! was idle a batch that somebody waits for is committed at once; under load commits begin at least `sync_interval_us`
//! apart, so that each carries more. A batch that nobody waits for is given `patience_us` to find company: else one
//! saga alone, all of whose steps run ahead of the log, would find the disk busy with them when its outcome comes.
//! Anything that fails stops the log for good: see `poisoned`.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sagacore_broker::log::{Disk, FrameType, LogError, SegmentInfo, Writer};

use crate::preparer::{Outcome, Preparer};
use crate::shared::Shared;

/// A commit carries no more than about this.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Bytes that may wait; `has_room` says when it is reached.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Idle for so long, the log notes what is durable: see `Writer::mark`.
const MARK_AFTER: Duration = Duration::from_millis(50);
/// The most that a note of the log itself takes.
const NOTE_BYTES: usize = 16;

/// How the log's thread works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadOptions {
    /// Under load, commits begin at least so far apart. 0: back to back.
    pub sync_interval_us: u64,
    /// What nobody waits for may wait so long. Longer than a saga alone takes.
    pub patience_us: u64,
    /// Batches that may wait for the thread.
    pub queue_batches: usize,
}

impl Default for ThreadOptions {
    fn default() -> Self {
        Self { sync_interval_us: 250, patience_us: 5_000, queue_batches: 4_096 }
    }
}

/// What the thread has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub commits: u64,
    pub last_commit_us: u64,
    pub slowest_commit_us: u64,
    /// What the commit that is under way has taken so far; 0 where none is.
    pub commit_under_way_us: u64,
    pub queued_batches: u64,
    pub queued_bytes: u64,
    /// Bytes of all the log's files.
    pub segments_bytes: u64,
    /// Bytes in them that are free for new frames.
    pub spare_bytes: u64,
}

/// The thread, as the broker's loop sees it. When it is dropped, all that was handed over is committed; only `close`
/// ends the log cleanly.
#[derive(Debug)]
pub struct LogThread {
    commands: Option<SyncSender<Command>>,
    shared: Arc<Shared>,
    next_lsn: u64,
    payload_bytes_max: usize,
    queue_batches: u64,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Append { kind: FrameType, time_ms: u64, payload: Vec<u8>, is_awaited: bool },
    Release { lsn: u64 },
    Seal { time_ms: u64 },
}

impl Command {
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Append { is_awaited: true, .. })
    }
}

impl LogThread {
    /// Starts the thread with a writer that `Writer::start` gave.
    ///
    /// # Errors
    /// `LogError::Disk` if the system gives no thread or descriptor.
    pub fn start<D>(writer: Writer<D>, options: ThreadOptions) -> Result<Self, LogError>
    where
        D: Disk + Clone + Send + 'static,
        D::File: Send,
    {
        let failed = |error: std::io::Error| LogError::Disk {
            action: "start",
            file: "the log's thread".to_owned(),
            error: sagacore_broker::log::DiskError::Failed(error.to_string()),
        };
        let shared = Arc::new(Shared::new(writer.durable_lsn()).map_err(|error| failed(error.into()))?);
        let (commands, received) = sync_channel(options.queue_batches.max(1));
        let (next_lsn, payload_bytes_max) = (writer.next_lsn(), writer.config().payload_bytes_max());
        let is_synced = writer.config().durability == sagacore_broker::log::Durability::Sync;
        let if_synced = |us| if is_synced { Duration::from_micros(us) } else { Duration::ZERO };
        let mut worker = Worker {
            preparer: Preparer::start(shared.clone()).map_err(failed)?,
            writer,
            commands: received,
            shared: shared.clone(),
            interval: if_synced(options.sync_interval_us),
            patience: if_synced(options.patience_us),
            group_batches_max: options.queue_batches.max(1),
            last_began: Instant::now(),
            waiting: None,
            is_marking: is_synced,
            is_marked: false,
            queued_batches: 0,
            queued_bytes: 0,
        };
        worker.publish_segments();
        let guard = Guard(shared.clone());
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let _guard = guard;
                worker.run();
            })
            .map_err(failed)?;
        let queue_batches = options.queue_batches.max(1) as u64;
        Ok(Self { commands: Some(commands), shared, next_lsn, payload_bytes_max, queue_batches, thread: Some(thread) })
    }

    /// Hands a batch over and gives its LSN. It is durable when `durable_lsn` has reached that; a little later where it
    /// is not awaited. Waits while the queue is full: ask `has_room` before.
    ///
    /// # Errors
    /// `TooLarge` or `Poisoned`. A batch that is too large stops the log: the broker has counted on it.
    pub fn append(
        &mut self,
        kind: FrameType,
        time_ms: u64,
        payload: Vec<u8>,
        is_awaited: bool,
    ) -> Result<u64, LogError> {
        let (bytes, max) = (payload.len(), self.payload_bytes_max);
        if bytes > max {
            let error = LogError::TooLarge { bytes, max };
            self.shared.poison(&error.to_string());
            return Err(error);
        }
        self.shared.queued_batches.fetch_add(1, Ordering::Relaxed);
        self.shared.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.send(Command::Append { kind, time_ms, payload, is_awaited })?;
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        Ok(lsn)
    }

    /// Gives up the segments all of whose frames come before `lsn`, once all that was handed over so far is durable.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn release_before(&mut self, lsn: u64) -> Result<(), LogError> {
        self.send(Command::Release { lsn })
    }

    /// Commits what was handed over, ends the log cleanly and waits for that.
    ///
    /// # Errors
    /// `Poisoned`: the log may end uncleanly then.
    pub fn close(mut self, time_ms: u64) -> Result<(), LogError> {
        let sent = self.send(Command::Seal { time_ms });
        self.join();
        sent?;
        self.check()
    }

    /// The LSN of the next batch.
    pub fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    /// All up to this LSN is durable.
    pub fn durable_lsn(&self) -> u64 {
        self.shared.durable_lsn.load(Ordering::Acquire)
    }

    /// Whether another batch can be handed over without waiting, and little enough waits already.
    pub fn has_room(&self) -> bool {
        let figures = self.figures();
        figures.queued_batches < self.queue_batches && figures.queued_bytes < QUEUE_BYTES_MAX
    }

    /// The largest batch.
    pub fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    /// Readable when `durable_lsn`, `poisoned` or the segments may have changed. Call `acknowledge`, then look.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.descriptor().as_fd()
    }

    /// Makes the descriptor wait for the next change.
    pub fn acknowledge(&self) {
        self.shared.acknowledge();
    }

    /// Why the log stopped, if it did. Nothing more becomes durable then, and the broker must end.
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poisoned()
    }

    /// The disk has no space for the next segment now. Batches are still taken as long as there is room.
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Relaxed)
    }

    /// The segments that hold frames, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments().clone()
    }

    pub fn figures(&self) -> Figures {
        let shared = &self.shared;
        Figures {
            commits: shared.commits.load(Ordering::Relaxed),
            last_commit_us: shared.last_commit_us.load(Ordering::Relaxed),
            slowest_commit_us: shared.slowest_commit_us.load(Ordering::Relaxed),
            commit_under_way_us: shared.commit_under_way_us(),
            queued_batches: shared.queued_batches.load(Ordering::Relaxed),
            queued_bytes: shared.queued_bytes.load(Ordering::Relaxed),
            segments_bytes: shared.segments_bytes.load(Ordering::Relaxed),
            spare_bytes: shared.spare_bytes.load(Ordering::Relaxed),
        }
    }

    fn send(&self, command: Command) -> Result<(), LogError> {
        self.check()?;
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok());
        if !sent {
            // The thread ends before the queue does only when the log is poisoned.
            self.check()?;
            return Err(LogError::Poisoned { text: "the log's thread is gone".to_owned() });
        }
        Ok(())
    }

    fn check(&self) -> Result<(), LogError> {
        self.poisoned().map_or(Ok(()), |text| Err(LogError::Poisoned { text: text.to_owned() }))
    }

    fn join(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, the guard has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.join();
    }
}

/// Tells the loop if the thread ends by a panic.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the log's thread panicked");
        }
    }
}

struct Worker<D: Disk> {
    writer: Writer<D>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    preparer: Preparer<D>,
    interval: Duration,
    patience: Duration,
    group_batches_max: usize,
    /// When the last commit began.
    last_began: Instant,
    /// What had come when it ended: then the log was not idle.
    waiting: Option<Command>,
    is_marking: bool,
    /// The log says of all that it holds that it is durable.
    is_marked: bool,
    /// What the group has of the queue's counts.
    queued_batches: u64,
    queued_bytes: u64,
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl<D> Worker<D>
where
    D: Disk + Clone + Send + 'static,
    D::File: Send,
{
    fn run(&mut self) {
        loop {
            match self.turn() {
                Ok(Next::GoOn) => {}
                Ok(Next::End) => return self.shared.wake(),
                Err(error) => return self.shared.poison(&error.to_string()),
            }
        }
    }

    /// Waits for a command, gathers those that go with it and commits.
    fn turn(&mut self) -> Result<Next, LogError> {
        self.look_ahead()?;
        let (first, not_before) = match self.waiting.take() {
            Some(command) => (command, self.last_began + self.interval),
            None => match self.wait_idle()? {
                Some(command) => (command, Instant::now()),
                None => return Ok(Next::End),
            },
        };
        let next = self.gather(first, not_before)?;
        if next == Next::GoOn {
            self.commit()?;
        }
        Ok(next)
    }

    /// Waits while there is nothing to do. `None` when there never will be.
    fn wait_idle(&mut self) -> Result<Option<Command>, LogError> {
        if self.is_marking && !self.is_marked {
            match self.commands.recv_timeout(MARK_AFTER) {
                Ok(command) => return Ok(Some(command)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    self.need_room(NOTE_BYTES)?;
                    self.writer.mark()?;
                    self.is_marked = true;
                }
            }
        }
        Ok(self.commands.recv().ok())
    }

    /// Takes what is queued, and what comes until the commit may begin.
    fn gather(&mut self, first: Command, not_before: Instant) -> Result<Next, LogError> {
        let mut command = first;
        let mut begin_at = not_before.max(Instant::now() + self.patience);
        for _ in 0..self.group_batches_max {
            if command.is_awaited() {
                begin_at = not_before;
            }
            if self.take(command)? == Next::End {
                return Ok(Next::End);
            }
            if self.writer.buffered_bytes() >= GROUP_BYTES_MAX {
                break;
            }
            let received = match self.commands.try_recv() {
                Err(TryRecvError::Empty) => {
                    let wait = begin_at.saturating_duration_since(Instant::now());
                    if wait.is_zero() { None } else { self.commands.recv_timeout(wait).ok() }
                }
                received => received.ok(),
            };
            match received {
                Some(received) => command = received,
                None => break,
            }
        }
        Ok(Next::GoOn)
    }

    fn take(&mut self, command: Command) -> Result<Next, LogError> {
        match command {
            Command::Append { kind, time_ms, payload, .. } => {
                self.need_room(payload.len())?;
                self.writer.append(kind, time_ms, &payload)?;
                self.queued_batches += 1;
                self.queued_bytes += payload.len() as u64;
            }
            Command::Release { lsn } => {
                self.need_room(NOTE_BYTES)?;
                self.writer.release_before(lsn)?;
                self.publish_segments();
            }
            Command::Seal { time_ms } => {
                self.need_room(NOTE_BYTES)?;
                self.writer.seal(time_ms)?;
                self.publish();
                return Ok(Next::End);
            }
        }
        Ok(Next::GoOn)
    }

    fn commit(&mut self) -> Result<(), LogError> {
        self.last_began = Instant::now();
        self.shared.begin_commit();
        self.writer.commit()?;
        self.shared.end_commit();
        self.is_marked = false;
        // Looked for before the loop is woken: what it sends for what is durable now is no sign of load.
        self.waiting = self.commands.try_recv().ok();
        self.publish();
        Ok(())
    }

    /// Tells the loop what is durable now.
    fn publish(&mut self) {
        self.shared.durable_lsn.store(self.writer.durable_lsn(), Ordering::Release);
        self.shared.queued_batches.fetch_sub(std::mem::take(&mut self.queued_batches), Ordering::Relaxed);
        self.shared.queued_bytes.fetch_sub(std::mem::take(&mut self.queued_bytes), Ordering::Relaxed);
        self.publish_segments();
        self.shared.wake();
    }

    /// Tells the loop which segments there are, if that has changed.
    fn publish_segments(&mut self) {
        self.shared.segments_bytes.store(self.writer.segments_bytes(), Ordering::Relaxed);
        self.shared.spare_bytes.store(self.writer.spare_bytes(), Ordering::Relaxed);
        let mut known = self.shared.segments();
        let ends = |known: &[SegmentInfo]| (known.first().copied(), known.last().copied());
        let (first, last) = (self.writer.segments().next().copied(), self.writer.segments().last().copied());
        if ends(&known) != (first, last) {
            *known = self.writer.segments().copied().collect();
        }
    }

    /// Has the next segment made ready in good time.
    fn look_ahead(&mut self) -> Result<(), LogError> {
        while let Some(outcome) = self.preparer.poll() {
            match outcome {
                Outcome::Ready(prepared) => self.writer.end_preparation(prepared),
                Outcome::NoSpace => self.writer.set_full(),
                Outcome::Failed(error) => return Err(error),
            }
        }
        if let Some(preparation) = self.writer.begin_preparation() {
            self.preparer.begin(preparation);
        }
        Ok(())
    }

    /// Waits for the next segment if the frame needs it and it is not ready.
    fn need_room(&mut self, payload_bytes: usize) -> Result<(), LogError> {
        if self.writer.has_room(payload_bytes) {
            return Ok(());
        }
        self.look_ahead()?;
        while !self.writer.has_room(payload_bytes) {
            match self.preparer.wait() {
                Outcome::Ready(prepared) => self.writer.end_preparation(prepared),
                Outcome::NoSpace => {
                    // What did find room is kept.
                    self.commit()?;
                    return Err(LogError::NoRoom);
                }
                Outcome::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }
}
