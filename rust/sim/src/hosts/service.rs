//! One process of a service: the worker's core, and what its handlers do.

use std::collections::BTreeMap;

use sagacore_core::fence::{Holds, RowState};
use sagacore_core::limits::HOLD_ROWS_MAX;
use sagacore_core::peer::Link;
use sagacore_core::worker::{Ready, Verdict, Work, Worker, WorkerOptions};

use super::activity::{Activity, Outcome};
use super::store::{CallKey, Pinned};
use crate::checks::{StepKey, saga_key};
use crate::env::{Env, Seat};
use crate::options::FenceMode;
use crate::plans::service_name;
use crate::schedule::{Event, Stage};
use crate::situations::Situation;

/// See the module's text.
pub struct ServiceHost {
    pub service: usize,
    pub(super) core: Worker,
    pub(super) activities: BTreeMap<u64, Activity>,
    /// With the fence in memory: the effects that die with the process, and whether each is there.
    pub(super) memory: BTreeMap<StepKey, bool>,
    /// With the fence in memory: what its steps hold.
    pub(super) held: Holds,
    /// It is about to crash, at a point of its work that a fault chose.
    pub wants_crash: bool,
    ready: Vec<Ready>,
}

impl ServiceHost {
    pub fn new(service: usize, env: &mut Env) -> Self {
        let store = &env.stores.services[service];
        let core = Worker::new(WorkerOptions {
            service: service_name(service),
            steps: store.step_names(),
            instance: env.random.processes.next(),
            memory_fence: store.options.mode == FenceMode::Memory,
            lease_ms: store.options.timeout_ms + 500,
            credit: store.options.credit,
        });
        Self {
            service,
            core,
            activities: BTreeMap::new(),
            memory: BTreeMap::new(),
            held: Holds::new(HOLD_ROWS_MAX),
            wants_crash: false,
            ready: Vec::new(),
        }
    }

    pub(super) fn mode(&self, env: &Env) -> FenceMode {
        env.stores.services[self.service].options.mode
    }

    pub fn connect(&mut self, now_ms: u64) {
        self.core.connect(now_ms);
    }

    pub fn tick(&mut self, now_ms: u64) -> Link {
        self.core.tick(now_ms)
    }

