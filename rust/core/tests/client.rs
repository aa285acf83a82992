//! The client's core against a broker that is written down here, message by message.

mod client_broker;

use client_broker::{Broker, Sent, answer, deliver, ready, sent, welcome};
use sagacore_core::client::{Action, ClientCore, ClientError, ClientOptions, Event, Fault, Subject};
use sagacore_core::limits::{
    ASKED_PER_FRAME, FRAME_BYTES_MAX, KEY_BYTES_MAX, PATIENCE_MS, SECTION_BYTES_MAX, SUBSCRIBE_AGAIN_MS,
};
use sagacore_core::peer::Link;
use sagacore_core::wire::{
    Flags, Header, Kind, Malformed, OutcomeCode, Refusal, SagaId, Section, StatusCode, Transactions,
};

const DEFINITION: &[u8] = b"not compiled by a client";

fn client() -> ClientCore {
    ClientCore::new(ClientOptions { instance: 7, credit: 100, outbox_bytes_max: 64 * 1024 })
}

fn start(client: &mut ClientCore, correlation: u64, key: &str, quiet: bool) {
    let plan = client.define(DEFINITION).expect("a definition");
    let sagas = [(key.as_bytes(), &b"in"[..])].into_iter();
    client.start_batch(plan, sagas, correlation, quiet).expect("a good start");
}

fn kinds(sent: &[Sent]) -> Vec<(Kind, u64)> {
    sent.iter().map(|sent| (sent.header.kind(), sent.header.amount.get())).collect()
}

fn confirm(client: &mut ClientCore, number: u64) {
    deliver(client, &[answer(Kind::Confirm, number, 0)]);
}

fn result(correlation: u64) -> Header {
    answer(Kind::Result, correlation, OutcomeCode::Completed.code())
}

fn refused(correlation: u64, number: u64, refusal: Refusal) -> Header {
    let mut header = answer(Kind::Refused, number, refusal.code());
    header.active = correlation.into();
    header
}

#[test]
fn a_start_names_plan_key_and_input_and_is_told_when_durable_and_when_ended() {
    let mut client = ready(client());
    let plan = client.define(DEFINITION).unwrap();
    let sagas = [(&b"first"[..], &b"1"[..]), (b"second", b"2")];
    client.start_batch(plan, sagas.into_iter(), 11, false).unwrap();
    let said = sent(&mut client);
    assert_eq!(kinds(&said), [(Kind::Define, 0), (Kind::Start, 11), (Kind::Start, 12)]);
    assert_eq!(said.iter().map(|sent| sent.number).collect::<Vec<_>>(), [1, 2, 3], "one transaction each");
    assert!(said.iter().all(|sent| sent.header.plan.get() == plan));
    assert_eq!(said[0].section(Section::DATA), Some(DEFINITION));
    assert_eq!(said[2].section(Section::KEY), Some(&b"second"[..]));
    assert_eq!(said[2].section(Section::INPUT), Some(&b"2"[..]));
    assert_eq!(said[2].header.flags.get(), 0);

    let mut status = answer(Kind::Status, 12, StatusCode::Running.code());
    status.saga = SagaId::new(1, 2, 3);
    status.active = 0b10.into();
    let mut told = Vec::new();
    let frame = client_broker::frame(&[(status, &[(Section::NAME, b"x")])]);
    client
        .receive(&frame, 0, &mut |event: Event<'_>| {
            told.push((event.correlation, event.kind, event.code, event.saga, event.extra))
        })
        .unwrap();
    assert_eq!(told, [(12, Kind::Status, StatusCode::Running.code(), SagaId::new(1, 2, 3), 0b10)]);
    assert_eq!(client.awaited(), 2, "the outcome is still to come");
    assert_eq!(deliver(&mut client, &[result(12)]), [(12, Kind::Result, 1)]);
    assert_eq!(client.awaited(), 1);
}

#[test]
fn a_result_that_comes_again_is_told_once() {
    let mut client = ready(client());
    start(&mut client, 1, "a", true);
    assert_eq!(deliver(&mut client, &[result(1), result(1)]), [(1, Kind::Result, 1)]);
    assert_eq!(deliver(&mut client, &[result(1)]), []);
    assert_eq!(deliver(&mut client, &[answer(Kind::Status, 1, StatusCode::Completed.code())]), []);
}

