//! Clients and operators: starting sagas, asking how far they are, ordering, and the broker's answers.

use sagacore_core::wire::{Flags, Header, Kind, OutcomeCode, Section, StatusCode};

use super::{CHARGE, From, INPUT, KEY, REJECTED, SCHEDULE, SCHEDULED, Vector, full, message, one, plan, plans, saga};
use crate::wire_model::TransactionModel;

/// The correlation of all requests here.
const CORRELATION: u64 = 9;

fn request(kind: Kind) -> Header {
    let mut header = Header::new(kind);
    header.amount = CORRELATION.into();
    header
}

fn about_saga(kind: Kind, place: u16) -> Header {
    let mut header = request(kind);
    (header.saga, header.place) = (saga(), place.into());
    header
}

fn by_key(kind: Kind) -> Header {
    let mut header = request(kind);
    header.set(Flags::BY_KEY);
    header
}

fn told(header: Header, sections: &[(u8, &[u8])]) -> Vec<TransactionModel> {
    one(0, &[], vec![message(header, sections)])
}

pub fn vectors() -> Vec<Vector> {
    [starting(), asking(), outcomes(), ordering(), operating()].into_iter().flatten().collect()
}

fn starting() -> Vec<Vector> {
    let definition = plans::diamond().encode();
    let mut define = Header::new(Kind::Define);
    define.plan = plan().into();
    let mut start = request(Kind::Start);
    (start.plan, start.trace) = (plan().into(), full(Kind::Start, 0).trace);
    let mut quiet = start;
    quiet.set(Flags::QUIET);
    let numbered = |number, header: Header, sections: &[(u8, &[u8])]| one(number, &[], vec![message(header, sections)]);
    let mut batch = numbered(1, define, &[(Section::DATA, &definition)]);
    for number in 2..5_u64 {
        let mut next = quiet;
        next.amount = (CORRELATION + number).into();
        let key = format!("order-{number}");
        batch.extend(numbered(number, next, &[(Section::INPUT, INPUT), (Section::KEY, key.as_bytes())]));
    }
    vec![
        Vector::new(
            "define",
            From::Client,
            "A plan's definition under its fingerprint: the shop of the plans.",
            numbered(1, define, &[(Section::DATA, &definition)]),
        ),
        Vector::new(
            "start",
            From::Client,
            "A saga with its input under the user's key. The broker gives it its id.",
            numbered(2, start, &[(Section::INPUT, INPUT), (Section::KEY, KEY)]),
        ),
        Vector::new(
            "start-many",
            From::Client,
            "One frame of four transactions: a definition and three sagas, each without a STATUS in answer.",
            batch,
        ),
    ]
}

fn asking() -> Vec<Vector> {
    let mut running = about_saga(Kind::Status, StatusCode::Running.code());
    running.active = 0b0110.into();
    vec![
        Vector::new("status", From::Client, "How far is the saga of this id?", told(about_saga(Kind::Status, 0), &[])),
        Vector::new(
            "status-by-key",
            From::Client,
            "The same by the user's key.",
            told(by_key(Kind::Status), &[(Section::KEY, KEY)]),
        ),
        Vector::new(
            "status-answer",
            From::Broker,
            "It is running at steps 1 and 2, whose names are in DATA.",
            told(running, &[(Section::DATA, b"\x92\xa6charge\xa7reserve")]),
        ),
        Vector::new(
            "status-unknown",
            From::Broker,
            "No saga of this id or key runs or is remembered.",
            told(request(Kind::Status), &[(Section::DATA, b"")]),
        ),
        Vector::new(
            "attach",
            From::Client,
            "Tell me the outcome of the saga with this key.",
            told(by_key(Kind::Attach), &[(Section::KEY, KEY)]),
        ),
    ]
}

fn outcomes() -> Vec<Vector> {
    let result = |outcome: OutcomeCode| {
        let mut header = about_saga(Kind::Result, outcome.code());
        header.plan = plan().into();
        header
    };
    let skipped = b"\x91\x92\x00\xb0order was a test";
    vec![
        Vector::new(
            "result-completed",
            From::Broker,
            "The saga is completed; the body has the results that its plan returns.",
            told(result(OutcomeCode::Completed), &[(SCHEDULE as u8, SCHEDULED)]),
        ),
        Vector::new(
            "result-compensated",
            From::Broker,
            "The saga is compensated: step 1 rejected it.",
            told(result(OutcomeCode::Compensated), &[(Section::CAUSE, REJECTED)]),
        ),
        Vector::new(
            "result-skipped",
            From::Broker,
            "The same; an operator skipped the compensation of step 0.",
            told(result(OutcomeCode::Compensated), &[(Section::CAUSE, REJECTED), (Section::SKIPPED, skipped)]),
        ),
    ]
}

fn ordering() -> Vec<Vector> {
    vec![
        Vector::new(
            "cancel",
            From::Client,
            "Abort the saga with this key, and why.",
            one(
                5,
                &[],
                vec![message(by_key(Kind::Cancel), &[(Section::KEY, KEY), (Section::TEXT, b"changed my mind")])],
            ),
        ),
        Vector::new("cancel-answer", From::Broker, "It is being aborted.", told(request(Kind::Cancel), &[])),
    ]
}

fn operating() -> Vec<Vector> {
    let resolve = |number: u64, place: u16, action: u64, sections: &[(u8, &[u8])]| {
        let mut header = about_saga(Kind::Resolve, place);
        header.active = action.into();
        one(number, &[], vec![message(header, sections)])
    };
    let stuck = stuck_list(&saga().to_string());
    let figures = b"\x83\xa7started\x2a\xa9completed\x29\xaccoordinators\x91\xc4\x08\x81\xa5slots\x10";
    vec![
        Vector::new(
            "resolve-retry",
            From::Client,
            "Try the stuck step 1 again now.",
            resolve(6, CHARGE, 1, &[(Section::TEXT, b"the gateway is back"), (Section::DATA, b"")]),
        ),
        Vector::new(
            "resolve-skip",
            From::Client,
            "Go on without the compensation of step 0.",
            resolve(7, 0, 2, &[(Section::TEXT, b"order was a test")]),
        ),
        Vector::new(
            "resolve-done",
            From::Client,
            "Take this as the result of step 3, which was done by hand.",
            resolve(8, SCHEDULE, 3, &[(Section::TEXT, b"called them"), (Section::DATA, SCHEDULED)]),
        ),
        Vector::new("resolve-answer", From::Broker, "It is so.", told(request(Kind::Resolve), &[])),
        Vector::new("stats", From::Client, "Your counters?", told(request(Kind::Stats), &[])),
        Vector::new(
            "stats-answer",
            From::Broker,
            "A map of counters; what coordinators said of themselves is wrapped as bin.",
            told(request(Kind::Stats), &[(Section::DATA, figures)]),
        ),
        Vector::new("stuck", From::Client, "What is stuck?", told(request(Kind::Stuck), &[])),
        Vector::new(
            "stuck-answer",
            From::Broker,
            "One saga that compensates: its id as text, its plan's name, the phase and the steps.",
            told(request(Kind::Stuck), &[(Section::DATA, &stuck)]),
        ),
    ]
}

/// An array of one stuck saga: MessagePack written by hand.
fn stuck_list(id: &str) -> Vec<u8> {
    let text = |text: &str| [&[0xa0 | text.len() as u8], text.as_bytes()].concat();
    [vec![0x91, 0x94], text(id), text("place-order"), text("compensating"), vec![0x91], text("charge")].concat()
}
