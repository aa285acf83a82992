//! Rows in memory: for tests, benches and effects that die with the process.
//!
//! Rows of sagas that are neighbours in age, and of one class of deadlines, share a *bucket*: their rows in one array,
//! their answers in one buffer. So what comes in order of age, as nearly everything does, is found in a few lines of
//! memory, and what a watermark has passed goes bucket by bucket, the oldest first.
//!
//! ```text
//! bucket   first row of each of its 64 sagas    4 bytes each
//!          rows, and the saga's next one        32 bytes each
//!          answers, back to back                result or reason
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;

use super::rules::{Event, RowState, on_event};
use crate::limits::SECTION_BYTES_MAX;
use crate::watermark::Watermark;
use crate::wire::SagaId;

/// So many neighbours share a bucket.
const BUCKET_SAGAS: u64 = 64;
/// A buffer of a bucket that has gone is kept for the next one up to this.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Names a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FenceKey {
    pub saga: SagaId,
    pub attempt: u32,
    pub step: u8,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    saga: SagaId,
    attempt: u32,
    answer_at: u32,
    answer_length: u16,
    step: u8,
    state: RowState,
    /// The saga's row before this one.
    next: Link,
}

/// A row of a bucket: its number and one, or 0 for none.
type Link = u32;

const _: () = {
    assert!(size_of::<Row>() == 32, "as the module's drawing says");
    assert!(SECTION_BYTES_MAX <= u16::MAX as usize, "a row keeps its answer's length in a u16");
};

impl Row {
    fn key(&self) -> FenceKey {
        FenceKey { saga: self.saga, attempt: self.attempt, step: self.step }
    }
}

/// Names a bucket. Those that are forgotten first come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BucketKey {
    /// How many other logs of the broker there were before.
    log: u32,
    class: usize,
    neighbours: u64,
}

#[derive(Debug)]
struct Bucket {
    first: [Link; BUCKET_SAGAS as usize],
    rows: Vec<Row>,
    answers: Vec<u8>,
}

impl Bucket {
    fn new() -> Self {
        Self { first: [0; BUCKET_SAGAS as usize], rows: Vec::new(), answers: Vec::new() }
    }

    fn find(&self, key: &FenceKey) -> Option<usize> {
        let mut link = self.first[place_in_bucket(key.saga)];
        while link != 0 {
            let row = &self.rows[link as usize - 1];
            if row.key() == *key {
                return Some(link as usize - 1);
            }
            link = row.next;
        }
        None
    }

    fn push(&mut self, row: Row) {
        let first = &mut self.first[place_in_bucket(row.saga)];
        self.rows.push(Row { next: *first, ..row });
        *first = self.rows.len() as Link;
    }

    fn answer(&self, row: &Row) -> &[u8] {
        let start = row.answer_at as usize;
        &self.answers[start..start + usize::from(row.answer_length)]
    }

    /// Takes out at most so many rows that have passed, and says how many.
    fn sweep(&mut self, at_most: usize, passed: impl Fn(&Row) -> bool) -> usize {
        let before = self.rows.len();
        let rows = std::mem::take(&mut self.rows);
        self.first = [0; BUCKET_SAGAS as usize];
        let mut left = at_most;
        for row in rows {
            if left > 0 && passed(&row) {
                left -= 1;
            } else {
                self.push(row);
            }
        }
        before - self.rows.len()
    }
}

/// Neighbours follow each other: of two sagas of a bucket's place, one is of a tail that the log has lost.
fn place_in_bucket(saga: SagaId) -> usize {
    (saga.sequence.get() % BUCKET_SAGAS) as usize
}

/// Whether a row in this state keeps an answer.
const fn has_answer(state: RowState) -> bool {
    matches!(state, RowState::Done | RowState::Rejected)
}

/// A bounded set of rows, each forgotten when its saga is below the watermark.
#[derive(Debug)]
pub struct MemoryRows {
    buckets: Vec<Bucket>,
    /// Buckets in use, and those that are free.
    by_key: BTreeMap<BucketKey, u32>,
    free: Vec<u32>,
    /// The one that was looked for last: the next row that is asked for is most often in it, too.
    latest: Cell<Option<(BucketKey, u32)>>,
    rows: usize,
    /// The log that new rows are of, and the watermark that has been swept up to.
    log: u32,
    swept: Option<(u64, u64)>,
    rows_max: usize,
    answer_bytes: usize,
    answer_bytes_max: usize,
}

