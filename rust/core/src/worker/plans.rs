//! The plans that this process has been told, and which of their steps are its own.

use hashbrown::HashTable;

use super::WorkerOptions;
use crate::limits::PLANS_MAX;
use crate::plan::{Plan, PlanError};
use crate::wire::Header;

/// Where a step stands relative to the pivot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It can be undone.
    Before = 0,
    /// It decides: it ends done or cleanly rejected, and nothing else.
    Pivot = 1,
    /// Nothing is undone any more: it is tried until it succeeds.
    Past = 2,
}

/// A plan and, for each of its steps, the one of this process that it is.
#[derive(Debug)]
pub(super) struct KnownPlan {
    pub plan: Plan,
    /// The class of its deadline.
    pub class: usize,
    own_steps: Vec<Option<u16>>,
}

impl KnownPlan {
    /// The step among those of this process.
    pub fn own_step(&self, step: u16) -> Option<u16> {
        self.own_steps.get(usize::from(step)).copied().flatten()
    }

    /// The steps whose results the step of a message reads, in its order.
    pub fn reads(&self, header: &Header) -> &[u8] {
        &self.plan.steps[usize::from(header.place.get())].reads_ordered
    }

    pub fn phase(&self, step: u16) -> Phase {
        if self.plan.pivot.is_some_and(|pivot| u16::from(pivot) == step) {
            Phase::Pivot
        } else if self.plan.before_pivot & (1 << step) != 0 {
            Phase::Before
        } else {
            Phase::Past
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Plans {
    plans: Vec<KnownPlan>,
    index: HashTable<u32>,
}

impl Plans {
    pub fn get(&self, at: u32) -> &KnownPlan {
        &self.plans[at as usize]
    }

    pub fn find(&self, fingerprint: u64) -> Option<u32> {
        self.index.find(fingerprint, |&at| self.get(at).plan.fingerprint == fingerprint).copied()
    }

    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Learns a plan; one that is known already, or for which there is no room, changes nothing.
    ///
    /// # Errors
    /// What is wrong with the definition.
    pub fn define(&mut self, definition: &[u8], options: &WorkerOptions) -> Result<(), PlanError> {
        if self.plans.len() == PLANS_MAX || self.find(crate::plan::fingerprint(definition)).is_some() {
            return Ok(());
        }
        let plan = Plan::compile(definition)?;
        let own_steps = plan.steps.iter().map(|step| {
            let own = options.steps.iter().position(|name| *name == step.name && step.service == options.service);
            own.map(|own| own as u16)
        });
        let own_steps = own_steps.collect();
        let (at, fingerprint) = (self.plans.len() as u32, plan.fingerprint);
        let class = plan.deadline_class();
        self.plans.push(KnownPlan { plan, class, own_steps });
        let plans = &self.plans;
        self.index.insert_unique(fingerprint, at, |&at| plans[at as usize].plan.fingerprint);
        Ok(())
    }
}
