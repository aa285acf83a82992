//! Steps that wait for what other sagas hold, and sagas that wait for each other.
//!
//! ```text
//! BLOCKED  a service names who stands in the way; the RUN stays pending, without lease, credit or deadline of delivery
//!   table    the step and its edges, by saga that it waits for
//!   cycle    if the new edges close one, the youngest saga of it gives way: an abort like any other
//! a saga ends, begins again, is undone, or lets go of something
//!   Over     when that is durable, whoever waits for it is woken: its RUN is due again, before others
//! a victim is undone
//!   RESTART  the record that would end it publishes the roots of its next attempt, which wait for those it lost to
//! ```
//! The broker is where this is, and not a coordinator: it alone knows which sagas live, and it aborts the victim in the
//! very record in which it finds the cycle, so there is no second victim and no victim of a cycle that is gone.
//!
//! A wake too many is harmless, for the service asks again; one too few is a hang. What is not in the table because it
//! is full is simply delivered again after a while.

mod across;
mod cycle;
mod events;
mod restart;
mod table;

use sagacore_core::limits::{WAIT_CROSSED_MS, WAIT_REFRESH_MS};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{Blocked, HoldMode, Holder, Kind, Message, Refusal, Section, Transaction};

use super::judge::{Judged, STALE};
use super::{Broker, Effect, Refused};
use crate::delivery::WithRun;
use crate::state::{Phase, Place, SagaRef, SessionRef, State, TokenRef};

pub use events::{Deadlock, Deadlocks, Hop};
use table::{Edge, Waiter, key_of};
pub use table::{Over, Waiting};

/// How a holder stands, as far as the broker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It holds, or waits itself.
    Live,
    /// Its saga has ended, or begun again.
    Ended,
    /// Its step is undone: the service was told so, or is about to be.
    Undone,
    /// It is of another shard: nothing is known of it here.
    Foreign,
}

impl State {
    fn standing(&self, holder: &Holder) -> Standing {
        if holder.saga.shard.get() != self.shard {
            return Standing::Foreign;
        }
        if self.is_parked(holder.saga.sequence.get()) {
            return Standing::Live;
        }
        let Some(saga) = self.saga(holder.saga) else { return Standing::Ended };
        if self.sagas[saga].attempt > holder.attempt {
            return Standing::Ended;
        }
        let is_undone = self.sagas[saga].phase == Phase::Undoing && self.is_undone(saga, holder.place);
        if is_undone { Standing::Undone } else { Standing::Live }
    }

    /// Whether nothing of a step is left of a saga that is being undone. Of one that has no compensation that is known
    /// only when its saga ends, and so of a whole saga.
    fn is_undone(&self, saga: SagaRef, step: u16) -> bool {
        let plan = &self.plan_of(saga).plan;
        let left = self.tokens_of(saga).fold(u64::MAX, |left, token| left & self.tokens[token].undo);
        plan.compensable & plan.before_pivot & !left & 1u64.checked_shl(step.into()).unwrap_or(0) != 0
    }
}

impl Broker {
    /// A step must wait. Its message is answered, and pending.
    pub(super) fn blocked(
        &mut self,
        session: SessionRef,
        transaction: &Transaction<'_>,
        message: &Message<'_>,
        time_ms: u64,
    ) -> Judged {
        self.find_all(transaction.consumes)?;
        let (token, data) = (self.consumed[0], message.sections().get(Section::DATA).unwrap_or_default());
        let (of, found) = (self.state.header(token), &self.state.tokens[token]);
        let names_it = message.header.saga == of.saga && message.header.place == of.place;
        let blocked = Blocked::read(data).filter(|_| names_it && found.kind == Kind::Run && self.consumed.len() == 1);
        let blocked = blocked.ok_or(Refused(Refusal::Mismatch, "a BLOCKED names its RUN and who stands in the way"))?;
        let saga = found.saga;
        if self.state.sagas[saga].pivoted && !is_broken(Mutation::WaitsPastPivot) {
            return Err(Refused(Refusal::Mismatch, "past its pivot a saga does not wait"));
        }
        if found.place != Place::Leased(session) {
            // It was given to somebody else meanwhile, who will say the same or better.
            return if found.place == Place::Held { Err(STALE) } else { Ok(()) };
        }
        self.not_tried(token, saga);
        self.learn_routes(session, &blocked.holders);
        self.let_go_elsewhere(token, blocked.resource);
        self.wait(token, &blocked, time_ms);
        if self.config.detect_deadlocks && self.state.tokens.contains_key(token) {
            self.resolve_deadlocks(token, blocked.policy, time_ms);
        }
        self.chase(token, time_ms);
        Ok(())
    }

    /// A step that waited was not tried. But where its pivot was delivered, a saga is deciding from then on.
    fn not_tried(&mut self, token: TokenRef, saga: SagaRef) {
        let pivot = self.state.plan_of(saga).plan.pivot.map(u16::from);
        let found = &mut self.state.tokens[token];
        found.unanswered = 0;
        if pivot != Some(found.position) {
            found.deliveries = found.deliveries.saturating_sub(1);
        }
    }