#[test]
fn quiet_starts_ask_for_no_status() {
    let mut client = ready(client());
    start(&mut client, 1, "a", true);
    assert_eq!(sent(&mut client)[1].header.flags.get(), Flags::QUIET);
}

#[test]
fn what_is_not_confirmed_is_replayed_and_not_attached() {
    let mut client = client();
    start(&mut client, 1, "early", false);
    assert_eq!(client.frame(0), None, "no socket yet");
    let mut client = ready(client);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Define, 0), (Kind::Start, 1)]);
    start(&mut client, 2, "lost", true);
    confirm(&mut client, 1);
    let mut client = ready(client);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Start, 1), (Kind::Start, 2)], "in order, from the outbox alone");
}

#[test]
fn what_is_confirmed_is_attached_again_until_its_result_has_come() {
    let mut client = ready(client());
    for (correlation, key) in [(1, "ended"), (2, "heard"), (3, "unheard"), (4, "quiet")] {
        start(&mut client, correlation, key, correlation == 4);
    }
    sent(&mut client);
    confirm(&mut client, 4);
    deliver(&mut client, &[result(1), answer(Kind::Status, 2, StatusCode::Running.code())]);
    let mut client = ready(client);
    let said = sent(&mut client);
    assert_eq!(kinds(&said), [(Kind::Attach, 2), (Kind::Attach, 3), (Kind::Start, 4)]);
    assert!(said[..2].iter().all(|sent| sent.number == 0 && sent.header.has(Flags::BY_KEY)));
    assert_eq!(said[1].section(Section::KEY), Some(&b"unheard"[..]));
    assert!(said[0].header.has(Flags::QUIET), "its status was told");
    assert!(!said[1].header.has(Flags::QUIET), "its caller still waits for a status");
    confirm(&mut client, 5);
    let mut client = ready(client);
    let said = sent(&mut client);
    assert_eq!(kinds(&said), [(Kind::Attach, 2), (Kind::Attach, 3), (Kind::Attach, 4)]);
    assert!(said[2].header.has(Flags::QUIET));
}

#[test]
fn a_broker_that_forgot_the_session_is_asked_again_over_the_same_socket() {
    let mut client = ready(client());
    start(&mut client, 1, "a", true);
    sent(&mut client);
    confirm(&mut client, 2);
    client.stats(9).unwrap();
    sent(&mut client);
    assert_eq!(deliver(&mut client, &[refused(0, 0, Refusal::NoSession)]), [], "the session's own matter");
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Subscribe, 7)]);
    welcome(&mut client);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Stats, 9), (Kind::Attach, 1)]);
}

#[test]
fn a_million_attachments_go_out_in_frames_that_keep_their_limit() {
    let mut client = ready(client());
    let plan = client.define(DEFINITION).unwrap();
    let keys: Vec<Vec<u8>> =
        (0..3 * ASKED_PER_FRAME).map(|n| format!("{n:0>width$}", width = KEY_BYTES_MAX).into_bytes()).collect();
    client.start_batch(plan, keys.iter().map(|key| (&key[..], &b""[..])), 1, true).unwrap();
    assert!(client.is_full());
    let number = sent(&mut client).last().unwrap().number;
    confirm(&mut client, number);
    assert!(!client.is_full());
    let mut client = ready(client);
    let mut asked = Vec::new();
    while let Some(frame) = client.frame(0) {
        assert!(frame.len() <= FRAME_BYTES_MAX / 2);
        asked.extend(client_broker::read(&frame));
    }
    assert_eq!(asked.len(), keys.len());
    for (n, (asked, key)) in asked.iter().zip(&keys).enumerate() {
        assert_eq!((asked.header.amount.get(), asked.section(Section::KEY)), (n as u64 + 1, Some(&key[..])));
    }
}

#[test]
fn a_refused_start_is_told_and_its_correlation_is_free_again() {
    let mut client = ready(client());
    start(&mut client, 1, "a", false);
    sent(&mut client);
    assert_eq!(
        deliver(&mut client, &[refused(1, 2, Refusal::Full), answer(Kind::Confirm, 2, 0)]),
        [(1, Kind::Refused, Refusal::Full.code())]
    );
    assert_eq!(client.awaited(), 0);
    start(&mut client, 1, "a", false);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Start, 1)], "the plan is known");
    deliver(&mut client, &[refused(1, 3, Refusal::NoPlan)]);
    start(&mut client, 1, "a", false);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Define, 0), (Kind::Start, 1)], "the plan is not known after all");
}

