//! A step at a service's process with its fence in memory: delivered, asked about as Python does, ended, passed on.

use sagacore_core::watermark::Watermark;
use sagacore_core::wire::{Header, Kind, Section};
use sagacore_core::worker::{Ready, Verdict, Worker, WorkerOptions};
use sagacore_core::{limits::WATERMARK_CLASSES, plan::fingerprint};
use sagacore_fuzz::seeds;

use crate::frames::{INPUT, RESULT, confirm, greeting, hear, say, token};
use crate::{HOUSEKEEPING_OPERATIONS, Path};

/// One step of a chain for one saga after the other.
pub struct Run {
    worker: Worker,
    plan: u64,
    sequence: u64,
    now_ms: u64,
    frame: Vec<u8>,
    ready: Vec<Ready>,
    passed_on: u64,
}

impl Run {
    pub fn new() -> Self {
        let definition = seeds::chain();
        let worker = Worker::new(WorkerOptions {
            service: "service-1".to_owned(),
            steps: vec!["step-1".to_owned()],
            instance: 1,
            memory_fence: true,
            lease_ms: 1_000,
            credit: 1_000,
        });
        let frame = greeting(&definition);
        let plan = fingerprint(&definition);
        let mut run = Self { worker, plan, sequence: 0, now_ms: 0, frame, ready: Vec::new(), passed_on: 0 };
        run.worker.connect(0);
        run.keep_house();
        (0..HOUSEKEEPING_OPERATIONS).for_each(|_| run.operate());
        run.passed_on = 0;
        run
    }

    /// The broker tells that all sagas so far have ended: their rows are forgotten.
    fn keep_house(&mut self) {
        let mut watermark = Watermark { log: 1, boot: 1, as_of_lsn: self.now_ms, ..Watermark::unknown() };
        watermark.marks = [self.sequence; WATERMARK_CLASSES];
        say(&mut self.frame, 0, &[], Header::new(Kind::Watermark), |body| {
            body.section(Section::DATA, &watermark.write());
        });
        self.now_ms += HOUSEKEEPING_OPERATIONS;
        self.hear_all();
        self.worker.tick(self.now_ms);
    }

    fn hear_all(&mut self) {
        self.worker.receive(&self.frame, self.now_ms, &mut self.ready);
        self.frame.clear();
    }
}

impl Path for Run {
    fn operate(&mut self) {
        self.sequence += 1;
        if self.sequence.is_multiple_of(HOUSEKEEPING_OPERATIONS) {
            self.keep_house();
        }
        let mut run = token(Kind::Run, self.plan, self.sequence, 1);
        run.done = 0b01.into();
        run.active = 0b10.into();
        say(&mut self.frame, 0, &[], run, |body| {
            body.section(0, &RESULT).section(Section::INPUT, &INPUT).section(Section::KEY, b"order-42");
        });
        self.hear_all();
        while let Some(ready) = self.ready.pop() {
            let asked = (self.worker.work(ready.ticket), self.worker.result(ready.ticket, 0));
            assert!(matches!(asked, (Some(_), Some(_))) && !self.worker.input(ready.ticket).is_empty());
            let ended = self.worker.finish(ready.ticket, Verdict::Done, &RESULT, self.now_ms, &mut self.ready);
            ended.unwrap_or_else(|misuse| panic!("what was handed out: {misuse}"));
        }
        let (mut last, mut passed_on) = (0, 0);
        while let Some(frame) = self.worker.frame(self.now_ms) {
            hear(&frame, |number, message| {
                last = last.max(number);
                passed_on += u64::from(message.header.kind() == Kind::Run);
            });
        }
        self.passed_on += passed_on;
        confirm(&mut self.frame, last);
    }

    fn check(&self, operations: u64) {
        assert_eq!(self.passed_on, operations, "RUNs of the next step");
        let rows = self.worker.stats().rows;
        assert!(rows <= HOUSEKEEPING_OPERATIONS + 1, "{rows} rows: those of ended sagas are forgotten");
    }
}
