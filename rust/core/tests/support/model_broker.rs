//! A broker and its services, as simple as the protocol allows: maps of what is pending, judged one transaction at a
//! time. Every message that a coordinator publishes is compared with what it must be.

#![allow(dead_code)] // Each test file uses its own part of this.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sagacore_core::plan::{Graph, Plan, Target, block_of};
use sagacore_core::wire::{
    Flags, Header, Key, Kind, OutcomeCode, Refusal, SagaId, Section, Transaction, TransactionWriter, Transactions,
};

/// Kind and place of a token: within an attempt each is published once.
pub type Name = (u8, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    Ready,
    /// Delivered to this coordinator, or to a service.
    Leased(usize),
    /// Spilled: it comes again with the next one of its block.
    Parked,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub header: Header,
    pub at: Where,
}

#[derive(Debug, Default)]
pub struct Saga {
    pub pending: BTreeMap<Name, Token>,
    pub published: BTreeSet<Name>,
    pub done: u64,
    /// The set to undo, once it is aborted.
    pub aborted: Option<u64>,
    pub undone: u64,
    pub outcome: Option<OutcomeCode>,
    pub owner: usize,
}

/// What the broker knows of a coordinator.
#[derive(Debug, Default)]
pub struct Session {
    pub open: bool,
    pub credit: u64,
    pub delivered: u64,
    told_plan: bool,
    judged: u64,
    answers: Vec<Header>,
    /// Frames on their way to it.
    pub inbox: VecDeque<Vec<u8>>,
}

pub struct Broker {
    pub plan: Plan,
    definition: Vec<u8>,
    pub sagas: Vec<Saga>,
    pub sessions: Vec<Session>,
    pub now_ms: u64,
    pub stale: u64,
    pub parked: u64,
}

impl Broker {
    pub fn new(definition: Vec<u8>, coordinators: usize) -> Self {
        Self {
            plan: Plan::compile(&definition).unwrap(),
            definition,
            sagas: Vec::new(),
            sessions: (0..coordinators).map(|_| Session::default()).collect(),
            now_ms: 1,
            stale: 0,
            parked: 0,
        }
    }

    pub fn start(&mut self, owner: usize) {
        let index = self.sagas.len();
        self.sagas.push(Saga { owner, ..Saga::default() });
        let header = self.header(index, Kind::Start, 0);
        self.publish(index, header);
    }

    /// A token of this saga with the constants that the broker fills in.
    fn header(&self, saga: usize, kind: Kind, place: u16) -> Header {
        let mut header = Header::new(kind);
        header.saga = SagaId::new(0, saga as u64 + 1, 0x5a5a);
        header.plan = self.plan.fingerprint.into();
        header.place = place.into();
        header.age = (saga as u64 + 1).into();
        header
    }

    fn publish(&mut self, saga: usize, mut header: Header) {
        header.age = (saga as u64 + 1).into();
        header.flags = (header.flags.get() & !Flags::SPLICE).into();
        let name = (header.kind, header.place.get());
        assert!(self.sagas[saga].published.insert(name), "{name:?} of saga {saga} was published twice");
        self.sagas[saga].pending.insert(name, Token { header, at: Where::Ready });
    }

    // ---- services ----

    /// The requests that a service could answer now.
    pub fn requests(&self, saga: usize) -> Vec<Name> {
        let kinds = [Kind::Run.code(), Kind::Undo.code()];
        self.sagas[saga].pending.keys().filter(|(kind, _)| kinds.contains(kind)).copied().collect()
    }

    /// The step is done, or undone, and its token travels on.
    pub fn serve(&mut self, saga: usize, name: Name) {
        let token = self.sagas[saga].pending.remove(&name).unwrap().header;
        let step = name.1 as u8;
        if token.kind() == Kind::Undo { self.undo(saga, &token, step) } else { self.run(saga, &token, step) }
    }

    fn run(&mut self, saga: usize, token: &Header, step: u8) {
        let state = &mut self.sagas[saga];
        let ancestors = self.plan.steps[usize::from(step)].ancestors;
        assert_eq!(token.done.get(), ancestors, "RUN({step}) knows what came before it");
        assert_eq!(state.done & (ancestors | 1 << step), ancestors, "RUN({step}) came too early or twice");
        assert_eq!(state.aborted, None);
        state.done |= 1 << step;
        let mut next = *token;
        next.done = (token.done.get() | 1 << step).into();
        if self.plan.pivot == Some(step) {
            next.set(Flags::PIVOTED);
        }
        for target in self.plan.forward.after(step).to_vec() {
            next.active = 0.into();
            match target {
                Target::Step(after) => {
                    next.active = (1 << after).into();
                    self.publish(saga, at(next, Kind::Run, after.into()));
                }
                Target::Edge(edge) => self.publish(saga, at(next, Kind::Done, edge)),
            }
        }
    }

