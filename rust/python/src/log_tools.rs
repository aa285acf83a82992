//! Looking at a log that no broker holds.

use std::path::Path;

use pyo3::prelude::*;

use sagacore_broker::log::{
    Config, Cut, Durability, Report, SEGMENT_BYTES_DEFAULT, Verdict, inspect, plan_repair, repair,
};
use sagacore_disk::FileDisk;

use crate::broker::refused;

/// A verdict, what is wrong or would be cut, and numbers by name.
pub type Verified = (String, String, Vec<(&'static str, u64)>);

/// Reads a whole log. Nothing is changed.
#[pyfunction]
pub fn log_verify(py: Python<'_>, directory: &str) -> PyResult<Verified> {
    let report = py.detach(|| {
        let disk = FileDisk::open_to_read(Path::new(directory))?;
        inspect(&disk, &mut |_| {})
    });
    report.map(|report| verified(&report)).map_err(|error| refused(&error))
}

/// What is told of a log.
pub fn verified(report: &Report) -> Verified {
    let (verdict, reason) = match (&report.verdict, &report.cut) {
        (Verdict::Refused(error), _) => ("damaged", format!("{error}\nhint: {}", error.hint())),
        (_, Some(cut)) => ("torn", describe(cut)),
        (Verdict::Sealed, None) => ("sealed", String::new()),
        (Verdict::Unclean, None) => ("unclean", String::new()),
    };
    let numbers = vec![
        ("segments", report.segments.len() as u64),
        ("frames", report.frames),
        ("payload_bytes", report.payload_bytes),
        ("last_lsn", report.last_lsn),
        ("last_time_ms", report.last_time_ms),
        ("boot_epoch", u64::from(report.boot_epoch)),
        ("stray_frames", report.stray_frames as u64),
    ];
    (verdict.to_owned(), reason, numbers)
}

fn describe(cut: &Cut) -> String {
    format!("{} ends at byte {}, before LSN {} ({})", cut.file, cut.offset, cut.lsn, cut.fault)
}

/// What a repair would cut, or has cut: the place, how many whole records are lost, and what is left.
type Repaired = (String, Vec<(&'static str, u64)>);

/// Says what a repair would do to a damaged log, and with `is_confirmed` does it. Nothing where there is nothing to
/// repair.
#[pyfunction]
pub fn log_repair(py: Python<'_>, directory: &str, is_confirmed: bool) -> PyResult<Option<Repaired>> {
    let found = py.detach(|| {
        // Not even to look: what a broker is writing may look damaged.
        let disk = FileDisk::open(Path::new(directory))?;
        let config = Config { segment_bytes: SEGMENT_BYTES_DEFAULT, durability: Durability::Sync, nonce: 0 };
        if is_confirmed { repair(&disk, &config, &mut |_| {}) } else { plan_repair(&disk) }
    });
    let found = found.map_err(|error| refused(&error))?;
    Ok(found.map(|cut| {
        let numbers = vec![("next_lsn", cut.lsn), ("lost_records", cut.frames as u64)];
        (describe(&cut), numbers)
    }))
}
