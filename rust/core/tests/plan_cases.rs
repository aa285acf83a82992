//! Plans of well-known shapes, number by number.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use std::sync::Arc;

use sagacore_core::limits::{MESSAGE_BYTES_MAX, SECTION_BYTES_MAX, TRANSACTION_BYTES_MAX, UNDO_GRAPHS_MAX};
use sagacore_core::plan::{Graph, Join, Plan, Target, UndoOrder, fingerprint};
use sagacore_core::wire::{Header, Key, Kind, Section, TransactionWriter};
use support::{COMPENSABLE, PIVOT, SagaModel, set, shop};

fn chain(count: u64) -> SagaModel {
    SagaModel::graph(count, |step| (step.saturating_sub(1)..step).collect())
}

fn diamond() -> SagaModel {
    SagaModel::graph(4, |step| [vec![], vec![0], vec![0], vec![1, 2]][step as usize].clone())
}

/// Whom each step leads to, by target: edges are told by where they lead.
fn leads(graph: &Graph, step: u8) -> Vec<Option<u8>> {
    let lead = |target: &Target| match *target {
        Target::Step(step) => Some(step),
        Target::Edge(edge) => graph.join_of(edge).unwrap().target,
    };
    graph.after(step).iter().map(lead).collect()
}

#[test]
fn a_chain_takes_one_message_more_than_steps() {
    for count in 1..=64 {
        let plan = chain(count).compile().unwrap();
        assert_eq!(plan.messages, count as usize + 1);
        assert_eq!(plan.forward.roots, 1);
        assert_eq!(plan.forward.joins(), [Join { block: 0, mask: 1, target: None }]);
        assert_eq!(plan.forward.after(count as u8 - 1), [Target::Edge(0)]);
        assert_eq!(plan.forward.source_of(0), Some(count as u8 - 1));
    }
}

#[test]
fn a_single_step_begins_and_ends_the_saga() {
    let plan = chain(1).compile().unwrap();
    assert_eq!((plan.messages, plan.forward.roots, plan.forward.edge_count()), (2, 1, 1));
    assert_eq!((plan.before_pivot, plan.compensable, plan.pivot), (1, 1, None));
    let undo = plan.undo(1);
    assert_eq!((undo.messages(), undo.roots), (2, 1));
    assert_eq!(undo.after(0), [Target::Edge(0)]);
}

#[test]
fn a_diamond_takes_seven_messages() {
    let plan = diamond().compile().unwrap();
    assert_eq!(plan.messages, 7);
    assert_eq!(plan.forward.after(0), [Target::Step(1), Target::Step(2)]);
    assert_eq!(plan.forward.after(1), [Target::Edge(0)]);
    assert_eq!(plan.forward.after(2), [Target::Edge(1)]);
    assert_eq!(plan.forward.after(3), [Target::Edge(2)]);
    let joins = [Join { block: 0, mask: 0b011, target: Some(3) }, Join { block: 0, mask: 0b100, target: None }];
    assert_eq!(plan.forward.joins(), joins);
}

#[test]
fn edges_that_a_path_implies_are_not_travelled() {
    let everything = SagaModel::graph(64, |step| (0..step).collect()).compile().unwrap();
    assert_eq!(everything.forward, chain(64).compile().unwrap().forward);
    assert_eq!(everything.steps[63].ancestors, u64::MAX >> 1);
}

#[test]
fn sixty_four_steps_side_by_side_meet_at_the_end() {
    let plan = SagaModel::graph(64, |_| vec![]).compile().unwrap();
    assert_eq!((plan.messages, plan.forward.roots), (128, u64::MAX));
    assert_eq!(plan.forward.joins(), [Join { block: 0, mask: u64::MAX, target: None }]);
    assert_eq!(plan.undo(u64::MAX).messages(), 128);
}

#[test]
fn every_step_of_a_layer_may_join_into_every_one_of_the_next() {
    let saga = SagaModel::graph(64, |step| if step < 32 { vec![] } else { (0..32).collect() });
    let plan = saga.compile().unwrap();
    assert_eq!(plan.forward.edge_count(), 1024 + 32, "the edges into joins, and those into the end");
    assert_eq!(plan.messages, 64 + 1024 + 32);
    assert_eq!(plan.forward.joins().len(), 33);
    for (index, join) in plan.forward.joins().iter().enumerate() {
        let mask = if index % 2 == 0 { 0xffff_ffff } else { 0xffff_ffff << 32 };
        assert_eq!((join.block, join.mask), (index as u16 / 2, mask));
    }
    let (edges, last) = (plan.forward.after(31), 32 * 32 - 1);
    assert_eq!((edges.len(), edges[31]), (32, Target::Edge(last)));
}

