//! Watermarks (rule 12): up to where all sagas of a class of deadlines have durably ended.
//!
//! A watermark is computed where a record is closed, so that it says what is so as of just that record, and is told to
//! services when the record is durable: neither a START nor an end that may yet be lost has moved it. A stuck saga that
//! it waits for becomes an exception, by a record of its own: else a restart would take the watermark back.

use sagacore_core::limits::{HEARTBEAT_MS, WATERMARK_CLASSES, WATERMARK_EXCEPTIONS_MAX, WATERMARK_SPAN_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::watermark::Watermark;
use sagacore_core::wire::{Header, Kind, Refusal, Role, Section, TransactionWriter};

use super::begun::Begun;
use super::{Broker, Refused};
use crate::state::{SagaRef, SessionRef, State};

/// What may be kept because of sagas that do not end.
#[derive(Debug, Clone, Copy)]
pub struct WatermarkBounds {
    /// Sagas of a class that may have begun since the one that its watermark waits for.
    pub span: u64,
    /// Stuck sagas that no watermark waits for.
    pub exceptions: usize,
}

impl Default for WatermarkBounds {
    fn default() -> Self {
        Self { span: WATERMARK_SPAN_MAX, exceptions: WATERMARK_EXCEPTIONS_MAX }
    }
}

/// See the module's text.
pub(super) struct Watermarks {
    bounds: WatermarkBounds,
    /// By class: the sagas that it waits for, in order of age.
    waits_for: [Begun; WATERMARK_CLASSES],
    /// Running sagas that none waits for, and perhaps some that have ended since: their sequences.
    exceptions: Vec<u64>,
    /// What is to be told once it is durable, and when it was computed.
    next: Option<Watermark>,
    computed_ms: u64,
    told: Watermark,
}

impl Watermarks {
    pub fn new(bounds: WatermarkBounds) -> Self {
        Self {
            bounds,
            waits_for: Default::default(),
            exceptions: Vec::new(),
            next: None,
            computed_ms: 0,
            told: Watermark::unknown(),
        }
    }

    fn began(&mut self, state: &State, sequence: u64, plan: u32) {
        let class = state.plans.get(plan).plan.deadline_class();
        self.waits_for[class].push(sequence, |sequence| is_waited_for(state, sequence));
    }

    /// Why no saga of a class may begin now, if that is so.
    fn refusal(&mut self, state: &State, class: usize) -> Option<&'static str> {
        let (place, sequence) = self.waits_for[class].first(|sequence| is_waited_for(state, sequence))?;
        if self.waits_for[class].count() - place >= self.bounds.span {
            return Some("too many sagas with such a deadline began since the oldest that runs");
        }
        let is_held = state.is_stuck(sequence) && self.is_full(state);
        is_held.then_some("too many sagas are stuck: resolve them first")
    }

    /// Whether one more stuck saga would have to wait for its turn.
    fn is_full(&mut self, state: &State) -> bool {
        if self.exceptions.len() >= self.bounds.exceptions {
            self.exceptions.retain(|&sequence| state.is_running(sequence));
        }
        self.exceptions.len() >= self.bounds.exceptions && !is_broken(Mutation::ExceptionsUnbounded)
    }

    fn compute(&mut self, state: &State, boot_epoch: u32, as_of_lsn: u64) -> Watermark {
        self.exceptions.retain(|&sequence| state.is_running(sequence));
        let mut exceptions = self.exceptions.clone();
        exceptions.sort_unstable();
        if is_broken(Mutation::ExceptionNotTold) {
            exceptions.clear();
        }
        let mut marks = [state.next_sequence; WATERMARK_CLASSES];
        for (mark, waits_for) in marks.iter_mut().zip(&mut self.waits_for) {
            if is_broken(Mutation::WatermarkPassesLive) {
                continue;
            }
            if let Some((_, oldest)) = waits_for.first(|sequence| is_waited_for(state, sequence)) {
                *mark = oldest;
            }
        }
        Watermark { log: state.log_id(), boot: boot_epoch.into(), as_of_lsn, marks, exceptions }
    }
}

fn is_waited_for(state: &State, sequence: u64) -> bool {
    state.is_running(sequence) && !state.is_excepted(sequence)
}