    pub fn frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        self.core.frame(now_ms)
    }

    pub fn receive(&mut self, env: &mut Env, seat: &Seat, frame: &[u8]) {
        let now_ms = seat.now_ms(env);
        let mut ready = std::mem::take(&mut self.ready);
        self.core.receive(frame, now_ms, &mut ready);
        self.learn(env);
        self.let_go_unasked(env);
        self.begin_all(env, seat, &mut ready);
        self.ready = ready;
    }

    /// What the broker told of ended sagas goes to the database.
    fn learn(&mut self, env: &mut Env) {
        let Some(told) = self.core.take_watermark() else { return };
        self.held.forget(0, told);
        let learned = env.stores.services[self.service].learn(told);
        env.judge(learned);
    }

    fn begin_all(&mut self, env: &mut Env, seat: &Seat, ready: &mut Vec<Ready>) {
        for ready in ready.drain(..) {
            match self.core.work(ready.ticket) {
                Some(work) if (work.undo, work.step) == (ready.undo, ready.step) => self.begin(env, seat, work),
                other => env.violate("ready", format!("{ready:?} is told, and its work is {other:?}")),
            }
        }
    }

    /// The core hands out a piece of work: what it carries is checked, and its handler begins.
    fn begin(&mut self, env: &mut Env, seat: &Seat, work: Work) {
        let place = env.stores.services[self.service].steps[usize::from(work.step)];
        let key: StepKey = (saga_key(work.saga), work.attempt, place.step);
        self.check_carried(env, &work, key);
        if self.activities.values().any(|other| other.key == key) {
            env.violate("rule 3", format!("step {} of {} runs twice at a time in a process", place.step, work.saga));
        }
        let mut outcome = self.choose(env, &work);
        // Another process must be able to do it.
        if outcome == Outcome::Stuck && !env.stores.services[self.service].stuck.insert(key) {
            outcome = Outcome::Succeed;
        }
        let ticket = work.ticket;
        let call_key = work.idempotency_key;
        let half_us = call_half_us(env, self.service);
        let options = &env.stores.services[self.service].options;
        let (mode, timeout_us) = (options.mode, options.timeout_ms * 1_000);
        env.trace.tell(|| {
            let doing = if work.undo { "compensate" } else { "run" };
            format!("{} is to {doing} step {} of {}: {outcome:?}", seat.name, place.step, work.saga)
        });
        self.activities.insert(ticket, Activity::new(work, key, place, outcome, call_key));
        let (process, life) = (seat.process, seat.life);
        let first = if mode == FenceMode::External { Stage::Intent } else { Stage::Commit };
        if outcome == Outcome::Stuck {
            return;
        }
        env.after(timeout_us, Event::Work { process, life, ticket, stage: Stage::Timeout });
        let is_slow = !env.is_healed && env.random.work.chance(env.options.behaviour.slow);
        let delay_us = if is_slow { env.random.work.below(timeout_us) } else { env.random.work.tail(half_us) };
        if outcome != Outcome::Hang {
            env.after(delay_us, Event::Work { process, life, ticket, stage: first });
        }
    }

    /// The input, and the results that the step reads, are those of the saga and of the effects.
    fn check_carried(&mut self, env: &mut Env, work: &Work, key: StepKey) {
        let (saga, attempt, step) = key;
        let Some(found) = env.checks.history.saga(saga) else {
            return env.violate("I8", format!("{} is worked on, and its START is not durable", work.saga));
        };
        if found.input != self.core.input(work.ticket) {
            return env.violate("rule 5", format!("step {step} of {} got another input", work.saga));
        }
        if work.undo {
            return;
        }
        let reads = &env.checks.models[found.plan].definition.steps[step].reads;
        let results: Vec<&[u8]> = (0..).map_while(|place| self.core.result(work.ticket, place)).collect();
        let ledger = &env.checks.ledger;
        let wanted: Vec<Option<&[u8]>> =
            reads.iter().map(|&read| ledger.result((saga, attempt, read as usize))).collect();
        let is_same = wanted.len() == results.len()
            && wanted.iter().zip(&results).all(|(wanted, got)| wanted.is_some_and(|wanted| wanted == *got));
        if !is_same {
            let text = format!("step {step} of {} reads {results:x?}, and the effects gave {wanted:x?}", work.saga);
            env.violate("rule 3", text);
        }
    }

    /// Whether a piece of work may be stuck: another process can do it, and enough credit is left for everything else.
    fn may_be_stuck(&self, env: &Env) -> bool {
        let options = &env.stores.services[self.service].options;
        options.processes > 1 && (self.stuck() + 1) * 8 <= options.credit
    }

    fn stuck(&self) -> u64 {
        self.activities.values().filter(|activity| activity.outcome == Outcome::Stuck).count() as u64
    }

    /// How a call goes: drawn when it begins.
    fn choose(&mut self, env: &mut Env, work: &Work) -> Outcome {
        let behaviour = env.options.behaviour;
        let is_before = work.phase == sagacore_core::worker::Phase::Before;
        let poisoned_step = env.options.poisoned_step(work.saga.sequence.get());
        if is_before && !work.undo && poisoned_step == Some(u64::from(work.step)) {
            return Outcome::Poison;
        }
        let may_be_stuck = self.may_be_stuck(env);
        let random = &mut env.random.work;
        if !work.undo && (is_before || !env.is_healed) && random.chance(behaviour.reject) {
            return Outcome::Reject;
        }
        if env.is_healed {
            return Outcome::Succeed;
        }
        let draws = [
            (behaviour.fail, Outcome::Fail),
            (behaviour.fail_after, Outcome::FailAfter),
            (behaviour.late, Outcome::Late),
            (behaviour.hang, Outcome::Hang),
            (if may_be_stuck { behaviour.stuck } else { 0 }, Outcome::Stuck),
        ];
        draws.into_iter().find(|&(rate, _)| random.chance(rate)).map_or(Outcome::Succeed, |(_, outcome)| outcome)
    }

    /// An event of a piece of work.
    pub fn work(&mut self, env: &mut Env, seat: &Seat, ticket: u64, stage: Stage) {
        let Some(activity) = self.activities.get(&ticket) else { return };
        if stage != Stage::Finish && activity.verdict.is_some() {
            return;
        }
        env.trace.mix(ticket << 3 | stage as u64);
        let is_poison = activity.outcome == Outcome::Poison;
        if is_poison || (!env.is_healed && env.random.work.chance(env.options.behaviour.crash)) {
            self.wants_crash = true;
            return;
        }
        let Some(mut activity) = self.activities.remove(&ticket) else { return };
        let mode = self.mode(env);
        let next = match (stage, mode) {
            (Stage::Finish, _) => return self.finish(env, seat, activity),
            (Stage::Timeout, _) => {
                activity.time_out();
                Some(Stage::Commit)
            }
            (_, FenceMode::Memory) => self.call_in_memory(env, &mut activity),
            (_, FenceMode::Transactional) => self.commit_with_effect(env, &mut activity),
            (Stage::Intent, FenceMode::External) => self.write_intent(env, &mut activity),
            (Stage::Call, FenceMode::External) => self.call_gateway(env, &mut activity),
            (Stage::Commit, FenceMode::External) => self.write_outcome(env, &mut activity),
        };
        if env.trace.is_told() {
            let line = activity.describe(stage);
            env.trace.tell(|| format!("{} {line}", seat.name));
        }
        self.activities.insert(ticket, activity);
        if let Some(stage) = next {
            let half_us = call_half_us(env, self.service);
            // The call takes its time, and so does its answer.
            let is_remote = stage == Stage::Call || (stage == Stage::Commit && mode == FenceMode::External);
            let delay_us = if is_remote { env.random.work.tail(half_us) } else { env.random.work.below(500) };
            env.after(delay_us, Event::Work { process: seat.process, life: seat.life, ticket, stage });
        }
    }

    /// The core is told how it ended.
    fn finish(&mut self, env: &mut Env, seat: &Seat, activity: Activity) {
        let now_ms = seat.now_ms(env);
        let (verdict, payload) = activity.verdict.clone().unwrap_or((Verdict::Drop, Vec::new()));
        let mut ready = std::mem::take(&mut self.ready);
        if let Err(misuse) = self.core.finish(activity.work.ticket, verdict, &payload, now_ms, &mut ready) {
            env.violate("misuse", format!("{} cannot end as {verdict:?}: {misuse}", activity.describe(Stage::Finish)));
        }
        self.let_go_unasked(env);
        self.begin_all(env, seat, &mut ready);
        self.ready = ready;
    }

    /// The process is gone, and all that it had in memory.
    pub fn crashed(&mut self, env: &mut Env) {
        for &key in self.memory.keys() {
            env.checks.ledger.lost(key);
        }
        if self.mode(env) == FenceMode::Memory {
            env.checks.holds.lost(self.service);
        }
    }

    /// Rows that are not forgotten, of the service or of this process.
    pub fn rows(&self, env: &Env) -> u64 {
        let store = &env.stores.services[self.service];
        (store.rows.len() + store.holds.len() + self.held.len()) as u64 + self.core.stats().rows
    }

    /// What it is still at, and what is not confirmed.
    pub fn left(&self) -> (u64, u64) {
        let stuck = self.stuck();
        let stats = self.core.stats();
        // What waits for something stuck is stuck too.
        (if stuck > 0 { self.activities.len() as u64 - stuck } else { stats.running }, stats.unconfirmed)
    }
}

