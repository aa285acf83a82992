//! The broker: transactions over the log, judged one after the other.
//!
//! `receive` judges what a peer sent and gathers what is accepted into a record; `flush` hands the record out to be
//! written; `synced` says that it is durable, and only then does anything that the record caused leave the broker
//! (strict visibility), or what decides (relaxed). No clock, socket or file: time is an argument, frames and records
//! are values.

mod begun;
mod compaction;
mod config;
mod follow;
mod judge;
mod parking;
mod recovery;
mod requests;
mod room;
mod subscribe;
mod timers;
mod waiting;
mod watermark;

use std::collections::VecDeque;

use sagacore_core::limits::{HEARTBEAT_MS, OWED_BYTES_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{
    CauseCode, Header, Holder, Kind, Refusal, SagaId, Section, Transaction, TransactionWriter, Transactions,
};

use crate::delivery::{Fifo, Queues, answer};
use crate::state::{Abort, Applied, At, Expected, Place, SagaRef, SessionRef, State, TokenRef, encode_cause};
use compaction::Compaction;
pub use config::{Config, Room, Visibility};
use parking::Parking;
pub use parking::ParkingBounds;
pub use recovery::{Opened, Unreadable};
pub use waiting::{Deadlock, Deadlocks, Hop};
use waiting::{Over, Waiting};
pub use watermark::WatermarkBounds;
use watermark::Watermarks;

/// What is to be written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Transactions, as they came.
    Transactions,
    /// Copies of what old segments still hold.
    Copies,
}

/// One record: a frame of the log, atomic.
#[derive(Debug)]
pub struct Record {
    pub kind: RecordKind,
    pub lsn: u64,
    pub time_ms: u64,
    pub payload: Vec<u8>,
    /// Somebody waits until it is durable for more than a confirmation.
    pub is_awaited: bool,
}

/// What leaves the broker once the record that caused it is durable.
#[derive(Debug)]
enum Effect {
    Token(TokenRef),
    Ended {
        sequence: u64,
        attached: Vec<(SessionRef, u64)>,
    },
    /// A saga has begun, and its client wants to know.
    Started {
        session: SessionRef,
        correlation: u64,
        id: SagaId,
    },
    /// An answer that tells what was so when it was asked for.
    Answer {
        session: SessionRef,
        answer: Box<(Header, Vec<u8>)>,
    },
    /// Counters, what is stuck, or deadlocks from a number on: as it is when it is told.
    Look {
        session: SessionRef,
        kind: Kind,
        correlation: u64,
        from: u64,
    },
    /// Somebody holds nothing any more, or not what was waited for.
    Over(Over),
    /// What a step waits for is out of its way.
    Wake(TokenRef),
    /// What a step of another shard waits for is out of its way.
    WakeAcross(u16, Holder),
    /// A victim begins again.
    Restarted(SagaRef),
    /// A deadlock is resolved.
    Resolved(u64),
    Confirm {
        session: SessionRef,
        number: u64,
    },
}

