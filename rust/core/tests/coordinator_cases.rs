//! A coordinator in situations that are told step by step, with a model broker.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

#[path = "support/coordinators.rs"]
mod coordinators;
#[path = "support/model_broker.rs"]
mod model_broker;
mod support;

use coordinators::{Faults, Scenario, World};
use sagacore_core::wire::{Header, Key, Kind, OutcomeCode, SagaId, Section, TransactionWriter, Transactions};
use support::SagaModel;

fn diamond() -> SagaModel {
    let mut saga = SagaModel::graph(4, |step| [vec![], vec![0], vec![0], vec![1, 2]][step as usize].clone());
    saga.steps[1].reads = vec![0];
    saga.steps[2].reads = vec![0];
    saga.steps[3].reads = vec![1, 2];
    saga
}

fn calm_scenario(saga: SagaModel, sagas: usize) -> Scenario {
    Scenario { saga, sagas, coordinators: 1, credit: 64, lazy: 2, faults: Faults::default(), seed: 1 }
}

/// Runs all sagas until nothing moves, while one step is not served.
fn hold(world: &mut World, held: Kind, step: u16) {
    let mut quiet = 0;
    while quiet < 50 {
        let mut moved = false;
        for saga in 0..world.broker.sagas.len() {
            for request in world.broker.requests(saga) {
                if request != (held.code(), step) {
                    world.broker.serve(saga, request);
                    moved = true;
                }
            }
        }
        while let Some(&token) = world.broker.deliverable(0).first() {
            world.broker.deliver(0, token, 1, false);
            moved = true;
        }
        while world.hear(0) {}
        while world.say(0) {}
        world.broker.answer(0);
        world.tick(0);
        world.broker.now_ms += 5;
        quiet = if moved { 0 } else { quiet + 1 };
    }
}

#[test]
fn a_thousand_half_joined_sagas_fit_into_sixteen_slots() {
    let mut world = World::new(&calm_scenario(diamond(), 1_000));
    let bytes = world.coordinators[0].table_bytes();
    (0..1_000).for_each(|_| world.broker.start(0));
    hold(&mut world, Kind::Run, 2);
    let stats = world.coordinators[0].stats();
    assert!(stats.slots_used <= 16 && world.broker.parked >= 984, "{stats:?}");
    assert_eq!(world.coordinators[0].table_bytes(), bytes);
    world.calm();
    assert!(world.broker.sagas.iter().all(|saga| saga.outcome == Some(OutcomeCode::Completed)));
}

#[test]
fn a_thousand_half_undone_sagas_fit_into_sixteen_slots() {
    let mut world = World::new(&calm_scenario(diamond(), 1_000));
    (0..1_000).for_each(|_| world.broker.start(0));
    hold(&mut world, Kind::Run, 3);
    (0..1_000).for_each(|saga| assert!(world.broker.abort(saga, Some((Kind::Run.code(), 3)), false)));
    hold(&mut world, Kind::Undo, 1);
    assert!(world.coordinators[0].stats().slots_used <= 16 && world.broker.parked >= 984);
    world.calm();
    assert!(world.broker.sagas.iter().all(|saga| saga.outcome == Some(OutcomeCode::Compensated)));
}

#[test]
fn while_too_many_spills_are_unanswered_no_credit_is_granted() {
    let mut world = World::new(&Scenario { credit: 400, ..calm_scenario(diamond(), 200) });
    (0..200).for_each(|_| world.broker.start(0));
    while world.hear(0) | world.say(0) {}
    let mut granted = Vec::new();
    for _ in 0..20 {
        let tokens: Vec<_> = world.broker.deliverable(0).into_iter().take(20).collect();
        tokens.into_iter().for_each(|token| world.broker.deliver(0, token, 1, false));
        while world.hear(0) | world.say(0) {}
        for saga in 0..200 {
            let requests = world.broker.requests(saga);
            let willing = requests.into_iter().filter(|&(_, step)| step != 2);
            willing.for_each(|request| world.broker.serve(saga, request));
        }
        world.tick(0);
        granted.push(world.broker.sessions[0].credit - 400);
    }
    let stats = world.coordinators[0].stats();
    let delivered = world.broker.sessions[0].delivered;
    assert_eq!((delivered, stats.slots_used, stats.slots_pinned), (400, 16, 4));
    assert_eq!(stats.given_back, 200 - 16);
    assert!((40..100).contains(&granted[10]), "the first were granted: {granted:?}");
    assert_eq!(granted[10..], [granted[10]; 10], "the others were not");
    world.broker.answer(0);
    while world.hear(0) | world.say(0) {}
    assert_eq!(world.broker.sessions[0].credit, 400 + 400);
    assert_eq!(world.coordinators[0].stats().slots_pinned, 0);
    world.calm();
}