/// How long half of a service's calls take at most. Once all faults have ended, none takes too long.
fn call_half_us(env: &Env, service: usize) -> u64 {
    let options = &env.stores.services[service].options;
    if env.is_healed { options.call_half_us.min(options.timeout_ms * 1_000 / 64) } else { options.call_half_us }
}

/// A call that nobody waits for any more reaches the gateway.
pub fn late_call(env: &mut Env, service: usize, call: u64) {
    let late = env.stores.services[service].late_calls[call as usize].clone();
    match env.stores.services[service].gateway.get(&late.call_key) {
        Some(Pinned::Cancelled) => env.reach(Situation::LateCallRefused),
        Some(_) => {}
        None => charge(env, service, late.key, late.call_key, &late.result),
    }
}

/// The effect takes place at the gateway.
pub(super) fn charge(env: &mut Env, service: usize, key: StepKey, call_key: CallKey, result: &[u8]) {
    env.stores.services[service].gateway.insert(call_key, Pinned::Charged(result.to_vec()));
    applied(env, key, result);
}

/// The ledger hears of an effect.
pub(super) fn applied(env: &mut Env, key: StepKey, result: &[u8]) {
    let checks = &mut env.checks;
    let judged = checks.ledger.applied(&checks.models, &checks.history, key, result);
    env.trace.tell(|| format!("step {} of {:x?} takes effect", key.2, key.0));
    env.judge(judged);
}

/// The ledger hears of a compensation.
pub(super) fn undone(env: &mut Env, key: StepKey) {
    let checks = &mut env.checks;
    let judged = checks.ledger.undone(&checks.models, &checks.history, key);
    env.trace.tell(|| format!("step {} of {:x?} is undone", key.2, key.0));
    env.judge(judged);
}

/// What a row says, for situations that are counted.
pub(super) fn note_row(env: &mut Env, state: RowState, is_undo: bool) {
    match (state, is_undo) {
        (RowState::Tombstone, false) => env.reach(Situation::TombstoneBeforeAction),
        (RowState::Done | RowState::Rejected, false) => env.reach(Situation::AnsweredFromRow),
        (RowState::Intent, false) => env.reach(Situation::IntentCalledAgain),
        (RowState::Rejected, true) => env.reach(Situation::UndoOfRejected),
        (RowState::Intent | RowState::Undoing, true) => env.reach(Situation::UncertainCompensation),
        _ => {}
    }
}
