//! Steps that wait for what others hold, and sagas that wait for each other.

use sagacore_broker::{Config, Deadlock, Visibility};
use sagacore_core::limits::{ATTEMPTS_MAX, WAIT_REFRESH_MS};
use sagacore_core::wire::{
    Blocked, CauseCode, Flags, Freed, Header, HoldMode, Holder, Kind, OutcomeCode, Refusal, SagaId, Section, WaitPolicy,
};

use super::peers::{Got, World, carried, next, undone};
use super::sagas::{SagaModel, shop};
use super::{EVERYBODY, begin, cancel, fail, join_all, pass_on, refusal, undo_at};

/// The shop, undone in reverse order: no coordinator joins anything.
fn chain() -> SagaModel {
    let mut saga = shop();
    saga.undo = 1;
    saga
}

fn world_of(config: Config) -> (World, u64) {
    let saga = chain();
    let mut world = World::of(config);
    join_all(&mut world, &saga);
    let plan = world.define(&saga);
    world.take("client");
    (world, plan)
}

fn world() -> (World, u64) {
    world_of(Config { secret: [1; 16], ..Config::default() })
}

fn holder(of: &Got) -> Holder {
    Holder { saga: of.header.saga, attempt: of.header.attempt.get(), place: of.place() }
}

/// What the first step of a saga holds.
fn first_of(of: &Got) -> Holder {
    Holder { place: 0, ..holder(of) }
}

fn block_as(world: &mut World, name: &str, run: &Got, holders: &[Holder], how: (WaitPolicy, HoldMode)) {
    let (policy, mode) = how;
    let data = Blocked { policy, mode, resource: b"sku:42", holders: holders.to_vec() }.write();
    let header = next(run, Kind::Blocked, run.place(), run.header.done.get(), run.header.active.get());
    world.say(name, &[run.key()], &[(header, vec![(Section::DATA, data)])]);
}

/// The service of a RUN says that others are in its way.
fn block(world: &mut World, name: &str, run: &Got, holders: &[Holder]) {
    block_as(world, name, run, holders, (WaitPolicy::Detect, HoldMode::Exclusive));
}

/// Sagas that have passed their first step: the RUN of the second step of each.
fn at_charge(world: &mut World, plan: u64, keys: &[&str]) -> Vec<Got> {
    let one = |key: &&str| {
        begin(world, plan, key);
        pass_on(world, 0, "create");
        world.token("charge", Kind::Run)
    };
    keys.iter().map(one).collect()
}

fn freed(run: &Got) -> Vec<(SagaId, u32)> {
    let section = run.section(Section::FREED).unwrap_or_default();
    Freed::read_all(section).iter().map(|freed| (freed.saga, freed.attempt.get())).collect()
}

fn deadlocks(world: &World) -> Vec<Deadlock> {
    world.broker.deadlocks().iter().cloned().collect()
}

/// A saga that is at its second step is undone.
fn undo_both(world: &mut World) {
    for (name, step) in [("charge", 1), ("create", 0)] {
        let undo = undo_at(world, name);
        let on = if step == 1 { header_of_undo(&undo) } else { undone(&undo, 0) };
        world.say(name, &[undo.key()], &[(on, vec![])]);
    }
}

/// The UNDO of the first step, from that of the second.
fn header_of_undo(undo: &Got) -> Header {
    let mut header = next(undo, Kind::Undo, 0, undo.header.done.get(), 0);
    header.undo = (undo.header.undo.get() & !0b10).into();
    header.set(Flags::SPLICE);
    header
}

/// How a saga ended, if one did: the client was told.
fn result(world: &mut World) -> Option<(OutcomeCode, Option<CauseCode>)> {
    let got = world.take("client").into_iter().find(|got| got.kind() == Kind::Result)?;
    let cause = got.section(Section::CAUSE).and_then(|cause| CauseCode::from_code(cause[1]));
    Some((OutcomeCode::from_code(got.place()).unwrap(), cause))
}

#[test]
fn a_step_waits_without_a_worker_until_its_holder_has_ended() {
    let (mut world, plan) = world();
    let runs = at_charge(&mut world, plan, &["first", "second"]);
    block(&mut world, "charge", &runs[1], &[first_of(&runs[0])]);
    world.pass(15_000, &EVERYBODY);
    let is_second = |got: &Got| got.header.saga == runs[1].header.saga;
    assert!(!world.tokens("charge").iter().any(is_second), "no lease ends");
    cancel(&mut world, "first");
    undo_both(&mut world);
    let woken = world.token("charge", Kind::Run);
    assert_eq!((woken.key(), freed(&woken)), (runs[1].key(), vec![]), "its step was undone, which the service did");
    assert_eq!(woken.header.deliveries.get(), 0, "waiting is no try");
    // It names what has ended meanwhile: woken at once.
    block(&mut world, "charge", &woken, &[first_of(&runs[0])]);
    let woken = world.token("charge", Kind::Run);
    assert_eq!(freed(&woken), [(runs[0].header.saga, 0)]);
    assert_eq!(carried(&woken).len(), carried(&runs[1]).len() + 1);
    world.say("charge", &[woken.key()], &[(next(&woken, Kind::Run, 2, 3, 4), carried(&runs[1]))]);
    assert_eq!(world.token("reserve", Kind::Run).header.saga, runs[1].header.saga);
}

