//! A broker in memory and peers that say just what a test wants: no cores, only messages.

use std::collections::VecDeque;

use sagacore_broker::{Broker, Config, Opened, Record, RecordKind, Visibility, WatermarkBounds};
use sagacore_core::limits::HEARTBEAT_MS;
use sagacore_core::wire::{
    Flags, Header, Key, Kind, Message, Role, Section, Sections, Transaction, TransactionWriter, Transactions,
};

use crate::sagas::SagaModel;

pub const CREDIT: u64 = 1_000;

/// The sections of a message that a peer sends.
pub type Sent = Vec<(u8, Vec<u8>)>;

/// A message as a peer got it.
#[derive(Debug, Clone)]
pub struct Got {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Got {
    pub fn section(&self, key: u8) -> Option<&[u8]> {
        Sections::parse(&self.body).unwrap().get(key)
    }

    pub fn kind(&self) -> Kind {
        self.header.kind()
    }

    pub fn place(&self) -> u16 {
        self.header.place.get()
    }

    pub fn key(&self) -> Key {
        Key::of(&self.header)
    }
}

pub struct World {
    pub config: Config,
    pub broker: Broker,
    pub now_ms: u64,
    /// What is durable, and what the broker handed out to be written.
    pub log: Vec<Record>,
    /// While it is false, records are written but not synced.
    pub syncs: bool,
    inboxes: Vec<(String, VecDeque<Got>)>,
    numbers: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(Visibility::Strict)
    }

    pub fn with(visibility: Visibility) -> Self {
        Self::of(Config { visibility, ..Config::default() })
    }

    pub fn bounded(watermarks: WatermarkBounds) -> Self {
        Self::of(Config { watermarks, ..Config::default() })
    }

