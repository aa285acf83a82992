//! The hold table of a service: who holds which resource, and who waits for it.
//!
//! A *row* is a resource and the step of an attempt that holds it, or claims it:
//!
//! ```text
//! Waiting      a claim: its call was answered BLOCKED and left nothing else
//! Provisional  taken by a call that has not committed
//! Granted      held until its step is compensated, or its saga is through
//! ```
//! A call takes what it asks for if that goes together with all that other sagas hold, and with all that older sagas
//! wait for: who came first is served first. Otherwise nothing of the call stays but its claim. What a saga asks for
//! never conflicts with what it holds itself, so a shared hold becomes an exclusive one by asking again.
//!
//! Rows in a database follow the same rules; property tests compare them with this table.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::limits::{HOLDERS_NAMED_MAX, RESOURCE_BYTES_MAX};
use crate::mutation::{Mutation, is_broken};
use crate::watermark::Watermark;
use crate::wire::{HoldMode, Holder, SagaId, Seniority, seniority};

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    pub resource: &'a str,
    pub mode: HoldMode,
    /// Of a counted resource: how many are asked for, and how many there are. Else 1 of 1.
    pub amount: u32,
    pub size: u32,
    pub holder: Holder,
    /// Of the saga: who came first has the lower one.
    pub age: u64,
}

/// A mistake in what is asked for, or no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    #[error("hold.resource: a resource has a name of 1 to {RESOURCE_BYTES_MAX} bytes")]
    Resource,
    #[error("hold.amount: it asks for none, or for more than there are, with what its saga holds already")]
    Amount,
    #[error("hold.full: as many holds are kept as may be; the step is tried again later")]
    Full,
}

/// How far a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Waiting,
    Provisional,
    Granted,
}

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldRow {
    pub holder: Holder,
    pub age: u64,
    pub mode: HoldMode,
    pub amount: u32,
    pub standing: Standing,
}

impl HoldRow {
    /// Whether its saga has what is asked for.
    fn covers(&self, ask: &Ask<'_>) -> bool {
        let is_enough = match self.mode {
            HoldMode::Exclusive => true,
            HoldMode::Shared => ask.mode == HoldMode::Shared,
            HoldMode::Counted => self.mode == ask.mode && self.holder == ask.holder && self.amount >= ask.amount,
        };
        self.standing != Standing::Waiting && is_enough
    }

    fn rank(&self) -> Seniority {
        seniority(self.age, self.holder.saga)
    }
}

/// Names a saga in order of its sequence.
type SagaKey = (u64, u32, u16);

fn saga_key(saga: SagaId) -> SagaKey {
    (saga.sequence.get(), saga.nonce.get(), saga.shard.get())
}

/// A bounded set of rows.
#[derive(Debug)]
pub struct Holds {
    by_resource: HashMap<Arc<str>, Vec<HoldRow>, FixedState>,
    /// By saga, where its rows are: one entry for each row.
    by_saga: BTreeMap<SagaKey, Vec<(Holder, Arc<str>)>>,
    rows: usize,
    rows_max: usize,
}

