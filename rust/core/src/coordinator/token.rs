//! What the coordinator publishes: the same few fields of a saga, passed on from what it consumes.
//!
//! Bodies stay empty, and age, deadline and trace zero: the broker fills them in from the consumed messages.

use crate::table::{Slot, State};
use crate::wire::{Flags, Header, Kind, OutcomeCode, SagaId};

/// What is passed on.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    saga: SagaId,
    plan: u64,
    attempt: u32,
    flags: u16,
    undoing: bool,
    /// Going forward, the steps done. Undoing, the set to undo, which stays as it is to the end.
    done: u64,
    /// What is left to undo.
    undo: u64,
}

impl Token {
    pub fn of_start(start: &Header) -> Self {
        Self { done: 0, undo: 0, ..Self::of_arrival(start) }
    }

    /// Everything is left to undo.
    pub fn of_revoked(revoked: &Header) -> Self {
        Self { undoing: true, done: revoked.undo.get(), ..Self::of_arrival(revoked) }
    }

    pub fn of_arrival(header: &Header) -> Self {
        Self {
            saga: header.saga,
            plan: header.plan.get(),
            attempt: header.attempt.get(),
            flags: header.flags.get() & (Flags::WIDE | Flags::PIVOTED),
            undoing: header.kind() == Kind::Undone,
            done: header.done.get(),
            undo: header.undo.get(),
        }
    }

    /// Of all arrivals of a join.
    pub fn of_slot(slot: &Slot, plan: u64) -> Self {
        Self {
            saga: slot.saga(),
            plan,
            attempt: slot.attempt(),
            flags: slot.flags(),
            undoing: slot.state() == State::Undoing,
            done: slot.done,
            undo: slot.undo,
        }
    }

    /// RUN or UNDO of a step.
    pub fn request(&self, step: u8) -> Header {
        let mut header = self.header(if self.undoing { Kind::Undo } else { Kind::Run }, u16::from(step));
        if !self.undoing {
            header.active = (1 << step).into();
        }
        header
    }

    /// RESULT.
    pub fn outcome(&self) -> Header {
        let outcome = if self.undoing { OutcomeCode::Compensated } else { OutcomeCode::Completed };
        self.header(Kind::Result, outcome.code())
    }

    fn header(&self, kind: Kind, place: u16) -> Header {
        let mut header = Header::new(kind);
        header.flags = (self.flags | Flags::SPLICE).into();
        header.saga = self.saga;
        header.plan = self.plan.into();
        header.attempt = self.attempt.into();
        header.place = place.into();
        header.done = self.done.into();
        header.undo = self.undo.into();
        header
    }
}