impl Broker {
    /// The log was read: all that it says is durable.
    pub(super) fn open_watermarks(&mut self) {
        let mut sagas: Vec<(u64, u32)> =
            self.state.sagas.values().map(|found| (found.id.sequence.get(), found.plan)).collect();
        sagas.extend(self.state.all_parked().map(|parked| (parked.sequence, parked.plan)));
        sagas.sort_unstable();
        for (sequence, plan) in sagas {
            if self.state.is_excepted(sequence) {
                self.watermarks.exceptions.push(sequence);
            }
            self.watermarks.began(&self.state, sequence, plan);
        }
        self.watermarks.told = self.watermarks.compute(&self.state, self.boot_epoch, self.next_lsn - 1);
    }

    pub(super) fn note_begun(&mut self, saga: SagaRef) {
        let found = &self.state.sagas[saga];
        self.watermarks.began(&self.state, found.id.sequence.get(), found.plan);
    }

    /// Whether a saga of this class may begin: what services must keep for it has a bound.
    pub(super) fn check_class(&mut self, class: usize) -> Result<(), Refused> {
        let refusal = self.watermarks.refusal(&self.state, class);
        refusal.map_or(Ok(()), |reason| Err(Refused(Refusal::ClassFull, reason)))
    }

    /// Stuck sagas that a watermark waits for become exceptions.
    pub(super) fn tick_exceptions(&mut self) {
        for class in 0..WATERMARK_CLASSES {
            while self.batch.len() < self.config.record_bytes {
                let state = &self.state;
                let oldest = self.watermarks.waits_for[class].first(|sequence| is_waited_for(state, sequence));
                let Some((_, sequence)) = oldest.filter(|&(_, sequence)| state.is_stuck(sequence)) else { break };
                if self.watermarks.is_full(state) {
                    return;
                }
                let Some(saga) = self.recall(sequence) else { return };
                self.except(saga);
            }
        }
    }

    fn except(&mut self, saga: SagaRef) {
        let found = &mut self.state.sagas[saga];
        found.excepted = true;
        let mut header = Header::new(Kind::Stuck);
        header.saga = found.id;
        let sequence = found.id.sequence.get();
        let mut transaction = TransactionWriter::new(&mut self.batch, 0);
        transaction.publish(header);
        transaction.finish();
        self.watermarks.exceptions.push(sequence);
    }

    /// A record was closed and nothing was accepted since: now and then, what is so as of this record is worth telling.
    pub(super) fn compute_watermark(&mut self, time_ms: u64) {
        let as_of_lsn = self.next_lsn - 1;
        let watermarks = &mut self.watermarks;
        let is_due = time_ms >= watermarks.computed_ms + HEARTBEAT_MS && as_of_lsn > watermarks.told.as_of_lsn;
        if !self.batch.is_empty() || watermarks.next.is_some() || !is_due || is_broken(Mutation::WatermarkNeverMoves) {
            return;
        }
        let next = watermarks.compute(&self.state, self.boot_epoch, as_of_lsn);
        let told = &watermarks.told;
        debug_assert!(told.marks.iter().zip(&next.marks).all(|(before, after)| before <= after), "I12: monotone");
        watermarks.computed_ms = time_ms;
        if (next.marks, &next.exceptions) != (told.marks, &told.exceptions) {
            watermarks.next = Some(next);
            self.tell_watermarks();
        }
    }

    /// Tells all services what was computed, once it is durable.
    pub(super) fn tell_watermarks(&mut self) {
        let durable_lsn = if is_broken(Mutation::WatermarkToldEarly) { u64::MAX } else { self.durable_lsn };
        let Some(next) = self.watermarks.next.take_if(|next| next.as_of_lsn <= durable_lsn) else { return };
        self.watermarks.told = next;
        let sessions = self.queues.sessions.iter().filter(|(_, session)| session.role == Role::Service);
        let services: Vec<SessionRef> = sessions.map(|(session, _)| session).collect();
        for session in services {
            self.tell_watermark(session);
        }
    }

    pub(super) fn tell_watermark(&mut self, session: SessionRef) {
        let data = self.watermarks.told.write();
        self.queues.sessions.send(session, Header::new(Kind::Watermark), |body| {
            body.section(Section::DATA, &data);
        });
    }
}
