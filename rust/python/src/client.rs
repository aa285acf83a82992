//! The client's core.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use sagacore_core::client::{self, Action, ClientError, ClientOptions, Subject};
use sagacore_core::peer::Link;
use sagacore_core::wire::SagaId;
use zerocopy::{FromBytes, IntoBytes};

create_exception!(sagacore._core, ClientMisuse, PyValueError, "A call that a client refuses: `name: what is wrong`.");

/// A client: starts and questions in, frames out; frames in, events out.
#[pyclass(frozen, module = "sagacore._core")]
pub struct ClientCore {
    core: Mutex<client::ClientCore>,
}

impl ClientCore {
    fn lock(&self) -> MutexGuard<'_, client::ClientCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn misuse(error: ClientError) -> PyErr {
    ClientMisuse::new_err(error.to_string())
}

fn saga_id(bytes: &[u8]) -> PyResult<SagaId> {
    SagaId::read_from_bytes(bytes).map_err(|_| ClientMisuse::new_err("saga.id: an id has 16 bytes"))
}

fn subject<'a>(saga: Option<&[u8]>, key: Option<&'a [u8]>) -> PyResult<Subject<'a>> {
    match (saga, key) {
        (Some(saga), None) => Ok(Subject::Id(saga_id(saga)?)),
        (None, Some(key)) => Ok(Subject::Key(key)),
        _ => Err(ClientMisuse::new_err("subject: give a saga's id or its key")),
    }
}

#[pymethods]
impl ClientCore {
    #[new]
    #[pyo3(signature = (*, instance, credit, outbox_bytes))]
    fn new(instance: u64, credit: u64, outbox_bytes: usize) -> Self {
        let options = ClientOptions { instance, credit, outbox_bytes_max: outbox_bytes };
        Self { core: Mutex::new(client::ClientCore::new(options)) }
    }

    fn connect(&self, now_ms: u64) {
        self.lock().connect(now_ms);
    }

    fn tick(&self, now_ms: u64) -> bool {
        self.lock().tick(now_ms) == Link::Reconnect
    }

    fn frame<'py>(&self, py: Python<'py>, now_ms: u64) -> Option<Bound<'py, PyBytes>> {
        let frame = self.lock().frame(now_ms)?;
        Some(PyBytes::new(py, &frame))
    }

    #[getter]
    fn is_ready(&self) -> bool {
        self.lock().is_ready()
    }

    /// The number of the broker that has welcomed this client last.
    #[getter]
    fn shard(&self) -> Option<u16> {
        self.lock().shard()
    }

    #[getter]
    fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    #[getter]
    fn awaited(&self) -> usize {
        self.lock().awaited()
    }

    #[getter]
    fn refused(&self) -> Option<u16> {
        self.lock().refused().map(sagacore_core::wire::Refusal::code)
    }

    #[getter]
    fn fault(&self) -> Option<String> {
        self.lock().fault().map(|fault| fault.to_string())
    }

    fn define(&self, definition: &[u8]) -> PyResult<u64> {
        self.lock().define(definition).map_err(misuse)
    }

    fn start(
        &self,
        plan: u64,
        keys: Vec<Bound<'_, PyBytes>>,
        inputs: Vec<Bound<'_, PyBytes>>,
        first_correlation: u64,
        quiet: bool,
    ) -> PyResult<()> {
        if keys.len() != inputs.len() {
            return Err(ClientMisuse::new_err("lengths: a key for each input"));
        }
        let sagas = keys.iter().zip(&inputs).map(|(key, input)| (key.as_bytes(), input.as_bytes()));
        self.lock().start_batch(plan, sagas, first_correlation, quiet).map_err(misuse)
    }

    #[pyo3(signature = (correlation, *, saga=None, key=None))]
    fn attach(&self, correlation: u64, saga: Option<&[u8]>, key: Option<&[u8]>) -> PyResult<()> {
        self.lock().attach(correlation, subject(saga, key)?).map_err(misuse)
    }

    #[pyo3(signature = (correlation, *, saga=None, key=None))]
    fn status(&self, correlation: u64, saga: Option<&[u8]>, key: Option<&[u8]>) -> PyResult<()> {
        self.lock().status(correlation, subject(saga, key)?).map_err(misuse)
    }

    #[pyo3(signature = (correlation, *, saga=None, key=None, reason=""))]
    fn cancel(&self, correlation: u64, saga: Option<&[u8]>, key: Option<&[u8]>, reason: &str) -> PyResult<()> {
        self.lock().cancel(correlation, subject(saga, key)?, reason).map_err(misuse)
    }

    fn stats(&self, correlation: u64) -> PyResult<()> {
        self.lock().stats(correlation).map_err(misuse)
    }

    fn stuck(&self, correlation: u64) -> PyResult<()> {
        self.lock().stuck(correlation).map_err(misuse)
    }

    fn deadlocks(&self, correlation: u64, from_number: u64) -> PyResult<()> {
        self.lock().deadlocks(correlation, from_number).map_err(misuse)
    }

    fn resolve(
        &self,
        correlation: u64,
        saga: &[u8],
        step: u8,
        action: u8,
        reason: &str,
        result: &[u8],
    ) -> PyResult<()> {
        let action = Action::from_code(action).ok_or_else(|| ClientMisuse::new_err("action: 1, 2 or 3"))?;
        self.lock().resolve(correlation, saga_id(saga)?, step, action, reason, result).map_err(misuse)
    }

    fn forget(&self, correlation: u64) {
        self.lock().forget(correlation);
    }

    /// Reads a frame and gives its events as tuples: see `Event` in the stub.
    fn receive<'py>(&self, py: Python<'py>, frame: &[u8], now_ms: u64) -> PyResult<Bound<'py, PyList>> {
        let out = PyList::empty(py);
        let mut failed = None;
        let mut tell = |event: client::Event<'_>| {
            let appended = out.append((
                event.correlation,
                event.kind.code(),
                event.code,
                PyBytes::new(py, event.saga.as_bytes()),
                event.extra,
                PyBytes::new(py, event.body),
            ));
            failed = failed.take().or(appended.err());
        };
        // A fault ends the connection, and `tick` says so; what came before it counts.
        let _ = self.lock().receive(frame, now_ms, &mut tell);
        failed.map_or(Ok(out), Err)
    }
}
