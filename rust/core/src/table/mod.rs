//! The coordinator's memory: a fixed array of slots, used as a database uses its buffer pool.
//!
//! The array is taken once and never grows. It is divided into sets of 16 slots. The hash of a slot's identity says
//! in which set it is, and nowhere else: a look-up reads the tags of that set and the slot that it finds. A full set
//! is a normal state. CLOCK then picks a victim in it: a *clean* slot is dropped for nothing; a *dirty* one stands for
//! arrivals and is *spilled*, which takes an answer of the broker, and until then the slot is *pinned*. So that
//! newcomers find room at once nevertheless, spilling begins while there is still some: see `crowded`.
//!
//! Nothing here is random and nothing depends on addresses: the same calls leave the same table.

mod batch;
mod set;
mod slot;
mod spills;

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::limits::{SLOTS_MAX, SLOTS_MIN};
use set::Set;
use spills::{Spill, Spills};

pub use batch::{Arrived, Batch, SpilledSlot};
pub use set::WAYS;
pub use slot::{Identity, SLOT_BYTES, Slot, State};

/// Slots of a set that are kept free, clean or about to become free, as long as there are dirty ones to spill.
pub const SPARE_WAYS: usize = WAYS / 4;

const _: () = {
    assert!(SLOTS_MIN >= WAYS && SLOTS_MIN.is_power_of_two(), "the smallest table is one set or more");
    assert!(SLOTS_MAX <= u32::MAX as usize, "a position is a u32");
    assert!(0 < SPARE_WAYS && SPARE_WAYS < WAYS);
};

/// Where a slot is, until the table is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(u32);

impl Position {
    fn new(set: usize, way: usize) -> Self {
        Self((set * WAYS + way) as u32)
    }

    fn index(self) -> usize {
        self.0 as usize
    }

    fn set(self) -> usize {
        self.index() / WAYS
    }

    fn way(self) -> usize {
        self.index() % WAYS
    }
}

/// What the table did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub lookups: u64,
    pub hits: u64,
    pub inserts: u64,
    /// Clean slots that made room for others.
    pub evictions_clean: u64,
    /// Dirty slots for which a SPILL was sent.
    pub evictions_dirty: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Table {
    sets: Box<[Set]>,
    slots: Box<[Slot]>,
    spills: Spills,
    hasher: FixedState,
    used: usize,
    pinned: usize,
    pub counters: Counters,
}

