//! Plans, compiled, and the limits that Python checks early.

use std::sync::Arc;

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use sagacore_core::limits as bounds;
use sagacore_core::plan::{self, Graph, Target};

create_exception!(sagacore._core, PlanError, PyValueError, "A definition that is refused: `name: what is wrong`.");

/// A compiled saga.
#[pyclass(frozen, module = "sagacore._core")]
pub struct Plan {
    plan: Arc<plan::Plan>,
}

#[pymethods]
impl Plan {
    #[getter]
    fn name(&self) -> &str {
        &self.plan.name
    }

    #[getter]
    fn fingerprint(&self) -> u64 {
        self.plan.fingerprint
    }

    #[getter]
    fn messages(&self) -> usize {
        self.plan.messages
    }

    #[getter]
    fn token_bytes_max(&self) -> usize {
        self.plan.token_bytes_max
    }

    #[getter]
    fn steps(&self) -> Vec<String> {
        self.plan.steps.iter().map(|step| step.name.clone()).collect()
    }

    /// Forward and compensation order as plain data: for the CLI's picture and for tests.
    fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        all.set_item("name", &self.plan.name)?;
        all.set_item("fingerprint", self.plan.fingerprint)?;
        all.set_item("messages", self.plan.messages)?;
        all.set_item("token_bytes_max", self.plan.token_bytes_max)?;
        all.set_item("steps", self.steps())?;
        all.set_item("pivot", self.plan.pivot.map(|pivot| &self.plan.steps[usize::from(pivot)].name))?;
        all.set_item("forward", self.graph(py, &self.plan.forward)?)?;
        all.set_item("undo", self.graph(py, &self.plan.undo(self.plan.compensable))?)?;
        Ok(all)
    }
}

impl Plan {
    fn step_name(&self, step: u8) -> &str {
        &self.plan.steps[usize::from(step)].name
    }

    fn graph<'py>(&self, py: Python<'py>, graph: &Graph) -> PyResult<Bound<'py, PyDict>> {
        let members = |set: u64| (0..64u8).filter(move |step| set & (1 << step) != 0);
        let mut edges: Vec<(&str, Option<&str>)> = Vec::new();
        for step in members(graph.members) {
            for target in graph.after(step) {
                let next = match *target {
                    Target::Step(next) => Some(next),
                    Target::Edge(edge) => graph.join_of(edge).and_then(|join| join.target),
                };
                edges.push((self.step_name(step), next.map(|next| self.step_name(next))));
            }
        }
        let drawn = PyDict::new(py);
        drawn.set_item("roots", members(graph.roots).map(|step| self.step_name(step)).collect::<Vec<_>>())?;
        drawn.set_item("edges", edges)?;
        drawn.set_item("messages", graph.messages())?;
        Ok(drawn)
    }
}

/// Compiles a definition.
#[pyfunction]
pub fn compile_plan(definition: &[u8]) -> PyResult<Plan> {
    let plan = plan::Plan::compile(definition).map_err(|error| PlanError::new_err(error.to_string()))?;
    Ok(Plan { plan: Arc::new(plan) })
}

/// The fingerprint of a definition.
#[pyfunction]
pub fn fingerprint(definition: &[u8]) -> u64 {
    plan::fingerprint(definition)
}

/// The bounds of the protocol, by name.
#[pyfunction]
pub fn limits(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let all = PyDict::new(py);
    let numbers: [(&str, u64); 17] = [
        ("STEPS_MAX", bounds::STEPS_MAX as u64),
        ("NAME_BYTES_MAX", bounds::NAME_BYTES_MAX as u64),
        ("KEY_BYTES_MAX", bounds::KEY_BYTES_MAX as u64),
        ("REASON_BYTES_MAX", bounds::REASON_BYTES_MAX as u64),
        ("INPUT_BYTES_DEFAULT", bounds::INPUT_BYTES_DEFAULT as u64),
        ("RESULT_BYTES_DEFAULT", bounds::RESULT_BYTES_DEFAULT as u64),
        ("SECTION_BYTES_MAX", bounds::SECTION_BYTES_MAX as u64),
        ("FRAME_BYTES_MAX", bounds::FRAME_BYTES_MAX as u64),
        ("DEADLINE_MS_DEFAULT", bounds::DEADLINE_MS_DEFAULT),
        ("DEADLINE_MS_MAX", bounds::DEADLINE_MS_MAX),
        ("RETRY_LATER_MS_MAX", bounds::RETRY_LATER_MS_MAX),
        ("RESOURCE_BYTES_MAX", bounds::RESOURCE_BYTES_MAX as u64),
        ("HOLDERS_NAMED_MAX", bounds::HOLDERS_NAMED_MAX as u64),
        ("SHARDS_MAX", bounds::SHARDS_MAX as u64),
        ("HEARTBEAT_MS", bounds::HEARTBEAT_MS),
        ("SLOTS_MIN", bounds::SLOTS_MIN as u64),
        ("SLOTS_MAX", bounds::SLOTS_MAX as u64),
    ];
    for (name, number) in numbers {
        all.set_item(name, number)?;
    }
    Ok(all)
}
