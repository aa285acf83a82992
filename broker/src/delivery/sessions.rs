//! Sessions: who is connected under which identity, what it may have and what is to be sent to it.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use slotmap::SlotMap;

use sagacore_core::limits::{
    FRAME_BYTES_MAX, HEARTBEAT_MS, HEARTBEATS_MISSED_MAX, PUBLISHES_MAX, TRANSACTION_BYTES_MAX,
};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{
    BodyWriter, HEADER_BYTES, Header, Kind, Role, Section, TransactionWriter, write_encoded, write_message,
};

use super::suspects::Suspects;
use super::{Fifo, answer};
use crate::state::{SessionRef, TokenRef};

/// A connected peer.
#[derive(Debug)]
pub struct Session {
    pub identity: Box<[u8]>,
    pub role: Role,
    pub instance: u64,
    /// The service that it serves.
    pub service: Option<u32>,
    pub exclusive: bool,
    pub lease_ms: u64,
    /// Deliveries that it allowed since the session began, and had.
    pub allowed: u64,
    pub delivered: u64,
    /// The last of its transactions that was judged, and the last that it was told of.
    pub judged: u64,
    pub confirmed: u64,
    /// What it is to be told with the next frame; 0: nothing.
    to_confirm: u64,
    pub heard_ms: u64,
    /// Leases in the order in which they end.
    pub leases: Fifo<TokenRef>,
    pub suspects: Suspects,
    /// Plans, by index, whose definition it has.
    plans: Vec<u64>,
    /// What it last said of itself: a MessagePack map.
    pub report: Vec<u8>,
    outgoing: Outgoing,
}

/// Frames under way to a peer: messages are gathered into transactions, those into frames.
#[derive(Debug, Default)]
struct Outgoing {
    frames: Vec<Vec<u8>>,
    frame: Vec<u8>,
    messages: Vec<u8>,
    publishes: u16,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.publishes == 0 && self.frame.is_empty() && self.frames.is_empty()
    }

    fn added(&mut self) {
        self.publishes += 1;
        if usize::from(self.publishes) == PUBLISHES_MAX || self.messages.len() > TRANSACTION_BYTES_MAX / 2 {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.publishes == 0 {
            return;
        }
        if self.frame.len() + self.messages.len() + 64 > FRAME_BYTES_MAX {
            self.frames.push(std::mem::take(&mut self.frame));
        }
        let transaction = TransactionWriter::new(&mut self.frame, 0);
        transaction.finish_with(&self.messages, self.publishes);
        self.messages.clear();
        self.publishes = 0;
    }
}

impl Session {
    pub fn has_credit(&self) -> bool {
        self.delivered < self.allowed
    }

    pub fn is_dead(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms) > HEARTBEAT_MS * HEARTBEATS_MISSED_MAX
    }

    /// Whether it lacks this plan's definition; from now on it has it.
    pub fn needs_plan(&mut self, plan: u32) -> bool {
        let (word, bit) = (plan as usize / 64, 1u64 << (plan % 64));
        if self.plans.len() <= word {
            self.plans.resize(word + 1, 0);
        }
        let needs = self.plans[word] & bit == 0;
        self.plans[word] |= bit;
        needs
    }
}

/// All sessions, by reference and by identity.
#[derive(Default)]
pub struct Sessions {
    sessions: SlotMap<SessionRef, Session>,
    by_identity: HashMap<Box<[u8]>, SessionRef, FixedState>,
    by_instance: HashMap<u64, SessionRef, FixedState>,
    /// Those with something to send.
    talking: Vec<SessionRef>,
    /// Those that are to be told a number, and were perhaps told since.
    unconfirmed: Vec<SessionRef>,
    /// Bytes of messages since frames were taken last.
    unsent_bytes: usize,
    /// Frames for peers without a session.
    strangers: Vec<(Box<[u8]>, Vec<u8>)>,
}

/// Answers to peers without a session that may wait to be sent.
const STRANGERS_MAX: usize = 1024;

/// What a session begins with.
pub struct Opening<'a> {
    pub identity: &'a [u8],
    pub role: Role,
    pub instance: u64,
    pub service: Option<u32>,
    pub exclusive: bool,
    pub lease_ms: u64,
    pub credit: u64,
    pub now_ms: u64,
}

impl Sessions {
    pub fn find(&self, identity: &[u8]) -> Option<SessionRef> {
        self.by_identity.get(identity).copied()
    }

    /// The sessions that a peer's new one replaces: of its instance, if it has a number, and under its identity.
    pub fn older(&self, identity: &[u8], instance: u64) -> impl Iterator<Item = SessionRef> + use<> {
        let of_instance = self.by_instance.get(&instance).copied();
        of_instance.into_iter().chain(self.find(identity))
    }

    pub fn get(&self, session: SessionRef) -> Option<&Session> {
        self.sessions.get(session)
    }

