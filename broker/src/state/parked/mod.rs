//! Sagas that only wait are parked: what they carry stays in the log, as a copy, and a stub of some bytes in memory
//! says where. A saga is parked only if it has not changed since its copy was made and the copy is durable; it is read
//! back when its queue reaches it, or when somebody names it, and is then as it was.

mod copies;
mod stubs;

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use slotmap::{Key as _, KeyData};

use sagacore_core::limits::{COPIES_CACHED, DEADLINE_GRAIN_MS, PARKED_BYTES_MAX, PARKED_TOKENS_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::Kind;

use super::sequences::Sequences;
use super::{At, CopyPlace, Place, Saga, SagaRef, SessionRef, State, Timer, Token, TokenRef};
use crate::log::ReadBack;
pub use stubs::PAGE as PARKED_PAGE;
use stubs::{AGAIN, EXCEPTED, EXPIRED, Stub, Stubs, TIMED, TURNED, WIDE};

/// Where the arrivals of a parked saga are: the tokens that are for a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    None,
    Spilled,
    /// The owner of its slice has them.
    Leased,
    /// To be delivered to the owner of its slice.
    Due,
}

impl Arrivals {
    const ALL: [Self; 4] = [Self::None, Self::Spilled, Self::Leased, Self::Due];
}

/// What is volatile in a saga that only waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    pub arrivals: Arrivals,
    /// Of each RUN or UNDO.
    pub deliveries: u8,
    pub unanswered: u8,
}

/// What is known of a parked saga without reading it.
#[derive(Debug, Clone, Copy)]
pub struct ParkedSaga {
    pub sequence: u64,
    pub plan: u32,
    /// 0, or 1 for any other.
    pub attempt: u32,
    /// It turned round, or passed its pivot.
    pub has_turned: bool,
}

/// Who waits for outcomes.
type Attached = Vec<(SessionRef, u64)>;

/// See the module's text.
#[derive(Default)]
pub struct Parked {
    stubs: Stubs,
    /// None: nothing can be read back, so nothing is parked.
    reader: Option<Box<dyn ReadBack>>,
    /// Payloads that were read last: sagas that began together lie together.
    cached: VecDeque<(u64, Vec<u8>)>,
    /// Why something could not be read back: the broker must stop.
    failed: Option<String>,
    /// Of all copies.
    bytes: u64,
    tokens: usize,
    /// By service: those with an UNDO, and those with a RUN for it.
    waiting: Vec<[Sequences; 2]>,
    leased: Sequences,
    due: Sequences,
    /// By their time, of those that were parked and may not have been since.
    deadlines: Sequences,
    /// Where more than one waits for an outcome.
    attached: HashMap<u64, Attached, FixedState>,
    /// Copies that a replay has met, oldest first.
    replayed: VecDeque<u64>,
    /// Sagas that a replay keeps in memory, if it can park them.
    pub replayed_max: usize,
    /// Sagas that were read back so far.
    pub recalls: u64,
}

/// What of one that is parked was read.
struct Read {
    saga: Saga,
    tokens: Vec<Token>,
}

impl Parked {
    /// Whether sagas of this service are parked, with an UNDO or with a RUN for it.
    pub fn is_awaited(&self, service: usize, kind: Kind) -> bool {
        self.waiting.get(service).is_some_and(|kinds| !kinds[usize::from(kind == Kind::Run)].is_empty())
    }

    /// The first of them, at most so many.
    pub fn awaited(&self, service: usize, kind: Kind, count: usize, out: &mut Vec<u64>) {
        if let Some(kinds) = self.waiting.get(service) {
            out.extend(kinds[usize::from(kind == Kind::Run)].iter().take(count));
        }
    }

    /// The first ones whose arrivals are due, at most so many.
    pub fn due(&self, count: usize, out: &mut Vec<u64>) {
        out.extend(self.due.iter().take(count));
    }

