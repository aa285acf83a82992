//! A map by the sequence of sagas: dense numbers that ascend, most of them recent. A number's place in the ring is its
//! last bits, so that sagas that began together lie together. A saga that is older than the ring is long is kept aside.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Places at the start: a power of two.
const PLACES_MIN: usize = 1 << 10;
/// The ring grows when more than this share of it is kept aside.
const ASIDE_SHARE: usize = 4;

/// See the module's text. There is no sequence 0.
pub struct BySequence<T> {
    /// 0: the place is free.
    ring: Vec<(u64, T)>,
    aside: HashMap<u64, T, FixedState>,
    length: usize,
}

impl<T: Copy + Default> Default for BySequence<T> {
    fn default() -> Self {
        Self { ring: vec![(0, T::default()); PLACES_MIN], aside: HashMap::default(), length: 0 }
    }
}

impl<T: Copy + Default> BySequence<T> {
    /// With a ring for so many, so that it need not grow while sagas wait.
    pub fn with_room(count: usize) -> Self {
        let places = count.next_power_of_two().max(PLACES_MIN);
        Self { ring: vec![(0, T::default()); places], ..Self::default() }
    }

    pub fn get(&self, sequence: u64) -> Option<T> {
        let (found, value) = self.ring[self.place(sequence)];
        if found == sequence {
            return (sequence != 0).then_some(value);
        }
        if self.aside.is_empty() { None } else { self.aside.get(&sequence).copied() }
    }

    pub fn insert(&mut self, sequence: u64, value: T) {
        debug_assert!(sequence != 0);
        let place = self.place(sequence);
        let (found, old) = self.ring[place];
        if found == sequence {
            self.ring[place].1 = value;
        } else if let Some(known) = self.aside.get_mut(&sequence) {
            *known = value;
        } else {
            self.length += 1;
            if found == 0 || found < sequence {
                self.ring[place] = (sequence, value);
                if found != 0 {
                    self.aside.insert(found, old);
                }
            } else {
                self.aside.insert(sequence, value);
            }
            if self.aside.len() > self.ring.len() / ASIDE_SHARE {
                self.grow();
            }
        }
    }

    pub fn remove(&mut self, sequence: u64) -> Option<T> {
        let place = self.place(sequence);
        let (found, value) = self.ring[place];
        let gone = if found == sequence && sequence != 0 {
            self.ring[place].0 = 0;
            Some(value)
        } else {
            self.aside.remove(&sequence)
        };
        self.length -= usize::from(gone.is_some());
        gone
    }

    /// Gives back what many more took than are there now.
    pub fn trim(&mut self) {
        let places = PLACES_MIN.max(2 * self.length.next_power_of_two());
        if places < self.ring.len() {
            self.rebuild(places);
        }
    }

    fn place(&self, sequence: u64) -> usize {
        sequence as usize & (self.ring.len() - 1)
    }

    /// Twice the ring, and everything in its place there. Not where it has places enough: then its numbers lie far
    /// apart, and no ring would hold them.
    fn grow(&mut self) {
        if self.ring.len() >= 2 * self.length {
            return;
        }
        self.rebuild(2 * self.ring.len());
    }

    fn rebuild(&mut self, places: usize) {
        let ring = std::mem::replace(&mut self.ring, vec![(0, T::default()); places]);
        let aside = std::mem::take(&mut self.aside);
        self.length = 0;
        for (sequence, value) in ring.into_iter().filter(|(sequence, _)| *sequence != 0).chain(aside) {
            self.insert(sequence, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// The next number, after a gap.
        Insert(u64),
        /// One of those that are there, by its place among them in per mille.
        Remove(usize),
        /// Any number.
        Any(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => prop_oneof![9 => Just(1u64), 1 => 1u64..3_000].prop_map(Step::Insert),
            5 => (0usize..1_000).prop_map(Step::Remove),
            1 => (1u64..20_000).prop_map(Step::Any),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_map(steps in proptest::collection::vec(step(), 0..2_000)) {
            let (mut map, mut model) = (BySequence::default(), BTreeMap::new());
            let mut next = 0;
            for (value, step) in steps.into_iter().enumerate() {
                let sequence = match step {
                    Step::Insert(gap) => {
                        next += gap;
                        next
                    }
                    Step::Any(sequence) => sequence,
                    Step::Remove(share) => {
                        let found = model.keys().nth(model.len() * share / 1_000).copied();
                        let sequence = found.unwrap_or(7);
                        prop_assert_eq!(map.remove(sequence), model.remove(&sequence));
                        prop_assert_eq!(map.get(sequence), None);
                        continue;
                    }
                };
                map.insert(sequence, value);
                model.insert(sequence, value);
                if value % 61 == 0 {
                    map.trim();
                }
                prop_assert_eq!(map.length, model.len());
                prop_assert_eq!(map.get(sequence), Some(value));
            }
            for sequence in 0..=next {
                prop_assert_eq!(map.get(sequence), model.get(&sequence).copied());
            }
        }
    }

    #[test]
    fn a_long_window_lies_in_the_ring_and_old_ones_do_not_make_it_grow() {
        let mut map = BySequence::default();
        for sequence in 1..=100_000u64 {
            map.insert(sequence, sequence);
        }
        assert!(map.aside.len() <= map.ring.len() / ASIDE_SHARE);
        let places = map.ring.len();
        // Every thousandth stays for ever.
        for sequence in 100_001..=2_000_000u64 {
            map.insert(sequence, sequence);
            let old = sequence - 100_000;
            if old % 1_000 != 0 {
                assert_eq!(map.remove(old), Some(old));
            }
        }
        assert_eq!(map.length, 100_000 + 1_900);
        assert!(map.ring.len() <= 4 * places, "{} places", map.ring.len());
        assert_eq!(map.get(1_000), Some(1_000));
    }
}
