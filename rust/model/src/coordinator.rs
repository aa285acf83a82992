//! Coordinators: slots that arrivals fill, decisions, spilling, and two that both believe that a saga is theirs.

use crate::action::Action;
use crate::broker::{Barrier, publish, settle, visible};
use crate::model::{Model, Moves, ended};
use crate::mutation::Mutation;
use crate::plan::{END, bit, each};
use crate::state::{
    ARRIVALS, DONES, Outcome, REVOKED, START, Saga, Slot, State, Tokens, UNDONES, dones, each_token, runs, steps_of,
    undones, undos,
};

pub fn moves(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    for coordinator in 0..model.setting.coordinators {
        deliveries(model, state, number, coordinator, moves);
        arrivals(model, state, number, coordinator, moves);
        let saga = &state.sagas[number];
        if let Some(tokens) = complete(model, &saga.slots[coordinator]) {
            decide(model, state, number, coordinator, tokens, moves);
        } else if saga.slots[coordinator] != Slot::EMPTY && model.setting.spills {
            spill(model, state, number, coordinator, moves);
        }
        if model.setting.coordinator_stops {
            stops(state, number, coordinator, moves);
        }
    }
}

/// All arrivals that are collected at the place of this one.
fn block(model: &Model, undo: u8, token: Tokens) -> Tokens {
    let (done, undone) = (steps_of(token, DONES), steps_of(token, UNDONES));
    let graph = &model.plan.undo[usize::from(undo)];
    let forward = each(done).fold(0, |all, step| all | dones(model.plan.forward.siblings(step)));
    each(undone).fold(forward | token, |all, step| all | undones(graph.siblings(step)))
}

/// One arrival is sent to a coordinator, and with it those that were spilled there.
fn deliveries(model: &Model, state: &State, number: usize, coordinator: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let other = saga.leases[1 - coordinator];
    if other != 0 && !model.breaks(Mutation::TwoOwners) {
        return;
    }
    let free = visible(model, saga) & ARRIVALS & !(saga.leases[0] | saga.leases[1]);
    for token in each_token(free & !saga.spilled) {
        let tokens = token | (free & saga.spilled & block(model, saga.live.undo, token));
        let mut next = *saga;
        next.leases[coordinator] |= tokens;
        next.in_flight[coordinator] |= tokens;
        next.spilled &= !tokens;
        moves.saga(state, number, next, Action::Sent { saga: number, coordinator, tokens }, None);
    }
}

/// What was sent to a coordinator reaches its slot, all that is on the way to one place at once.
fn arrivals(model: &Model, state: &State, number: usize, coordinator: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    for token in each_token(saga.in_flight[coordinator]) {
        let all = block(model, saga.live.undo, token);
        let undo = if token & (REVOKED | UNDONES) != 0 { saga.live.undo } else { 0 };
        let tokens = saga.in_flight[coordinator] & all;
        let mut next = *saga;
        next.in_flight[coordinator] &= !tokens;
        let slot = &mut next.slots[coordinator];
        if (slot.attempt, slot.undo) != (saga.live.attempt, undo) || slot.arrivals & !all != 0 {
            *slot = Slot { attempt: saga.live.attempt, undo, ..Slot::EMPTY };
        }
        slot.arrivals |= tokens;
        if model.breaks(Mutation::RecalledUnchecked) && tokens != token {
            slot.recalled = 1;
        }
        if model.breaks(Mutation::ArrivalsIntoMemory) {
            next.live.pending &= !(tokens & (DONES | UNDONES));
        }
        moves.saga(state, number, next, Action::Arrived { saga: number, coordinator, tokens }, None);
    }
}

/// The arrivals of a slot that are all that it waits for.
fn complete(model: &Model, slot: &Slot) -> Option<Tokens> {
    let lowest = each_token(slot.arrivals).next()?;
    let all = block(model, slot.undo, lowest);
    if model.breaks(Mutation::JoinTakesOne) && all & DONES != 0 {
        return Some(lowest);
    }
    (slot.arrivals & all == all).then_some(all)
}

