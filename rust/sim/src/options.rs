//! What a seed chooses: the load, the processes, the network, and which faults strike how often. Whole classes of
//! faults are off in some seeds: a system that is disturbed in every way at once hides what one way alone would show.

use sagacore_broker::{ParkingBounds, WatermarkBounds};
use sagacore_core::limits::{BACKOFF_LAST_MS, DELIVERIES_MAX};

use crate::contention::Contention;
use crate::plans::Definition;
use crate::random::Random;

/// How a service keeps what it knows of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceMode {
    /// In the memory of its only process, as its effects are.
    Memory,
    /// In a database that all its processes share, committed with the effect.
    Transactional,
    /// In such a database, with the effect elsewhere: at a gateway that knows idempotency keys.
    External,
}

#[derive(Debug, Clone)]
pub struct ServiceOptions {
    pub mode: FenceMode,
    pub processes: usize,
    /// The timeout of its steps.
    pub timeout_ms: u64,
    /// Tries before an action is given up.
    pub tries_max: u64,
    pub credit: u64,
    /// How long a call takes: half of the calls take less.
    pub call_half_us: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct NetworkOptions {
    pub delay_first_us: u64,
    pub delay_half_us: u64,
    /// Frames under way to one peer before the broker's socket refuses more.
    pub queued_frames_max: usize,
    /// Frames, of 10,000, with which their connection breaks: they and all that is under way are lost.
    pub loss: u64,
    /// Frames, of 10,000, that arrive twice. ZeroMQ does not do that: the protocol does not rely on it.
    pub duplication: u64,
}

impl NetworkOptions {
    pub fn heal(&mut self) {
        self.delay_half_us = self.delay_half_us.min(2_000);
        self.queued_frames_max = 4_096;
        (self.loss, self.duplication) = (0, 0);
    }
}

/// The classes of faults that strike processes and connections from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    CrashBroker,
    StopBroker,
    FailSync,
    FillDisk,
    BreakFrame,
    CrashCoordinator,
    CrashService,
    CrashClient,
    PauseBroker,
    PausePeer,
    /// A process reads slowly for a while.
    SlowPeer,
    BreakConnection,
    CutPeer,
    CutBroker,
    StallDisk,
    ReplayFrame,
    ForgeFrame,
    /// A process answers for a step that another service has.
    AnswerForAnother,
    Cancel,
    /// An operator retries or skips a step.
    Resolve,
    /// The network's own, each with its share of all frames.
    LoseFrame,
    DuplicateFrame,
}

impl Fault {
    /// Those that strike from time to time.
    pub const ALL: [Self; 20] = [
        Self::CrashBroker,
        Self::StopBroker,
        Self::FailSync,
        Self::FillDisk,
        Self::BreakFrame,
        Self::CrashCoordinator,
        Self::CrashService,
        Self::CrashClient,
        Self::PauseBroker,
        Self::PausePeer,
        Self::SlowPeer,
        Self::BreakConnection,
        Self::CutPeer,
        Self::CutBroker,
        Self::StallDisk,
        Self::ReplayFrame,
        Self::ForgeFrame,
        Self::AnswerForAnother,
        Self::Cancel,
        Self::Resolve,
    ];
}

/// How often a call goes wrong, of 10,000.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behaviour {
    /// A business no: not a fault, it goes on after all faults have ended.
    pub reject: u64,
    pub fail: u64,
    /// The effect takes place and a failure is told.
    pub fail_after: u64,
    /// The call reaches its gateway after everybody gave it up.
    pub late: u64,
    pub hang: u64,
    pub slow: u64,
    /// The process crashes at some point of the work.
    pub crash: u64,
    /// It never ends, and its process does not know; another process does it in the end.
    pub stuck: u64,
    /// The action of an order crashes its process, whenever it is called: nothing heals that.
    pub poison: u64,
}

/// Which boots of the broker let tokens run ahead of the log (rule 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    Never,
    Always,
    /// Every other one.
    InTurn,
}

