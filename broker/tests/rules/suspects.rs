//! A message that kills whoever gets it takes nobody along to the limit of deliveries.

use sagacore_core::limits::{DELIVERIES_MAX, SUSPECT_AFTER};
use sagacore_core::wire::{Kind, Role};

use crate::peers::{Got, World, carried, next};
use crate::sagas::shop;
use crate::{EVERYBODY, begin, world};

/// A service that dies of one saga's RUN, and answers all other ones where it does not come.
struct Mortal {
    poison: u64,
    deaths: u32,
    answered: Vec<Got>,
}

impl Mortal {
    fn is_poison(&self, run: &Got) -> bool {
        run.kind() == Kind::Run && run.header.saga.sequence.get() == self.poison
    }

    /// Gives what it was delivered at once.
    fn serve(&mut self, world: &mut World) -> Vec<Got> {
        let got = world.tokens("create");
        if got.iter().any(|run| self.is_poison(run)) {
            self.deaths += 1;
            world.broker.lost(b"create", world.now_ms);
            world.subscribe("create", Role::Service, "create-service", 0);
            return got;
        }
        for run in got.iter().filter(|run| run.kind() == Kind::Run) {
            world.say("create", &[run.key()], &[(next(run, Kind::Run, 1, 1, 2), carried(run))]);
            self.answered.push(run.clone());
        }
        got
    }
}

/// Sagas of which one kills, served until that one is given up.
fn served(sagas: usize) -> (World, Mortal) {
    let mut definition = shop();
    definition.deadline_ms = 3_600_000;
    let (mut world, plan) = world(&definition);
    let ids: Vec<u64> =
        (0..sagas).map(|at| begin(&mut world, plan, &at.to_string()).header.saga.sequence.get()).collect();
    let mut mortal = Mortal { poison: ids[sagas / 2], deaths: 0, answered: Vec::new() };
    for _ in 0..10_000 {
        let got = mortal.serve(&mut world);
        if got.iter().any(|got| got.kind() == Kind::Undo) {
            return (world, mortal);
        }
        world.pass(20, &EVERYBODY);
    }
    panic!("it kills for ever");
}

#[test]
fn who_stands_beside_a_message_that_kills_is_found_innocent() {
    let (_, mortal) = served(40);
    assert_eq!(mortal.answered.len(), 39);
    assert!(mortal.answered.iter().all(|run| run.header.deliveries.get() <= u16::try_from(SUSPECT_AFTER).unwrap()));
    assert_eq!(mortal.deaths, DELIVERIES_MAX, "it had its own deliveries, and no more");
}

#[test]
fn a_server_has_one_suspect_at_a_time_and_the_next_when_it_has_answered() {
    let mut definition = shop();
    definition.deadline_ms = 3_600_000;
    let (mut world, plan) = world(&definition);
    for at in 0..5 {
        begin(&mut world, plan, &at.to_string());
    }
    for _ in 0..SUSPECT_AFTER {
        world.pass(1_000, &EVERYBODY);
        assert_eq!(world.tokens("create").len(), 5);
        world.broker.lost(b"create", world.now_ms);
        world.subscribe("create", Role::Service, "create-service", 0);
    }
    world.pass(1_000, &EVERYBODY);
    for at in 5..9 {
        begin(&mut world, plan, &at.to_string());
        let (suspects, new): (Vec<Got>, Vec<Got>) =
            world.tokens("create").into_iter().partition(|run| run.header.deliveries.get() > 0);
        assert_eq!((suspects.len(), new.len()), (1, 1), "what is new does not wait for suspects");
        for run in suspects.iter().chain(&new) {
            world.say("create", &[run.key()], &[(next(run, Kind::Run, 1, 1, 2), carried(run))]);
        }
        world.now_ms += 1;
    }
    assert_eq!(world.tokens("create").len(), 1);
    // Another server has one of its own.
    world.subscribe("create-2", Role::Service, "create-service", 0);
    assert!(world.tokens("create-2").is_empty(), "none is left");
}
