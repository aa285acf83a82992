//! What can happen next, by name: for traces, and to tell faults from progress.

use std::fmt;

use crate::plan::bit;
use crate::state::{Outcome, Tokens, letters, names};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Started { saga: usize },
    Confirmed { saga: usize },
    Told { saga: usize, outcome: Outcome },
    Delivered { saga: usize, step: usize },
    Did { saga: usize, attempt: usize, step: usize },
    Rejected { saga: usize, attempt: usize, step: usize },
    MovedOn { saga: usize, step: usize },
    Failed { saga: usize, step: usize },
    GaveUp { saga: usize, step: usize },
    UndoDelivered { saga: usize, step: usize },
    Undid { saga: usize, attempt: usize, step: usize },
    UndoMovedOn { saga: usize, step: usize },
    Expired { saga: usize },
    Cancelled { saga: usize },
    Synced,
    BrokerStopped,
    Watermark { step: usize, below: u8 },
    Excepted { saga: usize },
    Intended { saga: usize, attempt: usize, step: usize },
    CalledAgain { saga: usize, attempt: usize, step: usize },
    Answered { saga: usize, attempt: usize, step: usize },
    Sent { saga: usize, coordinator: usize, tokens: Tokens },
    Arrived { saga: usize, coordinator: usize, tokens: Tokens },
    Decided { saga: usize, coordinator: usize, tokens: Tokens },
    Restarted { saga: usize },
    Refused { saga: usize, coordinator: usize },
    Spilled { saga: usize, coordinator: usize },
    CoordinatorStopped { saga: usize, coordinator: usize, remembers: bool },
    Repaired { saga: usize, step: usize },
    Skipped { saga: usize, step: usize },
    Forged { saga: usize, consumes: Tokens, publishes: Tokens },
}

impl Action {
    /// Its kind.
    fn kind(self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Confirmed { .. } => "confirmed",
            Self::Told { .. } => "told",
            Self::Delivered { .. } => "delivered",
            Self::Did { .. } => "did",
            Self::Rejected { .. } => "rejected",
            Self::MovedOn { .. } => "moved on",
            Self::Failed { .. } => "failed",
            Self::GaveUp { .. } => "gave up",
            Self::UndoDelivered { .. } => "undo delivered",
            Self::Undid { .. } => "undid",
            Self::UndoMovedOn { .. } => "undo moved on",
            Self::Expired { .. } => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Synced => "synced",
            Self::BrokerStopped => "broker stopped",
            Self::Watermark { .. } => "watermark",
            Self::Excepted { .. } => "excepted",
            Self::Intended { .. } => "intended",
            Self::CalledAgain { .. } => "called again",
            Self::Answered { .. } => "answered",
            Self::Sent { .. } => "sent",
            Self::Arrived { .. } => "arrived",
            Self::Decided { .. } => "decided",
            Self::Restarted { .. } => "restarted",
            Self::Refused { .. } => "refused",
            Self::Spilled { .. } => "spilled",
            Self::CoordinatorStopped { .. } => "coordinator stopped",
            Self::Repaired { .. } => "repaired",
            Self::Skipped { .. } => "skipped",
            Self::Forged { .. } => "forged",
        }
    }

    /// Things that need not happen for a saga to end.
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Rejected { .. }
                | Self::GaveUp { .. }
                | Self::Expired { .. }
                | Self::Cancelled { .. }
                | Self::BrokerStopped
                | Self::Spilled { .. }
                | Self::CoordinatorStopped { .. }
                | Self::Forged { .. }
        )
    }
}

/// All kinds of actions.
pub const KINDS: [&str; 31] = [
    "started",
    "confirmed",
    "told",
    "delivered",
    "did",
    "rejected",
    "moved on",
    "failed",
    "gave up",
    "undo delivered",
    "undid",
    "undo moved on",
    "expired",
    "cancelled",
    "synced",
    "broker stopped",
    "watermark",
    "excepted",
    "intended",
    "called again",
    "answered",
    "sent",
    "arrived",
    "decided",
    "restarted",
    "refused",
    "spilled",
    "coordinator stopped",
    "repaired",
    "skipped",
    "forged",
];

/// A set of kinds of actions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kinds(u64);

impl Kinds {
    pub fn add(&mut self, action: Action) {
        let kind = action.kind();
        self.0 |= KINDS.iter().position(|&other| other == kind).map_or(0, |at| 1 << at);
    }

