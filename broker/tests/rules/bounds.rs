//! What peers can make a broker keep, and that each of it has an end.

use sagacore_broker::Config;
use sagacore_core::limits::{
    ATTACHED_MAX, COORDINATORS_MAX, FRAME_BYTES_MAX, HEARTBEAT_MS, HEARTBEATS_MISSED_MAX, MESSAGE_BYTES_MAX,
    OWED_BYTES_MAX, PLANS_MAX, REPORT_BYTES_MAX, SESSIONS_MAX,
};
use sagacore_core::wire::{Flags, Header, Key, Kind, Refusal, Role, Section, Transaction, TransactionWriter};

use crate::peers::{World, next, undone};
use crate::sagas::shop;
use crate::{begin, fail, refusal, undo_at, world};

fn by_key(kind: Kind, correlation: u64) -> Header {
    let mut header = Header::new(kind);
    header.set(Flags::BY_KEY);
    header.amount = correlation.into();
    header
}

fn key(name: &str) -> Vec<(u8, Vec<u8>)> {
    vec![(Section::KEY, name.as_bytes().to_vec())]
}

/// One frame of as many of these questions as fit.
fn questions(header: Header, name: &str) -> (Vec<u8>, usize) {
    let mut one = Vec::new();
    let mut transaction = TransactionWriter::new(&mut one, 0);
    transaction.publish_with(header, |body| _ = body.section(Section::KEY, name.as_bytes()));
    transaction.finish();
    let count = FRAME_BYTES_MAX / one.len();
    (one.repeat(count), count)
}

#[test]
fn names_of_services_go_with_their_sessions_unless_a_plan_has_them() {
    let (mut world, _) = world(&shop());
    let known = world.broker.state().plans.service_count();
    for number in 0..1_000 {
        world.subscribe("stranger", Role::Service, &format!("name-{number}"), 0);
    }
    assert_eq!(world.broker.state().plans.service_count(), known + 1);
    world.pass(HEARTBEAT_MS * (HEARTBEATS_MISSED_MAX + 2), &[]);
    assert_eq!(world.broker.state().plans.service_count(), known);
}

#[test]
fn a_place_that_a_name_left_is_another_one_s() {
    let mut world = World::new();
    world.subscribe("one", Role::Service, "one", 0);
    world.subscribe("one", Role::Service, "other", 0);
    world.subscribe("client", Role::Client, "", 0);
    let saga = shop();
    let plan = world.define(&saga);
    world.subscribe("create", Role::Service, &saga.steps[0].service, 0);
    world.subscribe("coordinator", Role::Coordinator, "", 0);
    begin(&mut world, plan, "k");
    world.token("create", Kind::Run);
    assert!(world.tokens("one").is_empty());
}

#[test]
fn sessions_and_coordinators_are_counted_and_a_refusal_says_so() {
    let mut world = World::new();
    for number in 0..COORDINATORS_MAX {
        world.subscribe(&format!("coordinator-{number}"), Role::Coordinator, "", 0);
    }
    world.subscribe("one-more", Role::Coordinator, "", 0);
    assert_eq!(refusal(&mut world, "one-more"), Some(Refusal::Full));
    let mut header = Header::new(Kind::Subscribe);
    header.place = Role::Client.code().into();
    let mut frame = Vec::new();
    TransactionWriter::new(&mut frame, 0).finish_with(&frame_of(header), 1);
    for number in COORDINATORS_MAX..SESSIONS_MAX {
        world.broker.receive(format!("client-{number}").as_bytes(), &frame, 0);
    }
    world.subscribe("one-more", Role::Client, "", 0);
    assert_eq!(refusal(&mut world, "one-more"), Some(Refusal::Full));
}

fn frame_of(header: Header) -> Vec<u8> {
    let mut out = Vec::new();
    sagacore_core::wire::write_message(&mut out, header, |_| {});
    out
}

#[test]
fn plans_are_counted_and_a_refusal_says_so() {
    let mut world = World::new();
    world.subscribe("client", Role::Client, "", 0);
    let mut saga = shop();
    for number in 0..PLANS_MAX {
        saga.name = format!("plan-{number}");
        world.define(&saga);
    }
    assert_eq!(refusal(&mut world, "client"), None);
    saga.name = "one-more".to_owned();
    world.define(&saga);
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::Full));
}

