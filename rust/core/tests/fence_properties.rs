//! The outcome register under any interleaving of deliveries, ends and crashes, and rows in memory against a map.
//!
//! One (saga, attempt, step) at one process that may crash at any moment; its row survives, what ran does not. The
//! world outside is a ledger for a transactional action, whose effect and row are one write, and a gateway that knows
//! idempotency keys for an external one.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sagacore_core::fence::{
    Admission, Doing, Event, FenceKey, MemoryRows, OnRun, OnUndo, RowState, on_arrival, on_event, on_run, on_undo,
};
use sagacore_core::watermark::Watermark;
use sagacore_core::wire::SagaId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    DeliverRun,
    DeliverUndo,
    /// The effect of what runs takes place outside; only where the action is external.
    TakeEffect,
    /// What runs ends: the action succeeds, is rejected or fails; a compensation succeeds or fails.
    Succeed,
    Reject,
    Fail,
    /// The process dies: what ran is gone, and what waited for it.
    Crash,
}

#[derive(Debug, Clone, Copy)]
struct Doer {
    doing: Doing,
    /// Something was tried before: a rejection is not clean.
    was_tried: bool,
    /// The compensation got the result.
    has_result: bool,
    took_effect: bool,
}

#[derive(Debug, Default)]
struct World {
    is_external: bool,
    row: u8,
    running: Option<Doer>,
    undo_waits: bool,
    /// Outside: effects taken, effects undone, and whether the gateway was told to cancel the key.
    effects: u32,
    undone: u32,
    cancelled: bool,
    /// What was answered to the broker.
    answers: Vec<Answer>,
    undo_answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    RejectedCleanly,
    Uncertain,
    Undone,
}

impl World {
    fn row(&self) -> RowState {
        RowState::from_code(self.row).unwrap()
    }

