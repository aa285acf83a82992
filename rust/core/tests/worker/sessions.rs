//! Sessions, time, and all that is not as it should be.

use sagacore_core::limits::{BACKOFF_LAST_MS, NOT_YET_MS};
use sagacore_core::wire::{Header, Kind, Refusal, Section};
use sagacore_core::worker::{Misuse, Verdict};

use crate::process::*;

#[test]
fn what_it_cannot_do_yet_is_asked_for_again_later() {
    let mut shop = Process::new(true, &fork());
    let mut unknown = shop.token(Kind::Run, 1, 0);
    unknown.plan = 1.into();
    assert!(shop.deliver(unknown, &[INPUT]).is_empty());
    let said = shop.answer();
    assert_eq!((said.only().header.kind(), said.only().header.amount.get()), (Kind::RetryLater, NOT_YET_MS));
    let mut other = shop.token(Kind::Run, 1, 3);
    other.deliveries = 15.into();
    assert!(shop.deliver(other, &[INPUT]).is_empty());
    assert_eq!(shop.answer().only().header.amount.get(), BACKOFF_LAST_MS, "`s` is not among this process's steps");
    assert!(shop.run(2, 1, &[INPUT]).is_empty());
    let said = shop.answer();
    assert!(section(said.only(), Section::TEXT).unwrap().starts_with(b"the message lacks"));
    assert_eq!(shop.worker.stats().not_yet, 3);
    assert!(shop.run(9, 1, &[INPUT]).is_empty(), "no step of the plan");
}

#[test]
fn mistakes_of_the_caller_change_nothing() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    let mut finish = |ticket: u64, verdict: Verdict, payload: &[u8]| {
        shop.worker.finish(ticket, verdict, payload, 1_000, &mut Vec::new())
    };
    assert_eq!(finish(work.ticket + 1, Verdict::Done, b""), Err(Misuse::Ticket));
    assert_eq!(finish(work.ticket, Verdict::Undone, b""), Err(Misuse::ActionVerdict));
    let too_large = finish(work.ticket, Verdict::Done, &[0; 17]);
    assert_eq!(too_large, Err(Misuse::ResultSize { bytes: 17, bytes_max: 16 }));
    assert_eq!(finish(work.ticket, Verdict::Retry, b"soon"), Err(Misuse::Delay));
    assert_eq!(finish(work.ticket, Verdict::Retry, b"20s"), Err(Misuse::Delay));
    assert_eq!(finish(work.ticket, Verdict::Done, b"A"), Ok(()));
    assert_eq!(finish(work.ticket, Verdict::Done, b"A"), Err(Misuse::Ticket), "once only");
    let undo = only(shop.undo(0, 1, 1));
    let gave_up = shop.worker.finish(undo.ticket, Verdict::GaveUp, b"", 1_000, &mut Vec::new());
    assert_eq!(gave_up, Err(Misuse::CompensationVerdict));
    let delay = shop.worker.finish(undo.ticket, Verdict::Retry, b"", 1_000, &mut Vec::new());
    assert_eq!(delay, Err(Misuse::Delay));
}

#[test]
fn a_new_session_replays_what_is_not_confirmed_and_counts_credit_anew() {
    let mut shop = Process::new(true, &diamond());
    let first = only(shop.run(0, 0, &[INPUT]));
    let second = only(shop.deliver(shop.token(Kind::Run, 2, 0), &[INPUT]));
    shop.finish(&first, Verdict::Done, b"A");
    assert_eq!(shop.answered().len(), 1);
    let mut lost = Header::new(Kind::Refused);
    lost.place = Refusal::NoSession.code().into();
    shop.deliver(lost, &[]);
    assert!(!shop.worker.is_ready());
    assert!(shop.worker.frame(shop.now_ms).is_some(), "it subscribes again");
    shop.finish(&second, Verdict::Done, b"A");
    shop.welcome(2);
    let said = shop.said();
    let numbers: Vec<u64> = said.iter().map(|transaction| transaction.number).collect();
    assert_eq!(numbers, [1, 2], "both, in order, and no credit for what the old session delivered");
    assert!(shop.run(0, 0, &[INPUT]).is_empty(), "delivered again in the new session: answered from the row");
    assert_eq!(shop.credit(), Some(9));
}

#[test]
fn work_that_outlives_its_session_counts_in_the_one_that_repeats_it() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.welcome(2);
    assert_eq!(shop.credit(), None);
    assert!(shop.run(0, 0, &[INPUT]).is_empty());
    assert_eq!(shop.credit(), None, "it holds this session's credit now");
    shop.finish(&work, Verdict::Done, b"A");
    assert_eq!(shop.credit(), Some(9));
}

#[test]
fn the_deadline_follows_the_brokers_clock_once_it_is_known() {
    let mut shop = Process::new(true, &diamond());
    let mut ping = Header::new(Kind::Ping);
    ping.deadline_ms = 70_000.into();
    shop.deliver(ping, &[]);
    let work = only(shop.run(0, 0, &[INPUT]));
    assert_eq!(work.deadline_ms, 1_000 + 7_000);
}

#[test]
fn malformed_frames_are_counted_and_do_no_harm() {
    let mut shop = Process::new(true, &diamond());
    for frame in [&b""[..], b"x", &[0; 64]] {
        shop.worker.receive(frame, shop.now_ms, &mut Vec::new());
    }
    let mut define = Header::new(Kind::Define);
    define.plan = 5.into();
    shop.deliver(define, &[(Section::DATA, b"nonsense")]);
    assert_eq!((shop.worker.stats().malformed, shop.worker.stats().plans), (4, 1));
    assert_eq!(shop.run(0, 0, &[INPUT]).len(), 1);
}

#[test]
fn idempotency_keys_differ_by_saga_attempt_and_step() {
    let mut shop = Process::new(false, &diamond());
    let mut keys = Vec::new();
    for (sequence, attempt, place) in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)] {
        let mut header = shop.token(Kind::Run, sequence, place);
        header.attempt = attempt.into();
        let work = only(shop.deliver(header, &[(0, b"A"), INPUT]));
        assert!(work.idempotency_key.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        keys.push(work.idempotency_key);
    }
    assert_eq!(&keys[0], b"df80e4d8c5129bbcb11e089ea4c62509", "stable: gateways remember it");
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 4);
}
