//! The table against a simple model: maps of the arrivals that each slot stands for.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sagacore_core::table::{Arrived, Identity, Position, SPARE_WAYS, Slot, SpilledSlot, State, Table, WAYS};
use sagacore_core::wire::{Flags, Header, KEY_BYTES, Key, Kind, SagaId};
use zerocopy::{FromBytes, IntoBytes};

/// A slot's identity, ordered: sequence, attempt, block and whether it undoes.
type Name = (u64, u32, u16, bool);

#[derive(Debug, Clone)]
enum Operation {
    /// These edges of the block arrive, in this order.
    Arrive(Name, Vec<u16>),
    /// A slot without arrivals.
    Clean(Name),
    /// The slot is looked up, which CLOCK takes note of.
    Use(Name),
    /// All that has arrived goes on.
    Remove(prop::sample::Index),
    /// The SPILLs up to one of those that are unanswered are accepted.
    Accept(prop::sample::Index),
    Refuse(prop::sample::Index),
    /// A spilled slot's arrivals come again, with one more.
    Recall(prop::sample::Index, u16),
    Clear,
}

fn name() -> impl Strategy<Value = Name> {
    (0..60u64, 0..2u32, 0..2u16, any::<bool>())
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (name(), prop::collection::vec(0..64u16, 1..5)).prop_map(|(name, bits)| Operation::Arrive(name, bits)),
        3 => name().prop_map(Operation::Clean),
        2 => name().prop_map(Operation::Use),
        3 => any::<prop::sample::Index>().prop_map(Operation::Remove),
        2 => any::<prop::sample::Index>().prop_map(Operation::Accept),
        2 => any::<prop::sample::Index>().prop_map(Operation::Refuse),
        3 => (any::<prop::sample::Index>(), 0..64u16).prop_map(|(index, bit)| Operation::Recall(index, bit)),
        1 => Just(Operation::Clear),
    ]
}

fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ value >> 32
}

/// The arrival of this edge: within an attempt there is one, and its header never changes.
fn arrival((sequence, attempt, block, undoing): Name, bit: u16) -> Header {
    let seed = mix(sequence << 20 | u64::from(attempt) << 16 | u64::from(block) << 8 | u64::from(bit));
    let mut header = Header::new(if undoing { Kind::Undone } else { Kind::Done });
    header.saga = SagaId::new(3, sequence, sequence as u32 ^ 0xabcd);
    header.attempt = attempt.into();
    header.place = (block * 64 + bit).into();
    header.done = if undoing { mix(sequence) } else { seed | seed >> 7 }.into();
    header.undo = if undoing { mix(sequence) & (seed | mix(seed)) } else { 0 }.into();
    header.age = (sequence / 2).into();
    header.flags = if sequence % 5 == 0 { Flags::WIDE } else { 0 }.into();
    header
}

fn identity(name: Name) -> Identity {
    Identity::of(&arrival(name, 0)).unwrap()
}

fn slot_of(name: Name, bits: &BTreeMap<u16, ()>) -> Slot {
    let mut slot = Slot::clean(&identity(name), 0);
    bits.keys().for_each(|&bit| slot.fold(&arrival(name, bit)));
    slot
}

fn bytes_of(headers: impl IntoIterator<Item = Header>) -> Vec<u8> {
    headers.into_iter().flat_map(|header| header.as_bytes().to_vec()).collect()
}

/// The arrivals that each slot stands for, and what the table owes to whom.
#[derive(Default)]
struct Model {
    held: BTreeMap<Name, BTreeMap<u16, ()>>,
    pinned: BTreeMap<Name, u64>,
    /// Among them those whose slots were recalled since.
    unanswered: BTreeSet<u64>,
    /// Dropped once the broker held what they stood for.
    spilled: BTreeMap<Name, (BTreeMap<u16, ()>, Slot)>,
}

struct Harness {
    table: Table,
    model: Model,
    evictions_clean: u64,
}

