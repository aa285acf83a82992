//! What a saga may do next, from the plan alone: every transaction in the log is compared with it, to the last bit.

use sagacore_core::limits::ATTEMPTS_MAX;
use sagacore_core::plan::{Graph, Plan};
use sagacore_core::wire::{CauseCode, Header, Kind, Message, OutcomeCode, Section, Transaction};

use super::history::{AbortRecord, Ended, Name, Pending, SagaHistory, skipped};
use super::{Broken, ensure};
use crate::model::{Model, steps};
use crate::situations::Situation;

/// A message that must be published.
type Expected = (Kind, Option<usize>, Option<usize>, Pending);

impl SagaHistory {
    pub(super) fn apply(
        &mut self,
        model: &Model,
        transaction: &Transaction<'_>,
        first: &Message<'_>,
        lsn: u64,
        met: &mut Vec<Situation>,
    ) -> Result<(), Broken> {
        let id = first.header.saga;
        ensure!(self.ended.is_none(), "I6", "record {lsn} goes on with saga {id}, which has ended");
        if matches!(first.header.kind(), Kind::Fail | Kind::Revoked) {
            self.abort(model, transaction, &AbortRecord::of(first))?;
            met.extend(self.abort_situation());
            return Ok(());
        }
        let is_restart = first.header.kind() == Kind::Restart;
        let mut consumed = Vec::new();
        for key in transaction.consumes {
            let name = (key.kind, key.place.get());
            ensure!(
                key.attempt.get() == self.attempt,
                "I2",
                "record {lsn} consumes {name:?} of another attempt of {id}"
            );
            ensure!(key.saga == id, "rule 13", "record {lsn} consumes of {} and publishes for {id}", key.saga);
            let pending = self.pending.remove(&name);
            let pending =
                pending.ok_or_else(|| Broken("I2", format!("record {lsn} of {id} consumes {name:?} again")))?;
            consumed.push((name, pending));
        }
        met.extend(join_situation(&consumed));
        if is_restart {
            return self.begin_again(model, &consumed, first, met);
        }
        let expected = self.expected(model, &consumed).map_err(|text| Broken("rule 13", format!("{id}: {text}")))?;
        let mut published: Vec<(Kind, u16, Pending)> = Vec::new();
        for message in transaction.messages() {
            self.note_skipped(&message, met);
            self.check_message(model, &message)?;
            let token = pending_of(message.header);
            published.push((message.header.kind(), message.header.place.get(), token));
        }
        let graph = Course::of(model, self.undo_set);
        let mut left = expected;
        for &(kind, place, token) in &published {
            let (source, target) = graph.ends(kind, place);
            let found = left.iter().position(|&expected| expected == (kind, source, target, token));
            ensure!(
                found.is_some(),
                "I7",
                "record {lsn} of {id} consumes {consumed:?} and publishes {kind:?} {place} ({source:?} to {target:?}), \
                 {token:?}, instead of {left:?}"
            );
            found.map(|at| left.swap_remove(at));
        }
        ensure!(left.is_empty(), "I1", "record {lsn} of {id} consumes {consumed:?} and lacks {left:?}");
        self.publish_all(&published, id, lsn, met)
    }

    /// A victim is undone: instead of its outcome the roots of its next attempt are pending.
    fn begin_again(
        &mut self,
        model: &Model,
        consumed: &[(Name, Pending)],
        first: &Message<'_>,
        met: &mut Vec<Situation>,
    ) -> Result<(), Broken> {
        let id = first.header.saga;
        let broken = |text: String| Broken("rule 5", format!("{id} begins again: {text}"));
        let ends = self.expected(model, consumed).map_err(broken)?;
        let compensated = usize::from(OutcomeCode::Compensated.code());
        let is_end = matches!(ends[..], [(Kind::Result, _, Some(code), _)] if code == compensated);
        ensure!(is_end && self.pending.is_empty(), "rule 5", "{id} begins again, and is not undone: {ends:?}");
        ensure!(self.cause == Some(CauseCode::Victim), "rule 5", "{id} begins again, and is no victim");
        ensure!(!self.is_cancelled, "I8", "{id} begins again, and was cancelled");
        ensure!(first.header.attempt.get() == self.attempt, "I2", "{id} begins again after another attempt");
        self.attempt += 1;
        ensure!(self.attempt < ATTEMPTS_MAX, "I14", "{id} begins its attempt {}", self.attempt);
        ensure!(self.skipped == 0, "rule 7", "{id} begins again, and what was skipped is told to nobody");
        (self.done, self.undone, self.undo_set, self.cause) = (0, 0, None, None);
        (self.is_decided, self.is_widened, self.is_told_as_victim) = (false, false, false);
        self.published.clear();
        for step in steps(model.all()).filter(|&step| model.ancestors[step] == 0) {
            let name: Name = (Kind::Run.code(), step as u16);
            self.published.insert(name);
            self.pending.insert(name, Pending { done: 0, active: 1 << step, undo: 0 });
            self.messages += 1;
        }
        met.push(Situation::Restarted);
        Ok(())
    }