    fn undo(&mut self, saga: usize, token: &Header, step: u8) {
        let state = &mut self.sagas[saga];
        let set = state.aborted.expect("UNDO without an abort");
        let (done, left) = (token.done.get(), token.undo.get());
        assert_eq!((done, token.active.get()), (set, 0), "UNDO carries the set to undo");
        assert!(left & !set == 0 && left & 1 << step != 0, "UNDO({step}) is still to be undone");
        assert_eq!(set & !left & !state.undone, 0, "UNDO({step}) claims more than was undone");
        assert_eq!(state.undone & 1 << step, 0, "UNDO({step}) came twice");
        state.undone |= 1 << step;
        let mut next = *token;
        next.undo = (left & !(1 << step)).into();
        for target in self.plan.undo(set).after(step).to_vec() {
            match target {
                Target::Step(after) => self.publish(saga, at(next, Kind::Undo, after.into())),
                Target::Edge(edge) => self.publish(saga, at(next, Kind::Undone, edge)),
            }
        }
    }

    /// Aborts a saga, as a rejection of `rejected` or as a cancellation. Says whether it could be.
    pub fn abort(&mut self, saga: usize, rejected: Option<Name>, wide: bool) -> bool {
        let plan = &self.plan;
        let state = &mut self.sagas[saga];
        let deciding = |step| (Kind::Run.code(), u16::from(step));
        let decided = plan
            .pivot
            .is_some_and(|pivot| state.done & 1 << pivot != 0 || state.pending.contains_key(&deciding(pivot)));
        if state.aborted.is_some() || state.outcome.is_some() || decided {
            return false;
        }
        let reached = state.pending.values().fold(0, |set, t| set | t.header.done.get() | t.header.active.get());
        let clean = rejected.map_or(0, |(_, step)| 1 << step);
        let set = plan.compensable & if wide { u64::MAX } else { reached & !clean };
        assert_eq!(state.done & plan.compensable & !set, 0, "a step was done that no token names");
        state.pending.clear();
        state.aborted = Some(set);
        let mut revoked = self.header(saga, Kind::Revoked, 0);
        (revoked.done, revoked.undo) = (reached.into(), set.into());
        if wide {
            revoked.set(Flags::WIDE);
        }
        self.publish(saga, revoked);
        true
    }

    // ---- sessions ----

    /// Whatever is delivered to a coordinator, or on its way there, is to be delivered again.
    pub fn close(&mut self, coordinator: usize) {
        self.sessions[coordinator] = Session::default();
        let tokens = self.sagas.iter_mut().flat_map(|saga| saga.pending.values_mut());
        for token in tokens.filter(|token| token.at == Where::Leased(coordinator)) {
            token.at = Where::Ready;
        }
    }

    /// Deals a saga to another coordinator: all that is pending there is delivered to the new owner.
    pub fn deal(&mut self, saga: usize, owner: usize) {
        self.sagas[saga].owner = owner;
        for token in self.sagas[saga].pending.values_mut() {
            token.at = Where::Ready;
        }
    }

    /// A lease lapses: the token is delivered again.
    pub fn lapse(&mut self, saga: usize, name: Name) {
        let token = self.sagas[saga].pending.get_mut(&name).unwrap();
        if matches!(token.at, Where::Leased(_)) {
            token.at = Where::Ready;
        }
    }

    /// What could be delivered to this coordinator now.
    pub fn deliverable(&self, coordinator: usize) -> Vec<(usize, Name)> {
        let session = &self.sessions[coordinator];
        if !session.open || session.delivered >= session.credit {
            return Vec::new();
        }
        let sagas = self.sagas.iter().enumerate().filter(|(_, saga)| saga.owner == coordinator);
        let tokens = sagas.flat_map(|(index, saga)| saga.pending.iter().map(move |(name, token)| (index, name, token)));
        let due = tokens.filter(|(_, _, token)| {
            let for_us = token.header.kind().is_for_coordinator();
            for_us && token.at == Where::Ready
        });
        due.map(|(index, name, _)| (index, *name)).collect()
    }

