//! Plans against a sequential oracle: tokens travel along a random graph in random order, as services and a
//! coordinator would pass them on, and what arrives must be what the definition alone says.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sagacore_core::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, REASON_BYTES_MAX};
use sagacore_core::plan::{Graph, Join, Plan, Target};
use sagacore_core::wire::{Header, Kind, Section, write_message};
use support::oracle::{Journey, Order, travel};
use support::{COMPENSABLE, PIVOT, SagaModel, members, set};

/// Going forward: who ran, and which results are in each body.
struct Forward<'a> {
    saga: &'a SagaModel,
    plan: &'a Plan,
    order: &'a Order,
    ran: u64,
}

#[derive(Clone)]
struct ForwardToken {
    done: u64,
    results: u64,
}

impl Forward<'_> {
    /// Whether the result of `read` is asked for by a step, by one after it, or, at the end, by the client.
    fn is_wanted(&self, read: u64, target: Option<u8>) -> bool {
        let readers = (0..).zip(&self.saga.steps).filter(|(_, step)| step.reads.contains(&read));
        let is_ahead = |reader: u64| {
            target.is_some_and(|step| reader == u64::from(step) || self.order.is_before(u64::from(step), reader))
        };
        self.saga.returns.contains(&read) || readers.into_iter().any(|(reader, _)| is_ahead(reader))
    }

    fn check_wanted(&self, results: u64, target: Option<u8>) {
        for read in members(results) {
            assert!(self.is_wanted(read, target), "the result of {read} is carried towards {target:?} for nobody");
        }
    }
}

impl Journey for Forward<'_> {
    type Token = ForwardToken;

    fn begin(&mut self, root: u8) -> ForwardToken {
        assert_eq!(self.plan.steps[usize::from(root)].carry, 0, "nothing is there yet");
        ForwardToken { done: 0, results: 0 }
    }

    fn visit(&mut self, step: u8, token: ForwardToken) -> ForwardToken {
        let bit = 1 << step;
        assert_eq!(self.ran & bit, 0, "step {step} runs once");
        let before = self.order.all_before(u64::from(step), self.plan.forward.members);
        assert_eq!(before & !self.ran, 0, "step {step} runs after all that it comes after");
        assert_eq!(token.done & before, before, "and its token knows that");
        let reads = &self.saga.steps[usize::from(step)].reads;
        assert_eq!(set(reads) & !token.results, 0, "step {step} gets what it reads");
        assert_eq!(token.results, self.plan.steps[usize::from(step)].carry);
        self.check_wanted(token.results, Some(step));
        self.ran |= bit;
        ForwardToken { done: token.done | bit, results: token.results | bit }
    }

    fn send(&self, token: &ForwardToken, target: Target) -> ForwardToken {
        let (carry, to) = match target {
            Target::Step(step) => (self.plan.steps[usize::from(step)].carry, Some(step)),
            Target::Edge(edge) => (self.plan.edge_carry(edge), self.plan.forward.join_of(edge).unwrap().target),
        };
        assert_eq!(carry & !token.results, 0, "only what is there can be carried");
        self.check_wanted(carry, to);
        ForwardToken { done: token.done, results: carry }
    }

    fn meet(&mut self, target: Option<u8>, arrivals: Vec<ForwardToken>) -> ForwardToken {
        let done = arrivals.iter().fold(0, |done, token| done | token.done);
        let results = arrivals.iter().fold(0, |results, token| results | token.results);
        if target.is_none() {
            assert_eq!(done, self.plan.forward.members, "all is done at the end");
            assert_eq!(self.ran, done);
            assert_eq!(results, set(&self.saga.returns), "the client gets what it asked for, and nothing else");
        }
        ForwardToken { done, results }
    }
}

/// Going back: the token is the set that it knows is left to undo.
struct Backward<'a> {
    set: u64,
    order: &'a Order,
    undone: u64,
}

