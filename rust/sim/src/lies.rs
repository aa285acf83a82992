//! What a process says that lies: changed headers, messages that are too large, answers that are not its own.

use sagacore_core::limits::SECTION_BYTES_MAX;
use sagacore_core::plan::Target;
use sagacore_core::wire::{
    Flags, HEADER_BYTES, Header, KEY_BYTES, Key, Kind, SagaId, Section, TRANSACTION_HEADER_BYTES, Transaction,
    TransactionWriter, Transactions,
};

use crate::checks::SagaKey;
use crate::model::{Model, steps};
use crate::random::Random;

/// Hands over each transaction of a frame, to be changed.
pub fn each_transaction(frame: &mut [u8], mut change: impl FnMut(&mut [u8])) {
    let mut rest = frame;
    while rest.len() >= TRANSACTION_HEADER_BYTES {
        let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < TRANSACTION_HEADER_BYTES || length > rest.len() {
            return;
        }
        let (transaction, after) = rest.split_at_mut(length);
        change(transaction);
        rest = after;
    }
}

pub fn subscribes(frame: &[u8]) -> bool {
    first_message(frame).is_some_and(|at| frame[at + 5] == Kind::Subscribe.code())
}

fn first_message(transaction: &[u8]) -> Option<usize> {
    let consumes = usize::from(u16::from_le_bytes([*transaction.get(6)?, *transaction.get(7)?]));
    let at = TRANSACTION_HEADER_BYTES + consumes * KEY_BYTES;
    (at + HEADER_BYTES <= transaction.len()).then_some(at)
}

/// Changes what the plan determines in the first message of a transaction that moves a saga on. Whatever the sender may
/// choose is left alone.
pub fn forge(transaction: &mut [u8], random: &mut Random) -> bool {
    let Some(at) = first_message(transaction) else { return false };
    let has_keys = u16::from_le_bytes([transaction[6], transaction[7]]) > 0;
    let kind = Kind::from_code(transaction[at + 5]);
    let moves_on = matches!(kind, Some(Kind::Run | Kind::Done | Kind::Undo | Kind::Undone | Kind::Result));
    if !has_keys || !moves_on {
        return false;
    }
    let is_result = kind == Some(Kind::Result);
    // Plan, attempt, place, done, active, undo. A RESULT's sets say nothing.
    let fields: &[(usize, u64)] =
        if is_result { &[(24, 8), (32, 4), (36, 2)] } else { &[(24, 8), (32, 4), (36, 2), (40, 8), (48, 8), (56, 8)] };
    let (offset, bytes) = fields[random.index(fields.len())];
    let byte = at + offset + random.below(bytes) as usize;
    transaction[byte] ^= 1 << random.below(8);
    true
}

/// The first transaction of a frame that hands a body on, with a message that is larger than any plan says.
pub fn oversized(frame: &[u8]) -> Option<Vec<u8>> {
    let hands_on = |transaction: &Transaction<'_>| {
        let kinds = [Kind::Run, Kind::Done];
        let carries = |header: &Header| kinds.contains(&header.kind()) && !header.has(Flags::SPLICE);
        !transaction.consumes.is_empty() && transaction.messages().all(|message| carries(message.header))
    };
    let transaction = Transactions::parse(frame).ok()?.map_while(Result::ok).find(hands_on)?;
    let mut out = Vec::new();
    let mut writer = TransactionWriter::new(&mut out, 0);
    for key in transaction.consumes {
        writer.consume(key);
    }
    for message in transaction.messages() {
        writer.publish_with(*message.header, |body| {
            for (key, value) in message.sections() {
                match key {
                    Section::INPUT => body.section(key, &[0x5a; SECTION_BYTES_MAX]),
                    _ => body.section(key, value),
                };
            }
        });
    }
    writer.finish();
    Some(out)
}

/// What the service of a step would say if it had done it.
pub fn answer_for(model: &Model, (sequence, nonce): SagaKey, step: usize, input: &[u8]) -> Vec<u8> {
    let saga = SagaId::new(0, sequence, nonce);
    let header = |kind, place: u16, active: u64| {
        let mut header = Header::new(kind);
        header.saga = saga;
        header.plan = model.fingerprint.into();
        header.place = place.into();
        header.done = (model.ancestors[step] | 1 << step).into();
        header.active = active.into();
        header
    };
    let mut out = Vec::new();
    let mut writer = TransactionWriter::new(&mut out, 0);
    writer.consume(&Key::of(&header(Kind::Run, step as u16, 0)));
    for target in model.plan.forward.after(step as u8) {
        let (header, carried) = match *target {
            Target::Step(next) => {
                (header(Kind::Run, u16::from(next), 1 << next), model.plan.steps[usize::from(next)].carry)
            }
            Target::Edge(edge) => (header(Kind::Done, edge, 0), model.plan.edge_carry(edge)),
        };
        writer.publish_with(header, |body| {
            for carried in steps(carried) {
                body.section(carried as u8, b"a lie");
            }
            body.section(Section::INPUT, input);
        });
    }
    writer.finish();
    out
}
