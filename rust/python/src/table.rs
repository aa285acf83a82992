//! The slot table by itself, in batches.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use sagacore_core::table::Table;
use sagacore_core::wire::Malformed;

/// What `arrive` gives: a code for each arrival, and the spilled slots as (number, keys).
type Arrivals<'py> = (Bound<'py, PyBytes>, Vec<(u64, Bound<'py, PyBytes>)>);

/// The coordinator's table: fixed size, 64-byte slots.
#[pyclass(frozen, module = "sagacore._core")]
pub struct SlotTable {
    table: Mutex<Table>,
}

impl SlotTable {
    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn malformed(broken: Malformed) -> PyErr {
    PyValueError::new_err(broken.to_string())
}

#[pymethods]
impl SlotTable {
    #[new]
    fn new(slots: usize) -> Self {
        Self { table: Mutex::new(Table::new(slots)) }
    }

    /// Takes arrivals: back-to-back headers of 128 bytes.
    fn arrive<'py>(&self, py: Python<'py>, headers: &[u8]) -> PyResult<Arrivals<'py>> {
        let batch = py.detach(|| self.lock().arrive_batch(headers)).map_err(malformed)?;
        let spilled = batch.spilled.iter().map(|slot| (slot.number, PyBytes::new(py, &slot.keys))).collect();
        Ok((PyBytes::new(py, &batch.codes), spilled))
    }

    /// The slots of these arrivals, 64 bytes each.
    fn lookup<'py>(&self, py: Python<'py>, headers: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let slots = py.detach(|| self.lock().lookup_batch(headers)).map_err(malformed)?;
        Ok(PyBytes::new(py, &slots))
    }

    /// Removes the slots of these arrivals: 1 for each that was there.
    fn remove<'py>(&self, py: Python<'py>, headers: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let codes = py.detach(|| self.lock().remove_batch(headers)).map_err(malformed)?;
        Ok(PyBytes::new(py, &codes))
    }

    /// The broker holds the arrivals of all spilled slots up to this number: the slots are free.
    fn answered(&self, number: u64) {
        self.lock().answered(number);
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }

    #[getter]
    fn table_bytes(&self) -> usize {
        self.lock().bytes()
    }
}
