//! A second reader of frames, written from `docs/wire-format.md`, slowly and byte by byte.

use sagacore_core::wire::{Header, Key};
use zerocopy::FromBytes;

use super::{MessageModel, TransactionModel};

type Rule = &'static str;

/// All transactions before the first that breaks a rule, and the rule's name.
pub fn judge(frame: &[u8]) -> (Vec<TransactionModel>, Option<Rule>) {
    let mut all = Vec::new();
    if frame.is_empty() || frame.len() > 1_048_576 {
        return (all, Some("frame.length"));
    }
    let mut at = 0;
    while at < frame.len() {
        match transaction(&frame[at..]) {
            Ok((model, length)) => {
                all.push(model);
                at += length;
            }
            Err(rule) => return (all, Some(rule)),
        }
    }
    (all, None)
}

fn require(holds: bool, rule: Rule) -> Result<(), Rule> {
    if holds { Ok(()) } else { Err(rule) }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn transaction(bytes: &[u8]) -> Result<(TransactionModel, usize), Rule> {
    require(bytes.len() >= 24, "transaction.truncated")?;
    require(bytes[4] == 1, "transaction.version")?;
    require(bytes[5] == 0 && is_zero(&bytes[10..16]), "transaction.reserved")?;
    let (consumes, publishes) = (little(&bytes[6..8]) as usize, little(&bytes[8..10]) as usize);
    require(consumes <= 64 && publishes <= 1120, "transaction.counts")?;
    let length = little(&bytes[0..4]) as usize;
    let keys_end = 24 + 24 * consumes;
    require(length.is_multiple_of(8) && length <= 524_288 && length >= keys_end, "transaction.length")?;
    require(length <= bytes.len(), "transaction.truncated")?;
    let keys: Result<Vec<Key>, Rule> = bytes[24..keys_end].chunks(24).map(key).collect();
    let mut model = TransactionModel { number: little(&bytes[16..24]), consumes: keys?, messages: Vec::new() };
    let mut at = keys_end;
    for _ in 0..publishes {
        let (message, end) = message(&bytes[at..length])?;
        model.messages.push(message);
        at += end;
    }
    require(at == length, "transaction.length")?;
    Ok((model, length))
}

fn key(bytes: &[u8]) -> Result<Key, Rule> {
    require(is_zero(&bytes[14..16]) && bytes[21] == 0, "key.reserved")?;
    require([1, 2, 3, 5, 6, 7].contains(&bytes[20]), "key.kind")?;
    Key::read_from_bytes(bytes).map_err(|_| "a key has 24 bytes")
}

fn message(bytes: &[u8]) -> Result<(MessageModel, usize), Rule> {
    require(bytes.len() >= 128, "message.truncated")?;
    require(bytes[4] == 1, "message.version")?;
    let (length, body_length) = (little(&bytes[0..4]) as usize, little(&bytes[104..108]) as usize);
    let mac_length = little(&bytes[108..110]) as usize;
    let parts = 128 + body_length + mac_length;
    let adds_up = length == parts.next_multiple_of(8) && (mac_length == 0 || mac_length == 16);
    require(adds_up && length <= 65_536, "message.length")?;
    require((1..=28).contains(&bytes[5]), "message.kind")?;
    let is_reserved_zero = is_zero(&bytes[22..24]) && is_zero(&bytes[110..128]);
    require(is_reserved_zero && bytes[7] == 0, "message.reserved")?;
    require(length <= bytes.len(), "message.truncated")?;
    require(is_zero(&bytes[parts..length]), "message.reserved")?;
    let header = Header::read_from_bytes(&bytes[..128]).map_err(|_| "a header has 128 bytes")?;
    Ok((MessageModel { header, sections: body(&bytes[128..128 + body_length])? }, length))
}

fn body(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, Rule> {
    let mut sections: Vec<(u8, Vec<u8>)> = Vec::new();
    if bytes.is_empty() {
        return Ok(sections);
    }
    let (count, mut at) = match bytes[0] {
        0x80..=0x8f => (usize::from(bytes[0]) - 0x80, 1),
        0xde if bytes.len() >= 3 => (big(&bytes[1..3]) as usize, 3),
        _ => return Err("body.map"),
    };
    require(count <= 72, "body.map")?;
    for _ in 0..count {
        let key = *bytes.get(at).ok_or("body.section")?;
        require(key < 128, "body.key")?;
        let width = match bytes.get(at + 1) {
            Some(0xc4) => 1,
            Some(0xc5) => 2,
            Some(0xc6) => 4,
            _ => return Err("body.section"),
        };
        let value = at + 2 + width;
        require(value <= bytes.len(), "body.section")?;
        let length = big(&bytes[at + 2..value]) as usize;
        require(length <= 16_384 || key == 69 || key == 70, "body.section")?;
        require(value + length <= bytes.len(), "body.section")?;
        require(key < 72 && sections.last().is_none_or(|(last, _)| *last < key), "body.key")?;
        sections.push((key, bytes[value..value + length].to_vec()));
        at = value + length;
    }
    require(at == bytes.len(), "body.trailing")?;
    Ok(sections)
}
