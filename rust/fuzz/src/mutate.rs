//! Mutation: small changes of bytes that were valid, drawn from a seed, so that a failure can be repeated.

/// `SplitMix64`: enough randomness for this, the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0 where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.draw() % bound as u64) as usize }
    }
}

/// Values at which length and sign checks go wrong.
const EDGES: [u64; 12] = [0, 1, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
/// Longest input: beyond every limit of a definition, and long enough for a frame of many transactions.
const BYTES_MAX: usize = 64 * 1024;
/// Changes of one input at most.
const CHANGES_MAX: usize = 6;

/// Draws inputs: a seed's bytes with a few changes.
pub struct Mutator {
    random: Random,
    seeds: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Mutator {
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        Self { random: Random::new(seed), seeds, bytes: Vec::new() }
    }

    /// The next input.
    pub fn draw(&mut self) -> &[u8] {
        let chosen = self.random.below(self.seeds.len());
        self.bytes.clear();
        self.bytes.extend_from_slice(&self.seeds[chosen]);
        for _ in 0..self.random.below(CHANGES_MAX + 1) {
            self.change();
        }
        self.bytes.truncate(BYTES_MAX);
        &self.bytes
    }

    fn change(&mut self) {
        let at = self.random.below(self.bytes.len());
        match self.random.below(7) {
            0 => self.flip(at),
            1 => self.overwrite(at),
            2 => self.bytes.truncate(at),
            3 => self.insert(at),
            4 => self.remove(at),
            5 => self.repeat(at),
            _ => self.splice(at),
        }
    }

    fn flip(&mut self, at: usize) {
        let bit = self.random.below(8);
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    /// Writes an edge value in 1, 2, 4 or 8 bytes, big or little end first.
    fn overwrite(&mut self, at: usize) {
        let (value, width) = (EDGES[self.random.below(EDGES.len())], 1 << self.random.below(4));
        let mut bytes: Vec<u8> = (0..width).map(|byte| (value >> (8 * byte)) as u8).collect();
        if self.random.below(2) == 0 {
            bytes.reverse();
        }
        for (old, new) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *old = new;
        }
    }

    fn insert(&mut self, at: usize) {
        let count = 1 + self.random.below(16);
        let bytes: Vec<u8> = (0..count).map(|_| self.random.draw() as u8).collect();
        self.bytes.splice(at..at, bytes);
    }

    fn remove(&mut self, at: usize) {
        let end = (at + 1 + self.random.below(32)).min(self.bytes.len());
        self.bytes.drain(at..end);
    }

    /// Doubles a part: nesting, repeated keys, more of what is counted.
    fn repeat(&mut self, at: usize) {
        let end = (at + 1 + self.random.below(256)).min(self.bytes.len());
        let part = self.bytes[at..end].to_vec();
        self.bytes.splice(at..at, part);
    }

    /// Goes on with another seed from somewhere.
    fn splice(&mut self, at: usize) {
        let other = self.random.below(self.seeds.len());
        let from = self.random.below(self.seeds[other].len());
        self.bytes.truncate(at);
        self.bytes.extend_from_slice(&self.seeds[other][from..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TARGETS, Target};

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| {
            let mut mutator = Mutator::new(vec![vec![1, 2, 3, 4], vec![9; 40]], seed);
            (0..200).map(|_| mutator.draw().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn seeds_are_valid_and_most_mutants_are_not() {
        use sagacore_core::plan::Plan;
        use sagacore_core::wire::{Sections, Transactions};
        let parses = |frame: &[u8]| Transactions::parse(frame).is_ok_and(|mut read| read.all(|one| one.is_ok()));
        let opens = |body: &[u8]| Sections::parse(body).is_ok();
        let compiles = |bytes: &[u8]| Plan::compile(bytes).is_ok();
        type Valid = fn(&[u8]) -> bool;
        let all: [(&str, Valid); 4] = [("wire", parses), ("body", opens), ("plan", compiles), ("peers", parses)];
        for (name, valid) in all {
            let target: &Target = TARGETS.iter().find(|target| target.name == name).expect("a target");
            assert!((target.seeds)().iter().all(|seed| valid(seed)), "{}", target.name);
            let mut mutator = Mutator::new((target.seeds)(), 1);
            let passed = (0..1_000).filter(|_| valid(mutator.draw())).count();
            assert!((100..900).contains(&passed), "{}: {passed} of 1000 pass", target.name);
        }
    }
}
