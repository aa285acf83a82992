//! The running sagas of one class of deadlines in the order in which they began, in a bit or two each: one block for 64
//! neighbours. A saga's place among all of the class that ever began is counted from its block's.

use std::collections::VecDeque;

const BLOCK: u64 = u64::BITS as u64;
/// Blocks of sagas that have ended are swept out when there are so many.
const SWEEP_AT_LEAST: usize = 64;

struct Block {
    /// The first sequence that it has a bit for.
    first: u64,
    /// How many of the class began before those of this block.
    place: u64,
    begun: u64,
    /// Those of them that are still waited for, as far as somebody has looked.
    waited: u64,
}

const _: () = assert!(size_of::<Block>() == 32);

/// See the module's text.
pub(super) struct Begun {
    blocks: VecDeque<Block>,
    sweep_at: usize,
    count: u64,
}

impl Default for Begun {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), sweep_at: SWEEP_AT_LEAST, count: 0 }
    }
}

impl Begun {
    /// How many ever began.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A saga begins: the youngest of all. Whatever is not waited for now never is again.
    pub fn push(&mut self, sequence: u64, is_waited_for: impl Fn(u64) -> bool) {
        let (first, bit) = (sequence - sequence % BLOCK, 1 << (sequence % BLOCK));
        match self.blocks.back_mut().filter(|block| block.first == first) {
            Some(block) => {
                block.begun |= bit;
                block.waited |= bit;
            }
            None => {
                self.first(&is_waited_for);
                if self.blocks.len() >= self.sweep_at {
                    self.blocks.retain_mut(|block| block.look(&is_waited_for).is_some());
                    self.sweep_at = SWEEP_AT_LEAST.max(2 * self.blocks.len());
                }
                self.blocks.push_back(Block { first, place: self.count, begun: bit, waited: bit });
            }
        }
        self.count += 1;
    }

    /// The oldest one that is waited for, and its place among all that began.
    pub fn first(&mut self, is_waited_for: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        while let Some(block) = self.blocks.front_mut() {
            if let Some(bit) = block.look(&is_waited_for) {
                let before = block.begun & ((1 << bit) - 1);
                return Some((block.place + u64::from(before.count_ones()), block.first + u64::from(bit)));
            }
            self.blocks.pop_front();
        }
        None
    }
}

impl Block {
    /// The first one that is still waited for.
    fn look(&mut self, is_waited_for: impl Fn(u64) -> bool) -> Option<u32> {
        while self.waited != 0 {
            let bit = self.waited.trailing_zeros();
            if is_waited_for(self.first + u64::from(bit)) {
                return Some(bit);
            }
            self.waited &= self.waited - 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_the_oldest_and_its_place(steps in proptest::collection::vec((1u64..40, 0usize..3), 0..400)) {
            let (mut begun, mut model) = (Begun::default(), BTreeMap::new());
            let (mut sequence, mut count) = (0, 0);
            for (gap, ends) in steps {
                sequence += gap;
                model.insert(sequence, count);
                count += 1;
                begun.push(sequence, |sequence| model.contains_key(&sequence));
                for _ in 0..ends {
                    let some = model.keys().nth(sequence as usize % model.len().max(1)).copied();
                    some.map(|some| model.remove(&some));
                }
                let oldest = begun.first(|sequence| model.contains_key(&sequence));
                prop_assert_eq!(oldest, model.first_key_value().map(|(&sequence, &place)| (place, sequence)));
                prop_assert_eq!(begun.count(), count);
            }
        }
    }

    #[test]
    fn one_that_lives_long_does_not_keep_the_others() {
        let mut begun = Begun::default();
        for sequence in 1..=1_000_000u64 {
            begun.push(sequence, |other| other == 1 || other + 10 > sequence);
        }
        assert!(begun.blocks.len() <= SWEEP_AT_LEAST + 1);
        assert_eq!(begun.first(|other| other == 1), Some((0, 1)));
    }
}
