//! Plans: a saga's definition, compiled to the messages that carry it through.
//!
//! Every peer compiles the same bytes to the same plan, so that messages need to name only steps and edges. The
//! compiler takes any graph of up to 64 steps. Steps are numbered in an order in which each comes after all that it
//! waits for. A set of steps is one `u64`, with bit `s` for step `s`.

mod definition;
mod error;
mod graph;
mod size;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::limits::{STEPS_MAX, UNDO_GRAPHS_MAX};
use crate::mutation::{Mutation, is_broken};
use crate::watermark::deadline_class;
use definition::{Definition, StepDefinition};
use size::{Carries, Sizes};

pub use definition::UndoOrder;
pub use error::PlanError;
pub use graph::{Graph, Join, Target, bit_of, block_of};

/// A compiled saga.
#[derive(Debug)]
pub struct Plan {
    /// Of the definition's bytes: what messages name the plan by.
    pub fingerprint: u64,
    pub name: String,
    /// Bytes of the input at most.
    pub input_max: usize,
    /// How long the saga may take, to its pivot or, without one, to its end.
    pub deadline_ms: u64,
    pub undo_order: UndoOrder,
    /// The steps whose results the client gets.
    pub returns: u64,
    pub steps: Vec<Step>,
    /// The step that decides, if the saga has one: once it is done, nothing is undone any more.
    pub pivot: Option<u8>,
    /// The steps that an abort may have to undo: those with a compensation that come before the pivot.
    pub compensable: u64,
    /// The steps that come before the pivot, or all where there is none.
    pub before_pivot: u64,
    /// How it goes forward.
    pub forward: Graph,
    /// The messages between coordinator and services when nothing fails.
    pub messages: usize,
    /// Bytes of the largest message that a saga of this plan can need, whichever way it goes.
    pub token_bytes_max: usize,
    edge_carry: Vec<u64>,
    /// By step: all steps that are undone before it, closed.
    undone_before: [u64; STEPS_MAX],
    undo_graphs: Mutex<BTreeMap<u64, Arc<Graph>>>,
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub service: String,
    /// Bytes of the result at most.
    pub result_max: usize,
    /// The steps whose results it gets.
    pub reads: u64,
    /// The same, in the order in which it gets them.
    pub reads_ordered: Vec<u8>,
    /// All steps that come before it.
    pub ancestors: u64,
    /// The results that the RUN that asks for it carries.
    pub carry: u64,
}

impl Plan {
    /// Compiles a definition. Neither panics nor allocates much, whatever the bytes are.
    ///
    /// # Errors
    /// What is wrong with the definition, by a stable name and with the names of the steps.
    pub fn compile(bytes: &[u8]) -> Result<Self, PlanError> {
        let definition = Definition::read(bytes)?;
        let ancestors = ancestors(&definition.steps);
        check_reads(&definition.steps, &ancestors)?;
        let pivot = pivot(&definition.steps, &ancestors)?;
        let members = all(definition.steps.len());
        let before_pivot = pivot.map_or(members, |pivot| ancestors[usize::from(pivot)]);
        let with_compensation = set_of(&definition.steps, |step| step.is_compensable);
        let compensable = with_compensation & before_pivot;
        let forward = Graph::new(members, &ancestors);
        let carries = Carries::new(&definition, &ancestors, &forward);
        let sizes = Sizes::new(&definition, &carries);
        let token_bytes_max = sizes.largest_message(compensable)?;
        sizes.check_forks(&forward)?;
        let undone_before = undone_before(&definition);
        let steps = definition.steps.iter().enumerate();
        let steps = steps.map(|(index, step)| Step::new(step, ancestors[index], carries.run[index])).collect();
        Ok(Self {
            fingerprint: fingerprint(bytes),
            name: definition.name.to_owned(),
            input_max: definition.input_max,
            deadline_ms: definition.deadline_ms,
            undo_order: definition.undo,
            returns: definition.returns,
            steps,
            pivot,
            compensable,
            before_pivot,
            messages: forward.messages(),
            forward,
            token_bytes_max,
            edge_carry: carries.done,
            undone_before,
            undo_graphs: Mutex::new(BTreeMap::new()),
        })
    }

    /// The class of its deadline, which has a watermark of its own.
    pub fn deadline_class(&self) -> usize {
        deadline_class(self.deadline_ms)
    }

    /// The results that DONE of an edge carries; 0 for a number that is no edge.
    pub fn edge_carry(&self, edge: u16) -> u64 {
        self.edge_carry.get(usize::from(edge)).copied().unwrap_or(0)
    }

