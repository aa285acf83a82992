//! The fence's rules, for fences that are kept elsewhere.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use sagacore_core::fence::{RowState, on_run, on_undo};

fn state(code: u8) -> PyResult<RowState> {
    RowState::from_code(code).ok_or_else(|| PyValueError::new_err(format!("row.state: {code} is no state of a row")))
}

/// What a RUN finds: the code of `OnRun`.
#[pyfunction]
pub fn fence_on_run(row_state: u8) -> PyResult<u8> {
    Ok(on_run(state(row_state)?) as u8)
}

/// What an UNDO finds: the code of `OnUndo`.
#[pyfunction]
pub fn fence_on_undo(row_state: u8) -> PyResult<u8> {
    Ok(on_undo(state(row_state)?) as u8)
}
