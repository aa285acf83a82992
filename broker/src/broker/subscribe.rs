//! Sessions begin: who a peer is, and whether it may be.

use sagacore_core::limits::{COORDINATORS_MAX, CREDIT_MAX, LEASE_MS_MAX, NAME_BYTES_MAX};
use sagacore_core::wire::{Flags, Header, Kind, Message, Refusal, Role, Section};

use super::Broker;
use crate::delivery::{Opening, answer};

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
        for session in self.queues.sessions.older(identity, instance) {
            self.queues.leave(&mut self.state, session, time_ms, &mut self.over_limit);
        }
        let known = self.state.plans.find_service(name);
        let exclusive = header.has(Flags::EXCLUSIVE);
        let is_taken = |service| self.queues.servers(service).any(|other| exclusive || other.exclusive);
        if known.is_some_and(is_taken) {
            let reason = "fences in memory allow one process of a service, and there is one";
            return self.tell_stranger(identity, Refusal::Exclusive, reason);
        }
        if !self.has_session_room() {
            return self.tell_stranger(identity, Refusal::Full, "the broker has as many sessions as it may");
        }
        if role == Role::Coordinator && self.queues.slices.coordinators().len() >= COORDINATORS_MAX {
            return self.tell_stranger(identity, Refusal::Full, "the broker has as many coordinators as it may");
        }
        let service = (role == Role::Service).then(|| self.state.plans.service(name));
        let session = self.queues.sessions.open(&Opening {
            identity,
            role,
            instance,
            service,
            exclusive,
            lease_ms: header.active.get().min(LEASE_MS_MAX),
            credit: header.done.get().min(CREDIT_MAX),
            now_ms: time_ms,
        });
        let mut welcome = Header::new(Kind::Subscribe);
        welcome.place = self.state.shard.into();
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

    /// Answers a peer that has no session.
    pub(super) fn tell_stranger(&mut self, identity: &[u8], refusal: Refusal, reason: &str) {
        self.queues.sessions.answer_stranger(identity, answer(Kind::Refused, 0, refusal.code()), reason);
    }
}