#[test]
fn a_client_that_attaches_again_and_again_is_refused_in_the_end_and_the_others_are_told() {
    let (mut world, plan) = world(&shop());
    world.start(plan, "k", "tea", 7);
    for correlation in 0..ATTACHED_MAX as u64 - 1 {
        world.say("client", &[], &[(by_key(Kind::Attach, 100 + correlation), key("k"))]);
    }
    assert_eq!(refusal(&mut world, "client"), None);
    world.say("client", &[], &[(by_key(Kind::Attach, 1), key("k"))]);
    assert_eq!(refusal(&mut world, "client"), Some(Refusal::Full));
    world.say("client", &[], &[(by_key(Kind::Cancel, 2), key("k"))]);
    let undo = undo_at(&mut world, "create");
    world.say("create", &[undo.key()], &[(undone(&undo, 0), vec![])]);
    let told = world.take("client").into_iter().filter(|got| got.kind() == Kind::Result).count();
    assert_eq!(told, ATTACHED_MAX);
}

#[test]
fn small_questions_with_large_answers_wait_until_the_answers_are_sent() {
    let (mut world, _) = world(&shop());
    let mut report = Header::new(Kind::Ping);
    report.amount = 1.into();
    for number in 1..COORDINATORS_MAX {
        let name = format!("coordinator-{number}");
        world.subscribe(&name, Role::Coordinator, "", 0);
        world.say(&name, &[], &[(report, vec![(Section::DATA, vec![0; REPORT_BYTES_MAX])])]);
    }
    let (frame, count) = questions(Header::new(Kind::Stats), "");
    let mut frames = Vec::new();
    world.broker.receive(b"client", &frame, 0);
    assert!(world.broker.flush(0).is_none());
    world.broker.tick(0);
    assert!(world.broker.owes_much());
    let (mut bytes, mut rounds) = (0, 0);
    loop {
        world.broker.take_frames(&mut frames);
        let sent: usize = frames.drain(..).map(|(_, frame)| frame.len()).sum();
        assert!(sent <= OWED_BYTES_MAX + 2 * FRAME_BYTES_MAX, "{sent} bytes at a time");
        if sent == 0 {
            break;
        }
        (bytes, rounds) = (bytes + sent, rounds + 1);
        world.broker.tick(0);
    }
    assert!(
        rounds > 2 && bytes > count * (COORDINATORS_MAX - 1) * REPORT_BYTES_MAX,
        "{bytes} bytes in {rounds} rounds"
    );
    assert!(!world.broker.owes_much());
}

#[test]
fn only_a_coordinator_reports_of_itself_and_shortly() {
    let (mut world, _) = world(&shop());
    let said = |bytes: usize| (Header::new(Kind::Ping), vec![(Section::DATA, vec![0xc0; bytes])]);
    world.say("create", &[], &[said(10)]);
    world.say("coordinator", &[], &[said(REPORT_BYTES_MAX + 1)]);
    world.say("client", &[], &[(Header::new(Kind::Stats), vec![])]);
    let stats = world.take("client").into_iter().find(|got| got.kind() == Kind::Stats).unwrap();
    assert_eq!(stats.section(Section::DATA).unwrap().last(), Some(&0x90), "no coordinator said anything");
}

#[test]
fn a_list_of_stuck_sagas_fits_into_a_message() {
    let mut saga = shop();
    saga.name = "n".repeat(100);
    saga.steps.iter_mut().for_each(|step| step.name = format!("{:-<100}", step.name));
    let (mut world, plan) = world(&saga);
    for number in 0..200 {
        world.start(plan, &format!("k{number}"), "tea", number);
        world.say("client", &[], &[(by_key(Kind::Cancel, 1_000), key(&format!("k{number}")))]);
    }
    world.pass(10_000, &["client"]);
    world.say("client", &[], &[(Header::new(Kind::Stuck), vec![])]);
    let listed = world.take("client").into_iter().find(|got| got.kind() == Kind::Stuck).unwrap();
    assert!(listed.body.len() > 10_000 && listed.body.len() < MESSAGE_BYTES_MAX);
}

