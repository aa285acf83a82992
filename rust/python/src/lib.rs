//! `sagacore._core`: the cores as Python sees them. One call a frame or a drain, the GIL released where it is long
//! enough to matter; no rule of the protocol lives here.

mod broker;
mod client;
mod coordinator;
mod fence;
mod holds;
mod log_dump;
mod log_tools;
mod plan;
mod simulation;
mod table;
mod worker;

use pyo3::prelude::*;

/// Names that Python's `sagacore._core` has; the stub `_core.pyi` describes them.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::broker::{Broker, LogError};
    #[pymodule_export]
    use super::client::{ClientCore, ClientMisuse};
    #[pymodule_export]
    use super::coordinator::Coordinator;
    #[pymodule_export]
    use super::fence::{fence_on_run, fence_on_undo};
    #[pymodule_export]
    use super::holds::{HoldMisuse, Holds};
    #[pymodule_export]
    use super::log_dump::log_dump;
    #[pymodule_export]
    use super::log_tools::{log_repair, log_verify};
    #[pymodule_export]
    use super::plan::{Plan, PlanError, compile_plan, fingerprint, limits};
    #[pymodule_export]
    use super::simulation::{Simulation, simulate_seed};
    #[pymodule_export]
    use super::table::SlotTable;
    #[pymodule_export]
    use super::worker::{Worker, WorkerMisuse};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("build_profile", if cfg!(debug_assertions) { "debug" } else { "release" })
    }
}
