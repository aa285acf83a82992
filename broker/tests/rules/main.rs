//! The broker's rules, one by one, with peers that say just what a test wants.

#![allow(clippy::unwrap_used)] // In a test, a panic says where it failed.

#[path = "../../../rust/core/tests/support/mod.rs"]
mod sagas;

mod ahead;
mod arrivals;
mod bounds;
mod follow;
mod parked;
mod peers;
mod shards;
mod suspects;
mod waiting;
mod watermarks;

use peers::{Got, World, carried, done, next, undone};
use sagacore_broker::{Config, RecordKind, Room};
use sagacore_core::limits::{
    DELIVERIES_MAX, FRAME_BYTES_MAX, HEARTBEAT_MS, HEARTBEATS_MISSED_MAX, TRANSACTION_BYTES_MAX,
};
use sagacore_core::wire::{Flags, Header, Kind, OutcomeCode, Refusal, Role, Section, StatusCode, TransactionWriter};
use sagas::{SagaModel, shop};

const EVERYBODY: [&str; 6] = ["client", "coordinator", "create", "charge", "reserve", "schedule"];

fn world(saga: &SagaModel) -> (World, u64) {
    let mut world = World::new();
    join_all(&mut world, saga);
    let plan = world.define(saga);
    world.take("client");
    (world, plan)
}

fn join_all(world: &mut World, saga: &SagaModel) {
    world.subscribe("coordinator", Role::Coordinator, "", 0);
    join_uncoordinated(world, saga);
}

fn join_uncoordinated(world: &mut World, saga: &SagaModel) {
    world.subscribe("client", Role::Client, "", 0);
    for step in &saga.steps {
        world.subscribe(&step.name, Role::Service, &step.service, 0);
    }
}

/// Starts a saga, whose first RUNs follow. Gives its START, as the log has it.
fn begin(world: &mut World, plan: u64, key: &str) -> Got {
    let before = world.broker.state().next_sequence;
    world.start(plan, key, "tea", 7);
    let start = world.logged(Kind::Start);
    assert_eq!(start.header.saga.sequence.get(), before, "it was not refused");
    start
}

/// The service of `step` passes the token on to the next step of the chain.
fn pass_on(world: &mut World, step: u8, name: &str) {
    let run = world.token(name, Kind::Run);
    let done = run.header.done.get() | 1 << step;
    let mut body = carried(&run);
    body.retain(|(key, _)| *key == Section::INPUT);
    world.say(name, &[run.key()], &[(next(&run, Kind::Run, u16::from(step) + 1, done, 2 << step), body)]);
}

/// The service of a step tells that it is done, of every saga that asked for it.
fn arrive(world: &mut World, name: &str, edge: u16) {
    let runs = world.tokens(name);
    assert!(!runs.is_empty(), "{name}");
    for run in runs {
        world.say(name, &[run.key()], &[(done(&run, edge), carried(&run))]);
        assert_eq!(refusal(world, name), None);
    }
}

/// The one UNDO that a service got, whatever it got before.
fn undo_at(world: &mut World, name: &str) -> Got {
    let mut undos = world.tokens(name);
    undos.retain(|got| got.kind() == Kind::Undo);
    assert_eq!(undos.len(), 1, "{name}");
    undos.remove(0)
}

/// The set that an abort undoes, as its first UNDOs say.
fn undo_set(undo: &Got) -> u64 {
    assert_eq!(undo.header.done, undo.header.undo, "nothing is undone yet");
    undo.header.undo.get()
}

fn fail(world: &mut World, name: &str, run: &Got, flags: u16) {
    let step = run.place();
    let mut header = next(run, Kind::Fail, step, 0, 1 << step);
    header.set(flags);
    let cause = [0x93, 1, step as u8, 0xa2, b'n', b'o'].to_vec();
    world.say(name, &[run.key()], &[(header, vec![(Section::CAUSE, cause)])]);
}

fn refusal(world: &mut World, name: &str) -> Option<Refusal> {
    let refused = world.take(name).into_iter().find(|got| got.kind() == Kind::Refused)?;
    Refusal::from_code(refused.place())
}