impl Table {
    /// A table of this many slots, rounded up to a power of two, and brought into the limits.
    pub fn new(slots: usize) -> Self {
        let capacity = slots.clamp(SLOTS_MIN, SLOTS_MAX).next_power_of_two();
        let mut slots = vec![Slot::FREE; capacity].into_boxed_slice();
        // Written once, so that the memory is there from the start: zeros alone are only promised by the system.
        slots.iter_mut().for_each(|slot| *slot = std::hint::black_box(Slot::FREE));
        Self {
            sets: vec![Set::EMPTY; capacity / WAYS].into_boxed_slice(),
            slots,
            spills: Spills::new(capacity),
            hasher: FixedState::default(),
            used: 0,
            pinned: 0,
            counters: Counters::default(),
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Slots that cannot be used until their SPILLs are answered.
    pub fn pinned(&self) -> usize {
        self.pinned
    }

    /// SPILLs that are not answered, those of slots that were recalled since among them.
    pub fn unanswered(&self) -> usize {
        self.spills.len()
    }

    /// The memory that it has taken, once and for all: 64 bytes a slot, 2 for its tag and marks, 16 for its SPILL.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.sets) + size_of_val(&*self.slots) + self.spills.bytes()
    }

    /// The slot of this identity.
    pub fn find(&mut self, identity: &Identity) -> Option<Position> {
        self.counters.lookups += 1;
        let (set, tag) = self.home(identity);
        let mut ways = self.sets[set].with_tag(tag);
        while ways != 0 {
            let at = Position::new(set, ways.trailing_zeros() as usize);
            if self.slots[at.index()].is(identity) {
                self.sets[set].touch(at.way());
                self.counters.hits += 1;
                return Some(at);
            }
            ways &= ways - 1;
        }
        None
    }

    pub fn slot(&self, at: Position) -> &Slot {
        &self.slots[at.index()]
    }

    pub fn is_pinned(&self, at: Position) -> bool {
        self.sets[at.set()].is_pinned(at.way())
    }

    /// Takes up a slot whose identity is not here yet. It gets a free place of its set, or that of a clean slot, which
    /// is dropped; none where all are dirty or pinned.
    pub fn insert(&mut self, slot: Slot) -> Option<Position> {
        debug_assert!(slot.state() != State::Free);
        let (set, tag) = self.home(&slot.identity());
        let ways = &mut self.sets[set];
        let way = match ways.free() {
            0 => {
                let way = ways.victim(ways.clean())?;
                self.counters.evictions_clean += 1;
                self.used -= 1;
                way
            }
            free => free.trailing_zeros() as usize,
        };
        ways.take(way, tag, slot.is_dirty());
        self.used += 1;
        self.counters.inserts += 1;
        let at = Position::new(set, way);
        self.slots[at.index()] = slot;
        Some(at)
    }

    /// Replaces a slot by another state of the same identity. A pinned one is free to be spilled again: its SPILL does
    /// not name what has arrived since, and the answer to it does not concern it any more.
    pub fn update(&mut self, at: Position, slot: Slot) {
        debug_assert!(self.slot(at).is(&slot.identity()));
        self.unpin(at);
        self.sets[at.set()].mark(at.way(), slot.is_dirty());
        let place = &mut self.slots[at.index()];
        let waits_for = std::mem::replace(place, slot).waits_for;
        place.waits_for = waits_for;
    }

    /// Frees the place of a slot.
    pub fn remove(&mut self, at: Position) -> Slot {
        self.unpin(at);
        self.sets[at.set()].release(at.way());
        self.used -= 1;
        std::mem::replace(&mut self.slots[at.index()], Slot::FREE)
    }

    /// The dirty slot to spill so that this identity's set keeps room for newcomers; none while it has enough, or while
    /// too many SPILLs are unanswered.
    pub fn crowded(&mut self, identity: &Identity) -> Option<Position> {
        let set = self.home(identity).0;
        let ways = &mut self.sets[set];
        let spare = ways.free() | ways.clean() | ways.pinned();
        if spare.count_ones() as usize >= SPARE_WAYS || self.spills.is_full() {
            return None;
        }
        ways.victim(ways.dirty()).map(|way| Position::new(set, way))
    }

    /// Pins a dirty slot until the SPILL of this number, which ascends, is answered.
    pub fn pin(&mut self, at: Position, number: u64) {
        debug_assert!(self.slot(at).is_dirty() && !self.is_pinned(at));
        self.slots[at.index()].waits_for = number;
        self.sets[at.set()].pin(at.way());
        self.spills.push(Spill { number, slot: Some(at) });
        self.pinned += 1;
        self.counters.evictions_dirty += 1;
    }

    /// Takes note of the SPILL, of this number, of arrivals that found no room.
    pub fn note_unplaced(&mut self, number: u64) {
        if !self.spills.is_full() {
            self.spills.push(Spill { number, slot: None });
        }
    }

    /// The SPILLs up to this number are answered: their slots are dropped, unless they changed since.
    pub fn answered(&mut self, number: u64) {
        while let Some(spill) = self.spills.pop(number) {
            self.drop_spilled(spill);
        }
    }

    /// The transaction of this number was refused. Says whether it was a SPILL. Its slot is dropped like that of an
    /// accepted one: the broker delivers again whatever of its arrivals is still pending.
    pub fn refused(&mut self, number: u64) -> bool {
        let Some(spill) = self.spills.find(number) else { return false };
        self.drop_spilled(spill);
        true
    }

    /// Drops everything: a new session gets all that is pending delivered anew.
    pub fn clear(&mut self) {
        self.sets.fill(Set::EMPTY);
        self.slots.fill(Slot::FREE);
        self.spills.clear();
        self.used = 0;
        self.pinned = 0;
    }

    /// The slots in use, in the order in which they lie.
    pub fn iter(&self) -> impl Iterator<Item = (Position, &Slot)> {
        let slots = (0..).map(Position).zip(&self.slots);
        slots.filter(|(_, slot)| slot.state() != State::Free)
    }

    fn home(&self, identity: &Identity) -> (usize, u8) {
        let hash = self.hasher.hash_one(identity.words());
        (hash as usize & (self.sets.len() - 1), Set::tag(hash))
    }

    fn drop_spilled(&mut self, spill: Spill) {
        let of_spill = |at: &Position| self.is_pinned(*at) && self.slot(*at).waits_for == spill.number;
        if let Some(at) = spill.slot.filter(of_spill) {
            self.remove(at);
        }
    }

    fn unpin(&mut self, at: Position) {
        if self.is_pinned(at) {
            self.sets[at.set()].unpin(at.way());
            self.slots[at.index()].waits_for = 0;
            self.pinned -= 1;
        }
    }
}