impl MemoryRows {
    /// So many rows, and so many bytes of answers: fewer than a bucket's buffer can address.
    pub fn new(rows_max: usize, answer_bytes_max: usize) -> Self {
        Self {
            buckets: Vec::new(),
            by_key: BTreeMap::new(),
            free: Vec::new(),
            latest: Cell::new(None),
            rows: 0,
            log: 0,
            swept: None,
            rows_max: rows_max.min(u32::MAX as usize),
            answer_bytes: 0,
            answer_bytes_max: answer_bytes_max.min(u32::MAX as usize / 2),
        }
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether so many more rows, each with the longest answer, would not fit. What is recorded regardless is kept:
    /// an outcome is never thrown away, so ask before an action is called.
    pub fn is_full_with(&self, more: usize) -> bool {
        self.rows + more >= self.rows_max || self.answer_bytes + more * SECTION_BYTES_MAX >= self.answer_bytes_max
    }

    /// What the row says, and its answer: the result if `Done`, the reason if `Rejected`. The class is that of the
    /// saga's deadline.
    pub fn find(&self, key: &FenceKey, class: usize) -> (RowState, &[u8]) {
        let found = self.bucket(self.bucket_key(key, class)).and_then(|number| {
            let bucket = &self.buckets[number as usize];
            bucket.find(key).map(|row| (bucket, &bucket.rows[row]))
        });
        found.map_or((RowState::Empty, &[]), |(bucket, row)| (row.state, bucket.answer(row)))
    }

    /// Applies an event and gives the state after it. The answer is stored where the event decides the row.
    pub fn record(&mut self, key: &FenceKey, class: usize, event: Event, answer: &[u8]) -> RowState {
        let bucket_key = self.bucket_key(key, class);
        let known = self.bucket(bucket_key);
        let found = known.and_then(|number| self.buckets[number as usize].find(key));
        let before = match (known, found) {
            (Some(number), Some(row)) => self.buckets[number as usize].rows[row].state,
            _ => RowState::Empty,
        };
        let state = on_event(before, event);
        if state == before {
            return state;
        }
        let answer = if has_answer(state) { answer } else { &[] };
        let number = known.unwrap_or_else(|| self.new_bucket(bucket_key));
        let bucket = &mut self.buckets[number as usize];
        let (answer_at, answer_length) = (bucket.answers.len() as u32, answer.len() as u16);
        bucket.answers.extend_from_slice(answer);
        self.answer_bytes += answer.len();
        if let Some(row) = found {
            let row = &mut bucket.rows[row];
            (row.answer_at, row.answer_length, row.state) = (answer_at, answer_length, state);
        } else {
            let FenceKey { saga, attempt, step } = *key;
            bucket.push(Row { saga, attempt, answer_at, answer_length, step, state, next: 0 });
            self.rows += 1;
        }
        state
    }

    /// The broker's log is another one: what there is will be forgotten, and nobody asks for it.
    pub fn renew(&mut self) {
        self.log += 1;
        self.swept = None;
    }

    /// Forgets rows that the watermark has passed, at most so many, and says how many. Call it often, with little.
    pub fn forget(&mut self, told: &Watermark, at_most: usize) -> usize {
        let mut forgotten = 0;
        if self.swept == Some(told.version()) {
            return forgotten;
        }
        let mut next = BucketKey { log: 0, class: 0, neighbours: 0 };
        while let Some((&key, &number)) = self.by_key.range(next..).next() {
            let is_old = key.log != self.log;
            if !is_old && key.neighbours * BUCKET_SAGAS >= told.marks[key.class] {
                next = BucketKey { class: key.class + 1, neighbours: 0, ..key };
                continue;
            }
            let passed = |row: &Row| is_old || told.has_passed(key.class, row.saga.sequence.get());
            let swept = self.buckets[number as usize].sweep(at_most - forgotten, passed);
            self.rows -= swept;
            forgotten += swept;
            if self.buckets[number as usize].rows.is_empty() {
                self.by_key.remove(&key);
                self.clear(number);
            } else if forgotten == at_most {
                return forgotten;
            }
            next = BucketKey { neighbours: key.neighbours + 1, ..key };
        }
        self.swept = Some(told.version());
        forgotten
    }

    fn clear(&mut self, number: u32) {
        self.latest.set(None);
        let bucket = &mut self.buckets[number as usize];
        self.answer_bytes -= bucket.answers.len();
        bucket.answers.clear();
        bucket.answers.shrink_to(KEPT_BYTES_MAX);
        bucket.rows.shrink_to(KEPT_BYTES_MAX / size_of::<Row>());
        self.free.push(number);
    }

    fn bucket_key(&self, key: &FenceKey, class: usize) -> BucketKey {
        BucketKey { log: self.log, class, neighbours: key.saga.sequence.get() / BUCKET_SAGAS }
    }

    fn bucket(&self, key: BucketKey) -> Option<u32> {
        if let Some((latest, number)) = self.latest.get()
            && latest == key
        {
            return Some(number);
        }
        let number = *self.by_key.get(&key)?;
        self.latest.set(Some((key, number)));
        Some(number)
    }

    fn new_bucket(&mut self, key: BucketKey) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.buckets.push(Bucket::new());
            (self.buckets.len() - 1) as u32
        });
        self.by_key.insert(key, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WATERMARK_CLASSES;

    fn key(sequence: u64) -> FenceKey {
        FenceKey { saga: SagaId::new(0, sequence, 1), attempt: 0, step: 2 }
    }

    fn told(as_of_lsn: u64, mark: u64, exceptions: &[u64]) -> Watermark {
        Watermark { log: 1, boot: 1, as_of_lsn, marks: [mark; WATERMARK_CLASSES], exceptions: exceptions.to_vec() }
    }

    #[test]
    fn a_row_answers_until_the_watermark_has_passed_it() {
        let mut rows = MemoryRows::new(100, 1 << 20);
        assert_eq!(rows.record(&key(1), 5, Event::Tried, b"ignored"), RowState::Intent);
        assert_eq!(rows.find(&key(1), 5), (RowState::Intent, &b""[..]));
        assert_eq!(rows.record(&key(1), 5, Event::Succeeded, b"result"), RowState::Done);
        assert_eq!(rows.record(&key(2), 5, Event::RejectedCleanly, b"no"), RowState::Rejected);
        assert_eq!(rows.forget(&told(7, 1, &[]), 10), 0, "it has not passed");
        assert_eq!(rows.find(&key(1), 5), (RowState::Done, &b"result"[..]));
        assert_eq!(rows.forget(&told(8, 2, &[]), 10), 1);
        assert_eq!(rows.find(&key(1), 5), (RowState::Empty, &b""[..]));
        assert_eq!(rows.find(&key(2), 5), (RowState::Rejected, &b"no"[..]));
        let mut of_its_class = told(9, 0, &[]);
        of_its_class.marks[6] = 100;
        assert_eq!(rows.forget(&of_its_class, 10), 0, "another class");
    }

    #[test]
    fn forgetting_stops_at_its_limit_and_goes_on_there() {
        let mut rows = MemoryRows::new(1_000, 1 << 20);
        for sequence in 0..200 {
            rows.record(&key(sequence), 0, Event::Succeeded, b"r");
        }
        let all = told(1, 200, &[]);
        assert_eq!(rows.forget(&all, 4), 4);
        assert_eq!((rows.len(), rows.find(&key(199), 0).0), (196, RowState::Done));
        assert_eq!(rows.forget(&all, 1_000), 196);
        assert_eq!((rows.len(), rows.answer_bytes, rows.by_key.len()), (0, 0, 0));
        rows.record(&key(7), 0, Event::Succeeded, b"r");
        assert_eq!(rows.forget(&all, 1_000), 0, "nothing new was told");
    }

    #[test]
    fn exceptions_stay_and_are_found_where_they_moved_to() {
        let mut rows = MemoryRows::new(1_000, 1 << 20);
        for sequence in 0..130 {
            rows.record(&key(sequence), 3, Event::Succeeded, format!("result {sequence}").as_bytes());
        }
        assert_eq!(rows.forget(&told(1, 120, &[0, 70, 71]), 1_000), 117);
        for sequence in [0, 70, 71, 120, 129] {
            assert_eq!(rows.find(&key(sequence), 3), (RowState::Done, format!("result {sequence}").as_bytes()));
        }
        assert_eq!(rows.forget(&told(2, 120, &[71]), 1_000), 2);
        assert_eq!(rows.forget(&told(3, 130, &[]), 1_000), 11);
        assert_eq!((rows.len(), rows.answer_bytes), (0, 0));
    }

    #[test]
    fn rows_of_another_log_go_whatever_their_sequence() {
        let mut rows = MemoryRows::new(1_000, 1 << 20);
        rows.record(&key(500), 3, Event::Succeeded, b"old");
        rows.renew();
        let other = FenceKey { saga: SagaId::new(0, 1, 2), attempt: 0, step: 2 };
        rows.record(&other, 3, Event::Succeeded, b"new");
        assert_eq!(rows.forget(&told(0, 1, &[]), 1_000), 1);
        assert_eq!((rows.find(&key(500), 3).0, rows.find(&other, 3).0), (RowState::Empty, RowState::Done));
    }

    #[test]
    fn it_says_when_it_is_full() {
        let mut rows = MemoryRows::new(3, 1 << 20);
        assert!(!rows.is_full_with(2));
        assert!(rows.is_full_with(3));
        rows.record(&key(1), 0, Event::UndoBegun, b"");
        assert!(rows.is_full_with(2));
        assert!(MemoryRows::new(100, 3 * SECTION_BYTES_MAX).is_full_with(3));
    }
}
