//! A frame: one batch of transactions, or a note of the log itself.
//!
//! ```text
//! offset size field
//!      0    4 length          of the whole frame: header, payload, padding; a multiple of 8, never 0
//!      4    4 checksum        of all else in the frame, seeded by the segment
//!      8    1 type            see `FrameType`
//!      9    1 version         1
//!     10    2 tag             of the segment: tells stale bytes from frames without a checksum
//!     12    4 boot_epoch      the boot that wrote it
//!     16    8 lsn             one more than the frame before; a MARK repeats that of the frame before
//!     24    8 time_ms         broker time
//!     32    8 durable_lsn     what was synced when this was written: a bad frame up to it is damage, no torn tail
//!     40    4 payload_length  bytes of payload
//!     44    4 previous        the checksum of the frame before, across segments; 0 in the first of all
//!     48      payload, padding with zeros to 8 bytes
//! ```
//!
//! The checksum and `previous` together make a chain, and each frame can still be verified by itself. Length, checksum,
//! version and tag keep their places in every later version.

use sagacore_core::mutation::{Mutation, is_broken};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The size of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 48;
/// The version of frames that this code writes and the only one that it reads.
pub const FRAME_VERSION: u8 = 1;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameType {
    /// A broker started: its payload is a `Statement`.
    Boot = 1,
    /// A batch of accepted transactions.
    Batch = 2,
    /// Live records copied forward, so that the segments before can go.
    Copy = 3,
    /// A broker stopped cleanly.
    Seal = 4,
    /// A note of the log: what is durable, and which segment is the oldest (a `Statement`). It takes no LSN.
    Mark = 5,
}

impl FrameType {
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Boot, Self::Batch, Self::Copy, Self::Seal, Self::Mark].into_iter().find(|kind| *kind as u8 == code)
    }
}

/// Why the bytes at some place are no frame that continues the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("frame.end: the segment ends")]
    End,
    #[error("frame.empty: no frame was written")]
    Empty,
    #[error("frame.length: the length is impossible")]
    Length,
    #[error("frame.tag: it belongs to another segment")]
    Tag,
    #[error("frame.checksum: the checksum is wrong")]
    Checksum,
    #[error("frame.payload: the payload is not what its type has")]
    Payload,
    #[error("frame.chain: it does not continue the frame before")]
    Chain,
}

/// See the module's drawing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    pub length: U32,
    pub checksum: U32,
    pub frame_type: u8,
    pub version: u8,
    pub tag: U16,
    pub boot_epoch: U32,
    pub lsn: U64,
    pub time_ms: U64,
    pub durable_lsn: U64,
    pub payload_length: U32,
    pub previous: U32,
}

const _: () = {
    assert!(size_of::<FrameHeader>() == FRAME_HEADER_BYTES);
    assert!(align_of::<FrameHeader>() == 1, "read in place");
    assert!(core::mem::offset_of!(FrameHeader, checksum) == 4);
    assert!(core::mem::offset_of!(FrameHeader, frame_type) == 8);
    assert!(core::mem::offset_of!(FrameHeader, version) == 9);
    assert!(core::mem::offset_of!(FrameHeader, tag) == 10);
    assert!(core::mem::offset_of!(FrameHeader, boot_epoch) == 12);
    assert!(core::mem::offset_of!(FrameHeader, lsn) == 16);
    assert!(core::mem::offset_of!(FrameHeader, time_ms) == 24);
    assert!(core::mem::offset_of!(FrameHeader, durable_lsn) == 32);
    assert!(core::mem::offset_of!(FrameHeader, payload_length) == 40);
    assert!(core::mem::offset_of!(FrameHeader, previous) == 44);
    assert!(FRAME_HEADER_BYTES.is_multiple_of(8));
};

/// The payload of BOOT and MARK.
///
/// ```text
/// offset size field
///      0    8 oldest_segment  the log begins with this segment; what comes before it is gone, or to be removed
///      8    8 flags           bit 0: the stop before this boot was unclean
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Statement {
    pub oldest_segment: U64,
    pub flags: U64,
}

const _: () = assert!(size_of::<Statement>() == 16);

impl Statement {
    const UNCLEAN: u64 = 1;

    pub fn new(oldest_segment: u64, unclean: bool) -> Self {
        let flags = if unclean { Self::UNCLEAN } else { 0 };
        Self { oldest_segment: oldest_segment.into(), flags: flags.into() }
    }

    pub fn is_unclean(&self) -> bool {
        self.flags.get() & Self::UNCLEAN != 0
    }
}

/// The bytes that a frame with such a payload takes.
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + payload_bytes + 7) & !7
}

