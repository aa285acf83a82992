//! Timers of one duration: they fall due in the order in which they were set, so a queue is all that they need.

use std::collections::VecDeque;

/// Timers that all run equally long. A timer whose thing is gone is passed over, and swept out when too many are.
#[derive(Debug)]
pub struct Fifo<K> {
    queue: VecDeque<(u64, K)>,
    /// Sweep when the queue is longer than this.
    sweep_at: usize,
}

const SWEEP_AT_LEAST: usize = 1024;

impl<K> Default for Fifo<K> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), sweep_at: SWEEP_AT_LEAST }
    }
}

impl<K: Copy> Fifo<K> {
    /// Sets a timer. One that is due before the last one waits for it: durations are equal but for rounding.
    pub fn push(&mut self, due_ms: u64, thing: K, is_live: impl Fn(K) -> bool) {
        self.first(&is_live);
        if self.queue.len() >= self.sweep_at {
            self.queue.retain(|&(_, thing)| is_live(thing));
            self.sweep_at = SWEEP_AT_LEAST.max(self.queue.len() * 2);
        }
        self.queue.push_back((due_ms, thing));
    }

    /// Takes the next thing that is due and still there.
    pub fn pop_due(&mut self, now_ms: u64, is_live: impl Fn(K) -> bool) -> Option<K> {
        while let Some(&(due_ms, thing)) = self.queue.front() {
            if is_live(thing) && due_ms > now_ms {
                return None;
            }
            self.queue.pop_front();
            if is_live(thing) {
                return Some(thing);
            }
        }
        None
    }

    /// The first thing that is still there, and when it is due.
    pub fn first(&mut self, is_live: impl Fn(K) -> bool) -> Option<(u64, K)> {
        while self.queue.front().is_some_and(|&(_, thing)| !is_live(thing)) {
            self.queue.pop_front();
        }
        self.queue.front().copied()
    }

    /// Sweeps out what is gone, and gives back what that took.
    pub fn trim(&mut self, is_live: impl Fn(K) -> bool) {
        self.queue.retain(|&(_, thing)| is_live(thing));
        self.queue.shrink_to_fit();
        self.sweep_at = SWEEP_AT_LEAST.max(self.queue.len() * 2);
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = (u64, K)> + '_ {
        self.queue.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_due_in_order_and_passes_over_what_is_gone() {
        let mut fifo = Fifo::default();
        for thing in 0..10u32 {
            fifo.push(u64::from(thing) * 10, thing, |_| true);
        }
        let odd = |thing: u32| thing % 2 == 1;
        assert_eq!(fifo.pop_due(35, odd), Some(1));
        assert_eq!(fifo.pop_due(35, odd), Some(3));
        assert_eq!(fifo.pop_due(35, odd), None);
        assert_eq!(fifo.pop_due(1_000, |thing| thing == 9), Some(9));
        assert_eq!(fifo.queue.len(), 0);
    }

    #[test]
    fn one_that_lives_long_does_not_keep_the_others() {
        let mut fifo = Fifo::default();
        for thing in 0..1_000_000u32 {
            fifo.push(5, thing, |other| other == 0 || other + 10 > thing);
        }
        assert!(fifo.queue.len() <= SWEEP_AT_LEAST + 1);
    }
}
