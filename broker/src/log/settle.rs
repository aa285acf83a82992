//! Before the log is read: what a reader sees is made what the disk holds.
//!
//! After a failed sync of an earlier process the cache may hold bytes that the disk lacks, so what is cached must be
//! dropped and read again. That is as slow as the disk, and not needed for a segment of which a later frame says that
//! all of it is durable: whoever wrote that had synced it with success, and has not written there since. With
//! `Durability::Sync` that is every segment but the last one in use.

use super::disk::Disk;
use super::error::{During, LogError};
use super::reader::{FRAMES_AT, Reader};
use super::recovery::first_lsn;
use super::segment::segment_name;

/// Makes what is read of the segments what the disk has: those of a log that was only written may never have been
/// synced, and from now on all that is read counts as durable. All of them before the first is read: a disk gives much
/// at a time sooner than a little, and while one is replayed the next ones come.
pub(super) fn settle<D: Disk>(disk: &D, numbers: &[u64]) -> Result<(), LogError> {
    let durable = durable_segments(disk, numbers);
    for (index, &number) in numbers.iter().enumerate() {
        let name = segment_name(number);
        let file = disk.open(&name).during("open", &name)?;
        if index < durable {
            disk.sync(&file).during("sync", &name)?;
            disk.prefetch(&file).during("read", &name)?;
        } else {
            disk.settle(&file).during("sync", &name)?;
        }
    }
    Ok(())
}

/// How many segments, from the oldest on, are known to be durable to their ends.
fn durable_segments<D: Disk>(disk: &D, numbers: &[u64]) -> usize {
    // By segment, of its first frame: its LSN, and what was durable when it was written.
    let firsts: Vec<Option<(u64, u64)>> = numbers.iter().map(|&number| first(disk, number)).collect();
    let durable_lsn = firsts.iter().flatten().map(|&(_, durable_lsn)| durable_lsn).max().unwrap_or(0);
    let is_durable = |next: &&Option<(u64, u64)>| next.is_some_and(|(lsn, _)| lsn <= durable_lsn + 1);
    firsts.iter().skip(1).take_while(is_durable).count()
}

/// Nothing where there is none, or no valid one: whoever reads the log says why.
fn first<D: Disk>(disk: &D, number: u64) -> Option<(u64, u64)> {
    let mut reader = Reader::open(disk, number).ok()?;
    let frame = reader.frame(FRAMES_AT).ok()?.ok()?;
    Some((first_lsn(&frame), frame.header.durable_lsn.get()))
}
