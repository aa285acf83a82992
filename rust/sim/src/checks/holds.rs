//! What is held (I14): no two sagas hold what does not go together, nobody is served before an older saga that waits,
//! and what a step held is gone once it is undone. A book of its own, beside the services' tables.

use std::collections::BTreeMap;

use sagacore_core::fence::{Ask, HoldRow, Standing};
use sagacore_core::wire::{HoldMode, Holder};

use super::{Broken, History, SagaKey, ensure, saga_key};

/// Service and resource.
type Place = (usize, String);

#[derive(Debug, Clone)]
struct Grant {
    holder: Holder,
    mode: HoldMode,
    amount: u32,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Holding {
    grants: BTreeMap<Place, Vec<Grant>>,
}

impl History {
    /// Whether an attempt may still hold something, as far as the log is durable.
    pub fn is_over(&self, saga: SagaKey, attempt: u32) -> bool {
        self.saga(saga).is_none_or(|saga| saga.ended.is_some() || saga.attempt > attempt)
    }
}

fn go_together(a: HoldMode, b: HoldMode) -> bool {
    matches!((a, b), (HoldMode::Shared, HoldMode::Shared) | (HoldMode::Counted, HoldMode::Counted))
}

impl Holding {
    /// A service gives a step what it asks for. `rows` are those of the resource in its table.
    pub fn granted(
        &mut self,
        history: &History,
        service: usize,
        ask: &Ask<'_>,
        rows: &[HoldRow],
    ) -> Result<(), Broken> {
        let own = saga_key(ask.holder.saga);
        let grants = self.grants.entry((service, ask.resource.to_owned())).or_default();
        grants.retain(|grant| !history.is_over(saga_key(grant.holder.saga), grant.holder.attempt));
        let others = grants.iter().filter(|grant| saga_key(grant.holder.saga) != own);
        let conflict = others.clone().find(|grant| !go_together(grant.mode, ask.mode));
        ensure!(conflict.is_none(), "I14", "{ask:?} is granted, and {conflict:?} holds it");
        let pool: u32 = grants.iter().filter(|grant| grant.holder != ask.holder).map(|grant| grant.amount).sum();
        let fits = ask.mode != HoldMode::Counted || pool + ask.amount <= ask.size;
        ensure!(fits, "I14", "{ask:?} is granted, and {pool} are held");
        let has = |grant: &Grant| {
            let is_enough =
                grant.mode == HoldMode::Exclusive || (grant.mode, ask.mode) == (HoldMode::Shared, HoldMode::Shared);
            grant.holder == ask.holder || (saga_key(grant.holder.saga) == own && is_enough)
        };
        let has_it = grants.iter().any(has);
        let barged = rows.iter().find(|row| {
            let is_older = row.standing == Standing::Waiting && row.age < ask.age && row.holder.saga != ask.holder.saga;
            is_older && (!go_together(row.mode, ask.mode) || (ask.mode == HoldMode::Counted && pool + 2 > ask.size))
        });
        // A late call of a saga that is over has what it had as long as nobody has told the service (seed 45363).
        let is_late = history.is_over(own, ask.holder.attempt);
        ensure!(has_it || is_late || barged.is_none(), "I14", "{ask:?} is granted before {barged:?}, which is older");
        grants.retain(|grant| grant.holder != ask.holder);
        grants.push(Grant { holder: ask.holder, mode: ask.mode, amount: ask.amount });
        Ok(())
    }

    /// A service is told that a saga has ended, or begun again.
    pub fn freed(&self, history: &History, saga: SagaKey, attempt: u32) -> Result<(), Broken> {
        let is_over = history.is_over(saga, attempt);
        ensure!(is_over, "I14", "attempt {attempt} of {saga:?} is told to be over, and durably it is not");
        Ok(())
    }

    /// A step's holds are gone.
    pub fn released(&mut self, service: usize, holder: Holder) {
        for ((of, _), grants) in &mut self.grants {
            if *of == service {
                grants.retain(|grant| grant.holder != holder);
            }
        }
    }

    /// A step is undone: it holds nothing any more.
    pub fn undone(&self, service: usize, holder: Holder) -> Result<(), Broken> {
        let of_service = self.grants.iter().filter(|((of, _), _)| *of == service);
        let held = of_service.flat_map(|(_, grants)| grants).find(|grant| grant.holder == holder);
        ensure!(held.is_none(), "I14", "{held:?} is held, and its step is undone");
        Ok(())
    }

    /// The memory of a service's only process is gone.
    pub fn lost(&mut self, service: usize) {
        self.grants.retain(|(of, _), _| *of != service);
    }
}
