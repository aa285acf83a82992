//! The golden logs: `tests/golden/log` holds small logs, good, torn and damaged, and an index that says what every
//! version must read of each, or how it must refuse it.
//!
//! With `SAGACORE_GOLDEN=write` the files are written anew from `cases`, and then read like any others; those that
//! only earlier versions could write stay as they are. The index is always made from what is read of the files, and
//! compared.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.
#![allow(clippy::disallowed_methods, reason = "the golden files are files")]

#[path = "../rules/peers.rs"]
#[allow(dead_code, reason = "the broker's rules use more of it")]
mod peers;
#[path = "../../../rust/core/tests/support/mod.rs"]
mod sagas;
#[path = "../support/mod.rs"]
mod support;

mod cases;
mod damaged;
mod files;
mod index;
#[path = "../../../rust/core/tests/golden_vectors/json.rs"]
#[allow(dead_code, reason = "the index of the wire format uses more of it")]
mod json;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use cases::Case;
use sagacore_broker::log::{FrameType, LogError, Writer, inspect};
use support::{CrashDisk, Kept, config, read_all};

/// Of the segments in the golden logs.
const SEGMENT_BYTES: u64 = 16 << 10;

/// What the folder must hold, by path.
type Files = BTreeMap<String, String>;

fn all() -> Vec<Case> {
    all_of(&folder())
}

fn all_of(folder: &Path) -> Vec<Case> {
    [cases::all(), damaged::all(), running::kept(folder), running::all()].into_iter().flatten().collect()
}

/// The folder of golden logs, written anew first if that is asked for: once, for tests run side by side.
fn folder() -> PathBuf {
    static WRITTEN: OnceLock<()> = OnceLock::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/log");
    WRITTEN.get_or_init(|| {
        if env::var("SAGACORE_GOLDEN").is_ok_and(|value| value == "write") {
            let cases = all_of(&folder);
            fs::remove_dir_all(&folder).unwrap();
            write(&folder, &logs(&cases));
            let found = cases.iter().map(|case| index::found(case, &disk_of(&folder, case.name))).collect();
            write(&folder, &Files::from([("index.json".to_owned(), index::document(found))]));
        }
    });
    folder
}

fn logs(cases: &[Case]) -> Files {
    let mut logs = Files::new();
    for case in cases {
        for name in case.disk.list() {
            let path = format!("{}/{name}.hex", case.name);
            assert!(logs.insert(path, files::to_text(&case.disk.contents(&name))).is_none(), "two {}", case.name);
        }
    }
    logs
}

fn write(folder: &Path, files: &Files) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The log of a case, as the files have it.
fn disk_of(folder: &Path, case: &str) -> CrashDisk {
    let disk = CrashDisk::default();
    for name in names(&folder.join(case)) {
        let text = fs::read_to_string(folder.join(case).join(&name)).unwrap();
        disk.put(name.strip_suffix(".hex").unwrap(), files::from_text(&text));
    }
    disk
}

fn golden(case: &Case) -> CrashDisk {
    disk_of(&folder(), case.name)
}

#[test]
fn the_files_are_what_the_code_writes() {
    let (folder, cases) = (folder(), all());
    let expected = logs(&cases);
    let mut found = BTreeSet::new();
    for case in names(&folder).iter().filter(|name| *name != "index.json") {
        found.extend(names(&folder.join(case)).into_iter().map(|name| format!("{case}/{name}")));
    }
    assert_eq!(found, expected.keys().cloned().collect());
    for (path, text) in expected {
        let is_same = fs::read_to_string(folder.join(&path)).unwrap() == text;
        assert!(is_same, "{path} is not what the code says; the file is the format (see CONTRIBUTING.md)");
    }
}

#[test]
fn every_log_is_read_or_refused_as_the_index_says() {
    let found = all().iter().map(|case| index::found(case, &golden(case))).collect();
    let text = fs::read_to_string(folder().join("index.json")).unwrap();
    assert_eq!(index::document(found), text, "a log is read otherwise than the index says (see CONTRIBUTING.md)");
}

#[test]
fn a_look_at_a_log_says_what_a_start_does() {
    for case in all() {
        let disk = golden(&case);
        let calls = disk.calls();
        let report = inspect(&disk, &mut |_| {});
        assert_eq!(disk.calls(), calls, "{}: a look changes nothing", case.name);
        match (report, read_all(&disk.copy(), &config(SEGMENT_BYTES))) {
            (Ok(report), Ok((_, recovered))) => {
                assert_eq!(report.last_lsn + 1, recovered.next_lsn, "{}", case.name);
                assert_eq!(report.cut, recovered.cut, "{}", case.name);
            }
            (Ok(report), Err(error)) => assert_eq!(report.refusal(), Some(&error), "{}", case.name),
            (Err(LogError::MissingSegment { .. }), _) => assert!(disk.list().is_empty() || case.name == "leftovers"),
            (Err(error), _) => panic!("{}: {error}", case.name),
        }
    }
}

#[test]
fn a_log_that_is_read_is_gone_on_with() {
    for case in all() {
        let disk = golden(&case);
        let Ok((before, recovered)) = read_all(&disk, &config(SEGMENT_BYTES)) else { continue };
        let (again, second) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
        assert_eq!(second.cut, None, "{}: what was cut is gone", case.name);
        let mut writer = Writer::start(disk.clone(), config(SEGMENT_BYTES), &recovered, 99).unwrap();
        writer.append(FrameType::Batch, 99, b"more").unwrap();
        writer.commit().unwrap();
        drop(writer);
        let (after, _) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
        let kinds: Vec<FrameType> = after[again.len()..].iter().map(|frame| frame.kind).collect();
        assert_eq!((&after[..again.len()], &kinds[..]), (&again[..], &[FrameType::Boot, FrameType::Batch][..]));
        // What an interrupted release gives up is read once more, and gone then.
        assert!(before.ends_with(&again), "{}", case.name);
    }
}

#[test]
fn a_refused_log_is_left_as_it_is() {
    for case in all() {
        let disk = golden(&case);
        let before: Vec<(String, Vec<u8>)> =
            disk.list().into_iter().map(|name| (name.clone(), disk.contents(&name))).collect();
        if read_all(&disk, &config(SEGMENT_BYTES)).is_err() {
            let after: Vec<(String, Vec<u8>)> =
                disk.list().into_iter().map(|name| (name.clone(), disk.contents(&name))).collect();
            assert_eq!(before, after, "{}", case.name);
        }
    }
}

/// The records of a log, in one number.
fn digest(records: &[Kept]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for record in records {
        hasher.update(&[record.kind as u8]);
        hasher.update(&record.lsn.to_le_bytes());
        hasher.update(&record.time_ms.to_le_bytes());
        hasher.update(&(record.payload.len() as u32).to_le_bytes());
        hasher.update(&record.payload);
    }
    hasher.finalize()
}
