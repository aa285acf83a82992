//! Copies of sagas that are parked: met in a replay, and made anew when old segments go.

use std::collections::VecDeque;

use sagacore_core::limits::PARKED_TOKENS_MAX;
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::Kind;

use super::stubs::{EXCEPTED, WIDE};
use super::{Arrivals, Waits};
use crate::state::snapshot::set_flags;
use crate::state::{CopyPlace, State};

impl State {
    /// A replay has met a copy of a saga, or its outcome: what an older copy said is void.
    pub(in crate::state) fn discard_parked(&mut self, sequence: u64) {
        if self.parked.stubs.len() == 0 {
            return;
        }
        let Some(stub) = self.parked.take_stub(sequence) else { return };
        let registered = self.plans.get(u32::from(stub.plan.get()));
        self.reserved_bytes -= 2 * registered.plan.token_bytes_max as u64;
        for &service in &registered.services {
            self.parked.wait_no_more(service, Kind::Undo, sequence);
            self.parked.wait_no_more(service, Kind::Run, sequence);
        }
        // Its deadline stays: a saga that is copied again has the same one, and one that ended is not found then.
    }

    /// A replay has met a copy of this saga. The oldest ones are parked, where there are too many: a start needs no
    /// more memory than the broker had.
    pub(in crate::state) fn note_replayed(&mut self, sequence: u64) {
        if !self.can_park() {
            return;
        }
        self.parked.replayed.push_back(sequence);
        while self.sagas.len() > self.parked.replayed_max {
            let Some(sequence) = self.parked.replayed.pop_front() else { return };
            let Some(saga) = self.saga_by_sequence(sequence) else { continue };
            let tokens = self.tokens_of(saga).count();
            if tokens <= PARKED_TOKENS_MAX && self.is_copied(saga, u64::MAX) && !self.sagas[saga].victim {
                let is_due = self.tokens_of(saga).any(|token| self.tokens[token].kind.is_for_coordinator());
                let arrivals = if is_due { Arrivals::Due } else { Arrivals::None };
                self.park(saga, Waits { arrivals, deliveries: 1, unanswered: 0 });
            }
        }
    }

    /// A replay reads back what a record is about.
    pub(in crate::state) fn recall_replayed(&mut self, sequence: u64) -> Result<(), &'static str> {
        if self.is_parked(sequence) && self.recall(sequence).is_none() {
            return Err("a saga that cannot be read back");
        }
        Ok(())
    }

    /// The log was read.
    pub fn end_replay(&mut self) {
        self.parked.replayed = VecDeque::new();
    }

    /// Copies a parked saga as it is in the log, with what was noted since. Gives where it is in `out`.
    pub fn copy_parked(&mut self, sequence: u64, out: &mut Vec<u8>) -> Option<CopyPlace> {
        let stub = *self.stub(sequence)?;
        let lsn = stub.lsn.get();
        let payload = self.parked.payload(lsn)?;
        let (offset, length) = (stub.offset.get() as usize, stub.length.get() as usize);
        let place = CopyPlace { offset: out.len() as u32, length: stub.length.get() };
        let is_whole = payload.get(offset..offset + length).is_some_and(|copy| {
            out.extend_from_slice(copy);
            let (wide, excepted) = (stub.flags & WIDE != 0, stub.flags & EXCEPTED != 0);
            set_flags(&mut out[place.offset as usize..], sequence, wide, excepted)
        });
        self.parked.keep(lsn, payload);
        if !is_whole {
            self.parked
                .fail(format!("log.read-back: record {lsn} has no copy of saga {sequence:x} where it was written"));
        }
        is_whole.then_some(place)
    }

    /// A copy of this saga that was made while it was parked is durable: the older one may go.
    pub fn move_copy(&mut self, sequence: u64, lsn: u64, place: CopyPlace) {
        if is_broken(Mutation::StubNotMoved) {
            return;
        }
        if let Some(saga) = self.saga_by_sequence(sequence) {
            let found = &mut self.sagas[saga];
            if found.oldest_lsn < lsn && found.copy.is_some() {
                (found.oldest_lsn, found.copy) = (lsn, Some(place));
            }
        } else if let Some(stub) = self.parked.stubs.get_mut(sequence).filter(|stub| stub.lsn.get() < lsn) {
            (stub.lsn, stub.offset, stub.length) = (lsn.into(), place.offset.into(), place.length.into());
        }
    }
}
