//! Records that move sagas on, live and in a replay.

use slotmap::Key as _;

use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{Flags, Header, Kind, Message, OutcomeCode, Section, Transaction};

use super::splice::splice;
use super::{Abort, At, CAUSE_BYTES_MAX, Expected, Outcome, Phase, Saga, SagaRef, SessionRef, State, Timer, TokenRef};

/// What a record changed, for those who deliver it. Reused from record to record.
#[derive(Debug, Default)]
pub struct Applied {
    pub published: Vec<TokenRef>,
    /// A saga began: its deadline runs.
    pub started: Option<SagaRef>,
    /// A saga turned round or passed its pivot at this time: it must not be stuck for too long.
    pub turned: Option<(SagaRef, u64)>,
    /// A saga ended: its sequence, and who waits for it.
    pub ended: Option<(u64, Vec<(SessionRef, u64)>)>,
    /// A victim began again: nothing of that runs ahead.
    pub restarted: Option<SagaRef>,
    /// What a replay expects of a transaction.
    pub(super) expected: Vec<Expected>,
}

impl Applied {
    pub fn clear(&mut self) {
        self.published.clear();
        self.started = None;
        self.turned = None;
        self.ended = None;
        self.restarted = None;
    }
}

impl State {
    /// A saga begins: START is its first token. The header has id, plan, deadline and trace.
    pub fn start(&mut self, message: &Message<'_>, plan: u32, at: At, out: &mut Applied) -> SagaRef {
        let (header, sections) = (message.header, message.sections());
        let input = sections.get(Section::INPUT).unwrap_or_default();
        let key_hash = self.hash_key(sections.get(Section::KEY).unwrap_or_default());
        let sequence = header.saga.sequence.get();
        let saga = self.add(Saga {
            id: header.saga,
            plan,
            attempt: 0,
            phase: Phase::Forward,
            pivoted: false,
            wide: false,
            excepted: false,
            victim: false,
            age: sequence,
            deadline_ms: header.deadline_ms.get(),
            trace: header.trace,
            key_hash,
            digest: self.digest(header.plan.get(), input),
            oldest_lsn: at.lsn,
            copy: None,
            timer: Timer::Queued,
            rounds: 0,
            begun_lsn: at.lsn,
            first_token: TokenRef::null(),
            attached: Vec::new(),
        });
        let token = self.publish(saga, header, message.body.into());
        out.published.push(token);
        out.started = Some(saga);
        saga
    }

    pub(super) fn add(&mut self, saga: Saga) -> SagaRef {
        let (sequence, key_hash) = (saga.id.sequence.get(), saga.key_hash);
        self.next_sequence = self.next_sequence.max(sequence + 1);
        self.reserved_bytes += 2 * self.plans.get(saga.plan).plan.token_bytes_max as u64;
        let added = self.sagas.insert(saga);
        self.by_sequence.insert(sequence, added);
        self.keys.insert(key_hash, sequence);
        added
    }

    /// Consumes tokens of a saga and publishes what the transaction carries, which has been checked.
    pub fn advance(
        &mut self,
        saga: SagaRef,
        consumed: &[TokenRef],
        transaction: &Transaction<'_>,
        at: At,
        out: &mut Applied,
    ) {
        let mut ended = None;
        for message in transaction.messages() {
            let body = self.body(saga, consumed, &message);
            if message.header.kind() == Kind::Result {
                ended = OutcomeCode::from_code(message.header.place.get()).map(|code| (code, body));
            } else {
                let token = self.publish(saga, message.header, body);
                out.published.push(token);
            }
        }
        for &token in consumed {
            self.note_pivot(saga, token, at, out);
            self.remove(token);
        }
        if let Some((code, body)) = ended {
            self.end(saga, code, body, at, out);
        }
    }

    fn body(&mut self, saga: SagaRef, consumed: &[TokenRef], message: &Message<'_>) -> Box<[u8]> {
        if !message.header.has(Flags::SPLICE) {
            return message.body.into();
        }
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        let plan = &self.plan_of(saga).plan;
        if let [token] = consumed {
            splice(plan, message.header, &[&self.tokens[*token].body], &mut out);
        } else {
            let bodies: Vec<&[u8]> = consumed.iter().map(|&token| &*self.tokens[token].body).collect();
            splice(plan, message.header, &bodies, &mut out);
        }
        let body = out.as_slice().into();
        self.scratch = out;
        body
    }

    fn note_pivot(&mut self, saga: SagaRef, token: TokenRef, at: At, out: &mut Applied) {
        let token = &self.tokens[token];
        let is_pivot = token.kind == Kind::Run
            && self.plan_of(saga).plan.pivot.is_some_and(|pivot| u16::from(pivot) == token.position);
        if is_pivot {
            self.sagas[saga].pivoted = true;
            out.turned = Some((saga, at.time_ms));
        }
    }

    fn end(&mut self, saga: SagaRef, code: OutcomeCode, body: Box<[u8]>, at: At, out: &mut Applied) {
        self.remove_all_tokens(saga);
        let Some(saga) = self.sagas.remove(saga) else { return };
        self.forget_deadline(&saga);
        let plan = &self.plans.get(saga.plan).plan;
        match code {
            OutcomeCode::Completed => self.counters.completed += 1,
            OutcomeCode::Compensated => self.counters.compensated += 1,
        }
        self.reserved_bytes -= 2 * plan.token_bytes_max as u64;
        let sequence = saga.id.sequence.get();
        self.by_sequence.remove(sequence);
        self.outcomes.add(Outcome {
            id: saga.id,
            plan: plan.fingerprint,
            key_hash: saga.key_hash,
            digest: saga.digest,
            code,
            ended_ms: at.time_ms,
            ended_at: (at.lsn, at.offset),
            oldest_lsn: saga.oldest_lsn,
            body,
        });
        self.unlist(sequence);
        out.ended = Some((sequence, saga.attached));
    }

