//! Brokers side by side: a small world of its own, in which sagas of different shards hold the same things.
//!
//! Real brokers, workers and clients; a service is one process with a session with each broker, and one table of holds.
//! What it carries between brokers may be late or lost, and brokers stop and start, until everything is healed. Then
//! every saga must end within a bound. Whenever somebody gives way, the tables of holds must have a cycle through it,
//! in which it is not the oldest (I14).

use std::collections::{BTreeMap, BTreeSet};

use sagacore_broker::{Broker, Config, Deadlock, Opened, Record};
use sagacore_core::client::{ClientCore, ClientOptions};
use sagacore_core::fence::{Ask, Holds, Standing};
use sagacore_core::peer::Link;
use sagacore_core::wire::{Blocked, HoldMode, Holder, Kind, SagaId, WaitPolicy, seniority};
use sagacore_core::worker::{Ready, Verdict, Worker, WorkerOptions};

use crate::plans::{Definition, StepDefinition, service_name, step_name};
use crate::random::Random;

const SERVICES: usize = 3;
const CHAOS_MS: u64 = 4_000;
/// After the last fault all sagas end within this: each of them in its turn.
const BOUND_MS: u64 = 60_000;
const TICK_MS: u64 = 20;
const HOLD_ROWS_MAX: usize = 10_000;
const DEADLINE_MS: u64 = 3_600_000;

/// A process: a client, or one of a service, at its line to a broker.
type Line = (usize, usize);

/// The client's place among the processes; services follow.
const CLIENT: usize = 0;

struct Service {
    cores: Vec<Worker>,
    holds: Holds,
}

enum Sent {
    Up(Line, Vec<u8>),
    Down(Line, Vec<u8>),
    /// What a process carries to the broker of a shard.
    Carried(Line, Vec<u8>),
}

struct Shards {
    random: Random,
    now_ms: u64,
    brokers: Vec<Broker>,
    logs: Vec<Vec<Record>>,
    clients: Vec<ClientCore>,
    services: Vec<Service>,
    /// By time and order.
    on_the_way: BTreeMap<(u64, u64), Sent>,
    order: u64,
    /// By process, line and direction, when the last frame arrives: frames keep their order.
    last_ms: BTreeMap<(Line, bool), u64>,
    lost_per_10_000: u64,
    latency_ms: u64,
    policy: WaitPolicy,
    ended: BTreeSet<u64>,
    /// By shard, the last deadlock that was judged.
    seen: BTreeMap<usize, u64>,
    gave_way: BTreeSet<Id>,
    violation: Option<String>,
}

/// What did not hold in this seed.
pub fn run(seed: u64) -> Option<String> {
    let mut world = Shards::new(seed);
    let sagas = world.start();
    while world.violation.is_none() && world.now_ms < CHAOS_MS + BOUND_MS {
        if world.now_ms >= CHAOS_MS {
            world.lost_per_10_000 = 0;
            if world.ended.len() as u64 == sagas {
                return None;
            }
        }
        world.turn();
    }
    let left = sagas - world.ended.len() as u64;
    world.violation.or_else(|| Some(format!("{BOUND_MS} ms after the last fault {left} sagas wait across shards")))
}