impl Journey for Backward<'_> {
    type Token = u64;

    fn begin(&mut self, _: u8) -> u64 {
        self.set
    }

    fn visit(&mut self, step: u8, left: u64) -> u64 {
        let bit = 1 << step;
        assert_ne!(self.set & bit, 0, "step {step} is to be undone");
        assert_eq!(self.undone & bit, 0, "step {step} is undone once");
        assert_ne!(left & bit, 0);
        let before = self.order.all_before(u64::from(step), self.set);
        assert_eq!(before & !self.undone, 0, "step {step} is undone after those that must go before it");
        assert_eq!(before & left, 0, "and its token knows that");
        self.undone |= bit;
        left & !bit
    }

    fn send(&self, left: &u64, _: Target) -> u64 {
        *left
    }

    fn meet(&mut self, target: Option<u8>, arrivals: Vec<u64>) -> u64 {
        let left = arrivals.iter().fold(u64::MAX, |left, token| left & token);
        if target.is_none() {
            assert_eq!(left, 0, "nothing is left at the end");
            assert_eq!(self.undone, self.set);
        }
        left
    }
}

/// Steps and edges are exactly those of the reduced order, and edges are numbered by the rule.
fn check_graph(graph: &Graph, order: &Order, among: u64) {
    assert_eq!(graph.members, among);
    let pairs = order.reduced(among);
    let sources = |step: u64| pairs.iter().filter(|pair| pair.1 == step).map(|pair| pair.0).collect::<Vec<_>>();
    let sinks = members(among).into_iter().filter(|step| pairs.iter().all(|pair| pair.0 != *step)).collect::<Vec<_>>();
    let mut expected = BTreeMap::<u64, Vec<Target>>::new();
    let mut joins = Vec::new();
    let mut used = Vec::<usize>::new();
    let mut roots = 0;
    let ends = (among != 0).then_some((None, sinks));
    for (target, sources) in members(among).into_iter().map(|step| (Some(step), sources(step))).chain(ends) {
        match (target, sources.len()) {
            (Some(step), 0) => roots |= 1 << step,
            (Some(step), 1) => expected.entry(sources[0]).or_default().push(Target::Step(step as u8)),
            _ => {
                let block = (0..).find(|&block| used.get(block).unwrap_or(&0) + sources.len() <= 64).unwrap();
                used.resize(used.len().max(block + 1), 0);
                let mut mask = 0;
                for source in sources {
                    let edge = (block * 64 + used[block]) as u16;
                    mask |= 1 << used[block];
                    used[block] += 1;
                    expected.entry(source).or_default().push(Target::Edge(edge));
                    assert_eq!(graph.source_of(edge), Some(source as u8));
                    assert_eq!(graph.join_of(edge).unwrap().target, target.map(|step| step as u8));
                }
                joins.push(Join { block: block as u16, mask, target: target.map(|step| step as u8) });
            }
        }
    }
    assert_eq!(graph.roots, roots);
    assert_eq!(graph.joins(), joins);
    assert_eq!(graph.edge_count(), used.iter().sum::<usize>());
    for step in 0..=u8::MAX {
        assert_eq!(graph.after(step), expected.get(&u64::from(step)).map_or(&[][..], |targets| targets));
    }
    let named = (0..=u16::MAX).filter(|&edge| graph.source_of(edge).is_some()).collect::<Vec<_>>();
    assert_eq!(named.len(), graph.edge_count());
    assert!(named.last().map_or(0, |&last| usize::from(last) + 1) == graph.edge_end());
}

fn check_forward(saga: &SagaModel, plan: &Plan, seed: u64) {
    let order = Order::forward(saga);
    let all = plan.forward.members;
    check_graph(&plan.forward, &order, all);
    for (step, compiled) in (0..).zip(&plan.steps) {
        assert_eq!(compiled.ancestors, order.all_before(step, all));
        let ordered = compiled.reads_ordered.iter().map(|&read| u64::from(read)).collect::<Vec<_>>();
        assert_eq!(ordered, saga.steps[step as usize].reads, "in the order in which they are asked for");
        assert_eq!(compiled.reads, set(&ordered));
    }
    assert_eq!(plan.messages, order.messages(all));
    let messages = travel(&plan.forward, &mut Forward { saga, plan, order: &order, ran: 0 }, seed);
    assert_eq!(messages, plan.messages);
}

