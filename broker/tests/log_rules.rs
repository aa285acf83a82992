//! The log's rules one by one: rotation, release, recycling, a full disk, a failed sync, and what recovery refuses.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use sagacore_broker::log::{
    Config, DiskError, Durability, Fault, Finding, FrameType, LogError, PAYLOAD_BYTES_MAX, SEGMENT_BYTES_DEFAULT,
    Verdict, Writer, inspect, recover, repair,
};
use support::{CrashDisk, Kept, Random, config, read_all};

const SEGMENT_BYTES: u64 = 16 << 10;

fn start(disk: &CrashDisk) -> Writer<CrashDisk> {
    start_with(disk, config(SEGMENT_BYTES))
}

fn start_with(disk: &CrashDisk, settings: Config) -> Writer<CrashDisk> {
    let (_, recovered) = read_all(disk, &settings).unwrap();
    Writer::start(disk.clone(), settings, &recovered, 5).unwrap()
}

/// Appends and commits so many batches of 2,000 bytes, each its own group.
fn fill(writer: &mut Writer<CrashDisk>, batches: usize) {
    for _ in 0..batches {
        writer.append(FrameType::Batch, 9, &[7; 2_000]).unwrap();
        writer.commit().unwrap();
    }
}

/// A log of several segments with a last MARK, its writer gone.
fn long_log() -> CrashDisk {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 25);
    writer.mark().unwrap();
    disk
}

fn refused(disk: &CrashDisk) -> LogError {
    read_all(disk, &config(SEGMENT_BYTES)).expect_err("it must be refused")
}

fn seg(number: u64) -> String {
    format!("{number:016x}.seg")
}

#[test]
fn an_empty_directory_is_a_new_log() {
    let disk = CrashDisk::default();
    let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert_eq!((kept.len(), recovered.next_lsn, recovered.boot_epoch, recovered.unclean), (0, 1, 1, false));
    let mut writer = Writer::start(disk.clone(), config(SEGMENT_BYTES), &recovered, 5).unwrap();
    assert_eq!(writer.durable_lsn(), 1, "BOOT is durable before anything is served");
    assert_eq!(writer.append(FrameType::Batch, 6, b"a").unwrap(), 2);
    assert_eq!(writer.durable_lsn(), 1);
    assert_eq!(writer.commit().unwrap(), 2);

    let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    let batch = Kept { kind: FrameType::Batch, lsn: 2, time_ms: 6, payload: b"a".to_vec() };
    assert_eq!((kept[0].kind, &kept[1]), (FrameType::Boot, &batch));
    assert_eq!((recovered.boot_epoch, recovered.unclean, recovered.last_time_ms), (2, true, 6));
}

#[test]
fn a_boot_says_whether_the_stop_before_was_clean() {
    let disk = CrashDisk::default();
    start(&disk).seal(7).unwrap();
    drop(start(&disk));
    drop(start(&disk));
    let mut unclean = Vec::new();
    let recovered = recover(&disk, &config(SEGMENT_BYTES), &mut |entry| {
        if entry.kind == FrameType::Boot {
            unclean.push((entry.boot_epoch, entry.is_unclean_boot()));
        }
    });
    assert_eq!(unclean, [(1, false), (2, false), (3, true)]);
    assert!(recovered.unwrap().unclean);
}

#[test]
fn nothing_is_appended_after_a_seal() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    writer.seal(7).unwrap();
    assert!(matches!(writer.append(FrameType::Batch, 8, b"x"), Err(LogError::Poisoned { .. })));
    let (_, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert!(!recovered.unclean);
    assert_eq!(recovered.cut, None);
}

#[test]
fn frames_go_on_in_the_next_segment() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 25);
    let segments: Vec<_> = writer.segments().copied().collect();
    assert!(segments.len() >= 4);
    assert_eq!(writer.segments_bytes(), segments.len() as u64 * SEGMENT_BYTES);
    let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert_eq!(kept.len(), 26);
    assert_eq!(recovered.segments, segments);
    let mut firsts: Vec<u64> = Vec::new();
    inspect(&disk, &mut |finding| {
        if let Finding::Frame(entry) = finding
            && entry.position.offset == 4096
        {
            firsts.push(entry.lsn);
        }
    })
    .unwrap();
    assert_eq!(firsts, segments.iter().map(|segment| segment.first_lsn).collect::<Vec<_>>());
}

