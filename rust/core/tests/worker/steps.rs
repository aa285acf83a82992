//! Actions: what a RUN becomes, and what its end publishes.

use sagacore_core::wire::{CauseCode, Flags, Key, Kind, SagaId, Section};
use sagacore_core::worker::{Phase, Verdict};

use crate::process::*;

#[test]
fn a_run_becomes_work_and_its_result_the_next_runs() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT, (Section::KEY, b"key")]));
    assert_eq!((work.undo, work.step, work.attempt, work.deliveries, work.phase), (false, 4, 0, 0, Phase::Before));
    assert_eq!((work.result_bytes_max, work.deadline_ms), (16, 1_000 + 30_000));
    assert_eq!((shop.input(&work), shop.results(&work)), (b"order".to_vec(), vec![]));
    assert!(shop.answered().is_empty());
    assert!(shop.finish(&work, Verdict::Done, b"A").is_empty());
    let transaction = shop.answer();
    assert_eq!(transaction.consumes, [Key::of(&shop.token(Kind::Run, 1, 0))]);
    assert_eq!(transaction.places(), [(Kind::Run, 1), (Kind::Run, 2)]);
    for (message, place) in transaction.messages.iter().zip([1_u16, 2]) {
        let header = &message.header;
        assert_eq!((header.done.get(), header.active.get(), header.undo.get()), (1, 1 << place, 0));
        assert_eq!((header.age.get(), header.deadline_ms.get(), header.trace), (1, 77_000, [5; 16]));
        assert_eq!((header.flags.get(), header.saga), (0, SagaId::new(3, 1, 9)));
        assert_eq!(message.body, [(0, b"A".to_vec()), (64, b"order".to_vec()), (66, b"key".to_vec())]);
    }
}

#[test]
fn a_step_before_a_join_tells_its_edge_with_what_is_still_read() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(2, 0b1, &[(0, b"A"), INPUT]));
    assert_eq!(shop.results(&work), [b"A"]);
    shop.finish(&work, Verdict::Done, b"C");
    let transaction = shop.answer();
    let said = transaction.only();
    assert_eq!((said.header.kind(), said.header.place.get()), (Kind::Done, 1));
    assert_eq!((said.header.done.get(), said.header.active.get()), (0b101, 0));
    assert_eq!(said.body, [(0, b"A".to_vec()), (2, b"C".to_vec()), (64, b"order".to_vec())]);
    let work = only(shop.run(1, 0b1, &[(0, b"A"), INPUT]));
    shop.finish(&work, Verdict::Done, b"B");
    let transaction = shop.answer();
    let said = transaction.only();
    assert_eq!((said.header.kind(), said.header.place.get()), (Kind::Done, 0));
    assert_eq!(said.body, [(0, b"A".to_vec()), (64, b"order".to_vec())], "nobody reads the result of b");
}

#[test]
fn results_come_in_the_order_of_the_steps_needs_and_the_pivot_ends_the_deadline() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(3, 0b111, &[(0, b"A"), (2, b"C"), INPUT]));
    assert_eq!((work.phase, shop.results(&work)), (Phase::Pivot, vec![b"C".to_vec(), b"A".to_vec()]));
    shop.finish(&work, Verdict::Done, b"D");
    let transaction = shop.answer();
    let said = transaction.only();
    assert_eq!((said.header.kind(), said.header.place.get()), (Kind::Run, 4));
    assert_eq!((said.header.flags.get(), said.header.deadline_ms.get()), (Flags::PIVOTED, 0));
    let mut header = said.header;
    header.deliveries = 2.into();
    let work = only(shop.deliver(header, &[INPUT]));
    assert_eq!((work.phase, work.deadline_ms, work.deliveries), (Phase::Past, 0, 2));
    shop.finish(&work, Verdict::Rejected, b"not here");
    let transaction = shop.answer();
    let said = transaction.only();
    assert_eq!(
        (said.header.kind(), said.header.amount.get()),
        (Kind::RetryLater, 80),
        "past the pivot nothing is rejected"
    );
    assert_eq!(section(said, Section::TEXT), Some(&b"not here"[..]));
    let work = only(shop.deliver(header, &[INPUT]));
    shop.finish(&work, Verdict::Done, b"E");
    let transaction = shop.answer();
    assert_eq!(transaction.places(), [(Kind::Done, 2)]);
    assert_eq!(transaction.messages[0].header.flags.get(), Flags::PIVOTED);
}

