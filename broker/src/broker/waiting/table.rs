//! Who waits for whom: a bounded table of waiting steps, each with those in its way. Volatile: after a restart of the
//! broker every step is delivered again, and waits again.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use sagacore_core::limits::{FREED_MAX, WAITERS_MAX};
use sagacore_core::wire::{Freed, HoldMode, Holder, SagaId};

use super::Deadlocks;
use super::across::Across;
use crate::state::TokenRef;

/// Names a saga, whatever log of its shard it is of.
pub type SagaKey = (u16, u64);

pub fn key_of(saga: SagaId) -> SagaKey {
    (saga.shard.get(), saga.sequence.get())
}

/// Somebody in the way of a waiting step.
#[derive(Debug, Clone, Copy)]
pub struct Edge {
    pub holder: Holder,
    /// It is over, and that is not durable yet: it closes no cycle.
    pub is_dead: bool,
}

/// A waiting step.
#[derive(Debug)]
pub struct Waiter {
    /// Names this wait; `insert` gives it.
    pub number: u64,
    pub since_ms: u64,
    /// Younger sagas in its way are to give way.
    pub wounds: bool,
    pub mode: HoldMode,
    pub resource: Box<[u8]>,
    pub edges: Vec<Edge>,
    /// Those that were in its way and have ended, to be told when it is woken.
    pub freed: Vec<Freed>,
    /// That is so as of this record: it may be told when that is durable.
    pub freed_lsn: u64,
}

impl Waiter {
    pub fn new(mode: HoldMode, resource: Box<[u8]>, edges: Vec<Edge>, since_ms: u64) -> Self {
        Self { number: 0, since_ms, wounds: false, mode, resource, edges, freed: Vec::new(), freed_lsn: 0 }
    }

    /// Those that it really waits for.
    pub fn live(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|edge| !edge.is_dead)
    }

    /// Whether it is to be woken as soon as that is durable.
    fn is_due(&self) -> bool {
        self.edges.is_empty() || (self.mode == HoldMode::Counted && !self.freed.is_empty())
    }

    pub fn free(&mut self, holder: Holder) {
        let freed = Freed { saga: holder.saga, attempt: holder.attempt.into() };
        if self.freed.len() < FREED_MAX && !self.freed.contains(&freed) {
            self.freed.push(freed);
        }
    }
}

/// A saga that ended, or an attempt of it, or what one step of it held.
#[derive(Debug, Clone, Copy)]
pub struct Over {
    pub saga: SagaKey,
    /// This one; where the whole saga is over, all before it too.
    pub attempt: u32,
    /// None: all that the saga held.
    pub place: Option<u16>,
}

