//! The broker's core, with its log.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use sagacore_broker::log::{
    Config as LogConfig, CopyPlaces, CopyReader, Disk, Durability, Entry, FrameType, LogError as Refused, Writer,
    recover,
};
use sagacore_broker::{Broker as Core, Config, Opened, Record, RecordKind, Room, Visibility, Window};
use sagacore_core::limits::{MESSAGE_BYTES_MAX, TRANSACTION_BYTES_MAX};
use sagacore_disk::{FileDisk, LogThread, ThreadOptions};

create_exception!(
    sagacore._core,
    LogError,
    PyOSError,
    "A log that cannot be opened: `name: what is wrong`, and a hint."
);

/// A record of this size is handed to the log at once.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// A record that is not full must have room for one more transaction, and what the broker adds of its own.
const RECORD_ROOM_BYTES: usize = TRANSACTION_BYTES_MAX + MESSAGE_BYTES_MAX;
/// The smallest segment of a broker: one that holds such a record.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// How often the disk's room and the log's segments are looked at, in broker milliseconds.
const LOOK_MS: u64 = 500;

type Frames<'py> = Bound<'py, PyList>;

struct Log {
    thread: LogThread,
    disk: FileDisk,
    segment_bytes: u64,
}

impl Log {
    /// What new sagas may count on: nothing more than what is prepared, once the disk is full.
    fn room(&self) -> Room {
        let on_disk = if self.thread.is_full() { 0 } else { self.disk.free_bytes().unwrap_or(0) };
        Room { free_bytes: on_disk + self.thread.figures().spare_bytes, segment_bytes: self.segment_bytes }
    }
}

struct Inner {
    core: Core,
    record_bytes: usize,
    log: Option<Log>,
    looked_ms: u64,
    frames: Vec<(Box<[u8]>, Vec<u8>)>,
}

impl Inner {
    /// Hands what was accepted to the log, and lets out what is durable.
    fn flush(&mut self, now_ms: u64) {
        while let Some(record) = self.core.flush(now_ms) {
            self.write(record, now_ms);
        }
        self.core.take_frames(&mut self.frames);
    }

    fn write(&mut self, record: Record, now_ms: u64) {
        match &mut self.log {
            // What it refuses is never durable, `poisoned` says why, and the process ends.
            Some(log) => {
                let Record { kind, time_ms, payload, is_awaited, .. } = record;
                _ = log.thread.append(frame_type(kind), time_ms, payload, is_awaited);
            }
            None => self.core.synced(record.lsn, now_ms),
        }
    }

    fn synced(&mut self, now_ms: u64) {
        if let Some(log) = &mut self.log {
            log.thread.acknowledge();
            self.core.synced(log.thread.durable_lsn(), now_ms);
            if let Some(before_lsn) = self.core.released() {
                _ = log.thread.release_before(before_lsn);
            }
        }
        self.flush(now_ms);
    }

    fn tick(&mut self, now_ms: u64) {
        self.core.tick(now_ms);
        if let Some(log) = &self.log
            && now_ms >= self.looked_ms + LOOK_MS
        {
            self.looked_ms = now_ms;
            self.core.set_room(log.room());
            let first_lsns: Vec<u64> = log.thread.segments().iter().map(|segment| segment.first_lsn).collect();
            self.core.log_has(&first_lsns, log.segment_bytes);
        }
        self.flush(now_ms);
    }

    fn take_frames<'py>(&mut self, py: Python<'py>) -> PyResult<Frames<'py>> {
        let out = PyList::empty(py);
        for (identity, frame) in self.frames.drain(..) {
            out.append((PyBytes::new(py, &identity), PyBytes::new(py, &frame)))?;
        }
        Ok(out)
    }
}

fn frame_type(kind: RecordKind) -> FrameType {
    match kind {
        RecordKind::Transactions => FrameType::Batch,
        RecordKind::Copies => FrameType::Copy,
    }
}

pub fn refused(error: &Refused) -> PyErr {
    LogError::new_err(format!("{error}\nhint: {}", error.hint()))
}

/// Applies a frame of the log; remembers the first that this version cannot read.
fn replay(core: &mut Core, entry: &Entry<'_>, failed: &mut Option<String>) {
    let kind = match entry.kind {
        FrameType::Batch => RecordKind::Transactions,
        FrameType::Copy => RecordKind::Copies,
        _ => return,
    };
    if failed.is_none() {
        let replayed = core.replay(kind, entry.lsn, entry.time_ms, entry.payload);
        *failed = replayed.err().map(|error| format!("{error}\nhint: a newer sagacore wrote it: start that version"));
    }
}

