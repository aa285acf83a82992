//! The index of the frames: what is in each, for readers in any language.

use sagacore_core::wire::{Header, Key, Kind};

use super::json::Json;
use super::{Broken, From, Vector};
use crate::wire_model::{MessageModel, TransactionModel, read};

const ABOUT: &[&str] = &[
    "Golden vectors of the wire format, which docs/wire-format.md describes. Each file holds one frame: lower-case",
    "hexadecimal, whitespace means nothing. Here, numbers of 64 bits are texts, as 0x2a, and a field of a header that",
    "is not listed is 0. sections: pairs of key and value.",
    "canonical: a writer that takes the shortest encoding writes just these bytes.",
    "rule: what the frame breaks. before: how many transactions before it are valid and count.",
];

/// The name of a kind or of another code, as documents write it: RETRY_LATER.
pub fn upper(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

fn kind(code: u8) -> Json {
    Json::Text(Kind::from_code(code).map_or("?".to_owned(), |kind| upper(&format!("{kind:?}"))))
}

pub fn document(valid: &[Vector], broken: &[Broken]) -> String {
    let about = ABOUT.iter().map(|&line| Json::text(line)).collect();
    let valid = valid.iter().map(vector).collect();
    let malformed = broken.iter().map(malformed).collect();
    let parts = vec![("about", Json::List(about)), ("valid", Json::List(valid)), ("malformed", Json::List(malformed))];
    Json::Map(parts).document()
}

fn vector(vector: &Vector) -> Json {
    let from = match vector.from {
        From::Client => "client",
        From::Service => "service",
        From::Coordinator => "coordinator",
        From::Broker => "broker",
        From::Nobody => "nobody",
    };
    Json::Map(vec![
        ("name", Json::text(vector.name)),
        ("file", Json::text(format!("{}.hex", vector.name))),
        ("about", Json::text(vector.about)),
        ("from", Json::text(from)),
        ("bytes", Json::number(vector.bytes.len() as u64)),
        ("canonical", Json::Bool(vector.is_canonical())),
        ("transactions", Json::List(vector.model.iter().map(transaction).collect())),
    ])
}

fn malformed(broken: &Broken) -> Json {
    let mut parts = vec![
        ("name", Json::text(broken.name)),
        ("file", Json::text(format!("{}.hex", broken.name))),
        ("about", Json::text(broken.about)),
        ("bytes", Json::number(broken.bytes.len() as u64)),
        ("rule", Json::text(broken.rule)),
    ];
    let before = read(&broken.bytes).0.len();
    if before > 0 {
        parts.push(("before", Json::number(before as u64)));
    }
    Json::Map(parts)
}

fn transaction(transaction: &TransactionModel) -> Json {
    Json::Map(vec![
        ("number", Json::wide(transaction.number)),
        ("consumes", Json::List(transaction.consumes.iter().map(consumed).collect())),
        ("publishes", Json::List(transaction.messages.iter().map(published).collect())),
    ])
}

fn consumed(key: &Key) -> Json {
    Json::Map(vec![
        ("kind", kind(key.kind)),
        ("place", Json::number(key.place.get())),
        ("sequence", Json::wide(key.saga.sequence.get())),
        ("nonce", Json::number(key.saga.nonce.get())),
        ("shard", Json::number(key.saga.shard.get())),
        ("attempt", Json::number(key.attempt.get())),
    ])
}

fn published(message: &MessageModel) -> Json {
    let section = |(key, value): &(u8, Vec<u8>)| Json::List(vec![Json::number(*key), Json::bytes(value)]);
    Json::Map(vec![
        ("kind", kind(message.header.kind)),
        ("header", header(&message.header)),
        ("sections", Json::List(message.sections.iter().map(section).collect())),
    ])
}

/// All fields but those that are 0.
fn header(header: &Header) -> Json {
    let short: [(&'static str, u64); 10] = [
        ("length", header.length.get().into()),
        ("kind", header.kind.into()),
        ("flags", header.flags.get().into()),
        ("nonce", header.saga.nonce.get().into()),
        ("shard", header.saga.shard.get().into()),
        ("attempt", header.attempt.get().into()),
        ("place", header.place.get().into()),
        ("deliveries", header.deliveries.get().into()),
        ("body_length", header.body_length.get().into()),
        ("mac_length", header.mac_length.get().into()),
    ];
    let wide = [
        ("sequence", header.saga.sequence.get()),
        ("plan", header.plan.get()),
        ("done", header.done.get()),
        ("active", header.active.get()),
        ("undo", header.undo.get()),
        ("age", header.age.get()),
        ("deadline_ms", header.deadline_ms.get()),
        ("amount", header.amount.get()),
    ];
    let short = short.into_iter().filter(|&(_, value)| value != 0).map(|(name, value)| (name, Json::number(value)));
    let wide = wide.into_iter().filter(|&(_, value)| value != 0).map(|(name, value)| (name, Json::wide(value)));
    let trace = (header.trace != [0; 16]).then(|| ("trace", Json::bytes(&header.trace)));
    Json::Map(short.chain(wide).chain(trace).collect())
}
