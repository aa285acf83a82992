//! The peer's end of a session with the broker: subscribe, credit, heartbeats, and the outbox.
//!
//! A transaction stays in the outbox until the broker says that it is durable; whatever breaks in between, a lost
//! frame, a new socket, a restarted broker, it is sent again in the same order. That is harmless by design: a
//! transaction that was applied already is stale the second time.

use std::collections::VecDeque;

use crate::limits::{FRAME_BYTES_MAX, HEARTBEAT_MS, PATIENCE_MS, SUBSCRIBE_AGAIN_MS};
use crate::mutation::{Mutation, is_broken};
use crate::wire::{
    BodyWriter, HEADER_BYTES, Header, Kind, Message, Refusal, Role, Section, TransactionWriter, write_encoded,
};

/// Credit is told once such a part of it can be given back, and at each tick: not with every frame.
const CREDIT_PARTS: u64 = 8;

/// Who a peer is and what it asks for.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    pub role: Role,
    /// The service that it serves; empty for clients and coordinators.
    pub name: String,
    /// Drawn at random when the process starts: a new session of the same instance replaces its old one.
    pub instance: u64,
    /// Its fences are in memory: the broker refuses a second process of the same service.
    pub exclusive: bool,
    /// What a delivered message may take before it is delivered again.
    pub lease_ms: u64,
    /// Messages that it may hold unanswered.
    pub credit: u64,
    /// Unconfirmed bytes from which on `is_full` asks to wait.
    pub outbox_bytes_max: usize,
}

/// What a message from the broker meant for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Handled here: nothing for the caller.
    Session,
    /// A new session has begun: what was delivered in the old one is not leased to us any more.
    Welcome,
    /// Every transaction up to this number is judged and durable.
    Confirmed(u64),
    /// The transaction of this number changed nothing.
    Refused { number: u64, refusal: Refusal },
    /// For the caller.
    Delivery,
}

/// Whether the connection still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// The broker was silent for too long: open a new socket and call `connect`.
    Reconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No socket yet.
    Closed,
    /// SUBSCRIBE is to be sent at this time, or was sent and is repeated then.
    Subscribing { again_ms: u64 },
    /// Welcomed.
    Ready,
}

/// See the module's text.
#[derive(Debug)]
pub struct Peer {
    options: PeerOptions,
    state: State,
    refused: Option<Refusal>,
    boot_epoch: u64,
    shard: Option<u16>,
    heard_ms: u64,
    said_ms: u64,
    /// Deliveries allowed since the session began, and what the broker was last told.
    granted: u64,
    announced: u64,
    /// Messages that nobody confirms, not sent yet.
    control: Vec<u8>,
    outbox: Outbox,
}

impl Peer {
    pub fn new(options: PeerOptions) -> Self {
        Self {
            granted: options.credit,
            options,
            state: State::Closed,
            refused: None,
            boot_epoch: 0,
            shard: None,
            heard_ms: 0,
            said_ms: 0,
            announced: 0,
            control: Vec::new(),
            outbox: Outbox::default(),
        }
    }

    /// A fresh socket is there: subscribe, and replay what is not confirmed once the broker has welcomed us.
    pub fn connect(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
        self.subscribe(now_ms);
    }

