//! The broker's core, with its log.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use sagacore_broker::log::{Config as LogConfig, Durability, Entry, FrameType, LogError as Refused};
use sagacore_broker::{Broker as Core, Config, Opened, Record, RecordKind, Room, Window};
use sagacore_disk::{LogThread, Settings};

create_exception!(sagacore._core, LogError, PyOSError, "A log that cannot be opened: `name: what is wrong`, and a hint.");

/// A record of this size is handed to the log at once, so that none outgrows a segment.
const RECORD_BYTES: usize = 1 << 20;
/// How often the disk's room and the log's segments are looked at, in broker milliseconds.
const LOOK_MS: u64 = 500;

type Frames<'py> = Bound<'py, PyList>;

struct Inner {
    core: Core,
    log: Option<LogThread>,
    segment_bytes: u64,
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
        match &self.log {
            Some(log) => log.append(frame_type(record.kind), record.time_ms, record.payload),
            None => self.core.synced(record.lsn, now_ms),
        }
    }

    fn synced(&mut self, now_ms: u64) {
        if let Some(log) = &self.log {
            self.core.synced(log.durable_lsn(), now_ms);
            if let Some(before_lsn) = self.core.released() {
                log.release(before_lsn);
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
            let status = log.status();
            self.core.set_room(Room { free_bytes: status.free_bytes, segment_bytes: self.segment_bytes });
            self.core.log_has(&status.first_lsns, self.segment_bytes);
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
        let opened = Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0 };
        if let Some(record) = self.core.open(opened, now_ms) {
            self.write(record, now_ms);
        }
        "nothing is kept: the log is in memory".to_owned()
    }

    fn open_log(&mut self, directory: &str, settings: Settings, now_ms: u64) -> PyResult<String> {
        let (core, mut failed) = (&mut self.core, None);
        let mut frames = 0u64;
        let opened = LogThread::open(Path::new(directory), settings, &mut |entry| {
            frames += 1;
            replay(core, &entry, &mut failed);
        });
        let (log, opened) = opened.map_err(|error| refused(&error))?;
        if let Some(reason) = failed {
            return Err(LogError::new_err(reason));
        }
        let found = &opened.recovered;
        let first = self.core.open(
            Opened { next_lsn: opened.next_lsn, boot_epoch: found.boot_epoch, last_time_ms: found.last_time_ms },
            now_ms,
        );
        let text = format!(
            "boot {}, {} records, {} sagas running, {} remembered, {}{}",
            found.boot_epoch,
            frames,
            self.core.state().sagas.len(),
            self.core.state().outcomes.len(),
            if found.unclean { "after an unclean stop" } else { "after a clean stop" },
            found.cut.as_ref().map_or(String::new(), |cut| format!(", a torn tail cut at LSN {}", cut.lsn)),
        );
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
    #[pyo3(signature = (*, directory, durability, segment_bytes, sync_interval_us, stuck_after_ms, outcomes_max,
                        outcomes_ms, shard, secret, now_ms))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only: one for each setting")]
    fn new(
        py: Python<'_>,
        directory: Option<String>,
        durability: &str,
        segment_bytes: u64,
        sync_interval_us: u64,
        stuck_after_ms: u64,
        outcomes_max: usize,
        outcomes_ms: u64,
        shard: u16,
        secret: [u8; 16],
        now_ms: u64,
    ) -> PyResult<Self> {
        let durability = match durability {
            "sync" => Some(Durability::Sync),
            "os" => Some(Durability::Os),
            "memory" => None,
            other => return Err(PyValueError::new_err(format!("durability: {other:?} is not sync, os or memory"))),
        };
        let window = Window { count: outcomes_max, age_ms: outcomes_ms, ..Window::default() };
        let core = Core::new(Config { shard, outcomes: window, stuck_after_ms, secret });
        let mut inner = Inner { core, log: None, segment_bytes, looked_ms: 0, frames: Vec::new() };
        let recovered = match (directory, durability) {
            (Some(directory), Some(durability)) => {
                let nonce = u64::from_le_bytes(*secret.first_chunk().unwrap_or(&[0; 8]));
                let config = LogConfig { segment_bytes, durability, nonce };
                let settings = Settings { config, sync_interval: Duration::from_micros(sync_interval_us) };
                py.detach(|| inner.open_log(&directory, settings, now_ms))?
            }
            _ => inner.open_in_memory(now_ms),
        };
        Ok(Self { inner: Mutex::new(inner), recovered })
    }

    /// The descriptor to wait for, or -1 where nothing is to be waited for.
    fn fileno(&self) -> i32 {
        self.lock().log.as_ref().map_or(-1, |log| log.as_fd().as_raw_fd())
    }

    /// What was found in the log.
    fn recovered(&self) -> &str {
        &self.recovered
    }

    /// Judges frames with the identities that they came from. Gives what is to be sent now.
    fn receive<'py>(
        &self,
        py: Python<'py>,
        frames: Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>,
        now_ms: u64,
    ) -> PyResult<Frames<'py>> {
        let bytes: Vec<(&[u8], &[u8])> =
            frames.iter().map(|(identity, frame)| (identity.as_bytes(), frame.as_bytes())).collect();
        py.detach(|| {
            let inner = &mut *self.lock();
            for (identity, frame) in bytes {
                inner.core.receive(identity, frame, now_ms);
                if inner.core.record_bytes() >= RECORD_BYTES {
                    inner.flush(now_ms);
                }
            }
            inner.flush(now_ms);
        });
        self.lock().take_frames(py)
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

    /// Why the log failed, if it did: nothing is durable any more.
    fn poisoned(&self) -> Option<String> {
        self.lock().log.as_ref().and_then(|log| log.status().poisoned)
    }

    /// Writes what is left and seals the log.
    fn close(&self, py: Python<'_>, now_ms: u64) {
        py.detach(|| {
            let inner = &mut *self.lock();
            inner.flush(now_ms);
            let time_ms = inner.core.time_ms(now_ms);
            if let Some(log) = &mut inner.log {
                log.close(time_ms);
            }
        });
    }
}
