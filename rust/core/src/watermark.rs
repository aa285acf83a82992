//! Watermarks (rule 12): up to where every saga has durably ended, so that services can forget its fence rows.
//!
//! The broker keeps one for each *class of deadlines*, the powers of two of seconds: a saga that may take a week does
//! not keep the rows of those that take a second. Sagas that are stuck are on a list of exceptions, so that one of them
//! does not keep all rows of its class either. The broker tells services of it as the section DATA of a WATERMARK:
//!
//! ```text
//! offset size field
//!      0    8 log        names the broker's log: in another one the same sequences are other sagas
//!      8    8 boot       the broker's boot epoch, and the record of the log that all this is as of: what is of an
//!     16    8 as_of_lsn  earlier boot, or of an earlier record of the same, is out of date
//!     24    8 each       by class, 21 times: every saga of it with a lower sequence has ended, but the exceptions
//!    192    8 each       exceptions: sequences, ascending, of whatever class
//! ```
//!
//! The boot counts before the record because a log that is not synced may lose its end when the machine stops. Then the
//! same sequences are given again, and sagas that had ended may run again: services had better hear it.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::limits::{WATERMARK_CLASSES, WATERMARK_EXCEPTIONS_MAX};
use crate::mutation::{Mutation, is_broken};

const WORDS_BEFORE_MARKS: usize = 3;
const WORDS_BEFORE_EXCEPTIONS: usize = WORDS_BEFORE_MARKS + WATERMARK_CLASSES;

const _: () = assert!(WORDS_BEFORE_EXCEPTIONS * 8 == 192, "as the module's drawing says");

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    pub log: u64,
    pub boot: u64,
    pub as_of_lsn: u64,
    pub marks: [u64; WATERMARK_CLASSES],
    pub exceptions: Vec<u64>,
}

/// The class of sagas that may take so long: the least c with 2^c seconds.
pub const fn deadline_class(deadline_ms: u64) -> usize {
    let seconds = deadline_ms.div_ceil(1_000);
    let class = if seconds <= 1 { 0 } else { (seconds - 1).ilog2() as usize + 1 };
    if class < WATERMARK_CLASSES { class } else { WATERMARK_CLASSES - 1 }
}

impl Watermark {
    /// Nothing has been told: no saga has ended.
    pub const fn unknown() -> Self {
        Self { log: 0, boot: 0, as_of_lsn: 0, marks: [0; WATERMARK_CLASSES], exceptions: Vec::new() }
    }

    /// Reads the section DATA of a WATERMARK; none where it breaks the format.
    pub fn read(data: &[u8]) -> Option<Self> {
        let words = <[U64]>::ref_from_bytes(data).ok()?;
        if words.len() < WORDS_BEFORE_EXCEPTIONS || words.len() > WORDS_BEFORE_EXCEPTIONS + WATERMARK_EXCEPTIONS_MAX {
            return None;
        }
        let (head, exceptions) = words.split_at(WORDS_BEFORE_EXCEPTIONS);
        let exceptions: Vec<u64> = exceptions.iter().map(|word| word.get()).collect();
        exceptions.is_sorted_by(|one, next| one < next).then_some(())?;
        let mut marks = [0; WATERMARK_CLASSES];
        marks.iter_mut().zip(&head[WORDS_BEFORE_MARKS..]).for_each(|(mark, word)| *mark = word.get());
        Some(Self { log: head[0].get(), boot: head[1].get(), as_of_lsn: head[2].get(), marks, exceptions })
    }

    /// The section DATA of a WATERMARK.
    pub fn write(&self) -> Vec<u8> {
        let head = [self.log, self.boot, self.as_of_lsn];
        let words: Vec<U64> =
            head.iter().chain(&self.marks).chain(&self.exceptions).map(|&word| U64::new(word)).collect();
        words.as_slice().as_bytes().to_vec()
    }

    /// Whether a saga of this class, in the same log, has durably ended for all that this says.
    pub fn has_passed(&self, class: usize, sequence: u64) -> bool {
        sequence < self.marks[class] && self.exceptions.binary_search(&sequence).is_err()
    }

    /// Whether it is of another log than the other one, or later.
    pub fn replaces(&self, other: &Self) -> bool {
        self.log != other.log || self.version() > other.version() || is_broken(Mutation::OlderWatermarkKept)
    }

    /// Ascends within a log.
    pub fn version(&self) -> (u64, u64) {
        (self.boot, self.as_of_lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DEADLINE_MS_MAX;

    #[test]
    fn classes_are_powers_of_two_of_seconds() {
        let classes = [0, 1, 1_000, 1_001, 2_000, 2_001, 4_000, 4_001, 30_000].map(deadline_class);
        assert_eq!(classes, [0, 0, 0, 1, 1, 2, 2, 3, 5]);
        for deadline_ms in [1, 999, 1_000, 65_536, 65_537_000, DEADLINE_MS_MAX] {
            let class = deadline_class(deadline_ms);
            assert!(deadline_ms <= 1_000 << class && (class == 0 || deadline_ms > 1_000 << (class - 1)));
        }
        assert_eq!(deadline_class(u64::MAX), WATERMARK_CLASSES - 1);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut marks = [7; WATERMARK_CLASSES];
        marks[20] = u64::MAX;
        let watermark = Watermark { log: 5, boot: 2, as_of_lsn: 9, marks, exceptions: vec![2, 3, 6] };
        let data = watermark.write();
        assert_eq!((data.len(), Watermark::read(&data).as_ref()), (192 + 24, Some(&watermark)));
        assert_eq!(Watermark::read(&data[..184]), None);
        assert_eq!(Watermark::read(&data[..193]), None);
        assert_eq!(Watermark::read(&Watermark { exceptions: vec![3, 3], ..watermark.clone() }.write()), None);
        let too_many = (0..=WATERMARK_EXCEPTIONS_MAX as u64).collect();
        assert_eq!(Watermark::read(&Watermark { exceptions: too_many, ..watermark }.write()), None);
    }

    #[test]
    fn what_is_below_has_passed_but_for_the_exceptions() {
        let mut marks = [7; WATERMARK_CLASSES];
        marks[3] = 2;
        let watermark = Watermark { log: 5, boot: 2, as_of_lsn: 9, marks, exceptions: vec![2, 4] };
        let passed: Vec<u64> = (0..10).filter(|&sequence| watermark.has_passed(0, sequence)).collect();
        assert_eq!(passed, [0, 1, 3, 5, 6]);
        assert!(watermark.has_passed(3, 1) && !watermark.has_passed(3, 3));
        assert!(!watermark.replaces(&watermark) && watermark.replaces(&Watermark::unknown()));
        let later = Watermark { boot: 3, as_of_lsn: 4, ..watermark.clone() };
        assert!(later.replaces(&watermark) && !watermark.replaces(&later));
    }
}