impl Harness {
    fn new(slots: usize) -> Self {
        Self { table: Table::new(slots), model: Model::default(), evictions_clean: 0 }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Arrive(name, bits) => self.arrive(*name, bits),
            Operation::Clean(name) => self.clean(*name),
            Operation::Use(name) => {
                let found = self.table.find(&identity(*name));
                assert_eq!(found.is_some(), self.model.held.contains_key(name));
            }
            Operation::Remove(index) => self.remove(index),
            Operation::Accept(index) => self.accept(index),
            Operation::Refuse(index) => self.refuse(index),
            Operation::Recall(index, bit) => self.recall(index, *bit),
            Operation::Clear => {
                self.table.clear();
                self.model = Model::default();
            }
        }
        self.check();
    }

    fn arrive(&mut self, name: Name, bits: &[u16]) {
        for &bit in bits {
            let clean = self.clean_names();
            let was_pinned = self.model.pinned.contains_key(&name);
            let batch = self.table.arrive_batch(&bytes_of([arrival(name, bit)])).unwrap();
            self.forget_evicted(&clean);
            let bits = self.model.held.get(&name);
            let expected = match bits {
                None if batch.codes == [Arrived::NoRoom as u8] => Arrived::NoRoom,
                None => Arrived::Inserted,
                Some(bits) if bits.contains_key(&bit) => Arrived::Known,
                Some(_) => Arrived::Added,
            };
            assert_eq!(batch.codes, [expected as u8]);
            if expected != Arrived::NoRoom {
                self.model.held.entry(name).or_default().insert(bit, ());
                self.model.pinned.remove(&name);
                self.model.spilled.remove(&name);
            } else {
                assert!(!was_pinned);
                assert_eq!(batch.spilled, []);
                self.check_no_room(name);
            }
            self.note(&batch.spilled);
        }
    }

    /// No room means: nothing in the set is free or clean, and some of it will be once SPILLs are answered.
    fn check_no_room(&mut self, name: Name) {
        if self.table.capacity() == WAYS {
            assert_eq!(self.table.len(), WAYS, "there was a free slot");
            assert!(self.clean_names().is_empty(), "there was a clean slot for {name:?}");
            assert!(self.model.pinned.len() >= SPARE_WAYS || self.model.unanswered.len() == WAYS);
        }
    }

    /// What is spilled is named completely, was neither pinned nor clean, and only where room became scarce.
    fn note(&mut self, spilled: &[SpilledSlot]) {
        for slot in spilled {
            let keys = <[Key]>::ref_from_bytes(&slot.keys).unwrap();
            assert_eq!(slot.keys.len(), keys.len() * KEY_BYTES);
            let undoing = keys[0].kind() == Kind::Undone;
            let block = keys[0].place.get() / 64;
            let name = (keys[0].saga.sequence.get(), keys[0].attempt.get(), block, undoing);
            let expected = self.model.held[&name].keys().map(|&bit| Key::of(&arrival(name, bit)));
            assert!(expected.eq(keys.iter().copied()), "a SPILL must name all arrivals of {name:?}");
            assert_eq!(self.model.pinned.insert(name, slot.number), None, "a pinned slot was spilled again");
            self.model.unanswered.insert(slot.number);
        }
        if self.table.capacity() == WAYS && !spilled.is_empty() {
            let spare = WAYS - self.model.held.len() + self.clean_names().len() + self.model.pinned.len();
            assert_eq!(spare, SPARE_WAYS, "spilled until so much is to spare");
        }
    }

    fn clean(&mut self, name: Name) {
        if self.model.held.contains_key(&name) {
            return;
        }
        let clean = self.clean_names();
        if self.table.insert(Slot::clean(&identity(name), 0)).is_some() {
            self.forget_evicted(&clean);
            self.model.held.insert(name, BTreeMap::new());
        } else {
            assert!(self.table.capacity() != WAYS || clean.is_empty());
        }
    }

    fn remove(&mut self, index: &prop::sample::Index) {
        if self.model.held.is_empty() {
            return;
        }
        let name = *index.get(&self.model.held.keys().collect::<Vec<_>>());
        let (name, absent) = (*name, (999, 0, 0, false));
        let headers = bytes_of([arrival(name, 7), arrival(absent, 7)]);
        assert_eq!(self.table.remove_batch(&headers).unwrap(), [1, 0]);
        self.model.held.remove(&name);
        self.model.pinned.remove(&name);
    }

    fn accept(&mut self, index: &prop::sample::Index) {
        if self.model.pinned.is_empty() {
            return;
        }
        let number = **index.get(&self.model.pinned.values().collect::<Vec<_>>());
        self.table.answered(number);
        self.model.unanswered.retain(|&spill| spill > number);
        let answered = self.model.pinned.iter().filter(|&(_, &spill)| spill <= number);
        for name in answered.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.drop_spilled(name);
        }
    }

    fn refuse(&mut self, index: &prop::sample::Index) {
        assert!(!self.table.refused(u64::MAX), "no SPILL has this number");
        if self.model.pinned.is_empty() {
            return;
        }
        let (&name, &number) = *index.get(&self.model.pinned.iter().collect::<Vec<_>>());
        assert!(self.table.refused(number));
        self.drop_spilled(name);
    }

    fn drop_spilled(&mut self, name: Name) {
        let bits = self.model.held.remove(&name).unwrap();
        self.model.pinned.remove(&name);
        let slot = slot_of(name, &bits);
        self.model.spilled.insert(name, (bits, slot));
    }

    /// The slot that is built from the arrivals again equals the one that was dropped, bit for bit.
    fn recall(&mut self, index: &prop::sample::Index, next: u16) {
        if self.model.spilled.is_empty() {
            return;
        }
        let name = **index.get(&self.model.spilled.keys().collect::<Vec<_>>());
        if self.model.held.contains_key(&name) {
            return;
        }
        let (bits, dropped) = self.model.spilled[&name].clone();
        self.arrive(name, &bits.keys().rev().copied().collect::<Vec<_>>());
        if let Some(at) = self.table.find(&identity(name)).filter(|_| self.model.held[&name] == bits) {
            assert_eq!(unpinned(&self.table, at).as_bytes(), dropped.as_bytes());
        }
        self.arrive(name, &[next]);
    }

    fn clean_names(&self) -> Vec<Name> {
        let clean = self.model.held.iter().filter(|(_, bits)| bits.is_empty());
        clean.map(|(name, _)| *name).collect()
    }

    /// Clean slots may make room for others: as many as the table says.
    fn forget_evicted(&mut self, clean: &[Name]) {
        for name in clean {
            if !self.table.iter().any(|(_, slot)| slot.is(&identity(*name))) {
                self.model.held.remove(name);
                self.evictions_clean += 1;
            }
        }
        assert_eq!(self.table.counters.evictions_clean, self.evictions_clean);
    }

    fn check(&self) {
        assert!(self.table.len() <= self.table.capacity());
        assert_eq!(self.table.len(), self.model.held.len());
        assert_eq!(self.table.len(), self.table.iter().count());
        assert_eq!(self.table.is_empty(), self.model.held.is_empty());
        assert_eq!(self.table.pinned(), self.model.pinned.len());
        for (at, slot) in self.table.iter() {
            let id = slot.identity();
            let name = (id.saga.sequence.get(), id.attempt, id.block, id.state == State::Undoing);
            let bits = self.model.held.get(&name).unwrap_or_else(|| panic!("{name:?} was not to be there"));
            assert_eq!(unpinned(&self.table, at).as_bytes(), slot_of(name, bits).as_bytes());
            assert_eq!(self.table.is_pinned(at), self.model.pinned.contains_key(&name));
            assert_eq!(slot.waits_for, self.model.pinned.get(&name).copied().unwrap_or(0));
        }
    }
}