fn check_undo(saga: &SagaModel, plan: &Plan, undo: u64, seed: u64) {
    let order = Order::undo(saga);
    let graph = plan.undo(undo);
    let undo = undo & plan.forward.members;
    check_graph(&graph, &order, undo);
    assert_eq!(graph.messages(), order.messages(undo));
    let messages = travel(&graph, &mut Backward { set: undo, order: &order, undone: 0 }, seed);
    assert_eq!(messages, graph.messages());
}

/// The bytes of a message of this saga as really written, with the largest results and these other sections.
fn written(saga: &SagaModel, results: u64, sections: &[(u8, usize)]) -> usize {
    let mut out = Vec::new();
    write_message(&mut out, Header::new(Kind::Run), |body| {
        for step in members(results) {
            body.section(step as u8, &vec![0; saga.steps[step as usize].result_max as usize]);
        }
        body.section(Section::INPUT, &vec![0; saga.input_max as usize]);
        for &(key, bytes) in sections {
            body.section(key, &vec![0; bytes]);
        }
    });
    out.len()
}

/// What an operator's skips of all compensable steps take.
fn skips_bytes(plan: &Plan) -> usize {
    let mut out = Vec::new();
    rmp::encode::write_array_len(&mut out, plan.compensable.count_ones()).unwrap();
    for step in members(plan.compensable) {
        rmp::encode::write_array_len(&mut out, 2).unwrap();
        rmp::encode::write_uint(&mut out, step).unwrap();
        rmp::encode::write_str(&mut out, &"x".repeat(REASON_BYTES_MAX)).unwrap();
    }
    out.len()
}

/// The bound is no less than the largest message that can be written, and more only by a MAC and the rounding.
fn check_sizes(saga: &SagaModel, plan: &Plan) {
    let key = (Section::KEY, KEY_BYTES_MAX);
    let runs = plan.steps.iter().map(|step| written(saga, step.carry, &[key]));
    let result = written(saga, plan.returns, &[key]);
    let cause = (Section::CAUSE, 5 + REASON_BYTES_MAX);
    let undo = written(saga, 0, &[cause, key, (Section::SKIPPED, skips_bytes(plan))]);
    let largest = runs.chain([result, undo]).max().unwrap();
    assert!(largest <= plan.token_bytes_max && plan.token_bytes_max <= largest + 32, "{largest}");
    assert!(plan.token_bytes_max <= MESSAGE_BYTES_MAX);
}

/// What a random saga is made of: numbers that are folded into what is possible.
#[derive(Clone, Debug)]
struct Draw {
    shape: Shape,
    pivot: Option<u64>,
    undo: u64,
    returns: Vec<u64>,
    input_max: u64,
    result_max: u64,
    /// By step: what it comes after, reads, and is undone before.
    steps: Vec<[Vec<u64>; 3]>,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Each step after some of the so many before it.
    Loose(u64),
    /// Layers of so many; each step after all of the layer before, but for those drawn: joins of high degree.
    Layers(u64),
}

impl Draw {
    fn after(&self, step: u64) -> Vec<u64> {
        let drawn = &self.steps[step as usize][0];
        match (self.shape, self.pivot) {
            (_, Some(pivot)) if step == pivot => (0..step).collect(),
            (_, Some(pivot)) if step > pivot => distinct(drawn.iter().map(|at| at % step).chain([pivot])),
            _ if step == 0 => Vec::new(),
            (Shape::Loose(window), _) => distinct(drawn.iter().map(|at| step - 1 - at % window.min(step))),
            (Shape::Layers(width), _) => {
                let first = step / width * width;
                (first.saturating_sub(width)..first).filter(|before| !drawn.contains(before)).collect()
            }
        }
    }

    fn saga(&self) -> SagaModel {
        let count = self.steps.len() as u64;
        let mut saga = SagaModel::graph(count, |step| {
            let mut after = self.after(step);
            after.sort_unstable();
            after
        });
        let order = Order::forward(&saga);
        for (step, [_, reads, undo_before]) in (0..).zip(&self.steps) {
            let ancestors = members(order.all_before(step, saga.all()));
            let model = &mut saga.steps[step as usize];
            let pick = |drawn: &u64| ancestors.get(*drawn as usize % ancestors.len().max(1)).copied();
            model.reads = distinct(reads.iter().filter_map(pick));
            model.undo_before = distinct(undo_before.iter().filter(|_| step > 0).map(|drawn| drawn % step.max(1)));
            model.undo_before.sort_unstable();
            model.flags = if (self.input_max + step).is_multiple_of(3) { 0 } else { COMPENSABLE };
            if self.pivot == Some(step) {
                model.flags = PIVOT;
            }
            model.result_max = self.result_max * (step % 5) / 4;
        }
        saga.input_max = self.input_max;
        saga.undo = self.undo;
        saga.returns = distinct(self.returns.iter().map(|drawn| drawn % count));
        saga
    }
}

