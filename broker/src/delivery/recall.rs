//! Parked sagas come back to their queues. They waited longer than all that is in memory, so they come first.

use sagacore_core::limits::{RECALLED_AT_LEAST, RECALLED_AT_ONCE};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::Kind;

use super::Queues;
use crate::state::{Arrivals, Place, SagaRef, State, TokenRef};

impl Queues {
    /// Reads a parked saga back: what of it was due is due, what a coordinator had it still has.
    pub fn recall(&mut self, state: &mut State, sequence: u64) -> Option<SagaRef> {
        if !state.is_parked(sequence) {
            return None;
        }
        let (saga, arrivals) = state.recall(sequence)?;
        let tokens: Vec<TokenRef> = state.tokens_of(saga).collect();
        for token in tokens {
            if !state.tokens[token].kind.is_for_coordinator() {
                self.enqueue_first(state, token);
                continue;
            }
            match arrivals {
                Arrivals::Leased => self.lease_again(state, token, sequence),
                Arrivals::Spilled => state.tokens[token].place = Place::Spilled,
                Arrivals::Due | Arrivals::None => self.enqueue(state, token),
            }
        }
        Some(saga)
    }

    fn lease_again(&mut self, state: &mut State, token: TokenRef, sequence: u64) {
        let Some(owner) = self.slices.owner(sequence) else { return self.enqueue(state, token) };
        let Some(session) = self.sessions.get_mut(owner) else { return self.enqueue(state, token) };
        state.tokens[token].place = Place::Leased(owner);
        state.tokens[token].unanswered = 1;
        session.leases.push(u64::MAX, token, |token| super::queues::is_leased(state, token, owner));
    }

    /// Reads back what a service may be asked for now: as many as it has credit for, less what takes none of that
    /// before its turn. Gives whether there are more.
    pub(super) fn recall_awaited(&mut self, state: &mut State, service: usize) -> bool {
        let credit = self.credit_of(service).min(RECALLED_AT_ONCE);
        let credit = credit.min(RECALLED_AT_ONCE.saturating_sub(self.suspects_of(service)).max(RECALLED_AT_LEAST));
        let mut found = Vec::new();
        for kind in [Kind::Undo, Kind::Run] {
            let is_turn = kind == Kind::Undo || !state.parked.is_awaited(service, Kind::Undo);
            if credit > 0 && is_turn && state.parked.is_awaited(service, kind) {
                found.clear();
                state.parked.awaited(service, kind, credit, &mut found);
                // Each goes to the front: the oldest last.
                for &sequence in found.iter().rev() {
                    self.recall(state, sequence);
                }
            }
        }
        credit > 0 && [Kind::Undo, Kind::Run].into_iter().any(|kind| state.parked.is_awaited(service, kind))
    }

    /// Reads back arrivals that are due, as long as few others wait for the coordinators.
    pub(super) fn recall_due(&mut self, state: &mut State) {
        let waiting: usize = self.waiting_for_coordinators();
        if self.slices.coordinators().is_empty() || waiting >= RECALLED_AT_ONCE {
            return;
        }
        let mut found = Vec::new();
        state.parked.due(RECALLED_AT_ONCE, &mut found);
        for sequence in found {
            self.recall(state, sequence);
        }
    }

    pub(super) fn is_recalled(state: &State, service: usize) -> bool {
        let is_awaited = |kind| state.parked.is_awaited(service, kind);
        (is_awaited(Kind::Run) || is_awaited(Kind::Undo)) && !is_broken(Mutation::ParkedNotRecalled)
    }
}
