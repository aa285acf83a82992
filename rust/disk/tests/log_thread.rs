//! The log's thread over real files, and over a disk that is slow, full or broken on demand.
#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sagacore_broker::log::{Config, Durability, FrameType, LogError, Recovered, Writer, inspect, recover};
use sagacore_broker::log::{Finding, SEGMENT_BYTES_DEFAULT};
use sagacore_disk::{FileDisk, LogThread, ThreadOptions};
use support::{Directory, FaultyDisk, wait_for, wait_until};

fn config(segment_bytes: u64) -> Config {
    Config { segment_bytes, durability: Durability::Sync, nonce: 3 }
}

const SMALL: u64 = 64 << 10;

type Batches = Vec<(u64, Vec<u8>)>;

/// Recovers; gives the batches and what else was found.
fn read_all(directory: &Directory) -> (Batches, Recovered) {
    let disk = FileDisk::open(&directory.path).unwrap();
    let mut batches = Vec::new();
    let recovered = recover(&disk, &config(SMALL), &mut |entry| {
        if entry.kind == FrameType::Batch {
            batches.push((entry.lsn, entry.payload.to_vec()));
        }
    });
    (batches, recovered.unwrap())
}

fn start(directory: &Directory, settings: Config, options: ThreadOptions) -> (FaultyDisk, LogThread) {
    let disk = FaultyDisk::open(&directory.path);
    let recovered = recover(&disk, &settings, &mut |_| {}).unwrap();
    let writer = Writer::start(disk.clone(), settings, &recovered, 1).unwrap();
    (disk, LogThread::start(writer, options).unwrap())
}

fn append(log: &mut LogThread, payload: &[u8]) -> u64 {
    log.append(FrameType::Batch, 7, payload.to_vec(), true).unwrap()
}

fn at_once() -> ThreadOptions {
    ThreadOptions { sync_interval_us: 0, patience_us: 0, ..ThreadOptions::default() }
}

#[test]
fn what_is_durable_is_recovered_and_a_close_is_clean() {
    let directory = Directory::new();
    let (_, mut log) = start(&directory, config(SMALL), ThreadOptions::default());
    let mut expected = Vec::new();
    for number in 0..300u32 {
        let payload = number.to_le_bytes().repeat(number as usize);
        expected.push((append(&mut log, &payload), payload));
    }
    wait_for(&log, expected[299].0);
    assert!(log.segments().len() > 1, "{:?}", log.segments());
    log.close(8).unwrap();
    let (batches, recovered) = read_all(&directory);
    assert_eq!(batches, expected);
    assert!(!recovered.unclean);
    assert_eq!(recovered.last_time_ms, 8);
}

#[test]
fn a_dropped_thread_commits_what_it_has_but_the_stop_is_unclean() {
    let directory = Directory::new();
    let (_, mut log) = start(&directory, config(SMALL), ThreadOptions::default());
    let expected: Vec<_> = (0..50u8).map(|byte| (append(&mut log, &[byte; 900]), vec![byte; 900])).collect();
    drop(log);
    let (batches, recovered) = read_all(&directory);
    assert_eq!(batches, expected);
    assert!(recovered.unclean);
}

#[test]
fn one_writer_at_a_time() {
    let directory = Directory::new();
    let (disk, log) = start(&directory, config(SMALL), ThreadOptions::default());
    let refused = FileDisk::open(&directory.path).unwrap_err();
    assert_eq!(refused.name(), "log.locked");
    assert!(FileDisk::open_to_read(&directory.path).is_ok());
    drop((disk, log));
    assert!(FileDisk::open(&directory.path).is_ok());
}

#[test]
fn a_directory_is_made_with_those_above_it() {
    let directory = Directory::new();
    let deep = directory.path.join("a/b/c");
    let disk = FileDisk::open(&deep).unwrap();
    assert_eq!(disk.path(), deep);
    assert!(deep.is_dir());
}