    /// Delivers a token, `copies` times. What is parked of its block comes before it, and what else is ready of it
    /// unless the token comes alone: a ready one may not have been durable yet.
    pub fn deliver(&mut self, coordinator: usize, (saga, name): (usize, Name), copies: usize, alone: bool) {
        let together = self.together(saga, name, alone);
        let mut messages = Vec::new();
        for name in together {
            let token = self.sagas[saga].pending.get_mut(&name).unwrap();
            token.at = Where::Leased(coordinator);
            messages.push(token.header);
            let deliveries = token.header.deliveries.get();
            token.header.deliveries = (deliveries + 1).into();
        }
        let session = &mut self.sessions[coordinator];
        session.delivered += messages.len() as u64;
        let mut frame = Vec::new();
        if !std::mem::replace(&mut session.told_plan, true) {
            let mut define = Header::new(Kind::Define);
            define.plan = self.plan.fingerprint.into();
            let mut transaction = TransactionWriter::new(&mut frame, 0);
            transaction.publish_with(define, |body| {
                body.section(Section::DATA, &self.definition);
            });
            transaction.finish();
        }
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        for header in messages.iter().cycle().take(messages.len() * copies) {
            transaction.publish(*header);
        }
        transaction.finish();
        session.inbox.push_back(frame);
    }

    fn together(&self, saga: usize, name: Name, alone: bool) -> Vec<Name> {
        let same_block = |other: &Name| other.0 == name.0 && block_of(other.1) == block_of(name.1);
        let pending = self.sagas[saga].pending.iter();
        let comes_too = |at: Where| at == Where::Parked || (!alone && at == Where::Ready);
        let beside = pending.filter(|(other, token)| **other != name && same_block(other) && comes_too(token.at));
        beside.map(|(other, _)| *other).chain([name]).collect()
    }

    /// Sends the answers that are due: they come after whatever was delivered before.
    pub fn answer(&mut self, coordinator: usize) {
        let session = &mut self.sessions[coordinator];
        if !session.open {
            return;
        }
        let mut confirm = Header::new(Kind::Confirm);
        confirm.amount = session.judged.into();
        let answers: Vec<Header> = session.answers.drain(..).chain([confirm]).collect();
        for answers in answers.chunks(100) {
            let mut frame = Vec::new();
            let mut transaction = TransactionWriter::new(&mut frame, 0);
            answers.iter().for_each(|answer| {
                transaction.publish(*answer);
            });
            transaction.finish();
            session.inbox.push_back(frame);
        }
    }

    // ---- what coordinators send ----

    pub fn receive(&mut self, coordinator: usize, frame: &[u8]) {
        for transaction in Transactions::parse(frame).unwrap() {
            let transaction = transaction.unwrap();
            if transaction.number == 0 {
                transaction.messages().for_each(|message| self.control(coordinator, message.header));
            } else if !self.sessions[coordinator].open {
                self.push(coordinator, refused(0, Refusal::NoSession));
            } else {
                let accepted = self.judge(coordinator, &transaction);
                self.sessions[coordinator].judged = transaction.number;
                if !accepted {
                    self.stale += 1;
                    self.take_back(coordinator, transaction.consumes);
                    self.sessions[coordinator].answers.push(refused(transaction.number, Refusal::Stale));
                }
            }
        }
    }

    fn control(&mut self, coordinator: usize, header: &Header) {
        match header.kind() {
            Kind::Subscribe => {
                self.close(coordinator);
                let session = &mut self.sessions[coordinator];
                (session.open, session.credit) = (true, header.done.get());
                let mut welcome = Header::new(Kind::Subscribe);
                welcome.amount = 1.into();
                self.push(coordinator, welcome);
            }
            _ if !self.sessions[coordinator].open => self.push(coordinator, refused(0, Refusal::NoSession)),
            Kind::Credit => {
                let session = &mut self.sessions[coordinator];
                assert!(session.credit <= header.amount.get(), "credit never shrinks");
                session.credit = header.amount.get();
            }
            kind => assert_eq!(kind, Kind::Ping),
        }
    }

    fn push(&mut self, coordinator: usize, header: Header) {
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        transaction.publish(header);
        transaction.finish();
        self.sessions[coordinator].inbox.push_back(frame);
    }

    fn judge(&mut self, coordinator: usize, transaction: &Transaction<'_>) -> bool {
        let keys = transaction.consumes;
        let published: Vec<Header> = transaction.messages().map(|message| *message.header).collect();
        assert!(!keys.is_empty() && !published.is_empty());
        let saga = keys[0].saga.sequence.get() as usize - 1;
        assert!(keys.iter().all(|key| key.saga == keys[0].saga), "one transaction, one saga");
        assert!(keys.windows(2).all(|pair| pair[0].place.get() < pair[1].place.get()), "keys ascend");
        let names: Vec<Name> = keys.iter().map(|key| (key.kind, key.place.get())).collect();
        if !names.iter().all(|name| self.sagas[saga].pending.contains_key(name)) {
            return false;
        }
        match published[0].kind() {
            Kind::Spill => self.judge_spill(coordinator, saga, &names, &published),
            _ => {
                self.move_on(saga, &names, &published);
                true
            }
        }
    }

