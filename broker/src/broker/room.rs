//! Whether there is room for more: on the disk, in memory, for sessions, and for what is to be said.

use sagacore_core::limits::{BODY_BYTES_MAX, OWED_BYTES_MAX, SAGAS_MAX, SESSIONS_MAX};
use sagacore_core::mutation::{Mutation, is_broken};

use super::{Broker, Effect, Room};

impl Effect {
    /// Bytes that an answer keeps until it is told, about.
    pub(super) fn owed_bytes(&self) -> usize {
        let own = size_of::<(u64, Self)>();
        match self {
            Self::Answer { answer, .. } => own + size_of_val(&**answer) + answer.1.len(),
            Self::Ended { attached, .. } => own + size_of_val(attached.as_slice()),
            Self::Look { .. } => own,
            _ => 0,
        }
    }
}

impl Broker {
    /// What the host last saw of the disk.
    pub fn set_room(&mut self, room: Room) {
        self.room = Some(room);
        self.recorded_bytes = 0;
    }

    /// Whether so much waits for the disk that no new saga should add to it.
    pub fn set_behind(&mut self, is_behind: bool) {
        self.is_behind = is_behind;
    }

    /// What the disk must have room for: all that the running sagas may still need (rule 10), and a sweep that copies
    /// what is live.
    pub(super) fn needed_bytes(&self, segment_bytes: u64) -> u64 {
        let recorded_bytes = self.recorded_bytes + self.batch.len() as u64;
        self.state.reserved_bytes + self.state.copied_bytes() + 3 * segment_bytes + recorded_bytes
    }

    /// Why there is no room for one more saga, if so: beside it there must be room for what is needed.
    pub(super) fn full(&self) -> Option<&'static str> {
        let enough =
            |room: Room| room.free_bytes >= self.needed_bytes(room.segment_bytes) || is_broken(Mutation::RoomIgnored);
        if self.state.running() >= SAGAS_MAX || self.state.body_bytes >= BODY_BYTES_MAX {
            Some("the broker is full: no new saga now, so many are running")
        } else if !self.room.is_none_or(enough) {
            Some("the broker's disk is full: no new saga now, what is left is for the running ones")
        } else {
            self.is_behind.then_some("the broker's disk is slow: no new saga now, until it has caught up")
        }
    }

    pub(super) fn has_session_room(&self) -> bool {
        self.queues.sessions.len() < SESSIONS_MAX
    }

    /// An answer, once this record is durable.
    pub(super) fn owe(&mut self, lsn: u64, effect: Effect) {
        self.owed_bytes += effect.owed_bytes();
        self.effects.push_back((lsn, effect));
    }

    /// Whether so much is to be said first that nobody should be heard now.
    pub fn owes_much(&self) -> bool {
        self.owed_bytes + self.queues.sessions.unsent_bytes() >= OWED_BYTES_MAX
    }
}
