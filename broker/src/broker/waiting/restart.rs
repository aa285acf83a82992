//! Victims begin again, behind those that they lost to.

use sagacore_core::wire::{HoldMode, Holder, Key, Kind, TransactionWriter};

use super::table::{Edge, Over, Waiter, key_of};
use super::{Broker, Effect, Standing};
use crate::state::{Place, SagaRef, TokenRef};

impl Broker {
    /// A record ends a saga, or an attempt of it: who waited for it hears of that when it is durable.
    pub(in crate::broker) fn note_through(&mut self) {
        if let Some((sequence, _)) = self.applied.ended {
            self.waiting.lost_to.remove(&sequence);
            self.note_over(Over { saga: (self.state.shard, sequence), attempt: u32::MAX, place: None });
        }
        if let Some(saga) = self.applied.restarted {
            let found = &self.state.sagas[saga];
            self.note_over(Over { saga: key_of(found.id), attempt: found.attempt - 1, place: None });
            self.applied.published.clear();
            self.effects.push_back((self.next_lsn, Effect::Restarted(saga)));
            self.waiting.deadlocks.restarts += 1;
        }
    }

    /// In place of what would end a victim: its last tokens are consumed, and the roots of the next attempt published.
    pub(in crate::broker) fn restart(&mut self, saga: SagaRef, time_ms: u64) {
        let header = self.state.restart_header(saga);
        let mut transaction = TransactionWriter::new(&mut self.batch, 0);
        for &token in &self.consumed {
            transaction.consume(&Key::of(&self.state.header(token)));
        }
        transaction.publish(header);
        transaction.finish();
        self.state.unlist(self.state.sagas[saga].id.sequence.get());
        let at = self.at(time_ms);
        self.state.restart(saga, &self.consumed, at, &mut self.applied);
    }

    /// A victim that is being undone was cancelled: it does not begin again.
    pub(in crate::broker) fn end_as_victim(&mut self, saga: SagaRef) {
        let mut header = self.state.restart_header(saga);
        header.kind = Kind::Cancel.code();
        let mut transaction = TransactionWriter::new(&mut self.batch, 0);
        transaction.publish(header);
        transaction.finish();
        self.state.end_as_victim(saga);
    }

    /// A deciding saga said no, as it was told to. If nobody of its cycle is there any more, it need not have.
    pub(in crate::broker) fn note_gave_way(&mut self, saga: SagaRef) {
        let lost_to = self.waiting.lost_to.get(&self.state.sagas[saga].id.sequence.get());
        let is_gone = |holder: &Holder| !matches!(self.state.standing(holder), Standing::Live | Standing::Foreign);
        let is_phantom = lost_to.is_some_and(|lost_to| lost_to.iter().all(is_gone));
        self.waiting.deadlocks.phantoms += u64::from(is_phantom);
    }

    /// The next attempt is durable: it waits for those that the last one lost to, or begins at once.
    pub(in crate::broker) fn begin_again(&mut self, saga: SagaRef, time_ms: u64) {
        let Some(found) = self.state.sagas.get(saga) else { return };
        let lost_to = self.waiting.lost_to.remove(&found.id.sequence.get()).unwrap_or_default();
        for holder in &lost_to {
            self.recall_holder(holder);
        }
        let is_live = |holder: &Holder| match self.state.standing(holder) {
            Standing::Live => true,
            Standing::Foreign => self.has_route(holder.saga.shard.get()),
            Standing::Ended | Standing::Undone => false,
        };
        let edges: Vec<Edge> =
            lost_to.into_iter().filter(is_live).map(|holder| Edge { holder, is_dead: false }).collect();
        let is_root = |&token: &TokenRef| {
            let token = &self.state.tokens[token];
            token.kind == Kind::Run && token.place == Place::Held
        };
        let roots: Vec<TokenRef> = self.state.tokens_of(saga).filter(is_root).collect();
        for token in roots {
            if edges.is_empty() || self.waiting.is_full() {
                self.queues.enqueue(&mut self.state, token);
                continue;
            }
            self.state.tokens[token].place = Place::Blocked;
            let waiter = Waiter::new(HoldMode::Exclusive, Box::default(), edges.clone(), time_ms);
            self.waiting.insert(token, waiter);
            self.chase(token, time_ms);
        }
    }
}
