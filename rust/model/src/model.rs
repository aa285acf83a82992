//! The transition relation: everything that can happen in a state, and where it leads.

use crate::action::Action;
use crate::configuration::Configuration;
use crate::mutation::Mutation;
use crate::plan::{Graph, Plan};
use crate::property::Property;
use crate::state::{Outcome, Record, START, Saga, State};
use crate::{broker, client, coordinator, forgery, operator, service};

/// What is checked: a setting, and at most one broken rule.
pub struct Model {
    pub setting: Configuration,
    pub mutation: Option<Mutation>,
    pub plan: Plan,
}

impl Model {
    pub fn new(setting: Configuration, mutation: Option<Mutation>) -> Self {
        let mut plan = (setting.plan)();
        if mutation == Some(Mutation::UndoUnordered) {
            plan.undo = (0..=plan.steps).map(Graph::unordered).collect();
        }
        Self { setting, mutation, plan }
    }

    pub fn breaks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Where it begins: no saga, or each with a durable START.
    pub fn initial(&self) -> State {
        let mut state = State::EMPTY;
        if !self.setting.starts {
            for saga in &mut state.sagas[..self.setting.sagas] {
                saga.live = Record { pending: START, used: START, ..Record::ABSENT };
                saga.synced = saga.live;
            }
            state.sagas[0].failing = self.setting.failing;
        }
        state
    }

    /// Those sagas that were started under the key of this one, itself included.
    pub fn same_key(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        if self.setting.starts { 0..self.setting.sagas } else { number..number + 1 }
    }

    /// Everything that can happen next.
    pub fn successors(&self, state: &State, moves: &mut Moves) {
        moves.list.clear();
        broker::moves(self, state, moves);
        for number in 0..self.setting.sagas {
            if self.setting.starts {
                client::starts(self, state, number, moves);
            }
            if !state.sagas[number].live.is_there() && !state.sagas[number].was_seen() {
                continue;
            }
            client::moves(self, state, number, moves);
            service::moves(self, state, number, moves);
            coordinator::moves(self, state, number, moves);
            operator::moves(self, state, number, moves);
            if let Some(forger) = self.setting.forger {
                forgery::moves(self, state, number, forger, moves);
            }
        }
    }
}

/// One thing that can happen, where it leads, and what it breaks.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    pub action: Action,
    pub state: State,
    pub broken: Option<Property>,
}

/// Everything that can happen in a state.
#[derive(Default)]
pub struct Moves {
    pub list: Vec<Move>,
}

impl Moves {
    /// One saga changes, nothing else.
    pub fn saga(&mut self, from: &State, number: usize, mut saga: Saga, action: Action, broken: Option<Property>) {
        saga.order_coordinators();
        let mut state = *from;
        state.sagas[number] = saga;
        if state != *from || broken.is_some() {
            self.list.push(Move { action, state, broken });
        }
    }

    pub fn state(&mut self, from: &State, state: State, action: Action) {
        if state != *from {
            self.list.push(Move { action, state, broken: None });
        }
    }
}

/// The outcome of an ended saga, as a record.
pub fn ended(of: &Record, outcome: Outcome) -> Record {
    Record { pending: 0, outcome, ..*of }
}
