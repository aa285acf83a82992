//! A slot: what the coordinator remembers of one block of a saga's joins, while some of its arrivals are missing.
//!
//! ```text
//! offset size field
//!      0    8 sequence   \ saga id, with `shard`
//!      8    4 nonce       |
//!     12    4 attempt    /
//!     16    2 plan_index   where the coordinator keeps the plan: shorter than its fingerprint
//!     18    2 block        it stands for the edges from block * 64 to block * 64 + 63
//!     20    2 shard
//!     22    1 state        see `State`
//!     23    1 flags        of the arrivals: WIDE and PIVOTED
//!     24    8 arrived      set of edges, as bits of the block: arrivals that are held here
//!     32    8 done         union of the arrivals' `done`: going forward, steps done; undoing, the set to undo
//!     40    8 undo         intersection of the arrivals' `undo`: what is left to undo
//!     48    8 age          the sequence of the first attempt
//!     56    8 waits_for    pinned: the number of its SPILL; else the sequence of the saga it waits for, 0: none
//!     64
//! ```
//! A slot follows from the headers of its arrivals alone, in whatever order and however often they come. So a dirty
//! slot can be dropped once the broker holds its arrivals, and is the same again when they come back.
//!
//! There is no deadline in it: the broker expires sagas, and revokes what the arrivals stand for. Nor is there a mark
//! for CLOCK or a pin: those stand beside the tags, so that choosing a victim touches one line and not sixteen.

use zerocopy::{Immutable, IntoBytes};

use crate::limits::EDGES_PER_BLOCK;
use crate::wire::{Flags, Header, Key, Kind, SagaId};

/// The size of a slot: one cache line.
pub const SLOT_BYTES: usize = 64;

/// The flags of arrivals that the messages which follow them keep.
const KEPT_FLAGS: u16 = Flags::WIDE | Flags::PIVOTED;

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoBytes, Immutable)]
#[repr(u8)]
pub enum State {
    Free = 0,
    /// Its arrivals are DONEs.
    Forward = 1,
    /// Its arrivals are UNDONEs.
    Undoing = 2,
}

/// Which slot: a saga has one for each block in which it has arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub saga: SagaId,
    pub attempt: u32,
    pub block: u16,
    pub state: State,
}

/// See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C, align(64))]
pub struct Slot {
    sequence: u64,
    nonce: u32,
    attempt: u32,
    pub plan_index: u16,
    block: u16,
    shard: u16,
    state: State,
    flags: u8,
    pub arrived: u64,
    pub done: u64,
    pub undo: u64,
    pub age: u64,
    pub waits_for: u64,
}

const _: () = {
    assert!(size_of::<Slot>() == SLOT_BYTES && align_of::<Slot>() == SLOT_BYTES, "a slot is one cache line");
    assert!(core::mem::offset_of!(Slot, sequence) == 0);
    assert!(core::mem::offset_of!(Slot, nonce) == 8);
    assert!(core::mem::offset_of!(Slot, attempt) == 12);
    assert!(core::mem::offset_of!(Slot, plan_index) == 16);
    assert!(core::mem::offset_of!(Slot, block) == 18);
    assert!(core::mem::offset_of!(Slot, shard) == 20);
    assert!(core::mem::offset_of!(Slot, state) == 22);
    assert!(core::mem::offset_of!(Slot, flags) == 23);
    assert!(core::mem::offset_of!(Slot, arrived) == 24);
    assert!(core::mem::offset_of!(Slot, done) == 32);
    assert!(core::mem::offset_of!(Slot, undo) == 40);
    assert!(core::mem::offset_of!(Slot, age) == 48);
    assert!(core::mem::offset_of!(Slot, waits_for) == 56);
    assert!(KEPT_FLAGS <= u8::MAX as u16, "the flags that are kept fit into a byte");
    assert!(EDGES_PER_BLOCK == u64::BITS as usize, "the arrivals of a block are one u64");
};

