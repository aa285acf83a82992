//! What follows from one token alone is the broker's own, in the same record; what must meet others is a coordinator's.

use sagacore_broker::Visibility;
use sagacore_core::wire::{Flags, Header, Kind, OutcomeCode, Section, StatusCode, Transaction};

use crate::peers::{Got, World, carried, done, next, transactions, undone};
use crate::sagas::{PIVOT, SagaModel, shop};
use crate::{begin, cancel, fail, join_all, join_uncoordinated, pass_on, refusal, status, undo_at, undo_set};

const VISIBILITIES: [Visibility; 2] = [Visibility::Strict, Visibility::Relaxed];
const SKIP: u64 = 2;
const DONE: u64 = 3;

/// Client and services have joined, and no coordinator.
fn uncoordinated(saga: &SagaModel, visibility: Visibility) -> (World, u64) {
    let mut world = World::with(visibility);
    join_uncoordinated(&mut world, saga);
    let plan = world.define(saga);
    world.take("client");
    (world, plan)
}

fn diamond() -> SagaModel {
    let mut saga = SagaModel::new("diamond");
    for (name, after) in [("a", vec![]), ("b", vec![0]), ("c", vec![0]), ("d", vec![1, 2])] {
        saga.step(name, &after);
    }
    saga
}

/// What the last record publishes, by transaction.
fn last_record(world: &World) -> Vec<Vec<Kind>> {
    let messages = |transaction: Vec<Got>| transaction.iter().map(Got::kind).collect();
    transactions(world.log.last().unwrap()).into_iter().map(messages).collect()
}

/// The outcome, if the client is told one.
fn outcome(world: &mut World) -> Option<(OutcomeCode, Got)> {
    let told = world.take("client").into_iter().find(|got| got.kind() == Kind::Result)?;
    Some((OutcomeCode::from_code(told.place()).unwrap(), told))
}

/// The first three services of a shop have done their steps.
fn pass_to_pivot(world: &mut World) {
    for (step, name) in [(0, "create"), (1, "charge"), (2, "reserve")] {
        pass_on(world, step, name);
    }
}

/// The last service of a shop is done.
fn schedule(world: &mut World) {
    let run = world.token("schedule", Kind::Run);
    let body = vec![(3, b"booked".to_vec()), (Section::INPUT, b"tea".to_vec())];
    world.say("schedule", &[run.key()], &[(done(&run, 0), body)]);
    assert_eq!(refusal(world, "schedule"), None);
}

/// What a coordinator or a service says of a token that it sees no body of.
fn spliced(of: &Got, kind: Kind, place: u16, set: u64, active: u64, left: u64) -> Header {
    let mut header = next(of, kind, place, set, active);
    header.undo = left.into();
    header.set(Flags::SPLICE);
    header
}

fn say_one(world: &mut World, name: &str, of: &Got, header: Header) {
    world.say(name, &[of.key()], &[(header, vec![])]);
    assert_eq!(refusal(world, name), None, "{:?}", header.kind());
}

#[test]
fn a_chain_completes_with_no_coordinator_and_with_the_messages_of_its_plan() {
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        let start = begin(&mut world, plan, "k");
        pass_to_pivot(&mut world);
        schedule(&mut world);
        let (code, told) = outcome(&mut world).unwrap();
        assert_eq!((code, told.section(3)), (OutcomeCode::Completed, Some(&b"booked"[..])));
        assert_eq!((told.header.saga, told.header.amount.get()), (start.header.saga, 7));
        let (state, messages) = (world.broker.state(), shop().compile().unwrap().messages as u64);
        let counters = &state.counters;
        assert_eq!((counters.started, counters.completed, counters.run, counters.done), (1, 1, 4, 1));
        assert_eq!((counters.run + counters.done, counters.revoked + counters.undo + counters.undone), (messages, 0));
        assert_eq!((messages, state.sagas.len(), state.tokens.len()), (5, 0, 0));
        world.say("client", &[], &[(Header::new(Kind::Stats), vec![])]);
        let stats = world.take("client").into_iter().find(|got| got.kind() == Kind::Stats).unwrap();
        let numbers = stats.section(Section::DATA).unwrap();
        assert!(numbers.windows(10).any(|bytes| bytes == b"\xa8messages\x05"), "{numbers:?}");
    }
}

