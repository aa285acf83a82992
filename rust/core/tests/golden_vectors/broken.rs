//! Frames that break one rule each: valid ones with a change.

use sagacore_core::wire::{Kind, Section};

use super::{Broken, INPUT, RESERVED, full, key, message, one};
use crate::wire_model::write;

/// Where things are in `frame`.
const KEY: usize = 24;
const HEADER: usize = 48;
const BODY: usize = HEADER + 128;

/// The frame that all are made of: one transaction that consumes a RUN and publishes a DONE with two sections.
fn frame() -> Vec<u8> {
    let sections: &[(u8, &[u8])] = &[(2, RESERVED), (Section::INPUT, INPUT)];
    write(&one(21, &[key(Kind::Run, 2)], vec![message(full(Kind::Done, 1), sections)]))
}

fn broken(rule: &'static str, name: &'static str, about: &'static str, bytes: Vec<u8>) -> Broken {
    Broken { name, about, rule, bytes }
}

/// The frame with other bytes from this place on.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The frame with another body, and lengths to match.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut frame = frame();
    frame.truncate(BODY);
    frame.extend_from_slice(body);
    frame.resize(frame.len().next_multiple_of(8), 0);
    let lengths = [(0, frame.len()), (HEADER, frame.len() - HEADER), (HEADER + 104, body.len())];
    for (at, length) in lengths {
        frame[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }
    frame
}