impl Identity {
    /// The slot that an arrival belongs to; none for what is neither DONE nor UNDONE.
    pub fn of(header: &Header) -> Option<Self> {
        let state = match header.kind() {
            Kind::Done => State::Forward,
            Kind::Undone => State::Undoing,
            _ => return None,
        };
        let block = header.place.get() / EDGES_PER_BLOCK as u16;
        Some(Self { saga: header.saga, attempt: header.attempt.get(), block, state })
    }

    /// Everything that it is made of, for hashing.
    pub(super) fn words(&self) -> (u64, u64, u64) {
        let (nonce, shard) = (u64::from(self.saga.nonce.get()), u64::from(self.saga.shard.get()));
        let place = u64::from(self.block) << 32 | shard << 16 | self.state as u64;
        (self.saga.sequence.get(), nonce << 32 | u64::from(self.attempt), place)
    }
}

impl Slot {
    /// A slot that stands for nothing.
    pub const FREE: Self = Self {
        sequence: 0,
        nonce: 0,
        attempt: 0,
        plan_index: 0,
        block: 0,
        shard: 0,
        state: State::Free,
        flags: 0,
        arrived: 0,
        done: 0,
        undo: 0,
        age: 0,
        waits_for: 0,
    };

    /// A slot without arrivals: clean. The union of none is empty and the intersection of none is everything.
    pub fn clean(identity: &Identity, plan_index: u16) -> Self {
        Self {
            sequence: identity.saga.sequence.get(),
            nonce: identity.saga.nonce.get(),
            attempt: identity.attempt,
            plan_index,
            block: identity.block,
            shard: identity.saga.shard.get(),
            state: identity.state,
            undo: u64::MAX,
            ..Self::FREE
        }
    }

    /// The slot of one arrival; none for what is neither DONE nor UNDONE.
    pub fn of_arrival(header: &Header, plan_index: u16) -> Option<Self> {
        let mut slot = Self::clean(&Identity::of(header)?, plan_index);
        slot.fold(header);
        Some(slot)
    }

    /// Adds an arrival of this slot's.
    pub fn fold(&mut self, header: &Header) {
        debug_assert_eq!(Identity::of(header), Some(self.identity()));
        self.arrived |= 1 << (header.place.get() % EDGES_PER_BLOCK as u16);
        self.done |= header.done.get();
        self.undo &= header.undo.get();
        self.age = self.age.max(header.age.get());
        self.flags |= (header.flags.get() & KEPT_FLAGS) as u8;
    }

    /// Adds the arrivals of another slot of the same identity.
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(self.identity(), other.identity());
        self.arrived |= other.arrived;
        self.done |= other.done;
        self.undo &= other.undo;
        self.age = self.age.max(other.age);
        self.flags |= other.flags;
    }

    pub fn identity(&self) -> Identity {
        Identity { saga: self.saga(), attempt: self.attempt, block: self.block, state: self.state }
    }

    pub fn saga(&self) -> SagaId {
        SagaId::new(self.shard, self.sequence, self.nonce)
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub fn block(&self) -> u16 {
        self.block
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// The flags that the messages which follow its arrivals keep.
    pub fn flags(&self) -> u16 {
        u16::from(self.flags)
    }

    /// Whether it stands for arrivals, which would be waited for in vain were it dropped without a word.
    pub fn is_dirty(&self) -> bool {
        self.arrived != 0
    }

    pub fn is(&self, identity: &Identity) -> bool {
        self.identity() == *identity
    }

    /// The keys of all its arrivals.
    pub fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        self.keys_of(self.arrived)
    }

    /// The keys of these of its arrivals, in ascending order of their edges.
    pub fn keys_of(&self, arrived: u64) -> impl Iterator<Item = Key> + use<> {
        let kind = if self.state == State::Undoing { Kind::Undone } else { Kind::Done };
        let first = self.block * EDGES_PER_BLOCK as u16;
        let (saga, attempt) = (self.saga(), self.attempt);
        let mut left = arrived;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as u16;
            (left != 0).then(|| {
                left &= left - 1;
                Key { saga, attempt: attempt.into(), kind: kind.code(), reserved: 0, place: (first + bit).into() }
            })
        })
    }
}
