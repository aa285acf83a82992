//! Running sagas that are listed as stuck, parked or not: a notice to people, not a state of the protocol. A broker
//! whose services are away for a minute may list all that it has.

use super::State;

/// They have no groups.
const LISTED: u64 = 0;

impl State {
    pub fn is_stuck(&self, sequence: u64) -> bool {
        self.stuck.contains(LISTED, sequence)
    }

    /// Lists a running saga as stuck.
    pub fn list_as_stuck(&mut self, sequence: u64) {
        if self.is_running(sequence) {
            self.stuck.insert(LISTED, sequence);
        }
    }

    /// It is stuck no more: it ended, somebody did something about it, or it began again.
    pub fn unlist(&mut self, sequence: u64) {
        self.stuck.remove(LISTED, sequence);
    }

    /// The sagas that are stuck, the oldest first.
    pub fn stuck(&self) -> impl Iterator<Item = u64> + '_ {
        self.stuck.iter()
    }

    pub fn stuck_count(&self) -> usize {
        self.stuck.len()
    }
}
