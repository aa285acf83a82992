//! Valid bytes to begin with: random bytes alone never get past the first length.

use rmp::encode::{write_array_len, write_str, write_uint};
use sagacore_core::wire::{BodyWriter, Header, Key, Kind, SagaId, Section, TransactionWriter};

/// Frames of one transaction and of many, with keys, bodies of every length class, and none of each.
pub fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (transactions, consumes, publishes, section_bytes) in
        [(1, 0, 1, 0), (1, 1, 1, 20), (2, 3, 2, 300), (1, 0, 0, 0), (4, 64, 0, 0), (1, 1, 70, 5), (1, 1, 1, 16_000)]
    {
        let mut frame = Vec::new();
        for number in 1..=transactions {
            transaction(&mut frame, number, consumes, publishes, section_bytes);
        }
        frames.push(frame);
    }
    frames
}

fn transaction(out: &mut Vec<u8>, number: u64, consumes: u16, publishes: u16, section_bytes: usize) {
    let mut writer = TransactionWriter::new(out, number);
    for place in 0..consumes {
        writer.consume(&Key::of(&header(Kind::Done, place)));
    }
    let value = vec![0xc0; section_bytes];
    for place in 0..publishes {
        writer.publish_with(header(Kind::Run, place), |body| {
            if section_bytes > 0 {
                body.section(0, &value).section(17, &[]).section(Section::INPUT, &value);
            }
        });
    }
    writer.finish();
}

fn header(kind: Kind, place: u16) -> Header {
    let mut header = Header::new(kind);
    header.saga = SagaId::new(3, 0x0102_0304_0506, 0x0708_090a);
    header.attempt = 1.into();
    header.place = place.into();
    header.done = 0b1011.into();
    header
}

/// Bodies with none, few, many and all sections, of every length class, and longer than they need be.
pub fn bodies() -> Vec<Vec<u8>> {
    let mut bodies = vec![b"\xde\x00\x01\x40\xc6\x00\x00\x00\x02ok".to_vec(), b"\x81\x40\xc5\x00\x02ok".to_vec()];
    for (keys, section_bytes) in
        [(0..0, 0), (64..65, 0), (0..3, 20), (60..72, 2), (0..16, 3), (0..72, 1), (68..72, 300)]
    {
        let mut body = Vec::new();
        let mut writer = BodyWriter::new(&mut body);
        for key in keys {
            writer.section(key, &vec![key; section_bytes]);
        }
        writer.finish();
        bodies.push(body);
    }
    bodies
}

/// A chain, a diamond, a wide fork, and a graph in which every step comes after all before it.
pub fn plans() -> Vec<Vec<u8>> {
    let chain = |step: u64| (step.saturating_sub(1)..step).collect::<Vec<_>>();
    let diamond = |step: u64| if step == 3 { vec![1, 2] } else { (0..step.min(1)).collect() };
    let fork = |step: u64| (0..step.min(1)).collect();
    let full = |step: u64| (0..step).collect();
    vec![
        definition(1, None, chain),
        definition(4, Some(2), chain),
        definition(4, None, diamond),
        definition(64, Some(0), fork),
        definition(12, None, full),
    ]
}

/// Four steps, one after the other; the third is the pivot.
pub fn chain() -> Vec<u8> {
    plans().swap_remove(1)
}

/// One step, two beside each other, and one after both.
pub fn diamond() -> Vec<u8> {
    plans().swap_remove(2)
}

fn definition(steps: u64, pivot: Option<u64>, after: impl Fn(u64) -> Vec<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    array(&mut out, 7);
    uint(&mut out, 1);
    text(&mut out, "place-order");
    uint(&mut out, 512);
    uint(&mut out, 30_000);
    uint(&mut out, steps % 2);
    uints(&mut out, &[steps - 1]);
    array(&mut out, steps);
    for step in 0..steps {
        let before = after(step);
        array(&mut out, 7);
        text(&mut out, &format!("step-{step}"));
        text(&mut out, &format!("service-{}", step % 3));
        uint(&mut out, 64);
        uint(&mut out, 2 * u64::from(pivot.is_none_or(|pivot| step < pivot)) + u64::from(pivot == Some(step)));
        uints(&mut out, &before);
        uints(&mut out, &before);
        uints(&mut out, &before[..before.len() / 2]);
    }
    out
}

fn array(out: &mut Vec<u8>, length: u64) {
    write_array_len(out, length as u32).unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

fn uint(out: &mut Vec<u8>, value: u64) {
    write_uint(out, value).unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

fn text(out: &mut Vec<u8>, value: &str) {
    write_str(out, value).unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

fn uints(out: &mut Vec<u8>, values: &[u64]) {
    array(out, values.len() as u64);
    for &value in values {
        uint(out, value);
    }
}