/// One transaction. Refused as stale, the sender forgets, and what is still pending is delivered again.
fn decide(model: &Model, state: &State, number: usize, coordinator: usize, tokens: Tokens, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let slot = saga.slots[coordinator];
    let mut next = *saga;
    next.slots[coordinator] = Slot::EMPTY;
    let checked = match model.mutation {
        Some(Mutation::ArrivalsIntoMemory) => tokens & !(DONES | UNDONES),
        Some(Mutation::RecalledUnchecked) if slot.recalled != 0 => 0,
        _ => tokens,
    };
    let copied = tokens & (REVOKED | UNDONES) == 0 || slot.undo == saga.live.undo;
    if slot.attempt != saga.live.attempt || saga.live.pending & checked != checked || !copied {
        if !model.breaks(Mutation::RefusedKeepsLeases) {
            next.leases[coordinator] &= !slot.arrivals;
        }
        return moves.saga(state, number, next, Action::Refused { saga: number, coordinator }, None);
    }
    if model.breaks(Mutation::ArrivalsIntoMemory) {
        next.leases[coordinator] &= !tokens;
    }
    let action = Action::Decided { saga: number, coordinator, tokens };
    if tokens & START != 0 {
        let broken = publish(model, &mut next, tokens, runs(model.plan.forward.roots), Barrier::None);
        return moves.saga(state, number, next, action, broken);
    }
    if tokens & DONES != 0 {
        let target = model.plan.forward.target[steps_of(tokens, DONES).trailing_zeros() as usize];
        return match target {
            Some(step) if step != END => {
                let broken = publish(model, &mut next, tokens, runs(bit(step)), Barrier::None);
                moves.saga(state, number, next, action, broken);
            }
            _ => end(model, state, number, next, Outcome::COMPLETED, action, moves),
        };
    }
    let graph = &model.plan.undo[usize::from(saga.live.undo)];
    if tokens & REVOKED != 0 && saga.live.undo != 0 {
        let broken = publish(model, &mut next, tokens, undos(graph.roots), Barrier::FirstUndo);
        return moves.saga(state, number, next, action, broken);
    }
    if tokens & UNDONES != 0 {
        let target = graph.target[steps_of(tokens, UNDONES).trailing_zeros() as usize];
        if let Some(step) = target.filter(|&step| step != END) {
            let broken = publish(model, &mut next, tokens, undos(bit(step)), Barrier::None);
            return moves.saga(state, number, next, action, broken);
        }
    }
    if model.setting.restarts && saga.live.attempt == 0 {
        restart(model, state, number, next, moves);
    }
    end(model, state, number, next, Outcome::COMPENSATED, action, moves);
}

fn end(
    model: &Model,
    state: &State,
    number: usize,
    mut next: Saga,
    outcome: Outcome,
    action: Action,
    moves: &mut Moves,
) {
    next.live = ended(&next.live, outcome);
    settle(model, &mut next);
    moves.saga(state, number, next, action, None);
}

/// The roots of the next attempt, which has keys of its own.
fn restart(model: &Model, state: &State, number: usize, mut next: Saga, moves: &mut Moves) {
    next.live.attempt += 1;
    next.live.undo = 0;
    next.live.pending = 0;
    next.live.used = 0;
    settle(model, &mut next);
    let broken = publish(model, &mut next, 0, runs(model.plan.forward.roots), Barrier::Restart);
    moves.saga(state, number, next, Action::Restarted { saga: number }, broken);
}

/// A slot is dropped, if its session holds all that it names and nothing else is pending there.
fn spill(model: &Model, state: &State, number: usize, coordinator: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    let slot = saga.slots[coordinator];
    let mut next = *saga;
    next.slots[coordinator] = Slot::EMPTY;
    let is_pending = slot.attempt == saga.live.attempt && saga.live.pending & slot.arrivals == slot.arrivals;
    let is_held = saga.leases[coordinator] & slot.arrivals == slot.arrivals || model.breaks(Mutation::SpillNotHeld);
    if !is_pending || !is_held {
        next.leases[coordinator] &= !slot.arrivals;
        return moves.saga(state, number, next, Action::Refused { saga: number, coordinator }, None);
    }
    let all = each_token(slot.arrivals).fold(0, |all, token| all | block(model, slot.undo, token));
    let beside = saga.live.pending & all & !slot.arrivals & visible(model, saga);
    next.leases = next.leases.map(|leased| leased & !slot.arrivals);
    if beside == 0 || model.breaks(Mutation::SpillBesideArrival) {
        next.spilled |= slot.arrivals;
    }
    moves.saga(state, number, next, Action::Spilled { saga: number, coordinator }, None);
}

/// Its session ends, or its slices go to another: it stops, or it is paused and goes on later with what it had.
fn stops(state: &State, number: usize, coordinator: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    for remembers in [false, true] {
        let mut next = *saga;
        next.leases[coordinator] = 0;
        next.in_flight[coordinator] = 0;
        if !remembers {
            next.slots[coordinator] = Slot::EMPTY;
        }
        moves.saga(state, number, next, Action::CoordinatorStopped { saga: number, coordinator, remembers }, None);
    }
}
