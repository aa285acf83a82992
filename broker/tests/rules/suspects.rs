//! A message that kills whoever gets it takes nobody along to the limit of deliveries.

use sagacore_core::limits::{ALONE_AFTER, DELIVERIES_MAX, SUSPECT_AFTER, SUSPECTS_FIRST};
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
    let most = u16::try_from(ALONE_AFTER).unwrap();
    assert!(mortal.answered.iter().all(|run| run.header.deliveries.get() <= most));
    assert_eq!(mortal.deaths, DELIVERIES_MAX, "it had its own deliveries, and no more");
}

/// Sagas whose RUNs were delivered so often without an answer, and are due again.
fn unanswered(sagas: usize, times: u32) -> (World, u64) {
    let mut definition = shop();
    definition.deadline_ms = 3_600_000;
    let (mut world, plan) = world(&definition);
    for at in 0..sagas {
        begin(&mut world, plan, &at.to_string());
    }
    for _ in 0..times {
        let due = runs(&mut world, "create").len();
        assert_eq!(due, sagas);
        world.broker.lost(b"create", world.now_ms);
        world.pass(10_000, &EVERYBODY);
        world.subscribe("create", Role::Service, "create-service", 0);
    }
    (world, plan)
}

/// The RUNs that a server got.
fn runs(world: &mut World, name: &str) -> Vec<Got> {
    world.tokens(name).into_iter().filter(|got| got.kind() == Kind::Run).collect()
}

fn answer(world: &mut World, run: &Got) {
    world.say("create", &[run.key()], &[(next(run, Kind::Run, 1, 1, 2), carried(run))]);
}

#[test]
fn a_server_has_few_suspects_at_first_and_one_more_for_each_that_is_answered() {
    let sagas = 5 * SUSPECTS_FIRST;
    let (mut world, plan) = unanswered(sagas, SUSPECT_AFTER);
    let first = runs(&mut world, "create");
    assert_eq!(first.len(), SUSPECTS_FIRST);
    begin(&mut world, plan, "new");
    let [new] = runs(&mut world, "create").try_into().unwrap();
    assert_eq!(new.header.deliveries.get(), 0, "what is new does not wait for suspects");
    answer(&mut world, &first[0]);
    assert_eq!(runs(&mut world, "create").len(), 2, "the next one, and one more");
    for run in &first[1..] {
        answer(&mut world, run);
    }
    assert_eq!(runs(&mut world, "create").len(), 2 * (SUSPECTS_FIRST - 1));
    // Another server has some of its own.
    world.subscribe("create-2", Role::Service, "create-service", 0);
    assert_eq!(runs(&mut world, "create-2").len(), SUSPECTS_FIRST);
}

#[test]
fn a_server_that_dies_begins_anew() {
    let (mut world, _) = unanswered(4 * SUSPECTS_FIRST, SUSPECT_AFTER);
    for run in runs(&mut world, "create") {
        answer(&mut world, &run);
    }
    assert_eq!(runs(&mut world, "create").len(), 2 * SUSPECTS_FIRST);
    world.broker.lost(b"create", world.now_ms);
    world.subscribe("create", Role::Service, "create-service", 0);
    assert_eq!(runs(&mut world, "create").len(), SUSPECTS_FIRST);
}

#[test]
fn what_was_never_answered_is_delivered_alone() {
    let (mut world, _) = unanswered(SUSPECTS_FIRST, ALONE_AFTER - 1);
    let last = runs(&mut world, "create");
    assert_eq!(last.len(), SUSPECTS_FIRST);
    world.broker.lost(b"create", world.now_ms);
    world.pass(10_000, &EVERYBODY);
    world.subscribe("create", Role::Service, "create-service", 0);
    for _ in 0..SUSPECTS_FIRST {
        let [alone] = runs(&mut world, "create").try_into().unwrap();
        world.pass(1_000, &EVERYBODY);
        assert!(runs(&mut world, "create").is_empty());
        answer(&mut world, &alone);
    }
}
