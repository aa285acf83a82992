//! The golden files: `tests/golden/wire` and `tests/golden/plans` are the format, and the code follows them.
//!
//! With `SAGACORE_GOLDEN=write` the files are written anew from the frames and plans of `golden_vectors`, and then
//! read like any others. The documents' tables are compared with the code too.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.
#![allow(clippy::disallowed_methods, reason = "the golden files are files")]

mod golden_vectors;
mod support;
mod wire_model;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use golden_vectors::index::upper;
use golden_vectors::{broken, index, plans, vectors};
use sagacore_core::limits;
use sagacore_core::plan::{Plan, fingerprint};
use sagacore_core::wire::{CauseCode, Flags, Kind, OutcomeCode, Refusal, Role, Section, StatusCode};
use wire_model::{oracle, read, rules};

/// Bytes in a line of a file.
const LINE_BYTES: usize = 32;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What the files of a folder must be, by name.
type Files = BTreeMap<String, String>;

fn wire_files() -> Files {
    let (valid, broken) = (vectors(), broken::all());
    let frames = valid.iter().map(|vector| (vector.name, &vector.bytes));
    let all = frames.chain(broken.iter().map(|broken| (broken.name, &broken.bytes)));
    let mut files = Files::from([("index.json".to_owned(), index::document(&valid, &broken))]);
    for (name, bytes) in all {
        assert!(files.insert(format!("{name}.hex"), to_hex(bytes)).is_none(), "two are called {name}");
    }
    files
}

fn plan_files() -> Files {
    let plans = plans::vectors();
    let definitions = plans.iter().map(|plan| (format!("{}.hex", plan.name), to_hex(&plan.definition)));
    definitions.chain([("index.json".to_owned(), plans::document(&plans))]).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(LINE_BYTES).map(line).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

/// The folder of golden files, written anew first if that is asked for: once, for tests run side by side.
fn golden(folder: &str) -> PathBuf {
    static WRITTEN: OnceLock<()> = OnceLock::new();
    let golden = root().join("tests/golden");
    WRITTEN.get_or_init(|| {
        if env::var("SAGACORE_GOLDEN").is_ok_and(|value| value == "write") {
            rewrite(&golden.join("wire"), &wire_files());
            rewrite(&golden.join("plans"), &plan_files());
        }
    });
    golden.join(folder)
}

fn rewrite(folder: &Path, files: &Files) {
    fs::create_dir_all(folder).unwrap();
    for name in names(folder).iter().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(folder.join(name)).unwrap();
    }
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn assert_same(folder: &Path, files: &Files) {
    assert_eq!(names(folder), files.keys().cloned().collect(), "the files of {}", folder.display());
    for (name, expected) in files {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        assert!(text == *expected, "{name} is not what the code says; the file is the format (see CONTRIBUTING.md)");
    }
}

fn bytes(folder: &str, name: &str) -> Vec<u8> {
    from_hex(&fs::read_to_string(golden(folder).join(format!("{name}.hex"))).unwrap())
}

#[test]
fn the_files_are_what_the_code_writes() {
    assert_same(&golden("wire"), &wire_files());
    assert_same(&golden("plans"), &plan_files());
}

#[test]
fn valid_frames_are_read_as_described() {
    for vector in vectors() {
        let bytes = bytes("wire", vector.name);
        assert_eq!(read(&bytes), (vector.model.clone(), None), "{}", vector.name);
        assert_eq!(oracle::judge(&bytes), (vector.model.clone(), None), "{}", vector.name);
        assert_eq!(wire_model::write(&vector.model) == bytes, vector.is_canonical(), "{}", vector.name);
    }
}

#[test]
fn malformed_frames_break_their_rule() {
    for broken in broken::all() {
        let bytes = bytes("wire", broken.name);
        let rule = read(&bytes).1.map(|broken| broken.name());
        assert_eq!(rule.as_deref(), Some(broken.rule), "{}", broken.name);
        assert_eq!(oracle::judge(&bytes).1, Some(broken.rule), "{}", broken.name);
    }
}

#[test]
fn there_is_a_frame_of_every_kind_and_for_every_rule() {
    let vectors = vectors();
    let messages = vectors.iter().flat_map(|vector| vector.model.iter().flat_map(|one| &one.messages));
    let kinds: BTreeSet<Kind> = messages.map(|message| message.header.kind()).collect();
    assert!(kinds.iter().eq(Kind::ALL));
    let broken: BTreeSet<String> = broken::all().iter().map(|broken| broken.rule.to_owned()).collect();
    assert_eq!(broken, rules().into_iter().collect());
}

#[test]
fn plans_have_their_fingerprint() {
    for vector in plans::vectors() {
        let definition = bytes("plans", vector.name);
        let plan = Plan::compile(&definition).unwrap();
        assert_eq!(plan.fingerprint, fingerprint(&vector.definition), "{}", vector.name);
    }
}

/// The rows of a document's tables, without their markup.
fn rows(document: &str) -> BTreeSet<Vec<String>> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let cell = |cell: &str| cell.trim().replace('`', "");
    let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(cell).collect()).collect()
}

