//! What peers ask, judged: accepted into the record that is being gathered, or refused with nothing changed.

use sagacore_core::limits::{KEY_BYTES_MAX, REPORT_BYTES_MAX, RETRY_LATER_MS_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{
    BodyWriter, CauseCode, Flags, Header, Key, Kind, Message, Refusal, Role, SagaId, Section, Transaction,
    TransactionWriter,
};

use super::{Broker, Effect, Refused};
use crate::state::{Abort, CAUSE_BYTES_MAX, Place, SagaRef, SessionRef, TokenRef, cause_code};

pub(super) type Judged = Result<(), Refused>;

pub(super) const STALE: Refused = Refused(Refusal::Stale, "what it names is not pending any more");

impl Broker {
    pub(super) fn try_apply(&mut self, session: SessionRef, transaction: &Transaction<'_>, time_ms: u64) -> Judged {
        let Some(first) = transaction.messages().next() else {
            return Err(Refused(Refusal::Mismatch, "a transaction without messages"));
        };
        let kind = first.header.kind();
        if transaction.consumes.is_empty() {
            return match kind {
                Kind::Start => self.start(session, transaction, &first, time_ms),
                Kind::Define => self.define(transaction, &first, time_ms),
                Kind::Subscribe => Ok(()),
                Kind::Credit => self.credit(session, first.header),
                Kind::Ping => self.ping(session, &first, time_ms),
                Kind::Wake | Kind::Probe => self.hear_across(session, &first, time_ms),
                _ => self.request(session, &first, time_ms),
            };
        }
        match kind {
            Kind::Fail => self.fail(session, transaction, &first, time_ms),
            Kind::Spill => self.spill(session, transaction),
            Kind::RetryLater => self.retry_later(session, transaction.consumes, first.header, time_ms),
            Kind::Blocked => self.blocked(session, transaction, &first, time_ms),
            _ => self.move_on(session, transaction, time_ms),
        }
    }

    /// A saga begins, or is found running or remembered under its key (rule 9).
    fn start(
        &mut self,
        session: SessionRef,
        transaction: &Transaction<'_>,
        message: &Message<'_>,
        time_ms: u64,
    ) -> Judged {
        let (header, sections) = (message.header, message.sections());
        if transaction.messages().len() != 1 {
            return Err(Refused(Refusal::Mismatch, "one START a transaction"));
        }
        let plan = self.state.plans.find(header.plan.get());
        let Some(plan) = plan else { return Err(Refused(Refusal::NoPlan, "define the plan first")) };
        let (Some(input), Some(key)) = (sections.get(Section::INPUT), sections.get(Section::KEY)) else {
            return Err(Refused(Refusal::Mismatch, "START carries an input and a key"));
        };
        let known = self.state.plans.get(plan);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || input.len() > known.plan.input_max {
            return Err(Refused(Refusal::TooLarge, "the key is empty, or key or input are too large"));
        }
        let (class, deadline_ms) = (known.plan.deadline_class(), time_ms + known.plan.deadline_ms);
        let correlation = header.amount.get();
        if let Some(sequence) = self.known_start(key) {
            let same = self.state.has_digest(sequence, header.plan.get(), input);
            if !same && !is_broken(Mutation::KeyConflictIgnored) {
                return Err(Refused(Refusal::KeyConflict, "the key was used with another plan or input"));
            }
            return self.attach_to(session, correlation, sequence, !header.has(Flags::QUIET));
        }
        if let Some(reason) = self.full() {
            return Err(Refused(Refusal::Full, reason));
        }
        self.check_class(class)?;
        self.begin(session, message, plan, deadline_ms, time_ms);
        Ok(())
    }

    /// The saga that runs or is remembered and was started under this key.
    fn known_start(&mut self, key: &[u8]) -> Option<u64> {
        self.sequence_of_key(key).filter(|_| !is_broken(Mutation::StartsNotDeduplicated))
    }

    fn begin(&mut self, session: SessionRef, message: &Message<'_>, plan: u32, deadline_ms: u64, time_ms: u64) {
        let sequence = self.state.next_sequence;
        let mut header = Header::new(Kind::Start);
        header.saga = SagaId::new(self.state.shard, sequence, self.state.nonce(self.boot_epoch));
        header.plan = message.header.plan;
        header.age = sequence.into();
        header.deadline_ms = deadline_ms.into();
        header.trace = message.header.trace;
        let sections = message.sections();
        let start = self.batch.len();
        // Re-encoded, so that the log holds what the broker decided and nothing else that a client sent.
        let mut written = TransactionWriter::new(&mut self.batch, 0);
        written.publish_with(header, |body| {
            for key in [Section::INPUT, Section::KEY] {
                body.section(key, sections.get(key).unwrap_or_default());
            }
        });
        written.finish();
        let batch = std::mem::take(&mut self.batch);
        let parsed = Transaction::parse(&batch[start..]).ok().and_then(|(written, _)| written.messages().next());
        if let Some(written) = parsed {
            self.applied.clear();
            let at = self.at(time_ms);
            let saga = self.state.start(&written, plan, at, &mut self.applied);
            self.state.sagas[saga].attached.push((session, message.header.amount.get()));
        }
        self.batch = batch;
        self.note_applied(time_ms);
        if !message.header.has(Flags::QUIET) {
            let correlation = message.header.amount.get();
            let started = Effect::Started { session, correlation, id: header.saga };
            self.effects.push_back((self.next_lsn, started));
        }
    }

    fn define(&mut self, transaction: &Transaction<'_>, message: &Message<'_>, time_ms: u64) -> Judged {
        let definition = message.sections().get(Section::DATA).unwrap_or_default();
        let fingerprint = message.header.plan.get();
        match self.state.plans.check(fingerprint, definition) {
            Ok(None) => Ok(()),
            Ok(Some(plan)) if transaction.messages().len() == 1 => {
                let lsn = self.at(time_ms).lsn;
                self.state.plans.add(plan, definition, lsn);
                let mut header = Header::new(Kind::Define);
                header.plan = fingerprint.into();
                let mut written = TransactionWriter::new(&mut self.batch, 0);
                written.publish_with(header, |body| {
                    body.section(Section::DATA, definition);
                });
                written.finish();
                Ok(())
            }
            Ok(Some(_)) => Err(Refused(Refusal::Mismatch, "one DEFINE a transaction")),
            Err((Refusal::Full, _)) => Err(Refused(Refusal::Full, "the broker knows as many plans as it may")),
            Err((refusal, _)) => {
                Err(Refused(refusal, "the plan does not compile, or is not what its fingerprint says"))
            }
        }
    }

    /// The pending tokens that a transaction names, all of them.
    pub(super) fn find_all(&mut self, keys: &[Key]) -> Judged {
        self.consumed.clear();
        for key in keys {
            let token = self.find(key).ok_or(STALE)?;
            self.consumed.push(token);
        }
        Ok(())
    }

    /// Rule 13: a step's tokens are consumed by whoever serves it, all others by coordinators.
    fn authorize(&self, session: SessionRef, token: TokenRef) -> Judged {
        let token = &self.state.tokens[token];
        let Some(session) = self.queues.sessions.get(session) else { return Err(STALE) };
        let allowed = is_broken(Mutation::SendersNotChecked)
            || if token.kind.is_for_coordinator() {
                session.role == Role::Coordinator
            } else {
                let services = &self.state.plan_of(token.saga).services;
                session.service == services.get(usize::from(token.position)).copied()
            };
        let reason = "the sender neither serves this step nor coordinates";
        if allowed { Ok(()) } else { Err(Refused(Refusal::Forbidden, reason)) }
    }

    fn move_on(&mut self, session: SessionRef, transaction: &Transaction<'_>, time_ms: u64) -> Judged {
        let found = self.find_all(transaction.consumes);
        if is_broken(Mutation::StaleForwardApplied) && found.is_err() {
            return self.accept_stale(transaction, time_ms);
        }
        found?;
        let first = self.consumed[0];
        self.authorize(session, first)?;
        let mismatch = |refusal| Refused(refusal, "what it publishes is not what the plan says");
        self.state.expect(&self.consumed, &mut self.expected).map_err(mismatch)?;
        self.state.check(first, &self.expected, transaction.messages()).map_err(mismatch)?;
        self.accept(self.state.tokens[first].saga, transaction, time_ms);
        self.note_applied(time_ms);
        Ok(())
    }

    /// What must never be, and is where the rule is broken on purpose.
    fn accept_stale(&mut self, transaction: &Transaction<'_>, time_ms: u64) -> Judged {
        let saga = transaction.consumes.first().and_then(|key| self.state.saga(key.saga)).ok_or(STALE)?;
        self.accept(saga, transaction, time_ms);
        self.note_applied(time_ms);
        Ok(())
    }

    /// Applies a transaction whose tokens are in `consumed`, and puts it into the record.
    fn accept(&mut self, saga: SagaRef, transaction: &Transaction<'_>, time_ms: u64) {
        self.applied.clear();
        if self.state.begins_again(saga, &self.consumed, &self.expected, time_ms) {
            return self.restart(saga, time_ms);
        }
        self.batch.extend_from_slice(transaction.bytes());
        self.let_go();
        let at = self.at(time_ms);
        self.state.advance(saga, &self.consumed, transaction, at, &mut self.applied);
    }

    /// A step was rejected or given up: the abort that follows is the same record (rule 5).
    fn fail(
        &mut self,
        session: SessionRef,
        transaction: &Transaction<'_>,
        message: &Message<'_>,
        time_ms: u64,
    ) -> Judged {
        let found = self.find_all(transaction.consumes);
        if is_broken(Mutation::StaleAbortApplied) && found.is_err() {
            return self.fail_stale(transaction, message, time_ms);
        }
        found?;
        let (first, header) = (self.consumed[0], message.header);
        self.authorize(session, first)?;
        let token = &self.state.tokens[first];
        let step = token.position as u8;
        let cause = message.sections().get(Section::CAUSE).unwrap_or_default();
        let of = self.state.header(first);
        let names_it = header.saga == of.saga && header.attempt == of.attempt && header.place == of.place;
        let one = transaction.messages().len() == 1 && self.consumed.len() == 1;
        if !one || !names_it || token.kind != Kind::Run || !is_cause(cause, step) {
            return Err(Refused(Refusal::Mismatch, "a FAIL names its RUN and says why"));
        }
        let saga = token.saga;
        let clean = header.has(Flags::CLEAN);
        let is_pivot = self.state.plan_of(saga).plan.pivot == Some(step);
        let past_pivot = self.state.sagas[saga].pivoted;
        let given_up = is_pivot && !clean && !is_broken(Mutation::PivotGivenUp);
        if past_pivot || given_up || (is_pivot && is_broken(Mutation::PivotRejectionRefused)) {
            return Err(Refused(Refusal::TooLate, "at its pivot a saga is not given up, past it not rejected"));
        }
        if cause_code(cause) == Some(CauseCode::Victim) {
            self.note_gave_way(saga);
        }
        self.batch.extend_from_slice(transaction.bytes());
        self.applied.clear();
        self.leave_waiting(saga, clean.then_some(step));
        let at = self.at(time_ms);
        self.state.abort(saga, Abort { cause, clean_step: clean.then_some(step) }, at, &mut self.applied);
        self.note_applied(time_ms);
        Ok(())
    }

    /// See `accept_stale`.
    fn fail_stale(&mut self, transaction: &Transaction<'_>, message: &Message<'_>, time_ms: u64) -> Judged {
        let saga = self.state.saga(message.header.saga).ok_or(STALE)?;
        let cause = message.sections().get(Section::CAUSE).unwrap_or_default();
        self.batch.extend_from_slice(transaction.bytes());
        self.applied.clear();
        let at = self.at(time_ms);
        self.state.abort(saga, Abort { cause, clean_step: None }, at, &mut self.applied);
        self.note_applied(time_ms);
        Ok(())
    }

    /// A coordinator drops a slot: its arrivals come again with the next one, if they are all that is pending there.
    /// Else it is refused, and all of them come again together.
    fn spill(&mut self, session: SessionRef, transaction: &Transaction<'_>) -> Judged {
        self.find_all(transaction.consumes)?;
        // Counted below: a key that is named twice must not stand for an arrival that is not named.
        self.consumed.sort_unstable();
        self.consumed.dedup();
        let first = &self.state.tokens[self.consumed[0]];
        let (saga, kind, block) = (first.saga, first.kind, first.block());
        let held = |token: &TokenRef| {
            let token = &self.state.tokens[*token];
            token.saga == saga && token.kind == kind && token.block() == block && token.place == Place::Leased(session)
        };
        if !matches!(kind, Kind::Done | Kind::Undone) || !self.consumed.iter().all(held) {
            return Err(STALE);
        }
        let beside: Vec<TokenRef> = self
            .state
            .tokens_of(saga)
            .filter(|token| {
                let found = &self.state.tokens[*token];
                // One that is not durable yet is the next arrival, which those that are spilled wait for.
                let is_there = found.kind == kind && found.block() == block && found.place != Place::Held;
                is_there && !self.consumed.contains(token)
            })
            .collect();
        if !beside.is_empty() && !is_broken(Mutation::BlindSpill) {
            // They come again one behind the other: apart, they might never meet in a table that is full.
            self.queues.gather(&mut self.state, &self.consumed, &beside);
            return Err(STALE);
        }
        for &token in &self.consumed {
            let token = &mut self.state.tokens[token];
            token.place = Place::Spilled;
            token.unanswered = 0;
        }
        self.spills += 1;
        Ok(())
    }

    fn retry_later(&mut self, session: SessionRef, keys: &[Key], header: &Header, time_ms: u64) -> Judged {
        self.find_all(keys)?;
        let delay_ms = header.amount.get().min(RETRY_LATER_MS_MAX);
        for index in 0..self.consumed.len() {
            let token = self.consumed[index];
            if self.state.tokens[token].place == Place::Leased(session) {
                self.state.tokens[token].unanswered = 0;
                self.queues.delay(&mut self.state, token, time_ms + delay_ms);
                self.let_go_of(token);
            }
        }
        Ok(())
    }

    fn credit(&mut self, session: SessionRef, header: &Header) -> Judged {
        if let Some(found) = self.queues.sessions.get_mut(session) {
            // Credit is a sum, so an older word of it takes nothing back.
            let allowed = header.amount.get().min(found.delivered + sagacore_core::limits::CREDIT_MAX);
            found.allowed = found.allowed.max(allowed);
            self.queues.credited(session);
        }
        Ok(())
    }

    fn ping(&mut self, session: SessionRef, message: &Message<'_>, time_ms: u64) -> Judged {
        if let (Some(report), Some(found)) =
            (message.sections().get(Section::DATA), self.queues.sessions.get_mut(session))
        {
            found.report.clear();
            if found.role == Role::Coordinator && report.len() <= REPORT_BYTES_MAX {
                found.report.extend_from_slice(report);
            }
        }
        let mut answer = Header::new(Kind::Ping);
        answer.deadline_ms = time_ms.into();
        self.queues.sessions.send(session, answer, |_| {});
        Ok(())
    }

    /// Makes and applies a transaction on the broker's own account that consumes this token: what follows from it, with
    /// these flags and the bodies that `write` gives. Gives the header of what was consumed; what is published is in
    /// `applied`, to be noted.
    pub(super) fn accept_own(
        &mut self,
        token: TokenRef,
        flags: u16,
        write: impl Fn(&Header, &mut BodyWriter<'_>),
        time_ms: u64,
    ) -> Result<Header, Refused> {
        self.consumed.clear();
        self.consumed.push(token);
        self.state.expect(&self.consumed, &mut self.expected).map_err(|refusal| Refused(refusal, "no such step"))?;
        let of = self.state.header(token);
        let mut bytes = std::mem::take(&mut self.own);
        bytes.clear();
        let mut transaction = TransactionWriter::new(&mut bytes, 0);
        transaction.consume(&Key::of(&of));
        for expected in &self.expected {
            let mut header = expected.header(&of);
            header.set(flags);
            transaction.publish_with(header, |body| write(&header, body));
        }
        transaction.finish();
        self.applied.clear();
        if let Ok((transaction, _)) = Transaction::parse(&bytes) {
            self.accept(self.state.tokens[token].saga, &transaction, time_ms);
        }
        self.own = bytes;
        Ok(of)
    }
}

/// Whether a section CAUSE is well-formed and speaks of this step.
fn is_cause(cause: &[u8], step: u8) -> bool {
    let mut rest = cause;
    let parts = rmp::decode::read_array_len(&mut rest);
    let code: Result<u8, _> = rmp::decode::read_int(&mut rest);
    let named: Result<u8, _> = rmp::decode::read_int(&mut rest);
    let text = rmp::decode::read_str_from_slice(rest);
    let known = code.is_ok_and(|code| CauseCode::from_code(code).is_some());
    matches!(parts, Ok(3))
        && cause.len() <= CAUSE_BYTES_MAX
        && known
        && named.is_ok_and(|named| named == step)
        && text.is_ok_and(|(_, rest)| rest.is_empty())
}
