//! The log: segments of checksummed frames, each frame one batch of transactions. Sans-I/O through [`Disk`].
//!
//! - [`recover`] reads the log at the start, cuts a torn tail, refuses damage; [`Writer`] goes on where it ended.
//! - In `Durability::Sync` a group of frames ends at a sector's boundary, so a sector that was synced is not written
//!   again: a crash can only harm what was never promised.
//! - Each frame says what was durable when it was written. That makes telling a torn tail from damage exact for all
//!   but the last group; a MARK, written when the log falls idle, says it of that group too.
//! - A segment's header is synced before its first frame and never changes; the first LSN is that of its first frame.
//!   The header's checksum seeds those of the frames, so stale bytes in a recycled file never verify.
//! - Only a prefix of segments is deleted, and only after a MARK that says so is durable.

mod disk;
mod error;
mod frame;
mod inspect;
mod read_back;
mod reader;
mod recovery;
mod repair;
mod segment;
mod settle;
mod writer;

pub use disk::{Disk, DiskError};
pub use error::LogError;
pub use frame::{FRAME_HEADER_BYTES, FRAME_VERSION, Fault, FrameHeader, FrameType, Statement};
pub use inspect::{Finding, Report, Verdict, inspect};
pub use read_back::{CopyPlaces, CopyReader, ReadBack};
pub use recovery::{Cut, Recovered, recover};
pub use repair::{plan_repair, repair};
pub use segment::{Preparation, Prepared, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
pub use writer::Writer;

use sagacore_core::limits::FRAME_BYTES_MAX;

/// A sector: what a disk writes as a whole. A synced one is not written again.
pub const SECTOR_BYTES: u64 = 512;
/// The size of a segment, unless its setting says otherwise. A start scans the last one and the one made ready: with
/// 256 MiB that alone took half a second.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// The largest segment.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// The largest payload of a frame, if a segment holds that much.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Freed segments that are kept for use again, at least: they need not be filled with zeros, which is half of what it
/// takes to write.
const FREE_SEGMENTS_KEPT: usize = 8;
/// A new segment is filled with zeros in pieces of this size.
pub const ZERO_BYTES: usize = 1 << 20;

/// How many freed segments are kept beside so many in use: what the log needs until a sweep frees as many again.
pub(crate) fn free_segments_max(in_use: usize) -> usize {
    FREE_SEGMENTS_KEPT.max(in_use)
}

const _: () = {
    assert!(FRAME_BYTES_MAX <= PAYLOAD_BYTES_MAX, "what a peer sends at once fits into a batch");
    assert!(
        SEGMENT_HEADER_BYTES + frame::frame_bytes(PAYLOAD_BYTES_MAX) as u64 + SECTOR_BYTES <= SEGMENT_BYTES_DEFAULT,
        "the largest batch fits into a segment"
    );
    assert!(SEGMENT_HEADER_BYTES.is_multiple_of(SECTOR_BYTES), "a frame never shares a sector with the header");
    assert!(SEGMENT_HEADER_BYTES + 2 * SECTOR_BYTES <= SEGMENT_BYTES_MIN);
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_DEFAULT && SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
    assert!(PAYLOAD_BYTES_MAX < u32::MAX as usize);
};

/// When a batch counts as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// When the disk has it: survives power loss.
    Sync,
    /// When the system has it: survives the process, not the machine.
    Os,
}

/// The log's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Bytes of a segment: a multiple of 4096. Segments of another size that are there already are read all the same.
    pub segment_bytes: u64,
    pub durability: Durability,
    /// Drawn at random by the process at its start. Goes into the headers of the segments that it makes: nobody who
    /// can choose payloads can forge a frame, and bytes of an earlier life never verify.
    pub nonce: u64,
}

impl Config {
    /// The largest payload that `Writer::append` takes.
    pub fn payload_bytes_max(&self) -> usize {
        let room = self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES + frame::FRAME_HEADER_BYTES as u64);
        // The last frame of a group may be padded to its sector's end, which is in the segment.
        usize::try_from(room & !7).unwrap_or(usize::MAX).min(PAYLOAD_BYTES_MAX)
    }

    fn check(&self) -> Result<(), LogError> {
        let bytes = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(SEGMENT_HEADER_BYTES) {
            let text = format!(
                "a segment of {bytes} bytes: it must be a multiple of {SEGMENT_HEADER_BYTES} \
                 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            );
            return Err(LogError::Setting { text });
        }
        Ok(())
    }
}

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
}

/// A segment that holds frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    pub number: u64,
    /// The first LSN in it; if it has none yet, the one that will be.
    pub first_lsn: u64,
    pub bytes: u64,
}

/// A frame, as it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    pub kind: FrameType,
    pub lsn: u64,
    pub time_ms: u64,
    pub boot_epoch: u32,
    /// What was synced when it was written.
    pub durable_lsn: u64,
    pub position: Position,
    pub payload: &'a [u8],
}

impl Entry<'_> {
    /// BOOT: whether the stop before it was unclean. False for every other kind.
    pub fn is_unclean_boot(&self) -> bool {
        use zerocopy::FromBytes;
        let statement = Statement::ref_from_bytes(self.payload);
        self.kind == FrameType::Boot && statement.is_ok_and(Statement::is_unclean)
    }
}