/// The one checksum of the log: CRC-32 over the parts, going on from `seed`.
pub fn checksum(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The tag of frames in a segment with this seed.
pub const fn tag(seed: u32) -> u16 {
    (seed >> 16) as u16
}

/// Appends a frame to `into`, with length, checksum, version and tag filled in, and gives its checksum.
pub fn write_frame(into: &mut Vec<u8>, seed: u32, mut header: FrameHeader, payload: &[u8]) -> u32 {
    let start = into.len();
    let length = frame_bytes(payload.len());
    header.length = (length as u32).into();
    header.version = FRAME_VERSION;
    header.tag = tag(seed).into();
    header.payload_length = (payload.len() as u32).into();
    into.extend_from_slice(header.as_bytes());
    into.extend_from_slice(payload);
    into.resize(start + length, 0);
    let sum = checksum(seed, &[&into[start..start + 4], &into[start + 8..]]);
    into[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Reads the header at the start of `bytes` and checks what it says by itself, but for the checksum.
pub fn read_header(bytes: &[u8; FRAME_HEADER_BYTES], seed: u32, bytes_left: u64) -> Result<FrameHeader, Fault> {
    let header: FrameHeader = zerocopy::transmute!(*bytes);
    let length = u64::from(header.length.get());
    if length == 0 {
        return Err(Fault::Empty);
    }
    if header.tag.get() != tag(seed) {
        return Err(Fault::Tag);
    }
    if length > bytes_left || length != frame_bytes(header.payload_length.get() as usize) as u64 {
        return Err(Fault::Length);
    }
    Ok(header)
}

/// Whether the checksum of a whole frame is right.
pub fn verify(frame: &[u8], seed: u32) -> Result<(), Fault> {
    let (length, rest) = frame.split_at(4);
    let (stated, rest) = rest.split_at(4);
    let is_right = checksum(seed, &[length, rest]).to_le_bytes() == stated;
    if is_right || is_broken(Mutation::ChecksumNotChecked) { Ok(()) } else { Err(Fault::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(lsn: u64) -> FrameHeader {
        FrameHeader { frame_type: FrameType::Batch as u8, lsn: lsn.into(), ..FrameHeader::default() }
    }

    fn read(bytes: &[u8], seed: u32) -> Result<FrameHeader, Fault> {
        let first = bytes[..FRAME_HEADER_BYTES].try_into().unwrap();
        let header = read_header(first, seed, bytes.len() as u64)?;
        verify(&bytes[..header.length.get() as usize], seed)?;
        Ok(header)
    }

    #[test]
    fn codes_and_types_are_the_same() {
        for code in 0..=u8::MAX {
            assert_eq!(FrameType::from_code(code).map_or(code, |kind| kind as u8), code);
        }
        assert_eq!(FrameType::from_code(0), None);
        assert_eq!(FrameType::from_code(6), None);
    }

    #[test]
    fn a_frame_of_a_known_seed_has_these_bytes() {
        let mut bytes = Vec::new();
        let fields = FrameHeader {
            boot_epoch: 2.into(),
            time_ms: 4.into(),
            durable_lsn: 5.into(),
            previous: 6.into(),
            ..header(3)
        };
        write_frame(&mut bytes, 0x1234_5678, fields, b"abc");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "38000000eb725ef00201341202000000030000000000000004000000000000000500000000000000\
             03000000060000006162630000000000"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seed: u32, lsn: u64, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![7; 16];
            let sum = write_frame(&mut bytes, seed, header(lsn), &payload);
            let found = read(&bytes[16..], seed).unwrap();
            prop_assert_eq!(found.lsn.get(), lsn);
            prop_assert_eq!(found.checksum.get(), sum);
            prop_assert_eq!(&bytes[16 + FRAME_HEADER_BYTES..][..payload.len()], &payload[..]);
            prop_assert_eq!(bytes.len() % 8, 0);
        }

        #[test]
        fn one_flipped_bit_is_seen(seed: u32, bit in 0usize..(48 + 40) * 8, payload: [u8; 40]) {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, seed, header(9), &payload);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&bytes, seed).is_err());
        }

        #[test]
        fn a_frame_of_another_segment_is_none(seed: u32, other: u32, payload: [u8; 8]) {
            prop_assume!(seed != other);
            let mut bytes = Vec::new();
            write_frame(&mut bytes, seed, header(9), &payload);
            prop_assert!(read(&bytes, other).is_err());
            // Even where the short tags are equal, the checksum is not.
            prop_assert!(verify(&bytes, other).is_err());
        }
    }
}
