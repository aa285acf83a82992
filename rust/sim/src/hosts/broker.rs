//! The broker's process: its socket, its log with the thread that commits, and its restarts.

use std::collections::VecDeque;

use sagacore_broker::broker::{Opened, Room};
use sagacore_broker::log::{Disk, DiskError, LogError};
use sagacore_broker::{Broker, Config, RecordKind, Visibility, Window};

use super::watch::Watch;
use crate::checks::{describe, digest};
use crate::env::{Env, Seat};
use crate::log::{Frame, Log, read};
use crate::network::identity;
use crate::options::{Fault, Options};
use crate::schedule::Event;
use crate::situations::Situation;

/// See the module's text.
pub struct BrokerHost {
    pub seat: Seat,
    core: Option<Broker>,
    pub log: Log,
    inbox: VecDeque<(u32, usize, Vec<u8>)>,
    /// Until then syncs take long.
    pub stalled_until_us: u64,
    frames: Vec<(Box<[u8]>, Vec<u8>)>,
    has_released: bool,
    watch: Watch,
    /// Parked sagas, and how often one was read back.
    parked: (usize, u64),
    /// Of the last durable record.
    last_time_ms: u64,
    /// The log has failed: the process ends.
    pub wants_crash: bool,
}

impl BrokerHost {
    pub fn new(options: &Options) -> Self {
        Self {
            seat: Seat::new(0, "broker".to_owned()),
            core: None,
            log: Log::new(options.segment_bytes, options.disk_segments, options.seed),
            inbox: VecDeque::new(),
            stalled_until_us: 0,
            frames: Vec::new(),
            has_released: false,
            watch: Watch::default(),
            parked: (0, 0),
            last_time_ms: 0,
            wants_crash: false,
        }
    }

    fn config(&self, env: &Env) -> Config {
        let mut secret = [7; 16];
        secret[..8].copy_from_slice(&env.options.seed.to_le_bytes());
        // However long somebody is paused: what is forgotten is forgotten because there are too many.
        let outcomes = Window { count: env.options.outcomes_max, age_ms: u64::MAX, ..Window::default() };
        let may_run_ahead = env.options.ahead.in_boot(self.seat.life);
        let visibility = if may_run_ahead { Visibility::Relaxed } else { Visibility::Strict };
        let Options { stuck_after_ms, watermarks, parking, segment_bytes, .. } = env.options;
        let waiters = env.options.contention.waiters;
        let record_bytes = segment_bytes as usize / 8;
        Config {
            secret,
            outcomes,
            stuck_after_ms,
            watermarks,
            parking,
            waiters,
            record_bytes,
            visibility,
            ..Config::default()
        }
    }

    /// Reads the log and begins to serve. False if the log does not start.
    pub fn start(&mut self, env: &mut Env) -> bool {
        let (last_lsn, durable_lsn) = (self.log.last_lsn, self.log.durable_lsn);
        let found = match self.log.open() {
            Ok(found) => found,
            Err(error) => {
                self.refuse(env, &error);
                return false;
            }
        };
        self.seat.start(env);
        if self.seat.life > 1 {
            env.reach(Situation::BrokerRestarted);
            let read_lsn = found.recovered.next_lsn - 1;
            let reached = [
                (self.has_released, Situation::ReplayedAfterRelease),
                (read_lsn < last_lsn, Situation::TailLost),
                (read_lsn > durable_lsn, Situation::TailSurvived),
                (found.recovered.cut.is_some(), Situation::TornTailCut),
                (!found.recovered.unclean, Situation::CleanStart),
            ];
            reached.into_iter().filter(|(is_so, _)| *is_so).for_each(|(_, situation)| env.reach(situation));
        }
        let mut core = Broker::new(self.config(env));
        core.set_read_back(found.read_back_before());
        self.replay(env, &mut core, &found.frames);
        core.set_read_back(found.read_back());
        self.hear_durable(env, &[Frame { kind: None, lsn: self.log.durable_lsn, time_ms: 0, payload: Vec::new() }]);
        let opened = Opened {
            next_lsn: self.log.next_lsn(),
            boot_epoch: found.recovered.boot_epoch,
            last_time_ms: found.recovered.last_time_ms,
            unclean: found.recovered.unclean,
        };
        let now_ms = self.seat.now_ms(env);
        let may_run_ahead = env.options.ahead.in_boot(self.seat.life);
        let read_lsn = found.recovered.next_lsn - 1;
        env.checks.boot(read_lsn, opened.next_lsn, opened.unclean, may_run_ahead);
        if core.state().parked() > 0 {
            env.reach(Situation::ParkedInReplay);
        }
        let first = core.open(opened, now_ms);
        core.set_room(self.room());
        self.core = Some(core);
        if let Some(record) = first {
            self.log.append(record);
        }
        env.network.broker_is_up();
        self.pass_on(env);
        true
    }

