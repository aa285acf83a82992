//! The log, given any files: they are refused, and then nothing was changed, or what they say is read the same again.
//! Checksums are made right in most inputs: or no mutation would ever get past them, and neither does a bug's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sagacore_broker::log::{
    Config, Disk, DiskError, Durability, Entry, FRAME_HEADER_BYTES, FrameType, SEGMENT_HEADER_BYTES, Verdict, Writer,
    inspect, recover, repair,
};
use sagacore_broker::{Broker, RecordKind};

use crate::brokers::serve;
use crate::honest::honest;

const SEGMENT_BYTES: usize = 16 << 10;
const CONFIG: Config = Config { segment_bytes: SEGMENT_BYTES as u64, durability: Durability::Sync, nonce: 1 };
/// The bytes of a segment's header that its checksum is of, and where that stands.
const HEADER_SUMMED: usize = 44;
const HEADER_FIELDS: usize = 48;
/// Those fields and all frames of a segment.
const PACKED_MAX: usize = HEADER_FIELDS + SEGMENT_BYTES - SEGMENT_HEADER_BYTES as usize;
/// Segments of an input at most.
const SEGMENTS_MAX: usize = 4;

type File = Rc<RefCell<Vec<u8>>>;
/// LSN and bytes of payload of what was read.
type Frames = Vec<(u64, usize)>;

/// Files by name: what the log sees of a disk.
#[derive(Clone, Default)]
pub struct Files(Rc<RefCell<BTreeMap<String, File>>>);

impl Files {
    fn contents(&self) -> Vec<(String, Vec<u8>)> {
        self.0.borrow().iter().map(|(name, bytes)| (name.clone(), bytes.borrow().clone())).collect()
    }

    fn of(contents: Vec<(String, Vec<u8>)>) -> Self {
        let files = contents.into_iter().map(|(name, bytes)| (name, Rc::new(RefCell::new(bytes))));
        Self(Rc::new(RefCell::new(files.collect())))
    }
}

impl Disk for Files {
    type File = File;

    fn names(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> Result<Self::File, DiskError> {
        let file = Self::File::default();
        let old = self.0.borrow_mut().insert(name.to_owned(), Rc::clone(&file));
        assert!(old.is_none(), "{name} is there already");
        Ok(file)
    }

    fn open(&self, name: &str) -> Result<Self::File, DiskError> {
        self.0.borrow().get(name).cloned().ok_or(DiskError::Missing)
    }

    fn length(&self, file: &Self::File) -> Result<u64, DiskError> {
        Ok(file.borrow().len() as u64)
    }

    fn allocate(&self, _: &Self::File, _: u64) -> Result<bool, DiskError> {
        Ok(false)
    }

    fn read(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let file = file.borrow();
        let part = file.get(offset as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(part.unwrap_or_else(|| panic!("{} bytes at {offset} of {}", into.len(), file.len())));
        Ok(())
    }

    fn write(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let (mut file, end) = (file.borrow_mut(), offset as usize + bytes.len());
        assert!(end <= 4 * SEGMENT_BYTES, "{} bytes at {offset}", bytes.len());
        let length = file.len().max(end);
        file.resize(length, 0);
        file[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, _: &Self::File) -> Result<(), DiskError> {
        Ok(())
    }

    fn settle(&self, _: &Self::File) -> Result<(), DiskError> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let file = self.0.borrow_mut().remove(from).ok_or(DiskError::Missing)?;
        self.0.borrow_mut().insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.0.borrow_mut().remove(name).map(|_| ()).ok_or(DiskError::Missing)
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        Ok(1 << 30)
    }
}

/// Files of a log.
///
/// ```text
/// offset size field
///      0    1 sealing  bit 0: checksums of frames are made right; bit 1: of segments' headers, too
///      1    1 first    number of the first segment
///   then, per segment:
///           2 length   bytes that follow, little-endian
///          48          fields of its header
///             bytes    its frames; zeros up to the segment's end are left out
/// ```
pub fn log(bytes: &[u8]) {
    let [sealing, first, rest @ ..] = bytes else { return };
    let mut segments = segments(rest);
    seal(&mut segments, sealing & 2 != 0, sealing & 1 != 0);
    let named = (u64::from(*first)..).zip(segments);
    let before: Vec<_> = named.map(|(number, bytes)| (format!("{number:016x}.seg"), bytes)).collect();
    let looked = Files::of(before.clone());
    let seen = inspect(&looked, &mut |_| {});
    assert_eq!(looked.contents(), before, "a look changes nothing");
    let disk = Files::of(before.clone());
    let found = read(&disk);
    let is_refused = seen.map_or(true, |report| matches!(report.verdict, Verdict::Refused(_)));
    assert!(before.is_empty() || is_refused == found.is_none(), "a look and a start judge alike");
    match found {
        Some(found) => go_on(&disk, found),
        None => {
            assert_eq!(disk.contents(), before, "what is refused is not changed");
            // A repair may be refused as well. Where it is not, the log can be read.
            if repair(&disk, &CONFIG, &mut |_| {}).is_ok() {
                assert!(recover(&disk, &CONFIG, &mut |_| {}).is_ok(), "what was repaired is read");
            }
        }
    }
}

/// What a start reads: the broker, unless a record says what no broker writes. None: the log is refused.
fn read(disk: &Files) -> Option<(Option<Broker>, Frames)> {
    let (mut broker, mut frames) = (Some(Broker::new(sagacore_broker::Config::default())), Vec::new());
    let recovered = recover(disk, &CONFIG, &mut |entry: Entry<'_>| {
        frames.push((entry.lsn, entry.payload.len()));
        let kind = match entry.kind {
            FrameType::Batch => RecordKind::Transactions,
            FrameType::Copy => RecordKind::Copies,
            _ => return,
        };
        let replayed = broker.as_mut().map(|broker| broker.replay(kind, entry.lsn, entry.time_ms, entry.payload));
        if replayed.is_some_and(|replayed| replayed.is_err()) {
            broker = None;
        }
    });
    recovered.is_ok().then_some((broker, frames))
}

/// The log is written on, and read again with all that it had.
fn go_on(disk: &Files, (broker, frames): (Option<Broker>, Frames)) {
    let again = recover(disk, &CONFIG, &mut |_| {}).unwrap_or_else(|refused| panic!("read again: {refused}"));
    let Ok(mut writer) = Writer::start(disk.clone(), CONFIG, &again, again.last_time_ms) else { return };
    let next_lsn = writer.next_lsn();
    if let Some(mut broker) = broker {
        serve(&mut broker, next_lsn, again.last_time_ms);
    }
    let appended = writer.append(FrameType::Copy, again.last_time_ms, &[]);
    assert_eq!(appended.and_then(|_| writer.commit()).unwrap_or_else(|refused| panic!("{refused}")), next_lsn);
    let mut last = Vec::new();
    let read = recover(disk, &CONFIG, &mut |entry| last.push((entry.lsn, entry.payload.len())));
    read.unwrap_or_else(|refused| panic!("written on: {refused}"));
    let kept = frames.iter().filter(|frame| last.contains(frame)).count();
    let released = frames.len() - kept;
    assert_eq!(frames[released..], last[..kept], "what was read once stays, but for what was given up");
}

fn segments(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    while let [low, high, bytes @ ..] = rest
        && segments.len() < SEGMENTS_MAX
    {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len()).min(PACKED_MAX);
        let (header, frames) = bytes[..length].split_at(length.min(HEADER_FIELDS));
        let mut segment = header.to_vec();
        segment.resize(SEGMENT_HEADER_BYTES as usize, 0);
        segment.extend_from_slice(frames);
        segment.resize(SEGMENT_BYTES, 0);
        segments.push(segment);
        rest = &bytes[length..];
    }
    segments
}

