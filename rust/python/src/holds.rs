//! The hold table of a service, in memory: for its fence there, and to compare others with.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zerocopy::{FromBytes, IntoBytes};

use sagacore_core::fence::{Ask, HoldError, Holds as Core, Standing};
use sagacore_core::limits::{HOLD_ROWS_MAX, WATERMARK_CLASSES};
use sagacore_core::watermark::Watermark;
use sagacore_core::wire::{HoldMode, Holder, SagaId};

create_exception!(sagacore._core, HoldMisuse, PyValueError, "What a hold cannot be: `name: what is wrong`.");

/// Saga, attempt, place.
type Named<'py> = (Bound<'py, PyBytes>, u32, u16);
/// Saga, attempt, place, age, mode, amount, and how far it is: 0 waiting, 1 provisional, 2 granted.
type Row<'py> = (Bound<'py, PyBytes>, u32, u16, u64, u8, u32, u8);

fn misuse(error: HoldError) -> PyErr {
    HoldMisuse::new_err(error.to_string())
}

fn saga_id(saga: &[u8]) -> PyResult<SagaId> {
    SagaId::read_from_bytes(saga).map_err(|_| HoldMisuse::new_err("hold.saga: a saga's id has 16 bytes"))
}

fn holder(saga: &[u8], attempt: u32, place: u16) -> PyResult<Holder> {
    Ok(Holder { saga: saga_id(saga)?, attempt, place })
}

/// Who holds and who waits for which resource of a service.
#[pyclass(frozen, module = "sagacore._core")]
pub struct Holds {
    inner: Mutex<Core>,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Holds {
    #[new]
    #[pyo3(signature = (rows_max=HOLD_ROWS_MAX))]
    fn new(rows_max: usize) -> Self {
        Self { inner: Mutex::new(Core::new(rows_max)) }
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }

    /// Takes a hold until `keep` or `drop`, or gives those in its way; then, if it waits, its claim is kept.
    #[pyo3(signature = (resource, mode, amount, size, saga, attempt, place, age, wait=true))]
    #[expect(clippy::too_many_arguments, reason = "the columns of a row")]
    fn take<'py>(
        &self,
        py: Python<'py>,
        resource: &str,
        mode: u8,
        amount: u32,
        size: u32,
        saga: &[u8],
        attempt: u32,
        place: u16,
        age: u64,
        wait: bool,
    ) -> PyResult<Vec<Named<'py>>> {
        let mode = HoldMode::from_code(mode)
            .ok_or_else(|| HoldMisuse::new_err(format!("hold.mode: {mode} is not 0, 1 or 2")))?;
        let ask = Ask { resource, mode, amount, size, holder: holder(saga, attempt, place)?, age };
        let in_the_way = self.lock().take(&ask, wait).map_err(misuse)?;
        let named = |holder: &Holder| (PyBytes::new(py, holder.saga.as_bytes()), holder.attempt, holder.place);
        Ok(in_the_way.iter().map(named).collect())
    }

    /// The rows of a resource.
    fn rows<'py>(&self, py: Python<'py>, resource: &str) -> Vec<Row<'py>> {
        let inner = self.lock();
        let rows = inner.rows(resource).iter().map(|row| {
            let standing = match row.standing {
                Standing::Waiting => 0,
                Standing::Provisional => 1,
                Standing::Granted => 2,
            };
            let Holder { saga, attempt, place } = row.holder;
            let saga = PyBytes::new(py, saga.as_bytes());
            (saga, attempt, place, row.age, row.mode.code(), row.amount, standing)
        });
        rows.collect()
    }

    /// A call has committed.
    fn keep(&self, saga: &[u8], attempt: u32, place: u16) -> PyResult<()> {
        self.lock().keep(holder(saga, attempt, place)?);
        Ok(())
    }

    /// A call has failed, or its step is compensated.
    fn drop(&self, saga: &[u8], attempt: u32, place: u16) -> PyResult<()> {
        self.lock().release(holder(saga, attempt, place)?);
        Ok(())
    }

    /// A saga has ended, or begun again: what its attempts up to this one hold is free.
    fn free(&self, saga: &[u8], attempt: u32) -> PyResult<()> {
        self.lock().free(saga_id(saga)?, attempt);
        Ok(())
    }

    /// Forgets what sagas of a shard hold that its watermark has passed, whatever their class.
    fn forget(&self, shard: u16, marks: Vec<u64>, exceptions: Vec<u64>) -> PyResult<()> {
        let marks: [u64; WATERMARK_CLASSES] = marks
            .try_into()
            .map_err(|_| HoldMisuse::new_err(format!("hold.marks: there are {WATERMARK_CLASSES} classes")))?;
        self.lock().forget(shard, &Watermark { marks, exceptions, ..Watermark::unknown() });
        Ok(())
    }

    /// The log of a shard's broker is another one.
    fn clear(&self, shard: u16) {
        self.lock().clear(shard);
    }
}