fn status(world: &mut World, key: &str) -> StatusCode {
    let mut header = Header::new(Kind::Status);
    header.set(Flags::BY_KEY);
    world.say("client", &[], &[(header, vec![(Section::KEY, key.as_bytes().to_vec())])]);
    let answer = world.take("client").into_iter().rfind(|got| got.kind() == Kind::Status).unwrap();
    StatusCode::from_code(answer.place()).unwrap()
}

fn cancel(world: &mut World, key: &str) {
    let mut header = Header::new(Kind::Cancel);
    header.set(Flags::BY_KEY);
    world.say("client", &[], &[(header, vec![(Section::KEY, key.as_bytes().to_vec())])]);
}

#[test]
fn a_transaction_is_accepted_once() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    let run = world.token("create", Kind::Run);
    assert_eq!((run.section(Section::INPUT), run.header.active.get()), (Some(&b"tea"[..]), 1));
    let on = next(&run, Kind::Run, 1, 1, 2);
    world.say("create", &[run.key()], &[(on, carried(&run))]);
    assert_eq!(refusal(&mut world, "create"), None);
    world.say("create", &[run.key()], &[(on, carried(&run))]);
    assert_eq!(refusal(&mut world, "create"), Some(Refusal::Stale));
    assert_eq!(world.tokens("charge").len(), 1);
}

#[test]
fn forged_and_edited_headers_change_nothing() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    let run = world.token("create", Kind::Run);
    let right = next(&run, Kind::Run, 1, 1, 2);
    let mut forged: Vec<Header> = vec![right; 9];
    forged[0].place = 2.into();
    forged[1].done = 3.into();
    forged[2].active = 6.into();
    forged[3].undo = 1.into();
    forged[4].saga.nonce = 9.into();
    forged[5].attempt = 1.into();
    forged[6].plan = 9.into();
    forged[7].kind = Kind::Done.code();
    forged[8].set(Flags::SPLICE);
    for header in forged {
        world.say("create", &[run.key()], &[(header, vec![])]);
        assert_eq!(refusal(&mut world, "create"), Some(Refusal::Mismatch), "{header:?}");
    }
    world.say("create", &[run.key()], &[(right, vec![]), (right, vec![])]);
    assert_eq!(refusal(&mut world, "create"), Some(Refusal::Mismatch));
    world.say("charge", &[run.key()], &[(right, vec![])]);
    assert_eq!(refusal(&mut world, "charge"), Some(Refusal::Forbidden));
    world.say("coordinator", &[run.key()], &[(right, vec![])]);
    assert_eq!(refusal(&mut world, "coordinator"), Some(Refusal::Forbidden));
    world.say("create", &[run.key()], &[(right, vec![(Section::INPUT, vec![0; 5_000])])]);
    assert_eq!(refusal(&mut world, "create"), Some(Refusal::TooLarge));
    assert!(world.tokens("charge").is_empty());
    world.say("create", &[run.key()], &[(right, vec![])]);
    assert_eq!(world.tokens("charge").len(), 1);
}

#[test]
fn an_abort_counts_every_token_and_comes_once() {
    let mut saga = SagaModel::new("diamond");
    for (name, after) in [("a", vec![]), ("b", vec![0]), ("c", vec![0]), ("d", vec![1, 2])] {
        saga.step(name, &after);
    }
    let (mut world, plan) = world(&saga);
    begin(&mut world, plan, "k");
    let run = world.token("a", Kind::Run);
    let fork = [next(&run, Kind::Run, 1, 1, 2), next(&run, Kind::Run, 2, 1, 4)];
    world.say("a", &[run.key()], &fork.map(|header| (header, carried(&run))));
    let (b, c) = (world.token("b", Kind::Run), world.token("c", Kind::Run));
    world.say("b", &[b.key()], &[(next(&b, Kind::Done, 0, 3, 0), carried(&b))]);
    let arrived = world.token("coordinator", Kind::Done);
    fail(&mut world, "c", &c, Flags::CLEAN);
    let revoked = world.token("coordinator", Kind::Revoked);
    assert_eq!((revoked.header.done.get(), revoked.header.active.get(), revoked.header.undo.get()), (0b11, 0, 0b11));
    assert_eq!(revoked.section(Section::CAUSE), None, "coordinators see no bodies");
    // The arrival that the coordinator holds is consumed, and so is the sibling's token.
    let mut run = next(&arrived, Kind::Run, 3, 3, 8);
    run.set(Flags::SPLICE);
    world.say("coordinator", &[arrived.key()], &[(run, vec![])]);
    assert_eq!(refusal(&mut world, "coordinator"), Some(Refusal::Stale));
    fail(&mut world, "c", &c, 0);
    assert_eq!(refusal(&mut world, "c"), Some(Refusal::Stale));
    cancel(&mut world, "k");
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::TooLate));
}