    /// How a set of steps is undone. What is not in the set is passed over, and the order across it kept; what is no
    /// step is left out. Compiled once for a set, as long as it is among the last few.
    pub fn undo(&self, set: u64) -> Arc<Graph> {
        let set = set & self.forward.members;
        let lock = || self.undo_graphs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = lock().get(&set) {
            return Arc::clone(graph);
        }
        let graph = Arc::new(Graph::new(set, &self.undone_before));
        let mut graphs = lock();
        if graphs.len() >= UNDO_GRAPHS_MAX {
            graphs.clear();
        }
        Arc::clone(graphs.entry(set).or_insert(graph))
    }
}

impl Step {
    fn new(step: &StepDefinition<'_>, ancestors: u64, carry: u64) -> Self {
        Self {
            name: step.name.to_owned(),
            service: step.service.to_owned(),
            result_max: step.result_max,
            reads: step.reads,
            reads_ordered: step.reads_ordered.clone(),
            ancestors,
            carry,
        }
    }
}

/// Names a definition: the first 8 bytes, little-endian, of its SipHash-2-4-128 under the zero key.
pub fn fingerprint(definition: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(definition);
    hasher.finish128().h1
}

/// The set of this step alone.
const fn bit(step: u8) -> u64 {
    1 << step
}

/// The set of the first `count` steps.
const fn all(count: usize) -> u64 {
    if count >= STEPS_MAX { u64::MAX } else { (1 << count) - 1 }
}

/// The steps of a set, in ascending order.
fn steps_of(mut set: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let step = set.trailing_zeros() as u8;
        (set != 0).then(|| {
            set &= set - 1;
            step
        })
    })
}

fn set_of(steps: &[StepDefinition<'_>], has: impl Fn(&StepDefinition<'_>) -> bool) -> u64 {
    (0..).zip(steps).filter(|(_, step)| has(step)).fold(0, |set, (index, _)| set | bit(index))
}

/// By step, all that comes before it. What a step names is below it, so its set is complete when it is asked for.
fn ancestors(steps: &[StepDefinition<'_>]) -> [u64; STEPS_MAX] {
    let mut ancestors = [0; STEPS_MAX];
    for (index, step) in steps.iter().enumerate() {
        ancestors[index] = steps_of(step.after).fold(step.after, |set, earlier| set | ancestors[usize::from(earlier)]);
    }
    ancestors
}

/// By step, all that is undone before it: who reads its result, who says so, and what is undone before those.
fn undone_before(definition: &Definition<'_>) -> [u64; STEPS_MAX] {
    let mut before = [0; STEPS_MAX];
    let members = all(definition.steps.len());
    for (index, step) in definition.steps.iter().enumerate().rev() {
        match definition.undo {
            _ if is_broken(Mutation::UndoOrderIgnored) => {}
            UndoOrder::Chain => before[index] = members & !all(index + 1),
            UndoOrder::Parallel => {
                for earlier in steps_of(step.reads | step.undo_before) {
                    before[usize::from(earlier)] |= before[index] | bit(index as u8);
                }
            }
        }
    }
    before
}

fn check_reads(steps: &[StepDefinition<'_>], ancestors: &[u64; STEPS_MAX]) -> Result<(), PlanError> {
    for (step, ancestors) in steps.iter().zip(ancestors) {
        if let Some(read) = steps_of(step.reads & !ancestors).next() {
            let read = steps[usize::from(read)].name.to_owned();
            return Err(PlanError::Reads { reader: step.name.to_owned(), step: read });
        }
    }
    Ok(())
}

/// The pivot. Every other step must come before or after it: what runs beside it might be done or undone when it
/// decides, and nobody could tell which.
fn pivot(steps: &[StepDefinition<'_>], ancestors: &[u64; STEPS_MAX]) -> Result<Option<u8>, PlanError> {
    let mut pivots = steps_of(set_of(steps, |step| step.is_pivot));
    let Some(pivot) = pivots.next() else { return Ok(None) };
    let name = |step: u8| steps[usize::from(step)].name.to_owned();
    if let Some(second) = pivots.next() {
        return Err(PlanError::Pivots { first: name(pivot), second: name(second) });
    }
    let ordered = ancestors[usize::from(pivot)] | bit(pivot);
    let beside = |step: &u8| ordered & bit(*step) == 0 && ancestors[usize::from(*step)] & bit(pivot) == 0;
    match (0..steps.len() as u8).find(beside) {
        Some(step) => Err(PlanError::Pivot { step: name(step), pivot: name(pivot) }),
        None => Ok(Some(pivot)),
    }
}
