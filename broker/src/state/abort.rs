//! Abort, as one record (rule 5): whoever asks, every pending token of the attempt goes and one REVOKED comes.

use sagacore_core::limits::REASON_BYTES_MAX;
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{BodyWriter, CauseCode, Header, Kind, Section, Sections};

use super::{Applied, At, Phase, SagaRef, State};

/// A section CAUSE: an array of code, step and text.
pub const CAUSE_BYTES_MAX: usize = REASON_BYTES_MAX + 5;

/// Why a saga is aborted, and by which step.
#[derive(Debug, Clone, Copy)]
pub struct Abort<'a> {
    /// The section CAUSE, as it will be told.
    pub cause: &'a [u8],
    /// A step that was cleanly rejected: it had no effect, then or ever.
    pub clean_step: Option<u8>,
}

impl State {
    /// Whether an abort may still come: the saga goes forward, and its pivot was never delivered.
    pub fn may_abort(&self, saga: SagaRef) -> bool {
        let is_forward = self.sagas[saga].phase == Phase::Forward || is_broken(Mutation::AbortOfUndoing);
        is_forward && !self.is_deciding(saga)
    }

    /// Whether the pivot was delivered or is done: only the pivot itself can still say no.
    pub fn is_deciding(&self, saga: SagaRef) -> bool {
        if self.sagas[saga].pivoted {
            return !is_broken(Mutation::AbortPastPivot);
        }
        let Some(pivot) = self.plan_of(saga).plan.pivot else { return false };
        self.tokens_of(saga).any(|token| {
            let token = &self.tokens[token];
            let is_pivot = token.kind == Kind::Run && token.position == u16::from(pivot);
            is_pivot && token.deliveries > 0 && !is_broken(Mutation::AbortWhileDeciding)
        })
    }

    /// Consumes all pending tokens of the saga and publishes REVOKED. The caller has checked that it may.
    pub fn abort(&mut self, saga: SagaRef, abort: Abort<'_>, at: At, out: &mut Applied) {
        let (mut done, mut active) = (0, 0);
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let mut writer = BodyWriter::new(&mut body);
        let mut has_input = false;
        for token in self.tokens_of(saga) {
            let token = &self.tokens[token];
            done |= token.done;
            active |= if is_broken(Mutation::AbortSetWithoutActive) { 0 } else { token.active };
            let input = || Sections::parse(&token.body).ok()?.get(Section::INPUT);
            if let Some(input) = (!has_input).then(input).flatten() {
                writer.section(Section::INPUT, input);
                has_input = true;
            }
        }
        writer.section(Section::CAUSE, abort.cause);
        writer.finish();
        if let Some(step) = abort.clean_step {
            active &= !(1 << step);
        }
        let plan = &self.plan_of(saga).plan;
        let reached =
            if self.sagas[saga].wide && !is_broken(Mutation::WideUndoneByTokens) { u64::MAX } else { done | active };
        let mut header = Header::new(Kind::Revoked);
        header.done = done.into();
        header.active = active.into();
        header.undo = (reached & plan.compensable & plan.before_pivot).into();
        self.remove_all_tokens(saga);
        let found = &mut self.sagas[saga];
        found.phase = Phase::Undoing;
        found.victim = cause_code(abort.cause) == Some(CauseCode::Victim);
        let revoked = self.publish(saga, &header, body.as_slice().into());
        out.published.push(revoked);
        out.turned = Some((saga, at.time_ms));
        self.scratch = body;
    }
}

/// The code in a section CAUSE.
pub fn cause_code(cause: &[u8]) -> Option<CauseCode> {
    CauseCode::from_code(*cause.get(1)?)
}

/// The section CAUSE: an array of code, step (64: none) and text, which is cut to its limit.
pub fn encode_cause(code: CauseCode, step: Option<u8>, text: &str) -> Vec<u8> {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = Vec::with_capacity(8 + end);
    // Writing to a vector cannot fail.
    let _ = rmp::encode::write_array_len(&mut out, 3);
    let _ = rmp::encode::write_uint(&mut out, u64::from(code.code()));
    let _ = rmp::encode::write_uint(&mut out, u64::from(step.unwrap_or(64)));
    let _ = rmp::encode::write_str(&mut out, &text[..end]);
    out
}
