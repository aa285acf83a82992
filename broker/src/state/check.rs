//! What a transaction must publish (rule 13): the plan and the consumed tokens say it, to the last bit.
//!
//! A sender decides nothing but which result it carries; every header that it publishes is compared with the one that
//! follows from the plan. Forged and edited headers therefore change nothing.

use sagacore_core::limits::{EDGES_PER_BLOCK, SEQUENCE_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::plan::{Graph, Plan, Target};
use sagacore_core::wire::{Flags, Header, Kind, Message, OutcomeCode, Refusal, SagaId, Section, Transaction};

use super::{State, Token, TokenRef};

/// One message that a transaction must publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub kind: Kind,
    pub place: u16,
    pub done: u64,
    pub active: u64,
    pub undo: u64,
}

impl Expected {
    /// Whether this header says what is expected, of this saga.
    pub(super) fn is_met_by(&self, header: &Header, of: &Header) -> bool {
        let token =
            header.done.get() == self.done && header.active.get() == self.active && header.undo.get() == self.undo;
        header.kind() == self.kind
            && header.place.get() == self.place
            && header.saga == of.saga
            && header.attempt == of.attempt
            && header.plan == of.plan
            && header.mac_length.get() == 0
            && (token || self.kind == Kind::Result)
    }

    /// Of the saga of another header.
    pub fn header(&self, of: &Header) -> Header {
        let mut header = Header::new(self.kind);
        (header.saga, header.plan, header.attempt) = (of.saga, of.plan, of.attempt);
        header.place = self.place.into();
        header.done = self.done.into();
        header.active = self.active.into();
        header.undo = self.undo.into();
        header
    }

    fn run(step: u8, done: u64) -> Self {
        Self { kind: Kind::Run, place: u16::from(step), done, active: 1 << step, undo: 0 }
    }

    fn undo(step: u8, set: u64, left: u64) -> Self {
        Self { kind: Kind::Undo, place: u16::from(step), done: set, active: 0, undo: left }
    }

    fn result(code: OutcomeCode, done: u64) -> Self {
        Self { kind: Kind::Result, place: code.code(), done, active: 0, undo: 0 }
    }
}

impl State {
    /// Puts into `out` what a transaction that consumes these tokens of one saga must publish.
    ///
    /// # Errors
    /// `Mismatch` where no transaction consumes just these.
    pub fn expect(&self, consumed: &[TokenRef], out: &mut Vec<Expected>) -> Result<(), Refusal> {
        out.clear();
        let first = &self.tokens[*consumed.first().ok_or(Refusal::Mismatch)?];
        if consumed.iter().any(|&token| self.tokens[token].saga != first.saga || self.tokens[token].kind != first.kind)
        {
            return Err(Refusal::Mismatch);
        }
        let alone = consumed.len() == 1;
        let plan = &self.plan_of(first.saga).plan;
        match first.kind {
            Kind::Start if alone => out.extend(steps(plan.forward.roots).map(|step| Expected::run(step, 0))),
            Kind::Run if alone => after_run(&plan.forward, first, out),
            Kind::Undo if alone => after_undo(&plan.undo(first.done), first, out),
            Kind::Revoked if alone => {
                let set = first.undo;
                out.extend(steps(plan.undo(set).roots).map(|step| Expected::undo(step, set, set)));
                if set == 0 {
                    out.push(Expected::result(OutcomeCode::Compensated, set));
                }
            }
            Kind::Done => {
                let done = consumed.iter().fold(0, |done, &token| done | self.tokens[token].done);
                out.push(match self.joined(&plan.forward, consumed)? {
                    Some(step) => Expected::run(step, done),
                    None => Expected::result(OutcomeCode::Completed, done),
                });
            }
            Kind::Undone => {
                let left = consumed.iter().fold(u64::MAX, |left, &token| left & self.tokens[token].undo);
                out.push(match self.joined(&plan.undo(first.done), consumed)? {
                    Some(step) => Expected::undo(step, first.done, left),
                    None => Expected::result(OutcomeCode::Compensated, first.done),
                });
            }
            _ => return Err(Refusal::Mismatch),
        }
        Ok(())
    }

    /// The target of the join whose arrivals these are, all of them and nothing else.
    fn joined(&self, graph: &Graph, consumed: &[TokenRef]) -> Result<Option<u8>, Refusal> {
        let first = &self.tokens[consumed[0]];
        let join = graph.join_of(first.position).ok_or(Refusal::Mismatch)?;
        let mut arrived = 0u64;
        for &token in consumed {
            let token = &self.tokens[token];
            if token.block() != join.block {
                return Err(Refusal::Mismatch);
            }
            arrived |= 1 << (usize::from(token.position) % EDGES_PER_BLOCK);
        }
        let all = arrived == join.mask && consumed.len() == arrived.count_ones() as usize;
        if all { Ok(join.target) } else { Err(Refusal::Mismatch) }
    }

