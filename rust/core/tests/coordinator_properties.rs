//! Coordinators with tiny tables against a model broker: whatever is lost, doubled, spilled or restarted, every saga
//! reaches exactly one outcome, and every message on the way is the one that the plan asks for.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

#[path = "support/coordinators.rs"]
mod coordinators;
#[path = "support/model_broker.rs"]
mod model_broker;
mod support;

use coordinators::{Faults, Scenario, World};
use proptest::prelude::*;
use sagacore_core::wire::{Kind, OutcomeCode};
use support::{COMPENSABLE, PIVOT, SagaModel, members};

/// Up to nine steps, each after any of those before it.
fn any_graph() -> impl Strategy<Value = SagaModel> {
    let rows = prop::collection::vec((any::<u16>(), any::<u16>(), any::<u16>()), 1..10);
    (rows, 0..2u64, 0..10usize).prop_map(|(rows, undo, pivot)| {
        let mut saga =
            SagaModel::graph(rows.len() as u64, |step| members(u64::from(rows[step as usize].0) % (1 << step)));
        saga.undo = undo;
        for (step, &(_, reads, undo_before)) in rows.iter().enumerate() {
            let ancestors = saga.compile().unwrap().steps[step].ancestors;
            saga.steps[step].reads = members(u64::from(reads) & ancestors);
            saga.steps[step].undo_before =
                members(u64::from(undo_before) & u64::from(rows[step].0) & ((1 << step) - 1));
        }
        with_pivot(saga, pivot)
    })
}

/// Layers in which each step waits for all of the layer before: several joins to a block, and several blocks.
fn layers() -> impl Strategy<Value = SagaModel> {
    (prop::collection::vec(1..9u64, 1..5), 0..2u64, 0..10usize).prop_map(|(widths, undo, pivot)| {
        let mut saga = SagaModel::new("layers");
        let mut above = Vec::new();
        for width in widths {
            above = (0..width).map(|_| saga.step(&format!("s{}", saga.steps.len()), &above)).collect();
        }
        for step in &mut saga.steps {
            step.reads = step.after.clone();
        }
        saga.undo = undo;
        with_pivot(saga, pivot)
    })
}

/// The saga with that step as its pivot, if it may be one.
fn with_pivot(saga: SagaModel, pivot: usize) -> SagaModel {
    let mut with_pivot = saga.clone();
    if let Some(step) = with_pivot.steps.get_mut(pivot) {
        step.flags = PIVOT | COMPENSABLE;
    }
    if with_pivot.compile().is_ok() { with_pivot } else { saga }
}

fn faults() -> impl Strategy<Value = Faults> {
    let some = |most| prop_oneof![Just(0), 1..most];
    (some(60u64), some(500), some(80), some(300), some(6), some(6), some(40)).prop_map(
        |(abort, wide, lapse, double, restart, reconnect, deal)| Faults {
            abort,
            wide,
            lapse,
            double,
            restart,
            reconnect,
            deal,
        },
    )
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let saga = prop_oneof![any_graph(), layers()];
    (saga, 1..120usize, 1..3usize, 1..60u64, 0..12u16, faults(), any::<u64>()).prop_map(
        |(saga, sagas, coordinators, credit, lazy, faults, seed)| Scenario {
            saga,
            sagas,
            coordinators,
            credit,
            lazy,

            faults,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_saga_reaches_exactly_one_outcome(scenario in scenario(), turns in 0..6_000usize) {
        World::new(&scenario).finish(turns);
    }

    /// When nothing fails, a saga takes the messages that its plan says, however small the table.
    #[test]
    fn messages_per_saga_are_the_plans(
        saga in prop_oneof![any_graph(), layers()],
        sagas in 1..60usize,
        seed in any::<u64>(),
    ) {
        let faults = Faults::default();
        let scenario = Scenario { saga, sagas, coordinators: 1, credit: 1000, lazy: 2, faults, seed };
        let world = World::new(&scenario).finish(1_000);
        let tokens = |kind: &u8| [Kind::Run.code(), Kind::Done.code()].contains(kind);
        for saga in &world.broker.sagas {
            prop_assert_eq!(saga.outcome, Some(OutcomeCode::Completed));
            let messages = saga.published.iter().filter(|(kind, _)| tokens(kind)).count();
            prop_assert_eq!(messages, world.broker.plan.messages);
        }
    }
}