    /// A transaction of the next number, kept until it is confirmed. Gives its number.
    pub fn transact(&mut self, build: impl FnOnce(&mut TransactionWriter<'_>)) -> u64 {
        self.outbox.push(build)
    }

    /// A message that is neither numbered nor kept: it is lost with the session.
    pub fn tell(&mut self, header: Header, body: impl FnOnce(&mut BodyWriter<'_>)) {
        let mut transaction = TransactionWriter::new(&mut self.control, 0);
        transaction.publish_with(header, body);
        transaction.finish();
    }

    /// The same of a message that somebody else has written.
    pub fn pass_on(&mut self, message: &Message<'_>) {
        let mut written = Vec::with_capacity(HEADER_BYTES + message.body.len());
        write_encoded(&mut written, *message.header, message.body);
        TransactionWriter::new(&mut self.control, 0).finish_with(&written, 1);
    }

    /// So many more messages may be delivered.
    pub fn grant(&mut self, deliveries: u64) {
        self.granted += deliveries;
    }

    /// Handles what concerns the session and says what a message meant.
    pub fn receive(&mut self, message: &Message<'_>, now_ms: u64) -> Heard {
        self.heard_ms = now_ms;
        match message.header.kind() {
            Kind::Subscribe => self.welcome(message.header, now_ms),
            Kind::Ping | Kind::Credit => Heard::Session,
            Kind::Confirm if self.is_ready() => {
                let number = message.header.amount.get();
                self.outbox.confirm(number);
                Heard::Confirmed(number)
            }
            Kind::Confirm => Heard::Session,
            Kind::Refused => self.refuse(message.header, now_ms),
            _ => Heard::Delivery,
        }
    }

    /// Says that we live, where nothing else did, and notices a broker that is silent.
    pub fn tick(&mut self, now_ms: u64) -> Link {
        match self.state {
            State::Closed => Link::Up,
            _ if now_ms.saturating_sub(self.heard_ms) > PATIENCE_MS => {
                self.state = State::Closed;
                Link::Reconnect
            }
            State::Ready if self.granted != self.announced => {
                self.announce();
                Link::Up
            }
            State::Ready if now_ms.saturating_sub(self.said_ms) >= HEARTBEAT_MS / 2 => {
                self.tell(Header::new(Kind::Ping), |_| {});
                Link::Up
            }
            _ => Link::Up,
        }
    }

    /// What to send now: at most `FRAME_BYTES_MAX`, so call it until there is nothing.
    pub fn frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        match self.state {
            State::Closed => None,
            State::Subscribing { again_ms } => (now_ms >= again_ms).then(|| {
                self.state = State::Subscribing { again_ms: now_ms + SUBSCRIBE_AGAIN_MS };
                self.subscription()
            }),
            State::Ready => {
                if self.granted - self.announced >= self.options.credit.div_ceil(CREDIT_PARTS) {
                    self.announce();
                }
                let mut frame = std::mem::take(&mut self.control);
                self.outbox.take_unsent(&mut frame);
                if frame.is_empty() {
                    return None;
                }
                self.said_ms = now_ms;
                Some(frame)
            }
        }
    }

    /// Whether the broker has welcomed us.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether the caller should wait with new work: so much is not confirmed yet.
    pub fn is_full(&self) -> bool {
        self.outbox.bytes() >= self.options.outbox_bytes_max
    }

    /// Transactions that are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.outbox.entries.len()
    }

    /// The number that the next transaction gets.
    pub fn next_number(&self) -> u64 {
        self.outbox.last_number + 1
    }

    /// Why the broker does not take us as we are; it is asked again from time to time.
    pub fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Which start of the broker the session is with.
    pub fn boot_epoch(&self) -> u64 {
        self.boot_epoch
    }

    /// The number of the broker that has welcomed us last; none before that.
    pub fn shard(&self) -> Option<u16> {
        self.shard
    }

    pub fn options(&self) -> &PeerOptions {
        &self.options
    }

    fn announce(&mut self) {
        if self.granted != self.announced {
            self.announced = self.granted;
            let mut credit = Header::new(Kind::Credit);
            credit.amount = self.granted.into();
            self.tell(credit, |_| {});
        }
    }

    fn subscribe(&mut self, now_ms: u64) {
        self.state = State::Subscribing { again_ms: now_ms };
        self.control.clear();
    }

    fn subscription(&self) -> Vec<u8> {
        let mut header = Header::new(Kind::Subscribe);
        header.place = self.options.role.code().into();
        header.amount = self.options.instance.into();
        header.active = self.options.lease_ms.into();
        header.done = self.options.credit.into();
        if self.options.exclusive {
            header.set(crate::wire::Flags::EXCLUSIVE);
        }
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        transaction.publish_with(header, |body| {
            body.section(Section::NAME, self.options.name.as_bytes());
        });
        transaction.finish();
        frame
    }

    fn welcome(&mut self, header: &Header, now_ms: u64) -> Heard {
        let boot_epoch = header.amount.get();
        if self.is_ready() && boot_epoch == self.boot_epoch {
            return Heard::Session;
        }
        self.state = State::Ready;
        self.refused = None;
        self.boot_epoch = boot_epoch;
        self.shard = Some(header.place.get());
        self.said_ms = now_ms;
        self.granted = self.options.credit;
        self.announced = self.options.credit;
        if !is_broken(Mutation::OutboxForgets) {
            self.outbox.replay();
        }
        Heard::Welcome
    }

