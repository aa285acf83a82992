//! The durable log, read record by record as it becomes durable, and judged by what the plans mean. What is not here is
//! not durable: whoever was told of it was told too early.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use sagacore_broker::RecordKind;
use sagacore_core::limits::ATTEMPTS_MAX;
use sagacore_core::wire::{CauseCode, Flags, Header, Key, Kind, Message, OutcomeCode, Section, Sections, Transaction};

use super::{Broken, SagaKey, ensure, saga_key};
use crate::model::Model;
use crate::situations::Situation;

/// A token that is pending as far as the log is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub done: u64,
    pub active: u64,
    pub undo: u64,
}

/// Kind and place.
pub type Name = (u8, u16);

/// How a saga ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub code: OutcomeCode,
    /// It was so many'th to end.
    pub place: usize,
}

/// A saga as far as the log is durable.
#[derive(Debug)]
pub struct SagaHistory {
    /// Its place among the models.
    pub plan: usize,
    pub attempt: u32,
    pub deadline_ms: u64,
    pub start_key: Vec<u8>,
    pub input: Vec<u8>,
    pub pending: BTreeMap<Name, Pending>,
    pub published: BTreeSet<Name>,
    pub done: u64,
    /// The set to undo, once it was aborted.
    pub undo_set: Option<u64>,
    pub undone: u64,
    /// Steps whose compensation an operator skipped.
    pub skipped: u64,
    pub cause: Option<CauseCode>,
    /// It was cancelled while it was undone as a victim: it does not begin again.
    pub is_cancelled: bool,
    /// It was looked at as a victim, in this attempt.
    pub is_told_as_victim: bool,
    pub ended: Option<Ended>,
    /// Messages between coordinator and services.
    pub messages: u64,
    /// Messages before it was aborted.
    pub forward_messages: u64,
    /// No watermark waits for it.
    pub is_excepted: bool,
    /// The pivot's RUN has left the broker.
    pub is_decided: bool,
    /// Something of it may have run ahead of a log that was then lost.
    pub is_wide: bool,
    /// What an abort undoes is more than what its tokens named.
    pub is_widened: bool,
}

impl SagaHistory {
    /// Whether a victim ended that might have begun again.
    fn is_given_up(&self, time_ms: u64) -> bool {
        let is_victim = self.cause == Some(CauseCode::Victim) && self.ended.is_some();
        is_victim
            && self.attempt + 1 < ATTEMPTS_MAX
            && self.skipped == 0
            && !self.is_cancelled
            && time_ms < self.deadline_ms
    }

