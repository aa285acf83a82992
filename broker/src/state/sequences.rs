//! Sets of sequences, a bit each where they are neighbours, in groups that have an order: queues, or times.

use std::collections::BTreeMap;

const BLOCK: u64 = u64::BITS as u64;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Sequences {
    blocks: BTreeMap<(u64, u64), u64>,
    count: usize,
}

impl Sequences {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn contains(&self, group: u64, sequence: u64) -> bool {
        let bits = self.blocks.get(&(group, sequence / BLOCK));
        bits.is_some_and(|bits| bits & 1 << (sequence % BLOCK) != 0)
    }

    pub fn insert(&mut self, group: u64, sequence: u64) {
        let (bits, bit) = (self.blocks.entry((group, sequence / BLOCK)).or_default(), 1 << (sequence % BLOCK));
        self.count += usize::from(*bits & bit == 0);
        *bits |= bit;
    }

    pub fn remove(&mut self, group: u64, sequence: u64) {
        let (key, bit) = ((group, sequence / BLOCK), 1 << (sequence % BLOCK));
        let Some(bits) = self.blocks.get_mut(&key).filter(|bits| **bits & bit != 0) else { return };
        *bits &= !bit;
        self.count -= 1;
        if *bits == 0 {
            self.blocks.remove(&key);
        }
    }

    /// The first of the first group, with its group.
    pub fn first(&self) -> Option<(u64, u64)> {
        let (&(group, block), bits) = self.blocks.first_key_value()?;
        Some((group, block * BLOCK + u64::from(bits.trailing_zeros())))
    }

    /// All of them in order, whatever their group.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.iter().flat_map(|(&(_, block), &bits)| {
            (0..BLOCK).filter(move |bit| bits & 1 << bit != 0).map(move |bit| block * BLOCK + bit)
        })
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
                prop_assert_eq!(set.contains(group, sequence), model.contains(&(group, sequence)));
                if is_in {
                    set.insert(group, sequence);
                    model.insert((group, sequence));
                } else {
                    set.remove(group, sequence);
                    model.remove(&(group, sequence));
                }
                prop_assert_eq!((set.first(), set.len()), (model.first().copied(), model.len()));
            }
            prop_assert!(set.iter().eq(model.iter().map(|&(_, sequence)| sequence)));
            prop_assert_eq!(set.is_empty(), model.is_empty());
        }
    }
}
