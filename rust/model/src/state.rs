//! The state of the model: the log, what the broker forgets when it stops, coordinators, services and clients.
//!
//! A state is plain bytes, so that millions fit into memory and are compared at once.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::plan::{Plan, STEPS_MAX, Steps, each, has};

/// Tokens of one attempt, a bit each. A token's header follows from its name and the plan, so the bit is enough.
pub type Tokens = u32;

pub const START: Tokens = 1;
pub const REVOKED: Tokens = 1 << 9;
const RUN_AT: u32 = 1;
const DONE_AT: u32 = 5;
const UNDO_AT: u32 = 10;
const UNDONE_AT: u32 = 14;
const STEP_BITS: Tokens = (1 << STEPS_MAX) - 1;

pub const RUNS: Tokens = STEP_BITS << RUN_AT;
pub const DONES: Tokens = STEP_BITS << DONE_AT;
pub const UNDOS: Tokens = STEP_BITS << UNDO_AT;
pub const UNDONES: Tokens = STEP_BITS << UNDONE_AT;
/// A saga with one of these goes forward, and may be aborted.
pub const FORWARD: Tokens = START | RUNS | DONES;
/// What is delivered to coordinators.
pub const ARRIVALS: Tokens = START | DONES | REVOKED | UNDONES;

pub fn runs(steps: Steps) -> Tokens {
    Tokens::from(steps) << RUN_AT
}

pub fn dones(steps: Steps) -> Tokens {
    Tokens::from(steps) << DONE_AT
}

pub fn undos(steps: Steps) -> Tokens {
    Tokens::from(steps) << UNDO_AT
}

pub fn undones(steps: Steps) -> Tokens {
    Tokens::from(steps) << UNDONE_AT
}

/// The steps with a token of one kind: the inverse of the functions above.
pub fn steps_of(tokens: Tokens, kind: Tokens) -> Steps {
    ((tokens & kind) >> kind.trailing_zeros()) as Steps
}

/// The tokens of a set, one by one.
pub fn each_token(tokens: Tokens) -> impl Iterator<Item = Tokens> {
    (0..Tokens::BITS).map(|at| 1 << at).filter(move |token| tokens & token != 0)
}

/// How a saga ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Outcome(pub u8);

impl Outcome {
    pub const NONE: Self = Self(0);
    pub const COMPLETED: Self = Self(1);
    pub const COMPENSATED: Self = Self(2);
}

/// A row of a service's fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Row(pub u8);

impl Row {
    pub const NONE: Self = Self(0);
    pub const DID: Self = Self(1);
    pub const REJECTED: Self = Self(2);
    pub const TOMBSTONE: Self = Self(3);
    pub const UNDONE: Self = Self(4);
    /// An external action is about to be called, or was.
    pub const INTENT: Self = Self(5);
}

/// What the log says of a saga. Absent: nothing pending and no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    pub pending: Tokens,
    /// All that were ever published in this attempt, to see that none is published twice.
    pub used: Tokens,
    /// What the abort undoes.
    pub undo: Steps,
    pub attempt: u8,
    pub outcome: Outcome,
    /// What an operator gave up.
    pub skipped: Steps,
    /// What forged headers left out of the sets.
    pub omitted: Steps,
    /// It is stuck, and the watermark passes it by name.
    pub excepted: u8,
    pub unused: [u8; 2],
}

impl Record {
    pub const ABSENT: Self = Self {
        pending: 0,
        used: 0,
        undo: 0,
        attempt: 0,
        outcome: Outcome::NONE,
        skipped: 0,
        omitted: 0,
        excepted: 0,
        unused: [0; 2],
    };

    pub fn is_there(&self) -> bool {
        self.pending != 0 || self.has_ended()
    }

    pub fn has_ended(&self) -> bool {
        self.outcome != Outcome::NONE
    }
}

/// A coordinator's slot for a saga: the arrivals that it holds, and what it copied of their headers. It survives its
/// session, so it also stands for a transaction in flight, and for a coordinator that was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    pub arrivals: Tokens,
    pub attempt: u8,
    pub undo: Steps,
    /// It was spilled and came again.
    pub recalled: u8,
    pub unused: u8,
}

impl Slot {
    pub const EMPTY: Self = Self { arrivals: 0, attempt: 0, undo: 0, recalled: 0, unused: 0 };
}

/// Attempts of a saga that the model follows.
pub const ATTEMPTS: usize = 2;

