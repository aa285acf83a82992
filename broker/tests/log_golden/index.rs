//! What a log must be read as, as the index says it.

use sagacore_broker::log::{Cut, FrameType, LogError, Recovered, repair};
use sagacore_broker::{Broker, Config, RecordKind};

use crate::cases::Case;
use crate::json::Json;
use crate::support::{CrashDisk, Kept, config, read_all};
use crate::{SEGMENT_BYTES, digest};

const ABOUT: [&str; 9] = [
    "Golden logs, a folder each. A file's text is its length and the rows of 32 bytes that are not all zeros, each",
    "with its offset, in hexadecimal; .hex is no part of its name.",
    "reads: what a start reads of it, MARKs left out. digest: the CRC-32 of all records, each its type (1 byte),",
    "lsn (8), time_ms (8), length (4) and payload, numbers little-endian. cut: the torn tail that a start cuts.",
    "refuses: the error by name, and what it says.",
    "repair: what a repair cuts of it, and what a start reads then; or the error.",
    "state: what a broker has in memory after a replay of the records.",
    "Every later version reads and refuses these logs alike. Segments have 16 KiB.",
    "",
];

pub fn document(cases: Vec<Json>) -> String {
    let about = ABOUT.iter().filter(|line| !line.is_empty()).map(|line| Json::text(*line)).collect();
    Json::Map(vec![("about", Json::List(about)), ("logs", Json::List(cases))]).document()
}

/// What is found in the log of a case.
pub fn found(case: &Case, disk: &CrashDisk) -> Json {
    let mut fields = vec![("name", Json::text(case.name)), ("about", Json::text(case.about))];
    let files = disk.list().into_iter().map(Json::text).collect();
    fields.push(("files", Json::List(files)));
    match read_all(&disk.copy(), &config(SEGMENT_BYTES)) {
        Ok((records, recovered)) => {
            fields.push(("reads", reads(&records, &recovered)));
            if case.name.starts_with("sagas") {
                fields.push(("state", state(&records)));
            }
        }
        Err(error) => {
            fields.push(("refuses", refuses(&error)));
            fields.push(("repair", repaired(&disk.copy())));
        }
    }
    Json::Map(fields)
}

fn reads(records: &[Kept], recovered: &Recovered) -> Json {
    let mut fields = vec![
        ("records", Json::number(records.len() as u64)),
        ("digest", Json::number(digest(records))),
        ("next_lsn", Json::number(recovered.next_lsn)),
        ("boot_epoch", Json::number(recovered.boot_epoch)),
        ("last_time_ms", Json::number(recovered.last_time_ms)),
        ("unclean", Json::Bool(recovered.unclean)),
        ("segments", Json::List(recovered.segments.iter().map(|segment| Json::number(segment.number)).collect())),
    ];
    fields.extend(recovered.cut.as_ref().map(|cut| ("cut", describe(cut))));
    Json::Map(fields)
}

fn describe(cut: &Cut) -> Json {
    let fault = cut.fault.to_string();
    Json::Map(vec![
        ("file", Json::text(&cut.file)),
        ("offset", Json::number(cut.offset)),
        ("lsn", Json::number(cut.lsn)),
        ("fault", Json::text(fault.split(':').next().unwrap_or_default())),
        ("frames", Json::number(cut.frames as u64)),
    ])
}

fn refuses(error: &LogError) -> Json {
    Json::Map(vec![("error", Json::text(error.name())), ("says", Json::text(error.to_string()))])
}

fn repaired(disk: &CrashDisk) -> Json {
    match repair(disk, &config(SEGMENT_BYTES), &mut |_| {}) {
        Ok(cut) => {
            let (records, recovered) = read_all(disk, &config(SEGMENT_BYTES)).unwrap();
            let cut = cut.as_ref().map_or(Json::Bool(false), describe);
            Json::Map(vec![("cut", cut), ("reads", reads(&records, &recovered))])
        }
        Err(error) => refuses(&error),
    }
}

fn state(records: &[Kept]) -> Json {
    let mut broker = Broker::new(Config::default());
    for record in records {
        let kind = match record.kind {
            FrameType::Batch => RecordKind::Transactions,
            FrameType::Copy => RecordKind::Copies,
            _ => continue,
        };
        broker.replay(kind, record.lsn, record.time_ms, &record.payload).unwrap();
    }
    let state = broker.state();
    let mut pending: Vec<String> = state
        .tokens
        .values()
        .map(|token| format!("{} {:?} {}", state.sagas[token.saga].id, token.kind, token.position))
        .collect();
    pending.sort();
    Json::Map(vec![
        ("running", Json::number(state.sagas.len() as u64)),
        ("remembered", Json::number(state.outcomes.len() as u64)),
        ("plans", Json::number(state.plans.len() as u64)),
        ("next_sequence", Json::number(state.next_sequence)),
        ("pending", Json::List(pending.into_iter().map(Json::text).collect())),
    ])
}
