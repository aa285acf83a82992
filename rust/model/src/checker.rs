//! The search: every state that can be reached, breadth first, so that what it finds is a shortest way there.
//!
//! States are kept whole and compared whole: no state is taken for another because their hashes are the same. That, and
//! the question whether everything can still end, is why it is no library: stateright, which finds the same states in
//! half as much time again, keeps hashes and asks only what must come about on every way without cycles.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use zerocopy::IntoBytes;

use crate::action::{Action, Kinds};
use crate::model::{Model, Move, Moves};
use crate::property::{Property, is_over, violated};
use crate::state::{SAGAS_MAX, Saga, State};

/// States of one configuration at most: some 160 bytes each. A search that is cut here has shown nothing, and fails.
pub const STATES_MAX: usize = 20_000_000;

/// What a search found.
pub struct Verdict {
    pub states: usize,
    pub took: Duration,
    /// The kinds of actions that were taken.
    pub reached: Kinds,
    pub answer: Answer,
}

pub enum Answer {
    Holds,
    Breaks(Failure),
    TooLarge,
}

/// A property that does not hold, and a shortest way to where it does not.
pub struct Failure {
    pub property: Property,
    pub trace: Vec<(Action, State)>,
}

/// Searches all that a model can reach, then whether all of it can still end.
pub fn check(model: &Model) -> Verdict {
    let begin = Instant::now();
    let mut search = Search::new(model);
    let answer = search.run();
    Verdict { states: search.parents.len(), took: begin.elapsed(), reached: search.reached, answer }
}

const NO_PARENT: u32 = u32::MAX;

struct Search<'m> {
    model: &'m Model,
    /// The bytes of one state: those of the sagas that it follows.
    stride: usize,
    bytes: Vec<u8>,
    numbers: HashTable<u32>,
    hasher: FixedState,
    parents: Vec<u32>,
    /// Where progress leads, state by state, and where each state's list ends.
    progress: Vec<u32>,
    progress_ends: Vec<usize>,
    reached: Kinds,
}

impl<'m> Search<'m> {
    fn new(model: &'m Model) -> Self {
        let stride = size_of::<State>() - (SAGAS_MAX - model.setting.sagas) * size_of::<Saga>();
        Self {
            model,
            stride,
            bytes: Vec::new(),
            numbers: HashTable::new(),
            hasher: FixedState::default(),
            parents: Vec::new(),
            progress: Vec::new(),
            progress_ends: Vec::new(),
            reached: Kinds::default(),
        }
    }

    fn run(&mut self) -> Answer {
        let mut moves = Moves::default();
        self.insert(&self.model.initial(), NO_PARENT);
        let mut number = 0;
        while number < self.parents.len() {
            let state = self.state(number as u32);
            self.model.successors(&state, &mut moves);
            for next in &moves.list {
                if let Some(property) = next.broken {
                    return Answer::Breaks(self.failure(property, number as u32, Some(*next)));
                }
                let (found, is_new) = self.insert(&next.state, number as u32);
                if !next.action.is_fault() {
                    self.progress.push(found);
                }
                self.reached.add(next.action);
                if is_new && let Some(property) = violated(self.model, &next.state) {
                    return Answer::Breaks(self.failure(property, found, None));
                }
            }
            self.progress_ends.push(self.progress.len());
            number += 1;
            if self.parents.len() > STATES_MAX {
                return Answer::TooLarge;
            }
        }
        match self.first_that_cannot_end() {
            Some(number) => Answer::Breaks(self.failure(Property::Ends, number, None)),
            None => Answer::Holds,
        }
    }

    fn state(&self, number: u32) -> State {
        let mut state = State::EMPTY;
        let at = number as usize * self.stride;
        state.as_mut_bytes()[..self.stride].copy_from_slice(&self.bytes[at..at + self.stride]);
        state
    }

    /// The number of a state, and whether it is new.
    fn insert(&mut self, state: &State, parent: u32) -> (u32, bool) {
        let (stride, hasher, bytes) = (self.stride, &self.hasher, &self.bytes);
        let hash = |bytes: &[u8]| {
            let mut hash = hasher.build_hasher();
            hash.write(bytes);
            hash.finish()
        };
        let stored = |number: u32| &bytes[number as usize * stride..][..stride];
        let wanted = &state.as_bytes()[..stride];
        let wanted_hash = hash(wanted);
        if let Some(&found) = self.numbers.find(wanted_hash, |&number| stored(number) == wanted) {
            return (found, false);
        }
        let number = self.parents.len() as u32;
        self.numbers.insert_unique(wanted_hash, number, |&number| hash(stored(number)));
        self.bytes.extend_from_slice(wanted);
        self.parents.push(parent);
        (number, true)
    }

    /// The first state from which no progress leads to the end. Progress mostly leads to higher numbers, so a few
    /// rounds from the highest down find all that can end.
    fn first_that_cannot_end(&self) -> Option<u32> {
        let count = self.parents.len();
        let mut can_end: Vec<bool> = (0..count).map(|at| is_over(self.model, &self.state(at as u32))).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for number in (0..count).rev() {
                let start = number.checked_sub(1).map_or(0, |before| self.progress_ends[before]);
                let next = &self.progress[start..self.progress_ends[number]];
                if !can_end[number] && next.iter().any(|&next| can_end[next as usize]) {
                    can_end[number] = true;
                    changed = true;
                }
            }
        }
        can_end.iter().position(|&can| !can).map(|number| number as u32)
    }

    /// The way to a state, and one move beyond it: parents are stored, what happened between them is found again.
    fn failure(&self, property: Property, last: u32, beyond: Option<Move>) -> Failure {
        let mut numbers = vec![last];
        while let Some(&first) = numbers.last()
            && self.parents[first as usize] != NO_PARENT
        {
            numbers.push(self.parents[first as usize]);
        }
        numbers.reverse();
        let mut moves = Moves::default();
        let mut trace = Vec::new();
        for pair in numbers.windows(2) {
            let (from, to) = (self.state(pair[0]), self.state(pair[1]));
            self.model.successors(&from, &mut moves);
            trace.extend(moves.list.iter().find(|next| next.state == to).map(|next| (next.action, next.state)));
        }
        trace.extend(beyond.map(|next| (next.action, next.state)));
        Failure { property, trace }
    }
}