#[test]
fn a_refused_plan_is_told_by_its_fingerprint() {
    let mut client = ready(client());
    let plan = client.define(DEFINITION).unwrap();
    start(&mut client, 5, "a", true);
    sent(&mut client);
    let mut told = Vec::new();
    let frame = client_broker::frame(&[(refused(0, 1, Refusal::BadPlan), &[(Section::TEXT, b"why")])]);
    client.receive(&frame, 0, &mut |event| told.push((event.correlation, event.code, event.extra))).unwrap();
    assert_eq!(told, [(0, Refusal::BadPlan.code(), plan)]);
    assert_eq!(deliver(&mut client, &[refused(0, 77, Refusal::Forbidden)]), [], "nobody's");
}

#[test]
fn a_plan_is_defined_once_a_session_before_its_first_start() {
    let mut client = client();
    assert_eq!(client.start_batch(1, [(&b"k"[..], &b""[..])].into_iter(), 1, true), Err(ClientError::PlanUnknown));
    let other = client.define(b"other").unwrap();
    assert_ne!(other, client.define(DEFINITION).unwrap());
    assert_eq!(other, client.define(b"other").unwrap());
    let mut client = ready(client);
    assert!(sent(&mut client).is_empty(), "no START yet");
    for correlation in 1..=2 {
        start(&mut client, correlation, &correlation.to_string(), true);
    }
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Define, 0), (Kind::Start, 1), (Kind::Start, 2)]);
    confirm(&mut client, 3);
    let mut client = ready(client);
    start(&mut client, 3, "3", true);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Attach, 1), (Kind::Attach, 2), (Kind::Define, 0), (Kind::Start, 3)]);
}

#[test]
fn questions_are_asked_until_they_are_answered() {
    let mut client = client();
    let id = SagaId::new(0, 9, 8);
    client.status(1, Subject::Key(b"k")).unwrap();
    client.status(2, Subject::Id(id)).unwrap();
    client.stuck(3).unwrap();
    let mut client = ready(client);
    let said = sent(&mut client);
    assert_eq!(kinds(&said), [(Kind::Status, 1), (Kind::Status, 2), (Kind::Stuck, 3)]);
    assert_eq!((said[0].header.has(Flags::BY_KEY), said[0].section(Section::KEY)), (true, Some(&b"k"[..])));
    assert_eq!((said[1].header.has(Flags::BY_KEY), said[1].header.saga), (false, id));
    let unknown = answer(Kind::Status, 1, StatusCode::Unknown.code());
    assert_eq!(deliver(&mut client, &[unknown, unknown]), [(1, Kind::Status, 0)]);
    let mut client = ready(client);
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Status, 2), (Kind::Stuck, 3)]);
    assert_eq!(deliver(&mut client, &[answer(Kind::Stuck, 3, 0)]), [(3, Kind::Stuck, 0)]);
    assert_eq!(deliver(&mut client, &[refused(2, 0, Refusal::Unknown)]), [(2, Kind::Refused, 9)]);
    let mut client = ready(client);
    assert!(sent(&mut client).is_empty());
}

