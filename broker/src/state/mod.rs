//! What the log says, in memory: plans, running sagas with their pending tokens, and ended sagas.
//!
//! The state changes only by records of the log: live, a record is appended and applied; after a restart the same
//! records are applied again, and the state is the same. Who is connected, what is leased and what is delayed is no
//! part of it (`delivery`), except for the few words of a token that say where it is.

mod abort;
mod advance;
mod by_sequence;
mod check;
mod keys;
mod outcomes;
mod parked;
mod plans;
mod restart;
mod sequences;
mod slab;
mod snapshot;
mod splice;
mod stuck;

use siphasher::sip128::SipHasher24;
use slotmap::{Key as _, new_key_type};

use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{Header, Key, Kind, SagaId};

use by_sequence::BySequence;
use keys::Keys;
use parked::Parked;
use sequences::Sequences;
use slab::Slab;

pub use abort::{Abort, CAUSE_BYTES_MAX, cause_code, encode_cause};
pub use advance::Applied;
pub use check::{Expected, steps};
pub use outcomes::{Outcome, Outcomes, Window};
pub use parked::{Arrivals, PARKED_PAGE, Waits};
pub use plans::{Plans, Registered};
pub use snapshot::{Copied, copied};
pub use splice::skip;

new_key_type! {
    /// A running saga.
    pub struct SagaRef;
    /// A pending token.
    pub struct TokenRef;
    /// A connected peer.
    pub struct SessionRef;
}

/// Which way a saga goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Forward,
    Undoing,
}

/// Where the copy of a saga is, in the payload of the record that `Saga::oldest_lsn` names.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyPlace {
    pub offset: u32,
    pub length: u32,
}

/// Who keeps the deadline of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The timers of its plan.
    Queued,
    /// Those of parked sagas: it is parked, or was.
    Parked,
    /// It has passed, and changed nothing.
    Over,
}

/// A running saga: what is the same in all its tokens.
#[derive(Debug)]
pub struct Saga {
    pub id: SagaId,
    /// Index of its plan.
    pub plan: u32,
    pub attempt: u32,
    pub phase: Phase,
    pub pivoted: bool,
    pub wide: bool,
    /// No watermark waits for it: it was listed as stuck once, and may be still.
    pub excepted: bool,
    /// It was aborted because it lost a deadlock: when all is undone it begins again.
    pub victim: bool,
    pub age: u64,
    pub deadline_ms: u64,
    pub trace: [u8; 16],
    pub key_hash: u128,
    /// Of plan and input: the same key with another one is an error.
    pub digest: u64,
    /// The oldest record that a replay needs to know this saga.
    pub oldest_lsn: u64,
    /// Its copy in that record, if it is as that says.
    copy: Option<CopyPlace>,
    pub timer: Timer,
    /// How often somebody came by and found that nothing had happened to it.
    pub rounds: u8,
    /// The record that began this attempt.
    pub begun_lsn: u64,
    first_token: TokenRef,
    /// Who waits for the outcome, with their correlation. Volatile.
    pub attached: Vec<(SessionRef, u64)>,
}

impl Saga {
    /// It turned round, or passed its pivot: it must end soon.
    pub fn has_turned(&self) -> bool {
        self.phase == Phase::Undoing || self.pivoted
    }
}

/// Where a pending token is. Volatile: after a restart every token is `Held` until the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Published, but not durable yet, or not handed to the queues.
    Held,
    /// In the queue of whom it is for.
    Ready,
    /// To be delivered again later.
    Delayed,
    /// Delivered to this session, and not answered.
    Leased(SessionRef),
    /// Spilled by its coordinator: it comes again with the next arrival of its block.
    Spilled,
    /// Its step waits for what others hold.
    Blocked,
}

/// A pending token.
#[derive(Debug)]
pub struct Token {
    pub saga: SagaRef,
    pub kind: Kind,
    /// Step or edge.
    pub position: u16,
    pub done: u64,
    pub active: u64,
    pub undo: u64,
    pub body: Box<[u8]>,
    next: TokenRef,
    pub place: Place,
    /// How often it was delivered, and how often without an answer since the last one.
    pub deliveries: u16,
    pub unanswered: u16,
}

impl Token {
    /// Tokens of one block are joined by one slot of a coordinator.
    pub fn block(&self) -> u16 {
        self.position / sagacore_core::limits::EDGES_PER_BLOCK as u16
    }
}