#[test]
fn a_join_that_does_not_fit_leaves_its_block_to_a_smaller_one() {
    // 33 roots; two steps join all of them, a third joins the first 31: it fits beside the first.
    let after = |step| match step {
        0..33 => vec![],
        33 | 34 => (0..33).collect(),
        _ => (0..31).collect(),
    };
    let plan = SagaModel::graph(36, after).compile().unwrap();
    let blocks = plan.forward.joins().iter().map(|join| join.block).collect::<Vec<_>>();
    assert_eq!(blocks, [0, 1, 0, 1]);
    assert_eq!(plan.forward.joins()[2].mask, (u64::MAX >> 33) << 33);
    assert_eq!(plan.forward.edge_end(), 64 + 33 + 3);
    assert_eq!(plan.forward.source_of(64 + 36), None);
    assert!(plan.forward.join_of(u16::MAX).is_none() && plan.forward.after(200).is_empty());
    assert_eq!(plan.edge_carry(u16::MAX), 0);
}

#[test]
fn the_shop_goes_forward_as_a_chain_and_back_side_by_side() {
    let plan = shop().compile().unwrap();
    assert_eq!(plan.messages, 5);
    assert_eq!((plan.pivot, plan.before_pivot, plan.compensable), (Some(3), 0b0111, 0b0111));
    assert_eq!(plan.undo_order, UndoOrder::Parallel);
    let undo = plan.undo(set(&[0, 1, 2]));
    assert_eq!(undo.roots, set(&[1, 2]), "refund and release run side by side");
    assert_eq!((leads(&undo, 1), leads(&undo, 2), leads(&undo, 0)), (vec![Some(0)], vec![Some(0)], vec![None]));
    assert_eq!(undo.messages(), 3 + 2 + 1);
    assert_eq!((plan.undo(set(&[0, 1])).messages(), plan.undo(set(&[0, 1])).roots), (3, set(&[1])));
    assert_eq!(plan.undo(set(&[1, 2])).joins(), [Join { block: 0, mask: 0b11, target: None }]);
}

#[test]
fn nothing_to_undo_is_a_graph_without_roots() {
    let plan = shop().compile().unwrap();
    let undo = plan.undo(0);
    assert_eq!((undo.roots, undo.members, undo.messages()), (0, 0, 0));
    assert!(undo.joins().is_empty() && (0..64).all(|step| undo.after(step).is_empty()));
    assert_eq!(plan.undo(u64::MAX).members, 0b1111, "what is no step is left out");
}

#[test]
fn undone_as_a_chain_the_last_step_goes_first() {
    let mut saga = shop();
    saga.undo = 1;
    let plan = saga.compile().unwrap();
    let undo = plan.undo(set(&[0, 1, 2]));
    assert_eq!((undo.roots, undo.messages()), (set(&[2]), 4));
    assert_eq!((undo.after(2), undo.after(1)), (&[Target::Step(1)][..], &[Target::Step(0)][..]));
}

#[test]
fn order_is_kept_across_steps_that_are_passed_over() {
    // d reads c, c is undone before b, b reads a; b and c have nothing to undo.
    let mut saga = chain(4);
    saga.steps[3].reads = vec![2];
    saga.steps[2].undo_before = vec![1];
    saga.steps[1].reads = vec![0];
    let plan = saga.compile().unwrap();
    let undo = plan.undo(set(&[0, 3]));
    assert_eq!((undo.roots, undo.messages()), (set(&[3]), 3));
    assert_eq!(undo.after(3), [Target::Step(0)]);
    assert!(undo.after(1).is_empty() && undo.after(2).is_empty());
}

#[test]
fn a_step_may_be_undone_before_one_beside_it() {
    let mut saga = diamond();
    saga.steps[2].undo_before = vec![1];
    let plan = saga.compile().unwrap();
    assert_eq!(plan.undo(set(&[1, 2])).roots, set(&[2]));
}

#[test]
fn past_the_pivot_nothing_is_compensable() {
    let mut saga = chain(3);
    saga.steps[1].flags = PIVOT | COMPENSABLE;
    let plan = saga.compile().unwrap();
    assert_eq!((plan.before_pivot, plan.compensable), (0b001, 0b001));
    saga.steps[0].flags = 0;
    assert_eq!(saga.compile().unwrap().compensable, 0);
}

#[test]
fn a_result_rides_until_its_last_reader() {
    let mut saga = diamond();
    saga.steps[1].reads = vec![0];
    saga.steps[3].reads = vec![2, 1];
    saga.returns = vec![3, 0];
    let plan = saga.compile().unwrap();
    assert_eq!(plan.steps[3].reads_ordered, [2, 1]);
    assert_eq!(plan.steps.iter().map(|step| step.carry).collect::<Vec<_>>(), [0, 0b0001, 0b0001, 0b0111]);
    assert_eq!([0, 1, 2].map(|edge| plan.edge_carry(edge)), [0b0011, 0b0101, 0b1001]);
    saga.returns = vec![];
    let plan = saga.compile().unwrap();
    assert_eq!(plan.steps.iter().map(|step| step.carry).collect::<Vec<_>>(), [0, 0b0001, 0, 0b0110]);
    assert_eq!([0, 1, 2].map(|edge| plan.edge_carry(edge)), [0b0010, 0b0100, 0]);
}