impl Holds {
    pub fn new(rows_max: usize) -> Self {
        Self { by_resource: HashMap::default(), by_saga: BTreeMap::new(), rows: 0, rows_max }
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows of a resource.
    pub fn rows(&self, resource: &str) -> &[HoldRow] {
        self.by_resource.get(resource).map_or(&[], Vec::as_slice)
    }

    /// Takes what is asked for until `keep` or `release`, or says who stands in the way. Then, if it waits, the call's
    /// claim is kept and nothing else of it; if not, all is as before.
    ///
    /// # Errors
    /// What is wrong with it, or no room: the call fails.
    pub fn take(&mut self, ask: &Ask<'_>, waits: bool) -> Result<Vec<Holder>, HoldError> {
        self.free_before(ask.holder.saga, ask.holder.attempt);
        let in_the_way = self.in_the_way(ask)?;
        if !in_the_way.is_empty() && !waits {
            return Ok(in_the_way);
        }
        let is_granted = in_the_way.is_empty();
        if !is_granted {
            self.remove(ask.holder, |row| row.standing != Standing::Granted);
        }
        let standing = if is_granted { Standing::Provisional } else { Standing::Waiting };
        self.put(ask, standing)?;
        Ok(in_the_way)
    }

    /// Who stands in the way of this, at most so many as may be named: all that hold what it does not go together
    /// with, and of those that came first and wait, the last one, which the others stand before.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn in_the_way(&self, ask: &Ask<'_>) -> Result<Vec<Holder>, HoldError> {
        if !(1..=RESOURCE_BYTES_MAX).contains(&ask.resource.len()) {
            return Err(HoldError::Resource);
        }
        let (mine, others): (Vec<&HoldRow>, Vec<&HoldRow>) =
            self.rows(ask.resource).iter().partition(|row| row.holder.saga == ask.holder.saga);
        // What it has it is given again, whoever waits for it.
        if mine.iter().any(|row| row.covers(ask)) {
            return Ok(Vec::new());
        }
        let is_ahead = |row: &&&HoldRow| {
            let is_first = row.rank() < seniority(ask.age, ask.holder.saga) && !is_broken(Mutation::LockBarging);
            row.standing != Standing::Waiting || is_first
        };
        let ahead: Vec<&HoldRow> = others.iter().filter(is_ahead).copied().collect();
        let counted = |rows: &[&HoldRow]| -> u64 {
            let pool = rows.iter().filter(|row| row.mode == HoldMode::Counted);
            pool.map(|row| u64::from(row.amount)).sum()
        };
        let fits = if ask.mode == HoldMode::Counted {
            let held = mine.iter().filter(|row| row.standing != Standing::Waiting && row.holder != ask.holder);
            let wanted = u64::from(ask.amount) + counted(&held.copied().collect::<Vec<_>>());
            if ask.amount == 0 || wanted > u64::from(ask.size) {
                return Err(HoldError::Amount);
            }
            wanted + counted(&ahead) <= u64::from(ask.size)
        } else {
            true
        };
        let conflicts = |row: &&&HoldRow| match (row.mode, ask.mode) {
            (HoldMode::Shared, HoldMode::Shared) => false,
            (HoldMode::Counted, HoldMode::Counted) => !fits,
            _ => true,
        };
        let (waiting, held): (Vec<&HoldRow>, Vec<&HoldRow>) =
            ahead.iter().filter(conflicts).copied().partition(|row| row.standing == Standing::Waiting);
        let last = waiting.iter().max_by_key(|row| row.rank()).map(|row| row.holder);
        let mut named: Vec<Holder> = Vec::new();
        for holder in held.iter().map(|row| row.holder).chain(last) {
            if named.len() < HOLDERS_NAMED_MAX && !named.contains(&holder) {
                named.push(holder);
            }
        }
        Ok(named)
    }

    /// A call has committed: what it took is held, and its claims are gone.
    pub fn keep(&mut self, holder: Holder) {
        self.remove(holder, |row| row.standing == Standing::Waiting);
        for (_, resource) in self.entries(holder) {
            let rows = self.by_resource.get_mut(&resource).into_iter().flatten();
            rows.filter(|row| row.holder == holder).for_each(|row| row.standing = Standing::Granted);
        }
    }

    /// A call has failed, or its step is compensated: all that it holds or claims is let go of.
    pub fn release(&mut self, holder: Holder) {
        self.remove(holder, |_| true);
    }

    /// A saga has ended, or begun again: what its attempts up to this one hold or claim is free.
    pub fn free(&mut self, saga: SagaId, attempt: u32) {
        self.free_before(saga, attempt.saturating_add(1));
    }

    fn free_before(&mut self, saga: SagaId, attempt: u32) {
        let entries = self.by_saga.get(&saga_key(saga)).into_iter().flatten();
        let old: Vec<Holder> = entries.map(|(holder, _)| *holder).filter(|holder| holder.attempt < attempt).collect();
        old.into_iter().for_each(|holder| self.release(holder));
    }

    /// Forgets what sagas of a shard hold that have ended for all that this says, whatever their class.
    pub fn forget(&mut self, shard: u16, told: &Watermark) {
        let mark = told.marks.iter().copied().min().unwrap_or(0);
        let has_passed = |key: &&SagaKey| key.2 == shard && told.exceptions.binary_search(&key.0).is_err();
        let passed: Vec<SagaKey> =
            self.by_saga.range(..(mark, 0, 0)).map(|(key, _)| key).filter(has_passed).copied().collect();
        self.forget_all(&passed);
    }

    /// A shard's log is another one: nothing of what there is of it means anything.
    pub fn clear(&mut self, shard: u16) {
        let passed: Vec<SagaKey> = self.by_saga.keys().filter(|key| key.2 == shard).copied().collect();
        self.forget_all(&passed);
    }

    fn forget_all(&mut self, sagas: &[SagaKey]) {
        for saga in sagas {
            for (holder, resource) in self.by_saga.remove(saga).unwrap_or_default() {
                self.remove_rows(&resource, |row| row.holder == holder);
            }
        }
    }

