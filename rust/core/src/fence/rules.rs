//! The outcome register as a table of decisions, without any store.
//!
//! ```text
//! row        RUN finds it              UNDO finds it
//! ---------  ------------------------  -----------------------------------------------------------------
//! Empty      call                      leave Tombstone, answer undone without calling
//! Intent     call again, same key      wait for a running action, leave Undoing, compensate without result
//! Done       answer done from the row  compensate with the row's result
//! Rejected   answer rejected           answer undone: there was no effect and there will be none
//! Tombstone  drop                      answer undone
//! Undoing    drop                      compensate without result
//! Undone     drop                      answer undone
//! ```
//! A RUN is dropped where an UNDO was there before: the abort that made the UNDO has consumed the RUN.
//! `Undoing` keeps a late RUN from calling the action while, or after, its compensation cancels it by the key.

use crate::mutation::{Mutation, is_broken};

/// What a row says of a (saga, attempt, step). The codes are stored by fences in databases: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RowState {
    /// No row: the action was never called.
    Empty = 0,
    /// The action is being called, or was, and nobody knows how it ended.
    Intent = 1,
    /// The action took effect; the row has its result.
    Done = 2,
    /// The action had no effect and will have none; the row has the reason.
    Rejected = 3,
    /// The compensation came first: the action will never be called.
    Tombstone = 4,
    /// The action may have taken effect and its compensation has begun: the action is not called again.
    Undoing = 5,
    /// The compensation has succeeded.
    Undone = 6,
}

impl RowState {
    pub const ALL: [Self; 7] =
        [Self::Empty, Self::Intent, Self::Done, Self::Rejected, Self::Tombstone, Self::Undoing, Self::Undone];

    pub const fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// What to do with a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OnRun {
    /// Call the action. A rejection now is clean: nothing was tried before.
    Call = 1,
    /// Call the action again with the same idempotency key. A rejection now is not clean.
    CallAgain = 2,
    /// Answer with the result in the row.
    AnswerDone = 3,
    /// Answer with the reason in the row.
    AnswerRejected = 4,
    /// Do nothing and answer nothing.
    Drop = 5,
}

/// What to do with an UNDO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OnUndo {
    /// Leave a tombstone and answer undone.
    LeaveTombstone = 1,
    /// Leave `Undoing`, then call the compensation without a result: it cancels by the idempotency key.
    CompensateUncertain = 2,
    /// Call the compensation with the result in the row.
    Compensate = 3,
    /// Answer undone.
    AnswerUndone = 4,
}

impl OnRun {
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl OnUndo {
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Decides on a RUN by the row that it finds.
pub fn on_run(row: RowState) -> OnRun {
    match row {
        _ if is_broken(Mutation::NoFence) => OnRun::Call,
        RowState::Empty => OnRun::Call,
        RowState::Intent => OnRun::CallAgain,
        RowState::Done => OnRun::AnswerDone,
        RowState::Rejected => OnRun::AnswerRejected,
        RowState::Tombstone | RowState::Undoing | RowState::Undone => OnRun::Drop,
    }
}

/// Decides on an UNDO by the row that it finds.
pub fn on_undo(row: RowState) -> OnUndo {
    match row {
        _ if is_broken(Mutation::NoFence) => OnUndo::Compensate,
        RowState::Undone if is_broken(Mutation::UndoRepeated) => OnUndo::Compensate,
        RowState::Empty => OnUndo::LeaveTombstone,
        RowState::Intent | RowState::Undoing => OnUndo::CompensateUncertain,
        RowState::Done => OnUndo::Compensate,
        RowState::Rejected | RowState::Tombstone | RowState::Undone => OnUndo::AnswerUndone,
    }
}

/// What changes a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The action is about to be called, or a call of it has failed: it may have taken effect.
    Tried,
    /// The action took effect.
    Succeeded,
    /// The action was rejected, and nothing was tried before that try.
    RejectedCleanly,
    /// An UNDO is here, and no action is running.
    UndoBegun,
    /// The compensation has succeeded.
    Compensated,
}

/// The row after an event. What comes too late changes nothing: an outcome once written stands.
pub fn on_event(row: RowState, event: Event) -> RowState {
    match (row, event) {
        (RowState::Empty, Event::UndoBegun) if is_broken(Mutation::NoTombstone) => row,
        (_, Event::RejectedCleanly) if is_broken(Mutation::RejectionNotStored) => row,
        (_, Event::Tried) if is_broken(Mutation::IntentNotStored) => row,
        (_, Event::Succeeded) if is_broken(Mutation::ResultNotStored) => row,
        (RowState::Empty, Event::Tried) => RowState::Intent,
        (RowState::Empty | RowState::Intent, Event::Succeeded) => RowState::Done,
        (RowState::Empty | RowState::Intent, Event::RejectedCleanly) => RowState::Rejected,
        (RowState::Empty, Event::UndoBegun) => RowState::Tombstone,
        (RowState::Intent, Event::UndoBegun) => RowState::Undoing,
        (RowState::Done | RowState::Undoing, Event::Compensated) => RowState::Undone,
        _ => row,
    }
}

/// What a process does for a (saga, attempt, step), or is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doing {
    Action,
    Compensation,
}

