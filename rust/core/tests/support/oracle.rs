//! The oracle: an order of steps written as plainly as can be, and messages that travel along a graph as services and
//! a coordinator would pass them on.

use std::collections::BTreeMap;

use sagacore_core::limits::EDGES_PER_BLOCK;
use sagacore_core::plan::{Graph, Join, Target, bit_of, block_of};

use super::{SagaModel, members, set};

/// An order over 64 steps, as plainly as it can be written: `earlier[a][b]` where a comes before b.
pub struct Order {
    earlier: Vec<Vec<bool>>,
}

impl Order {
    pub fn new(count: usize, pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut earlier = vec![vec![false; count]; count];
        for (before, after) in pairs {
            earlier[before as usize][after as usize] = true;
        }
        for middle in 0..count {
            let onward = earlier[middle].clone();
            for row in earlier.iter_mut().filter(|row| row[middle]) {
                row.iter_mut().zip(&onward).for_each(|(to, &on)| *to |= on);
            }
        }
        Self { earlier }
    }

    pub fn forward(saga: &SagaModel) -> Self {
        let pairs =
            (0..).zip(&saga.steps).flat_map(|(step, model)| model.after.iter().map(move |&before| (before, step)));
        Self::new(saga.steps.len(), pairs)
    }

    pub fn undo(saga: &SagaModel) -> Self {
        let count = saga.steps.len() as u64;
        if saga.undo == 1 {
            return Self::new(saga.steps.len(), (0..count).flat_map(|late| (0..late).map(move |early| (late, early))));
        }
        let pairs = (0..).zip(&saga.steps).flat_map(|(step, model)| {
            model.reads.iter().chain(&model.undo_before).map(move |&earlier| (step, earlier))
        });
        Self::new(saga.steps.len(), pairs)
    }

    pub fn is_before(&self, a: u64, b: u64) -> bool {
        self.earlier[a as usize][b as usize]
    }

    pub fn all_before(&self, step: u64, among: u64) -> u64 {
        set(&members(among).into_iter().filter(|&other| self.is_before(other, step)).collect::<Vec<_>>())
    }

    /// The pairs among these with no other of these between.
    pub fn reduced(&self, among: u64) -> Vec<(u64, u64)> {
        let among = members(among);
        let pairs = among.iter().flat_map(|&a| among.iter().map(move |&b| (a, b)));
        let between = |a, b| among.iter().any(|&c| self.is_before(a, c) && self.is_before(c, b));
        pairs.filter(|&(a, b)| self.is_before(a, b) && !between(a, b)).collect()
    }

    /// Steps, and the in-degrees of joins, and sinks.
    pub fn messages(&self, among: u64) -> usize {
        let pairs = self.reduced(among);
        let joined = members(among).into_iter().map(|step| pairs.iter().filter(|pair| pair.1 == step).count());
        let sinks = members(among).into_iter().filter(|&step| pairs.iter().all(|pair| pair.0 != step)).count();
        members(among).len() + joined.filter(|&degree| degree > 1).sum::<usize>() + sinks
    }
}

/// What happens to a token on its way.
pub trait Journey {
    type Token: Clone;
    fn begin(&mut self, root: u8) -> Self::Token;
    /// The step is done; the token as it leaves.
    fn visit(&mut self, step: u8, token: Self::Token) -> Self::Token;
    fn send(&self, token: &Self::Token, target: Target) -> Self::Token;
    /// All arrivals of a join; its target's token, or none at the end.
    fn meet(&mut self, target: Option<u8>, arrivals: Vec<Self::Token>) -> Self::Token;
}

/// Carries a journey's tokens over a graph, delivered in an order drawn from `seed`; gives the number of messages.
pub fn travel<J: Journey>(graph: &Graph, journey: &mut J, mut seed: u64) -> usize {
    let mut flying = Vec::new();
    for root in members(graph.roots) {
        flying.push((Target::Step(root as u8), journey.begin(root as u8)));
    }
    let mut blocks = BTreeMap::<u16, u64>::new();
    let mut arrivals = BTreeMap::new();
    let (mut messages, mut ends) = (0, 0);
    while !flying.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (target, token) = flying.swap_remove((seed >> 33) as usize % flying.len());
        messages += 1;
        match target {
            Target::Step(step) => {
                let token = journey.visit(step, token);
                let onward = graph.after(step);
                assert!(!onward.is_empty(), "every step leads on");
                flying.extend(onward.iter().map(|&target| (target, journey.send(&token, target))));
            }
            Target::Edge(edge) => {
                let arrived = blocks.entry(block_of(edge)).or_default();
                assert_eq!(*arrived & bit_of(edge), 0, "an edge is passed once");
                *arrived |= bit_of(edge);
                assert!(arrivals.insert(edge, token).is_none());
                let Join { block, mask, target } = *graph.join_of(edge).expect("an edge leads into a join");
                assert_eq!(block, block_of(edge));
                if *arrived & mask == mask {
                    let first = block * EDGES_PER_BLOCK as u16;
                    let edges = members(mask).into_iter().map(|bit| first + bit as u16);
                    let met = edges.map(|edge| arrivals.remove(&edge).expect("it has arrived")).collect();
                    let token = journey.meet(target, met);
                    match target {
                        Some(step) => flying.push((Target::Step(step), token)),
                        None => ends += 1,
                    }
                }
            }
        }
    }
    assert!(arrivals.is_empty(), "nobody waits for ever");
    assert_eq!(ends, usize::from(graph.members != 0), "the end is reached once");
    messages
}