    /// Checks the messages of a transaction against what is expected of it.
    ///
    /// # Errors
    /// `Mismatch` for a header that is not the plan's, `TooLarge` for a body that no token of the plan can have.
    pub fn check<'a>(
        &self,
        consumed: TokenRef,
        expected: &[Expected],
        messages: impl ExactSizeIterator<Item = Message<'a>>,
    ) -> Result<(), Refusal> {
        if messages.len() != expected.len() {
            return Err(Refusal::Mismatch);
        }
        let of = self.header(consumed);
        let kind = self.tokens[consumed].kind;
        let plan = &self.plan_of(self.tokens[consumed].saga).plan;
        let largest = plan.token_bytes_max;
        for (message, expected) in messages.zip(expected) {
            let is_right = expected.is_met_by(message.header, &of) || is_broken(Mutation::HeadersNotChecked);
            if !is_right || !may_carry(kind, message.header) {
                return Err(Refusal::Mismatch);
            }
            let is_large = message.header.length.get() as usize > largest || !fits(plan, &message);
            if is_large && !is_broken(Mutation::SizesNotChecked) {
                return Err(Refusal::TooLarge);
            }
        }
        Ok(())
    }
}

impl State {
    /// Whether a transaction of the log, whose consumed tokens are pending, is one that was accepted once. A record
    /// that is valid but says something else was not written by a broker, and nothing that it says may be relied on.
    pub(super) fn agrees(&self, consumed: &[TokenRef], transaction: &Transaction<'_>, out: &mut Vec<Expected>) -> bool {
        if self.expect(consumed, out).is_err() || transaction.messages().len() != out.len() {
            return false;
        }
        let of = self.header(consumed[0]);
        let plan = &self.plan_of(self.tokens[consumed[0]].saga).plan;
        transaction.messages().zip(&*out).all(|(message, expected)| {
            let is_spliced = message.header.has(Flags::SPLICE);
            let may_carry = |kind: Kind| match kind {
                Kind::Run => !is_spliced && fits(plan, &message),
                // An operator's skip is written out.
                Kind::Undo => is_spliced || message.header.length.get() as usize <= plan.token_bytes_max,
                _ => is_spliced,
            };
            expected.is_met_by(message.header, &of) && may_carry(self.tokens[consumed[0]].kind)
        })
    }

    /// Whether a broker can have given a saga this id.
    pub(super) fn may_be_id(id: SagaId) -> bool {
        (1..=SEQUENCE_MAX).contains(&id.sequence.get()) && id.reserved.get() == 0
    }

    /// Whether a token with this header can be pending in a saga of this plan.
    pub(super) fn is_possible(plan: &Plan, header: &Header) -> bool {
        let (place, set) = (header.place.get(), header.done.get());
        let is_step = usize::from(place) < plan.steps.len();
        match header.kind() {
            Kind::Start => place == 0 && set | header.active.get() | header.undo.get() == 0,
            Kind::Run => is_step,
            Kind::Done => plan.forward.join_of(place).is_some(),
            Kind::Revoked => place == 0 && header.undo.get() & !plan.compensable == 0,
            Kind::Undo => set & !plan.compensable == 0 && is_step && set & 1 << place != 0,
            Kind::Undone => set & !plan.compensable == 0 && plan.undo(set).join_of(place).is_some(),
            _ => false,
        }
    }
}

/// Coordinators see no bodies; a service hands on what it computed, and of an UNDO just what came.
fn may_carry(consumed: Kind, published: &Header) -> bool {
    published.has(Flags::SPLICE) == (consumed != Kind::Run)
}

/// Whether each section is one that such a message carries, and no larger than the plan declares. So what is put
/// together from several bodies is no larger either.
fn fits(plan: &Plan, message: &Message<'_>) -> bool {
    let carried = match message.header.kind() {
        Kind::Run => plan.steps[usize::from(message.header.place.get())].carry,
        Kind::Done => plan.edge_carry(message.header.place.get()),
        _ => 0,
    };
    message.sections().all(|(key, value)| match key {
        Section::INPUT => value.len() <= plan.input_max,
        0..64 => carried & 1 << key != 0 && value.len() <= plan.steps[usize::from(key)].result_max,
        _ => false,
    })
}

fn after_run(graph: &Graph, token: &Token, out: &mut Vec<Expected>) {
    let step = token.position as u8;
    let done = token.done | 1 << step;
    out.extend(graph.after(step).iter().map(|target| match *target {
        Target::Step(next) => Expected::run(next, done),
        Target::Edge(edge) => Expected { kind: Kind::Done, place: edge, done, active: 0, undo: 0 },
    }));
}

fn after_undo(graph: &Graph, token: &Token, out: &mut Vec<Expected>) {
    let step = token.position as u8;
    let left = token.undo & !(1 << step);
    out.extend(graph.after(step).iter().map(|target| match *target {
        Target::Step(next) => Expected::undo(next, token.done, left),
        Target::Edge(edge) => Expected { kind: Kind::Undone, place: edge, done: token.done, active: 0, undo: left },
    }));
}

/// The members of a set of steps, in ascending order.
pub fn steps(set: u64) -> impl Iterator<Item = u8> {
    let mut left = set;
    std::iter::from_fn(move || {
        let step = (left != 0).then(|| left.trailing_zeros() as u8)?;
        left &= left - 1;
        Some(step)
    })
}
