//! Old segments go: what they hold and is still needed is copied forward, a little with every record, and once the last
//! copy is durable everything before the first may be deleted. Only a prefix of the log is ever deleted (rule L7): a
//! record that consumed something outlives what it consumed.
//!
//! A sweep copies all that is live, and begins with the plans. So whatever a replay meets, it has met its plan before.

use std::collections::VecDeque;

use sagacore_core::mutation::{Mutation, is_broken};

use super::{Broker, Record, RecordKind};
use crate::state::{At, CopyPlace, PARKED_PAGE as PAGE, State};

/// Copies gathered into one record, about, and the share of a segment that they may take at most.
const COPY_BYTES: usize = 256 * 1024;
const COPY_SHARE: u64 = 4;
/// Records of copies for each tick of the host in which little is recorded.
const COPIES_PER_TICK: u32 = 2;
/// Else, bytes of copies for each byte that is recorded. A sweep that copied fewer than it makes room for would let a
/// log under load grow without end, which is read for as long at the next start; with more it holds up what moves.
const COPIES_PER_BYTE: usize = 1;
/// The same where the disk has little room.
const COPIES_PER_SCARCE_BYTE: usize = 2;
/// Segments that are kept whatever is live.
const SEGMENTS_KEPT: u64 = 3;

/// A sweep over all that is older than its first record.
#[derive(Default)]
pub(super) struct Compaction {
    job: Option<Job>,
    /// Everything before this record may be deleted once the other one is durable.
    finished: Option<(u64, u64)>,
    /// Records of copies that may still be made before the next tick.
    allowed: u32,
    /// And bytes of copies that may be made for what was recorded since the sweep began.
    allowed_bytes: usize,
    /// Recorded since the last tick.
    recorded_bytes: usize,
}

#[derive(Default)]
struct Job {
    /// Copies gathered into one record, about.
    bytes_max: usize,
    /// Bytes of copies for each that is recorded.
    copies_per_byte: usize,
    /// The first record of the sweep, once it is made.
    first_lsn: Option<u64>,
    next_plan: u32,
    /// What follows the plans.
    rest: Option<Rest>,
}

/// Sagas and outcomes that began before the last of the plans was copied.
struct Rest {
    before_lsn: u64,
    /// Pages of sequences in which sagas run, and how many of the last one are left, from the youngest on. By sequence,
    /// not by reference: a saga may be parked and read back meanwhile.
    pages: Vec<u64>,
    left: u64,
    next_outcome: u64,
}

impl Broker {
    /// The host tells where the segments of the log begin. Starts to copy if too many are kept.
    pub fn log_has(&mut self, first_lsns: &[u64], segment_bytes: u64) {
        let copied_bytes = self.state.copied_bytes();
        // A sweep that found no room would be the end of the log.
        let has_room = self.room.is_none_or(|room| room.free_bytes >= copied_bytes + segment_bytes);
        // So a sweep copies no more than was recorded since the last one, however much there is that only waits. To
        // wait longer would be cheaper still, and a start would have more to read. What new sagas need goes before.
        let has_plenty =
            self.room.is_none_or(|room| room.free_bytes >= self.needed_bytes(segment_bytes) + copied_bytes);
        let spare_bytes = if has_plenty { copied_bytes } else { 0 };
        let kept = SEGMENTS_KEPT + (copied_bytes + spare_bytes) / segment_bytes.max(1);
        let is_busy = self.compaction.job.is_some() || self.compaction.finished.is_some();
        if is_busy || !has_room || first_lsns.len() as u64 <= kept {
            return;
        }
        let bytes_max = COPY_BYTES.min((segment_bytes / COPY_SHARE) as usize);
        let copies_per_byte = if has_plenty { COPIES_PER_BYTE } else { COPIES_PER_SCARCE_BYTE };
        self.compaction.job = Some(Job { bytes_max, copies_per_byte, ..Job::default() });
    }

    /// A tick: a sweep has its share of a disk that nobody needs.
    pub(super) fn allow_copies(&mut self) {
        let is_quiet = std::mem::take(&mut self.compaction.recorded_bytes) < COPIES_PER_TICK as usize * COPY_BYTES;
        self.compaction.allowed = if is_quiet { COPIES_PER_TICK } else { 0 };
    }

