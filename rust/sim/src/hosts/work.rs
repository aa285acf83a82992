//! What a service's handlers do, by where its fence is: each function is one atomic commit, or one call.

use sagacore_core::fence::{Event, OnRun, OnUndo, RowState, on_run, on_undo};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::worker::{Phase, Verdict};

use super::activity::{Activity, Outcome};
use super::service::{ServiceHost, applied, charge, note_row, undone};
use super::store::{LateCall, Pinned, Row};
use crate::checks::StepKey;
use crate::env::Env;
use crate::schedule::{self, Stage};
use crate::situations::Situation;

const REASON: &[u8] = b"the answer is no";

impl ServiceHost {
    fn row(&self, env: &Env, key: StepKey) -> Row {
        env.stores.services[self.service].rows.get(&key).cloned().unwrap_or_default()
    }

    /// Whether the saga has ended and the database knows it: asked in the same commit that would do something.
    fn has_passed(&self, env: &mut Env, activity: &Activity, situation: Situation) -> bool {
        let work = &activity.work;
        let told = &env.stores.services[self.service].told;
        let has_passed = told.log == work.log && told.has_passed(work.class, work.saga.sequence.get());
        if has_passed {
            env.reach(situation);
        }
        let late = situation == Situation::LateEndBelowWatermark;
        let unchecked = if late { Mutation::LateEndMakesRow } else { Mutation::ForgottenUnguarded };
        has_passed && !is_broken(unchecked)
    }

    /// Commits an event to the row.
    fn record(&self, env: &mut Env, activity: &Activity, event: Event, answer: &[u8]) -> Row {
        let key = activity.key;
        let mut row = self.row(env, key);
        row.class = activity.work.class;
        row.record(event, answer);
        row.tries += u32::from(event == Event::Tried);
        if row.state != RowState::Empty {
            env.stores.services[self.service].rows.insert(key, row.clone());
        }
        row
    }

    fn tries_max(&self, env: &Env) -> u64 {
        env.stores.services[self.service].options.tries_max
    }

    fn result_for(env: &mut Env, activity: &Activity) -> Vec<u8> {
        let bytes_max = activity.work.result_bytes_max;
        let bytes = if env.random.work.chance(500) { bytes_max } else { bytes_max.min(8) };
        env.stores.next_result(bytes)
    }

    /// Memory: the effect and the row die with the process. An action that failed may have had its effect all the
    /// same, and does not have it twice when it is called again.
    pub(super) fn call_in_memory(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        let key = activity.key;
        if activity.work.undo {
            if matches!(activity.outcome, Outcome::Fail | Outcome::Late) {
                return activity.retry();
            }
            self.let_go(env, activity);
            match self.memory.insert(key, false) {
                Some(true) if !is_broken(Mutation::UndoSkipped) => undone(env, key),
                Some(_) => {}
                None => env.checks.ledger.closed(key),
            }
            return activity.end(Verdict::Undone, b"");
        }
        if let Some(stage) = self.take_hold(env, activity) {
            return Some(stage);
        }
        let takes_place = matches!(activity.outcome, Outcome::Succeed | Outcome::FailAfter);
        // The same for each process, so that an effect that died and comes again has the same result.
        let result = memory_result(activity);
        if takes_place && !self.memory.contains_key(&key) {
            self.memory.insert(key, true);
            applied(env, key, &result);
        }
        // It may have had its effect, or half of it: whatever it holds it keeps until that is undone.
        self.keep_hold(env, activity);
        match activity.outcome {
            Outcome::Succeed => activity.end(Verdict::Done, &result),
            Outcome::Reject => self.reject_in_memory(env, activity),
            _ if activity.is_last_try(self.tries_max(env)) => {
                env.reach(Situation::GivenUp);
                activity.end(Verdict::GaveUp, b"it failed too often")
            }
            _ => activity.retry(),
        }
    }

    fn reject_in_memory(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        note_rejection(env, activity);
        if self.memory.contains_key(&activity.key) {
            // An earlier try had its effect: the handler sees it and says so.
            return activity.retry();
        }
        self.let_go(env, activity);
        activity.end(Verdict::Rejected, REASON)
    }

    /// Transactional: row and effect are one commit, or nothing is.
    pub(super) fn commit_with_effect(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        if self.has_passed(env, activity, Situation::ZombieBelowWatermark) {
            return activity.end(Verdict::Drop, b"");
        }
        let row = self.row(env, activity.key);
        note_row(env, row.state, activity.work.undo);
        if activity.work.undo {
            return self.compensate_with_row(env, activity, row.state);
        }
        match on_run(row.state) {
            OnRun::Call | OnRun::CallAgain => self.act_with_row(env, activity),
            OnRun::AnswerDone if is_broken(Mutation::ResultNotFromRow) => {
                let result = Self::result_for(env, activity);
                activity.end(Verdict::Done, &result)
            }
            OnRun::AnswerDone => activity.end(Verdict::Done, &row.answer),
            OnRun::AnswerRejected => activity.end(Verdict::Rejected, &row.answer),
            OnRun::Drop => activity.end(Verdict::Drop, b""),
        }
    }

