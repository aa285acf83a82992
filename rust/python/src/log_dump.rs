//! A log's records in words, one at a time. Names of steps come from the plans that the log holds.

use std::collections::HashMap;
use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use sagacore_broker::log::{Entry, Finding, FrameType, inspect, segment_name};
use sagacore_broker::{Copied, copied};
use sagacore_core::plan::Plan;
use sagacore_core::wire::{Flags, Header, Key, Kind, Message, OutcomeCode, SagaId, Section, Sections, Transaction};
use sagacore_disk::FileDisk;

use crate::broker::refused;
use crate::log_tools::{Verified, verified};

const FLAGS: [(u16, &str); 5] = [
    (Flags::WIDE, "WIDE"),
    (Flags::PIVOTED, "PIVOTED"),
    (Flags::WOUNDED, "WOUNDED"),
    (Flags::CLEAN, "CLEAN"),
    (Flags::SPLICE, "SPLICE"),
];

/// Reads a whole log and gives `sink` each record from an LSN on, of one saga only if that is asked for. Nothing is
/// changed. Gives what `log_verify` gives.
#[pyfunction]
pub fn log_dump(
    py: Python<'_>,
    directory: &str,
    from_lsn: u64,
    saga: Option<&str>,
    bodies: bool,
    sink: &Bound<'_, PyAny>,
) -> PyResult<Verified> {
    let mut dump = Dump { py, saga, bodies, plans: HashMap::new() };
    let mut failed = None;
    let disk = FileDisk::open_to_read(Path::new(directory)).map_err(|error| refused(&error))?;
    let report = inspect(&disk, &mut |finding| match finding {
        Finding::Frame(entry) if failed.is_none() => {
            let told = dump.record(&entry).and_then(|record| match record {
                Some(record) if entry.lsn >= from_lsn => sink.call1((record,)).map(|_| ()),
                _ => Ok(()),
            });
            failed = told.err();
        }
        _ => {}
    });
    match failed {
        Some(error) => Err(error),
        None => report.map(|report| verified(&report)).map_err(|error| refused(&error)),
    }
}

struct Dump<'a, 'py> {
    py: Python<'py>,
    saga: Option<&'a str>,
    bodies: bool,
    plans: HashMap<u64, Plan>,
}