    /// Slices may have moved: arrivals that a coordinator had are due.
    pub fn unlease(&mut self) {
        if is_broken(Mutation::ParkedLeaseKept) {
            return;
        }
        while let Some((group, sequence)) = self.leased.first() {
            self.leased.remove(group, sequence);
            if let Some(stub) = self.stubs.get_mut(sequence) {
                stub.arrivals = Arrivals::Due as u8;
                self.due.insert(0, sequence);
            }
        }
    }

    fn wait(&mut self, service: u32, kind: Kind, sequence: u64) {
        let service = service as usize;
        if self.waiting.len() <= service {
            self.waiting.resize_with(service + 1, Default::default);
        }
        self.waiting[service][usize::from(kind == Kind::Run)].insert(0, sequence);
    }

    fn wait_no_more(&mut self, service: u32, kind: Kind, sequence: u64) {
        if let Some(kinds) = self.waiting.get_mut(service as usize) {
            kinds[usize::from(kind == Kind::Run)].remove(0, sequence);
        }
    }

    fn take_stub(&mut self, sequence: u64) -> Option<Stub> {
        let stub = self.stubs.remove(sequence)?;
        self.bytes -= u64::from(stub.length.get());
        self.tokens -= usize::from(stub.tokens);
        self.leased.remove(0, sequence);
        self.due.remove(0, sequence);
        Some(stub)
    }

    /// The payload of a record of copies, and takes it out of the cache.
    fn payload(&mut self, lsn: u64) -> Option<Vec<u8>> {
        if let Some(place) = self.cached.iter().position(|&(cached, _)| cached == lsn) {
            return self.cached.remove(place).map(|(_, payload)| payload);
        }
        let mut payload = Vec::new();
        if self.cached.len() >= COPIES_CACHED {
            payload = self.cached.pop_back().map(|(_, payload)| payload).unwrap_or_default();
        }
        match self.reader.as_mut()?.read(lsn, &mut payload) {
            Ok(()) => Some(payload),
            Err(error) => {
                self.fail(format!("{error}\nhint: {}", error.hint()));
                None
            }
        }
    }

    /// Puts it back, as the one that is used last.
    fn keep(&mut self, lsn: u64, payload: Vec<u8>) {
        self.cached.push_front((lsn, payload));
    }

    #[cold]
    fn fail(&mut self, reason: String) {
        self.failed.get_or_insert(reason);
    }
}

impl State {
    /// From now on sagas that only wait may be parked.
    pub fn set_reader(&mut self, reader: Option<Box<dyn ReadBack>>) {
        self.parked.reader = reader;
    }

    pub fn can_park(&self) -> bool {
        self.parked.reader.is_some()
    }

    /// Why a saga could not be read back, if so: the log is damaged.
    pub fn failed(&self) -> Option<&str> {
        self.parked.failed.as_deref()
    }

    /// Sagas that run.
    pub fn running(&self) -> usize {
        self.sagas.len() + self.parked.stubs.len()
    }

    /// Those of them that are parked.
    pub fn parked(&self) -> usize {
        self.parked.stubs.len()
    }

    /// Pending tokens.
    pub fn pending_tokens(&self) -> usize {
        self.tokens.len() + self.parked.tokens
    }

    /// Bytes of the copies of parked sagas.
    pub fn parked_bytes(&self) -> u64 {
        self.parked.bytes
    }

    fn stub(&self, sequence: u64) -> Option<&Stub> {
        if self.parked.stubs.len() == 0 { None } else { self.parked.stubs.get(sequence) }
    }

    pub fn is_parked(&self, sequence: u64) -> bool {
        self.stub(sequence).is_some()
    }

    pub fn is_running(&self, sequence: u64) -> bool {
        self.saga_by_sequence(sequence).is_some() || self.is_parked(sequence)
    }

