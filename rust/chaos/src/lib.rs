//! A library that a process loads before all others (`LD_PRELOAD`), so that it fails as a machine does.
//!
//! A process that is killed loses nothing that it has written: the system has it. A machine that fails loses what was
//! not synced. Under this library the files of one directory are kept as a failing machine keeps them: what is written
//! stays in the process until it is synced, but for sectors that the system happens to write earlier; and what was
//! done to the directory since it was last synced is undone by the next process. The same library adds to the wall
//! clock what a shared page says.
//!
//! It knows the calls that `rust/disk` makes. Any other that would write to one of these files ends the process: a
//! layer that something slips past shows nothing. Set by the environment:
//!
//! ```text
//! SAGACORE_CHAOS_DIRECTORY   the directory; without it, files are left alone
//! SAGACORE_CHAOS_NOTES       a file of notes on what was done to it, on a disk that is not full; needed with it
//! SAGACORE_CHAOS_EARLY       of 1,000 sectors, so many reach the disk before they are synced
//! SAGACORE_CHAOS_SYNC_US     a sync takes so many microseconds longer, while what it is for is not on the disk yet
//! SAGACORE_CHAOS_PAGE        a file of 16 bytes: milliseconds to add to the wall clock, unsynced sectors
//! ```

mod hooks;
mod page;
mod sectors;
mod state;
mod undo;
