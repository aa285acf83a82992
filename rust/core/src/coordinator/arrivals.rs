//! Arrivals at joins: what is complete goes on, what is not waits in the table, what finds no room waits at
//! the broker.

use super::Coordinator;
use super::plans::Course;
use super::split::split;
use super::token::Token;
use crate::limits::EDGES_PER_BLOCK;
use crate::mutation::{Mutation, is_broken};
use crate::plan::Join;
use crate::table::{Identity, Slot, State};
use crate::wire::{Header, Key, Kind};

/// Arrivals of one slot that came one after the other. A spilled saga's come like that, together with the one that
/// was waited for: a join that they complete needs no place in the table.
#[derive(Debug)]
pub struct Staged {
    slot: Slot,
    course: Course,
}

impl Coordinator {
    pub(super) fn arrive(&mut self, header: &Header, course: Course, plan_index: u16) {
        self.counters.arrivals += 1;
        if is_broken(Mutation::ArrivalLost) && header.saga.sequence.get() % 64 == 7 {
            return;
        }
        let edge = header.place.get();
        let (Some(join), Some(slot)) = (course.graph().join_of(edge), Slot::of_arrival(header, plan_index)) else {
            self.counters.strays += 1;
            return;
        };
        if join.mask.count_ones() == 1 {
            self.pass([Key::of(header)].into_iter(), &Token::of_arrival(header), target_of(join));
            return;
        }
        if let Some(staged) = self.staged.as_mut().filter(|staged| staged.slot.is(&slot.identity())) {
            staged.slot.fold(header);
            return;
        }
        self.settle();
        self.staged = Some(Staged { slot, course });
    }

    /// Brings the staged arrivals together with those in the table.
    pub(super) fn settle(&mut self) {
        let Some(Staged { mut slot, course }) = self.staged.take() else { return };
        let (identity, fresh) = (slot.identity(), slot.arrived);
        let held = self.table.find(&identity);
        if let Some(at) = held {
            slot.merge(self.table.slot(at));
        }
        self.pass_complete(&mut slot, fresh, &course);
        match held {
            Some(at) if slot.is_dirty() => {
                self.table.update(at, slot);
                self.relieve(&identity);
            }
            Some(at) => {
                self.table.remove(at);
            }
            None if slot.is_dirty() => self.admit(slot),
            None => {}
        }
    }

    /// Forgets what has arrived of an attempt that was aborted: the abort has consumed it.
    pub(super) fn forget_forward(&mut self, revoked: &Header, plan_index: u16) {
        let (saga, attempt) = (revoked.saga, revoked.attempt.get());
        let mut last_block = None;
        for join in self.plans.get(plan_index).forward.joins() {
            if join.mask.count_ones() == 1 || last_block == Some(join.block) {
                continue;
            }
            last_block = Some(join.block);
            let identity = Identity { saga, attempt, block: join.block, state: State::Forward };
            if let Some(at) = self.table.find(&identity) {
                self.table.remove(at);
            }
        }
    }

    /// Lets the joins go on that the fresh arrivals complete, and takes their arrivals out of the slot.
    fn pass_complete(&mut self, slot: &mut Slot, fresh: u64, course: &Course) {
        let mut left = fresh;
        while left != 0 {
            let edge = slot.block() * EDGES_PER_BLOCK as u16 + left.trailing_zeros() as u16;
            left &= left - 1;
            let Some(join) = course.graph().join_of(edge) else { continue };
            if slot.arrived & join.mask == join.mask || is_broken(Mutation::JoinWithoutAll) {
                left &= !join.mask;
                let joined = split(slot, join.mask, course.graph());
                self.pass(joined.keys(), &Token::of_slot(&joined, course.plan.fingerprint), target_of(join));
            }
        }
    }

    /// Takes up a slot, or spills it at once where its set has no room: the arrivals come again with the next one.
    fn admit(&mut self, slot: Slot) {
        let identity = slot.identity();
        if self.table.insert(slot).is_some() {
            self.relieve(&identity);
        } else {
            self.counters.given_back += u64::from(slot.arrived.count_ones());
            let number = self.spill(&slot);
            self.table.note_unplaced(number);
        }
    }

    /// Spills until newcomers to the set of this identity find room.
    fn relieve(&mut self, identity: &Identity) {
        while let Some(at) = self.table.crowded(identity) {
            let victim = *self.table.slot(at);
            let number = self.spill(&victim);
            self.table.pin(at, number);
        }
    }

    /// Asks the broker to hold what a slot stands for until the next arrival of its block. Gives the number.
    fn spill(&mut self, slot: &Slot) -> u64 {
        let mut header = Header::new(Kind::Spill);
        header.saga = slot.saga();
        header.plan = self.plans.get(slot.plan_index).fingerprint.into();
        header.attempt = slot.attempt().into();
        header.place = slot.block().into();
        self.peer.transact(|transaction| {
            for key in slot.keys() {
                transaction.consume(&key);
            }
            transaction.publish(header);
        })
    }
}

/// The set of steps that a join lets start: one, or none where it is the end.
fn target_of(join: &Join) -> u64 {
    join.target.map_or(0, |step| 1 << step)
}
