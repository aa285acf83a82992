//! What brokers of different shards tell each other, carried from one to the other.

use super::Worker;
use crate::limits::CARRIED_MAX;
use crate::wire::{Message, write_encoded};

impl Worker {
    /// Messages for brokers of other shards since this was asked last: give each to `pass_on` of that one's worker.
    pub fn take_carried(&mut self) -> Vec<(u16, Vec<u8>)> {
        std::mem::take(&mut self.carried)
    }

    /// Tells this broker what another one has said. It is lost where there is no session: then it is said again.
    pub fn pass_on(&mut self, message: &[u8]) {
        if let Ok((message, _)) = Message::parse(message)
            && self.peer.is_ready()
        {
            self.peer.pass_on(&message);
        }
    }

    /// The number of the broker that has welcomed this process last.
    pub fn shard(&self) -> Option<u16> {
        self.peer.shard()
    }

    pub(super) fn carry(&mut self, message: &Message<'_>) {
        let to = u16::try_from(message.header.active.get());
        if let (Ok(to), true) = (to, self.carried.len() < CARRIED_MAX) {
            let mut written = Vec::new();
            write_encoded(&mut written, *message.header, message.body);
            self.carried.push((to, written));
        }
    }
}
