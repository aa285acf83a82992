//! A segment: a file of fixed size with a header and then frames.
//!
//! ```text
//! offset size field
//!      0    8 magic           "sagalog" and a zero byte
//!      8    4 version         1
//!     12    4 boot_epoch      the boot that made it
//!     16    8 number          as in the file's name; the first segment of a log is 1
//!     24    8 nonce           drawn by the process that made it
//!     32    8 bytes           of the whole file
//!     40    4 reserved        0
//!     44    4 checksum        of all before it; the seed of the frames' checksums
//!     48      zeros to 4096, then frames
//! ```
//!
//! Files: `%016x.seg` in use or ready to be; `%016x.free` given up and kept; `.tmp` in the making; `.broken` set aside
//! by a repair. Magic, version and checksum keep their places in every later version.

use sagacore_core::mutation::{Mutation, is_broken};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk::{Disk, DiskError};
use super::error::{During, LogError};
use super::{Config, ZERO_BYTES, frame};

/// What the header takes: more than itself, so that no frame shares a sector or a page with it.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// The version of segments that this code writes and the only one that it reads.
pub const SEGMENT_VERSION: u32 = 1;
/// The number of a log's first segment.
pub const FIRST_SEGMENT: u64 = 1;

const MAGIC: [u8; 8] = *b"sagalog\0";

/// See the module's drawing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    pub magic: [u8; 8],
    pub version: U32,
    pub boot_epoch: U32,
    pub number: U64,
    pub nonce: U64,
    pub bytes: U64,
    pub reserved: U32,
    pub checksum: U32,
}

/// The bytes of the header that are not padding.
const FIELDS_BYTES: usize = size_of::<SegmentHeader>();

const _: () = {
    assert!(FIELDS_BYTES == 48);
    assert!(align_of::<SegmentHeader>() == 1, "read in place");
    assert!(core::mem::offset_of!(SegmentHeader, version) == 8);
    assert!(core::mem::offset_of!(SegmentHeader, boot_epoch) == 12);
    assert!(core::mem::offset_of!(SegmentHeader, number) == 16);
    assert!(core::mem::offset_of!(SegmentHeader, nonce) == 24);
    assert!(core::mem::offset_of!(SegmentHeader, bytes) == 32);
    assert!(core::mem::offset_of!(SegmentHeader, checksum) == 44);
    assert!(FIELDS_BYTES as u64 <= SEGMENT_HEADER_BYTES);
};

impl SegmentHeader {
    /// The header of a new segment.
    pub fn new(number: u64, bytes: u64, boot_epoch: u32, nonce: u64) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: SEGMENT_VERSION.into(),
            boot_epoch: boot_epoch.into(),
            number: number.into(),
            nonce: nonce.into(),
            bytes: bytes.into(),
            reserved: 0.into(),
            checksum: 0.into(),
        };
        header.checksum = header.sum().into();
        header
    }

    fn sum(&self) -> u32 {
        frame::checksum(0, &[&self.as_bytes()[..core::mem::offset_of!(Self, checksum)]])
    }

    /// What seeds the checksums of the segment's frames.
    pub fn seed(&self) -> u32 {
        if is_broken(Mutation::ChecksumNotSeeded) { 0 } else { self.checksum.get() }
    }

    /// Reads and checks the header of segment `number`, and the file's length.
    pub fn read<D: Disk>(disk: &D, file: &D::File, number: u64) -> Result<Self, LogError> {
        let name = segment_name(number);
        let length = disk.length(file).during("read the length of", &name)?;
        if length < SEGMENT_HEADER_BYTES {
            return Err(LogError::SegmentLength { file: name, found: length, expected: SEGMENT_HEADER_BYTES });
        }
        let mut bytes = [0; FIELDS_BYTES];
        disk.read(file, 0, &mut bytes).during("read", &name)?;
        let header: Self = zerocopy::transmute!(bytes);
        if header.magic != MAGIC || header.checksum.get() != header.sum() {
            return Err(LogError::SegmentHeader { file: name });
        }
        if header.version.get() != SEGMENT_VERSION {
            return Err(LogError::SegmentVersion { file: name, version: header.version.get() });
        }
        if header.number.get() != number {
            return Err(LogError::SegmentHeader { file: name });
        }
        if header.bytes.get() != length {
            return Err(LogError::SegmentLength { file: name, found: length, expected: header.bytes.get() });
        }
        Ok(header)
    }
}

/// The name of a segment's file.
pub fn segment_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The name of a given-up segment's file.
pub fn free_name(number: u64) -> String {
    format!("{number:016x}.free")
}

/// The number in the name of a segment's file, if it is one.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A segment with its header synced and no frames.
pub struct Prepared<F> {
    pub(super) number: u64,
    pub(super) file: F,
    pub(super) seed: u32,
    pub(super) bytes: u64,
}