    fn act_with_row(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        if let Some(stage) = self.take_hold(env, activity) {
            return Some(stage);
        }
        if activity.outcome != Outcome::Succeed {
            self.let_go(env, activity);
        }
        match activity.outcome {
            Outcome::Succeed => {
                let result = Self::result_for(env, activity);
                self.record(env, activity, Event::Succeeded, &result);
                self.keep_hold(env, activity);
                applied(env, activity.key, &result);
                activity.end(Verdict::Done, &result)
            }
            Outcome::Reject if activity.work.phase == Phase::Past => {
                note_rejection(env, activity);
                activity.retry()
            }
            Outcome::Reject => {
                note_rejection(env, activity);
                self.record(env, activity, Event::RejectedCleanly, REASON);
                activity.end(Verdict::Rejected, REASON)
            }
            _ if activity.is_last_try(self.tries_max(env)) => {
                env.reach(Situation::GivenUpClean);
                if !is_broken(Mutation::GivenUpNotStored) {
                    self.record(env, activity, Event::RejectedCleanly, REASON);
                }
                activity.end(Verdict::GaveUpClean, REASON)
            }
            _ => activity.retry(),
        }
    }

    fn compensate_with_row(&mut self, env: &mut Env, activity: &mut Activity, row: RowState) -> Option<Stage> {
        match on_undo(row) {
            OnUndo::Compensate | OnUndo::CompensateUncertain => {
                if matches!(activity.outcome, Outcome::Fail | Outcome::Late) {
                    return activity.retry();
                }
                self.record(env, activity, Event::Compensated, b"");
                if !is_broken(Mutation::UndoSkipped) {
                    undone(env, activity.key);
                }
            }
            OnUndo::LeaveTombstone => {
                self.record(env, activity, Event::UndoBegun, b"");
                env.checks.ledger.closed(activity.key);
            }
            OnUndo::AnswerUndone => {}
        }
        self.let_go(env, activity);
        activity.end(Verdict::Undone, b"")
    }

    /// External: the row that stands before the call.
    pub(super) fn write_intent(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        if self.has_passed(env, activity, Situation::ZombieBelowWatermark) {
            return activity.end(Verdict::Drop, b"");
        }
        let row = self.row(env, activity.key);
        note_row(env, row.state, activity.work.undo);
        if activity.work.undo {
            let decision = on_undo(row.state);
            self.record(env, activity, Event::UndoBegun, b"");
            return match decision {
                OnUndo::Compensate | OnUndo::CompensateUncertain => Some(Stage::Call),
                OnUndo::LeaveTombstone | OnUndo::AnswerUndone => {
                    if decision == OnUndo::LeaveTombstone {
                        env.checks.ledger.closed(activity.key);
                    }
                    self.let_go(env, activity);
                    activity.end(Verdict::Undone, b"")
                }
            };
        }
        match on_run(row.state) {
            decision @ (OnRun::Call | OnRun::CallAgain) => {
                if let Some(stage) = self.take_hold(env, activity) {
                    return Some(stage);
                }
                self.keep_hold(env, activity);
                activity.was_tried = decision == OnRun::CallAgain;
                activity.try_number = self.record(env, activity, Event::Tried, b"").tries;
                Some(Stage::Call)
            }
            OnRun::AnswerDone => activity.end(Verdict::Done, &row.answer),
            OnRun::AnswerRejected => activity.end(Verdict::Rejected, &row.answer),
            OnRun::Drop => activity.end(Verdict::Drop, b""),
        }
    }

    /// The call to the gateway, which knows keys: what it once said to one, it says again.
    pub(super) fn call_gateway(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        let pinned = env.stores.services[self.service].gateway.get(&activity.call_key).cloned();
        if activity.work.undo {
            if matches!(activity.outcome, Outcome::Fail | Outcome::Late) {
                return Some(Stage::Commit);
            }
            self.cancel_by_key(env, activity, pinned);
            activity.result = (activity.outcome == Outcome::Succeed).then(Vec::new);
            return Some(Stage::Commit);
        }
        match (activity.outcome, pinned) {
            (Outcome::Fail | Outcome::Hang | Outcome::Stuck | Outcome::Poison, _) => {}
            (_, Some(Pinned::Cancelled)) => activity.outcome = Outcome::Fail,
            (Outcome::FailAfter, Some(_)) => {}
            (Outcome::Late, _) => self.call_late(env, activity),
            (_, Some(Pinned::Charged(result))) => {
                (activity.outcome, activity.result) = (Outcome::Succeed, Some(result));
            }
            (_, Some(Pinned::Refused)) => activity.outcome = Outcome::Reject,
            (Outcome::Reject, None) => self.refuse_at_gateway(env, activity),
            (Outcome::Succeed | Outcome::FailAfter, None) => {
                let result = Self::result_for(env, activity);
                charge(env, self.service, activity.key, activity.call_key, &result);
                activity.result = (activity.outcome == Outcome::Succeed).then_some(result);
            }
        }
        Some(Stage::Commit)
    }

