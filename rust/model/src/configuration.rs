//! The settings that are checked: a plan, what may go wrong, and how many sagas and coordinators there are.

use crate::plan::{Plan, Steps, Undo};

/// One setting. What is not named is off.
#[derive(Debug, Clone, Copy)]
pub struct Configuration {
    pub name: &'static str,
    pub plan: fn() -> Plan,
    pub sagas: usize,
    /// It begins without sagas, and all of them are started under one key.
    pub starts: bool,
    pub relaxed: bool,
    /// An aborted saga may begin a second attempt.
    pub restarts: bool,
    /// Steps that may reject.
    pub rejects: Steps,
    pub gives_up: bool,
    pub cancels: bool,
    pub expires: bool,
    pub broker_stops: bool,
    pub coordinators: usize,
    pub coordinator_stops: bool,
    pub spills: bool,
    pub watermarks: bool,
    /// Steps of the first saga whose compensation fails until an operator comes.
    pub failing: Steps,
    pub operator: bool,
    /// Steps whose action calls the outside world.
    pub external: Steps,
    pub forger: Option<Forger>,
    pub size: Size,
}

/// How long a configuration takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// With the tests.
    Small,
    /// With every change.
    Medium,
    /// On demand.
    Deep,
}

/// A peer that sends what the plan does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forger {
    /// The service of a step.
    Service(usize),
    Coordinator,
}

fn step() -> Plan {
    Plan::new("A", &[0], None, Undo::Parallel)
}

fn pair() -> Plan {
    Plan::new("A B", &[0, 0b1], None, Undo::Parallel)
}

fn chain() -> Plan {
    Plan::new("A B C", &[0, 0b1, 0b10], None, Undo::Parallel)
}

fn chain_pivot() -> Plan {
    Plan::new("A B! C", &[0, 0b1, 0b10], Some(1), Undo::Parallel)
}

fn fork() -> Plan {
    Plan::new("A {B,C}", &[0, 0b1, 0b1], None, Undo::Parallel)
}

fn sides() -> Plan {
    Plan::new("{A,B}", &[0, 0], None, Undo::Parallel)
}

fn join() -> Plan {
    Plan::new("{A,B} C", &[0, 0, 0b11], None, Undo::Parallel)
}

fn join_pivot() -> Plan {
    Plan::new("{A,B} C!", &[0, 0, 0b11], Some(2), Undo::Parallel)
}

fn diamond() -> Plan {
    Plan::new("A {B,C} D", &[0, 0b1, 0b1, 0b110], None, Undo::Parallel)
}

fn diamond_chain() -> Plan {
    Plan::new("A {B,C} D, undone one by one", &[0, 0b1, 0b1, 0b110], None, Undo::Chain)
}

fn diamond_pivot() -> Plan {
    Plan::new("A {B,C} D!", &[0, 0b1, 0b1, 0b110], Some(3), Undo::Parallel)
}

/// A chain with everything that can abort it.
const BASE: Configuration = Configuration {
    name: "",
    plan: chain,
    sagas: 1,
    starts: false,
    relaxed: false,
    restarts: false,
    rejects: 0b1111,
    gives_up: true,
    cancels: true,
    expires: true,
    broker_stops: true,
    coordinators: 1,
    coordinator_stops: true,
    spills: true,
    watermarks: false,
    failing: 0,
    operator: false,
    external: 0,
    forger: None,
    size: Size::Small,
};

const PAIR: Configuration = Configuration { plan: pair, ..BASE };
const FORK: Configuration = Configuration { plan: fork, ..BASE };
const JOIN: Configuration = Configuration { plan: join, ..BASE };
const DIAMOND: Configuration = Configuration { plan: diamond, ..BASE };
/// Two sagas under one key.
const STARTS: Configuration = Configuration { plan: pair, sagas: 2, starts: true, ..BASE };
/// Two sagas, one younger than the other.
const TWO: Configuration = Configuration { plan: step, sagas: 2, watermarks: true, ..BASE };
const CALM: Configuration = Configuration { coordinator_stops: false, spills: false, ..BASE };