    pub fn of(config: Config) -> Self {
        let config = Config { stuck_after_ms: 5_000, ..config };
        let mut broker = Broker::new(config);
        let first = broker.open(Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0, unclean: false }, 0);
        let mut world =
            Self { config, broker, now_ms: 0, log: Vec::new(), syncs: true, inboxes: Vec::new(), numbers: 0 };
        world.log.extend(first);
        world.settle();
        world
    }

    /// The broker dies; another one reads what is durable. Sessions are gone.
    pub fn restart(&mut self, durable: usize) {
        self.log.truncate(durable);
        self.start_again(true);
    }

    /// The broker is stopped, or has died, and another one reads what is in the log.
    pub fn start_again(&mut self, unclean: bool) {
        let mut broker = Broker::new(self.config);
        for record in &self.log {
            broker.replay(record.kind, record.lsn, record.time_ms, &record.payload).unwrap();
        }
        let last_time_ms = self.log.last().map_or(0, |record| record.time_ms);
        let next_lsn = self.log.len() as u64 + 1;
        let first = broker.open(Opened { next_lsn, boot_epoch: 2, last_time_ms, unclean }, self.now_ms);
        self.broker = broker;
        self.inboxes.clear();
        self.log.extend(first);
        self.settle();
    }

    pub fn settle(&mut self) {
        loop {
            let before = self.log.len();
            while let Some(record) = self.broker.flush(self.now_ms) {
                self.log.push(record);
            }
            if self.syncs
                && let Some(last) = self.log.last()
            {
                self.broker.synced(last.lsn, self.now_ms);
            }
            if self.log.len() == before {
                break;
            }
        }
        let mut frames = Vec::new();
        self.broker.take_frames(&mut frames);
        for (identity, frame) in frames {
            let name = String::from_utf8(identity.to_vec()).unwrap();
            let got: Vec<Got> = Transactions::parse(&frame)
                .unwrap()
                .flat_map(|transaction| transaction.unwrap().messages().map(got).collect::<Vec<_>>())
                .collect();
            self.inbox(&name).extend(got);
        }
    }

    fn inbox(&mut self, name: &str) -> &mut VecDeque<Got> {
        if let Some(at) = self.inboxes.iter().position(|(other, _)| other == name) {
            return &mut self.inboxes[at].1;
        }
        self.inboxes.push((name.to_owned(), VecDeque::new()));
        &mut self.inboxes.last_mut().unwrap().1
    }

    /// Everything that a peer got since it was last asked.
    pub fn take(&mut self, name: &str) -> Vec<Got> {
        self.settle();
        self.inbox(name).drain(..).collect()
    }

    /// The same without the words of the session.
    pub fn tokens(&mut self, name: &str) -> Vec<Got> {
        let session = [Kind::Confirm, Kind::Ping, Kind::Define, Kind::Subscribe, Kind::Watermark];
        self.take(name).into_iter().filter(|got| !session.contains(&got.kind())).collect()
    }

    /// The one token that a peer got.
    pub fn token(&mut self, name: &str, kind: Kind) -> Got {
        let mut tokens = self.tokens(name);
        assert_eq!(tokens.iter().map(Got::kind).collect::<Vec<_>>(), [kind], "{name}");
        tokens.remove(0)
    }

    /// What a peer got for other shards; the rest stays there.
    pub fn take_carried(&mut self, name: &str) -> Vec<Got> {
        self.settle();
        let is_carried = |got: &Got| matches!(got.kind(), Kind::Probe | Kind::Wake);
        let (carried, rest) = self.inbox(name).drain(..).partition(is_carried);
        *self.inbox(name) = rest;
        Vec::from(carried)
    }

    pub fn put_back(&mut self, name: &str, got: Vec<Got>) {
        self.inbox(name).extend(got);
    }

    /// The last message of this kind in the log, as it stands there.
    pub fn logged(&self, kind: Kind) -> Got {
        let records = self.log.iter().filter(|record| record.kind == RecordKind::Transactions);
        let mut messages = records.flat_map(transactions).flatten();
        messages.rfind(|got| got.kind() == kind).unwrap()
    }

    pub fn frame(&mut self, name: &str, frame: &[u8]) {
        self.broker.receive(name.as_bytes(), frame, self.now_ms);
        self.settle();
    }

    /// A transaction: what it consumes, and headers with bodies as (section, bytes).
    pub fn say(&mut self, name: &str, consumes: &[Key], messages: &[(Header, Sent)]) {
        self.numbers += 1;
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, self.numbers);
        for key in consumes {
            transaction.consume(key);
        }
        for (header, sections) in messages {
            transaction.publish_with(*header, |body| {
                for (key, value) in sections {
                    body.section(*key, value);
                }
            });
        }
        transaction.finish();
        self.frame(name, &frame);
    }

    pub fn subscribe(&mut self, name: &str, role: Role, service: &str, flags: u16) {
        let mut header = Header::new(Kind::Subscribe);
        header.place = role.code().into();
        header.amount = (self.numbers + 1_000).into();
        header.active = 1_000.into();
        header.done = CREDIT.into();
        header.set(flags);
        self.say(name, &[], &[(header, vec![(Section::NAME, service.as_bytes().to_vec())])]);
    }

    pub fn define(&mut self, saga: &SagaModel) -> u64 {
        let definition = saga.encode();
        let fingerprint = sagacore_core::plan::fingerprint(&definition);
        let mut header = Header::new(Kind::Define);
        header.plan = fingerprint.into();
        self.say("client", &[], &[(header, vec![(Section::DATA, definition)])]);
        fingerprint
    }

    pub fn start(&mut self, plan: u64, key: &str, input: &str, correlation: u64) {
        let mut header = Header::new(Kind::Start);
        header.plan = plan.into();
        header.amount = correlation.into();
        let body = vec![(Section::INPUT, input.as_bytes().to_vec()), (Section::KEY, key.as_bytes().to_vec())];
        self.say("client", &[], &[(header, body)]);
    }

    /// Time passes; the named peers are heard all the while.
    pub fn pass(&mut self, ms: u64, heard: &[&str]) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms = (self.now_ms + HEARTBEAT_MS).min(until);
            for name in heard {
                self.say(name, &[], &[(Header::new(Kind::Ping), vec![])]);
            }
            self.broker.tick(self.now_ms);
            self.settle();
        }
    }
}

fn got(message: Message<'_>) -> Got {
    Got { header: *message.header, body: message.body.to_vec() }
}

/// What a record of transactions publishes, by transaction.
pub fn transactions(record: &Record) -> Vec<Vec<Got>> {
    let (mut all, mut rest) = (Vec::new(), record.payload.as_slice());
    while !rest.is_empty() {
        let (transaction, after) = Transaction::parse(rest).unwrap();
        all.push(transaction.messages().map(got).collect());
        rest = after;
    }
    all
}

/// What a step's service says when the step is done: the header of the next message.
pub fn next(of: &Got, kind: Kind, place: u16, done: u64, active: u64) -> Header {
    let mut header = Header::new(kind);
    (header.saga, header.plan, header.attempt) = (of.header.saga, of.header.plan, of.header.attempt);
    header.place = place.into();
    header.done = done.into();
    header.active = active.into();
    header
}

/// The body that a token came with.
pub fn carried(of: &Got) -> Sent {
    Sections::parse(&of.body).unwrap().map(|(key, value)| (key, value.to_vec())).collect()
}

/// What a service says when a step is done whose edge leads into a join or to the end.
pub fn done(of: &Got, edge: u16) -> Header {
    next(of, Kind::Done, edge, of.header.done.get() | 1 << of.place(), 0)
}

/// The same of a step that is undone.
pub fn undone(of: &Got, edge: u16) -> Header {
    let mut header = next(of, Kind::Undone, edge, of.header.done.get(), 0);
    header.undo = (of.header.undo.get() & !(1 << of.place())).into();
    header.set(Flags::SPLICE);
    header
}