    fn event(&mut self, event: Event) {
        self.row = on_event(self.row(), event).code();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::DeliverRun => self.deliver(Doing::Action),
            Op::DeliverUndo => self.deliver(Doing::Compensation),
            Op::TakeEffect => self.take_effect(),
            Op::Succeed | Op::Reject | Op::Fail => self.end(op),
            Op::Crash => {
                self.running = None;
                self.undo_waits = false;
            }
        }
    }

    fn deliver(&mut self, asked: Doing) {
        match on_arrival(self.running.map(|doer| doer.doing), asked) {
            Admission::Ignore => {}
            Admission::Wait => self.undo_waits = true,
            Admission::Begin if asked == Doing::Action => self.begin_action(),
            Admission::Begin => self.begin_compensation(),
        }
    }

    fn begin_action(&mut self) {
        match on_run(self.row()) {
            decision @ (OnRun::Call | OnRun::CallAgain) => {
                let was_tried = decision == OnRun::CallAgain;
                if self.is_external {
                    self.event(Event::Tried);
                }
                let doer = Doer { doing: Doing::Action, was_tried, has_result: false, took_effect: false };
                self.running = Some(doer);
            }
            OnRun::AnswerDone => self.answers.push(Answer::Done),
            OnRun::AnswerRejected => self.answers.push(Answer::RejectedCleanly),
            OnRun::Drop => {}
        }
    }

    fn begin_compensation(&mut self) {
        let decision = on_undo(self.row());
        self.event(Event::UndoBegun);
        match decision {
            OnUndo::LeaveTombstone | OnUndo::AnswerUndone => self.answer_undone(),
            OnUndo::Compensate | OnUndo::CompensateUncertain => {
                let has_result = decision == OnUndo::Compensate;
                let doing = Doing::Compensation;
                self.running = Some(Doer { doing, was_tried: false, has_result, took_effect: false });
            }
        }
    }

    /// The gateway takes an effect once for a key, and never after the key was cancelled.
    fn take_effect(&mut self) {
        let is_external = self.is_external;
        let Some(doer) = &mut self.running else { return };
        if !is_external || doer.took_effect {
            return;
        }
        doer.took_effect = true;
        match doer.doing {
            Doing::Action => {
                assert!(!self.cancelled, "I5: the action was called after its compensation");
                self.effects = 1;
            }
            Doing::Compensation => {
                assert!(self.effects == 1 || !doer.has_result, "I5: an undo with a result before its do");
                self.cancelled = true;
                self.undone = self.effects;
            }
        }
    }

    fn end(&mut self, op: Op) {
        if op == Op::Succeed {
            self.take_effect();
        }
        let Some(doer) = self.running.take() else { return };
        match (doer.doing, op) {
            (Doing::Action, Op::Succeed) => {
                if !self.is_external {
                    assert!(!self.undo_answered, "I5: an effect after a tombstone");
                    self.effects += 1;
                }
                self.event(Event::Succeeded);
                assert_eq!(self.row(), RowState::Done);
                self.answers.push(Answer::Done);
            }
            (Doing::Action, Op::Reject) if !doer.was_tried && !doer.took_effect => {
                self.event(Event::RejectedCleanly);
                self.answers.push(Answer::RejectedCleanly);
            }
            (Doing::Action, _) => self.answers.push(Answer::Uncertain),
            (Doing::Compensation, Op::Succeed) => {
                if !self.is_external {
                    assert!(doer.has_result, "a transactional action leaves no intent");
                    self.undone += 1;
                }
                self.event(Event::Compensated);
                assert_eq!(self.row(), RowState::Undone);
                self.answer_undone();
            }
            (Doing::Compensation, _) => {}
        }
        if std::mem::take(&mut self.undo_waits) {
            self.begin_compensation();
        }
    }

    fn answer_undone(&mut self) {
        self.undo_answered = true;
        self.answers.push(Answer::Undone);
        assert_eq!(self.effects, self.undone, "I3: undone, but an effect is there");
    }

    fn check(&self) {
        assert!(self.effects <= 1, "I4: the effect took place twice");
        assert!(self.undone <= self.effects, "I4: undone more often than done");
        if self.undo_answered {
            assert_eq!(self.effects, self.undone, "I5: an effect after its undo was answered");
        }
        let first = self.answers.iter().find(|answer| matches!(answer, Answer::Done | Answer::RejectedCleanly));
        let other = match first {
            Some(Answer::Done) => Answer::RejectedCleanly,
            _ => Answer::Done,
        };
        let differs = first.is_some() && self.answers.contains(&other);
        assert!(!differs, "a repetition was answered otherwise: {:?}", self.answers);
        if self.answers.contains(&Answer::RejectedCleanly) {
            assert_eq!(self.effects, 0, "a clean rejection had an effect");
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::DeliverRun),
        3 => Just(Op::DeliverUndo),
        2 => Just(Op::TakeEffect),
        3 => Just(Op::Succeed),
        1 => Just(Op::Reject),
        2 => Just(Op::Fail),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn effects_and_undos_happen_at_most_once_and_in_order(is_external in any::<bool>(), ops in ops()) {
        let mut world = World { is_external, ..World::default() };
        for op in ops {
            world.apply(op);
            world.check();
        }
        // Whatever happened, an undo that is delivered until it is answered leaves nothing behind.
        for op in [Op::Succeed, Op::DeliverUndo, Op::Succeed] {
            world.apply(op);
            world.check();
        }
        prop_assert!(world.undo_answered);
        prop_assert_eq!(world.effects, world.undone);
        world.apply(Op::DeliverRun);
        world.apply(Op::Succeed);
        world.check();
    }

    #[test]
    fn rows_in_memory_are_those_of_a_map(changes in prop::collection::vec(change(), 1..300)) {
        let mut rows = MemoryRows::new(1 << 20, 1 << 30);
        let mut model: BTreeMap<u64, Modelled> = BTreeMap::new();
        let mut told = Watermark { log: 1, ..Watermark::unknown() };
        for Change { number, event, answer, passes } in changes {
            if let Some((class, mark, exceptions)) = passes {
                told.as_of_lsn += 1;
                told.marks[class] = told.marks[class].max(mark);
                told.exceptions = exceptions;
                while rows.forget(&told, 3) == 3 {}
                model.retain(|&number, _| !told.has_passed(class_of(number), key(number).saga.sequence.get()));
            }
            prop_assert_eq!(rows.len(), model.len());
            let empty = Modelled { state: RowState::Empty, answer: Vec::new() };
            let row = model.remove(&number).unwrap_or(empty);
            prop_assert_eq!(rows.find(&key(number), class_of(number)), (row.state, row.answer.as_slice()));
            let state = on_event(row.state, event);
            prop_assert_eq!(rows.record(&key(number), class_of(number), event, &answer), state);
            if state != RowState::Empty {
                let answer = match state {
                    state if state == row.state => row.answer,
                    RowState::Done | RowState::Rejected => answer,
                    _ => Vec::new(),
                };
                model.insert(number, Modelled { state, answer });
            }
        }
        let all = Watermark { as_of_lsn: u64::MAX, marks: [u64::MAX; 21], exceptions: Vec::new(), ..told };
        rows.forget(&all, usize::MAX);
        prop_assert!(rows.is_empty());
    }
}

#[derive(Debug)]
struct Modelled {
    state: RowState,
    answer: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Change {
    number: u64,
    event: Event,
    answer: Vec<u8>,
    /// A watermark of this class is told before, with these exceptions.
    passes: Option<(usize, u64, Vec<u64>)>,
}

/// Rows of sagas that lie in several buckets.
fn key(number: u64) -> FenceKey {
    let saga = SagaId::new(1, number / 4 * 17, 7);
    FenceKey { saga, attempt: (number % 2) as u32, step: (number / 2 % 2) as u8 }
}

fn class_of(number: u64) -> usize {
    (number / 4 % 2) as usize
}

prop_compose! {
    fn passes()(class in 0_usize..2, mark in 0_u64..180, exceptions in prop::collection::btree_set(0_u64..10, 0..3))
        -> (usize, u64, Vec<u64>)
    {
        (class, mark, exceptions.into_iter().map(|number| number * 17).collect())
    }
}

prop_compose! {
    fn change()(
        number in 0_u64..40,
        event in prop_oneof![
            Just(Event::Tried), Just(Event::Succeeded), Just(Event::RejectedCleanly), Just(Event::UndoBegun),
            Just(Event::Compensated),
        ],
        answer in prop::collection::vec(any::<u8>(), 0..20),
        passes in prop::option::weighted(0.1, passes()),
    ) -> Change {
        Change { number, event, answer, passes }
    }
}
