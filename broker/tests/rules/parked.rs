//! Sagas that only wait: where they are kept makes no difference to anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sagacore_broker::log::{Fault, LogError, ReadBack};
use sagacore_broker::{Broker, Config, ParkingBounds, RecordKind};
use sagacore_core::wire::{Kind, Refusal, Role, StatusCode};

use crate::peers::{World, carried, next};
use crate::sagas::shop;
use crate::{begin, cancel, join_uncoordinated, status, undo_at};

const SAGAS: usize = 40;
const LONG_MS: u64 = 5_000;

/// The payloads of copies by LSN, as a log would give them back.
#[derive(Clone, Default)]
struct Copies(Arc<Mutex<BTreeMap<u64, Vec<u8>>>>);

impl Copies {
    fn take_from(&self, world: &World) {
        let copies = world.log.iter().filter(|record| record.kind == RecordKind::Copies);
        *self.0.lock().unwrap() = copies.map(|record| (record.lsn, record.payload.clone())).collect();
    }
}

impl ReadBack for Copies {
    fn read(&mut self, lsn: u64, payload: &mut Vec<u8>) -> Result<(), LogError> {
        let copies = self.0.lock().unwrap();
        let found = copies.get(&lsn);
        let lost = LogError::ReadBack { file: "memory".to_owned(), offset: 0, lsn, fault: Fault::Checksum };
        payload.clone_from(found.ok_or(lost)?);
        Ok(())
    }
}

/// Some sagas that wait for their first service, which is not there, and are parked.
fn parked() -> (World, Copies) {
    // A record for each, so that what was read last is not all that there is.
    let parking = ParkingBounds { record_bytes: 1, ..ParkingBounds::default() };
    let (mut world, copies) = (World::of(Config { parking, ..Config::default() }), Copies::default());
    world.broker.set_read_back(Box::new(copies.clone()));
    world.subscribe("client", Role::Client, "", 0);
    let plan = world.define(&shop());
    for number in 0..SAGAS {
        begin(&mut world, plan, &format!("key-{number}"));
    }
    world.pass(LONG_MS, &["client"]);
    let state = world.broker.state();
    assert_eq!((state.parked(), state.running(), state.sagas.len(), state.tokens.len()), (SAGAS, SAGAS, 0, 0));
    assert_eq!((state.pending_tokens(), state.body_bytes), (SAGAS, 0));
    copies.take_from(&world);
    (world, copies)
}

#[test]
fn a_service_that_comes_is_asked_oldest_first() {
    let (mut world, _) = parked();
    join_uncoordinated(&mut world, &shop());
    let runs = world.tokens("create");
    let sequences: Vec<u64> = runs.iter().map(|run| run.header.saga.sequence.get()).collect();
    assert_eq!(sequences, (1..=SAGAS as u64).collect::<Vec<_>>());
    assert!(runs.iter().all(|run| run.header.deliveries.get() == 0 && carried(run)[0].1 == b"tea"));
    assert_eq!(world.broker.state().parked(), 0);
    // They go on as if nothing had been.
    let run = &runs[0];
    world.say("create", &[run.key()], &[(next(run, Kind::Run, 1, 1, 2), carried(run))]);
    assert_eq!(world.tokens("charge").len(), 1);
}

#[test]
fn one_that_is_asked_for_is_read_back_alone_and_parked_again_without_a_copy() {
    let (mut world, copies) = parked();
    assert_eq!(status(&mut world, "key-3"), StatusCode::Running);
    assert_eq!((world.broker.state().parked(), world.broker.state().sagas.len()), (SAGAS - 1, 1));
    world.start(world.logged(Kind::Start).header.plan.get(), "key-5", "tea", 9);
    assert_eq!((world.broker.state().parked(), world.broker.state().running()), (SAGAS - 2, SAGAS));
    let records = world.log.len();
    world.pass(LONG_MS, &["client"]);
    assert_eq!((world.broker.state().parked(), world.log.len()), (SAGAS, records));
    copies.take_from(&world);
    cancel(&mut world, "key-3");
    assert_eq!(status(&mut world, "key-3"), StatusCode::Compensating);
    assert_eq!(world.broker.state().running(), SAGAS);
}

#[test]
fn a_deadline_passes_while_a_saga_is_parked() {
    let (mut world, copies) = parked();
    world.pass(shop().deadline_ms, &["client"]);
    assert_eq!(world.broker.state().counters.revoked, SAGAS as u64);
    // They wait again, as they are now.
    copies.take_from(&world);
    assert_eq!(status(&mut world, "key-0"), StatusCode::Compensating);
}

#[test]
fn a_start_keeps_as_many_in_memory_as_it_may() {
    let (world, copies) = parked();
    let parking = ParkingBounds { replayed_max: 5, ..ParkingBounds::default() };
    let mut broker = Broker::new(Config { parking, ..world.config });
    broker.set_read_back(Box::new(copies));
    for record in &world.log {
        broker.replay(record.kind, record.lsn, record.time_ms, &record.payload).unwrap();
    }
    let state = broker.state();
    assert_eq!((state.parked(), state.sagas.len()), (SAGAS - 5, 5));
    assert_eq!(state.reserved_bytes, world.broker.state().reserved_bytes);
}

#[test]
fn what_cannot_be_read_back_ends_the_broker_and_is_told_to_nobody() {
    let (mut world, copies) = parked();
    copies.0.lock().unwrap().clear();
    world.take("client");
    let written = world.log.len();
    cancel(&mut world, "key-0");
    let failed = world.broker.failed().unwrap();
    assert!(failed.starts_with("log.read-back: ") && failed.contains("\nhint: "), "{failed}");
    assert_eq!((world.take("client").len(), world.log.len()), (0, written));
    join_uncoordinated(&mut world, &shop());
    assert!(world.take("create").is_empty());
}

#[test]
fn a_stale_answer_to_a_parked_saga_is_refused_as_ever() {
    let (mut world, copies) = parked();
    join_uncoordinated(&mut world, &shop());
    let run = world.tokens("create").remove(0);
    world.say("create", &[run.key()], &[(next(&run, Kind::Run, 1, 1, 2), carried(&run))]);
    world.take("charge");
    // Nobody is there any more: the next step waits, and is parked.
    world.pass(LONG_MS, &["client"]);
    world.pass(LONG_MS, &["client"]);
    copies.take_from(&world);
    assert!(world.broker.state().parked() > 0);
    join_uncoordinated(&mut world, &shop());
    world.take("create");
    world.say("create", &[run.key()], &[(next(&run, Kind::Run, 1, 1, 2), carried(&run))]);
    assert_eq!(crate::refusal(&mut world, "create"), Some(Refusal::Stale));
    cancel(&mut world, "key-0");
    assert_eq!(undo_at(&mut world, "charge").header.undo.get() & 1, 1);
}
