//! What is known of the 16 slots of a set without touching them: tags, marks, and the hand of their clock.
//!
//! ```text
//! offset size field
//!      0   16 tags         one byte of the hash of each slot's identity; 0: the slot is free
//!     16    2 referenced   set of ways used since the hand last passed them
//!     18    2 dirty        set of ways whose slots stand for arrivals
//!     20    2 pinned       set of ways whose SPILL is not answered yet
//!     22    1 hand         the way that CLOCK looks at next
//!     23    9 reserved     0
//!     32
//! ```
//! So a look-up touches this line and, but for one false tag in some twenty, only the line of the slot that it finds.

/// Slots of a set.
pub const WAYS: usize = 16;

/// A set of ways, one bit each.
pub type Ways = u16;

/// See the module's drawing.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub struct Set {
    tags: [u8; WAYS],
    referenced: Ways,
    dirty: Ways,
    pinned: Ways,
    hand: u8,
    reserved: [u8; 9],
}

const _: () = {
    assert!(size_of::<Set>() == 32 && align_of::<Set>() == 32, "two sets are one cache line");
    assert!(core::mem::offset_of!(Set, tags) == 0);
    assert!(core::mem::offset_of!(Set, referenced) == 16);
    assert!(core::mem::offset_of!(Set, dirty) == 18);
    assert!(core::mem::offset_of!(Set, pinned) == 20);
    assert!(core::mem::offset_of!(Set, hand) == 22);
    assert!(core::mem::offset_of!(Set, reserved) == 23);
    assert!(WAYS == Ways::BITS as usize, "a set of ways has one bit for each");
};

const fn bit(way: usize) -> Ways {
    1 << way
}

impl Set {
    pub const EMPTY: Self = Self { tags: [0; WAYS], referenced: 0, dirty: 0, pinned: 0, hand: 0, reserved: [0; 9] };

    /// The tag of a hash: never 0, which says that a slot is free.
    pub fn tag(hash: u64) -> u8 {
        ((hash >> 56) as u8).max(1)
    }

    /// The ways with this tag.
    pub fn with_tag(&self, tag: u8) -> Ways {
        let ways = self.tags.iter().enumerate();
        ways.fold(0, |found, (way, &at)| found | Ways::from(at == tag) << way)
    }

    pub fn free(&self) -> Ways {
        self.with_tag(0)
    }

    pub fn clean(&self) -> Ways {
        !(self.free() | self.dirty | self.pinned)
    }

    /// The dirty ways that may be spilled.
    pub fn dirty(&self) -> Ways {
        self.dirty & !self.pinned
    }

    pub fn pinned(&self) -> Ways {
        self.pinned
    }

    pub fn is_pinned(&self, way: usize) -> bool {
        self.pinned & bit(way) != 0
    }

    pub fn touch(&mut self, way: usize) {
        self.referenced |= bit(way);
    }

    pub fn take(&mut self, way: usize, tag: u8, dirty: bool) {
        self.tags[way] = tag;
        self.touch(way);
        self.mark(way, dirty);
    }

    pub fn mark(&mut self, way: usize, dirty: bool) {
        self.dirty = self.dirty & !bit(way) | if dirty { bit(way) } else { 0 };
    }

    pub fn pin(&mut self, way: usize) {
        self.pinned |= bit(way);
    }

    pub fn unpin(&mut self, way: usize) {
        self.pinned &= !bit(way);
    }

    pub fn release(&mut self, way: usize) {
        self.tags[way] = 0;
        self.referenced &= !bit(way);
        self.dirty &= !bit(way);
        self.pinned &= !bit(way);
    }

    /// CLOCK: the first of the candidates, from the hand on, that was not used since the hand last passed it.
    pub fn victim(&mut self, candidates: Ways) -> Option<usize> {
        // The first round clears the marks of all candidates, so the second finds one where there is any.
        for _ in 0..2 * WAYS {
            let way = usize::from(self.hand);
            self.hand = ((way + 1) % WAYS) as u8;
            if candidates & bit(way) == 0 {
                continue;
            }
            if self.referenced & bit(way) == 0 {
                return Some(way);
            }
            self.referenced &= !bit(way);
        }
        None
    }
}
