//! Five sagas of honest peers, by the real cores: one ends well, one is rejected, one is put off until it is cancelled,
//! and two wait for each other, so that one of them begins again.
//! What they say, what the broker says to them and what it writes are the valid bytes that mutation begins with.

use std::cell::LazyCell;
use std::collections::VecDeque;

use sagacore_broker::{Broker, Config, Opened, Record};
use sagacore_core::client::{Action, ClientCore, ClientOptions, Subject};
use sagacore_core::coordinator::Coordinator;
use sagacore_core::peer::{Peer, PeerOptions};
use sagacore_core::wire::{Blocked, HoldMode, Holder, Role, WaitPolicy};
use sagacore_core::worker::{Verdict, Worker, WorkerOptions};

use crate::seeds;

pub const NOW_MS: u64 = 1_000;
/// Who says something. The last one has no session and speaks only when a mutation makes it.
pub const SENDERS: [&str; 6] = ["client", "coordinator", "service-0", "service-1", "service-2", "stranger"];
const SERVICES: usize = 3;
/// This step waits, the first time that it is asked for, in these two sagas.
const CONTENDED: &str = "step-1";
const CONTENDING: [u64; 2] = [4, 5];
/// This step is rejected in the second saga, and put off in the third.
const REJECTED: &str = "step-2";

/// All that was said and written, in order.
pub struct Honest {
    /// The place in `SENDERS`, and a frame to the broker.
    pub said: Vec<(u8, Vec<u8>)>,
    /// Frames from the broker.
    pub heard: Vec<Vec<u8>>,
    pub records: Vec<Record>,
}

thread_local! {
    static HONEST: LazyCell<&'static Honest> = const { LazyCell::new(|| Box::leak(Box::new(play()))) };
}

/// The same for every caller of a thread: played once.
pub fn honest() -> &'static Honest {
    HONEST.with(|honest| **honest)
}

/// A broker with an empty log.
pub fn new_broker() -> (Broker, Option<Record>) {
    let mut broker = Broker::new(Config { stuck_after_ms: 5_000, ..Config::default() });
    let first = broker.open(Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0, unclean: false }, NOW_MS);
    (broker, first)
}

/// What the broker has to write, which counts as durable at once.
pub fn flush(broker: &mut Broker, now_ms: u64, records: &mut Vec<Record>) {
    while let Some(record) = broker.flush(now_ms) {
        broker.synced(record.lsn, now_ms);
        records.push(record);
    }
}

struct Stage {
    broker: Broker,
    client: ClientCore,
    coordinator: Coordinator,
    workers: Vec<Worker>,
    told: Honest,
    queue: VecDeque<(u8, Vec<u8>)>,
    /// Sagas that have waited.
    waited: Vec<u64>,
}

fn play() -> Honest {
    let (broker, first) = new_broker();
    let told = Honest { said: Vec::new(), heard: Vec::new(), records: first.into_iter().collect() };
    let client = ClientCore::new(ClientOptions { instance: 1, credit: 64, outbox_bytes_max: 1 << 20 });
    let coordinator = Coordinator::new(16, Peer::new(coordinator_options()));
    let workers = (0..SERVICES).map(|number| Worker::new(worker_options(number))).collect();
    let mut stage = Stage { broker, client, coordinator, workers, told, queue: VecDeque::new(), waited: Vec::new() };
    stage.broker.synced(1, NOW_MS);
    stage.client.connect(NOW_MS);
    stage.coordinator.connect(NOW_MS);
    stage.workers.iter_mut().for_each(|worker| worker.connect(NOW_MS));
    stage.settle();
    let definition = seeds::diamond();
    let plan = stage.client.define(&definition).unwrap_or_else(|error| panic!("the diamond: {error}"));
    for key in [&b"order-1"[..], b"order-2", b"order-3"] {
        let sagas = [(key, &b"\xc0"[..])];
        let begun = stage.client.start_batch(plan, sagas.into_iter(), u64::from(key[6]), false);
        begun.unwrap_or_else(|error| panic!("a saga: {error}"));
        stage.settle();
    }
    let both = [(&b"order-4"[..], &b"\xc0"[..]), (b"order-5", b"\xc0")];
    let begun = stage.client.start_batch(plan, both.into_iter(), 200, false);
    begun.unwrap_or_else(|error| panic!("two sagas: {error}"));
    stage.settle();
    stage.told.records.extend(copies(&mut stage.broker));
    stage.ask();
    stage.told.records.extend(copies(&mut stage.broker));
    stage.told
}

/// The records of a sweep, as if the log had grown.
fn copies(broker: &mut Broker) -> Vec<Record> {
    let mut records = Vec::new();
    broker.log_has(&[1, 2, 3, 4, 5, 6, 7, 8], 1 << 20);
    broker.tick(NOW_MS);
    flush(broker, NOW_MS, &mut records);
    records
}

fn coordinator_options() -> PeerOptions {
    PeerOptions {
        role: Role::Coordinator,
        name: String::new(),
        instance: 2,
        exclusive: false,
        lease_ms: 0,
        credit: 8,
        outbox_bytes_max: 1 << 20,
    }
}

fn worker_options(number: usize) -> WorkerOptions {
    WorkerOptions {
        service: format!("service-{number}"),
        steps: (0..4).map(|step| format!("step-{step}")).collect(),
        instance: 3 + number as u64,
        memory_fence: true,
        lease_ms: 1_000,
        credit: 8,
    }
}

