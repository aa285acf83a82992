//! What happens next: one queue of events in virtual time. Events of one instant keep the order in which they were set.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The first frame of one direction of a connection arrives.
    Network { connection: u32, is_up: bool },
    /// A socket tries to connect.
    Connect { process: usize, socket: u32 },
    /// A process reads what has arrived.
    Wake { process: usize, life: u32 },
    /// A process's timer.
    Tick { process: usize, life: u32 },
    /// The log is synced.
    Synced { life: u32 },
    /// A service goes on with a piece of work.
    Work { process: usize, life: u32, ticket: u64, stage: Stage },
    /// A call that nobody waits for any more reaches a gateway.
    LateCall { service: usize, call: u64 },
    /// A client's application does something.
    Act { process: usize, life: u32 },
    /// A process that crashed starts again.
    Restart { process: usize },
    /// A fault strikes.
    Fault,
    /// All faults end.
    Heal,
}

/// How far a piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The row that stands before a call is committed.
    Intent,
    /// The call is made.
    Call,
    /// The row that says how it ended is committed, with the effect where that is transactional.
    Commit,
    /// The core is told.
    Finish,
    /// The step's timeout is over.
    Timeout,
}

/// See the module's text. Times are microseconds since the run began.
#[derive(Debug, Default)]
pub struct Schedule {
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
}

impl Schedule {
    pub fn at(&mut self, at_us: u64, event: Event) {
        self.count += 1;
        self.queue.push(Reverse((at_us, self.count, event)));
    }

    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.queue.pop().map(|Reverse((at_us, _, event))| (at_us, event))
    }

    /// Events so far.
    pub fn count(&self) -> u64 {
        self.count
    }
}