    fn refuse(&mut self, header: &Header, now_ms: u64) -> Heard {
        let refusal = Refusal::from_code(header.place.get()).unwrap_or(Refusal::Unsupported);
        match (refusal, self.state) {
            (Refusal::NoSession, State::Ready) => {
                self.subscribe(now_ms);
                Heard::Session
            }
            (Refusal::NoSession, _) => Heard::Session,
            (_, State::Subscribing { .. }) => {
                self.refused = Some(refusal);
                Heard::Session
            }
            _ => Heard::Refused { number: header.amount.get(), refusal },
        }
    }
}

/// Transactions that are not confirmed yet, in order, in one buffer.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Where the oldest one begins; before it is garbage.
    start: usize,
    /// Number and length of each.
    entries: VecDeque<(u64, u32)>,
    /// How many of `entries`, and up to which byte, this session has sent.
    sent_entries: usize,
    sent_end: usize,
    last_number: u64,
}

impl Outbox {
    fn bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn push(&mut self, build: impl FnOnce(&mut TransactionWriter<'_>)) -> u64 {
        let before = self.bytes.len();
        self.last_number += 1;
        let mut transaction = TransactionWriter::new(&mut self.bytes, self.last_number);
        build(&mut transaction);
        transaction.finish();
        self.entries.push_back((self.last_number, (self.bytes.len() - before) as u32));
        self.last_number
    }

    fn confirm(&mut self, number: u64) {
        while let Some(&(oldest, length)) = self.entries.front() {
            if oldest > number || self.sent_entries == 0 {
                break;
            }
            self.entries.pop_front();
            self.start += length as usize;
            self.sent_entries -= 1;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
            self.start = 0;
            self.sent_end = 0;
        } else if self.start > FRAME_BYTES_MAX && self.start > self.bytes.len() / 2 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(self.bytes.len() - self.start);
            self.sent_end -= self.start;
            self.start = 0;
        }
    }

    fn replay(&mut self) {
        self.sent_entries = 0;
        self.sent_end = self.start;
    }

