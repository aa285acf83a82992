//! The cores' hot paths, each alone, with inputs that are always the same: what is counted in instructions
//! (`python -m bench instructions`) and timed (`make bench-cores`).
//!
//! The core is the real one. What other processes would say to it is written by hand, so that its own work is most of
//! what is measured.

mod broker;
mod client;
mod coordinator;
mod frames;
mod log;
mod worker;

/// How often heartbeats, credit and watermarks come, in operations. Count a multiple of it.
pub const HOUSEKEEPING_OPERATIONS: u64 = 100;

/// One hot path, set up and warm.
pub trait Path {
    /// Does the path's work once.
    fn operate(&mut self);

    /// That so many operations have done what the path is named for.
    ///
    /// # Panics
    /// If they have not: then what was measured is worth nothing.
    fn check(&self, operations: u64);
}

/// Makes a path.
pub type NewPath = fn() -> Box<dyn Path>;

/// All paths by name, and what one operation is.
pub const PATHS: &[(&str, &str, NewPath)] = &[
    ("broker-chain", "a saga of four steps, from START to RESULT", || Box::new(broker::Sagas::completed())),
    ("broker-rollback", "the same, rejected by its third step", || Box::new(broker::Sagas::rejected())),
    ("coordinator-join", "two arrivals of a join, and the RUN that follows", || Box::new(coordinator::Join::new())),
    ("worker-run", "a RUN, its result, and the next RUN", || Box::new(worker::Run::new())),
    ("client-start", "16 sagas started together, and their outcomes", || Box::new(client::Start::new())),
    ("log-append", "a record of 1 KiB, appended and committed", || Box::new(log::Append::new())),
];

/// The path of this name.
pub fn path(name: &str) -> Option<Box<dyn Path>> {
    PATHS.iter().find(|(known, ..)| *known == name).map(|(_, _, new)| new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_does_what_it_is_named_for() {
        for (name, ..) in PATHS {
            let mut path = path(name).unwrap();
            (0..3 * HOUSEKEEPING_OPERATIONS).for_each(|_| path.operate());
            path.check(3 * HOUSEKEEPING_OPERATIONS);
        }
    }

    #[test]
    fn a_path_is_known_by_its_name_alone() {
        assert!(path("broker").is_none());
    }
}
