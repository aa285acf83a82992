//! Logs that a start reads: whole ones, and ones whose end is torn.

use sagacore_broker::log::{FrameType, Recovered, Writer};

use crate::support::{CrashDisk, Random, config, read_all};
use crate::{SEGMENT_BYTES, files};

/// A log, and what is the matter with it.
pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    pub disk: CrashDisk,
}

impl Case {
    pub fn new(name: &'static str, about: &'static str, disk: CrashDisk) -> Self {
        Self { name, about, disk }
    }
}

pub fn seg(number: u64) -> String {
    format!("{number:016x}.seg")
}

pub fn recovered(disk: &CrashDisk) -> Recovered {
    read_all(disk, &config(SEGMENT_BYTES)).unwrap().1
}

pub fn start(disk: &CrashDisk) -> Writer<CrashDisk> {
    Writer::start(disk.clone(), config(SEGMENT_BYTES), &recovered(disk), 5).unwrap()
}

/// A batch that says its LSN, and is long enough for a few to fill a segment. Its zeros take no room in the files.
pub fn batch(writer: &mut Writer<CrashDisk>) {
    let lsn = writer.next_lsn();
    let mut payload = format!("batch {lsn}").into_bytes();
    payload.resize(1_990, 0);
    payload.extend_from_slice(b"the end   ");
    writer.append(FrameType::Batch, 10 * lsn, &payload).unwrap();
    writer.commit().unwrap();
}

pub fn batches(writer: &mut Writer<CrashDisk>, count: usize) {
    (0..count).for_each(|_| batch(writer));
}

/// Three segments and a little of the fourth, not marked and not sealed.
pub fn long() -> CrashDisk {
    let disk = CrashDisk::default();
    batches(&mut start(&disk), 18);
    disk
}

/// The offset of the frame with this LSN, and its file.
pub fn place(disk: &CrashDisk, lsn: u64) -> (String, usize) {
    let mut found = None;
    sagacore_broker::log::inspect(disk, &mut |finding| {
        if let sagacore_broker::log::Finding::Frame(entry) = finding
            && entry.lsn == lsn
            && entry.kind != FrameType::Mark
        {
            found = Some((seg(entry.position.segment), entry.position.offset as usize));
        }
    })
    .unwrap();
    found.unwrap()
}

pub fn all() -> Vec<Case> {
    let mut cases = vec![
        Case::new("empty-directory", "Nothing is there: a start makes a new log.", CrashDisk::default()),
        clean_stop(),
        Case::new("unclean-stop", "Killed when all was synced; an idle log had said so.", marked(long())),
        Case::new("unclean-unmarked", "Killed right after the last sync.", long()),
        recycled(),
        compacted(),
        released_in_part(),
        Case::new("missing-last-segment", "The last segment is gone. Nothing says that there was more.", {
            let disk = long();
            disk.forget(&seg(4));
            disk
        }),
    ];
    cases.extend(torn());
    cases
}

fn clean_stop() -> Case {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    batches(&mut writer, 3);
    writer.append(FrameType::Copy, 50, b"a copy").unwrap();
    writer.commit().unwrap();
    writer.seal(60).unwrap();
    Case::new("clean-stop", "BOOT, batches, a copy and SEAL.", disk)
}

pub fn marked(disk: CrashDisk) -> CrashDisk {
    // A boot of its own, so that the log can be written on.
    start(&disk).mark().unwrap();
    disk
}

/// What the last write of a crash may leave.
fn torn() -> Vec<Case> {
    let half = |fill: &dyn Fn(&mut [u8])| {
        let disk = long();
        let (file, offset) = place(&disk, 19);
        disk.damage(&file, offset + 512, |bytes| fill(&mut bytes[..1_600]));
        disk
    };
    let zeros = half(&|bytes| bytes.fill(0));
    let garbage = half(&|bytes| bytes.copy_from_slice(&Random(5).bytes(1_600)));
    let group = CrashDisk::default();
    let mut writer = start(&group);
    batches(&mut writer, 2);
    for text in ["one", "two", "three"] {
        let mut payload = text.as_bytes().to_vec();
        payload.resize(600, b'.');
        writer.append(FrameType::Batch, 70, &payload).unwrap();
    }
    writer.commit().unwrap();
    let (file, offset) = place(&group, 5);
    group.damage(&file, offset, |bytes| bytes[..48].fill(0));
    vec![
        Case::new("torn-last-frame", "Of the last frame only the first sector was written: cut.", zeros),
        Case::new("torn-garbage", "The last frame ends in what nobody wrote: cut.", garbage),
        Case::new("torn-group", "Of the last three frames, one sync's, the middle one is not there: cut there.", group),
        next_segment_torn(),
    ]
}

fn next_segment_torn() -> Case {
    let disk = CrashDisk::default();
    batches(&mut start(&disk), 6);
    let (file, offset) = place(&disk, 7);
    assert_eq!((&file, offset), (&seg(2), 4096), "the first frame of its segment");
    disk.damage(&file, offset + 512, |bytes| bytes[..1_000].fill(0xee));
    Case::new("torn-next-segment", "The last frame, the first of its segment, is torn: cut there.", disk)
}

/// A segment whose earlier life still stands behind the end, and another one made ready.
fn recycled() -> Case {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    batches(&mut writer, 18);
    writer.release_before(u64::MAX).unwrap();
    batches(&mut writer, 5);
    assert!(writer.prepare_ahead().unwrap());
    drop(writer);
    let stale = files::to_text(&disk.contents(&seg(6))).lines().count();
    assert!(stale > 3, "{:?} {stale}", disk.list());
    Case::new("recycled", "Frames of an earlier life stand behind the end and in the segment that is ready.", disk)
}

fn compacted() -> Case {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    batches(&mut writer, 12);
    let copy = writer.append(FrameType::Copy, 300, b"what is still needed").unwrap();
    batches(&mut writer, 8);
    writer.release_before(copy).unwrap();
    Case::new("compacted", "The first segments were released after a copy: the log begins with a later one.", disk)
}

fn released_in_part() -> Case {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    batches(&mut writer, 18);
    // The MARK is synced, and one file renamed; the power is cut before the next.
    disk.set_fuse(Some(4));
    assert!(writer.release_before(u64::MAX).is_err());
    let disk = disk.crash(&mut Random(3));
    Case::new("released-in-part", "A release was interrupted: a MARK says where the log begins.", disk)
}
