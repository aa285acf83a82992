//! Reads the frames of one segment, in windows: a segment is larger than what should be in memory for it.

use sagacore_core::mutation::{Mutation, is_broken};

use super::disk::Disk;
use super::error::{During, LogError};
use super::frame::{self, FRAME_HEADER_BYTES, FRAME_VERSION, Fault, FrameHeader, FrameType, Statement};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::{Entry, Position, SECTOR_BYTES};

/// Bytes that are read at once, unless a frame is larger.
const WINDOW_BYTES: u64 = 1 << 20;

/// A window is looked over for zeros in pieces of this size.
const PIECE_BYTES: usize = 4096;

/// A tail is cleared in pieces of this size.
const CLEARED_BYTES: u64 = 1 << 16;

/// A segment that is open to be read.
pub(super) struct Reader<'d, D: Disk> {
    disk: &'d D,
    pub file: D::File,
    pub number: u64,
    pub header: SegmentHeader,
    window: Vec<u8>,
    window_at: u64,
    /// Behind this, all that was read was zeros.
    pub used_to: u64,
}

/// A frame that is valid by itself.
pub(super) struct Frame<'w> {
    pub header: FrameHeader,
    pub payload: &'w [u8],
    pub position: Position,
}

impl<'d, D: Disk> Reader<'d, D> {
    /// Opens a segment and checks its header.
    pub fn open(disk: &'d D, number: u64) -> Result<Self, LogError> {
        let name = segment_name(number);
        let file = disk.open(&name).during("open", &name)?;
        let header = SegmentHeader::read(disk, &file, number)?;
        Ok(Self { disk, file, number, header, window: Vec::new(), window_at: 0, used_to: 0 })
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        self.header.bytes.get()
    }

    fn name(&self) -> String {
        segment_name(self.number)
    }

    /// The file's bytes from `offset`, at least `length` of them: the caller has checked that the file has them.
    fn at(&mut self, offset: u64, length: u64) -> Result<&[u8], LogError> {
        debug_assert!(offset + length <= self.bytes());
        let end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + length > end {
            let wanted = length.max(WINDOW_BYTES).min(self.bytes() - offset) as usize;
            self.window.resize(wanted, 0);
            self.window_at = offset;
            self.disk.read(&self.file, offset, &mut self.window).during("read", &segment_name(self.number))?;
            if let Some(last) = self.window.chunks(PIECE_BYTES).rposition(|piece| !is_zero(piece)) {
                self.used_to = self.used_to.max(offset + ((last + 1) * PIECE_BYTES) as u64);
            }
        }
        Ok(&self.window[(offset - self.window_at) as usize..])
    }

    /// The frame at `offset`, if one that is valid by itself stands there.
    pub fn frame(&mut self, offset: u64) -> Result<Result<Frame<'_>, Fault>, LogError> {
        let left = self.bytes().saturating_sub(offset);
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Err(Fault::End));
        }
        let seed = self.header.seed();
        let position = Position { segment: self.number, offset };
        let Some(first) = self.at(offset, FRAME_HEADER_BYTES as u64)?.first_chunk() else {
            return Ok(Err(Fault::End));
        };
        let header = match frame::read_header(first, seed, left) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        let length = header.length.get() as usize;
        let bytes = &self.at(offset, length as u64)?[..length];
        if let Err(fault) = frame::verify(bytes, seed) {
            return Ok(Err(fault));
        }
        let payload = &bytes[FRAME_HEADER_BYTES..][..header.payload_length.get() as usize];
        Ok(Ok(Frame { header, payload, position }))
    }

    /// Where the next frame can begin: `offset`, or the end of its sector if only zeros come before that.
    pub fn after_padding(&mut self, offset: u64) -> Result<u64, LogError> {
        let next = offset.next_multiple_of(SECTOR_BYTES).min(self.bytes());
        let length = next - offset;
        let padding = &self.at(offset, length)?[..length as usize];
        Ok(if is_zero(padding) { next } else { offset })
    }

    /// The first offset from `offset` on where a frame that is valid by itself stands.
    pub fn find(&mut self, offset: u64) -> Result<Option<u64>, LogError> {
        let tag = frame::tag(self.header.seed()).to_le_bytes();
        let mut offset = offset.next_multiple_of(8);
        while offset + FRAME_HEADER_BYTES as u64 <= self.bytes() {
            let window = self.at(offset, FRAME_HEADER_BYTES as u64)?;
            let headers = window.windows(FRAME_HEADER_BYTES).step_by(8);
            let count = headers.len() as u64;
            match headers.enumerate().find(|(_, header)| header[10..12] == tag && header[..4] != [0; 4]) {
                None => offset += count * 8,
                Some((skipped, _)) => {
                    offset += skipped as u64 * 8;
                    if self.frame(offset)?.is_ok() {
                        return Ok(Some(offset));
                    }
                    offset += 8;
                }
            }
        }
        Ok(None)
    }

    /// Whether there are only zeros from `offset` up to `end`.
    pub fn is_empty(&mut self, offset: u64, end: u64) -> Result<bool, LogError> {
        let (mut at, end) = (offset, end.min(self.bytes()));
        while at < end {
            let length = self.piece(at);
            if !is_zero(&self.at(at, length)?[..length as usize]) {
                return Ok(false);
            }
            at += length;
        }
        Ok(true)
    }

    /// Writes zeros from `offset` up to `end`, where there are none, and syncs them.
    pub fn zero(&mut self, offset: u64, end: u64) -> Result<(), LogError> {
        let (mut at, end) = (offset, end.min(self.bytes()));
        while at < end {
            let length = self.piece(at);
            if !is_zero(&self.at(at, length)?[..length as usize]) {
                self.disk.write(&self.file, at, &vec![0; length as usize]).during("write", &self.name())?;
            }
            at += length;
        }
        self.window.clear();
        self.disk.sync(&self.file).during("sync", &self.name())
    }

    /// Bytes from `at` on that are looked over, or overwritten, at once.
    fn piece(&self, at: u64) -> u64 {
        (CLEARED_BYTES - at % CLEARED_BYTES).min(self.bytes() - at)
    }
}

