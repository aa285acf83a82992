//! A service process, by its frames: what the broker delivers, what the process answers.

use sagacore_core::limits::{BACKOFF_LAST_MS, NOT_YET_MS};
use sagacore_core::plan::fingerprint;
use sagacore_core::wire::{
    CauseCode, Flags, Header, Key, Kind, Refusal, SagaId, Section, Sections, TransactionWriter, Transactions,
};
use sagacore_core::worker::{Misuse, Phase, Verdict, Work, Worker, WorkerOptions};

const PIVOT: u32 = 1;
const COMPENSABLE: u32 = 2;

struct StepText {
    name: &'static str,
    service: &'static str,
    flags: u32,
    after: &'static [u32],
    reads: &'static [u32],
}

fn step(
    name: &'static str,
    service: &'static str,
    flags: u32,
    after: &'static [u32],
    reads: &'static [u32],
) -> StepText {
    StepText { name, service, flags, after, reads }
}

fn definition(name: &str, steps: &[StepText]) -> Vec<u8> {
    fn numbers(out: &mut Vec<u8>, numbers: &[u32]) {
        rmp::encode::write_array_len(out, numbers.len() as u32).unwrap();
        for &number in numbers {
            rmp::encode::write_uint(out, u64::from(number)).unwrap();
        }
    }
    let mut out = Vec::new();
    rmp::encode::write_array_len(&mut out, 7).unwrap();
    rmp::encode::write_uint(&mut out, 1).unwrap();
    rmp::encode::write_str(&mut out, name).unwrap();
    rmp::encode::write_uint(&mut out, 100).unwrap();
    rmp::encode::write_uint(&mut out, 30_000).unwrap();
    rmp::encode::write_uint(&mut out, 0).unwrap();
    numbers(&mut out, &[]);
    rmp::encode::write_array_len(&mut out, steps.len() as u32).unwrap();
    for step in steps {
        rmp::encode::write_array_len(&mut out, 7).unwrap();
        rmp::encode::write_str(&mut out, step.name).unwrap();
        rmp::encode::write_str(&mut out, step.service).unwrap();
        rmp::encode::write_uint(&mut out, 16).unwrap();
        rmp::encode::write_uint(&mut out, u64::from(step.flags)).unwrap();
        numbers(&mut out, step.after);
        numbers(&mut out, step.reads);
        numbers(&mut out, &[]);
    }
    out
}

/// a -> (b, c) -> d -> e. `b` and `c` read `a`; `d` reads `c`, then `a`, and is the pivot. All at the service `shop`.
fn diamond() -> Vec<u8> {
    definition(
        "diamond",
        &[
            step("a", "shop", COMPENSABLE, &[], &[]),
            step("b", "shop", COMPENSABLE, &[0], &[0]),
            step("c", "shop", COMPENSABLE, &[0], &[0]),
            step("d", "shop", PIVOT, &[1, 2], &[2, 0]),
            step("e", "shop", 0, &[3], &[]),
        ],
    )
}

/// p, then q beside r; q reads p, r does not. After p: RUN(q) and RUN(r); the end is a join of both.
/// With `s` after both of q and of a root of its own, p leads to a step and to a join.
fn fork() -> Vec<u8> {
    definition(
        "fork",
        &[
            step("p", "shop", COMPENSABLE, &[], &[]),
            step("q", "shop", COMPENSABLE, &[], &[]),
            step("r", "shop", COMPENSABLE, &[0], &[0]),
            step("s", "shop", COMPENSABLE, &[0, 1], &[0, 1]),
        ],
    )
}

