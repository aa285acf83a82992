//! A plan's definition, as bytes: MessagePack, every value in its shortest encoding, so that one plan has one
//! fingerprint whoever wrote it.
//!
//! ```text
//! definition: array of 7
//!   format       uint   1
//!   name         str    of the saga
//!   input_max    uint   bytes of the input at most
//!   deadline_ms  uint   from the start to the pivot, or to the end where there is none
//!   undo         uint   0: side by side where no order is needed; 1: a chain, the last step first
//!   returns      array  of the steps whose results the client gets
//!   steps        array  of steps, each after all that it names
//! step: array of 7
//!   name         str    unique within the saga
//!   service      str    who does it
//!   result_max   uint   bytes of the result at most
//!   flags        uint   1: the pivot; 2: it can be compensated
//!   after        array  of the steps that it comes after, ascending
//!   reads        array  of the steps whose results it gets, in the order in which it gets them
//!   undo_before  array  of the steps that are undone only after it, ascending
//! ```
//! Steps are named by their place in `steps`. What it says is checked here and in `Plan::compile`.

use rmp::Marker;

use super::{PlanError, steps_of};
use crate::limits::{DEADLINE_MS_MAX, DEFINITION_BYTES_MAX, NAME_BYTES_MAX, SECTION_BYTES_MAX, STEPS_MAX};

/// The format that this code reads.
const FORMAT: u64 = 1;
/// Elements of a definition, and of a step.
const FIELDS: usize = 7;
const FLAG_PIVOT: u64 = 1;
const FLAG_COMPENSABLE: u64 = 2;

/// The order of compensations where no step asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndoOrder {
    /// Side by side, but a step's before those of the steps whose results it reads.
    Parallel,
    /// One after the other, the last step first: fewer messages, more time.
    Chain,
}

/// A definition whose parts have been checked one by one and against each other; the graph has not.
#[derive(Debug)]
pub(super) struct Definition<'a> {
    pub name: &'a str,
    pub input_max: usize,
    pub deadline_ms: u64,
    pub undo: UndoOrder,
    pub returns: u64,
    pub steps: Vec<StepDefinition<'a>>,
}

#[derive(Debug)]
pub(super) struct StepDefinition<'a> {
    pub name: &'a str,
    pub service: &'a str,
    pub result_max: usize,
    pub is_pivot: bool,
    pub is_compensable: bool,
    pub after: u64,
    pub reads: u64,
    pub reads_ordered: Vec<u8>,
    pub undo_before: u64,
}

/// A step with its lists as they came: what they name is checked when all steps are known.
struct RawStep<'a> {
    name: &'a str,
    service: &'a str,
    result_max: u64,
    flags: u64,
    after: Vec<u64>,
    reads: Vec<u64>,
    undo_before: Vec<u64>,
}

impl<'a> Definition<'a> {
    /// Reads a definition. Allocates no more than 64 steps need, whatever the bytes say.
    pub fn read(bytes: &'a [u8]) -> Result<Self, PlanError> {
        if bytes.is_empty() || bytes.len() > DEFINITION_BYTES_MAX {
            return Err(PlanError::Length { bytes: bytes.len() });
        }
        let mut reader = Reader { rest: bytes, step: None };
        reader.fields("the definition")?;
        let format = reader.uint("format")?;
        if format != FORMAT {
            return Err(PlanError::Format { format });
        }
        let name = reader.name("name")?;
        let input_max = reader.uint("input_max")?;
        let deadline_ms = reader.uint("deadline_ms")?;
        let undo = reader.uint("undo")?;
        let returns = reader.list("returns")?;
        let count = reader.array("steps")?;
        if !(1..=STEPS_MAX).contains(&count) {
            return Err(PlanError::Steps { count });
        }
        let mut raw = Vec::with_capacity(count);
        for step in 0..count {
            reader.step = Some(step);
            raw.push(reader.raw_step()?);
        }
        if !reader.rest.is_empty() {
            return Err(PlanError::Trailing { bytes: reader.rest.len() });
        }
        if input_max > SECTION_BYTES_MAX as u64 {
            return Err(PlanError::Input { bytes: input_max });
        }
        if !(1..=DEADLINE_MS_MAX).contains(&deadline_ms) {
            return Err(PlanError::Deadline { deadline_ms });
        }
        let undo = match undo {
            0 => UndoOrder::Parallel,
            1 => UndoOrder::Chain,
            code => return Err(PlanError::Undo { code }),
        };
        let names: Vec<&str> = raw.iter().map(|step| step.name).collect();
        let returns = distinct(&returns, &names, count, || "`returns`".to_owned())?;
        let steps = raw.iter().enumerate().map(|(index, step)| step.check(index, &names)).collect::<Result<_, _>>()?;
        Ok(Self { name, input_max: input_max as usize, deadline_ms, undo, returns, steps })
    }
}

