//! The broker's log, simulated: a list of records, of which a crash takes those that were not synced.

use std::collections::VecDeque;

use sagacore_broker::{Record, RecordKind};

use crate::random::Random;

/// A record as it stands in the log.
#[derive(Debug, Clone)]
pub struct Written {
    pub kind: RecordKind,
    pub lsn: u64,
    pub time_ms: u64,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first_lsn: u64,
    bytes: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Log {
    records: VecDeque<Written>,
    segments: VecDeque<Segment>,
    segment_bytes: u64,
    pub last_lsn: u64,
    pub synced_lsn: u64,
    pub last_time_ms: u64,
    pub boot_epoch: u32,
    /// Something was deleted.
    pub has_released: bool,
}

impl Log {
    pub fn new(segment_bytes: u64) -> Self {
        Self {
            records: VecDeque::new(),
            segments: VecDeque::from([Segment { first_lsn: 1, bytes: 0 }]),
            segment_bytes,
            last_lsn: 0,
            synced_lsn: 0,
            last_time_ms: 0,
            boot_epoch: 0,
            has_released: false,
        }
    }

    pub fn append(&mut self, record: Record) {
        let Record { kind, lsn, time_ms, payload } = record;
        let bytes = payload.len() as u64 + 48;
        if self.segments.back().is_none_or(|segment| segment.bytes + bytes > self.segment_bytes) {
            self.segments.push_back(Segment { first_lsn: lsn, bytes: 0 });
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes += bytes;
        }
        self.last_lsn = lsn;
        self.last_time_ms = self.last_time_ms.max(time_ms);
        self.records.push_back(Written { kind, lsn, time_ms, payload });
    }

    pub fn records(&self) -> impl Iterator<Item = &Written> {
        self.records.iter()
    }

    pub fn after(&self, lsn: u64) -> impl Iterator<Item = &Written> {
        self.records.iter().skip_while(move |record| record.lsn <= lsn)
    }

    pub fn first_lsns(&self) -> Vec<u64> {
        self.segments.iter().map(|segment| segment.first_lsn).collect()
    }

    /// Deletes the segments all of whose records come before this one.
    pub fn release_before(&mut self, lsn: u64) {
        while self.segments.len() > 1 && self.segments[1].first_lsn <= lsn {
            self.segments.pop_front();
            self.has_released = true;
        }
        let first_lsn = self.segments[0].first_lsn;
        while self.records.front().is_some_and(|record| record.lsn < first_lsn) {
            self.records.pop_front();
        }
    }

    /// A crash: of what was not synced, a part from the front may have reached the disk. Gives how many records are
    /// lost, and how many of those that were not synced survive.
    pub fn crash(&mut self, random: &mut Random) -> (u64, u64) {
        let unsynced = self.last_lsn - self.synced_lsn;
        let survive = if random.coin() { 0 } else { random.between(0, unsynced) };
        let end_lsn = self.synced_lsn + survive;
        self.cut(end_lsn);
        (unsynced - survive, survive)
    }

    /// Drops all records after this one.
    pub fn cut(&mut self, end_lsn: u64) {
        while self.records.back().is_some_and(|record| record.lsn > end_lsn) {
            self.records.pop_back();
        }
        while self.segments.len() > 1 && self.segments.back().is_some_and(|segment| segment.first_lsn > end_lsn + 1) {
            self.segments.pop_back();
        }
        self.last_lsn = end_lsn;
        self.synced_lsn = end_lsn;
        self.last_time_ms = self.records.iter().map(|record| record.time_ms).max().unwrap_or(0);
    }

    /// A record of the middle is not there any more.
    pub fn skip_one(&mut self, random: &mut Random) {
        if self.records.len() > 4 {
            let at = random.between(1, self.records.len() as u64 - 2) as usize;
            self.records.remove(at);
        }
    }
}
