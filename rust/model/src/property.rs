//! What must hold: in every state, at every effect, and when a client is told.

use std::fmt;

use crate::model::Model;
use crate::plan::{Path, STEPS_MAX, Steps, each, has};
use crate::state::{DONES, FORWARD, Outcome, REVOKED, RUNS, Record, START, Saga, State, UNDONES, UNDOS, steps_of};

/// The invariants of the protocol that the model checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I12,
    I15,
    Ends,
}

impl fmt::Display for Property {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, text) = match self {
            Self::I1 => ("I1", "each unfinished branch has exactly one pending token"),
            Self::I2 => ("I2", "within an attempt a token is published once, relative to the durable log"),
            Self::I3 => ("I3", "completed: every effect is there; compensated: none is, then or ever after"),
            Self::I4 => ("I4", "an effect at most once for an attempt, an undo at most once"),
            Self::I5 => ("I5", "no effect after its compensation ran"),
            Self::I6 => ("I6", "an outcome that a client was told never changes"),
            Self::I7 => ("I7", "compensations keep their order; nothing past a pivot is undone"),
            Self::I8 => ("I8", "confirmed means durable"),
            Self::I12 => ("I12", "watermarks are monotone and pass no live saga"),
            Self::I15 => ("I15", "a step runs after those that the plan puts before it"),
            Self::Ends => ("ends", "without further faults every saga can still end"),
        };
        write!(out, "{name} ({text})")
    }
}

impl Property {
    pub fn short(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The first property that does not hold in a state.
pub fn violated(model: &Model, state: &State) -> Option<Property> {
    let sagas = &state.sagas[..model.setting.sagas];
    for (number, saga) in sagas.iter().enumerate() {
        if saga.live.is_there() && !has_shape(model, &saga.live) {
            return Some(Property::I1);
        }
        if saga.told != Outcome::NONE && saga.told != saga.live.outcome {
            return Some(Property::I6);
        }
        if saga.confirmed != 0 && !saga.live.is_there() {
            return Some(Property::I8);
        }
        let is_refused = state.refused.iter().any(|&refused| has(refused, number));
        if is_refused && !saga.live.has_ended() {
            return Some(Property::I12);
        }
    }
    None
}

/// I1: START or REVOKED alone, one token on every way through the plan or through what is undone, or the outcome alone.
fn has_shape(model: &Model, record: &Record) -> bool {
    let pending = record.pending;
    if record.has_ended() {
        return pending == 0;
    }
    if pending & (START | REVOKED) != 0 {
        return pending.count_ones() == 1;
    }
    if pending & FORWARD != 0 {
        return pending & !FORWARD == 0
            && is_cut(&model.plan.forward.paths, steps_of(pending, RUNS), steps_of(pending, DONES));
    }
    let graph = &model.plan.undo[usize::from(record.undo)];
    is_cut(&graph.paths, steps_of(pending, UNDOS), steps_of(pending, UNDONES))
}

fn is_cut(paths: &[Path], riding: Steps, arrived: Steps) -> bool {
    let (mut ridden, mut collected) = (0, 0);
    for path in paths {
        (ridden, collected) = (ridden | path.steps, collected | path.arrivals);
        if (path.steps & riding).count_ones() + (path.arrivals & arrived).count_ones() != 1 {
            return false;
        }
    }
    riding & !ridden == 0 && arrived & !collected == 0
}

/// What an action breaks whose effect happens now.
pub fn at_effect(model: &Model, state: &State, number: usize, attempt: usize, step: usize) -> Option<Property> {
    let saga = &state.sagas[number];
    if has(saga.did[attempt], step) {
        return Some(Property::I4);
    }
    if has(saga.live.skipped, step) {
        return None;
    }
    if has(saga.buried[attempt], step) {
        return Some(Property::I5);
    }
    if model.same_key(number).any(|other| state.sagas[other].told != Outcome::NONE) {
        return Some(Property::I3);
    }
    let there = saga.standing(attempt) | saga.live.skipped;
    (model.plan.earlier[step] & !there != 0).then_some(Property::I15)
}

/// What a compensation breaks that undoes its effect now.
pub fn at_undo(model: &Model, saga: &Saga, attempt: usize, step: usize) -> Option<Property> {
    if has(saga.buried[attempt], step) {
        return Some(Property::I4);
    }
    if saga.told != Outcome::NONE && !has(saga.live.skipped, step) {
        return Some(Property::I3);
    }
    let first = model.plan.undo_needs[step] & saga.standing(attempt) & !saga.live.skipped;
    (model.plan.is_past(step) || first != 0).then_some(Property::I7)
}

/// What is wrong when a client is told this outcome.
pub fn at_outcome(model: &Model, state: &State, number: usize) -> Option<Property> {
    let saga = &state.sagas[number];
    let expected = u32::from(saga.live.outcome == Outcome::COMPLETED);
    let mut counts = [0; STEPS_MAX];
    for other in model.same_key(number) {
        let other = &state.sagas[other];
        for step in each(other.standing(0)).chain(each(other.standing(1))) {
            counts[step] += 1;
        }
    }
    let wrong = each(model.plan.steps & !saga.live.skipped).any(|step| counts[step] != expected);
    wrong.then_some(Property::I3)
}

/// Whether nothing is left to do.
pub fn is_over(model: &Model, state: &State) -> bool {
    let sagas = &state.sagas[..model.setting.sagas];
    let is_over = |saga: &Saga| saga.told != Outcome::NONE && saga.synced.has_ended();
    if model.setting.starts { sagas.iter().any(is_over) } else { sagas.iter().all(is_over) }
}