/// Whether these bytes are all zero. Without a way out of the loop, which is what makes it fast.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// Where a log stands after the frames that were read so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Chain {
    /// 0 before the first frame.
    pub last_lsn: u64,
    pub last_checksum: u32,
    pub last_time_ms: u64,
    pub boot_epoch: u32,
    /// The oldest segment that belongs to the log, as its last statement says. 0: none says it.
    pub oldest_segment: u64,
    /// Nothing follows a SEAL.
    pub is_sealed: bool,
    pub has_frames: bool,
}

impl Chain {
    /// Takes the frame if it continues the log. It may be anything in the oldest segment, unless that is a log's first.
    pub fn accept<'w>(&mut self, frame: &Frame<'w>) -> Result<Result<Entry<'w>, Fault>, LogError> {
        let header = &frame.header;
        let Position { segment, offset } = frame.position;
        if header.version != FRAME_VERSION {
            return Err(LogError::FrameVersion { file: segment_name(segment), offset, version: header.version });
        }
        let Some(kind) = FrameType::from_code(header.frame_type) else {
            return Err(LogError::FrameType { file: segment_name(segment), offset, code: header.frame_type });
        };
        let is_start = !self.has_frames && segment != super::segment::FIRST_SEGMENT;
        let lsn = self.last_lsn + u64::from(kind != FrameType::Mark);
        let is_chained = header.previous.get() == self.last_checksum || is_broken(Mutation::StaleTailAccepted);
        let follows = header.lsn.get() == lsn && is_chained;
        let is_last = header.lsn.get() == u64::MAX || header.boot_epoch.get() == u32::MAX;
        if !(is_start || follows) || header.boot_epoch.get() < self.boot_epoch || is_last {
            return Ok(Err(Fault::Chain));
        }
        if matches!(kind, FrameType::Boot | FrameType::Mark) {
            use zerocopy::FromBytes;
            let Ok(statement) = Statement::read_from_bytes(frame.payload) else {
                return Ok(Err(Fault::Payload));
            };
            self.oldest_segment = statement.oldest_segment.get();
        }
        self.has_frames = true;
        self.last_lsn = header.lsn.get();
        self.last_checksum = header.checksum.get();
        self.last_time_ms = self.last_time_ms.max(header.time_ms.get());
        self.boot_epoch = header.boot_epoch.get();
        self.is_sealed = kind == FrameType::Seal;
        Ok(Ok(Entry {
            kind,
            lsn: header.lsn.get(),
            time_ms: header.time_ms.get(),
            boot_epoch: header.boot_epoch.get(),
            durable_lsn: header.durable_lsn.get(),
            position: frame.position,
            payload: frame.payload,
        }))
    }
}

/// Where frames begin.
pub(super) const FRAMES_AT: u64 = SEGMENT_HEADER_BYTES;
