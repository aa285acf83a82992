//! The log over a disk that crashes: what was promised is there afterwards, in order, and nothing else is.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use proptest::prelude::*;
use sagacore_broker::log::{Durability, LogError};
use support::{Model, Step, config};

const SEGMENT_BYTES: u64 = 16 << 10;

/// How a life ends.
#[derive(Clone, Debug)]
enum End {
    /// The power is cut once so many calls have changed the disk, or when the steps are done.
    PowerCut {
        after: Option<u64>,
        seed: u64,
    },
    Kill,
    Stop,
}

#[derive(Clone, Debug)]
struct Life {
    steps: Vec<Step>,
    end: End,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..1500).prop_map(|bytes| Step::Append { bytes }),
        1 => (3000usize..13_000).prop_map(|bytes| Step::Append { bytes }),
        1 => (0usize..900).prop_map(|bytes| Step::Copy { bytes }),
        4 => Just(Step::Commit),
        1 => Just(Step::Mark),
        1 => Just(Step::Prepare),
        1 => (0u64..=100).prop_map(|percent| Step::Release { percent }),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let end = prop_oneof![
        5 => (proptest::option::weighted(0.8, 0u64..60), any::<u64>())
            .prop_map(|(after, seed)| End::PowerCut { after, seed }),
        1 => Just(End::Kill),
        1 => Just(End::Stop),
    ];
    (proptest::collection::vec(step(), 0..50), end).prop_map(|(steps, end)| Life { steps, end })
}

/// Lives one life. Errors are only those of the cut power: anything else fails the test.
fn live(model: &mut Model, life: &Life) {
    if let End::PowerCut { after, .. } = life.end {
        model.disk.set_fuse(after);
    }
    let lived = model.start().and_then(|()| life.steps.iter().try_for_each(|step| model.run(step)));
    let lived = match (lived, &life.end) {
        (Ok(()), End::Stop) => model.seal(),
        (lived, _) => lived,
    };
    match (&life.end, lived) {
        (_, Ok(())) => {}
        (End::PowerCut { .. }, Err(LogError::Disk { .. })) => {}
        (end, Err(error)) => panic!("{error} in a life that ends with {end:?}"),
    }
    match life.end {
        End::PowerCut { seed, .. } => model.crash(seed),
        End::Kill | End::Stop => model.kill(),
    }
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn what_was_durable_is_recovered_through_any_crashes(
        seed: u64,
        lives in proptest::collection::vec(life(), 1..6),
    ) {
        let mut model = Model::new(config(SEGMENT_BYTES), seed);
        for life in &lives {
            live(&mut model, life);
        }
        model.start().unwrap();
    }

    #[test]
    fn written_only_loses_no_more_than_its_end(seed: u64, lives in proptest::collection::vec(life(), 1..5)) {
        let mut settings = config(SEGMENT_BYTES);
        settings.durability = Durability::Os;
        let mut model = Model::new(settings, seed);
        for life in &lives {
            live(&mut model, life);
        }
        model.start().unwrap();
    }

    #[test]
    fn written_only_survives_killed_processes(seed: u64, lives in proptest::collection::vec(life(), 1..5)) {
        let mut settings = config(SEGMENT_BYTES);
        settings.durability = Durability::Os;
        let mut model = Model::new(settings, seed);
        for mut life in lives {
            if matches!(life.end, End::PowerCut { .. }) {
                life.end = End::Kill;
            }
            live(&mut model, &life);
        }
        model.start().unwrap();
    }
}

/// The power is cut at every call of a run that rotates, releases and recycles, with several outcomes each.
#[test]
fn every_moment_of_a_cut_is_survived() {
    let mut steps = Vec::new();
    for turn in 0..12 {
        steps.extend([Step::Append { bytes: 2_900 }, Step::Append { bytes: 700 }, Step::Commit]);
        match turn % 4 {
            1 => steps.push(Step::Prepare),
            2 => steps.push(Step::Mark),
            3 => steps.extend([Step::Copy { bytes: 300 }, Step::Release { percent: 90 }]),
            _ => {}
        }
    }
    let mut whole = Model::new(config(SEGMENT_BYTES), 7);
    let uncut = Life { steps: steps.clone(), end: End::Stop };
    live(&mut whole, &uncut);
    let calls = whole.disk.calls();
    assert!(calls > 60, "a run of {calls} calls tests little");
    for after in 0..calls {
        for seed in 0..8 {
            let mut model = Model::new(config(SEGMENT_BYTES), 7);
            let cut = Life { steps: steps.clone(), end: End::PowerCut { after: Some(after), seed } };
            live(&mut model, &cut);
            // The recovery is cut as well, at some call.
            let again = Life { steps: Vec::new(), end: End::PowerCut { after: Some((after * 7 + seed) % 12), seed } };
            live(&mut model, &again);
            live(&mut model, &uncut);
            model.start().unwrap();
        }
    }
}
