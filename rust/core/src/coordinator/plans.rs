//! The plans that the broker has told of. They are never forgotten, so their number is bounded.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::limits::PLANS_MAX;
use crate::plan::{Graph, Plan};
use crate::wire::{Header, Kind};

const _: () = assert!(PLANS_MAX <= u16::MAX as usize, "a slot names its plan with 16 bits");

/// A plan that is not taken up: it cannot be compiled, has another fingerprint, or is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken;

#[derive(Debug, Default)]
pub struct Plans {
    by_fingerprint: HashMap<u64, u16, FixedState>,
    plans: Vec<Arc<Plan>>,
}

impl Plans {
    pub fn define(&mut self, fingerprint: u64, definition: &[u8]) -> Result<(), NotTaken> {
        if self.by_fingerprint.contains_key(&fingerprint) {
            return Ok(());
        }
        let plan = Plan::compile(definition).map_err(|_| NotTaken)?;
        if plan.fingerprint != fingerprint || self.plans.len() == PLANS_MAX {
            return Err(NotTaken);
        }
        self.by_fingerprint.insert(fingerprint, self.plans.len() as u16);
        self.plans.push(Arc::new(plan));
        Ok(())
    }

    pub fn find(&self, fingerprint: u64) -> Option<u16> {
        self.by_fingerprint.get(&fingerprint).copied()
    }

    /// The plan at an index that `find` gave.
    pub fn get(&self, plan_index: u16) -> &Arc<Plan> {
        &self.plans[usize::from(plan_index)]
    }

    pub fn len(&self) -> usize {
        self.plans.len()
    }
}

/// The graph along which a saga's messages travel: forward, or the one that undoes its set of steps.
#[derive(Debug)]
pub struct Course {
    pub plan: Arc<Plan>,
    undo: Option<Arc<Graph>>,
}

impl Course {
    /// The course that an arrival has come along.
    pub fn of(plan: &Arc<Plan>, arrival: &Header) -> Self {
        let undoing = arrival.kind() == Kind::Undone;
        Self { plan: Arc::clone(plan), undo: undoing.then(|| plan.undo(arrival.done.get())) }
    }

    pub fn graph(&self) -> &Graph {
        self.undo.as_deref().unwrap_or(&self.plan.forward)
    }
}
