//! The broker, given any frame from anybody and any record in its log: it does not panic, what it says is well-formed,
//! and what it writes says the same when it is read again.

use sagacore_broker::{Broker, Config, Opened, Record, RecordKind};
use sagacore_core::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use sagacore_core::wire::Transactions;

use crate::honest::{NOW_MS, SENDERS, flush, honest, new_broker};

/// A frame comes from a sender, after so many frames of honest peers.
///
/// ```text
/// offset size field
///      0    1 sender  its place in `SENDERS`
///      1    1 after   frames of honest peers that were heard before
///      2      frame
/// ```
pub fn broker(bytes: &[u8]) {
    let [sender, after, frame @ ..] = bytes else { return };
    let (mut broker, first) = new_broker();
    let mut records: Vec<Record> = first.into_iter().collect();
    broker.synced(1, NOW_MS);
    let before = honest().said.iter().take(usize::from(*after));
    let sent = before.map(|(sender, frame)| (*sender, frame.as_slice())).chain([(*sender, frame)]);
    for (sender, frame) in sent {
        broker.receive(SENDERS[usize::from(sender) % SENDERS.len()].as_bytes(), frame, NOW_MS);
        flush(&mut broker, NOW_MS, &mut records);
    }
    for later_ms in [10, 100_000] {
        broker.tick(NOW_MS + later_ms);
        flush(&mut broker, NOW_MS + later_ms, &mut records);
    }
    check_frames(&mut broker);
    let again = replayed(&records).unwrap_or_else(|refused| panic!("what it wrote: {refused}"));
    same(&broker, &again);
}

fn check_frames(broker: &mut Broker) {
    let mut frames = Vec::new();
    broker.take_frames(&mut frames);
    for (_, frame) in frames {
        assert!(frame.len() <= FRAME_BYTES_MAX);
        for transaction in Transactions::parse(&frame).unwrap_or_else(|broken| panic!("the broker said: {broken}")) {
            transaction.unwrap_or_else(|broken| panic!("the broker said: {broken}"));
        }
    }
}

fn replayed(records: &[Record]) -> Result<Broker, String> {
    let mut broker = Broker::new(Config::default());
    for record in records {
        let read = broker.replay(record.kind, record.lsn, record.time_ms, &record.payload);
        read.map_err(|refused| refused.to_string())?;
    }
    Ok(broker)
}

fn same(one: &Broker, other: &Broker) {
    let summary = |broker: &Broker| {
        let state = broker.state();
        let mut tokens: Vec<_> = state
            .tokens
            .values()
            .map(|token| (state.sagas[token.saga].id.sequence.get(), token.kind, token.position, token.body.clone()))
            .collect();
        tokens.sort();
        (state.sagas.len(), state.plans.len(), state.outcomes.len(), state.next_sequence, tokens)
    };
    assert_eq!(summary(one), summary(other), "read again, the log says something else");
}

/// A record of the log, between the records of honest peers. It is refused, or the broker goes on with what it says.
///
/// ```text
/// offset size field
///      0    1 kind    even: transactions, odd: copies
///      1    1 after   records before it
///      2      payload
/// ```
pub fn replay(bytes: &[u8]) {
    let [kind, after, payload @ ..] = bytes else { return };
    let kind = if kind % 2 == 0 { RecordKind::Transactions } else { RecordKind::Copies };
    let (before, behind) = honest().records.split_at(honest().records.len().min(usize::from(*after)));
    let mut broker = Broker::new(Config::default());
    let time_ms = payload.first_chunk().map_or(0, |time| u64::from_le_bytes(*time) >> (payload.len() % 64));
    let parts = before.iter().map(|record| (record.kind, record.time_ms, record.payload.as_slice()));
    let parts = parts.chain([(kind, time_ms, payload)]);
    let parts = parts.chain(behind.iter().map(|record| (record.kind, record.time_ms, record.payload.as_slice())));
    let (mut lsn, mut last_time_ms) = (0, 0);
    for (kind, time_ms, payload) in parts {
        lsn += 1;
        last_time_ms = time_ms.max(last_time_ms);
        if broker.replay(kind, lsn, time_ms, payload).is_err() {
            return;
        }
    }
    serve(&mut broker, lsn + 1, last_time_ms);
}

/// Opens a broker whose log was read, and lets its peers come, take all there is, and fall silent.
pub fn serve(broker: &mut Broker, next_lsn: u64, last_time_ms: u64) {
    let mut records: Vec<Record> =
        broker.open(Opened { next_lsn, boot_epoch: 2, last_time_ms, unclean: true }, NOW_MS).into_iter().collect();
    for (sender, frame) in honest().said.iter().chain(&honest().said) {
        broker.receive(SENDERS[usize::from(*sender)].as_bytes(), frame, NOW_MS);
        flush(broker, NOW_MS, &mut records);
        check_frames(broker);
    }
    for later_ms in [10, 100_000, 1_000_000_000] {
        broker.tick(NOW_MS + later_ms);
        flush(broker, NOW_MS + later_ms, &mut records);
        check_frames(broker);
    }
    let longest = broker.state().tokens.values().map(|token| token.body.len()).max().unwrap_or(0);
    assert!(longest <= MESSAGE_BYTES_MAX, "a token of {longest} bytes");
}

/// Each frame of honest peers, from its sender and after those before it.
pub fn frames() -> Vec<Vec<u8>> {
    let said = honest().said.iter().enumerate();
    said.map(|(after, (sender, frame))| [&[*sender, after as u8], frame.as_slice()].concat()).collect()
}

/// Each record, after those before it.
pub fn records() -> Vec<Vec<u8>> {
    let records = honest().records.iter().enumerate();
    let seed = |(after, record): (usize, &Record)| {
        let kind = u8::from(record.kind == RecordKind::Copies);
        [&[kind, after as u8], record.payload.as_slice()].concat()
    };
    records.map(seed).collect()
}