    fn room(&mut self) -> Room {
        let free_bytes = if self.log.is_full() { 0 } else { self.log.disk.free_bytes().unwrap_or(0) };
        Room { free_bytes, segment_bytes: self.log.config().segment_bytes }
    }

    /// The log does not start. Only the disk may be the reason.
    fn refuse(&mut self, env: &mut Env, error: &LogError) {
        env.tell(|| format!("broker does not start: {error}"));
        match error {
            LogError::NoRoom | LogError::Disk { error: DiskError::Full, .. } => {
                self.note_full(env);
                env.reach(Situation::NoSpaceToStart);
            }
            LogError::Disk { .. } => env.reach(Situation::SyncFailed),
            _ => env.violate("I9", format!("the log does not start: {error}")),
        }
        env.after(100_000, Event::Restart { process: 0 });
    }

    /// On a disk of its own the broker always finds room for what has begun (I16).
    fn note_full(&self, env: &mut Env) {
        if env.options.disk_segments.is_some() {
            env.violate("I16", "a record finds no room on a disk that is the broker's alone".to_owned());
        }
    }

    /// Feeds the broker with what the log holds, and compares that with what was durable.
    fn replay(&mut self, env: &mut Env, core: &mut Broker, frames: &[Frame]) {
        let oldest = frames.first().map_or(1, |frame| frame.lsn);
        if !self.has_released && oldest != 1 {
            env.violate("I9", format!("the log begins with {oldest}, and nothing was released"));
        }
        self.hear_durable(env, frames);
        for frame in frames {
            let Some(kind) = frame.kind else { continue };
            if let Err(error) = core.replay(kind, frame.lsn, frame.time_ms, &frame.payload) {
                env.checks.violate(&mut env.trace, "I17", error.to_string());
            }
        }
        let (durable_lsn, end) = (env.checks.history.lsn(), frames.last().map_or(0, |frame| frame.lsn));
        if durable_lsn > end {
            env.violate("I9", format!("record {durable_lsn} was durable, and the log ends at {end}"));
        }
    }

    /// These are durable: whatever follows is judged by it.
    fn hear_durable(&mut self, env: &mut Env, frames: &[Frame]) {
        for frame in frames {
            self.check_time(env, frame);
            let checks = &mut env.checks;
            checks.history.time_ms = frame.time_ms;
            let durable = checks.history.durable(&checks.models, frame.kind, frame.lsn, &frame.payload);
            env.checks.judge(&mut env.trace, durable);
        }
        env.checks.note_situations();
        for (saga, attempt) in std::mem::take(&mut env.checks.history.newly_restarted) {
            let checks = &env.checks;
            let found = checks.ledger.check_undone(&checks.models, &checks.history, saga, attempt);
            env.judge(found);
        }
        for saga in std::mem::take(&mut env.checks.history.newly_ended) {
            let checks = &env.checks;
            let found = checks.ledger.check_ended(&checks.models, &checks.history, saga);
            env.judge(found);
        }
    }

    /// Broker time never goes back (rule 10).
    fn check_time(&mut self, env: &mut Env, frame: &Frame) {
        if frame.kind.is_none() || frame.lsn <= env.checks.history.lsn() {
            return;
        }
        if frame.time_ms < self.last_time_ms {
            let Frame { lsn, time_ms, .. } = frame;
            env.violate(
                "rule 10",
                format!("record {lsn} is of {time_ms} ms, and the one before of {}", self.last_time_ms),
            );
        }
        self.last_time_ms = frame.time_ms;
    }

