//! The broker: one log, what of it may be seen, abort, syncing, and what a stop leaves.

use crate::action::Action;
use crate::model::{Model, Move, Moves};
use crate::mutation::Mutation;
use crate::plan::{bit, each, has};
use crate::property::Property;
use crate::state::{
    DONES, FORWARD, Outcome, REVOKED, RUNS, Record, Row, START, Saga, State, Tokens, UNDOS, each_token, runs, sets_of,
    steps_of,
};

/// Why a publication waits for the sync in relaxed visibility.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    None,
    Restart,
    FirstUndo,
    Skip,
}

/// What may leave the broker: what is durable, and in relaxed visibility what is not barred.
pub fn visible(model: &Model, saga: &Saga) -> Tokens {
    let durable = if saga.live.attempt == saga.synced.attempt { saga.live.pending & saga.synced.pending } else { 0 };
    if model.breaks(Mutation::VisibleEarly) {
        saga.live.pending
    } else if model.setting.relaxed {
        durable | (saga.live.pending & !saga.barred)
    } else {
        durable
    }
}

/// The outcome that a client may be told.
pub fn visible_outcome(model: &Model, saga: &Saga) -> Outcome {
    let early = model.breaks(Mutation::VisibleEarly) || model.breaks(Mutation::ResultAhead);
    if early || saga.live.outcome == saga.synced.outcome { saga.live.outcome } else { Outcome::NONE }
}

/// One record: these are consumed, those published. The caller has compared what it consumes with what is pending.
pub fn publish(
    model: &Model,
    saga: &mut Saga,
    consumes: Tokens,
    publishes: Tokens,
    barrier: Barrier,
) -> Option<Property> {
    let again = saga.live.used & publishes;
    saga.live.pending = saga.live.pending & !consumes | publishes;
    saga.live.used |= publishes;
    if model.setting.relaxed {
        saga.barred |= barred(model, publishes, barrier);
    }
    settle(model, saga);
    (again != 0).then_some(Property::I2)
}

fn barred(model: &Model, publishes: Tokens, barrier: Barrier) -> Tokens {
    let pivot = match model.plan.pivot {
        Some(pivot) if !model.breaks(Mutation::PivotAhead) => publishes & runs(bit(pivot)),
        _ => 0,
    };
    let rest = match barrier {
        Barrier::None => false,
        Barrier::Restart => !model.breaks(Mutation::RestartAhead),
        Barrier::FirstUndo => !model.breaks(Mutation::UndoAhead),
        Barrier::Skip => !model.breaks(Mutation::SkipAhead),
    };
    pivot | if rest { publishes } else { 0 }
}

/// What is no longer pending is neither leased nor anything else.
pub fn settle(model: &Model, saga: &mut Saga) {
    let pending = saga.live.pending;
    saga.barred &= pending;
    saga.spilled &= pending;
    if !model.breaks(Mutation::ArrivalsIntoMemory) {
        saga.leases = saga.leases.map(|leased| leased & pending);
        saga.in_flight = saga.in_flight.map(|sent| sent & pending);
    }
    saga.delivered_in_boot &= steps_of(pending, RUNS);
    saga.undo_delivered_in_boot &= steps_of(pending, UNDOS);
    if model.plan.pivot.is_none_or(|pivot| pending & runs(bit(pivot)) == 0) {
        saga.deciding = 0;
    }
}

/// Whether a transaction built under an earlier boot is refused (rule 1).
pub fn refuses_old_boots(model: &Model) -> bool {
    let unchecked = [Mutation::BootUnchecked, Mutation::OldBootDecidesWide];
    model.setting.relaxed && !unchecked.into_iter().any(|mutation| model.breaks(mutation))
}

/// Whether deliveries of this boot are told from earlier ones.
pub fn tracks_boot(model: &Model) -> bool {
    let others = [Mutation::ExpiredCleanIfNotSeen, Mutation::OldBootDecidesWide];
    refuses_old_boots(model) || others.into_iter().any(|mutation| model.breaks(mutation))
}

