//! Ended sagas, remembered for a stated window: so many, so long, so many bytes, whichever is least.
//!
//! They answer a repeated START, ATTACH and STATUS. An older key begins a new saga.

use std::collections::VecDeque;

use sagacore_core::limits::{OUTCOMES_BYTES_MAX, OUTCOMES_MAX, OUTCOMES_MS};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{OutcomeCode, SagaId};

use super::by_sequence::BySequence;

/// How a saga ended.
#[derive(Debug)]
pub struct Outcome {
    pub id: SagaId,
    pub plan: u64,
    pub key_hash: u128,
    pub digest: u64,
    pub code: OutcomeCode,
    pub ended_ms: u64,
    /// The record that ended it, and where in that record: outcomes are forgotten in this order.
    pub ended_at: (u64, u32),
    /// The oldest record that a replay needs to know it.
    pub oldest_lsn: u64,
    /// The sections of its RESULT.
    pub body: Box<[u8]>,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub count: usize,
    pub age_ms: u64,
    pub bytes: usize,
}

impl Window {
    /// How many there is room for from the start; an operator who wants more waits while tables grow.
    pub fn room(&self) -> usize {
        self.count.min(OUTCOMES_MAX)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { count: OUTCOMES_MAX, age_ms: OUTCOMES_MS, bytes: OUTCOMES_BYTES_MAX }
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Outcomes {
    pub window: Window,
    ring: VecDeque<Outcome>,
    /// A replay met copies, which are in the log behind those that ended after them.
    is_unsorted: bool,
    /// Outcomes forgotten so far: an outcome's number less this is its place in the ring.
    forgotten: u64,
    by_sequence: BySequence<u64>,
    bytes: usize,
}

impl Outcomes {
    /// With room for as many as the window has: a ring that doubles copies a hundred megabytes while sagas wait. What
    /// is not used yet takes no memory.
    pub fn new(window: Window) -> Self {
        let ring = VecDeque::with_capacity(window.room() + 1);
        Self { window, ring, by_sequence: BySequence::with_room(window.room()), ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, sequence: u64) -> Option<&Outcome> {
        let number = self.by_sequence.get(sequence)?;
        self.ring.get((number - self.forgotten) as usize)
    }

    /// Remembers an outcome, or replaces it where it is known.
    pub fn add(&mut self, outcome: Outcome) {
        if is_broken(Mutation::OutcomeNotRemembered) {
            return;
        }
        let sequence = outcome.id.sequence.get();
        if let Some(number) = self.by_sequence.get(sequence) {
            let known = &mut self.ring[(number - self.forgotten) as usize];
            self.bytes = self.bytes - known.body.len() + outcome.body.len();
            *known = outcome;
            return;
        }
        self.bytes += outcome.body.len();
        self.by_sequence.insert(sequence, self.forgotten + self.ring.len() as u64);
        self.is_unsorted |= self.ring.back().is_some_and(|last| last.ended_at > outcome.ended_at);
        self.ring.push_back(outcome);
    }

    /// Brings them into the order in which they ended.
    pub fn sort(&mut self) {
        if std::mem::take(&mut self.is_unsorted) {
            self.ring.make_contiguous().sort_unstable_by_key(|outcome| outcome.ended_at);
            for (index, outcome) in self.ring.iter().enumerate() {
                self.by_sequence.insert(outcome.id.sequence.get(), self.forgotten + index as u64);
            }
        }
    }

    /// Forgets the oldest one if it is outside the window. The caller forgets its key.
    pub fn forget_one(&mut self, now_ms: u64) -> Option<Outcome> {
        let oldest = self.ring.front()?;
        let too_many = self.ring.len() > self.window.count || self.bytes > self.window.bytes;
        if !too_many && oldest.ended_ms.saturating_add(self.window.age_ms) > now_ms {
            return None;
        }
        let gone = self.ring.pop_front()?;
        self.forgotten += 1;
        self.bytes -= gone.body.len();
        self.by_sequence.remove(gone.id.sequence.get());
        Some(gone)
    }

    /// The number of the oldest one that is remembered; numbers ascend by one.
    pub fn first(&self) -> u64 {
        self.forgotten
    }

    /// The outcomes from a number on, to copy them forward.
    pub fn from(&mut self, number: u64) -> impl Iterator<Item = &mut Outcome> {
        self.ring.iter_mut().skip(number.saturating_sub(self.forgotten) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(sequence: u64, ended_at: (u64, u32)) -> Outcome {
        Outcome {
            id: SagaId::new(0, sequence, 0),
            plan: 1,
            key_hash: 0,
            digest: 0,
            code: OutcomeCode::Completed,
            ended_ms: 0,
            ended_at,
            oldest_lsn: 1,
            body: Box::default(),
        }
    }

    #[test]
    fn copies_that_a_replay_meets_late_are_forgotten_first() {
        let mut outcomes = Outcomes { window: Window { count: 2, ..Window::default() }, ..Outcomes::default() };
        for (sequence, ended_at) in [(5, (9, 8)), (6, (9, 64)), (3, (2, 0)), (4, (2, 40))] {
            outcomes.add(outcome(sequence, ended_at));
        }
        outcomes.sort();
        let forgotten = std::iter::from_fn(|| outcomes.forget_one(0)).map(|gone| gone.id.sequence.get());
        assert_eq!(forgotten.collect::<Vec<_>>(), [3, 4]);
        assert!([5, 6].into_iter().all(|sequence| outcomes.get(sequence).is_some_and(|o| o.id.sequence == sequence)));
    }
}