    fn entries(&self, holder: Holder) -> Vec<(Holder, Arc<str>)> {
        let entries = self.by_saga.get(&saga_key(holder.saga)).into_iter().flatten();
        entries.filter(|(other, _)| *other == holder).cloned().collect()
    }

    /// Puts a row there, or makes more of the one that is.
    fn put(&mut self, ask: &Ask<'_>, standing: Standing) -> Result<(), HoldError> {
        let row = HoldRow { holder: ask.holder, age: ask.age, mode: ask.mode, amount: ask.amount, standing };
        let rows = self.by_resource.get_mut(ask.resource).into_iter().flatten();
        if let Some(own) = rows.into_iter().find(|own| own.holder == ask.holder) {
            let keeps = own.standing != Standing::Waiting;
            if !keeps {
                *own = row;
            } else if standing != Standing::Waiting {
                let mode = if own.mode == HoldMode::Exclusive { own.mode } else { ask.mode };
                *own = HoldRow { mode, amount: ask.amount.max(own.amount), standing: own.standing, ..row };
            }
            return Ok(());
        }
        if self.rows >= self.rows_max {
            return Err(HoldError::Full);
        }
        let known = self.by_resource.get_key_value(ask.resource).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Arc::from(ask.resource));
        self.by_resource.entry(Arc::clone(&name)).or_default().push(row);
        self.by_saga.entry(saga_key(ask.holder.saga)).or_default().push((ask.holder, name));
        self.rows += 1;
        Ok(())
    }

    /// Removes those rows of a holder that are so.
    fn remove(&mut self, holder: Holder, is_so: impl Fn(&HoldRow) -> bool) {
        for (_, resource) in self.entries(holder) {
            let removed = self.remove_rows(&resource, |row| row.holder == holder && is_so(row));
            let key = saga_key(holder.saga);
            if removed == 0 {
                continue;
            }
            if let Some(entries) = self.by_saga.get_mut(&key) {
                entries.retain(|(other, name)| *other != holder || *name != resource);
                if entries.is_empty() {
                    self.by_saga.remove(&key);
                }
            }
        }
    }

    fn remove_rows(&mut self, resource: &str, is_it: impl Fn(&HoldRow) -> bool) -> usize {
        let Some(rows) = self.by_resource.get_mut(resource) else { return 0 };
        let before = rows.len();
        rows.retain(|row| !is_it(row));
        let removed = before - rows.len();
        if rows.is_empty() {
            self.by_resource.remove(resource);
        }
        self.rows -= removed;
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WATERMARK_CLASSES;

    fn holder(sequence: u64) -> Holder {
        Holder { saga: SagaId::new(0, sequence, 1), attempt: 0, place: 2 }
    }

    fn ask(sequence: u64, mode: HoldMode) -> Ask<'static> {
        Ask { resource: "sku:42", mode, amount: 1, size: 1, holder: holder(sequence), age: sequence }
    }

    fn of(sequence: u64, amount: u32) -> Ask<'static> {
        Ask { amount, size: 10, ..ask(sequence, HoldMode::Counted) }
    }

    fn take(holds: &mut Holds, ask: Ask<'_>) -> Vec<u64> {
        let in_the_way = holds.take(&ask, true).unwrap();
        if in_the_way.is_empty() {
            holds.keep(ask.holder);
        }
        in_the_way.iter().map(|holder| holder.saga.sequence.get()).collect()
    }

    #[test]
    fn whoever_came_first_is_served_first() {
        let mut holds = Holds::new(100);
        assert_eq!(take(&mut holds, ask(9, HoldMode::Exclusive)), []);
        assert_eq!(take(&mut holds, ask(3, HoldMode::Exclusive)), [9]);
        assert_eq!(take(&mut holds, ask(5, HoldMode::Exclusive)), [9, 3]);
        assert_eq!(take(&mut holds, ask(7, HoldMode::Exclusive)), [9, 5], "only the last one before it");
        holds.release(holder(9));
        assert_eq!(take(&mut holds, ask(7, HoldMode::Exclusive)), [5]);
        assert_eq!(take(&mut holds, ask(3, HoldMode::Exclusive)), []);
        assert_eq!(take(&mut holds, ask(3, HoldMode::Exclusive)), [], "its own");
        assert_eq!(take(&mut holds, ask(2, HoldMode::Exclusive)), [3]);
        assert_eq!(take(&mut holds, ask(3, HoldMode::Exclusive)), [], "its own, and an older one waits");
        holds.release(holder(2));
        holds.free(holder(3).saga, 0);
        assert_eq!(take(&mut holds, ask(5, HoldMode::Shared)), []);
        assert_eq!(take(&mut holds, ask(8, HoldMode::Shared)), [7], "no barging");
        assert_eq!(take(&mut holds, ask(6, HoldMode::Shared)), []);
    }

    #[test]
    fn shared_holds_become_exclusive_when_nobody_else_has_one() {
        let mut holds = Holds::new(100);
        assert_eq!(take(&mut holds, ask(1, HoldMode::Shared)), []);
        assert_eq!(take(&mut holds, ask(2, HoldMode::Shared)), []);
        assert_eq!(take(&mut holds, ask(1, HoldMode::Exclusive)), [2]);
        assert_eq!(holds.rows("sku:42").len(), 2, "what it held it holds");
        holds.release(holder(2));
        assert_eq!(take(&mut holds, ask(1, HoldMode::Exclusive)), []);
        assert_eq!(holds.rows("sku:42")[0].mode, HoldMode::Exclusive);
        assert_eq!(take(&mut holds, ask(1, HoldMode::Shared)), []);
        assert_eq!(holds.rows("sku:42")[0].mode, HoldMode::Exclusive, "not less than it was");
    }

    #[test]
    fn a_pool_gives_what_it_has() {
        let mut holds = Holds::new(100);
        assert_eq!(take(&mut holds, of(1, 6)), []);
        assert_eq!(take(&mut holds, of(5, 4)), []);
        assert_eq!(take(&mut holds, of(3, 5)), [1, 5]);
        holds.release(holder(5));
        assert_eq!(take(&mut holds, of(4, 4)), [1, 3], "it would be served before one that came first");
        assert_eq!(take(&mut holds, of(2, 4)), []);
        assert_eq!(holds.in_the_way(&of(6, 0)), Err(HoldError::Amount));
        assert_eq!(holds.in_the_way(&of(6, 11)), Err(HoldError::Amount));
        let more = Ask { holder: Holder { place: 3, ..holder(1) }, ..of(1, 5) };
        assert_eq!(holds.in_the_way(&more), Err(HoldError::Amount), "with what it has it is more than there are");
    }

    #[test]
    fn of_a_call_that_must_wait_only_its_claim_stays() {
        let mut holds = Holds::new(100);
        assert_eq!(take(&mut holds, ask(1, HoldMode::Exclusive)), []);
        let other = Ask { resource: "seat", ..ask(2, HoldMode::Exclusive) };
        assert_eq!(holds.take(&other, true), Ok(vec![]));
        assert_eq!(holds.take(&ask(2, HoldMode::Exclusive), false), Ok(vec![holder(1)]));
        assert_eq!(holds.rows("seat").len(), 1, "who does not wait keeps what he has");
        assert_eq!(holds.take(&ask(2, HoldMode::Exclusive), true), Ok(vec![holder(1)]));
        assert_eq!((holds.rows("seat").len(), holds.len()), (0, 2));
        holds.release(holder(1));
        assert_eq!(holds.take(&other, true), Ok(vec![]));
        holds.keep(holder(2));
        assert_eq!((holds.rows("sku:42").len(), holds.len()), (0, 1), "it did not ask again");
    }

    #[test]
    fn rows_have_a_bound_and_go_with_their_saga() {
        let mut holds = Holds::new(2);
        assert_eq!(take(&mut holds, ask(1, HoldMode::Shared)), []);
        assert_eq!(take(&mut holds, ask(2, HoldMode::Shared)), []);
        assert_eq!(holds.take(&ask(3, HoldMode::Shared), true), Err(HoldError::Full));
        let again = Ask { holder: Holder { attempt: 1, ..holder(1) }, ..ask(1, HoldMode::Shared) };
        assert_eq!(take(&mut holds, again), [], "its last attempt is undone");
        assert_eq!(holds.len(), 2);
        let told =
            |mark, exceptions| Watermark { marks: [mark; WATERMARK_CLASSES], exceptions, ..Watermark::unknown() };
        holds.forget(1, &told(3, vec![]));
        holds.clear(1);
        assert_eq!(holds.len(), 2, "they are of shard 0");
        holds.forget(0, &told(3, vec![1]));
        assert_eq!((holds.len(), holds.rows("sku:42")[0].holder.saga), (1, holder(1).saga));
        holds.forget(0, &told(3, vec![]));
        assert!(holds.is_empty() && holds.by_saga.is_empty() && holds.by_resource.is_empty());
    }
}