#[test]
fn the_largest_batch_fits_and_one_byte_more_is_refused() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    let max = config(SEGMENT_BYTES).payload_bytes_max();
    for _ in 0..3 {
        writer.append(FrameType::Batch, 6, &vec![1; max]).unwrap();
        writer.commit().unwrap();
    }
    let refused = writer.append(FrameType::Batch, 6, &vec![1; max + 1]);
    assert_eq!(refused, Err(LogError::TooLarge { bytes: max + 1, max }));
    assert_eq!(writer.poisoned(), None, "that changed nothing");
    assert_eq!(writer.append(FrameType::Batch, 6, b"x").unwrap(), 5);
    writer.commit().unwrap();
    assert_eq!(read_all(&disk, &config(SEGMENT_BYTES)).unwrap().0.len(), 5);
    assert_eq!(config(SEGMENT_BYTES_DEFAULT).payload_bytes_max(), PAYLOAD_BYTES_MAX);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for bytes in [0, 4096, SEGMENT_BYTES + 512, 8 << 30] {
        assert_eq!(read_all(&CrashDisk::default(), &config(bytes)).unwrap_err().name(), "log.setting");
    }
}

#[test]
fn only_whole_segments_before_the_lsn_are_released() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 25);
    let firsts: Vec<u64> = writer.segments().map(|segment| segment.first_lsn).collect();
    assert_eq!(writer.release_before(firsts[1] - 1).unwrap(), 0);
    assert_eq!(writer.release_before(firsts[1]).unwrap(), 1);
    assert_eq!(writer.release_before(firsts[2] + 1).unwrap(), 1);
    assert_eq!(writer.release_before(u64::MAX).unwrap(), firsts.len() - 3, "never the one that is written");
    let free = disk.list().iter().filter(|name| name.ends_with(".free")).count();
    assert_eq!(free, firsts.len() - 1, "they are kept to be used again");
    let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert_eq!(kept[0].lsn, firsts[firsts.len() - 1]);
    assert_eq!(recovered.segments.len(), 1);
}

#[test]
fn while_the_next_segment_waits_for_space_what_is_freed_is_given_back() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 25);
    let freed = |writer: &mut Writer<_>| {
        let gone = writer.release_before(u64::MAX).unwrap();
        (gone > 0, disk.list().iter().filter(|name| name.ends_with(".free")).count())
    };
    assert!(writer.begin_preparation().is_some(), "it was used up");
    writer.set_full();
    assert_eq!(freed(&mut writer), (true, 0));
}

#[test]
fn stale_frames_of_a_recycled_segment_are_never_read() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 25);
    let before = writer.segments().count();
    let freed = || disk.list().iter().filter(|name| name.ends_with(".free")).count();
    writer.release_before(u64::MAX).unwrap();
    let (files, free) = (disk.list().len(), freed());
    fill(&mut writer, 6);
    assert!(writer.prepare_ahead().unwrap());
    assert_eq!((disk.list().len(), freed()), (files, free - 2), "two are used again");
    assert!(before > 2);
    let next = writer.next_lsn();
    // Frames of the earlier life stand whole behind the end, and in the segment that is ready.
    let last = writer.segments().last().unwrap().number;
    let stale = disk.contents(&seg(last + 1));
    assert!(stale[4096..].iter().any(|byte| *byte != 0));
    let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert_eq!(recovered.next_lsn, next);
    assert!(kept.iter().all(|frame| frame.lsn < next));
}

#[test]
fn a_failed_sync_poisons_and_is_never_retried() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    writer.append(FrameType::Batch, 6, &[1; 3_000]).unwrap();
    disk.fail_next_sync();
    assert!(matches!(writer.commit(), Err(LogError::Disk { action: "sync", error: DiskError::Failed(_), .. })));
    assert_eq!(writer.durable_lsn(), 1);
    let (syncs, calls) = (disk.syncs(), disk.calls());
    assert!(writer.poisoned().unwrap().contains("input/output error"));
    assert_eq!(writer.commit().unwrap_err().name(), "log.poisoned");
    assert_eq!(writer.mark().unwrap_err().name(), "log.poisoned");
    assert_eq!(writer.seal(7).unwrap_err().name(), "log.poisoned");
    assert_eq!(writer.release_before(u64::MAX).unwrap_err().name(), "log.poisoned");
    assert_eq!((disk.syncs(), disk.calls()), (syncs, calls), "the disk was left alone");
    // The next process sees what the disk has, not what the cache had.
    let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert_eq!((kept.len(), recovered.next_lsn), (1, 2));
}

