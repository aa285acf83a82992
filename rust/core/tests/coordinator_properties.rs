//! Coordinators with tiny tables against a model broker: whatever is lost, doubled, spilled or restarted, every saga
//! reaches exactly one outcome, and every message on the way is the one that the plan asks for.

#[path = "support/model_broker.rs"]
mod model_broker;
mod support;

use model_broker::Broker;
use proptest::prelude::*;
use sagacore_core::coordinator::{Coordinator, Stats};
use sagacore_core::limits::SLOTS_MIN;
use sagacore_core::peer::{Link, Peer, PeerOptions};
use sagacore_core::plan::Plan;
use sagacore_core::wire::{Header, Kind, OutcomeCode, Role, Section, TransactionWriter};
use support::{COMPENSABLE, PIVOT, SagaModel, members};

/// How often each fault strikes, of 1,000 turns.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    abort: u64,
    wide: u64,
    lapse: u64,
    double: u64,
    restart: u64,
    reconnect: u64,
    deal: u64,
}

#[derive(Debug, Clone)]
struct Scenario {
    saga: SagaModel,
    sagas: usize,
    coordinators: usize,
    credit: u64,
    /// The service of this step hardly answers while faults strike: sagas pile up around it.
    lazy: u16,
    faults: Faults,
    seed: u64,
}

/// SplitMix64: what happens next follows from the seed of the case.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ value >> 31) % sides.max(1) as u64) as usize
    }

    fn strikes(&mut self, per_1000: u64) -> bool {
        (self.roll(1000) as u64) < per_1000
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.roll(items.len())])
    }
}