fn unpinned(table: &Table, at: Position) -> Slot {
    let mut slot = *table.slot(at);
    slot.waits_for = 0;
    slot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_as_the_model(
        slots in prop_oneof![Just(16usize), Just(32), Just(64)],
        operations in prop::collection::vec(operation(), 1..400),
    ) {
        let (mut harness, mut again) = (Harness::new(slots), Harness::new(slots));
        let bytes = harness.table.bytes();
        for operation in &operations {
            harness.apply(operation);
            again.apply(operation);
        }
        prop_assert_eq!(harness.table.bytes(), bytes);
        prop_assert!(harness.table.iter().eq(again.table.iter()), "the same calls leave the same table");
    }

    /// Whatever the order, and however often: a slot is a function of the set of its arrivals.
    #[test]
    fn a_slot_is_a_function_of_its_arrivals(
        name in name(),
        bits in prop::collection::vec(0..64u16, 1..80),
        cut in any::<prop::sample::Index>(),
    ) {
        let set = bits.iter().map(|&bit| (bit, ())).collect();
        let folded = slot_of(name, &set);
        let (left, right) = bits.split_at(cut.index(bits.len()));
        let part = |bits: &[u16]| slot_of(name, &bits.iter().map(|&bit| (bit, ())).collect());
        let mut merged = part(right);
        merged.merge(&part(left));
        merged.fold(&arrival(name, bits[0]));
        prop_assert_eq!(merged.as_bytes(), folded.as_bytes());
        prop_assert!(folded.keys().eq(set.keys().map(|&bit| Key::of(&arrival(name, bit)))));
        let done = set.keys().fold(0, |done, &bit| done | arrival(name, bit).done.get());
        let undo = set.keys().fold(u64::MAX, |undo, &bit| undo & arrival(name, bit).undo.get());
        prop_assert_eq!((folded.done, folded.undo), (done, undo));
    }
}

