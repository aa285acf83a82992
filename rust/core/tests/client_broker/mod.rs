//! A broker for the tests of the client: what it was sent, what it says, and one that keeps its promises for the model.

use std::collections::{BTreeMap, VecDeque};

use sagacore_core::client::{ClientCore, Event};
use sagacore_core::wire::{
    Flags, Header, Kind, Message, OutcomeCode, Refusal, Section, StatusCode, TransactionWriter, Transactions,
};

/// A message of the client, as it came.
pub struct Sent {
    pub number: u64,
    pub header: Header,
    body: Vec<u8>,
}

impl Sent {
    pub fn section(&self, key: u8) -> Option<&[u8]> {
        Message { header: &self.header, body: &self.body }.sections().get(key)
    }
}

pub fn read(frame: &[u8]) -> Vec<Sent> {
    let mut all = Vec::new();
    for transaction in Transactions::parse(frame).expect("a frame") {
        let transaction = transaction.expect("a transaction");
        assert!(transaction.consumes.is_empty(), "a client consumes nothing");
        for message in transaction.messages() {
            all.push(Sent { number: transaction.number, header: *message.header, body: message.body.to_vec() });
        }
    }
    all
}

/// All that the client has to say.
pub fn sent(client: &mut ClientCore) -> Vec<Sent> {
    sent_at(client, 0)
}

fn sent_at(client: &mut ClientCore, now_ms: u64) -> Vec<Sent> {
    let mut all = Vec::new();
    while let Some(frame) = client.frame(now_ms) {
        all.extend(read(&frame));
    }
    all
}

pub fn answer(kind: Kind, amount: u64, place: u16) -> Header {
    let mut header = Header::new(kind);
    header.amount = amount.into();
    header.place = place.into();
    header
}

/// A message of the broker's: its header, and the sections of its body.
pub type Said<'a> = (Header, &'a [(u8, &'a [u8])]);

/// A frame of the broker's: one transaction for each message.
pub fn frame(messages: &[Said<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, sections) in messages {
        let mut transaction = TransactionWriter::new(&mut out, 0);
        transaction.publish_with(*header, |body| {
            for (key, value) in *sections {
                body.section(*key, value);
            }
        });
        transaction.finish();
    }
    out
}

/// What the client tells when it hears this: correlation, kind and code.
pub fn deliver(client: &mut ClientCore, headers: &[Header]) -> Vec<(u64, Kind, u16)> {
    deliver_at(client, headers, 0)
}

fn deliver_at(client: &mut ClientCore, headers: &[Header], now_ms: u64) -> Vec<(u64, Kind, u16)> {
    let messages: Vec<Said<'_>> = headers.iter().map(|header| (*header, &[][..])).collect();
    let mut told = Vec::new();
    let mut tell = |event: Event<'_>| told.push((event.correlation, event.kind, event.code));
    client.receive(&frame(&messages), now_ms, &mut tell).expect("what a broker may say");
    told
}

pub fn welcome(client: &mut ClientCore) {
    deliver(client, &[answer(Kind::Subscribe, 1, 0)]);
}

/// Over a new socket, subscribed and welcomed.
pub fn ready(mut client: ClientCore) -> ClientCore {
    client.connect(0);
    assert_eq!(sent(&mut client).len(), 1, "nothing before the welcome");
    welcome(&mut client);
    assert!(client.is_ready());
    client
}

struct Saga {
    outcome: bool,
    /// To whom the RESULT goes in this session.
    attached: Option<u64>,
}

/// Accepts each START once, by its key; answers what is durable; tells each RESULT to who is attached.
#[derive(Default)]
pub struct Broker {
    pub now_ms: u64,
    has_session: bool,
    sagas: BTreeMap<Vec<u8>, Saga>,
    answers: VecDeque<Header>,
}

impl Broker {
    pub fn send(&mut self, client: &mut ClientCore) {
        for sent in sent_at(client, self.now_ms) {
            self.take(&sent);
        }
    }

    fn take(&mut self, sent: &Sent) {
        let header = &sent.header;
        if header.kind() == Kind::Subscribe {
            self.has_session = true;
            self.answers.push_back(answer(Kind::Subscribe, 1, 0));
        } else if !self.has_session {
            self.answers.push_back(answer(Kind::Refused, sent.number, Refusal::NoSession.code()));
        } else {
            if matches!(header.kind(), Kind::Start | Kind::Attach) {
                self.attach(sent);
            }
            if sent.number > 0 {
                self.answers.push_back(answer(Kind::Confirm, sent.number, 0));
            }
        }
    }

    fn attach(&mut self, sent: &Sent) {
        let (header, correlation) = (&sent.header, sent.header.amount.get());
        let key = sent.section(Section::KEY).expect("a key").to_vec();
        if header.kind() == Kind::Attach {
            assert!(self.sagas.contains_key(&key), "only what is durable is attached");
        }
        let saga = self.sagas.entry(key).or_insert(Saga { outcome: false, attached: None });
        saga.attached = Some(correlation);
        if saga.outcome {
            self.answers.push_back(answer(Kind::Result, correlation, OutcomeCode::Completed.code()));
        } else if !header.has(Flags::QUIET) {
            self.answers.push_back(answer(Kind::Status, correlation, StatusCode::Running.code()));
        }
    }

    pub fn end(&mut self, which: usize) {
        let count = self.sagas.len();
        let Some(saga) = self.sagas.values_mut().nth(which % count.max(1)) else { return };
        if !saga.outcome {
            saga.outcome = true;
            if let Some(correlation) = saga.attached {
                self.answers.push_back(answer(Kind::Result, correlation, OutcomeCode::Completed.code()));
            }
        }
    }

    pub fn hear(&mut self, client: &mut ClientCore, count: usize, told: &mut Vec<u64>) {
        for header in self.answers.drain(..count.min(self.answers.len())) {
            let events = deliver_at(client, &[header], self.now_ms);
            told.extend(
                events.iter().filter(|(_, kind, _)| *kind == Kind::Result).map(|(correlation, ..)| correlation),
            );
        }
    }

    pub fn lose(&mut self, client: &mut ClientCore) {
        self.forget_session();
        let _ = client.frame(self.now_ms);
        client.connect(self.now_ms);
    }

    pub fn forget_session(&mut self) {
        self.has_session = false;
        self.answers.clear();
        self.sagas.values_mut().for_each(|saga| saga.attached = None);
    }
}
