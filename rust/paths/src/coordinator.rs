//! Branches that meet at the coordinator: into the table, and out with the transaction that joins them.

use sagacore_core::coordinator::Coordinator;
use sagacore_core::peer::{Peer, PeerOptions};
use sagacore_core::plan::{Plan, Target};
use sagacore_core::wire::{Kind, Role};
use sagacore_fuzz::seeds;

use crate::frames::{confirm, greeting, hear, say, token};
use crate::{HOUSEKEEPING_OPERATIONS, Path};

const SLOTS: usize = 4_096;
/// Sagas between the first arrival and the second: so many slots are taken, and so few that no set of them is crowded.
const WAITING: u64 = 200;

/// The second branch of one saga arrives together with the first of a later one.
pub struct Join {
    coordinator: Coordinator,
    plan: u64,
    /// The edges of the two branches, and the steps that they come from.
    edges: [(u16, u8); 2],
    sequence: u64,
    now_ms: u64,
    frame: Vec<u8>,
    joined: u64,
}

impl Join {
    pub fn new() -> Self {
        let definition = seeds::diamond();
        let plan = Plan::compile(&definition).unwrap_or_else(|error| panic!("the diamond: {error}"));
        let edge = |step: u8| match plan.forward.after(step) {
            [Target::Edge(edge)] => (*edge, step),
            other => panic!("step {step} of the diamond leads to {other:?}"),
        };
        let peer = Peer::new(PeerOptions {
            role: Role::Coordinator,
            name: String::new(),
            instance: 1,
            exclusive: false,
            lease_ms: 0,
            credit: 1_000,
            outbox_bytes_max: 1 << 20,
        });
        let mut join = Self {
            coordinator: Coordinator::new(SLOTS, peer),
            plan: plan.fingerprint,
            edges: [edge(1), edge(2)],
            sequence: 0,
            now_ms: 0,
            frame: greeting(&definition),
            joined: 0,
        };
        join.coordinator.connect(0);
        join.say();
        for sequence in 1..=WAITING {
            join.arrive(sequence, 0);
        }
        join.say();
        join
    }

    fn arrive(&mut self, sequence: u64, branch: usize) {
        let (edge, step) = self.edges[branch];
        let mut done = token(Kind::Done, self.plan, sequence, edge);
        done.done = (1 | 1 << step).into();
        say(&mut self.frame, 0, &[], done, |_| {});
    }

    /// Tells the coordinator what was written, and that what it answers is durable.
    fn say(&mut self) {
        let read = self.coordinator.receive(&self.frame, self.now_ms);
        read.unwrap_or_else(|broken| panic!("a frame by hand: {broken}"));
        self.frame.clear();
        let (mut last, mut joined) = (0, 0);
        while let Some(frame) = self.coordinator.frame(self.now_ms) {
            hear(&frame, |number, message| {
                last = last.max(number);
                joined += u64::from(message.header.kind() == Kind::Run);
            });
        }
        self.joined += joined;
        if last > 0 {
            confirm(&mut self.frame, last);
        }
    }
}

impl Path for Join {
    fn operate(&mut self) {
        self.sequence += 1;
        if self.sequence.is_multiple_of(HOUSEKEEPING_OPERATIONS) {
            self.now_ms += HOUSEKEEPING_OPERATIONS;
            self.coordinator.tick(self.now_ms);
        }
        self.arrive(self.sequence + WAITING, 0);
        self.arrive(self.sequence, 1);
        self.say();
    }

    fn check(&self, operations: u64) {
        assert_eq!(self.joined, operations, "joins complete");
    }
}
