//! A process that writes the log is killed at any moment: what it said was durable is there, and the lock is free.
#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sagacore_broker::log::{Config, Durability, FrameType, Writer, recover};
use sagacore_disk::{FileDisk, LogThread, ThreadOptions};
use support::{Directory, wait_for};

const CHILD: &str = "SAGACORE_TEST_LOG";
const CONFIG: Config = Config { segment_bytes: 64 << 10, durability: Durability::Sync, nonce: 5 };

/// The payload of the batch with this LSN: anybody can check it.
fn payload(lsn: u64) -> Vec<u8> {
    lsn.to_le_bytes().repeat(1 + (lsn * 7 % 100) as usize)
}

/// What the killed process does: it appends, waits, and says what is durable. Only run by the other test.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let disk = FileDisk::open(Path::new(&directory)).unwrap();
    let recovered = recover(&disk, &CONFIG, &mut |_| {}).unwrap();
    let writer = Writer::start(disk, CONFIG, &recovered, 1).unwrap();
    let mut log = LogThread::start(writer, ThreadOptions::default()).unwrap();
    let mut out = std::io::stdout();
    loop {
        let mut last = 0;
        for _ in 0..1 + log.next_lsn() % 9 {
            let bytes = payload(log.next_lsn());
            last = log.append(FrameType::Batch, 1, bytes, true).unwrap();
        }
        wait_for(&log, last);
        if last % 400 < 9 {
            log.release_before(last - last % 400).unwrap();
        }
        writeln!(out, "durable {last}").unwrap();
    }
}

fn spawn(directory: &Directory) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, &directory.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_process_loses_nothing_that_it_promised() {
    let directory = Directory::new();
    for round in 0..8u64 {
        let mut child = spawn(&directory);
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut promised = 0;
        let mut lines = out.lines();
        let mut read = |count: usize| {
            for line in lines.by_ref().map_while(Result::ok).take(count) {
                promised = line.strip_prefix("durable ").and_then(|lsn| lsn.parse().ok()).unwrap_or(promised);
            }
        };
        read(30 + 40 * round as usize);
        std::thread::sleep(Duration::from_micros(300 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        read(usize::MAX);
        assert!(promised > 0);

        let disk = FileDisk::open(&directory.path).unwrap();
        let mut next = None;
        let recovered = recover(&disk, &CONFIG, &mut |entry| {
            assert_eq!(entry.lsn, *next.get_or_insert(entry.lsn), "LSNs ascend by one");
            next = Some(entry.lsn + 1);
            if entry.kind == FrameType::Batch {
                assert_eq!(entry.payload, payload(entry.lsn));
            }
        });
        let recovered = recovered.unwrap();
        assert!(recovered.next_lsn > promised && recovered.unclean);
        assert_eq!(next, Some(recovered.next_lsn));
        assert_eq!(u64::from(recovered.boot_epoch), round + 2);
    }
}
