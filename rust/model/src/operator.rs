//! Operators: a compensation that does not succeed is listed as stuck. They repair what it needs and it is tried again,
//! or they skip it; past the pivot they resolve a step. A stuck saga does not hold the watermark back.

use crate::action::Action;
use crate::broker::{Barrier, publish};
use crate::model::{Model, Moves};
use crate::mutation::Mutation;
use crate::plan::{bit, each};
use crate::service::{after_step, after_undo};
use crate::state::{RUNS, State, UNDOS, runs, steps_of, undos};

pub fn moves(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    if !model.setting.operator {
        return;
    }
    let saga = &state.sagas[number];
    if model.setting.watermarks && saga.live.pending & undos(saga.failing) != 0 {
        let mut next = *saga;
        next.live.excepted = 1;
        moves.saga(state, number, next, Action::Excepted { saga: number }, None);
    }
    for step in each(saga.failing) {
        let mut next = *saga;
        next.failing &= !bit(step);
        moves.saga(state, number, next, Action::Repaired { saga: number, step }, None);
    }
    let past = each(steps_of(saga.live.pending, RUNS)).filter(|&step| model.plan.is_past(step));
    let resolved = past.map(|step| (step, runs(bit(step)), after_step(model, step)));
    let undoing = each(steps_of(saga.live.pending, UNDOS));
    let skipped = undoing.map(|step| (step, undos(bit(step)), after_undo(model, saga.live.undo, step)));
    for (step, token, publishes) in resolved.chain(skipped) {
        let mut next = *saga;
        next.live.skipped |= bit(step);
        let consumes = if model.breaks(Mutation::SkipLeavesToken) { 0 } else { token };
        let broken = publish(model, &mut next, consumes, publishes, Barrier::Skip);
        moves.saga(state, number, next, Action::Skipped { saga: number, step }, broken);
    }
}