    pub fn get_mut(&mut self, session: SessionRef) -> Option<&mut Session> {
        self.sessions.get_mut(session)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, &Session)> {
        self.sessions.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SessionRef, &mut Session)> {
        self.sessions.iter_mut()
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn open(&mut self, opening: &Opening<'_>) -> SessionRef {
        let session = self.sessions.insert(Session {
            identity: opening.identity.into(),
            role: opening.role,
            instance: opening.instance,
            service: opening.service,
            exclusive: opening.exclusive,
            lease_ms: opening.lease_ms,
            allowed: opening.credit,
            delivered: 0,
            judged: 0,
            confirmed: 0,
            to_confirm: 0,
            heard_ms: opening.now_ms,
            leases: Fifo::default(),
            suspects: Suspects::default(),
            plans: Vec::new(),
            report: Vec::new(),
            outgoing: Outgoing::default(),
        });
        self.by_identity.insert(opening.identity.into(), session);
        if opening.instance != 0 {
            self.by_instance.insert(opening.instance, session);
        }
        session
    }

    pub fn close(&mut self, session: SessionRef) -> Option<Session> {
        let closed = self.sessions.remove(session)?;
        self.by_identity.remove(&closed.identity);
        if self.by_instance.get(&closed.instance) == Some(&session) {
            self.by_instance.remove(&closed.instance);
        }
        Some(closed)
    }

    /// Appends a message to what is sent next to a session, if it still is there.
    pub fn send(&mut self, session: SessionRef, header: Header, body: impl FnOnce(&mut BodyWriter<'_>)) {
        if let Some(outgoing) = self.outgoing(session) {
            let before = outgoing.messages.len();
            write_message(&mut outgoing.messages, header, body);
            let bytes = outgoing.messages.len() - before;
            outgoing.added();
            self.unsent_bytes += bytes;
        }
    }

    /// The same with a body that is encoded already.
    pub fn send_encoded(&mut self, session: SessionRef, header: Header, body: &[u8]) {
        if let Some(outgoing) = self.outgoing(session) {
            write_encoded(&mut outgoing.messages, header, body);
            outgoing.added();
            self.unsent_bytes += HEADER_BYTES + body.len();
        }
    }

    /// Tells a session up to which number its transactions are durable. A service hears it with what it gets next, or
    /// with the next tick: it waits for nothing of it, and would be woken once more a message.
    pub fn confirm(&mut self, session: SessionRef, number: u64) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        if found.role != Role::Service {
            return self.send(session, answer(Kind::Confirm, number, 0), |_| {});
        }
        if std::mem::replace(&mut found.to_confirm, number) == 0 {
            self.unconfirmed.push(session);
        }
    }

    /// A tick: who has got nothing else since is told all the same.
    pub fn confirm_all(&mut self) {
        for session in std::mem::take(&mut self.unconfirmed) {
            let number = self.sessions.get_mut(session).map_or(0, |found| std::mem::take(&mut found.to_confirm));
            if number != 0 {
                self.send(session, answer(Kind::Confirm, number, 0), |_| {});
            }
        }
    }

    fn outgoing(&mut self, session: SessionRef) -> Option<&mut Outgoing> {
        let outgoing = &mut self.sessions.get_mut(session)?.outgoing;
        if outgoing.is_empty() {
            self.talking.push(session);
        }
        Some(outgoing)
    }

    /// Answers a peer that has no session; drops the answer where too many wait, for the peer asks again.
    pub fn answer_stranger(&mut self, identity: &[u8], header: Header, reason: &str) {
        if self.strangers.len() < STRANGERS_MAX {
            let mut frame = Vec::new();
            let mut transaction = TransactionWriter::new(&mut frame, 0);
            transaction.publish_with(header, |body| {
                body.section(Section::TEXT, reason.as_bytes());
            });
            transaction.finish();
            self.strangers.push((identity.into(), frame));
        }
    }

    /// All peers count as heard now.
    pub fn heard_all(&mut self, now_ms: u64) {
        for session in self.sessions.values_mut() {
            session.heard_ms = now_ms;
        }
    }

    /// The sessions of peers that were silent for too long.
    pub fn silent(&self, now_ms: u64) -> Vec<SessionRef> {
        let is_silent = |session: &Session| session.is_dead(now_ms) && !is_broken(Mutation::SilenceTolerated);
        let silent = self.sessions.iter().filter(|(_, session)| is_silent(session));
        silent.map(|(session, _)| session).collect()
    }

    /// Bytes of messages that wait to be taken.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Takes all frames that are ready to be sent, with the identities that they go to.
    pub fn take_frames(&mut self, out: &mut Vec<(Box<[u8]>, Vec<u8>)>) {
        self.unsent_bytes = 0;
        out.append(&mut self.strangers);
        for session in self.talking.drain(..) {
            let Some(session) = self.sessions.get_mut(session) else { continue };
            let number = std::mem::take(&mut session.to_confirm);
            if number != 0 {
                write_message(&mut session.outgoing.messages, answer(Kind::Confirm, number, 0), |_| {});
                session.outgoing.added();
            }
            session.outgoing.close();
            let last = std::mem::take(&mut session.outgoing.frame);
            let frames = session.outgoing.frames.drain(..).chain((!last.is_empty()).then_some(last));
            out.extend(frames.map(|frame| (session.identity.clone(), frame)));
        }
    }
}