    pub fn join(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The kinds that are not in the set.
    pub fn missing(self) -> impl Iterator<Item = &'static str> {
        KINDS.into_iter().enumerate().filter(move |(at, _)| self.0 & (1 << at) == 0).map(|(_, kind)| kind)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |step: usize| letters(bit(step));
        match *self {
            Self::Started { saga } => write!(out, "saga {saga}: START is accepted"),
            Self::Confirmed { saga } => write!(out, "saga {saga}: START is confirmed to the client"),
            Self::Told { saga, outcome } => {
                let word = if outcome == Outcome::COMPLETED { "completed" } else { "compensated" };
                write!(out, "saga {saga}: the client is told {word}")
            }
            Self::Delivered { saga, step } => write!(out, "saga {saga}: RUN {} is delivered", at(step)),
            Self::Did { saga, attempt, step } => {
                write!(out, "saga {saga}: the effect of {} happens (attempt {attempt})", at(step))
            }
            Self::Rejected { saga, attempt, step } => {
                write!(out, "saga {saga}: {} rejects (attempt {attempt})", at(step))
            }
            Self::MovedOn { saga, step } => write!(out, "saga {saga}: {} passes its token on", at(step)),
            Self::Failed { saga, step } => write!(out, "saga {saga}: {} sends FAIL, clean", at(step)),
            Self::GaveUp { saga, step } => write!(out, "saga {saga}: {} sends FAIL, uncertain", at(step)),
            Self::UndoDelivered { saga, step } => write!(out, "saga {saga}: UNDO {} is delivered", at(step)),
            Self::Undid { saga, attempt, step } => {
                write!(out, "saga {saga}: the compensation of {} runs (attempt {attempt})", at(step))
            }
            Self::UndoMovedOn { saga, step } => write!(out, "saga {saga}: {} passes its UNDO on", at(step)),
            Self::Expired { saga } => write!(out, "saga {saga}: expires"),
            Self::Cancelled { saga } => write!(out, "saga {saga}: is cancelled"),
            Self::Synced => write!(out, "the log is synced"),
            Self::BrokerStopped => write!(out, "the broker stops, loses the unsynced tail and starts again"),
            Self::Watermark { step, below } => {
                write!(out, "the service of {} hears that of the sagas 0b{below:02b} are below", at(step))
            }
            Self::Excepted { saga } => write!(out, "saga {saga}: is listed as stuck, and excepted from the watermark"),
            Self::Intended { saga, attempt, step } => {
                write!(out, "saga {saga}: {} stores its intent and calls (attempt {attempt})", at(step))
            }
            Self::CalledAgain { saga, attempt, step } => {
                write!(out, "saga {saga}: {} finds an intent and calls again (attempt {attempt})", at(step))
            }
            Self::Answered { saga, attempt, step } => {
                write!(out, "saga {saga}: {} stores what it was answered (attempt {attempt})", at(step))
            }
            Self::Sent { saga, coordinator, tokens } => {
                write!(out, "saga {saga}: {} is sent to coordinator {coordinator}", names(tokens))
            }
            Self::Arrived { saga, coordinator, tokens } => {
                write!(out, "saga {saga}: {} arrives at coordinator {coordinator}", names(tokens))
            }
            Self::Decided { saga, coordinator, tokens } => {
                write!(out, "saga {saga}: coordinator {coordinator} answers {}", names(tokens))
            }
            Self::Restarted { saga } => write!(out, "saga {saga}: begins its next attempt"),
            Self::Refused { saga, coordinator } => {
                write!(out, "saga {saga}: coordinator {coordinator} is refused as stale")
            }
            Self::Spilled { saga, coordinator } => {
                write!(out, "saga {saga}: coordinator {coordinator} spills its slot")
            }
            Self::CoordinatorStopped { saga, coordinator, remembers } => {
                let how = if remembers { "pauses and is replaced" } else { "stops and forgets" };
                write!(out, "saga {saga}: coordinator {coordinator} {how}")
            }
            Self::Repaired { saga, step } => write!(out, "saga {saga}: an operator repairs what {} needs", at(step)),
            Self::Skipped { saga, step } => write!(out, "saga {saga}: an operator skips {}", at(step)),
            Self::Forged { saga, consumes, publishes } => {
                write!(out, "saga {saga}: a forger consumes {} and publishes {}", names(consumes), names(publishes))
            }
        }
    }
}