#[test]
fn a_cancel_is_accepted_again_if_it_was_accepted_before() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    for _ in 0..2 {
        cancel(&mut world, "k");
        assert!(world.take("client").iter().any(|got| got.kind() == Kind::Cancel));
    }
    undo_at(&mut world, "create");
}

#[test]
fn what_may_have_run_is_undone() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    pass_on(&mut world, 0, "create");
    let charge = world.token("charge", Kind::Run);
    fail(&mut world, "charge", &charge, 0);
    let undo = world.token("charge", Kind::Undo);
    assert_eq!(undo_set(&undo), 0b11, "not cleanly rejected: it may have taken effect");
    assert_eq!(status(&mut world, "k"), StatusCode::Compensating);
}

#[test]
fn nothing_aborts_a_delivered_pivot_but_its_own_rejection() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    for (step, name) in [(0, "create"), (1, "charge"), (2, "reserve")] {
        pass_on(&mut world, step, name);
    }
    let pivot = world.token("schedule", Kind::Run);
    assert_eq!(status(&mut world, "k"), StatusCode::Deciding);
    cancel(&mut world, "k");
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::TooLate));
    fail(&mut world, "schedule", &pivot, 0);
    assert_eq!(refusal(&mut world, "schedule"), Some(Refusal::TooLate));
    world.pass(40_000, &EVERYBODY);
    for name in ["create", "charge", "reserve"] {
        assert!(world.tokens(name).is_empty(), "no deadline once it is deciding: {name}");
    }
    let again = world.tokens("schedule").pop().unwrap();
    fail(&mut world, "schedule", &again, Flags::CLEAN);
    assert_eq!(undo_set(&world.token("reserve", Kind::Undo)), 0b111);
}

#[test]
fn a_pivot_that_nobody_got_may_be_cancelled() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    pass_on(&mut world, 0, "create");
    pass_on(&mut world, 1, "charge");
    let run = world.token("reserve", Kind::Run);
    world.syncs = false;
    world.say("reserve", &[run.key()], &[(next(&run, Kind::Run, 3, 7, 8), carried(&run))]);
    cancel(&mut world, "k");
    world.syncs = true;
    assert_eq!(undo_set(&world.token("reserve", Kind::Undo)), 0b111);
    assert!(world.tokens("schedule").is_empty());
}

#[test]
fn a_deadline_aborts_and_a_full_count_of_deliveries_too() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "late");
    world.pass(30_200, &EVERYBODY);
    let late = undo_at(&mut world, "create");
    assert_eq!((undo_set(&late), late.section(Section::CAUSE)), (1, Some(&b"\x93\x03\x40\xb3the deadline passed"[..])));
    let mut patient = shop();
    patient.deadline_ms = 3_600_000;
    let plan = world.define(&patient);
    let poison = begin(&mut world, plan, "poison").header.saga;
    let mut got = Vec::new();
    for _ in 0..400 {
        world.pass(11_000, &EVERYBODY);
        got.extend(world.tokens("create").into_iter().filter(|got| got.header.saga == poison));
        if got.iter().any(|got| got.kind() == Kind::Undo) {
            break;
        }
    }
    let cause = got.pop().unwrap().section(Section::CAUSE).map(<[u8]>::to_vec).unwrap();
    assert_eq!(cause[..3], [0x93, 5, 0], "the limit of deliveries, of step 0");
    assert!(got.iter().all(|got| got.kind() == Kind::Run) && got.len() as u32 >= DELIVERIES_MAX);
}