#[test]
fn orders_are_transactions_and_are_given_until_they_are_answered() {
    let mut client = ready(client());
    let id = SagaId::new(0, 9, 8);
    client.cancel(1, Subject::Key(b"k"), &"\u{e9}".repeat(150)).unwrap();
    client.resolve(2, id, 3, Action::Done, "by hand", b"result").unwrap();
    let said = sent(&mut client);
    assert_eq!(said.iter().map(|sent| sent.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(said[0].section(Section::TEXT).unwrap().len(), 200, "cut between characters");
    let resolve = &said[1].header;
    assert_eq!((resolve.kind(), resolve.place.get(), resolve.active.get(), resolve.saga), (Kind::Resolve, 3, 3, id));
    assert_eq!(said[1].section(Section::DATA), Some(&b"result"[..]));
    confirm(&mut client, 1);
    let mut client = ready(client);
    let said = sent(&mut client);
    let numbers: Vec<_> = said.iter().map(|sent| (sent.number, sent.header.kind())).collect();
    assert_eq!(numbers, [(2, Kind::Resolve), (3, Kind::Cancel)], "one replayed, one given again");
    assert_eq!(deliver(&mut client, &[answer(Kind::Cancel, 1, 0)]), [(1, Kind::Cancel, 0)]);
    assert_eq!(deliver(&mut client, &[refused(2, 2, Refusal::TooLate)]), [(2, Kind::Refused, 8)]);
}

#[test]
fn an_attached_saga_that_is_unknown_is_awaited_no_more() {
    let mut client = ready(client());
    client.attach(1, Subject::Key(b"k")).unwrap();
    client.attach(2, Subject::Id(SagaId::new(0, 1, 2))).unwrap();
    let said = sent(&mut client);
    assert_eq!(kinds(&said), [(Kind::Attach, 1), (Kind::Attach, 2)]);
    assert!(!said[0].header.has(Flags::QUIET));
    assert_eq!(said[1].header.saga, SagaId::new(0, 1, 2));
    assert_eq!(deliver(&mut client, &[answer(Kind::Status, 1, 0)]), [(1, Kind::Status, 0)]);
    assert_eq!(deliver(&mut client, &[refused(2, 0, Refusal::Unknown)]), [(2, Kind::Refused, 9)]);
    assert_eq!(client.awaited(), 0);
}

#[test]
fn what_is_forgotten_is_neither_asked_again_nor_told() {
    let mut client = ready(client());
    start(&mut client, 1, "a", true);
    client.status(2, Subject::Key(b"a")).unwrap();
    sent(&mut client);
    confirm(&mut client, 2);
    client.forget(1);
    client.forget(2);
    assert_eq!(deliver(&mut client, &[result(1), answer(Kind::Status, 2, 1)]), []);
    let mut client = ready(client);
    assert!(sent(&mut client).is_empty());
}

#[test]
fn a_call_that_is_wrong_changes_nothing() {
    let mut client = ready(client());
    let plan = client.define(DEFINITION).unwrap();
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let large = vec![0; SECTION_BYTES_MAX + 1];
    let mut begin = |key: &[u8], input: &[u8], first| {
        client.start_batch(plan, [(&b"good"[..], &b""[..]), (key, input)].into_iter(), first, true)
    };
    assert_eq!(begin(b"", b"", 1), Err(ClientError::KeySize));
    assert_eq!(begin(&long, b"", 1), Err(ClientError::KeySize));
    assert_eq!(begin(b"k", &large, 1), Err(ClientError::InputSize));
    assert_eq!(begin(b"k", b"", 0), Err(ClientError::CorrelationUsed));
    assert_eq!(client.awaited(), 0);
    client.stats(5).unwrap();
    assert_eq!(client.stats(5), Err(ClientError::CorrelationUsed));
    assert_eq!(client.attach(5, Subject::Key(b"k")), Err(ClientError::CorrelationUsed));
    assert_eq!(client.status(6, Subject::Key(b"")), Err(ClientError::KeySize));
    let mut id = SagaId::new(0, 1, 2);
    assert_eq!(client.resolve(6, id, 64, Action::Skip, "", b""), Err(ClientError::StepNumber));
    assert_eq!(client.resolve(6, id, 1, Action::Done, "", &large), Err(ClientError::ResultSize));
    id.reserved = 1.into();
    assert_eq!(client.status(6, Subject::Id(id)), Err(ClientError::SagaId));
    assert_eq!(client.define(b""), Err(ClientError::PlanSize));
    assert_eq!(kinds(&sent(&mut client)), [(Kind::Stats, 5)]);
}

#[test]
fn after_a_fault_nothing_is_believed_until_there_is_a_new_connection() {
    let wrong: [(&[u8], Fault); 5] = [
        (b"", Malformed::FrameLength.into()),
        (&[0xff; 200], Malformed::TransactionVersion.into()),
        (&client_broker::frame(&[(answer(Kind::Run, 1, 0), &[])]), Fault::AnswerKind),
        (&client_broker::frame(&[(answer(Kind::Result, 1, 3), &[])]), Fault::AnswerCode),
        (&client_broker::frame(&[(answer(Kind::Stuck, 2, 0), &[])]), Fault::AnswerKind),
    ];
    for (bytes, fault) in wrong {
        let mut client = ready(client());
        start(&mut client, 1, "a", true);
        client.stats(2).unwrap();
        sent(&mut client);
        confirm(&mut client, 2);
        assert_eq!(client.receive(bytes, 0, &mut |_| {}), Err(fault));
        assert_eq!((client.fault(), client.is_ready(), client.tick(0)), (Some(fault), false, Link::Reconnect));
        assert_eq!(deliver(&mut client, &[result(1)]), [], "the connection is not trusted any more");
        client.stuck(3).unwrap();
        assert_eq!(client.frame(0), None);
        let mut client = ready(client);
        assert_eq!((client.fault(), client.tick(0)), (None, Link::Up));
        let asked = kinds(&sent(&mut client));
        assert!(asked.contains(&(Kind::Attach, 1)) && asked.contains(&(Kind::Stuck, 3)), "{asked:?}");
        assert_eq!(deliver(&mut client, &[result(1)]), [(1, Kind::Result, 1)]);
    }
}

#[test]
fn what_stands_before_a_fault_in_a_frame_is_told() {
    let mut client = ready(client());
    start(&mut client, 1, "a", true);
    let mut frame = client_broker::frame(&[(result(1), &[])]);
    frame.extend_from_slice(&[0xff; 24]);
    let mut told = 0;
    assert!(client.receive(&frame, 0, &mut |_| told += 1).is_err());
    assert_eq!((told, client.awaited()), (1, 0));
}

#[test]
fn a_silent_broker_is_left() {
    let mut client = ready(client());
    assert_eq!(client.tick(PATIENCE_MS), Link::Up);
    assert_eq!(client.tick(PATIENCE_MS + 1), Link::Reconnect);
    assert!(!client.is_ready());
}

#[test]
fn any_bytes_are_refused_or_understood_but_never_crash() {
    let mut seed = 1_u64;
    let good = client_broker::frame(&[(result(1), &[(0, b"r")]), (answer(Kind::Status, 2, 1), &[])]);
    for _ in 0..20_000 {
        let mut client = ready(client());
        start(&mut client, 1, "a", false);
        let mut bytes = good.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 25) as u8;
        }
        let heard = client.receive(&bytes, 0, &mut |_| {});
        assert_eq!(heard.is_err(), client.fault().is_some());
        assert!(heard.is_err() || Transactions::parse(&bytes).is_ok());
    }
}