#[test]
fn batches_that_wait_for_a_sync_go_out_together() {
    let directory = Directory::new();
    let (disk, mut log) = start(&directory, config(1 << 20), at_once());
    disk.faults.sync_ms.store(20, Ordering::Relaxed);
    let mut last = append(&mut log, b"the first is committed alone");
    std::thread::sleep(Duration::from_millis(5));
    for _ in 0..500 {
        last = append(&mut log, &[1; 100]);
    }
    wait_for(&log, last);
    assert!(log.figures().commits <= 4, "{:?}", log.figures());
    assert!(log.figures().slowest_commit_us >= 20_000);
    assert_eq!((log.figures().queued_batches, log.figures().queued_bytes), (0, 0));
}

#[test]
fn under_load_commits_keep_their_distance_and_alone_there_is_none() {
    let directory = Directory::new();
    let interval = Duration::from_millis(40);
    let options = ThreadOptions { sync_interval_us: interval.as_micros() as u64, ..ThreadOptions::default() };
    let (disk, mut log) = start(&directory, config(1 << 20), options);
    wait_until(|| inspect_marks(&directory) > 0);

    let began = Instant::now();
    for _ in 0..20 {
        let lsn = append(&mut log, b"alone");
        wait_for(&log, lsn);
    }
    assert!(began.elapsed() < interval * 10, "alone, twenty took {:?}", began.elapsed());

    // Slow syncs, so that something always waits when one ends.
    disk.faults.sync_ms.store(5, Ordering::Relaxed);
    let before = log.figures().commits;
    let began = Instant::now();
    let mut last = 0;
    while began.elapsed() < interval * 10 {
        last = append(&mut log, &[1; 50]);
        std::thread::sleep(Duration::from_millis(1));
    }
    wait_for(&log, last);
    let commits = log.figures().commits - before;
    let most = began.elapsed().as_millis() / interval.as_millis() + 2;
    assert!(commits >= 3 && u128::from(commits) <= most, "{commits} commits in {:?}", began.elapsed());
}

#[test]
fn what_nobody_waits_for_goes_with_the_next_that_somebody_does() {
    let patience = Duration::from_millis(400);
    let directory = Directory::new();
    let options = ThreadOptions { patience_us: patience.as_micros() as u64, ..ThreadOptions::default() };
    let (_, mut log) = start(&directory, config(SMALL), options);
    for _ in 0..3 {
        let began = Instant::now();
        let lazy = log.append(FrameType::Batch, 7, b"lazy".to_vec(), false).unwrap();
        std::thread::sleep(patience / 8);
        assert!(log.durable_lsn() < lazy, "nobody waits for it");
        let awaited = append(&mut log, b"awaited");
        wait_for(&log, awaited);
        assert!(began.elapsed() < patience, "{:?}", began.elapsed());
        std::thread::sleep(patience);
    }
    let began = Instant::now();
    let alone = log.append(FrameType::Batch, 7, b"alone".to_vec(), false).unwrap();
    wait_for(&log, alone);
    assert!(began.elapsed() < patience * 4, "a lazy one alone took {:?}", began.elapsed());
}

#[test]
fn a_failed_sync_stops_the_log_and_wakes_the_loop() {
    let directory = Directory::new();
    let (disk, mut log) = start(&directory, config(SMALL), at_once());
    // Then nothing but commits syncs.
    wait_until(|| directory.segments() == 2);
    let lsn = append(&mut log, b"before");
    wait_for(&log, lsn);
    log.acknowledge();
    disk.faults.fails_sync.store(true, Ordering::Relaxed);
    append(&mut log, b"lost");
    wait_until(|| log.poisoned().is_some());
    assert!(support::is_readable(&log, Duration::from_secs(5)));
    assert!(log.poisoned().unwrap().contains("cannot sync"));
    assert_eq!(log.durable_lsn(), lsn);
    let syncs = disk.faults.syncs.load(Ordering::Relaxed);
    assert!(matches!(log.append(FrameType::Batch, 7, vec![1], true), Err(LogError::Poisoned { .. })));
    assert_eq!(log.release_before(9).unwrap_err().name(), "log.poisoned");
    assert_eq!(log.close(9).unwrap_err().name(), "log.poisoned");
    assert_eq!(disk.faults.syncs.load(Ordering::Relaxed), syncs, "nothing is tried again");
}