#[test]
fn of_a_cycle_the_youngest_gives_way_and_begins_again_behind_the_others() {
    let (mut world, plan) = world();
    let runs = at_charge(&mut world, plan, &["a", "b", "c"]);
    block(&mut world, "charge", &runs[0], &[first_of(&runs[1])]);
    block(&mut world, "charge", &runs[2], &[first_of(&runs[0])]);
    assert!(deadlocks(&world).is_empty());
    block(&mut world, "charge", &runs[1], &[first_of(&runs[2])]);
    let [deadlock] = &deadlocks(&world)[..] else { panic!("one victim a cycle") };
    assert_eq!((deadlock.victim, deadlock.detection_ms), (runs[2].header.saga, Some(0)));
    assert_eq!(deadlock.cycle.len(), 3);
    assert_eq!(deadlock.cycle[0].saga, runs[1].header.saga, "who closed it");
    assert!(deadlock.cycle.iter().all(|hop| hop.service == "charge-service" && *hop.resource == *b"sku:42"));
    undo_both(&mut world);
    let restart = world.logged(Kind::Restart);
    assert_eq!((restart.header.saga, restart.header.attempt.get()), (runs[2].header.saga, 0));
    assert_eq!(result(&mut world), None, "that is no outcome");
    let woken = world.token("charge", Kind::Run);
    assert_eq!(woken.header.saga, runs[1].header.saga, "whom it held up");
    assert!(world.tokens("create").is_empty(), "it waits for those that it lost to");
    for key in ["a", "b"] {
        cancel(&mut world, key);
        undo_both(&mut world);
    }
    let root = world.token("create", Kind::Run);
    assert_eq!((root.header.saga, root.header.attempt.get()), (runs[2].header.saga, 1));
    assert_eq!((root.header.age, root.header.deadline_ms), (runs[2].header.age, runs[2].header.deadline_ms));
    assert_eq!((root.section(Section::INPUT), root.header.done.get()), (Some(&b"tea"[..]), 0));
    assert_eq!(world.broker.deadlocks().restarts, 1);
    // What is left of the last attempt changes nothing.
    world.say("charge", &[runs[2].key()], &[(next(&runs[2], Kind::Run, 2, 3, 4), carried(&runs[2]))]);
    assert_eq!(refusal(&mut world, "charge"), Some(Refusal::Stale));
}

#[test]
fn a_deciding_saga_is_told_to_say_no() {
    let (mut world, plan) = world();
    let pivots: Vec<Got> = ["a", "b"]
        .iter()
        .map(|key| {
            begin(&mut world, plan, key);
            for (step, name) in [(0, "create"), (1, "charge"), (2, "reserve")] {
                pass_on(&mut world, step, name);
            }
            world.token("schedule", Kind::Run)
        })
        .collect();
    block(&mut world, "schedule", &pivots[0], &[first_of(&pivots[1])]);
    block(&mut world, "schedule", &pivots[1], &[first_of(&pivots[0])]);
    assert_eq!(deadlocks(&world)[0].victim, pivots[1].header.saga);
    let told = world.token("schedule", Kind::Run);
    assert!(told.header.saga == pivots[1].header.saga && told.header.has(Flags::WOUNDED));
    assert_eq!(told.header.deliveries.get(), 1, "it decides all the while");
    let mut header = next(&told, Kind::Fail, 3, told.header.done.get(), 8);
    header.set(Flags::CLEAN);
    world.say("schedule", &[told.key()], &[(header, vec![(Section::CAUSE, vec![0x93, 6, 3, 0xa0])])]);
    assert_eq!(refusal(&mut world, "schedule"), None);
    assert_eq!(undo_at(&mut world, "reserve").header.saga, pivots[1].header.saga);
}

#[test]
fn an_older_saga_does_not_wait_for_a_younger_one_where_that_is_the_policy() {
    let (mut world, plan) = world();
    for how in [(WaitPolicy::WoundWait, HoldMode::Exclusive), (WaitPolicy::Detect, HoldMode::Counted)] {
        let before = world.broker.deadlocks().wounded;
        let name = format!("{how:?}");
        let runs = at_charge(&mut world, plan, &[&format!("{name} a"), &format!("{name} b")]);
        block_as(&mut world, "charge", &runs[1], &[first_of(&runs[0])], how);
        assert_eq!(world.broker.deadlocks().wounded, before, "a younger one waits");
        let others = at_charge(&mut world, plan, &[&format!("{name} c")]);
        block_as(&mut world, "charge", &runs[0], &[first_of(&others[0])], how);
        assert_eq!(world.broker.deadlocks().wounded, before + 1);
        assert_eq!(undo_at(&mut world, "charge").header.saga, others[0].header.saga);
    }
}