/// Whether what arrives may begin: one thing at a time for a (saga, attempt, step).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Nothing runs: decide by the row.
    Begin,
    /// A repetition of what runs, or a RUN that its saga's abort has consumed: ignore it.
    Ignore,
    /// An UNDO whose action runs: keep it until the action has ended.
    Wait,
}

/// Decides on what arrives by what runs.
pub fn on_arrival(running: Option<Doing>, asked: Doing) -> Admission {
    match (running, asked) {
        (None, _) => Admission::Begin,
        (Some(doing), _) if doing == asked && is_broken(Mutation::TwoAtOnce) => Admission::Begin,
        (Some(Doing::Action), Doing::Compensation) if is_broken(Mutation::UndoDoesNotWait) => Admission::Begin,
        (Some(Doing::Action), Doing::Compensation) => Admission::Wait,
        (Some(_), _) => Admission::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_and_read_back() {
        let codes: Vec<u8> = RowState::ALL.iter().map(|state| state.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
        assert!(RowState::ALL.iter().all(|&state| RowState::from_code(state.code()) == Some(state)));
        assert_eq!(RowState::from_code(7), None);
    }

    #[test]
    fn no_event_brings_back_a_call_after_an_undo() {
        let after_undo = [RowState::Tombstone, RowState::Undoing, RowState::Undone];
        for state in after_undo {
            assert_eq!(on_run(state), OnRun::Drop);
            for event in [Event::Tried, Event::Succeeded, Event::RejectedCleanly, Event::UndoBegun, Event::Compensated]
            {
                assert!(after_undo.contains(&on_event(state, event)), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn an_outcome_stands_whoever_comes_late() {
        for late in [Event::Tried, Event::Succeeded, Event::RejectedCleanly, Event::UndoBegun] {
            assert_eq!(on_event(RowState::Done, late), RowState::Done);
            assert_eq!(on_event(RowState::Rejected, late), RowState::Rejected);
        }
    }

    #[test]
    fn what_runs_is_not_begun_twice() {
        assert_eq!(on_arrival(None, Doing::Action), Admission::Begin);
        assert_eq!(on_arrival(Some(Doing::Action), Doing::Action), Admission::Ignore);
        assert_eq!(on_arrival(Some(Doing::Action), Doing::Compensation), Admission::Wait);
        assert_eq!(on_arrival(Some(Doing::Compensation), Doing::Compensation), Admission::Ignore);
        assert_eq!(on_arrival(Some(Doing::Compensation), Doing::Action), Admission::Ignore);
    }
}