#[test]
fn a_start_and_its_first_steps_are_one_record_that_nothing_leaves_before_it_is_durable() {
    let mut saga = SagaModel::new("side by side");
    saga.step("a", &[]);
    saga.step("b", &[]);
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&saga, visibility);
        let nothing_left = |world: &mut World| ["client", "a", "b"].iter().all(|name| world.tokens(name).is_empty());
        world.syncs = false;
        let before = world.log.len();
        begin(&mut world, plan, "k");
        assert_eq!(last_record(&world), [vec![Kind::Start], vec![Kind::Run, Kind::Run]]);
        assert_eq!(world.log.len(), before + 1);
        assert!(nothing_left(&mut world));
        world.restart(before);
        world.syncs = true;
        join_uncoordinated(&mut world, &saga);
        assert!(nothing_left(&mut world));
        assert_eq!(status(&mut world, "k"), StatusCode::Unknown);
        world.syncs = false;
        begin(&mut world, plan, "k");
        assert!(nothing_left(&mut world));
        world.syncs = true;
        let (a, b) = (world.token("a", Kind::Run), world.token("b", Kind::Run));
        assert_eq!((a.section(Section::INPUT), b.section(Section::INPUT)), (Some(&b"tea"[..]), Some(&b"tea"[..])));
        assert_eq!((a.header.active.get(), b.header.active.get()), (1, 2));
        assert_eq!(status(&mut world, "k"), StatusCode::Running);
    }
}

#[test]
fn an_outcome_is_in_the_record_of_the_last_step_and_told_when_that_is_durable() {
    for (visibility, is_lost) in
        VISIBILITIES.into_iter().flat_map(|visibility| [(visibility, false), (visibility, true)])
    {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        begin(&mut world, plan, "k");
        pass_to_pivot(&mut world);
        world.settle();
        let before = world.log.len();
        world.syncs = false;
        schedule(&mut world);
        assert_eq!((last_record(&world), world.log.len()), (vec![vec![Kind::Done], vec![Kind::Result]], before + 1));
        assert!(outcome(&mut world).is_none());
        if is_lost {
            world.restart(before);
            world.syncs = true;
            join_uncoordinated(&mut world, &shop());
            assert_eq!(status(&mut world, "k"), StatusCode::Deciding);
            world.start(plan, "k", "tea", 8);
            assert!(outcome(&mut world).is_none());
            schedule(&mut world);
        }
        world.syncs = true;
        let (code, told) = outcome(&mut world).unwrap();
        assert_eq!((code, told.header.amount.get()), (OutcomeCode::Completed, if is_lost { 8 } else { 7 }));
    }
}

#[test]
fn an_abort_of_a_chain_goes_on_with_no_coordinator_once_it_is_durable() {
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        begin(&mut world, plan, "k");
        pass_on(&mut world, 0, "create");
        let charge = world.token("charge", Kind::Run);
        world.syncs = false;
        fail(&mut world, "charge", &charge, 0);
        assert_eq!(last_record(&world), [[Kind::Fail], [Kind::Undo]]);
        assert!(world.tokens("charge").is_empty(), "the abort may be lost");
        world.syncs = true;
        let undo = world.token("charge", Kind::Undo);
        let cause = &b"\x93\x01\x01\xa2no"[..];
        assert_eq!((undo_set(&undo), undo.section(Section::CAUSE)), (0b11, Some(cause)));
        say_one(&mut world, "charge", &undo, spliced(&undo, Kind::Undo, 0, 0b11, 0, 0b01));
        let last = world.token("create", Kind::Undo);
        world.syncs = false;
        say_one(&mut world, "create", &last, undone(&last, 0));
        assert_eq!(last_record(&world), [[Kind::Undone], [Kind::Result]]);
        assert!(outcome(&mut world).is_none());
        world.syncs = true;
        let (code, told) = outcome(&mut world).unwrap();
        assert_eq!((code, told.section(Section::CAUSE)), (OutcomeCode::Compensated, Some(cause)));
        let counters = &world.broker.state().counters;
        assert_eq!((counters.revoked, counters.undo, counters.undone), (1, 2, 1));
    }
}

