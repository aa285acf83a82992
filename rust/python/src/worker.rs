//! The core of one process of a service.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::IntoPyObjectExt as _;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use sagacore_core::peer::Link;
use sagacore_core::wire::Holder;
use sagacore_core::worker::{self, Ready, Verdict, WorkerOptions};
use zerocopy::IntoBytes;

create_exception!(sagacore._core, WorkerMisuse, PyValueError, "A call that a worker refuses: `name: what is wrong`.");

/// A frame takes long enough to let other threads of the interpreter run from this on.
const DETACHED_BYTES: usize = 64 * 1024;

/// Sagas that have ended, each with the last attempt whose holds are free.
type Freed<'py> = Vec<(Bound<'py, PyBytes>, u32)>;

/// Log, boot, record, by class a sequence, and the exceptions.
type Told = (u64, u64, u64, Vec<u64>, Vec<u64>);

struct Inner {
    core: worker::Worker,
    ready: Vec<Ready>,
    /// By handler, and by what their plans say of its results.
    groups: Vec<Vec<Ready>>,
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

fn is_same_group(a: &Ready, b: &Ready) -> bool {
    (a.undo, a.step, a.results, a.result_bytes_max) == (b.undo, b.step, b.results, b.result_bytes_max)
}

impl Inner {
    /// What is ready, by handler, in columns: see `Batch` in the stub.
    fn take_batches<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let out = PyList::empty(py);
        let mut used = 0;
        for ready in self.ready.drain(..) {
            let found = self.groups[..used].iter().rposition(|group| is_same_group(&group[0], &ready));
            let at = found.unwrap_or(used);
            if at == used {
                used += 1;
                self.groups.resize_with(self.groups.len().max(used), Vec::new);
            }
            self.groups[at].push(ready);
        }
        for group in &mut self.groups[..used] {
            out.append(batch(py, &self.core, group)?)?;
            group.clear();
        }
        Ok(out)
    }
}

fn batch<'py>(py: Python<'py>, core: &worker::Worker, group: &[Ready]) -> PyResult<Bound<'py, PyTuple>> {
    let tickets = PyList::new(py, group.iter().map(|ready| ready.ticket))?;
    let inputs = PyList::new(py, group.iter().map(|ready| PyBytes::new(py, core.input(ready.ticket))))?;
    let column = |place| {
        let result = |ready: &Ready| core.result(ready.ticket, place).map(|result| PyBytes::new(py, result));
        PyList::new(py, group.iter().map(result))
    };
    let results = (0..group[0].results).map(column).collect::<PyResult<Vec<_>>>()?;
    let Ready { undo, step, result_bytes_max, .. } = group[0];
    (undo, step, result_bytes_max, tickets, inputs, PyTuple::new(py, results)?).into_pyobject(py)
}

#[pymethods]
impl Worker {
    #[new]
    #[pyo3(signature = (service, steps, *, instance, memory_fence, lease_ms, credit))]
    fn new(service: String, steps: Vec<String>, instance: u64, memory_fence: bool, lease_ms: u64, credit: u64) -> Self {
        let options = WorkerOptions { service, steps, instance, memory_fence, lease_ms, credit };
        let core = worker::Worker::new(options);
        Self { inner: Mutex::new(Inner { core, ready: Vec::new(), groups: Vec::new() }) }
    }

    fn connect(&self, now_ms: u64) {
        self.lock().core.connect(now_ms);
    }

