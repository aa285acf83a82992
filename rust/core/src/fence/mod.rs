//! The fence: what a service knows of each (saga, attempt, step), so that every effect happens once and every undo too.
//!
//! A row is an *outcome register*: it says how the step ended, and whoever asks again is answered from it. `rules` is
//! the register as a pure table of decisions, the same for every store; `memory` keeps rows in this process. `holds` is
//! who holds and who waits for which resource of the service.

mod holds;
mod memory;
mod rules;

pub use holds::{Ask, HoldError, HoldRow, Holds, Standing};
pub use memory::{FenceKey, MemoryRows};
pub use rules::{Admission, Doing, Event, OnRun, OnUndo, RowState, on_arrival, on_event, on_run, on_undo};
