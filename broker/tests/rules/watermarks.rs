//! Watermarks: what services are told, and that it is so as far as the log is durable, whatever comes.

use proptest::prelude::*;
use sagacore_broker::{RecordKind, WatermarkBounds};
use sagacore_core::limits::{HEARTBEAT_MS, WATERMARK_CLASSES};
use sagacore_core::watermark::{Watermark, deadline_class};
use sagacore_core::wire::{Kind, Refusal, Role, Section, StatusCode};

use crate::peers::{Got, World, transactions, undone};
use crate::sagas::SagaModel;
use crate::{cancel, refusal, status};

const PEERS: [&str; 2] = ["client", "service"];
/// Sagas of two classes.
const DEADLINES_MS: [u64; 2] = [30_000, 3_600_000];

struct Told {
    world: World,
    plans: [u64; 2],
    /// What the service was told last.
    watermark: Watermark,
    /// What it was asked to undo, and has not yet.
    undos: Vec<Got>,
    started: u64,
}

impl Told {
    fn new(bounds: WatermarkBounds) -> Self {
        let mut world = World::bounded(bounds);
        world.subscribe("client", Role::Client, "", 0);
        let plans = DEADLINES_MS.map(|deadline_ms| {
            let mut saga = SagaModel::new(&format!("of {deadline_ms} ms"));
            saga.deadline_ms = deadline_ms;
            saga.step("step", &[]);
            world.define(&saga)
        });
        let mut told = Self { world, plans, watermark: Watermark::unknown(), undos: Vec::new(), started: 0 };
        told.connect();
        told
    }

    fn connect(&mut self) {
        self.world.subscribe("client", Role::Client, "", 0);
        self.world.subscribe("service", Role::Service, "step-service", 0);
        self.hear();
    }

    /// What the service was told since: each thing that replaces what it knew, it keeps.
    fn hear(&mut self) {
        for got in self.world.take("service") {
            if got.kind() == Kind::Undo {
                self.undos.push(got);
                continue;
            }
            if got.kind() != Kind::Watermark {
                continue;
            }
            let told = Watermark::read(got.section(Section::DATA).unwrap()).unwrap();
            if told.replaces(&self.watermark) {
                self.check(&told);
                self.watermark = told;
            } else {
                assert_eq!(told, self.watermark, "the same record, the same watermark");
            }
        }
    }

    /// It is what the log says as of that record, which is durable; and it never goes back.
    fn check(&self, told: &Watermark) {
        assert!(told.as_of_lsn < self.durable(), "record {} is not durable", told.as_of_lsn);
        let (marks, exceptions) = read(&self.world, told.as_of_lsn);
        assert_eq!((told.marks, &told.exceptions), (marks, &exceptions), "as of {}", told.as_of_lsn);
        let before = &self.watermark;
        assert!(before.marks.iter().zip(&told.marks).all(|(before, after)| before <= after));
        assert!(before.log == 0 || before.log == told.log);
    }

    /// The first record that is not durable.
    fn durable(&self) -> u64 {
        self.world.broker.durable_lsn() + 1
    }

    fn pass(&mut self, ms: u64) {
        self.world.pass(ms, &PEERS);
        self.hear();
    }

    fn start(&mut self, class: usize) -> Option<Refusal> {
        self.started += 1;
        self.world.start(self.plans[class], &format!("k{}", self.started), "tea", self.started);
        refusal(&mut self.world, "client")
    }

    /// A saga goes back and ends, with all that the service is to undo.
    fn end(&mut self, key: u64) {
        cancel(&mut self.world, &format!("k{key}"));
        for undo in self.undos() {
            self.undo(&undo);
        }
    }

    /// What the service is to undo. It does so, or the sagas stick.
    fn undos(&mut self) -> Vec<Got> {
        self.hear();
        std::mem::take(&mut self.undos)
    }

    fn undo(&mut self, undo: &Got) {
        self.world.say("service", &[undo.key()], &[(undone(undo, 0), vec![])]);
    }

    /// A saga goes back, and its service does nothing about it.
    fn stick(&mut self, class: usize) -> u64 {
        assert_eq!(self.start(class), None);
        cancel(&mut self.world, &format!("k{}", self.started));
        self.started
    }

