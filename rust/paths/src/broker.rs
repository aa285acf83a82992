//! Sagas through the broker: every transaction judged, written and synced by itself, as when few are in flight.

use sagacore_broker::{Broker, Config, Opened, Visibility};
use sagacore_core::plan::Plan;
use sagacore_core::wire::{CauseCode, Flags, Header, Key, Kind, Role, Section, Sections};
use sagacore_fuzz::seeds;

use crate::frames::{INPUT, RESULT, define, header, hear, say};
use crate::{HOUSEKEEPING_OPERATIONS, Path};

const SERVICES: [&str; 3] = ["service-0", "service-1", "service-2"];
const CREDIT: u64 = 10 * HOUSEKEEPING_OPERATIONS;
/// Outcomes that the broker remembers: so few that it forgets one with each saga.
const OUTCOMES: usize = 1_000;

/// A chain of four steps, one saga after the other.
pub struct Sagas {
    broker: Broker,
    plan: Plan,
    /// The step that is rejected.
    rejected: Option<u16>,
    sagas: u64,
    now_ms: u64,
    number: u64,
    frame: Vec<u8>,
    told: Vec<(Box<[u8]>, Vec<u8>)>,
    ended: u64,
}

/// A step to do or to undo.
struct Token {
    header: Header,
    body: Vec<u8>,
}

impl Sagas {
    /// Sagas that complete.
    pub fn completed() -> Self {
        Self::new(None)
    }

    /// Sagas whose pivot is rejected: the two steps before it are compensated.
    pub fn rejected() -> Self {
        Self::new(Some(2))
    }