    /// The process dies, with what was not synced, or a part of it.
    pub fn crash(&mut self, env: &mut Env) {
        self.gone(env);
        self.log.crash(&mut env.random.disk);
        env.tell(|| "broker crashes".to_owned());
        if env.options.has_bit_flips && env.random.disk.coin() {
            self.check_damage(env);
        }
    }

    /// The process ends as it should.
    pub fn stop(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let time_ms = self.core.as_ref().map_or(0, |core| core.time_ms(now_ms));
        if self.log.close(time_ms).is_err() {
            self.log.crash(&mut env.random.disk);
        }
        self.gone(env);
        env.tell(|| "broker stops".to_owned());
    }

    fn gone(&mut self, env: &mut Env) {
        self.seat.is_alive = false;
        self.core = None;
        self.inbox.clear();
        self.frames.clear();
        self.wants_crash = false;
        self.watch = Watch::default();
        self.parked = (0, 0);
        env.network.broker_is_down(env.trace.now_us, &mut env.schedule);
        env.checks.broker_crashed();
    }

    /// A bit of some file has turned, or a file is gone: the log refuses to start, or all that it holds is right and
    /// nothing that it knows to be durable is missing.
    fn check_damage(&mut self, env: &mut Env) {
        let disk = self.log.disk.copy();
        if env.random.disk.chance(3_000) {
            disk.lose_some(&mut env.random.disk);
        } else {
            disk.flip_some(&mut env.random.disk);
        }
        match read(&disk, self.log.config()) {
            Err(_) => env.reach(Situation::DamageRefused),
            Ok(found) => {
                let read_lsn = found.recovered.next_lsn - 1;
                if read_lsn < self.log.stated_lsn {
                    let stated_lsn = self.log.stated_lsn;
                    env.violate("I9", format!("with a bit turned, the log ends at {read_lsn}, not at {stated_lsn}"));
                }
                let durable_lsn = env.checks.history.lsn();
                for frame in found.frames.iter().filter(|frame| frame.lsn <= durable_lsn) {
                    let same = env.checks.history.is_same(frame.kind, frame.lsn, &frame.payload);
                    env.checks.judge(&mut env.trace, same);
                }
                env.reach(Situation::DamageHarmless);
            }
        }
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
        for _ in 0..self.seat.frames_a_wake(env) {
            let Some((connection, process, frame)) = self.inbox.pop_front() else { break };
            let identity = identity(connection);
            let life = env.lives[process];
            env.trace.mix_bytes(&frame);
            env.checks.incoming(&identity, process, life, &frame);
            let Some(core) = &mut self.core else { return };
            core.receive(&identity, &frame, now_ms);
            if core.record_bytes() as u64 >= env.options.segment_bytes / 8 {
                self.flush(env);
            }
        }
        if !self.inbox.is_empty() {
            self.seat.wake_soon(env);
        }
        self.pass_on(env);
    }

    pub fn tick(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let room = self.room();
        let first_lsns = self.log.first_lsns();
        if let Some(core) = &mut self.core {
            core.set_room(room);
            core.log_has(&first_lsns, self.log.config().segment_bytes);
            // Silence is judged only when everything that was said has been heard.
            if self.inbox.is_empty() {
                core.tick(now_ms);
                self.watch.look(env, core, core.time_ms(now_ms));
            }
        }
        self.seat.tick_again(env);
        self.pass_on(env);
    }

    /// Hands to the log what was accepted.
    fn flush(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let Some(core) = &mut self.core else { return };
        while let Some(record) = core.flush(now_ms) {
            let lsn = record.lsn;
            if record.kind == RecordKind::Copies && lsn > 2 {
                env.checks.situations.reach(Situation::CopiesWritten);
            }
            env.trace.mix_bytes(&record.payload);
            if record.kind == RecordKind::Transactions {
                env.checks.ahead.written(&record.payload);
            }
            if lsn != self.log.next_lsn() {
                env.checks.violate(&mut env.trace, "I2", format!("record {lsn} follows {}", self.log.last_lsn));
            }
            self.log.append(record);
        }
    }