#[test]
fn a_chain_never_touches_the_table() {
    let saga = SagaModel::graph(4, |step| (0..step).rev().take(1).collect());
    let world = World::new(&calm_scenario(saga, 50)).finish(2_000);
    let stats = world.coordinators[0].stats();
    assert_eq!((stats.lookups, stats.inserts, stats.deliveries, stats.transactions), (0, 0, 100, 100));
    assert_eq!(stats.entries().iter().find(|(name, _)| *name == "arrivals"), Some(&("arrivals", 50)));
}

#[test]
fn the_faults_are_met() {
    let faults = Faults { abort: 20, wide: 300, lapse: 40, double: 100, restart: 2, reconnect: 2, deal: 20 };
    let (mut spilled, mut given_back, mut stale) = (0, 0, 0);
    for seed in 0..20 {
        let scenario = Scenario { saga: diamond(), sagas: 120, coordinators: 2, credit: 40, lazy: 2, faults, seed };
        let world = World::new(&scenario).finish(6_000);
        spilled += world.spilled;
        given_back += world.given_back;
        stale += world.broker.stale;
    }
    assert!(spilled > 100 && stale > 100, "{spilled} spilled, {stale} stale");
    assert!(given_back > 100, "{given_back} found no room");
}

/// Serves this step of all sagas, and delivers and hears what follows, each message by itself. No SPILL is answered.
fn serve_all(world: &mut World, step: u16) {
    for saga in 0..world.broker.sagas.len() {
        let requests = world.broker.requests(saga);
        let of_step = requests.into_iter().filter(|&(_, place)| place == step);
        of_step.for_each(|request| world.broker.serve(saga, request));
    }
    deliver_all(world);
}

fn deliver_all(world: &mut World) {
    for token in world.broker.deliverable(0) {
        world.broker.deliver(0, token, 1, true);
    }
    while world.hear(0) | world.say(0) {}
}

/// Coordinators with this many sagas begun whose three first steps join at the end.
fn three_way(sagas: usize) -> World {
    let mut world = World::new(&calm_scenario(SagaModel::graph(3, |_| vec![]), sagas));
    while world.hear(0) | world.say(0) {}
    (0..sagas).for_each(|_| world.broker.start(0));
    deliver_all(&mut world);
    world
}

#[test]
fn an_arrival_takes_the_pin_off_its_slot() {
    let mut world = three_way(16);
    serve_all(&mut world, 0);
    let stats = world.coordinators[0].stats();
    assert_eq!((stats.slots_used, stats.slots_pinned, stats.evictions_dirty, stats.given_back), (16, 4, 4, 0));
    // CLOCK has begun with the first. The next arrivals of two come in one frame with the answer.
    for saga in 0..2 {
        world.broker.serve(saga, (Kind::Run.code(), 1));
    }
    for token in world.broker.deliverable(0) {
        world.broker.deliver(0, token, 1, true);
    }
    world.broker.answer(0);
    let frame: Vec<u8> = world.broker.sessions[0].inbox.drain(..).flatten().collect();
    world.coordinators[0].receive(&frame, 1).unwrap();
    let stats = world.coordinators[0].stats();
    assert_eq!((stats.hits, stats.evictions_dirty), (2, 6), "others were spilled instead");
    assert_eq!((stats.slots_used, stats.slots_pinned), (14, 2), "the answer concerns those two that did not change");
    for saga in 0..2 {
        world.broker.serve(saga, (Kind::Run.code(), 2));
        deliver_all(&mut world);
        assert_eq!(world.broker.sagas[saga].outcome, Some(OutcomeCode::Completed));
    }
    world.calm();
}