#[test]
fn a_silent_peer_loses_its_leases_and_its_session() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    let run = world.token("create", Kind::Run);
    world.subscribe("create-2", Role::Service, "create-service", 0);
    let others = ["client", "coordinator", "create-2"];
    world.pass(HEARTBEAT_MS * (HEARTBEATS_MISSED_MAX + 2), &others);
    let again = world.token("create-2", Kind::Run);
    assert_eq!((again.key(), again.header.deliveries.get()), (run.key(), 1));
    world.say("create", &[run.key()], &[(next(&run, Kind::Run, 1, 1, 2), carried(&run))]);
    assert_eq!(refusal(&mut world, "create"), Some(Refusal::NoSession));
}

#[test]
fn nothing_leaves_before_it_is_durable() {
    let (mut world, plan) = world(&shop());
    world.syncs = false;
    world.start(plan, "k", "tea", 7);
    assert!(world.tokens("client").is_empty() && world.tokens("create").is_empty());
    let durable = world.log.len() - 1;
    world.restart(durable);
    world.syncs = true;
    join_all(&mut world, &shop());
    assert_eq!(status(&mut world, "k"), StatusCode::Unknown);
    world.start(plan, "k", "tea", 7);
    assert_eq!(world.tokens("create").len(), 1);
}

#[test]
fn a_restart_delivers_all_that_is_pending_and_remembers_outcomes() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "a");
    pass_on(&mut world, 0, "create");
    let charge = world.token("charge", Kind::Run);
    world.restart(world.log.len());
    join_all(&mut world, &shop());
    let again = world.token("charge", Kind::Run);
    assert_eq!((again.key(), again.body), (charge.key(), charge.body));
    cancel(&mut world, "a");
    let undo = world.token("charge", Kind::Undo);
    assert_eq!(undo_set(&undo), 0b11);
    world.restart(world.log.len());
    join_all(&mut world, &shop());
    let again = world.token("charge", Kind::Undo);
    assert_eq!((again.key(), undo_set(&again), again.body), (undo.key(), 0b11, undo.body));
}

#[test]
fn a_key_is_one_saga_and_another_input_is_an_error() {
    let (mut world, plan) = world(&shop());
    let start = begin(&mut world, plan, "k");
    world.start(plan, "k", "tea", 8);
    let told = world.take("client");
    let same = told.iter().filter(|got| got.kind() == Kind::Status);
    assert!(same.clone().all(|got| got.header.saga == start.header.saga) && same.count() == 2);
    world.start(plan, "k", "coffee", 9);
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::KeyConflict));
    cancel(&mut world, "k");
    // The service has not answered yet, so its step is undone, and then the saga has ended.
    let undo = undo_at(&mut world, "create");
    world.say("create", &[undo.key()], &[(undone(&undo, 0), vec![])]);
    let told: Vec<Got> = world.take("client").into_iter().filter(|got| got.kind() == Kind::Result).collect();
    let correlations: Vec<u64> = told.iter().map(|got| got.header.amount.get()).collect();
    assert_eq!(correlations, [7, 8], "both that asked for this saga are told");
    for durable in [0, 1] {
        world.start(plan, "k", "tea", 10 + durable);
        let again = world.take("client");
        assert!(again.iter().any(|got| got.kind() == Kind::Result && got.place() == 2), "{again:?}");
        world.restart(world.log.len());
        join_all(&mut world, &shop());
    }
    assert_eq!(status(&mut world, "k"), StatusCode::Compensated);
}

#[test]
fn a_full_disk_refuses_new_sagas_only() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "running");
    let run = world.token("create", Kind::Run);
    let segment_bytes = 1 << 20;
    world.broker.set_room(Room { free_bytes: 3 * segment_bytes, segment_bytes });
    world.start(plan, "new", "tea", 8);
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::Full));
    world.say("create", &[run.key()], &[(next(&run, Kind::Run, 1, 1, 2), carried(&run))]);
    assert_eq!(world.tokens("charge").len(), 1);
    world.broker.set_room(Room { free_bytes: 4 * segment_bytes, segment_bytes });
    world.start(plan, "new", "tea", 9);
    assert_eq!(refusal(&mut world, "client"), None);
}

