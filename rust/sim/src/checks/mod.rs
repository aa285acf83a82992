//! The invariants, judged on every event: what the log says (`history`), what the services did (`ledger`), what passes
//! the broker's socket (`boundary`), what may run ahead of the log (`ahead`), and whether the log alone gives the same
//! state (`replay`).
//!
//! ```text
//! I1   one token a branch          transitions: what is consumed, and published instead, to the last bit
//! I2   keys are used once          transitions, boundary
//! I3   all effects, or none        ledger: when an outcome is durable, with each later effect, and at the end of all
//! I4   once an attempt             ledger
//! I5   undo after do, never after  ledger
//! I6   outcomes never change       transitions; the client's own book (hosts/client)
//! I7   the order of compensations  ledger for what was done, transitions for what is asked
//! I8   told is durable             boundary, ledger, hosts/client; what may run ahead of the log: ahead
//! I9   consumed stays consumed     history with each start, boundary; a log that holds it and does not start
//! I10  constant memory             hosts/peer: a coordinator's table; world, at the end: what the broker counts
//! I11  tokens have a bound         transitions
//! I12  watermarks                  watermarks, with each that leaves; the services' databases keep them
//! I13  a deadline, or it is seen   hosts/watch, with each tick of the broker
//! I14  holds and deadlocks         holds: with each grant; hosts/watch: with each tick of the broker;
//!                                  transitions: the oldest is never a victim
//! I15  what is forged changes      transitions: `lies` says what is forged
//!      nothing
//! I16  room for what has begun     hosts/broker, on a disk that is the broker's alone
//! I17  the log alone is enough     replay, after each start and at the end, twice
//! I18  everything ends             world: so long after the last fault, all told, nothing left anywhere
//! I19  the books balance           ledger at the end of all
//! I20  messages as planned         world, where nothing fails
//! ```

mod ahead;
mod boundary;
mod history;
mod holds;
mod ledger;
mod replay;
mod transitions;
mod watermarks;

use sagacore_core::wire::SagaId;

use crate::model::Model;
use crate::situations::Situations;
use crate::trace::Trace;

pub use ahead::Ahead;
pub use boundary::{Boundary, describe};
pub use history::{History, SagaHistory, skipped};
pub use holds::Holding;
pub use ledger::{Ledger, StepKey};
pub use replay::digest;
pub use watermarks::{Watermarks, goes_on};

/// Names a saga in ordered maps.
pub type SagaKey = (u64, u32);

pub fn saga_key(id: SagaId) -> SagaKey {
    (id.sequence.get(), id.nonce.get())
}

/// An invariant that did not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    pub at_us: u64,
    /// As the design numbers them, or the rule that was broken.
    pub invariant: &'static str,
    pub text: String,
}

/// Everything that judges.
pub struct Checks {
    pub models: Vec<Model>,
    pub history: History,
    pub ledger: Ledger,
    pub boundary: Boundary,
    pub ahead: Ahead,
    pub holds: Holding,
    pub watermarks: Watermarks,
    pub violations: Vec<Violation>,
    pub situations: Situations,
}

impl Checks {
    /// The broker remembers so many ended sagas, and in some boots tokens may run ahead of the log.
    pub fn new(models: Vec<Model>, outcomes_max: usize, may_run_ahead: bool) -> Self {
        Self {
            history: History::new(&models, outcomes_max, may_run_ahead),
            models,
            ledger: Ledger::default(),
            boundary: Boundary::default(),
            ahead: Ahead::default(),
            holds: Holding::default(),
            watermarks: Watermarks::default(),
            violations: Vec::new(),
            situations: Situations::default(),
        }
    }

    /// Counts what the history has met since.
    pub fn note_situations(&mut self) {
        for situation in self.history.met.drain(..) {
            self.situations.reach(situation);
        }
    }

    pub fn violate(&mut self, trace: &mut Trace, invariant: &'static str, text: String) {
        trace.tell(|| format!("VIOLATION of {invariant}: {text}"));
        self.violations.push(Violation { at_us: trace.now_us, invariant, text });
    }

    /// Reports what a check found.
    pub fn judge(&mut self, trace: &mut Trace, result: Result<(), Broken>) {
        if let Err(Broken(invariant, text)) = result {
            self.violate(trace, invariant, text);
        }
    }
}

/// What a check found.
#[derive(Debug)]
pub struct Broken(pub &'static str, pub String);

/// Breaks off with an invariant unless something holds.
macro_rules! ensure {
    ($holds:expr, $invariant:literal, $($text:tt)+) => {
        if !$holds {
            return Err($crate::checks::Broken($invariant, format!($($text)+)));
        }
    };
}
pub(crate) use ensure;
