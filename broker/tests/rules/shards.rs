//! Steps that wait for sagas of another shard: two brokers, and services that have a session with both.

use sagacore_broker::{Config, Deadlock};
use sagacore_core::limits::WAIT_REFRESH_MS;
use sagacore_core::wire::{
    Blocked, Flags, Freed, Header, HoldMode, Holder, Kind, ProbeHop, Refusal, SagaId, Section, WHOLE_SAGA, WaitPolicy,
};

use super::peers::{Got, World, next, undone};
use super::sagas::{SagaModel, shop};
use super::{EVERYBODY, begin, cancel, join_all, pass_on, refusal, undo_at};

const SERVICES: [&str; 4] = ["create", "charge", "reserve", "schedule"];

fn chain() -> SagaModel {
    let mut saga = shop();
    saga.undo = 1;
    saga
}

/// Two brokers. What they tell each other is carried by whoever got it, unless it is lost.
struct Shards {
    of: [World; 2],
    plan: u64,
    carried: usize,
}

impl Shards {
    fn new() -> Self {
        Self::of(|config| config)
    }

    fn of(set: impl Fn(Config) -> Config) -> Self {
        let mut plan = 0;
        let of = [0, 1].map(|shard| {
            let mut world = World::of(set(Config { shard, secret: [shard as u8; 16], ..Config::default() }));
            join_all(&mut world, &chain());
            plan = world.define(&chain());
            world.take("client");
            world
        });
        Self { of, plan, carried: 0 }
    }

    /// A saga of a shard that has passed its first step: the RUN of its second.
    fn at_charge(&mut self, shard: usize, key: &str) -> Got {
        let world = &mut self.of[shard];
        begin(world, self.plan, key);
        pass_on(world, 0, "create");
        world.token("charge", Kind::Run)
    }

    /// A step waits for others, and what follows is carried unless `is_lost` says so.
    fn block(&mut self, run: &Got, holders: &[Holder]) {
        self.block_as(run, holders, WaitPolicy::Detect);
        self.carry(|_| false);
    }

    fn block_as(&mut self, run: &Got, holders: &[Holder], policy: WaitPolicy) {
        let mode = HoldMode::Exclusive;
        let data = Blocked { policy, mode, resource: b"sku:42", holders: holders.to_vec() }.write();
        let header = next(run, Kind::Blocked, run.place(), run.header.done.get(), run.header.active.get());
        let world = &mut self.of[usize::from(run.header.saga.shard.get())];
        world.say("charge", &[run.key()], &[(header, vec![(Section::DATA, data)])]);
        assert_eq!(refusal_left(world), None);
    }

    /// Carries what brokers tell each other until nothing is left.
    fn carry(&mut self, mut is_lost: impl FnMut(&Got) -> bool) {
        loop {
            let mut told = Vec::new();
            for world in &mut self.of {
                for name in SERVICES {
                    told.extend(world.take_carried(name).into_iter().map(|got| (name, got)));
                }
            }
            if told.is_empty() {
                return;
            }
            for (name, got) in told {
                self.carried += 1;
                if !is_lost(&got) {
                    self.tell(name, &got);
                }
            }
        }
    }

    fn tell(&mut self, name: &str, got: &Got) {
        let sections = super::carried(got);
        self.of[got.header.active.get() as usize].say(name, &[], &[(got.header, sections)]);
    }

    fn pass(&mut self, ms: u64, mut is_lost: impl FnMut(&Got) -> bool) {
        for _ in 0..ms / 100 {
            for world in &mut self.of {
                world.pass(100, &EVERYBODY);
            }
            self.carry(&mut is_lost);
        }
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        self.of.iter().flat_map(|world| world.broker.deadlocks().iter().cloned()).collect()
    }

    fn phantoms(&self) -> u64 {
        self.of.iter().map(|world| world.broker.deadlocks().phantoms).sum()
    }

    /// Whether a saga waits.
    fn waits(&self, run: &Got) -> bool {
        let broker = &self.of[usize::from(run.header.saga.shard.get())].broker;
        broker.waits().any(|(token, _)| broker.state().sagas[broker.state().tokens[token].saga].id == run.header.saga)
    }
}

/// A refusal of what was said for a service, with all else left where it is.
fn refusal_left(world: &mut World) -> Option<Refusal> {
    let kept = world.take_carried("charge");
    let refused = refusal(world, "charge");
    world.put_back("charge", kept);
    refused
}

fn first_of(run: &Got) -> Holder {
    Holder { saga: run.header.saga, attempt: run.header.attempt.get(), place: 0 }
}

fn freed(run: &Got) -> Vec<(SagaId, u32)> {
    let section = run.section(Section::FREED).unwrap_or_default();
    Freed::read_all(section).iter().map(|freed| (freed.saga, freed.attempt.get())).collect()
}

