//! What a client is asked with, and what it tells.

use crate::wire::{Kind, Malformed, SagaId};

/// What a client may choose.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Drawn at random when the client is made.
    pub instance: u64,
    pub credit: u64,
    /// Unconfirmed bytes from which on `is_full` asks to wait.
    pub outbox_bytes_max: usize,
}

/// How a saga is named: by the broker's id or by the user's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    Id(SagaId),
    Key(&'a [u8]),
}

/// What an operator does with a step that is stuck: the `active` of a RESOLVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Try again now.
    Retry = 1,
    /// Go on as if it were undone; the outcome names it.
    Skip = 2,
    /// It was done by hand, with this result.
    Done = 3,
}

impl Action {
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Retry),
            2 => Some(Self::Skip),
            3 => Some(Self::Done),
            _ => None,
        }
    }
}

/// What the broker told of one correlation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// 0: it concerns a plan, whose fingerprint is `extra`, or no call at all.
    pub correlation: u64,
    /// STATUS, RESULT, REFUSED, or the kind of the request that it answers.
    pub kind: Kind,
    /// `StatusCode`, `OutcomeCode` or `Refusal`; else 0.
    pub code: u16,
    pub saga: SagaId,
    /// STATUS: the set of steps that run now. RESULT: the set of steps that were done. REFUSED: the number.
    pub extra: u64,
    pub body: &'a [u8],
}

/// Why a call changed nothing. The name before the colon is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("plan.unknown: a saga is started whose plan was not defined")]
    PlanUnknown,
    #[error("plan.size: the definition is empty or too large")]
    PlanSize,
    #[error("plan.count: too many plans are defined")]
    PlanCount,
    #[error("key.size: a key has 1 to 200 bytes")]
    KeySize,
    #[error("saga.id: its reserved bytes are not zero")]
    SagaId,
    #[error("input.size: the input is larger than any section may be")]
    InputSize,
    #[error("result.size: the result is larger than any section may be")]
    ResultSize,
    #[error("step.number: a saga has at most 64 steps")]
    StepNumber,
    #[error("correlation.used: the correlation is 0, or is of a call that is not answered yet")]
    CorrelationUsed,
    #[error("sagas.count: the outcomes of too many sagas are awaited")]
    SagasCount,
}

/// Why the broker's words cannot be trusted: the connection is given up, and what was lost with it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("answer.kind: a message of this kind is not for a client, or does not answer what was asked")]
    AnswerKind,
    #[error("answer.code: this status, outcome or refusal is not known")]
    AnswerCode,
}
