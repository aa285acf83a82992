//! Cycles of sagas that wait for each other, found when the edge that closes them comes, and who gives way.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use sagacore_core::limits::{CYCLE_TOLD_MAX, HOLDERS_NAMED_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{CauseCode, HoldMode, Holder, WHOLE_SAGA, WaitPolicy};

use super::table::{Waiter, key_of};
use super::{Broker, Effect, Hop, Standing};
use crate::delivery::WithRun;
use crate::state::{Place, SagaRef, TokenRef};

/// One step of the way around a cycle: a saga, and by which of its steps it waits for the next one.
type Link = (SagaRef, TokenRef);

/// Who gives way, and how.
enum Victim {
    /// It is aborted.
    Abort(usize),
    /// It waits at its pivot, which alone can still say no: it is told to.
    Wound(usize),
}

impl Broker {
    /// A step has begun to wait: whoever must give way because of that does.
    pub(super) fn resolve_deadlocks(&mut self, token: TokenRef, policy: WaitPolicy, time_ms: u64) {
        let Some(waiter) = self.waiting.get(token) else { return };
        if policy == WaitPolicy::WoundWait || waiter.mode != HoldMode::Exclusive {
            self.wound(token, time_ms);
        }
        while let Some(cycle) = self.find_cycle(token) {
            if !is_broken(Mutation::VictimUnchecked) && self.drop_dead_edge(&cycle) {
                self.waiting.deadlocks.phantoms += 1;
                continue;
            }
            if is_broken(Mutation::DeadlockIgnored) || !self.break_cycle(&cycle, time_ms) {
                return;
            }
        }
    }

    /// An older saga does not wait for younger ones that can give way.
    fn wound(&mut self, token: TokenRef, time_ms: u64) {
        let Some(waiter) = self.waiting.get(token) else { return };
        let saga = self.state.tokens[token].saga;
        let (age, id) = (self.state.sagas[saga].age, self.state.sagas[saga].id);
        let holders: Vec<Holder> = waiter.edges.iter().map(|edge| edge.holder).collect();
        let hop = self.hop((saga, token));
        for holder in holders {
            let Some(other) = self.state.saga(holder.saga) else { continue };
            let is_younger = self.state.sagas[other].age > age;
            if !is_younger || self.state.standing(&holder) != Standing::Live || !self.state.may_abort(other) {
                continue;
            }
            let holds = Hop { saga: holder.saga, ..hop.clone() };
            let number = self.waiting.deadlocks.add(time_ms, holder.saga, 0, true, vec![hop.clone(), holds]);
            let attempt = self.state.sagas[saga].attempt;
            self.abort_victim(other, vec![Holder { saga: id, attempt, place: WHOLE_SAGA }], number, time_ms);
        }
    }

    /// The way around a cycle of which this step is a part, if there is one: the shortest.
    fn find_cycle(&self, token: TokenRef) -> Option<Vec<Link>> {
        let start = self.state.tokens.get(token)?.saga;
        if !self.waiting.is_awaited(key_of(self.state.sagas[start].id)) {
            return None;
        }
        let mut came_from: HashMap<SagaRef, Link, FixedState> = HashMap::default();
        let mut queue = VecDeque::from([start]);
        while let Some(saga) = queue.pop_front() {
            for token in self.state.tokens_of(saga) {
                for next in self.waits_for(token) {
                    if next == start {
                        return Some(way_back(&came_from, start, (saga, token)));
                    }
                    if !came_from.contains_key(&next) {
                        came_from.insert(next, (saga, token));
                        queue.push_back(next);
                    }
                }
            }
        }
        None
    }

