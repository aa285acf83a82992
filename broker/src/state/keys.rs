//! Which sagas were started under a key: 12 bytes each, a fingerprint of the key's hash and the saga's sequence. Two
//! keys may share a fingerprint, so whoever asks compares the whole hash with that of the saga.

use hashbrown::HashTable;

/// The odd number nearest to 2^64 over the golden ratio: spreads a fingerprint over all bits of a hash.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    fingerprint: u32,
    /// Low and high half: so that it needs no more than an alignment of 4.
    sequence: [u32; 2],
}

const _: () = assert!(size_of::<Entry>() == 12);

impl Entry {
    fn new(key_hash: u128, sequence: u64) -> Self {
        Self { fingerprint: key_hash as u32, sequence: [sequence as u32, (sequence >> 32) as u32] }
    }

    fn sequence(&self) -> u64 {
        u64::from(self.sequence[1]) << 32 | u64::from(self.sequence[0])
    }

    fn hash(&self) -> u64 {
        u64::from(self.fingerprint).wrapping_mul(SPREAD)
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Keys(HashTable<Entry>);

impl Keys {
    /// Makes room for so many, so that the table need not grow while sagas wait.
    pub fn reserve(&mut self, count: usize) {
        self.0.reserve(count, Entry::hash);
    }

    /// A saga was started under a key with this hash.
    pub fn insert(&mut self, key_hash: u128, sequence: u64) {
        let entry = Entry::new(key_hash, sequence);
        if self.0.find(entry.hash(), |known| *known == entry).is_none() {
            self.0.insert_unique(entry.hash(), entry, Entry::hash);
        }
    }

    pub fn remove(&mut self, key_hash: u128, sequence: u64) {
        let entry = Entry::new(key_hash, sequence);
        if let Ok(found) = self.0.find_entry(entry.hash(), |known| *known == entry) {
            found.remove();
        }
    }

    /// The sagas that may have been started under it, the latest last.
    pub fn find(&self, key_hash: u128, found: &mut Vec<u64>) {
        let wanted = Entry::new(key_hash, 0);
        found.clear();
        let all = self.0.iter_hash(wanted.hash());
        found.extend(all.filter(|known| known.fingerprint == wanted.fingerprint).map(Entry::sequence));
        found.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_all_of_a_fingerprint_and_forgets_one() {
        let (mut keys, mut found) = (Keys::default(), Vec::new());
        let (one, other) = (7u128 | 1 << 100, 7u128 | 2 << 100);
        for (key_hash, sequence) in [(one, 3), (other, u64::from(u32::MAX) + 9), (one, 3), (8, 4)] {
            keys.insert(key_hash, sequence);
        }
        keys.find(one, &mut found);
        assert_eq!(found, [3, u64::from(u32::MAX) + 9]);
        keys.remove(other, u64::from(u32::MAX) + 9);
        keys.remove(one, 4);
        keys.find(other, &mut found);
        assert_eq!(found, [3]);
    }
}
