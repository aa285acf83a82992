//! Queues: tokens that are due, for the service or the coordinator that they are for.
//!
//! A token is `Held` until it is durable, then `Ready` in a queue, then `Leased` to a session until it is consumed. A
//! lease ends with the session, with its time, or when the session says so; the token is then due again, at once the
//! first time and with growing delay from then on. UNDO comes before RUN in every queue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use slotmap::SecondaryMap;
use zerocopy::IntoBytes as _;

use sagacore_core::limits::{BACKOFF_FIRST_MS, BACKOFF_LAST_MS, DELIVERIES_MAX, LEASE_QUEUE_MS};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{Flags, Freed, Header, Kind, Role, Section, Sections};

use super::slices::SPREAD;
use super::suspects::is_suspect;
use super::{Session, Sessions, Slices};
use crate::state::{Place, SessionRef, State, TokenRef};

/// What became of a token whose lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It is due again, now or later, or was not leased at all.
    Again,
    /// It was delivered to its limit without an answer.
    OverLimit(TokenRef),
}

/// Queues are swept when they are longer than this, and than twice all that is in memory.
const TRIM_AT_LEAST: usize = 4_096;

#[derive(Default)]
pub(super) struct ServiceQueue {
    undo: VecDeque<TokenRef>,
    run: VecDeque<TokenRef>,
    pub(super) suspects: VecDeque<TokenRef>,
    pub(super) servers: Vec<SessionRef>,
    /// Whose turn it is.
    next: usize,
}

impl ServiceQueue {
    /// The place of a server that has credit: the next in turn, or, for what was not answered, the next but so many.
    /// Without that two messages may each find, time after time, the one server that does not answer them.
    pub(super) fn server(&self, unanswered: usize, is_free: impl Fn(SessionRef) -> bool) -> Option<usize> {
        let count = self.servers.len();
        let mut turns = (0..count).map(|turn| (self.next + unanswered + turn) % count);
        turns.find(|&index| is_free(self.servers[index]))
    }

    /// The first message goes to this server. Only what goes to it for the first time takes its turn.
    fn take(&mut self, index: usize, unanswered: usize) {
        self.pop();
        if unanswered == 0 {
            self.next = index + 1;
        }
    }

