//! What outlives the processes of a service: its database with the fence's rows, and the gateway that it calls.

use std::collections::{BTreeMap, BTreeSet};

use sagacore_core::fence::{Event, Holds, RowState, on_event};
use sagacore_core::limits::HOLD_ROWS_MAX;
use sagacore_core::watermark::Watermark;
use sagacore_core::worker::IDEMPOTENCY_KEY_BYTES;

use crate::checks::{Broken, StepKey, goes_on};
use crate::model::Model;
use crate::options::ServiceOptions;
use crate::plans::step_name;

/// The key of a call to a gateway.
pub type CallKey = [u8; IDEMPOTENCY_KEY_BYTES];

/// A row of the fence.
#[derive(Debug, Clone)]
pub struct Row {
    pub state: RowState,
    pub answer: Vec<u8>,
    /// Tries that have begun: a rejection is clean only if there was one.
    pub tries: u32,
    /// The class of its saga's deadline.
    pub class: usize,
}

impl Default for Row {
    fn default() -> Self {
        Self { state: RowState::Empty, answer: Vec::new(), tries: 0, class: 0 }
    }
}

impl Row {
    /// Applies an event; where it decides the row, the answer is kept.
    pub fn record(&mut self, event: Event, answer: &[u8]) {
        let state = on_event(self.state, event);
        if state != self.state && matches!(state, RowState::Done | RowState::Rejected) {
            self.answer = answer.to_vec();
        }
        self.state = state;
    }
}

/// What a gateway says to a key from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinned {
    Charged(Vec<u8>),
    Refused,
    Cancelled,
}

/// A call that reaches its gateway after its caller gave it up.
#[derive(Debug, Clone)]
pub struct LateCall {
    pub key: StepKey,
    pub call_key: CallKey,
    pub result: Vec<u8>,
}

/// Where a step of a service stands in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlace {
    pub plan: usize,
    pub step: usize,
}

/// A service: what its processes share.
#[derive(Debug)]
pub struct Service {
    pub options: ServiceOptions,
    /// Its steps, in the order in which its processes name them.
    pub steps: Vec<StepPlace>,
    pub rows: BTreeMap<StepKey, Row>,
    /// What its steps hold, and what they wait for.
    pub holds: Holds,
    /// The watermark that its processes share, as the rows.
    pub told: Watermark,
    pub gateway: BTreeMap<CallKey, Pinned>,
    pub late_calls: Vec<LateCall>,
    /// What some process is stuck with.
    pub stuck: BTreeSet<StepKey>,
}

impl Service {
    /// Stores a watermark, unless it says less than is known, and forgets what it has passed: one commit.
    pub fn learn(&mut self, told: &Watermark) -> Result<(), Broken> {
        if !told.replaces(&self.told) {
            return Ok(());
        }
        goes_on(&self.told, told)?;
        self.told = told.clone();
        self.rows.retain(|&((sequence, _), _, _), row| !told.has_passed(row.class, sequence));
        self.holds.forget(0, told);
        Ok(())
    }

    pub fn step_names(&self) -> Vec<String> {
        self.steps.iter().map(|place| step_name(place.plan, place.step)).collect()
    }
}

/// All services.
#[derive(Debug)]
pub struct Stores {
    pub services: Vec<Service>,
    /// Effects so far: makes each result another one.
    pub effects: u64,
}

impl Stores {
    pub fn new(options: &[ServiceOptions], models: &[Model]) -> Self {
        let services = options.iter().enumerate().map(|(service, options)| Service {
            options: options.clone(),
            steps: steps_of(service, models),
            rows: BTreeMap::new(),
            holds: Holds::new(HOLD_ROWS_MAX),
            told: Watermark::unknown(),
            gateway: BTreeMap::new(),
            late_calls: Vec::new(),
            stuck: BTreeSet::new(),
        });
        Self { services: services.collect(), effects: 0 }
    }

    /// The result of the next effect: no other effect has the same.
    pub fn next_result(&mut self, bytes: usize) -> Vec<u8> {
        self.effects += 1;
        let mut result = self.effects.to_le_bytes().to_vec();
        result.resize(bytes, 0x5a);
        result
    }
}

fn steps_of(service: usize, models: &[Model]) -> Vec<StepPlace> {
    let places = models.iter().enumerate().flat_map(|(plan, model)| {
        let steps = model.definition.steps.iter().enumerate();
        steps.filter(|(_, step)| step.service == service).map(move |(step, _)| StepPlace { plan, step })
    });
    places.collect()
}
