//! What a record of copies says, one thing after the other, for whoever only looks at a log.

use zerocopy::FromBytes;

use sagacore_core::wire::{Message, OutcomeCode, SagaId, padded};

use super::{BOOT, BootCopy, Item, ORIGIN, OUTCOME, OriginCopy, OutcomeCopy, PLAN, SAGA, SagaCopy};

/// One thing of a record of copies.
pub enum Copied<'a> {
    Origin {
        shard: u16,
        next_sequence: u64,
    },
    Plan {
        definition: &'a [u8],
    },
    Saga {
        id: SagaId,
        plan: u64,
        attempt: u32,
        /// 1 undoing, 2 pivoted, 4 wide.
        flags: u32,
        deadline_ms: u64,
        tokens: Vec<Message<'a>>,
    },
    Outcome {
        id: SagaId,
        plan: u64,
        code: Option<OutcomeCode>,
        ended_ms: u64,
        body: &'a [u8],
    },
    /// A broker began: sagas before this sequence are wide, and tokens may run ahead of the log or not.
    Boot {
        wide_before: u64,
        is_relaxed: bool,
    },
    /// Of another version, or not whole.
    Unknown {
        what: u32,
        bytes: usize,
    },
}

/// What a record of copies holds. Ends after the first thing that is not whole.
pub fn copied(payload: &[u8]) -> impl Iterator<Item = Copied<'_>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (head, after) = Item::ref_from_prefix(rest).ok()?;
        let (what, length) = (head.what.get(), head.length.get() as usize);
        let Some(data) = after.get(..length) else {
            rest = &[];
            return Some(Copied::Unknown { what, bytes: after.len() });
        };
        rest = after.get(padded(length)..).unwrap_or_default();
        Some(read(what, data).unwrap_or(Copied::Unknown { what, bytes: length }))
    })
}

fn read(what: u32, data: &[u8]) -> Option<Copied<'_>> {
    match what {
        ORIGIN => {
            let origin = OriginCopy::ref_from_bytes(data).ok()?;
            Some(Copied::Origin { shard: origin.shard.get(), next_sequence: origin.next_sequence.get() })
        }
        PLAN => Some(Copied::Plan { definition: data }),
        SAGA => {
            let (copy, mut rest) = SagaCopy::ref_from_prefix(data).ok()?;
            let mut tokens = Vec::new();
            while !rest.is_empty() {
                let (token, after) = Message::parse(rest).ok()?;
                tokens.push(token);
                rest = after;
            }
            Some(Copied::Saga {
                id: copy.id,
                plan: copy.plan.get(),
                attempt: copy.attempt.get(),
                flags: copy.flags.get(),
                deadline_ms: copy.deadline_ms.get(),
                tokens,
            })
        }
        OUTCOME => {
            let (copy, body) = OutcomeCopy::ref_from_prefix(data).ok()?;
            Some(Copied::Outcome {
                id: copy.id,
                plan: copy.plan.get(),
                code: OutcomeCode::from_code(copy.code.get()),
                ended_ms: copy.ended_ms.get(),
                body,
            })
        }
        BOOT => {
            let boot = BootCopy::ref_from_bytes(data).ok()?;
            Some(Copied::Boot { wide_before: boot.wide_before.get(), is_relaxed: boot.relaxed.get() != 0 })
        }
        _ => None,
    }
}