#[test]
fn only_what_may_not_be_durable_is_read_from_the_disk_itself() {
    let disk = long_log();
    let segments = read_all(&disk.copy(), &config(SEGMENT_BYTES)).unwrap().1.segments.len();
    let again = disk.copy();
    read_all(&again, &config(SEGMENT_BYTES)).unwrap();
    assert!(segments >= 4 && again.settled() - disk.settled() <= 2, "the last one, and the next");

    // Nothing was ever synced of a log that is only written. The first start is told so, the second is not.
    let disk = CrashDisk::default();
    let mut writer = start_with(&disk, Config { durability: Durability::Os, ..config(SEGMENT_BYTES) });
    fill(&mut writer, 25);
    disk.fail_next_sync();
    assert!(matches!(refused(&disk), LogError::Disk { action: "sync", .. }));
    let settled = disk.settled();
    let (kept, _) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert!(disk.settled() - settled >= 4 && kept.len() < 25, "half of the first segment never reached the disk");
}

#[test]
fn a_failed_write_poisons_too() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 2);
    writer.append(FrameType::Batch, 6, &[1; 3_000]).unwrap();
    disk.set_fuse(Some(0));
    assert!(matches!(writer.commit(), Err(LogError::Disk { action: "write", .. })));
    disk.set_fuse(None);
    let calls = disk.calls();
    assert_eq!(writer.commit().unwrap_err().name(), "log.poisoned");
    assert_eq!(writer.append(FrameType::Batch, 7, b"x").unwrap_err().name(), "log.poisoned");
    assert_eq!(disk.calls(), calls, "what was half written is not written over");
    assert_eq!(read_all(&disk, &config(SEGMENT_BYTES)).unwrap().1.next_lsn, 4);
}