/// All settings, small ones first.
pub const ALL: &[Configuration] = &[
    Configuration { name: "chain", ..BASE },
    Configuration { name: "chain-pivot", plan: chain_pivot, ..BASE },
    Configuration { name: "pair-two", coordinators: 2, ..PAIR },
    Configuration { name: "pair-relaxed", relaxed: true, ..PAIR },
    Configuration { name: "chain-pivot-relaxed", plan: chain_pivot, relaxed: true, ..BASE },
    Configuration { name: "external", external: 0b11, ..PAIR },
    Configuration { name: "forging-service", forger: Some(Forger::Service(1)), ..BASE },
    Configuration { name: "forging-coordinator", forger: Some(Forger::Coordinator), ..BASE },
    Configuration { name: "starts", ..STARTS },
    Configuration { name: "stuck", failing: 0b10, operator: true, ..PAIR },
    Configuration { name: "resolve-relaxed", plan: chain_pivot, operator: true, relaxed: true, ..BASE },
    Configuration { name: "pair-restart", restarts: true, ..PAIR },
    Configuration { name: "fork", ..FORK },
    Configuration { name: "join-pivot", plan: join_pivot, ..BASE },
    Configuration { name: "join-forged", forger: Some(Forger::Service(0)), ..JOIN },
    Configuration { name: "diamond", ..DIAMOND },
    Configuration { name: "diamond-pivot", plan: diamond_pivot, ..BASE },
    Configuration { name: "chain-relaxed", relaxed: true, ..BASE },
    Configuration { name: "external-relaxed", external: 0b11, relaxed: true, ..PAIR },
    Configuration { name: "external-restart", external: 0b10, restarts: true, ..PAIR },
    Configuration { name: "stuck-relaxed", failing: 0b10, operator: true, relaxed: true, ..PAIR },
    Configuration { name: "starts-relaxed", relaxed: true, ..STARTS },
    Configuration { name: "watermarks", ..TWO },
    Configuration { name: "pair-restart-relaxed", restarts: true, relaxed: true, ..PAIR },
    Configuration { name: "pivot-restart-relaxed", plan: chain_pivot, restarts: true, relaxed: true, ..BASE },
    Configuration {
        name: "skip-relaxed",
        plan: sides,
        operator: true,
        relaxed: true,
        rejects: 0,
        coordinator_stops: false,
        ..BASE
    },
    Configuration { name: "join-two", coordinators: 2, ..JOIN },
    Configuration { name: "join-pivot-relaxed", plan: join_pivot, relaxed: true, ..BASE },
    Configuration { name: "diamond-two", coordinators: 2, ..DIAMOND },
    Configuration { name: "diamond-chain-relaxed", plan: diamond_chain, relaxed: true, ..BASE },
    Configuration {
        name: "stuck-watermarks",
        plan: step,
        sagas: 2,
        watermarks: true,
        failing: 1,
        operator: true,
        rejects: 0,
        size: Size::Medium,
        ..CALM
    },
    Configuration { name: "fork-relaxed", relaxed: true, size: Size::Medium, ..FORK },
    Configuration { name: "diamond-pivot-relaxed", plan: diamond_pivot, relaxed: true, size: Size::Medium, ..BASE },
    Configuration { name: "watermarks-pair", plan: pair, size: Size::Medium, ..TWO },
    Configuration { name: "diamond-restart", restarts: true, size: Size::Medium, ..DIAMOND },
    Configuration { name: "diamond-relaxed", relaxed: true, size: Size::Medium, ..DIAMOND },
    Configuration { name: "starts-restart-relaxed", restarts: true, relaxed: true, size: Size::Medium, ..STARTS },
    Configuration { name: "watermarks-relaxed", relaxed: true, size: Size::Medium, ..TWO },
    Configuration { name: "join-two-relaxed", coordinators: 2, relaxed: true, size: Size::Medium, ..JOIN },
    Configuration {
        name: "stuck-join-relaxed",
        failing: 0b100,
        operator: true,
        relaxed: true,
        size: Size::Medium,
        ..JOIN
    },
    Configuration { name: "fork-restart-relaxed", restarts: true, relaxed: true, size: Size::Deep, ..FORK },
    Configuration { name: "join-restart-relaxed", restarts: true, relaxed: true, size: Size::Deep, ..JOIN },
    Configuration { name: "diamond-two-relaxed", coordinators: 2, relaxed: true, size: Size::Deep, ..DIAMOND },
    Configuration {
        name: "diamond-pivot-two-relaxed",
        plan: diamond_pivot,
        coordinators: 2,
        relaxed: true,
        size: Size::Deep,
        ..BASE
    },
    Configuration {
        name: "stuck-diamond-relaxed",
        failing: 0b100,
        operator: true,
        relaxed: true,
        size: Size::Deep,
        ..DIAMOND
    },
    Configuration { name: "external-join-relaxed", external: 0b011, relaxed: true, size: Size::Deep, ..JOIN },
    Configuration { name: "watermarks-restart", restarts: true, size: Size::Deep, ..TWO },
    Configuration {
        name: "watermarks-pair-relaxed",
        plan: pair,
        sagas: 2,
        watermarks: true,
        relaxed: true,
        size: Size::Deep,
        ..CALM
    },
    Configuration {
        name: "diamond-restart-relaxed",
        plan: diamond,
        restarts: true,
        relaxed: true,
        size: Size::Deep,
        ..CALM
    },
];
