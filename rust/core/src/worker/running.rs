//! What a process is at: one entry for each delivered message that is not finished.
//!
//! Entries are reused with the buffers of their bodies, so that a message costs a copy of its body and no allocation.
//! At most one entry of a (saga, attempt, step) *runs*; an UNDO may wait beside its action until that has ended.

use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::fence::{Doing, FenceKey};
use crate::wire::{Header, Message, Sections};

/// A body's buffer is kept for the next message up to this.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// A delivered message and what is done about it.
#[derive(Debug)]
pub(super) struct Entry {
    pub header: Header,
    pub body: Vec<u8>,
    /// Where its plan is among the plans.
    pub plan: u32,
    /// The broker's log that it is from.
    pub log: u64,
    /// The step among those of this process.
    pub step: u16,
    pub doing: Doing,
    /// The session that it was last delivered in: only that one's credit is given back.
    pub session: u32,
    /// The fence in memory has a row of an earlier try.
    pub was_tried: bool,
    /// The UNDO that waits until this action has ended.
    waiting: Option<u32>,
    generation: u32,
    state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    Free,
    Waiting,
    Running,
}

impl Entry {
    pub fn key(&self) -> FenceKey {
        key_of(&self.header)
    }

    /// The sections of the body, which was checked when it was received.
    pub fn sections(&self) -> Sections<'_> {
        Sections::parsed(&self.body)
    }
}

/// The fence's key of a RUN or an UNDO.
pub(super) fn key_of(header: &Header) -> FenceKey {
    FenceKey { saga: header.saga, attempt: header.attempt.get(), step: header.place.get() as u8 }
}

fn hash(key: &FenceKey) -> u64 {
    let place = u64::from(key.saga.shard.get()) << 8 | u64::from(key.step);
    let rest = u64::from(key.saga.nonce.get()) << 32 | u64::from(key.attempt);
    FixedState::with_seed(0).hash_one((key.saga.sequence.get(), rest, place))
}

/// What a new entry is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub plan: u32,
    pub log: u64,
    pub step: u16,
    pub doing: Doing,
    pub session: u32,
}

#[derive(Debug, Default)]
pub(super) struct Running {
    entries: Vec<Entry>,
    free: Vec<u32>,
    index: HashTable<u32>,
    waiting: usize,
}

impl Running {
    /// Those that run and those that wait.
    pub fn len(&self) -> usize {
        self.index.len() + self.waiting
    }

    pub fn find(&self, key: &FenceKey) -> Option<u32> {
        self.index.find(hash(key), |&at| self.entries[at as usize].key() == *key).copied()
    }

    pub fn at(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    pub fn at_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    /// Keeps a message whose key does not run yet.
    pub fn begin(&mut self, message: &Message<'_>, taken: Taken) -> u32 {
        let at = self.keep(message, taken);
        self.run(at);
        at
    }

    /// Keeps an UNDO until what runs at `action` has ended. False if one waits there already.
    pub fn wait(&mut self, action: u32, message: &Message<'_>, taken: Taken) -> bool {
        if self.at(action).waiting.is_some() {
            return false;
        }
        let at = self.keep(message, taken);
        self.at_mut(at).state = EntryState::Waiting;
        self.at_mut(action).waiting = Some(at);
        self.waiting += 1;
        true
    }

    /// Ends what runs. What waited for it runs from now on.
    pub fn end(&mut self, at: u32) -> Option<u32> {
        let key = self.at(at).key();
        if let Ok(entry) = self.index.find_entry(hash(&key), |&found| found == at) {
            entry.remove();
        }
        let entry = self.at_mut(at);
        entry.state = EntryState::Free;
        entry.generation = entry.generation.wrapping_add(1);
        entry.body.clear();
        entry.body.shrink_to(KEPT_BYTES_MAX);
        let waiting = entry.waiting.take();
        self.free.push(at);
        if let Some(waiting) = waiting {
            self.waiting -= 1;
            self.run(waiting);
        }
        waiting
    }

    /// Names an entry to the outside, for as long as it runs.
    pub fn ticket(&self, at: u32) -> u64 {
        u64::from(self.at(at).generation) << 32 | u64::from(at)
    }

    pub fn by_ticket(&self, ticket: u64) -> Option<u32> {
        let at = ticket as u32;
        let entry = self.entries.get(at as usize)?;
        (entry.state == EntryState::Running && u64::from(entry.generation) == ticket >> 32).then_some(at)
    }

    fn keep(&mut self, message: &Message<'_>, taken: Taken) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                header: *message.header,
                body: Vec::new(),
                plan: 0,
                log: 0,
                step: 0,
                doing: taken.doing,
                session: 0,
                was_tried: false,
                waiting: None,
                generation: 0,
                state: EntryState::Free,
            });
            (self.entries.len() - 1) as u32
        });
        let entry = self.at_mut(at);
        entry.header = *message.header;
        entry.body.extend_from_slice(message.body);
        entry.plan = taken.plan;
        entry.log = taken.log;
        entry.step = taken.step;
        entry.doing = taken.doing;
        entry.session = taken.session;
        entry.was_tried = false;
        at
    }

    fn run(&mut self, at: u32) {
        self.at_mut(at).state = EntryState::Running;
        let entries = &self.entries;
        let hash_at = |&at: &u32| hash(&entries[at as usize].key());
        self.index.insert_unique(hash_at(&at), at, hash_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Kind, SagaId};

    #[test]
    fn a_row_is_of_one_saga_attempt_and_step() {
        let key = |sequence, attempt: u32, place: u16| {
            let mut header = Header::new(Kind::Run);
            header.saga = SagaId::new(0, sequence, 1);
            header.attempt = attempt.into();
            header.place = place.into();
            key_of(&header)
        };
        let others = [key(2, 0, 0), key(1, 1, 0), key(1, 0, 1)];
        assert!(others.iter().all(|other| *other != key(1, 0, 0)));
        assert_eq!(key(1, 1, 0), key(1, 1, 0));
    }
}