    fn abort_situation(&self) -> Option<Situation> {
        match (self.cause, self.undo_set) {
            _ if self.is_widened => Some(Situation::WideAbort),
            (Some(CauseCode::Deadline), _) => Some(Situation::DeadlineAbort),
            (Some(CauseCode::DeliveryLimit), _) => Some(Situation::DeliveryLimit),
            (_, Some(0)) => Some(Situation::NothingToUndo),
            _ => None,
        }
    }

    fn publish_all(
        &mut self,
        published: &[(Kind, u16, Pending)],
        id: sagacore_core::wire::SagaId,
        lsn: u64,
        met: &mut Vec<Situation>,
    ) -> Result<(), Broken> {
        for &(kind, place, token) in published {
            if kind == Kind::Result {
                let code = OutcomeCode::from_code(place).unwrap_or(OutcomeCode::Compensated);
                ensure!(self.pending.is_empty(), "I1", "saga {id} ends with {:?} pending", self.pending);
                if self.attempt > 0 && code == OutcomeCode::Completed {
                    met.push(Situation::RestartCompleted);
                }
                self.ended = Some(Ended { code, place: 0 });
                continue;
            }
            let name: Name = (kind.code(), place);
            ensure!(self.published.insert(name), "I2", "record {lsn} of {id} publishes {kind:?} {place} again");
            self.pending.insert(name, token);
            self.messages += 1;
        }
        Ok(())
    }

    /// An operator's word: the step that is consumed here was not undone.
    fn note_skipped(&mut self, message: &Message<'_>, met: &mut Vec<Situation>) {
        let before = self.skipped;
        self.skipped |= skipped(message.sections().get(Section::SKIPPED).unwrap_or_default());
        if self.skipped != before {
            met.push(Situation::CompensationSkipped);
        }
    }

    fn check_message(&self, model: &Model, message: &Message<'_>) -> Result<(), Broken> {
        let (header, bytes) = (message.header, message.header.length.get() as usize);
        ensure!(bytes <= model.token_bytes_max, "I11", "{:?} of {} has {bytes} bytes", header.kind(), header.saga);
        ensure!(
            header.attempt.get() == self.attempt,
            "I2",
            "{:?} of {} is of another attempt",
            header.kind(),
            header.saga
        );
        let plan = header.plan.get();
        ensure!(plan == model.fingerprint, "rule 13", "{:?} of {} names plan {plan:x}", header.kind(), header.saga);
        Ok(())
    }