impl Ahead {
    pub fn in_boot(self, boot: u32) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::InTurn => boot % 2 == 1,
        }
    }
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub sagas: usize,
    pub plans: Vec<Definition>,
    pub services: Vec<ServiceOptions>,
    pub coordinators: usize,
    pub slots: usize,
    pub coordinator_credit: u64,
    pub clients: usize,
    /// Sagas begin within this time.
    pub load_ms: u64,
    /// After this time all faults end.
    pub chaos_ms: u64,
    pub network: NetworkOptions,
    /// How long a sync takes: half of them take less.
    pub sync_half_us: u64,
    /// Bytes after which the log goes on in another segment.
    pub segment_bytes: u64,
    /// The disk is the broker's alone, and has room for so many segments until all faults end.
    pub disk_segments: Option<u64>,
    /// After a crash, it is tried what a turned bit does.
    pub has_bit_flips: bool,
    pub stuck_after_ms: u64,
    pub watermarks: WatermarkBounds,
    pub parking: ParkingBounds,
    /// A process may once be paused for so long; all other pauses are short.
    pub long_pause_us: u64,
    /// Ended sagas that the broker remembers; an older key begins a new saga.
    pub outcomes_max: usize,
    pub faults: Vec<Fault>,
    /// Time between two faults, about.
    pub fault_every_ms: u64,
    pub behaviour: Behaviour,
    pub contention: Contention,
    /// Orders, of 10,000, that their client cancels while they run.
    pub cancel: u64,
    /// Clocks begin at different times and do not run equally fast.
    pub has_uneven_clocks: bool,
    pub ahead: Ahead,
}

/// After the last fault everything must have ended within this time.
const HEALING_MS: u64 = 240_000;
/// A message that kills whoever gets it is given up within this time, restarts included.
const POISON_MS: u64 = DELIVERIES_MAX as u64 * (BACKOFF_LAST_MS + BACKOFF_LAST_MS / 2 + 1_000);

impl Options {
    /// How long everything may take to end after the last fault. Poisoned sagas may wait for each other's holds, and
    /// none of their class begins while one of them holds up its watermark.
    pub fn healing_ms(&self) -> u64 {
        let sagas = self.sagas as u64;
        let poisoned = (1..=sagas).filter(|&sequence| self.poisoned_step(sequence).is_some()).count() as u64;
        let rounds = if poisoned == 0 { 0 } else { poisoned + sagas.div_ceil(self.watermarks.span) };
        HEALING_MS.max(rounds * POISON_MS)
    }

    /// The step of a saga that crashes whoever acts on it, if there is one: always the same one of the same saga.
    pub fn poisoned_step(&self, sequence: u64) -> Option<u64> {
        let mut random = Random::new(self.seed ^ sequence << 20, "poison");
        random.chance(self.behaviour.poison).then(|| random.below(4))
    }

