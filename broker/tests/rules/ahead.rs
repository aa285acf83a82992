//! Relaxed visibility: what may run ahead of the log, what waits, and what an abort undoes after something was lost.

use sagacore_broker::Visibility;
use sagacore_core::wire::{Flags, Header, Kind, Section};

use crate::peers::{Got, World, next};
use crate::sagas::shop;
use crate::{begin, cancel, join_all, pass_on};

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

/// A saga whose second step runs is cancelled: gives its REVOKED. Nothing is synced any more.
fn cancelled(world: &mut World, plan: u64) -> Got {
    begin(world, plan, "k");
    pass_on(world, 0, "create");
    world.take("charge");
    world.syncs = false;
    cancel(world, "k");
    world.token("coordinator", Kind::Revoked)
}

#[test]
fn steps_run_ahead_and_start_and_pivot_wait() {
    let (mut world, plan) = relaxed();
    world.syncs = false;
    world.start(plan, "k", "tea", 7);
    assert!(world.tokens("coordinator").is_empty(), "a lost START would leave effects of no saga");
    world.syncs = true;
    let start = world.token("coordinator", Kind::Start);
    world.syncs = false;
    crate::run_root(&mut world, &start);
    pass_on(&mut world, 0, "create");
    pass_on(&mut world, 1, "charge");
    pass_on(&mut world, 2, "reserve");
    assert!(world.tokens("schedule").is_empty(), "after the pivot nothing is undone");
    world.syncs = true;
    world.token("schedule", Kind::Run);
}

#[test]
fn first_undos_wait_and_later_ones_run_ahead() {
    let (mut world, plan) = relaxed();
    let revoked = cancelled(&mut world, plan);
    assert_eq!(revoked.header.undo.get(), 0b11);
    world.say("coordinator", &[revoked.key()], &[(undo(&revoked, 1, 0b11), vec![])]);
    assert!(world.tokens("charge").is_empty(), "the abort may be lost");
    world.syncs = true;
    let first = world.token("charge", Kind::Undo);
    world.syncs = false;
    world.say("charge", &[first.key()], &[(undo(&first, 0, 0b01), vec![])]);
    world.token("create", Kind::Undo);
}

#[test]
fn what_an_operator_decided_waits() {
    let (mut world, plan) = relaxed();
    let revoked = cancelled(&mut world, plan);
    world.syncs = true;
    world.say("coordinator", &[revoked.key()], &[(undo(&revoked, 1, 0b11), vec![])]);
    world.token("charge", Kind::Undo);
    world.syncs = false;
    let mut skip = Header::new(Kind::Resolve);
    skip.saga = revoked.header.saga;
    skip.active = 2.into();
    skip.place = 1.into();
    world.say("client", &[], &[(skip, vec![(Section::TEXT, b"by hand".to_vec())])]);
    assert!(world.tokens("create").is_empty(), "were the skip lost, charge would be undone after create");
    world.syncs = true;
    world.token("create", Kind::Undo);
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
        cancel(&mut world, "k");
        let tokens = world.tokens("coordinator");
        let revoked = tokens.iter().find(|got| got.kind() == Kind::Revoked).unwrap();
        assert_eq!(revoked.header.undo.get(), undone, "unclean: {unclean}");
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
    world.start(plan, "other", "tea", 8);
    world.take("coordinator");
    world.start_again(true);
    join_all(&mut world, &shop());
    for (key, undone) in [("k", 0b111), ("other", 0)] {
        cancel(&mut world, key);
        let tokens = world.tokens("coordinator");
        let revoked = tokens.iter().find(|got| got.kind() == Kind::Revoked).unwrap();
        assert_eq!(revoked.header.undo.get(), undone, "{key}");
    }
}