    /// Accepted if this session holds them and they are all of the block that are pending for a coordinator.
    fn judge_spill(&mut self, coordinator: usize, saga: usize, names: &[Name], published: &[Header]) -> bool {
        let [spill] = published else { panic!("SPILL stands alone") };
        assert_eq!((spill.saga.sequence.get(), spill.plan.get()), (saga as u64 + 1, self.plan.fingerprint));
        assert!(names.iter().all(|&(kind, place)| kind == names[0].0 && block_of(place) == spill.place.get()));
        let pending = &mut self.sagas[saga].pending;
        let held = names.iter().all(|name| pending[name].at == Where::Leased(coordinator));
        let block = |name: &&Name| name.0 == names[0].0 && block_of(name.1) == spill.place.get();
        if !held || pending.keys().filter(block).count() != names.len() {
            return false;
        }
        names.iter().for_each(|name| pending.get_mut(name).unwrap().at = Where::Parked);
        self.parked += 1;
        true
    }

    /// The first in log order wins, whoever sent it: all that counts is that everything consumed is pending.
    fn move_on(&mut self, saga: usize, names: &[Name], published: &[Header]) {
        let consumed: Vec<Header> =
            names.iter().map(|name| self.sagas[saga].pending.remove(name).unwrap().header).collect();
        let expected = self.expected(saga, names, &consumed);
        assert_eq!(published, expected, "after {consumed:?}");
        for header in expected {
            if header.kind() == Kind::Result {
                self.end(saga, &header);
            } else {
                self.publish(saga, header);
            }
        }
    }

    fn expected(&self, saga: usize, names: &[Name], consumed: &[Header]) -> Vec<Header> {
        let first = &consumed[0];
        let mut next = self.header(saga, first.kind(), 0);
        next.age = 0.into();
        next.flags = consumed.iter().fold(Flags::SPLICE, |flags, header| flags | header.flags.get()).into();
        let union = consumed.iter().fold(0, |set, header| set | header.done.get());
        let left = consumed.iter().fold(u64::MAX, |set, header| set & header.undo.get());
        let forward = matches!(first.kind(), Kind::Start | Kind::Done);
        let set = if first.kind() == Kind::Revoked { left } else { union };
        next.done = set.into();
        next.undo = if forward { 0 } else { left }.into();
        let graph = if forward { None } else { Some(self.plan.undo(set)) };
        let graph: &Graph = graph.as_deref().unwrap_or(&self.plan.forward);
        let targets = match first.kind() {
            Kind::Start | Kind::Revoked => graph.roots,
            _ => {
                let join = graph.join_of(first.place.get()).unwrap();
                let edges = (0..64).filter(|bit| join.mask & (1 << bit) != 0).map(|bit| join.block * 64 + bit);
                assert!(edges.eq(names.iter().map(|name| name.1)), "a join consumes all its edges and no other");
                join.target.map_or(0, |step| 1 << step)
            }
        };
        if targets == 0 {
            let outcome = if forward { OutcomeCode::Completed } else { OutcomeCode::Compensated };
            return vec![at(next, Kind::Result, outcome.code())];
        }
        let steps = (0..64u16).filter(|step| targets & (1 << step) != 0);
        let request = |step: u16| {
            next.active = if forward { 1 << step } else { 0u64 }.into();
            at(next, if forward { Kind::Run } else { Kind::Undo }, step)
        };
        steps.map(request).collect()
    }

    fn end(&mut self, saga: usize, result: &Header) {
        let state = &mut self.sagas[saga];
        let outcome = OutcomeCode::from_code(result.place.get()).unwrap();
        assert_eq!(state.outcome.replace(outcome), None, "a saga ends once");
        assert!(state.pending.is_empty(), "it ended with {:?} pending", state.pending);
        match outcome {
            OutcomeCode::Completed => assert_eq!((state.done, state.aborted), (self.plan.forward.members, None)),
            OutcomeCode::Compensated => assert_eq!(Some(state.undone), state.aborted),
        }
    }

    /// A refusal gives back what is still pending of what the transaction named.
    fn take_back(&mut self, coordinator: usize, keys: &[Key]) {
        for key in keys {
            let saga = key.saga.sequence.get() as usize - 1;
            let token = self.sagas[saga].pending.get_mut(&(key.kind, key.place.get()));
            if let Some(token) = token.filter(|token| token.at == Where::Leased(coordinator)) {
                token.at = Where::Ready;
            }
        }
    }
}

fn at(mut header: Header, kind: Kind, place: u16) -> Header {
    header.kind = kind.code();
    header.place = place.into();
    header.deliveries = 0.into();
    header
}

fn refused(number: u64, refusal: Refusal) -> Header {
    let mut header = Header::new(Kind::Refused);
    header.amount = number.into();
    header.place = refusal.code().into();
    header
}
