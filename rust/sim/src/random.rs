//! The only source of chance: a small generator of our own, so that a seed means the same for ever.
//!
//! Integers only: no logarithm of a library decides what a seed does.

/// xoshiro256**, seeded by SplitMix64.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

/// The next number of SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl Random {
    /// The stream of this name of a seed. Streams of different names do not disturb each other.
    pub fn new(seed: u64, stream: &str) -> Self {
        let mut state = stream
            .bytes()
            .fold(seed ^ 0x5a9a_c03e, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let mut next = || split_mix(&mut state);
        Self { state: [next(), next(), next(), next()] }
    }

    pub fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// Whether something happens that does so in `per_10_000` of 10,000 cases.
    pub fn chance(&mut self, per_10_000: u64) -> bool {
        self.below(10_000) < per_10_000
    }

    pub fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// The place of one of `count` things.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.index(items.len())]) }
    }

    /// A waiting time with a long tail: half of them below `half`, a quarter up to twice that, and so on to 16 times.
    pub fn tail(&mut self, half: u64) -> u64 {
        let doublings = u64::from(self.next().leading_zeros()).min(15);
        half * doublings + self.below(half + 1)
    }

    /// A number of the magnitude: each power of two between the two is as likely as the others.
    pub fn magnitude(&mut self, first: u64, last: u64) -> u64 {
        let (low, high) = (first.max(1).ilog2(), last.max(1).ilog2());
        let bits = self.between(u64::from(low), u64::from(high));
        self.between(1 << bits, (2 << bits) - 1).clamp(first, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut random = Random::new(1, "test");
        let drawn: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(drawn, DRAWN);
    }

    const DRAWN: [u64; 3] = [3_322_698_060_696_638_504, 6_437_225_837_668_015_817, 17_754_940_843_655_399_165];

    #[test]
    fn numbers_keep_their_bounds_and_reach_them() {
        let mut random = Random::new(7, "bounds");
        let drawn: Vec<u64> = (0..1_000).map(|_| random.between(3, 6)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&6)));
        assert!((0..1_000).all(|_| (5..=77).contains(&random.magnitude(5, 77))));
        assert!((0..1_000).all(|_| random.tail(10) <= 160));
        assert!(!random.chance(0) && random.chance(10_000));
    }
}
