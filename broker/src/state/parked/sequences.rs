//! Sets of sequences, a bit each where they are neighbours, in groups that have an order: queues, or times.

use std::collections::BTreeMap;

const BLOCK: u64 = u64::BITS as u64;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Sequences(BTreeMap<(u64, u64), u64>);

impl Sequences {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, group: u64, sequence: u64) {
        *self.0.entry((group, sequence / BLOCK)).or_default() |= 1 << (sequence % BLOCK);
    }

    pub fn remove(&mut self, group: u64, sequence: u64) {
        let key = (group, sequence / BLOCK);
        let Some(bits) = self.0.get_mut(&key) else { return };
        *bits &= !(1 << (sequence % BLOCK));
        if *bits == 0 {
            self.0.remove(&key);
        }
    }

    /// The first of the first group, with its group.
    pub fn first(&self) -> Option<(u64, u64)> {
        let (&(group, block), bits) = self.0.first_key_value()?;
        Some((group, block * BLOCK + u64::from(bits.trailing_zeros())))
    }

    /// Appends the first ones, at most so many, whatever their group.
    pub fn first_of_all(&self, count: usize, out: &mut Vec<u64>) {
        let all = self.0.iter().flat_map(|(&(_, block), &bits)| {
            (0..BLOCK).filter(move |bit| bits & 1 << bit != 0).map(move |bit| block * BLOCK + bit)
        });
        out.extend(all.take(count));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((0u64..3, 0u64..300, any::<bool>()), 0..600)) {
            let (mut set, mut model) = (Sequences::default(), BTreeSet::new());
            for (group, sequence, is_in) in steps {
                if is_in {
                    set.insert(group, sequence);
                    model.insert((group, sequence));
                } else {
                    set.remove(group, sequence);
                    model.remove(&(group, sequence));
                }
                prop_assert_eq!(set.first(), model.first().copied());
            }
            let mut found = Vec::new();
            set.first_of_all(40, &mut found);
            prop_assert_eq!(found, model.iter().map(|&(_, sequence)| sequence).take(40).collect::<Vec<_>>());
            prop_assert_eq!(set.is_empty(), model.is_empty());
        }
    }
}