/// The frame with more bytes in its transaction, after the message.
fn with_more(bytes: &[u8]) -> Vec<u8> {
    let mut frame = [frame(), bytes.to_vec()].concat();
    let length = frame.len() as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

pub fn all() -> Vec<Broken> {
    [frames(), transactions(), keys(), messages(), reserved(), maps(), sections()].into_iter().flatten().collect()
}

fn frames() -> Vec<Broken> {
    let truncated = "transaction.truncated";
    let whole = frame();
    vec![
        broken("frame.length", "frame-empty", "A frame without bytes.", Vec::new()),
        broken(truncated, "cut-at-1", "Its first byte.", whole[..1].to_vec()),
        broken(truncated, "cut-in-transaction-header", "One byte less than a header.", whole[..23].to_vec()),
        broken(truncated, "cut-after-transaction-header", "The header alone.", whole[..24].to_vec()),
        broken(truncated, "cut-in-key", "The key is cut.", whole[..40].to_vec()),
        broken(truncated, "cut-in-message-header", "The message's header is cut.", whole[..100].to_vec()),
        broken(truncated, "cut-in-body", "The body is cut.", whole[..BODY + 9].to_vec()),
        broken(truncated, "cut-by-1", "The last byte of padding lacks.", whole[..whole.len() - 1].to_vec()),
        broken(truncated, "trailing-8", "8 zero bytes follow the transaction.", [&whole[..], &[0; 8]].concat()),
        broken("transaction.version", "trailing-24", "24 zero bytes follow it.", [&whole[..], &[0; 24]].concat()),
        broken(
            "message.kind",
            "second-transaction",
            "The first transaction is valid and counts, the second has a message of no kind.",
            [whole, with(HEADER + 5, &[0])].concat(),
        ),
    ]
}

fn transactions() -> Vec<Broken> {
    let (version, reserved) = ("transaction.version", "transaction.reserved");
    let (counts, length) = ("transaction.counts", "transaction.length");
    let whole = frame().len() as u32;
    vec![
        broken(version, "transaction-version-0", "Version 0.", with(4, &[0])),
        broken(version, "transaction-version-2", "Version 2.", with(4, &[2])),
        broken(reserved, "transaction-reserved-a", "Byte 5 is not 0.", with(5, &[1])),
        broken(reserved, "transaction-reserved-b", "Byte 15 is not 0.", with(15, &[0x80])),
        broken(counts, "consumes-65", "65 keys.", with(6, &[65, 0])),
        broken(counts, "consumes-65535", "All the keys that the field can count.", with(6, &[0xff, 0xff])),
        broken(counts, "publishes-1121", "1121 messages.", with(8, &1121_u16.to_le_bytes())),
        broken(counts, "publishes-65535", "All the messages that the field can count.", with(8, &[0xff, 0xff])),
        broken(length, "transaction-length-0", "Length 0.", with(0, &[0; 4])),
        broken(length, "transaction-length-24", "It ends before its keys do.", with(0, &[24, 0, 0, 0])),
        broken(
            length,
            "transaction-length-odd",
            "The length is no multiple of 8.",
            with(0, &(whole + 4).to_le_bytes()),
        ),
        broken(length, "transaction-length-largest", "4 GiB less 8 bytes.", with(0, &0xffff_fff8_u32.to_le_bytes())),
        broken(
            length,
            "transaction-length-524296",
            "8 bytes more than it may have.",
            with(0, &524_296_u32.to_le_bytes()),
        ),
        broken(
            "transaction.truncated",
            "transaction-length-524288",
            "As long as it may be, but the bytes are not there.",
            with(0, &524_288_u32.to_le_bytes()),
        ),
        broken(length, "publishes-too-few", "A message is not counted.", with(8, &[0, 0])),
        broken(length, "transaction-slack", "8 bytes follow the last message.", with_more(&[0; 8])),
    ]
}

fn keys() -> Vec<Broken> {
    let kind = |name, about, code: Kind| broken("key.kind", name, about, with(KEY + 20, &[code.code()]));
    vec![
        kind("key-kind-fail", "A FAIL is never pending.", Kind::Fail),
        kind("key-kind-result", "A RESULT is never pending.", Kind::Result),
        broken("key.kind", "key-kind-0", "No kind has code 0.", with(KEY + 20, &[0])),
        broken("key.kind", "key-kind-29", "No kind has code 29.", with(KEY + 20, &[29])),
        broken("key.reserved", "key-reserved", "Byte 21 of the key is not 0.", with(KEY + 21, &[1])),
        broken("key.reserved", "key-reserved-saga", "Byte 14 of the key is not 0.", with(KEY + 14, &[1])),
    ]
}

fn messages() -> Vec<Broken> {
    let (truncated, length) = ("message.truncated", "message.length");
    let body_length = HEADER + 104;
    let own = (frame().len() - HEADER) as u32;
    // 8 bytes more in the header's length and in the body's, which agree, but the transaction has them not.
    let mut beyond = with(HEADER, &(own + 8).to_le_bytes());
    beyond[body_length] += 8;
    vec![
        broken(truncated, "publishes-too-many", "A message is counted that is not there.", with(8, &[2, 0])),
        broken(truncated, "message-header-cut", "120 bytes follow, where a header has 128.", {
            let mut more = with_more(&[0; 120]);
            more[8] = 2;
            more
        }),
        broken(truncated, "message-beyond-transaction", "The message is longer than the rest.", beyond),
        broken("message.version", "message-version-0", "Version 0.", with(HEADER + 4, &[0])),
        broken("message.version", "message-version-2", "Version 2.", with(HEADER + 4, &[2])),
        broken(length, "message-length-0", "Length 0.", with(HEADER, &[0; 4])),
        broken(length, "message-length-less", "8 bytes less than its parts.", with(HEADER, &(own - 8).to_le_bytes())),
        broken(length, "message-length-more", "8 bytes more than its parts.", with(HEADER, &(own + 8).to_le_bytes())),
        broken(length, "message-length-odd", "No multiple of 8.", with(HEADER, &(own - 1).to_le_bytes())),
        broken(length, "message-length-65544", "8 bytes more than it may have, and the body agrees.", {
            let mut long = with(HEADER, &65_544_u32.to_le_bytes());
            long[body_length..body_length + 4].copy_from_slice(&(65_544_u32 - 128).to_le_bytes());
            long
        }),
        broken(length, "body-length-largest", "A body of 4 GiB.", with(body_length, &[0xff; 4])),
        broken(length, "mac-length-8", "A MAC has 16 bytes or none; 8 of a shorter body would fit.", {
            let mut mac = with(body_length + 4, &[8, 0]);
            mac[body_length] -= 8;
            mac
        }),
        broken(length, "mac-length-largest", "A MAC of 65535 bytes.", with(body_length + 4, &[0xff, 0xff])),
        broken("message.kind", "message-kind-0", "No kind has code 0.", with(HEADER + 5, &[0])),
        broken("message.kind", "message-kind-29", "No kind has code 29.", with(HEADER + 5, &[29])),
        broken("message.kind", "message-kind-255", "Nor 255.", with(HEADER + 5, &[0xff])),
    ]
}

fn reserved() -> Vec<Broken> {
    let rule = "message.reserved";
    let last = frame().len() - 1;
    vec![
        broken(rule, "flag-256", "A flag that is not known.", with(HEADER + 7, &[1])),
        broken(rule, "flag-32768", "Another one.", with(HEADER + 7, &[0x80])),
        broken(rule, "message-reserved-saga", "Byte 22 is not 0.", with(HEADER + 22, &[1])),
        broken(rule, "message-reserved-a", "Byte 111 is not 0.", with(HEADER + 111, &[1])),
        broken(rule, "message-reserved-b", "Byte 112 is not 0.", with(HEADER + 112, &[1])),
        broken(rule, "message-reserved-end", "Byte 127 is not 0.", with(HEADER + 127, &[1])),
        broken(rule, "padding", "The last byte of padding is not 0.", with(last, &[1])),
    ]
}

fn maps() -> Vec<Broken> {
    let rule = "body.map";
    vec![
        broken(rule, "body-nil", "nil.", with_body(b"\xc0")),
        broken(rule, "body-bin", "The section without its map.", with_body(b"\xc4\x01a")),
        broken(rule, "body-array", "An array.", with_body(b"\x91\x00")),
        broken(rule, "body-nesting-bomb", "4,000 arrays, each in the one before.", with_body(&[0x91; 4_000])),
        broken(
            rule,
            "body-nesting-bomb-array32",
            "800 arrays of 4 Gi elements.",
            with_body(&b"\xdd\xff\xff\xff\xff".repeat(800)),
        ),
        broken(rule, "body-map32", "map32, which no body needs.", with_body(b"\xdf\x00\x00\x00\x01\x00\xc4\x01a")),
        broken(rule, "body-map32-largest", "A map of 4 Gi sections.", with_body(b"\xdf\xff\xff\xff\xff\x00\xc4\x01a")),
        broken(rule, "body-map16-cut", "map16 without its count.", with_body(b"\xde\x00")),
        broken(
            rule,
            "body-map16-73",
            "73 sections.",
            with_body(&[&b"\xde\x00\x49"[..], &b"\x00\xc4\x00".repeat(73)].concat()),
        ),
        broken(rule, "body-map16-65535", "65535 sections.", with_body(b"\xde\xff\xff\x00\xc4\x01a")),
    ]
}

fn sections() -> Vec<Broken> {
    let (key, section) = ("body.key", "body.section");
    vec![
        broken(key, "keys-descend", "65, then 64.", with_body(b"\x82\x41\xc4\x01a\x40\xc4\x01b")),
        broken(key, "keys-repeat", "64, then 64.", with_body(b"\x82\x40\xc4\x01a\x40\xc4\x01b")),
        broken(key, "key-72", "One more than the last section.", with_body(b"\x81\x48\xc4\x01a")),
        broken(key, "key-127", "The largest small integer.", with_body(b"\x81\x7f\xc4\x01a")),
        broken(key, "key-uint8", "64, longer than need be.", with_body(b"\x81\xcc\x40\xc4\x01a")),
        broken(key, "key-negative", "-1.", with_body(b"\x81\xff\xc4\x01a")),
        broken(key, "key-text", "The text \"a\".", with_body(b"\x81\xa1a\xc4\x01a")),
        broken(key, "key-nesting-bomb", "A key of 4,000 maps, each the key of the next.", with_body(&[0x81; 4_000])),
        broken(section, "section-text", "Text instead of bin.", with_body(b"\x81\x40\xa1a")),
        broken(section, "section-nil", "nil instead of bin.", with_body(b"\x81\x40\xc0")),
        broken(section, "section-map", "A map instead of bin.", with_body(b"\x81\x40\x81\x00\xc4\x01a")),
        broken(
            section,
            "section-nesting-bomb",
            "4,000 arrays instead of bin.",
            with_body(&[&b"\x81\x40"[..], &[0x91; 4_000]].concat()),
        ),
        broken(section, "section-lacks", "Two are counted, one is there.", with_body(b"\x82\x40\xc4\x01a")),
        broken(section, "section-value-lacks", "A key without a value.", with_body(b"\x81\x40")),
        broken(section, "section-bin8-cut", "bin8 without its length.", with_body(b"\x81\x40\xc4")),
        broken(section, "section-bin16-cut", "bin16 with half of its length.", with_body(b"\x81\x40\xc5\x00")),
        broken(
            section,
            "section-bin32-cut",
            "bin32 with three quarters of its length.",
            with_body(b"\x81\x40\xc6\x00\x00\x00"),
        ),
        broken(section, "section-beyond-body", "One byte more than the body has.", with_body(b"\x81\x40\xc4\x02a")),
        broken(section, "section-bin32-largest", "A section of 4 GiB.", with_body(b"\x81\x46\xc6\xff\xff\xff\xffa")),
        broken(
            "body.trailing",
            "body-trailing",
            "A byte follows the last section.",
            with_body(b"\x81\x40\xc4\x01a\x00"),
        ),
        broken(
            "body.trailing",
            "body-map-of-too-few",
            "Two sections, one counted.",
            with_body(b"\x81\x40\xc4\x01a\x41\xc4\x01b"),
        ),
        broken(
            "body.trailing",
            "body-map-of-none-trailing",
            "One section, none counted.",
            with_body(b"\x80\x40\xc4\x01a"),
        ),
    ]
}
