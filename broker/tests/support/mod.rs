//! What several tests share. Not every test uses all of it.
#![allow(dead_code, unused_imports)]

mod crash_disk;
mod log_model;
mod random;

pub use crash_disk::CrashDisk;
pub use log_model::{Kept, Model, Step, config, read_all};
pub use random::Random;