impl Inner {
    fn open_in_memory(&mut self, now_ms: u64) -> String {
        let opened = Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0, unclean: false };
        if let Some(record) = self.core.open(opened, now_ms) {
            self.write(record, now_ms);
        }
        "nothing is kept: the log is in memory".to_owned()
    }

    fn open_log(
        &mut self,
        directory: &str,
        config: LogConfig,
        options: ThreadOptions,
        now_ms: u64,
    ) -> PyResult<String> {
        let (core, mut failed) = (&mut self.core, None);
        let (mut frames, copies) = (0u64, CopyPlaces::default());
        let disk = FileDisk::open(Path::new(directory)).map_err(|error| refused(&error))?;
        core.set_read_back(Box::new(CopyReader::new(disk.clone(), copies.clone())));
        let mut sink = |entry: Entry<'_>| {
            frames += 1;
            if entry.kind == FrameType::Copy {
                copies.note(entry.lsn, entry.position, entry.payload.len());
            }
            replay(core, &entry, &mut failed);
        };
        let found = recover(&disk, &config, &mut sink).map_err(|error| refused(&error))?;
        if let Some(reason) = failed {
            return Err(LogError::new_err(self.core.failed().map_or(reason, str::to_owned)));
        }
        let start = || -> Result<_, Refused> {
            let mut writer = Writer::start(disk.clone(), config, &found, found.last_time_ms)?;
            writer.note_copies(copies.clone());
            let next_lsn = writer.next_lsn();
            Ok((LogThread::start(writer, options)?, next_lsn))
        };
        let (thread, next_lsn) = start().map_err(|error| refused(&error))?;
        let opened =
            Opened { next_lsn, boot_epoch: found.boot_epoch, last_time_ms: found.last_time_ms, unclean: found.unclean };
        let first = self.core.open(opened, now_ms);
        let is_new = found.next_lsn == 1;
        let text = format!(
            "{}boot {}, {} records, {} sagas running, {} remembered, {}{}",
            if is_new { "a new log, " } else { "" },
            found.boot_epoch,
            frames,
            self.core.state().running(),
            self.core.state().outcomes.len(),
            if found.unclean { "after an unclean stop" } else { "after a clean stop" },
            found.cut.as_ref().map_or(String::new(), |cut| format!(", a torn tail cut at LSN {}", cut.lsn)),
        );
        let log = Log { thread, disk, segment_bytes: config.segment_bytes };
        // Before anybody asks for a new saga.
        self.core.set_room(log.room());
        self.log = Some(log);
        if let Some(record) = first {
            self.write(record, now_ms);
        }
        Ok(text)
    }
}

/// A broker: frames in, frames out, and a descriptor that becomes readable when the log has synced.
#[pyclass(frozen, module = "sagacore._core")]
pub struct Broker {
    inner: Mutex<Inner>,
    recovered: String,
}

