//! Frames written by hand: what the processes around a core would say to it.

use sagacore_core::plan::fingerprint;
use sagacore_core::wire::{BodyWriter, Header, Key, Kind, Message, SagaId, Section, TransactionWriter, Transactions};

/// A user's input, and a step's result.
pub const INPUT: [u8; 48] = [0xc0; 48];
pub const RESULT: [u8; 16] = [0xc0; 16];

/// A transaction with one message.
pub fn say(out: &mut Vec<u8>, number: u64, consumes: &[Key], header: Header, body: impl FnOnce(&mut BodyWriter<'_>)) {
    let mut transaction = TransactionWriter::new(out, number);
    for key in consumes {
        transaction.consume(key);
    }
    transaction.publish_with(header, body);
    transaction.finish();
}

/// A header of this kind with this amount: a correlation, a number, or credit.
pub fn header(kind: Kind, amount: u64) -> Header {
    let mut header = Header::new(kind);
    header.amount = amount.into();
    header
}

/// The header of a saga's token.
pub fn token(kind: Kind, plan: u64, sequence: u64, place: u16) -> Header {
    let mut header = Header::new(kind);
    header.saga = SagaId::new(0, sequence, 7);
    header.age = sequence.into();
    header.plan = plan.into();
    header.place = place.into();
    header.deadline_ms = 1_000_000.into();
    header
}

/// The broker's welcome, and a plan that it tells.
pub fn greeting(definition: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    say(&mut out, 0, &[], header(Kind::Subscribe, 1), |_| {});
    define(&mut out, 0, definition);
    out
}

/// A plan's definition.
pub fn define(out: &mut Vec<u8>, number: u64, definition: &[u8]) {
    let mut define = Header::new(Kind::Define);
    define.plan = fingerprint(definition).into();
    say(out, number, &[], define, |body| {
        body.section(Section::DATA, definition);
    });
}

/// The broker's word that all up to this number is durable.
pub fn confirm(out: &mut Vec<u8>, number: u64) {
    say(out, 0, &[], header(Kind::Confirm, number), |_| {});
}

/// Every message of a frame of a core, with its transaction's number.
pub fn hear(frame: &[u8], mut tell: impl FnMut(u64, &Message<'_>)) {
    let transactions = Transactions::parse(frame).unwrap_or_else(|broken| panic!("a core's frame: {broken}"));
    for transaction in transactions {
        let transaction = transaction.unwrap_or_else(|broken| panic!("a core's transaction: {broken}"));
        transaction.messages().for_each(|message| tell(transaction.number, &message));
    }
}
