//! The broker's logic: transactions accepted by compare-and-set, over a log that is the only truth.
//!
//! No clock, randomness, file or socket: time and entropy are arguments, records and frames are values. The layers,
//! each knowing only those before it: `log` (segments of frames, recovery), `state` (what the log says, in memory),
//! `delivery` (sessions, queues, leases), `broker` (what peers ask, judged).

pub mod broker;
mod delivery;
pub mod log;
mod state;

pub use broker::{
    Broker, Config, Deadlock, Deadlocks, Hop, Opened, ParkingBounds, Record, RecordKind, Room, Unreadable, Visibility,
    WatermarkBounds,
};
pub use state::{Copied, Place, Saga, State, Token, Window, copied};
