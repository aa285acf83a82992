//! The broker's core, with its log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use sagacore_broker::{Broker as Core, Config, Record, Window};

create_exception!(sagacore._core, LogError, PyOSError, "A log that cannot be opened: `name: what is wrong`.");

/// A record of this size is handed to the log at once, so that none outgrows a segment.
const RECORD_BYTES: usize = 1 << 20;

type Frames<'py> = Bound<'py, PyList>;

struct Inner {
    core: Core,
    frames: Vec<(Box<[u8]>, Vec<u8>)>,
}

impl Inner {
    /// Hands what was accepted to the log.
    fn flush(&mut self, now_ms: u64) {
        while let Some(record) = self.core.flush(now_ms) {
            self.write(record, now_ms);
        }
        self.core.take_frames(&mut self.frames);
    }

    fn write(&mut self, record: Record, now_ms: u64) {
        self.core.synced(record.lsn, now_ms);
    }

    fn take_frames<'py>(&mut self, py: Python<'py>) -> PyResult<Frames<'py>> {
        let out = PyList::empty(py);
        for (identity, frame) in self.frames.drain(..) {
            out.append((PyBytes::new(py, &identity), PyBytes::new(py, &frame)))?;
        }
        Ok(out)
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
        let _ = (py, directory, durability, segment_bytes, sync_interval_us);
        let window = Window { count: outcomes_max, age_ms: outcomes_ms, ..Window::default() };
        let mut core = Core::new(Config { shard, outcomes: window, stuck_after_ms, secret });
        let opened = sagacore_broker::Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0 };
        let first = core.open(opened, now_ms);
        let mut inner = Inner { core, frames: Vec::new() };
        if let Some(record) = first {
            inner.write(record, now_ms);
        }
        let _ = PyValueError::new_err("");
        Ok(Self { inner: Mutex::new(inner), recovered: "an empty log in memory".to_owned() })
    }

    /// The descriptor to wait for, or -1 where nothing is to be waited for.
    fn fileno(&self) -> i32 {
        -1
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
        py.detach(|| self.lock().flush(now_ms));
        self.lock().take_frames(py)
    }

    /// Time has passed.
    fn tick<'py>(&self, py: Python<'py>, now_ms: u64) -> PyResult<Frames<'py>> {
        py.detach(|| {
            let inner = &mut *self.lock();
            inner.core.tick(now_ms);
            inner.flush(now_ms);
        });
        self.lock().take_frames(py)
    }

    /// A frame could not be sent to this identity.
    fn lost(&self, identity: &[u8], now_ms: u64) {
        self.lock().core.lost(identity, now_ms);
    }

    /// Why the log failed, if it did: nothing is durable any more.
    fn poisoned(&self) -> Option<String> {
        None
    }

    /// Writes what is left and seals the log.
    fn close(&self) {}
}
