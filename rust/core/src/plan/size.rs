//! What a plan's messages carry, and how large that makes them at most.
//!
//! A message on a branch carries the results that are there and that somebody there or further on still asks for: a
//! step, or the client by `returns`. What is read no more is left behind, so that a token does not grow with its saga.

use super::definition::{Definition, StepDefinition};
use super::graph::{Graph, Target};
use super::{PlanError, bit, steps_of};
use crate::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, REASON_BYTES_MAX, STEPS_MAX, TRANSACTION_BYTES_MAX};
use crate::wire::{HEADER_BYTES, KEY_BYTES, MAC_BYTES, TRANSACTION_HEADER_BYTES, padded};

/// A body's map header: at most map16.
const MAP_BYTES: usize = 3;
/// The cause of an abort: fixarray of 3, code, step, str8 with the text.
const CAUSE_BYTES: usize = 1 + 1 + 1 + 2 + REASON_BYTES_MAX;
/// A step that an operator skipped: fixarray of 2, step, str8 with the reason.
const SKIPPED_STEP_BYTES: usize = 1 + 1 + 2 + REASON_BYTES_MAX;
/// The array of those: at most array16.
const SKIPPED_BYTES: usize = 3;

/// The results that messages carry: sets of steps.
#[derive(Debug)]
pub(super) struct Carries {
    /// By step: of the RUN that asks for it.
    pub run: [u64; STEPS_MAX],
    /// By edge: of the DONE that tells of it.
    pub done: Vec<u64>,
}

impl Carries {
    /// `before` is, by step, all that comes before it.
    pub fn new(definition: &Definition<'_>, before: &[u64; STEPS_MAX], forward: &Graph) -> Self {
        // What is still asked for by a step, by what comes after it, or at the end.
        let mut needed = [definition.returns; STEPS_MAX];
        for (index, step) in definition.steps.iter().enumerate() {
            needed[index] |= step.reads;
            for earlier in steps_of(before[index]) {
                needed[usize::from(earlier)] |= step.reads;
            }
        }
        let mut run = [0; STEPS_MAX];
        for step in steps_of(forward.members).map(usize::from) {
            run[step] = needed[step] & before[step];
        }
        let done = (0..forward.edge_end() as u16).map(|edge| {
            let Some((source, join)) = forward.source_of(edge).zip(forward.join_of(edge)) else { return 0 };
            let there = before[usize::from(source)] | bit(source);
            there & join.target.map_or(definition.returns, |target| needed[usize::from(target)])
        });
        Self { run, done: done.collect() }
    }
}

/// The bytes of a section with so many bytes of value, as `BodyWriter` writes it.
const fn section(value: usize) -> usize {
    let header = match value {
        0..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    };
    1 + header + value
}

/// The bytes of a message whose sections have so many.
const fn message(sections: usize) -> usize {
    padded(HEADER_BYTES + MAP_BYTES + sections + MAC_BYTES)
}

/// The largest messages of a plan.
pub(super) struct Sizes<'a> {
    definition: &'a Definition<'a>,
    carries: &'a Carries,
}

impl<'a> Sizes<'a> {
    pub fn new(definition: &'a Definition<'a>, carries: &'a Carries) -> Self {
        Self { definition, carries }
    }

    /// The bytes of the largest message of the plan; `compensable` are the steps that an operator may have to skip.
    ///
    /// A RUN carries at least what each DONE into its step does, and the RESULT what each DONE into the end does.
    ///
    /// # Errors
    /// `Token` where one could exceed what a message may have.
    pub fn largest_message(&self, compensable: u64) -> Result<usize, PlanError> {
        let mut largest = self.aborted(compensable);
        let mut allow = |bytes: usize, message: &dyn Fn() -> String| {
            largest = largest.max(bytes);
            if bytes > MESSAGE_BYTES_MAX { Err(PlanError::Token { message: message(), bytes }) } else { Ok(()) }
        };
        for (index, step) in self.definition.steps.iter().enumerate() {
            allow(self.forward(self.carries.run[index]), &|| format!("the request for step `{}`", step.name))?;
        }
        allow(self.forward(self.definition.returns), &|| "the saga's outcome with what it returns".to_owned())?;
        Ok(largest)
    }

    /// Checks that what each step sends when it is done fits into one transaction.
    ///
    /// # Errors
    /// `Fork` where it may not.
    pub fn check_forks(&self, forward: &Graph) -> Result<(), PlanError> {
        for (index, StepDefinition { name, .. }) in self.definition.steps.iter().enumerate() {
            let messages = forward.after(index as u8).iter().map(|target| match *target {
                Target::Step(step) => self.forward(self.carries.run[usize::from(step)]),
                Target::Edge(edge) => self.forward(self.carries.done[usize::from(edge)]),
            });
            let bytes = TRANSACTION_HEADER_BYTES + KEY_BYTES + messages.sum::<usize>();
            if bytes > TRANSACTION_BYTES_MAX {
                return Err(PlanError::Fork { step: (*name).to_owned(), bytes });
            }
        }
        Ok(())
    }

    /// A message of a saga that goes forward: input, key and results.
    fn forward(&self, results: u64) -> usize {
        let results = steps_of(results).map(|step| section(self.definition.steps[usize::from(step)].result_max));
        message(self.constant() + results.sum::<usize>())
    }

    /// A message of a saga that is aborted: input, key, cause and the steps skipped.
    fn aborted(&self, compensable: u64) -> usize {
        let skipped = SKIPPED_BYTES + compensable.count_ones() as usize * SKIPPED_STEP_BYTES;
        message(self.constant() + section(CAUSE_BYTES) + section(skipped))
    }

    fn constant(&self) -> usize {
        section(self.definition.input_max) + section(KEY_BYTES_MAX)
    }
}
