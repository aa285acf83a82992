//! A client's process: the core, and an application that starts sagas, cancels some, and remembers what it was told.

use std::collections::BTreeMap;

use sagacore_core::client::{Action, ClientCore, ClientOptions, Subject};
use sagacore_core::wire::{Kind, OutcomeCode, Refusal, SagaId, Section, Sections, StatusCode};

use crate::checks::{SagaKey, saga_key, skipped};
use crate::env::{Env, Seat};
use crate::model::steps;
use crate::schedule::Event;
use crate::situations::Situation;

/// How far the application is with a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// To be started from this time on.
    Due(u64),
    Asked,
    Told(OutcomeCode),
}

/// A saga that the application wants. It survives the process: it stands in the user's own books.
#[derive(Debug)]
struct Order {
    key: Vec<u8>,
    plan: usize,
    input: Vec<u8>,
    stand: Stand,
    /// It was started in this or an earlier life.
    was_started: bool,
    /// It is cancelled at this time, if it still runs.
    cancel_at_us: Option<u64>,
}

/// What a correlation is about.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Outcome(usize),
    Cancel,
    Status,
    Resolve,
    /// A START with a key that another input has: it must be refused.
    Conflict,
}

/// Something that the core told, owned.
struct Told {
    correlation: u64,
    kind: Kind,
    code: u16,
    saga: SagaId,
    body: Vec<u8>,
}

/// See the module's text.
pub struct ClientHost {
    pub core: ClientCore,
    orders: Vec<Order>,
    asked: BTreeMap<u64, Asked>,
    last_correlation: u64,
    lives: u32,
    /// Before this time nothing is to be started or cancelled.
    idle_until_us: u64,
    /// Orders whose outcome it was told.
    told: usize,
}

const ACT_EVERY_US: u64 = 20_000;

fn new_core(instance: u64) -> ClientCore {
    ClientCore::new(ClientOptions { instance, credit: 1_000, outbox_bytes_max: 1 << 20 })
}

