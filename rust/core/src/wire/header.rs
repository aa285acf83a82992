//! The header: 128 bytes in front of every message, read in place.
//!
//! ```text
//! offset size field
//!      0    4 length       of the whole message: header, body, MAC and padding; a multiple of 8
//!      4    1 version      1
//!      5    1 kind         see `Kind`
//!      6    2 flags        see `Flags`
//!      8    8 sequence   \ saga id: dense, in order of age, within the shard
//!     16    4 nonce       | saga id: drawn by the broker's process, so that a lost tail re-uses no id
//!     20    2 shard       | saga id: one broker with one log
//!     22    2 reserved   /  0
//!     24    8 plan         fingerprint of the plan's definition
//!     32    4 attempt      0, and one more for each restart
//!     36    2 place        the step (RUN, FAIL, UNDO), the edge (DONE, UNDONE), or a code
//!     38    2 deliveries   filled in when delivered: how often before; 0 in what peers publish
//!     40    8 done         set of steps known to be done
//!     48    8 active       set of steps that this token asks for: they may have run
//!     56    8 undo         set of steps left to undo, as far as this token knows
//!     64    8 age          the sequence of the first attempt: who came first wins
//!     72    8 deadline_ms  in broker time; 0: none
//!     80   16 trace        W3C trace id, as it came
//!     96    8 amount       a number whose meaning is the kind's: correlation, delay_ms, credit
//!    104    4 body_length  bytes of body
//!    108    2 mac_length   bytes of MAC after the body: 0 or 16
//!    110    2 reserved     0
//!    112   16 reserved     0
//!    128      body, MAC, padding with zeros to 8 bytes
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Kind, Malformed, VERSION, padded};
use crate::limits::MESSAGE_BYTES_MAX;

/// The size of a header.
pub const HEADER_BYTES: usize = 128;
/// The size of a MAC, where there is one.
pub const MAC_BYTES: usize = 16;

/// Identifies a saga for ever: its place in the order of age within its shard, and a nonce.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SagaId {
    pub sequence: U64,
    pub nonce: U32,
    pub shard: U16,
    pub reserved: U16,
}

impl SagaId {
    pub fn new(shard: u16, sequence: u64, nonce: u32) -> Self {
        Self { sequence: sequence.into(), nonce: nonce.into(), shard: shard.into(), reserved: 0.into() }
    }
}

impl std::fmt::Debug for SagaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// As people and tools write it: shard, sequence and nonce in hexadecimal.
impl std::fmt::Display for SagaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}-{:08x}", self.shard, self.sequence, self.nonce)
    }
}

/// The bits of a header's `flags`.
pub struct Flags;

impl Flags {
    /// The whole plan is to be undone, not only what tokens name. Set by the broker alone.
    pub const WIDE: u16 = 1;
    /// The pivot is done: no abort any more.
    pub const PIVOTED: u16 = 2;
    /// RUN of the pivot: it lost a deadlock, and must not wait again but say no.
    pub const WOUNDED: u16 = 4;
    /// FAIL: the step had no effect, then or ever. Else it may have run.
    pub const CLEAN: u16 = 8;
    /// The broker fills in the body from what the transaction consumes, and the saga's constants.
    pub const SPLICE: u16 = 16;
    /// START, ATTACH: no STATUS is wanted in answer, only the RESULT.
    pub const QUIET: u16 = 32;
    /// SUBSCRIBE: fences are in this process's memory, so a second process of the service is refused.
    pub const EXCLUSIVE: u16 = 64;
    /// STATUS, ATTACH, CANCEL: the saga is named by the user's key in the body, not by its id.
    pub const BY_KEY: u16 = 128;

    pub const ALL: u16 = 255;
}

/// See the module's drawing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    pub length: U32,
    pub version: u8,
    pub kind: u8,
    pub flags: U16,
    pub saga: SagaId,
    pub plan: U64,
    pub attempt: U32,
    pub place: U16,
    pub deliveries: U16,
    pub done: U64,
    pub active: U64,
    pub undo: U64,
    pub age: U64,
    pub deadline_ms: U64,
    pub trace: [u8; 16],
    pub amount: U64,
    pub body_length: U32,
    pub mac_length: U16,
    pub reserved_a: U16,
    pub reserved_b: [u8; 16],
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(align_of::<Header>() == 1, "read in place, whatever the frame's alignment");
    assert!(size_of::<SagaId>() == 16);
    assert!(core::mem::offset_of!(Header, kind) == 5);
    assert!(core::mem::offset_of!(Header, saga) == 8);
    assert!(core::mem::offset_of!(Header, plan) == 24);
    assert!(core::mem::offset_of!(Header, attempt) == 32);
    assert!(core::mem::offset_of!(Header, place) == 36);
    assert!(core::mem::offset_of!(Header, done) == 40);
    assert!(core::mem::offset_of!(Header, active) == 48);
    assert!(core::mem::offset_of!(Header, undo) == 56);
    assert!(core::mem::offset_of!(Header, age) == 64);
    assert!(core::mem::offset_of!(Header, deadline_ms) == 72);
    assert!(core::mem::offset_of!(Header, trace) == 80);
    assert!(core::mem::offset_of!(Header, amount) == 96);
    assert!(core::mem::offset_of!(Header, body_length) == 104);
    assert!(core::mem::offset_of!(Header, reserved_b) == 112);
};

impl Header {
    /// A header of this kind with everything else zero.
    pub fn new(kind: Kind) -> Self {
        Self { length: (HEADER_BYTES as u32).into(), version: VERSION, kind: kind.code(), ..Self::default() }
    }

    /// The kind. Only `Start` where the code is unknown, which `check` has refused before.
    pub fn kind(&self) -> Kind {
        Kind::from_code(self.kind).unwrap_or(Kind::Start)
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    pub fn set(&mut self, flag: u16) {
        self.flags = (self.flags.get() | flag).into();
    }

    /// Sets the lengths for a body of so many bytes, without a MAC.
    pub fn set_body_length(&mut self, bytes: usize) {
        debug_assert!(HEADER_BYTES + bytes <= MESSAGE_BYTES_MAX);
        self.body_length = (bytes as u32).into();
        self.mac_length = 0.into();
        self.length = (padded(HEADER_BYTES + bytes) as u32).into();
    }

    /// Checks what can be seen in the header alone.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<(), Malformed> {
        let length = self.length.get() as usize;
        if self.version != VERSION {
            return Err(Malformed::MessageVersion);
        }
        let parts = HEADER_BYTES + self.body_length.get() as usize + usize::from(self.mac_length.get());
        let mac_fits = matches!(usize::from(self.mac_length.get()), 0 | MAC_BYTES);
        if length > MESSAGE_BYTES_MAX || length != padded(parts) || !mac_fits {
            return Err(Malformed::MessageLength);
        }
        if Kind::from_code(self.kind).is_none() {
            return Err(Malformed::MessageKind);
        }
        let reserved = self.reserved_a.get() == 0 && self.reserved_b == [0; 16] && self.saga.reserved.get() == 0;
        if !reserved || self.flags.get() & !Flags::ALL != 0 {
            return Err(Malformed::MessageReserved);
        }
        Ok(())
    }
}