#[test]
fn past_its_pivot_a_saga_does_not_wait() {
    let mut saga = chain();
    (saga.steps[3].flags, saga.steps[0].flags) = (0, 1);
    let mut world = World::new();
    join_all(&mut world, &saga);
    let plan = world.define(&saga);
    begin(&mut world, plan, "k");
    pass_on(&mut world, 0, "create");
    let run = world.token("charge", Kind::Run);
    block_as(
        &mut world,
        "charge",
        &run,
        &[Holder { place: 1, ..holder(&run) }],
        (WaitPolicy::Detect, HoldMode::Shared),
    );
    assert_eq!(refusal(&mut world, "charge"), Some(Refusal::Mismatch));
}

#[test]
fn what_is_being_undone_is_asked_for_again() {
    let (mut world, plan) = world();
    let runs = at_charge(&mut world, plan, &["a", "b"]);
    let run = runs[1].clone();
    cancel(&mut world, "a");
    let undo = undo_at(&mut world, "charge");
    world.say("charge", &[undo.key()], &[(header_of_undo(&undo), vec![])]);
    block(&mut world, "charge", &run, &[holder(&runs[0])]);
    world.pass(200, &EVERYBODY);
    assert_eq!(freed(&world.token("charge", Kind::Run)), []);
}

#[test]
fn of_a_pool_there_may_be_enough_when_one_lets_go() {
    let (mut world, plan) = world();
    let runs = at_charge(&mut world, plan, &["a", "b", "c"]);
    let how = (WaitPolicy::Detect, HoldMode::Counted);
    block_as(&mut world, "charge", &runs[2], &[first_of(&runs[0]), holder(&runs[1])], how);
    fail(&mut world, "charge", &runs[1], Flags::CLEAN);
    assert_eq!(world.token("charge", Kind::Run).key(), runs[2].key());
}

#[test]
fn a_restart_of_the_broker_forgets_who_waits_and_not_who_is_a_victim() {
    let (mut world, plan) = world();
    let runs = at_charge(&mut world, plan, &["a", "b"]);
    block(&mut world, "charge", &runs[0], &[first_of(&runs[1])]);
    block(&mut world, "charge", &runs[1], &[first_of(&runs[0])]);
    world.start_again(true);
    join_all(&mut world, &chain());
    let got = world.tokens("charge");
    assert!(got.iter().any(|got| got.key() == runs[0].key()), "nothing is parked");
    let undo = got.iter().find(|got| got.kind() == Kind::Undo).unwrap();
    world.say("charge", &[undo.key()], &[(header_of_undo(undo), vec![])]);
    let undo = undo_at(&mut world, "create");
    world.say("create", &[undo.key()], &[(undone(&undo, 0), vec![])]);
    assert_eq!(world.token("create", Kind::Run).header.attempt.get(), 1, "nobody knows whom it lost to");
    world.start_again(true);
    join_all(&mut world, &chain());
    assert_eq!(world.token("create", Kind::Run).header.attempt.get(), 1);
}

#[test]
fn nothing_of_the_next_attempt_runs_ahead_of_the_log() {
    let (mut world, plan) = world_of(Config { visibility: Visibility::Relaxed, ..Config::default() });
    let runs = at_charge(&mut world, plan, &["a", "b"]);
    block(&mut world, "charge", &runs[0], &[first_of(&runs[1])]);
    block(&mut world, "charge", &runs[1], &[first_of(&runs[0])]);
    let undo = undo_at(&mut world, "charge");
    world.say("charge", &[undo.key()], &[(header_of_undo(&undo), vec![])]);
    let undo = undo_at(&mut world, "create");
    world.syncs = false;
    world.say("create", &[undo.key()], &[(undone(&undo, 0), vec![])]);
    assert!(world.tokens("create").is_empty());
    world.syncs = true;
    world.settle();
    world.take("charge");
    cancel(&mut world, "a");
    undo_both(&mut world);
    assert_eq!(world.token("create", Kind::Run).header.attempt.get(), 1);
}

