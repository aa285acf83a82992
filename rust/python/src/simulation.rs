//! The simulator, some seeds at a call, so that whoever calls can say how far it is and be interrupted.

use pyo3::prelude::*;

use sagacore_sim::runner::{Failure, Totals, run_many, tell};

/// Seeds that were run, and what came of them.
#[pyclass(module = "sagacore._core")]
#[derive(Default)]
pub struct Simulation {
    totals: Totals,
}

#[pymethods]
impl Simulation {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Runs so many seeds from one on, on `jobs` threads. Gives lines about those that did not hold.
    fn run(&mut self, py: Python<'_>, from_seed: u64, seeds: u64, jobs: usize) -> Vec<String> {
        let totals = py.detach(|| run_many(from_seed, seeds, jobs));
        let lines = totals.failures.iter().flat_map(Failure::lines).collect();
        self.totals.merge(totals);
        lines
    }

    #[getter]
    fn seeds(&self) -> u64 {
        self.totals.seeds
    }

    #[getter]
    fn is_right(&self) -> bool {
        self.totals.is_right()
    }

    fn json(&self, seconds: f64) -> String {
        self.totals.json(seconds)
    }

    fn lines(&self, seconds: f64) -> Vec<String> {
        self.totals.lines(seconds)
    }
}

/// The story of one seed, and whether all held.
#[pyfunction]
pub fn simulate_seed(py: Python<'_>, seed: u64) -> (Vec<String>, bool) {
    py.detach(|| tell(seed))
}
