//! Arrivals of joins: a coordinator holds them until all are there, may drop them, and may go.

use sagacore_core::limits::{HEARTBEAT_MS, HEARTBEATS_MISSED_MAX};
use sagacore_core::wire::{Header, Key, Kind, Refusal, Role};

use crate::peers::{Got, World};
use crate::sagas::SagaModel;
use crate::{arrive, begin, refusal, world};

/// Steps side by side, and one that waits for them all.
fn join(names: &[&str]) -> SagaModel {
    let mut saga = SagaModel::new("join");
    let before: Vec<u64> = names.iter().map(|name| saga.step(name, &[])).collect();
    saga.step("last", &before);
    saga
}

#[test]
fn spilled_arrivals_come_again_with_the_next_one_and_races_are_stale() {
    let (mut world, plan) = world(&join(&["a", "b", "c"]));
    begin(&mut world, plan, "k");
    arrive(&mut world, "a", 0);
    let a = world.token("coordinator", Kind::Done);
    let spill = |world: &mut World, keys: &[Key]| {
        world.say("coordinator", keys, &[(Header::new(Kind::Spill), vec![])]);
    };
    spill(&mut world, &[a.key()]);
    assert_eq!(refusal(&mut world, "coordinator"), None);
    arrive(&mut world, "b", 1);
    let both: Vec<u16> = world.tokens("coordinator").iter().map(Got::place).collect();
    assert_eq!(both, [0, 1], "the spilled one comes again, before the new one");
    // It spills only one of the two: that is not all that is pending there.
    spill(&mut world, &[a.key()]);
    let told = world.take("coordinator");
    assert!(told.iter().any(|got| got.kind() == Kind::Refused && got.place() == Refusal::Stale.code()));
    assert!(told.iter().any(|got| got.kind() == Kind::Done && got.place() == 0), "and its lease was taken back");
}

/// Else a full table drops each before the other comes, and the sagas go round for ever.
#[test]
fn arrivals_of_one_join_come_together() {
    let (mut world, plan) = world(&join(&["a", "b"]));
    for key in ["k1", "k2", "k3"] {
        begin(&mut world, plan, key);
    }
    world.broker.lost(b"coordinator", world.now_ms);
    arrive(&mut world, "a", 0);
    arrive(&mut world, "b", 1);
    world.subscribe("coordinator", Role::Coordinator, "", 0);
    let came: Vec<u64> = world.tokens("coordinator").iter().map(|got| got.header.saga.sequence.get()).collect();
    assert_eq!(came, [1, 1, 2, 2, 3, 3]);
}

#[test]
fn slices_move_with_all_that_was_held() {
    let (mut world, plan) = world(&join(&["a", "b"]));
    for index in 0..8 {
        begin(&mut world, plan, &format!("k{index}"));
    }
    arrive(&mut world, "a", 0);
    assert_eq!(world.tokens("coordinator").len(), 8);
    world.subscribe("coordinator-2", Role::Coordinator, "", 0);
    let moved = world.tokens("coordinator-2");
    assert!(!moved.is_empty() && moved.len() < 8, "{}", moved.len());
    world.pass(HEARTBEAT_MS * (HEARTBEATS_MISSED_MAX + 2), &["client", "coordinator-2"]);
    assert_eq!(moved.len() + world.tokens("coordinator-2").len(), 8);
}