impl Token {
    fn new(saga: SagaRef, header: &Header, body: Box<[u8]>, next: TokenRef) -> Self {
        Self {
            saga,
            kind: header.kind(),
            position: header.place.get(),
            done: header.done.get(),
            active: header.active.get(),
            undo: header.undo.get(),
            body,
            next,
            place: Place::Held,
            deliveries: 0,
            unanswered: 0,
        }
    }
}

/// The place of a record in the log, how much of it has been applied, and its time.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub lsn: u64,
    pub offset: u32,
    pub time_ms: u64,
}

/// Messages accepted, by kind: what the figure "messages per saga" counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    pub started: u64,
    pub completed: u64,
    pub compensated: u64,
    pub run: u64,
    pub done: u64,
    pub revoked: u64,
    pub undo: u64,
    pub undone: u64,
}

/// See the module's text.
pub struct State {
    pub shard: u16,
    /// Keys the hash of users' keys, so that nobody can choose keys that collide.
    secret: [u8; 16],
    pub plans: Plans,
    pub sagas: Slab<SagaRef, Saga>,
    pub tokens: Slab<TokenRef, Token>,
    by_sequence: BySequence<SagaRef>,
    keys: Keys,
    pub parked: Parked,
    stuck: Sequences,
    pub outcomes: Outcomes,
    pub next_sequence: u64,
    pub counters: Counters,
    /// In the boot that wrote the log's end, or in this one, tokens may run ahead of the log (rule 8).
    pub relaxed: bool,
    /// Twice the largest tokens of all running sagas: what the disk must still have room for.
    pub reserved_bytes: u64,
    /// Of the bodies of all tokens.
    pub body_bytes: usize,
    scratch: Vec<u8>,
    /// What a transaction that is replayed consumes.
    consumed: Vec<TokenRef>,
}

impl State {
    pub fn new(shard: u16, secret: [u8; 16], window: Window) -> Self {
        let mut keys = Keys::default();
        keys.reserve(window.room());
        Self {
            shard,
            secret,
            plans: Plans::default(),
            sagas: Slab::default(),
            tokens: Slab::default(),
            by_sequence: BySequence::default(),
            keys,
            parked: Parked::default(),
            stuck: Sequences::default(),
            outcomes: Outcomes::new(window),
            next_sequence: 1,
            counters: Counters::default(),
            relaxed: false,
            reserved_bytes: 0,
            body_bytes: 0,
            scratch: Vec::new(),
            consumed: Vec::new(),
        }
    }

    pub fn hash_key(&self, key: &[u8]) -> u128 {
        SipHasher24::new_with_key(&self.secret).hash(key).as_u128()
    }

    pub fn digest(&self, plan: u64, input: &[u8]) -> u64 {
        let mut keyed = self.secret;
        for (byte, other) in keyed.iter_mut().zip(plan.to_le_bytes()) {
            *byte ^= other;
        }
        SipHasher24::new_with_key(&keyed).hash(input).h1
    }

    /// Names the log: another one has another secret. 63 bits, which every database keeps as a number.
    pub fn log_id(&self) -> u64 {
        SipHasher24::new_with_key(&self.secret).hash(b"the log").h1 >> 1
    }

    /// A number that no other saga of this sequence had, in this or an earlier life of the log.
    pub fn nonce(&self, boot_epoch: u32) -> u32 {
        let mut seed = [0; 12];
        seed[..8].copy_from_slice(&self.next_sequence.to_le_bytes());
        seed[8..].copy_from_slice(&boot_epoch.to_le_bytes());
        SipHasher24::new_with_key(&self.secret).hash(&seed).h1 as u32
    }

    /// The running saga with this id.
    pub fn saga(&self, id: SagaId) -> Option<SagaRef> {
        let found = self.by_sequence.get(id.sequence.get())?;
        (self.sagas[found].id == id).then_some(found)
    }

    /// The sequences of the sagas that may have been started under this key, the latest last.
    pub fn sequences_of_key(&self, key_hash: u128, found: &mut Vec<u64>) {
        self.keys.find(key_hash, found);
    }

    /// Whether the saga runs or is remembered, and was started under this key.
    pub fn has_key(&self, sequence: u64, key_hash: u128) -> bool {
        let running = self.saga_by_sequence(sequence).map(|saga| self.sagas[saga].key_hash);
        let known = running.or_else(|| self.outcomes.get(sequence).map(|outcome| outcome.key_hash));
        known == Some(key_hash)
    }

    pub fn saga_by_sequence(&self, sequence: u64) -> Option<SagaRef> {
        self.by_sequence.get(sequence)
    }