#[test]
fn a_saga_that_loses_too_often_or_has_no_time_left_ends_as_a_victim() {
    let (mut world, plan) = world();
    let old = at_charge(&mut world, plan, &["old"]).remove(0);
    begin(&mut world, plan, "young");
    let mut last = None;
    for attempt in 0..ATTEMPTS_MAX {
        pass_on(&mut world, 0, "create");
        let run = world.token("charge", Kind::Run);
        assert_eq!(run.header.attempt.get(), attempt);
        let how = (WaitPolicy::WoundWait, HoldMode::Exclusive);
        block_as(&mut world, "charge", &old, &[first_of(&run)], how);
        undo_both(&mut world);
        last = result(&mut world);
        // The old one is woken, and goes on to wait for the next attempt, which it is told of at once.
        if attempt + 1 < ATTEMPTS_MAX {
            assert_eq!(world.token("charge", Kind::Run).key(), old.key());
            assert!(world.tokens("create").is_empty(), "behind the one that it lost to");
            let restarted = world.broker.state().saga(run.header.saga).unwrap();
            assert_eq!(world.broker.state().sagas[restarted].attempt, attempt + 1);
            world.start_again(false);
            join_all(&mut world, &chain());
            world.token("charge", Kind::Run);
        }
    }
    assert_eq!(last, None, "its client is gone since the broker was started again");
    assert_eq!(world.broker.state().sagas.len(), 1, "only the old one is left");
}

#[test]
fn without_detection_only_deadlines_end_a_cycle() {
    let (mut world, plan) = world_of(Config { detect_deadlocks: false, ..Config::default() });
    let runs = at_charge(&mut world, plan, &["a", "b"]);
    for (run, other) in [(0, 1), (1, 0)] {
        let how = (WaitPolicy::WoundWait, HoldMode::Exclusive);
        block_as(&mut world, "charge", &runs[run], &[first_of(&runs[other])], how);
    }
    world.pass(20_000, &EVERYBODY);
    assert!(deadlocks(&world).is_empty() && world.tokens("charge").is_empty());
    world.pass(11_000, &EVERYBODY);
    assert_eq!(undo_at_any(&mut world), 2);
}

fn undo_at_any(world: &mut World) -> usize {
    world.tokens("charge").iter().filter(|got| got.kind() == Kind::Undo).count()
}

#[test]
fn a_victim_that_is_cancelled_while_it_is_undone_does_not_begin_again() {
    let (mut world, plan) = world();
    let runs = at_charge(&mut world, plan, &["a", "b"]);
    block(&mut world, "charge", &runs[0], &[first_of(&runs[1])]);
    block(&mut world, "charge", &runs[1], &[first_of(&runs[0])]);
    cancel(&mut world, "b");
    assert!(world.take("client").iter().any(|got| got.kind() == Kind::Cancel));
    undo_both(&mut world);
    assert_eq!(result(&mut world), Some((OutcomeCode::Compensated, Some(CauseCode::Victim))));
    world.start_again(true);
    assert_eq!(world.broker.state().sagas.len(), 1);
}

#[test]
fn many_may_wait_for_one_and_are_served_one_after_the_other() {
    let (mut world, plan) = world();
    let keys: Vec<String> = (0..400).map(|key| key.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let runs = at_charge(&mut world, plan, &keys);
    for (index, run) in runs.iter().enumerate().skip(1) {
        let ahead =
            if index == 1 { vec![first_of(&runs[0])] } else { vec![first_of(&runs[0]), holder(&runs[index - 1])] };
        block(&mut world, "charge", run, &ahead);
    }
    assert_eq!(world.broker.waits().count(), 399);
    // The last one in the way of the first closes the longest of cycles.
    block(&mut world, "charge", &runs[0], &[first_of(&runs[399])]);
    let [deadlock] = &deadlocks(&world)[..] else { panic!("one victim") };
    assert_eq!((deadlock.victim, deadlock.cycle.len()), (runs[399].header.saga, 2));
    undo_both(&mut world);
    assert_eq!(world.token("charge", Kind::Run).key(), runs[0].key());
    cancel(&mut world, "0");
    undo_both(&mut world);
    assert_eq!(world.token("charge", Kind::Run).key(), runs[1].key(), "and nobody else");
}

#[test]
fn where_there_is_no_room_the_one_that_waits_longest_comes_again() {
    let (mut world, plan) = world_of(Config { waiters: 2, ..Config::default() });
    let runs = at_charge(&mut world, plan, &["a", "b", "c", "d"]);
    for run in &runs[1..] {
        block(&mut world, "charge", run, &[first_of(&runs[0])]);
    }
    assert_eq!(world.broker.waits().count(), 2);
    world.pass(3 * WAIT_REFRESH_MS / 2 + 200, &EVERYBODY);
    assert_eq!(world.token("charge", Kind::Run).key(), runs[1].key());
    block(&mut world, "charge", &runs[1], &[first_of(&runs[0])]);
    block(&mut world, "charge", &runs[0], &[first_of(&runs[1])]);
    assert_eq!(deadlocks(&world)[0].victim, runs[1].header.saga, "they meet all the same");
}
