//! A victim begins again (rule 5): once all is undone, one record publishes the roots of its next attempt, with the
//! same age, deadline and input.

use sagacore_core::limits::ATTEMPTS_MAX;
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{BodyWriter, Header, Kind, OutcomeCode, Section, Sections, Transaction};

use super::{Applied, At, Expected, Phase, SagaRef, State, TokenRef};

impl State {
    /// Whether a saga of which this is to be published begins again instead: a victim that is compensated, all of it,
    /// and has attempts left, and time. What an operator skipped its outcome must tell.
    pub fn begins_again(&self, saga: SagaRef, consumed: &[TokenRef], expected: &[Expected], time_ms: u64) -> bool {
        let found = &self.sagas[saga];
        if !found.victim {
            return false;
        }
        let skips = |&token: &TokenRef| {
            let sections = Sections::parse(&self.tokens[token].body);
            sections.is_ok_and(|sections| sections.get(Section::SKIPPED).is_some())
        };
        let ends =
            matches!(expected, [only] if only.kind == Kind::Result && only.place == OutcomeCode::Compensated.code());
        ends && found.attempt + 1 < ATTEMPTS_MAX
            && time_ms < found.deadline_ms
            && !consumed.iter().any(skips)
            && !is_broken(Mutation::VictimNotRestarted)
    }

    /// Whether a saga is being undone, to begin again.
    pub fn is_victim(&self, saga: SagaRef) -> bool {
        self.sagas[saga].victim && self.sagas[saga].phase == Phase::Undoing
    }

    /// It was cancelled meanwhile: it ends when it is undone.
    pub fn end_as_victim(&mut self, saga: SagaRef) {
        let found = &mut self.sagas[saga];
        found.victim = is_broken(Mutation::CancelledBeginsAgain);
        found.change();
    }

    /// The header of the record by which a saga begins again: it names the attempt that is over.
    pub fn restart_header(&self, saga: SagaRef) -> Header {
        let found = &self.sagas[saga];
        let mut header = Header::new(Kind::Restart);
        header.saga = found.id;
        header.plan = self.plan_of(saga).plan.fingerprint.into();
        header.attempt = found.attempt.into();
        header
    }

    /// Consumes the last tokens of an attempt and publishes the roots of the next. The caller has checked that it may.
    pub fn restart(&mut self, saga: SagaRef, consumed: &[TokenRef], at: At, out: &mut Applied) {
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let mut writer = BodyWriter::new(&mut body);
        let input_of = |&token: &TokenRef| Sections::parse(&self.tokens[token].body).ok()?.get(Section::INPUT);
        if let Some(input) = consumed.iter().find_map(input_of) {
            writer.section(Section::INPUT, input);
        }
        writer.finish();
        self.remove_all_tokens(saga);
        let found = &mut self.sagas[saga];
        found.attempt += 1;
        found.begun_lsn = at.lsn;
        found.phase = Phase::Forward;
        found.victim = false;
        let (of, roots) = (found.id, self.plan_of(saga).plan.forward.roots);
        for step in super::steps(roots) {
            let mut header = Header::new(Kind::Run);
            header.saga = of;
            header.place = u16::from(step).into();
            header.active = (1 << step).into();
            let token = self.publish(saga, &header, body.as_slice().into());
            out.published.push(token);
        }
        out.restarted = Some(saga);
        self.scratch = body;
    }

    pub(super) fn replay_cancel(&mut self, header: &Header) -> Result<(), &'static str> {
        self.recall_replayed(header.saga.sequence.get())?;
        let saga = self.saga(header.saga).filter(|&saga| self.sagas[saga].attempt == header.attempt.get());
        if let Some(saga) = saga {
            self.end_as_victim(saga);
        }
        Ok(())
    }

    pub(super) fn replay_restart(
        &mut self,
        transaction: &Transaction<'_>,
        header: &Header,
        at: At,
        out: &mut Applied,
    ) -> Result<(), &'static str> {
        self.recall_replayed(header.saga.sequence.get())?;
        let Some(saga) = self.saga(header.saga) else { return Ok(()) };
        if self.sagas[saga].attempt != header.attempt.get() {
            return Ok(());
        }
        let consumed: Vec<TokenRef> = transaction.consumes.iter().map_while(|key| self.pending(key)).collect();
        if consumed.len() != transaction.consumes.len() {
            return Ok(());
        }
        let mut expected = std::mem::take(&mut out.expected);
        let is_right =
            self.expect(&consumed, &mut expected).is_ok() && self.begins_again(saga, &consumed, &expected, 0);
        out.expected = expected;
        if !is_right {
            return Err("a victim that begins again, and is none");
        }
        self.restart(saga, &consumed, at, out);
        Ok(())
    }
}
