//! What sagas contend for: which steps hold what, drawn from the seed, the same whenever a step asks.

use sagacore_core::limits::WAITERS_MAX;
use sagacore_core::wire::{HoldMode, WaitPolicy};
use sagacore_core::worker::Work;

use crate::random::Random;

/// Holds of a seed. Each class of faults may strike beside them.
#[derive(Debug, Clone)]
pub struct Contention {
    /// Steps, of 10,000, that hold something. 0: none.
    pub rate: u64,
    /// Resources of each service: few, so that sagas meet.
    pub resources: u64,
    /// Of 10,000, those that are shared, and those that are pools. The others are held by one.
    pub shared: u64,
    pub counted: u64,
    /// Waiting steps that the broker keeps the edges of: in some seeds only a few.
    pub waiters: usize,
    /// By service.
    pub policies: Vec<WaitPolicy>,
}

/// Pools have so many.
pub const POOL: u32 = 3;

/// What a step wants to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub resource: String,
    pub mode: HoldMode,
    pub amount: u32,
    pub size: u32,
}

impl Contention {
    pub fn of(seed: u64, services: usize, share: u64, is_long: bool) -> Self {
        let mut random = Random::new(seed, "contention");
        let rate = if random.chance(share) { random.magnitude(1_000, 10_000) } else { 0 };
        let mut part = |most: u64| if random.coin() { 0 } else { random.magnitude(500, most) };
        let (shared, counted) = (part(5_000), part(3_000));
        let resources = random.magnitude(1, 24);
        let policy = |wounds| if wounds { WaitPolicy::WoundWait } else { WaitPolicy::Detect };
        let policies = (0..services).map(|_| policy(random.chance(2_000))).collect();
        // A cycle that is longer than the table only a deadline ends.
        let is_small = !is_long && random.chance(1_500);
        let waiters = if is_small { random.magnitude(24, 64) as usize } else { WAITERS_MAX };
        Self { waiters, rate, resources, shared, counted, policies }
    }

    /// What a step of a saga holds while that runs.
    pub fn want(&self, seed: u64, work: &Work) -> Option<Want> {
        if self.rate == 0 {
            return None;
        }
        let mut random = Random::new(seed ^ work.saga.sequence.get() << 20 ^ u64::from(work.place) << 8, "want");
        if !random.chance(self.rate) {
            return None;
        }
        let number = random.below(self.resources);
        // A resource is a pool or it is none, whoever asks.
        let is_pool = Random::new(seed ^ number, "pool").chance(self.counted);
        let mode = match is_pool {
            true => HoldMode::Counted,
            false if random.chance(self.shared) => HoldMode::Shared,
            false => HoldMode::Exclusive,
        };
        // No saga may want more of a pool than there is, with all its steps.
        if is_pool && u32::from(work.place) >= POOL {
            return None;
        }
        let (amount, size) = if is_pool { (1, POOL) } else { (1, 1) };
        Some(Want { resource: format!("resource-{number}"), mode, amount, size })
    }
}
