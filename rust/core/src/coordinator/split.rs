//! A slot whose block holds the edges of several joins, divided when one of them is complete.
//!
//! A slot has one union and one intersection for all its arrivals. What each of its parts would have alone follows
//! from the plan: a token that travels an edge knows the step that it comes from, all that came before, and nothing
//! else. So each part is again the function of its own arrivals' headers.

use crate::limits::{EDGES_PER_BLOCK, STEPS_MAX};
use crate::plan::{Graph, Target};
use crate::table::{Slot, State};

/// Takes the arrivals of `mask` out of a slot and gives the slot of them alone.
pub fn split(slot: &mut Slot, mask: u64, graph: &Graph) -> Slot {
    let mut taken = *slot;
    taken.arrived = slot.arrived & mask;
    slot.arrived &= !mask;
    if slot.arrived != 0 {
        let before = before(graph, slot.state());
        narrow(&mut taken, graph, &before);
        narrow(slot, graph, &before);
    }
    taken
}

/// Leaves in a slot what its arrivals know.
fn narrow(slot: &mut Slot, graph: &Graph, before: &[u64; STEPS_MAX]) {
    let edges = (slot.block() * EDGES_PER_BLOCK as u16..).take(EDGES_PER_BLOCK);
    let held = edges.zip(0..).filter(|&(_, bit)| slot.arrived & (1 << bit) != 0);
    let sources = held.filter_map(|(edge, _)| graph.source_of(edge));
    let passed = sources.fold(0, |passed, step: u8| passed | before[usize::from(step)] | 1 << step);
    match slot.state() {
        State::Undoing => slot.undo |= slot.done & !passed,
        State::Forward | State::Free => slot.done &= passed,
    }
}

/// By step, all steps of the graph that come before it. A forward graph ascends and one that undoes descends.
fn before(graph: &Graph, state: State) -> [u64; STEPS_MAX] {
    let mut before = [0; STEPS_MAX];
    for index in 0..STEPS_MAX {
        let step = if state == State::Undoing { STEPS_MAX - 1 - index } else { index };
        let passed = before[step] | 1 << step;
        for &target in graph.after(step as u8) {
            let next = match target {
                Target::Step(next) => Some(next),
                Target::Edge(edge) => graph.join_of(edge).and_then(|join| join.target),
            };
            if let Some(next) = next {
                before[usize::from(next)] |= passed;
            }
        }
    }
    before
}
