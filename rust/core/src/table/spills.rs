//! The SPILLs that are not answered yet, in the order in which they were sent.
//!
//! The number of a SPILL stands in its slot too. An entry whose slot has another number, or none, by the time of the
//! answer is of no use any more: the slot was recalled in between.

use std::collections::VecDeque;

/// Number and position of each: a ring that never grows.
#[derive(Debug)]
pub struct Spills {
    ring: VecDeque<(u64, u32)>,
    capacity: usize,
    last_number: u64,
}

impl Spills {
    pub fn new(capacity: usize) -> Self {
        Self { ring: VecDeque::with_capacity(capacity), capacity, last_number: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.ring.len() == self.capacity
    }

    /// The highest number so far: the next is above it.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    pub fn push(&mut self, number: u64, position: u32) {
        debug_assert!(!self.is_full(), "a victim is given only where there is room");
        debug_assert!(self.last_number < number, "numbers ascend");
        self.ring.push_back((number, position));
        self.last_number = number;
    }

    /// Takes out the oldest, if its number is not above this one.
    pub fn pop(&mut self, number: u64) -> Option<(u64, u32)> {
        let &(oldest, _) = self.ring.front()?;
        if oldest <= number { self.ring.pop_front() } else { None }
    }

    /// The position of the slot that the SPILL of this number is for.
    pub fn find(&self, number: u64) -> Option<u32> {
        let index = self.ring.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        Some(self.ring[index].1)
    }

    pub fn clear(&mut self) {
        self.ring.clear();
    }

    pub fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<(u64, u32)>()
    }
}