#[test]
fn an_abort_with_nothing_to_undo_is_the_outcome_once_it_is_durable() {
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        begin(&mut world, plan, "k");
        let create = world.token("create", Kind::Run);
        world.syncs = false;
        fail(&mut world, "create", &create, Flags::CLEAN);
        assert_eq!(last_record(&world), [[Kind::Fail], [Kind::Result]]);
        assert!(outcome(&mut world).is_none());
        world.syncs = true;
        assert_eq!(outcome(&mut world).unwrap().0, OutcomeCode::Compensated);
        assert!(world.tokens("create").is_empty());
    }
}

#[test]
fn a_saga_that_is_cancelled_before_it_is_durable_is_only_undone() {
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        world.syncs = false;
        begin(&mut world, plan, "k");
        cancel(&mut world, "k");
        assert_eq!(last_record(&world), [[Kind::Revoked], [Kind::Undo]]);
        assert!(world.tokens("create").is_empty());
        world.syncs = true;
        assert_eq!(undo_set(&world.token("create", Kind::Undo)), 1);
    }
}

#[test]
fn arrivals_of_a_join_go_to_a_coordinator_and_the_end_after_it_does_not() {
    let mut world = World::new();
    join_all(&mut world, &diamond());
    let plan = world.define(&diamond());
    begin(&mut world, plan, "k");
    let a = world.token("a", Kind::Run);
    let fork = [next(&a, Kind::Run, 1, 1, 2), next(&a, Kind::Run, 2, 1, 4)];
    world.say("a", &[a.key()], &fork.map(|header| (header, carried(&a))));
    let mut arrived = Vec::new();
    for (name, edge) in [("b", 0), ("c", 1)] {
        crate::arrive(&mut world, name, edge);
        assert_eq!(last_record(&world), [[Kind::Done]]);
        arrived.push(world.token("coordinator", Kind::Done).key());
    }
    let run = spliced(&a, Kind::Run, 3, 0b111, 0b1000, 0);
    world.say("coordinator", &arrived, &[(run, vec![])]);
    crate::arrive(&mut world, "d", 2);
    assert_eq!(last_record(&world), [[Kind::Done], [Kind::Result]]);
    assert!(world.tokens("coordinator").is_empty());
    assert_eq!(outcome(&mut world).unwrap().0, OutcomeCode::Completed);
}

#[test]
fn an_abort_of_a_plan_with_joins_goes_to_a_coordinator() {
    let mut world = World::new();
    join_all(&mut world, &diamond());
    let plan = world.define(&diamond());
    begin(&mut world, plan, "k");
    world.take("a");
    cancel(&mut world, "k");
    assert_eq!(last_record(&world), [[Kind::Revoked]]);
    assert!(world.tokens("a").is_empty());
    let revoked = world.token("coordinator", Kind::Revoked);
    assert_eq!(revoked.header.undo.get(), 1);
    say_one(&mut world, "coordinator", &revoked, spliced(&revoked, Kind::Undo, 0, 1, 0, 1));
    // It was the coordinator that had to hear of the abort: the end of it is nothing to it.
    let undo = world.token("a", Kind::Undo);
    say_one(&mut world, "a", &undo, undone(&undo, 0));
    assert!(world.tokens("coordinator").is_empty());
    assert_eq!(outcome(&mut world).unwrap().0, OutcomeCode::Compensated);
}