    /// So many bytes were recorded, that a later sweep will make room for.
    pub(super) fn allow_copies_for(&mut self, bytes: usize) {
        self.compaction.recorded_bytes += bytes;
        if let Some(job) = &self.compaction.job {
            self.compaction.allowed_bytes += job.copies_per_byte * bytes;
        }
    }

    /// The next record of copies, if a sweep is under way.
    pub(super) fn compact(&mut self, time_ms: u64) -> Option<Record> {
        let bytes_max = self.compaction.job.as_ref()?.bytes_max;
        let is_paid = self.compaction.allowed_bytes >= bytes_max;
        if self.compaction.allowed == 0 && !is_paid {
            return None;
        }
        let mut job = self.compaction.job.take()?;
        let at = At { lsn: self.next_lsn, offset: 0, time_ms };
        let mut out = Vec::with_capacity(bytes_max + 64 * 1024);
        let first_lsn = *job.first_lsn.get_or_insert(at.lsn);
        if job.next_plan == 0 {
            self.state.copy_origin(&mut out);
            if self.state.relaxed {
                self.state.copy_boot(0, &mut out);
            }
        }
        job.next_plan = self.state.copy_plans(job.next_plan, at, bytes_max, &mut out);
        if out.len() < bytes_max {
            let state = &mut self.state;
            let rest = job.rest.get_or_insert_with(|| Rest {
                before_lsn: at.lsn,
                pages: pages_of(state),
                left: PAGE,
                next_outcome: state.outcomes.first(),
            });
            rest.copy(state, at, bytes_max, &mut out, &mut self.parking.moves);
        }
        if is_paid {
            self.compaction.allowed_bytes -= bytes_max;
        } else {
            self.compaction.allowed -= 1;
        }
        if out.len() < bytes_max {
            self.compaction.finished = Some((first_lsn, at.lsn));
            self.compaction.allowed_bytes = 0;
        } else {
            self.compaction.job = Some(job);
        }
        Some(self.record(RecordKind::Copies, time_ms, out))
    }

    /// The record before which everything may be deleted, once. Asked for after `synced`.
    pub fn released(&mut self) -> Option<u64> {
        let (before_lsn, copied_lsn) = self.compaction.finished?;
        if copied_lsn > self.durable_lsn && !is_broken(Mutation::ReleasedBeforeCopied) {
            return None;
        }
        self.compaction.finished = None;
        Some(before_lsn)
    }
}

/// The pages of sequences in which sagas run, in their order.
fn pages_of(state: &State) -> Vec<u64> {
    let in_memory = state.sagas.values().map(|saga| saga.id.sequence.get() / PAGE);
    let mut pages: Vec<u64> = in_memory.collect();
    pages.dedup();
    pages.extend(state.parked_pages());
    pages.sort_unstable();
    pages.dedup();
    pages
}

impl Rest {
    fn copy(
        &mut self,
        state: &mut State,
        at: At,
        bytes_max: usize,
        out: &mut Vec<u8>,
        moves: &mut VecDeque<(u64, u64, CopyPlace)>,
    ) {
        while out.len() < bytes_max {
            let Some(sequence) = self.next_sequence() else { break };
            if is_broken(Mutation::SagaNotCopied) {
                continue;
            }
            if let Some(saga) = state.saga_by_sequence(sequence) {
                state.copy_saga(saga, at, out);
            } else if let Some(place) = state.copy_parked(sequence, out) {
                moves.push_back((at.lsn, sequence, place));
            }
        }
        if out.len() < bytes_max {
            self.next_outcome = state.copy_outcomes(self.next_outcome, self.before_lsn, at, bytes_max, out);
        }
    }

    fn next_sequence(&mut self) -> Option<u64> {
        let page = *self.pages.last()?;
        self.left -= 1;
        let sequence = page * PAGE + self.left;
        if self.left == 0 {
            self.left = PAGE;
            self.pages.pop();
        }
        Some(sequence)
    }
}