    fn mark(&self, class: usize) -> u64 {
        self.watermark.marks[deadline_class(DEADLINES_MS[class])]
    }
}

/// What a log says up to a record: sagas by class that began and have not ended, and the exceptions among them.
fn read(world: &World, as_of_lsn: u64) -> ([u64; WATERMARK_CLASSES], Vec<u64>) {
    let (mut running, mut exceptions, mut next_sequence) = (Vec::new(), Vec::new(), 1);
    let records = world.log.iter().filter(|record| record.lsn <= as_of_lsn);
    for record in records.filter(|record| record.kind == RecordKind::Transactions) {
        for message in transactions(record).into_iter().flatten() {
            let sequence = message.header.saga.sequence.get();
            match message.kind() {
                Kind::Start => {
                    let plans = &world.broker.state().plans;
                    let plan = plans.get(plans.find(message.header.plan.get()).unwrap());
                    running.push((sequence, plan.plan.deadline_class()));
                    next_sequence = sequence + 1;
                }
                Kind::Stuck => exceptions.push(sequence),
                Kind::Result => running.retain(|&(other, _)| other != sequence),
                _ => {}
            }
        }
    }
    exceptions.retain(|&excepted| running.iter().any(|&(sequence, _)| sequence == excepted));
    exceptions.sort_unstable();
    let mut marks = [next_sequence; WATERMARK_CLASSES];
    for (sequence, class) in running {
        if !exceptions.contains(&sequence) {
            marks[class] = marks[class].min(sequence);
        }
    }
    (marks, exceptions)
}

#[test]
fn a_service_is_told_at_once_and_then_what_has_durably_ended() {
    let mut told = Told::new(WatermarkBounds::default());
    assert_eq!((told.mark(0), told.mark(1)), (1, 1), "told with the welcome");
    assert_eq!((told.start(0), told.start(1), told.start(0)), (None, None, None));
    told.pass(HEARTBEAT_MS);
    assert_eq!((told.mark(0), told.mark(1), told.watermark.marks[20]), (1, 2, 4));
    told.end(1);
    told.pass(HEARTBEAT_MS);
    assert_eq!((told.mark(0), told.mark(1)), (3, 2));
    cancel(&mut told.world, "k2");
    let undo = told.undos().remove(0);
    told.world.syncs = false;
    told.undo(&undo);
    told.pass(5 * HEARTBEAT_MS);
    assert_eq!(told.world.broker.state().sagas.len(), 1);
    assert_eq!((told.mark(0), told.mark(1)), (3, 2), "the end is not durable yet");
    told.world.syncs = true;
    told.end(3);
    told.pass(2 * HEARTBEAT_MS);
    assert_eq!((told.mark(0), told.mark(1)), (4, 4));
}

#[test]
fn another_log_has_another_name() {
    let mut told = Told::new(WatermarkBounds::default());
    let log = told.watermark.log;
    told.world.restart(told.world.log.len());
    told.connect();
    assert_eq!(told.watermark.log, log, "the same log");
    let secret = sagacore_broker::Config { secret: [9; 16], ..Default::default() };
    assert_ne!(sagacore_broker::Broker::new(secret).state().log_id(), log);
}

#[test]
fn a_stuck_saga_holds_nothing_back_and_a_restart_takes_nothing_back() {
    let mut told = Told::new(WatermarkBounds::default());
    told.stick(0);
    let undo = told.undos().remove(0);
    assert_eq!((told.start(0), told.mark(0)), (None, 1));
    told.pass(6_000);
    assert_eq!(status(&mut told.world, "k1"), StatusCode::Stuck);
    assert_eq!((told.mark(0), told.watermark.exceptions.clone()), (2, vec![1]));
    // What is copied forward keeps it too.
    told.world.broker.log_has(&[0; 100], 1 << 20);
    told.pass(HEARTBEAT_MS);
    assert!(told.world.log.last().unwrap().kind == RecordKind::Copies);
    let origin = told.world.log.len() - 1;
    for restart in [origin, told.world.log.len()] {
        told.world.restart(restart);
        told.connect();
        assert_eq!((told.mark(0), told.watermark.exceptions.clone()), (2, vec![1]));
    }
    told.undo(&undo);
    told.pass(2 * HEARTBEAT_MS);
    assert_eq!((told.mark(0), told.watermark.exceptions.len()), (2, 0), "it has ended");
}

