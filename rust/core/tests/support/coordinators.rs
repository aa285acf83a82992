//! A model broker with its services, coordinators with tables of 16 slots, and faults between them.

#![allow(dead_code)] // Each test file uses its own part of this.

use sagacore_core::coordinator::{Coordinator, Stats};
use sagacore_core::limits::SLOTS_MIN;
use sagacore_core::peer::{Link, Peer, PeerOptions};
use sagacore_core::wire::{Kind, Role};

use crate::model_broker::Broker;
use crate::support::SagaModel;

/// How often each fault strikes, of 1,000 turns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub abort: u64,
    pub wide: u64,
    pub lapse: u64,
    pub double: u64,
    pub restart: u64,
    pub reconnect: u64,
    pub deal: u64,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub saga: SagaModel,
    pub sagas: usize,
    pub coordinators: usize,
    pub credit: u64,
    /// The service of this step hardly answers while faults strike: sagas pile up around it.
    pub lazy: u16,
    pub faults: Faults,
    pub seed: u64,
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

pub struct World {
    pub broker: Broker,
    pub coordinators: Vec<Coordinator>,
    dice: Dice,
    pub scenario: Scenario,
    instances: u64,
    /// Of coordinators that were restarted.
    pub spilled: u64,
    pub given_back: u64,
}

impl World {
    pub fn new(scenario: &Scenario) -> Self {
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
    pub fn calm(&mut self) {
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

    pub fn serve(&mut self, lazily: bool) {
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

    pub fn deliver(&mut self, coordinator: usize, alone: bool) {
        let deliverable = self.broker.deliverable(coordinator);
        if let Some(token) = self.dice.pick(&deliverable) {
            let copies = 1 + usize::from(self.dice.strikes(self.scenario.faults.double));
            self.broker.deliver(coordinator, token, copies, alone);
        }
    }

    pub fn hear(&mut self, coordinator: usize) -> bool {
        let inbox = &mut self.broker.sessions[coordinator].inbox;
        let Some(mut frame) = inbox.pop_front() else { return false };
        for _ in 0..self.dice.roll(3) {
            frame.extend(inbox.pop_front().unwrap_or_default());
        }
        self.coordinators[coordinator].receive(&frame, self.broker.now_ms).unwrap();
        true
    }

    pub fn say(&mut self, coordinator: usize) -> bool {
        let Some(frame) = self.coordinators[coordinator].frame(self.broker.now_ms) else { return false };
        self.broker.receive(coordinator, &frame);
        true
    }

    pub fn tick(&mut self, coordinator: usize) {
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

    pub fn finish(mut self, turns: usize) -> Self {
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