mod model {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Start {
            count: u8,
            quiet: bool,
        },
        /// The client's frames reach the broker; its answers wait.
        Send,
        /// So many of the waiting answers reach the client.
        Hear(u8),
        End(u8),
        /// What is under way is lost, and there is a new socket.
        Break,
        /// The broker knows no session any more.
        Forget,
        Garbage,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1_u8..5, any::<bool>()).prop_map(|(count, quiet)| Op::Start { count, quiet }),
            6 => Just(Op::Send),
            6 => (1_u8..20).prop_map(Op::Hear),
            4 => any::<u8>().prop_map(Op::End),
            1 => Just(Op::Break),
            1 => Just(Op::Forget),
            1 => Just(Op::Garbage),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is lost on the way, every outcome is told, once.
        #[test]
        fn every_outcome_is_told_once(ops in prop::collection::vec(op(), 0..120)) {
            let mut client = client();
            let plan = client.define(DEFINITION).unwrap();
            client.connect(0);
            let mut broker = Broker::default();
            let mut started = 0_u64;
            let mut told = Vec::new();
            for op in ops {
                match op {
                    Op::Start { count, quiet } => {
                        let keys: Vec<String> =
                            (0..u64::from(count)).map(|n| (started + n + 1).to_string()).collect();
                        let sagas = keys.iter().map(|key| (key.as_bytes(), &b"in"[..]));
                        client.start_batch(plan, sagas, started + 1, quiet).unwrap();
                        started += u64::from(count);
                    }
                    Op::Send => broker.send(&mut client),
                    Op::Hear(count) => broker.hear(&mut client, usize::from(count), &mut told),
                    Op::End(which) => broker.end(usize::from(which)),
                    Op::Break => broker.lose(&mut client),
                    Op::Forget => broker.forget_session(),
                    Op::Garbage => {
                        let _ = client.receive(&[1; 30], broker.now_ms, &mut |_| {});
                    }
                }
                broker.now_ms += 20;
                if client.tick(broker.now_ms) == Link::Reconnect {
                    broker.lose(&mut client);
                }
            }
            for _ in 0..8 {
                broker.now_ms += SUBSCRIBE_AGAIN_MS;
                client.tick(broker.now_ms);
                broker.send(&mut client);
                (0..256).for_each(|which| broker.end(which));
                broker.hear(&mut client, usize::MAX, &mut told);
            }
            told.sort_unstable();
            prop_assert_eq!(told, (1..=started).collect::<Vec<_>>());
            prop_assert_eq!(client.awaited(), 0);
        }
    }
}
