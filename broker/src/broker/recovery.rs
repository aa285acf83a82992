//! A restart: the log is read again, and everything that is pending is due.

use sagacore_core::limits::BROKER_MS_MAX;
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::Transaction;

use super::{Broker, Record, RecordKind, Visibility};
use crate::state::{At, SagaRef, Timer, TokenRef};

/// A record of the log that the broker cannot read: it was written by another version.
#[derive(Debug, thiserror::Error)]
#[error("record.{what}: record {lsn} of the log is valid but says nothing that this version knows")]
pub struct Unreadable {
    pub lsn: u64,
    pub what: String,
}

/// Where the log ended when it was opened.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    pub next_lsn: u64,
    pub boot_epoch: u32,
    /// The time of the last record: broker time goes on from there.
    pub last_time_ms: u64,
    /// The broker was not stopped but killed: of what it had written last, some may be lost.
    pub unclean: bool,
}

impl Broker {
    /// Applies one record of the log.
    ///
    /// # Errors
    /// `Unreadable`, where the record is of another version.
    pub fn replay(&mut self, kind: RecordKind, lsn: u64, time_ms: u64, payload: &[u8]) -> Result<(), Unreadable> {
        if is_broken(Mutation::RecordNotReplayed) && lsn % 16 == 7 {
            return Ok(());
        }
        let unreadable = |what: &str| Unreadable { lsn, what: what.to_owned() };
        if time_ms > BROKER_MS_MAX {
            return Err(unreadable("a time that no broker reaches"));
        }
        let mut at = At { lsn, offset: 0, time_ms };
        if kind == RecordKind::Copies {
            return self.state.replay_copies(payload, at).map_err(unreadable);
        }
        let mut rest = payload;
        while !rest.is_empty() {
            let (transaction, after) = Transaction::parse(rest).map_err(|broken| unreadable(&broken.name()))?;
            at.offset = (payload.len() - after.len()) as u32;
            self.state.replay(&transaction, at, &mut self.applied).map_err(unreadable)?;
            rest = after;
        }
        if self.state.outcomes.len() > 2 * self.config.outcomes.count {
            self.state.forget(time_ms);
        }
        Ok(())
    }

    /// The log has been read: what it says beyond the window of ended sagas is forgotten.
    pub fn replayed(&mut self, time_ms: u64) {
        self.state.forget(time_ms);
    }

    /// Begins to serve. Every pending token counts as delivered (rule 2) and is due. A new log begins with a record
    /// that says where its keys' secret and its sequences start; one of relaxed visibility, at each start, with one
    /// that says which sagas are wide.
    pub fn open(&mut self, opened: Opened, now_ms: u64) -> Option<Record> {
        self.next_lsn = opened.next_lsn;
        self.durable_lsn = opened.next_lsn - 1;
        self.boot_epoch = opened.boot_epoch;
        self.waiting.number_from(opened.boot_epoch);
        // Never 0: a deadline of 0 means none.
        let last_ms = opened.last_time_ms.clamp(1, BROKER_MS_MAX);
        self.base_ms = if is_broken(Mutation::TimeStartsAnew) { 1 } else { last_ms };
        self.opened_ms = now_ms;
        self.ticked_ms = self.base_ms;
        self.applied.clear();
        let time_ms = self.base_ms;
        self.replayed(time_ms);
        self.set_timers(time_ms);
        self.enqueue_all();
        self.open_parked(time_ms);
        self.open_watermarks();
        self.state.counters = crate::state::Counters::default();
        let mut payload = Vec::new();
        if opened.next_lsn == 1 || self.state.next_sequence == 1 {
            self.state.copy_origin(&mut payload);
        }
        self.begin_boot(opened.unclean, &mut payload);
        if payload.is_empty() {
            return None;
        }
        Some(self.record(RecordKind::Copies, time_ms, payload))
    }

    /// Where something ran ahead of the log that was then lost, a step may have run that no token names: the sagas of
    /// that time are wide. Nothing runs ahead of the record that says so.
    fn begin_boot(&mut self, unclean: bool, payload: &mut Vec<u8>) {
        let relaxed = self.config.visibility == Visibility::Relaxed;
        if self.state.relaxed || relaxed {
            let wide_before = if self.state.relaxed && unclean { self.state.next_sequence } else { 0 };
            self.state.begin_boot(relaxed, wide_before);
            self.state.copy_boot(wide_before, payload);
            self.ahead_from_lsn = self.next_lsn;
        }
    }

    fn set_timers(&mut self, time_ms: u64) {
        let mut sagas: Vec<(u64, SagaRef)> =
            self.state.sagas.iter().map(|(saga, found)| (found.deadline_ms, saga)).collect();
        sagas.sort_unstable();
        for (_, saga) in sagas {
            let found = &self.state.sagas[saga];
            let (has_turned, is_victim, timer) = (found.has_turned(), found.victim, found.timer);
            if has_turned {
                self.watch(saga, time_ms);
            }
            // A victim begins again under the deadline that it had.
            if timer == Timer::Queued && (!has_turned || is_victim) {
                self.set_deadline(saga);
            }
        }
    }

    fn enqueue_all(&mut self) {
        let mut tokens: Vec<(u64, TokenRef)> = Vec::with_capacity(self.state.tokens.len());
        for (token, found) in self.state.tokens.iter_mut() {
            found.deliveries = found.deliveries.max(1);
            tokens.push((self.state.sagas[found.saga].age, token));
        }
        tokens.sort_unstable_by_key(|&(age, _)| age);
        for (_, token) in tokens {
            self.queues.enqueue(&mut self.state, token);
        }
    }
}