fn distinct(list: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut distinct = Vec::new();
    for value in list {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        prop::sample::select(vec![1, 2, 4, 12, 64]).prop_map(Shape::Loose),
        (1..=32_u64).prop_map(Shape::Layers),
    ]
}

fn sagas() -> impl Strategy<Value = SagaModel> {
    let lists = |most: usize| prop::collection::vec(0..64_u64, 0..=most);
    let degrees = prop::sample::select(vec![1_usize, 2, 3, 6, 20]);
    degrees.prop_flat_map(move |degree| {
        let step = (lists(degree), lists(3), lists(2)).prop_map(|(after, reads, undo)| [after, reads, undo]);
        let steps = prop::collection::vec(step, 1..=64);
        let pivot = prop::option::weighted(0.3, 0..64_u64);
        let parts = (shapes(), pivot, 0..=1_u64, lists(4), 0..600_u64, 0..300_u64, steps);
        parts.prop_map(|(shape, pivot, undo, returns, input_max, result_max, steps)| {
            let pivot = pivot.map(|pivot| pivot % steps.len() as u64);
            Draw { shape, pivot, undo, returns, input_max, result_max, steps }.saga()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_step_runs_once_after_what_it_waits_for(
        saga in sagas(),
        seeds in prop::array::uniform3(any::<u64>()),
    ) {
        let plan = saga.compile().unwrap();
        for seed in seeds {
            check_forward(&saga, &plan, seed);
        }
    }

    #[test]
    fn every_member_of_a_set_is_undone_once_in_order(
        saga in sagas(),
        sets in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..6),
    ) {
        let plan = saga.compile().unwrap();
        for (some, more, seed) in sets {
            for undo in [some, some & more, some | more, some & plan.compensable, plan.compensable] {
                check_undo(&saga, &plan, undo, seed);
            }
        }
    }

    #[test]
    fn sizes_are_bounds_and_tight(saga in sagas()) {
        check_sizes(&saga, &saga.compile().unwrap());
    }

    #[test]
    fn only_steps_before_the_pivot_are_compensable(saga in sagas()) {
        let plan = saga.compile().unwrap();
        let order = Order::forward(&saga);
        let pivot = (0..).zip(&saga.steps).find(|(_, step)| step.flags == PIVOT).map(|(index, _)| index);
        prop_assert_eq!(plan.pivot.map(u64::from), pivot);
        let all = plan.forward.members;
        let before = pivot.map_or(all, |pivot| order.all_before(pivot, all));
        prop_assert_eq!(plan.before_pivot, before);
        for (index, step) in (0..).zip(&saga.steps) {
            let expected = step.flags & COMPENSABLE != 0 && before & (1 << index) != 0;
            prop_assert_eq!(plan.compensable & (1 << index) != 0, expected);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Plan::compile(&bytes).is_err());
    }

    #[test]
    fn a_damaged_definition_is_refused_or_another_plan(
        saga in sagas(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
        undo in any::<u64>(),
    ) {
        let mut bytes = saga.encode();
        for (place, byte, how) in damages {
            let place = place.index(bytes.len().max(1)).min(bytes.len());
            match how {
                0 if place < bytes.len() => bytes[place] = byte,
                1 if place < bytes.len() => bytes[place] ^= 1 << (byte % 8),
                2 => bytes.insert(place, byte),
                _ => bytes.truncate(place),
            }
        }
        if let Ok(plan) = Plan::compile(&bytes) {
            prop_assert!(plan.messages > plan.steps.len());
            prop_assert!(plan.token_bytes_max <= MESSAGE_BYTES_MAX);
            prop_assert_eq!(plan.undo(undo).members, undo & plan.forward.members);
        }
    }
}
