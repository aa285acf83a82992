//! The wire format: what peers send each other and what the log holds.
//!
//! A *frame* is one transaction or many, back to back. A *transaction* names what it consumes and carries the messages
//! that it publishes; the broker applies it as a whole or refuses it as a whole. A *message* is a fixed header and a
//! MessagePack body of sections. Everything is little-endian, 8-byte aligned and read in place.
//! `docs/wire-format.md` draws it for other languages; `tests/golden/` has vectors of it.

mod across;
mod body;
mod header;
mod kind;
mod message;
mod transaction;
mod waiting;

pub use across::{ProbeHop, WHOLE_SAGA};
pub use body::{BodyWriter, Section, Sections};
pub use header::{Flags, HEADER_BYTES, Header, MAC_BYTES, SagaId};
pub use kind::{CauseCode, HoldMode, Kind, OutcomeCode, Refusal, Role, StatusCode, WaitPolicy};
pub use message::{Message, write_encoded, write_message};
pub use transaction::{KEY_BYTES, Key, TRANSACTION_HEADER_BYTES, Transaction, TransactionWriter, Transactions};
pub use waiting::{Blocked, Freed, Holder, SAGA_ID_BYTES, Seniority, seniority};

/// The version of the format that this code writes and the only one that it reads.
pub const VERSION: u8 = 1;

/// A rule of the format that some bytes break. The name before the colon is stable: tests and other languages use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("transaction.truncated: fewer bytes are left than a transaction's header, or than its length says")]
    TransactionTruncated,
    #[error("transaction.length: the length is no multiple of 8, too large, or not what its parts add up to")]
    TransactionLength,
    #[error("transaction.version: this version is not known")]
    TransactionVersion,
    #[error("transaction.reserved: reserved bytes are not zero")]
    TransactionReserved,
    #[error("transaction.counts: it consumes or publishes more messages than a transaction may")]
    TransactionCounts,
    #[error("key.kind: what is consumed is of no kind that can be pending")]
    KeyKind,
    #[error("key.reserved: reserved bytes are not zero")]
    KeyReserved,
    #[error("message.truncated: fewer bytes are left than a message's header, or than its length says")]
    MessageTruncated,
    #[error("message.length: the length is no multiple of 8, too large, or not what header, body and MAC add up to")]
    MessageLength,
    #[error("message.version: this version is not known")]
    MessageVersion,
    #[error("message.kind: this kind is not known")]
    MessageKind,
    #[error("message.reserved: reserved bytes, unknown flags or padding are not zero")]
    MessageReserved,
    #[error("body.map: the body is not a MessagePack map of sections")]
    BodyMap,
    #[error("body.key: a section's key is no small integer, or the keys do not ascend")]
    BodyKey,
    #[error("body.section: a section is no MessagePack bin, too long, or runs past the body")]
    BodySection,
    #[error("body.trailing: bytes follow the last section")]
    BodyTrailing,
    #[error("frame.length: the frame is empty or too large")]
    FrameLength,
}

impl Malformed {
    /// The stable name of the broken rule, as `message.length`.
    pub fn name(self) -> String {
        let text = self.to_string();
        text.split(':').next().unwrap_or_default().to_owned()
    }
}

/// Rounds up to the 8 bytes that everything on the wire is aligned to.
pub const fn padded(bytes: usize) -> usize {
    (bytes + 7) & !7
}
