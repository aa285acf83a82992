//! What a worker is told and what it asks for.

use super::Phase;
use crate::wire::{Freed, SagaId};

/// Bytes of an idempotency key: 16 bytes as lower-case hexadecimal.
pub const IDEMPOTENCY_KEY_BYTES: usize = 32;

/// What one process of a service is.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    pub service: String,
    /// The names of the steps that it implements. `Work` names them by their place here.
    pub steps: Vec<String>,
    /// Drawn at random when the process starts.
    pub instance: u64,
    /// The fence is in this process's memory and answers repetitions here. Else all is handed out, and the fence behind
    /// it decides.
    pub memory_fence: bool,
    /// What a delivered message may take before it is delivered again.
    pub lease_ms: u64,
    /// Messages that it may hold at a time.
    pub credit: u64,
}

/// An action or a compensation is to be called. What goes with it is asked for by its ticket until it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Names it to the worker.
    pub ticket: u64,
    /// Whether the compensation is to be called, not the action.
    pub undo: bool,
    /// The step among those of this process.
    pub step: u16,
    /// How many earlier results the action gets; of a compensation 1, which may not be there.
    pub results: usize,
    /// A larger result must not be committed.
    pub result_bytes_max: usize,
}

/// All that is known of a call, for who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub ticket: u64,
    /// Whether the compensation is to be called, not the action.
    pub undo: bool,
    /// The step among those of this process.
    pub step: u16,
    pub saga: SagaId,
    pub attempt: u32,
    /// How often the message was delivered before.
    pub deliveries: u16,
    /// By the clock of `now_ms`; 0: none.
    pub deadline_ms: u64,
    /// Of (saga, attempt, step): the same whenever the action or its compensation is called.
    pub idempotency_key: [u8; IDEMPOTENCY_KEY_BYTES],
    /// A larger result must not be committed.
    pub result_bytes_max: usize,
    pub phase: Phase,
    /// The broker's log that the saga is in, and the class of its deadline: which watermark it is judged by.
    pub log: u64,
    pub class: usize,
    /// The step's number in its plan, and the age of its saga: what it holds is told apart by them.
    pub place: u16,
    pub age: u64,
    /// Sagas that stood in its way and have ended: what they hold is free.
    pub freed: Vec<Freed>,
    /// It lost a deadlock at its pivot: it must not wait again, but end as a `Victim`.
    pub wounded: bool,
}

/// How a piece of work ended. The payload of `finish` is named beside each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// The action took effect: its result.
    Done = 1,
    /// The action had no effect and will have none: the reason.
    Rejected = 2,
    /// The action failed too often and may have taken effect: the reason.
    GaveUp = 3,
    /// To be delivered again: milliseconds in decimal digits, then perhaps a space and the reason.
    Retry = 4,
    /// The compensation has succeeded: nothing.
    Undone = 5,
    /// Not to be answered: nothing.
    Drop = 6,
    /// The action was rejected, but an earlier try may have taken effect: the reason.
    RejectedUncertain = 7,
    /// The action failed too often, and the fence is sure that nothing took effect: the reason.
    GaveUpClean = 8,
    /// The action had no effect and waits for what others hold: the section DATA of a BLOCKED.
    Blocked = 9,
    /// The action was wounded, had no effect and will have none: the reason.
    Victim = 10,
}

impl Verdict {
    pub fn from_code(code: u8) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Rejected,
            Self::GaveUp,
            Self::Retry,
            Self::Undone,
            Self::Drop,
            Self::RejectedUncertain,
            Self::GaveUpClean,
            Self::Blocked,
            Self::Victim,
        ];
        all.get(usize::from(code.checked_sub(1)?)).copied()
    }
}

/// A mistake of whoever calls `finish`: nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    #[error("ticket: this work is not running; finish each piece of work once")]
    Ticket,
    #[error("verdict: an action cannot end so; `Undone` is for compensations")]
    ActionVerdict,
    #[error("verdict: a compensation ends as `Undone`, `Retry` or `Drop`; it is never given up")]
    CompensationVerdict,
    #[error("result: {bytes} bytes, and the plan allows {bytes_max}; check it before it is committed")]
    ResultSize { bytes: usize, bytes_max: usize },
    #[error("blocked: the payload names a policy, a mode, a resource and those in the way, or breaks their bounds")]
    Blocked,
    #[error("blocked: past the pivot nothing waits; take what the step needs at the pivot or before")]
    BlockedPastPivot,
    #[error("retry: the payload must begin with the delay in milliseconds, in decimal digits")]
    Delay,
}

/// Counters since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerStats {
    /// RUN and UNDO messages that arrived.
    pub delivered: u64,
    /// Of them, repetitions of what was running.
    pub ignored: u64,
    /// Of them, answered from a row in memory without a call.
    pub answered: u64,
    /// Of them, sent back because the plan, the step or room was missing.
    pub not_yet: u64,
    /// Messages and ends of work that were passed over, because the watermark says that their saga has ended.
    pub passed: u64,
    pub done: u64,
    pub failed: u64,
    pub undone: u64,
    pub retried: u64,
    pub dropped: u64,
    /// Actions that must wait for what others hold.
    pub blocked: u64,
    /// Our transactions that came too late.
    pub stale: u64,
    /// Our transactions that the broker refused for any other reason.
    pub refused: u64,
    /// Frames and definitions that broke the format.
    pub malformed: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// What runs or waits now.
    pub running: u64,
    /// Rows in memory now.
    pub rows: u64,
    pub plans: u64,
    /// Transactions that are not confirmed now.
    pub unconfirmed: u64,
}
