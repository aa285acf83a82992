//! The SPILLs that are not answered yet, in the order in which they were sent.
//!
//! The number of a SPILL stands in its slot too. An entry whose slot has another number, or none, by the time of the
//! answer is of no use any more: the slot was recalled in between.

use std::collections::VecDeque;

use super::Position;

/// A SPILL, and the slot that it is for; none where its arrivals found no room and never had one.
#[derive(Default, Debug, Clone, Copy)]
pub struct Spill {
    pub number: u64,
    pub slot: Option<Position>,
}

/// A ring that never grows.
#[derive(Debug)]
pub struct Spills {
    ring: VecDeque<Spill>,
    capacity: usize,
    last_number: u64,
}

impl Spills {
    pub fn new(capacity: usize) -> Self {
        // Filled once, so that the memory is there from the start.
        let mut ring: VecDeque<_> = std::iter::repeat_n(Spill::default(), capacity).collect();
        ring.clear();
        Self { ring, capacity, last_number: 0 }
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    pub fn is_full(&self) -> bool {
        self.ring.len() == self.capacity
    }

    /// The highest number so far: the next is above it.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    pub fn push(&mut self, spill: Spill) {
        debug_assert!(!self.is_full(), "the caller has looked");
        debug_assert!(self.last_number < spill.number, "numbers ascend");
        self.last_number = spill.number;
        self.ring.push_back(spill);
    }

    /// Takes out the oldest, if its number is not above this one.
    pub fn pop(&mut self, number: u64) -> Option<Spill> {
        let oldest = self.ring.front()?;
        if oldest.number <= number { self.ring.pop_front() } else { None }
    }

    /// The SPILL of this number.
    pub fn find(&self, number: u64) -> Option<Spill> {
        let index = self.ring.binary_search_by_key(&number, |spill| spill.number).ok()?;
        Some(self.ring[index])
    }

    pub fn clear(&mut self) {
        self.ring.clear();
    }

    pub fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Spill>()
    }
}
