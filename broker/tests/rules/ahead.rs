//! Relaxed visibility: what may run ahead of the log, what waits, and what an abort undoes after something was lost.

use sagacore_broker::Visibility;
use sagacore_core::wire::{Flags, Header, Kind, Section};

use crate::peers::{Got, World, next};
use crate::sagas::{SagaModel, shop};
use crate::{begin, cancel, join_all, pass_on, undo_set};

/// A shop of relaxed visibility: client, coordinator and services have joined.
fn relaxed() -> (World, u64) {
    let mut world = World::with(Visibility::Relaxed);
    join_all(&mut world, &shop());
    let plan = world.define(&shop());
    world.take("client");
    (world, plan)
}

fn undo(of: &Got, step: u16, left: u64) -> Header {
    let mut undo = next(of, Kind::Undo, step, of.header.undo.get().max(of.header.done.get()), 0);
    undo.undo = left.into();
    undo.set(Flags::SPLICE);
    undo
}

#[test]
fn steps_run_ahead_and_start_and_pivot_wait() {
    let (mut world, plan) = relaxed();
    world.syncs = false;
    begin(&mut world, plan, "k");
    assert!(world.tokens("create").is_empty(), "a lost START would leave effects of no saga");
    world.syncs = true;
    world.settle();
    world.syncs = false;
    pass_on(&mut world, 0, "create");
    pass_on(&mut world, 1, "charge");
    pass_on(&mut world, 2, "reserve");
    assert!(world.tokens("schedule").is_empty(), "after the pivot nothing is undone");
    world.syncs = true;
    world.token("schedule", Kind::Run);
}

#[test]
fn first_undos_of_a_coordinator_wait_and_later_ones_run_ahead() {
    let mut saga = SagaModel::new("two ways");
    for (name, after) in [("create", vec![]), ("charge", vec![0]), ("wrap", vec![]), ("pack", vec![1, 2])] {
        saga.step(name, &after);
    }
    saga.steps[1].reads = vec![0];
    let mut world = World::with(Visibility::Relaxed);
    join_all(&mut world, &saga);
    let plan = world.define(&saga);
    begin(&mut world, plan, "k");
    pass_on(&mut world, 0, "create");
    world.take("charge");
    world.take("wrap");
    world.syncs = false;
    cancel(&mut world, "k");
    let revoked = world.token("coordinator", Kind::Revoked);
    assert_eq!(revoked.header.undo.get(), 0b111);
    let undos = [1, 2].map(|step| (undo(&revoked, step, 0b111), vec![]));
    world.say("coordinator", &[revoked.key()], &undos);
    assert!(world.tokens("charge").is_empty() && world.tokens("wrap").is_empty(), "the abort may be lost");
    world.syncs = true;
    let first = world.token("charge", Kind::Undo);
    world.token("wrap", Kind::Undo);
    world.syncs = false;
    world.say("charge", &[first.key()], &[(undo(&first, 0, 0b101), vec![])]);
    world.token("create", Kind::Undo);
}

#[test]
fn what_an_operator_decided_waits() {
    let (mut world, plan) = relaxed();
    begin(&mut world, plan, "k");
    pass_on(&mut world, 0, "create");
    world.take("charge");
    cancel(&mut world, "k");
    let undo = world.token("charge", Kind::Undo);
    world.syncs = false;
    let mut skip = Header::new(Kind::Resolve);
    skip.saga = undo.header.saga;
    skip.active = 2.into();
    skip.place = 1.into();
    world.say("client", &[], &[(skip, vec![(Section::TEXT, b"by hand".to_vec())])]);
    assert!(world.tokens("create").is_empty(), "were the skip lost, charge would be undone after create");
    world.syncs = true;
    world.token("create", Kind::Undo);
}

/// The set that is undone once a saga is cancelled, as all services are told that are asked first.
fn undone_when_cancelled(world: &mut World, key: &str) -> u64 {
    let names = ["create", "charge", "reserve", "schedule"];
    for name in names {
        world.take(name);
    }
    cancel(world, key);
    let undos = names.into_iter().flat_map(|name| world.tokens(name));
    let sets: Vec<u64> = undos.filter(|got| got.kind() == Kind::Undo).map(|got| undo_set(&got)).collect();
    assert!(sets.iter().all(|set| *set == sets[0]), "{sets:?}");
    sets[0]
}

#[test]
fn an_abort_undoes_the_whole_plan_where_something_may_be_lost() {
    for (unclean, undone) in [(true, 0b111), (false, 0b1)] {
        let (mut world, plan) = relaxed();
        begin(&mut world, plan, "k");
        world.start_again(unclean);
        // Once more: a saga stays as wide as it was.
        world.start_again(false);
        join_all(&mut world, &shop());
        assert_eq!(undone_when_cancelled(&mut world, "k"), undone, "unclean: {unclean}");
    }
}

#[test]
fn a_strict_boot_after_a_relaxed_one_knows_what_may_be_lost() {
    let (mut world, plan) = relaxed();
    begin(&mut world, plan, "k");
    world.config.visibility = Visibility::Strict;
    world.start_again(true);
    world.start_again(true);
    join_all(&mut world, &shop());
    begin(&mut world, plan, "other");
    world.start_again(true);
    join_all(&mut world, &shop());
    for (key, undone) in [("k", 0b111), ("other", 0b1)] {
        assert_eq!(undone_when_cancelled(&mut world, key), undone, "{key}");
    }
}