/// A message that the process sent, owned.
#[derive(Debug, Clone)]
struct Said {
    header: Header,
    body: Vec<(u8, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct SaidTransaction {
    number: u64,
    consumes: Vec<Key>,
    messages: Vec<Said>,
}

impl SaidTransaction {
    fn places(&self) -> Vec<(Kind, u16)> {
        self.messages.iter().map(|message| (message.header.kind(), message.header.place.get())).collect()
    }

    fn only(&self) -> &Said {
        assert_eq!(self.messages.len(), 1);
        &self.messages[0]
    }
}

fn section(said: &Said, key: u8) -> Option<&[u8]> {
    said.body.iter().find(|(at, _)| *at == key).map(|(_, value)| value.as_slice())
}

struct Process {
    worker: Worker,
    now_ms: u64,
    plan: u64,
}

impl Process {
    fn new(memory_fence: bool, definition: &[u8]) -> Self {
        let options = WorkerOptions {
            service: "shop".to_owned(),
            steps: ["e", "d", "c", "b", "a", "p", "q", "r"].map(str::to_owned).to_vec(),
            instance: 7,
            memory_fence,
            lease_ms: 10_000,
            credit: 8,
            retention_ms: 60_000,
        };
        let mut process = Self { worker: Worker::new(options), now_ms: 1_000, plan: fingerprint(definition) };
        process.worker.connect(process.now_ms);
        let subscription = process.worker.frame(process.now_ms).unwrap();
        assert!(!subscription.is_empty());
        process.welcome(1);
        process.define(definition);
        process
    }

    fn welcome(&mut self, boot_epoch: u64) {
        let mut header = Header::new(Kind::Subscribe);
        header.amount = boot_epoch.into();
        assert!(self.deliver(header, &[]).is_empty());
    }

    fn define(&mut self, definition: &[u8]) {
        let mut header = Header::new(Kind::Define);
        header.plan = fingerprint(definition).into();
        assert!(self.deliver(header, &[(Section::DATA, definition)]).is_empty());
    }

    fn deliver(&mut self, header: Header, body: &[(u8, &[u8])]) -> Vec<Work> {
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        transaction.publish_with(header, |out| {
            for (key, value) in body {
                out.section(*key, value);
            }
        });
        transaction.finish();
        let mut works = Vec::new();
        self.worker.receive(&frame, self.now_ms, &mut works);
        works
    }

    fn token(&self, kind: Kind, sequence: u64, place: u16) -> Header {
        let mut header = Header::new(kind);
        header.saga = SagaId::new(3, sequence, 9);
        header.plan = self.plan.into();
        header.place = place.into();
        header.age = sequence.into();
        header.deadline_ms = 77_000.into();
        header.trace = [5; 16];
        header
    }

    fn run(&mut self, place: u16, done: u64, body: &[(u8, &[u8])]) -> Vec<Work> {
        let mut header = self.token(Kind::Run, 1, place);
        header.done = done.into();
        header.active = (1 << place).into();
        self.deliver(header, body)
    }

    fn undo(&mut self, place: u16, set: u64, left: u64) -> Vec<Work> {
        let mut header = self.token(Kind::Undo, 1, place);
        header.done = set.into();
        header.undo = left.into();
        let cause: &[u8] = b"\x93\x01\x02\xa2no";
        self.deliver(header, &[(Section::INPUT, b"order"), (Section::CAUSE, cause)])
    }

    fn finish(&mut self, work: &Work, verdict: Verdict, payload: &[u8]) -> Vec<Work> {
        let mut works = Vec::new();
        self.worker.finish(work.ticket, verdict, payload, self.now_ms, &mut works).unwrap();
        works
    }

    fn said(&mut self) -> Vec<SaidTransaction> {
        let Some(frame) = self.worker.frame(self.now_ms) else { return Vec::new() };
        Transactions::parse(&frame)
            .unwrap()
            .map(Result::unwrap)
            .map(|transaction| SaidTransaction {
                number: transaction.number,
                consumes: transaction.consumes.to_vec(),
                messages: transaction
                    .messages()
                    .map(|message| Said {
                        header: *message.header,
                        body: Sections::parse(message.body).unwrap().map(|(key, value)| (key, value.to_vec())).collect(),
                    })
                    .collect(),
            })
            .collect()
    }

    /// What it said that is numbered: without heartbeats and credit.
    fn answered(&mut self) -> Vec<SaidTransaction> {
        self.said().into_iter().filter(|transaction| transaction.number > 0).collect()
    }

    fn answer(&mut self) -> SaidTransaction {
        let mut answered = self.answered();
        assert_eq!(answered.len(), 1, "{answered:?}");
        answered.remove(0)
    }

    fn credit(&mut self) -> Option<u64> {
        let said = self.said();
        let credit = |transaction: &SaidTransaction| {
            let message = transaction.messages.first()?;
            (message.header.kind() == Kind::Credit).then(|| message.header.amount.get())
        };
        said.iter().filter_map(credit).next_back()
    }

    fn input(&self, work: &Work) -> Vec<u8> {
        self.worker.input(work).to_vec()
    }

    fn results(&self, work: &Work) -> Vec<Vec<u8>> {
        let mut results = Vec::new();
        self.worker.each_result(work, |result| results.push(result.to_vec()));
        results
    }
}

const INPUT: (u8, &[u8]) = (Section::INPUT, b"order");

fn only(works: Vec<Work>) -> Work {
    assert_eq!(works.len(), 1, "{works:?}");
    works[0].clone()
}

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
    assert_eq!((said.header.kind(), said.header.amount.get()), (Kind::RetryLater, 80), "past the pivot nothing is rejected");
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
    assert_eq!((message.header.kind(), message.header.done.get(), message.header.undo.get()), (Kind::Undone, 0b111, 0b101));
    assert_eq!(message.body, [(64, b"order".to_vec()), (65, b"\x93\x01\x02\xa2no".to_vec())]);
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
fn rows_in_memory_expire_by_time_spent_connected() {
    let mut shop = Process::new(true, &diamond());
    let work = only(shop.run(0, 0, &[INPUT]));
    shop.finish(&work, Verdict::Done, b"A");
    let stay = |shop: &mut Process, span_ms: u64| {
        for _ in 0..span_ms / 500 {
            shop.now_ms += 500;
            let ping = Header::new(Kind::Ping);
            shop.deliver(ping, &[]);
            shop.worker.tick(shop.now_ms);
        }
    };
    stay(&mut shop, 80_000);
    assert_eq!(shop.worker.stats().rows, 1);
    shop.now_ms += 3_600_000;
    shop.worker.tick(shop.now_ms);
    assert_eq!(shop.worker.stats().rows, 1, "the broker was away");
    shop.worker.connect(shop.now_ms);
    shop.welcome(2);
    stay(&mut shop, 12_000);
    assert_eq!(shop.worker.stats().rows, 0, "30 s to the deadline, 60 s of retention");
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
    assert_eq!(std::str::from_utf8(&keys[0]).unwrap(), "?");
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 4);
}
