//! The core of one process of a service.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use sagacore_core::peer::Link;
use sagacore_core::worker::{self, Verdict, Work, WorkerOptions};
use zerocopy::IntoBytes;

create_exception!(sagacore._core, WorkerMisuse, PyValueError, "A call that a worker refuses: `name: what is wrong`.");

/// Log, boot, record, by class a sequence, and the exceptions.
type Told = (u64, u64, u64, Vec<u64>, Vec<u64>);

struct Inner {
    core: worker::Worker,
    works: Vec<Work>,
}

/// One process of a service: frames in, work out, verdicts in, frames out.
#[pyclass(frozen, module = "sagacore._core")]
pub struct Worker {
    inner: Mutex<Inner>,
}

impl Worker {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The work that is due, as tuples: see `Work` in the stub.
    fn take_works<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let out = PyList::empty(py);
        for work in self.works.drain(..) {
            let mut results = Vec::new();
            self.core.each_result(&work, |result| results.push(PyBytes::new(py, result)));
            let key = std::str::from_utf8(&work.idempotency_key).unwrap_or_default();
            out.append((
                work.ticket,
                work.undo,
                work.step,
                PyBytes::new(py, work.saga.as_bytes()),
                work.attempt,
                work.deliveries,
                work.deadline_ms,
                key,
                PyBytes::new(py, self.core.input(&work)),
                PyTuple::new(py, results)?,
                work.result_bytes_max,
                (work.phase as u8, work.log, work.class),
            ))?;
        }
        Ok(out)
    }
}

#[pymethods]
impl Worker {
    #[new]
    #[pyo3(signature = (service, steps, *, instance, memory_fence, lease_ms, credit))]
    fn new(service: String, steps: Vec<String>, instance: u64, memory_fence: bool, lease_ms: u64, credit: u64) -> Self {
        let options = WorkerOptions { service, steps, instance, memory_fence, lease_ms, credit };
        Self { inner: Mutex::new(Inner { core: worker::Worker::new(options), works: Vec::new() }) }
    }

    fn connect(&self, now_ms: u64) {
        self.lock().core.connect(now_ms);
    }

    fn receive<'py>(&self, py: Python<'py>, frame: &[u8], now_ms: u64) -> PyResult<Bound<'py, PyList>> {
        py.detach(|| {
            let inner = &mut *self.lock();
            inner.core.receive(frame, now_ms, &mut inner.works);
        });
        self.lock().take_works(py)
    }

    /// Ends pieces of work, in order, and gives what may begin now. Refuses the first that is wrong; those before it
    /// have ended.
    fn finish<'py>(
        &self,
        py: Python<'py>,
        tickets: Vec<u64>,
        verdicts: Vec<u8>,
        payloads: Vec<Bound<'py, PyBytes>>,
        now_ms: u64,
    ) -> PyResult<Bound<'py, PyList>> {
        if tickets.len() != verdicts.len() || tickets.len() != payloads.len() {
            return Err(WorkerMisuse::new_err("lengths: one ticket, verdict and payload for each piece of work"));
        }
        let inner = &mut *self.lock();
        for ((ticket, verdict), payload) in tickets.into_iter().zip(verdicts).zip(&payloads) {
            let verdict = Verdict::from_code(verdict)
                .ok_or_else(|| WorkerMisuse::new_err(format!("verdict: {verdict} is no verdict")))?;
            let finished = inner.core.finish(ticket, verdict, payload.as_bytes(), now_ms, &mut inner.works);
            finished.map_err(|misuse| WorkerMisuse::new_err(misuse.to_string()))?;
        }
        inner.take_works(py)
    }

    fn tick(&self, now_ms: u64) -> bool {
        self.lock().core.tick(now_ms) == Link::Reconnect
    }

    fn frame<'py>(&self, py: Python<'py>, now_ms: u64) -> Option<Bound<'py, PyBytes>> {
        let frame = self.lock().core.frame(now_ms)?;
        Some(PyBytes::new(py, &frame))
    }

    /// Up to where all sagas have ended, if that is another word than was taken last.
    fn take_watermark(&self) -> Option<Told> {
        let mut inner = self.lock();
        let told = inner.core.take_watermark()?;
        Some((told.log, told.boot, told.as_of_lsn, told.marks.to_vec(), told.exceptions.clone()))
    }

    #[getter]
    fn is_ready(&self) -> bool {
        self.lock().core.is_ready()
    }

    /// Why the broker does not take this process, as the name of the refusal.
    #[getter]
    fn refused(&self) -> Option<String> {
        self.lock().core.refused().map(|refusal| format!("{refusal:?}").to_lowercase())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.lock().core.stats();
        let all = PyDict::new(py);
        let numbers = [
            ("delivered", stats.delivered),
            ("ignored", stats.ignored),
            ("answered", stats.answered),
            ("not_yet", stats.not_yet),
            ("passed", stats.passed),
            ("done", stats.done),
            ("failed", stats.failed),
            ("undone", stats.undone),
            ("retried", stats.retried),
            ("dropped", stats.dropped),
            ("stale", stats.stale),
            ("refused", stats.refused),
            ("malformed", stats.malformed),
            ("sessions", stats.sessions),
            ("running", stats.running),
            ("rows", stats.rows),
            ("plans", stats.plans),
            ("unconfirmed", stats.unconfirmed),
        ];
        for (name, number) in numbers {
            all.set_item(name, number)?;
        }
        Ok(all)
    }
}