    /// Appends to `frame` what was not sent yet, as long as the frame keeps its limit.
    fn take_unsent(&mut self, frame: &mut Vec<u8>) {
        let room = FRAME_BYTES_MAX.saturating_sub(frame.len());
        let unsent = self.bytes.len() - self.sent_end;
        let end = if unsent <= room {
            self.sent_entries = self.entries.len();
            self.bytes.len()
        } else {
            let mut end = self.sent_end;
            while let Some(&(_, length)) = self.entries.get(self.sent_entries) {
                if end + length as usize - self.sent_end > room {
                    break;
                }
                end += length as usize;
                self.sent_entries += 1;
            }
            end
        };
        frame.extend_from_slice(&self.bytes[self.sent_end..end]);
        self.sent_end = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Transactions;

    fn peer() -> Peer {
        Peer::new(PeerOptions {
            role: Role::Client,
            name: String::new(),
            instance: 7,
            exclusive: false,
            lease_ms: 0,
            credit: 10,
            outbox_bytes_max: 1 << 20,
        })
    }

    fn said(frame: &[u8]) -> Vec<(u64, Kind)> {
        let transactions = Transactions::parse(frame).unwrap().map(Result::unwrap);
        transactions.flat_map(|t| t.messages().map(move |m| (t.number, m.header.kind()))).collect()
    }

    fn hear(peer: &mut Peer, kind: Kind, amount: u64, place: u16, now_ms: u64) -> Heard {
        let mut header = Header::new(kind);
        header.amount = amount.into();
        header.place = place.into();
        peer.receive(&Message { header: &header, body: &[] }, now_ms)
    }

    fn start(peer: &mut Peer) -> u64 {
        peer.transact(|t| {
            t.publish(Header::new(Kind::Start));
        })
    }

    #[test]
    fn what_is_not_confirmed_is_replayed_in_order() {
        let mut peer = peer();
        assert_eq!(peer.frame(0), None, "no socket");
        for _ in 0..3 {
            start(&mut peer);
        }
        peer.connect(1);
        assert_eq!(said(&peer.frame(1).unwrap()), [(0, Kind::Subscribe)]);
        assert_eq!(peer.frame(1), None, "nothing before the welcome");
        assert_eq!(hear(&mut peer, Kind::Subscribe, 5, 0, 2), Heard::Welcome);
        assert_eq!(said(&peer.frame(2).unwrap()), [(1, Kind::Start), (2, Kind::Start), (3, Kind::Start)]);
        assert_eq!(hear(&mut peer, Kind::Confirm, 2, 0, 3), Heard::Confirmed(2));
        start(&mut peer);
        assert_eq!(said(&peer.frame(3).unwrap()), [(4, Kind::Start)]);
        assert_eq!(hear(&mut peer, Kind::Refused, 0, Refusal::NoSession.code(), 4), Heard::Session);
        assert_eq!(said(&peer.frame(4).unwrap()), [(0, Kind::Subscribe)]);
        assert_eq!(hear(&mut peer, Kind::Subscribe, 6, 0, 5), Heard::Welcome);
        assert_eq!(said(&peer.frame(5).unwrap()), [(3, Kind::Start), (4, Kind::Start)]);
        hear(&mut peer, Kind::Confirm, 4, 0, 6);
        assert_eq!((peer.unconfirmed(), peer.outbox.bytes()), (0, 0));
    }

    #[test]
    fn frames_keep_their_limit_and_lose_nothing() {
        let mut peer = peer();
        peer.connect(0);
        hear(&mut peer, Kind::Subscribe, 1, 0, 0);
        let total = 2 * FRAME_BYTES_MAX / 128;
        for _ in 0..total {
            start(&mut peer);
        }
        let mut numbers = Vec::new();
        while let Some(frame) = peer.frame(0) {
            assert!(frame.len() <= FRAME_BYTES_MAX);
            numbers.extend(said(&frame).into_iter().map(|(number, _)| number));
            hear(&mut peer, Kind::Confirm, numbers.len() as u64 / 2, 0, 0);
        }
        assert_eq!(numbers, (1..=total as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_silent_broker_is_left_and_a_quiet_peer_pings() {
        let mut peer = peer();
        peer.connect(0);
        hear(&mut peer, Kind::Subscribe, 1, 0, 0);
        assert_eq!(peer.tick(HEARTBEAT_MS), Link::Up);
        assert_eq!(said(&peer.frame(HEARTBEAT_MS).unwrap()), [(0, Kind::Ping)]);
        assert_eq!(peer.tick(PATIENCE_MS + 1), Link::Reconnect);
        assert_eq!(peer.frame(PATIENCE_MS + 1), None);
    }

    #[test]
    fn a_little_credit_waits_for_more_or_for_a_tick() {
        let mut peer = peer();
        peer.connect(0);
        hear(&mut peer, Kind::Subscribe, 1, 0, 0);
        peer.grant(1);
        assert_eq!(peer.frame(0), None, "an eighth of ten is two");
        peer.grant(1);
        assert_eq!(said(&peer.frame(0).unwrap()), [(0, Kind::Credit)]);
        peer.grant(1);
        assert_eq!(peer.tick(1), Link::Up);
        assert_eq!(said(&peer.frame(1).unwrap()), [(0, Kind::Credit)]);
    }

    #[test]
    fn credit_is_cumulative_and_begins_anew_with_a_session() {
        let mut peer = peer();
        peer.connect(0);
        hear(&mut peer, Kind::Subscribe, 1, 0, 0);
        assert_eq!(peer.frame(0), None);
        peer.grant(3);
        let frame = peer.frame(0).unwrap();
        let transaction = Transactions::parse(&frame).unwrap().next().unwrap().unwrap();
        assert_eq!(transaction.messages().next().unwrap().header.amount.get(), 13);
        hear(&mut peer, Kind::Refused, 0, Refusal::NoSession.code(), 1);
        hear(&mut peer, Kind::Subscribe, 2, 0, 1);
        assert_eq!(peer.frame(1), None, "the subscription said how much");
    }
}