    /// Whether this attempt of a saga runs. Of one that is parked it is only known whether that is its first one.
    pub fn runs_attempt(&self, sequence: u64, attempt: u32) -> bool {
        match self.saga_by_sequence(sequence) {
            Some(saga) => self.sagas[saga].attempt == attempt,
            None => self.stub(sequence).is_some_and(|stub| (stub.flags & AGAIN != 0) == (attempt > 0)),
        }
    }

    /// Whether no watermark waits for a running saga.
    pub fn is_excepted(&self, sequence: u64) -> bool {
        match self.saga_by_sequence(sequence) {
            Some(saga) => self.sagas[saga].excepted,
            None => self.stub(sequence).is_some_and(|stub| stub.flags & EXCEPTED != 0),
        }
    }

    pub(super) fn set_excepted(&mut self, sequence: u64, excepted: bool) {
        if let Some(saga) = self.saga_by_sequence(sequence) {
            self.sagas[saga].excepted = excepted;
        } else if let Some(stub) = self.parked.stubs.get_mut(sequence).filter(|_| excepted) {
            stub.flags |= EXCEPTED;
        }
    }

    /// Parked sagas with a lower sequence are wide from now on.
    pub(super) fn widen_parked(&mut self, before: u64) {
        let parked = self.parked.stubs.iter_mut().filter(|(sequence, _)| *sequence < before);
        parked.for_each(|(_, stub)| stub.flags |= WIDE);
    }

