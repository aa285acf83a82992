//! The sagas whose outcome a client awaits: all that it needs to ask for one again after a lost connection.
//!
//! One entry is 16 bytes beside its correlation, and the saga's name: its key, or its id where it was attached by id.
//! The names stand back to back in one buffer, which is rewritten once more than half of it is of sagas that have
//! ended, so nothing is allocated per saga.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use zerocopy::{FromBytes, IntoBytes};

use super::Subject;
use crate::wire::SagaId;

/// Names of ended sagas that are kept at least before the buffer is rewritten.
const GARBAGE_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Of the transaction with its START; 0 where it was attached.
    number: u64,
    offset: u32,
    length: u8,
    by_key: bool,
    quiet: bool,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    entries: HashMap<u64, Entry, FixedState>,
    names: Vec<u8>,
    /// Bytes of `names` whose entry is still there.
    live: usize,
    spare: Vec<u8>,
}

impl Awaited {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, correlation: u64) -> bool {
        self.entries.contains_key(&correlation)
    }

    /// The caller has checked that the correlation is free and that the name is no longer than a key may be.
    pub(super) fn insert(&mut self, correlation: u64, number: u64, subject: Subject<'_>, quiet: bool) {
        let (name, by_key) = match &subject {
            Subject::Key(key) => (*key, true),
            Subject::Id(id) => (id.as_bytes(), false),
        };
        if self.names.len() - self.live > self.live + GARBAGE_BYTES {
            self.rewrite();
        }
        let entry = Entry { number, offset: self.names.len() as u32, length: name.len() as u8, by_key, quiet };
        self.names.extend_from_slice(name);
        self.live += name.len();
        self.entries.insert(correlation, entry);
    }

    /// Whether it was awaited.
    pub(super) fn remove(&mut self, correlation: u64) -> bool {
        let Some(entry) = self.entries.remove(&correlation) else {
            return false;
        };
        self.live -= usize::from(entry.length);
        true
    }

    /// The broker has told how far it is, so it need not tell again. Whether it is awaited at all.
    pub(super) fn hush(&mut self, correlation: u64) -> bool {
        let entry = self.entries.get_mut(&correlation);
        entry.map(|entry| entry.quiet = true).is_some()
    }

    /// How it is named, and whether only its RESULT is wanted.
    pub(super) fn get(&self, correlation: u64) -> Option<(Subject<'_>, bool)> {
        let entry = self.entries.get(&correlation)?;
        let name = &self.names[entry.offset as usize..][..usize::from(entry.length)];
        let subject = match entry.by_key {
            true => Subject::Key(name),
            false => Subject::Id(SagaId::read_from_bytes(name).unwrap_or_else(|_| unreachable!("written as an id"))),
        };
        Some((subject, entry.quiet))
    }

    /// The correlations, ascending, of those that were attached or whose START is confirmed up to this number.
    pub(super) fn confirmed(&self, number: u64) -> impl Iterator<Item = u64> {
        let mut found: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.number <= number)
            .map(|(&correlation, _)| correlation)
            .collect();
        found.sort_unstable();
        found.into_iter()
    }

    /// In the order of the old buffer, so that the new one does not depend on the order of the map.
    fn rewrite(&mut self) {
        let mut order: Vec<(u32, u64)> = self.entries.iter().map(|(&at, entry)| (entry.offset, at)).collect();
        order.sort_unstable();
        self.spare.clear();
        for (offset, correlation) in order {
            if let Some(entry) = self.entries.get_mut(&correlation) {
                entry.offset = self.spare.len() as u32;
                self.spare.extend_from_slice(&self.names[offset as usize..][..usize::from(entry.length)]);
            }
        }
        std::mem::swap(&mut self.names, &mut self.spare);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u64, Vec<u8>),
        Remove(u64),
        Hush(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let at = 1_u64..40;
        prop_oneof![
            3 => (at.clone(), prop::collection::vec(any::<u8>(), 1..=200)).prop_map(|(at, key)| Op::Insert(at, key)),
            3 => at.clone().prop_map(Op::Remove),
            1 => at.prop_map(Op::Hush),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_map(ops in prop::collection::vec(op(), 0..2_000), up_to in 0_u64..40) {
            let mut awaited = Awaited::default();
            let mut model: BTreeMap<u64, (Vec<u8>, bool)> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(at, key) => {
                        if let Entry::Vacant(free) = model.entry(at) {
                            awaited.insert(at, at, Subject::Key(&key), false);
                            free.insert((key, false));
                        }
                    }
                    Op::Remove(at) => prop_assert_eq!(awaited.remove(at), model.remove(&at).is_some()),
                    Op::Hush(at) => {
                        prop_assert_eq!(awaited.hush(at), model.contains_key(&at));
                        model.entry(at).and_modify(|(_, quiet)| *quiet = true);
                    }
                }
            }
            prop_assert_eq!(awaited.len(), model.len());
            for (at, (key, quiet)) in &model {
                prop_assert_eq!(awaited.get(*at), Some((Subject::Key(key.as_slice()), *quiet)));
            }
            let expected: Vec<u64> = model.range(..=up_to).map(|(&at, _)| at).collect();
            prop_assert_eq!(awaited.confirmed(up_to).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn names_of_ended_sagas_do_not_pile_up() {
        let mut awaited = Awaited::default();
        awaited.insert(1, 0, Subject::Id(SagaId::new(3, 4, 5)), false);
        for at in 2..100_000_u64 {
            awaited.insert(at, at, Subject::Key(&[b'k'; 100]), true);
            if at > 100 {
                assert!(awaited.remove(at - 98));
            }
        }
        let held = awaited.names.capacity() + awaited.spare.capacity();
        assert!(held < 8 * GARBAGE_BYTES, "{held} bytes for 100 names of 100 bytes");
        assert_eq!(awaited.get(1), Some((Subject::Id(SagaId::new(3, 4, 5)), false)));
        assert_eq!(awaited.get(99_999), Some((Subject::Key(&[b'k'; 100]), true)));
    }
}
