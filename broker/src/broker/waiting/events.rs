//! Deadlocks that were resolved: the last of them, for people, and how many.

use std::collections::VecDeque;

use sagacore_core::limits::{DEADLOCKS_KEPT, MESSAGE_BYTES_MAX, RESOURCE_BYTES_MAX};
use sagacore_core::wire::SagaId;

/// A list of them takes no more.
const LIST_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1024;

/// A saga of a cycle and what it waits for: the next one of the cycle has it, the last one waits for the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub saga: SagaId,
    pub service: String,
    pub resource: Box<[u8]>,
}

/// A deadlock, and who gave way.
#[derive(Debug, Clone)]
pub struct Deadlock {
    /// Ascends by one.
    pub number: u64,
    pub closed_ms: u64,
    /// From when the last of them began to wait until the victim's abort was durable; none before that.
    pub detection_ms: Option<u64>,
    pub victim: SagaId,
    /// Numbers the wait of the victim that ended so; 0: it did not wait.
    pub wait: u64,
    /// Of an older saga that did not wait for a younger one: the two of them.
    pub is_wound: bool,
    pub cycle: Vec<Hop>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Deadlocks {
    kept: VecDeque<Deadlock>,
    /// Cycles of which one gave way.
    pub resolved: u64,
    /// Cycles that were gone when somebody looked again, so that nobody gave way, or when a deciding saga did.
    pub phantoms: u64,
    /// Younger sagas that gave way to an older one, without a cycle.
    pub wounded: u64,
    /// Victims that began again.
    pub restarts: u64,
}

impl Deadlocks {
    /// Remembers one and gives its number.
    pub fn add(&mut self, closed_ms: u64, victim: SagaId, wait: u64, is_wound: bool, cycle: Vec<Hop>) -> u64 {
        let number = self.resolved + self.wounded + 1;
        *(if is_wound { &mut self.wounded } else { &mut self.resolved }) += 1;
        if self.kept.len() >= DEADLOCKS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Deadlock { number, closed_ms, detection_ms: None, victim, wait, is_wound, cycle });
        number
    }

    /// Whether a saga has given way from this wait, as far as is remembered: two chases may find one cycle.
    pub fn has_given_way(&self, victim: SagaId, wait: u64) -> bool {
        self.kept.iter().any(|deadlock| deadlock.victim == victim && deadlock.wait == wait)
    }

    /// The abort of its victim is durable.
    pub fn visible(&mut self, number: u64, time_ms: u64) {
        if let Some(found) = self.kept.iter_mut().rfind(|deadlock| deadlock.number == number) {
            found.detection_ms = Some(time_ms.saturating_sub(found.closed_ms));
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Deadlock> {
        self.kept.iter()
    }

    /// Those from a number on, as many as fit: a MessagePack array of the number to go on with, and of
    /// [number, closed_ms, detection_ms or nil, victim, whether it was a wound, [[saga, service, resource], ...]].
    pub fn list(&self, from: u64) -> Vec<u8> {
        let (mut next, mut listed, mut items) = (from, 0, Vec::new());
        for deadlock in self.kept.iter().filter(|deadlock| deadlock.number >= from) {
            let before = items.len();
            write(&mut items, deadlock);
            if items.len() > LIST_BYTES_MAX {
                items.truncate(before);
                break;
            }
            next = deadlock.number + 1;
            listed += 1;
        }
        let mut out = Vec::new();
        // Writing to a vector cannot fail, here and below.
        let _ = rmp::encode::write_array_len(&mut out, 2);
        let _ = rmp::encode::write_uint(&mut out, next);
        let _ = rmp::encode::write_array_len(&mut out, listed);
        out.extend_from_slice(&items);
        out
    }
}

fn write(out: &mut Vec<u8>, deadlock: &Deadlock) {
    let _ = rmp::encode::write_array_len(out, 6);
    let _ = rmp::encode::write_uint(out, deadlock.number);
    let _ = rmp::encode::write_uint(out, deadlock.closed_ms);
    let _ = match deadlock.detection_ms {
        Some(ms) => rmp::encode::write_uint(out, ms).map(|_| ()).map_err(|_| ()),
        None => rmp::encode::write_nil(out).map_err(|_| ()),
    };
    let _ = rmp::encode::write_str(out, &deadlock.victim.to_string());
    let _ = rmp::encode::write_bool(out, deadlock.is_wound);
    let _ = rmp::encode::write_array_len(out, deadlock.cycle.len() as u32);
    for Hop { saga, service, resource } in &deadlock.cycle {
        let _ = rmp::encode::write_array_len(out, 3);
        let _ = rmp::encode::write_str(out, &saga.to_string());
        let _ = rmp::encode::write_str(out, service);
        let end = resource.len().min(RESOURCE_BYTES_MAX);
        let _ = rmp::encode::write_str(out, &String::from_utf8_lossy(&resource[..end]));
    }
}