impl<'a> RawStep<'a> {
    /// Checks all of a step but the graph that it is part of.
    fn check(&self, index: usize, names: &[&'a str]) -> Result<StepDefinition<'a>, PlanError> {
        if names[..index].contains(&self.name) {
            return Err(PlanError::Duplicate { step: self.name.to_owned() });
        }
        if self.flags & !(FLAG_PIVOT | FLAG_COMPENSABLE) != 0 {
            return Err(PlanError::Flags { step: self.name.to_owned(), flags: self.flags });
        }
        if self.result_max > SECTION_BYTES_MAX as u64 {
            return Err(PlanError::ResultSize { step: self.name.to_owned(), bytes: self.result_max });
        }
        let label = |list: &str| format!("`{list}` of step `{}`", self.name);
        Ok(StepDefinition {
            name: self.name,
            service: self.service,
            result_max: self.result_max as usize,
            is_pivot: self.flags & FLAG_PIVOT != 0,
            is_compensable: self.flags & FLAG_COMPENSABLE != 0,
            after: ascending(&self.after, names, index, || label("after"))?,
            reads: distinct(&self.reads, names, index, || label("reads"))?,
            reads_ordered: self.reads.iter().map(|&step| step as u8).collect(),
            undo_before: ascending(&self.undo_before, names, index, || label("undo_before"))?,
        })
    }
}

/// The set of the listed steps: each is below `end` and named once.
fn distinct(list: &[u64], names: &[&str], end: usize, label: impl Fn() -> String) -> Result<u64, PlanError> {
    let mut set = 0_u64;
    for &index in list {
        let Some(name) = usize::try_from(index).ok().and_then(|index| names.get(index)) else {
            return Err(PlanError::Unknown { list: label(), index, last: names.len() - 1 });
        };
        if index >= end as u64 {
            return Err(PlanError::Cycle { list: label(), step: (*name).to_owned() });
        }
        if set & (1 << index) != 0 {
            return Err(PlanError::Repeated { list: label(), step: (*name).to_owned() });
        }
        set |= 1 << index;
    }
    Ok(set)
}

/// The same, and the list ascends: the set alone must tell what it was.
fn ascending(list: &[u64], names: &[&str], end: usize, label: impl Fn() -> String) -> Result<u64, PlanError> {
    let set = distinct(list, names, end, &label)?;
    match steps_of(set).zip(list).find(|&(step, &listed)| u64::from(step) != listed) {
        Some((step, _)) => Err(PlanError::Ascending { list: label(), step: names[usize::from(step)].to_owned() }),
        None => Ok(set),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// The step being read, to name it where it is malformed.
    step: Option<usize>,
}

impl<'a> Reader<'a> {
    fn label(&self, part: &str) -> String {
        match self.step {
            Some(step) => format!("`{part}` of step number {step}"),
            None => format!("`{part}` of the saga"),
        }
    }

    fn refused(&self, part: &str, wanted: &'static str) -> PlanError {
        PlanError::Encoding { part: self.label(part), wanted }
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn marker(&mut self) -> Option<Marker> {
        self.take(1).map(|byte| Marker::from_u8(byte[0]))
    }

    /// A big-endian number of so many bytes that is above `shorter`, the most that a shorter encoding holds.
    fn number(&mut self, bytes: usize, shorter: u64) -> Option<u64> {
        let value = self.take(bytes)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        (value > shorter).then_some(value)
    }

    fn uint(&mut self, part: &str) -> Result<u64, PlanError> {
        let value = match self.marker() {
            Some(Marker::FixPos(value)) => Some(u64::from(value)),
            Some(Marker::U8) => self.number(1, 0x7f),
            Some(Marker::U16) => self.number(2, 0xff),
            Some(Marker::U32) => self.number(4, 0xffff),
            Some(Marker::U64) => self.number(8, 0xffff_ffff),
            _ => None,
        };
        value.ok_or_else(|| self.refused(part, "an unsigned integer"))
    }

    /// The elements of an array. Each has a byte at least, so that a huge count is refused at once.
    fn array(&mut self, part: &str) -> Result<usize, PlanError> {
        let count = match self.marker() {
            Some(Marker::FixArray(count)) => Some(u64::from(count)),
            Some(Marker::Array16) => self.number(2, 0xf),
            Some(Marker::Array32) => self.number(4, 0xffff),
            _ => None,
        };
        let count = count.map(|count| count as usize).filter(|&count| count <= self.rest.len());
        count.ok_or_else(|| self.refused(part, "an array"))
    }

    fn fields(&mut self, part: &str) -> Result<(), PlanError> {
        match self.array(part) {
            Ok(FIELDS) => Ok(()),
            _ => Err(self.refused(part, "an array of 7")),
        }
    }

    /// Numbers of steps, as they come. No list without repetitions is longer than there can be steps.
    fn list(&mut self, part: &str) -> Result<Vec<u64>, PlanError> {
        let count = self.array(part)?;
        if count > STEPS_MAX {
            return Err(self.refused(part, "an array of at most 64"));
        }
        (0..count).map(|_| self.uint(part)).collect()
    }

    fn name(&mut self, part: &str) -> Result<&'a str, PlanError> {
        let length = match self.marker() {
            Some(Marker::FixStr(length)) => Some(u64::from(length)),
            Some(Marker::Str8) => self.number(1, 0x1f),
            Some(Marker::Str16) => self.number(2, 0xff),
            Some(Marker::Str32) => self.number(4, 0xffff),
            _ => None,
        };
        let bytes = length.and_then(|length| self.take(length as usize));
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| self.refused(part, "a string"))?;
        if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(PlanError::Name { part: self.label(part) });
        }
        Ok(text)
    }

    fn raw_step(&mut self) -> Result<RawStep<'a>, PlanError> {
        self.fields("the array")?;
        Ok(RawStep {
            name: self.name("name")?,
            service: self.name("service")?,
            result_max: self.uint("result_max")?,
            flags: self.uint("flags")?,
            after: self.list("after")?,
            reads: self.list("reads")?,
            undo_before: self.list("undo_before")?,
        })
    }
}
