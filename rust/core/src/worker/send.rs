//! The transactions of a service: each consumes the delivered message and publishes what follows from its end.

use super::ending::cut;
use crate::limits::{BACKOFF_FIRST_MS, BACKOFF_LAST_MS, REASON_BYTES_MAX, RETRY_LATER_MS_MAX, STEPS_MAX};
use crate::peer::Peer;
use crate::plan::{Plan, Target};
use crate::wire::{BodyWriter, CauseCode, Flags, Header, Key, Kind, Section, Sections};

/// The header of a message that follows from a delivered one: the same saga, plan, attempt, sets and constants.
fn following(delivered: &Header, kind: Kind, place: u16) -> Header {
    let mut header = *delivered;
    header.kind = kind.code();
    header.place = place.into();
    header.deliveries = 0.into();
    header.amount = 0.into();
    header.flags = (delivered.flags.get() & (Flags::WIDE | Flags::PIVOTED)).into();
    header
}

/// What a step's success publishes: the requests for the steps that follow it and the edges that it reaches.
pub(super) fn done(peer: &mut Peer, plan: &Plan, delivered: &Header, body: Sections<'_>, result: &[u8]) {
    let step = delivered.place.get() as u8;
    let done = delivered.done.get() | 1 << step;
    peer.transact(|transaction| {
        transaction.consume(&Key::of(delivered));
        for target in plan.forward.after(step) {
            let (kind, place, active, carry) = match *target {
                Target::Step(next) => (Kind::Run, u16::from(next), 1 << next, plan.steps[usize::from(next)].carry),
                Target::Edge(edge) => (Kind::Done, edge, 0, plan.edge_carry(edge)),
            };
            let mut header = following(delivered, kind, place);
            header.done = done.into();
            header.active = active.into();
            if plan.pivot == Some(step) {
                header.set(Flags::PIVOTED);
            }
            if header.has(Flags::PIVOTED) {
                header.deadline_ms = 0.into();
            }
            transaction.publish_with(header, |out| write_results(out, body, carry, step, result));
        }
    });
}

/// A failure: the step was rejected or given up.
pub(super) fn fail(peer: &mut Peer, delivered: &Header, code: CauseCode, is_clean: bool, reason: &[u8]) {
    let step = delivered.place.get();
    let mut header = following(delivered, Kind::Fail, step);
    if is_clean {
        header.set(Flags::CLEAN);
    }
    let cause = cause(code, step as u8, &cut(reason));
    peer.transact(|transaction| {
        transaction.consume(&Key::of(delivered)).publish_with(header, |out| {
            out.section(Section::CAUSE, &cause);
        });
    });
}

/// What a compensation's success publishes: the next steps to undo and the edges of the compensation graph. They carry
/// what came, so the broker fills it in: a wide fork would not fit into a transaction.
pub(super) fn undone(peer: &mut Peer, plan: &Plan, delivered: &Header) {
    let step = delivered.place.get() as u8;
    let left = delivered.undo.get() & !(1 << step);
    let graph = plan.undo(delivered.done.get());
    peer.transact(|transaction| {
        transaction.consume(&Key::of(delivered));
        for target in graph.after(step) {
            let (kind, place) = match *target {
                Target::Step(next) => (Kind::Undo, u16::from(next)),
                Target::Edge(edge) => (Kind::Undone, edge),
            };
            let mut header = following(delivered, kind, place);
            header.active = 0.into();
            header.undo = left.into();
            header.set(Flags::SPLICE);
            transaction.publish(header);
        }
    });
}

/// Asks for the same message again after so long.
pub(super) fn later(peer: &mut Peer, delivered: &Header, delay_ms: u64, reason: &[u8]) {
    let mut header = following(delivered, Kind::RetryLater, delivered.place.get());
    header.amount = delay_ms.min(RETRY_LATER_MS_MAX).into();
    let text = cut(reason);
    peer.transact(|transaction| {
        transaction.consume(&Key::of(delivered)).publish_with(header, |out| {
            if !text.is_empty() {
                out.section(Section::TEXT, text.as_bytes());
            }
        });
    });
}

/// A step must wait for what others hold: its message stays with the broker until they are out of the way.
pub(super) fn blocked(peer: &mut Peer, delivered: &Header, data: &[u8]) {
    let header = following(delivered, Kind::Blocked, delivered.place.get());
    peer.transact(|transaction| {
        transaction.consume(&Key::of(delivered)).publish_with(header, |out| {
            out.section(Section::DATA, data);
        });
    });
}

/// How long to wait after so many deliveries.
pub(super) fn backoff_ms(deliveries: u16) -> u64 {
    BACKOFF_LAST_MS.min(BACKOFF_FIRST_MS << deliveries.min(16))
}

/// The delivered sections with those results that are still read, and the step's own result among them.
fn write_results(out: &mut BodyWriter<'_>, body: Sections<'_>, carry: u64, step: u8, result: &[u8]) {
    let mut own = (carry & (1 << step) != 0).then_some(result);
    for (key, value) in body {
        if key >= step
            && let Some(result) = own.take()
        {
            out.section(step, result);
        }
        let is_read = usize::from(key) >= STEPS_MAX || (key != step && carry & (1 << key) != 0);
        // Who stood in the way of this step is nobody else's business.
        if is_read && key != Section::FREED {
            out.section(key, value);
        }
    }
    if let Some(result) = own {
        out.section(step, result);
    }
}

/// The CAUSE section: MessagePack array of code, step and text.
fn cause(code: CauseCode, step: u8, text: &str) -> Vec<u8> {
    let mut out = vec![0x93, code.code(), step];
    let length = text.len() as u8;
    if length < 32 {
        out.push(0xa0 | length);
    } else {
        out.extend_from_slice(&[0xd9, length]);
    }
    out.extend_from_slice(text.as_bytes());
    out
}

const _: () = assert!(REASON_BYTES_MAX <= u8::MAX as usize, "a cause's text is a fixstr or a str8");
