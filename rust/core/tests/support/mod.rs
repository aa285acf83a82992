//! Definitions for tests: a model that is easy to change and to break, and its encoding.

#![allow(dead_code)] // Each test file uses its own part of this.

pub mod oracle;

use rmp::encode::{write_array_len, write_str, write_uint};
use sagacore_core::plan::{Plan, PlanError};

pub const PIVOT: u64 = 1;
pub const COMPENSABLE: u64 = 2;

#[derive(Clone, Debug)]
pub struct SagaModel {
    pub format: u64,
    pub name: String,
    pub input_max: u64,
    pub deadline_ms: u64,
    pub undo: u64,
    pub returns: Vec<u64>,
    pub steps: Vec<StepModel>,
}

#[derive(Clone, Debug)]
pub struct StepModel {
    pub name: String,
    pub service: String,
    pub result_max: u64,
    pub flags: u64,
    pub after: Vec<u64>,
    pub reads: Vec<u64>,
    pub undo_before: Vec<u64>,
}

impl SagaModel {
    pub fn new(name: &str) -> Self {
        Self {
            format: 1,
            name: name.to_owned(),
            input_max: 256,
            deadline_ms: 30_000,
            undo: 0,
            returns: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Adds a compensable step and gives its number.
    pub fn step(&mut self, name: &str, after: &[u64]) -> u64 {
        self.steps.push(StepModel {
            name: name.to_owned(),
            service: format!("{name}-service"),
            result_max: 8,
            flags: COMPENSABLE,
            after: after.to_vec(),
            reads: Vec::new(),
            undo_before: Vec::new(),
        });
        self.steps.len() as u64 - 1
    }

    /// A saga of `count` steps named s0, s1, ... with what each comes after.
    pub fn graph(count: u64, after: impl Fn(u64) -> Vec<u64>) -> Self {
        let mut saga = Self::new("graph");
        for step in 0..count {
            saga.step(&format!("s{step}"), &after(step));
        }
        saga
    }

    /// The set of all steps.
    pub fn all(&self) -> u64 {
        set(&(0..self.steps.len() as u64).collect::<Vec<_>>())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_array_len(&mut out, 7).unwrap();
        write_uint(&mut out, self.format).unwrap();
        write_str(&mut out, &self.name).unwrap();
        for value in [self.input_max, self.deadline_ms, self.undo] {
            write_uint(&mut out, value).unwrap();
        }
        encode_list(&mut out, &self.returns);
        write_array_len(&mut out, self.steps.len() as u32).unwrap();
        for step in &self.steps {
            write_array_len(&mut out, 7).unwrap();
            write_str(&mut out, &step.name).unwrap();
            write_str(&mut out, &step.service).unwrap();
            write_uint(&mut out, step.result_max).unwrap();
            write_uint(&mut out, step.flags).unwrap();
            for list in [&step.after, &step.reads, &step.undo_before] {
                encode_list(&mut out, list);
            }
        }
        out
    }

    pub fn compile(&self) -> Result<Plan, PlanError> {
        Plan::compile(&self.encode())
    }
}

fn encode_list(out: &mut Vec<u8>, list: &[u64]) {
    write_array_len(out, list.len() as u32).unwrap();
    for &value in list {
        write_uint(out, value).unwrap();
    }
}

/// The shop's saga as a chain: charge and reserve read what create gave, schedule is the pivot.
pub fn shop() -> SagaModel {
    let mut saga = SagaModel::new("place-order");
    saga.step("create", &[]);
    saga.step("charge", &[0]);
    saga.step("reserve", &[1]);
    saga.step("schedule", &[2]);
    saga.steps[1].reads = vec![0];
    saga.steps[2].reads = vec![0];
    saga.steps[3].reads = vec![2, 1];
    saga.steps[3].flags = PIVOT;
    saga.returns = vec![3];
    saga
}

/// The set of these steps.
pub fn set(steps: &[u64]) -> u64 {
    steps.iter().fold(0, |set, step| set | 1 << step)
}

/// The steps of a set, ascending.
pub fn members(set: u64) -> Vec<u64> {
    (0..64).filter(|step| set & (1 << step) != 0).collect()
}