    /// One record: all pending tokens go, and REVOKED comes with the set to undo.
    fn abort(&mut self, model: &Model, transaction: &Transaction<'_>, abort: &AbortRecord<'_>) -> Result<(), Broken> {
        let id = abort.header.saga;
        let pivot_run = |name: &Name| model.pivot.is_some_and(|pivot| *name == (Kind::Run.code(), pivot as u16));
        ensure!(self.undo_set.is_none(), "rule 5", "saga {id} is aborted twice");
        let pivoted = model.pivot.is_some_and(|pivot| self.done & 1 << pivot != 0);
        ensure!(!pivoted, "rule 6", "saga {id} is aborted past its pivot");
        let is_fail = abort.header.kind() == Kind::Fail;
        let attempt = abort.header.attempt.get();
        ensure!(attempt == self.attempt, "I2", "attempt {attempt} of {id} is aborted, not {}", self.attempt);
        if is_fail {
            let name = (Kind::Run.code(), abort.header.place.get());
            let names: Vec<Name> = transaction.consumes.iter().map(|key| (key.kind, key.place.get())).collect();
            ensure!(names == [name], "rule 5", "a FAIL of {id} consumes {names:?}");
            ensure!(self.pending.contains_key(&name), "I2", "a FAIL of {id} consumes {name:?}, not pending");
            let may = !pivot_run(&name) || abort.clean_step.is_some();
            ensure!(may, "rule 6", "the pivot of {id} is given up");
        } else {
            let deciding = self.is_decided && self.pending.keys().any(pivot_run);
            ensure!(!deciding, "rule 6", "saga {id} is aborted while it decides");
        }
        let tokens = self.pending.values();
        let mut reached = tokens.fold(0, |set, token| set | token.done | token.active);
        if let Some(step) = abort.clean_step {
            reached &= !(1 << step);
        }
        let (done, active) =
            self.pending.values().fold((0, 0), |(done, active), token| (done | token.done, active | token.active));
        let clean = abort.clean_step.map_or(0, |step| 1u64 << step);
        let named = reached & model.compensable;
        let undo = if self.is_wide { model.compensable } else { named };
        self.is_widened = undo != named;
        self.pending.clear();
        let revoked = Pending { done, active: active & !clean, undo };
        self.pending.insert((Kind::Revoked.code(), 0), revoked);
        self.undo_set = Some(undo);
        self.forward_messages = self.messages;
        self.messages += 1;
        self.cause = abort.cause();
        let broker_knows =
            matches!(self.cause, Some(CauseCode::Deadline | CauseCode::Cancelled | CauseCode::DeliveryLimit));
        // A victim is the broker's, unless it was at its pivot, which alone could say no.
        let is_victim = self.cause == Some(CauseCode::Victim);
        let at_pivot = is_fail && pivot_run(&(Kind::Run.code(), abort.header.place.get()));
        let is_right = if is_victim { !is_fail || at_pivot } else { is_fail != broker_knows };
        ensure!(is_right, "rule 5", "saga {id} was aborted because of {:?}", self.cause);
        Ok(())
    }

    /// What must be published where these are consumed.
    fn expected(&mut self, model: &Model, consumed: &[(Name, Pending)]) -> Result<Vec<Expected>, String> {
        let Some(&((kind, place), token)) = consumed.first() else { return Err("nothing is consumed".to_owned()) };
        let kind = Kind::from_code(kind).ok_or("an unknown kind is consumed")?;
        let step = usize::from(place);
        let alone = consumed.len() == 1;
        match kind {
            Kind::Start if alone => {
                let roots = steps(model.all()).filter(|&step| model.ancestors[step] == 0);
                Ok(roots.map(|step| run(model, step)).collect())
            }
            Kind::Run if alone => {
                self.done |= 1 << step;
                Ok(after_run(model, step))
            }
            Kind::Revoked if alone => Ok(after_revoked(model, token.undo)),
            Kind::Undo if alone => {
                self.undone |= 1 << step;
                Ok(after_undo(model, step, token.done))
            }
            Kind::Done | Kind::Undone => self.joined(model, kind, consumed),
            _ => Err(format!("{} tokens, a {kind:?} among them, are consumed together", consumed.len())),
        }
    }

    /// All ways into one join, and nothing else.
    fn joined(&self, model: &Model, kind: Kind, consumed: &[(Name, Pending)]) -> Result<Vec<Expected>, String> {
        let course = Course::of(model, self.undo_set);
        let ends: Vec<_> = consumed
            .iter()
            .filter(|((other, _), _)| *other == kind.code())
            .map(|&((_, place), _)| course.ends(kind, place))
            .collect();
        let (_, target) = ends.first().copied().unwrap_or_default();
        let sources = ends.iter().filter(|&&(_, to)| to == target).filter_map(|&(from, _)| from);
        let sources = sources.fold(0u64, |set, from| set | 1 << from);
        let set = self.undo_set.unwrap_or(0);
        let wanted = match (kind, target) {
            (Kind::Done, Some(step)) => model.predecessors(step),
            (Kind::Done, None) => model.sinks(),
            (_, Some(step)) => model.undo_predecessors(step, set),
            (_, None) => model.undo_sinks(set),
        };
        if sources != wanted || consumed.len() != wanted.count_ones() as usize {
            return Err(format!("a join into {target:?} fires with {sources:b} of {wanted:b}"));
        }
        Ok(vec![match (kind, target) {
            (Kind::Done, Some(step)) => run(model, step),
            (Kind::Done, None) => result(OutcomeCode::Completed, model.all()),
            (_, Some(step)) => undo(model, step, set),
            (_, None) => result(OutcomeCode::Compensated, set),
        }])
    }
}

