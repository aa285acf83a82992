//! Whether every live saga has a deadline before it, is deciding, or must end soon and is listed as stuck if it does
//! not (I13): looked at with each tick of the broker, right after its own.

use std::collections::BTreeMap;

use sagacore_broker::{Broker, Saga};

use super::waits::Waits;
use crate::checks::saga_key;
use crate::env::Env;
use crate::situations::Situation;

/// What is found a little late is in time: ticks and clocks are not exact.
const SLACK_MS: u64 = 500;
const LATE_LOOKS_MAX: u32 = 20;
/// What is parked has to be read to be looked at, which is done with every so many ticks.
const PARKED_EVERY: u64 = 8;

/// Sagas that turned round or passed their pivot, as one start of the broker saw them. Times are the broker's.
#[derive(Debug, Default)]
pub struct Watch {
    /// By sequence and attempt: since when they are watched, and whether they were listed as stuck.
    turned: BTreeMap<(u64, u32), (u64, bool)>,
    /// By sequence: how often they were seen beyond their deadline. A record takes only so many aborts.
    late: BTreeMap<u64, u32>,
    waits: Waits,
    looks: u64,
    /// Those of the parked ones that were stuck when they were last looked at.
    parked_stuck: Vec<(u64, u32)>,
}

impl Watch {
    pub fn look(&mut self, env: &mut Env, broker: &mut Broker, time_ms: u64) {
        self.looks += 1;
        let state = broker.state();
        env.stuck.clear();
        self.late.retain(|&sequence, _| state.is_running(sequence));
        self.turned.retain(|&(sequence, _), _| state.is_running(sequence));
        self.waits.look(env, broker);
        for (saga, found) in state.sagas.iter() {
            let is_stuck = state.is_stuck(found.id.sequence.get());
            self.look_at(env, (found, is_stuck), state.may_abort(saga), 1, time_ms);
        }
        if self.looks.is_multiple_of(PARKED_EVERY) {
            self.parked_stuck.clear();
            let parked: Vec<u64> = state.all_parked().map(|parked| parked.sequence).collect();
            for sequence in parked {
                let Some((saga, tokens)) = broker.state_mut().look_at_parked(sequence) else { continue };
                let plan = &broker.state().plans.get(saga.plan).plan;
                let is_deciding = tokens
                    .iter()
                    .any(|token| plan.pivot.map(u16::from) == Some(token.position) && token.deliveries > 0);
                let is_stuck = broker.state().is_stuck(sequence);
                let may_abort = !saga.has_turned() && !is_deciding;
                self.look_at(env, (&saga, is_stuck), may_abort, PARKED_EVERY as u32, time_ms);
                if is_stuck {
                    self.parked_stuck.push(saga_key(saga.id));
                }
            }
        } else {
            env.stuck.extend(&self.parked_stuck);
        }
    }

    fn look_at(&mut self, env: &mut Env, (found, is_stuck): (&Saga, bool), may_abort: bool, looks: u32, time_ms: u64) {
        if may_abort {
            if found.deadline_ms < time_ms {
                let late = self.late.entry(found.id.sequence.get()).or_default();
                *late += looks;
                if *late > LATE_LOOKS_MAX {
                    let text = format!("{} runs at {time_ms} ms, its deadline was {}", found.id, found.deadline_ms);
                    env.violate("I13", text);
                }
            }
            return;
        }
        if !found.has_turned() {
            return;
        }
        let turned = (found.id.sequence.get(), found.attempt);
        let (since_ms, was_stuck) = self.turned.entry(turned).or_insert((time_ms, false));
        if *was_stuck && !is_stuck {
            env.checks.situations.reach(Situation::StuckResolved);
            *since_ms = time_ms;
        }
        *was_stuck = is_stuck;
        if is_stuck {
            env.stuck.push(saga_key(found.id));
        }
        if !is_stuck && *since_ms + env.options.stuck_after_ms + SLACK_MS < time_ms {
            let text =
                format!("saga {} turned round {} ms ago and is not listed as stuck", found.id, time_ms - *since_ms);
            env.violate("I13", text);
        }
    }
}
