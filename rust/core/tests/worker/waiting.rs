//! Steps that wait for what others hold.

use sagacore_core::wire::{Blocked, CauseCode, Flags, HoldMode, Holder, Kind, SagaId, Section, WaitPolicy};
use sagacore_core::worker::{Misuse, Verdict};

use crate::process::*;

fn blocked() -> Vec<u8> {
    let holders = vec![Holder { saga: SagaId::new(0, 1, 1), attempt: 0, place: 0 }];
    Blocked { policy: WaitPolicy::Detect, mode: HoldMode::Shared, resource: b"sku:42", holders }.write()
}

#[test]
fn a_step_that_waits_says_who_stands_in_its_way_and_leaves_no_row() {
    for in_memory in [true, false] {
        let mut shop = Process::new(in_memory, &diamond());
        let work = only(shop.run(0, 0, &[INPUT]));
        assert_eq!((work.place, work.age, work.wounded, work.freed.len()), (0, 1, false, 0));
        shop.finish(&work, Verdict::Blocked, &blocked());
        let said = shop.answer();
        assert_eq!(said.only().header.kind(), Kind::Blocked);
        assert_eq!(section(said.only(), Section::DATA), Some(blocked().as_slice()));
        assert_eq!((shop.worker.stats().blocked, shop.worker.stats().rows), (1, 0));
        let again = only(shop.run(0, 0, &[INPUT, (Section::FREED, &[7; 20])]));
        assert_eq!(again.freed.len(), 1);
        shop.finish(&again, Verdict::Done, b"A");
        let said = shop.answer();
        assert_eq!(said.places(), [(Kind::Run, 1), (Kind::Run, 2)]);
    }
}

#[test]
fn nothing_waits_past_the_pivot_or_for_nobody() {
    let mut shop = Process::new(false, &diamond());
    let work = only(shop.run(4, 0b1111, &[INPUT]));
    let finish = |shop: &mut Process, ticket, payload: &[u8]| {
        shop.worker.finish(ticket, Verdict::Blocked, payload, 0, &mut Vec::new())
    };
    assert_eq!(finish(&mut shop, work.ticket, &blocked()), Err(Misuse::BlockedPastPivot));
    shop.finish(&work, Verdict::Done, b"E");
    let work = only(shop.run(0, 0, &[INPUT]));
    assert_eq!(finish(&mut shop, work.ticket, b"\x90"), Err(Misuse::Blocked));
}

#[test]
fn one_that_gives_way_at_its_pivot_says_no_as_a_victim() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(3, 0b111, &[(0, b"A"), (2, b"C"), INPUT]));
    shop.finish(&work, Verdict::Victim, b"it gave way");
    let said = shop.answer();
    assert!(said.only().header.has(Flags::CLEAN));
    assert_eq!(section(said.only(), Section::CAUSE).unwrap()[1], CauseCode::Victim.code());
    assert!(shop.run(3, 0b111, &[(0, b"A"), (2, b"C"), INPUT]).is_empty(), "a row says so from now on");
}

#[test]
fn a_step_that_is_undone_without_a_call_lets_go_of_its_claim() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Blocked, &blocked());
    assert!(shop.undo(0, 1, 1).is_empty());
    let let_go = shop.worker.take_let_go();
    assert_eq!(let_go, [Holder { saga: work.saga, attempt: 0, place: 0 }]);
    assert_eq!(shop.worker.take_let_go(), []);
}