impl Stage {
    /// Everything that a client can ask of the saga that waits, and then that it is cancelled.
    fn ask(&mut self) {
        let third = Subject::Key(b"order-3");
        let saga = self.broker.state().sagas.values().next().map(|saga| saga.id).unwrap_or_default();
        let client = &mut self.client;
        let asked = client
            .status(101, third)
            .and_then(|()| client.status(102, Subject::Key(b"order-1")))
            .and_then(|()| client.attach(103, third))
            .and_then(|()| client.attach(104, Subject::Key(b"order-1")))
            .and_then(|()| client.stats(105))
            .and_then(|()| client.stuck(106))
            .and_then(|()| client.deadlocks(110, 0))
            .and_then(|()| client.resolve(107, saga, 2, Action::Retry, "now", &[]))
            .and_then(|()| client.resolve(108, saga, 2, Action::Skip, "now", &[]))
            .and_then(|()| client.cancel(109, third, "changed my mind"));
        asked.unwrap_or_else(|error| panic!("a question: {error}"));
        self.settle();
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            self.gather();
            if self.queue.is_empty() {
                return;
            }
            while let Some((sender, frame)) = self.queue.pop_front() {
                self.broker.receive(SENDERS[usize::from(sender)].as_bytes(), &frame, NOW_MS);
                flush(&mut self.broker, NOW_MS, &mut self.told.records);
                self.told.said.push((sender, frame));
            }
            let mut frames = Vec::new();
            self.broker.take_frames(&mut frames);
            for (identity, frame) in frames {
                self.deliver(&identity, &frame);
                self.told.heard.push(frame);
            }
        }
    }

    fn gather(&mut self) {
        let mut say = |sender: usize, next: &mut dyn FnMut() -> Option<Vec<u8>>| {
            while let Some(frame) = next() {
                self.queue.push_back((sender as u8, frame));
            }
        };
        say(0, &mut || self.client.frame(NOW_MS));
        say(1, &mut || self.coordinator.frame(NOW_MS));
        for (number, worker) in self.workers.iter_mut().enumerate() {
            say(2 + number, &mut || worker.frame(NOW_MS));
        }
    }

    fn deliver(&mut self, identity: &[u8], frame: &[u8]) {
        match SENDERS.iter().position(|name| name.as_bytes() == identity) {
            Some(0) => _ = self.client.receive(frame, NOW_MS, &mut |_| {}),
            Some(1) => _ = self.coordinator.receive(frame, NOW_MS),
            Some(number) => self.work(number - 2, frame),
            None => {}
        }
    }

    fn work(&mut self, number: usize, frame: &[u8]) {
        let worker = &mut self.workers[number];
        let mut ready = Vec::new();
        worker.receive(frame, NOW_MS, &mut ready);
        while let Some(ready_now) = ready.pop() {
            let work = worker.work(ready_now.ticket).unwrap_or_else(|| panic!("{ready_now:?} does not run"));
            let sequence = work.saga.sequence.get();
            let other = CONTENDING.iter().find(|&&other| other != sequence).copied().unwrap_or_default();
            let other = self.broker.state().saga_by_sequence(other).map(|saga| self.broker.state().sagas[saga].id);
            let is_contended = format!("step-{}", work.step) == CONTENDED && CONTENDING.contains(&sequence);
            let waits = is_contended && !work.undo && !self.waited.contains(&sequence);
            let blocked = other.filter(|_| waits).map(|saga| {
                self.waited.push(sequence);
                let holders = vec![Holder { saga, attempt: 0, place: 0 }];
                Blocked { policy: WaitPolicy::Detect, mode: HoldMode::Exclusive, resource: b"sku", holders }.write()
            });
            let is_judged = format!("step-{}", work.step) == REJECTED;
            let (verdict, payload): (Verdict, &[u8]) = match (work.undo, sequence) {
                _ if blocked.is_some() => (Verdict::Blocked, blocked.as_deref().unwrap_or_default()),
                (true, _) => (Verdict::Undone, b"\xc0"),
                (false, 2) if is_judged => (Verdict::Rejected, b"no"),
                (false, 3) if is_judged => (Verdict::Retry, b"60000 not yet"),
                (false, _) => (Verdict::Done, b"\xc0"),
            };
            let finished = worker.finish(work.ticket, verdict, payload, NOW_MS, &mut ready);
            finished.unwrap_or_else(|misuse| panic!("what was handed out: {misuse}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagacore_broker::RecordKind;

    #[test]
    fn all_sagas_end_and_the_log_has_all_kinds_of_records() {
        let honest = honest();
        let (mut broker, _) = new_broker();
        for record in &honest.records {
            broker.replay(record.kind, record.lsn, record.time_ms, &record.payload).unwrap_or_else(|no| panic!("{no}"));
        }
        assert_eq!((broker.state().sagas.len(), broker.state().outcomes.len()), (0, 5));
        assert_eq!((broker.state().counters.completed, broker.state().counters.compensated), (3, 2));
        assert!(honest.records.iter().any(|record| record.kind == RecordKind::Transactions));
        assert!(honest.records.iter().any(|record| record.kind == RecordKind::Copies && record.lsn > 1));
    }
}