    /// Writes what was accepted, and sends what is to be sent.
    fn pass_on(&mut self, env: &mut Env) {
        self.flush(env);
        self.note_parked(env);
        self.send(env);
        self.commit(env);
    }

    /// What the broker parked and read back since somebody looked. It can always read it.
    fn note_parked(&mut self, env: &mut Env) {
        let Some(core) = &self.core else { return };
        if let Some(reason) = core.failed() {
            env.checks.violate(&mut env.trace, "I9", format!("a parked saga cannot be read back: {reason}"));
        }
        let (parked, recalls) = (core.state().parked(), core.state().parked.recalls);
        if parked > self.parked.0 {
            env.checks.situations.reach(Situation::SagaParked);
        }
        if recalls > self.parked.1 {
            env.checks.situations.reach(Situation::SagaReadBack);
        }
        self.parked = (parked, recalls);
    }

    fn commit(&mut self, env: &mut Env) {
        if self.log.begin_commit() {
            let mut delay_us = env.random.disk.tail(env.options.sync_half_us);
            delay_us += self.stalled_until_us.saturating_sub(env.now_us());
            env.after(delay_us, Event::Synced { life: self.seat.life });
        }
    }

    pub fn synced(&mut self, env: &mut Env) {
        match self.log.end_commit(&mut env.random.disk) {
            Ok(frames) => self.hear_durable(env, &frames),
            Err(error) => {
                let is_full = matches!(error, LogError::NoRoom);
                if is_full {
                    self.note_full(env);
                }
                env.reach(if is_full { Situation::NoRoom } else { Situation::SyncFailed });
                env.tell(|| format!("the log fails: {error}"));
                self.wants_crash = true;
                return;
            }
        }
        let lsn = self.log.durable_lsn;
        env.trace.mix(lsn);
        let now_ms = self.seat.now_ms(env);
        if let Some(core) = &mut self.core {
            core.synced(lsn, now_ms);
            if let Some(before_lsn) = core.released() {
                env.checks.situations.reach(Situation::SegmentsReleased);
                self.has_released = true;
                self.log.release_before(before_lsn);
                // That is when it matters.
                let may_crash = !env.is_healed && env.options.faults.contains(&Fault::CrashBroker);
                self.wants_crash = may_crash && env.random.disk.chance(3_000);
            }
        }
        self.pass_on(env);
    }

    fn send(&mut self, env: &mut Env) {
        let now_ms = self.seat.now_ms(env);
        let Some(core) = &mut self.core else { return };
        core.take_frames(&mut self.frames);
        for (identity, frame) in self.frames.drain(..) {
            env.trace.mix_bytes(&frame);
            let process = env.network.process_of(&identity);
            if env.trace.is_told() {
                describe(&frame)
                    .into_iter()
                    .for_each(|line| env.trace.tell(|| format!("to process {process}: {line}")));
            }
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
        let config = self.config(env);
        let Some(core) = self.core.as_mut().filter(|_| self.log.is_settled()) else { return };
        let (sequences, time_ms) = (core.state().next_sequence, core.time_ms(self.seat.now_ms(env)));
        let live = digest(core, sequences);
        let found = match read(&self.log.disk.copy(), self.log.config()) {
            Ok(found) => found,
            Err(error) => return env.violate("I17", format!("the log cannot be read: {error}")),
        };
        for _ in 0..2 {
            let mut fresh = Broker::new(config);
            fresh.set_read_back(found.read_back_before());
            for frame in &found.frames {
                let Some(kind) = frame.kind else { continue };
                if let Err(error) = fresh.replay(kind, frame.lsn, frame.time_ms, &frame.payload) {
                    return env.violate("I17", error.to_string());
                }
            }
            fresh.replayed(time_ms);
            let replayed = digest(&mut fresh, sequences);
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

    /// Bytes of pending messages, and those reserved for running sagas.
    pub fn counted_bytes(&self) -> (usize, u64) {
        self.core.as_ref().map_or((0, 0), |core| (core.state().body_bytes, core.state().reserved_bytes))
    }

    /// Sagas that run, and pending tokens.
    pub fn left(&self) -> (usize, usize) {
        self.core.as_ref().map_or((1, 1), |core| (core.state().running(), core.state().pending_tokens()))
    }
}
