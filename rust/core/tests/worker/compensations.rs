//! One thing at a time for a (saga, attempt, step), and undo at any time.

use sagacore_core::wire::{CauseCode, Flags, Kind, Section};
use sagacore_core::worker::Verdict;

use crate::process::*;

#[test]
fn without_a_fence_here_every_delivery_is_handed_out() {
    let mut shop = Process::new(false, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Done, b"A");
    let again = only(shop.run(0, 0, &[INPUT]));
    assert_eq!(again.idempotency_key, work.idempotency_key);
    assert_ne!(again.ticket, work.ticket);
    shop.finish(&again, Verdict::Drop, b"");
    assert_eq!(shop.answered().len(), 1, "what is dropped says nothing");
    let undo = only(shop.undo(0, 1, 1));
    assert!(undo.undo && shop.results(&undo).is_empty());
    assert_eq!(undo.idempotency_key, work.idempotency_key);
}

#[test]
fn what_runs_is_not_begun_again() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    assert!(shop.run(0, 0, &[INPUT]).is_empty());
    assert_eq!(shop.credit(), Some(9), "the repetition gave its credit back");
    shop.finish(&work, Verdict::Done, b"A");
    assert_eq!(shop.credit(), Some(10));
    assert_eq!(shop.worker.stats().ignored, 1);
}

#[test]
fn an_undo_waits_until_its_action_has_ended() {
    let mut shop = Process::new(true, &diamond());
    let action = only(shop.run(0, 0, &[INPUT]));
    assert!(shop.undo(0, 1, 1).is_empty());
    assert!(shop.undo(0, 1, 1).is_empty(), "a repetition of what waits");
    assert_eq!(shop.worker.stats().running, 2);
    let undo = only(shop.finish(&action, Verdict::Done, b"A"));
    assert!(undo.undo);
    assert_eq!(shop.results(&undo), [b"A"]);
    assert_eq!(shop.answer().places(), [(Kind::Run, 1), (Kind::Run, 2)], "stale: the broker refuses it");
    assert!(shop.run(0, 0, &[INPUT]).is_empty(), "a late RUN");
    shop.finish(&undo, Verdict::Undone, b"");
    assert_eq!(shop.answer().places(), [(Kind::Undone, 0)]);
    assert_eq!(shop.worker.stats().running, 0);
}

#[test]
fn an_undo_after_a_failed_try_compensates_without_a_result() {
    let mut shop = Process::new(true, &diamond());
    let action = only(shop.run(0, 0, &[INPUT]));
    assert!(shop.undo(0, 1, 1).is_empty());
    let undo = only(shop.finish(&action, Verdict::GaveUp, b"timeout"));
    assert!(undo.undo && shop.results(&undo).is_empty());
    let said = shop.answer();
    assert!(!said.only().header.has(Flags::CLEAN));
    assert_eq!(section(said.only(), Section::CAUSE).unwrap()[1], CauseCode::GaveUp.code());
    shop.finish(&undo, Verdict::Retry, b"250 the gateway is down");
    let said = shop.answer();
    assert_eq!((said.only().header.kind(), said.only().header.amount.get()), (Kind::RetryLater, 250));
    assert_eq!(said.consumes[0].kind(), Kind::Undo);
    assert_eq!(section(said.only(), Section::TEXT), Some(&b"the gateway is down"[..]));
    assert!(shop.run(0, 0, &[INPUT]).is_empty(), "no call once an undo has begun");
    let undo = only(shop.undo(0, 1, 1));
    shop.finish(&undo, Verdict::Undone, b"");
    shop.said();
    assert!(shop.undo(0, 1, 1).is_empty(), "answered from the row");
    assert_eq!(shop.answer().places(), [(Kind::Undone, 0)]);
}

#[test]
fn an_undo_without_a_row_leaves_a_tombstone() {
    let mut shop = Process::new(true, &diamond());
    assert!(shop.undo(1, 0b111, 0b111).is_empty());
    let said = shop.answer();
    assert_eq!(said.consumes[0].kind(), Kind::Undo);
    let message = said.only();
    assert_eq!(
        (message.header.kind(), message.header.done.get(), message.header.undo.get()),
        (Kind::Undone, 0b111, 0b101)
    );
    assert!(message.header.has(Flags::SPLICE) && message.body.is_empty(), "the broker has what it carries");
    assert!(shop.run(1, 1, &[(0, b"A"), INPUT]).is_empty());
    assert!(shop.answered().is_empty(), "a RUN after the tombstone is dropped");
}

#[test]
fn a_slip_of_compensations_passes_on_what_is_left() {
    let mut shop = Process::new(true, &diamond());
    assert!(shop.undo(1, 0b11, 0b11).is_empty());
    let said = shop.answer();
    let message = said.only();
    assert_eq!((message.header.kind(), message.header.place.get()), (Kind::Undo, 0), "c is not in the set: no join");
    assert_eq!((message.header.done.get(), message.header.undo.get()), (0b11, 0b01));
}