/// Whether the pivot was delivered or is done (rule 6).
pub fn is_deciding(model: &Model, saga: &Saga) -> bool {
    (saga.deciding != 0 && !model.breaks(Mutation::AbortWhileDeciding))
        || (is_past_pivot(model, saga) && !model.breaks(Mutation::AbortPastPivot))
}

pub fn is_past_pivot(model: &Model, saga: &Saga) -> bool {
    let Some(pivot) = model.plan.pivot else { return false };
    each_token(saga.live.pending & FORWARD).any(|token| has(sets_of(&model.plan, token).0, pivot))
}

/// Whether an abort is accepted; `rejected` is the step whose clean FAIL asks for it.
pub fn may_abort(model: &Model, saga: &Saga, rejected: Option<usize>) -> bool {
    if model.breaks(Mutation::AbortInAnyPhase) {
        return saga.live.is_there();
    }
    let goes_forward = saga.live.pending != 0 && saga.live.pending & !FORWARD == 0;
    let pivot_says_no = rejected.is_some() && rejected == model.plan.pivot;
    goes_forward && (!is_deciding(model, saga) || pivot_says_no)
}

/// One record that consumes every pending token and publishes REVOKED (rule 5).
/// A sender is of an old boot if its token was last delivered before the broker's last stop.
pub fn abort(model: &Model, saga: &mut Saga, rejected: Option<usize>, is_old: bool) -> Option<Property> {
    let pending = saga.live.pending;
    let forgotten = match model.mutation {
        Some(Mutation::AbortLeavesSpilled) => saga.spilled,
        Some(Mutation::AbortLeavesLeased) => saga.leases[0] | saga.leases[1],
        _ => 0,
    };
    let (mut reached, mut siblings) = (0, 0);
    for token in each_token(pending & FORWARD & !forgotten) {
        let (done, active) = sets_of(&model.plan, token);
        reached |= done;
        siblings |= active;
    }
    let keeps = match model.mutation {
        Some(Mutation::AbortWithoutActive) => 0,
        // Only the first of two that run side by side.
        Some(Mutation::AbortForgetsSibling) => siblings & siblings.wrapping_neg(),
        _ => siblings,
    };
    reached |= keeps;
    if let Some(step) = rejected {
        reached &= !bit(step);
    }
    reached &= !saga.live.omitted;
    let is_wide = saga.wide != 0 && !(is_old && model.breaks(Mutation::OldBootDecidesWide));
    if is_wide || saga.live.has_ended() {
        reached = model.plan.steps;
    }
    saga.live.undo = reached & model.plan.compensable;
    saga.live.outcome = Outcome::NONE;
    publish(model, saga, pending & !forgotten, REVOKED, Barrier::None)
}

/// The sagas below the watermark: every saga before them has durably ended, or is excepted by name (rule 12).
fn below_watermark(model: &Model, state: &State) -> u8 {
    let mut below = 0u8;
    for (number, saga) in state.sagas[..model.setting.sagas].iter().enumerate() {
        let record = if model.breaks(Mutation::WatermarkEarly) { &saga.live } else { &saga.synced };
        if record.has_ended() && model.breaks(Mutation::WatermarkPastLive) {
            below |= (2 << number) - 1;
        } else if record.has_ended() || (record.excepted != 0 && model.breaks(Mutation::ExceptionUntold)) {
            below |= 1 << number;
        } else if record.excepted == 0 && !model.breaks(Mutation::WatermarkPastLive) {
            break;
        }
    }
    below
}