impl Shards {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "shards");
        let count = random.between(2, 3) as usize;
        let open = |shard: usize| {
            let mut broker = Broker::new(config(shard));
            let first = broker.open(Opened { next_lsn: 1, boot_epoch: 1, last_time_ms: 0, unclean: false }, 0);
            (broker, Vec::from_iter(first))
        };
        let (brokers, logs) = (0..count).map(open).unzip();
        let client = |shard: usize| {
            ClientCore::new(ClientOptions { instance: shard as u64 + 1, credit: 100, outbox_bytes_max: 1 << 20 })
        };
        let steps: Vec<String> = plans().iter().enumerate().flat_map(|(at, plan)| names(at, plan)).collect();
        let service = |service: usize| {
            let core = |shard: usize| {
                Worker::new(WorkerOptions {
                    service: service_name(service),
                    steps: steps.clone(),
                    instance: (100 * service + shard + 10) as u64,
                    memory_fence: true,
                    lease_ms: 1_000,
                    credit: 100,
                })
            };
            Service { cores: (0..count).map(core).collect(), holds: Holds::new(HOLD_ROWS_MAX) }
        };
        Self {
            lost_per_10_000: random.pick(&[0, 1_000, 5_000]).unwrap_or(0),
            latency_ms: random.magnitude(1, 300),
            policy: if random.chance(2_500) { WaitPolicy::WoundWait } else { WaitPolicy::Detect },
            random,
            now_ms: 0,
            brokers,
            logs,
            clients: (0..count).map(client).collect(),
            services: (0..SERVICES).map(service).collect(),
            on_the_way: BTreeMap::new(),
            order: 0,
            last_ms: BTreeMap::new(),
            ended: BTreeSet::new(),
            seen: BTreeMap::new(),
            gave_way: BTreeSet::new(),
            violation: None,
        }
    }

    /// Connects everybody and starts sagas. Gives how many.
    fn start(&mut self) -> u64 {
        let count = self.random.between(4, 14);
        let things = self.random.between(1, 3);
        for shard in 0..self.brokers.len() {
            self.clients[shard].connect(0);
            self.services.iter_mut().for_each(|service| service.cores[shard].connect(0));
        }
        for number in 1..=count {
            let shard = self.random.index(self.brokers.len());
            let all = plans();
            let at = self.random.index(all.len());
            let input: Vec<u8> = (0..SERVICES).map(|_| self.random.below(things) as u8).collect();
            let client = &mut self.clients[shard];
            let started = client.define(&all[at].encode(at)).and_then(|plan| {
                let key = format!("saga {number}");
                client.start_batch(plan, [(key.as_bytes(), input.as_slice())].into_iter(), number, true)
            });
            if let Err(error) = started {
                self.violation = Some(format!("a saga is not started: {error}"));
            }
        }
        count
    }

    /// Time passes until something arrives, or everybody looks at the clock.
    fn turn(&mut self) {
        let next_tick = (self.now_ms / TICK_MS + 1) * TICK_MS;
        let Some((&(due_ms, order), _)) = self.on_the_way.first_key_value().filter(|((due, _), _)| *due < next_tick)
        else {
            self.now_ms = next_tick;
            return self.tick();
        };
        self.now_ms = self.now_ms.max(due_ms);
        match self.on_the_way.remove(&(due_ms, order)) {
            Some(Sent::Up((process, shard), frame)) => {
                self.brokers[shard].receive(identity(process).as_bytes(), &frame, self.now_ms);
                self.settle(shard);
            }
            Some(Sent::Down(line, frame)) => self.hear(line, &frame),
            Some(Sent::Carried((process, shard), message)) => {
                self.services[process - 1].cores[shard].pass_on(&message);
                self.send((process, shard));
            }
            None => {}
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms;
        for shard in 0..self.brokers.len() {
            self.brokers[shard].tick(now_ms);
            self.settle(shard);
            for process in 0..=SERVICES {
                let (client, service) = (&mut self.clients[shard], process.checked_sub(1));
                let link = match service.map(|service| &mut self.services[service].cores[shard]) {
                    None => client.tick(now_ms),
                    Some(core) => core.tick(now_ms),
                };
                if link == Link::Reconnect {
                    self.reconnect((process, shard));
                }
                self.send((process, shard));
            }
        }
        if self.now_ms < CHAOS_MS && self.random.chance(40) {
            let shard = self.random.index(self.brokers.len());
            let process = self.random.index(SERVICES + 1);
            if self.random.coin() {
                self.restart(shard);
            } else {
                self.reconnect((process, shard));
            }
        }
    }

    fn reconnect(&mut self, line: Line) {
        let is_of = |sent: &Sent| matches!(sent, Sent::Up(other, _) | Sent::Down(other, _) if *other == line);
        self.on_the_way.retain(|_, sent| !is_of(sent));
        let (process, shard) = line;
        match process.checked_sub(1) {
            None => self.clients[shard].connect(self.now_ms),
            Some(service) => self.services[service].cores[shard].connect(self.now_ms),
        }
    }

    /// A broker dies and reads its log, all of which is durable.
    fn restart(&mut self, shard: usize) {
        let mut broker = Broker::new(config(shard));
        for record in &self.logs[shard] {
            if let Err(error) = broker.replay(record.kind, record.lsn, record.time_ms, &record.payload) {
                self.violation = Some(format!("a log cannot be read: {error}"));
                return;
            }
        }
        let next_lsn = self.logs[shard].len() as u64 + 1;
        let last_time_ms = self.logs[shard].last().map_or(0, |record| record.time_ms);
        let boot_epoch = self.random.below(1 << 30) as u32 + 2;
        let first = broker.open(Opened { next_lsn, boot_epoch, last_time_ms, unclean: true }, self.now_ms);
        self.brokers[shard] = broker;
        self.logs[shard].extend(first);
        self.seen.remove(&shard);
        for process in 0..=SERVICES {
            self.reconnect((process, shard));
        }
        self.settle(shard);
    }

    /// What a broker has accepted is durable, and what it says is on its way.
    fn settle(&mut self, shard: usize) {
        let broker = &mut self.brokers[shard];
        loop {
            let before = self.logs[shard].len();
            while let Some(record) = broker.flush(self.now_ms) {
                self.logs[shard].push(record);
            }
            if let Some(last) = self.logs[shard].last() {
                broker.synced(last.lsn, self.now_ms);
            }
            if self.logs[shard].len() == before {
                break;
            }
        }
        let mut frames = Vec::new();
        broker.take_frames(&mut frames);
        for (to, frame) in frames {
            let process = (0..=SERVICES).find(|&process| identity(process).as_bytes() == &*to);
            if let Some(process) = process {
                self.put((process, shard), true, |line| Sent::Down(line, frame));
            }
        }
        self.judge(shard);
    }

    fn put(&mut self, line: Line, is_down: bool, sent: impl FnOnce(Line) -> Sent) {
        let last_ms = self.last_ms.get(&(line, is_down)).copied().unwrap_or_default();
        let due_ms = last_ms.max(self.now_ms + self.random.below(3));
        self.last_ms.insert((line, is_down), due_ms);
        self.order += 1;
        self.on_the_way.insert((due_ms, self.order), sent(line));
    }

    fn send(&mut self, line: Line) {
        let (process, shard) = line;
        loop {
            let frame = match process.checked_sub(1) {
                None => self.clients[shard].frame(self.now_ms),
                Some(service) => self.services[service].cores[shard].frame(self.now_ms),
            };
            let Some(frame) = frame else { return };
            self.put(line, false, |line| Sent::Up(line, frame));
        }
    }

    fn hear(&mut self, line: Line, frame: &[u8]) {
        let (process, shard) = line;
        let Some(service) = process.checked_sub(1) else {
            let ended = &mut self.ended;
            let heard = self.clients[shard].receive(frame, self.now_ms, &mut |event| {
                if event.kind == Kind::Result {
                    ended.insert(event.correlation);
                }
            });
            if heard.is_err() {
                self.violation = Some("a client cannot read what a broker says".to_owned());
            }
            return self.send(line);
        };
        let mut ready = Vec::new();
        self.services[service].cores[shard].receive(frame, self.now_ms, &mut ready);
        for holder in self.services[service].cores[shard].take_let_go() {
            self.services[service].holds.release(holder);
        }
        while let Some(next) = ready.pop() {
            self.call(service, shard, next, &mut ready);
        }
        for (to, message) in self.services[service].cores[shard].take_carried() {
            if !self.random.chance(self.lost_per_10_000) {
                self.order += 1;
                let due_ms = self.now_ms + self.random.below(self.latency_ms);
                self.on_the_way.insert((due_ms, self.order), Sent::Carried((process, usize::from(to)), message));
            }
        }
        self.send(line);
    }

    fn call(&mut self, service: usize, shard: usize, next: Ready, ready: &mut Vec<Ready>) {
        let Some(work) = self.services[service].cores[shard].work(next.ticket) else { return };
        let holder = Holder { saga: work.saga, attempt: work.attempt, place: work.place };
        let thing = self.thing(service, shard, next.ticket);
        let Service { cores, holds } = &mut self.services[service];
        let mut end = |verdict, payload: &[u8]| cores[shard].finish(next.ticket, verdict, payload, self.now_ms, ready);
        let ended = if work.undo {
            holds.release(holder);
            end(Verdict::Undone, &[])
        } else {
            work.freed.iter().for_each(|freed| holds.free(freed.saga, freed.attempt.get()));
            let mode = HoldMode::Exclusive;
            let ask = Ask { resource: &thing, mode, amount: 1, size: 1, holder, age: work.age };
            match holds.take(&ask, true) {
                Ok(others) if others.is_empty() => {
                    holds.keep(holder);
                    end(Verdict::Done, &[])
                }
                Ok(holders) => {
                    let blocked = Blocked { policy: self.policy, mode, resource: thing.as_bytes(), holders };
                    end(Verdict::Blocked, &blocked.write())
                }
                Err(error) => {
                    self.violation = Some(format!("a hold is refused: {error}"));
                    return;
                }
            }
        };
        if let Err(misuse) = ended {
            self.violation = Some(format!("a worker refuses an end: {misuse}"));
        }
    }

    /// What a saga needs of a service: its input says.
    fn thing(&self, service: usize, shard: usize, ticket: u64) -> String {
        let number = self.services[service].cores[shard].input(ticket).get(service).copied().unwrap_or_default();
        format!("thing {number}")
    }

    /// Who gave way since this was asked last, is in a cycle of those that hold and wait, and not its oldest. While the
    /// word of it was on its way another one of the cycle may have given way to a second cycle: that nobody can know.
    fn judge(&mut self, shard: usize) {
        let seen = self.seen.get(&shard).copied().unwrap_or_default();
        let new = self.brokers[shard].deadlocks().iter().filter(|deadlock| deadlock.number > seen).cloned();
        for deadlock in new.collect::<Vec<Deadlock>>() {
            let victim = deadlock.victim;
            self.seen.insert(shard, deadlock.number);
            let is_crossed =
                deadlock.cycle.iter().any(|hop| hop.saga != victim && self.gave_way.contains(&id(hop.saga)));
            self.gave_way.insert(id(victim));
            if deadlock.is_wound || is_crossed {
                continue;
            }
            let waits = self.waits();
            let beyond = reach(&waits, id(victim));
            let cycle: Vec<Id> =
                beyond.into_iter().filter(|&other| reach(&waits, other).contains(&id(victim))).collect();
            if !cycle.contains(&id(victim)) {
                self.violation = Some(format!("{victim} gave way, and no cycle leads through it"));
            } else if cycle.iter().min() == Some(&id(victim)) {
                self.violation = Some(format!("{victim} gave way, and is the oldest of its cycle"));
            }
        }
    }

    /// Who waits for whom, as the tables of holds say.
    fn waits(&self) -> BTreeMap<Id, BTreeSet<Id>> {
        let mut waits: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
        let things: Vec<String> = (0..3).map(|number| format!("thing {number}")).collect();
        for (service, thing) in
            self.services.iter().flat_map(|service| things.iter().map(move |thing| (service, thing)))
        {
            let rows = service.holds.rows(thing);
            for waiting in rows.iter().filter(|row| row.standing == Standing::Waiting) {
                let own = id(waiting.holder.saga);
                let is_ahead = |other: Id, standing| other != own && (standing != Standing::Waiting || other < own);
                let others = rows.iter().filter(|row| is_ahead(id(row.holder.saga), row.standing));
                waits.entry(own).or_default().extend(others.map(|row| id(row.holder.saga)));
            }
        }
        waits
    }
}

