//! Encodings that a reader must take: none and many of everything, and bodies that are longer than need be.

use sagacore_core::wire::{Header, Key, Kind, SagaId, Section, padded};

use super::{From, INPUT, RESERVED, Vector, full, key, message, of_saga, one, sets};
use crate::wire_model::{MessageModel, TransactionModel, section_numbers, write};

pub fn vectors() -> Vec<Vector> {
    [counts(), bodies(), fields(), longer_than_need_be()].into_iter().flatten().collect()
}

fn counts() -> Vec<Vector> {
    let ping = || message(Header::new(Kind::Ping), &[]);
    let fork = (1..=40).map(|step| {
        let header = sets(full(Kind::Run, step), 1, 1 << step, 0);
        message(header, &[(0, RESERVED), (Section::INPUT, INPUT)])
    });
    let arrivals: Vec<Key> = (0..64).map(|edge| key(Kind::Done, edge)).collect();
    let joined = sets(of_saga(Kind::Run, 63), u64::MAX >> 1, 1 << 63, 0);
    let kinds = [Kind::Start, Kind::Run, Kind::Done, Kind::Revoked, Kind::Undo, Kind::Undone];
    let of_every_kind: Vec<Key> = kinds.iter().map(|&kind| key(kind, 1)).collect();
    let reserved = [Kind::Restart];
    let reserved = reserved.iter().map(|&kind| message(of_saga(kind, 1), &[])).collect();
    vec![
        Vector::new(
            "transaction-empty",
            From::Nobody,
            "It consumes nothing and publishes nothing.",
            one(1, &[], vec![]),
        ),
        Vector::new(
            "consumes-64",
            From::Nobody,
            "All arrivals of a block.",
            one(2, &arrivals, vec![message(joined, &[])]),
        ),
        Vector::new(
            "consumes-every-kind",
            From::Nobody,
            "A key of each kind that can be pending.",
            one(3, &of_every_kind, vec![]),
        ),
        Vector::new("publishes-40", From::Nobody, "A fork to 40 steps.", one(4, &[key(Kind::Run, 0)], fork.collect())),
        Vector::new(
            "kinds-reserved",
            From::Nobody,
            "Kinds that have a code, and that nobody says: they are read.",
            one(5, &[], reserved),
        ),
        Vector::new(
            "transactions-3",
            From::Nobody,
            "A frame of three transactions, back to back.",
            [one(6, &[], vec![ping(), ping()]), one(0, &[], vec![ping()]), one(7, &[], vec![])].concat(),
        ),
    ]
}

fn bodies() -> Vec<Vector> {
    let body = |sections: &[(u8, &[u8])]| one(0, &[], vec![message(of_saga(Kind::Run, 1), sections)]);
    let results = |count: u8| (0..count).map(|step| (step, [0xcc, step + 0x80])).collect::<Vec<_>>();
    let borrow = |results: &[(u8, [u8; 2])]| {
        let sections: Vec<(u8, &[u8])> = results.iter().map(|(key, value)| (*key, &value[..])).collect();
        body(&sections)
    };
    let all: Vec<_> = section_numbers().map(|key| (key, [0xcc, key + 0x80])).collect();
    vec![
        Vector::new("body-empty", From::Nobody, "No sections, no bytes.", body(&[])),
        Vector::new("body-value-empty", From::Nobody, "A section without bytes.", body(&[(Section::INPUT, b"")])),
        Vector::new("body-fixmap-15", From::Nobody, "As many sections as a fixmap has.", borrow(&results(15))),
        Vector::new("body-map16-16", From::Nobody, "One more: map16.", borrow(&results(16))),
        Vector::new("body-all-sections", From::Nobody, "All 72 sections.", borrow(&all)),
        Vector::new("body-bin8-255", From::Nobody, "The longest value of bin8.", body(&[(Section::INPUT, &[7; 255])])),
        Vector::new(
            "body-bin16-256",
            From::Nobody,
            "The shortest value of bin16.",
            body(&[(Section::INPUT, &[7; 256])]),
        ),
        Vector::new(
            "body-opaque",
            From::Nobody,
            "Values are not looked into: one is no MessagePack, one nests 200 arrays.",
            body(&[(0, b"\xc1\xff"), (Section::INPUT, &[0x91; 200])]),
        ),
        Vector::new(
            "body-paddings",
            From::Nobody,
            "Eight messages with 0 to 7 bytes of padding.",
            one(0, &[], (0..8).map(|bytes| message(of_saga(Kind::Run, 1), &[(0, &[0xc0; 8][bytes..])])).collect()),
        ),
    ]
}