impl Broker {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Broker {
    #[new]
    #[pyo3(signature = (*, directory, durability, visibility, segment_bytes, sync_interval_us, stuck_after_ms,
                        outcomes_max, outcomes_ms, shard, secret, now_ms, detect_deadlocks=true))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only: one for each setting")]
    fn new(
        py: Python<'_>,
        directory: Option<String>,
        durability: &str,
        visibility: &str,
        segment_bytes: u64,
        sync_interval_us: u64,
        stuck_after_ms: u64,
        outcomes_max: usize,
        outcomes_ms: u64,
        shard: u16,
        secret: [u8; 16],
        now_ms: u64,
        detect_deadlocks: bool,
    ) -> PyResult<Self> {
        let durability = match durability {
            "sync" => Some(Durability::Sync),
            "os" => Some(Durability::Os),
            "memory" => None,
            other => return Err(PyValueError::new_err(format!("durability: {other:?} is not sync, os or memory"))),
        };
        let visibility = match visibility {
            "strict" => Visibility::Strict,
            "relaxed" => Visibility::Relaxed,
            other => return Err(PyValueError::new_err(format!("visibility: {other:?} is not strict or relaxed"))),
        };
        let window = Window { count: outcomes_max, age_ms: outcomes_ms, ..Window::default() };
        if segment_bytes < SEGMENT_BYTES_MIN {
            return Err(PyValueError::new_err(format!(
                "segment_bytes: {segment_bytes} is less than {SEGMENT_BYTES_MIN}"
            )));
        }
        let nonce = u64::from_le_bytes(*secret.first_chunk().unwrap_or(&[0; 8]));
        let log_config = LogConfig { segment_bytes, durability: durability.unwrap_or(Durability::Os), nonce };
        let record_bytes = RECORD_BYTES_MAX.min(log_config.payload_bytes_max() - RECORD_ROOM_BYTES);
        let settings =
            Config { shard, visibility, outcomes: window, stuck_after_ms, detect_deadlocks, ..Config::default() };
        let core = Core::new(Config { record_bytes, secret, ..settings });
        let mut inner = Inner { core, record_bytes, log: None, looked_ms: 0, frames: Vec::new() };
        let recovered = match (directory, durability) {
            (Some(directory), Some(_)) => {
                let options = ThreadOptions { sync_interval_us, ..ThreadOptions::default() };
                py.detach(|| inner.open_log(&directory, log_config, options, now_ms))?
            }
            _ => inner.open_in_memory(now_ms),
        };
        Ok(Self { inner: Mutex::new(inner), recovered })
    }

    /// The descriptor to wait for, or -1 where nothing is to be waited for.
    fn fileno(&self) -> i32 {
        self.lock().log.as_ref().map_or(-1, |log| log.thread.descriptor().as_raw_fd())
    }

    /// Its number among several brokers: what the log says, where there is one.
    fn shard(&self) -> u16 {
        self.lock().core.state().shard
    }

    /// What was found in the log.
    fn recovered(&self) -> &str {
        &self.recovered
    }

    /// Judges frames with the identities that they came from. Gives what is to be sent now, and how many frames were
    /// judged: not all of them where so much is to be said first.
    fn receive<'py>(
        &self,
        py: Python<'py>,
        frames: Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>,
        now_ms: u64,
    ) -> PyResult<(Frames<'py>, usize)> {
        let bytes: Vec<(&[u8], &[u8])> =
            frames.iter().map(|(identity, frame)| (identity.as_bytes(), frame.as_bytes())).collect();
        let judged = py.detach(|| {
            let inner = &mut *self.lock();
            let is_behind = inner.log.as_ref().is_some_and(|log| !log.thread.has_room());
            inner.core.set_behind(is_behind);
            let mut judged = 0;
            for (identity, frame) in bytes {
                if inner.core.owes_much() {
                    break;
                }
                judged += 1;
                inner.core.receive(identity, frame, now_ms);
                if inner.core.record_bytes() >= inner.record_bytes {
                    inner.flush(now_ms);
                }
            }
            inner.flush(now_ms);
            judged
        });
        Ok((self.lock().take_frames(py)?, judged))
    }

    /// The descriptor was readable: gives what may be sent now.
    fn synced<'py>(&self, py: Python<'py>, now_ms: u64) -> PyResult<Frames<'py>> {
        py.detach(|| self.lock().synced(now_ms));
        self.lock().take_frames(py)
    }

    /// Time has passed.
    fn tick<'py>(&self, py: Python<'py>, now_ms: u64) -> PyResult<Frames<'py>> {
        py.detach(|| self.lock().tick(now_ms));
        self.lock().take_frames(py)
    }

    /// A frame could not be sent to this identity.
    fn lost(&self, identity: &[u8], now_ms: u64) {
        self.lock().core.lost(identity, now_ms);
    }

    /// How the log does, by name; nothing where it is in memory.
    fn log_figures(&self) -> Vec<(&'static str, u64)> {
        let figures = self.lock().log.as_ref().map(|log| log.thread.figures());
        figures.map_or(Vec::new(), |figures| {
            vec![
                ("commits", figures.commits),
                ("slowest_commit_us", figures.slowest_commit_us),
                ("commit_under_way_us", figures.commit_under_way_us),
                ("queued_bytes", figures.queued_bytes),
                ("segments_bytes", figures.segments_bytes),
                ("spare_bytes", figures.spare_bytes),
            ]
        })
    }

    /// Why the log failed, if it did: nothing is durable any more, or what is cannot be read back.
    fn poisoned(&self) -> Option<String> {
        let inner = self.lock();
        let of_log = inner.log.as_ref().and_then(|log| log.thread.poisoned());
        of_log.or_else(|| inner.core.failed()).map(str::to_owned)
    }

    /// Whether so many sagas were parked since it was asked last that the memory is worth to be given back.
    fn has_parked(&self) -> bool {
        self.lock().core.take_trimmed()
    }

    /// Writes what is left and seals the log.
    fn close(&self, py: Python<'_>, now_ms: u64) {
        py.detach(|| {
            let inner = &mut *self.lock();
            inner.flush(now_ms);
            let time_ms = inner.core.time_ms(now_ms);
            inner.core.end_read_back();
            if let Some(log) = inner.log.take() {
                // If it fails, the next start finds an unclean stop and keeps all that was confirmed.
                _ = log.thread.close(time_ms);
            }
        });
    }
}