    /// Half of the rejections are the gateway's, which says so again; the others are the handler's own, before a call.
    fn refuse_at_gateway(&self, env: &mut Env, activity: &Activity) {
        if activity.work.phase == Phase::Before && env.random.work.coin() {
            env.stores.services[self.service].gateway.insert(activity.call_key, Pinned::Refused);
        }
    }

    fn cancel_by_key(&self, env: &mut Env, activity: &Activity, pinned: Option<Pinned>) {
        if is_broken(Mutation::UndoSkipped) {
            return;
        }
        env.stores.services[self.service].gateway.insert(activity.call_key, Pinned::Cancelled);
        match pinned {
            Some(Pinned::Charged(_)) => undone(env, activity.key),
            Some(Pinned::Cancelled) => {}
            Some(Pinned::Refused) | None => env.checks.ledger.closed(activity.key),
        }
    }

    fn call_late(&self, env: &mut Env, activity: &Activity) {
        let result = Self::result_for(env, activity);
        let late_calls = &mut env.stores.services[self.service].late_calls;
        late_calls.push(LateCall { key: activity.key, call_key: activity.call_key, result });
        let call = late_calls.len() as u64 - 1;
        let delay_us = env.random.work.tail(2_000_000);
        env.after(delay_us, schedule::Event::LateCall { service: self.service, call });
    }

    /// The row that says how the call ended.
    pub(super) fn write_outcome(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        if self.has_passed(env, activity, Situation::LateEndBelowWatermark) {
            return activity.end(Verdict::Drop, b"");
        }
        if activity.work.undo {
            if activity.result.is_none() {
                return activity.retry();
            }
            self.record(env, activity, Event::Compensated, b"");
            self.let_go(env, activity);
            return activity.end(Verdict::Undone, b"");
        }
        match (activity.outcome, activity.result.clone()) {
            (Outcome::Succeed, Some(result)) => {
                let row = self.record(env, activity, Event::Succeeded, &result);
                match row.state {
                    RowState::Done => activity.end(Verdict::Done, &row.answer),
                    _ => activity.end(Verdict::Drop, b""),
                }
            }
            (Outcome::Reject, _) => self.reject_with_intent(env, activity),
            _ if activity.is_last_try(self.tries_max(env)) => {
                env.reach(Situation::GivenUp);
                activity.end(Verdict::GaveUp, REASON)
            }
            _ => activity.retry(),
        }
    }

    /// A rejection is clean only if no other try was there, before or beside it.
    fn reject_with_intent(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        note_rejection(env, activity);
        if activity.work.phase == Phase::Past {
            return activity.retry();
        }
        let row = self.row(env, activity.key);
        let is_alone = row.tries == activity.try_number || is_broken(Mutation::CleanBesideOthers);
        if !activity.was_tried && is_alone && row.state == RowState::Intent {
            self.record(env, activity, Event::RejectedCleanly, REASON);
            self.let_go(env, activity);
            return activity.end(Verdict::Rejected, REASON);
        }
        env.reach(Situation::UncertainRejection);
        activity.end(Verdict::RejectedUncertain, REASON)
    }
}

impl ServiceHost {
    /// A deciding saga gives way: it says no, for good.
    pub(super) fn give_way(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        env.reach(Situation::PivotGaveWay);
        self.let_go(env, activity);
        if self.mode(env) != crate::options::FenceMode::Memory {
            self.record(env, activity, Event::RejectedCleanly, REASON);
        }
        activity.end(Verdict::Victim, REASON)
    }
}

fn note_rejection(env: &mut Env, activity: &Activity) {
    match activity.work.phase {
        Phase::Before => {}
        Phase::Pivot => env.reach(Situation::PivotRejected),
        Phase::Past => env.reach(Situation::RejectedPastPivot),
    }
}

fn memory_result(activity: &Activity) -> Vec<u8> {
    let ((sequence, _), _, step) = activity.key;
    let mut result = (sequence << 8 | step as u64).to_le_bytes().to_vec();
    result.truncate(activity.work.result_bytes_max);
    result
}
