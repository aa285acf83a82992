//! What follows from one token alone, the broker does itself, in the same record: a saga's first steps, the first
//! compensations of an abort, the outcome after the last step of a chain. Only what must meet others goes to a
//! coordinator.
//!
//! The plan says what follows, and the broker computes it in any case, to check what coordinators publish. So a chain
//! that succeeds is never held up by a coordinator, and costs four wake-ups less.

use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{Flags, Header, Kind};

use super::Broker;
use crate::state::{State, TokenRef};

impl State {
    /// Whether what follows from this token waits for no other one, and no coordinator must hear of it.
    fn stands_alone(&self, token: TokenRef) -> bool {
        let token = &self.tokens[token];
        let plan = &self.plan_of(token.saga).plan;
        match token.kind {
            Kind::Start => true,
            // A coordinator that holds arrivals of the saga forgets them.
            Kind::Revoked => plan.forward.joins().iter().all(|join| join.mask.is_power_of_two()),
            Kind::Done => plan.forward.is_alone(token.position),
            Kind::Undone => plan.undo(token.done).is_alone(token.position),
            _ => false,
        }
    }
}

impl Broker {
    /// Takes out of what was published last the token that stands alone, if there is one.
    pub(super) fn take_alone(&mut self) -> Option<TokenRef> {
        let state = &self.state;
        let at = self.applied.published.iter().position(|&token| state.stands_alone(token))?;
        Some(self.applied.published.swap_remove(at))
    }

    /// Consumes a token that stands alone and publishes what follows from it. Nothing of that runs ahead: it begins a
    /// saga, decides an abort, or is the outcome.
    pub(super) fn follow(&mut self, alone: Option<TokenRef>, time_ms: u64) {
        let Some(token) = alone else { return };
        match self.accept_own(token, Flags::SPLICE, |_, _| {}, time_ms) {
            Ok(of) => self.note_followed(&of, time_ms),
            Err(_) => debug_assert!(false, "the plan says what follows from a token that stands alone"),
        }
    }

    fn note_followed(&mut self, of: &Header, time_ms: u64) {
        let runs_ahead = match of.kind() {
            Kind::Start => is_broken(Mutation::StartRunsAhead),
            Kind::Revoked => is_broken(Mutation::FirstUndoRunsAhead),
            _ => false,
        };
        if runs_ahead { self.note_applied(time_ms) } else { self.note_decided(time_ms) }
    }
}