    fn new(rejected: Option<u16>) -> Self {
        let mut config = Config { visibility: Visibility::Relaxed, ..Config::default() };
        config.outcomes.count = OUTCOMES;
        let mut broker = Broker::new(config);
        let opened = Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0, unclean: false };
        if let Some(record) = broker.open(opened, 0) {
            broker.synced(record.lsn, 0);
        }
        let definition = seeds::chain();
        let plan = Plan::compile(&definition).unwrap_or_else(|error| panic!("the chain: {error}"));
        let (frame, told) = (Vec::new(), Vec::new());
        let mut sagas = Self { broker, plan, rejected, sagas: 0, now_ms: 0, number: 0, frame, told, ended: 0 };
        sagas.subscribe("client", "", Role::Client);
        for service in SERVICES {
            sagas.subscribe(service, service, Role::Service);
        }
        sagas.number += 1;
        define(&mut sagas.frame, sagas.number, &definition);
        sagas.send("client");
        // Tables and queues reach their sizes, and the first outcomes are forgotten.
        (0..2 * OUTCOMES).for_each(|_| sagas.operate());
        (sagas.ended, sagas.sagas) = (0, 0);
        sagas
    }

    fn subscribe(&mut self, sender: &str, name: &str, role: Role) {
        self.number += 1;
        let mut subscribe = header(Kind::Subscribe, self.number);
        subscribe.place = role.code().into();
        subscribe.active = 1_000.into();
        subscribe.done = CREDIT.into();
        say(&mut self.frame, 0, &[], subscribe, |body| {
            body.section(Section::NAME, name.as_bytes());
        });
        self.send(sender);
    }

    /// Gives the broker what was written, all of it durable at once, and takes what it has to say.
    fn send(&mut self, sender: &str) -> Option<Token> {
        self.broker.receive(sender.as_bytes(), &self.frame, self.now_ms);
        self.frame.clear();
        while let Some(record) = self.broker.flush(self.now_ms) {
            self.broker.synced(record.lsn, self.now_ms);
        }
        self.broker.take_frames(&mut self.told);
        let (mut token, mut ended) = (None, 0);
        for (_, frame) in self.told.drain(..) {
            hear(&frame, |_, message| match message.header.kind() {
                Kind::Run | Kind::Undo => token = Some(Token { header: *message.header, body: message.body.to_vec() }),
                Kind::Result => ended += 1,
                Kind::Refused => panic!("refused: {:?}", message.header),
                _ => {}
            });
        }
        self.ended += ended;
        token
    }

    fn start(&mut self) -> Option<Token> {
        self.number += 1;
        let mut start = header(Kind::Start, self.number);
        start.plan = self.plan.fingerprint.into();
        say(&mut self.frame, self.number, &[], start, |body| {
            body.section(Section::INPUT, &INPUT).section(Section::KEY, &self.number.to_le_bytes());
        });
        self.send("client")
    }

    /// What the service of a step says: it is done, rejected or undone.
    fn answer(&mut self, token: &Token) -> Option<Token> {
        self.number += 1;
        let place = token.header.place.get();
        let service = SERVICES[usize::from(place) % SERVICES.len()];
        match token.header.kind() {
            Kind::Undo => self.undone(token),
            _ if self.rejected == Some(place) => self.reject(token),
            _ => self.done(token),
        }
        self.send(service)
    }

    fn done(&mut self, token: &Token) {
        let step = token.header.place.get();
        let mut next = if usize::from(step) + 1 < self.plan.steps.len() {
            following(token, Kind::Run, step + 1)
        } else {
            following(token, Kind::Done, 0)
        };
        next.done = (token.header.done.get() | 1 << step).into();
        next.active = if next.kind() == Kind::Run { 1 << (step + 1) } else { 0u64 }.into();
        if self.plan.pivot == Some(step as u8) {
            next.set(Flags::PIVOTED);
        }
        if next.has(Flags::PIVOTED) {
            next.deadline_ms = 0.into();
        }
        let sections = Sections::parse(&token.body).unwrap_or_else(|broken| panic!("a token's body: {broken}"));
        say(&mut self.frame, self.number, &[Key::of(&token.header)], next, |body| {
            body.section(step as u8, &RESULT);
            sections.filter(|(key, _)| *key >= Section::INPUT).for_each(|(key, value)| _ = body.section(key, value));
        });
    }

    fn reject(&mut self, token: &Token) {
        let step = token.header.place.get();
        let mut fail = following(token, Kind::Fail, step);
        fail.set(Flags::CLEAN);
        // An array of code, step and text.
        let cause = [0x93, CauseCode::Rejected.code(), step as u8, 0xa2, b'n', b'o'];
        say(&mut self.frame, self.number, &[Key::of(&token.header)], fail, |body| {
            body.section(Section::CAUSE, &cause);
        });
    }

    fn undone(&mut self, token: &Token) {
        let step = token.header.place.get();
        let mut next = match step {
            0 => following(token, Kind::Undone, 0),
            _ => following(token, Kind::Undo, step - 1),
        };
        next.active = 0.into();
        next.undo = (token.header.undo.get() & !(1 << step)).into();
        next.set(Flags::SPLICE);
        say(&mut self.frame, self.number, &[Key::of(&token.header)], next, |_| {});
    }

    /// Time passes, and each service gives back its credit: no more was delivered than there were transactions.
    fn keep_house(&mut self) {
        self.now_ms += HOUSEKEEPING_OPERATIONS;
        self.broker.tick(self.now_ms);
        for service in SERVICES {
            say(&mut self.frame, 0, &[], header(Kind::Credit, CREDIT + self.number), |_| {});
            self.send(service);
        }
    }
}

/// A message of the same saga, plan, attempt and sets.
fn following(token: &Token, kind: Kind, place: u16) -> Header {
    let mut header = token.header;
    header.kind = kind.code();
    header.place = place.into();
    header.deliveries = 0.into();
    header
}

impl Path for Sagas {
    fn operate(&mut self) {
        self.sagas += 1;
        if self.sagas.is_multiple_of(HOUSEKEEPING_OPERATIONS) {
            self.keep_house();
        }
        let mut token = self.start();
        while let Some(now) = token {
            token = self.answer(&now);
        }
    }

    fn check(&self, operations: u64) {
        let counters = &self.broker.state().counters;
        let ended = if self.rejected.is_some() { counters.compensated } else { counters.completed };
        assert_eq!((self.ended, ended), (operations, operations + 2 * OUTCOMES as u64), "RESULTs told, and outcomes");
    }
}
