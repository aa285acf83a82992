//! What must end soon and does not: sagas that turned round, or passed their pivot, and hang there (rule 7).

use sagacore_core::mutation::{Mutation, is_broken};

use super::Broker;
use crate::state::SagaRef;

impl Broker {
    /// From now on this attempt must end soon, or the saga is listed as stuck.
    pub(super) fn watch(&mut self, saga: SagaRef, time_ms: u64) {
        let sagas = &self.state.sagas;
        let turned = (saga, sagas[saga].attempt);
        let is_live = |(saga, attempt)| sagas.get(saga).is_some_and(|saga| saga.attempt == attempt);
        self.turned.push(time_ms + self.config.stuck_after_ms, turned, is_live);
    }

    pub(super) fn tick_stuck(&mut self, time_ms: u64) {
        loop {
            let sagas = &self.state.sagas;
            let is_live = |(saga, attempt)| sagas.get(saga).is_some_and(|saga| saga.attempt == attempt);
            let Some((saga, _)) = self.turned.pop_due(time_ms, is_live) else { return };
            self.list_as_stuck(saga);
        }
    }

    /// A notice, not a state: the saga goes on, and an operator should look.
    pub(super) fn list_as_stuck(&mut self, saga: SagaRef) {
        if is_broken(Mutation::StuckNeverListed) || std::mem::replace(&mut self.state.sagas[saga].stuck, true) {
            return;
        }
        if self.stuck.len() >= self.sweep_stuck_at {
            let sagas = &self.state.sagas;
            self.stuck.retain(|&saga| sagas.get(saga).is_some_and(|saga| saga.stuck));
            self.sweep_stuck_at = 1024.max(2 * self.stuck.len());
        }
        self.stuck.push(saga);
    }

    /// It is stuck no more: somebody did something about it, or it began again.
    pub(super) fn unlist(&mut self, saga: SagaRef) {
        self.stuck.retain(|&other| other != saga);
        if let Some(found) = self.state.sagas.get_mut(saga) {
            found.stuck = false;
        }
    }

    /// The sagas that are stuck.
    pub(super) fn stuck(&self) -> impl Iterator<Item = SagaRef> + '_ {
        let is_stuck = |saga: &SagaRef| self.state.sagas.get(*saga).is_some_and(|saga| saga.stuck);
        self.stuck.iter().copied().filter(is_stuck)
    }
}
