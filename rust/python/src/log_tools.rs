//! Looking at a log that no broker holds.

use std::path::Path;

use pyo3::prelude::*;

use sagacore_broker::log::{Config, Durability, SEGMENT_BYTES_DEFAULT, Verdict, inspect, repair};
use sagacore_disk::FileDisk;

use crate::broker::refused;

/// A verdict, what is wrong or nothing, and numbers by name.
type Verified = (String, String, Vec<(&'static str, u64)>);

/// Reads a whole log. Nothing is changed.
#[pyfunction]
pub fn log_verify(py: Python<'_>, directory: &str) -> PyResult<Verified> {
    let report = py.detach(|| {
        let disk = FileDisk::open_to_read(Path::new(directory))?;
        inspect(&disk, &mut |_| {})
    });
    let report = report.map_err(|error| refused(&error))?;
    let (verdict, reason) = match &report.verdict {
        Verdict::Sealed => ("sealed", String::new()),
        Verdict::Unclean => ("unclean", String::new()),
        Verdict::Refused(error) => ("refused", format!("{error}\nhint: {}", error.hint())),
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
    Ok((verdict.to_owned(), reason, numbers))
}

/// Cuts a damaged log at its damage. Says what was cut, or nothing where there was nothing to repair.
#[pyfunction]
pub fn log_repair(py: Python<'_>, directory: &str) -> PyResult<Option<String>> {
    let cut = py.detach(|| {
        let disk = FileDisk::open(Path::new(directory))?;
        let config = Config { segment_bytes: SEGMENT_BYTES_DEFAULT, durability: Durability::Sync, nonce: 0 };
        repair(&disk, &config, &mut |_| {})
    });
    let cut = cut.map_err(|error| refused(&error))?;
    Ok(cut.map(|cut| format!("cut {} at byte {}, before LSN {}: {}", cut.file, cut.offset, cut.lsn, cut.fault)))
}