#[test]
fn a_slot_lies_in_memory_as_drawn() {
    let slot = Slot::of_arrival(&arrival((0x0102_0304_0506_0708, 9, 1, true), 5), 0x0a0b).unwrap();
    let bytes = slot.as_bytes();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), 0x0102_0304_0506_0708);
    assert_eq!(word(8), 9 << 32 | (0x0506_0708 ^ 0xabcd));
    assert_eq!(word(16), 2 << 48 | 3 << 32 | 1 << 16 | 0x0a0b);
    assert_eq!(word(24), 1 << 5);
    assert_eq!([word(32), word(40), word(48), word(56)], [slot.done, slot.undo, slot.age, 0]);
}

#[test]
fn capacities_are_powers_of_two_within_the_limits() {
    assert_eq!([0, 16, 17, 256, 1000].map(|slots| Table::new(slots).capacity()), [16, 16, 32, 256, 1024]);
    assert_eq!(Table::new(256).bytes(), 256 * 64 + 256 / 16 * 32 + 256 * 16);
}

#[test]
fn what_was_used_since_the_hand_passed_is_spilled_last() {
    let mut table = Table::new(16);
    let name = |sequence| (sequence, 0, 0, false);
    for sequence in 0..12 {
        assert_eq!(table.arrive_batch(&bytes_of([arrival(name(sequence), 1)])).unwrap().spilled, []);
    }
    // Every slot was just used: the hand takes all marks off and comes back to the first.
    let spilled_by = |table: &mut Table, sequence| {
        let batch = table.arrive_batch(&bytes_of([arrival(name(sequence), 1)])).unwrap();
        let keys = batch.spilled.iter().map(|spilled| Key::read_from_bytes(&spilled.keys).unwrap());
        keys.map(|key| key.saga.sequence.get()).collect::<Vec<_>>()
    };
    assert_eq!(spilled_by(&mut table, 12), [0]);
    table.find(&identity(name(1))).unwrap();
    table.find(&identity(name(3))).unwrap();
    assert_eq!(spilled_by(&mut table, 13), [2]);
    assert_eq!(spilled_by(&mut table, 14), [4]);
}

#[test]
fn arrivals_spread_evenly_over_the_sets() {
    let mut table = Table::new(1 << 14);
    for sequence in 0..1 << 13 {
        let batch = table.arrive_batch(&bytes_of([arrival((sequence, 0, 0, false), 0)])).unwrap();
        assert_eq!(batch.codes, [Arrived::Inserted as u8]);
        batch.spilled.iter().for_each(|spilled| table.answered(spilled.number));
    }
    // Perfect chance brings 1.6 % to sets that have more than three quarters in use.
    let spilled = table.counters.evictions_dirty;
    assert!((1..200).contains(&spilled), "{spilled} of 8192 spilled at half load");
}

#[test]
fn batches_refuse_what_is_no_header_and_say_what_is_no_arrival() {
    let mut table = Table::new(16);
    let headers = bytes_of([arrival((1, 0, 0, false), 0), Header::new(Kind::Start)]);
    assert_eq!(table.arrive_batch(&headers[..200]).unwrap_err().name(), "message.truncated");
    let mut broken = headers.clone();
    broken[128 + 4] = 9;
    assert_eq!(table.arrive_batch(&broken).unwrap_err().name(), "message.version");
    assert!(table.is_empty());
    assert_eq!(table.arrive_batch(&headers).unwrap().codes, [Arrived::Inserted as u8, Arrived::Foreign as u8]);
    let slots = table.lookup_batch(&headers).unwrap();
    assert_eq!(slots[..64], *Slot::of_arrival(&arrival((1, 0, 0, false), 0), 0).unwrap().as_bytes());
    assert_eq!(slots[64..], [0; 64]);
}
