//! External actions, which no local transaction covers (rules 3 and 4): the intent is stored before the call, a
//! repeated call carries the same key, and a compensation that finds an intent cancels by the key.
//!
//! A call that was made may reach the outside world at any time after, and again: `did` and `buried` are what stands
//! there under the key.

use crate::action::Action;
use crate::model::{Model, Moves};
use crate::mutation::Mutation;
use crate::plan::{bit, has};
use crate::property::at_effect;
use crate::service::{reject, row_of, set_row};
use crate::state::{Row, State};

pub fn act(model: &Model, state: &State, number: usize, attempt: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let is_refused = has(state.refused[step], number);
    match row_of(model, saga, attempt, step) {
        Row::NONE if !is_refused => {
            let mut next = *saga;
            next.calling[attempt] |= bit(step);
            if !model.breaks(Mutation::IntentNotStored) {
                set_row(model, &mut next, attempt, step, Row::INTENT);
            }
            moves.saga(state, number, next, Action::Intended { saga: number, attempt, step }, None);
        }
        Row::INTENT if !is_refused => {
            let mut next = *saga;
            next.calling[attempt] |= bit(step);
            next.retried[attempt] |= bit(step);
            moves.saga(state, number, next, Action::CalledAgain { saga: number, attempt, step }, None);
            answers(model, state, number, attempt, step, moves);
        }
        _ => {}
    }
    reaches(model, state, number, attempt, step, moves);
}

/// The call takes effect, unless its key is known there: done already, or cancelled.
fn reaches(model: &Model, state: &State, number: usize, attempt: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let is_done = has(saga.did[attempt], step) && !model.breaks(Mutation::CalledWithoutKey);
    let is_cancelled = has(saga.buried[attempt], step) && row_of(model, saga, attempt, step) == Row::UNDONE;
    let is_cancelled = is_cancelled && !model.breaks(Mutation::CancelWithoutKey);
    if !has(saga.calling[attempt], step) || is_done || is_cancelled {
        return;
    }
    let mut next = *saga;
    next.did[attempt] |= bit(step);
    let broken = at_effect(model, state, number, attempt, step);
    moves.saga(state, number, next, Action::Did { saga: number, attempt, step }, broken);
}

/// What a call was answered is stored: done, or rejected. A rejection is clean only if no earlier try may have called.
fn answers(model: &Model, state: &State, number: usize, attempt: usize, step: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    if has(saga.did[attempt], step) {
        let mut next = *saga;
        set_row(model, &mut next, attempt, step, Row::DID);
        moves.saga(state, number, next, Action::Answered { saga: number, attempt, step }, None);
        return;
    }
    let is_first = !has(saga.retried[attempt], step);
    if has(model.setting.rejects, step) && (is_first || model.breaks(Mutation::RejectedDespiteIntent)) {
        let mut from = *state;
        if is_first {
            from.sagas[number].calling[attempt] &= !bit(step);
        }
        reject(model, &from, number, attempt, step, moves);
    }
}
