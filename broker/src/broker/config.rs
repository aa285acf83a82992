//! What an operator and the host may choose, and what the host tells of the disk.

use sagacore_core::limits::{STUCK_AFTER_MS_DEFAULT, WAITERS_MAX};

use super::{ParkingBounds, WatermarkBounds};
use crate::state::Window;

/// A record of this size is closed, unless the host says otherwise.
const RECORD_BYTES_DEFAULT: usize = 1 << 20;

/// When what a record published may leave the broker (rule 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Visibility {
    /// Once the record is durable.
    #[default]
    Strict,
    /// At once, except for START, the RUN of the pivot, the first UNDOs of an abort, and RESULT.
    Relaxed,
}

/// What an operator may choose.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub shard: u16,
    pub visibility: Visibility,
    pub outcomes: Window,
    pub stuck_after_ms: u64,
    pub watermarks: WatermarkBounds,
    pub parking: ParkingBounds,
    /// Of sagas that wait for each other, one gives way. Else only their deadlines end it.
    pub detect_deadlocks: bool,
    /// Waiting steps whose edges are kept. One more, and the one that waits longest is delivered again after a while.
    pub waiters: usize,
    /// Nothing is added to a record that has as many bytes. With one more transaction it must still fit into the log.
    pub record_bytes: usize,
    /// Keys the hash of users' keys, where the log is new. Drawn at random by the host.
    pub secret: [u8; 16],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shard: 0,
            visibility: Visibility::Strict,
            outcomes: Window::default(),
            stuck_after_ms: STUCK_AFTER_MS_DEFAULT,
            watermarks: WatermarkBounds::default(),
            parking: ParkingBounds::default(),
            detect_deadlocks: true,
            waiters: WAITERS_MAX,
            record_bytes: RECORD_BYTES_DEFAULT,
            secret: [0; 16],
        }
    }
}

/// What the disk has left.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// For new frames: on the disk, and in segments that are there already.
    pub free_bytes: u64,
    pub segment_bytes: u64,
}