/// What the broker does by itself.
pub fn moves(model: &Model, state: &State, moves: &mut Moves) {
    let mut synced = *state;
    for saga in &mut synced.sagas[..model.setting.sagas] {
        saga.synced = saga.live;
        saga.barred = 0;
    }
    moves.state(state, synced, Action::Synced);
    if model.setting.broker_stops {
        let mut stopped = *state;
        for saga in &mut stopped.sagas[..model.setting.sagas] {
            stop(model, saga);
        }
        moves.state(state, stopped, Action::BrokerStopped);
    }
    if model.setting.watermarks {
        let below = below_watermark(model, state);
        for step in each(model.plan.steps).filter(|&step| below != state.refused[step]) {
            let regressed = (state.refused[step] & !below != 0).then_some(Property::I12);
            let (action, next) = (Action::Watermark { step, below }, told_watermark(state, step, below));
            moves.list.push(Move { action, state: next, broken: regressed });
        }
    }
    for number in 0..model.setting.sagas {
        aborts(model, state, number, moves);
    }
}

fn stop(model: &Model, saga: &mut Saga) {
    let lost = *saga;
    saga.live = saga.synced;
    if model.breaks(Mutation::ConsumedComesBack) {
        // Of a segment in the middle that is gone, what was consumed there comes back.
        saga.live.pending |= saga.synced.used & runs(model.plan.forward.roots);
    }
    if model.breaks(Mutation::ExceptionForgotten) {
        (saga.live.excepted, saga.synced.excepted) = (0, 0);
    }
    saga.leases = [0; 2];
    saga.in_flight = [0; 2];
    saga.spilled = 0;
    saga.barred = 0;
    saga.delivered_in_boot = 0;
    saga.undo_delivered_in_boot = 0;
    let pivot = model.plan.pivot.map_or(0, |pivot| runs(bit(pivot)));
    let counts_as_delivered = saga.live.pending & pivot != 0 && !model.breaks(Mutation::DecidingForgotten);
    saga.deciding = u8::from(counts_as_delivered);
    let lives = saga.live.is_there() && !saga.live.has_ended();
    if model.setting.relaxed {
        saga.wide = u8::from(lives && !model.breaks(Mutation::NotWide));
    }
    if !saga.live.is_there() {
        forget_unseen(saga, &lost);
    }
    settle(model, saga);
    saga.order_coordinators();
}

/// A saga that the log never had, and that nobody saw, leaves nothing.
fn forget_unseen(saga: &mut Saga, lost: &Saga) {
    if !lost.was_seen() {
        *saga = Saga::ABSENT;
    }
}

/// A service stores a watermark and deletes the rows below it, in one local transaction.
fn told_watermark(state: &State, step: usize, below: u8) -> State {
    let mut next = *state;
    next.refused[step] = below;
    for (_, saga) in next.sagas.iter_mut().enumerate().filter(|(number, _)| has(below, *number)) {
        for rows in &mut saga.rows {
            rows[step] = Row::NONE;
        }
    }
    next
}

/// Deadlines and cancels.
fn aborts(model: &Model, state: &State, number: usize, moves: &mut Moves) {
    let saga = &state.sagas[number];
    if !may_abort(model, saga, None) {
        return;
    }
    let pending = saga.live.pending;
    if model.setting.cancels {
        let mut next = *saga;
        let broken = abort(model, &mut next, None, false);
        moves.saga(state, number, next, Action::Cancelled { saga: number }, broken);
    }
    if model.setting.expires && pending & (START | RUNS) != 0 {
        let mut next = *saga;
        let unseen = steps_of(pending, RUNS) & !saga.delivered_in_boot;
        let is_guess = model.breaks(Mutation::ExpiredCleanIfNotSeen) && pending & DONES == 0 && unseen != 0;
        let clean = is_guess.then_some(unseen.trailing_zeros() as usize);
        let broken = abort(model, &mut next, clean, false);
        moves.saga(state, number, next, Action::Expired { saga: number }, broken);
    }
}

/// A saga that has a START and nothing else.
pub fn started() -> Record {
    Record { pending: START, used: START, ..Record::ABSENT }
}
