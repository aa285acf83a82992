//! What the golden files hold: frames and plans as values, and the bytes and the index that follow from them.

pub mod broken;
pub mod clients;
pub mod forms;
pub mod index;
pub mod json;
pub mod plans;
pub mod sagas;
pub mod sessions;
pub mod waiting;

use sagacore_core::plan::fingerprint;
use sagacore_core::wire::{Flags, Header, Key, Kind, SagaId};

use crate::wire_model::{MessageModel, TransactionModel, write};

/// Who says a frame.
#[derive(Clone, Copy)]
pub enum From {
    Client,
    Service,
    Coordinator,
    Broker,
    /// It shows an encoding, and nobody says just this.
    Nobody,
}

/// A frame that every peer can read.
pub struct Vector {
    pub name: &'static str,
    pub about: &'static str,
    pub from: From,
    pub model: Vec<TransactionModel>,
    pub bytes: Vec<u8>,
}

impl Vector {
    pub fn new(name: &'static str, from: From, about: &'static str, model: Vec<TransactionModel>) -> Self {
        let bytes = write(&model);
        Self { name, about, from, model, bytes }
    }

    /// Whether a writer that takes the shortest encoding writes just these bytes.
    pub fn is_canonical(&self) -> bool {
        write(&self.model) == self.bytes
    }
}

/// A frame that breaks a rule.
pub struct Broken {
    pub name: &'static str,
    pub about: &'static str,
    pub rule: &'static str,
    pub bytes: Vec<u8>,
}

/// All valid frames.
pub fn vectors() -> Vec<Vector> {
    let all = [sessions::vectors(), clients::vectors(), sagas::vectors(), waiting::vectors(), forms::vectors()];
    all.into_iter().flatten().collect()
}

/// The user's key, the input and the results of the example: MessagePack maps.
pub const KEY: &[u8] = b"order-42";
pub const INPUT: &[u8] = b"\x82\xa3sku\xa5apple\xa8quantity\x02";
pub const CREATED: &[u8] = b"\x81\xa5order\xcd\x03\xe9";
pub const CHARGED: &[u8] = b"\x81\xa7receipt\x07";
pub const RESERVED: &[u8] = b"\x81\xa3lot\x2a";
pub const SCHEDULED: &[u8] = b"\x81\xa7courier\xa3ann";
/// CAUSE: rejected by step 1.
pub const REJECTED: &[u8] = b"\x93\x01\x01\xadcard declined";

pub const CREATE: u16 = 0;
pub const CHARGE: u16 = 1;
pub const RESERVE: u16 = 2;
pub const SCHEDULE: u16 = 3;

/// The example's saga.
pub fn saga() -> SagaId {
    SagaId::new(3, 0x1234_5678, 0xc0ff_ee01)
}

/// Its plan: charge and reserve side by side after create, then schedule, the pivot.
pub fn plan() -> u64 {
    fingerprint(&plans::diamond().encode())
}

/// A header of the saga that says no more than which one it is.
pub fn of_saga(kind: Kind, place: u16) -> Header {
    let mut header = Header::new(kind);
    (header.saga, header.plan, header.place) = (saga(), plan().into(), place.into());
    header
}

/// A header with the saga's constants too, as the broker delivers it and services hand it on.
pub fn full(kind: Kind, place: u16) -> Header {
    let mut header = of_saga(kind, place);
    header.age = saga().sequence;
    header.deadline_ms = 86_430_000.into();
    header.trace = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
    header
}

/// A header as a coordinator writes it: the broker fills in the rest.
pub fn spliced(kind: Kind, place: u16) -> Header {
    let mut header = of_saga(kind, place);
    header.set(Flags::SPLICE);
    header
}

/// The same header with other sets of steps.
pub fn sets(mut header: Header, done: u64, active: u64, undo: u64) -> Header {
    (header.done, header.active, header.undo) = (done.into(), active.into(), undo.into());
    header
}

pub fn key(kind: Kind, place: u16) -> Key {
    Key::of(&of_saga(kind, place))
}

/// One transaction.
pub fn one(number: u64, consumes: &[Key], messages: Vec<MessageModel>) -> Vec<TransactionModel> {
    vec![TransactionModel { number, consumes: consumes.to_vec(), messages }]
}

pub fn message(header: Header, sections: &[(u8, &[u8])]) -> MessageModel {
    MessageModel::new(header, sections)
}