/// A join that is worth counting.
fn join_situation(consumed: &[(Name, Pending)]) -> Option<Situation> {
    let ((kind, _), _) = consumed.first()?;
    match (Kind::from_code(*kind)?, consumed.len()) {
        (Kind::Undone, 2..) => Some(Situation::UndoJoin),
        (Kind::Done, 3..) => Some(Situation::JoinOfThree),
        _ => None,
    }
}

fn pending_of(header: &Header) -> Pending {
    Pending { done: header.done.get(), active: header.active.get(), undo: header.undo.get() }
}

fn run(model: &Model, step: usize) -> Expected {
    (Kind::Run, None, Some(step), Pending { done: model.ancestors[step], active: 1 << step, undo: 0 })
}

/// What UNDO of a step knows is left: all but what was undone before it.
fn undo(model: &Model, step: usize, set: u64) -> Expected {
    (Kind::Undo, None, Some(step), Pending { done: set, active: 0, undo: set & !model.undone_before[step] })
}

fn result(code: OutcomeCode, done: u64) -> Expected {
    (Kind::Result, None, Some(usize::from(code.code())), Pending { done, active: 0, undo: 0 })
}

fn after_run(model: &Model, step: usize) -> Vec<Expected> {
    let done = model.ancestors[step] | 1 << step;
    let edge = |target| (Kind::Done, Some(step), target, Pending { done, active: 0, undo: 0 });
    let mut expected = Vec::new();
    for next in steps(model.all()).filter(|&next| model.predecessors(next) & (1 << step) != 0) {
        let is_join = model.predecessors(next).count_ones() > 1;
        expected.push(if is_join { edge(Some(next)) } else { run(model, next) });
    }
    if model.sinks() & (1 << step) != 0 {
        expected.push(edge(None));
    }
    expected
}

fn after_revoked(model: &Model, set: u64) -> Vec<Expected> {
    if set == 0 {
        return vec![result(OutcomeCode::Compensated, 0)];
    }
    let roots = steps(set).filter(|&step| model.undone_before[step] & set == 0);
    roots.map(|step| undo(model, step, set)).collect()
}

fn after_undo(model: &Model, step: usize, set: u64) -> Vec<Expected> {
    let left = set & !(model.undone_before[step] | 1 << step);
    let edge = |target| (Kind::Undone, Some(step), target, Pending { done: set, active: 0, undo: left });
    let mut expected = Vec::new();
    for next in steps(set).filter(|&next| model.undo_predecessors(next, set) & (1 << step) != 0) {
        let is_join = model.undo_predecessors(next, set).count_ones() > 1;
        expected.push(if is_join { edge(Some(next)) } else { undo(model, next, set) });
    }
    if model.undo_sinks(set) & (1 << step) != 0 {
        expected.push(edge(None));
    }
    expected
}

/// The numbers of edges are the compiler's; what they join is checked against the model by whoever asks.
struct Course<'a> {
    plan: &'a Plan,
    undo: Option<std::sync::Arc<Graph>>,
}

impl<'a> Course<'a> {
    fn of(model: &'a Model, undo_set: Option<u64>) -> Self {
        Self { plan: &model.plan, undo: undo_set.map(|set| model.plan.undo(set)) }
    }

    /// Where a message comes from and where it leads to.
    fn ends(&self, kind: Kind, place: u16) -> (Option<usize>, Option<usize>) {
        let graph = match kind {
            Kind::Done => Some(&self.plan.forward),
            Kind::Undone => self.undo.as_deref(),
            _ => return (None, Some(usize::from(place))),
        };
        let source = graph.and_then(|graph| graph.source_of(place)).map(usize::from);
        let target = graph.and_then(|graph| graph.join_of(place)).and_then(|join| join.target).map(usize::from);
        (source, target)
    }
}