    /// What a seed chooses.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, "options");
        let profile = Profile::of(&mut random);
        let is_calm = profile == Profile::Calm;
        let (watermarks, long_pause_us) = watermarks(seed, profile);
        let services = service_options(&mut random, profile);
        let services_count = services.len();
        let is_long = matches!(profile, Profile::Calm | Profile::Poisoned);
        let plans = plans(&mut random, services.len(), profile);
        let faults = chosen_faults(&mut random, profile);
        let load_ms = random.magnitude(50, if profile == Profile::Crowded { 400 } else { 8_000 });
        let chaos_ms = match profile {
            Profile::Calm => load_ms,
            Profile::Poisoned => 90_000,
            _ => load_ms + random.magnitude(100, 20_000),
        };
        Self {
            seed,
            sagas: if matches!(profile, Profile::Bulky | Profile::Tight) { 250 } else { 100 } + random.index(40),
            plans,
            services,
            coordinators: if profile == Profile::Crowded { 1 } else { random.between(1, 3) as usize },
            slots: if profile == Profile::Crowded || random.chance(8_000) { 16 } else { 64 },
            coordinator_credit: random.magnitude(1, if profile == Profile::Crowded { 4 } else { 512 }),
            clients: random.between(1, 3) as usize,
            load_ms,
            chaos_ms,
            network: NetworkOptions {
                delay_first_us: random.magnitude(20, 5_000),
                delay_half_us: random.magnitude(20, 30_000),
                queued_frames_max: if is_calm || random.chance(8_000) {
                    4_096
                } else {
                    random.magnitude(2, 64) as usize
                },
                loss: if is_calm || random.chance(8_000) { 0 } else { random.magnitude(1, 200) },
                duplication: if is_calm || random.chance(8_000) { 0 } else { random.magnitude(1, 2_000) },
            },
            sync_half_us: random.magnitude(50, 20_000),
            segment_bytes: match profile {
                Profile::Bulky => random.magnitude(192 << 10, 400 << 10),
                Profile::Tight => random.magnitude(32 << 10, 64 << 10),
                _ if faults.contains(&Fault::FillDisk) && random.coin() => random.magnitude(24 << 10, 48 << 10),
                _ => random.magnitude(64 << 10, 256 << 10),
            },
            disk_segments: (profile == Profile::Tight).then(|| random.between(6, 16)),
            has_bit_flips: random.coin(),
            stuck_after_ms: random.magnitude(500, 60_000),
            watermarks,
            parking: parking(seed),
            long_pause_us,
            outcomes_max: if is_calm || random.chance(8_000) { 1 << 20 } else { random.magnitude(4, 64) as usize },
            behaviour: behaviour(&mut random, profile),
            contention: Contention::of(seed, services_count, if is_calm { 3_000 } else { 4_000 }, is_long),
            fault_every_ms: if profile == Profile::Racing {
                random.magnitude(20, 100)
            } else {
                random.magnitude(20, 1_000)
            },
            cancel: if is_calm || random.coin() { 0 } else { random.magnitude(10, 3_000) },
            has_uneven_clocks: !is_calm && random.coin(),
            ahead: match random.below(8) {
                0..4 => Ahead::Never,
                4..7 => Ahead::Always,
                _ => Ahead::InTurn,
            },
            faults,
        }
    }

    /// Whether nothing at all goes wrong, and no saga waits for another: then every saga takes just the messages that
    /// its plan says.
    pub fn is_calm(&self) -> bool {
        let Behaviour { reject: _, fail, fail_after, late, hang, slow, crash, stuck, poison } = self.behaviour;
        let is_alone = self.faults.is_empty() && self.contention.rate == 0;
        is_alone && fail + fail_after + late + hang + slow + crash + stuck + poison + self.cancel == 0
    }
}

/// The kinds of seeds that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// Nothing goes wrong.
    Calm,
    /// Some classes of faults, often or rarely.
    Mixed,
    /// Several processes of each service that are paused and cut off all the time, with many aborts: two do the same.
    Racing,
    /// Some orders crash whoever acts on them.
    Poisoned,
    /// Large inputs, so that the log grows and is compacted.
    Bulky,
    /// A disk that is small, and the broker's alone.
    Tight,
    /// Many joins at one coordinator with the smallest table and little credit.
    Crowded,
}

impl Profile {
    fn of(random: &mut Random) -> Self {
        match random.below(100) {
            0..8 => Self::Calm,
            8..60 => Self::Mixed,
            60..85 => Self::Racing,
            85..89 => Self::Poisoned,
            89..93 => Self::Crowded,
            93..95 => Self::Tight,
            _ => Self::Bulky,
        }
    }
}

fn service_options(random: &mut Random, profile: Profile) -> Vec<ServiceOptions> {
    let is_racing = profile == Profile::Racing;
    let count = random.between(1, 4);
    (0..count)
        .map(|_| {
            let mode = match random.below(if is_racing { 7 } else { 3 }) {
                0 => FenceMode::Memory,
                1 | 3 | 4 => FenceMode::Transactional,
                _ => FenceMode::External,
            };
            ServiceOptions {
                mode,
                processes: match mode {
                    FenceMode::Memory => 1,
                    _ if is_racing => random.between(2, 3) as usize,
                    _ => random.between(1, 3) as usize,
                },
                timeout_ms: if profile == Profile::Calm { 60_000 } else { random.magnitude(200, 4_000) },
                tries_max: random.between(1, 5),
                credit: random.magnitude(1, 256),
                call_half_us: if is_racing { random.magnitude(1_000, 200_000) } else { random.magnitude(20, 50_000) },
            }
        })
        .collect()
}

