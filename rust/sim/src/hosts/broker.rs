//! The broker's process: its socket, its log with the thread that syncs, and its restarts.

use std::collections::VecDeque;

use sagacore_broker::broker::{Opened, Room};
use sagacore_broker::{Broker, Config, RecordKind};

use crate::checks::digest;
use crate::env::{Env, FRAMES_A_WAKE, Seat};
use crate::log::Log;
use crate::mutation::Mutation;
use crate::network::identity;
use crate::schedule::Event;
use crate::situations::Situation;

/// See the module's text.
pub struct BrokerHost {
    pub seat: Seat,
    core: Option<Broker>,
    pub log: Log,
    /// What the sync under way covers.
    syncing: Option<u64>,
    inbox: VecDeque<(u32, usize, Vec<u8>)>,
    /// Until then syncs take long.
    pub stalled_until_us: u64,
    frames: Vec<(Box<[u8]>, Vec<u8>)>,
}

impl BrokerHost {
    pub fn new(segment_bytes: u64) -> Self {
        Self {
            seat: Seat::new(0, "broker".to_owned()),
            core: None,
            log: Log::new(segment_bytes),
            syncing: None,
            inbox: VecDeque::new(),
            stalled_until_us: 0,
            frames: Vec::new(),
        }
    }

    fn config(env: &Env) -> Config {
        let mut secret = [7; 16];
        secret[..8].copy_from_slice(&env.options.seed.to_le_bytes());
        Config { secret, ..Config::default() }
    }

    /// Reads the log and begins to serve.
    pub fn start(&mut self, env: &mut Env) {
        self.seat.start(env);
        if self.seat.life > 1 {
            env.reach(Situation::BrokerRestarted);
            if self.log.has_released {
                env.reach(Situation::ReplayedAfterRelease);
            }
        }
        let mut core = Broker::new(Self::config(env));
        let mut expected_lsn = None;
        for record in self.log.records() {
            if expected_lsn.is_some_and(|expected| expected != record.lsn) {
                env.checks.violate(&mut env.trace, "I9", format!("the log jumps to record {}", record.lsn));
            }
            expected_lsn = Some(record.lsn + 1);
            if record.lsn > env.checks.history.lsn() {
                let checks = &mut env.checks;
                let durable = checks.history.durable(&checks.models, record.kind, record.lsn, &record.payload);
                env.checks.judge(&mut env.trace, durable);
            }
            if let Err(error) = core.replay(record.kind, record.lsn, record.time_ms, &record.payload) {
                env.checks.violate(&mut env.trace, "I17", error.to_string());
            }
        }
        let durable_lsn = env.checks.history.lsn();
        if durable_lsn > self.log.last_lsn {
            env.violate("I9", format!("record {durable_lsn} was durable, and the log ends at {}", self.log.last_lsn));
        }
        self.check_ended(env);
        self.log.boot_epoch += 1;
        let opened = Opened {
            next_lsn: self.log.last_lsn + 1,
            boot_epoch: self.log.boot_epoch,
            last_time_ms: self.log.last_time_ms,
        };
        let now_ms = self.seat.now_ms(env);
        let first = core.open(opened, now_ms);
        self.core = Some(core);
        if let Some(record) = first {
            self.log.append(record);
        }
        env.network.broker_is_up();
        self.pass_on(env);
    }

    /// The process dies. What was not synced is lost, or a part of it.
    pub fn crash(&mut self, env: &mut Env) {
        self.seat.is_alive = false;
        self.core = None;
        self.inbox.clear();
        self.frames.clear();
        self.syncing = None;
        let (lost, survived) = self.log.crash(&mut env.random.disk);
        if lost > 0 {
            env.reach(Situation::TailLost);
        }
        if survived > 0 {
            env.reach(Situation::TailSurvived);
        }
        if env.has(Mutation::SyncedRecordLost) && self.log.last_lsn > 3 {
            self.log.cut(self.log.last_lsn - 1);
        }
        if env.has(Mutation::RecordSkipped) {
            self.log.skip_one(&mut env.random.disk);
        }
        env.tell(|| format!("broker crashes: {lost} records are lost, {survived} that were not synced survive"));
        env.network.broker_is_down(env.trace.now_us, &mut env.schedule);
        env.checks.broker_crashed();
    }

    pub fn arrive(&mut self, env: &mut Env, connection: u32, process: usize, frame: Vec<u8>) {
        if self.seat.is_alive {
            self.inbox.push_back((connection, process, frame));
            self.seat.wake_soon(env);
        }
    }

    pub fn wake(&mut self, env: &mut Env) {
        self.seat.woken();
        let now_ms = self.seat.now_ms(env);
        for _ in 0..FRAMES_A_WAKE {
            let Some((connection, process, frame)) = self.inbox.pop_front() else { break };
            let identity = identity(connection);
            let life = env.lives[process];
            env.trace.mix_bytes(&frame);
            env.checks.incoming(&identity, process, life, &frame);
            if let Some(core) = &mut self.core {
                core.receive(&identity, &frame, now_ms);
            }
        }
        if !self.inbox.is_empty() {
            self.seat.wake_soon(env);
        }
        self.pass_on(env);
    }

