//! A process of the service `shop`, driven by frames: what the tests deliver to it and read from it.

use sagacore_core::plan::fingerprint;
use sagacore_core::watermark::Watermark;
use sagacore_core::wire::{Header, Key, Kind, SagaId, Section, Sections, TransactionWriter, Transactions};
use sagacore_core::worker::{Ready, Verdict, Work, Worker, WorkerOptions};

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
pub fn diamond() -> Vec<u8> {
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
pub fn fork() -> Vec<u8> {
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
pub struct Said {
    pub header: Header,
    pub body: Vec<(u8, Vec<u8>)>,
}

#[derive(Debug, Clone)]
pub struct SaidTransaction {
    pub number: u64,
    pub consumes: Vec<Key>,
    pub messages: Vec<Said>,
}

impl SaidTransaction {
    pub fn places(&self) -> Vec<(Kind, u16)> {
        self.messages.iter().map(|message| (message.header.kind(), message.header.place.get())).collect()
    }

    pub fn only(&self) -> &Said {
        assert_eq!(self.messages.len(), 1);
        &self.messages[0]
    }
}

pub fn section(said: &Said, key: u8) -> Option<&[u8]> {
    said.body.iter().find(|(at, _)| *at == key).map(|(_, value)| value.as_slice())
}

pub struct Process {
    pub worker: Worker,
    pub now_ms: u64,
    pub plan: u64,
}

impl Process {
    pub fn new(memory_fence: bool, definition: &[u8]) -> Self {
        let options = WorkerOptions {
            service: "shop".to_owned(),
            steps: ["e", "d", "c", "b", "a", "p", "q", "r"].map(str::to_owned).to_vec(),
            instance: 7,
            memory_fence,
            lease_ms: 10_000,
            credit: 8,
        };
        let mut process = Self { worker: Worker::new(options), now_ms: 1_000, plan: fingerprint(definition) };
        process.worker.connect(process.now_ms);
        let subscription = process.worker.frame(process.now_ms).unwrap();
        assert!(!subscription.is_empty());
        process.welcome(1);
        process.define(definition);
        process
    }

    pub fn welcome(&mut self, boot_epoch: u64) {
        let mut header = Header::new(Kind::Subscribe);
        header.amount = boot_epoch.into();
        assert!(self.deliver(header, &[]).is_empty());
    }

    pub fn define(&mut self, definition: &[u8]) {
        let mut header = Header::new(Kind::Define);
        header.plan = fingerprint(definition).into();
        assert!(self.deliver(header, &[(Section::DATA, definition)]).is_empty());
    }

    /// The broker tells that all sagas below a sequence have ended, save some.
    pub fn told(&mut self, log: u64, as_of_lsn: u64, mark: u64, exceptions: &[u64]) {
        let told = Watermark { log, boot: 1, as_of_lsn, marks: [mark; 21], exceptions: exceptions.to_vec() };
        assert!(self.deliver(Header::new(Kind::Watermark), &[(Section::DATA, &told.write())]).is_empty());
        self.worker.tick(self.now_ms);
    }

    pub fn deliver(&mut self, header: Header, body: &[(u8, &[u8])]) -> Vec<Work> {
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        transaction.publish_with(header, |out| {
            for (key, value) in body {
                out.section(*key, value);
            }
        });
        transaction.finish();
        let mut ready = Vec::new();
        self.worker.receive(&frame, self.now_ms, &mut ready);
        self.works(&ready)
    }

    fn works(&self, ready: &[Ready]) -> Vec<Work> {
        ready.iter().map(|ready| self.worker.work(ready.ticket).unwrap()).collect()
    }

    pub fn token(&self, kind: Kind, sequence: u64, place: u16) -> Header {
        let mut header = Header::new(kind);
        header.saga = SagaId::new(3, sequence, 9);
        header.plan = self.plan.into();
        header.place = place.into();
        header.age = sequence.into();
        header.deadline_ms = 77_000.into();
        header.trace = [5; 16];
        header
    }

    pub fn run(&mut self, place: u16, done: u64, body: &[(u8, &[u8])]) -> Vec<Work> {
        let mut header = self.token(Kind::Run, 1, place);
        header.done = done.into();
        header.active = (1 << place).into();
        self.deliver(header, body)
    }

    pub fn undo(&mut self, place: u16, set: u64, left: u64) -> Vec<Work> {
        let mut header = self.token(Kind::Undo, 1, place);
        header.done = set.into();
        header.undo = left.into();
        let cause: &[u8] = b"\x93\x01\x02\xa2no";
        self.deliver(header, &[(Section::INPUT, b"order"), (Section::CAUSE, cause)])
    }

    pub fn finish(&mut self, work: &Work, verdict: Verdict, payload: &[u8]) -> Vec<Work> {
        let mut ready = Vec::new();
        self.worker.finish(work.ticket, verdict, payload, self.now_ms, &mut ready).unwrap();
        self.works(&ready)
    }

    pub fn said(&mut self) -> Vec<SaidTransaction> {
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
                        body: Sections::parse(message.body)
                            .unwrap()
                            .map(|(key, value)| (key, value.to_vec()))
                            .collect(),
                    })
                    .collect(),
            })
            .collect()
    }

    /// What it said that is numbered: without heartbeats and credit.
    pub fn answered(&mut self) -> Vec<SaidTransaction> {
        self.said().into_iter().filter(|transaction| transaction.number > 0).collect()
    }

    pub fn answer(&mut self) -> SaidTransaction {
        let mut answered = self.answered();
        assert_eq!(answered.len(), 1, "{answered:?}");
        answered.remove(0)
    }

    pub fn credit(&mut self) -> Option<u64> {
        let said = self.said();
        let credit = |transaction: &SaidTransaction| {
            let message = transaction.messages.first()?;
            (message.header.kind() == Kind::Credit).then(|| message.header.amount.get())
        };
        said.iter().filter_map(credit).next_back()
    }

    pub fn input(&self, work: &Work) -> Vec<u8> {
        self.worker.input(work.ticket).to_vec()
    }

    pub fn results(&self, work: &Work) -> Vec<Vec<u8>> {
        (0..).map_while(|place| self.worker.result(work.ticket, place)).map(<[u8]>::to_vec).collect()
    }
}

pub const INPUT: (u8, &[u8]) = (Section::INPUT, b"order");

pub fn only(works: Vec<Work>) -> Work {
    assert_eq!(works.len(), 1, "{works:?}");
    works[0].clone()
}
