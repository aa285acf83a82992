//! The coordinator's core.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use sagacore_core::coordinator;
use sagacore_core::peer::{Link, Peer, PeerOptions};
use sagacore_core::wire::Role;

/// Unconfirmed bytes from which on a coordinator asks for no more: its memory is the same however slow the broker is.
const OUTBOX_BYTES_MAX: usize = 256 << 10;

/// A coordinator: frames in, frames out.
#[pyclass(frozen, module = "sagacore._core")]
pub struct Coordinator {
    core: Mutex<coordinator::Coordinator>,
}

impl Coordinator {
    fn lock(&self) -> std::sync::MutexGuard<'_, coordinator::Coordinator> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Coordinator {
    #[new]
    #[pyo3(signature = (*, slots, instance, credit))]
    fn new(slots: usize, instance: u64, credit: u64) -> Self {
        let peer = Peer::new(PeerOptions {
            role: Role::Coordinator,
            name: String::new(),
            instance,
            exclusive: false,
            lease_ms: 0,
            credit,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
        });
        Self { core: Mutex::new(coordinator::Coordinator::new(slots, peer)) }
    }

    fn connect(&self, now_ms: u64) {
        self.lock().connect(now_ms);
    }

    fn receive(&self, py: Python<'_>, frame: &[u8], now_ms: u64) -> PyResult<()> {
        let received = py.detach(|| self.lock().receive(frame, now_ms));
        received.map_err(|broken| PyValueError::new_err(broken.to_string()))
    }

    fn tick(&self, now_ms: u64) -> bool {
        self.lock().tick(now_ms) == Link::Reconnect
    }

    fn frame<'py>(&self, py: Python<'py>, now_ms: u64) -> Option<Bound<'py, PyBytes>> {
        let frame = self.lock().frame(now_ms)?;
        Some(PyBytes::new(py, &frame))
    }

    /// Tells the broker, with the next heartbeat, how this coordinator is; with what the process adds.
    fn report(&self, extra: std::collections::BTreeMap<String, u64>) {
        let extra: Vec<(&str, u64)> = extra.iter().map(|(name, &number)| (name.as_str(), number)).collect();
        self.lock().report_stats(&extra);
    }

    #[getter]
    fn is_ready(&self) -> bool {
        self.lock().peer().is_ready()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for (name, number) in self.lock().stats().entries() {
            all.set_item(name, number)?;
        }
        Ok(all)
    }
}