#[test]
fn a_cut_tail_is_zero_and_durable_before_anything_follows() {
    for seed in 0..50 {
        let disk = long_log();
        let end = read_all(&disk.copy(), &config(SEGMENT_BYTES)).unwrap().1.next_lsn;
        let file = seg(*[4, 5].iter().rfind(|number| disk.list().contains(&seg(**number))).unwrap());
        let used = disk.contents(&file).iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // The last write left garbage to the end of the file, a sector here and there.
        let place = used.next_multiple_of(512);
        let mut random = Random(seed);
        disk.damage(&file, place, |bytes| {
            for sector in bytes.chunks_mut(512).filter(|_| random.below(3) == 0) {
                sector.copy_from_slice(&Random(seed + 1).bytes(sector.len()));
            }
            bytes[0] = 1;
        });
        let syncs = disk.syncs();
        let (kept, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
        assert_eq!(recovered.cut.as_ref().map(|cut| (&cut.file, cut.lsn)), Some((&file, end)));
        assert!(disk.syncs() > syncs);
        // The power is cut before BOOT is written: nothing of the tail comes back.
        let disk = disk.crash(&mut random);
        assert!(disk.contents(&file)[place..].iter().all(|byte| *byte == 0));
        let (again, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
        assert_eq!((again, recovered.cut, recovered.unclean), (kept, None, true));
        // And BOOT is durable, and says so, before anything is served.
        drop(start(&disk));
        let disk = disk.crash(&mut random);
        let mut boots = Vec::new();
        recover(&disk, &config(SEGMENT_BYTES), &mut |entry| boots.push(entry.is_unclean_boot())).unwrap();
        assert_eq!(boots.last(), Some(&true));
    }
}

#[test]
fn a_full_disk_stops_nothing_that_has_room() {
    let disk = CrashDisk::default();
    disk.set_capacity(Some(2 * SEGMENT_BYTES));
    let mut writer = start(&disk);
    assert!(writer.prepare_ahead().unwrap());
    fill(&mut writer, 5);
    assert!(!writer.is_full());
    fill(&mut writer, 3);
    assert!(!writer.prepare_ahead().unwrap(), "no space for a third segment");
    assert!(writer.is_full());
    assert!(disk.list().iter().all(|name| !name.ends_with(".tmp")), "the attempt gave back its space");
    writer.append(FrameType::Batch, 9, b"there is room yet").unwrap();
    writer.commit().unwrap();
    assert_eq!(writer.poisoned(), None);

    disk.set_capacity(Some(3 * SEGMENT_BYTES));
    assert!(writer.prepare_ahead().unwrap());
    assert!(!writer.is_full());
    assert!(writer.room_bytes() > SEGMENT_BYTES);
    fill(&mut writer, 6);
    let failed = (0..20).find_map(|_| writer.append(FrameType::Batch, 9, &[7; 2_000]).err());
    assert_eq!(failed, Some(LogError::NoRoom));
    assert_eq!(writer.commit().unwrap_err().name(), "log.poisoned");
}

#[test]
fn a_missing_segment_is_refused_by_name() {
    let disk = long_log();
    let (kept, recovered) = read_all(&disk.copy(), &config(SEGMENT_BYTES)).unwrap();
    let numbers: Vec<u64> = recovered.segments.iter().map(|segment| segment.number).collect();
    for gone in &numbers {
        let disk = disk.copy();
        use sagacore_broker::log::Disk;
        disk.remove(&seg(*gone)).unwrap();
        if *gone == numbers[numbers.len() - 1] {
            // Nothing in what is left says that there was more.
            let (left, _) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
            assert!(left.len() < kept.len());
        } else {
            assert_eq!(refused(&disk), LogError::MissingSegment { file: seg(*gone) });
        }
    }
}

#[test]
fn a_directory_with_leftovers_only_is_no_new_log() {
    let disk = CrashDisk::default();
    disk.put("0000000000000001.free", vec![0; SEGMENT_BYTES as usize]);
    assert_eq!(refused(&disk).name(), "log.missing-segment");
}

#[test]
fn a_segment_from_elsewhere_is_refused() {
    let disk = long_log();
    let other = CrashDisk::default();
    let mut settings = config(SEGMENT_BYTES);
    settings.nonce = 99;
    let mut writer = start_with(&other, settings);
    // Its frames are smaller, so its third segment begins with another LSN.
    for _ in 0..150 {
        writer.append(FrameType::Batch, 9, &[7; 100]).unwrap();
        writer.commit().unwrap();
    }
    let theirs = writer.segments().nth(2).unwrap().first_lsn;
    disk.put(&seg(3), other.contents(&seg(3)));
    let error = refused(&disk);
    assert!(matches!(error.name().as_str(), "log.damaged" | "log.first-lsn"), "{error}, theirs is {theirs}");

    disk.put(&seg(3), long_log().contents(&seg(2)));
    assert_eq!(refused(&disk), LogError::SegmentHeader { file: seg(3) });
}

#[test]
fn a_segment_that_begins_too_early_is_refused() {
    // Two logs of one nonce, so that nothing but the LSN tells their segments apart.
    let small = CrashDisk::default();
    let mut writer = start(&small);
    for _ in 0..2 {
        writer.append(FrameType::Batch, 9, &[7; 9_000]).unwrap();
        writer.commit().unwrap();
    }
    let large = CrashDisk::default();
    let mut writer = start(&large);
    fill(&mut writer, 7);
    large.put(&seg(2), small.contents(&seg(2)));
    let (_, recovered) = read_all(&large.copy(), &config(SEGMENT_BYTES)).map_or((0, None), |found| (1, Some(found)));
    assert!(recovered.is_none());
    assert_eq!(refused(&large), LogError::FirstLsn { file: seg(2), found: 3, expected: 7 });
}

#[test]
fn unknown_versions_are_refused() {
    let disk = long_log();
    // A segment of version 2, with its checksum right.
    disk.damage(&seg(2), 8, |bytes| bytes[0] = 2);
    let sum = crc32fast::hash(&disk.contents(&seg(2))[..44]);
    disk.damage(&seg(2), 44, |bytes| bytes[..4].copy_from_slice(&sum.to_le_bytes()));
    assert_eq!(refused(&disk), LogError::SegmentVersion { file: seg(2), version: 2 });

    for (field, name) in [(8, "log.frame-type"), (9, "log.frame-version")] {
        let disk = long_log();
        let contents = disk.contents(&seg(2));
        let seed = u32::from_le_bytes(contents[44..48].try_into().unwrap());
        let mut frame = contents[4096..4096 + 2048].to_vec();
        frame[field] = 77;
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&frame[..4]);
        hasher.update(&frame[8..]);
        frame[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
        disk.damage(&seg(2), 4096, |bytes| bytes[..2048].copy_from_slice(&frame));
        let error = refused(&disk);
        assert_eq!(error.name(), name);
        assert!(error.to_string().contains(&seg(2)) && error.to_string().contains("77"));
    }
}

#[test]
fn a_file_of_another_length_is_refused() {
    let disk = long_log();
    let mut contents = disk.contents(&seg(2));
    contents.truncate(8192);
    disk.put(&seg(2), contents);
    assert_eq!(refused(&disk), LogError::SegmentLength { file: seg(2), found: 8192, expected: SEGMENT_BYTES });
    disk.put(&seg(2), vec![0; 40]);
    assert_eq!(refused(&disk).name(), "log.segment-length");
}

#[test]
fn segments_of_an_earlier_size_are_read() {
    let disk = long_log();
    let settings = config(2 * SEGMENT_BYTES);
    let before = read_all(&disk.copy(), &settings).unwrap().0.len();
    let mut writer = start_with(&disk, settings);
    fill(&mut writer, 30);
    writer.release_before(12).unwrap();
    let (kept, recovered) = read_all(&disk, &settings).unwrap();
    assert_eq!(kept.last().unwrap().lsn, before as u64 + 31);
    let sizes: Vec<u64> = recovered.segments.iter().map(|segment| segment.bytes).collect();
    assert_eq!((sizes[0], sizes[sizes.len() - 1]), (SEGMENT_BYTES, 2 * SEGMENT_BYTES));
    assert!(disk.list().iter().all(|name| !name.ends_with(".free")), "a file of another size is of no use");
}

#[test]
fn the_written_only_log_syncs_what_a_release_rests_on() {
    let disk = CrashDisk::default();
    let mut settings = config(SEGMENT_BYTES);
    settings.durability = Durability::Os;
    let mut writer = start_with(&disk, settings);
    fill(&mut writer, 8);
    let syncs = disk.syncs();
    // The copy stands in the second segment, more follows in the third.
    let copy = writer.append(FrameType::Copy, 9, b"still needed").unwrap();
    fill(&mut writer, 6);
    assert_eq!(writer.segments().count(), 3);
    writer.release_before(8).unwrap();
    assert!(disk.syncs() > syncs);
    for seed in 0..20 {
        let (kept, _) = read_all(&disk.crash(&mut Random(seed)), &settings).unwrap();
        assert!(kept.iter().any(|frame| frame.lsn == copy), "the copy is as durable as what it replaced");
    }
}

#[test]
fn errors_have_names_and_hints() {
    let error = LogError::Damaged { file: seg(3), offset: 8192, lsn: 40, fault: Fault::Checksum, later_lsn: 44 };
    assert_eq!(error.name(), "log.damaged");
    let text = error.to_string();
    assert!(text.contains("0000000000000003.seg") && text.contains("8192") && text.contains("LSN 40"));
    assert!(error.hint().contains("sagacore log repair"));
}

#[test]
fn a_repair_of_a_sound_log_does_nothing() {
    let disk = long_log();
    let calls = disk.list();
    assert_eq!(repair(&disk, &config(SEGMENT_BYTES), &mut |_| {}).unwrap(), None);
    assert_eq!(disk.list(), calls);
    assert_eq!(inspect(&disk, &mut |_| {}).unwrap().verdict, Verdict::Unclean);
}

#[test]
fn a_segment_of_another_life_is_told_by_the_chain() {
    // Two logs of one nonce and of frames of one size: only the checksums of the frames before differ.
    let [disk, other] = [1, 2].map(|byte| {
        let disk = CrashDisk::default();
        let mut writer = start(&disk);
        for _ in 0..12 {
            writer.append(FrameType::Batch, 9, &[byte; 2_000]).unwrap();
            writer.commit().unwrap();
        }
        disk
    });
    let first_lsn = read_all(&disk.copy(), &config(SEGMENT_BYTES)).unwrap().1.segments[1].first_lsn;
    disk.put(&seg(2), other.contents(&seg(2)));
    let error = refused(&disk);
    assert!(matches!(error, LogError::Damaged { lsn, fault: Fault::Empty, .. } if lsn == first_lsn), "{error}");
}

#[test]
fn an_interrupted_release_goes_on_at_the_next_start() {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    fill(&mut writer, 25);
    let last = writer.segments().last().unwrap().number;
    // The MARK is written and synced, then one file is renamed and its name synced.
    disk.set_fuse(Some(4));
    assert_eq!(writer.release_before(u64::MAX).unwrap_err().name(), "log.disk");
    let disk = disk.crash(&mut Random(3));
    assert!(disk.list().contains(&seg(2)) && !disk.list().contains(&seg(1)));
    let (_, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
    assert_eq!(recovered.segments.iter().map(|segment| segment.number).collect::<Vec<_>>(), [last]);
    assert!(!disk.list().contains(&seg(2)));
}
