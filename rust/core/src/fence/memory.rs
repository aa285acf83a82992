//! Rows in memory: for tests, benches and effects that die with the process.
//!
//! Rows that expire in the same second share a *bucket*: their rows in one array, their answers in one buffer. What
//! expires goes with its bucket, oldest first. A row that is still asked for moves to a later one, which is rare.
//!
//! ```text
//! index    hash of the key -> (bucket, row)     8 bytes and a tag
//! bucket   rows                                 32 bytes each
//!          answers, back to back                result or reason
//! ```

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::rules::{Event, RowState, on_event};
use crate::limits::SECTION_BYTES_MAX;
use crate::wire::SagaId;

/// How long a bucket spans.
const BUCKET_MS: u64 = 1024;
/// A row moves only where it gains more than so many buckets: a deadline is known to some milliseconds only.
const MOVE_BUCKETS: u64 = 8;
/// A buffer of a bucket that has gone is kept for the next one up to this.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Names a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FenceKey {
    pub saga: SagaId,
    pub attempt: u32,
    pub step: u8,
}

impl FenceKey {
    pub(crate) fn hash(&self) -> u64 {
        let place = u64::from(self.saga.shard.get()) << 8 | u64::from(self.step);
        let rest = u64::from(self.saga.nonce.get()) << 32 | u64::from(self.attempt);
        FixedState::with_seed(0).hash_one((self.saga.sequence.get(), rest, place))
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    saga: SagaId,
    attempt: u32,
    answer_at: u32,
    answer_length: u16,
    step: u8,
    state: RowState,
}

const _: () = {
    assert!(size_of::<Row>() <= 32);
    assert!(SECTION_BYTES_MAX <= u16::MAX as usize, "a row keeps its answer's length in a u16");
};

impl Row {
    fn key(&self) -> FenceKey {
        FenceKey { saga: self.saga, attempt: self.attempt, step: self.step }
    }
}

#[derive(Debug, Default)]
struct Bucket {
    /// It expires at this multiple of `BUCKET_MS`.
    tick: u64,
    rows: Vec<Row>,
    answers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    bucket: u32,
    row: u32,
}

/// The first multiple of `BUCKET_MS` after this time.
const fn tick_of(expires_ms: u64) -> u64 {
    expires_ms / BUCKET_MS + 1
}

/// Whether a row in this state keeps an answer.
const fn has_answer(state: RowState) -> bool {
    matches!(state, RowState::Done | RowState::Rejected)
}

/// A bounded set of rows, each forgotten when it expires.
#[derive(Debug)]
pub struct MemoryRows {
    index: HashTable<Place>,
    buckets: Vec<Bucket>,
    /// Buckets in use, by when they expire, and those that are free.
    by_tick: BTreeMap<u64, u32>,
    free: Vec<u32>,
    rows_max: usize,
    answer_bytes: usize,
    answer_bytes_max: usize,
}

impl MemoryRows {
    /// So many rows, and so many bytes of answers: fewer than a bucket's buffer can address.
    pub fn new(rows_max: usize, answer_bytes_max: usize) -> Self {
        Self {
            index: HashTable::new(),
            buckets: Vec::new(),
            by_tick: BTreeMap::new(),
            free: Vec::new(),
            rows_max: rows_max.min(u32::MAX as usize),
            answer_bytes: 0,
            answer_bytes_max: answer_bytes_max.min(u32::MAX as usize / 2),
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether so many more rows, each with the longest answer, would not fit. What is recorded regardless is kept:
    /// an outcome is never thrown away, so ask before an action is called.
    pub fn is_full_with(&self, more: usize) -> bool {
        self.index.len() + more >= self.rows_max
            || self.answer_bytes + more * SECTION_BYTES_MAX >= self.answer_bytes_max
    }

    /// What the row says, and its answer: the result if `Done`, the reason if `Rejected`.
    pub fn find(&self, key: &FenceKey) -> (RowState, &[u8]) {
        let Some(place) = self.place(key) else { return (RowState::Empty, &[]) };
        let bucket = &self.buckets[place.bucket as usize];
        let row = &bucket.rows[place.row as usize];
        let start = row.answer_at as usize;
        (row.state, &bucket.answers[start..start + usize::from(row.answer_length)])
    }

    /// Applies an event and gives the state after it. The answer is stored where the event decides the row. The row is
    /// forgotten at `expires_ms`, or later if an earlier event said so.
    pub fn record(&mut self, key: &FenceKey, event: Event, answer: &[u8], expires_ms: u64) -> RowState {
        let Some(mut place) = self.place(key) else {
            let state = on_event(RowState::Empty, event);
            if state != RowState::Empty {
                self.insert(key, state, answer, expires_ms);
            }
            return state;
        };
        if tick_of(expires_ms) > self.buckets[place.bucket as usize].tick + MOVE_BUCKETS {
            place = self.move_to(place, expires_ms);
        }
        let bucket = &mut self.buckets[place.bucket as usize];
        let row = &mut bucket.rows[place.row as usize];
        let state = on_event(row.state, event);
        if state != row.state {
            let answer = if has_answer(state) { answer } else { &[] };
            row.answer_at = bucket.answers.len() as u32;
            row.answer_length = answer.len() as u16;
            bucket.answers.extend_from_slice(answer);
            self.answer_bytes += answer.len();
        }
        row.state = state;
        state
    }

    /// Forgets rows that have expired, at most so many, and says how many. Call it often, with little.
    pub fn forget(&mut self, now_ms: u64, at_most: usize) -> usize {
        let mut forgotten = 0;
        while let Some((&tick, &number)) = self.by_tick.first_key_value() {
            if tick * BUCKET_MS > now_ms {
                break;
            }
            while let Some(row) = self.buckets[number as usize].rows.last() {
                if forgotten == at_most {
                    return forgotten;
                }
                let key = row.key();
                self.remove(&key);
                self.buckets[number as usize].rows.pop();
                forgotten += 1;
            }
            self.by_tick.remove(&tick);
            let bucket = &mut self.buckets[number as usize];
            self.answer_bytes -= bucket.answers.len();
            bucket.answers.clear();
            bucket.answers.shrink_to(KEPT_BYTES_MAX);
            bucket.rows.shrink_to(KEPT_BYTES_MAX / size_of::<Row>());
            self.free.push(number);
        }
        forgotten
    }

    fn place(&self, key: &FenceKey) -> Option<Place> {
        let is_it = |place: &Place| self.key_at(place) == *key;
        self.index.find(key.hash(), is_it).copied()
    }

    fn key_at(&self, place: &Place) -> FenceKey {
        self.buckets[place.bucket as usize].rows[place.row as usize].key()
    }

    fn insert(&mut self, key: &FenceKey, state: RowState, answer: &[u8], expires_ms: u64) -> Place {
        let answer = if has_answer(state) { answer } else { &[] };
        let number = self.bucket_at(tick_of(expires_ms));
        let bucket = &mut self.buckets[number as usize];
        let place = Place { bucket: number, row: bucket.rows.len() as u32 };
        bucket.rows.push(Row {
            saga: key.saga,
            attempt: key.attempt,
            answer_at: bucket.answers.len() as u32,
            answer_length: answer.len() as u16,
            step: key.step,
            state,
        });
        bucket.answers.extend_from_slice(answer);
        self.answer_bytes += answer.len();
        let buckets = &self.buckets;
        let hash_at = |place: &Place| buckets[place.bucket as usize].rows[place.row as usize].key().hash();
        self.index.insert_unique(key.hash(), place, hash_at);
        place
    }

    /// Moves a row to the bucket of a later time. Its answer's bytes stay behind until the old bucket goes.
    fn move_to(&mut self, place: Place, expires_ms: u64) -> Place {
        let bucket = &mut self.buckets[place.bucket as usize];
        let row = bucket.rows[place.row as usize];
        let start = row.answer_at as usize;
        let answer = bucket.answers[start..start + usize::from(row.answer_length)].to_vec();
        self.remove(&row.key());
        let bucket = &mut self.buckets[place.bucket as usize];
        bucket.rows.swap_remove(place.row as usize);
        if let Some(moved) = bucket.rows.get(place.row as usize).map(Row::key) {
            let was = Place { bucket: place.bucket, row: bucket.rows.len() as u32 };
            if let Some(entry) = self.index.find_mut(moved.hash(), |at| *at == was) {
                *entry = place;
            }
        }
        self.insert(&row.key(), row.state, &answer, expires_ms)
    }

    fn remove(&mut self, key: &FenceKey) {
        let buckets = &self.buckets;
        let is_it = |place: &Place| buckets[place.bucket as usize].rows[place.row as usize].key() == *key;
        if let Ok(entry) = self.index.find_entry(key.hash(), is_it) {
            entry.remove();
        }
    }

    fn bucket_at(&mut self, tick: u64) -> u32 {
        if let Some(&number) = self.by_tick.get(&tick) {
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.buckets.push(Bucket::default());
            (self.buckets.len() - 1) as u32
        });
        self.buckets[number as usize].tick = tick;
        self.by_tick.insert(tick, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sequence: u64) -> FenceKey {
        FenceKey { saga: SagaId::new(0, sequence, 1), attempt: 0, step: 2 }
    }

    #[test]
    fn a_row_answers_until_it_expires() {
        let mut rows = MemoryRows::new(100, 1 << 20);
        assert_eq!(rows.record(&key(1), Event::Tried, b"ignored", 5_000), RowState::Intent);
        assert_eq!(rows.find(&key(1)), (RowState::Intent, &b""[..]));
        assert_eq!(rows.record(&key(1), Event::Succeeded, b"result", 5_000), RowState::Done);
        assert_eq!(rows.record(&key(2), Event::RejectedCleanly, b"no", 90_000), RowState::Rejected);
        assert_eq!(rows.forget(5_000, 10), 0, "not before its time");
        assert_eq!(rows.find(&key(1)), (RowState::Done, &b"result"[..]));
        assert_eq!(rows.forget(5_000 + BUCKET_MS, 10), 1);
        assert_eq!(rows.find(&key(1)), (RowState::Empty, &b""[..]));
        assert_eq!(rows.find(&key(2)), (RowState::Rejected, &b"no"[..]));
    }

    #[test]
    fn forgetting_stops_at_its_limit_and_goes_on_there() {
        let mut rows = MemoryRows::new(100, 1 << 20);
        for sequence in 0..10 {
            rows.record(&key(sequence), Event::Succeeded, b"r", 1_000);
        }
        assert_eq!(rows.forget(1 << 20, 4), 4);
        assert_eq!(rows.len(), 6);
        assert_eq!(rows.find(&key(0)).0, RowState::Done);
        assert_eq!(rows.forget(1 << 20, 100), 6);
        assert_eq!((rows.len(), rows.answer_bytes), (0, 0));
    }

    #[test]
    fn a_row_that_is_still_asked_for_lives_longer() {
        let mut rows = MemoryRows::new(100, 1 << 20);
        for sequence in 0..5 {
            rows.record(&key(sequence), Event::Succeeded, format!("result {sequence}").as_bytes(), 1_000);
        }
        assert_eq!(rows.record(&key(1), Event::UndoBegun, b"", 50_000), RowState::Done);
        assert_eq!(rows.record(&key(3), Event::UndoBegun, b"", 2_000), RowState::Done, "too little to move");
        for sequence in 0..5 {
            assert_eq!(rows.find(&key(sequence)), (RowState::Done, format!("result {sequence}").as_bytes()));
        }
        assert_eq!(rows.forget(10_000, 100), 4);
        assert_eq!(rows.find(&key(1)), (RowState::Done, &b"result 1"[..]));
        assert_eq!(rows.forget(60_000, 100), 1);
        assert_eq!((rows.len(), rows.answer_bytes), (0, 0));
    }

    #[test]
    fn it_says_when_it_is_full() {
        let mut rows = MemoryRows::new(3, 1 << 20);
        assert!(!rows.is_full_with(2));
        assert!(rows.is_full_with(3));
        rows.record(&key(1), Event::UndoBegun, b"", 1_000);
        assert!(rows.is_full_with(2));
        assert!(MemoryRows::new(100, 3 * SECTION_BYTES_MAX).is_full_with(3));
    }
}