#[test]
fn a_refused_spill_drops_its_slot() {
    let mut world = three_way(12);
    serve_all(&mut world, 0);
    // One more arrival of each is pending and not delivered when a thirteenth slot is needed.
    for saga in 0..12 {
        world.broker.serve(saga, (Kind::Run.code(), 1));
    }
    world.broker.start(0);
    for _ in ["START", "DONE"] {
        let token = world.broker.deliverable(0).into_iter().find(|(saga, _)| *saga == 12).unwrap();
        world.broker.deliver(0, token, 1, true);
        while world.hear(0) | world.say(0) {}
        if world.broker.requests(12).contains(&(Kind::Run.code(), 0)) {
            world.broker.serve(12, (Kind::Run.code(), 0));
        }
    }
    assert_eq!(world.coordinators[0].stats().slots_pinned, 1);
    world.broker.answer(0);
    while world.hear(0) | world.say(0) {}
    let stats = world.coordinators[0].stats();
    assert_eq!((world.broker.parked, world.broker.stale, stats.refused, stats.spills_refused), (0, 1, 1, 1));
    assert_eq!((stats.slots_used, stats.slots_pinned), (12, 0));
    world.calm();
}

#[test]
fn a_new_session_begins_with_an_empty_table() {
    let mut world = three_way(8);
    serve_all(&mut world, 0);
    assert_eq!(world.coordinators[0].stats().slots_used, 8);
    world.broker.close(0);
    world.coordinators[0].connect(1);
    while world.hear(0) | world.say(0) {}
    assert_eq!(world.coordinators[0].stats().slots_used, 0);
    world.calm();
}

#[test]
fn an_aborted_attempt_leaves_no_slot_behind() {
    let mut world = three_way(8);
    serve_all(&mut world, 0);
    // Another arrival comes in the very frame of the REVOKED.
    for saga in 0..8 {
        world.broker.serve(saga, (Kind::Run.code(), 1));
    }
    for token in world.broker.deliverable(0) {
        world.broker.deliver(0, token, 1, true);
    }
    (0..8).for_each(|saga| assert!(world.broker.abort(saga, None, false)));
    for token in world.broker.deliverable(0) {
        world.broker.deliver(0, token, 1, true);
    }
    let frame: Vec<u8> = world.broker.sessions[0].inbox.drain(..).flatten().collect();
    world.coordinators[0].receive(&frame, 1).unwrap();
    assert_eq!(world.coordinators[0].stats().slots_used, 0);
    world.calm();
    assert!(world.broker.sagas.iter().all(|saga| saga.outcome == Some(OutcomeCode::Compensated)));
}

#[test]
fn what_has_an_unknown_plan_is_given_back() {
    let mut world = World::new(&calm_scenario(diamond(), 1));
    while world.hear(0) | world.say(0) {}
    let frame = |header: Header, body: &[u8]| {
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        transaction.publish_with(header, |writer| {
            writer.section(Section::DATA, body);
        });
        transaction.finish();
        frame
    };
    let mut start = Header::new(Kind::Start);
    (start.plan, start.saga) = (77.into(), SagaId::new(0, 5, 6));
    let mut define = Header::new(Kind::Define);
    define.plan = 77.into();
    let coordinator = &mut world.coordinators[0];
    coordinator.receive(&frame(start, b""), 1).unwrap();
    // Neither what is no definition nor another plan's is taken up under this fingerprint.
    coordinator.receive(&frame(define, b"nonsense"), 1).unwrap();
    coordinator.receive(&frame(define, &diamond().encode()), 1).unwrap();
    start.deliveries = 60.into();
    coordinator.receive(&frame(start, b""), 1).unwrap();
    let stats = coordinator.stats();
    assert_eq!((stats.given_back, stats.plans, stats.plans_refused, stats.transactions), (2, 0, 2, 0));
    let said = coordinator.frame(1).unwrap();
    let transactions = Transactions::parse(&said).unwrap().map(Result::unwrap).filter(|said| said.number != 0);
    let delays = transactions.map(|said| {
        let later = said.messages().next().unwrap().header;
        assert_eq!((later.kind(), said.consumes), (Kind::RetryLater, &[Key::of(&start)][..]));
        later.amount.get()
    });
    assert_eq!(delays.collect::<Vec<_>>(), [5, 320]);
    assert_eq!(coordinator.receive(b"short", 1).unwrap_err().name(), "transaction.truncated");
}
