//! What stays in memory of a parked saga, by sequence: pages of neighbours, each as long as it has to be.
//!
//! ```text
//! offset size field
//!      0    1 low           the last bits of its sequence; the page has the others
//!      1    1 flags         1 excepted, 2 wide, 4 turned, 8 its deadline is kept, 16 it has passed,
//!                          32 it was a victim, and began again
//!      2    1 arrivals      none, spilled, leased or due
//!      3    1 tokens        how many it has
//!      4    1 deliveries    of each RUN or UNDO
//!      5    1 unanswered    of each RUN or UNDO
//!      6    2 plan          index of its plan
//!      8    8 lsn           the record with its copy
//!     16    4 offset        of its copy in the payload
//!     20    4 length        of its copy
//!     24    8 session       who waits for its outcome; 0: nobody, or `Parked` says who
//!     32    8 correlation   of that
//! ```

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use zerocopy::little_endian::{U16, U32, U64};

/// Sequences of a page.
pub const PAGE: u64 = 256;
/// A page begins with room for so many stubs, and doubles: what it leaves behind fits another one, and a full page
/// wastes nothing.
const GROWTH: usize = 16;

/// Bits of `Stub::flags`.
pub const EXCEPTED: u8 = 1;
pub const WIDE: u8 = 2;
pub const TURNED: u8 = 4;
/// Its deadline is among those of parked sagas.
pub const TIMED: u8 = 8;
/// Its deadline has passed, and changed nothing.
pub const EXPIRED: u8 = 16;
/// Not its first attempt.
pub const AGAIN: u8 = 32;

/// See the module's drawing. Unaligned: nothing pads it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Stub {
    pub(super) low: u8,
    pub flags: u8,
    pub arrivals: u8,
    pub tokens: u8,
    pub deliveries: u8,
    pub unanswered: u8,
    pub plan: U16,
    pub lsn: U64,
    pub offset: U32,
    pub length: U32,
    pub session: U64,
    pub correlation: U64,
}

const _: () = {
    assert!(size_of::<Stub>() == 40);
    assert!(align_of::<Stub>() == 1, "nothing pads it");
    assert!(core::mem::offset_of!(Stub, plan) == 6);
    assert!(core::mem::offset_of!(Stub, lsn) == 8);
    assert!(core::mem::offset_of!(Stub, offset) == 16);
    assert!(core::mem::offset_of!(Stub, length) == 20);
    assert!(core::mem::offset_of!(Stub, session) == 24);
    assert!(core::mem::offset_of!(Stub, correlation) == 32);
    assert!(PAGE == 1 << u8::BITS);
    assert!((PAGE as usize / GROWTH).is_power_of_two() && GROWTH.is_power_of_two(), "a page that doubles becomes full");
};

impl Default for Stub {
    fn default() -> Self {
        Self {
            low: 0,
            flags: 0,
            arrivals: 0,
            tokens: 0,
            deliveries: 0,
            unanswered: 0,
            plan: 0.into(),
            lsn: 0.into(),
            offset: 0.into(),
            length: 0.into(),
            session: 0.into(),
            correlation: 0.into(),
        }
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Stubs {
    pages: HashMap<u64, Vec<Stub>, FixedState>,
    length: usize,
}

fn split(sequence: u64) -> (u64, u8) {
    (sequence / PAGE, (sequence % PAGE) as u8)
}

impl Stubs {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn get(&self, sequence: u64) -> Option<&Stub> {
        let (page, low) = split(sequence);
        let stubs = self.pages.get(&page)?;
        let index = stubs.binary_search_by_key(&low, |stub| stub.low).ok()?;
        stubs.get(index)
    }

    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Stub> {
        let (page, low) = split(sequence);
        let stubs = self.pages.get_mut(&page)?;
        let index = stubs.binary_search_by_key(&low, |stub| stub.low).ok()?;
        stubs.get_mut(index)
    }

    /// Adds a stub; none of this sequence is there.
    pub fn insert(&mut self, sequence: u64, stub: Stub) {
        let (page, low) = split(sequence);
        let stubs = self.pages.entry(page).or_default();
        if stubs.len() == stubs.capacity() {
            stubs.reserve_exact(stubs.len().max(GROWTH));
        }
        let index = stubs.partition_point(|other| other.low < low);
        stubs.insert(index, Stub { low, ..stub });
        self.length += 1;
    }

    pub fn remove(&mut self, sequence: u64) -> Option<Stub> {
        let (page, low) = split(sequence);
        let stubs = self.pages.get_mut(&page)?;
        let index = stubs.binary_search_by_key(&low, |stub| stub.low).ok()?;
        let gone = stubs.remove(index);
        if stubs.is_empty() {
            self.pages.remove(&page);
        } else if stubs.capacity() > GROWTH && stubs.capacity() >= 4 * stubs.len() {
            stubs.shrink_to(2 * stubs.len());
        }
        self.length -= 1;
        Some(gone)
    }

    /// Where there are any: sequences over `PAGE`, in no order.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Stub)> {
        let pages = self.pages.iter();
        pages.flat_map(|(&page, stubs)| stubs.iter().map(move |stub| (page * PAGE + u64::from(stub.low), stub)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Stub)> {
        let pages = self.pages.iter_mut();
        pages.flat_map(|(&page, stubs)| stubs.iter_mut().map(move |stub| (page * PAGE + u64::from(stub.low), stub)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0u64..900, any::<bool>()), 0..2_000)) {
            let (mut stubs, mut model) = (Stubs::default(), BTreeMap::new());
            for (number, (sequence, is_in)) in steps.into_iter().enumerate() {
                let number = number as u64;
                if !is_in {
                    let gone = stubs.remove(sequence).map(|stub| stub.lsn.get());
                    prop_assert_eq!(gone, model.remove(&sequence));
                } else if let Some(known) = stubs.get_mut(sequence) {
                    known.lsn = number.into();
                    prop_assert!(model.insert(sequence, number).is_some());
                } else {
                    stubs.insert(sequence, Stub { lsn: number.into(), ..Stub::default() });
                    prop_assert_eq!(model.insert(sequence, number), None);
                }
                prop_assert_eq!(stubs.len(), model.len());
            }
            let mut found: Vec<u64> = stubs.iter().map(|(sequence, _)| sequence).collect();
            found.sort_unstable();
            prop_assert_eq!(&found, &model.keys().copied().collect::<Vec<_>>());
            for sequence in 0..900 {
                prop_assert_eq!(stubs.get(sequence).map(|stub| stub.lsn.get()), model.get(&sequence).copied());
            }
        }
    }
}
