//! Logs of a broker with running and ended sagas in them: what a replay must make of records.

use sagacore_broker::RecordKind;
use sagacore_broker::log::FrameType;
use sagacore_core::wire::{Flags, Header, Kind, OutcomeCode, Role, Section};

use crate::cases::{Case, start};
use crate::peers::{World, carried, next};
use crate::sagas::SagaModel;
use crate::support::CrashDisk;

/// One step, so that its saga soon ends.
fn short() -> SagaModel {
    let mut saga = SagaModel::new("short");
    saga.step("pay", &[]);
    saga
}

pub fn all() -> Vec<Case> {
    let mut world = World::new();
    for (name, role, service) in
        [("client", Role::Client, ""), ("coordinator", Role::Coordinator, ""), ("pay", Role::Service, "pay-service")]
    {
        world.subscribe(name, role, service, 0);
    }
    let plan = world.define(&short());
    world.now_ms = 40;
    for key in ["completed", "running", "aborted", "begun"] {
        world.start(plan, key, &format!("input of {key}"), 7);
    }
    let starts = world.tokens("coordinator");
    for start in &starts[..3] {
        let mut run = next(start, Kind::Run, 0, 0, 1);
        run.set(Flags::SPLICE);
        world.say("coordinator", &[start.key()], &[(run, vec![])]);
    }
    let run = world.tokens("pay").remove(0);
    world.now_ms = 90;
    let mut result = carried(&run);
    result.retain(|(section, _)| *section == Section::INPUT);
    world.say("pay", &[run.key()], &[(next(&run, Kind::Done, 0, 1, 0), result)]);
    for done in world.tokens("coordinator") {
        let mut header = next(&done, Kind::Result, OutcomeCode::Completed.code(), 0, 0);
        header.set(Flags::SPLICE);
        world.say("coordinator", &[done.key()], &[(header, vec![])]);
    }
    let mut cancel = Header::new(Kind::Cancel);
    cancel.set(Flags::BY_KEY);
    world.say("client", &[], &[(cancel, vec![(Section::KEY, b"aborted".to_vec())])]);
    assert_eq!((world.broker.state().sagas.len(), world.broker.state().outcomes.len()), (3, 1));
    let before = world.log.len();

    // More segments than are kept: a sweep copies all that is live.
    world.broker.log_has(&[1, 2, 3, 4, 5, 6, 7], 16 << 10);
    world.pass(20, &[]);
    assert!(world.log[before..].iter().any(|record| record.kind == RecordKind::Copies));
    vec![
        Case::new("sagas", "Sagas: one completed, one running, one aborted, one begun.", log(&world, 0)),
        Case::new("sagas-copied", "The same, as copies only.", log(&world, before)),
    ]
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