#[test]
fn the_document_lists_all_codes_and_rules() {
    let rows = rows("docs/wire-format.md");
    let has = |cells: [String; 2]| assert!(rows.iter().any(|row| row.starts_with(&cells)), "no row {cells:?}");
    let code = |code: u64, name: String| has([code.to_string(), upper(&name)]);
    Kind::ALL.iter().for_each(|kind| code(kind.code().into(), format!("{kind:?}")));
    CauseCode::ALL.iter().for_each(|cause| code(cause.code().into(), format!("{cause:?}")));
    OutcomeCode::ALL.iter().for_each(|outcome| code(outcome.code().into(), format!("{outcome:?}")));
    StatusCode::ALL.iter().for_each(|status| code(status.code().into(), format!("{status:?}")));
    Role::ALL.iter().for_each(|role| code(role.code().into(), format!("{role:?}")));
    Refusal::ALL.iter().for_each(|refusal| code(refusal.code().into(), format!("{refusal:?}")));
    let flags = [
        ("WIDE", Flags::WIDE),
        ("PIVOTED", Flags::PIVOTED),
        ("WOUNDED", Flags::WOUNDED),
        ("CLEAN", Flags::CLEAN),
        ("SPLICE", Flags::SPLICE),
        ("QUIET", Flags::QUIET),
        ("EXCLUSIVE", Flags::EXCLUSIVE),
        ("BY_KEY", Flags::BY_KEY),
    ];
    assert_eq!(flags.iter().fold(0, |all, (_, bit)| all | bit), Flags::ALL);
    flags.iter().for_each(|&(name, bit)| has([bit.to_string(), name.to_owned()]));
    let sections = ["INPUT", "CAUSE", "KEY", "SKIPPED", "NAME", "TEXT", "DATA", "FREED"];
    assert_eq!(sections.len(), usize::from(Section::END - Section::INPUT));
    (Section::INPUT..).zip(sections).for_each(|(section, name)| has([section.to_string(), name.to_owned()]));
    let named: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    rules().iter().for_each(|rule| assert!(named.contains(rule.as_str()), "no row for {rule}"));
}

#[test]
fn the_document_has_the_limits() {
    let rows = rows("docs/wire-format.md");
    let limits: [(&str, u64); 24] = [
        ("steps of a saga", limits::STEPS_MAX as u64),
        ("a frame", limits::FRAME_BYTES_MAX as u64),
        ("a transaction", limits::TRANSACTION_BYTES_MAX as u64),
        ("keys that a transaction consumes", limits::CONSUMES_MAX as u64),
        ("messages that a transaction publishes", limits::PUBLISHES_MAX as u64),
        ("a message", limits::MESSAGE_BYTES_MAX as u64),
        ("a section, but for TEXT and DATA", limits::SECTION_BYTES_MAX as u64),
        ("a plan's definition", limits::DEFINITION_BYTES_MAX as u64),
        ("a name of a saga, a step or a service", limits::NAME_BYTES_MAX as u64),
        ("the user's key", limits::KEY_BYTES_MAX as u64),
        ("a reason", limits::REASON_BYTES_MAX as u64),
        ("the name of a resource", limits::RESOURCE_BYTES_MAX as u64),
        ("holders that a BLOCKED names", limits::HOLDERS_NAMED_MAX as u64),
        ("sagas that a FREED names", limits::FREED_MAX as u64),
        ("attempts of a saga", limits::ATTEMPTS_MAX.into()),
        ("a heartbeat", limits::HEARTBEAT_MS),
        ("heartbeats missed", limits::HEARTBEATS_MISSED_MAX),
        ("a broker's silence", limits::PATIENCE_MS),
        ("SUBSCRIBE is repeated after", limits::SUBSCRIBE_AGAIN_MS),
        ("a RETRY_LATER's delay", limits::RETRY_LATER_MS_MAX),
        ("credit", limits::CREDIT_MAX),
        ("deliveries without an answer", limits::DELIVERIES_MAX.into()),
        ("of them, beside others of their like", limits::SUSPECT_AFTER.into()),
        ("of them, beside any of their like", limits::ALONE_AFTER.into()),
    ];
    for (name, limit) in limits {
        let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no row for {name}"));
        let number: String = row[1].chars().filter(char::is_ascii_digit).collect();
        assert_eq!(number, limit.to_string(), "{name}");
    }
}