#[test]
fn a_disk_that_is_behind_refuses_new_sagas_only() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "running");
    let run = world.token("create", Kind::Run);
    world.broker.set_behind(true);
    world.start(plan, "new", "tea", 8);
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::Full));
    world.say("create", &[run.key()], &[(next(&run, Kind::Run, 1, 1, 2), carried(&run))]);
    assert_eq!(world.tokens("charge").len(), 1);
    world.broker.set_behind(false);
    world.start(plan, "new", "tea", 9);
    assert_eq!(refusal(&mut world, "client"), None);
}

#[test]
fn no_sweep_begins_that_the_disk_has_no_room_for() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "running");
    let (many, segment_bytes) = ([1, 2, 3, 4, 5, 6, 7], 16 << 10);
    let copies = |world: &World| world.log.iter().filter(|record| record.kind == RecordKind::Copies).count();
    let before = copies(&world);
    world.broker.set_room(Room { free_bytes: segment_bytes, segment_bytes });
    world.broker.log_has(&many, segment_bytes);
    world.pass(20, &[]);
    assert_eq!(copies(&world), before);
    world.broker.set_room(Room { free_bytes: 2 * segment_bytes, segment_bytes });
    world.broker.log_has(&many, segment_bytes);
    world.pass(20, &[]);
    assert!(copies(&world) > before);
}

#[test]
fn a_record_is_closed_before_it_outgrows_the_log() {
    let (mut world, plan) = world(&shop());
    let before = world.log.len();
    let mut started = 0;
    for _ in 0..3 {
        let mut frame = Vec::new();
        while frame.len() < FRAME_BYTES_MAX - 1024 {
            let mut header = Header::new(Kind::Start);
            header.plan = plan.into();
            let mut transaction = TransactionWriter::new(&mut frame, 0);
            transaction.publish_with(header, |body| {
                body.section(Section::INPUT, b"tea").section(Section::KEY, format!("{started}").as_bytes());
            });
            transaction.finish();
            started += 1;
        }
        world.broker.receive(b"client", &frame, world.now_ms);
    }
    world.settle();
    let most = Config::default().record_bytes + TRANSACTION_BYTES_MAX;
    assert!(world.log[before..].iter().all(|record| record.payload.len() <= most));
    assert!(world.log.iter().zip(1..).all(|(record, lsn)| record.lsn == lsn));
    world.restart(world.log.len());
    assert_eq!(world.broker.state().sagas.len(), started);
}

#[test]
fn fences_in_memory_allow_one_process_of_a_service() {
    let mut world = World::new();
    world.subscribe("one", Role::Service, "stock", Flags::EXCLUSIVE);
    world.subscribe("two", Role::Service, "stock", Flags::EXCLUSIVE);
    assert_eq!(refusal(&mut world, "two"), Some(Refusal::Exclusive));
    world.pass(HEARTBEAT_MS * (HEARTBEATS_MISSED_MAX + 2), &[]);
    world.subscribe("two", Role::Service, "stock", Flags::EXCLUSIVE);
    assert!(world.take("two").iter().any(|got| got.kind() == Kind::Subscribe));
}

#[test]
fn a_stuck_compensation_is_listed_and_can_be_skipped() {
    let (mut world, plan) = world(&shop());
    begin(&mut world, plan, "k");
    cancel(&mut world, "k");
    let undo = undo_at(&mut world, "create");
    world.pass(6_000, &EVERYBODY);
    assert_eq!(status(&mut world, "k"), StatusCode::Stuck);
    let mut resolve = Header::new(Kind::Resolve);
    resolve.saga = undo.header.saga;
    resolve.active = 2.into();
    world.say("client", &[], &[(resolve, vec![(Section::TEXT, b"by hand".to_vec())])]);
    let told = world.take("client").into_iter().find(|got| got.kind() == Kind::Result).unwrap();
    assert_eq!(told.place(), OutcomeCode::Compensated.code());
    assert_eq!(told.section(Section::SKIPPED), Some(&b"\x91\x92\x00\xa7by hand"[..]));
}
