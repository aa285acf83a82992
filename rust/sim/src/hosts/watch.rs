//! Whether every live saga has a deadline before it, is deciding, or must end soon and is listed as stuck if it does
//! not (I13): looked at with each tick of the broker, right after its own.

use std::collections::BTreeMap;

use sagacore_broker::Broker;

use super::waits::Waits;
use crate::checks::saga_key;
use crate::env::Env;
use crate::situations::Situation;

/// What is found a little late is in time: ticks and clocks are not exact.
const SLACK_MS: u64 = 500;
const LATE_LOOKS_MAX: u32 = 20;

/// Sagas that turned round or passed their pivot, as one start of the broker saw them. Times are the broker's.
#[derive(Debug, Default)]
pub struct Watch {
    /// By sequence and attempt: since when they are watched, and whether they were listed as stuck.
    turned: BTreeMap<(u64, u32), (u64, bool)>,
    /// By sequence: how often they were seen beyond their deadline. A record takes only so many aborts.
    late: BTreeMap<u64, u32>,
    waits: Waits,
}

impl Watch {
    pub fn look(&mut self, env: &mut Env, broker: &Broker, time_ms: u64) {
        let state = broker.state();
        env.stuck.clear();
        let stuck_after_ms = env.options.stuck_after_ms;
        self.late.retain(|&sequence, _| state.saga_by_sequence(sequence).is_some());
        self.turned.retain(|&(sequence, _), _| state.saga_by_sequence(sequence).is_some());
        self.waits.look(env, broker);
        for (saga, found) in &state.sagas {
            if state.may_abort(saga) {
                if found.deadline_ms < time_ms {
                    let looks = self.late.entry(found.id.sequence.get()).or_default();
                    *looks += 1;
                    if *looks > LATE_LOOKS_MAX {
                        let text = format!("{} runs at {time_ms} ms, its deadline was {}", found.id, found.deadline_ms);
                        return env.violate("I13", text);
                    }
                }
                continue;
            }
            if !found.has_turned() {
                continue;
            }
            let (since_ms, was_stuck) =
                self.turned.entry((found.id.sequence.get(), found.attempt)).or_insert((time_ms, false));
            if *was_stuck && !found.stuck {
                env.checks.situations.reach(Situation::StuckResolved);
                *since_ms = time_ms;
            }
            *was_stuck = found.stuck;
            if found.stuck {
                env.stuck.push(saga_key(found.id));
            }
            if !found.stuck && *since_ms + stuck_after_ms + SLACK_MS < time_ms {
                let text =
                    format!("saga {} turned round {} ms ago and is not listed as stuck", found.id, time_ms - *since_ms);
                return env.violate("I13", text);
            }
        }
    }
}
