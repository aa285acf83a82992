//! One owner (rule 14): the slices of the id space, dealt to the coordinators that are connected.

use sagacore_core::limits::SLICES;
use sagacore_core::mutation::{Mutation, is_broken};

use crate::state::SessionRef;

/// The odd number nearest to 2^64 over the golden ratio: multiples of it are spread evenly (Knuth, TAOCP 6.4).
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const SLICE_SHIFT: u32 = u64::BITS - SLICES.trailing_zeros();

/// Which coordinator has which slice.
pub struct Slices {
    owners: Vec<Option<SessionRef>>,
    coordinators: Vec<SessionRef>,
}

impl Default for Slices {
    fn default() -> Self {
        Self { owners: vec![None; SLICES], coordinators: Vec::new() }
    }
}

impl Slices {
    /// The owner of a saga. Neighbours in age are spread, so that a burst is not one coordinator's alone.
    pub fn owner(&self, sequence: u64) -> Option<SessionRef> {
        self.owners[(sequence.wrapping_mul(SPREAD) >> SLICE_SHIFT) as usize]
    }

    pub fn coordinators(&self) -> &[SessionRef] {
        &self.coordinators
    }

    pub fn join(&mut self, coordinator: SessionRef) {
        self.coordinators.push(coordinator);
        self.deal();
    }

    pub fn leave(&mut self, coordinator: SessionRef) {
        self.coordinators.retain(|&other| other != coordinator);
        if !is_broken(Mutation::SlicesNotDealtAgain) {
            self.deal();
        }
    }

    /// Deals evenly, and moves no slice without need.
    fn deal(&mut self) {
        let count = self.coordinators.len();
        if count == 0 {
            self.owners.fill(None);
            return;
        }
        let share = SLICES.div_ceil(count);
        let mut held = vec![0; count];
        for owner in &mut self.owners {
            let place = owner.and_then(|owner| self.coordinators.iter().position(|&other| other == owner));
            match place {
                Some(place) if held[place] < share => held[place] += 1,
                _ => *owner = None,
            }
        }
        for owner in self.owners.iter_mut().filter(|owner| owner.is_none()) {
            let least = (0..count).min_by_key(|&place| held[place]).unwrap_or_default();
            held[least] += 1;
            *owner = Some(self.coordinators[least]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmap::SlotMap;

    #[test]
    fn slices_are_even_and_move_only_when_they_must() {
        let mut sessions: SlotMap<SessionRef, ()> = SlotMap::with_key();
        let mut slices = Slices::default();
        let peers: Vec<_> = (0..5).map(|_| sessions.insert(())).collect();
        for (index, &peer) in peers.iter().enumerate() {
            let before = slices.owners.clone();
            slices.join(peer);
            let moved = before.iter().zip(&slices.owners).filter(|(a, b)| a.is_some() && a != b).count();
            assert!(moved <= SLICES.div_ceil(index + 1), "{moved}");
        }
        let before = slices.owners.clone();
        slices.leave(peers[2]);
        for (old, new) in before.iter().zip(&slices.owners) {
            assert!(old == new || *old == Some(peers[2]));
        }
        let held = |peer| slices.owners.iter().filter(|&&owner| owner == Some(peer)).count();
        assert!([0, 1, 3, 4].iter().all(|&at| (200..=300).contains(&held(peers[at]))));
        for peer in peers {
            slices.leave(peer);
        }
        assert_eq!(slices.owner(7), None);
    }
}
