//! Sessions begin: who a peer is, and whether it may be.

use sagacore_core::limits::{CREDIT_MAX, NAME_BYTES_MAX};
use sagacore_core::wire::{Flags, Header, Kind, Message, Refusal, Role, Section};

use super::Broker;
use crate::delivery::{Opening, answer};
use crate::state::SessionRef;

impl Broker {
    /// Opens a session. An older one of the same instance, or under the same identity, ends.
    pub(super) fn subscribe(&mut self, identity: &[u8], message: &Message<'_>, time_ms: u64) {
        let header = message.header;
        let name = message.sections().get(Section::NAME).unwrap_or_default();
        let (Some(role), Ok(name)) = (Role::from_code(header.place.get()), std::str::from_utf8(name)) else {
            return self.tell_stranger(identity, Refusal::Unsupported, "no such role, or a name that is no text");
        };
        if name.len() > NAME_BYTES_MAX || (role == Role::Service) == name.is_empty() {
            return self.tell_stranger(identity, Refusal::Unsupported, "a service needs a name, and only a service");
        }
        let instance = header.amount.get();
        let older: Vec<SessionRef> = self.older_sessions(identity, instance);
        for session in older {
            self.queues.leave(&mut self.state, session, time_ms, &mut self.over_limit);
        }
        let service = (role == Role::Service).then(|| self.state.plans.service(name));
        let exclusive = header.has(Flags::EXCLUSIVE);
        let taken = |exclusive: bool| {
            let mut others = self.queues.sessions.iter().filter(|(_, other)| other.service == service);
            service.is_some() && others.any(|(_, other)| exclusive || other.exclusive)
        };
        if taken(exclusive) {
            let reason = "fences in memory allow one process of a service, and there is one";
            return self.tell_stranger(identity, Refusal::Exclusive, reason);
        }
        if !self.has_session_room() {
            return self.tell_stranger(identity, Refusal::Full, "the broker has as many sessions as it may");
        }
        let session = self.queues.sessions.open(&Opening {
            identity,
            role,
            instance,
            service,
            exclusive,
            lease_ms: header.active.get(),
            credit: header.done.get().min(CREDIT_MAX),
            now_ms: time_ms,
        });
        let mut welcome = Header::new(Kind::Subscribe);
        welcome.amount = u64::from(self.boot_epoch).into();
        // Broker time, from which a service reads how long a deadline still is.
        welcome.deadline_ms = time_ms.into();
        self.queues.sessions.send(session, welcome, |_| {});
        if role == Role::Service {
            // Before the first token: it says which log that is from.
            self.tell_watermark(session);
        }
        self.queues.join(&mut self.state, session);
    }

    fn older_sessions(&self, identity: &[u8], instance: u64) -> Vec<SessionRef> {
        let is_older = |other: &crate::delivery::Session| {
            *other.identity == *identity || (instance != 0 && other.instance == instance)
        };
        self.queues.sessions.iter().filter(|(_, other)| is_older(other)).map(|(session, _)| session).collect()
    }

    /// Answers a peer that has no session.
    pub(super) fn tell_stranger(&mut self, identity: &[u8], refusal: Refusal, reason: &str) {
        self.queues.sessions.answer_stranger(identity, answer(Kind::Refused, 0, refusal.code()), reason);
    }
}
