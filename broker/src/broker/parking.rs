//! Sagas that only wait are parked (`state::parked`). A hand goes round over those in memory, as a clock's in a buffer
//! pool: one to which nothing happened for two rounds is copied into the log, if it is not as its last copy says, and
//! leaves memory once that is durable.

use std::collections::VecDeque;

use sagacore_core::limits::{PARK_BYTES_PER_MS, PARK_RECORD_BYTES, PARK_ROUND_MS, REPLAYED_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::Key;

use super::{Broker, Record, RecordKind};
use crate::log::ReadBack;
use crate::state::{Arrivals, CopyPlace, SagaRef, Timer, TokenRef, Waits};

/// Rounds that a saga must have waited.
const ROUNDS: u8 = 2;
/// And one whose arrivals a coordinator has: it may be about to spill them, and would name them.
const ROUNDS_LEASED: u8 = 16;
/// A tick copies no more than for so long.
const PAID_MS_MAX: u64 = 100;
/// Memory is given back after so many were parked.
const TRIM_AFTER: usize = 4_096;
/// Once so long nothing more was parked: until then, others take what was freed.
const TRIM_QUIET_MS: u64 = 2_000;

/// When sagas are parked.
#[derive(Debug, Clone, Copy)]
pub struct ParkingBounds {
    /// One to which nothing happens for two or three times so long is parked.
    pub round_ms: u64,
    /// Copies in one record, about.
    pub record_bytes: usize,
    /// Running sagas that a start keeps in memory, as far as the log has copies of them.
    pub replayed_max: usize,
}

impl Default for ParkingBounds {
    fn default() -> Self {
        Self { round_ms: PARK_ROUND_MS, record_bytes: PARK_RECORD_BYTES, replayed_max: REPLAYED_MAX }
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Parking {
    /// The page of the state's sagas that the hand is at, and when it came there.
    page: usize,
    looked_ms: u64,
    /// Those that wait and have to be copied first.
    wanted: Vec<SagaRef>,
    /// Bytes that may be copied before the next tick.
    allowed_bytes: usize,
    /// Those that were copied in this record, and wait for it.
    copied: VecDeque<(u64, SagaRef)>,
    /// Copies of parked sagas, by sequence, that take the place of older ones when this record is durable.
    pub moves: VecDeque<(u64, u64, CopyPlace)>,
    /// Parked since memory was given back; as of which time, and how many that were.
    since_trim: usize,
    parked_ms: u64,
    seen: usize,
    is_trimmed: bool,
}

impl Broker {
    /// Records of copies can be read back from now on, so sagas may be parked. Before the first `replay`.
    pub fn set_read_back(&mut self, reader: Box<dyn ReadBack>) {
        self.state.set_reader(Some(reader));
        self.state.parked.replayed_max = self.config.parking.replayed_max;
    }

    /// The log is about to be closed.
    pub fn end_read_back(&mut self) {
        self.state.set_reader(None);
    }

    /// Why the log could not be read back, if so: it is damaged. Nothing leaves the broker any more, and it must end.
    pub fn failed(&self) -> Option<&str> {
        self.state.failed()
    }

    /// The running saga of this sequence, in memory.
    pub(super) fn recall(&mut self, sequence: u64) -> Option<SagaRef> {
        self.state.saga_by_sequence(sequence).or_else(|| self.queues.recall(&mut self.state, sequence))
    }

    /// Goes round, a little with every tick.
    pub(super) fn tick_parking(&mut self, time_ms: u64) {
        let (pages, round_ms) = (self.state.sagas.pages(), self.config.parking.round_ms);
        let elapsed_ms = time_ms.saturating_sub(self.parking.looked_ms).min(round_ms);
        let count = pages as u64 * elapsed_ms / round_ms;
        if !self.state.can_park() || count == 0 {
            return;
        }
        self.parking.looked_ms = time_ms;
        self.parking.allowed_bytes = elapsed_ms.min(PAID_MS_MAX) as usize * PARK_BYTES_PER_MS;
        self.parking.wanted.clear();
        let may_copy = self.full().is_none();
        for _ in 0..count {
            let page = self.parking.page;
            self.parking.page = (page + 1) % pages;
            self.look_at_page(page, may_copy);
        }
        self.queues.trim(&self.state);
        self.trim(time_ms);
    }

    fn trim(&mut self, time_ms: u64) {
        let parking = &mut self.parking;
        if parking.since_trim != parking.seen {
            (parking.seen, parking.parked_ms) = (parking.since_trim, time_ms);
        }
        if parking.since_trim >= TRIM_AFTER && time_ms >= parking.parked_ms + TRIM_QUIET_MS {
            (parking.since_trim, parking.seen, parking.is_trimmed) = (0, 0, true);
            self.state.trim();
            self.queues.trim_leases(&self.state);
            let sagas = &self.state.sagas;
            self.deadlines.iter_mut().for_each(|timers| timers.trim(|saga| sagas.contains_key(saga)));
        }
    }

    /// Whether memory was given back to the allocator since this was asked last.
    pub fn take_trimmed(&mut self) -> bool {
        std::mem::take(&mut self.parking.is_trimmed)
    }

    fn look_at_page(&mut self, page: usize, may_copy: bool) {
        let idle: Vec<SagaRef> = self.state.sagas.page(page).collect();
        for saga in idle {
            let found = &mut self.state.sagas[saga];
            found.rounds = found.rounds.saturating_add(1);
            if found.rounds <= ROUNDS {
                continue;
            }
            if !self.try_park(saga) && may_copy && self.may_wait(saga) {
                self.parking.wanted.push(saga);
            }
        }
    }

    /// What is volatile in a saga, if it has only waited, and for long enough.
    fn only_waits(&self, saga: SagaRef) -> Option<Waits> {
        let found = &self.state.sagas[saga];
        let owner = self.queues.slices.owner(found.id.sequence.get());
        let sequence = found.id.sequence.get();
        if self.waiting.is_awaited((self.state.shard, sequence)) || self.waiting.across.is_watched(sequence) {
            return None;
        }
        // What is not in the log would be lost: a step would never hear who is out of its way (seed 42725).
        if self.state.tokens_of(saga).any(|token| self.queues.is_told(token)) {
            return None;
        }
        let waits = self.state.waits(saga, owner)?;
        let rounds = if waits.arrivals == Arrivals::Leased { ROUNDS_LEASED } else { ROUNDS };
        (found.rounds > rounds).then_some(waits)
    }

    fn may_wait(&self, saga: SagaRef) -> bool {
        !self.state.is_copied(saga, u64::MAX) && self.only_waits(saga).is_some()
    }

    fn try_park(&mut self, saga: SagaRef) -> bool {
        if !self.state.is_copied(saga, self.durable_lsn) {
            return false;
        }
        let waits = self.only_waits(saga);
        if let Some(waits) = waits {
            self.state.park(saga, waits);
            self.parking.since_trim += 1;
        }
        waits.is_some()
    }

    /// The next record of copies of sagas that wait.
    pub(super) fn copy_waiting(&mut self, time_ms: u64) -> Option<Record> {
        if self.parking.wanted.is_empty() || self.parking.allowed_bytes == 0 {
            return None;
        }
        let (at, bytes_max) = (self.at(time_ms), self.config.parking.record_bytes);
        let mut out = Vec::with_capacity(bytes_max);
        while out.len() < bytes_max.min(self.parking.allowed_bytes) {
            let Some(saga) = self.parking.wanted.pop() else { break };
            if self.state.sagas.contains_key(saga) && self.may_wait(saga) {
                self.state.copy_saga(saga, at, &mut out);
                self.parking.copied.push_back((at.lsn, saga));
            }
        }
        self.parking.allowed_bytes = self.parking.allowed_bytes.saturating_sub(bytes_max);
        self.allow_copies_for(out.len());
        if out.is_empty() { None } else { Some(self.record(RecordKind::Copies, time_ms, out)) }
    }

    /// Copies up to this record are durable.
    pub(super) fn park_copied(&mut self) {
        let durable_lsn = self.durable_lsn;
        while let Some(&(lsn, sequence, place)) = self.parking.moves.front().filter(|(lsn, ..)| *lsn <= durable_lsn) {
            self.parking.moves.pop_front();
            self.state.move_copy(sequence, lsn, place);
        }
        let is_early = is_broken(Mutation::ParkedBeforeDurable);
        while let Some(&(_, saga)) = self.parking.copied.front().filter(|(lsn, _)| *lsn <= durable_lsn || is_early) {
            self.parking.copied.pop_front();
            if self.state.sagas.contains_key(saga) {
                self.try_park(saga);
            }
        }
    }

    /// The next saga whose deadline has passed while it was parked, or since.
    pub(super) fn pop_parked_deadline(&mut self, time_ms: u64) -> Option<SagaRef> {
        loop {
            let sequence = self.state.pop_parked_deadline(time_ms)?;
            if let Some(saga) = self.recall(sequence) {
                return Some(saga);
            }
            if self.state.failed().is_some() {
                return None;
            }
        }
    }

    /// A deadline has passed: it is not set again.
    pub(super) fn note_deadline_passed(&mut self, saga: SagaRef) {
        if let Some(found) = self.state.sagas.get_mut(saga) {
            found.timer = Timer::Over;
        }
    }

    /// The token of this name, read back if its saga is parked.
    pub(super) fn find(&mut self, key: &Key) -> Option<TokenRef> {
        if let Some(token) = self.state.pending(key) {
            return Some(token);
        }
        let sequence = key.saga.sequence.get();
        if !self.state.is_parked(sequence) {
            return None;
        }
        self.recall(sequence)?;
        self.state.pending(key)
    }

    /// What was parked is served like all else that runs.
    pub(super) fn open_parked(&mut self, time_ms: u64) {
        self.state.end_replay();
        self.parking.looked_ms = time_ms;
        let turned = self.state.all_parked().filter(|parked| parked.has_turned);
        let turned: Vec<(u64, u32)> = turned.map(|parked| (parked.sequence, parked.attempt)).collect();
        for turned in turned {
            self.watch_attempt(turned, time_ms);
        }
    }
}