#[test]
fn the_definition_is_what_other_languages_write() {
    let hex = "9701ab706c6163652d6f72646572cd0100cd75300091039497a6637265617465ae6372656174652d73657276696365080290\
               909097a6636861726765ae6368617267652d736572766963650802910091009097a772657365727665af726573657276652d\
               736572766963650802910191009097a87363686564756c65b07363686564756c652d736572766963650801910292020190";
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    let bytes = bytes.collect::<Vec<_>>();
    assert_eq!(shop().encode(), bytes);
    assert_eq!(fingerprint(&bytes), 0x9605_1f1a_3a95_397b);
    assert_eq!(fingerprint(b""), 0x7de0_a380_47d7_4950);
    let plan = Plan::compile(&bytes).unwrap();
    assert_eq!(plan.fingerprint, 0x9605_1f1a_3a95_397b);
    assert_eq!((plan.name.as_str(), plan.input_max, plan.deadline_ms, plan.returns), ("place-order", 256, 30_000, 8));
    assert_eq!((plan.steps[2].name.as_str(), plan.steps[2].service.as_str()), ("reserve", "reserve-service"));
    assert_eq!(plan.steps[2].result_max, 8);
}

#[test]
fn compensation_graphs_are_kept_and_bounded() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    let plan = chain(64).compile().unwrap();
    is_shared(&plan);
    let first = plan.undo(1);
    assert!(Arc::ptr_eq(&first, &plan.undo(1)));
    for set in 2..=UNDO_GRAPHS_MAX as u64 {
        plan.undo(set);
    }
    assert!(Arc::ptr_eq(&first, &plan.undo(1)), "as many are kept");
    plan.undo(UNDO_GRAPHS_MAX as u64 + 1);
    let again = plan.undo(1);
    assert!(!Arc::ptr_eq(&first, &again), "one more, and it begins anew");
    assert_eq!(first, again);
}

#[test]
fn threads_share_a_plan() {
    let plan = SagaModel::graph(64, |_| vec![]).compile().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|set| assert_eq!(plan.undo(set).members, set)));
        }
    });
}

/// The transaction with which the first step of a fork ends, written with everything as large as declared.
fn fork_bytes(saga: &SagaModel, plan: &Plan) -> usize {
    let mut out = Vec::new();
    let mut transaction = TransactionWriter::new(&mut out, 1);
    transaction.consume(&Key::of(&Header::new(Kind::Run)));
    for _ in plan.forward.after(0) {
        transaction.publish_with(Header::new(Kind::Run), |body| {
            body.section(0, &vec![0; saga.steps[0].result_max as usize]);
            body.section(Section::INPUT, &vec![0; saga.input_max as usize]);
            body.section(Section::KEY, &[0; 200]);
        });
    }
    transaction.len()
}

#[test]
fn the_widest_fork_that_compiles_fits_into_a_transaction() {
    let mut saga = SagaModel::graph(64, |step| if step == 0 { vec![] } else { vec![0] });
    saga.steps[1].reads = vec![0];
    (2..64).for_each(|step| saga.steps[step].reads = vec![0]);
    let mut compiles = |input_max: u64| {
        saga.input_max = input_max;
        saga.compile().map(|plan| fork_bytes(&saga, &plan))
    };
    let (mut largest, mut refused) = (0, SECTION_BYTES_MAX as u64);
    assert_eq!(compiles(refused).unwrap_err().name(), "plan.fork");
    while refused - largest > 1 {
        let middle = largest.midpoint(refused);
        if compiles(middle).is_ok() { largest = middle } else { refused = middle }
    }
    let bytes = compiles(largest).unwrap();
    assert!(bytes <= TRANSACTION_BYTES_MAX, "{bytes}");
    assert!(TRANSACTION_BYTES_MAX - bytes < 63 * 64, "and little room is lost: {bytes}");
}

#[test]
fn the_largest_token_that_compiles_fits_into_a_message() {
    let mut saga = chain(6);
    for step in &mut saga.steps {
        step.result_max = 12_000;
    }
    saga.steps[5].reads = vec![0, 1, 2, 3];
    let plan = saga.compile().unwrap();
    assert!((4 * 12_000..4 * 12_000 + 1_000).contains(&plan.token_bytes_max), "{}", plan.token_bytes_max);
    saga.steps[5].reads.push(4);
    assert!(saga.compile().unwrap().token_bytes_max <= MESSAGE_BYTES_MAX);
    saga.steps[4].result_max = SECTION_BYTES_MAX as u64;
    saga.steps[3].result_max = SECTION_BYTES_MAX as u64;
    assert_eq!(saga.compile().unwrap_err().name(), "plan.token");
}