#[test]
fn compensations_that_meet_go_to_a_coordinator_and_what_comes_after_them_does_not() {
    let mut world = World::new();
    join_all(&mut world, &shop());
    let plan = world.define(&shop());
    begin(&mut world, plan, "k");
    pass_to_pivot(&mut world);
    let pivot = world.token("schedule", Kind::Run);
    fail(&mut world, "schedule", &pivot, Flags::CLEAN);
    assert_eq!(last_record(&world), [vec![Kind::Fail], vec![Kind::Undo, Kind::Undo]]);
    assert!(world.tokens("coordinator").is_empty());
    let mut arrived = Vec::new();
    for (name, edge) in [("charge", 0), ("reserve", 1)] {
        let undo = world.token(name, Kind::Undo);
        assert_eq!(undo_set(&undo), 0b111);
        say_one(&mut world, name, &undo, undone(&undo, edge));
        assert_eq!(last_record(&world), [[Kind::Undone]]);
        arrived.push(world.token("coordinator", Kind::Undone));
    }
    let keys = [arrived[0].key(), arrived[1].key()];
    world.say("coordinator", &keys, &[(spliced(&arrived[0], Kind::Undo, 0, 0b111, 0, 1), vec![])]);
    let last = world.token("create", Kind::Undo);
    say_one(&mut world, "create", &last, undone(&last, 2));
    assert!(world.tokens("coordinator").is_empty());
    assert_eq!(outcome(&mut world).unwrap().0, OutcomeCode::Compensated);
}

/// The services of a shop do all that they are asked for, until there is nothing to do.
fn serve(world: &mut World) {
    for name in ["create", "charge", "reserve", "schedule", "charge", "create"] {
        for got in world.tokens(name) {
            let of = got.place();
            let on = match (got.kind(), of) {
                (Kind::Run, 3) => done(&got, 0),
                (Kind::Run, _) => next(&got, Kind::Run, of + 1, (2 << of) - 1, 2 << of),
                (Kind::Undo, 1) => spliced(&got, Kind::Undo, 0, 0b11, 0, 0b01),
                (Kind::Undo, 0) => undone(&got, 0),
                other => panic!("{name}: {other:?}"),
            };
            world.say(name, &[got.key()], &[(on, vec![])]);
            assert_eq!(refusal(world, name), None, "{name}");
        }
    }
}

/// A shop to its end, cancelled while charge runs or not. Gives the records of START and of the abort.
fn whole(visibility: Visibility, is_cancelled: bool) -> (World, usize, usize) {
    let (mut world, plan) = uncoordinated(&shop(), visibility);
    let started = world.log.len();
    begin(&mut world, plan, "k");
    let mut aborted = usize::MAX;
    if is_cancelled {
        pass_on(&mut world, 0, "create");
        world.take("charge");
        aborted = world.log.len();
        cancel(&mut world, "k");
    }
    serve(&mut world);
    assert!(outcome(&mut world).is_some());
    (world, started, aborted)
}

#[test]
fn a_restart_between_leaves_nothing_half_done() {
    for (visibility, is_cancelled) in
        VISIBILITIES.into_iter().flat_map(|visibility| [(visibility, false), (visibility, true)])
    {
        let (world, started, _) = whole(visibility, is_cancelled);
        for durable in started..=world.log.len() {
            let (mut world, started, aborted) = whole(visibility, is_cancelled);
            world.restart(durable);
            let pending: Vec<Kind> = world.broker.state().tokens.values().map(|token| token.kind).collect();
            assert!(pending.iter().all(|kind| !kind.is_for_coordinator()), "{durable}: {pending:?}");
            assert_eq!(pending.len(), world.broker.state().sagas.len(), "{durable}: {pending:?}");
            join_uncoordinated(&mut world, &shop());
            serve(&mut world);
            let expected = match (durable > started, durable > aborted) {
                (false, _) => StatusCode::Unknown,
                (true, false) => StatusCode::Completed,
                (true, true) => StatusCode::Compensated,
            };
            assert_eq!(status(&mut world, "k"), expected, "{visibility:?} {durable}");
        }
    }
}

