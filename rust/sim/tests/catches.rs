//! The checks can fail: each rule that is broken on purpose is noticed, within so many seeds.

use sagacore_sim::{Mutation, Options, run};

/// Seeds that a broken rule may survive at most.
const SEEDS_MAX: u64 = 400;

fn caught(mutation: Mutation, invariants: &[&str]) {
    for seed in 0..SEEDS_MAX {
        let report = run(Options { mutation: Some(mutation), ..Options::of(seed) }, false);
        if let Some(violation) = report.violations.first() {
            let text = &violation.text;
            assert!(invariants.contains(&violation.invariant), "seed {seed}: {} {text}", violation.invariant);
            return;
        }
    }
    panic!("{mutation:?} survives {SEEDS_MAX} seeds");
}

macro_rules! catches {
    ($($test:ident: $mutation:ident => $invariants:expr;)+) => {
        $(#[test]
        fn $test() {
            caught(Mutation::$mutation, &$invariants);
        })+

        #[test]
        fn every_mutation_has_its_test() {
            assert_eq!(Mutation::ALL, [$(Mutation::$mutation),+]);
        }
    };
}

catches! {
    a_fence_that_forgets: NoFence => ["I3", "I4", "I5", "I7"];
    an_undo_without_tombstone: NoTombstone => ["I3", "I5"];
    a_rejection_that_is_not_stored: RejectionNotStored => ["I3", "I7"];
    a_failure_that_is_not_stored: GivenUpNotStored => ["I3", "I7"];
    a_rejection_beside_another_try: CleanBesideOthers => ["I3", "I7"];
    a_result_that_is_made_anew: ResultNotFromRow => ["rule 3"];
    an_idempotency_key_of_the_delivery: KeyOfDelivery => ["I3", "I4", "I5", "I7"];
    a_compensation_that_does_nothing: UndoSkipped => ["I3", "I7"];
    a_compensation_that_is_repeated: UndoRepeated => ["I4"];
    what_is_visible_before_it_is_durable: VisibleBeforeDurable => ["I8", "I9"];
    a_disk_that_skips_syncs: SyncSkipped => ["I9", "I17"];
    a_disk_that_skips_names: DirectoryNotSynced => ["I9", "I17"];
    a_record_that_is_not_replayed: RecordSkipped => ["I17", "I2", "I9"];
    copies_that_are_not_there: CopiesLost => ["I17", "I2", "I9"];
    an_arrival_that_a_coordinator_loses: ArrivalLost => ["I18"];
    an_answer_that_an_outbox_loses: OutboxForgets => ["I18"];
    a_coordinator_that_forges: DoneForged => ["I18", "I20"];
    an_outcome_that_is_turned: OutcomeTurned => ["I8"];
}
