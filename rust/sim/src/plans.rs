//! Sagas to run: the shop, and random ones, as the definitions that clients send.

use rmp::encode::{write_array_len, write_str, write_uint};

use crate::random::Random;

const FLAG_PIVOT: u64 = 1;
const FLAG_COMPENSABLE: u64 = 2;

/// A saga before it is encoded.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    pub input_max: u64,
    pub deadline_ms: u64,
    pub undo_in_a_chain: bool,
    pub returns: Vec<u64>,
    pub steps: Vec<StepDefinition>,
}

/// A step, which names others by their places.
#[derive(Debug, Clone, Default)]
pub struct StepDefinition {
    pub service: usize,
    pub result_max: u64,
    pub is_pivot: bool,
    pub is_compensable: bool,
    pub after: Vec<u64>,
    pub reads: Vec<u64>,
    pub undo_before: Vec<u64>,
}

/// The name of a service.
pub fn service_name(service: usize) -> String {
    format!("service-{service}")
}

/// The name of a step: it says of which plan, so that a service knows its steps apart.
pub fn step_name(plan: usize, step: usize) -> String {
    format!("plan-{plan}-step-{step}")
}

impl Definition {
    /// The bytes that peers compile. `plan` is its place among the plans of the run.
    pub fn encode(&self, plan: usize) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a vector cannot fail, here and below.
        let _ = write_array_len(&mut out, 7);
        number(&mut out, 1);
        let _ = write_str(&mut out, &self.name);
        for value in [self.input_max, self.deadline_ms, u64::from(self.undo_in_a_chain)] {
            number(&mut out, value);
        }
        list(&mut out, &self.returns);
        let _ = write_array_len(&mut out, self.steps.len() as u32);
        for (index, step) in self.steps.iter().enumerate() {
            let _ = write_array_len(&mut out, 7);
            let _ = write_str(&mut out, &step_name(plan, index));
            let _ = write_str(&mut out, &service_name(step.service));
            number(&mut out, step.result_max);
            let pivot = if step.is_pivot { FLAG_PIVOT } else { 0 };
            let compensable = if step.is_compensable { FLAG_COMPENSABLE } else { 0 };
            number(&mut out, pivot | compensable);
            for places in [&step.after, &step.reads, &step.undo_before] {
                list(&mut out, places);
            }
        }
        out
    }

    /// The shop: order, payment, inventory and shipping, in a chain or with payment and inventory side by side.
    pub fn shop(side_by_side: bool, services: usize) -> Self {
        let step = |service: usize, after: &[u64], reads: &[u64]| StepDefinition {
            service: service % services,
            result_max: 16,
            is_compensable: true,
            after: after.to_vec(),
            reads: reads.to_vec(),
            ..StepDefinition::default()
        };
        let mut steps = vec![
            step(0, &[], &[]),
            step(1, &[0], &[0]),
            step(2, if side_by_side { &[0] } else { &[1] }, &[0]),
            step(3, if side_by_side { &[1, 2] } else { &[2] }, &[2, 1]),
        ];
        steps[3].is_pivot = true;
        steps[3].is_compensable = false;
        Self {
            name: "place-order".to_owned(),
            input_max: 64,
            deadline_ms: 30_000,
            undo_in_a_chain: false,
            returns: vec![3],
            steps,
        }
    }

    /// Layers of three that are all joined, forward and back.
    pub fn crowded(random: &mut Random, services: usize) -> Self {
        let mut saga = Self { name: "crowded".to_owned(), ..Self::random(random, 1, services) };
        saga.deadline_ms = 30_000;
        saga.returns.clear();
        saga.undo_in_a_chain = false;
        let layers = random.between(2, 4);
        saga.steps = (0..layers * 3)
            .map(|step| {
                let before: Vec<u64> = (0..3).filter(|_| step >= 3).map(|at| step / 3 * 3 - 3 + at).collect();
                StepDefinition {
                    service: random.index(services),
                    result_max: 8,
                    is_compensable: true,
                    after: before.clone(),
                    reads: before.clone(),
                    ..StepDefinition::default()
                }
            })
            .collect();
        saga
    }

    /// A random saga of up to `steps_max` steps.
    pub fn random(random: &mut Random, steps_max: usize, services: usize) -> Self {
        let count = random.between(1, steps_max as u64) as usize;
        let shape = random.below(4);
        let mut steps: Vec<StepDefinition> = Vec::new();
        for index in 0..count {
            let after = match shape {
                0 => chain(index),
                1 => layered(random, index),
                _ => sparse(random, index),
            };
            steps.push(StepDefinition {
                service: random.index(services),
                result_max: random.magnitude(8, 64),
                is_compensable: random.chance(9_000),
                after,
                ..StepDefinition::default()
            });
        }
        if random.coin() {
            let pivot = random.index(count);
            decide_at(&mut steps, pivot);
        }
        let ancestors = ancestors(&steps);
        for (index, step) in steps.iter_mut().enumerate() {
            let earlier = (0..index as u64).filter(|at| ancestors[index] & (1 << at) != 0);
            step.reads = earlier.filter(|_| random.chance(4_000)).collect();
            if random.coin() {
                step.reads.reverse();
            }
            step.undo_before = (0..index as u64).filter(|_| random.chance(1_500)).collect();
        }
        Self {
            name: format!("random-{shape}"),
            input_max: random.magnitude(8, 128),
            deadline_ms: random.magnitude(500, 30_000),
            undo_in_a_chain: random.chance(3_000),
            returns: (0..count as u64).filter(|_| random.chance(3_000)).collect(),
            steps,
        }
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    let _ = write_uint(out, value);
}

fn list(out: &mut Vec<u8>, places: &[u64]) {
    let _ = write_array_len(out, places.len() as u32);
    for &place in places {
        number(out, place);
    }
}

fn chain(index: usize) -> Vec<u64> {
    index.checked_sub(1).map(|before| before as u64).into_iter().collect()
}

/// Layers of three, each after all of the layer before: forks with joins.
fn layered(random: &mut Random, index: usize) -> Vec<u64> {
    let layer = index / 3;
    if layer == 0 {
        return if index > 0 && random.chance(2_000) { vec![0] } else { Vec::new() };
    }
    let before = (layer * 3 - 3) as u64..(layer * 3) as u64;
    let mut after: Vec<u64> = before.clone().filter(|_| random.chance(7_000)).collect();
    if after.is_empty() {
        after.push(before.start);
    }
    after
}

fn sparse(random: &mut Random, index: usize) -> Vec<u64> {
    (0..index as u64).filter(|_| random.chance(3_000)).collect()
}

/// Makes a step the pivot: all that is before it in the list comes before it, all behind it after it.
fn decide_at(steps: &mut [StepDefinition], pivot: usize) {
    steps[pivot].is_pivot = true;
    steps[pivot].after = (0..pivot as u64).collect();
    for step in &mut steps[pivot + 1..] {
        if !step.after.iter().any(|&at| at >= pivot as u64) {
            step.after.push(pivot as u64);
            step.after.sort_unstable();
        }
    }
}

/// By step, all that comes before it.
pub fn ancestors(steps: &[StepDefinition]) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::with_capacity(steps.len());
    for step in steps {
        found.push(step.after.iter().fold(0, |set, &at| set | 1 << at | found[at as usize]));
    }
    found
}