/// One saga, everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Saga {
    /// The log with its unsynced tail, and the part that is synced.
    pub live: Record,
    pub synced: Record,
    /// Volatile at the broker: published, and not to be seen before the next sync.
    pub barred: Tokens,
    /// Volatile at the broker: arrivals that a SPILL named, which come again with the next one.
    pub spilled: Tokens,
    /// Volatile at the broker: arrivals delivered to either coordinator's session.
    pub leases: [Tokens; 2],
    /// Of these, what has not reached a slot yet.
    pub in_flight: [Tokens; 2],
    pub slots: [Slot; 2],
    /// Ever delivered to a service, by attempt: it may act on it at any time, and again.
    pub delivered: [Steps; ATTEMPTS],
    pub undo_delivered: [Steps; ATTEMPTS],
    /// The same, in this boot of the broker.
    pub delivered_in_boot: Steps,
    pub undo_delivered_in_boot: Steps,
    /// The pivot's RUN is pending and counts as delivered.
    pub deciding: u8,
    /// Older than an unclean stop of the broker.
    pub wide: u8,
    pub rows: [[Row; STEPS_MAX]; ATTEMPTS],
    /// The effects, by attempt: those that happened, and those whose compensation ran, whether it found an effect or
    /// not.
    pub did: [Steps; ATTEMPTS],
    pub buried: [Steps; ATTEMPTS],
    /// External actions: a call may still reach the outside world, and a try found that an intent stood.
    pub calling: [Steps; ATTEMPTS],
    pub retried: [Steps; ATTEMPTS],
    /// Steps whose compensation fails until an operator repairs what it needs.
    pub failing: Steps,
    /// What its client knows.
    pub confirmed: u8,
    pub told: Outcome,
    pub unused: u8,
}

impl Saga {
    pub const ABSENT: Self = Self {
        live: Record::ABSENT,
        synced: Record::ABSENT,
        barred: 0,
        spilled: 0,
        leases: [0; 2],
        in_flight: [0; 2],
        slots: [Slot::EMPTY; 2],
        delivered: [0; ATTEMPTS],
        undo_delivered: [0; ATTEMPTS],
        delivered_in_boot: 0,
        undo_delivered_in_boot: 0,
        deciding: 0,
        wide: 0,
        rows: [[Row::NONE; STEPS_MAX]; ATTEMPTS],
        did: [0; ATTEMPTS],
        buried: [0; ATTEMPTS],
        calling: [0; ATTEMPTS],
        retried: [0; ATTEMPTS],
        failing: 0,
        confirmed: 0,
        told: Outcome::NONE,
        unused: 0,
    };

    pub fn attempt(&self) -> usize {
        usize::from(self.live.attempt)
    }

    /// Effects that stand: done and not undone.
    pub fn standing(&self, attempt: usize) -> Steps {
        self.did[attempt] & !self.buried[attempt]
    }

    /// Something of it was seen outside of the broker.
    pub fn was_seen(&self) -> bool {
        self.delivered != [0; 2] || self.slots != [Slot::EMPTY; 2] || self.confirmed != 0
    }

    /// Two coordinators with their roles swapped are the same state.
    pub fn order_coordinators(&mut self) {
        let of = |at: usize| (self.leases[at], self.in_flight[at], self.slots[at]);
        if of(1) > of(0) {
            self.leases.swap(0, 1);
            self.in_flight.swap(0, 1);
            self.slots.swap(0, 1);
        }
    }
}

/// Sagas that the model follows at most.
pub const SAGAS_MAX: usize = 2;

/// All there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// By the service of each step: the sagas, a bit each, that it refuses, since they are below its watermark.
    pub refused: [u8; STEPS_MAX],
    pub sagas: [Saga; SAGAS_MAX],
}

impl State {
    pub const EMPTY: Self = Self { refused: [0; STEPS_MAX], sagas: [Saga::ABSENT; SAGAS_MAX] };
}

/// The steps that a forward token says are done or may have run: `done` and `active` of its header.
pub fn sets_of(plan: &Plan, token: Tokens) -> (Steps, Steps) {
    let (running, arrived) = (steps_of(token, RUNS), steps_of(token, DONES));
    let done = each(running | arrived).fold(arrived, |done, step| done | plan.earlier[step]);
    (done, running)
}

/// Names of tokens, for traces.
pub fn names(tokens: Tokens) -> String {
    let mut out = Vec::new();
    for token in each_token(tokens) {
        let kind = [(RUNS, "RUN"), (DONES, "DONE"), (UNDOS, "UNDO"), (UNDONES, "UNDONE")];
        match kind.iter().find(|(kind, _)| kind & token != 0) {
            Some(&(kind, name)) => out.push(format!("{name} {}", letters(steps_of(token, kind)))),
            None => out.push(if token == START { "START" } else { "REVOKED" }.to_owned()),
        }
    }
    out.join(", ")
}

/// Names of steps, for traces.
pub fn letters(steps: Steps) -> String {
    (0..STEPS_MAX).filter(|&step| has(steps, step)).map(|step| ['A', 'B', 'C', 'D'][step]).collect()
}