struct World {
    broker: Broker,
    coordinators: Vec<Coordinator>,
    dice: Dice,
    scenario: Scenario,
    instances: u64,
    /// Of coordinators that were restarted.
    spilled: u64,
    given_back: u64,
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let mut world = Self {
            broker: Broker::new(scenario.saga.encode(), scenario.coordinators),
            coordinators: Vec::new(),
            dice: Dice(scenario.seed),
            scenario: scenario.clone(),
            instances: 0,
            spilled: 0,
            given_back: 0,
        };
        for _ in 0..scenario.coordinators {
            let coordinator = world.fresh();
            world.coordinators.push(coordinator);
        }
        world
    }

    fn fresh(&mut self) -> Coordinator {
        self.instances += 1;
        let peer = Peer::new(PeerOptions {
            role: Role::Coordinator,
            name: String::new(),
            instance: self.instances,
            exclusive: false,
            lease_ms: 0,
            credit: self.scenario.credit,
            outbox_bytes_max: 1 << 20,
        });
        let mut coordinator = Coordinator::new(SLOTS_MIN, peer);
        coordinator.connect(self.broker.now_ms);
        coordinator
    }

    /// Random turns, with faults, until all sagas have begun and had their chances.
    fn shake(&mut self, turns: usize) {
        for _ in 0..turns {
            let coordinator = self.dice.roll(self.coordinators.len());
            match self.dice.roll(10) {
                0 if self.broker.sagas.len() < self.scenario.sagas => self.broker.start(coordinator),
                0 | 1 => self.serve(true),
                2..=4 => {
                    let alone = self.dice.roll(2) == 0;
                    self.deliver(coordinator, alone);
                }
                5..=7 => _ = self.hear(coordinator),
                8 => _ = self.say(coordinator),
                _ => {
                    self.broker.now_ms += self.dice.roll(4) as u64;
                    self.broker.answer(coordinator);
                }
            }
            self.fault(coordinator);
            self.tick(coordinator);
        }
        while self.broker.sagas.len() < self.scenario.sagas {
            let coordinator = self.dice.roll(self.coordinators.len());
            self.broker.start(coordinator);
        }
    }

    /// No more faults, and no lease lapses: whatever was lost is missed now.
    fn calm(&mut self) {
        for _ in 0..2_000 {
            if self.broker.sagas.iter().all(|saga| saga.outcome.is_some()) {
                return;
            }
            for _ in 0..50 {
                self.serve(false);
            }
            for coordinator in 0..self.coordinators.len() {
                for _ in 0..50 {
                    self.deliver(coordinator, false);
                }
                while self.hear(coordinator) {}
                while self.say(coordinator) {}
                self.broker.answer(coordinator);
                self.tick(coordinator);
            }
            self.broker.now_ms += 1;
        }
        let stuck = self.broker.sagas.iter().find(|saga| saga.outcome.is_none());
        panic!("a saga never ended: {stuck:#?}");
    }

    fn serve(&mut self, lazily: bool) {
        let saga = self.dice.roll(self.broker.sagas.len());
        let open = (0..self.broker.sagas.len()).map(|offset| (saga + offset) % self.broker.sagas.len());
        let lazy = self.scenario.lazy.wrapping_add(u16::from(self.dice.strikes(50)) * 1_000);
        let willing = |saga| {
            let mut requests = self.broker.requests(saga);
            requests.retain(|&(_, step)| !lazily || step != lazy);
            (saga, requests)
        };
        let requests = open.map(willing).find(|(_, requests)| !requests.is_empty());
        if let Some((saga, requests)) = requests {
            let request = self.dice.pick(&requests).unwrap();
            self.broker.serve(saga, request);
        }
    }

    fn deliver(&mut self, coordinator: usize, alone: bool) {
        let deliverable = self.broker.deliverable(coordinator);
        if let Some(token) = self.dice.pick(&deliverable) {
            let copies = 1 + usize::from(self.dice.strikes(self.scenario.faults.double));
            self.broker.deliver(coordinator, token, copies, alone);
        }
    }

    fn hear(&mut self, coordinator: usize) -> bool {
        let Some(frame) = self.broker.sessions[coordinator].inbox.pop_front() else { return false };
        self.coordinators[coordinator].receive(&frame, self.broker.now_ms).unwrap();
        true
    }

    fn say(&mut self, coordinator: usize) -> bool {
        let Some(frame) = self.coordinators[coordinator].frame(self.broker.now_ms) else { return false };
        self.broker.receive(coordinator, &frame);
        true
    }

    fn tick(&mut self, coordinator: usize) {
        let now_ms = self.broker.now_ms;
        if self.coordinators[coordinator].tick(now_ms) == Link::Reconnect {
            self.broker.sessions[coordinator].inbox.clear();
            self.coordinators[coordinator].connect(now_ms);
        }
    }

    fn fault(&mut self, coordinator: usize) {
        let faults = self.scenario.faults;
        if self.broker.sagas.is_empty() {
            return;
        }
        let saga = self.dice.roll(self.broker.sagas.len());
        if self.dice.strikes(faults.abort) {
            let requests = self.broker.requests(saga);
            let rejected = self.dice.pick(&requests).filter(|_| self.dice.roll(2) == 0);
            let wide = self.dice.strikes(faults.wide);
            self.broker.abort(saga, rejected.filter(|&(kind, _)| kind == Kind::Run.code()), wide);
        }
        if self.dice.strikes(faults.lapse) {
            let names: Vec<_> = self.broker.sagas[saga].pending.keys().copied().collect();
            if let Some(name) = self.dice.pick(&names) {
                self.broker.lapse(saga, name);
            }
        }
        if self.dice.strikes(faults.deal) {
            self.broker.deal(saga, coordinator);
        }
        if self.dice.strikes(faults.reconnect) {
            self.broker.close(coordinator);
            if self.dice.roll(2) == 0 {
                self.coordinators[coordinator].connect(self.broker.now_ms);
            }
        }
        if self.dice.strikes(faults.restart) {
            self.broker.close(coordinator);
            let fresh = self.fresh();
            let old = std::mem::replace(&mut self.coordinators[coordinator], fresh);
            self.count(&old.stats());
        }
    }

    fn count(&mut self, stats: &Stats) {
        self.spilled += stats.evictions_dirty;
        self.given_back += stats.given_back;
    }

    fn finish(mut self, turns: usize) -> Self {
        let table_bytes = self.coordinators[0].table_bytes();
        self.shake(turns);
        self.calm();
        for index in 0..self.coordinators.len() {
            let stats = self.coordinators[index].stats();
            assert_eq!(stats.table_bytes, table_bytes as u64);
            assert!(stats.slots_used <= stats.slots && stats.strays == 0 && stats.plans_refused == 0);
            self.count(&stats);
        }
        self
    }
}

/// Up to nine steps, each after any of those before it.
fn any_graph() -> impl Strategy<Value = SagaModel> {
    let rows = prop::collection::vec((any::<u16>(), any::<u16>(), any::<u16>()), 1..10);
    (rows, 0..2u64, 0..10usize).prop_map(|(rows, undo, pivot)| {
        let mut saga =
            SagaModel::graph(rows.len() as u64, |step| members(u64::from(rows[step as usize].0) % (1 << step)));
        saga.undo = undo;
        for (step, &(_, reads, undo_before)) in rows.iter().enumerate() {
            let ancestors = saga.compile().unwrap().steps[step].ancestors;
            saga.steps[step].reads = members(u64::from(reads) & ancestors);
            saga.steps[step].undo_before =
                members(u64::from(undo_before) & u64::from(rows[step].0) & ((1 << step) - 1));
        }
        with_pivot(saga, pivot)
    })
}

