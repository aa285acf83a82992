//! A run: all processes under one scheduler, until every saga has ended, or something is wrong.

use std::collections::{BTreeMap, VecDeque};

use sagacore_core::wire::CauseCode;

use crate::checks::{Checks, SagaHistory, Violation};
use crate::env::{Env, Streams};
use crate::hosts::{BrokerHost, ClientHost, Core, PeerHost, ServiceHost, Stores, late_call, new_coordinator};
use crate::model::Model;
use crate::network::Network;
use crate::options::{Fault, Options};
use crate::random::Random;
use crate::schedule::{Event, Schedule};
use crate::situations::Situations;
use crate::trace::Trace;

/// See the module's text. Process 0 is the broker, peers follow.
pub struct World {
    pub(crate) env: Env,
    pub(crate) broker: BrokerHost,
    pub(crate) peers: Vec<PeerHost>,
    pub(crate) faults: BTreeMap<Fault, u64>,
}

/// A run has some ten thousand events; one that has so many turns in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub sagas: u64,
    pub events: u64,
    /// When the last saga had ended.
    pub virtual_ms: u64,
    pub hash: u64,
    pub violations: Vec<Violation>,
    pub situations: Situations,
    pub faults: BTreeMap<Fault, u64>,
    pub effects: u64,
    pub undos: u64,
    pub story: Vec<String>,
}

/// Runs what these options say.
pub fn run(options: Options, is_told: bool) -> Report {
    let mut world = World::new(options, is_told);
    world.start();
    world.go_on();
    world.finish()
}

impl World {
    fn new(options: Options, is_told: bool) -> Self {
        let seed = options.seed;
        let stream = |name| Random::new(seed, name);
        let models: Vec<Model> =
            options.plans.iter().enumerate().map(|(index, plan)| Model::new(plan.clone(), index)).collect();
        let service_processes: usize = options.services.iter().map(|service| service.processes).sum();
        let processes = 1 + options.coordinators + service_processes + options.clients;
        let mut env = Env {
            schedule: Schedule::default(),
            network: Network::new(options.network, processes, stream("network")),
            stores: Stores::new(&options.services, &models),
            checks: Checks::new(models, options.outcomes_max, options.ahead != crate::options::Ahead::Never),
            trace: Trace::new(is_told),
            random: Streams {
                disk: stream("disk"),
                faults: stream("faults"),
                work: stream("work"),
                clients: stream("clients"),
                processes: stream("processes"),
            },
            is_healed: false,
            sent: vec![VecDeque::new(); processes],
            keeps_sent: [Fault::ReplayFrame, Fault::BreakFrame].iter().any(|fault| options.faults.contains(fault)),
            lives: vec![0; processes],
            lies: vec![false; processes],
            stuck: Vec::new(),
            table_bytes: None,
            options,
        };
        env.checks.watermarks.exceptions_max = env.options.watermarks.exceptions;
        let mut peers = Vec::new();
        let mut add = |name: String, core: Core| peers.push(PeerHost::new(peers.len() + 1, name, core));
        for index in 0..env.options.coordinators {
            add(format!("coordinator {index}"), Core::Coordinator(Box::new(new_coordinator(&mut env))));
        }
        for service in 0..env.options.services.len() {
            for index in 0..env.options.services[service].processes {
                let host = ServiceHost::new(service, &mut env);
                add(format!("service {service}.{index}"), Core::Service(Box::new(host)));
            }
        }
        for index in 0..env.options.clients {
            add(format!("client {index}"), Core::Client(Box::new(ClientHost::new(index, &mut env))));
        }
        let broker = BrokerHost::new(&env.options);
        Self { env, broker, peers, faults: BTreeMap::new() }
    }

    fn start(&mut self) {
        self.broker.start(&mut self.env);
        for process in 1..=self.peers.len() {
            let delay_us = self.env.random.processes.below(50_000);
            self.env.after(delay_us, Event::Restart { process });
        }
        if !self.env.options.faults.is_empty() {
            let every_us = self.env.options.fault_every_ms * 1_000;
            let delay_us = self.env.random.faults.tail(every_us);
            self.env.after(delay_us, Event::Fault);
        }
        self.env.after(self.env.options.chaos_ms * 1_000, Event::Heal);
    }

