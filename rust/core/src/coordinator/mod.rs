//! The coordinator: where the branches of sagas meet. It holds no truth and sees headers only.
//!
//! Frames come in, transactions go out through the peer's outbox. A join of several edges is remembered in a slot of
//! the table until it is complete; everything else is answered at once. What the table has no room for goes back to
//! the broker with a SPILL, and comes again together with what it waits for. A saga takes no memory beyond the table,
//! and a coordinator that comes back empty gets all that is pending delivered again.

mod arrivals;
mod plans;
mod split;
mod stats;
mod token;

use crate::limits::{BACKOFF_LAST_MS, RETRY_LATER_MS_MAX};
use crate::peer::{Heard, Link, Peer};
use crate::table::Table;
use crate::wire::{Header, Key, Kind, Malformed, Message, Section, Transactions};
use arrivals::Staged;
use plans::{Course, Plans};
use stats::Counters;
use token::Token;

pub use stats::Stats;

/// What has a plan that is not known is given back for so long; doubled for each time that it was delivered before.
const NO_PLAN_MS: u64 = 5;
const NO_PLAN_DOUBLINGS_MAX: u16 = 6;

const _: () = {
    assert!(NO_PLAN_MS << NO_PLAN_DOUBLINGS_MAX <= BACKOFF_LAST_MS && BACKOFF_LAST_MS <= RETRY_LATER_MS_MAX);
};

/// See the module's text.
#[derive(Debug)]
pub struct Coordinator {
    peer: Peer,
    plans: Plans,
    table: Table,
    /// Arrivals of one slot that came one after the other in the frame that is being read.
    staged: Option<Staged>,
    /// Deliveries that are answered and not granted again yet.
    owed: u64,
    counters: Counters,
}

impl Coordinator {
    /// A coordinator with a table of this many slots, brought into the limits.
    pub fn new(slots: usize, peer: Peer) -> Self {
        Self {
            peer,
            plans: Plans::default(),
            table: Table::new(slots),
            staged: None,
            owed: 0,
            counters: Counters::default(),
        }
    }

    /// A fresh socket is there.
    pub fn connect(&mut self, now_ms: u64) {
        self.peer.connect(now_ms);
    }

    /// Handles a frame of the broker. What is to be said to it is then in `frame`.
    ///
    /// # Errors
    /// The rule of the format that the frame breaks; what came before in it has been handled.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64) -> Result<(), Malformed> {
        let read = self.read(frame, now_ms);
        self.settle();
        self.grant();
        read
    }

    /// To be called about as often as a heartbeat is due.
    pub fn tick(&mut self, now_ms: u64) -> Link {
        self.grant();
        self.peer.tick(now_ms)
    }

    /// What to send now; call it until there is nothing.
    pub fn frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        self.peer.frame(now_ms)
    }

    /// The session with the broker.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn stats(&self) -> Stats {
        Stats::new(&self.counters, &self.table, &self.plans)
    }

    /// Bytes of the table, taken once and for all.
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Tells the broker, with a heartbeat, how this coordinator is: its own numbers and what its process adds.
    pub fn report_stats(&mut self, extra: &[(&str, u64)]) {
        let entries = self.stats().entries();
        let mut data = Vec::new();
        // Writing to a vector cannot fail.
        let _ = rmp::encode::write_map_len(&mut data, (entries.len() + extra.len()) as u32);
        for (name, number) in entries.iter().chain(extra) {
            let _ = rmp::encode::write_str(&mut data, name);
            let _ = rmp::encode::write_uint(&mut data, *number);
        }
        self.peer.tell(Header::new(Kind::Ping), |body| {
            body.section(Section::DATA, &data);
        });
    }

    fn read(&mut self, frame: &[u8], now_ms: u64) -> Result<(), Malformed> {
        for transaction in Transactions::parse(frame)? {
            for message in transaction?.messages() {
                self.hear(&message, now_ms);
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: &Message<'_>, now_ms: u64) {
        match self.peer.receive(message, now_ms) {
            Heard::Session => {}
            Heard::Welcome => {
                self.staged = None;
                self.owed = 0;
                self.table.clear();
            }
            Heard::Confirmed(number) => {
                self.settle();
                self.table.answered(number);
            }
            // A join that is stale is forgotten already: its slot was dropped when it was sent.
            Heard::Refused { number, .. } => {
                self.settle();
                self.counters.refused += 1;
                self.counters.spills_refused += u64::from(self.table.refused(number));
            }
            Heard::Delivery => self.deliver(message),
        }
    }

    fn deliver(&mut self, message: &Message<'_>) {
        let header = message.header;
        match header.kind() {
            Kind::Define => {
                let definition = message.sections().get(Section::DATA).unwrap_or_default();
                if self.plans.define(header.plan.get(), definition).is_err() {
                    self.counters.plans_refused += 1;
                }
            }
            kind if kind.is_token() && kind.is_for_coordinator() => {
                self.owed += 1;
                self.counters.deliveries += 1;
                match self.plans.find(header.plan.get()) {
                    Some(plan_index) => self.answer(header, plan_index),
                    None => self.give_back(header),
                }
            }
            _ => self.counters.strays += 1,
        }
    }

    fn answer(&mut self, header: &Header, plan_index: u16) {
        match header.kind() {
            Kind::Start => {
                let roots = self.plans.get(plan_index).forward.roots;
                self.pass([Key::of(header)].into_iter(), &Token::of_start(header), roots);
            }
            Kind::Revoked => {
                self.settle();
                self.forget_forward(header, plan_index);
                let roots = self.plans.get(plan_index).undo(header.undo.get()).roots;
                self.pass([Key::of(header)].into_iter(), &Token::of_revoked(header), roots);
            }
            _ => self.arrive(header, Course::of(self.plans.get(plan_index), header), plan_index),
        }
    }

    /// Consumes tokens and asks for the steps of a set, or tells the outcome where that is empty.
    fn pass(&mut self, consumed: impl Iterator<Item = Key>, token: &Token, steps: u64) {
        self.counters.transactions += 1;
        self.peer.transact(|transaction| {
            for key in consumed {
                transaction.consume(&key);
            }
            if steps == 0 {
                transaction.publish(token.outcome());
            }
            let mut left = steps;
            while left != 0 {
                transaction.publish(token.request(left.trailing_zeros() as u8));
                left &= left - 1;
            }
        });
    }

    /// Asks the broker to deliver a token again a little later.
    fn give_back(&mut self, token: &Header) {
        let mut header = Header::new(Kind::RetryLater);
        header.saga = token.saga;
        header.plan = token.plan;
        header.attempt = token.attempt;
        header.place = token.place;
        header.amount = (NO_PLAN_MS << token.deliveries.get().min(NO_PLAN_DOUBLINGS_MAX)).into();
        self.counters.given_back += 1;
        self.peer.transact(|transaction| {
            transaction.consume(&Key::of(token)).publish(header);
        });
    }

    /// Lets as many more be delivered as were answered, but not while too much waits for the broker: a full outbox, or
    /// three SPILLs for every four slots.
    fn grant(&mut self) {
        let too_many_spills = self.table.unanswered() * 4 > self.table.capacity() * 3;
        if !too_many_spills && !self.peer.is_full() {
            self.peer.grant(std::mem::take(&mut self.owed));
        }
    }
}
