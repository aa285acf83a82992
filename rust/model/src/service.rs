//! The services: fences, effects, and the tokens that they pass on.
//!
//! Once a token was delivered, a service may act on it at any time and again: that stands for repeated messages, for
//! processes that are killed and restarted anywhere, and for one that was paused for an hour.

use crate::action::Action;
use crate::broker::{self, Barrier, abort, is_deciding, is_past_pivot, may_abort, publish, visible};
use crate::external;
use crate::model::{Model, Moves};
use crate::mutation::Mutation;
use crate::plan::{Steps, bit, each, has};
use crate::property::{at_effect, at_undo};
use crate::state::{ATTEMPTS, RUNS, Row, Saga, State, Tokens, UNDOS, dones, runs, steps_of, undones, undos};

pub fn moves(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    deliveries(model, state, number, moves);
    for attempt in 0..ATTEMPTS {
        for step in each(state.sagas[number].delivered[attempt]) {
            if has(model.setting.external, step) {
                external::act(model, state, number, attempt, step, moves);
            } else {
                act(model, state, number, attempt, step, moves);
            }
        }
        for step in each(state.sagas[number].undo_delivered[attempt]) {
            compensate(model, state, number, attempt, step, moves);
        }
    }
    for step in each(state.sagas[number].delivered[state.sagas[number].attempt()]) {
        move_on(model, state, number, step, moves);
        give_up(model, state, number, step, moves);
    }
    for step in each(state.sagas[number].undo_delivered[state.sagas[number].attempt()]) {
        move_undo_on(model, state, number, step, moves);
    }
}

/// What the broker delivers may be delivered again in its next boot.
fn deliveries(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let attempt = saga.attempt();
    let seen = visible(model, saga);
    for step in each(steps_of(seen, RUNS)) {
        let mut next = *saga;
        next.delivered[attempt] |= bit(step);
        if broker::tracks_boot(model) {
            next.delivered_in_boot |= bit(step);
        }
        if model.plan.pivot == Some(step) {
            next.deciding = 1;
        }
        moves.saga(state, number, next, Action::Delivered { saga: number, step }, None);
    }
    for step in each(steps_of(seen, UNDOS)) {
        let mut next = *saga;
        next.undo_delivered[attempt] |= bit(step);
        if broker::tracks_boot(model) {
            next.undo_delivered_in_boot |= bit(step);
        }
        moves.saga(state, number, next, Action::UndoDelivered { saga: number, step }, None);
    }
}

/// The row of a step, where the fence keeps it.
pub fn row_of(model: &Model, saga: &Saga, attempt: usize, step: usize) -> Row {
    let attempt = if model.breaks(Mutation::AttemptNotInKey) { 0 } else { attempt };
    saga.rows[attempt][step]
}

pub fn set_row(model: &Model, saga: &mut Saga, attempt: usize, step: usize, row: Row) {
    let attempt = if model.breaks(Mutation::AttemptNotInKey) { 0 } else { attempt };
    saga.rows[attempt][step] = row;
}

/// The action's local transaction: its effect or its rejection, with the row.
fn act(model: &Model, state: &State, number: usize, attempt: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    if has(state.refused[step], number) && !model.breaks(Mutation::RowsGoneUnguarded) {
        return;
    }
    let row = row_of(model, saga, attempt, step);
    let runs_again = model.breaks(Mutation::NoFence) && row == Row::DID;
    if row != Row::NONE && !runs_again {
        return;
    }
    let mut next = *saga;
    next.did[attempt] |= bit(step);
    set_row(model, &mut next, attempt, step, Row::DID);
    let broken = at_effect(model, state, number, attempt, step);
    moves.saga(state, number, next, Action::Did { saga: number, attempt, step }, broken);
    let may_reject = !model.plan.is_past(step) || model.breaks(Mutation::RejectPastPivot);
    if has(model.setting.rejects, step) && may_reject {
        reject(model, state, number, attempt, step, moves);
    }
}

pub fn reject(model: &Model, state: &State, number: usize, attempt: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let mut next = *saga;
    let mut broken = None;
    if model.breaks(Mutation::RejectionNotStored) {
        if !holds(model, saga, attempt, step) || !may_abort(model, saga, Some(step)) {
            return;
        }
        broken = abort(model, &mut next, Some(step), false);
    } else {
        set_row(model, &mut next, attempt, step, Row::REJECTED);
    }
    moves.saga(state, number, next, Action::Rejected { saga: number, attempt, step }, broken);
}

