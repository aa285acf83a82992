//! A piece of work under way in a service's process.

use sagacore_core::worker::{Phase, Verdict, Work};

use super::store::{CallKey, StepPlace};
use crate::checks::StepKey;
use crate::schedule::Stage;

/// How a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeed,
    Reject,
    /// Nothing happened, and an error is told.
    Fail,
    /// The effect took place, and an error is told.
    FailAfter,
    /// An error is told, and the call arrives later.
    Late,
    /// Nothing is told until the timeout.
    Hang,
    /// It never ends, not even at its timeout.
    Stuck,
    /// The process crashes.
    Poison,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Activity {
    pub work: Work,
    pub key: StepKey,
    pub place: StepPlace,
    pub outcome: Outcome,
    pub call_key: CallKey,
    /// The result of the call, once there is one.
    pub result: Option<Vec<u8>>,
    /// Another try was there before this one.
    pub was_tried: bool,
    /// Which try this is.
    pub try_number: u32,
    pub verdict: Option<(Verdict, Vec<u8>)>,
}

impl Activity {
    pub fn new(work: Work, key: StepKey, place: StepPlace, outcome: Outcome, call_key: CallKey) -> Self {
        Self { work, key, place, outcome, call_key, result: None, was_tried: false, try_number: 0, verdict: None }
    }

    /// The step's timeout is over: what the caller knows now is nothing.
    pub fn time_out(&mut self) {
        self.outcome = Outcome::Fail;
        self.result = None;
    }

    pub fn end(&mut self, verdict: Verdict, payload: &[u8]) -> Option<Stage> {
        self.verdict = Some((verdict, payload.to_vec()));
        Some(Stage::Finish)
    }

    /// To be tried again after a while.
    pub fn retry(&mut self) -> Option<Stage> {
        let delay_ms = 10 << self.work.deliveries.min(6);
        self.end(Verdict::Retry, format!("{delay_ms} it failed").as_bytes())
    }

    /// Whether its policy gives it up now.
    pub fn is_last_try(&self, tries_max: u64) -> bool {
        !self.work.undo && self.work.phase == Phase::Before && u64::from(self.work.deliveries) + 1 >= tries_max
    }

    pub fn describe(&self, stage: Stage) -> String {
        let doing = if self.work.undo { "undo" } else { "run" };
        format!("{stage:?} of {doing} {} of {}: {:?} {:?}", self.place.step, self.work.saga, self.outcome, self.verdict)
    }
}
