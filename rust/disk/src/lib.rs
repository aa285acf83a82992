//! The log on a real disk: [`FileDisk`] reaches its files, [`LogThread`] writes and syncs them beside the broker's
//! loop. Nothing here knows Python; `rust/python` binds it.

mod descriptors;
mod file_disk;
mod log_thread;
mod preparer;
mod shared;

pub use file_disk::FileDisk;
pub use log_thread::{Figures, LogThread, ThreadOptions};