#[test]
fn a_lease_without_end_has_one() {
    let mut world = World::new();
    let saga = shop();
    for name in ["client", "coordinator"] {
        world.subscribe(name, if name == "client" { Role::Client } else { Role::Coordinator }, "", 0);
    }
    let mut header = Header::new(Kind::Subscribe);
    header.place = Role::Service.code().into();
    (header.active, header.done) = (u64::MAX.into(), u64::MAX.into());
    world.say("create", &[], &[(header, vec![(Section::NAME, saga.steps[0].service.as_bytes().to_vec())])]);
    let plan = world.define(&saga);
    begin(&mut world, plan, "k");
    world.token("create", Kind::Run);
}

#[test]
fn results_are_no_larger_than_declared_whoever_carries_them() {
    let saga = shop();
    let (mut world, plan) = world(&saga);
    begin(&mut world, plan, "k");
    let run = world.token("create", Kind::Run);
    let on = next(&run, Kind::Run, 1, 1, 2);
    let with = |key: u8, bytes: usize| vec![(key, vec![0; bytes]), (Section::INPUT, b"tea".to_vec())];
    for (key, bytes) in [(0, 4_000), (3, 1), (Section::CAUSE - 2, 1)] {
        world.say("create", &[run.key()], &[(on, with(key, bytes))]);
        assert_eq!(refusal(&mut world, "create"), Some(Refusal::TooLarge), "section {key} of {bytes}");
    }
    let long = |step: u8| [&[0x93, 1, step, 0xda, 1, 0x00][..], &[b'x'; 256]].concat();
    let fail = next(&run, Kind::Fail, 0, 0, 1);
    world.say("create", &[run.key()], &[(fail, vec![(Section::CAUSE, long(0))])]);
    assert_eq!(refusal(&mut world, "create"), Some(Refusal::Mismatch));
}

#[test]
fn a_log_that_says_what_no_broker_writes_is_refused() {
    let (mut world, plan) = world(&shop());
    let start = begin(&mut world, plan, "k");
    let replay = |change: &dyn Fn(&mut Header), consumes: &Key| {
        let mut broker = sagacore_broker::Broker::new(Config::default());
        let (last, before) = world.log.split_last().unwrap();
        for record in before {
            broker.replay(record.kind, record.lsn, record.time_ms, &record.payload).unwrap();
        }
        let mut run = next(&start, Kind::Run, 0, 0, 1);
        run.set(Flags::SPLICE);
        change(&mut run);
        // The record as it was, but for what follows from START.
        let (first, _) = Transaction::parse(&last.payload).unwrap();
        let mut payload = first.bytes().to_vec();
        let mut transaction = TransactionWriter::new(&mut payload, 1);
        transaction.consume(consumes).publish(run);
        transaction.finish();
        broker.replay(last.kind, last.lsn, last.time_ms, &payload).is_ok()
    };
    let key = start.key();
    assert!(replay(&|_| {}, &key));
    assert!(!replay(&|run| run.place = 1.into(), &key));
    assert!(!replay(&|run| run.place = 60_000.into(), &key));
    assert!(!replay(&|run| run.kind = Kind::Undo.code(), &key));
    assert!(!replay(&|run| run.done = 1.into(), &key));
    assert!(!replay(&|run| run.flags = 0.into(), &key));
}

#[test]
fn what_pending_messages_carry_is_counted_while_they_are_pending() {
    let (mut world, plan) = world(&shop());
    let begun = ["one", "two"].map(|key| begin(&mut world, plan, key));
    let carried = |world: &World| world.broker.state().tokens.values().map(|token| token.body.len()).sum::<usize>();
    assert_eq!(world.broker.state().body_bytes, carried(&world));
    for run in world.tokens("create") {
        fail(&mut world, "create", &run, Flags::CLEAN);
    }
    assert_eq!((world.broker.state().outcomes.len(), world.broker.state().body_bytes), (begun.len(), 0));
}
