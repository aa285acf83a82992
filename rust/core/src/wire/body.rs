//! A body: a MessagePack map from a section's number to its bytes, in ascending order.
//!
//! ```text
//! map header          1, 3 bytes      fixmap or map16: at most 64 results and the sections named here
//! then, per section:
//!   key               1 byte          positive fixint: 0 to 63 is the result of that step, 64 and up: see `Section`
//!   bin header        2, 3 or 5 bytes bin8, bin16 or bin32
//!   value             the section: MessagePack of the user's own, opaque here
//! ```
//! Sections are wrapped as `bin`, so that whoever splices bodies skips a section in one step and never walks nested
//! data: a nesting bomb inside is seen by the typed decoder of the service that asked for it, and by nobody else.

use super::Malformed;
use crate::limits::SECTION_BYTES_MAX;

/// The sections that are no step's result.
pub struct Section;

impl Section {
    /// The saga's input.
    pub const INPUT: u8 = 64;
    /// Why it was aborted: an array of code, step (64: none) and text.
    pub const CAUSE: u8 = 65;
    /// The user's key.
    pub const KEY: u8 = 66;
    /// Steps whose compensation an operator skipped: an array of pairs of step and reason.
    pub const SKIPPED: u8 = 67;
    /// Of control messages: a name, a text, a definition, or a map of the kind's own.
    pub const NAME: u8 = 68;
    pub const TEXT: u8 = 69;
    pub const DATA: u8 = 70;
    /// Of a RUN that waited: sagas that stood in its way and have ended; see `Freed`.
    pub const FREED: u8 = 71;
    /// One more than the last.
    pub const END: u8 = 72;
}

/// Sections that a body may have.
const SECTIONS_MAX: usize = Section::END as usize;

/// The sections of one body, checked before the first is handed out.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Sections<'a> {
    /// Reads a body; an empty one has no sections. Neither allocates nor recurses.
    ///
    /// # Errors
    /// The rule that the body breaks.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        if body.is_empty() {
            return Ok(Self { rest: body, left: 0 });
        }
        let (left, rest) = match *body {
            [first, ref rest @ ..] if first & 0xf0 == 0x80 => (usize::from(first & 0x0f), rest),
            [0xde, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
            _ => return Err(Malformed::BodyMap),
        };
        if left > SECTIONS_MAX {
            return Err(Malformed::BodyMap);
        }
        let sections = Self { rest, left };
        let mut cursor = sections;
        let mut last = None;
        while cursor.left > 0 {
            let (key, _) = cursor.read()?;
            if key >= Section::END || last.is_some_and(|last| key <= last) {
                return Err(Malformed::BodyKey);
            }
            last = Some(key);
        }
        if !cursor.rest.is_empty() {
            return Err(Malformed::BodyTrailing);
        }
        Ok(sections)
    }

    /// Reads a body again that `parse` has checked.
    pub(crate) fn parsed(body: &'a [u8]) -> Self {
        match *body {
            [first, ref rest @ ..] if first & 0xf0 == 0x80 => Self { rest, left: usize::from(first & 0x0f) },
            [_, high, low, ref rest @ ..] => Self { rest, left: usize::from(u16::from_be_bytes([high, low])) },
            _ => Self { rest: body, left: 0 },
        }
    }

    /// The section under this key.
    pub fn get(self, key: u8) -> Option<&'a [u8]> {
        self.take_while(|(at, _)| *at <= key).find(|(at, _)| *at == key).map(|(_, value)| value)
    }

    fn read(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&key, rest) = self.rest.split_first().ok_or(Malformed::BodySection)?;
        if key >= 0x80 {
            return Err(Malformed::BodyKey);
        }
        let (length, rest) = match *rest {
            [0xc4, a, ref rest @ ..] => (usize::from(a), rest),
            [0xc5, a, b, ref rest @ ..] => (usize::from(u16::from_be_bytes([a, b])), rest),
            [0xc6, a, b, c, d, ref rest @ ..] => (u32::from_be_bytes([a, b, c, d]) as usize, rest),
            _ => return Err(Malformed::BodySection),
        };
        let limit = if key == Section::DATA || key == Section::TEXT { usize::MAX } else { SECTION_BYTES_MAX };
        if length > rest.len() || length > limit {
            return Err(Malformed::BodySection);
        }
        let (value, rest) = rest.split_at(length);
        self.rest = rest;
        self.left -= 1;
        Ok((key, value))
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.read().ok()
    }
}

/// Appends a body to a buffer, section by section, in ascending order of their keys.
pub struct BodyWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    count: usize,
}

impl<'a> BodyWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.push(0x80);
        Self { out, start, count: 0 }
    }

    pub fn section(&mut self, key: u8, value: &[u8]) -> &mut Self {
        debug_assert!(key < Section::END);
        self.out.push(key);
        let length = value.len();
        if let Ok(short) = u8::try_from(length) {
            self.out.extend_from_slice(&[0xc4, short]);
        } else if let Ok(middle) = u16::try_from(length) {
            self.out.push(0xc5);
            self.out.extend_from_slice(&middle.to_be_bytes());
        } else {
            self.out.push(0xc6);
            self.out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        self.out.extend_from_slice(value);
        self.count += 1;
        self
    }

    /// Ends the body and gives its length in bytes. A body without sections is empty.
    pub fn finish(self) -> usize {
        match self.count {
            0 => self.out.truncate(self.start),
            1..=15 => self.out[self.start] = 0x80 | self.count as u8,
            _ => {
                let count = (self.count as u16).to_be_bytes();
                self.out.splice(self.start..=self.start, [0xde, count[0], count[1]]);
            }
        }
        self.out.len() - self.start
    }
}
