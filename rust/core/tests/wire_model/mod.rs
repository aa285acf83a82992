//! Frames for tests as plain values, which are written by the code under test and compared with what it reads.

#![allow(dead_code)] // Each test file uses its own part of this.

pub mod oracle;

use sagacore_core::wire::{Header, Key, Malformed, Section, TransactionWriter, Transactions, padded};

#[derive(Clone, Debug, PartialEq)]
pub struct TransactionModel {
    pub number: u64,
    pub consumes: Vec<Key>,
    pub messages: Vec<MessageModel>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MessageModel {
    pub header: Header,
    pub sections: Vec<(u8, Vec<u8>)>,
}

impl TransactionModel {
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut writer = TransactionWriter::new(out, self.number);
        for key in &self.consumes {
            writer.consume(key);
        }
        for message in &self.messages {
            writer.publish_with(message.header, |body| {
                for (key, value) in &message.sections {
                    body.section(*key, value);
                }
            });
        }
        writer.finish();
    }
}

impl MessageModel {
    /// A message with the lengths that it will have on the wire.
    pub fn new(header: Header, sections: &[(u8, &[u8])]) -> Self {
        let mut message = Self { header, sections: sections.iter().map(|&(key, value)| (key, value.into())).collect() };
        let body_length = body_length(&message.sections);
        message.header.body_length = (body_length as u32).into();
        message.header.length = (padded(128 + body_length) as u32).into();
        message
    }
}

/// The bytes of a body in its shortest encoding.
fn body_length(sections: &[(u8, Vec<u8>)]) -> usize {
    let map = match sections.len() {
        0 => 0,
        1..=15 => 1,
        _ => 3,
    };
    let section = |value: &Vec<u8>| value.len() + if value.len() < 256 { 3 } else { 4 };
    map + sections.iter().map(|(_, value)| section(value)).sum::<usize>()
}

/// All section numbers, in order.
pub fn section_numbers() -> impl Iterator<Item = u8> {
    0..Section::END
}

pub fn write(frame: &[TransactionModel]) -> Vec<u8> {
    let mut out = Vec::new();
    for transaction in frame {
        transaction.write(&mut out);
    }
    out
}

/// What the code under test reads: all transactions before the first that breaks a rule, and the rule.
pub fn read(frame: &[u8]) -> (Vec<TransactionModel>, Option<Malformed>) {
    let mut all = Vec::new();
    let transactions = match Transactions::parse(frame) {
        Ok(transactions) => transactions,
        Err(broken) => return (all, Some(broken)),
    };
    for transaction in transactions {
        match transaction {
            Ok(transaction) => all.push(TransactionModel {
                number: transaction.number,
                consumes: transaction.consumes.to_vec(),
                messages: transaction
                    .messages()
                    .map(|message| MessageModel {
                        header: *message.header,
                        sections: message.sections().map(|(key, value)| (key, value.to_vec())).collect(),
                    })
                    .collect(),
            }),
            Err(broken) => return (all, Some(broken)),
        }
    }
    (all, None)
}

/// The stable names of all rules. The match has no wildcard: a new rule does not compile until it is listed here.
pub fn rules() -> Vec<String> {
    use Malformed::*;
    let all = [
        FrameLength,
        TransactionTruncated,
        TransactionVersion,
        TransactionReserved,
        TransactionCounts,
        TransactionLength,
        KeyReserved,
        KeyKind,
        MessageTruncated,
        MessageVersion,
        MessageLength,
        MessageKind,
        MessageReserved,
        BodyMap,
        BodyKey,
        BodySection,
        BodyTrailing,
    ];
    let place = |rule: Malformed| match rule {
        FrameLength => 0,
        TransactionTruncated => 1,
        TransactionVersion => 2,
        TransactionReserved => 3,
        TransactionCounts => 4,
        TransactionLength => 5,
        KeyReserved => 6,
        KeyKind => 7,
        MessageTruncated => 8,
        MessageVersion => 9,
        MessageLength => 10,
        MessageKind => 11,
        MessageReserved => 12,
        BodyMap => 13,
        BodyKey => 14,
        BodySection => 15,
        BodyTrailing => 16,
    };
    assert!(all.iter().enumerate().all(|(index, &rule)| place(rule) == index));
    all.iter().map(|rule| rule.name()).collect()
}
