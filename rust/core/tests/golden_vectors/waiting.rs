//! A step that waits, and what becomes of it.

use sagacore_core::wire::{
    Blocked, Flags, Freed, Header, HoldMode, Holder, Kind, ProbeHop, SagaId, Section, WHOLE_SAGA, WaitPolicy,
};
use zerocopy::IntoBytes as _;

use super::{CHARGE, CREATED, From, INPUT, SCHEDULE, Vector, full, key, message, one, sets};

const CREATE_RESULT: u8 = 0;

fn other(sequence: u64) -> SagaId {
    SagaId::new(3, sequence, 0xc0ff_ee02)
}

pub fn vectors() -> Vec<Vector> {
    [of_a_step(), across_shards()].into_iter().flatten().collect()
}

/// What the brokers of shard 3 and shard 4 tell each other.
fn across_shards() -> Vec<Vector> {
    let there = SagaId::new(4, 0x1234_0003, 0xc0ff_ee04);
    let hop = |saga: SagaId, wait| ProbeHop {
        saga,
        attempt: 1,
        wait,
        waited_ms: 2,
        may_abort: true,
        service: "payments".to_owned(),
        resource: b"card:4711".as_slice().into(),
    };
    let carried = |kind, saga, from: u64, to: u64| {
        let mut header = Header::new(kind);
        (header.saga, header.attempt) = (saga, 1.into());
        (header.done, header.active) = (from.into(), to.into());
        header
    };
    let (here, path) = (other(0x1234_0001), ProbeHop::write_all(&[hop(other(0x1234_0001), 1 << 32 | 7)]));
    let cycle = ProbeHop::write_all(&[hop(here, 1 << 32 | 7), hop(there, 1 << 32 | 9)]);
    let mut probe = carried(Kind::Probe, there, 3, 4);
    (probe.place, probe.amount) = (1.into(), (1 << 32 | 5).into());
    let mut give_way = carried(Kind::Probe, there, 3, 4);
    (give_way.place, give_way.amount) = (WHOLE_SAGA.into(), (1 << 32 | 5).into());
    give_way.undo = (1 << 32 | 9).into();
    let mut wake = carried(Kind::Wake, there, 4, 3);
    wake.place = WHOLE_SAGA.into();
    vec![
        Vector::new(
            "probe",
            From::Service,
            "Carried from shard 3 to shard 4: is step 1 of a saga there still in the way of one here?",
            one(0, &[], vec![message(probe, &[(Section::DATA, &path)])]),
        ),
        Vector::new(
            "probe-give-way",
            From::Service,
            "It is, and waits for the other one: the younger is to give way, if it still waits as it did.",
            one(0, &[], vec![message(give_way, &[(Section::DATA, &cycle)])]),
        ),
        Vector::new(
            "wake",
            From::Service,
            "Carried back: that saga has ended, or begun again.",
            one(0, &[], vec![message(wake, &[])]),
        ),
    ]
}

fn of_a_step() -> Vec<Vector> {
    let holders = vec![
        Holder { saga: other(0x1234_0001), attempt: 0, place: 1 },
        Holder { saga: other(0x1234_0002), attempt: 2, place: 0 },
    ];
    let (policy, mode) = (WaitPolicy::Detect, HoldMode::Exclusive);
    let blocked = Blocked { policy, mode, resource: b"card:4711", holders }.write();
    let freed = [Freed { saga: other(0x1234_0001), attempt: 0.into() }, Freed { saga: other(7), attempt: 3.into() }];
    let waits = sets(full(Kind::Blocked, CHARGE), 0b0001, 0b0010, 0);
    let run = sets(full(Kind::Run, CHARGE), 0b0001, 0b0010, 0);
    let mut pivot = sets(full(Kind::Run, SCHEDULE), 0b0111, 0b1000, 0);
    pivot.set(Flags::WOUNDED);
    pivot.deliveries = 1.into();
    let mut gave_way = sets(full(Kind::Fail, SCHEDULE), 0b0111, 0b1000, 0);
    gave_way.set(Flags::CLEAN);
    let mut asked = Header::new(Kind::Deadlocks);
    (asked.amount, asked.active) = (9.into(), 17.into());
    let mut told = Header::new(Kind::Deadlocks);
    told.amount = 9.into();
    let hop = |saga: &str| [b"\x93\xab", saga.as_bytes(), b"\xa8payments\xa9card:4711"].concat();
    let list =
        [&b"\x92\x12\x91\x96\x11\xcd\x03\xe8\x02\xab3-2-c0ffee0\xc2\x92"[..], &hop("3-1-c0ffee0"), &hop("3-2-c0ffee0")]
            .concat();
    let run_key = key(Kind::Run, CHARGE);
    vec![
        Vector::new(
            "blocked",
            From::Service,
            "Step 1 needs card:4711 for itself: step 1 of one saga has it, and step 0 of another one waits for it.",
            one(18, &[run_key], vec![message(waits, &[(Section::DATA, &blocked)])]),
        ),
        Vector::new(
            "run-that-waited",
            From::Broker,
            "Its RUN comes again: two that stood in its way have ended.",
            one(
                0,
                &[],
                vec![message(
                    run,
                    &[(CREATE_RESULT, CREATED), (Section::INPUT, INPUT), (Section::FREED, freed.as_bytes())],
                )],
            ),
        ),
        Vector::new(
            "run-wounded",
            From::Broker,
            "The saga lost a deadlock at its pivot: it must not wait again.",
            one(0, &[], vec![message(pivot, &[(Section::INPUT, INPUT)])]),
        ),
        Vector::new(
            "fail-victim",
            From::Service,
            "So it says no.",
            one(
                19,
                &[key(Kind::Run, SCHEDULE)],
                vec![message(gave_way, &[(Section::CAUSE, b"\x93\x06\x03\xacit gave way.")])],
            ),
        ),
        Vector::new(
            "deadlocks",
            From::Client,
            "Which deadlocks were resolved, from number 17 on?",
            one(0, &[], vec![message(asked, &[])]),
        ),
        Vector::new(
            "deadlocks-answer",
            From::Broker,
            "Number 17: two sagas waited for each other, and the second gave way 2 ms later. Go on with 18.",
            one(0, &[], vec![message(told, &[(Section::DATA, &list)])]),
        ),
    ]
}
