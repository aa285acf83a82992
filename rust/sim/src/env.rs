//! What all simulated processes share: time, network, chance, checks.

use std::collections::VecDeque;

use crate::checks::{Broken, Checks, SagaKey};
use crate::hosts::Stores;
use crate::lies::{each_transaction, forge, oversized};
use crate::network::Network;
use crate::options::Options;
use crate::random::Random;
use crate::schedule::{Event, Schedule};
use crate::situations::Situation;
use crate::trace::Trace;

/// Streams of chance: drawing from one does not disturb the others.
pub struct Streams {
    pub disk: Random,
    pub faults: Random,
    pub work: Random,
    pub clients: Random,
    pub processes: Random,
}

/// See the module's text.
pub struct Env {
    pub options: Options,
    pub schedule: Schedule,
    pub network: Network,
    pub checks: Checks,
    pub trace: Trace,
    pub random: Streams,
    pub stores: Stores,
    /// All faults have ended.
    pub is_healed: bool,
    /// By process, the last frames that it sent.
    pub sent: Vec<VecDeque<Vec<u8>>>,
    /// Some fault needs them.
    pub keeps_sent: bool,
    /// By process, its life, for what passes the broker's socket.
    pub lives: Vec<u32>,
    /// By process, whether it lies when it speaks next.
    pub lies: Vec<bool>,
    /// Sagas that the broker lists as stuck.
    pub stuck: Vec<SagaKey>,
    /// What a coordinator's table took when the first one was made.
    pub table_bytes: Option<u64>,
}

/// Frames of each process that are remembered, to be replayed.
const SENT_KEPT: usize = 12;

impl Env {
    pub fn now_us(&self) -> u64 {
        self.trace.now_us
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.schedule.at(self.trace.now_us + delay_us, event);
    }

    pub fn reach(&mut self, situation: Situation) {
        self.checks.situations.reach(situation);
    }

    pub fn judge(&mut self, result: Result<(), Broken>) {
        self.checks.judge(&mut self.trace, result);
    }

    pub fn violate(&mut self, invariant: &'static str, text: String) {
        self.checks.violate(&mut self.trace, invariant, text);
    }

    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        self.trace.tell(line);
    }

    pub fn send_up(&mut self, process: usize, frame: Vec<u8>) {
        if self.lies[process] && self.lie(process, &frame) {
            return;
        }
        if self.keeps_sent {
            let kept = &mut self.sent[process];
            if kept.len() == SENT_KEPT {
                kept.pop_front();
            }
            kept.push_back(frame.clone());
        }
        self.network.send_up(process, frame, self.trace.now_us, &mut self.schedule);
    }

    /// A forged copy of a frame goes first, or instead, if there is anything in it to forge. Whether it goes instead.
    fn lie(&mut self, process: usize, frame: &[u8]) -> bool {
        let is_instead = self.random.faults.chance(3_000);
        let large = if !is_instead && self.random.faults.chance(2_000) { oversized(frame) } else { None };
        let mut is_forged = large.is_some();
        let forged = large.unwrap_or_else(|| {
            let mut forged = frame.to_vec();
            each_transaction(&mut forged, |transaction| {
                if !is_instead {
                    transaction[16..24].fill(0);
                }
                is_forged |= forge(transaction, &mut self.random.faults);
            });
            forged
        });
        if is_forged {
            self.lies[process] = false;
            self.reach(Situation::FrameForged);
            self.tell(|| format!("process {process} forges a frame"));
            self.checks.boundary.liars.insert(process);
            self.network.send_up(process, forged, self.trace.now_us, &mut self.schedule);
        }
        is_forged && is_instead
    }

    /// What every coordinator's table takes: as much as the first one's.
    pub fn table_bytes(&mut self, bytes: u64) -> u64 {
        *self.table_bytes.get_or_insert(bytes)
    }

    pub fn open_socket(&mut self, process: usize) {
        self.network.open_socket(process, self.trace.now_us, &mut self.schedule);
    }
}

/// A process's clock: it starts anywhere and may run a little fast or slow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    offset_ms: u64,
    /// Parts in 1,000 that it is fast.
    fast: u64,
}

impl Clock {
    pub fn new(random: &mut Random, is_uneven: bool) -> Self {
        if is_uneven { Self { offset_ms: random.below(1 << 40), fast: random.below(20) } } else { Self::default() }
    }

    pub fn ms(&self, now_us: u64) -> u64 {
        self.offset_ms + (now_us + now_us / 1_000 * self.fast) / 1_000
    }
}

/// What every process has, whatever it is.
#[derive(Debug)]
pub struct Seat {
    pub process: usize,
    pub name: String,
    /// How often it was started.
    pub life: u32,
    pub is_alive: bool,
    pub paused_until_us: u64,
    pub slow_until_us: u64,
    pub clock: Clock,
    wake_is_set: bool,
}

impl Seat {
    pub fn new(process: usize, name: String) -> Self {
        Self {
            process,
            name,
            life: 0,
            is_alive: false,
            paused_until_us: 0,
            slow_until_us: 0,
            clock: Clock::default(),
            wake_is_set: false,
        }
    }

    pub fn start(&mut self, env: &mut Env) {
        self.life += 1;
        self.is_alive = true;
        self.paused_until_us = 0;
        self.wake_is_set = false;
        self.clock = Clock::new(&mut env.random.processes, env.options.has_uneven_clocks);
        env.lives[self.process] = self.life;
        let (process, life, phase_us) = (self.process, self.life, env.random.processes.below(TICK_US));
        env.after(phase_us, Event::Tick { process, life });
        let name = &self.name;
        env.trace.tell(|| format!("{name} starts, life {life}"));
    }

    pub fn now_ms(&self, env: &Env) -> u64 {
        self.clock.ms(env.now_us())
    }

    pub fn is_current(&self, life: u32) -> bool {
        self.is_alive && self.life == life
    }

    /// Whether an event finds it paused: then it comes again when the pause is over.
    pub fn defers(&self, env: &mut Env, event: Event) -> bool {
        let is_paused = self.paused_until_us > env.now_us();
        if is_paused {
            env.schedule.at(self.paused_until_us, event);
        }
        is_paused
    }

    /// Something arrived: it is read a little later.
    pub fn wake_soon(&mut self, env: &mut Env) {
        if !self.wake_is_set && self.is_alive {
            self.wake_is_set = true;
            let half_us = if self.is_slow(env) { SLOW_HALF_US } else { 40 };
            let delay_us = env.random.processes.tail(half_us);
            env.after(delay_us, Event::Wake { process: self.process, life: self.life });
        }
    }

    fn is_slow(&self, env: &Env) -> bool {
        self.slow_until_us > env.now_us() && !env.is_healed
    }

    /// Frames that it reads before it sends.
    pub fn frames_a_wake(&self, env: &Env) -> usize {
        if self.is_slow(env) { 1 } else { FRAMES_A_WAKE }
    }

    pub fn woken(&mut self) {
        self.wake_is_set = false;
    }

    pub fn tick_again(&self, env: &mut Env) {
        env.after(TICK_US, Event::Tick { process: self.process, life: self.life });
    }
}

/// A process's timer.
pub const TICK_US: u64 = 50_000;
const FRAMES_A_WAKE: usize = 64;
/// What one that is slow takes for each.
const SLOW_HALF_US: u64 = 30_000;