/// Makes checksums right: of the headers, of each frame as far as lengths lead, and of the chain of frames.
fn seal(segments: &mut [Vec<u8>], headers: bool, frames: bool) {
    let mut previous = [0; 4];
    for segment in segments {
        if headers {
            let sum = crc32fast::hash(&segment[..HEADER_SUMMED]);
            segment[HEADER_SUMMED..HEADER_SUMMED + 4].copy_from_slice(&sum.to_le_bytes());
        }
        let Some(&seed) = segment[HEADER_SUMMED..].first_chunk::<4>() else { return };
        let mut at = SEGMENT_HEADER_BYTES as usize;
        while frames && at + FRAME_HEADER_BYTES <= segment.len() {
            let length = segment[at..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
            if length == 0 {
                at = (at + 1).next_multiple_of(512);
                continue;
            }
            if length < FRAME_HEADER_BYTES || length > segment.len() - at {
                break;
            }
            previous = seal_frame(&mut segment[at..at + length], seed, previous);
            at += length;
        }
    }
}

fn seal_frame(frame: &mut [u8], seed: [u8; 4], previous: [u8; 4]) -> [u8; 4] {
    frame[10..12].copy_from_slice(&seed[2..]);
    frame[44..48].copy_from_slice(&previous);
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::from_le_bytes(seed));
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    let sum = hasher.finalize().to_le_bytes();
    frame[4..8].copy_from_slice(&sum);
    sum
}

/// Logs of honest peers: stopped cleanly, stopped anyhow, torn, and two boots in several segments.
pub fn files() -> Vec<Vec<u8>> {
    let whole = written(2, true);
    let torn = written(1, false);
    let cut = torn[..torn.len() - 40].to_vec();
    [whole, torn, cut].into_iter().flat_map(|log| [0, 1, 3].map(|sealing| [&[sealing, 1], &*log].concat())).collect()
}

fn written(boots: usize, sealed: bool) -> Vec<u8> {
    let disk = Files::default();
    for _ in 0..boots {
        let found = recover(&disk, &CONFIG, &mut |_| {}).unwrap_or_else(|refused| panic!("{refused}"));
        let write = || {
            let mut writer = Writer::start(disk.clone(), CONFIG, &found, found.last_time_ms)?;
            for record in &honest().records {
                let kind = match record.kind {
                    RecordKind::Transactions => FrameType::Batch,
                    RecordKind::Copies => FrameType::Copy,
                };
                writer.append(kind, record.time_ms, &record.payload)?;
                writer.commit()?;
            }
            writer.mark()?;
            if sealed { writer.seal(found.last_time_ms) } else { Ok(()) }
        };
        write().unwrap_or_else(|refused: sagacore_broker::log::LogError| panic!("{refused}"));
    }
    let packed = disk.contents().into_iter().filter(|(name, _)| name.ends_with(".seg"));
    packed.flat_map(|(_, bytes)| pack(&bytes)).collect()
}

fn pack(segment: &[u8]) -> Vec<u8> {
    let frames = &segment[SEGMENT_HEADER_BYTES as usize..];
    let length = frames.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let packed = (HEADER_FIELDS + length) as u16;
    [&packed.to_le_bytes(), &segment[..HEADER_FIELDS], &frames[..length]].concat()
}