    pub fn tick(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        // Silence is judged only when everything that was said has been heard.
        if self.inbox.is_empty()
            && let Some(core) = &mut self.core
        {
            core.tick(now_ms);
        }
        self.seat.tick_again(env);
        self.pass_on(env);
    }

    /// Writes what was accepted, and sends what is to be sent.
    fn pass_on(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let first_lsns = self.log.first_lsns();
        let Some(core) = &mut self.core else { return };
        core.log_has(&first_lsns, env.options.segment_bytes);
        core.set_room(Room { free_bytes: 1 << 40, segment_bytes: env.options.segment_bytes });
        while let Some(record) = core.flush(now_ms) {
            if record.kind == RecordKind::Copies {
                env.checks.situations.reach(Situation::CopiesWritten);
            }
            env.trace.mix_bytes(&record.payload);
            let lsn = record.lsn;
            self.log.append(record);
            if env.has(Mutation::VisibleBeforeDurable) {
                core.synced(lsn, now_ms);
            }
        }
        if let Some(before_lsn) = core.released() {
            env.checks.situations.reach(Situation::SegmentsReleased);
            self.log.release_before(before_lsn);
        }
        self.send(env);
        self.sync(env);
    }

    fn sync(&mut self, env: &mut Env) {
        if self.syncing.is_none() && self.log.synced_lsn < self.log.last_lsn {
            self.syncing = Some(self.log.last_lsn);
            let mut delay_us = env.random.disk.tail(env.options.sync_half_us);
            delay_us += self.stalled_until_us.saturating_sub(env.now_us());
            env.after(delay_us, Event::Synced { life: self.seat.life });
        }
    }

    pub fn synced(&mut self, env: &mut Env) {
        let Some(lsn) = self.syncing.take() else { return };
        let from_lsn = self.log.synced_lsn;
        self.log.synced_lsn = lsn;
        for record in self.log.after(from_lsn).take_while(|record| record.lsn <= lsn) {
            let checks = &mut env.checks;
            let durable = checks.history.durable(&checks.models, record.kind, record.lsn, &record.payload);
            env.checks.judge(&mut env.trace, durable);
        }
        env.trace.mix(lsn);
        self.check_ended(env);
        let now_ms = self.seat.now_ms(env);
        if let Some(core) = &mut self.core {
            core.synced(lsn, now_ms);
        }
        self.pass_on(env);
    }

    /// Compares what the services did with every outcome that became durable.
    fn check_ended(&mut self, env: &mut Env) {
        for saga in std::mem::take(&mut env.checks.history.newly_ended) {
            let checks = &env.checks;
            let found = checks.ledger.check_ended(&checks.models, &checks.history, saga);
            env.judge(found);
        }
    }

    fn send(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let Some(core) = &mut self.core else { return };
        core.take_frames(&mut self.frames);
        for (identity, frame) in self.frames.drain(..) {
            env.trace.mix_bytes(&frame);
            let process = env.network.process_of(&identity);
            let leaves = env.checks.outgoing(&identity, process, &frame);
            env.checks.judge(&mut env.trace, leaves);
            if !env.network.send_down(&identity, frame, env.trace.now_us, &mut env.schedule) {
                env.checks.situations.reach(Situation::PeerUnreachable);
                core.lost(&identity, now_ms);
            }
        }
    }

    /// The log alone gives the same state, twice (I17). Only where nothing waits to be written.
    pub fn check_replay(&mut self, env: &mut Env) {
        let Some(core) = self.core.as_ref().filter(|_| self.log.synced_lsn == self.log.last_lsn) else { return };
        let sequences = core.state().next_sequence;
        let live = digest(core, sequences);
        for _ in 0..2 {
            let mut fresh = Broker::new(Self::config(env));
            for record in self.log.records() {
                if let Err(error) = fresh.replay(record.kind, record.lsn, record.time_ms, &record.payload) {
                    return env.violate("I17", error.to_string());
                }
            }
            let replayed = digest(&fresh, sequences);
            if replayed != live {
                let lacks = live.lines().find(|line| !replayed.contains(line));
                let has = replayed.lines().find(|line| !live.contains(line));
                return env.violate("I17", format!("replayed, it lacks {lacks:?} and has {has:?}"));
            }
        }
    }

    /// Where the pending tokens are, counted.
    pub fn describe_tokens(&self) -> String {
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for token in self.core.iter().flat_map(|core| core.state().tokens.values()) {
            *counts.entry(format!("{:?} {:?}", token.kind, token.place)).or_default() += 1;
        }
        format!("{counts:?}")
    }

    /// Sagas that run, and pending tokens.
    pub fn left(&self) -> (usize, usize) {
        self.core.as_ref().map_or((0, 0), |core| (core.state().sagas.len(), core.state().tokens.len()))
    }
}