/// Makes a segment ready, in steps small enough not to stall the log's syncs. It may run on another thread: it owns
/// what it needs. A new file is filled with zeros, since overwriting is what syncs fast; a freed one is written
/// already.
pub struct Preparation<D: Disk> {
    disk: D,
    header: SegmentHeader,
    /// A freed segment's file to use again.
    freed: Option<String>,
    /// Reserve all, but write only the first zeros: for a log's first segment, which somebody waits for.
    hasty: bool,
    file: Option<D::File>,
    /// Bytes of the file that were written.
    written: u64,
}

impl<D: Disk> Preparation<D> {
    pub(super) fn new(disk: D, config: &Config, number: u64, boot_epoch: u32, freed: Option<String>) -> Self {
        let header = SegmentHeader::new(number, config.segment_bytes, boot_epoch, config.nonce);
        Self { disk, header, freed, hasty: false, file: None, written: 0 }
    }

    pub(super) fn hasty(mut self) -> Self {
        self.hasty = true;
        self
    }

    /// Does the next piece, synced. Gives the segment when it is done.
    ///
    /// # Errors
    /// `LogError::Disk`. After `DiskError::Full` the caller may try again from `begin_again`; nothing else is retried.
    pub fn step(&mut self) -> Result<Option<Prepared<D::File>>, LogError> {
        let name = self.working_name();
        let file = match self.file.take() {
            Some(file) => file,
            None => self.begin(&name)?,
        };
        let bytes = self.header.bytes.get();
        if self.written < bytes {
            self.write_piece(&file, &name)?;
            self.disk.sync(&file).during("sync", &name)?;
        }
        if self.written < bytes {
            self.file = Some(file);
            return Ok(None);
        }
        let number = self.header.number.get();
        self.disk.rename(&name, &segment_name(number)).during("rename", &name)?;
        if !is_broken(Mutation::NameNotSynced) {
            self.disk.sync_directory().during("sync the directory of", &segment_name(number))?;
        }
        Ok(Some(Prepared { number, file, seed: self.header.seed(), bytes }))
    }

    /// Does all of it.
    pub fn finish(mut self) -> Result<Prepared<D::File>, LogError> {
        loop {
            match self.step() {
                Ok(Some(prepared)) => return Ok(prepared),
                Ok(None) => {}
                Err(error) => {
                    self.begin_again();
                    return Err(error);
                }
            }
        }
    }

    /// Gives back the space of a failed attempt, to begin again later.
    pub fn begin_again(&mut self) {
        self.file = None;
        self.written = 0;
        if self.freed.is_none() {
            // If this fails too, the file is removed before the next attempt or at the next start.
            let _ = self.disk.remove(&self.working_name());
        }
    }

    fn working_name(&self) -> String {
        self.freed.clone().unwrap_or_else(|| format!("{:016x}.tmp", self.header.number.get()))
    }

    fn begin(&mut self, name: &str) -> Result<D::File, LogError> {
        if self.freed.is_some() {
            return self.disk.open(name).during("open", name);
        }
        match self.disk.remove(name) {
            Ok(()) | Err(DiskError::Missing) => {}
            Err(error) => return Err(error).during("remove", name),
        }
        let file = self.disk.create(name).during("create", name)?;
        let reserved = self.disk.allocate(&file, self.header.bytes.get()).during("reserve space for", name)?;
        self.hasty &= reserved;
        Ok(file)
    }

    fn write_piece(&mut self, file: &D::File, name: &str) -> Result<(), LogError> {
        let bytes = self.header.bytes.get();
        let piece = if self.freed.is_some() { SEGMENT_HEADER_BYTES } else { ZERO_BYTES as u64 };
        let mut zeros = vec![0; piece.min(bytes - self.written) as usize];
        if self.written == 0 {
            zeros[..FIELDS_BYTES].copy_from_slice(self.header.as_bytes());
        }
        self.disk.write(file, self.written, &zeros).during("write", name)?;
        let all = self.freed.is_some() || self.hasty;
        self.written = if all { bytes } else { self.written + zeros.len() as u64 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_number_and_only_its_own() {
        assert_eq!(segment_number(&segment_name(0xab)), Some(0xab));
        assert_eq!(segment_number("00000000000000ab.seg"), Some(0xab));
        for name in ["ab.seg", "00000000000000AB.seg", "00000000000000ab.free", "00000000000000ab.seg.broken", ".seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    #[test]
    fn two_headers_seed_differently() {
        let seed = SegmentHeader::new(1, 1 << 20, 1, 5).seed();
        for other in [(2, 1, 5), (1, 2, 5), (1, 1, 6)] {
            assert_ne!(SegmentHeader::new(other.0, 1 << 20, other.1, other.2).seed(), seed);
        }
    }
}
