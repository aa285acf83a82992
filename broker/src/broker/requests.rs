//! What clients and operators ask of a saga, answered by the broker: status, outcome, cancel, resolve; and counters.

use sagacore_core::limits::{ATTACHED_MAX, MESSAGE_BYTES_MAX, REASON_BYTES_MAX, SECTION_BYTES_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{
    BodyWriter, CauseCode, Flags, Header, Kind, Message, OutcomeCode, Refusal, Role, SagaId, Section, Sections,
    StatusCode,
};

use super::{Broker, Effect, Refused};
use crate::delivery::answer;
use crate::state::{Phase, Place, SagaRef, SessionRef, TokenRef, skip, steps};

type Judged = Result<(), Refused>;

const UNKNOWN: Refused = Refused(Refusal::Unknown, "no saga of this id or key runs or is remembered");
/// Stuck sagas that one answer lists.
const STUCK_LISTED_MAX: usize = 100;
/// And their bytes: with long names of many steps, fewer fit into a message.
const STUCK_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1024;

/// A MessagePack array of no names.
const NO_NAMES: &[u8] = &[0x90];

/// What an operator does with a stuck step.
const RETRY: u64 = 1;
const SKIP: u64 = 2;
const DONE: u64 = 3;

impl Broker {
    pub(super) fn request(&mut self, session: SessionRef, message: &Message<'_>, time_ms: u64) -> Judged {
        let role = self.queues.sessions.get(session).map(|session| session.role);
        if role != Some(Role::Client) {
            return Err(Refused(Refusal::Forbidden, "only clients and operators ask this"));
        }
        let correlation = message.header.amount.get();
        match message.header.kind() {
            Kind::Status => {
                let sequence = self.named(message).unwrap_or(0);
                self.answer_status(session, correlation, sequence);
                Ok(())
            }
            Kind::Attach => {
                let sequence = self.named(message).ok_or(UNKNOWN)?;
                self.attach_to(session, correlation, sequence, !message.header.has(Flags::QUIET))
            }
            Kind::Cancel => self.cancel(session, message, time_ms),
            Kind::Resolve => self.resolve(session, message, time_ms),
            kind @ (Kind::Stats | Kind::Stuck | Kind::Deadlocks) => {
                let from = message.header.active.get();
                self.owe(self.lsn(), Effect::Look { session, kind, correlation, from });
                Ok(())
            }
            _ => Err(Refused(Refusal::Unsupported, "a client does not say this")),
        }
    }

    /// Counters, or the list of what is stuck, as they are when they are told.
    pub(super) fn tell_look(&mut self, session: SessionRef, kind: Kind, correlation: u64, from: u64) {
        let data = match kind {
            Kind::Stats => self.stats(),
            Kind::Stuck => self.list_stuck(),
            _ => self.waiting.deadlocks.list(from),
        };
        self.queues.sessions.send(session, answer(kind, correlation, 0), |body| {
            body.section(Section::DATA, &data);
        });
    }

    /// The sequence of the saga that a request names, by id or by key, if it runs or is remembered.
    fn named(&mut self, message: &Message<'_>) -> Option<u64> {
        let id = message.header.saga;
        if message.header.has(Flags::BY_KEY) {
            let key = message.sections().get(Section::KEY)?;
            return self.sequence_of_key(key);
        }
        self.recall(id.sequence.get());
        let ended = || self.state.outcomes.get(id.sequence.get()).is_some_and(|outcome| outcome.id == id);
        (self.state.saga(id).is_some() || ended()).then(|| id.sequence.get())
    }

    /// The saga that runs or is remembered and was started under this key; of several the latest.
    pub(super) fn sequence_of_key(&mut self, key: &[u8]) -> Option<u64> {
        let key_hash = self.state.hash_key(key);
        let mut found = std::mem::take(&mut self.named);
        self.state.sequences_of_key(key_hash, &mut found);
        for &sequence in &found {
            self.recall(sequence);
        }
        let sequence = found.iter().rev().copied().find(|&sequence| self.state.has_key(sequence, key_hash));
        self.named = found;
        sequence
    }

    /// The outcome goes to this session too: at once if the saga has ended, as far as that is durable.
    pub(super) fn attach_to(
        &mut self,
        session: SessionRef,
        correlation: u64,
        sequence: u64,
        wants_status: bool,
    ) -> Judged {
        let Some(saga) = self.state.saga_by_sequence(sequence) else {
            let attached = vec![(session, correlation)];
            self.owe(self.lsn(), Effect::Ended { sequence, attached });
            return Ok(());
        };
        let attached = &mut self.state.sagas[saga].attached;
        if attached.len() >= 4 {
            attached.retain(|&(other, _)| self.queues.sessions.get(other).is_some());
        }
        if !attached.contains(&(session, correlation)) {
            if attached.len() >= ATTACHED_MAX {
                return Err(Refused(Refusal::Full, "as many wait for this saga's outcome as may"));
            }
            attached.push((session, correlation));
        }
        if wants_status {
            self.answer_status(session, correlation, sequence);
        }
        Ok(())
    }

    /// Told once all that it says is durable.
    fn answer_durably(&mut self, session: SessionRef, header: Header, data: Vec<u8>) {
        self.owe(self.lsn(), Effect::Answer { session, answer: Box::new((header, data)) });
    }

    fn answer_status(&mut self, session: SessionRef, correlation: u64, sequence: u64) {
        let (header, names) = self.status(correlation, sequence);
        self.answer_durably(session, header, names);
    }

    /// A saga has begun, durably. What has become of it since may not be durable yet, or forgotten again: one that is
    /// cancelled in the record that begins it ends there.
    pub(super) fn tell_started(&mut self, session: SessionRef, correlation: u64, id: SagaId) {
        let mut header = answer(Kind::Status, correlation, StatusCode::Running.code());
        header.saga = id;
        self.queues.sessions.send(session, header, |body| {
            body.section(Section::DATA, NO_NAMES);
        });
    }

    pub(super) fn tell_result(&mut self, session: SessionRef, correlation: u64, sequence: u64) {
        let Some(outcome) = self.state.outcomes.get(sequence) else {
            return self.answer_status(session, correlation, sequence);
        };
        let turned = is_broken(Mutation::OutcomeTurned) && sequence % 32 == 7;
        let code = if turned { OutcomeCode::Completed } else { outcome.code };
        let mut header = answer(Kind::Result, correlation, code.code());
        header.saga = outcome.id;
        header.plan = outcome.plan.into();
        self.queues.sessions.send_encoded(session, header, &outcome.body);
    }

    /// How far a saga is, and the names of its steps that run: all of it as it is now, durable or not.
    fn status(&self, correlation: u64, sequence: u64) -> (Header, Vec<u8>) {
        let mut header = answer(Kind::Status, correlation, StatusCode::Unknown.code());
        let mut names = NO_NAMES.to_vec();
        if let Some(saga) = self.state.saga_by_sequence(sequence) {
            header.place = self.status_of(saga).code().into();
            header.saga = self.state.sagas[saga].id;
            header.attempt = self.state.sagas[saga].attempt.into();
            header.active = self.steps_now(saga).into();
            names = self.step_names(saga);
        } else if let Some(outcome) = self.state.outcomes.get(sequence) {
            let code = match outcome.code {
                OutcomeCode::Completed => StatusCode::Completed,
                OutcomeCode::Compensated => StatusCode::Compensated,
            };
            header.place = code.code().into();
            header.saga = outcome.id;
        }
        (header, names)
    }

    fn status_of(&self, saga: SagaRef) -> StatusCode {
        let found = &self.state.sagas[saga];
        if self.state.is_stuck(found.id.sequence.get()) {
            StatusCode::Stuck
        } else if found.phase == Phase::Undoing {
            StatusCode::Compensating
        } else if self.state.is_deciding(saga) {
            StatusCode::Deciding
        } else {
            StatusCode::Running
        }
    }

    /// The names of the steps that are asked for or compensated now: a MessagePack array.
    fn step_names(&self, saga: SagaRef) -> Vec<u8> {
        let plan = &self.state.plan_of(saga).plan;
        let now = self.steps_now(saga);
        let mut out = Vec::new();
        // Writing to a vector cannot fail, here and below.
        let _ = rmp::encode::write_array_len(&mut out, now.count_ones());
        for step in steps(now) {
            let _ = rmp::encode::write_str(&mut out, &plan.steps[usize::from(step)].name);
        }
        out
    }

    /// The steps that are asked for or compensated now.
    fn steps_now(&self, saga: SagaRef) -> u64 {
        let now = self.state.tokens_of(saga).filter_map(|token| self.step_of(token));
        now.fold(0, |set, step| set | 1 << step)
    }

    fn step_of(&self, token: TokenRef) -> Option<u16> {
        let token = &self.state.tokens[token];
        matches!(token.kind, Kind::Run | Kind::Undo).then_some(token.position)
    }

    fn cancel(&mut self, session: SessionRef, message: &Message<'_>, time_ms: u64) -> Judged {
        let sequence = self.named(message).ok_or(UNKNOWN)?;
        let too_late = Refused(Refusal::TooLate, "it is deciding, compensating or ended");
        let saga = self.state.saga_by_sequence(sequence).filter(|&saga| self.state.may_abort(saga));
        if saga.is_none() && self.was_cancelled(sequence) {
            // Asked again, because the answer was lost.
            self.answer_durably(session, answer(Kind::Cancel, message.header.amount.get(), 0), Vec::new());
            return Ok(());
        }
        let victim = self.state.saga_by_sequence(sequence).filter(|&saga| self.state.is_victim(saga));
        if let Some(saga) = victim.filter(|_| saga.is_none()) {
            self.end_as_victim(saga);
            self.answer_durably(session, answer(Kind::Cancel, message.header.amount.get(), 0), Vec::new());
            return Ok(());
        }
        let saga = saga.ok_or(too_late)?;
        let reason = String::from_utf8_lossy(message.sections().get(Section::TEXT).unwrap_or_default()).into_owned();
        self.abort(saga, CauseCode::Cancelled, None, &reason, time_ms);
        self.answer_durably(session, answer(Kind::Cancel, message.header.amount.get(), 0), Vec::new());
        Ok(())
    }

    /// Whether a saga that is compensated, now or in the end, was cancelled.
    fn was_cancelled(&self, sequence: u64) -> bool {
        let is_cancelled = |body: &[u8]| {
            let code = section(body, Section::CAUSE).and_then(|cause| cause.get(1).copied());
            code == Some(CauseCode::Cancelled.code())
        };
        match self.state.saga_by_sequence(sequence) {
            Some(saga) => self.state.tokens_of(saga).any(|token| is_cancelled(&self.state.tokens[token].body)),
            None => self.state.outcomes.get(sequence).is_some_and(|outcome| is_cancelled(&outcome.body)),
        }
    }

    /// An operator retries, skips or resolves a step that is stuck (rule 7).
    fn resolve(&mut self, session: SessionRef, message: &Message<'_>, time_ms: u64) -> Judged {
        let (header, sections) = (message.header, message.sections());
        self.recall(header.saga.sequence.get());
        let saga = self.state.saga(header.saga).ok_or(UNKNOWN)?;
        let reason = String::from_utf8_lossy(sections.get(Section::TEXT).unwrap_or_default()).into_owned();
        let reason: String = reason.chars().take(REASON_BYTES_MAX / 4).collect();
        let step = header.place.get();
        let of_step = |&token: &TokenRef| self.step_of(token) == Some(step);
        let token = self.state.tokens_of(saga).find(of_step);
        let token = token.ok_or(Refused(Refusal::Unknown, "this step neither runs nor is compensated now"))?;
        let kind = self.state.tokens[token].kind;
        match (header.active.get(), kind) {
            // What is not durable yet is on its way, and must not be seen before.
            (RETRY, _) if self.state.tokens[token].place == Place::Held && !is_broken(Mutation::RetryMakesVisible) => {}
            (RETRY, _) => {
                self.state.tokens[token].unanswered = 0;
                self.queues.enqueue(&mut self.state, token);
            }
            (SKIP, Kind::Undo) => self.skip(token, step as u8, &reason, time_ms)?,
            (DONE, Kind::Run) if self.state.sagas[saga].pivoted => {
                let result = sections.get(Section::DATA).unwrap_or_default();
                self.finish(token, step as u8, result, time_ms)?;
            }
            _ => return Err(Refused(Refusal::Mismatch, "skip a compensation, or resolve a step past the pivot")),
        }
        self.note_resolved(saga, time_ms);
        self.answer_durably(session, answer(Kind::Resolve, header.amount.get(), 0), Vec::new());
        Ok(())
    }

    fn note_resolved(&mut self, saga: SagaRef, time_ms: u64) {
        if let Some(found) = self.state.sagas.get(saga) {
            self.state.unlist(found.id.sequence.get());
            self.watch(saga, time_ms);
        }
    }

    fn skip(&mut self, token: TokenRef, step: u8, reason: &str, time_ms: u64) -> Judged {
        let body = self.state.tokens[token].body.clone();
        let skipped = skip(&body, step, reason);
        self.decide(
            token,
            |_, out| {
                for key in [Section::INPUT, Section::CAUSE] {
                    if let Some(value) = section(&body, key) {
                        out.section(key, value);
                    }
                }
                out.section(Section::SKIPPED, &skipped);
            },
            time_ms,
        )
    }

    fn finish(&mut self, token: TokenRef, step: u8, result: &[u8], time_ms: u64) -> Judged {
        let body = self.state.tokens[token].body.clone();
        let plan = std::sync::Arc::clone(&self.state.plan_of(self.state.tokens[token].saga).plan);
        if result.len() > plan.steps[usize::from(step)].result_max.min(SECTION_BYTES_MAX) {
            return Err(Refused(Refusal::TooLarge, "the result is larger than its step declares"));
        }
        self.decide(
            token,
            |header, out| {
                let carried = match header.kind() {
                    Kind::Run => plan.steps[usize::from(header.place.get())].carry,
                    _ => plan.edge_carry(header.place.get()),
                };
                for key in 0..64 {
                    let value = if key == step { Some(result) } else { section(&body, key) };
                    if let Some(value) = value.filter(|_| carried & (1 << key) != 0) {
                        out.section(key, value);
                    }
                }
                out.section(Section::INPUT, section(&body, Section::INPUT).unwrap_or_default());
            },
            time_ms,
        )
    }

    /// An operator resolves a step. Were that lost, the step could take another course than those after it have seen:
    /// so nothing of it runs ahead.
    fn decide(&mut self, token: TokenRef, write: impl Fn(&Header, &mut BodyWriter<'_>), time_ms: u64) -> Judged {
        self.accept_own(token, 0, write, time_ms)?;
        if is_broken(Mutation::DecisionRunsAhead) {
            self.note_applied(time_ms);
        }
        self.note_decided(time_ms);
        Ok(())
    }

    /// The sagas that are listed as stuck: a MessagePack array of [id, plan, phase, steps, their set]; as many as fit.
    fn list_stuck(&mut self) -> Vec<u8> {
        let (mut listed, mut items) = (0, Vec::new());
        let stuck: Vec<u64> = self.state.stuck().take(STUCK_LISTED_MAX).collect();
        for sequence in stuck {
            let Some(saga) = self.recall(sequence) else { break };
            let out = &mut items;
            let before = out.len();
            let found = &self.state.sagas[saga];
            let phase = if found.phase == Phase::Undoing { "compensating" } else { "forward" };
            let _ = rmp::encode::write_array_len(out, 5);
            let _ = rmp::encode::write_str(out, &found.id.to_string());
            let _ = rmp::encode::write_str(out, &self.state.plan_of(saga).plan.name);
            let _ = rmp::encode::write_str(out, phase);
            out.extend_from_slice(&self.step_names(saga));
            let _ = rmp::encode::write_uint(out, self.steps_now(saga));
            if out.len() > STUCK_BYTES_MAX {
                out.truncate(before);
                break;
            }
            listed += 1;
        }
        let mut out = Vec::new();
        let _ = rmp::encode::write_array_len(&mut out, listed);
        out.extend_from_slice(&items);
        out
    }

    /// Counters: a MessagePack map of text to number, and under "coordinators" what each said of itself.
    fn stats(&self) -> Vec<u8> {
        let (counters, state) = (&self.state.counters, &self.state);
        let deadlocks = &self.waiting.deadlocks;
        let messages = counters.run + counters.done + counters.revoked + counters.undo + counters.undone;
        let numbers = [
            ("started", counters.started),
            ("completed", counters.completed),
            ("compensated", counters.compensated),
            ("messages", messages),
            ("run", counters.run),
            ("done", counters.done),
            ("revoked", counters.revoked),
            ("undo", counters.undo),
            ("undone", counters.undone),
            ("redeliveries", self.queues.redeliveries),
            ("spills", self.spills),
            ("stale", self.stale),
            ("refused", self.refused),
            ("running", state.running() as u64),
            ("parked", state.parked() as u64),
            ("pending", state.pending_tokens() as u64),
            ("stuck", state.stuck_count() as u64),
            ("remembered", state.outcomes.len() as u64),
            ("plans", state.plans.len() as u64),
            ("sessions", self.queues.sessions.len() as u64),
            ("lsn", self.next_lsn - 1),
            ("durable_lsn", self.durable_lsn),
            ("log_bytes", self.log_bytes),
            ("boot_epoch", u64::from(self.boot_epoch)),
            ("waiting", self.waiting.len() as u64),
            ("deadlocks_resolved", deadlocks.resolved),
            ("deadlocks_phantoms", deadlocks.phantoms),
            ("deadlocks_wounded", deadlocks.wounded),
            ("deadlocks_restarts", deadlocks.restarts),
        ];
        let reports: Vec<&[u8]> = self
            .queues
            .sessions
            .iter()
            .filter(|(_, session)| session.role == Role::Coordinator && !session.report.is_empty())
            .map(|(_, session)| session.report.as_slice())
            .collect();
        let mut out = Vec::new();
        let _ = rmp::encode::write_map_len(&mut out, numbers.len() as u32 + 1);
        for (name, number) in numbers {
            let _ = rmp::encode::write_str(&mut out, name);
            let _ = rmp::encode::write_uint(&mut out, number);
        }
        let _ = rmp::encode::write_str(&mut out, "coordinators");
        let _ = rmp::encode::write_array_len(&mut out, reports.len() as u32);
        for report in reports {
            // Each is a MessagePack value of its own; wrapped, so that a broken one breaks nothing else.
            let _ = rmp::encode::write_bin(&mut out, report);
        }
        out
    }
}

fn section(body: &[u8], key: u8) -> Option<&[u8]> {
    Sections::parse(body).ok()?.get(key)
}
