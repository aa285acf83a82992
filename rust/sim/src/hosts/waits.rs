//! Whether sagas wait for each other, or for nobody (I14): looked at with each tick of the broker, right after its own.

use std::collections::{BTreeMap, BTreeSet};

use sagacore_broker::{Broker, Place};
use sagacore_core::limits::CYCLE_TOLD_MAX;
use sagacore_core::wire::Holder;

use crate::checks::saga_key;
use crate::env::Env;
use crate::situations::Situation;

/// So often may be seen what is under way: a record that is not durable yet, or a pile of sagas that give way.
const LOOKS_MAX: u32 = 40;

/// By name of a step that waits, those in its way.
type Graph = BTreeMap<(u64, u16), Vec<Holder>>;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Waits {
    /// How often a cycle was there in a row.
    in_a_cycle: u32,
    /// By step that waits and has nobody in its way: as of which record, and how often since that is durable.
    for_nobody: BTreeMap<(u64, u16), (u64, u32)>,
    /// The last deadlock that was looked at.
    seen: u64,
}

impl Waits {
    pub fn look(&mut self, env: &mut Env, broker: &Broker) {
        if env.options.contention.rate == 0 {
            return;
        }
        self.look_at_deadlocks(env, broker);
        let graph = self.graph(env, broker);
        let free: Vec<(u64, u16)> =
            graph.iter().filter(|(_, holders)| holders.is_empty()).map(|(&name, _)| name).collect();
        self.for_nobody.retain(|name, _| free.contains(name));
        for name in free {
            let (lsn, looks) = self.for_nobody.entry(name).or_insert((broker.last_lsn(), 0));
            *looks += u32::from(broker.durable_lsn() >= *lsn);
            if *looks > LOOKS_MAX {
                return env.violate("I14", format!("step {} of saga {} waits for nobody", name.1, name.0));
            }
        }
        self.in_a_cycle = if has_cycle(&graph) { self.in_a_cycle + 1 } else { 0 };
        if self.in_a_cycle > LOOKS_MAX {
            env.violate("I14", format!("sagas wait for each other, and nobody gives way: {graph:?}"));
        }
    }

    /// Steps that wait, and which holders in their way are not durably over.
    fn graph(&self, env: &mut Env, broker: &Broker) -> Graph {
        let state = broker.state();
        let waits: BTreeMap<_, _> = broker.waits().collect();
        let blocked = state.tokens.iter().filter(|(_, found)| found.place == Place::Blocked);
        let mut graph = Graph::new();
        for (token, found) in blocked {
            let saga = &state.sagas[found.saga];
            if saga.pivoted {
                env.violate("I14", format!("step {} of {} waits, past the pivot", found.position, saga.id));
            }
            let holders = waits.get(&token).cloned().unwrap_or_default();
            let is_live = |holder: &Holder| !env.checks.history.is_over(saga_key(holder.saga), holder.attempt);
            let live = holders.into_iter().filter(is_live).collect();
            graph.insert((saga.id.sequence.get(), found.position), live);
        }
        graph
    }

    /// Of a cycle one gives way, and that is not the oldest.
    fn look_at_deadlocks(&mut self, env: &mut Env, broker: &Broker) {
        let seen = self.seen;
        for deadlock in broker.deadlocks().iter().filter(|deadlock| deadlock.number > seen) {
            let sagas: BTreeSet<_> = deadlock.cycle.iter().map(|hop| saga_key(hop.saga)).collect();
            let victim = saga_key(deadlock.victim);
            let is_right = sagas.len() == deadlock.cycle.len() && sagas.contains(&victim) && sagas.len() > 1;
            // Of a long one the rest is not told, and the oldest may be there (seed 139742).
            let is_whole = deadlock.cycle.len() < CYCLE_TOLD_MAX;
            if !is_right || (is_whole && sagas.first() == Some(&victim)) {
                env.violate("I14", format!("{victim:?} gives way in {:?}", deadlock.cycle));
            }
            env.reach(if deadlock.is_wound { Situation::Wounded } else { Situation::Deadlocked });
            self.seen = deadlock.number;
        }
    }
}

/// Whether some saga waits for itself in the end.
fn has_cycle(graph: &Graph) -> bool {
    let mut edges: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (&(saga, _), holders) in graph {
        edges.entry(saga).or_default().extend(holders.iter().map(|holder| holder.saga.sequence.get()));
    }
    // Whoever waits for nobody that waits is in no cycle: what is left in the end is.
    loop {
        let waiting: BTreeSet<u64> = edges.keys().copied().collect();
        let before = edges.len();
        edges.retain(|_, holders| holders.iter().any(|holder| waiting.contains(holder)));
        if edges.len() == before {
            return before > 0;
        }
    }
}