    fn receive<'py>(&self, py: Python<'py>, frame: &[u8], now_ms: u64) -> PyResult<Bound<'py, PyList>> {
        let receive = || {
            let inner = &mut *self.lock();
            inner.core.receive(frame, now_ms, &mut inner.ready);
        };
        // Whoever lets go of the interpreter may wait for it: the thread of a fence holds it for milliseconds.
        if frame.len() < DETACHED_BYTES {
            receive()
        } else {
            py.detach(receive)
        }
        self.lock().take_batches(py)
    }

    /// All that is known of work that runs, as tuples: see `Work` in the stub.
    fn works<'py>(&self, py: Python<'py>, tickets: &Bound<'py, PyList>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let inner = self.lock();
        let work = |ticket: Bound<'py, PyAny>| {
            let ticket = ticket.extract()?;
            let not_running = || WorkerMisuse::new_err("ticket: this work is not running");
            let work = inner.core.work(ticket).ok_or_else(not_running)?;
            let results = (0..).map_while(|place| inner.core.result(ticket, place));
            let results: Vec<_> = results.map(|result| PyBytes::new(py, result)).collect();
            let freed: Freed<'_> =
                work.freed.iter().map(|freed| (PyBytes::new(py, freed.saga.as_bytes()), freed.attempt.get())).collect();
            let freed = PyTuple::new(py, freed)?;
            let key = std::str::from_utf8(&work.idempotency_key).unwrap_or_default();
            let columns = [
                work.ticket.into_bound_py_any(py)?,
                work.undo.into_bound_py_any(py)?,
                work.step.into_bound_py_any(py)?,
                PyBytes::new(py, work.saga.as_bytes()).into_any(),
                work.attempt.into_bound_py_any(py)?,
                work.deliveries.into_bound_py_any(py)?,
                work.deadline_ms.into_bound_py_any(py)?,
                key.into_bound_py_any(py)?,
                PyBytes::new(py, inner.core.input(ticket)).into_any(),
                PyTuple::new(py, results)?.into_any(),
                work.result_bytes_max.into_bound_py_any(py)?,
                (work.phase as u8, work.log, work.class).into_bound_py_any(py)?,
                (work.place, work.age, freed, work.wounded).into_bound_py_any(py)?,
            ];
            PyTuple::new(py, columns)
        };
        tickets.iter().map(work).collect()
    }

    /// Ends pieces of work, in order, and gives what may begin now. Refuses the first that is wrong; those before it
    /// have ended.
    fn finish<'py>(
        &self,
        py: Python<'py>,
        tickets: &Bound<'py, PyList>,
        verdicts: &[u8],
        payloads: &Bound<'py, PyList>,
        now_ms: u64,
    ) -> PyResult<Bound<'py, PyList>> {
        if tickets.len() != verdicts.len() || tickets.len() != payloads.len() {
            return Err(WorkerMisuse::new_err("lengths: one ticket, verdict and payload for each piece of work"));
        }
        let inner = &mut *self.lock();
        for ((ticket, &verdict), payload) in tickets.iter().zip(verdicts).zip(payloads) {
            let verdict = Verdict::from_code(verdict)
                .ok_or_else(|| WorkerMisuse::new_err(format!("verdict: {verdict} is no verdict")))?;
            let payload = payload.cast::<PyBytes>()?.as_bytes();
            let finished = inner.core.finish(ticket.extract()?, verdict, payload, now_ms, &mut inner.ready);
            finished.map_err(|misuse| WorkerMisuse::new_err(misuse.to_string()))?;
        }
        inner.take_batches(py)
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

    /// With the fence in memory: steps that were undone without a call, as (saga, attempt, place).
    fn take_let_go<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, u32, u16)> {
        let let_go = self.lock().core.take_let_go();
        let named = |step: &Holder| (PyBytes::new(py, step.saga.as_bytes()), step.attempt, step.place);
        let_go.iter().map(named).collect()
    }

    /// Messages for brokers of other shards, by the number of each.
    fn take_carried<'py>(&self, py: Python<'py>) -> Vec<(u16, Bound<'py, PyBytes>)> {
        let carried = self.lock().core.take_carried();
        carried.iter().map(|(shard, message)| (*shard, PyBytes::new(py, message))).collect()
    }

    /// Tells this broker what another one has said.
    fn pass_on(&self, message: &[u8]) {
        self.lock().core.pass_on(message);
    }

    /// The number of the broker that has welcomed this process last.
    #[getter]
    fn shard(&self) -> Option<u16> {
        self.lock().core.shard()
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
            ("blocked", stats.blocked),
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