/// The service has the step's pending RUN in hand.
pub fn holds(model: &Model, saga: &Saga, attempt: usize, step: usize) -> bool {
    let in_this_boot = has(saga.delivered_in_boot, step) || !broker::refuses_old_boots(model);
    saga.attempt() == attempt && saga.live.pending & runs(bit(step)) != 0 && in_this_boot
}

/// What a step publishes when it is done, from the plan.
pub fn after_step(model: &Model, step: usize) -> Tokens {
    let graph = &model.plan.forward;
    runs(graph.next[step]) | dones(graph.target[step].map_or(0, |_| bit(step)))
}

/// What a compensation publishes when it is done, from the plan and the set that is undone.
pub fn after_undo(model: &Model, undo: Steps, step: usize) -> Tokens {
    let graph = &model.plan.undo[usize::from(undo)];
    undos(graph.next[step]) | undones(graph.target[step].map_or(0, |_| bit(step)))
}

/// The row's outcome goes to the broker: the token moves on, or the saga aborts.
fn move_on(model: &Model, state: &State, number: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let attempt = saga.attempt();
    let unchecked = model.breaks(Mutation::MoveOnUnchecked) && saga.live.pending != 0;
    if !holds(model, saga, attempt, step) && !unchecked {
        return;
    }
    let mut next = *saga;
    match row_of(model, saga, attempt, step) {
        Row::DID => {
            let consumes = if model.breaks(Mutation::AckApart) { 0 } else { runs(bit(step)) };
            let broken = publish(model, &mut next, consumes, after_step(model, step), Barrier::None);
            moves.saga(state, number, next, Action::MovedOn { saga: number, step }, broken);
        }
        Row::REJECTED if may_abort(model, saga, Some(step)) && !is_past_pivot(model, saga) => {
            let stale = !has(saga.delivered_in_boot, step);
            let broken = abort(model, &mut next, Some(step), stale);
            moves.saga(state, number, next, Action::Failed { saga: number, step }, broken);
        }
        _ => {}
    }
}

/// The service's tries are used up: the step may have run, or may still run.
fn give_up(model: &Model, state: &State, number: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    if !model.setting.gives_up || !holds(model, saga, saga.attempt(), step) || is_deciding(model, saga) {
        return;
    }
    let mut next = *saga;
    let stale = !has(saga.delivered_in_boot, step);
    let broken = abort(model, &mut next, None, stale);
    moves.saga(state, number, next, Action::GaveUp { saga: number, step }, broken);
}

/// The compensation's local transaction: what it undoes, or a tombstone.
fn compensate(model: &Model, state: &State, number: usize, attempt: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    if has(state.refused[step], number) || has(saga.failing, step) {
        return;
    }
    let mut next = *saga;
    let mut broken = None;
    match row_of(model, saga, attempt, step) {
        Row::NONE => {
            next.buried[attempt] |= bit(step);
            if !model.breaks(Mutation::NoTombstone) {
                set_row(model, &mut next, attempt, step, Row::TOMBSTONE);
            }
        }
        Row::INTENT if !has(saga.did[attempt], step) => {
            // The call is cancelled by its key: what arrives later is refused out there.
            next.buried[attempt] |= bit(step);
            set_row(model, &mut next, attempt, step, Row::UNDONE);
        }
        Row::DID | Row::INTENT => {
            broken = at_undo(model, saga, attempt, step);
            next.buried[attempt] |= bit(step);
            set_row(model, &mut next, attempt, step, Row::UNDONE);
        }
        _ => return,
    }
    moves.saga(state, number, next, Action::Undid { saga: number, attempt, step }, broken);
}

fn move_undo_on(model: &Model, state: &State, number: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let in_this_boot = has(saga.undo_delivered_in_boot, step) || !broker::refuses_old_boots(model);
    if saga.live.pending & undos(bit(step)) == 0 || !in_this_boot {
        return;
    }
    let is_answered = match row_of(model, saga, saga.attempt(), step) {
        Row::TOMBSTONE | Row::UNDONE | Row::REJECTED => true,
        Row::NONE => model.breaks(Mutation::NoTombstone) && has(saga.buried[saga.attempt()], step),
        _ => false,
    };
    if !is_answered && !model.breaks(Mutation::UndoGivenUp) {
        return;
    }
    let mut next = *saga;
    let publishes = after_undo(model, saga.live.undo, step);
    let broken = publish(model, &mut next, undos(bit(step)), publishes, Barrier::None);
    moves.saga(state, number, next, Action::UndoMovedOn { saga: number, step }, broken);
}
