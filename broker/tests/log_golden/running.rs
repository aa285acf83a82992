//! Logs of a broker with running and ended sagas in them: what a replay must make of records.

use std::path::Path;

use sagacore_broker::RecordKind;
use sagacore_broker::log::FrameType;
use sagacore_core::wire::{Flags, Header, Kind, Role, Section};

use crate::cases::{Case, start};
use crate::disk_of;
use crate::peers::{World, carried, done, undone};
use crate::sagas::SagaModel;
use crate::support::CrashDisk;

/// Logs of a broker that left to coordinators what follows from one token. No code writes such ones any more, so they
/// are what the files say.
pub fn kept(folder: &Path) -> Vec<Case> {
    let kept = [
        ("sagas", "Sagas: one completed, one running, one aborted, one begun."),
        ("sagas-copied", "The same, as copies only."),
    ];
    let case = |(name, about)| {
        let disk = disk_of(folder, name);
        assert!(!disk.list().is_empty(), "{name} is gone, and nothing can write it");
        Case::new(name, about, disk)
    };
    kept.map(case).into()
}

/// One step, so that its saga soon ends.
fn short() -> SagaModel {
    let mut saga = SagaModel::new("short");
    saga.step("pay", &[]);
    saga
}

/// Two steps that meet, for which it takes a coordinator.
fn meeting() -> SagaModel {
    let mut saga = SagaModel::new("meeting");
    saga.step("left", &[]);
    saga.step("right", &[]);
    saga.step("last", &[0, 1]);
    saga
}

pub fn all() -> Vec<Case> {
    let world = followed();
    let copies = world.log.iter().rposition(|record| record.kind == RecordKind::Transactions).unwrap() + 1;
    vec![
        Case::new(
            "sagas-followed",
            "What follows from one token is in its record; an arrival and a REVOKED wait for a coordinator.",
            log(&world, 0),
        ),
        Case::new("sagas-followed-copied", "The same, as copies only.", log(&world, copies)),
    ]
}

/// Sagas in all states, and then their copies.
fn followed() -> World {
    let mut world = World::new();
    world.subscribe("client", Role::Client, "", 0);
    world.subscribe("coordinator", Role::Coordinator, "", 0);
    for name in ["pay", "left", "right"] {
        world.subscribe(name, Role::Service, &format!("{name}-service"), 0);
    }
    let (short, meeting) = (world.define(&short()), world.define(&meeting()));
    world.now_ms = 40;
    for key in ["completed", "running", "aborted", "compensated"] {
        world.start(short, key, &format!("input of {key}"), 7);
    }
    for key in ["arrived", "revoked"] {
        world.start(meeting, key, &format!("input of {key}"), 7);
    }
    world.now_ms = 90;
    for name in ["pay", "left"] {
        let run = world.tokens(name).remove(0);
        world.say(name, &[run.key()], &[(done(&run, 0), carried(&run))]);
    }
    for key in ["compensated", "aborted", "revoked"] {
        let mut cancel = Header::new(Kind::Cancel);
        cancel.set(Flags::BY_KEY);
        world.say("client", &[], &[(cancel, vec![(Section::KEY, key.as_bytes().to_vec())])]);
    }
    let undo = world.tokens("pay").into_iter().find(|got| got.kind() == Kind::Undo).unwrap();
    world.say("pay", &[undo.key()], &[(undone(&undo, 0), vec![])]);
    assert_eq!((world.broker.state().sagas.len(), world.broker.state().outcomes.len()), (4, 2));

    // More segments than are kept: a sweep copies all that is live.
    world.broker.log_has(&[1, 2, 3, 4, 5, 6, 7], 16 << 10);
    world.pass(20, &[]);
    assert_eq!(world.log.last().unwrap().kind, RecordKind::Copies);
    world
}

/// The records of a world as a log, from one of them on.
fn log(world: &World, from: usize) -> CrashDisk {
    let disk = CrashDisk::default();
    let mut writer = start(&disk);
    for record in &world.log[from..] {
        let kind = match record.kind {
            RecordKind::Transactions => FrameType::Batch,
            RecordKind::Copies => FrameType::Copy,
        };
        writer.append(kind, record.time_ms, &record.payload).unwrap();
    }
    writer.commit().unwrap();
    disk
}