    pub fn published_run(&self, step: usize) -> bool {
        self.published.contains(&(Kind::Run.code(), step as u16))
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct History {
    pub sagas: BTreeMap<SagaKey, SagaHistory>,
    pub by_start_key: BTreeMap<Vec<u8>, SagaKey>,
    by_fingerprint: HashMap<u64, usize, foldhash::fast::FixedState>,
    /// Of each record, by LSN from 1 on: a hash of what it says.
    hashes: Vec<u64>,
    pub ended: usize,
    /// Of the record that is read.
    pub time_ms: u64,
    outcomes_max: usize,
    /// In some boots, tokens may run ahead of the log.
    pub may_run_ahead: bool,
    /// Sagas that ended since somebody looked.
    pub newly_ended: Vec<SagaKey>,
    /// Attempts that are over, and that another followed, since somebody looked.
    pub newly_restarted: Vec<(SagaKey, u32)>,
    /// Situations that were met since somebody looked.
    pub met: Vec<Situation>,
}

impl History {
    /// The broker remembers so many ended sagas.
    pub fn new(models: &[Model], outcomes_max: usize, may_run_ahead: bool) -> Self {
        let by_fingerprint = models.iter().enumerate().map(|(index, model)| (model.fingerprint, index)).collect();
        Self { by_fingerprint, outcomes_max, may_run_ahead, ..Self::default() }
    }

    /// The last durable record.
    pub fn lsn(&self) -> u64 {
        self.hashes.len() as u64
    }

    pub fn saga(&self, key: SagaKey) -> Option<&SagaHistory> {
        self.sagas.get(&key)
    }

    /// A record is durable now, or is read again after a crash. Without a kind it is a note of the log itself.
    pub fn durable(
        &mut self,
        models: &[Model],
        kind: Option<RecordKind>,
        lsn: u64,
        payload: &[u8],
    ) -> Result<(), Broken> {
        if lsn <= self.lsn() {
            return self.is_same(kind, lsn, payload);
        }
        ensure!(lsn == self.lsn() + 1, "I9", "record {} is missing: {lsn} follows {}", self.lsn() + 1, self.lsn());
        self.hashes.push(hash_of_record(kind, payload));
        if kind != Some(RecordKind::Transactions) {
            return Ok(());
        }
        let mut rest = payload;
        while !rest.is_empty() {
            let parsed = Transaction::parse(rest);
            let (transaction, after) = parsed.map_err(|error| Broken("format", format!("record {lsn}: {error}")))?;
            self.apply(models, &transaction, lsn)?;
            rest = after;
        }
        Ok(())
    }

    /// Whether a record that was durable says what it said then.
    pub fn is_same(&self, kind: Option<RecordKind>, lsn: u64, payload: &[u8]) -> Result<(), Broken> {
        let was = self.hashes.get(lsn as usize - 1).copied();
        ensure!(was == Some(hash_of_record(kind, payload)), "I9", "record {lsn} is another one than was durable");
        Ok(())
    }

    fn apply(&mut self, models: &[Model], transaction: &Transaction<'_>, lsn: u64) -> Result<(), Broken> {
        let Some(first) = transaction.messages().next() else {
            return Err(Broken("rule 13", format!("record {lsn} has a transaction without messages")));
        };
        match first.header.kind() {
            Kind::Define => Ok(()),
            Kind::Start => self.start(&first),
            _ => {
                let key = saga_key(first.header.saga);
                let Some(saga) = self.sagas.get_mut(&key) else {
                    return Err(Broken("I2", format!("record {lsn} is about saga {}, unknown", first.header.saga)));
                };
                if first.header.kind() == Kind::Stuck {
                    ensure!(saga.ended.is_none(), "I12", "{key:?} is excepted from watermarks, and has ended");
                    saga.is_excepted = true;
                    self.met.push(Situation::WatermarkException);
                    return Ok(());
                }
                if first.header.kind() == Kind::Cancel {
                    let is_victim = saga.cause == Some(CauseCode::Victim) && saga.ended.is_none();
                    ensure!(is_victim, "rule 5", "{key:?} is cancelled in its undoing, and is no victim");
                    saga.is_cancelled = true;
                    self.met.push(Situation::VictimCancelled);
                    return Ok(());
                }
                let model = &models[saga.plan];
                let attempt = saga.attempt;
                saga.apply(model, transaction, &first, lsn, &mut self.met)?;
                if saga.attempt > attempt {
                    self.newly_restarted.push((key, attempt));
                }
                if saga.cause == Some(CauseCode::Victim) && saga.ended.is_none() && !saga.is_told_as_victim {
                    saga.is_told_as_victim = true;
                    // One that was told to say no may be alone by then.
                    let is_told = first.header.kind() == Kind::Fail;
                    let has_older = is_told || self.sagas.range(..key).any(|(_, older)| older.ended.is_none());
                    ensure!(has_older, "I14", "{key:?} is a victim, and the oldest saga that runs");
                    return Ok(());
                }
                let gave_up = saga.is_given_up(self.time_ms);
                ensure!(!gave_up, "I14", "{key:?} is a victim, and ends in attempt {attempt}, before its deadline");
                if let Some(ended) = &mut saga.ended {
                    self.ended += 1;
                    ended.place = self.ended;
                    self.newly_ended.push(key);
                }
                Ok(())
            }
        }
    }

    fn start(&mut self, message: &Message<'_>) -> Result<(), Broken> {
        let (header, sections) = (message.header, message.sections());
        let key = saga_key(header.saga);
        let start_key = sections.get(Section::KEY).unwrap_or_default().to_vec();
        let Some(&plan) = self.by_fingerprint.get(&header.plan.get()) else {
            return Err(Broken("rule 13", format!("saga {} has a plan that nobody defined", header.saga)));
        };
        ensure!(!self.sagas.contains_key(&key), "I2", "saga {} begins twice", header.saga);
        let known = self.by_start_key.insert(start_key.clone(), key);
        if let Some(ended) = known.and_then(|known| self.sagas.get(&known)).map(|known| &known.ended) {
            let is_forgotten = ended.as_ref().is_some_and(|ended| self.ended - ended.place >= self.outcomes_max);
            ensure!(is_forgotten, "rule 9", "the key of saga {} began {known:?} before", header.saga);
            self.met.push(Situation::OutcomeForgotten);
        }
        let start = Pending { done: 0, active: 0, undo: 0 };
        let saga = SagaHistory {
            plan,
            attempt: 0,
            deadline_ms: header.deadline_ms.get(),
            start_key,
            input: sections.get(Section::INPUT).unwrap_or_default().to_vec(),
            pending: BTreeMap::from([((Kind::Start.code(), 0), start)]),
            published: BTreeSet::new(),
            done: 0,
            undo_set: None,
            undone: 0,
            skipped: 0,
            is_told_as_victim: false,
            is_cancelled: false,
            cause: None,
            ended: None,
            messages: 0,
            forward_messages: 0,
            is_excepted: false,
            is_decided: false,
            is_wide: false,
            is_widened: false,
        };
        self.sagas.insert(key, saga);
        Ok(())
    }

    /// Whether this token is pending as far as the log is durable.
    pub fn pending(&self, key: &Key) -> Option<Pending> {
        let saga = self.sagas.get(&saga_key(key.saga)).filter(|saga| saga.attempt == key.attempt.get())?;
        saga.pending.get(&(key.kind, key.place.get())).copied()
    }

    /// The steps of running sagas that are durably asked for.
    pub fn asked_for(&self) -> Vec<(SagaKey, usize)> {
        let running = self.sagas.iter().filter(|(_, saga)| saga.ended.is_none());
        let pending =
            running.flat_map(|(&key, saga)| saga.pending.keys().map(move |&(kind, place)| (key, kind, place)));
        let runs = pending.filter(|&(_, kind, _)| kind == Kind::Run.code());
        runs.map(|(key, _, place)| (key, usize::from(place))).collect()
    }

    /// The saga that was begun with this key.
    pub fn started(&self, start_key: &[u8]) -> Option<&SagaHistory> {
        self.by_start_key.get(start_key).and_then(|key| self.sagas.get(key))
    }

    /// All that were ever started under a key: one that is forgotten gives it free.
    pub fn started_all<'a>(&'a self, start_key: &'a [u8]) -> impl Iterator<Item = &'a SagaHistory> {
        self.sagas.values().filter(move |saga| saga.start_key == start_key)
    }
}

/// The steps in a section SKIPPED.
pub fn skipped(section: &[u8]) -> u64 {
    let mut rest = section;
    let count = rmp::decode::read_array_len(&mut rest).unwrap_or(0);
    (0..count).fold(0, |set, _| {
        let pair = rmp::decode::read_array_len(&mut rest);
        let step: Result<u8, _> = rmp::decode::read_int(&mut rest);
        let Ok((_, after)) = rmp::decode::read_str_from_slice(rest) else { return set };
        rest = after;
        set | if matches!(pair, Ok(2)) { step.map_or(0, |step| 1 << step) } else { 0 }
    })
}

fn hash_of_record(kind: Option<RecordKind>, payload: &[u8]) -> u64 {
    hash(payload) ^ kind.map_or(0, |kind| kind as u64 + 1)
}

/// A hash that is the same everywhere.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

/// Header and sections of an abort, as the record has them.
pub(super) struct AbortRecord<'a> {
    pub header: &'a Header,
    pub sections: Sections<'a>,
    pub clean_step: Option<usize>,
}

impl<'a> AbortRecord<'a> {
    pub fn of(message: &Message<'a>) -> Self {
        let clean = message.header.kind() == Kind::Fail && message.header.has(Flags::CLEAN);
        let step = usize::from(message.header.place.get());
        Self { header: message.header, sections: message.sections(), clean_step: clean.then_some(step) }
    }

    /// The code in its section CAUSE.
    pub fn cause(&self) -> Option<CauseCode> {
        let cause = self.sections.get(Section::CAUSE)?;
        CauseCode::from_code(*cause.get(1)?)
    }
}
