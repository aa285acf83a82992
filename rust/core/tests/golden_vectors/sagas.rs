//! One saga through services and coordinator: forward to its end, and back.

use sagacore_core::wire::{Flags, Header, Key, Kind, OutcomeCode, Section};

use super::{
    CHARGE, CHARGED, CREATE, CREATED, From, INPUT, REJECTED, RESERVE, SCHEDULE, SCHEDULED, Vector, full, key, message,
    of_saga, one, plan, plans, sets, spliced,
};
use crate::wire_model::{MessageModel, TransactionModel};

const CREATE_RESULT: u8 = CREATE as u8;
const CHARGE_RESULT: u8 = CHARGE as u8;
const SCHEDULE_RESULT: u8 = SCHEDULE as u8;

/// The edges of the plan: from charge and from reserve into schedule, and from schedule into the end.
const CHARGE_TO_SCHEDULE: u16 = 0;
const RESERVE_TO_SCHEDULE: u16 = 1;
const SCHEDULE_TO_END: u16 = 2;

pub fn vectors() -> Vec<Vector> {
    [forward_at_services(), failures(), backward_at_services(), forward_at_coordinator(), backward_at_coordinator()]
        .into_iter()
        .flatten()
        .collect()
}

/// As the broker delivers it to a coordinator, after so many deliveries before.
fn delivered(mut header: Header, deliveries: u16) -> Vec<MessageModel> {
    header.deliveries = deliveries.into();
    vec![message(header, &[])]
}

fn definition() -> MessageModel {
    let mut define = Header::new(Kind::Define);
    define.plan = plan().into();
    message(define, &[(Section::DATA, &plans::diamond().encode())])
}

/// A service's transaction: it consumes what was delivered.
fn answer(number: u64, consumed: Key, messages: Vec<MessageModel>) -> Vec<TransactionModel> {
    one(number, &[consumed], messages)
}

fn forward_at_services() -> Vec<Vector> {
    let created: &[(u8, &[u8])] = &[(CREATE_RESULT, CREATED), (Section::INPUT, INPUT)];
    let first = sets(full(Kind::Run, CREATE), 0, 0b0001, 0);
    let mut pivoted = sets(full(Kind::Done, SCHEDULE_TO_END), 0b1111, 0, 0);
    pivoted.set(Flags::PIVOTED);
    pivoted.deadline_ms = 0.into();
    vec![
        Vector::new(
            "run-delivered",
            From::Broker,
            "The plan, which this session has not seen yet, and the first step, delivered for the first time.",
            one(0, &[], vec![definition(), message(first, &[(Section::INPUT, INPUT)])]),
        ),
        Vector::new(
            "run-to-two-runs",
            From::Service,
            "Step 0 is done: both steps that follow it are asked for, each with the result that it reads.",
            answer(
                11,
                key(Kind::Run, CREATE),
                vec![
                    message(sets(full(Kind::Run, CHARGE), 0b0001, 0b0010, 0), created),
                    message(sets(full(Kind::Run, RESERVE), 0b0001, 0b0100, 0), created),
                ],
            ),
        ),
        Vector::new(
            "run-to-done",
            From::Service,
            "Step 1 is done: its edge into the join has arrived, with the result that step 3 reads.",
            answer(
                12,
                key(Kind::Run, CHARGE),
                vec![message(
                    sets(full(Kind::Done, CHARGE_TO_SCHEDULE), 0b0011, 0, 0),
                    &[(CHARGE_RESULT, CHARGED), (Section::INPUT, INPUT)],
                )],
            ),
        ),
        Vector::new(
            "run-of-pivot-to-done",
            From::Service,
            "Step 3, the pivot, is done: PIVOTED, no deadline any more, and its edge into the end.",
            answer(
                13,
                key(Kind::Run, SCHEDULE),
                vec![message(pivoted, &[(SCHEDULE_RESULT, SCHEDULED), (Section::INPUT, INPUT)])],
            ),
        ),
    ]
}

fn failures() -> Vec<Vector> {
    let failed = sets(full(Kind::Fail, CHARGE), 0b0001, 0b0010, 0);
    let mut clean = failed;
    clean.set(Flags::CLEAN);
    let mut later = sets(full(Kind::RetryLater, CHARGE), 0b0001, 0b0010, 0);
    later.amount = 1_500.into();
    vec![
        Vector::new(
            "fail-clean",
            From::Service,
            "Step 1 was rejected and had no effect: CLEAN.",
            answer(14, key(Kind::Run, CHARGE), vec![message(clean, &[(Section::CAUSE, REJECTED)])]),
        ),
        Vector::new(
            "fail",
            From::Service,
            "Step 1 was given up and may have had an effect.",
            answer(
                14,
                key(Kind::Run, CHARGE),
                vec![message(failed, &[(Section::CAUSE, b"\x93\x02\x01\xaegateway is gone")])],
            ),
        ),
        Vector::new(
            "retry-later",
            From::Service,
            "Deliver this RUN again after 1500 ms.",
            answer(15, key(Kind::Run, CHARGE), vec![message(later, &[(Section::TEXT, b"gateway is busy")])]),
        ),
    ]
}