impl ClientHost {
    /// The application of client `index`, with its share of the sagas. Some are wanted by another client too.
    pub fn new(index: usize, env: &mut Env) -> Self {
        let clients = env.options.clients;
        let mut orders = Vec::new();
        for number in 0..env.options.sagas {
            let mut random = crate::random::Random::new(env.options.seed ^ (number as u64) << 32, "order");
            let is_shared = random.chance(500);
            if number % clients != index && !is_shared {
                continue;
            }
            let plan = random.index(env.checks.models.len());
            let input_max = env.checks.models[plan].definition.input_max;
            let mut input = vec![0; random.between(8, input_max) as usize];
            input[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let due_us = random.below(env.options.load_ms * 1_000);
            let cancel_at_us = random.chance(env.options.cancel).then(|| due_us + random.tail(300_000));
            let key = format!("order-{number}").into_bytes();
            orders.push(Order { key, plan, input, stand: Stand::Due(due_us), was_started: false, cancel_at_us });
        }
        let core = new_core(env.random.processes.next());
        Self { core, orders, asked: BTreeMap::new(), last_correlation: 0, lives: 0, idle_until_us: 0, told: 0 }
    }

    /// A process begins. What an earlier one was told is known; all else is started, or attached to, again.
    pub fn start(&mut self, env: &mut Env, seat: &Seat) {
        self.core = new_core(env.random.processes.next());
        self.asked.clear();
        self.lives += 1;
        let now_us = env.now_us();
        self.idle_until_us = now_us;
        for order in &mut self.orders {
            if order.stand == Stand::Asked {
                order.stand = Stand::Due(now_us);
            }
        }
        env.after(1, Event::Act { process: seat.process, life: seat.life });
    }

    fn next_correlation(&mut self, asked: Asked) -> u64 {
        self.last_correlation += 1;
        self.asked.insert(self.last_correlation, asked);
        self.last_correlation
    }

    /// The application goes on: starts what is due, and asks now and then.
    pub fn act(&mut self, env: &mut Env, seat: &Seat) {
        if env.now_us() >= self.idle_until_us {
            self.start_and_cancel(env);
        }
        if env.random.clients.chance(500) {
            self.ask(env);
        }
        if self.left() > 0 || !env.is_healed {
            env.after(ACT_EVERY_US, Event::Act { process: seat.process, life: seat.life });
        }
    }

    fn start_and_cancel(&mut self, env: &mut Env) {
        let now_us = env.now_us();
        for index in 0..self.orders.len() {
            if matches!(self.orders[index].stand, Stand::Due(due_us) if due_us <= now_us) && !self.core.is_full() {
                self.place(env, index);
            }
        }
        for index in 0..self.orders.len() {
            if self.orders[index].cancel_at_us.is_some_and(|at_us| at_us <= now_us) {
                self.orders[index].cancel_at_us = None;
                self.cancel_order(env, index);
            }
        }
        let times = self.orders.iter().map(|order| match order.stand {
            Stand::Due(due_us) => due_us.min(order.cancel_at_us.unwrap_or(u64::MAX)),
            _ => order.cancel_at_us.unwrap_or(u64::MAX),
        });
        self.idle_until_us = times.min().unwrap_or(u64::MAX);
    }

    fn place(&mut self, env: &mut Env, index: usize) {
        let correlation = self.next_correlation(Asked::Outcome(index));
        let order = &mut self.orders[index];
        let plan = self.core.define(&env.checks.models[order.plan].bytes).unwrap_or_default();
        let placed = if order.was_started && env.random.clients.coin() {
            self.core.attach(correlation, Subject::Key(&order.key))
        } else {
            let sagas = std::iter::once((order.key.as_slice(), order.input.as_slice()));
            let is_quiet = env.random.clients.coin();
            self.core.start_batch(plan, sagas, correlation, is_quiet)
        };
        order.stand = Stand::Asked;
        order.was_started = true;
        if let Err(error) = placed {
            env.violate("misuse", format!("a client cannot start a saga: {error}"));
        }
    }

    /// A question about some saga, or a START that must be refused.
    fn ask(&mut self, env: &mut Env) {
        let Some(index) = self.some_started(env) else { return };
        let key = self.orders[index].key.clone();
        let forgets = env.options.outcomes_max < env.options.sagas;
        let asked = if forgets || env.random.clients.chance(8_000) {
            let correlation = self.next_correlation(Asked::Status);
            self.core.status(correlation, Subject::Key(&key))
        } else {
            let correlation = self.next_correlation(Asked::Conflict);
            let plan = self.core.define(&env.checks.models[self.orders[index].plan].bytes).unwrap_or_default();
            self.core.start_batch(plan, std::iter::once((key.as_slice(), &b"another"[..])), correlation, false)
        };
        if let Err(error) = asked {
            env.violate("misuse", format!("a client cannot ask: {error}"));
        }
    }

    /// One whose START is durable: only then does a second one surely come later.
    fn some_started(&mut self, env: &mut Env) -> Option<usize> {
        let history = &env.checks.history;
        let is_started = |index: &usize| history.started(&self.orders[*index].key).is_some();
        let started: Vec<usize> = (0..self.orders.len()).filter(is_started).collect();
        env.random.clients.pick(&started)
    }

    /// The application wants a saga aborted.
    pub fn cancel(&mut self, env: &mut Env) {
        let asked: Vec<usize> =
            (0..self.orders.len()).filter(|&index| self.orders[index].stand == Stand::Asked).collect();
        if let Some(index) = env.random.clients.pick(&asked) {
            self.cancel_order(env, index);
        }
    }

    fn cancel_order(&mut self, env: &mut Env, index: usize) {
        let correlation = self.next_correlation(Asked::Cancel);
        let order = &self.orders[index];
        let id = env.checks.history.by_start_key.get(&order.key).copied();
        let cancelled = match id.filter(|_| env.random.clients.coin()) {
            Some((sequence, nonce)) => {
                let id = SagaId::new(0, sequence, nonce);
                self.core.cancel(correlation, Subject::Id(id), "the simulator says so")
            }
            None => self.core.cancel(correlation, Subject::Key(&order.key), "the simulator says so"),
        };
        let key = String::from_utf8_lossy(&order.key).into_owned();
        env.tell(|| format!("a client cancels {key}"));
        if let Err(error) = cancelled {
            env.violate("misuse", format!("a client cannot cancel: {error}"));
        }
    }

    /// An operator retries, or skips, a step that is asked for or compensated now.
    pub fn resolve(&mut self, env: &mut Env) {
        let mut running = Vec::new();
        let only_stuck = !env.stuck.is_empty() && env.random.clients.coin();
        let is_meant = |key: &SagaKey| !only_stuck || env.stuck.contains(key);
        for (key, saga) in env.checks.history.sagas.iter().filter(|(key, saga)| saga.ended.is_none() && is_meant(key)) {
            let steps = saga.pending.keys().filter(|(kind, _)| [Kind::Run.code(), Kind::Undo.code()].contains(kind));
            running.extend(steps.map(|&(_, step)| (*key, step as u8)));
            // Or one that is perhaps just being asked for.
            let some = env.random.clients.index(env.checks.models[saga.plan].count);
            running.push((*key, some as u8));
        }
        let Some(((sequence, nonce), step)) = env.random.clients.pick(&running) else { return };
        let action = if env.random.clients.coin() { Action::Retry } else { Action::Skip };
        let correlation = self.next_correlation(Asked::Resolve);
        let id = SagaId::new(0, sequence, nonce);
        env.tell(|| format!("an operator wants step {step} of {id} to {action:?}"));
        if let Err(error) = self.core.resolve(correlation, id, step, action, "the simulator says so", b"") {
            env.violate("misuse", format!("an operator cannot resolve: {error}"));
        }
    }

    pub fn receive(&mut self, env: &mut Env, seat: &Seat, frame: &[u8]) {
        let now_ms = seat.now_ms(env);
        let mut told = Vec::new();
        let heard = self.core.receive(frame, now_ms, &mut |event| {
            told.push(Told {
                correlation: event.correlation,
                kind: event.kind,
                code: event.code,
                saga: event.saga,
                body: event.body.to_vec(),
            });
        });
        if let Err(fault) = heard {
            env.violate("format", format!("a client was sent what it does not understand: {fault}"));
        }
        for told in told {
            self.hear(env, seat, &told);
        }
    }

    fn hear(&mut self, env: &mut Env, seat: &Seat, told: &Told) {
        env.trace.mix(told.correlation << 16 | u64::from(told.code));
        let Some(asked) = self.asked.get(&told.correlation).copied() else { return };
        let refusal = (told.kind == Kind::Refused).then(|| Refusal::from_code(told.code)).flatten();
        match (asked, told.kind) {
            (Asked::Outcome(index), Kind::Result) => self.hear_outcome(env, seat, index, told),
            (Asked::Outcome(index), Kind::Status) if told.code == StatusCode::Unknown.code() => {
                self.again_later(env, index, told.correlation);
            }
            (Asked::Outcome(index), Kind::Refused) => {
                if refusal == Some(Refusal::Full) {
                    env.reach(Situation::StartRefusedFull);
                }
                if refusal == Some(Refusal::ClassFull) {
                    env.reach(Situation::StartRefusedClassFull);
                }
                if !matches!(refusal, Some(Refusal::Full | Refusal::ClassFull | Refusal::Unknown | Refusal::NoPlan)) {
                    env.violate("rule 9", format!("a START is refused: {refusal:?}"));
                }
                self.again_later(env, index, told.correlation);
            }
            (Asked::Conflict, Kind::Refused) => {
                if refusal != Some(Refusal::KeyConflict) {
                    env.violate("rule 9", format!("a START with another input is refused as {refusal:?}"));
                }
                self.asked.remove(&told.correlation);
            }
            (Asked::Conflict, kind) => {
                env.violate("rule 9", format!("a START with another input is answered by {kind:?}"));
            }
            (Asked::Cancel, Kind::Cancel) => env.reach(Situation::Cancelled),
            (Asked::Resolve, Kind::Resolve) => env.reach(Situation::Resolved),
            _ => {}
        }
    }

    fn again_later(&mut self, env: &mut Env, index: usize, correlation: u64) {
        self.asked.remove(&correlation);
        if !matches!(self.orders[index].stand, Stand::Told(_)) {
            let due_us = env.now_us() + 20_000;
            self.orders[index].stand = Stand::Due(due_us);
            self.idle_until_us = self.idle_until_us.min(due_us);
            self.orders[index].was_started = false;
        }
    }

    fn hear_outcome(&mut self, env: &mut Env, seat: &Seat, index: usize, told: &Told) {
        self.asked.remove(&told.correlation);
        let order = &mut self.orders[index];
        let Some(code) = OutcomeCode::from_code(told.code) else { return };
        let name = String::from_utf8_lossy(&order.key).into_owned();
        env.trace.tell(|| format!("{} is told that {name}, {}, is {code:?}", seat.name, told.saga));
        if let Stand::Told(before) = order.stand
            && before != code
        {
            env.violate("I6", format!("{name} was told to be {before:?}, and is told to be {code:?}"));
        }
        if self.lives > 1 {
            env.reach(Situation::ResultAfterRestart);
        }
        self.told += usize::from(!matches!(order.stand, Stand::Told(_)));
        order.stand = Stand::Told(code);
        let key = saga_key(told.saga);
        let Some(found) = env.checks.history.saga(key) else {
            return env.violate("I8", format!("{name} is told to be {code:?}, and no START is durable"));
        };
        let durable = found.ended.as_ref().map(|ended| ended.code);
        if durable != Some(code) || found.start_key != order.key {
            env.violate("I8", format!("{name} is told to be {code:?}, and durably it is {durable:?}"));
        } else {
            check_body(env, told, code);
        }
    }

    /// Sagas whose outcome nobody has told it.
    pub fn left(&self) -> usize {
        self.orders.len() - self.told
    }
}

/// A completed saga returns what the effects gave; a compensated one says why.
fn check_body(env: &mut Env, told: &Told, code: OutcomeCode) {
    let key = saga_key(told.saga);
    let Some(found) = env.checks.history.saga(key) else { return };
    let Ok(sections) = Sections::parse(&told.body) else {
        return env.violate("format", format!("the outcome of {} is malformed", told.saga));
    };
    if code == OutcomeCode::Compensated {
        let cause = sections.get(Section::CAUSE).and_then(|cause| cause.get(1).copied());
        let skipped = skipped(sections.get(Section::SKIPPED).unwrap_or_default());
        if skipped != found.skipped {
            let text = format!("{} is told to have skipped {skipped:x}, not {:x}", told.saga, found.skipped);
            return env.violate("rule 7", text);
        }
        if cause != found.cause.map(|cause| cause.code()) {
            env.violate("rule 5", format!("{} is told to be aborted by {cause:?}, not {:?}", told.saga, found.cause));
        }
        return;
    }
    let returns = env.checks.models[found.plan].definition.returns.iter().fold(0u64, |set, step| set | 1 << step);
    for step in steps(returns) {
        let wanted = env.checks.ledger.result((key, found.attempt, step));
        if sections.get(step as u8) != wanted {
            let text = format!("{} returns {:x?} of step {step}", told.saga, sections.get(step as u8));
            return env.violate("rule 3", format!("{text}, and its effect gave {wanted:x?}"));
        }
    }
}
