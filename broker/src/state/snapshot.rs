//! Copies of what is still needed from old segments, so that the segments can go.
//!
//! A copy says of a saga, a plan or an outcome all that a replay needs, as of its own place in the log: it replaces
//! what older records said.
//!
//! ```text
//! offset size field
//!      0    4 what     1 origin, 2 plan, 3 saga, 4 outcome, 5 boot
//!      4    4 length   of what follows, without padding to 8
//!      8      origin:  `OriginCopy`
//!             boot:    `BootCopy`
//!             plan:    its definition
//!             saga:    `SagaCopy`, then its pending tokens as messages
//!             outcome: `OutcomeCopy`, then the sections of its RESULT
//! ```

mod copied;

use slotmap::Key as _;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use sagacore_core::limits::{MESSAGE_BYTES_MAX, SEQUENCE_MAX};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::plan::Plan;
use sagacore_core::wire::{HEADER_BYTES, Message, OutcomeCode, SagaId, Sections, padded, write_encoded};

use super::{At, CopyPlace, Outcome, Phase, Saga, SagaRef, State, Timer, TokenRef};

pub use copied::{Copied, copied};

const ORIGIN: u32 = 1;
const PLAN: u32 = 2;
const SAGA: u32 = 3;
const OUTCOME: u32 = 4;
const BOOT: u32 = 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Item {
    what: U32,
    length: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OriginCopy {
    secret: [u8; 16],
    next_sequence: U64,
    shard: U16,
    reserved: [u8; 6],
}

/// A boot begins whose tokens may run ahead of the log, or ends a time in which they did.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BootCopy {
    /// Sagas with a lower sequence are wide from now on.
    wide_before: U64,
    /// 1: tokens may run ahead. 0: not any more.
    relaxed: U32,
    reserved: [u8; 4],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SagaCopy {
    id: SagaId,
    plan: U64,
    key_hash: U128,
    digest: U64,
    age: U64,
    deadline_ms: U64,
    trace: [u8; 16],
    attempt: U32,
    /// 1 undoing, 2 pivoted, 4 wide, 8 excepted from watermarks, 16 a victim.
    flags: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OutcomeCopy {
    id: SagaId,
    plan: U64,
    key_hash: U128,
    digest: U64,
    ended_ms: U64,
    ended_lsn: U64,
    /// Where in that record.
    ended_offset: U32,
    code: U16,
    reserved: [u8; 2],
}

const _: () = {
    assert!(size_of::<Item>() == 8);
    assert!(size_of::<OriginCopy>() == 32);
    assert!(size_of::<BootCopy>() == 16);
    assert!(size_of::<SagaCopy>() == 88);
    assert!(size_of::<OutcomeCopy>() == 72);
};

fn item(out: &mut Vec<u8>, what: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + size_of::<Item>(), 0);
    write(out);
    let length = out.len() - start - size_of::<Item>();
    let item = Item { what: what.into(), length: (length as u32).into() };
    out[start..start + size_of::<Item>()].copy_from_slice(item.as_bytes());
    out.resize(start + size_of::<Item>() + padded(length), 0);
}

/// What an item takes beside its bytes at most: its head and its padding.
const ITEM_BYTES: usize = size_of::<Item>() + 7;

impl SagaCopy {
    pub fn sequence(&self) -> u64 {
        self.id.sequence.get()
    }

    pub fn plan(&self) -> u64 {
        self.plan.get()
    }

    /// The saga, without its tokens.
    pub fn saga(&self, plan: u32, lsn: u64) -> Saga {
        let flags = self.flags.get();
        Saga {
            id: self.id,
            plan,
            attempt: self.attempt.get(),
            phase: if flags & 1 != 0 { Phase::Undoing } else { Phase::Forward },
            pivoted: flags & 2 != 0,
            wide: flags & 4 != 0,
            excepted: flags & 8 != 0,
            victim: flags & 16 != 0,
            age: self.age.get(),
            deadline_ms: self.deadline_ms.get(),
            trace: self.trace,
            key_hash: self.key_hash.get(),
            digest: self.digest.get(),
            oldest_lsn: lsn,
            begun_lsn: lsn,
            copy: None,
            timer: Timer::Queued,
            rounds: 0,
            first_token: TokenRef::null(),
            attached: Vec::new(),
        }
    }
}

/// The copy of a saga at a place of a record's payload, and its tokens.
pub fn saga_at(payload: &[u8], place: CopyPlace) -> Option<(&SagaCopy, impl Iterator<Item = Message<'_>>)> {
    let from = payload.get(place.offset as usize..)?;
    let (head, after) = Item::ref_from_prefix(from).ok()?;
    let length = head.length.get() as usize;
    if head.what.get() != SAGA || size_of::<Item>() + padded(length) != place.length as usize {
        return None;
    }
    let (copy, mut rest) = SagaCopy::ref_from_prefix(after.get(..length)?).ok()?;
    let tokens = std::iter::from_fn(move || {
        let (message, after) = Message::parse(rest).ok()?;
        rest = after;
        Some(message)
    });
    Some((copy, tokens))
}

/// Says in the copy of a saga what was noted since it was made. False where there is none.
pub fn set_flags(item: &mut [u8], sequence: u64, wide: bool, excepted: bool) -> bool {
    let copy = item.get_mut(size_of::<Item>()..).and_then(|data| SagaCopy::mut_from_prefix(data).ok());
    let Some((copy, _)) = copy.filter(|(copy, _)| copy.sequence() == sequence) else { return false };
    let excepted = excepted && !is_broken(Mutation::ExceptionNotCopied);
    copy.flags = (copy.flags.get() | u32::from(wide) << 2 | u32::from(excepted) << 3).into();
    true
}

impl State {
    /// The most that copies of everything would take, without plans.
    pub fn copied_bytes(&self) -> u64 {
        let sagas = self.sagas.len() * (size_of::<SagaCopy>() + ITEM_BYTES) + self.parked_bytes() as usize;
        let tokens = self.tokens.len() * (HEADER_BYTES + 7) + self.body_bytes;
        let outcomes = self.outcomes.len() * (size_of::<OutcomeCopy>() + ITEM_BYTES) + self.outcomes.bytes();
        (sagas + tokens + outcomes) as u64
    }

    /// What a log begins with: the secret, and the sequence to go on with.
    pub fn copy_origin(&self, out: &mut Vec<u8>) {
        let origin = OriginCopy {
            secret: self.secret,
            next_sequence: self.next_sequence.into(),
            shard: self.shard.into(),
            reserved: [0; 6],
        };
        item(out, ORIGIN, |out| out.extend_from_slice(origin.as_bytes()));
    }

    /// Says of a boot which sagas are wide, and whether tokens may run ahead.
    pub fn copy_boot(&self, wide_before: u64, out: &mut Vec<u8>) {
        let boot =
            BootCopy { wide_before: wide_before.into(), relaxed: u32::from(self.relaxed).into(), reserved: [0; 4] };
        item(out, BOOT, |out| out.extend_from_slice(boot.as_bytes()));
    }

    /// A boot begins: sagas with a lower sequence than this become wide.
    pub fn begin_boot(&mut self, relaxed: bool, wide_before: u64) {
        self.relaxed = relaxed;
        if wide_before > 0 && !is_broken(Mutation::NotWidened) {
            for saga in self.sagas.values_mut().filter(|saga| saga.id.sequence.get() < wide_before) {
                saga.wide = true;
            }
            self.widen_parked(wide_before);
        }
    }

    /// Copies the plans from a number on, as long as `out` stays below a size; they then count as defined at `at`.
    /// Gives the next number.
    pub fn copy_plans(&mut self, from: u32, at: At, bytes_max: usize, out: &mut Vec<u8>) -> u32 {
        let mut next = from;
        while (next as usize) < self.plans.len() && out.len() < bytes_max {
            let registered = self.plans.get(next);
            if !is_broken(Mutation::PlanNotCopied) {
                item(out, PLAN, |out| out.extend_from_slice(&registered.definition));
            }
            self.plans.copied(next as usize, at.lsn);
            next += 1;
        }
        next
    }

    /// Copies a running saga, which then counts as begun at `at`.
    pub fn copy_saga(&mut self, saga: SagaRef, at: At, out: &mut Vec<u8>) {
        let offset = out.len();
        let found = &self.sagas[saga];
        let undoing = u32::from(found.phase == Phase::Undoing);
        let is_excepted = found.excepted && !is_broken(Mutation::ExceptionNotCopied);
        let (pivoted, wide, excepted) = (u32::from(found.pivoted), u32::from(found.wide), u32::from(is_excepted));
        let victim = u32::from(found.victim && !is_broken(Mutation::VictimForgotten));
        let copy = SagaCopy {
            id: found.id,
            plan: self.plans.get(found.plan).plan.fingerprint.into(),
            key_hash: found.key_hash.into(),
            digest: found.digest.into(),
            age: found.age.into(),
            deadline_ms: found.deadline_ms.into(),
            trace: found.trace,
            attempt: found.attempt.into(),
            flags: (undoing | pivoted << 1 | wide << 2 | excepted << 3 | victim << 4).into(),
        };
        item(out, SAGA, |out| {
            out.extend_from_slice(copy.as_bytes());
            for token in self.tokens_of(saga) {
                write_encoded(out, self.header(token), &self.tokens[token].body);
            }
        });
        self.set_copy(saga, at, offset, out.len() - offset);
    }

    /// Copies outcomes from a number on, as long as `out` stays below a size. Gives the next number.
    pub fn copy_outcomes(&mut self, from: u64, before_lsn: u64, at: At, bytes_max: usize, out: &mut Vec<u8>) -> u64 {
        let mut place = from.max(self.outcomes.first());
        for outcome in self.outcomes.from(from) {
            if out.len() >= bytes_max {
                break;
            }
            place += 1;
            if outcome.oldest_lsn >= before_lsn || is_broken(Mutation::OutcomeNotCopied) {
                continue;
            }
            outcome.oldest_lsn = at.lsn;
            let copy = OutcomeCopy {
                id: outcome.id,
                plan: outcome.plan.into(),
                key_hash: outcome.key_hash.into(),
                digest: outcome.digest.into(),
                ended_ms: outcome.ended_ms.into(),
                ended_lsn: outcome.ended_at.0.into(),
                ended_offset: outcome.ended_at.1.into(),
                code: outcome.code.code().into(),
                reserved: [0; 2],
            };
            item(out, OUTCOME, |out| {
                out.extend_from_slice(copy.as_bytes());
                out.extend_from_slice(&outcome.body);
            });
        }
        place
    }

    /// Applies the copies of one record.
    ///
    /// # Errors
    /// What is wrong with the record: it was written by another version, or the log's checksum lies.
    pub fn replay_copies(&mut self, payload: &[u8], at: At) -> Result<(), &'static str> {
        let mut rest = payload;
        while !rest.is_empty() {
            let offset = (payload.len() - rest.len()) as u32;
            let (head, after) = Item::ref_from_prefix(rest).map_err(|_| "a copy is cut short")?;
            let length = head.length.get() as usize;
            if padded(length) > after.len() {
                return Err("a copy is longer than its record");
            }
            let data = &after[..length];
            match head.what.get() {
                ORIGIN => self.replay_origin(data)?,
                PLAN => self.replay_plan(data, at)?,
                SAGA => {
                    let length = (size_of::<Item>() + padded(length)) as u32;
                    self.replay_saga(data, at, CopyPlace { offset, length })?;
                }
                OUTCOME => self.replay_outcome(data, at)?,
                BOOT => self.replay_boot(data)?,
                _ => return Err("a copy of something unknown"),
            }
            rest = &after[padded(length)..];
        }
        Ok(())
    }

    fn replay_origin(&mut self, data: &[u8]) -> Result<(), &'static str> {
        let origin = OriginCopy::ref_from_bytes(data).map_err(|_| "an origin of another size")?;
        if origin.next_sequence.get() > SEQUENCE_MAX {
            return Err("an origin beyond the last saga");
        }
        self.secret = origin.secret;
        self.shard = origin.shard.get();
        self.next_sequence = self.next_sequence.max(origin.next_sequence.get());
        Ok(())
    }

    fn replay_boot(&mut self, data: &[u8]) -> Result<(), &'static str> {
        let boot = BootCopy::ref_from_bytes(data).map_err(|_| "a boot of another size")?;
        self.begin_boot(boot.relaxed.get() != 0, boot.wide_before.get());
        Ok(())
    }

    fn replay_plan(&mut self, data: &[u8], at: At) -> Result<(), &'static str> {
        let plan = Plan::compile(data).map_err(|_| "a plan that does not compile")?;
        match self.plans.find(plan.fingerprint) {
            Some(known) => self.plans.copied(known as usize, at.lsn),
            None => _ = self.plans.add(plan, data, at.lsn),
        }
        Ok(())
    }

    fn replay_saga(&mut self, data: &[u8], at: At, place: CopyPlace) -> Result<(), &'static str> {
        let (copy, mut rest) = SagaCopy::ref_from_prefix(data).map_err(|_| "a saga that is cut short")?;
        // The log may begin within a sweep whose plans are gone. Then another sweep follows, which has it all.
        let Some(plan) = self.plans.find(copy.plan.get()) else { return Ok(()) };
        if !State::may_be_id(copy.id) {
            return Err("a saga with an id that no broker gives");
        }
        if let Some(old) = self.saga_by_sequence(copy.sequence()) {
            self.discard(old);
        }
        self.discard_parked(copy.sequence());
        let saga = self.add(copy.saga(plan, at.lsn));
        let counters = self.counters;
        while !rest.is_empty() {
            let (message, after) = Message::parse(rest).map_err(|_| "a token that breaks the format")?;
            if !State::is_possible(&self.plans.get(plan).plan, message.header) {
                return Err("a token that is not of its plan");
            }
            self.publish(saga, message.header, message.body.into());
            rest = after;
        }
        self.counters = counters;
        self.sagas[saga].copy = Some(place);
        self.note_replayed(copy.sequence());
        Ok(())
    }

    fn discard(&mut self, saga: SagaRef) {
        self.remove_all_tokens(saga);
        if let Some(gone) = self.sagas.remove(saga) {
            self.by_sequence.remove(gone.id.sequence.get());
            self.unlist(gone.id.sequence.get());
            self.forget_deadline(&gone);
            self.reserved_bytes -= 2 * self.plans.get(gone.plan).plan.token_bytes_max as u64;
        }
    }

    fn replay_outcome(&mut self, data: &[u8], at: At) -> Result<(), &'static str> {
        let (copy, body) = OutcomeCopy::ref_from_prefix(data).map_err(|_| "an outcome that is cut short")?;
        if body.len() > MESSAGE_BYTES_MAX - HEADER_BYTES || Sections::parse(body).is_err() {
            return Err("an outcome whose body breaks the format");
        }
        let code = OutcomeCode::from_code(copy.code.get()).ok_or("an outcome of an unknown code")?;
        let sequence = copy.id.sequence.get();
        if !State::may_be_id(copy.id) {
            return Err("an outcome with an id that no broker gives");
        }
        if let Some(old) = self.saga_by_sequence(sequence) {
            self.discard(old);
        }
        self.discard_parked(sequence);
        self.outcomes.add(Outcome {
            id: copy.id,
            plan: copy.plan.get(),
            key_hash: copy.key_hash.get(),
            digest: copy.digest.get(),
            code,
            ended_ms: copy.ended_ms.get(),
            ended_at: (copy.ended_lsn.get(), copy.ended_offset.get()),
            oldest_lsn: at.lsn,
            body: body.into(),
        });
        self.remember_key(copy.key_hash.get(), sequence);
        Ok(())
    }
}
