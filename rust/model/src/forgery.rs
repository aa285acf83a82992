//! A peer that means harm, and sends what the plan does not say (rule 13). The broker compares what is published with
//! the plan, the sets with what is consumed, and the sender with who serves the step.

use crate::action::Action;
use crate::broker::{Barrier, publish};
use crate::configuration::Forger;
use crate::model::{Model, Move, Moves};
use crate::mutation::Mutation;
use crate::plan::{bit, each, has};
use crate::service::{after_step, after_undo};
use crate::state::{
    ARRIVALS, REVOKED, RUNS, Row, START, Saga, State, Tokens, UNDOS, dones, each_token, runs, steps_of, undones, undos,
};

/// What a forger sends.
#[derive(Debug, Clone, Copy)]
struct Forgery {
    consumes: Tokens,
    publishes: Tokens,
    /// It leaves its own step out of the sets.
    omits: Option<usize>,
}

pub fn moves(model: &Model, state: &State, number: usize, forger: Forger, moves: &mut Moves) {
    let saga = &state.sagas[number];
    for forgery in forgeries(model, saga, forger) {
        let Forgery { consumes, publishes, .. } = forgery;
        let action = Action::Forged { saga: number, consumes, publishes };
        if !accepts(model, saga, forger, forgery) {
            // Refused: it was tried, and nothing is changed.
            moves.list.push(Move { action, state: *state, broken: None });
            continue;
        }
        let mut next = *saga;
        next.live.omitted |= forgery.omits.map_or(0, bit);
        let broken = publish(model, &mut next, consumes, publishes, Barrier::None);
        moves.saga(state, number, next, action, broken);
    }
}

/// Everything that a forger may try: it knows, or guesses, the keys of all that is pending.
fn forgeries(model: &Model, saga: &Saga, forger: Forger) -> Vec<Forgery> {
    let steps = model.plan.steps;
    let any = START | runs(steps) | dones(steps) | undos(steps) | undones(steps);
    let mut all = Vec::new();
    for consumes in each_token(saga.live.pending) {
        // One message instead of another, and what the plan says on behalf of those whose turn it is.
        for publishes in each_token(any).chain([planned(model, saga, consumes)]) {
            all.push(Forgery { consumes, publishes, omits: None });
        }
    }
    if let Forger::Service(step) = forger {
        let consumes = saga.live.pending & runs(bit(step));
        // It did its step, but says otherwise.
        if consumes != 0 && saga.rows[saga.attempt()][step] == Row::DID {
            all.push(Forgery { consumes, publishes: after_step(model, step), omits: Some(step) });
        }
    }
    all.retain(|forgery| !is_trusted(model, saga, forger, *forgery));
    all
}

/// What a step may say of itself without a proof: that it is done, or undone.
fn is_trusted(model: &Model, saga: &Saga, forger: Forger, forgery: Forgery) -> bool {
    is_sender(forger, forgery.consumes)
        && forgery.publishes == planned(model, saga, forgery.consumes)
        && forgery.omits.is_none()
}

/// What the plan says that follows on a token. Joins are left to the honest: they consume more than one.
fn planned(model: &Model, saga: &Saga, consumes: Tokens) -> Tokens {
    let undo = saga.live.undo;
    let run = each(steps_of(consumes, RUNS)).fold(0, |all, step| all | after_step(model, step));
    let undone = each(steps_of(consumes, UNDOS)).fold(run, |all, step| all | after_undo(model, undo, step));
    let root = if consumes & START != 0 { runs(model.plan.forward.roots) } else { 0 };
    let revoked = consumes & REVOKED != 0;
    undone | root | if revoked { undos(model.plan.undo[usize::from(undo)].roots) } else { 0 }
}

/// Steps' tokens are consumed by who serves the step, all others by coordinators.
fn is_sender(forger: Forger, consumes: Tokens) -> bool {
    match forger {
        Forger::Service(step) => has(steps_of(consumes, RUNS) | steps_of(consumes, UNDOS), step),
        Forger::Coordinator => consumes & ARRIVALS != 0,
    }
}

/// The broker's check.
fn accepts(model: &Model, saga: &Saga, forger: Forger, forgery: Forgery) -> bool {
    let as_planned = forgery.publishes != 0 && forgery.publishes == planned(model, saga, forgery.consumes);
    (is_sender(forger, forgery.consumes) || model.breaks(Mutation::ForgedSender))
        && (as_planned || model.breaks(Mutation::ForgedPublication))
        && (forgery.omits.is_none() || model.breaks(Mutation::ForgedSets))
}