    /// Forgets outcomes that are outside the window, and their keys.
    pub fn forget(&mut self, now_ms: u64) {
        self.outcomes.sort();
        while let Some(gone) = self.outcomes.forget_one(now_ms) {
            self.keys.remove(gone.key_hash, gone.id.sequence.get());
        }
    }

    pub(super) fn remember_key(&mut self, key_hash: u128, sequence: u64) {
        self.keys.insert(key_hash, sequence);
    }

    /// Applies a record of the log again. What it says of sagas that are not known any more is passed over: they ended
    /// in records that were copied or deleted since.
    ///
    /// # Errors
    /// What no broker would have written: another version did, or the checksum lies.
    pub fn replay(&mut self, transaction: &Transaction<'_>, at: At, out: &mut Applied) -> Result<(), &'static str> {
        out.clear();
        let first = transaction.messages().next().ok_or("a transaction without messages")?;
        match first.header.kind() {
            Kind::Define => self.replay_define(&first, at),
            Kind::Start => self.replay_start(&first, at, out),
            Kind::Stuck => {
                let excepted = !is_broken(Mutation::ExceptionForgotten);
                self.set_excepted(first.header.saga.sequence.get(), excepted);
                Ok(())
            }
            Kind::Cancel => self.replay_cancel(first.header),
            Kind::Restart => self.replay_restart(transaction, first.header, at, out),
            Kind::Fail | Kind::Revoked => self.replay_abort(transaction, first.header, &first, at, out),
            _ => self.replay_advance(transaction, at, out),
        }
    }

    fn replay_start(&mut self, message: &Message<'_>, at: At, out: &mut Applied) -> Result<(), &'static str> {
        let header = message.header;
        let sequence = header.saga.sequence.get();
        let known = self.is_running(sequence) || self.outcomes.get(sequence).is_some();
        let (false, Some(plan)) = (known, self.plans.find(header.plan.get())) else { return Ok(()) };
        if !State::may_be_id(header.saga) || !State::is_possible(&self.plans.get(plan).plan, header) {
            return Err("a START that no broker accepts");
        }
        self.start(message, plan, at, out);
        Ok(())
    }

    fn replay_advance(&mut self, transaction: &Transaction<'_>, at: At, out: &mut Applied) -> Result<(), &'static str> {
        for key in transaction.consumes {
            self.recall_replayed(key.saga.sequence.get())?;
        }
        let mut consumed = std::mem::take(&mut self.consumed);
        consumed.clear();
        consumed.extend(transaction.consumes.iter().map_while(|key| self.pending(key)));
        let first = consumed.first().filter(|_| consumed.len() == transaction.consumes.len()).copied();
        let agrees = first.is_none_or(|_| self.agrees(&consumed, transaction, &mut out.expected));
        if let Some(first) = first.filter(|_| agrees) {
            let saga = self.tokens[first].saga;
            self.advance(saga, &consumed, transaction, at, out);
        }
        self.consumed = consumed;
        if agrees { Ok(()) } else { Err("a transaction that does not follow from the plan") }
    }

    fn replay_define(&mut self, message: &Message<'_>, at: At) -> Result<(), &'static str> {
        let definition = message.sections().get(Section::DATA).unwrap_or_default();
        let plan = self.plans.check(message.header.plan.get(), definition).map_err(|_| "a plan that is none")?;
        if let Some(plan) = plan {
            self.plans.add(plan, definition, at.lsn);
        }
        Ok(())
    }

    fn replay_abort(
        &mut self,
        transaction: &Transaction<'_>,
        header: &Header,
        message: &Message<'_>,
        at: At,
        out: &mut Applied,
    ) -> Result<(), &'static str> {
        self.recall_replayed(header.saga.sequence.get())?;
        let Some(saga) = self.saga(header.saga) else { return Ok(()) };
        let current = self.sagas[saga].attempt == header.attempt.get() && self.sagas[saga].phase == Phase::Forward;
        let pending = transaction.consumes.iter().all(|key| self.pending(key).is_some());
        if !(current && pending) {
            return Ok(());
        }
        let cause = message.sections().get(Section::CAUSE).unwrap_or_default();
        let clean = header.kind() == Kind::Fail && header.has(Flags::CLEAN);
        let step = header.place.get();
        if cause.len() > CAUSE_BYTES_MAX || (clean && usize::from(step) >= self.plan_of(saga).plan.steps.len()) {
            return Err("an abort that no broker accepts");
        }
        self.abort(saga, Abort { cause, clean_step: clean.then_some(step as u8) }, at, out);
        Ok(())
    }

    /// Whether plan and input of the saga that runs or is remembered are these.
    pub fn has_digest(&self, sequence: u64, plan: u64, input: &[u8]) -> bool {
        let running = self.saga_by_sequence(sequence).map(|saga| self.sagas[saga].digest);
        let known = running.or_else(|| self.outcomes.get(sequence).map(|outcome| outcome.digest));
        known == Some(self.digest(plan, input))
    }
}
