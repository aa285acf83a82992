//! The plans that the broker knows, by fingerprint, and the services that their steps are for.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use sagacore_core::limits::PLANS_MAX;
use sagacore_core::plan::Plan;
use sagacore_core::wire::Refusal;

/// A plan, its definition as it came, and the queue that each step's messages wait in.
pub struct Registered {
    pub plan: Arc<Plan>,
    pub definition: Box<[u8]>,
    /// By step: index of its service.
    pub services: Vec<u32>,
    pub lsn: u64,
}

/// See the module's text.
#[derive(Default)]
pub struct Plans {
    plans: Vec<Registered>,
    by_fingerprint: HashMap<u64, u32, FixedState>,
    services: Vec<Service>,
    by_name: HashMap<String, u32, FixedState>,
    /// Places of services that nobody serves any more and no plan names.
    free_services: Vec<u32>,
}

/// A service: its place is that of its queue.
struct Service {
    name: String,
    /// A plan names it, so it stays.
    is_planned: bool,
}

impl Plans {
    pub fn get(&self, index: u32) -> &Registered {
        &self.plans[index as usize]
    }

    pub fn find(&self, fingerprint: u64) -> Option<u32> {
        self.by_fingerprint.get(&fingerprint).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.plans.iter()
    }

    pub fn len(&self) -> usize {
        self.plans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// The index of a service, new or known: its queue.
    pub fn service(&mut self, name: &str) -> u32 {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let service = Service { name: name.to_owned(), is_planned: false };
        let index = match self.free_services.pop() {
            Some(free) => {
                self.services[free as usize] = service;
                free
            }
            None => {
                self.services.push(service);
                self.services.len() as u32 - 1
            }
        };
        self.by_name.insert(name.to_owned(), index);
        index
    }

    /// The index of a service, if it is known.
    pub fn find_service(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Nobody serves this service any more. Unless a plan names it, it is forgotten: there are no more names than plans
    /// and sessions make.
    pub fn unserved(&mut self, index: u32) {
        let service = &mut self.services[index as usize];
        if !service.is_planned && self.by_name.remove(&service.name).is_some() {
            service.name.clear();
            self.free_services.push(index);
        }
    }

    /// Services that are known.
    pub fn service_count(&self) -> usize {
        self.by_name.len()
    }

    /// Compiles a definition, or says why it is refused. Nothing is changed.
    ///
    /// # Errors
    /// `BadPlan` with the reason, or `Full`.
    pub fn check(&self, fingerprint: u64, definition: &[u8]) -> Result<Option<Plan>, (Refusal, String)> {
        if let Some(known) = self.find(fingerprint) {
            let same = *self.get(known).definition == *definition;
            let reason = || "another plan has the same fingerprint".to_owned();
            return if same { Ok(None) } else { Err((Refusal::BadPlan, reason())) };
        }
        if self.plans.len() >= PLANS_MAX {
            return Err((Refusal::Full, format!("the broker knows {PLANS_MAX} plans already")));
        }
        let plan = Plan::compile(definition).map_err(|error| (Refusal::BadPlan, error.to_string()))?;
        if plan.fingerprint != fingerprint {
            return Err((Refusal::BadPlan, "the fingerprint is not the definition's".to_owned()));
        }
        Ok(Some(plan))
    }

    /// Remembers a plan.
    pub fn add(&mut self, plan: Plan, definition: &[u8], lsn: u64) -> u32 {
        let services: Vec<u32> = plan.steps.iter().map(|step| self.service(&step.service)).collect();
        for &service in &services {
            self.services[service as usize].is_planned = true;
        }
        let index = self.plans.len() as u32;
        self.by_fingerprint.insert(plan.fingerprint, index);
        self.plans.push(Registered { plan: Arc::new(plan), definition: definition.into(), services, lsn });
        index
    }

    /// The plan's definition was written to the log again.
    pub fn copied(&mut self, index: usize, lsn: u64) {
        self.plans[index].lsn = lsn;
    }
}