    /// The pending token of this name.
    pub fn pending(&self, key: &Key) -> Option<TokenRef> {
        let saga = self.saga(key.saga)?;
        if self.sagas[saga].attempt != key.attempt.get() {
            return None;
        }
        self.tokens_of(saga).find(|&token| {
            let token = &self.tokens[token];
            token.kind.code() == key.kind && token.position == key.place.get()
        })
    }

    /// All pending tokens of a saga.
    pub fn tokens_of(&self, saga: SagaRef) -> impl Iterator<Item = TokenRef> + '_ {
        let mut next = self.sagas[saga].first_token;
        std::iter::from_fn(move || {
            let token = self.tokens.get(next)?;
            Some(std::mem::replace(&mut next, token.next))
        })
    }

    /// Whether a token may leave before it is durable (rule 8): if it is lost, its saga is wide, and all that could
    /// have run because of it is undone. So START, whose loss would leave no saga, may not, nor what aborts an attempt
    /// before that is durable; nor the RUN of the pivot, after which nothing is undone; nor the first UNDOs, which no
    /// lost abort may cause.
    pub fn may_run_ahead(&self, token: TokenRef, durable_lsn: u64) -> bool {
        let token = &self.tokens[token];
        match token.kind {
            Kind::Start => false,
            _ if is_broken(Mutation::RevokedRunsAhead) && token.kind == Kind::Revoked => true,
            _ if is_broken(Mutation::PivotRunsAhead) && token.kind == Kind::Run => true,
            _ if is_broken(Mutation::FirstUndoRunsAhead) && token.kind == Kind::Undo => true,
            Kind::Revoked => self.sagas[token.saga].begun_lsn <= durable_lsn,
            Kind::Run => self.plan_of(token.saga).plan.pivot.map(u16::from) != Some(token.position),
            Kind::Undo => token.undo != token.done,
            _ => true,
        }
    }

    pub fn plan_of(&self, saga: SagaRef) -> &Registered {
        self.plans.get(self.sagas[saga].plan)
    }

    /// The header under which a token is delivered: the saga's constants and the token's own fields.
    pub fn header(&self, token: TokenRef) -> Header {
        let token = &self.tokens[token];
        let saga = &self.sagas[token.saga];
        let mut header = Header::new(token.kind);
        header.saga = saga.id;
        header.plan = self.plans.get(saga.plan).plan.fingerprint.into();
        header.attempt = saga.attempt.into();
        header.place = token.position.into();
        header.deliveries = token.deliveries.into();
        header.done = token.done.into();
        header.active = token.active.into();
        header.undo = token.undo.into();
        header.age = saga.age.into();
        header.trace = saga.trace;
        if saga.phase == Phase::Forward && !saga.pivoted {
            header.deadline_ms = saga.deadline_ms.into();
        }
        if saga.wide {
            header.set(sagacore_core::wire::Flags::WIDE);
        }
        if saga.pivoted {
            header.set(sagacore_core::wire::Flags::PIVOTED);
        }
        header
    }

    fn publish(&mut self, saga: SagaRef, header: &Header, body: Box<[u8]>) -> TokenRef {
        self.count(header.kind());
        let found = &mut self.sagas[saga];
        found.change();
        let token = Token::new(saga, header, body, found.first_token);
        self.body_bytes += token.body.len();
        let token = self.tokens.insert(token);
        found.first_token = token;
        token
    }

    fn remove(&mut self, token: TokenRef) {
        let Some(gone) = self.tokens.remove(token) else { return };
        self.body_bytes -= gone.body.len();
        let saga = &mut self.sagas[gone.saga];
        saga.change();
        if saga.first_token == token {
            saga.first_token = gone.next;
            return;
        }
        let mut at = saga.first_token;
        while let Some(other) = self.tokens.get_mut(at) {
            if other.next == token {
                other.next = gone.next;
                return;
            }
            at = other.next;
        }
    }

    fn remove_all_tokens(&mut self, saga: SagaRef) {
        let found = &mut self.sagas[saga];
        found.change();
        let mut at = std::mem::replace(&mut found.first_token, TokenRef::null());
        while let Some(token) = self.tokens.remove(at) {
            self.body_bytes -= token.body.len();
            at = token.next;
        }
    }

    fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Start => self.counters.started += 1,
            Kind::Run => self.counters.run += 1,
            Kind::Done => self.counters.done += 1,
            Kind::Revoked => self.counters.revoked += 1,
            Kind::Undo => self.counters.undo += 1,
            Kind::Undone => self.counters.undone += 1,
            _ => {}
        }
    }
}
