//! Plans: definitions, their fingerprints, and the messages, edges and results that follow from them.

use sagacore_core::plan::{Graph, Plan, Target};

use super::json::Json;
use crate::support::{COMPENSABLE, PIVOT, SagaModel, members, shop};

pub struct PlanVector {
    pub name: &'static str,
    pub about: &'static str,
    pub definition: Vec<u8>,
}

const ABOUT: &[&str] = &[
    "Golden vectors of plans, which docs/wire-format.md describes. Each file holds a definition: lower-case",
    "hexadecimal, whitespace means nothing. Numbers of 64 bits are texts here, as 0x2a; bit s of a set is step s.",
    "carry: the steps whose results ride in RUN of the step, or in DONE of the edge. into: a step, or \"end\".",
    "undo: the compensation graph of a set of steps. then: what follows when a step is done, or undone.",
];

/// The shop with charge and reserve side by side.
pub fn diamond() -> SagaModel {
    let mut saga = shop();
    saga.steps[2].after = vec![0];
    saga.steps[3].after = vec![1, 2];
    saga
}

pub fn vectors() -> Vec<PlanVector> {
    let vector = |name, about, saga: &SagaModel| PlanVector { name, about, definition: saga.encode() };
    let single = SagaModel::graph(1, |_| vec![]);
    let mut in_order = shop();
    in_order.undo = 1;
    let mut text = SagaModel::graph(2, |step| (0..step).collect());
    text.name = "r\u{e9}servation".to_owned();
    text.steps[1].name = "\u{2192}".to_owned();
    let mut largest = SagaModel::graph(3, |step| (0..step).collect());
    (largest.input_max, largest.deadline_ms) = (16_384, 604_800_000);
    for (step, bytes) in largest.steps.iter_mut().zip([0, 255, 16_384]) {
        step.result_max = bytes;
    }
    vec![
        vector("single", "One step: two messages.", &single),
        vector("shop-chain", "Four steps, one after the other: five messages.", &shop()),
        vector("shop-diamond", "Two of them side by side: seven messages.", &diamond()),
        vector("shop-undo-chain", "The chain, undone strictly backwards.", &in_order),
        vector("undo-before", "Side by side, and step 2 is undone before step 0 because it says so.", &undo_before()),
        vector("implied", "Every step names all before it: what a path implies is not travelled.", &implied()),
        vector("two-blocks", "Two joins of 40 edges: a join lies in one block, and blocks have gaps.", &two_blocks()),
        vector(
            "not-compensable",
            "Step 1 has no compensation, and what comes after the pivot is not undone.",
            &partly(),
        ),
        vector("text", "Names beyond ASCII: the fingerprint is of the bytes.", &text),
        vector("numbers", "Numbers in 1, 2, 3 and 5 bytes.", &largest),
    ]
}

fn undo_before() -> SagaModel {
    let mut saga = SagaModel::graph(4, |step| if step == 3 { vec![0, 1, 2] } else { vec![] });
    saga.steps[2].undo_before = vec![0];
    saga.returns = vec![0, 3];
    saga
}

fn implied() -> SagaModel {
    let mut saga = SagaModel::graph(5, |step| (0..step).collect());
    saga.steps[3].reads = vec![2, 0];
    saga.steps[4].reads = vec![1];
    saga
}

fn two_blocks() -> SagaModel {
    let mut saga = SagaModel::graph(42, |step| if step < 40 { vec![] } else { (0..40).collect() });
    saga.steps[40].reads = vec![0];
    saga.steps[41].reads = vec![39];
    saga
}

fn partly() -> SagaModel {
    let mut saga = SagaModel::graph(5, |step| (step.saturating_sub(1)..step).collect());
    saga.steps[1].flags = 0;
    saga.steps[3].flags = PIVOT;
    assert_eq!(saga.steps[4].flags, COMPENSABLE, "declared, and never used");
    saga
}

pub fn document(vectors: &[PlanVector]) -> String {
    let about = ABOUT.iter().map(|&line| Json::text(line)).collect();
    let plans = vectors.iter().map(entry).collect();
    Json::Map(vec![("about", Json::List(about)), ("plans", Json::List(plans))]).document()
}

fn entry(vector: &PlanVector) -> Json {
    let plan = Plan::compile(&vector.definition).unwrap();
    let undo = [plan.compensable, plan.compensable & 0x5555_5555_5555_5555, plan.compensable & !1];
    let mut sets: Vec<u64> = undo.into_iter().filter(|&set| set != 0).collect();
    sets.dedup();
    let name = |step: &sagacore_core::plan::Step| Json::text(step.name.clone());
    let mut parts = vec![
        ("name", Json::text(vector.name)),
        ("file", Json::text(format!("{}.hex", vector.name))),
        ("about", Json::text(vector.about)),
        ("bytes", Json::number(vector.definition.len() as u64)),
        ("fingerprint", Json::wide(plan.fingerprint)),
        ("messages", Json::number(plan.messages as u64)),
        ("saga", Json::text(plan.name.clone())),
        ("steps", Json::List(plan.steps.iter().map(name).collect())),
        ("compensable", Json::wide(plan.compensable)),
    ];
    if let Some(pivot) = plan.pivot {
        parts.push(("pivot", Json::number(pivot)));
    }
    let carry = |step: u8| plan.steps[usize::from(step)].carry;
    parts.push(("forward", graph(&plan.forward, Some(&carry), Some(&|edge| plan.edge_carry(edge)))));
    let undo = sets.into_iter().map(|set| {
        let mut parts = vec![("set", Json::wide(set))];
        if let Json::Map(graph) = graph(&plan.undo(set), None, None) {
            parts.extend(graph);
        }
        Json::Map(parts)
    });
    parts.push(("undo", Json::List(undo.collect())));
    Json::Map(parts)
}

type Carry<'a, N> = Option<&'a dyn Fn(N) -> u64>;

fn graph(graph: &Graph, step_carry: Carry<'_, u8>, edge_carry: Carry<'_, u16>) -> Json {
    let steps = members(graph.members).into_iter().map(|step| {
        let step = step as u8;
        let mut parts = vec![("step", Json::number(step))];
        if let Some(carry) = step_carry {
            parts.push(("carry", listed(carry(step))));
        }
        parts.push(("then", Json::List(graph.after(step).iter().map(target).collect())));
        Json::Map(parts)
    });
    let edges = (0..graph.edge_end() as u16).filter_map(|edge| {
        let (source, join) = graph.source_of(edge).zip(graph.join_of(edge))?;
        let into = join.target.map_or(Json::text("end"), Json::number);
        let mut parts = vec![("edge", Json::number(edge)), ("from", Json::number(source)), ("into", into)];
        if let Some(carry) = edge_carry {
            parts.push(("carry", listed(carry(edge))));
        }
        Some(Json::Map(parts))
    });
    Json::Map(vec![
        ("roots", listed(graph.roots)),
        ("steps", Json::List(steps.collect())),
        ("edges", Json::List(edges.collect())),
    ])
}

fn listed(set: u64) -> Json {
    Json::List(members(set).into_iter().map(Json::number).collect())
}

fn target(target: &Target) -> Json {
    Json::Map(match *target {
        Target::Step(step) => vec![("step", Json::number(step))],
        Target::Edge(edge) => vec![("edge", Json::number(edge))],
    })
}