#[test]
fn where_too_many_are_stuck_no_saga_of_the_class_begins() {
    let mut told = Told::new(WatermarkBounds { exceptions: 2, ..WatermarkBounds::default() });
    for _ in 0..3 {
        told.stick(0);
    }
    let undos = told.undos();
    told.pass(6_000);
    assert_eq!((told.mark(0), told.watermark.exceptions.clone()), (3, vec![1, 2]));
    assert_eq!((told.start(0), told.start(1)), (Some(Refusal::ClassFull), None), "the other class has no such trouble");
    told.undo(&undos[0]);
    told.pass(2 * HEARTBEAT_MS);
    assert_eq!((told.mark(0), told.watermark.exceptions.clone()), (5, vec![2, 3]));
    assert_eq!(told.start(0), None);
}

#[test]
fn where_too_many_began_since_the_oldest_no_saga_of_the_class_begins() {
    let mut told = Told::new(WatermarkBounds { span: 3, ..WatermarkBounds::default() });
    assert!((0..3).all(|_| told.start(0).is_none()));
    told.end(2);
    assert_eq!((told.start(0), told.start(1)), (Some(Refusal::ClassFull), None));
    told.world.restart(told.world.log.len());
    told.connect();
    assert_eq!(told.start(0), None, "after a restart those that ended count no more");
    told.end(1);
    assert_eq!(told.start(0), None);
}

#[test]
fn a_saga_that_runs_is_not_passed() {
    let mut told = Told::new(WatermarkBounds::default());
    assert_eq!(told.start(0), None);
    assert_eq!(told.start(0), None);
    told.end(2);
    told.pass(5 * HEARTBEAT_MS);
    assert_eq!(told.mark(0), 1);
}

#[derive(Debug, Clone)]
enum Op {
    Start(usize),
    End(u64),
    Stick(usize),
    Pass(u64),
    Sync(bool),
    /// So many of the records that are not durable are lost.
    Restart(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..2_usize).prop_map(Op::Start),
        6 => (1..40_u64).prop_map(Op::End),
        1 => (0..2_usize).prop_map(Op::Stick),
        4 => prop_oneof![Just(50_u64), Just(250), Just(6_000)].prop_map(Op::Pass),
        2 => any::<bool>().prop_map(Op::Sync),
        1 => (0..4_usize).prop_map(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Each watermark is compared with the log, as of its record, when it is told.
    #[test]
    fn what_is_told_is_what_the_log_says(ops in prop::collection::vec(op(), 1..60)) {
        let mut told = Told::new(WatermarkBounds { span: 16, exceptions: 3 });
        for op in ops {
            match op {
                Op::Start(class) => _ = told.start(class),
                Op::End(key) => told.end(key),
                Op::Stick(class) => {
                    if told.start(class).is_none() {
                        let key = format!("k{}", told.started);
                        cancel(&mut told.world, &key);
                        told.undos();
                    }
                }
                Op::Pass(ms) => told.pass(ms),
                Op::Sync(syncs) => told.world.syncs = syncs,
                Op::Restart(lost) => {
                    let durable = told.world.broker.durable_lsn() as usize;
                    told.world.restart(durable.max(told.world.log.len().saturating_sub(lost)));
                    told.connect();
                }
            }
            told.hear();
        }
        // In the end everything ends, and nothing is held back.
        told.world.syncs = true;
        told.world.restart(told.world.log.len());
        told.connect();
        for key in 1..=told.started {
            told.end(key);
        }
        told.pass(3 * HEARTBEAT_MS);
        let marks = [told.world.broker.state().next_sequence; WATERMARK_CLASSES];
        prop_assert_eq!((told.watermark.marks, told.watermark.exceptions.len()), (marks, 0));
    }
}
