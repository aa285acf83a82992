//! Watermarks (I12): they never go back, and pass no saga that still runs as far as the log is durable.

use std::collections::BTreeMap;

use sagacore_core::watermark::Watermark;

use super::{Broken, History, SagaKey, ensure};
use crate::model::Model;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Watermarks {
    /// What left the broker, by version.
    told: BTreeMap<(u64, u64), Watermark>,
    /// Sagas that no watermark waits for.
    pub exceptions_max: usize,
}

impl Watermarks {
    /// A watermark leaves the broker. Many sessions are told the same, which is judged once.
    pub fn leaves(&mut self, models: &[Model], history: &History, data: &[u8]) -> Result<(), Broken> {
        let Some(next) = Watermark::read(data) else {
            return Err(Broken("format", "a watermark leaves that cannot be read".to_owned()));
        };
        if let Some(same) = self.told.get(&next.version()) {
            ensure!(*same == next, "I12", "as of one record, {next:?} is told and was {same:?}");
            return Ok(());
        }
        let durable_lsn = history.lsn();
        ensure!(next.as_of_lsn <= durable_lsn, "I12", "told as of {}, and durable is {durable_lsn}", next.as_of_lsn);
        if let Some((_, told)) = self.told.last_key_value() {
            goes_on(told, &next)?;
        }
        for (&(sequence, nonce), saga) in &history.sagas {
            let class = models[saga.plan].plan.deadline_class();
            let is_passed = next.has_passed(class, sequence);
            ensure!(
                saga.ended.is_some() || !is_passed,
                "I12",
                "a watermark passes {:?}, which runs",
                (sequence, nonce)
            );
        }
        let last = history.sagas.last_key_value().map_or(0, |(&(sequence, _), _)| sequence);
        let beyond = next.marks.iter().find(|&&mark| mark > last + 1);
        ensure!(beyond.is_none(), "I12", "a watermark is at {beyond:?}, and the last saga that began is {last}");
        let count = next.exceptions.len();
        ensure!(count <= self.exceptions_max, "I12", "{count} sagas are excepted, and {} may be", self.exceptions_max);
        for &sequence in &next.exceptions {
            ensure!(
                history.is_excepted(sequence),
                "I12",
                "{sequence} is told as an exception, and that is not durable"
            );
        }
        self.told.insert(next.version(), next);
        Ok(())
    }
}

/// One watermark follows on another.
pub fn goes_on(before: &Watermark, after: &Watermark) -> Result<(), Broken> {
    ensure!(before.log == 0 || before.log == after.log, "I12", "the log is another one");
    let versions = (before.version(), after.version());
    ensure!(versions.0 < versions.1 && before.as_of_lsn <= after.as_of_lsn, "I12", "as of {versions:?}");
    let is_monotone = before.marks.iter().zip(&after.marks).all(|(before, after)| before <= after);
    ensure!(is_monotone, "I12", "a watermark goes back, from {before:?} to {after:?}");
    Ok(())
}

impl History {
    /// A saga that no watermark waits for, durably.
    fn is_excepted(&self, sequence: u64) -> bool {
        let all: std::ops::RangeInclusive<SagaKey> = (sequence, 0)..=(sequence, u32::MAX);
        self.sagas.range(all).any(|(_, saga)| saga.is_excepted)
    }
}