/// Layers in which each step waits for all of the layer before: several joins to a block, and several blocks.
fn layers() -> impl Strategy<Value = SagaModel> {
    (prop::collection::vec(1..9u64, 1..5), 0..2u64, 0..10usize).prop_map(|(widths, undo, pivot)| {
        let mut saga = SagaModel::new("layers");
        let mut above = Vec::new();
        for width in widths {
            above = (0..width).map(|_| saga.step(&format!("s{}", saga.steps.len()), &above)).collect();
        }
        for step in &mut saga.steps {
            step.reads = step.after.clone();
        }
        saga.undo = undo;
        with_pivot(saga, pivot)
    })
}

/// The saga with that step as its pivot, if it may be one.
fn with_pivot(saga: SagaModel, pivot: usize) -> SagaModel {
    let mut with_pivot = saga.clone();
    if let Some(step) = with_pivot.steps.get_mut(pivot) {
        step.flags = PIVOT | COMPENSABLE;
    }
    if with_pivot.compile().is_ok() { with_pivot } else { saga }
}

fn faults() -> impl Strategy<Value = Faults> {
    let some = |most| prop_oneof![Just(0), 1..most];
    (some(60u64), some(500), some(80), some(300), some(6), some(6), some(40)).prop_map(
        |(abort, wide, lapse, double, restart, reconnect, deal)| Faults {
            abort,
            wide,
            lapse,
            double,
            restart,
            reconnect,
            deal,
        },
    )
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let saga = prop_oneof![any_graph(), layers()];
    (saga, 1..120usize, 1..3usize, 1..60u64, 0..12u16, faults(), any::<u64>()).prop_map(
        |(saga, sagas, coordinators, credit, lazy, faults, seed)| Scenario {
            saga,
            sagas,
            coordinators,
            credit,
            lazy,

            faults,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_saga_reaches_exactly_one_outcome(scenario in scenario(), turns in 0..6_000usize) {
        World::new(&scenario).finish(turns);
    }

    /// When nothing fails, a saga takes the messages that its plan says, however small the table.
    #[test]
    fn messages_per_saga_are_the_plans(
        saga in prop_oneof![any_graph(), layers()],
        sagas in 1..60usize,
        seed in any::<u64>(),
    ) {
        let faults = Faults::default();
        let scenario = Scenario { saga, sagas, coordinators: 1, credit: 1000, lazy: 2, faults, seed };
        let world = World::new(&scenario).finish(1_000);
        let tokens = |kind: &u8| [Kind::Run.code(), Kind::Done.code()].contains(kind);
        for saga in &world.broker.sagas {
            prop_assert_eq!(saga.outcome, Some(OutcomeCode::Completed));
            let messages = saga.published.iter().filter(|(kind, _)| tokens(kind)).count();
            prop_assert_eq!(messages, world.broker.plan.messages);
        }
    }
}

fn diamond() -> SagaModel {
    let mut saga = SagaModel::graph(4, |step| [vec![], vec![0], vec![0], vec![1, 2]][step as usize].clone());
    saga.steps[1].reads = vec![0];
    saga.steps[2].reads = vec![0];
    saga.steps[3].reads = vec![1, 2];
    saga
}

fn calm_scenario(saga: SagaModel, sagas: usize) -> Scenario {
    Scenario { saga, sagas, coordinators: 1, credit: 64, lazy: 2, faults: Faults::default(), seed: 1 }
}

/// Runs all sagas until nothing moves, while one step is not served.
fn hold(world: &mut World, held: Kind, step: u16) {
    let mut quiet = 0;
    while quiet < 50 {
        let mut moved = false;
        for saga in 0..world.broker.sagas.len() {
            for request in world.broker.requests(saga) {
                if request != (held.code(), step) {
                    world.broker.serve(saga, request);
                    moved = true;
                }
            }
        }
        while let Some(&token) = world.broker.deliverable(0).first() {
            world.broker.deliver(0, token, 1, false);
            moved = true;
        }
        while world.hear(0) {}
        while world.say(0) {}
        world.broker.answer(0);
        world.tick(0);
        world.broker.now_ms += 5;
        quiet = if moved { 0 } else { quiet + 1 };
    }
}

#[test]
fn a_thousand_half_joined_sagas_fit_into_sixteen_slots() {
    let mut world = World::new(&calm_scenario(diamond(), 1_000));
    let bytes = world.coordinators[0].table_bytes();
    (0..1_000).for_each(|_| world.broker.start(0));
    hold(&mut world, Kind::Run, 2);
    let stats = world.coordinators[0].stats();
    assert!(stats.slots_used <= 16 && world.broker.parked >= 984, "{stats:?}");
    assert_eq!(world.coordinators[0].table_bytes(), bytes);
    world.calm();
    assert!(world.broker.sagas.iter().all(|saga| saga.outcome == Some(OutcomeCode::Completed)));
}

#[test]
fn a_thousand_half_undone_sagas_fit_into_sixteen_slots() {
    let mut world = World::new(&calm_scenario(diamond(), 1_000));
    (0..1_000).for_each(|_| world.broker.start(0));
    hold(&mut world, Kind::Run, 3);
    (0..1_000).for_each(|saga| assert!(world.broker.abort(saga, Some((Kind::Run.code(), 3)), false)));
    hold(&mut world, Kind::Undo, 1);
    assert!(world.coordinators[0].stats().slots_used <= 16 && world.broker.parked >= 984);
    world.calm();
    assert!(world.broker.sagas.iter().all(|saga| saga.outcome == Some(OutcomeCode::Compensated)));
}

#[test]
fn while_too_many_spills_are_unanswered_no_credit_is_granted() {
    let mut world = World::new(&Scenario { credit: 400, ..calm_scenario(diamond(), 200) });
    (0..200).for_each(|_| world.broker.start(0));
    while world.hear(0) | world.say(0) {}
    let mut granted = Vec::new();
    for _ in 0..20 {
        let tokens: Vec<_> = world.broker.deliverable(0).into_iter().take(20).collect();
        tokens.into_iter().for_each(|token| world.broker.deliver(0, token, 1, false));
        while world.hear(0) | world.say(0) {}
        for saga in 0..200 {
            let requests = world.broker.requests(saga);
            let willing = requests.into_iter().filter(|&(_, step)| step != 2);
            willing.for_each(|request| world.broker.serve(saga, request));
        }
        world.tick(0);
        granted.push(world.broker.sessions[0].credit - 400);
    }
    let stats = world.coordinators[0].stats();
    let delivered = world.broker.sessions[0].delivered;
    assert_eq!((delivered, stats.slots_used, stats.slots_pinned), (400, 16, 4));
    assert_eq!(stats.given_back, 200 - 16);
    assert!((40..100).contains(&granted[10]), "the first were granted: {granted:?}");
    assert_eq!(granted[10..], [granted[10]; 10], "the others were not");
    world.broker.answer(0);
    while world.hear(0) | world.say(0) {}
    assert_eq!(world.broker.sessions[0].credit, 400 + 400);
    assert_eq!(world.coordinators[0].stats().slots_pinned, 0);
    world.calm();
}

#[test]
fn a_chain_never_touches_the_table() {
    let saga = SagaModel::graph(4, |step| (0..step).rev().take(1).collect());
    let world = World::new(&calm_scenario(saga, 50)).finish(2_000);
    let stats = world.coordinators[0].stats();
    assert_eq!((stats.lookups, stats.inserts, stats.deliveries, stats.transactions), (0, 0, 100, 100));
    assert_eq!(stats.entries().iter().find(|(name, _)| *name == "arrivals"), Some(&("arrivals", 50)));
}

#[test]
fn the_faults_are_met() {
    let faults = Faults { abort: 20, wide: 300, lapse: 40, double: 100, restart: 2, reconnect: 2, deal: 20 };
    let (mut spilled, mut given_back, mut stale) = (0, 0, 0);
    for seed in 0..20 {
        let scenario = Scenario { saga: diamond(), sagas: 120, coordinators: 2, credit: 40, lazy: 2, faults, seed };
        let world = World::new(&scenario).finish(6_000);
        spilled += world.spilled;
        given_back += world.given_back;
        stale += world.broker.stale;
    }
    assert!(spilled > 100 && stale > 100, "{spilled} spilled, {stale} stale");
    assert!(given_back > 100, "{given_back} found no room");
}

#[test]
fn what_has_an_unknown_plan_is_given_back() {
    let mut world = World::new(&calm_scenario(diamond(), 1));
    while world.hear(0) | world.say(0) {}
    let frame = |header: Header, body: &[u8]| {
        let mut frame = Vec::new();
        let mut transaction = TransactionWriter::new(&mut frame, 0);
        transaction.publish_with(header, |writer| {
            writer.section(Section::DATA, body);
        });
        transaction.finish();
        frame
    };
    let mut start = Header::new(Kind::Start);
    start.plan = 77.into();
    let mut define = Header::new(Kind::Define);
    define.plan = 77.into();
    let coordinator = &mut world.coordinators[0];
    coordinator.receive(&frame(start, b""), 1).unwrap();
    // Neither what is no definition nor another plan's is taken up under this fingerprint.
    coordinator.receive(&frame(define, b"nonsense"), 1).unwrap();
    coordinator.receive(&frame(define, &diamond().encode()), 1).unwrap();
    coordinator.receive(&frame(start, b""), 1).unwrap();
    let stats = coordinator.stats();
    assert_eq!((stats.given_back, stats.plans, stats.plans_refused, stats.transactions), (2, 0, 2, 0));
    assert_eq!(coordinator.receive(b"short", 1).unwrap_err().name(), "transaction.truncated");
    assert_ne!(Plan::compile(&diamond().encode()).unwrap().fingerprint, 77);
}
