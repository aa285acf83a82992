//! Waiting across shards: brokers ask each other who is over, and follow the path of those that wait for each other.
//!
//! ```text
//! a step waits for a saga of another shard
//!   chase     PROBE to that shard's broker: is it over? The path so far is the step that waits
//! PROBE      somebody there waits for a saga here
//!   over      WAKE, once that is durable
//!   watched   else that shard is told when it is
//!   pursue    the path goes on over all that the saga waits for; where that is in another shard, by a PROBE
//!   cycle     where it comes back to the path's first: the youngest is to give way, and its broker looks again
//! WAKE       somebody there is over: who waits for it here is woken
//! ```
//! This is edge chasing (K. M. Chandy, J. Misra, L. M. Haas 1983). Whoever begins to wait begins a chase, so whichever
//! edge is the last of a cycle, its chase comes around. A message that is lost is repeated: as long as a step waits for
//! another shard, it asks each `WAIT_REFRESH_MS`; if there is no process to carry that, its RUN is delivered again.

use std::collections::{BTreeMap, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use sagacore_core::limits::{PROBE_PATH_MAX, PROBES_MAX, PROBES_SEEN_MAX, SHARDS_MAX, WAIT_REFRESH_MS, WATCHED_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{
    Flags, Header, HoldMode, Holder, Kind, Message, ProbeHop, Refusal, Role, SagaId, Section, Seniority, WHOLE_SAGA,
    WaitPolicy, seniority,
};

use super::table::{Over, Waiter};
use super::{Broker, Effect, Hop, Judged, Refused, Standing};
use crate::delivery::Fifo;
use crate::state::{Place, SagaRef, SessionRef, TokenRef};

/// A chase: the shard that began it, and its number there.
type Chase = (u16, u64);

/// What a broker knows of the others. Volatile.
#[derive(Debug, Default)]
pub struct Across {
    /// By shard, the session of a process that has one there too, as it has shown.
    routes: BTreeMap<u16, SessionRef>,
    /// By sequence of a saga of this shard, the shards whose steps wait for it.
    watched: HashMap<u64, (SagaId, Vec<u16>), FixedState>,
    /// Steps that wait for other shards and when they ask again, each with the number of its wait.
    asking: Fifo<(TokenRef, u64)>,
    /// Edges to other shards that a chase has passed.
    seen: HashSet<(Chase, TokenRef), FixedState>,
    seen_since_ms: u64,
    pub(super) chases: u64,
}

impl Across {
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    pub fn is_watched(&self, sequence: u64) -> bool {
        !self.watched.is_empty() && self.watched.contains_key(&sequence)
    }

    fn learn(&mut self, shard: u16, session: SessionRef) {
        if self.routes.len() < SHARDS_MAX || self.routes.contains_key(&shard) {
            self.routes.insert(shard, session);
        }
    }

    fn watch(&mut self, saga: SagaId, shard: u16) {
        if self.watched.len() >= WATCHED_MAX {
            return;
        }
        let (_, shards) = self.watched.entry(saga.sequence.get()).or_insert((saga, Vec::new()));
        if !shards.contains(&shard) {
            shards.push(shard);
        }
    }

    /// False where the chase has passed this edge before, or too many have passed any.
    fn pass(&mut self, chase: Chase, edge: TokenRef) -> bool {
        self.seen.len() < PROBES_SEEN_MAX && self.seen.insert((chase, edge))
    }
}

/// One way on from a path: over these steps of this shard, the last of which waits for somebody.
struct Way {
    steps: Vec<(SagaRef, TokenRef)>,
    to: Holder,
}

impl Broker {
    /// What a process of a service carries from another shard's broker.
    pub(in crate::broker) fn hear_across(
        &mut self,
        session: SessionRef,
        message: &Message<'_>,
        time_ms: u64,
    ) -> Judged {
        let header = message.header;
        if self.queues.sessions.get(session).map(|session| session.role) != Some(Role::Service) {
            return Err(Refused(Refusal::Forbidden, "only services carry this"));
        }
        let from = u16::try_from(header.done.get()).ok().filter(|&from| from != self.state.shard);
        let is_for_us = header.active.get() == u64::from(self.state.shard);
        let (Some(from), true) = (from, is_for_us) else {
            return Err(Refused(Refusal::Mismatch, "it is for another shard, or from this one"));
        };
        self.waiting.across.learn(from, session);
        if header.kind() == Kind::Wake {
            let place = Some(header.place.get()).filter(|&place| place != WHOLE_SAGA);
            let saga = (header.saga.shard.get(), header.saga.sequence.get());
            if saga.0 == from {
                self.hand_on(Over { saga, attempt: header.attempt.get(), place });
            }
            return Ok(());
        }
        let path = message.sections().get(Section::DATA).and_then(ProbeHop::read_all);
        let path = path.ok_or(Refused(Refusal::Mismatch, "a PROBE tells its path"))?;
        if header.undo.get() == 0 {
            self.probed(from, header, path, time_ms);
        } else if let Some(at) = path.iter().position(|hop| hop.wait == header.undo.get() && hop.saga == header.saga) {
            self.give_way(at, &path, time_ms);
        }
        Ok(())
    }

    /// Processes that name sagas of another shard have a session there.
    pub(super) fn learn_routes(&mut self, session: SessionRef, holders: &[Holder]) {
        for shard in holders.iter().map(|holder| holder.saga.shard.get()).filter(|&shard| shard != self.state.shard) {
            self.waiting.across.learn(shard, session);
        }
    }

    pub(super) fn has_route(&self, shard: u16) -> bool {
        let route = self.waiting.across.routes.get(&shard);
        route.is_some_and(|&session| self.queues.sessions.get(session).is_some())
    }

    fn tell_across(&mut self, to: u16, mut header: Header, data: &[u8]) {
        let Some(&session) = self.waiting.across.routes.get(&to) else { return };
        header.active = u64::from(to).into();
        header.done = u64::from(self.state.shard).into();
        self.queues.sessions.send(session, header, |body| {
            if !data.is_empty() {
                body.section(Section::DATA, data);
            }
        });
    }

    /// A step waits: those of other shards in its way are asked whether they are over, and whether they wait for it.
    pub(super) fn chase(&mut self, token: TokenRef, time_ms: u64) {
        let Some(waiter) = self.waiting.get(token) else { return };
        let (number, wounds) = (waiter.number, waiter.wounds);
        let holders: Vec<Holder> = waiter.live().map(|edge| edge.holder).collect();
        let saga = self.state.tokens[token].saga;
        let id = self.state.sagas[saga].id;
        let is_foreign = |holder: &Holder| holder.saga.shard.get() != id.shard.get();
        self.waiting.across.chases += 1;
        let chase = (id.shard.get(), self.waiting.across.chases);
        let path = vec![self.probe_hop((saga, token), time_ms)];
        for holder in holders.iter().filter(|holder| is_foreign(holder)) {
            self.probe(chase, *holder, &path, wounds);
        }
        if holders.iter().any(is_foreign) {
            let waiting = &self.waiting.waiters;
            let still = |(token, number)| waiting.get(&token).is_some_and(|waiter: &Waiter| waiter.number == number);
            self.waiting.across.asking.push(time_ms + WAIT_REFRESH_MS, (token, number), still);
        }
        let sequence = id.sequence.get();
        let is_awaited =
            self.waiting.is_awaited((id.shard.get(), sequence)) || self.waiting.across.is_watched(sequence);
        if is_awaited && self.config.detect_deadlocks {
            let next = holders.iter().filter_map(|holder| self.state.saga(holder.saga)).collect();
            self.pursue(chase, path, next, time_ms);
        }
    }

    /// Asks about somebody of another shard.
    fn probe(&mut self, (_, number): Chase, holder: Holder, path: &[ProbeHop], wounds: bool) {
        let mut header = Header::new(Kind::Probe);
        header.saga = holder.saga;
        header.attempt = holder.attempt.into();
        header.place = holder.place.into();
        header.amount = number.into();
        if wounds && self.config.detect_deadlocks {
            header.set(Flags::WOUNDED);
        }
        self.tell_across(holder.saga.shard.get(), header, &ProbeHop::write_all(path));
    }

    /// Another shard asks about a saga of this one.
    fn probed(&mut self, from: u16, header: &Header, path: Vec<ProbeHop>, time_ms: u64) {
        let holder = Holder { saga: header.saga, attempt: header.attempt.get(), place: header.place.get() };
        self.recall_holder(&holder);
        match self.state.standing(&holder) {
            Standing::Foreign => return,
            Standing::Ended => return self.owe_wake(from, &Holder { place: WHOLE_SAGA, ..holder }),
            Standing::Undone => return self.owe_wake(from, &holder),
            Standing::Live => self.waiting.across.watch(holder.saga, from),
        }
        let Some(saga) = self.state.saga(holder.saga).filter(|_| self.config.detect_deadlocks) else { return };
        if header.has(Flags::WOUNDED)
            && let Some(waiter) = path.last()
        {
            self.wound_for(saga, waiter, time_ms);
        }
        if !self.state.sagas.contains_key(saga) {
            return;
        }
        let chase = (path[0].saga.shard.get(), header.amount.get());
        if holder.saga != path[0].saga {
            self.pursue(chase, path, vec![saga], time_ms);
        } else if path.get(1).is_some_and(|next| self.still_waits(&path[0], next).is_some()) {
            self.break_across(chase, &path, time_ms);
        }
    }

    /// An older saga of another shard does not wait for a younger one that can give way.
    fn wound_for(&mut self, saga: SagaRef, waiter: &ProbeHop, time_ms: u64) {
        let found = &self.state.sagas[saga];
        let is_younger = seniority(found.age, found.id) > rank(waiter);
        if !is_younger || !self.state.may_abort(saga) {
            return;
        }
        let holds = Hop { saga: found.id, ..told(waiter) };
        let number = self.waiting.deadlocks.add(time_ms, holds.saga, 0, true, vec![told(waiter), holds]);
        self.abort_victim(saga, vec![whole(waiter)], number, time_ms);
    }

    /// Follows a path on, from sagas of this shard that its last one waits for.
    fn pursue(&mut self, chase: Chase, path: Vec<ProbeHop>, from: Vec<SagaRef>, time_ms: u64) {
        let (cycles, ways) = self.ways_on(path[0].saga, from);
        // All of it before anybody gives way.
        let cycles: Vec<_> = cycles.iter().map(|way| self.extended(&path, way, time_ms)).collect();
        let paths = ways.into_iter().take(PROBES_MAX);
        let paths: Vec<_> = paths.map(|way| (self.extended(&path, &way, time_ms), way)).collect();
        let mut victims: Vec<SagaId> = Vec::new();
        let gave_way = |path: &[ProbeHop], victims: &[SagaId]| path.iter().any(|hop| victims.contains(&hop.saga));
        for cycle in cycles {
            let is_across = cycle.iter().any(|hop| hop.saga.shard.get() != self.state.shard);
            if is_across && cycle.len() <= PROBE_PATH_MAX && !gave_way(&cycle, &victims) {
                victims.extend(self.break_across(chase, &cycle, time_ms));
            }
        }
        for (path, way) in paths {
            let Some(&(_, edge)) = way.steps.last() else { continue };
            let goes_on = path.len() < PROBE_PATH_MAX && !gave_way(&path, &victims);
            if goes_on && self.waiting.across.pass(chase, edge) {
                self.probe(chase, way.to, &path, false);
            }
        }
    }

    /// The ways from some sagas of this shard back to the first of a path, and on to other shards.
    fn ways_on(&self, first: SagaId, from: Vec<SagaRef>) -> (Vec<Way>, Vec<Way>) {
        let (mut cycles, mut ways) = (Vec::new(), Vec::new());
        let mut steps_to: HashMap<SagaRef, Vec<(SagaRef, TokenRef)>, FixedState> = HashMap::default();
        let mut queue: VecDeque<SagaRef> = from.into();
        while let Some(saga) = queue.pop_front() {
            let before = steps_to.get(&saga).cloned().unwrap_or_default();
            if self.state.sagas[saga].id == first || before.len() >= PROBE_PATH_MAX {
                continue;
            }
            for token in self.state.tokens_of(saga).filter(|&token| self.state.tokens[token].place == Place::Blocked) {
                let steps: Vec<_> = before.iter().copied().chain([(saga, token)]).collect();
                for edge in self.waiting.get(token).into_iter().flat_map(Waiter::live) {
                    let to = edge.holder;
                    match self.state.standing(&to) {
                        Standing::Foreign => ways.push(Way { steps: steps.clone(), to }),
                        Standing::Live if to.saga == first => cycles.push(Way { steps: steps.clone(), to }),
                        Standing::Live => {}
                        Standing::Ended | Standing::Undone => continue,
                    }
                    if let Some(next) = self.state.saga(to.saga).filter(|next| !steps_to.contains_key(next)) {
                        steps_to.insert(next, steps.clone());
                        queue.push_back(next);
                    }
                }
            }
        }
        (cycles, ways)
    }

    fn extended(&self, path: &[ProbeHop], way: &Way, time_ms: u64) -> Vec<ProbeHop> {
        let here = way.steps.iter().map(|&step| self.probe_hop(step, time_ms));
        path.iter().cloned().chain(here).collect()
    }

    fn probe_hop(&self, (saga, token): (SagaRef, TokenRef), time_ms: u64) -> ProbeHop {
        let found = &self.state.sagas[saga];
        let Hop { service, resource, .. } = self.hop((saga, token));
        let (wait, since_ms) = self.waiting.get(token).map_or((0, 0), |waiter| (waiter.number, waiter.since_ms));
        ProbeHop {
            saga: found.id,
            attempt: found.attempt,
            wait,
            waited_ms: time_ms.saturating_sub(since_ms),
            may_abort: self.state.may_abort(saga),
            service,
            resource,
        }
    }

    /// The youngest of a cycle gives way that may, and never the oldest: here, or where its broker is. Gives it.
    fn break_across(&mut self, (_, number): Chase, cycle: &[ProbeHop], time_ms: u64) -> Option<SagaId> {
        let oldest = (0..cycle.len()).min_by_key(|&at| rank(&cycle[at]))?;
        let others = || (0..cycle.len()).filter(|&at| at != oldest);
        let abort = others().filter(|&at| cycle[at].may_abort).max_by_key(|&at| rank(&cycle[at]));
        // All the others decide: of what waits, only a pivot can say no.
        let at = abort.or_else(|| others().max_by_key(|&at| rank(&cycle[at])))?;
        let victim = &cycle[at];
        if victim.saga.shard.get() == self.state.shard {
            self.give_way(at, cycle, time_ms);
        } else {
            let mut header = Header::new(Kind::Probe);
            header.saga = victim.saga;
            header.attempt = victim.attempt.into();
            header.place = WHOLE_SAGA.into();
            header.amount = number.into();
            header.undo = victim.wait.into();
            self.tell_across(victim.saga.shard.get(), header, &ProbeHop::write_all(cycle));
        }
        Some(victim.saga)
    }

    /// A saga of a cycle is to give way, if it still waits as it did when the probe passed it.
    fn give_way(&mut self, at: usize, cycle: &[ProbeHop], time_ms: u64) {
        let (victim, next) = (&cycle[at], &cycle[(at + 1) % cycle.len()]);
        let Some((saga, token)) = self.still_waits(victim, next) else {
            let is_known = self.waiting.deadlocks.has_given_way(victim.saga, victim.wait);
            self.waiting.deadlocks.phantoms += u64::from(!is_known && self.config.detect_deadlocks);
            return;
        };
        let others = cycle.iter().filter(|hop| hop.saga != victim.saga);
        let lost_to = others.map(whole).collect();
        // Since the last of them began to wait, but for what the probe took on its way from that one.
        let own_ms = self.waiting.get(token).map_or(0, |waiter| time_ms.saturating_sub(waiter.since_ms));
        let waited_ms = cycle.iter().filter(|hop| hop.saga != victim.saga).map(|hop| hop.waited_ms).min();
        let closed_ms = time_ms.saturating_sub(own_ms.min(waited_ms.unwrap_or(own_ms)));
        let hops = cycle.iter().map(told).collect();
        let number = self.waiting.deadlocks.add(closed_ms, victim.saga, victim.wait, false, hops);
        if self.state.may_abort(saga) {
            self.abort_victim(saga, lost_to, number, time_ms);
        } else {
            self.wound_pivot(saga, token, lost_to, number);
        }
    }

    fn still_waits(&self, hop: &ProbeHop, next: &ProbeHop) -> Option<(SagaRef, TokenRef)> {
        let saga = self.state.saga(hop.saga)?;
        if is_broken(Mutation::ProbeVictimUnchecked) && self.state.may_abort(saga) {
            return self.state.tokens_of(saga).next().map(|token| (saga, token));
        }
        if self.state.sagas[saga].attempt != hop.attempt {
            return None;
        }
        let is_it = |&token: &TokenRef| {
            let is_blocked = self.state.tokens[token].place == Place::Blocked;
            let waiter = if is_blocked { self.waiting.get(token) } else { None };
            waiter.is_some_and(|waiter| {
                waiter.number == hop.wait && waiter.live().any(|edge| self.is_in_the_way(&edge.holder, next))
            })
        };
        self.state.tokens_of(saga).find(is_it).map(|token| (saga, token))
    }

    /// Whether a holder is a saga of a path, at the attempt that it was at then, and not over as far as is known here.
    fn is_in_the_way(&self, holder: &Holder, hop: &ProbeHop) -> bool {
        let is_live = matches!(self.state.standing(holder), Standing::Live | Standing::Foreign);
        is_live && holder.saga == hop.saga && holder.attempt == hop.attempt
    }

    /// Tells another shard that somebody is over, once that is durable.
    fn owe_wake(&mut self, to: u16, holder: &Holder) {
        self.effects.push_back((self.lsn(), Effect::WakeAcross(to, *holder)));
    }

    pub(in crate::broker) fn wake_across(&mut self, to: u16, holder: &Holder) {
        let mut header = Header::new(Kind::Wake);
        header.saga = holder.saga;
        header.attempt = holder.attempt.into();
        header.place = holder.place.into();
        self.tell_across(to, header, &[]);
    }

    /// Somebody of this shard is durably out of the way: shards that wait for it are told.
    pub(super) fn hand_on_across(&mut self, over: Over) {
        let (shard, sequence) = over.saga;
        if shard != self.state.shard {
            return;
        }
        let Some((saga, shards)) = self.waiting.across.watched.get(&sequence).cloned() else { return };
        if over.place.is_none() {
            self.waiting.across.watched.remove(&sequence);
        }
        let holder = Holder { saga, attempt: over.attempt, place: over.place.unwrap_or(WHOLE_SAGA) };
        for to in shards {
            self.wake_across(to, &holder);
        }
    }

    /// Steps that wait for other shards ask again: what was said of them may be lost.
    pub(in crate::broker) fn tick_across(&mut self, time_ms: u64) {
        let across = &mut self.waiting.across;
        if time_ms.saturating_sub(across.seen_since_ms) >= WAIT_REFRESH_MS {
            across.seen.clear();
            across.seen_since_ms = time_ms;
        }
        loop {
            let waiting = &self.waiting.waiters;
            let still = |(token, number)| waiting.get(&token).is_some_and(|waiter: &Waiter| waiter.number == number);
            let Some((token, _)) = self.waiting.across.asking.pop_due(time_ms, still) else { return };
            if is_broken(Mutation::ProbeNotRepeated) {
                continue;
            }
            let edges: Vec<Holder> =
                self.waiting.get(token).into_iter().flat_map(Waiter::live).map(|e| e.holder).collect();
            let mut shards = edges.iter().map(|holder| holder.saga.shard.get());
            if shards.all(|shard| shard == self.state.shard || self.has_route(shard)) {
                self.chase(token, time_ms);
            } else {
                self.wake(token);
            }
        }
    }
}

/// Whether an older saga that asks so does not wait for a younger one.
pub(super) fn wounds(policy: WaitPolicy, mode: HoldMode) -> bool {
    policy == WaitPolicy::WoundWait || mode != HoldMode::Exclusive
}

/// A saga's age is its sequence, whatever its attempt.
fn rank(hop: &ProbeHop) -> Seniority {
    seniority(hop.saga.sequence.get(), hop.saga)
}

fn whole(hop: &ProbeHop) -> Holder {
    Holder { saga: hop.saga, attempt: hop.attempt, place: WHOLE_SAGA }
}

fn told(hop: &ProbeHop) -> Hop {
    Hop { saga: hop.saga, service: hop.service.clone(), resource: hop.resource.clone() }
}
