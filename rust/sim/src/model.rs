//! What a plan means, worked out a second time and as simply as it goes, to compare the real compiler with.

use sagacore_core::plan::Plan;

use crate::plans::{Definition, ancestors};

/// A plan as the checks see it. Sets of steps are bits.
#[derive(Debug)]
pub struct Model {
    /// The real one: for the numbers of its edges, and the size of its largest message.
    pub plan: Plan,
    pub definition: Definition,
    pub bytes: Vec<u8>,
    pub fingerprint: u64,
    pub count: usize,
    pub pivot: Option<usize>,
    /// By step, all that comes before it.
    pub ancestors: Vec<u64>,
    /// By step, all that must be undone before it.
    pub undone_before: Vec<u64>,
    pub before_pivot: u64,
    pub compensable: u64,
    /// Messages between coordinator and services where nothing fails.
    pub messages: u64,
    /// No message of this plan is larger.
    pub token_bytes_max: usize,
}

/// The steps of a set, ascending.
pub fn steps(set: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |step| set & (1 << step) != 0)
}

impl Model {
    pub fn new(definition: Definition, index: usize) -> Self {
        let bytes = definition.encode(index);
        let plan = Plan::compile(&bytes);
        let plan = plan.unwrap_or_else(|error| unreachable!("the simulator defines what compiles: {error}"));
        let count = definition.steps.len();
        let all = u64::MAX >> (64 - count);
        let ancestors = ancestors(&definition.steps);
        let pivot = definition.steps.iter().position(|step| step.is_pivot);
        let before_pivot = pivot.map_or(all, |pivot| ancestors[pivot]);
        let flagged = steps(all).filter(|&step| definition.steps[step].is_compensable);
        let compensable = flagged.fold(0, |set, step| set | 1 << step) & before_pivot;
        let undone_before = undone_before(&definition);
        let mut model = Self {
            fingerprint: sagacore_core::plan::fingerprint(&bytes),
            token_bytes_max: plan.token_bytes_max,
            plan,
            messages: 0,
            definition,
            bytes,
            count,
            pivot,
            ancestors,
            undone_before,
            before_pivot,
            compensable,
        };
        model.messages = count_messages(all, &model.ancestors);
        model
    }

    pub fn all(&self) -> u64 {
        u64::MAX >> (64 - self.count)
    }

    /// Messages that undoing a set takes, the one that begins it included.
    pub fn undo_messages(&self, set: u64) -> u64 {
        1 + count_messages(set, &self.undone_before)
    }

    /// The steps of `set` that come directly before one.
    pub fn predecessors(&self, step: usize) -> u64 {
        direct(self.ancestors[step], &self.ancestors)
    }

    /// The steps of `set` that are undone directly before one, all others passed over.
    pub fn undo_predecessors(&self, step: usize, set: u64) -> u64 {
        direct(self.undone_before[step] & set, &self.undone_before)
    }

    /// The steps that no other comes after.
    pub fn sinks(&self) -> u64 {
        sinks(self.all(), &self.ancestors)
    }

    /// The steps of `set` that no other of it is undone after.
    pub fn undo_sinks(&self, set: u64) -> u64 {
        sinks(set, &self.undone_before)
    }
}

/// Of these, those that no other of them comes after.
fn direct(before: u64, closure: &[u64]) -> u64 {
    steps(before).fold(before, |left, step| left & !closure[step])
}

fn sinks(set: u64, closure: &[u64]) -> u64 {
    steps(set).fold(set, |left, step| left & !closure[step])
}

/// One for each step, one for each way into a join, one for each way into the end.
fn count_messages(set: u64, closure: &[u64]) -> u64 {
    let ways = steps(set).map(|step| u64::from(direct(closure[step] & set, closure).count_ones()));
    let joins: u64 = ways.filter(|&ways| ways > 1).sum();
    u64::from(set.count_ones()) + joins + u64::from(sinks(set, closure).count_ones())
}

fn undone_before(definition: &Definition) -> Vec<u64> {
    let count = definition.steps.len();
    let mut before = vec![0u64; count];
    for earlier in (0..count).rev() {
        for later in earlier + 1..count {
            let step = &definition.steps[later];
            let named = step.reads.contains(&(earlier as u64)) || step.undo_before.contains(&(earlier as u64));
            if definition.undo_in_a_chain || named {
                before[earlier] |= before[later] | 1 << later;
            }
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_takes_one_message_more_than_steps_and_a_diamond_seven() {
        assert_eq!(Model::new(Definition::shop(false, 4), 0).messages, 5);
        assert_eq!(Model::new(Definition::shop(true, 4), 0).messages, 7);
    }

    #[test]
    fn the_shop_is_undone_side_by_side_and_the_order_last() {
        let shop = Model::new(Definition::shop(false, 4), 0);
        assert_eq!(shop.undone_before, [0b1110, 0b1000, 0b1000, 0]);
        assert_eq!(shop.compensable, 0b111);
        assert_eq!(shop.undo_messages(0b111), 1 + 3 + 2 + 1);
        assert_eq!(shop.undo_messages(0), 1);
    }
}
