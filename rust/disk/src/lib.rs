//! The real disk under the broker's log: a directory of files, and the one thread that writes and syncs it.
//!
//! `broker/src/log` says what is written where; here are only the calls of the system and the pace of the syncs.

mod directory;
mod pace;
mod thread;

pub use directory::Directory;
pub use thread::{LogThread, Opened, Settings, Status};