/// A broker that left this to coordinators wrote the log, and was killed: what followed last is not there.
fn as_left_by_an_older_version(world: &mut World, saga: &SagaModel) {
    let last = world.log.last_mut().unwrap();
    let (first, rest) = Transaction::parse(&last.payload).unwrap();
    assert!(!rest.is_empty());
    last.payload = first.bytes().to_vec();
    world.restart(world.log.len());
    join_all(world, saga);
}

#[test]
fn what_an_older_version_left_pending_goes_to_a_coordinator() {
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        begin(&mut world, plan, "k");
        as_left_by_an_older_version(&mut world, &shop());
        assert!(world.tokens("create").is_empty());
        let start = world.token("coordinator", Kind::Start);
        say_one(&mut world, "coordinator", &start, spliced(&start, Kind::Run, 0, 0, 1, 0));
        pass_to_pivot(&mut world);
        schedule(&mut world);
        as_left_by_an_older_version(&mut world, &shop());
        let done = world.token("coordinator", Kind::Done);
        say_one(&mut world, "coordinator", &done, spliced(&done, Kind::Result, 1, 0, 0, 0));
        assert_eq!(status(&mut world, "k"), StatusCode::Completed);

        begin(&mut world, plan, "back");
        world.take("create");
        cancel(&mut world, "back");
        let set = undo_set(&undo_at(&mut world, "create"));
        as_left_by_an_older_version(&mut world, &shop());
        let revoked = world.token("coordinator", Kind::Revoked);
        say_one(&mut world, "coordinator", &revoked, spliced(&revoked, Kind::Undo, 0, set, 0, set));
        let undo = world.token("create", Kind::Undo);
        say_one(&mut world, "create", &undo, undone(&undo, 0));
        as_left_by_an_older_version(&mut world, &shop());
        let undone = world.token("coordinator", Kind::Undone);
        say_one(&mut world, "coordinator", &undone, spliced(&undone, Kind::Result, 2, 0, 0, 0));
        assert_eq!(status(&mut world, "back"), StatusCode::Compensated);
    }
}

fn resolve(world: &mut World, of: &Got, how: u64, section: (u8, &[u8])) {
    let mut header = Header::new(Kind::Resolve);
    header.saga = of.header.saga;
    header.place = of.place().into();
    header.active = how.into();
    world.say("client", &[], &[(header, vec![(section.0, section.1.to_vec())])]);
    assert!(outcome(world).is_none(), "what an operator decided may be lost");
}

#[test]
fn an_operator_who_resolves_the_last_step_gives_the_outcome() {
    let mut saga = SagaModel::new("paid");
    saga.step("pay", &[]);
    saga.step("ship", &[0]);
    (saga.steps[0].flags, saga.steps[1].flags) = (PIVOT, 0);
    saga.returns = vec![1];
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&saga, visibility);
        begin(&mut world, plan, "k");
        pass_on(&mut world, 0, "pay");
        let ship = world.token("ship", Kind::Run);
        world.syncs = false;
        resolve(&mut world, &ship, DONE, (Section::DATA, b"sent"));
        assert_eq!(last_record(&world), [[Kind::Done], [Kind::Result]]);
        world.syncs = true;
        let (code, told) = outcome(&mut world).unwrap();
        assert_eq!((code, told.section(1)), (OutcomeCode::Completed, Some(&b"sent"[..])));
    }
}

#[test]
fn an_operator_who_skips_the_last_compensation_gives_the_outcome() {
    for visibility in VISIBILITIES {
        let (mut world, plan) = uncoordinated(&shop(), visibility);
        begin(&mut world, plan, "k");
        cancel(&mut world, "k");
        let undo = undo_at(&mut world, "create");
        world.syncs = false;
        resolve(&mut world, &undo, SKIP, (Section::TEXT, b"by hand"));
        assert_eq!(last_record(&world), [[Kind::Undone], [Kind::Result]]);
        world.syncs = true;
        let (code, told) = outcome(&mut world).unwrap();
        let skipped = Some(&b"\x91\x92\x00\xa7by hand"[..]);
        assert_eq!((code, told.section(Section::SKIPPED)), (OutcomeCode::Compensated, skipped));
    }
}
