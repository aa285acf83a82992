//! A graph of steps as messages travel along it: which follow a step, where branches join, how edges are numbered.
//!
//! Only the edges of the transitive reduction are travelled. A step with one predecessor is asked for by that one. A
//! step with two or more is a *join*: each predecessor tells the coordinator, and the last one there lets it start.
//! The end is a join too, whether one step leads to it or many.
//!
//! ```text
//! edge index = block * 64 + bit     the edges of one join are neighbours within one block: one u64 holds who arrived
//! ```
//! Joins are numbered in ascending order of their targets, the end last, each in the first block with room, its edges
//! in ascending order of their sources. So the numbers follow from the graph alone and mean the same to every peer.

use super::{bit, steps_of};
use crate::limits::{EDGES_PER_BLOCK, STEPS_MAX};

/// What a step's end leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A step that waits for nothing else: the service asks for it.
    Step(u8),
    /// An edge into a join or into the end: the service tells the coordinator.
    Edge(u16),
}

/// Where branches meet: complete once all edges of `mask` in `block` have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Join {
    pub block: u16,
    pub mask: u64,
    /// The step that may start then; none: this is the end.
    pub target: Option<u8>,
}

/// The block of an edge.
pub const fn block_of(edge: u16) -> u16 {
    edge / EDGES_PER_BLOCK as u16
}

/// The bit of an edge within its block, as a mask.
pub const fn bit_of(edge: u16) -> u64 {
    1 << (edge % EDGES_PER_BLOCK as u16)
}

/// The transitive reduction of an order over a set of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The steps with which it begins; 0: there is nothing to do.
    pub roots: u64,
    pub members: u64,
    /// The targets of step `s` are `targets[starts[s]..starts[s + 1]]`.
    targets: Vec<Target>,
    starts: [u16; STEPS_MAX + 1],
    joins: Vec<Join>,
    /// By edge index; none where a block has no more edges.
    edges: Vec<Option<Edge>>,
    edge_count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edge {
    source: u8,
    join: u8,
}

impl Graph {
    /// The graph over `members` in which each step comes after the members of its set in `before`. Those sets are
    /// closed: with a step they hold all that comes before that one. So whatever is left out is passed over.
    pub(super) fn new(members: u64, before: &[u64; STEPS_MAX]) -> Self {
        let mut builder = Builder::default();
        let (mut roots, mut passed) = (0, 0);
        for step in steps_of(members) {
            let sources = direct(before[usize::from(step)] & members, before);
            passed |= sources;
            match sources.count_ones() {
                0 => roots |= bit(step),
                1 => builder.follow(sources, step),
                _ => builder.join(sources, Some(step)),
            }
        }
        if members != 0 {
            builder.join(members & !passed, None);
        }
        builder.finish(roots, members)
    }

    /// What follows a step: steps to ask for and edges to tell of, in ascending order of what they lead to, the end
    /// last. Empty for a step that is no member.
    pub fn after(&self, step: u8) -> &[Target] {
        match self.starts.get(usize::from(step)..usize::from(step) + 2) {
            Some(&[start, end]) => &self.targets[usize::from(start)..usize::from(end)],
            _ => &[],
        }
    }

    /// The join that an edge leads into; none for a number that is no edge.
    pub fn join_of(&self, edge: u16) -> Option<&Join> {
        self.edge(edge).map(|edge| &self.joins[usize::from(edge.join)])
    }

    /// Whether an edge is the only one into its join: what follows waits for nothing else.
    pub fn is_alone(&self, edge: u16) -> bool {
        self.join_of(edge).is_some_and(|join| join.mask.is_power_of_two())
    }

    /// The step that an edge comes from; none for a number that is no edge.
    pub fn source_of(&self, edge: u16) -> Option<u8> {
        self.edge(edge).map(|edge| edge.source)
    }

    /// All joins in ascending order of their targets, the end last.
    pub fn joins(&self) -> &[Join] {
        &self.joins
    }

    /// How many edges lead into joins or into the end.
    pub fn edge_count(&self) -> usize {
        self.edge_count
    }

    /// One more than the highest edge index: blocks may have gaps at their ends.
    pub fn edge_end(&self) -> usize {
        self.edges.len()
    }

    /// The messages between coordinator and services that it takes: one for each step and each edge.
    pub fn messages(&self) -> usize {
        self.members.count_ones() as usize + self.edge_count
    }

    fn edge(&self, edge: u16) -> Option<Edge> {
        self.edges.get(usize::from(edge)).copied().flatten()
    }
}

/// Of the steps that come before one, those with no other between.
fn direct(sources: u64, before: &[u64; STEPS_MAX]) -> u64 {
    sources & !steps_of(sources).fold(0, |passed, source| passed | before[usize::from(source)])
}

#[derive(Default)]
struct Builder {
    /// In ascending order of what they lead to.
    targets: Vec<(u8, Target)>,
    joins: Vec<Join>,
    edges: Vec<Option<Edge>>,
    /// The edges in each block.
    used: Vec<usize>,
    edge_count: usize,
}

impl Builder {
    fn follow(&mut self, sources: u64, step: u8) {
        self.targets.extend(steps_of(sources).map(|source| (source, Target::Step(step))));
    }

    fn join(&mut self, sources: u64, target: Option<u8>) {
        let count = sources.count_ones() as usize;
        let fits = |&used: &usize| used + count <= EDGES_PER_BLOCK;
        let block = self.used.iter().position(fits).unwrap_or_else(|| {
            self.used.push(0);
            self.used.len() - 1
        });
        let first = block * EDGES_PER_BLOCK + self.used[block];
        self.used[block] += count;
        self.edge_count += count;
        self.edges.resize(self.edges.len().max(first + count), None);
        let mut mask = 0;
        for (edge, source) in (first..).zip(steps_of(sources)) {
            self.edges[edge] = Some(Edge { source, join: self.joins.len() as u8 });
            self.targets.push((source, Target::Edge(edge as u16)));
            mask |= bit_of(edge as u16);
        }
        self.joins.push(Join { block: block as u16, mask, target });
    }

    fn finish(mut self, roots: u64, members: u64) -> Graph {
        // The sort is stable: the targets of a step stay in ascending order.
        self.targets.sort_by_key(|&(source, _)| source);
        let mut starts = [0; STEPS_MAX + 1];
        for &(source, _) in &self.targets {
            starts[usize::from(source) + 1] += 1;
        }
        for step in 0..STEPS_MAX {
            starts[step + 1] += starts[step];
        }
        let targets = self.targets.iter().map(|&(_, target)| target).collect();
        let Self { joins, edges, edge_count, .. } = self;
        Graph { roots, members, targets, starts, joins, edges, edge_count }
    }
}