    fn wait(&mut self, token: TokenRef, blocked: &Blocked<'_>, time_ms: u64) {
        let own = self.state.sagas[self.state.tokens[token].saga].id;
        let mut waiter = Waiter::new(blocked.mode, blocked.resource.into(), Vec::new(), time_ms);
        waiter.wounds = across::wounds(blocked.policy, blocked.mode);
        let mut crossed = false;
        for holder in &blocked.holders {
            self.recall_holder(holder);
        }
        for &holder in blocked.holders.iter().filter(|holder| holder.saga != own) {
            match self.state.standing(&holder) {
                Standing::Live | Standing::Foreign => waiter.edges.push(Edge { holder, is_dead: false }),
                Standing::Ended => waiter.free(holder),
                Standing::Undone => crossed = true,
            }
        }
        let is_free = waiter.edges.is_empty() || waiter.mode == HoldMode::Counted;
        let has_ended = !waiter.freed.is_empty();
        if waiter.edges.is_empty() && !has_ended {
            let delay_ms = if crossed { WAIT_CROSSED_MS } else { WAIT_REFRESH_MS };
            self.waiting.remove(token);
            return self.queues.delay(&mut self.state, token, time_ms + delay_ms);
        }
        self.state.tokens[token].place = Place::Blocked;
        if has_ended {
            waiter.freed_lsn = self.lsn();
        }
        self.waiting.remove(token);
        if self.waiting.is_full() {
            match self.waiting.evict() {
                Some(other) => self.come_again(other, time_ms),
                None => return self.come_again(token, time_ms),
            }
        }
        self.waiting.insert(token, waiter);
        if is_free && has_ended {
            // As far as that is durable: else a holder that lives again would find its hold given away.
            self.effects.push_back((self.lsn(), Effect::Wake(token)));
        } else if is_free && crossed {
            self.waiting.remove(token);
            self.queues.delay(&mut self.state, token, time_ms + WAIT_CROSSED_MS);
        }
    }

    /// There is no room for all who wait: this one is delivered again after a while, which is never the same, so that
    /// it does not miss the same others each time.
    fn come_again(&mut self, token: TokenRef, time_ms: u64) {
        let Some(found) = self.state.tokens.get(token).filter(|token| token.place == Place::Blocked) else { return };
        let sequence = self.state.sagas[found.saga].id.sequence.get();
        let spread = (sequence ^ time_ms).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let delay_ms = WAIT_REFRESH_MS / 2 + spread % WAIT_REFRESH_MS;
        self.queues.delay(&mut self.state, token, time_ms + delay_ms);
    }

    /// A saga in the way is looked at: it must be in memory.
    fn recall_holder(&mut self, holder: &Holder) {
        if holder.saga.shard.get() == self.state.shard {
            self.recall(holder.saga.sequence.get());
        }
    }

    /// What a step waits for is out of its way: it asks again.
    pub(super) fn wake(&mut self, token: TokenRef) {
        let Some(waiter) = self.waiting.remove(token) else { return };
        if self.state.tokens.get(token).is_some_and(|token| token.place == Place::Blocked) {
            let with_run = WithRun { freed: waiter.freed, wounded: false };
            self.queues.wake(&mut self.state, token, with_run);
        }
    }

    /// Somebody is durably out of the way.
    pub(super) fn hand_on(&mut self, over: Over) {
        for token in self.waiting.over(over) {
            let freed_lsn = self.waiting.get(token).map_or(0, |waiter| waiter.freed_lsn);
            if is_broken(Mutation::WakeForgotten) {
                continue;
            }
            if freed_lsn > self.durable_lsn && !is_broken(Mutation::FreedBeforeDurable) {
                self.effects.push_back((self.lsn(), Effect::Wake(token)));
            } else {
                self.wake(token);
            }
        }
        self.hand_on_across(over);
    }

    fn note_over(&mut self, over: Over) {
        if !self.waiting.is_awaited(over.saga) && !self.waiting.across.is_watched(over.saga.1) {
            return;
        }
        if is_broken(Mutation::FreedBeforeDurable) {
            return self.hand_on(over);
        }
        self.effects.push_back((self.lsn(), Effect::Over(over)));
    }

    /// Tokens are consumed: what their steps held is undone, or they wait no more.
    pub(super) fn let_go(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        for index in 0..self.consumed.len() {
            let token = self.consumed[index];
            match self.state.tokens[token].kind {
                Kind::Undo => self.let_go_of(token),
                Kind::Run => _ = self.waiting.remove(token),
                _ => {}
            }
        }
    }

    /// A step holds and claims nothing now: it is undone, or its call came to nothing.
    pub(super) fn let_go_of(&mut self, token: TokenRef) {
        if !self.waiting.is_empty() {
            self.note_over(self.over_of(token));
        }
    }

    fn over_of(&self, token: TokenRef) -> Over {
        let found = &self.state.tokens[token];
        let saga = &self.state.sagas[found.saga];
        Over { saga: key_of(saga.id), attempt: saga.attempt, place: Some(found.position) }
    }

    /// A step claims this resource and nothing else: who waits for it elsewhere asks again.
    fn let_go_elsewhere(&mut self, token: TokenRef, resource: &[u8]) {
        let over = self.over_of(token);
        let waits_elsewhere =
            |&waiter: &TokenRef| self.waiting.get(waiter).is_some_and(|waiter| *waiter.resource != *resource);
        if self.waiting.waiters_of(over.saga).iter().any(waits_elsewhere) || self.waiting.across.is_watched(over.saga.1)
        {
            self.note_over(over);
        }
    }

    /// An abort: nothing of the saga waits any more, and a step that was cleanly rejected holds nothing.
    pub(super) fn leave_waiting(&mut self, saga: SagaRef, clean_step: Option<u8>) {
        if self.waiting.is_empty() {
            return;
        }
        let tokens: Vec<TokenRef> = self.state.tokens_of(saga).collect();
        for token in tokens {
            self.waiting.remove(token);
        }
        if let Some(step) = clean_step {
            let found = &self.state.sagas[saga];
            let place = Some(u16::from(step));
            self.note_over(Over { saga: key_of(found.id), attempt: found.attempt, place });
        }
    }
}
