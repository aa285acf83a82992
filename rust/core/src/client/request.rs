//! A question or an order of a client, until it is answered.

use super::{ClientError, Subject};
use crate::limits::{KEY_BYTES_MAX, REASON_BYTES_MAX};
use crate::peer::Peer;
use crate::wire::{BodyWriter, Flags, Header, Kind, Section};

/// A section of a body, and its number.
pub(super) type OwnSection = (u8, Box<[u8]>);

/// Kept as it is to be sent, because it may have to be sent again.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) header: Header,
    pub(super) sections: Vec<OwnSection>,
    /// The transaction that carries it; 0 for a question, which changes nothing and is told without a number.
    pub(super) number: u64,
}

impl Request {
    pub(super) fn new(kind: Kind) -> Self {
        Self { header: Header::new(kind), sections: Vec::new(), number: 0 }
    }

    pub(super) fn about(kind: Kind, subject: Subject<'_>) -> Result<Self, ClientError> {
        check_subject(subject)?;
        let mut request = Self::new(kind);
        if let Some(key) = name(&mut request.header, subject) {
            request.sections.push((Section::KEY, key.into()));
        }
        Ok(request)
    }

    /// Whether it changes anything: then it is a transaction, replayed until it is confirmed.
    pub(super) fn is_order(&self) -> bool {
        matches!(self.header.kind(), Kind::Cancel | Kind::Resolve)
    }

    pub(super) fn write(&self, body: &mut BodyWriter<'_>) {
        for (key, value) in &self.sections {
            body.section(*key, value);
        }
    }

    /// Gives the number of the transaction.
    pub(super) fn transact(&self, peer: &mut Peer) -> u64 {
        peer.transact(|transaction| {
            transaction.publish_with(self.header, |body| self.write(body));
        })
    }
}

/// Names the saga in the header; a key goes into the body instead.
pub(super) fn name<'a>(header: &mut Header, subject: Subject<'a>) -> Option<&'a [u8]> {
    match subject {
        Subject::Id(id) => {
            header.saga = id;
            None
        }
        Subject::Key(key) => {
            header.set(Flags::BY_KEY);
            Some(key)
        }
    }
}

pub(super) fn check_subject(subject: Subject<'_>) -> Result<(), ClientError> {
    match subject {
        Subject::Id(id) if id.reserved.get() != 0 => Err(ClientError::SagaId),
        Subject::Id(_) => Ok(()),
        Subject::Key(key) => check_key(key),
    }
}

pub(super) fn check_key(key: &[u8]) -> Result<(), ClientError> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) { Ok(()) } else { Err(ClientError::KeySize) }
}

/// A reason no longer than it may be, cut between characters.
pub(super) fn reason_section(reason: &str) -> OwnSection {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    (Section::TEXT, reason.as_bytes()[..end].into())
}
