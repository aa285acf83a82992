//! Sessions: who a peer is, credit, heartbeats, and what became of its transactions.

use sagacore_core::limits::WATERMARK_CLASSES;
use sagacore_core::watermark::Watermark;
use sagacore_core::wire::{Flags, Header, Kind, Refusal, Role, Section};

use super::{From, Vector, message, one};
use crate::wire_model::TransactionModel;

fn subscription(role: Role, credit: u64) -> Header {
    let mut header = Header::new(Kind::Subscribe);
    header.place = role.code().into();
    header.amount = 0x1122_3344_5566_7788_u64.into();
    header.done = credit.into();
    header
}

fn control(kind: Kind, amount: u64) -> Header {
    let mut header = Header::new(kind);
    header.amount = amount.into();
    header
}

fn refusal(refusal: Refusal, number: u64, correlation: u64, text: &str) -> Vec<TransactionModel> {
    let mut header = control(Kind::Refused, number);
    header.place = refusal.code().into();
    header.active = correlation.into();
    one(0, &[], vec![message(header, &[(Section::TEXT, text.as_bytes())])])
}

pub fn vectors() -> Vec<Vector> {
    [subscriptions(), while_it_lasts(), watermarks(), refusals()].into_iter().flatten().collect()
}

fn subscriptions() -> Vec<Vector> {
    let mut service = subscription(Role::Service, 256);
    service.active = 30_000.into();
    service.set(Flags::EXCLUSIVE);
    let mut welcome = control(Kind::Subscribe, 7);
    welcome.deadline_ms = 86_400_000.into();
    let subscribe = |header, name: &[u8]| one(0, &[], vec![message(header, &[(Section::NAME, name)])]);
    vec![
        Vector::new(
            "subscribe-client",
            From::Client,
            "A client with an empty name.",
            subscribe(subscription(Role::Client, 0), b""),
        ),
        Vector::new(
            "subscribe-service",
            From::Service,
            "A process of the service payments with fences in its memory, a lease of 30 s and credit for 256.",
            subscribe(service, b"payments"),
        ),
        Vector::new(
            "subscribe-coordinator",
            From::Coordinator,
            "A coordinator with credit for 4096.",
            subscribe(subscription(Role::Coordinator, 4096), b""),
        ),
        Vector::new(
            "welcome",
            From::Broker,
            "The answer: the broker's boot epoch in amount, its time in deadline_ms.",
            one(0, &[], vec![message(welcome, &[])]),
        ),
    ]
}

fn while_it_lasts() -> Vec<Vector> {
    let mut pong = Header::new(Kind::Ping);
    pong.deadline_ms = 86_400_250.into();
    let report = b"\x82\xa5slots\xcd\x01\x00\xa9evictions\x11";
    vec![
        Vector::new(
            "credit",
            From::Service,
            "300 deliveries are allowed since the session began.",
            one(0, &[], vec![message(control(Kind::Credit, 300), &[])]),
        ),
        Vector::new("ping", From::Client, "I am alive.", one(0, &[], vec![message(Header::new(Kind::Ping), &[])])),
        Vector::new(
            "ping-with-figures",
            From::Coordinator,
            "The same, with figures that the broker shows in STATS.",
            one(0, &[], vec![message(Header::new(Kind::Ping), &[(Section::DATA, report)])]),
        ),
        Vector::new(
            "ping-answer",
            From::Broker,
            "The answer to each, with the broker's time.",
            one(0, &[], vec![message(pong, &[])]),
        ),
        Vector::new(
            "confirm",
            From::Broker,
            "All transactions up to number 17 are judged and durable.",
            one(0, &[], vec![message(control(Kind::Confirm, 17), &[])]),
        ),
    ]
}

fn watermarks() -> Vec<Vector> {
    let mut marks = [4_711; WATERMARK_CLASSES];
    marks[5] = 4_700;
    let told = Watermark { log: 0x0102_0304_0506_0708, boot: 6, as_of_lsn: 977, marks, exceptions: vec![23, 1_042] };
    vec![Vector::new(
        "watermark",
        From::Broker,
        "Of log 0x0102030405060708, boot 6, as of record 977: all sagas below 4711 have ended, of class 5 all below \
         4700; but 23 and 1042 have not.",
        one(0, &[], vec![message(Header::new(Kind::Watermark), &[(Section::DATA, &told.write())])]),
    )]
}

fn refusals() -> Vec<Vector> {
    vec![
        Vector::new(
            "refused-stale",
            From::Broker,
            "Transaction 17 changed nothing: what it consumes is not pending any more.",
            refusal(Refusal::Stale, 17, 0, "what it names is not pending any more"),
        ),
        Vector::new(
            "refused-request",
            From::Broker,
            "The same for a client's request, whose correlation is in active.",
            refusal(Refusal::NoPlan, 2, 9, "define the plan first"),
        ),
        Vector::new(
            "refused-no-session",
            From::Broker,
            "The sender has no session: subscribe, then replay.",
            refusal(Refusal::NoSession, 0, 0, "subscribe first"),
        ),
        Vector::new(
            "refused-malformed",
            From::Broker,
            "A frame broke the format. The text begins with the rule's name.",
            refusal(Refusal::Malformed, 0, 0, "message.kind: this kind is not known"),
        ),
    ]
}