/// A saga that is at its second step is undone.
fn undo_both(world: &mut World) {
    let undo = undo_at(world, "charge");
    let mut on = next(&undo, Kind::Undo, 0, undo.header.done.get(), 0);
    on.undo = (undo.header.undo.get() & !0b10).into();
    on.set(Flags::SPLICE);
    world.say("charge", &[undo.key()], &[(on, vec![])]);
    let undo = undo_at(world, "create");
    world.say("create", &[undo.key()], &[(undone(&undo, 0), vec![])]);
}

#[test]
fn a_step_waits_for_a_saga_of_another_shard_until_that_has_ended() {
    let mut shards = Shards::new();
    let (a, b) = (shards.at_charge(0, "a"), shards.at_charge(1, "b"));
    shards.block(&a, &[first_of(&b)]);
    shards.pass(3 * WAIT_REFRESH_MS, |_| false);
    assert!(shards.waits(&a) && shards.of[0].tokens("charge").is_empty(), "it is not asked again");
    cancel(&mut shards.of[1], "b");
    undo_both(&mut shards.of[1]);
    shards.carry(|_| false);
    let woken = shards.of[0].token("charge", Kind::Run);
    assert_eq!((woken.key(), freed(&woken)), (a.key(), vec![]), "its step is undone, which the service did");
    shards.block(&woken, &[first_of(&b)]);
    let woken = shards.of[0].token("charge", Kind::Run);
    assert_eq!(freed(&woken), [(b.header.saga, 0)], "it has ended: that is told at once");
    assert_eq!((shards.phantoms(), shards.deadlocks().len()), (0, 0));
}

#[test]
fn of_a_cycle_across_shards_the_youngest_gives_way_and_begins_again_behind_the_other() {
    for closes in [0, 1] {
        let mut shards = Shards::new();
        let a = shards.at_charge(0, "a");
        begin(&mut shards.of[1], shards.plan, "elder");
        shards.of[1].take("create");
        let b = shards.at_charge(1, "b");
        let mut edges = [(&a, &b), (&b, &a)];
        edges.rotate_left(closes);
        for (waiter, holder) in edges {
            assert!(shards.deadlocks().is_empty());
            shards.block(waiter, &[first_of(holder)]);
        }
        let [deadlock] = &shards.deadlocks()[..] else { panic!("one victim a cycle") };
        assert_eq!((deadlock.victim, deadlock.detection_ms, deadlock.cycle.len()), (b.header.saga, Some(0), 2));
        assert!(deadlock.cycle.iter().all(|hop| hop.service == "charge-service" && *hop.resource == *b"sku:42"));
        undo_both(&mut shards.of[1]);
        shards.carry(|_| false);
        let woken = shards.of[0].token("charge", Kind::Run);
        assert_eq!(woken.key(), a.key());
        shards.pass(2 * WAIT_REFRESH_MS, |_| false);
        assert!(!shards.of[1].tokens("create").iter().any(|got| got.header.attempt.get() == 1), "behind the other");
        cancel(&mut shards.of[0], "a");
        undo_both(&mut shards.of[0]);
        shards.carry(|_| false);
        let mut roots = shards.of[1].tokens("create");
        roots.retain(|got| got.header.attempt.get() == 1);
        assert_eq!(roots.len(), 1, "the winner is through");
        assert_eq!((shards.phantoms(), shards.deadlocks().len()), (0, 1));
    }
}

#[test]
fn a_cycle_is_found_whichever_of_its_edges_is_the_last() {
    // Two sagas in each shard; the edges within a shard do not cross.
    for last in 0..4 {
        let mut shards = Shards::new();
        let runs = [(0, "a"), (0, "b"), (1, "c"), (1, "d")].map(|(shard, key)| shards.at_charge(shard, key));
        for step in 1..=4 {
            let at = (last + step) % 4;
            assert!(shards.deadlocks().is_empty());
            shards.block(&runs[at], &[first_of(&runs[(at + 1) % 4])]);
        }
        let [deadlock] = &shards.deadlocks()[..] else { panic!("one victim a cycle, {last}") };
        assert_eq!(deadlock.cycle.len(), 4);
        assert!(deadlock.victim.sequence.get() == 2, "one of the two youngest");
        assert_eq!(shards.phantoms(), 0);
    }
}

#[test]
fn what_is_lost_is_said_again() {
    let mut shards = Shards::new();
    let (a, b) = (shards.at_charge(0, "a"), shards.at_charge(1, "b"));
    shards.block_as(&a, &[first_of(&b)], WaitPolicy::Detect);
    shards.block_as(&b, &[first_of(&a)], WaitPolicy::Detect);
    shards.carry(|_| true);
    assert!(shards.deadlocks().is_empty());
    shards.pass(WAIT_REFRESH_MS + 200, |_| false);
    assert_eq!(shards.deadlocks().len(), 1);
}

#[test]
fn an_end_whose_word_is_lost_is_told_again() {
    let mut shards = Shards::new();
    let (a, b) = (shards.at_charge(0, "a"), shards.at_charge(1, "b"));
    shards.block(&a, &[first_of(&b)]);
    cancel(&mut shards.of[1], "b");
    undo_both(&mut shards.of[1]);
    shards.carry(|got| got.kind() == Kind::Wake);
    assert!(shards.waits(&a));
    shards.pass(WAIT_REFRESH_MS + 200, |_| false);
    assert_eq!(freed(&shards.of[0].token("charge", Kind::Run)), [(b.header.saga, 0)]);
}

