//! Deadlines, and what must end soon: the timers of sagas. Those of parked ones are kept with them.

use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::CauseCode;

use super::Broker;
use crate::delivery::Fifo;
use crate::state::SagaRef;

impl Broker {
    pub(super) fn set_deadline(&mut self, saga: SagaRef) {
        let found = &self.state.sagas[saga];
        let plan = found.plan as usize;
        if self.deadlines.len() <= plan {
            self.deadlines.resize_with(plan + 1, Fifo::default);
        }
        let sagas = &self.state.sagas;
        self.deadlines[plan].push(found.deadline_ms, saga, |saga| sagas.contains_key(saga));
    }

    /// From now on this attempt must end soon, or the saga is listed as stuck.
    pub(super) fn watch(&mut self, saga: SagaRef, time_ms: u64) {
        let found = &self.state.sagas[saga];
        self.watch_attempt((found.id.sequence.get(), found.attempt), time_ms);
    }

    pub(super) fn watch_attempt(&mut self, turned: (u64, u32), time_ms: u64) {
        let (state, due_ms) = (&self.state, time_ms + self.config.stuck_after_ms);
        self.turned.push(due_ms, turned, |(sequence, attempt)| state.runs_attempt(sequence, attempt));
    }

    pub(super) fn tick_deadlines(&mut self, time_ms: u64) {
        if is_broken(Mutation::DeadlineNeverExpires) {
            return;
        }
        for plan in 0..self.deadlines.len() {
            while self.batch.len() < self.config.record_bytes {
                let sagas = &self.state.sagas;
                let due = self.deadlines[plan].pop_due(time_ms, |saga| sagas.contains_key(saga));
                let Some(saga) = due else { break };
                self.end_deadline(saga, time_ms);
            }
        }
        while self.batch.len() < self.config.record_bytes {
            let Some(saga) = self.pop_parked_deadline(time_ms) else { break };
            self.end_deadline(saga, time_ms);
        }
    }

    fn end_deadline(&mut self, saga: SagaRef, time_ms: u64) {
        self.note_deadline_passed(saga);
        if self.state.may_abort(saga) {
            self.abort(saga, CauseCode::Deadline, None, "the deadline passed", time_ms);
        } else {
            self.watch(saga, time_ms);
        }
    }

    pub(super) fn tick_stuck(&mut self, time_ms: u64) {
        loop {
            let state = &self.state;
            let is_live = |(sequence, attempt)| state.runs_attempt(sequence, attempt);
            let Some((sequence, _)) = self.turned.pop_due(time_ms, is_live) else { return };
            self.list_as_stuck(sequence);
        }
    }

    /// A notice, not a state: the saga goes on, and an operator should look.
    pub(super) fn list_as_stuck(&mut self, sequence: u64) {
        if !is_broken(Mutation::StuckNeverListed) {
            self.state.list_as_stuck(sequence);
        }
    }
}