#[test]
fn a_fork_into_a_step_and_a_join_is_one_transaction() {
    let mut shop = Process::new(false, &fork());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Done, b"P");
    let transaction = shop.answer();
    assert_eq!(transaction.places(), [(Kind::Run, 2), (Kind::Done, 0)]);
    let [run, done] = &transaction.messages[..] else { panic!("{transaction:?}") };
    assert_eq!((run.header.done.get(), run.header.active.get()), (1, 0b100));
    assert_eq!((done.header.done.get(), done.header.active.get()), (1, 0));
    assert_eq!((section(run, 0), section(done, 0)), (Some(&b"P"[..]), Some(&b"P"[..])));
}

#[test]
fn a_repetition_is_answered_from_the_row_without_a_call() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Done, b"A");
    let first = shop.answer();
    assert!(shop.run(0, 0, &[INPUT]).is_empty());
    let second = shop.answer();
    assert_eq!((&first.consumes, first.places()), (&second.consumes, second.places()));
    assert_eq!(first.messages[0].body, second.messages[0].body);
    let work = only(shop.run(1, 1, &[(0, b"A"), INPUT]));
    shop.finish(&work, Verdict::Rejected, "no \u{e9}".as_bytes());
    let first = shop.answer();
    assert!(shop.run(1, 1, &[(0, b"A"), INPUT]).is_empty());
    let second = shop.answer();
    for said in [first.only(), second.only()] {
        assert_eq!((said.header.kind(), said.header.place.get()), (Kind::Fail, 1));
        assert!(said.header.has(Flags::CLEAN));
        assert_eq!(said.body, [(Section::CAUSE, b"\x93\x01\x01\xa5no \xc3\xa9".to_vec())]);
    }
    assert_eq!(shop.worker.stats().answered, 2);
}

#[test]
fn a_rejection_after_a_failed_try_is_not_clean_and_the_pivot_does_not_end_so() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Retry, b"20");
    assert_eq!(shop.answer().only().header.amount.get(), 20);
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Rejected, b"no");
    let said = shop.answer();
    assert!(!said.only().header.has(Flags::CLEAN));
    assert_eq!(section(said.only(), Section::CAUSE).unwrap()[1], CauseCode::Rejected.code());
    let pivot = |shop: &mut Process| only(shop.run(3, 0b111, &[(0, b"A"), (2, b"C"), INPUT]));
    let work = pivot(&mut shop);
    shop.finish(&work, Verdict::GaveUp, b"timeout");
    assert_eq!(shop.answer().only().header.kind(), Kind::RetryLater);
    let work = pivot(&mut shop);
    shop.finish(&work, Verdict::Rejected, b"no");
    assert_eq!(shop.answer().only().header.kind(), Kind::RetryLater, "an earlier try may have decided");
    let mut fresh = Process::new(true, &diamond());
    let work = pivot(&mut fresh);
    fresh.finish(&work, Verdict::Rejected, b"no");
    assert!(fresh.answer().only().header.has(Flags::CLEAN));
}

#[test]
fn a_fence_in_a_database_says_whether_a_failure_is_clean() {
    let mut shop = Process::new(false, &diamond());
    for (verdict, code, is_clean) in [
        (Verdict::Rejected, CauseCode::Rejected, true),
        (Verdict::RejectedUncertain, CauseCode::Rejected, false),
        (Verdict::GaveUp, CauseCode::GaveUp, false),
        (Verdict::GaveUpClean, CauseCode::GaveUp, true),
    ] {
        let work = only(shop.run(0, 0, &[INPUT]));
        shop.finish(&work, verdict, b"why");
        let said = shop.answer();
        assert_eq!(said.only().header.has(Flags::CLEAN), is_clean, "{verdict:?}");
        assert_eq!(section(said.only(), Section::CAUSE).unwrap()[1], code.code());
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut shop = Process::new(false, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Rejected, format!("x{}", "\u{e9}".repeat(150)).as_bytes());
    let said = shop.answer();
    let cause = section(said.only(), Section::CAUSE).unwrap();
    assert_eq!((&cause[..5], cause.len()), (&[0x93, 1, 0, 0xd9, 199][..], 5 + 199));
    assert!(std::str::from_utf8(&cause[5..]).is_ok());
}
