//! A process that talks to the broker: its socket, its timer, its pauses and crashes, whatever its core is.

use std::collections::VecDeque;

use sagacore_core::coordinator::Coordinator;
use sagacore_core::peer::{Link, Peer, PeerOptions};
use sagacore_core::wire::Role;

use super::client::ClientHost;
use super::service::ServiceHost;
use crate::env::{Env, Seat};
use crate::schedule::{Event, Stage};
use crate::situations::Situation;

/// What a process is.
pub enum Core {
    Coordinator(Box<Coordinator>),
    Service(Box<ServiceHost>),
    Client(Box<ClientHost>),
}

/// See the module's text.
pub struct PeerHost {
    pub seat: Seat,
    pub core: Core,
    inbox: VecDeque<Vec<u8>>,
}

impl PeerHost {
    pub fn new(process: usize, name: String, core: Core) -> Self {
        Self { seat: Seat::new(process, name), core, inbox: VecDeque::new() }
    }

    /// Whether it is a process of this service.
    pub fn serves(&self, service: usize) -> bool {
        matches!(&self.core, Core::Service(host) if host.service == service)
    }

    pub fn start(&mut self, env: &mut Env) {
        self.seat.start(env);
        match &mut self.core {
            Core::Coordinator(core) => **core = new_coordinator(env),
            Core::Service(host) => **host = ServiceHost::new(host.service, env),
            Core::Client(host) => host.start(env, &self.seat),
        }
        self.open(env);
    }

    fn open(&mut self, env: &mut Env) {
        env.open_socket(self.seat.process);
        let now_ms = self.seat.now_ms(env);
        match &mut self.core {
            Core::Coordinator(core) => core.connect(now_ms),
            Core::Service(host) => host.connect(now_ms),
            Core::Client(host) => host.core.connect(now_ms),
        }
    }

    pub fn crash(&mut self, env: &mut Env) {
        self.seat.is_alive = false;
        self.inbox.clear();
        env.network.close_socket(self.seat.process, env.trace.now_us);
        env.sent[self.seat.process].clear();
        if let Core::Service(host) = &mut self.core {
            host.crashed(env);
        }
        let name = &self.seat.name;
        env.trace.tell(|| format!("{name} crashes"));
    }

    pub fn arrive(&mut self, env: &mut Env, frame: Vec<u8>) {
        if self.seat.is_alive {
            self.inbox.push_back(frame);
            self.seat.wake_soon(env);
        }
    }

    pub fn wake(&mut self, env: &mut Env) {
        self.seat.woken();
        for _ in 0..self.seat.frames_a_wake(env) {
            let Some(frame) = self.inbox.pop_front() else { break };
            self.receive(env, &frame);
        }
        if !self.inbox.is_empty() {
            self.seat.wake_soon(env);
        }
        self.flush(env);
    }

    fn receive(&mut self, env: &mut Env, frame: &[u8]) {
        let now_ms = self.seat.now_ms(env);
        match &mut self.core {
            Core::Coordinator(core) => {
                if let Err(error) = core.receive(frame, now_ms) {
                    env.violate("format", format!("a coordinator was sent a malformed frame: {error}"));
                }
                let stats = core.stats();
                if stats.slots_used > stats.slots || stats.table_bytes != env.table_bytes(core.table_bytes() as u64) {
                    env.violate("I10", format!("a coordinator's table has grown: {stats:?}"));
                }
                if stats.given_back > 0 {
                    env.reach(Situation::CoordinatorGaveBack);
                }
            }
            Core::Service(host) => host.receive(env, &self.seat, frame),
            Core::Client(host) => host.receive(env, &self.seat, frame),
        }
    }

    pub fn tick(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let link = match &mut self.core {
            Core::Coordinator(core) => core.tick(now_ms),
            Core::Service(host) => host.tick(now_ms),
            Core::Client(host) => host.core.tick(now_ms),
        };
        if link == Link::Reconnect {
            let name = &self.seat.name;
            env.trace.tell(|| format!("{name} hears nothing and opens a new socket"));
            self.inbox.clear();
            self.open(env);
        }
        self.seat.tick_again(env);
        self.flush(env);
    }

    pub fn work(&mut self, env: &mut Env, ticket: u64, stage: Stage) {
        if let Core::Service(host) = &mut self.core {
            host.work(env, &self.seat, ticket, stage);
        }
        self.flush(env);
    }

    pub fn act(&mut self, env: &mut Env) {
        if let Core::Client(host) = &mut self.core {
            host.act(env, &self.seat);
        }
        self.flush(env);
    }

    /// A client's application wants a saga aborted.
    pub fn cancel(&mut self, env: &mut Env) {
        if let Core::Client(host) = &mut self.core {
            host.cancel(env);
        }
        self.flush(env);
    }

    /// An operator does something about a step.
    pub fn resolve(&mut self, env: &mut Env) {
        if let Core::Client(host) = &mut self.core {
            host.resolve(env);
        }
        self.flush(env);
    }

    pub fn wants_crash(&mut self) -> bool {
        match &mut self.core {
            Core::Service(host) => std::mem::take(&mut host.wants_crash),
            _ => false,
        }
    }

    fn flush(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        loop {
            let frame = match &mut self.core {
                Core::Coordinator(core) => core.frame(now_ms),
                Core::Service(host) => host.frame(now_ms),
                Core::Client(host) => host.core.frame(now_ms),
            };
            let Some(frame) = frame else { return };
            env.send_up(self.seat.process, frame);
        }
    }

    /// An event that found the process paused for longer than its leases last.
    pub fn note_pause(&self, env: &mut Env, began_us: u64) {
        if matches!(self.core, Core::Service(_)) && self.seat.paused_until_us > began_us + 600_000 {
            env.reach(Situation::ZombieCommit);
        }
    }

    /// Events of a process that is paused come when the pause is over.
    pub fn defers(&self, env: &mut Env, event: Event) -> bool {
        let defers = self.seat.defers(env, event);
        if defers && matches!(event, Event::Work { stage: Stage::Commit, .. }) {
            self.note_pause(env, env.now_us());
        }
        defers
    }
}

pub fn new_coordinator(env: &mut Env) -> Coordinator {
    let peer = Peer::new(PeerOptions {
        role: Role::Coordinator,
        name: String::new(),
        instance: env.random.processes.next(),
        exclusive: false,
        lease_ms: 0,
        credit: env.options.coordinator_credit,
        outbox_bytes_max: 1 << 20,
    });
    Coordinator::new(env.options.slots, peer)
}