impl Over {
    fn ends(&self, holder: &Holder) -> bool {
        key_of(holder.saga) == self.saga
            && match self.place {
                None => holder.attempt <= self.attempt,
                Some(place) => holder.attempt == self.attempt && holder.place == place,
            }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Waiting {
    pub(super) waiters: HashMap<TokenRef, Waiter, FixedState>,
    /// In the order in which they came, and perhaps some that are gone.
    order: VecDeque<TokenRef>,
    /// So many there may be.
    pub waiters_max: usize,
    /// By saga, the steps that it is in the way of.
    by_holder: HashMap<SagaKey, Vec<TokenRef>, FixedState>,
    waits: u64,
    pub across: Across,
    /// By sequence of a victim that has not begun again: those that it lost to.
    pub lost_to: HashMap<u64, Vec<Holder>, FixedState>,
    pub deadlocks: Deadlocks,
}

/// Those that are gone are swept out of the order when there are more of them.
const ORDER_SLACK: usize = 1024;

impl Waiting {
    pub fn new(waiters_max: usize) -> Self {
        Self {
            waiters: HashMap::default(),
            order: VecDeque::new(),
            waiters_max,
            by_holder: HashMap::default(),
            waits: 0,
            across: Across::default(),
            lost_to: HashMap::default(),
            deadlocks: Deadlocks::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Waits and chases are numbered from here: those of an earlier boot may still be on their way.
    pub fn number_from(&mut self, boot_epoch: u32) {
        self.waits = u64::from(boot_epoch) << 32;
        self.across.chases = self.waits;
    }

    /// Whether nobody waits for anything, here or elsewhere.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.across.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.waiters.len() >= self.waiters_max
    }

    /// Where there is no room for one more: the one that waits longest, which comes again after a while, so that
    /// sooner or later those of a cycle are here together. Who is about to be woken stays: else what it is to be told
    /// would be lost, each time. None: all of them are about to be.
    pub fn evict(&mut self) -> Option<TokenRef> {
        for _ in 0..self.order.len() {
            let first = self.order.pop_front()?;
            match self.waiters.get(&first) {
                None => {}
                Some(waiter) if waiter.is_due() => self.order.push_back(first),
                Some(_) => return self.remove(first).map(|_| first),
            }
        }
        None
    }

    pub fn iter(&self) -> impl Iterator<Item = (TokenRef, Vec<Holder>)> + '_ {
        let holders = |waiter: &Waiter| waiter.edges.iter().map(|edge| edge.holder).collect();
        self.waiters.iter().map(move |(&token, waiter)| (token, holders(waiter)))
    }

    pub fn get(&self, token: TokenRef) -> Option<&Waiter> {
        self.waiters.get(&token)
    }

    pub fn get_mut(&mut self, token: TokenRef) -> Option<&mut Waiter> {
        self.waiters.get_mut(&token)
    }

    pub fn is_awaited(&self, saga: SagaKey) -> bool {
        !self.by_holder.is_empty() && self.by_holder.contains_key(&saga)
    }

    /// The steps that wait for a saga.
    pub fn waiters_of(&self, saga: SagaKey) -> &[TokenRef] {
        self.by_holder.get(&saga).map_or(&[], Vec::as_slice)
    }

    pub fn insert(&mut self, token: TokenRef, waiter: Waiter) {
        self.remove(token);
        self.waits += 1;
        let waiter = Waiter { number: self.waits, ..waiter };
        for edge in &waiter.edges {
            let waiters = self.by_holder.entry(key_of(edge.holder.saga)).or_default();
            if !waiters.contains(&token) {
                waiters.push(token);
            }
        }
        self.waiters.insert(token, waiter);
        if self.order.len() > 2 * self.waiters.len() + ORDER_SLACK {
            self.order.retain(|token| self.waiters.contains_key(token));
        }
        self.order.push_back(token);
    }

    pub fn remove(&mut self, token: TokenRef) -> Option<Waiter> {
        let gone = self.waiters.remove(&token)?;
        gone.edges.iter().for_each(|edge| self.forget_edge(key_of(edge.holder.saga), token));
        Some(gone)
    }

    fn forget_edge(&mut self, saga: SagaKey, token: TokenRef) {
        let Some(waiters) = self.by_holder.get_mut(&saga) else { return };
        waiters.retain(|&other| other != token);
        if waiters.is_empty() {
            self.by_holder.remove(&saga);
        }
    }

    /// Somebody is out of the way. Gives the steps that need not wait any more: of a pool perhaps there is enough.
    pub fn over(&mut self, over: Over) -> Vec<TokenRef> {
        let (mut woken, mut left) = (Vec::new(), Vec::new());
        for token in self.by_holder.remove(&over.saga).unwrap_or_default() {
            let Some(waiter) = self.waiters.get_mut(&token) else { continue };
            let is_over = |edge: &Edge| over.ends(&edge.holder);
            let before = waiter.edges.len();
            if over.place.is_none() {
                let ended: Vec<Edge> = waiter.edges.iter().copied().filter(is_over).collect();
                ended.iter().for_each(|edge| waiter.free(edge.holder));
            }
            waiter.edges.retain(|edge| !is_over(edge));
            let has_changed = waiter.edges.len() < before;
            if has_changed && (waiter.edges.is_empty() || waiter.mode == HoldMode::Counted) {
                woken.push(token);
            }
            if waiter.edges.iter().any(|edge| key_of(edge.holder.saga) == over.saga) {
                left.push(token);
            }
        }
        if !left.is_empty() {
            self.by_holder.insert(over.saga, left);
        }
        woken
    }

    /// Remembers whom a victim lost to, until it begins again. Where too many are remembered, it begins at once then.
    pub fn lost(&mut self, victim: u64, to: Vec<Holder>) {
        if self.lost_to.len() < WAITERS_MAX {
            self.lost_to.insert(victim, to);
        }
    }
}