/// Step 1 was rejected while step 2 had been asked for: steps 0 and 2 are undone, 2 first, for it reads what 0 gave.
fn backward_at_services() -> Vec<Vector> {
    let undoing = |kind, place, left| {
        let mut header = sets(full(kind, place), 0b0101, 0, left);
        header.deadline_ms = 0.into();
        header
    };
    let body: &[(u8, &[u8])] = &[(Section::INPUT, INPUT), (Section::CAUSE, REJECTED)];
    let mut delivered = undoing(Kind::Undo, RESERVE, 0b0101);
    delivered.deliveries = 1.into();
    vec![
        Vector::new(
            "undo-delivered",
            From::Broker,
            "Undo step 2, delivered for the second time. The set to undo is in done, what is left in undo.",
            one(0, &[], vec![message(delivered, body)]),
        ),
        Vector::new(
            "undo-to-undo",
            From::Service,
            "Step 2 is undone: the next one is step 0.",
            answer(16, key(Kind::Undo, RESERVE), vec![message(undoing(Kind::Undo, CREATE, 0b0001), body)]),
        ),
        Vector::new(
            "undo-to-undone",
            From::Service,
            "Step 0 is undone: the only edge of this compensation graph, into the end.",
            answer(17, key(Kind::Undo, CREATE), vec![message(undoing(Kind::Undone, 0, 0), body)]),
        ),
    ]
}

fn forward_at_coordinator() -> Vec<Vector> {
    let mut completed = sets(spliced(Kind::Result, OutcomeCode::Completed.code()), 0b1111, 0, 0);
    completed.set(Flags::PIVOTED);
    let arrivals = [key(Kind::Done, CHARGE_TO_SCHEDULE), key(Kind::Done, RESERVE_TO_SCHEDULE)];
    let start = full(Kind::Start, 0);
    let spill = of_saga(Kind::Spill, 0);
    let mut later = of_saga(Kind::RetryLater, RESERVE_TO_SCHEDULE);
    later.amount = 5.into();
    vec![
        Vector::new(
            "start-delivered",
            From::Broker,
            "The plan, and a START. Coordinators get no bodies of tokens.",
            one(0, &[], vec![definition(), message(start, &[])]),
        ),
        Vector::new(
            "start-to-run",
            From::Coordinator,
            "The first step is asked for. SPLICE: the broker fills in the body and the saga's constants.",
            one(1, &[key(Kind::Start, 0)], vec![message(sets(spliced(Kind::Run, CREATE), 0, 0b0001, 0), &[])]),
        ),
        Vector::new(
            "done-delivered",
            From::Broker,
            "An arrival at the join, delivered for the fourth time: deliveries counts those before.",
            one(0, &[], delivered(sets(full(Kind::Done, RESERVE_TO_SCHEDULE), 0b0101, 0, 0), 3)),
        ),
        Vector::new(
            "join-to-run",
            From::Coordinator,
            "Both edges of the join have arrived: step 3 is asked for, with all that is done on either branch.",
            one(2, &arrivals, vec![message(sets(spliced(Kind::Run, SCHEDULE), 0b0111, 0b1000, 0), &[])]),
        ),
        Vector::new(
            "end-to-result",
            From::Coordinator,
            "The only edge into the end has arrived: completed.",
            one(3, &[key(Kind::Done, SCHEDULE_TO_END)], vec![message(completed, &[])]),
        ),
        Vector::new(
            "spill",
            From::Coordinator,
            "Hold this one arrival of block 0 until the next one comes.",
            one(4, &[key(Kind::Done, CHARGE_TO_SCHEDULE)], vec![message(spill, &[])]),
        ),
        Vector::new(
            "retry-later-of-coordinator",
            From::Coordinator,
            "There is no room for this arrival: deliver it again after 5 ms.",
            one(5, &[key(Kind::Done, RESERVE_TO_SCHEDULE)], vec![message(later, &[])]),
        ),
    ]
}

fn backward_at_coordinator() -> Vec<Vector> {
    let mut revoked = sets(full(Kind::Revoked, 0), 0b0001, 0b0100, 0b0101);
    revoked.deadline_ms = 0.into();
    let mut wide = revoked;
    wide.set(Flags::WIDE);
    wide.undo = 0b0111.into();
    let compensated = |set, undo| sets(spliced(Kind::Result, OutcomeCode::Compensated.code()), set, 0, undo);
    vec![
        Vector::new(
            "revoked-delivered",
            From::Broker,
            "The saga was aborted by step 1, cleanly: step 0 is done, step 2 may be, and both are to be undone.",
            one(0, &[], delivered(revoked, 0)),
        ),
        Vector::new(
            "revoked-wide",
            From::Broker,
            "The same of a saga of which the broker's log may have lost a part: all is to be undone.",
            one(0, &[], delivered(wide, 0)),
        ),
        Vector::new(
            "revoked-to-undo",
            From::Coordinator,
            "Step 2 is the root of the compensation graph over steps 0 and 2.",
            one(6, &[key(Kind::Revoked, 0)], vec![message(sets(spliced(Kind::Undo, RESERVE), 0b0101, 0, 0b0101), &[])]),
        ),
        Vector::new(
            "revoked-to-result",
            From::Coordinator,
            "Nothing is to be undone: compensated at once.",
            one(6, &[key(Kind::Revoked, 0)], vec![message(compensated(0, 0), &[])]),
        ),
        Vector::new(
            "undone-to-result",
            From::Coordinator,
            "The only edge into the end of the compensation graph has arrived: compensated.",
            one(7, &[key(Kind::Undone, 0)], vec![message(compensated(0b0101, 0), &[])]),
        ),
    ]
}