/// A saga in order of age.
type Id = (u64, [u8; 16]);

fn id(saga: SagaId) -> Id {
    seniority(saga.sequence.get(), saga)
}

fn reach(waits: &BTreeMap<Id, BTreeSet<Id>>, from: Id) -> BTreeSet<Id> {
    let (mut found, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(at) = left.pop() {
        for &next in waits.get(&at).into_iter().flatten() {
            if found.insert(next) {
                left.push(next);
            }
        }
    }
    found
}

fn identity(process: usize) -> String {
    if process == CLIENT { "client".to_owned() } else { format!("service {process}") }
}

fn config(shard: usize) -> Config {
    Config { shard: shard as u16, secret: [shard as u8 + 1; 16], ..Config::default() }
}

/// A saga goes through all services, in one of the orders.
fn plans() -> Vec<Definition> {
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]];
    let step = |at: usize, service: usize| StepDefinition {
        service,
        result_max: 16,
        is_compensable: true,
        after: at.checked_sub(1).into_iter().map(|before| before as u64).collect(),
        ..StepDefinition::default()
    };
    let plan = |order: &[usize; SERVICES]| Definition {
        name: format!("trip-{order:?}"),
        input_max: 16,
        deadline_ms: DEADLINE_MS,
        undo_in_a_chain: true,
        returns: vec![2],
        steps: order.iter().enumerate().map(|(at, &service)| step(at, service)).collect(),
    };
    orders.iter().map(plan).collect()
}

fn names(plan: usize, definition: &Definition) -> Vec<String> {
    (0..definition.steps.len()).map(|step| step_name(plan, step)).collect()
}
