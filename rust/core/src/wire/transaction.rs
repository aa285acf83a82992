//! A transaction: what it consumes and what it publishes, applied as a whole or not at all.
//!
//! ```text
//! offset size field
//!      0    4 length     of the whole transaction; a multiple of 8
//!      4    1 version    1
//!      5    1 reserved   0
//!      6    2 consumes   how many keys follow
//!      8    2 publishes  how many messages follow the keys
//!     10    6 reserved   0
//!     16    8 number     the sender's own, ascending within a session; 0 where nobody confirms it
//!     24   24 per key:   saga id 16, attempt 4, kind 1, reserved 1, place 2
//!   then, per message:   header 128, body, MAC, padding
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BodyWriter, Header, Kind, Malformed, Message, SagaId, VERSION, write_message};
use crate::limits::{CONSUMES_MAX, FRAME_BYTES_MAX, PUBLISHES_MAX, TRANSACTION_BYTES_MAX};

pub const TRANSACTION_HEADER_BYTES: usize = 24;
pub const KEY_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    length: U32,
    version: u8,
    reserved_a: u8,
    consumes: U16,
    publishes: U16,
    reserved_b: [u8; 6],
    number: U64,
}

/// Names a pending token: within an attempt each (kind, place) is published at most once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Key {
    pub saga: SagaId,
    pub attempt: U32,
    pub kind: u8,
    pub reserved: u8,
    pub place: U16,
}

const _: () = {
    assert!(size_of::<Head>() == TRANSACTION_HEADER_BYTES);
    assert!(size_of::<Key>() == KEY_BYTES);
    assert!(TRANSACTION_HEADER_BYTES.is_multiple_of(8) && KEY_BYTES.is_multiple_of(8));
};

impl Key {
    /// The key of the token with this header.
    pub fn of(header: &Header) -> Self {
        Self { saga: header.saga, attempt: header.attempt, kind: header.kind, reserved: 0, place: header.place }
    }

    /// The kind. Only `Start` where the code is unknown, which `Transaction::parse` has refused before.
    pub fn kind(&self) -> Kind {
        Kind::from_code(self.kind).unwrap_or(Kind::Start)
    }
}

/// A transaction read in place. Everything in it has been checked against the format.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    pub number: u64,
    pub consumes: &'a [Key],
    publishes: usize,
    messages: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Transaction<'a> {
    /// Reads the transaction at the start of `bytes` and gives what follows it. Neither allocates nor recurses.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (head, _) = Head::ref_from_prefix(bytes).map_err(|_| Malformed::TransactionTruncated)?;
        if head.version != VERSION {
            return Err(Malformed::TransactionVersion);
        }
        let length = head.length.get() as usize;
        let (consumes, publishes) = (usize::from(head.consumes.get()), usize::from(head.publishes.get()));
        if head.reserved_a != 0 || head.reserved_b != [0; 6] {
            return Err(Malformed::TransactionReserved);
        }
        if consumes > CONSUMES_MAX || publishes > PUBLISHES_MAX {
            return Err(Malformed::TransactionCounts);
        }
        let keys_end = TRANSACTION_HEADER_BYTES + consumes * KEY_BYTES;
        if !length.is_multiple_of(8) || length > TRANSACTION_BYTES_MAX || length < keys_end {
            return Err(Malformed::TransactionLength);
        }
        if length > bytes.len() {
            return Err(Malformed::TransactionTruncated);
        }
        let (whole, rest) = bytes.split_at(length);
        let (keys, messages) = whole[TRANSACTION_HEADER_BYTES..].split_at(keys_end - TRANSACTION_HEADER_BYTES);
        let consumes = <[Key]>::ref_from_bytes(keys).map_err(|_| Malformed::TransactionLength)?;
        check_keys(consumes)?;
        let mut left = messages;
        for _ in 0..publishes {
            (_, left) = Message::parse(left)?;
        }
        if !left.is_empty() {
            return Err(Malformed::TransactionLength);
        }
        Ok((Self { number: head.number.get(), consumes, publishes, messages, bytes: whole }, rest))
    }

    /// The messages that it publishes.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = Message<'a>> + use<'a> {
        let mut left = self.messages;
        (0..self.publishes).map(move |_| {
            let (message, rest) = Message::parsed(left);
            left = rest;
            message
        })
    }

    /// All its bytes, as they came.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

fn check_keys(keys: &[Key]) -> Result<(), Malformed> {
    for key in keys {
        if key.reserved != 0 || key.saga.reserved.get() != 0 {
            return Err(Malformed::KeyReserved);
        }
        if !Kind::from_code(key.kind).is_some_and(Kind::is_token) {
            return Err(Malformed::KeyKind);
        }
    }
    Ok(())
}

/// The transactions of a frame, one after the other; ends after the first that breaks the format.
pub struct Transactions<'a> {
    rest: &'a [u8],
    failed: bool,
}

impl<'a> Transactions<'a> {
    /// # Errors
    /// `FrameLength` where the frame is empty or too large.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        if frame.is_empty() || frame.len() > FRAME_BYTES_MAX {
            return Err(Malformed::FrameLength);
        }
        Ok(Self { rest: frame, failed: false })
    }
}

impl<'a> Iterator for Transactions<'a> {
    type Item = Result<Transaction<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.failed {
            return None;
        }
        match Transaction::parse(self.rest) {
            Ok((transaction, rest)) => {
                self.rest = rest;
                Some(Ok(transaction))
            }
            Err(broken) => {
                self.failed = true;
                Some(Err(broken))
            }
        }
    }
}

/// Appends a transaction to a frame: first what it consumes, then what it publishes.
pub struct TransactionWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    number: u64,
    consumes: u16,
    publishes: u16,
}

impl<'a> TransactionWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>, number: u64) -> Self {
        let start = out.len();
        out.resize(start + TRANSACTION_HEADER_BYTES, 0);
        Self { out, start, number, consumes: 0, publishes: 0 }
    }

    pub fn consume(&mut self, key: &Key) -> &mut Self {
        debug_assert!(self.publishes == 0, "keys come before messages");
        self.out.extend_from_slice(key.as_bytes());
        self.consumes += 1;
        self
    }

    /// A message without a body.
    pub fn publish(&mut self, header: Header) -> &mut Self {
        self.publish_with(header, |_| {})
    }

    /// A message with the body that `write` appends.
    pub fn publish_with(&mut self, header: Header, write: impl FnOnce(&mut BodyWriter<'_>)) -> &mut Self {
        write_message(self.out, header, write);
        self.publishes += 1;
        self
    }

    /// The bytes that it has so far: a frame must not outgrow its limit.
    pub fn len(&self) -> usize {
        self.out.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.consumes == 0 && self.publishes == 0
    }

    /// Ends a transaction that consumes nothing with messages that were written before.
    pub fn finish_with(mut self, messages: &[u8], publishes: u16) {
        debug_assert!(self.is_empty());
        self.out.extend_from_slice(messages);
        self.publishes = publishes;
        self.finish();
    }

    pub fn finish(self) {
        let head = Head {
            length: ((self.out.len() - self.start) as u32).into(),
            version: VERSION,
            reserved_a: 0,
            consumes: self.consumes.into(),
            publishes: self.publishes.into(),
            reserved_b: [0; 6],
            number: self.number.into(),
        };
        self.out[self.start..self.start + TRANSACTION_HEADER_BYTES].copy_from_slice(head.as_bytes());
    }
}
