//! The peers, given any frame: none panics, and whatever one says then is well-formed and within its limits.

use sagacore_core::client::{ClientCore, ClientOptions, Subject};
use sagacore_core::coordinator::Coordinator;
use sagacore_core::limits::FRAME_BYTES_MAX;
use sagacore_core::peer::{Peer, PeerOptions};
use sagacore_core::plan::fingerprint;
use sagacore_core::wire::{Header, Kind, Refusal, Role, SagaId, Section, TransactionWriter, Transactions};
use sagacore_core::worker::{Verdict, Worker, WorkerOptions};

use crate::seeds;

const NOW_MS: u64 = 1_000;

/// Each peer gets a welcome and a plan, then the frame, twice, and does what it was asked.
pub fn peers(frame: &[u8]) {
    let definition = seeds::diamond();
    let mut greeting = said(Kind::Subscribe, 1, 0);
    greeting.extend(define(&definition));
    coordinator(&greeting, frame);
    worker(&greeting, frame);
    client(frame);
}

fn coordinator(greeting: &[u8], frame: &[u8]) {
    let mut coordinator = Coordinator::new(16, Peer::new(options()));
    coordinator.connect(0);
    for bytes in [greeting, frame, frame] {
        // What breaks the format is told, and nothing else: the next frame is read as ever.
        let _ = coordinator.receive(bytes, NOW_MS);
        coordinator.tick(NOW_MS);
        check_all(|| coordinator.frame(NOW_MS));
    }
}

fn worker(greeting: &[u8], frame: &[u8]) {
    let mut worker = Worker::new(WorkerOptions {
        service: "service-0".to_owned(),
        steps: (0..64).map(|step| format!("step-{step}")).collect(),
        instance: 1,
        memory_fence: frame.len().is_multiple_of(2),
        lease_ms: 1_000,
        credit: 8,
    });
    worker.connect(0);
    let mut works = Vec::new();
    for bytes in [greeting, frame, frame] {
        worker.receive(bytes, NOW_MS, &mut works);
        while let Some(work) = works.pop() {
            let _ = (worker.input(work.ticket), worker.result(work.ticket, 0), worker.work(work.ticket));
            let verdict = if work.undo { Verdict::Undone } else { Verdict::Done };
            let finished = worker.finish(work.ticket, verdict, &frame[..frame.len().min(8)], NOW_MS, &mut works);
            assert!(finished.is_ok(), "what was handed out can be finished");
        }
        worker.tick(NOW_MS);
        check_all(|| worker.frame(NOW_MS));
    }
}

fn client(frame: &[u8]) {
    let mut client = ClientCore::new(ClientOptions { instance: 1, credit: 8, outbox_bytes_max: 1 << 20 });
    client.connect(0);
    let asked = client.attach(7, Subject::Key(b"order-42")).and_then(|()| client.status(8, Subject::Key(b"order-42")));
    assert!(asked.is_ok(), "a client takes questions before it is welcomed");
    for bytes in [&said(Kind::Subscribe, 1, 0), frame, frame] {
        let told = client.receive(bytes, NOW_MS, &mut |event| assert!(event.body.len() <= bytes.len()));
        assert!(told.is_ok() || client.fault() == told.err(), "a fault is kept until there is a new connection");
        client.tick(NOW_MS);
        check_all(|| client.frame(NOW_MS));
    }
}

fn options() -> PeerOptions {
    PeerOptions {
        role: Role::Coordinator,
        name: String::new(),
        instance: 1,
        exclusive: false,
        lease_ms: 0,
        credit: 8,
        outbox_bytes_max: 1 << 20,
    }
}

fn check_all(mut frame: impl FnMut() -> Option<Vec<u8>>) {
    while let Some(said) = frame() {
        assert!(said.len() <= FRAME_BYTES_MAX);
        let transactions = Transactions::parse(&said).unwrap_or_else(|broken| panic!("a peer said: {broken}"));
        for transaction in transactions {
            transaction.unwrap_or_else(|broken| panic!("a peer said: {broken}"));
        }
    }
}

/// A frame of one message of the broker's.
fn said(kind: Kind, amount: u64, place: u16) -> Vec<u8> {
    let mut header = Header::new(kind);
    (header.amount, header.place) = (amount.into(), place.into());
    told(header, &[])
}

fn define(definition: &[u8]) -> Vec<u8> {
    let mut header = Header::new(Kind::Define);
    header.plan = fingerprint(definition).into();
    told(header, &[(Section::DATA, definition)])
}

fn told(header: Header, sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut transaction = TransactionWriter::new(&mut frame, 0);
    transaction.publish_with(header, |body| {
        for (key, value) in sections {
            body.section(*key, value);
        }
    });
    transaction.finish();
    frame
}

/// What a broker says of one saga of the diamond, and in answer to a client.
pub fn frames() -> Vec<Vec<u8>> {
    let token = |kind: Kind, place: u16, [done, active, undo]: [u64; 3]| {
        let mut header = Header::new(kind);
        (header.saga, header.place) = (SagaId::new(0, 77, 5), place.into());
        (header.plan, header.age) = (fingerprint(&seeds::diamond()).into(), 77.into());
        (header.done, header.active, header.undo) = (done.into(), active.into(), undo.into());
        told(header, &[(0, b"\xc0"), (1, b"\xc0"), (2, b"\xc0"), (Section::INPUT, b"\xc0"), (Section::CAUSE, b"\x93")])
    };
    let forward = [
        token(Kind::Start, 0, [0, 0, 0]),
        token(Kind::Run, 0, [0, 1, 0]),
        token(Kind::Run, 3, [7, 8, 0]),
        token(Kind::Done, 0, [3, 0, 0]),
        token(Kind::Done, 1, [5, 0, 0]),
        token(Kind::Done, 2, [15, 0, 0]),
    ];
    let backward = [
        token(Kind::Revoked, 0, [3, 4, 7]),
        token(Kind::Undo, 3, [15, 0, 15]),
        token(Kind::Undo, 0, [7, 0, 1]),
        token(Kind::Undone, 0, [7, 0, 2]),
    ];
    let control = [
        said(Kind::Confirm, 3, 0),
        said(Kind::Refused, 1, Refusal::Stale.code()),
        said(Kind::Refused, 0, Refusal::NoSession.code()),
        said(Kind::Result, 7, 1),
        said(Kind::Status, 8, 1),
        said(Kind::Subscribe, 2, 0),
    ];
    let mut frames = vec![forward.concat(), backward.concat(), [forward.concat(), backward.concat()].concat()];
    frames.extend(forward.into_iter().chain(backward).chain(control));
    frames
}