#[test]
fn who_carries_nothing_any_more_is_replaced_by_whoever_asks_again() {
    let mut shards = Shards::new();
    let (a, b) = (shards.at_charge(0, "a"), shards.at_charge(1, "b"));
    shards.block(&a, &[first_of(&b)]);
    let others = ["client", "coordinator", "create", "reserve", "schedule"];
    shards.of[0].pass(WAIT_REFRESH_MS + 200, &others);
    assert!(!shards.waits(&a), "its process is gone, and its RUN is due");
    shards.of[0].subscribe("charge", sagacore_core::wire::Role::Service, "charge-service", 0);
    assert_eq!(shards.of[0].token("charge", Kind::Run).key(), a.key());
}

#[test]
fn an_older_saga_does_not_wait_for_a_younger_one_of_another_shard_where_that_is_the_policy() {
    let mut shards = Shards::new();
    let a = shards.at_charge(0, "a");
    begin(&mut shards.of[1], shards.plan, "elder");
    shards.of[1].take("create");
    let b = shards.at_charge(1, "b");
    shards.block_as(&b, &[first_of(&a)], WaitPolicy::WoundWait);
    shards.carry(|_| false);
    assert!(shards.deadlocks().is_empty(), "a younger one waits");
    let c = shards.at_charge(1, "c");
    shards.block_as(&a, &[first_of(&c)], WaitPolicy::WoundWait);
    shards.carry(|_| false);
    let [deadlock] = &shards.deadlocks()[..] else { panic!("it gave way") };
    assert!(deadlock.is_wound && deadlock.victim == c.header.saga);
}

#[test]
fn who_does_not_wait_so_any_more_does_not_give_way() {
    let mut shards = Shards::new();
    let (a, b) = (shards.at_charge(0, "a"), shards.at_charge(1, "b"));
    shards.block(&a, &[first_of(&b)]);
    // Waits are numbered from the broker's boot on, which is the first.
    let of_boot = |wait: u64| 1 << 32 | wait;
    let path = |wait| {
        let hop = |saga: SagaId, wait| ProbeHop {
            saga,
            attempt: 0,
            wait,
            waited_ms: 0,
            may_abort: true,
            service: "charge-service".to_owned(),
            resource: b"sku:42".as_slice().into(),
        };
        vec![(Section::DATA, ProbeHop::write_all(&[hop(b.header.saga, 9), hop(a.header.saga, of_boot(wait))]))]
    };
    let give_way = |wait: u64| {
        let mut header = Header::new(Kind::Probe);
        (header.saga, header.place, header.done) = (a.header.saga, WHOLE_SAGA.into(), 1.into());
        header.undo = of_boot(wait).into();
        header
    };
    shards.of[0].say("charge", &[], &[(give_way(2), path(2))]);
    assert!(shards.waits(&a) && shards.phantoms() == 1, "that was another wait");
    shards.of[0].say("charge", &[], &[(give_way(1), path(1))]);
    assert!(!shards.waits(&a) && shards.deadlocks().len() == 1);
    shards.of[0].say("charge", &[], &[(give_way(1), path(1))]);
    assert_eq!((shards.deadlocks().len(), shards.phantoms()), (1, 1), "two may find one cycle");
}

#[test]
fn what_is_carried_is_checked() {
    let mut shards = Shards::new();
    let probe = |from: u64, to: u64| {
        let mut header = Header::new(Kind::Probe);
        (header.done, header.active) = (from.into(), to.into());
        header
    };
    for header in [probe(0, 0), probe(1, 1), probe(1 << 16, 0)] {
        shards.of[0].say("charge", &[], &[(header, vec![])]);
        assert_eq!(refusal(&mut shards.of[0], "charge"), Some(Refusal::Mismatch));
    }
    shards.of[0].say("charge", &[], &[(probe(1, 0), vec![(Section::DATA, vec![0x90])])]);
    assert_eq!(refusal(&mut shards.of[0], "charge"), Some(Refusal::Mismatch), "no path");
    shards.of[0].say("client", &[], &[(probe(1, 0), vec![])]);
    assert_eq!(refusal(&mut shards.of[0], "client"), Some(Refusal::Forbidden));
}

#[test]
fn without_detection_only_ends_are_told() {
    let mut shards = Shards::of(|config| Config { detect_deadlocks: false, ..config });
    let (a, b) = (shards.at_charge(0, "a"), shards.at_charge(1, "b"));
    shards.block(&a, &[first_of(&b)]);
    shards.block(&b, &[first_of(&a)]);
    shards.pass(5 * WAIT_REFRESH_MS, |_| false);
    assert!(shards.waits(&a) && shards.waits(&b) && shards.deadlocks().is_empty());
}
