//! What is below the watermark: nothing is done for it, and nothing kept.

use sagacore_core::wire::{Header, Kind, Section};
use sagacore_core::worker::Verdict;

use crate::process::*;

fn run(shop: &mut Process, sequence: u64) -> usize {
    shop.deliver(shop.token(Kind::Run, sequence, 0), &[INPUT]).len()
}

#[test]
fn rows_in_memory_are_forgotten_once_their_sagas_have_ended() {
    let mut shop = Process::new(true, &diamond());
    shop.told(5, 1, 1, &[]);
    for sequence in 1..4 {
        let work = only(shop.deliver(shop.token(Kind::Run, sequence, 0), &[INPUT]));
        shop.finish(&work, Verdict::Done, b"A");
    }
    shop.now_ms += 3_600_000;
    shop.told(5, 2, 3, &[1]);
    assert_eq!(shop.worker.stats().rows, 2, "the exception, and what is not below");
    shop.answered();
    for (sequence, answers) in [(1, 1), (2, 0), (3, 1)] {
        assert_eq!(run(&mut shop, sequence), 0);
        assert_eq!(shop.answered().len(), answers, "saga {sequence}");
    }
    shop.told(5, 1, 9, &[]);
    assert_eq!(shop.worker.stats().rows, 2, "it is of an older record");
    shop.told(5, 3, 4, &[]);
    assert_eq!((shop.worker.stats().rows, shop.worker.stats().passed), (0, 1));
}

#[test]
fn what_is_below_is_passed_over_and_its_credit_given_back() {
    for memory_fence in [true, false] {
        let mut shop = Process::new(memory_fence, &diamond());
        shop.told(5, 1, 8, &[3]);
        assert_eq!((run(&mut shop, 7), run(&mut shop, 3), run(&mut shop, 8)), (0, 1, 1));
        let undo = shop.token(Kind::Undo, 7, 0);
        assert!(shop.deliver(undo, &[INPUT]).is_empty());
        let stats = shop.worker.stats();
        assert_eq!((stats.passed, stats.rows, stats.running), (2, 0, 2));
        let said = shop.said();
        assert!(said.iter().all(|transaction| transaction.number == 0), "no answer: {said:?}");
        assert_eq!(said.last().unwrap().only().header.amount.get(), 10, "credit for two more");
    }
}

#[test]
fn work_that_ends_too_late_leaves_no_row() {
    let mut shop = Process::new(true, &diamond());
    shop.told(5, 1, 1, &[]);
    let action = only(shop.run(0, 0, &[INPUT]));
    assert!(shop.undo(0, 1, 1).is_empty(), "it waits for the action");
    shop.told(5, 2, 2, &[]);
    assert!(shop.finish(&action, Verdict::Done, b"A").is_empty(), "and begins no more");
    assert!(shop.answered().is_empty());
    let stats = shop.worker.stats();
    assert_eq!((stats.rows, stats.running, stats.passed), (0, 0, 2));
}

#[test]
fn another_log_begins_anew() {
    let mut shop = Process::new(true, &diamond());
    shop.told(5, 70, 100, &[]);
    let work = only(shop.deliver(shop.token(Kind::Run, 100, 0), &[INPUT]));
    shop.finish(&work, Verdict::Done, b"A");
    let late = only(shop.deliver(shop.token(Kind::Run, 101, 0), &[INPUT]));
    shop.told(6, 1, 1, &[]);
    assert_eq!((run(&mut shop, 1), shop.worker.stats().rows), (1, 0), "a wiped broker begins with 1 again");
    shop.answered();
    shop.finish(&late, Verdict::Done, b"A");
    assert_eq!((shop.answered().len(), shop.worker.stats().rows), (0, 0), "it is of the old log");
}

#[test]
fn a_fence_elsewhere_is_given_each_watermark_once_and_what_judges_its_work() {
    let mut shop = Process::new(false, &diamond());
    assert_eq!(shop.worker.take_watermark(), None);
    shop.told(5, 7, 1, &[]);
    assert_eq!(shop.worker.take_watermark().map(|told| (told.log, told.as_of_lsn)), Some((5, 7)));
    shop.told(5, 7, 1, &[]);
    assert_eq!(shop.worker.take_watermark(), None);
    let work = only(shop.run(0, 0, &[INPUT]));
    assert_eq!((work.log, work.class), (5, 5), "its deadline is 30 s");
    assert!(shop.deliver(Header::new(Kind::Watermark), &[(Section::DATA, b"nonsense")]).is_empty());
    assert_eq!((shop.worker.stats().malformed, shop.worker.take_watermark()), (1, None));
}