/// A transaction that changes nothing, and why.
struct Refused(Refusal, &'static str);

/// See the module's text.
pub struct Broker {
    config: Config,
    state: State,
    queues: Queues,
    effects: VecDeque<(u64, Effect)>,
    /// Bytes of answers among them.
    owed_bytes: usize,
    batch: Vec<u8>,
    /// Records that are closed and not yet handed out.
    closed: VecDeque<Record>,
    next_lsn: u64,
    durable_lsn: u64,
    /// Nothing runs ahead before this record is durable: it says that this boot lets things run ahead.
    ahead_from_lsn: u64,
    boot_epoch: u32,
    /// Broker time is the last logged time plus monotonic time since the start.
    base_ms: u64,
    opened_ms: u64,
    ticked_ms: u64,
    /// By plan: sagas of one plan run equally long.
    deadlines: Vec<Fifo<SagaRef>>,
    /// Sagas that turned round or passed their pivot: by sequence, and which attempt of them.
    turned: Fifo<(u64, u32)>,
    /// Sessions whose transactions were judged since the last flush.
    judged: Vec<SessionRef>,
    watermarks: Watermarks,
    waiting: Waiting,
    compaction: Compaction,
    parking: Parking,
    /// Room on the disk, as the host last said; none where the log is in memory.
    room: Option<Room>,
    /// Bytes that went into records since then: the disk has so many less, or soon will.
    recorded_bytes: u64,
    /// Bytes of all records of this boot, without their frames.
    log_bytes: u64,
    /// The log has more to write than it should.
    is_behind: bool,
    consumed: Vec<TokenRef>,
    expected: Vec<Expected>,
    applied: Applied,
    /// A transaction on the broker's own account.
    own: Vec<u8>,
    over_limit: Vec<TokenRef>,
    /// Sagas that a key may name.
    named: Vec<u64>,
    refused: u64,
    stale: u64,
    spills: u64,
}

impl Broker {
    /// An empty broker: `replay` what the log says, then `open` it.
    pub fn new(config: Config) -> Self {
        let state = State::new(config.shard, config.secret, config.outcomes);
        Self {
            config,
            state,
            queues: Queues::default(),
            effects: VecDeque::new(),
            owed_bytes: 0,
            batch: Vec::new(),
            closed: VecDeque::new(),
            next_lsn: 1,
            durable_lsn: 0,
            ahead_from_lsn: 0,
            boot_epoch: 0,
            base_ms: 0,
            opened_ms: 0,
            ticked_ms: 0,
            deadlines: Vec::new(),
            turned: Fifo::default(),
            judged: Vec::new(),
            watermarks: Watermarks::new(config.watermarks),
            waiting: Waiting::new(config.waiters),
            compaction: Compaction::default(),
            parking: Parking::default(),
            room: None,
            recorded_bytes: 0,
            log_bytes: 0,
            is_behind: false,
            consumed: Vec::new(),
            expected: Vec::new(),
            applied: Applied::default(),
            own: Vec::new(),
            over_limit: Vec::new(),
            named: Vec::new(),
            refused: 0,
            stale: 0,
            spills: 0,
        }
    }

    /// Broker time: it stands still while the broker is down.
    pub fn time_ms(&self, now_ms: u64) -> u64 {
        self.base_ms + now_ms.saturating_sub(self.opened_ms)
    }

    /// The record that what is accepted now goes into, or the last one where nothing was.
    fn lsn(&self) -> u64 {
        if self.batch.is_empty() { self.next_lsn - 1 } else { self.next_lsn }
    }

    fn at(&self, time_ms: u64) -> At {
        At { lsn: self.next_lsn, offset: self.batch.len() as u32, time_ms }
    }

    /// Judges what a peer sent. Answers wait for `take_frames`.
    pub fn receive(&mut self, identity: &[u8], frame: &[u8], now_ms: u64) {
        if self.failed().is_some() {
            return;
        }
        let time_ms = self.time_ms(now_ms);
        let transactions = match Transactions::parse(frame) {
            Ok(transactions) => transactions,
            Err(broken) => return self.refuse_frame(identity, &broken.to_string()),
        };
        for transaction in transactions {
            let transaction = match transaction {
                Ok(transaction) => transaction,
                Err(broken) => return self.refuse_frame(identity, &broken.to_string()),
            };
            let Some(session) = self.session_for(identity, &transaction, time_ms) else { return };
            // One frame may make more than a record holds.
            if self.batch.len() >= self.config.record_bytes {
                let record = self.close_record(time_ms);
                self.closed.push_back(record);
            }
            self.judge(session, &transaction, time_ms);
        }
    }

    /// The session that a transaction belongs to; a SUBSCRIBE opens it. None: the rest of the frame is passed over.
    fn session_for(&mut self, identity: &[u8], transaction: &Transaction<'_>, time_ms: u64) -> Option<SessionRef> {
        let first = transaction.messages().next();
        if let Some(message) = first.filter(|message| message.header.kind() == Kind::Subscribe) {
            self.subscribe(identity, &message, time_ms);
            return self.queues.sessions.find(identity);
        }
        let Some(session) = self.queues.sessions.find(identity) else {
            self.tell_stranger(identity, Refusal::NoSession, "subscribe first");
            return None;
        };
        if let Some(found) = self.queues.sessions.get_mut(session) {
            found.heard_ms = time_ms;
        }
        Some(session)
    }

    fn refuse_frame(&mut self, identity: &[u8], reason: &str) {
        self.refused += 1;
        match self.queues.sessions.find(identity) {
            Some(session) => self.tell_refused(session, 0, 0, Refusal::Malformed, reason),
            None => self.tell_stranger(identity, Refusal::Malformed, reason),
        }
    }

    fn judge(&mut self, session: SessionRef, transaction: &Transaction<'_>, time_ms: u64) {
        if let Err(Refused(refusal, reason)) = self.try_apply(session, transaction, time_ms) {
            self.refuse(session, transaction, refusal, reason, time_ms);
        }
        let Some(found) = self.queues.sessions.get_mut(session) else { return };
        if transaction.number > 0 {
            // One that was confirmed and comes again has a sender who has not heard it: it is told again.
            if found.judged == found.confirmed {
                self.judged.push(session);
            }
            found.judged = found.judged.max(transaction.number);
        }
        if !found.suspects.is_empty() {
            self.queues.answered(&self.state, session);
        }
    }

    /// A refused sender keeps no lease on what it named: what is still pending is delivered again.
    fn refuse(
        &mut self,
        session: SessionRef,
        transaction: &Transaction<'_>,
        refusal: Refusal,
        reason: &str,
        time_ms: u64,
    ) {
        if refusal == Refusal::Stale {
            self.stale += 1
        } else {
            self.refused += 1
        }
        for key in transaction.consumes {
            let Some(token) = self.find(key).filter(|_| !is_broken(Mutation::RefusedKeepsLease)) else {
                continue;
            };
            if refusal == Refusal::Stale {
                // It was answered, only too late or too early: that is no sign of a message that nobody can handle.
                self.state.tokens[token].unanswered = 0;
            }
            self.release(session, token, time_ms);
        }
        let correlation = transaction.messages().next().map_or(0, |message| message.header.amount.get());
        self.tell_refused(session, transaction.number, correlation, refusal, reason);
    }

    fn release(&mut self, session: SessionRef, token: TokenRef, time_ms: u64) {
        if let crate::delivery::Released::OverLimit(token) =
            self.queues.release(&mut self.state, token, session, time_ms)
        {
            self.over_limit.push(token);
        }
    }

    fn tell_refused(&mut self, session: SessionRef, number: u64, correlation: u64, refusal: Refusal, reason: &str) {
        let mut header = answer(Kind::Refused, number, refusal.code());
        header.active = correlation.into();
        self.queues.sessions.send(session, header, |body| {
            body.section(Section::TEXT, reason.as_bytes());
        });
    }

    /// What a record changed becomes visible when it is durable, or at once where it may run ahead of that.
    fn note_applied(&mut self, time_ms: u64) {
        let alone = self.take_alone();
        let is_said = self.ahead_from_lsn <= self.durable_lsn || is_broken(Mutation::RunsAheadUnsaid);
        let waits = self.applied.restarted.is_some() && !is_broken(Mutation::RestartRunsAhead);
        if self.config.visibility == Visibility::Relaxed && is_said && !waits {
            let (state, queues, durable_lsn) = (&mut self.state, &mut self.queues, self.durable_lsn);
            self.applied.published.retain(|&token| {
                let waits = !state.may_run_ahead(token, durable_lsn);
                if !waits {
                    queues.enqueue(state, token);
                }
                waits
            });
        }
        self.note_durable(time_ms);
        self.follow(alone, time_ms);
    }

    /// What a record changed becomes visible when it is durable, all of it.
    fn note_decided(&mut self, time_ms: u64) {
        let alone = self.take_alone();
        self.note_durable(time_ms);
        self.follow(alone, time_ms);
    }

    fn note_durable(&mut self, time_ms: u64) {
        let lsn = self.next_lsn;
        self.note_through();
        self.effects.extend(self.applied.published.drain(..).map(|token| (lsn, Effect::Token(token))));
        if let Some(saga) = self.applied.started.take() {
            self.set_deadline(saga);
            self.note_begun(saga);
        }
        if let Some((saga, time_ms)) = self.applied.turned.take() {
            self.watch(saga, time_ms);
        }
        if let Some((sequence, attached)) = self.applied.ended.take() {
            if is_broken(Mutation::ResultRunsAhead) {
                self.perform(Effect::Ended { sequence, attached: attached.clone() }, time_ms);
            }
            self.owe(lsn, Effect::Ended { sequence, attached });
            self.state.forget(time_ms);
        }
    }

    /// Ends deadlines, leases, delays and silent sessions.
    pub fn tick(&mut self, now_ms: u64) {
        if self.failed().is_some() {
            return;
        }
        let time_ms = self.time_ms(now_ms);
        self.allow_copies();
        if time_ms.saturating_sub(self.ticked_ms) > 2 * HEARTBEAT_MS || self.owes_much() {
            // It is we who were away, or did not listen: what peers said meanwhile still waits in the socket.
            self.queues.sessions.heard_all(time_ms);
        }
        self.ticked_ms = time_ms;
        for session in self.queues.sessions.silent(time_ms) {
            self.queues.leave(&mut self.state, session, time_ms, &mut self.over_limit);
        }
        self.queues.tick(&mut self.state, time_ms, &mut self.over_limit);
        self.tick_limits(time_ms);
        self.tick_deadlines(time_ms);
        self.tick_stuck(time_ms);
        self.tick_exceptions();
        self.tick_parking(time_ms);
        self.tick_across(time_ms);
        self.state.forget(time_ms);
        self.queues.sessions.confirm_all();
        self.settle(time_ms);
    }

    fn tick_limits(&mut self, time_ms: u64) {
        while self.batch.len() < self.config.record_bytes {
            let Some(token) = self.over_limit.pop() else { return };
            let Some(found) = self.state.tokens.get(token) else { continue };
            let (saga, kind, step) = (found.saga, found.kind, found.position as u8);
            if kind == Kind::Run && self.state.may_abort(saga) {
                self.abort(
                    saga,
                    CauseCode::DeliveryLimit,
                    Some(step),
                    "delivered too often without an answer",
                    time_ms,
                );
            } else {
                self.list_as_stuck(self.state.sagas[saga].id.sequence.get());
            }
        }
    }

    /// Aborts a saga on the broker's own account: one record with the cause, from which REVOKED follows.
    fn abort(&mut self, saga: SagaRef, code: CauseCode, step: Option<u8>, text: &str, time_ms: u64) {
        let cause = encode_cause(code, step, text);
        let found = &self.state.sagas[saga];
        let mut header = Header::new(Kind::Revoked);
        header.saga = found.id;
        header.attempt = found.attempt.into();
        header.plan = self.state.plan_of(saga).plan.fingerprint.into();
        let mut transaction = TransactionWriter::new(&mut self.batch, 0);
        transaction.publish_with(header, |body| {
            body.section(Section::CAUSE, &cause);
        });
        transaction.finish();
        self.applied.clear();
        self.leave_waiting(saga, None);
        let at = self.at(time_ms);
        self.state.abort(saga, Abort { cause: &cause, clean_step: None }, at, &mut self.applied);
        self.note_applied(time_ms);
    }

    /// The next record to write, if there is one. Call it until there is none: then what may run ahead of the records
    /// is on its way.
    pub fn flush(&mut self, now_ms: u64) -> Option<Record> {
        if self.failed().is_some() {
            return None;
        }
        if let Some(record) = self.closed.pop_front() {
            return Some(record);
        }
        let time_ms = self.time_ms(now_ms);
        let lsn = self.lsn();
        for session in self.judged.drain(..) {
            let Some(found) = self.queues.sessions.get_mut(session) else { continue };
            found.confirmed = found.judged;
            let confirm = Effect::Confirm { session, number: found.judged };
            match is_broken(Mutation::ConfirmedBeforeDurable) {
                true => self.effects.push_front((0, confirm)),
                false => self.effects.push_back((lsn, confirm)),
            }
        }
        if self.batch.is_empty() {
            let copies = self.compact(time_ms).or_else(|| self.copy_waiting(time_ms));
            self.compute_watermark(time_ms);
            self.settle(time_ms);
            return copies;
        }
        let record = self.close_record(time_ms);
        self.compute_watermark(time_ms);
        Some(record)
    }

    fn close_record(&mut self, time_ms: u64) -> Record {
        // The next record is likely as large as this one.
        let next = Vec::with_capacity(self.batch.len().next_multiple_of(64 * 1024));
        let payload = std::mem::replace(&mut self.batch, next);
        self.allow_copies_for(payload.len());
        self.record(RecordKind::Transactions, time_ms, payload)
    }

    fn record(&mut self, kind: RecordKind, time_ms: u64, payload: Vec<u8>) -> Record {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        self.recorded_bytes += payload.len() as u64;
        self.log_bytes += payload.len() as u64;
        let is_of_it = |effect: &&(u64, Effect)| effect.0 == lsn;
        let mut of_it = self.effects.iter().rev().take_while(is_of_it);
        let is_awaited = of_it.any(|(_, effect)| !matches!(effect, Effect::Confirm { .. }));
        Record { kind, lsn, time_ms, payload, is_awaited }
    }

    /// All records up to this one are durable: what they caused becomes visible.
    pub fn synced(&mut self, lsn: u64, now_ms: u64) {
        self.durable_lsn = self.durable_lsn.max(lsn);
        self.park_copied();
        self.tell_watermarks();
        self.settle(self.time_ms(now_ms));
    }

    fn settle(&mut self, time_ms: u64) {
        let visible_lsn = if is_broken(Mutation::VisibleBeforeDurable) { u64::MAX } else { self.durable_lsn };
        while self.effects.front().is_some_and(|&(lsn, _)| lsn <= visible_lsn) {
            // A small question may have a large answer: the rest waits until the host has sent what there is.
            if self.queues.sessions.unsent_bytes() >= OWED_BYTES_MAX {
                break;
            }
            if let Some((_, effect)) = self.effects.pop_front() {
                self.owed_bytes -= effect.owed_bytes();
                self.perform(effect, time_ms);
            }
        }
        self.queues.dispatch(&mut self.state, time_ms);
    }

    fn perform(&mut self, effect: Effect, time_ms: u64) {
        match effect {
            Effect::Token(token) => {
                if self.state.tokens.get(token).is_some_and(|token| token.place == Place::Held) {
                    self.queues.enqueue(&mut self.state, token);
                }
            }
            Effect::Ended { sequence, attached } => {
                for (session, correlation) in attached {
                    self.tell_result(session, correlation, sequence);
                }
            }
            Effect::Started { session, correlation, id } => self.tell_started(session, correlation, id),
            Effect::Answer { session, answer } => {
                let (header, data) = *answer;
                self.queues.sessions.send(session, header, |body| {
                    if !data.is_empty() {
                        body.section(Section::DATA, &data);
                    }
                });
            }
            Effect::Look { session, kind, correlation, from } => self.tell_look(session, kind, correlation, from),
            Effect::Over(over) => self.hand_on(over),
            Effect::Wake(token) => self.wake(token),
            Effect::WakeAcross(shard, holder) => self.wake_across(shard, &holder),
            Effect::Restarted(saga) => self.begin_again(saga, time_ms),
            Effect::Resolved(number) => self.waiting.deadlocks.visible(number, time_ms),
            Effect::Confirm { session, number } => self.queues.sessions.confirm(session, number),
        }
    }

    /// Takes what is to be sent, with the identities that it goes to.
    pub fn take_frames(&mut self, out: &mut Vec<(Box<[u8]>, Vec<u8>)>) {
        if self.failed().is_none() {
            self.queues.sessions.take_frames(out);
        }
    }

    /// A frame could not be sent: the peer is gone, or takes nothing any more.
    pub fn lost(&mut self, identity: &[u8], now_ms: u64) {
        let time_ms = self.time_ms(now_ms);
        if let Some(session) = self.queues.sessions.find(identity) {
            self.queues.leave(&mut self.state, session, time_ms, &mut self.over_limit);
        }
    }

    /// Bytes gathered for the next record.
    pub fn record_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Deadlocks that were resolved.
    pub fn deadlocks(&self) -> &Deadlocks {
        &self.waiting.deadlocks
    }

    /// The steps that wait, each with those in its way.
    pub fn waits(&self) -> impl Iterator<Item = (TokenRef, Vec<Holder>)> + '_ {
        self.waiting.iter()
    }

    /// The record that what was accepted last is in.
    pub fn last_lsn(&self) -> u64 {
        self.lsn()
    }

    /// The last record that is durable.
    pub fn durable_lsn(&self) -> u64 {
        self.durable_lsn
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The same, to look at what is parked.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }
}