    fn pop(&mut self) {
        if self.undo.pop_front().is_none() {
            self.run.pop_front();
        }
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Queues {
    pub sessions: Sessions,
    pub slices: Slices,
    pub(super) services: Vec<ServiceQueue>,
    coordinators: SecondaryMap<SessionRef, VecDeque<TokenRef>>,
    /// For coordinators while none is connected.
    unowned: VecDeque<TokenRef>,
    delayed: BinaryHeap<Reverse<(u64, TokenRef)>>,
    /// Services whose queue may have something for somebody.
    stirred: Vec<u32>,
    /// What goes with a RUN that is delivered next.
    pub(super) with_run: HashMap<TokenRef, WithRun, FixedState>,
    pub redeliveries: u64,
}

/// What a step that waited is told with its RUN, once: if that is lost, it waits again and is told again.
#[derive(Debug, Default)]
pub struct WithRun {
    /// Who stood in its way and has ended: a section FREED.
    pub freed: Vec<Freed>,
    /// It must not wait again.
    pub wounded: bool,
}

impl Queues {
    /// A token is due: it goes to the end of its queue.
    pub fn enqueue(&mut self, state: &mut State, token: TokenRef) {
        let Some(found) = state.tokens.get(token) else { return };
        if found.kind.is_for_coordinator() {
            self.enqueue_for_coordinator(state, token);
            return;
        }
        let service = state.plan_of(found.saga).services[usize::from(found.position)];
        let is_undo = found.kind == Kind::Undo;
        let queue = self.service(service);
        if is_undo {
            queue.undo.push_back(token)
        } else {
            queue.run.push_back(token)
        }
        state.tokens[token].place = Place::Ready;
        self.stir(service);
    }

    /// A step that waited longer than all that is in memory is due.
    pub(super) fn enqueue_first(&mut self, state: &mut State, token: TokenRef) {
        let found = &mut state.tokens[token];
        found.place = Place::Ready;
        let (saga, kind, position) = (found.saga, found.kind, found.position);
        let service = state.plan_of(saga).services[usize::from(position)];
        let queue = self.service(service);
        if kind == Kind::Undo {
            queue.undo.push_front(token);
        } else {
            queue.run.push_front(token);
        }
        self.stir(service);
    }

    /// Sweeps out what was parked, or has ended, where that is most of a queue; and gives back what it took.
    pub fn trim(&mut self, state: &State) {
        let most = 2 * state.tokens.len() + TRIM_AT_LEAST;
        for service in &mut self.services {
            for queue in [&mut service.undo, &mut service.run, &mut service.suspects] {
                if queue.len() > most {
                    queue.retain(|&token| is_ready(state, token));
                    queue.shrink_to(2 * queue.len());
                }
            }
        }
        self.with_run.retain(|&token, _| is_ready(state, token));
    }

    /// The same of what sessions hold.
    pub fn trim_leases(&mut self, state: &State) {
        for (session, found) in self.sessions.iter_mut() {
            found.leases.trim(|token| is_leased(state, token, session));
        }
    }

    /// What the servers of a service may still be asked for.
    pub(super) fn credit_of(&self, service: usize) -> usize {
        let sessions = self.services[service].servers.iter().filter_map(|&server| self.sessions.get(server));
        sessions.map(|session| session.allowed.saturating_sub(session.delivered)).sum::<u64>() as usize
    }

    /// Messages of it that wait for their turn one by one.
    pub(super) fn suspects_of(&self, service: usize) -> usize {
        self.services[service].suspects.len()
    }

    pub(super) fn waiting_for_coordinators(&self) -> usize {
        self.unowned.len() + self.coordinators.values().map(VecDeque::len).sum::<usize>()
    }

    /// A step need not wait any more: its RUN is due before others, with what it is told.
    pub fn wake(&mut self, state: &mut State, token: TokenRef, with_run: WithRun) {
        let Some(found) = state.tokens.get(token) else { return };
        let service = state.plan_of(found.saga).services[usize::from(found.position)];
        self.with_run.insert(token, with_run);
        self.service(service).run.push_front(token);
        state.tokens[token].place = Place::Ready;
        self.stir(service);
    }

    /// Whether its RUN is due with something that it is told, which is nowhere else.
    pub fn is_told(&self, token: TokenRef) -> bool {
        !self.with_run.is_empty() && self.with_run.contains_key(&token)
    }

    /// The arrivals that a session gives back, and those that are pending beside them, are due one behind the other.
    /// What is leased beside them is on its way, and left alone.
    pub fn gather(&mut self, state: &mut State, given_back: &[TokenRef], beside: &[TokenRef]) {
        let waiting = beside.iter().filter(|token| !matches!(state.tokens[**token].place, Place::Leased(_)));
        let arrivals: Vec<TokenRef> = given_back.iter().chain(waiting).copied().collect();
        for token in arrivals {
            state.tokens[token].unanswered = 0;
            self.enqueue_for_coordinator(state, token);
        }
    }

    fn enqueue_for_coordinator(&mut self, state: &mut State, token: TokenRef) {
        let found = &mut state.tokens[token];
        found.place = Place::Ready;
        let sequence = state.sagas[found.saga].id.sequence.get();
        match self.slices.owner(sequence).and_then(|owner| self.coordinators.get_mut(owner)) {
            Some(queue) => queue.push_back(token),
            None => self.unowned.push_back(token),
        }
    }

    fn service(&mut self, service: u32) -> &mut ServiceQueue {
        let index = service as usize;
        if self.services.len() <= index {
            self.services.resize_with(index + 1, ServiceQueue::default);
        }
        &mut self.services[index]
    }

    /// The sessions that serve a service.
    pub fn servers(&self, service: u32) -> impl Iterator<Item = &Session> {
        let servers = self.services.get(service as usize).map_or(&[][..], |queue| &queue.servers);
        servers.iter().filter_map(|&session| self.sessions.get(session))
    }

    pub(super) fn stir(&mut self, service: u32) {
        if !self.stirred.contains(&service) {
            self.stirred.push(service);
        }
    }

    /// A session began to serve a service, or to coordinate.
    pub fn join(&mut self, state: &mut State, session: SessionRef) {
        let Some(found) = self.sessions.get(session) else { return };
        match (found.role, found.service) {
            (Role::Service, Some(service)) => {
                self.service(service).servers.push(session);
                self.stir(service);
            }
            (Role::Coordinator, _) => {
                self.coordinators.insert(session, VecDeque::new());
                self.slices.join(session);
                self.resettle(state);
            }
            _ => {}
        }
    }

    /// A session is gone: what it had is due again. Tokens over their limit are put into `over_limit`.
    pub fn leave(&mut self, state: &mut State, session: SessionRef, now_ms: u64, over_limit: &mut Vec<TokenRef>) {
        let Some(mut gone) = self.sessions.close(session) else { return };
        if let Some(service) = gone.service {
            let queue = self.service(service);
            queue.servers.retain(|&other| other != session);
            let is_served = !queue.servers.is_empty();
            self.stir(service);
            if !is_served {
                state.plans.unserved(service);
            }
        }
        let queued = self.coordinators.remove(session).unwrap_or_default();
        if gone.role == Role::Coordinator {
            self.slices.leave(session);
            self.unowned.extend(queued);
            self.resettle(state);
        }
        let leased: Vec<_> = gone.leases.drain().map(|(_, token)| token).collect();
        for token in leased {
            if let Released::OverLimit(token) = self.release(state, token, session, now_ms) {
                over_limit.push(token);
            }
        }
    }

    /// Slices moved: what is for another coordinator now goes there.
    fn resettle(&mut self, state: &mut State) {
        state.parked.unlease();
        let mut moved: Vec<TokenRef> = self.unowned.drain(..).collect();
        for &session in self.slices.coordinators() {
            let is_owner = |state: &State, token: TokenRef| {
                let sequence = state.tokens.get(token).map(|token| state.sagas[token.saga].id.sequence.get());
                sequence.and_then(|sequence| self.slices.owner(sequence)) == Some(session)
            };
            if let Some(queue) = self.coordinators.get_mut(session) {
                let (kept, other): (Vec<_>, Vec<_>) = queue.drain(..).partition(|&token| is_owner(state, token));
                queue.extend(kept);
                moved.extend(other);
            }
            let Some(leases) = self.sessions.get_mut(session).map(|session| &mut session.leases) else { continue };
            let leased: Vec<_> = leases.drain().collect();
            for (due_ms, token) in leased {
                if !is_leased(state, token, session) {
                    continue;
                }
                if is_owner(state, token) {
                    leases.push(due_ms, token, |_| true);
                } else {
                    moved.push(token);
                }
            }
        }
        for token in moved {
            if state.tokens.contains_key(token) {
                self.enqueue(state, token);
            }
        }
    }

    /// Takes back the lease of a session on a token.
    pub fn release(&mut self, state: &mut State, token: TokenRef, session: SessionRef, now_ms: u64) -> Released {
        let in_memory = state.tokens.get(token).is_some_and(|token| matches!(token.kind, Kind::Done | Kind::Undone))
            && is_broken(Mutation::ArrivalsInMemory);
        if !is_leased(state, token, session) || in_memory {
            return Released::Again;
        }
        self.redeliveries += 1;
        let unanswered = u32::from(state.tokens[token].unanswered);
        if unanswered <= 1 {
            self.enqueue(state, token);
            return Released::Again;
        }
        if let Some(found) = self.sessions.get_mut(session) {
            found.suspects.failed(token);
        }
        self.delay(state, token, now_ms + backoff_ms(state, token));
        if unanswered >= DELIVERIES_MAX && !is_broken(Mutation::DeliveryLimitIgnored) {
            Released::OverLimit(token)
        } else {
            Released::Again
        }
    }

    /// Delivers a token again at this time.
    pub fn delay(&mut self, state: &mut State, token: TokenRef, due_ms: u64) {
        state.tokens[token].place = Place::Delayed;
        self.delayed.push(Reverse((due_ms, token)));
    }

    /// Ends delays and leases whose time has come.
    pub fn tick(&mut self, state: &mut State, now_ms: u64, over_limit: &mut Vec<TokenRef>) {
        while let Some(&Reverse((due_ms, token))) = self.delayed.peek() {
            if due_ms > now_ms || is_broken(Mutation::DelayNeverEnds) {
                break;
            }
            self.delayed.pop();
            if state.tokens.get(token).is_some_and(|token| token.place == Place::Delayed) {
                self.enqueue(state, token);
            }
        }
        self.stir_suspects();
        let mut ended = Vec::new();
        for service in 0..self.services.len() {
            for &session in &self.services[service].servers {
                let Some(found) = self.sessions.get_mut(session) else { continue };
                while let Some(token) = found.leases.pop_due(now_ms, |token| is_leased(state, token, session)) {
                    ended.push((session, token));
                }
            }
        }
        for (session, token) in ended {
            if let Released::OverLimit(token) = self.release(state, token, session, now_ms) {
                over_limit.push(token);
            }
        }
    }

    /// Delivers what is due to whom has credit.
    pub fn dispatch(&mut self, state: &mut State, now_ms: u64) {
        for service in std::mem::take(&mut self.stirred) {
            let has_more = Self::is_recalled(state, service as usize) && self.recall_awaited(state, service as usize);
            self.dispatch_service(state, service as usize, now_ms);
            if has_more {
                self.stir(service);
            }
        }
        if state.parked() > 0 {
            self.recall_due(state);
        }
        for index in 0..self.slices.coordinators().len() {
            let session = self.slices.coordinators()[index];
            while self.sessions.get(session).is_some_and(|session| session.has_credit()) {
                let Some(token) = self.coordinators.get_mut(session).and_then(VecDeque::pop_front) else { break };
                if is_ready(state, token) {
                    // Together, or a full table could drop each before the other comes, without end.
                    for other in undelivered_beside(state, token) {
                        self.deliver(state, other, session, now_ms);
                    }
                    self.deliver(state, token, session, now_ms);
                }
            }
        }
    }

    fn dispatch_service(&mut self, state: &mut State, service: usize, now_ms: u64) {
        self.dispatch_suspects(state, service, now_ms);
        let mut has_found_suspects = false;
        loop {
            let queue = &mut self.services[service];
            let Some(&token) = queue.undo.front().or_else(|| queue.run.front()) else { break };
            if !is_ready(state, token) {
                queue.pop();
                self.with_run.remove(&token);
                continue;
            }
            if is_suspect(state, token) {
                queue.pop();
                queue.suspects.push_back(token);
                has_found_suspects = true;
                continue;
            }
            let (sessions, unanswered) = (&self.sessions, usize::from(state.tokens[token].unanswered));
            let has_credit = |server| sessions.get(server).is_some_and(Session::has_credit);
            let Some(index) = queue.server(unanswered, has_credit) else { break };
            queue.take(index, unanswered);
            let server = queue.servers[index];
            self.deliver(state, token, server, now_ms);
        }
        if has_found_suspects {
            self.dispatch_suspects(state, service, now_ms);
        }
    }

    pub(super) fn deliver(&mut self, state: &mut State, token: TokenRef, session: SessionRef, now_ms: u64) {
        let mut header = state.header(token);
        let with_run = if self.with_run.is_empty() { None } else { self.with_run.remove(&token) };
        let found = &mut state.tokens[token];
        found.place = Place::Leased(session);
        found.deliveries = found.deliveries.saturating_add(1);
        found.unanswered = found.unanswered.saturating_add(1);
        let saga = &mut state.sagas[found.saga];
        saga.rounds = 0;
        let plan = saga.plan;
        let Some(to) = self.sessions.get_mut(session) else { return };
        to.delivered += 1;
        let is_service = to.role == Role::Service;
        let due_ms = if is_service && !is_broken(Mutation::LeaseNeverEnds) {
            now_ms + to.lease_ms + LEASE_QUEUE_MS
        } else {
            u64::MAX
        };
        to.leases.push(due_ms, token, |token| is_leased(state, token, session));
        if to.needs_plan(plan) {
            let registered = state.plans.get(plan);
            let mut define = Header::new(Kind::Define);
            define.plan = registered.plan.fingerprint.into();
            self.sessions.send(session, define, |body| {
                body.section(Section::DATA, &registered.definition);
            });
        }
        let body: &[u8] = if is_service { &state.tokens[token].body } else { &[] };
        let Some(WithRun { freed, wounded }) = with_run else {
            return self.sessions.send_encoded(session, header, body);
        };
        if wounded {
            header.set(Flags::WOUNDED);
        }
        self.sessions.send(session, header, |out| {
            Sections::parse(body).into_iter().flatten().for_each(|(key, value)| _ = out.section(key, value));
            if !freed.is_empty() {
                out.section(Section::FREED, freed.as_bytes());
            }
        });
    }

    /// A session has credit again.
    pub fn credited(&mut self, session: SessionRef) {
        if let Some(service) = self.sessions.get(session).and_then(|session| session.service) {
            self.stir(service);
        }
    }
}

pub(super) fn is_leased(state: &State, token: TokenRef, session: SessionRef) -> bool {
    state.tokens.get(token).is_some_and(|token| token.place == Place::Leased(session))
}

pub(super) fn is_ready(state: &State, token: TokenRef) -> bool {
    state.tokens.get(token).is_some_and(|token| token.place == Place::Ready)
}

/// How long a redelivery waits: up to half as long again, as its saga and how often say, so that two which came at once
/// do not come at once again.
fn backoff_ms(state: &State, token: TokenRef) -> u64 {
    let unanswered = u32::from(state.tokens[token].unanswered);
    let id = state.sagas[state.tokens[token].saga].id;
    let which = id.sequence.get() ^ u64::from(id.shard.get()) << 48 ^ u64::from(unanswered) << 40;
    let least_ms = (BACKOFF_FIRST_MS << (unanswered - 1).min(16)).min(BACKOFF_LAST_MS);
    let more_ms = (which.wrapping_mul(SPREAD) >> 32) % (least_ms / 2 + 1);
    if is_broken(Mutation::SuspectsTogether) { least_ms } else { least_ms + more_ms }
}

/// The other tokens that the same slot of a coordinator stands for, and that nobody holds.
fn undelivered_beside(state: &State, token: TokenRef) -> Vec<TokenRef> {
    let found = &state.tokens[token];
    if !matches!(found.kind, Kind::Done | Kind::Undone) {
        return Vec::new();
    }
    let is_beside = |&other: &TokenRef| {
        let is_other = other != token;
        let other = &state.tokens[other];
        let undelivered = matches!(other.place, Place::Spilled | Place::Ready | Place::Delayed)
            && !(other.place == Place::Spilled && is_broken(Mutation::SpilledNotRecalled));
        is_other && undelivered && other.kind == found.kind && other.block() == found.block()
    };
    state.tokens_of(found.saga).filter(is_beside).collect()
}

/// A header of this kind that answers a request.
pub fn answer(kind: Kind, correlation: u64, place: u16) -> Header {
    let mut header = Header::new(kind);
    header.amount = correlation.into();
    header.place = place.into();
    header
}