#[test]
fn a_commit_that_takes_long_is_seen_while_it_does() {
    let directory = Directory::new();
    let (disk, mut log) = start(&directory, config(SMALL), at_once());
    wait_until(|| directory.segments() == 2);
    let lsn = append(&mut log, b"quick");
    wait_for(&log, lsn);
    wait_until(|| log.figures().commit_under_way_us == 0);
    disk.faults.sync_ms.store(200, Ordering::Relaxed);
    let lsn = append(&mut log, b"slow");
    wait_until(|| log.figures().commit_under_way_us > 50_000);
    assert!(log.durable_lsn() < lsn);
    wait_for(&log, lsn);
    wait_until(|| log.figures().commit_under_way_us == 0);
    assert!(log.figures().slowest_commit_us >= 200_000);
}

#[test]
fn a_full_disk_is_said_and_got_over() {
    let directory = Directory::new();
    let (disk, mut log) = start(&directory, config(SMALL), at_once());
    wait_until(|| directory.segments() == 2);
    disk.faults.is_full.store(true, Ordering::Relaxed);
    // Into the second segment; the third cannot be made.
    for _ in 0..80 {
        append(&mut log, &[1; 1_000]);
    }
    wait_until(|| log.is_full());
    let lsn = append(&mut log, b"there is room yet");
    wait_for(&log, lsn);
    disk.faults.is_full.store(false, Ordering::Relaxed);
    wait_until(|| !log.is_full());
    for _ in 0..200 {
        append(&mut log, &[1; 1_000]);
    }
    let lsn = log.next_lsn() - 1;
    wait_for(&log, lsn);
    log.close(9).unwrap();
    drop(disk);
    assert_eq!(read_all(&directory).0.len(), 281);
}

#[test]
fn without_any_room_the_log_stops() {
    let directory = Directory::new();
    let (disk, mut log) = start(&directory, config(SMALL), at_once());
    wait_until(|| directory.segments() == 2);
    disk.faults.is_full.store(true, Ordering::Relaxed);
    let mut refused = None;
    wait_until(|| {
        refused = log.append(FrameType::Batch, 7, vec![1; 1_000], true).err();
        refused.is_some()
    });
    assert!(log.poisoned().unwrap().contains("log.no-room"));
    let durable_lsn = log.durable_lsn();
    drop((disk, log));
    let (batches, recovered) = read_all(&directory);
    assert_eq!(batches.last().map(|batch| batch.0), Some(durable_lsn));
    // One segment holds 58 at most.
    assert!(batches.len() > 58 && recovered.unclean, "{} found room", batches.len());
}

#[test]
fn released_segments_are_used_again() {
    let directory = Directory::new();
    let mut files = std::collections::BTreeSet::new();
    let (_, mut log) = start(&directory, config(SMALL), at_once());
    let mut expected = Vec::new();
    for round in 0..40u8 {
        for _ in 0..30 {
            expected.push((append(&mut log, &[round; 1_000]), vec![round; 1_000]));
        }
        wait_for(&log, expected[expected.len() - 1].0);
        log.release_before(log.next_lsn()).unwrap();
        files.extend(directory.inodes());
    }
    let lsn = append(&mut log, b"last");
    wait_for(&log, lsn);
    assert!(log.segments().len() <= 2, "{:?}", log.segments());
    assert!(log.figures().segments_bytes <= 5 * SMALL);
    assert!(directory.names().len() <= 5, "{:?}", directory.names());
    // It has gone through twenty segments, in the same few files.
    assert!(files.len() <= 5, "{} files", files.len());
    let last = directory.names().into_iter().max().unwrap();
    assert!(last.as_str() > "0000000000000014", "{last}");
    let oldest = log.segments()[0].first_lsn;
    log.close(9).unwrap();
    expected.push((lsn, b"last".to_vec()));
    expected.retain(|(lsn, _)| *lsn >= oldest);
    assert_eq!(read_all(&directory).0, expected);
}

