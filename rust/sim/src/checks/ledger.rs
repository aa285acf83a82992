//! What the services really did: every effect and every compensation, as the world outside sees them.

use std::collections::BTreeMap;

use sagacore_core::wire::OutcomeCode;

use super::{Broken, History, SagaKey, ensure};
use crate::model::{Model, steps};

/// A step of a saga, in one attempt.
pub type StepKey = (SagaKey, u32, usize);

#[derive(Debug, Default, Clone)]
struct Record {
    /// It took place and was not undone.
    is_there: bool,
    effects: u32,
    undos: u32,
    /// Its service has promised that it never takes place, or not any more.
    is_closed: bool,
    /// Effects that died with their process's memory.
    is_lost: bool,
    result: Vec<u8>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Ledger {
    records: BTreeMap<StepKey, Record>,
    pub effects: u64,
    pub undos: u64,
}

impl Ledger {
    /// An action takes effect.
    pub fn applied(&mut self, models: &[Model], history: &History, key: StepKey, result: &[u8]) -> Result<(), Broken> {
        let (saga, _, step) = key;
        let Some(found) = history.saga(saga) else {
            return Err(Broken("I8", format!("step {step} of {saga:?} takes effect, and its START is not durable")));
        };
        let model = &models[found.plan];
        let before = self.records.get(&key).cloned().unwrap_or_default();
        ensure!(before.effects == 0, "I4", "step {step} of {saga:?} takes effect again: {before:?}");
        ensure!(!before.is_closed, "I5", "step {step} of {saga:?} takes effect after its tombstone");
        let code = found.ended.as_ref().map(|ended| ended.code);
        let is_old = key.1 < found.attempt;
        // A step without compensation has no effect that anybody would miss, so nobody keeps it from coming late.
        let matters = model.compensable & (1 << step) != 0 || model.before_pivot & (1 << step) == 0;
        // Nor does one that an operator skipped the compensation of.
        let matters = matters && (is_old || found.skipped & (1 << step) == 0);
        ensure!(!is_old || !matters, "I3", "step {step} of {saga:?} takes effect in attempt {}, which is over", key.1);
        ensure!(code.is_none() || !matters, "I3", "step {step} of {saga:?} takes effect after {code:?}");
        let may_run = is_old || found.published_run(step) || (history.may_run_ahead && model.pivot != Some(step));
        ensure!(may_run, "I8", "step {step} of {saga:?} takes effect, and its RUN is not durable");
        for earlier in steps(model.ancestors[step]) {
            let there = self.records.get(&(saga, key.1, earlier));
            let was_there = there.is_some_and(|record| record.effects > 0 || record.is_lost);
            ensure!(was_there, "order", "step {step} of {saga:?} takes effect before step {earlier}");
        }
        self.effects += 1;
        let record = self.records.entry(key).or_default();
        record.is_there = true;
        record.effects += 1;
        record.result = result.to_vec();
        Ok(())
    }

    /// A compensation takes effect.
    pub fn undone(&mut self, models: &[Model], history: &History, key: StepKey) -> Result<(), Broken> {
        let (saga, attempt, step) = key;
        let Some(found) = history.saga(saga) else {
            return Err(Broken("I8", format!("step {step} of {saga:?} is undone, and its START is not durable")));
        };
        let model = &models[found.plan];
        let record = self.records.get(&key).cloned().unwrap_or_default();
        ensure!(record.effects > 0, "I5", "step {step} of {saga:?} is undone and was never done");
        ensure!(record.undos == 0, "I4", "step {step} of {saga:?} is undone again");
        ensure!(
            attempt == found.attempt,
            "I8",
            "step {step} of {saga:?} is undone in attempt {attempt}, which is over"
        );
        let in_set = found.undo_set.is_some_and(|set| set & 1 << step != 0);
        ensure!(in_set, "I8", "step {step} of {saga:?} is undone: durably to undo are {:x?}", found.undo_set);
        ensure!(model.compensable & 1 << step != 0, "I7", "step {step} of {saga:?} has no compensation");
        for later in steps(model.undone_before[step] & model.compensable & !found.skipped) {
            let there = self.records.get(&(saga, attempt, later)).is_some_and(|record| record.is_there);
            ensure!(!there, "I7", "step {step} of {saga:?} is undone before step {later}");
        }
        if let Some(pivot) = model.pivot {
            let decided = self.records.get(&(saga, attempt, pivot)).is_some_and(|record| record.effects > 0);
            ensure!(!decided, "I7", "step {step} of {saga:?} is undone past the pivot");
        }
        self.undos += 1;
        let record = self.records.entry(key).or_default();
        record.is_there = false;
        record.undos += 1;
        record.is_closed = true;
        Ok(())
    }

    /// A service promises that an action does not take effect from now on.
    pub fn closed(&mut self, key: StepKey) {
        self.records.entry(key).or_default().is_closed = true;
    }

    /// The memory of a process is gone, with this effect and what was promised about it.
    pub fn lost(&mut self, key: StepKey) {
        let record = self.records.entry(key).or_default();
        *record = Record { is_lost: true, result: std::mem::take(&mut record.result), ..Record::default() };
    }

    /// The result of an effect; none where there was none.
    pub fn result(&self, key: StepKey) -> Option<&[u8]> {
        self.records.get(&key).filter(|record| record.effects > 0 || record.is_lost).map(|record| &*record.result)
    }

    pub fn is_there(&self, key: StepKey) -> bool {
        self.records.get(&key).is_some_and(|record| record.is_there)
    }

    fn is_lost(&self, key: StepKey) -> bool {
        self.records.get(&key).is_some_and(|record| record.is_lost)
    }

    /// A saga's outcome is durable: every effect is there, or none is.
    pub fn check_ended(&self, models: &[Model], history: &History, saga: SagaKey) -> Result<(), Broken> {
        let Some((found, ended)) = history.saga(saga).and_then(|found| Some((found, found.ended.as_ref()?))) else {
            return Ok(());
        };
        let model = &models[found.plan];
        let completed = ended.code == OutcomeCode::Completed;
        for step in 0..model.count {
            let key = (saga, found.attempt, step);
            let wants_none = model.compensable & (1 << step) != 0 || model.before_pivot & (1 << step) == 0;
            if completed {
                let there = self.is_there(key) || self.is_lost(key);
                ensure!(there, "I3", "{saga:?} is completed, and step {step} has no effect");
            } else if wants_none && found.skipped & 1 << step == 0 {
                ensure!(!self.is_there(key), "I3", "{saga:?} is compensated, and step {step} has its effect");
            }
        }
        (0..found.attempt).try_for_each(|attempt| self.check_undone(models, history, saga, attempt))
    }

    /// A victim begins again: nothing is left of the attempt before.
    pub fn check_undone(&self, models: &[Model], history: &History, saga: SagaKey, attempt: u32) -> Result<(), Broken> {
        let Some(found) = history.saga(saga) else { return Ok(()) };
        for step in steps(models[found.plan].compensable) {
            let there = self.is_there((saga, attempt, step));
            ensure!(!there, "I3", "{saga:?} begins again, and step {step} of attempt {attempt} has its effect");
        }
        Ok(())
    }
}
