//! A deterministic simulator: the real broker, coordinator, worker and client under one seeded scheduler, with a
//! virtual clock, network and log, faults by seed, and the design's invariants judged on every event.
//!
//! A seed says everything: the sagas and their plans, the processes, the network, what goes wrong and when. So a seed
//! that fails is replayed by its number.

mod checks;
mod contention;
mod disk;
mod env;
mod faults;
mod hosts;
mod lies;
mod log;
mod model;
mod network;
mod options;
mod plans;
mod random;
pub mod runner;
mod schedule;
mod shards;
mod situations;
mod trace;
mod world;

pub use checks::Violation;
pub use options::{Ahead, Behaviour, Fault, FenceMode, NetworkOptions, Options, ServiceOptions};
pub use situations::{Situation, Situations};
pub use world::{Report, run};
