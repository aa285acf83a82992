//! What must hold for any bytes, as functions that panic where it does not, and the means to try many bytes.
//!
//! `make fuzz` runs them on stable Rust with a mutator of our own. `rust/fuzz/libfuzzer` hands the same functions to
//! libFuzzer, which is guided by coverage but needs nightly Rust. The tests run each for a moment.

mod brokers;
pub mod corpus;
mod honest;
mod logs;
mod mutate;
mod peers;
pub mod seeds;
mod targets;

pub use brokers::{broker, replay};
pub use logs::{Files, log};
pub use mutate::{Mutator, Random};
pub use peers::peers;
pub use targets::{TARGETS, Target, body, plan, wire};
