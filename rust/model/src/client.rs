//! Clients: a START that is repeated until it is confirmed, and what they are told.

use crate::action::Action;
use crate::broker::{started, visible_outcome};
use crate::model::{Model, Move, Moves};
use crate::mutation::Mutation;
use crate::property::{Property, at_outcome};
use crate::state::{Outcome, START, Saga, State};

/// A client that was told nothing sends its START again. A saga that runs or is remembered under the key answers it.
pub fn starts(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    let sagas = &state.sagas[..model.setting.sagas];
    let is_known = |saga: &Saga| {
        let forgotten = model.breaks(Mutation::EndedForgotten) && saga.live.has_ended();
        saga.live.is_there() && !forgotten
    };
    let was_told = sagas.iter().any(|saga| saga.told != Outcome::NONE);
    // One that is lost and was never seen leaves its number to the next.
    let is_free = |saga: &Saga| !saga.live.is_there() && !saga.was_seen();
    let first_free = sagas.iter().position(is_free) == Some(number);
    let is_answered = sagas.iter().any(is_known) && !model.breaks(Mutation::StartTwice);
    if !first_free || is_answered || was_told {
        return;
    }
    let mut next = Saga { live: started(), ..Saga::ABSENT };
    if model.setting.relaxed && !model.breaks(Mutation::StartAhead) {
        next.barred = START;
    }
    moves.saga(state, number, next, Action::Started { saga: number }, None);
}

pub fn moves(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    if model.setting.starts && (saga.synced.is_there() || model.breaks(Mutation::ConfirmedEarly)) {
        let next = Saga { confirmed: 1, ..*saga };
        if saga.live.is_there() {
            moves.saga(state, number, next, Action::Confirmed { saga: number }, None);
        }
    }
    let outcome = visible_outcome(model, saga);
    if outcome != Outcome::NONE && outcome != saga.told {
        let mut next = *state;
        next.sagas[number].told = outcome;
        let changed = (saga.told != Outcome::NONE).then_some(Property::I6);
        let broken = changed.or_else(|| at_outcome(model, state, number));
        moves.list.push(Move { action: Action::Told { saga: number, outcome }, state: next, broken });
    }
}