    fn go_on(&mut self) {
        let healing_ms = self.env.options.healing_ms();
        let long_pause_us = self.env.options.long_pause_us;
        let end_us = (self.env.options.chaos_ms + healing_ms) * 1_000 + long_pause_us;
        // While somebody is paused for an hour, others may ask all the time (seed 159671).
        let events_max = EVENTS_MAX + long_pause_us / 1_000;
        while self.env.checks.violations.is_empty() {
            let Some((at_us, event)) = self.env.schedule.pop() else { break };
            if at_us > end_us {
                let text = self.describe_left();
                self.env.violate("I18", format!("{healing_ms} ms after the last fault: {text}"));
                return;
            }
            if self.env.schedule.count() > events_max {
                self.env.violate("I18", format!("it does not come to rest: {events_max} events at {at_us} us"));
                return;
            }
            self.env.trace.now_us = at_us;
            self.happen(event);
            if self.env.is_healed && self.is_over() {
                return;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Network { connection, is_up } => self.deliver(connection, is_up),
            Event::Connect { process, socket } => {
                let env = &mut self.env;
                env.network.connect(process, socket, env.trace.now_us, &mut env.schedule);
            }
            Event::Wake { process, life } | Event::Tick { process, life } | Event::Act { process, life } => {
                self.turn(process, life, event);
            }
            Event::Work { process, life, .. } => self.turn(process, life, event),
            Event::Synced { life } => {
                if self.broker.seat.is_current(life) && !self.broker.seat.defers(&mut self.env, event) {
                    self.broker.synced(&mut self.env);
                    if self.broker.wants_crash {
                        self.crash_broker();
                    }
                }
            }
            Event::LateCall { service, call } => late_call(&mut self.env, service, call),
            Event::Restart { process: 0 } => {
                if !self.broker.seat.is_alive && self.broker.start(&mut self.env) {
                    self.broker.check_replay(&mut self.env);
                }
            }
            Event::Restart { process } => {
                if !self.peers[process - 1].seat.is_alive {
                    self.peers[process - 1].start(&mut self.env);
                }
            }
            Event::Fault => self.strike(),
            Event::Heal => self.heal(),
        }
    }

    fn deliver(&mut self, connection: u32, is_up: bool) {
        let env = &mut self.env;
        let (process, frames) = env.network.arrived(connection, is_up, env.trace.now_us, &mut env.schedule);
        for frame in frames {
            if is_up {
                self.broker.arrive(&mut self.env, connection, process, frame);
            } else {
                self.peers[process - 1].arrive(&mut self.env, frame);
            }
        }
    }

    /// Something happens within a process, unless it is paused or gone.
    fn turn(&mut self, process: usize, life: u32, event: Event) {
        self.env.trace.mix((process as u64) << 32 | u64::from(life));
        if process == 0 {
            if !self.broker.seat.is_current(life) || self.broker.seat.defers(&mut self.env, event) {
                return;
            }
            match event {
                Event::Wake { .. } => self.broker.wake(&mut self.env),
                _ => self.broker.tick(&mut self.env),
            }
            return;
        }
        let peer = &mut self.peers[process - 1];
        if !peer.seat.is_current(life) || peer.defers(&mut self.env, event) {
            return;
        }
        match event {
            Event::Wake { .. } => peer.wake(&mut self.env),
            Event::Act { .. } => peer.act(&mut self.env),
            Event::Work { ticket, stage, .. } => peer.work(&mut self.env, ticket, stage),
            _ => peer.tick(&mut self.env),
        }
        if peer.wants_crash() {
            self.crash_peer(process);
        }
    }

    fn heal(&mut self) {
        self.env.is_healed = true;
        self.env.tell(|| "all faults end".to_owned());
        let now_us = self.env.now_us();
        self.env.network.heal(now_us);
        self.broker.stalled_until_us = 0;
        self.broker.log.disk.set_room(None);
        self.broker.seat.paused_until_us = self.broker.seat.paused_until_us.min(now_us);
        for process in 0..=self.peers.len() {
            self.env.after(1_000, Event::Restart { process });
        }
    }

    /// Every client was told, and nothing is left anywhere.
    fn is_over(&self) -> bool {
        let told = |peer: &PeerHost| match &peer.core {
            Core::Client(host) => host.left() == 0 && !host.core.is_full() && host.core.awaited() == 0,
            Core::Service(host) => peer.seat.is_alive && host.left() == (0, 0) && host.rows(&self.env) == 0,
            Core::Coordinator(core) => peer.seat.is_alive && core.peer().unconfirmed() == 0,
        };
        self.broker.left() == (0, 0) && self.peers.iter().all(told)
    }

    fn describe_left(&self) -> String {
        let mut left = format!("{:?} sagas and tokens are left at the broker", self.broker.left());
        for peer in &self.peers {
            let text = match &peer.core {
                Core::Client(host) => format!("{} wait", host.left()),
                Core::Service(host) => {
                    format!("{:?} run and unconfirmed, {} rows", host.left(), host.rows(&self.env))
                }
                Core::Coordinator(core) => format!("{} unconfirmed, {:?}", core.peer().unconfirmed(), core.stats()),
            };
            left.push_str(&format!("; {}: {text}", peer.seat.name));
        }
        let history = &self.env.checks.history;
        if let Some((key, saga)) = history.sagas.iter().find(|(_, saga)| saga.ended.is_none()) {
            left.push_str(&format!("; saga {key:?} has {:?} pending", saga.pending));
        }
        left.push_str(&format!("; tokens are {}", self.broker.describe_tokens()));
        left
    }

    fn finish(mut self) -> Report {
        if self.env.checks.violations.is_empty() {
            self.broker.check_replay(&mut self.env);
            self.check_messages();
            self.check_innocents();
            self.check_books();
            self.check_bytes();
        }
        let network = [(Fault::LoseFrame, self.env.network.lost), (Fault::DuplicateFrame, self.env.network.duplicated)];
        self.faults.extend(network.into_iter().filter(|&(_, count)| count > 0));
        let Env { options, schedule, checks, mut trace, .. } = self.env;
        Report {
            seed: options.seed,
            sagas: checks.history.sagas.len() as u64,
            events: schedule.count(),
            virtual_ms: trace.now_us / 1_000,
            hash: trace.hash(),
            violations: checks.violations,
            situations: checks.situations,
            faults: self.faults,
            effects: checks.ledger.effects,
            undos: checks.ledger.undos,
            story: trace.take_story(),
        }
    }

    /// What was so when the outcomes became durable is so in the end (I19).
    fn check_books(&mut self) {
        let Checks { models, history, ledger, .. } = &self.env.checks;
        let mut all = history.sagas.keys().map(|&saga| ledger.check_ended(models, history, saga));
        if let Some(broken) = all.find(Result::is_err) {
            self.env.judge(broken);
        }
    }

    /// Nothing runs, so nothing is counted for it (I10): or one day there would be room for no saga.
    fn check_bytes(&mut self) {
        let counted = self.broker.counted_bytes();
        if counted != (0, 0) {
            self.env.violate("I10", format!("nothing runs, and {counted:?} bytes of messages and room are counted"));
        }
    }

    /// Where nothing fails but what kills services, no saga is aborted for what another one does.
    fn check_innocents(&mut self) {
        let (options, sagas) = (&self.env.options, &self.env.checks.history.sagas);
        if options.behaviour.poison == 0 {
            return;
        }
        let is_given_up = |saga: &SagaHistory| saga.cause == Some(CauseCode::DeliveryLimit);
        let mut given_up = sagas.iter().filter(|(_, saga)| is_given_up(saga)).map(|(&key, _)| key);
        if let Some(key) = given_up.find(|&(sequence, _)| options.poisoned_step(sequence).is_none()) {
            self.env.violate("rule 5", format!("{key:?} kills nobody, and was given up beside one that does"));
        }
    }

    /// Where nothing failed, each saga took just the messages that its plan says (I20), and no abort but a rejection,
    /// or a deadline where that is short and the network slow (seed 226254).
    fn check_messages(&mut self) {
        if !self.env.options.is_calm() {
            return;
        }
        let checks = &self.env.checks;
        let wrong = checks.history.sagas.iter().find_map(|(key, saga)| {
            let model = &checks.models[saga.plan];
            let wanted = match saga.undo_set {
                Some(set) => saga.forward_messages + model.undo_messages(set),
                None => model.messages,
            };
            let is_why = matches!(saga.cause, Some(CauseCode::Rejected | CauseCode::Deadline));
            let is_usual = saga.undo_set.is_none() || is_why;
            let is_right = saga.messages == wanted && is_usual;
            (!is_right)
                .then(|| format!("saga {key:?} took {} messages, not {wanted}, cause {:?}", saga.messages, saga.cause))
        });
        if let Some(text) = wrong {
            self.env.violate("I20", text);
        }
    }
}