/// What watermarks may hold back, and how long a process may be paused: an hour in some seeds, for what wakes then must
/// do no harm.
fn watermarks(seed: u64, profile: Profile) -> (WatermarkBounds, u64) {
    let mut random = Random::new(seed, "watermarks");
    let is_small = profile != Profile::Calm && random.chance(3_000);
    let bounds = if is_small {
        WatermarkBounds { span: random.magnitude(16, 256), exceptions: random.magnitude(1, 16) as usize }
    } else {
        WatermarkBounds::default()
    };
    (bounds, if random.chance(200) { random.between(60, 3_600) * 1_000_000 } else { 0 })
}

/// When sagas are parked: in most seeds as soon as nothing happens to them for some ticks.
fn parking(seed: u64) -> ParkingBounds {
    let mut random = Random::new(seed, "parking");
    if random.chance(2_000) {
        return ParkingBounds::default();
    }
    ParkingBounds {
        round_ms: random.magnitude(20, 1_000),
        record_bytes: random.magnitude(256, 8_192) as usize,
        replayed_max: random.magnitude(1, 64) as usize,
    }
}

fn plans(random: &mut Random, services: usize, profile: Profile) -> Vec<Definition> {
    if profile == Profile::Crowded {
        return (0..2).map(|_| Definition::crowded(random, services)).collect();
    }
    let mut plans = vec![Definition::shop(random.coin(), services)];
    for _ in 0..random.below(4) {
        let steps_max = random.magnitude(2, 12) as usize;
        plans.push(Definition::random(random, steps_max, services));
    }
    if matches!(profile, Profile::Bulky | Profile::Tight) {
        plans.iter_mut().for_each(|plan| plan.input_max = random.magnitude(200, 1_000));
    }
    if matches!(profile, Profile::Poisoned | Profile::Calm) {
        // Long enough for the delivery limit to come first, or never.
        plans.iter_mut().for_each(|plan| plan.deadline_ms = 3_600_000);
    }
    plans
}

fn chosen_faults(random: &mut Random, profile: Profile) -> Vec<Fault> {
    let share = random.between(1, 7) * 1_000;
    match profile {
        Profile::Calm | Profile::Poisoned => Vec::new(),
        Profile::Racing => {
            let racing = [Fault::PausePeer, Fault::CutPeer, Fault::BreakConnection, Fault::CrashService, Fault::Cancel];
            let others = Fault::ALL.into_iter().filter(|_| random.chance(1_000));
            racing.into_iter().chain(others).collect()
        }
        Profile::Tight => {
            let others = Fault::ALL.into_iter().filter(|_| random.chance(share));
            others.filter(|&fault| fault != Fault::FillDisk).collect()
        }
        Profile::Mixed | Profile::Bulky | Profile::Crowded => {
            Fault::ALL.into_iter().filter(|_| random.chance(share)).collect()
        }
    }
}

fn behaviour(random: &mut Random, profile: Profile) -> Behaviour {
    let mut rate = |most: u64| if random.coin() { 0 } else { random.magnitude(10, most) };
    match profile {
        Profile::Calm => Behaviour { reject: rate(1_000), ..Behaviour::default() },
        Profile::Poisoned => Behaviour { reject: rate(1_000), poison: 300, ..Behaviour::default() },
        _ => Behaviour {
            reject: rate(2_000),
            fail: rate(3_000),
            fail_after: rate(1_500),
            late: rate(1_000),
            hang: rate(500),
            slow: rate(1_000),
            crash: rate(200),
            stuck: rate(100),
            poison: 0,
        },
    }
}