impl<'py> Dump<'_, 'py> {
    /// The record, or nothing if it says nothing of the saga.
    fn record(&mut self, entry: &Entry<'_>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let record = PyDict::new(self.py);
        record.set_item("lsn", entry.lsn)?;
        record.set_item("time_ms", entry.time_ms)?;
        record.set_item("type", upper(&format!("{:?}", entry.kind)))?;
        record.set_item("boot_epoch", entry.boot_epoch)?;
        record.set_item("durable_lsn", entry.durable_lsn)?;
        record.set_item("file", segment_name(entry.position.segment))?;
        record.set_item("offset", entry.position.offset)?;
        record.set_item("bytes", entry.payload.len())?;
        let of_saga = match entry.kind {
            FrameType::Batch => {
                let (transactions, unreadable) = self.transactions(entry.payload)?;
                if let Some(rule) = unreadable {
                    record.set_item("unreadable", rule)?;
                }
                let count = transactions.len();
                record.set_item("transactions", transactions)?;
                count > 0
            }
            FrameType::Copy => {
                let copies = self.copies(entry.payload)?;
                let count = copies.len();
                record.set_item("copies", copies)?;
                count > 0
            }
            FrameType::Boot => {
                record.set_item("unclean", entry.is_unclean_boot())?;
                false
            }
            FrameType::Seal | FrameType::Mark => false,
        };
        Ok((of_saga || self.saga.is_none()).then_some(record))
    }

    fn is_asked_for(&self, saga: SagaId) -> bool {
        self.saga.is_none_or(|asked| saga.to_string() == asked)
    }

    /// The transactions of a batch, and the rule that the first broken one breaks.
    fn transactions(&mut self, payload: &[u8]) -> PyResult<(Bound<'py, PyList>, Option<String>)> {
        let out = PyList::empty(self.py);
        let mut rest = payload;
        while !rest.is_empty() {
            let (transaction, after) = match Transaction::parse(rest) {
                Ok(read) => read,
                Err(broken) => return Ok((out, Some(broken.name()))),
            };
            rest = after;
            let keys = transaction.consumes.iter().map(|key| key.saga);
            if keys.chain(transaction.messages().map(|message| message.header.saga)).any(|saga| self.is_asked_for(saga))
            {
                out.append(self.transaction(&transaction)?)?;
            } else {
                transaction.messages().for_each(|message| self.note_plan(&message));
            }
        }
        Ok((out, None))
    }

    fn transaction(&mut self, transaction: &Transaction<'_>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(self.py);
        let plan = transaction.messages().next().map_or(0, |message| message.header.plan.get());
        let consumes = PyList::empty(self.py);
        for key in transaction.consumes {
            consumes.append(self.key(key, plan)?)?;
        }
        let publishes = PyList::empty(self.py);
        for message in transaction.messages() {
            self.note_plan(&message);
            publishes.append(self.message(&message)?)?;
        }
        out.set_item("number", transaction.number)?;
        out.set_item("consumes", consumes)?;
        out.set_item("publishes", publishes)?;
        Ok(out)
    }

    fn key(&self, key: &Key, plan: u64) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(self.py);
        out.set_item("kind", upper(&format!("{:?}", key.kind())))?;
        out.set_item("saga", key.saga.to_string())?;
        out.set_item("attempt", key.attempt.get())?;
        self.place(&out, key.kind(), key.place.get(), plan)?;
        Ok(out)
    }

    fn message(&self, message: &Message<'_>) -> PyResult<Bound<'py, PyDict>> {
        let header = message.header;
        let (kind, plan) = (header.kind(), header.plan.get());
        let out = PyDict::new(self.py);
        out.set_item("kind", upper(&format!("{kind:?}")))?;
        if kind != Kind::Define {
            out.set_item("saga", header.saga.to_string())?;
            out.set_item("attempt", header.attempt.get())?;
            self.place(&out, kind, header.place.get(), plan)?;
            self.sets(&out, header)?;
        }
        out.set_item("plan", self.plan_name(plan))?;
        if header.deadline_ms.get() != 0 {
            out.set_item("deadline_ms", header.deadline_ms.get())?;
        }
        let flags: Vec<&str> = FLAGS.iter().filter(|(bit, _)| header.has(*bit)).map(|(_, name)| *name).collect();
        if !flags.is_empty() {
            out.set_item("flags", flags)?;
        }
        self.body(&out, message.body, plan)?;
        Ok(out)
    }

    /// Which step, edge or outcome it is about.
    fn place(&self, out: &Bound<'py, PyDict>, kind: Kind, place: u16, plan: u64) -> PyResult<()> {
        match kind {
            Kind::Run | Kind::Fail | Kind::Undo => out.set_item("step", self.step_name(plan, u32::from(place))),
            Kind::Done | Kind::Undone => out.set_item("edge", place),
            Kind::Result => out.set_item("outcome", outcome(OutcomeCode::from_code(place))),
            _ => Ok(()),
        }
    }

    /// The sets of steps that are not empty, by name.
    fn sets(&self, out: &Bound<'py, PyDict>, header: &Header) -> PyResult<()> {
        for (name, set) in [("done", header.done), ("active", header.active), ("undo", header.undo)] {
            if set.get() != 0 {
                let steps = (0..64).filter(|step| set.get() & 1 << step != 0);
                let names: Vec<String> = steps.map(|step| self.step_name(header.plan.get(), step)).collect();
                out.set_item(name, names)?;
            }
        }
        Ok(())
    }

    /// How large each section of a body is, and what is in it where that is asked for.
    fn body(&self, out: &Bound<'py, PyDict>, body: &[u8], plan: u64) -> PyResult<()> {
        let sections = PyDict::new(self.py);
        for (key, value) in Sections::parse(body).into_iter().flatten() {
            let name = self.section_name(plan, key);
            if self.bodies {
                sections.set_item(name, PyBytes::new(self.py, value))?;
            } else {
                sections.set_item(name, value.len())?;
            }
        }
        out.set_item("sections", sections)
    }

    fn copies(&mut self, payload: &[u8]) -> PyResult<Bound<'py, PyList>> {
        let out = PyList::empty(self.py);
        for copy in copied(payload) {
            if let Some(copy) = self.copy(&copy)? {
                out.append(copy)?;
            }
        }
        Ok(out)
    }

    fn copy(&mut self, copy: &Copied<'_>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let out = PyDict::new(self.py);
        let of_saga = match copy {
            Copied::Origin { shard, next_sequence } => {
                out.set_item("what", "origin")?;
                out.set_item("shard", shard)?;
                out.set_item("next_sequence", next_sequence)?;
                None
            }
            Copied::Plan { definition } => {
                let plan = Plan::compile(definition).ok();
                out.set_item("what", "plan")?;
                out.set_item("plan", plan.as_ref().map(|plan| plan.name.clone()))?;
                if let Some(plan) = plan {
                    self.plans.insert(plan.fingerprint, plan);
                }
                None
            }
            Copied::Saga { id, plan, attempt, flags, deadline_ms, tokens } => {
                out.set_item("what", "saga")?;
                out.set_item("saga", id.to_string())?;
                out.set_item("plan", self.plan_name(*plan))?;
                out.set_item("attempt", attempt)?;
                out.set_item("phase", if flags & 1 != 0 { "undoing" } else { "forward" })?;
                out.set_item("pivoted", flags & 2 != 0)?;
                out.set_item("wide", flags & 4 != 0)?;
                out.set_item("deadline_ms", deadline_ms)?;
                let pending = PyList::empty(self.py);
                for token in tokens {
                    pending.append(self.message(token)?)?;
                }
                out.set_item("pending", pending)?;
                Some(*id)
            }
            Copied::Outcome { id, plan, code, ended_ms, body } => {
                out.set_item("what", "outcome")?;
                out.set_item("saga", id.to_string())?;
                out.set_item("plan", self.plan_name(*plan))?;
                out.set_item("outcome", outcome(*code))?;
                out.set_item("ended_ms", ended_ms)?;
                self.body(&out, body, *plan)?;
                Some(*id)
            }
            Copied::Boot { wide_before, is_relaxed } => {
                out.set_item("what", "boot")?;
                out.set_item("wide_before", wide_before)?;
                out.set_item("relaxed", is_relaxed)?;
                None
            }
            Copied::Unknown { what, bytes } => {
                out.set_item("what", format!("unknown {what}"))?;
                out.set_item("bytes", bytes)?;
                None
            }
        };
        let is_asked_for = self.saga.is_none() || of_saga.is_some_and(|saga| self.is_asked_for(saga));
        Ok(is_asked_for.then_some(out))
    }

    fn note_plan(&mut self, message: &Message<'_>) {
        if message.header.kind() == Kind::Define
            && let Some(definition) = message.sections().get(Section::DATA)
            && let Ok(plan) = Plan::compile(definition)
        {
            self.plans.insert(plan.fingerprint, plan);
        }
    }

    fn plan_name(&self, plan: u64) -> String {
        self.plans.get(&plan).map_or_else(|| format!("plan {plan:016x}"), |plan| plan.name.clone())
    }

    fn step_name(&self, plan: u64, step: u32) -> String {
        let found = self.plans.get(&plan).and_then(|plan| plan.steps.get(step as usize));
        found.map_or_else(|| format!("step {step}"), |step| format!("{}.{}", step.service, step.name))
    }

    fn section_name(&self, plan: u64, key: u8) -> String {
        match key {
            Section::INPUT => "input".to_owned(),
            Section::CAUSE => "cause".to_owned(),
            Section::KEY => "key".to_owned(),
            Section::SKIPPED => "skipped".to_owned(),
            Section::NAME => "name".to_owned(),
            Section::TEXT => "text".to_owned(),
            Section::DATA => "data".to_owned(),
            step => format!("result of {}", self.step_name(plan, u32::from(step))),
        }
    }
}

fn outcome(code: Option<OutcomeCode>) -> String {
    code.map_or_else(|| "unknown".to_owned(), |code| format!("{code:?}").to_lowercase())
}

/// A name as documents write it: `RETRY_LATER`.
fn upper(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}