    /// The running sagas that a step waits for.
    fn waits_for(&self, token: TokenRef) -> impl Iterator<Item = SagaRef> + '_ {
        let is_blocked = self.state.tokens[token].place == Place::Blocked;
        let waiter = if is_blocked { self.waiting.get(token) } else { None };
        let edges = waiter.into_iter().flat_map(Waiter::live);
        edges.filter_map(|edge| self.state.saga(edge.holder.saga))
    }

    /// Looks again whether each saga of a cycle is in the way of the one before. If one is not, its edge closes no
    /// cycle any more.
    fn drop_dead_edge(&mut self, cycle: &[Link]) -> bool {
        for (index, &(_, token)) in cycle.iter().enumerate() {
            let next = self.state.sagas[cycle[(index + 1) % cycle.len()].0].id;
            let state = &self.state;
            let Some(waiter) = self.waiting.get_mut(token) else { return false };
            let mut is_live = false;
            for edge in waiter.edges.iter_mut().filter(|edge| edge.holder.saga == next) {
                edge.is_dead |= state.standing(&edge.holder) != Standing::Live;
                is_live |= !edge.is_dead;
            }
            if !is_live {
                return true;
            }
        }
        false
    }

    /// The youngest gives way that may, and never the oldest. False if nobody does.
    fn break_cycle(&mut self, cycle: &[Link], time_ms: u64) -> bool {
        let Some(victim) = self.choose(cycle) else { return false };
        let (Victim::Abort(at) | Victim::Wound(at)) = victim;
        let (saga, token) = cycle[at];
        let others = cycle.iter().filter(|link| link.0 != saga).take(HOLDERS_NAMED_MAX);
        let lost_to = others.map(|&(other, _)| {
            let other = &self.state.sagas[other];
            Holder { saga: other.id, attempt: other.attempt, place: WHOLE_SAGA }
        });
        let lost_to: Vec<Holder> = lost_to.collect();
        // Who closed it comes first, and who gave way is always told.
        let first = if cycle.len() > CYCLE_TOLD_MAX { at } else { 0 };
        let told = cycle[first..].iter().chain(&cycle[..first]).take(CYCLE_TOLD_MAX);
        let hops = told.map(|&link| self.hop(link)).collect();
        let id = self.state.sagas[saga].id;
        let wait = self.waiting.get(token).map_or(0, |waiter| waiter.number);
        let number = self.waiting.deadlocks.add(time_ms, id, wait, false, hops);
        match victim {
            Victim::Abort(_) => self.abort_victim(saga, lost_to, number, time_ms),
            Victim::Wound(_) => self.wound_pivot(saga, token, lost_to, number),
        }
        true
    }

    fn choose(&self, cycle: &[Link]) -> Option<Victim> {
        let age = |&at: &usize| self.state.sagas[cycle[at].0].age;
        let oldest = (0..cycle.len()).min_by_key(age)?;
        if is_broken(Mutation::OldestIsVictim) && self.state.may_abort(cycle[oldest].0) {
            return Some(Victim::Abort(oldest));
        }
        let others = || (0..cycle.len()).filter(|&at| at != oldest);
        let may_abort = |&at: &usize| self.state.may_abort(cycle[at].0) || is_broken(Mutation::VictimUnchecked);
        let abort = others().filter(may_abort).max_by_key(age).map(Victim::Abort);
        // All the others decide: of what waits, only the pivot can.
        abort.or_else(|| others().max_by_key(age).map(Victim::Wound))
    }

    /// A saga that waits at its pivot is told to say no.
    pub(super) fn wound_pivot(&mut self, saga: SagaRef, token: TokenRef, lost_to: Vec<Holder>, number: u64) {
        self.waiting.lost(self.state.sagas[saga].id.sequence.get(), lost_to);
        self.waiting.remove(token);
        self.queues.wake(&mut self.state, token, WithRun { freed: Vec::new(), wounded: true });
        self.effects.push_back((self.lsn(), Effect::Resolved(number)));
    }

    pub(super) fn abort_victim(&mut self, saga: SagaRef, lost_to: Vec<Holder>, number: u64, time_ms: u64) {
        self.waiting.lost(self.state.sagas[saga].id.sequence.get(), lost_to);
        self.abort(saga, CauseCode::Victim, None, "it gave way to an older saga", time_ms);
        self.effects.push_back((self.next_lsn, Effect::Resolved(number)));
    }

    pub(super) fn hop(&self, (saga, token): Link) -> Hop {
        let plan = &self.state.plan_of(saga).plan;
        let service = plan.steps[usize::from(self.state.tokens[token].position)].service.clone();
        let resource = self.waiting.get(token).map(|waiter| waiter.resource.clone()).unwrap_or_default();
        Hop { saga: self.state.sagas[saga].id, service, resource }
    }
}

/// From the start to the saga that waits for it.
fn way_back(came_from: &HashMap<SagaRef, Link, FixedState>, start: SagaRef, last: Link) -> Vec<Link> {
    let mut way = vec![last];
    let mut at = last.0;
    while at != start {
        let Some(&link) = came_from.get(&at) else { break };
        way.push(link);
        at = link.0;
    }
    way.reverse();
    way
}