    /// Where there are parked sagas: their sequences over `PARKED_PAGE`, in no order.
    pub fn parked_pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.parked.stubs.pages()
    }

    /// All parked sagas, in no order.
    pub fn all_parked(&self) -> impl Iterator<Item = ParkedSaga> + '_ {
        self.parked.stubs.iter().map(|(sequence, stub)| ParkedSaga {
            sequence,
            plan: u32::from(stub.plan.get()),
            attempt: u32::from(stub.flags & AGAIN != 0),
            has_turned: stub.flags & TURNED != 0,
        })
    }

    /// What is volatile in a saga, if it only waits: its steps in their queues, its arrivals with the owner of its
    /// slice or spilled. One that was handed out moves; so does one that is not durable.
    pub fn waits(&self, saga: SagaRef, owner: Option<SessionRef>) -> Option<Waits> {
        if self.sagas[saga].victim {
            return None; // It begins again soon, under the deadline that it has.
        }
        let mut waits = Waits { arrivals: Arrivals::None, deliveries: 0, unanswered: 0 };
        let (mut steps, mut tokens) = (None, 0);
        for token in self.tokens_of(saga) {
            let token = &self.tokens[token];
            tokens += 1;
            match (token.kind, token.place) {
                (Kind::Run | Kind::Undo, Place::Ready) => {
                    let how_often = (token.deliveries, token.unanswered);
                    if *steps.get_or_insert(how_often) != how_often {
                        return None;
                    }
                }
                (Kind::Done | Kind::Undone, place) => {
                    let arrivals = match place {
                        Place::Spilled => Arrivals::Spilled,
                        Place::Leased(session) if Some(session) == owner => Arrivals::Leased,
                        _ => return None,
                    };
                    if waits.arrivals != Arrivals::None && waits.arrivals != arrivals {
                        return None;
                    }
                    waits.arrivals = arrivals;
                }
                _ => return None,
            }
        }
        let (deliveries, unanswered) = steps.filter(|_| tokens <= PARKED_TOKENS_MAX)?;
        waits.deliveries = u8::try_from(deliveries).ok()?;
        waits.unanswered = u8::try_from(unanswered).ok()?;
        Some(waits)
    }

    /// Whether a saga is as its copy in the log says, and that is durable.
    pub fn is_copied(&self, saga: SagaRef, durable_lsn: u64) -> bool {
        let found = &self.sagas[saga];
        let is_durable = found.oldest_lsn <= durable_lsn || is_broken(Mutation::ParkedBeforeDurable);
        found.copy.is_some_and(|copy| copy.length as usize <= PARKED_BYTES_MAX) && is_durable
    }

    /// Drops a saga from memory, but for its stub. It has not changed since its copy was made.
    pub fn park(&mut self, saga: SagaRef, waits: Waits) {
        let mut flags = 0;
        let mut tokens = 0u8;
        let found = &self.sagas[saga];
        let (sequence, has_turned, deadline_ms) = (found.id.sequence.get(), found.has_turned(), found.deadline_ms);
        let mut next = found.first_token;
        while let Some(token) = self.tokens.remove(next) {
            self.body_bytes -= token.body.len();
            tokens += 1;
            if !token.kind.is_for_coordinator() {
                let service = self.plans.get(found.plan).services[usize::from(token.position)];
                self.parked.wait(service, token.kind, sequence);
            }
            next = token.next;
        }
        let Some(found) = self.sagas.remove(saga) else { return };
        self.by_sequence.remove(sequence);
        match found.timer {
            Timer::Over => flags |= EXPIRED,
            Timer::Parked => flags |= TIMED,
            Timer::Queued if has_turned => {}
            Timer::Queued => {
                flags |= TIMED;
                if !is_broken(Mutation::ParkedDeadlineForgotten) {
                    self.parked.deadlines.insert(deadline_ms.div_ceil(DEADLINE_GRAIN_MS), sequence);
                }
            }
        }
        let again = found.attempt > 0;
        let bits = [(found.excepted, EXCEPTED), (found.wide, WIDE), (has_turned, TURNED), (again, AGAIN)];
        flags |= bits.into_iter().filter(|&(is_so, _)| is_so).fold(0, |all, (_, bit)| all | bit);
        let (session, correlation) = match found.attached.as_slice() {
            &[(session, correlation)] => (session.data().as_ffi(), correlation),
            [] => (0, 0),
            _ => {
                self.parked.attached.insert(sequence, found.attached);
                (0, 0)
            }
        };
        let CopyPlace { offset, length } = found.copy.unwrap_or_default();
        match waits.arrivals {
            Arrivals::Leased => self.parked.leased.insert(0, sequence),
            Arrivals::Due => self.parked.due.insert(0, sequence),
            Arrivals::None | Arrivals::Spilled => {}
        }
        self.parked.bytes += u64::from(length);
        self.parked.tokens += usize::from(tokens);
        let stub = Stub {
            flags,
            arrivals: waits.arrivals as u8,
            tokens,
            deliveries: waits.deliveries,
            unanswered: waits.unanswered,
            plan: (found.plan as u16).into(),
            lsn: found.oldest_lsn.into(),
            offset: offset.into(),
            length: length.into(),
            session: session.into(),
            correlation: correlation.into(),
            ..Stub::default()
        };
        self.parked.stubs.insert(sequence, stub);
    }

    /// Reads a saga back. Its tokens are held, and its arrivals are where it says.
    pub fn recall(&mut self, sequence: u64) -> Option<(SagaRef, Arrivals)> {
        let read = self.read_parked(sequence)?;
        let stub = self.parked.take_stub(sequence)?;
        self.parked.recalls += 1;
        let plan = read.saga.plan;
        let saga = self.sagas.insert(read.saga);
        if let Some(attached) = self.parked.attached.remove(&sequence) {
            self.sagas[saga].attached = attached;
        }
        self.by_sequence.insert(sequence, saga);
        for mut token in read.tokens {
            if !token.kind.is_for_coordinator() {
                let service = self.plans.get(plan).services[usize::from(token.position)];
                self.parked.wait_no_more(service, token.kind, sequence);
            }
            token.saga = saga;
            token.next = self.sagas[saga].first_token;
            self.body_bytes += token.body.len();
            self.sagas[saga].first_token = self.tokens.insert(token);
        }
        Some((saga, Arrivals::ALL[usize::from(stub.arrivals)]))
    }

    /// What a parked saga is, without reading it back: for those who look at a state.
    pub fn look_at_parked(&mut self, sequence: u64) -> Option<(Saga, Vec<Token>)> {
        self.read_parked(sequence).map(|read| (read.saga, read.tokens))
    }

    fn read_parked(&mut self, sequence: u64) -> Option<Read> {
        let stub = *self.stub(sequence)?;
        let payload = self.parked.payload(stub.lsn.get())?;
        let read = self.read_copy(&payload, sequence, &stub);
        self.parked.keep(stub.lsn.get(), payload);
        if read.is_none() {
            let lsn = stub.lsn.get();
            self.parked
                .fail(format!("log.read-back: record {lsn} has no copy of saga {sequence:x} where it was written"));
        }
        read
    }

    fn read_copy(&self, payload: &[u8], sequence: u64, stub: &Stub) -> Option<Read> {
        let place = CopyPlace { offset: stub.offset.get(), length: stub.length.get() };
        let (copy, tokens) = super::snapshot::saga_at(payload, place)?;
        let plan = u32::from(stub.plan.get());
        if copy.sequence() != sequence || self.plans.find(copy.plan()) != Some(plan) {
            return None;
        }
        let mut saga = copy.saga(plan, stub.lsn.get());
        saga.copy = Some(place);
        saga.excepted = stub.flags & EXCEPTED != 0;
        saga.wide = stub.flags & WIDE != 0;
        saga.timer = match stub.flags & (TIMED | EXPIRED) {
            TIMED => Timer::Parked,
            EXPIRED => Timer::Over,
            _ => Timer::Queued,
        };
        let session = stub.session.get();
        if session != 0 {
            saga.attached.push((KeyData::from_ffi(session).into(), stub.correlation.get()));
        }
        let mut read = Read { saga, tokens: Vec::with_capacity(usize::from(stub.tokens)) };
        for message in tokens {
            let mut token = Token::new(SagaRef::null(), message.header, message.body.into(), TokenRef::null());
            let is_step = !token.kind.is_for_coordinator();
            token.deliveries = if is_step { stub.deliveries.into() } else { 1 };
            token.unanswered = if is_step { stub.unanswered.into() } else { 0 };
            read.tokens.push(token);
        }
        (read.tokens.len() == usize::from(stub.tokens)).then_some(read)
    }

    /// The next parked saga, or one that was parked, whose deadline has passed.
    pub fn pop_parked_deadline(&mut self, now_ms: u64) -> Option<u64> {
        let (group, sequence) = self.parked.deadlines.first()?;
        if group * DEADLINE_GRAIN_MS > now_ms {
            return None;
        }
        self.parked.deadlines.remove(group, sequence);
        Some(sequence)
    }

    /// A saga is gone, and its deadline with it.
    pub(super) fn forget_deadline(&mut self, saga: &Saga) {
        if saga.timer == Timer::Parked {
            let group = saga.deadline_ms.div_ceil(DEADLINE_GRAIN_MS);
            self.parked.deadlines.remove(group, saga.id.sequence.get());
        }
    }

    /// Gives back the memory of what was parked.
    pub fn trim(&mut self) {
        self.sagas.trim();
        self.tokens.trim();
        self.by_sequence.trim();
    }

    /// The copy that a saga in memory has in this record, which is being made.
    pub(super) fn set_copy(&mut self, saga: SagaRef, at: At, offset: usize, length: usize) {
        let found = &mut self.sagas[saga];
        found.oldest_lsn = at.lsn;
        found.copy = Some(CopyPlace { offset: offset as u32, length: length as u32 });
    }
}

impl Saga {
    /// Something happened to it: it is not as its copy says, and does not only wait.
    #[inline]
    pub(super) fn change(&mut self) {
        if !is_broken(Mutation::ParkedThoughChanged) {
            self.copy = None;
        }
        self.rounds = 0;
    }
}