fn fields() -> Vec<Vector> {
    let mut largest = Header::new(Kind::Stuck);
    largest.saga = SagaId::new(u16::MAX, u64::MAX, u32::MAX);
    largest.flags = 0xff.into();
    (largest.attempt, largest.place, largest.deliveries) = (u32::MAX.into(), u16::MAX.into(), u16::MAX.into());
    largest = sets(largest, u64::MAX, u64::MAX, u64::MAX);
    (largest.plan, largest.age) = (u64::MAX.into(), u64::MAX.into());
    (largest.deadline_ms, largest.amount) = (u64::MAX.into(), u64::MAX.into());
    largest.trace = [0xff; 16];
    let mut own = Header::new(Kind::Run);
    own.saga = SagaId::new(0x0102, 0x1112_1314_1516_1718, 0x2122_2324);
    own.flags = 0x31.into();
    (own.attempt, own.place, own.deliveries) = (0x3132_3334.into(), 0x4142.into(), 0x5152.into());
    own = sets(own, 0x6162_6364_6566_6768, 0x7172_7374_7576_7778, 0x8182_8384_8586_8788);
    (own.plan, own.age) = (0x9192_9394_9596_9798.into(), 0xa1a2_a3a4_a5a6_a7a8.into());
    (own.deadline_ms, own.amount) = (0xb1b2_b3b4_b5b6_b7b8.into(), 0xc1c2_c3c4_c5c6_c7c8.into());
    own.trace = std::array::from_fn(|byte| 0xd0 + byte as u8);
    let keys = [Key::of(&own)];
    vec![
        Vector::new(
            "fields-largest",
            From::Nobody,
            "Every field at its largest.",
            one(u64::MAX, &[], vec![message(largest, &[])]),
        ),
        Vector::new(
            "fields-distinct",
            From::Nobody,
            "Every field with bytes of its own, so that mixed up places and orders of bytes show.",
            one(0x0807_0605_0403_0201, &keys, vec![message(own, &[])]),
        ),
    ]
}

/// A frame of one message whose body, and perhaps MAC, are given as bytes.
fn raw(name: &'static str, about: &'static str, sections: &[(u8, &[u8])], body: &[u8], mac: &[u8]) -> Vector {
    let mut header = of_saga(Kind::Run, 1);
    let length = padded(128 + body.len() + mac.len());
    header.length = (length as u32).into();
    header.body_length = (body.len() as u32).into();
    header.mac_length = (mac.len() as u16).into();
    let sections = sections.iter().map(|&(key, value)| (key, value.to_vec())).collect();
    let model = one(9, &[], vec![MessageModel { header, sections }]);
    let mut bytes = write(&[TransactionModel { number: 9, consumes: vec![], messages: vec![message(header, &[])] }]);
    bytes[..4].copy_from_slice(&(24 + length as u32).to_le_bytes());
    bytes.truncate(24);
    bytes.extend_from_slice(zerocopy::IntoBytes::as_bytes(&header));
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(mac);
    bytes.resize(24 + length, 0);
    Vector { name, about, from: From::Nobody, model, bytes }
}

fn longer_than_need_be() -> Vec<Vector> {
    let mac: Vec<u8> = (0xf0..=0xff).collect();
    vec![
        raw("body-map-of-none", "A map of no sections, where no body would do.", &[], b"\x80", b""),
        raw("body-map16-of-1", "map16 where a fixmap would do.", &[(0, b"a")], b"\xde\x00\x01\x00\xc4\x01a", b""),
        raw("body-bin16-of-1", "bin16 where bin8 would do.", &[(64, b"a")], b"\x81\x40\xc5\x00\x01a", b""),
        raw("body-bin32-of-1", "bin32, which no section needs.", &[(64, b"a")], b"\x81\x40\xc6\x00\x00\x00\x01a", b""),
        raw(
            "mac",
            "A message with a MAC of 16 bytes, which is not looked at.",
            &[(0, b"a")],
            b"\x81\x00\xc4\x01a",
            &mac,
        ),
    ]
}
