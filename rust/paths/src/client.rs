//! Sagas started in a batch by a client, confirmed, and their outcomes told.

use sagacore_core::client::{ClientCore, ClientOptions};
use sagacore_core::wire::{Kind, OutcomeCode, SagaId, Section};
use sagacore_fuzz::seeds;

use crate::frames::{INPUT, RESULT, confirm, header, hear, say};
use crate::{HOUSEKEEPING_OPERATIONS, Path};

const BATCH: u64 = 16;

/// One batch after the other.
pub struct Start {
    client: ClientCore,
    plan: u64,
    batches: u64,
    now_ms: u64,
    frame: Vec<u8>,
    started: u64,
    told: u64,
}

impl Start {
    pub fn new() -> Self {
        let definition = seeds::chain();
        let mut client = ClientCore::new(ClientOptions { instance: 1, credit: 1_000, outbox_bytes_max: 1 << 20 });
        client.connect(0);
        let plan = client.define(&definition).unwrap_or_else(|error| panic!("the chain: {error}"));
        let mut frame = Vec::new();
        say(&mut frame, 0, &[], header(Kind::Subscribe, 1), |_| {});
        let mut start = Self { client, plan, batches: 0, now_ms: 0, frame, started: 0, told: 0 };
        start.hear_all();
        start
    }

    fn hear_all(&mut self) {
        let told = &mut self.told;
        let heard = self.client.receive(&self.frame, self.now_ms, &mut |event| {
            *told += u64::from(event.kind == Kind::Result);
        });
        heard.unwrap_or_else(|fault| panic!("a frame by hand: {fault:?}"));
        self.frame.clear();
    }
}

impl Path for Start {
    fn operate(&mut self) {
        self.batches += 1;
        if self.batches.is_multiple_of(HOUSEKEEPING_OPERATIONS) {
            self.now_ms += HOUSEKEEPING_OPERATIONS;
            self.client.tick(self.now_ms);
        }
        let first = self.batches * BATCH;
        let keys: [[u8; 8]; BATCH as usize] = std::array::from_fn(|at| (first + at as u64).to_le_bytes());
        let sagas = keys.iter().map(|key| (&key[..], &INPUT[..]));
        let begun = self.client.start_batch(self.plan, sagas, first, true);
        begun.unwrap_or_else(|error| panic!("a batch: {error}"));
        let (mut last, mut started) = (0, 0);
        while let Some(frame) = self.client.frame(self.now_ms) {
            hear(&frame, |number, message| {
                last = last.max(number);
                started += u64::from(message.header.kind() == Kind::Start);
            });
        }
        self.started += started;
        confirm(&mut self.frame, last);
        for correlation in first..first + BATCH {
            let mut result = header(Kind::Result, correlation);
            result.saga = SagaId::new(0, correlation, 7);
            result.place = OutcomeCode::Completed.code().into();
            say(&mut self.frame, 0, &[], result, |body| {
                body.section(3, &RESULT).section(Section::KEY, &correlation.to_le_bytes());
            });
        }
        self.hear_all();
    }

    fn check(&self, operations: u64) {
        assert_eq!((self.started, self.told), (operations * BATCH, operations * BATCH), "STARTs and RESULTs");
        assert_eq!(self.client.awaited(), 0, "nothing is awaited any more");
    }
}