fn inspect_marks(directory: &Directory) -> usize {
    let disk = FileDisk::open_to_read(&directory.path).unwrap();
    let mut marks = 0;
    inspect(&disk, &mut |finding| {
        if let Finding::Frame(entry) = finding
            && entry.kind == FrameType::Mark
        {
            marks += 1;
        }
    })
    .unwrap();
    marks
}

#[test]
fn an_idle_log_says_that_it_is_durable() {
    let directory = Directory::new();
    let (disk, mut log) = start(&directory, config(SMALL), at_once());
    let lsn = append(&mut log, b"a batch");
    wait_for(&log, lsn);
    wait_until(|| inspect_marks(&directory) > 0);
    drop((disk, log));
    // A bit flips in that batch, the last of the log.
    let name = directory.path.join("0000000000000001.seg");
    let mut bytes = std::fs::read(&name).unwrap();
    let at = bytes.windows(7).position(|window| window == b"a batch").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&name, bytes).unwrap();
    let disk = FileDisk::open(&directory.path).unwrap();
    assert_eq!(recover(&disk, &config(SMALL), &mut |_| {}).unwrap_err().name(), "log.damaged");
}

#[test]
fn batches_are_bounded_and_so_is_the_queue() {
    let directory = Directory::new();
    let options = ThreadOptions { queue_batches: 4, ..at_once() };
    let (disk, mut log) = start(&directory, config(SMALL), options);
    disk.faults.sync_ms.store(30, Ordering::Relaxed);
    let lsn = append(&mut log, b"first");
    while log.has_room() {
        append(&mut log, b"more");
    }
    assert!(log.next_lsn() - lsn <= 6);
    wait_until(|| log.has_room());
    let max = log.payload_bytes_max();
    let lsn = append(&mut log, &vec![1; max]);
    wait_for(&log, lsn);
    let refused = log.append(FrameType::Batch, 7, vec![0; max + 1], true);
    assert_eq!(refused, Err(LogError::TooLarge { bytes: max + 1, max }));
    assert!(log.poisoned().unwrap().contains("log.too-large"), "the broker has counted on it");
    drop(log);
    drop(disk);
    assert_eq!(read_all(&directory).0.last().unwrap().0, lsn);
}

#[test]
fn the_written_only_log_does_not_sync() {
    let directory = Directory::new();
    let settings = Config { durability: Durability::Os, ..config(1 << 20) };
    let (disk, mut log) = start(&directory, settings, ThreadOptions::default());
    wait_until(|| directory.segments() == 2);
    let before = disk.faults.syncs.load(Ordering::Relaxed);
    for _ in 0..100 {
        let lsn = append(&mut log, b"written");
        wait_for(&log, lsn);
    }
    assert_eq!(disk.faults.syncs.load(Ordering::Relaxed), before);
    drop((disk, log));
    assert_eq!(read_all(&directory).0.len(), 100);
}

#[test]
fn the_first_segment_is_there_at_once_whatever_its_size() {
    let directory = Directory::new();
    let (_, mut log) = start(&directory, config(SEGMENT_BYTES_DEFAULT), at_once());
    let lsn = append(&mut log, b"x");
    wait_for(&log, lsn);
    assert_eq!(log.segments()[0].bytes, SEGMENT_BYTES_DEFAULT);
    // The next one is still in the making; a stop does not wait for it.
    log.close(9).unwrap();
    assert!(directory.names().iter().all(|name| !name.ends_with(".tmp")), "{:?}", directory.names());
}
