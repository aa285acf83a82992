//! What is refused, by which name, and that the text names the steps.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use std::collections::BTreeSet;

use sagacore_core::limits::{DEADLINE_MS_MAX, DEFINITION_BYTES_MAX, NAME_BYTES_MAX, SECTION_BYTES_MAX};
use sagacore_core::plan::{Plan, PlanError};
use support::{COMPENSABLE, PIVOT, SagaModel, shop};

/// A change, the name of what it breaks, and words that the text must have.
type Case = (fn(&mut SagaModel), &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    (|saga| saga.format = 2, "plan.format", &["format 2"]),
    (|saga| saga.name = String::new(), "plan.name", &["`name` of the saga"]),
    (|saga| saga.name = "x".repeat(NAME_BYTES_MAX + 1), "plan.name", &["100 bytes"]),
    (|saga| saga.steps[1].name = "charge\n".to_owned(), "plan.name", &["`name` of step number 1"]),
    (|saga| saga.steps[3].service = String::new(), "plan.name", &["`service` of step number 3"]),
    (|saga| saga.input_max = SECTION_BYTES_MAX as u64 + 1, "plan.input", &["16385"]),
    (|saga| saga.input_max = u64::MAX, "plan.input", &[]),
    (|saga| saga.deadline_ms = 0, "plan.deadline", &["0 ms"]),
    (|saga| saga.deadline_ms = DEADLINE_MS_MAX + 1, "plan.deadline", &[]),
    (|saga| saga.undo = 2, "plan.undo", &["compensation 2"]),
    (|saga| saga.steps.clear(), "plan.steps", &["0 steps"]),
    (|saga| *saga = SagaModel::graph(65, |_| vec![]), "plan.steps", &["65 steps"]),
    (|saga| saga.steps[2].flags = 4, "plan.flags", &["`reserve`", "0x4"]),
    (|saga| saga.steps[2].result_max = SECTION_BYTES_MAX as u64 + 1, "plan.result", &["`reserve`", "16385"]),
    (|saga| saga.steps[2].result_max = u64::MAX, "plan.result", &["`reserve`"]),
    (|saga| saga.steps[2].name = "charge".to_owned(), "plan.duplicate", &["`charge`"]),
    (|saga| saga.steps[1].after = vec![4], "plan.unknown", &["`after` of step `charge`", "number 4", "0 to 3"]),
    (|saga| saga.steps[1].reads = vec![u64::MAX], "plan.unknown", &["`reads` of step `charge`"]),
    (|saga| saga.returns = vec![64], "plan.unknown", &["`returns`", "number 64"]),
    (|saga| saga.returns = vec![1, 3, 1], "plan.repeated", &["`returns`", "`charge` twice"]),
    (|saga| saga.steps[3].reads = vec![1, 2, 1], "plan.repeated", &["`reads` of step `schedule`", "`charge` twice"]),
    (|saga| saga.steps[2].after = vec![0, 0], "plan.repeated", &["`after` of step `reserve`", "`create`"]),
    (|saga| saga.steps[3].after = vec![2, 1], "plan.ascending", &["`after` of step `schedule`", "`charge`"]),
    (|saga| saga.steps[3].undo_before = vec![1, 0], "plan.ascending", &["`undo_before`", "`create`"]),
    (|saga| saga.steps[1].after = vec![1], "plan.cycle", &["`after` of step `charge` names step `charge`"]),
    (|saga| saga.steps[1].after = vec![0, 2], "plan.cycle", &["`after` of step `charge` names step `reserve`"]),
    (|saga| saga.steps[0].undo_before = vec![3], "plan.cycle", &["`undo_before` of step `create`", "`schedule`"]),
    (|saga| saga.steps[0].reads = vec![0], "plan.cycle", &["`reads` of step `create`"]),
    (beside, "plan.reads", &["`reserve` reads the result of `charge`"]),
    (|saga| saga.steps[1].flags = PIVOT, "plan.pivots", &["`charge` and `schedule`"]),
    (beside_the_pivot, "plan.pivot", &["`reserve`", "the pivot `charge`"]),
    (wide, "plan.token", &["request for step `schedule`"]),
    (wide_outcome, "plan.token", &["outcome"]),
    (fan, "plan.fork", &["`s0`"]),
];

/// Charge and reserve side by side, and one reads the other.
fn beside(saga: &mut SagaModel) {
    saga.steps[2].after = vec![0];
    saga.steps[2].reads = vec![0, 1];
}

fn beside_the_pivot(saga: &mut SagaModel) {
    saga.steps[1].flags = PIVOT;
    saga.steps[2].after = vec![0];
    saga.steps[3].flags = COMPENSABLE;
    saga.steps[3].after = vec![1, 2];
}

/// The last step reads all before it, each as large as possible, and the input with them is one too many.
fn wide(saga: &mut SagaModel) {
    wide_outcome(saga);
    saga.input_max = SECTION_BYTES_MAX as u64;
    saga.steps[3].reads = vec![0, 1, 2];
}

/// Each result is as large as possible and the client gets all: one more than any step.
fn wide_outcome(saga: &mut SagaModel) {
    saga.steps.iter_mut().for_each(|step| step.result_max = SECTION_BYTES_MAX as u64);
    saga.returns = vec![0, 1, 2, 3];
}

fn fan(saga: &mut SagaModel) {
    *saga = SagaModel::graph(64, |step| if step == 0 { vec![] } else { vec![0] });
    saga.input_max = SECTION_BYTES_MAX as u64;
}

#[test]
fn each_broken_rule_has_its_name_and_names_the_steps() {
    for (number, (breaks, name, words)) in CASES.iter().enumerate() {
        let mut saga = shop();
        saga.compile().unwrap();
        breaks(&mut saga);
        let error = saga.compile().expect_err(name);
        assert_eq!(error.name(), *name, "case {number}: {error}");
        for word in *words {
            assert!(error.to_string().contains(word), "case {number}: `{word}` is not in: {error}");
        }
    }
}

/// Refused by its bytes, before it is a definition.
fn refused(bytes: &[u8]) -> PlanError {
    Plan::compile(bytes).expect_err("it is malformed")
}

#[test]
fn every_name_has_a_test() {
    let mut names = CASES.iter().map(|case| case.1).collect::<BTreeSet<_>>();
    names.extend(["plan.length", "plan.encoding", "plan.trailing"]);
    let source = include_str!("../src/plan/error.rs");
    let declared = source.match_indices("\"plan.").map(|(at, _)| source[at + 1..].split(':').next().unwrap());
    assert_eq!(declared.collect::<BTreeSet<_>>(), names);
}

#[test]
fn lengths_are_bounded() {
    assert_eq!(refused(b"").name(), "plan.length");
    assert_eq!(refused(&vec![0; DEFINITION_BYTES_MAX + 1]).name(), "plan.length");
    assert_eq!(refused(&vec![0; DEFINITION_BYTES_MAX]).name(), "plan.encoding");
    let mut bytes = shop().encode();
    bytes.push(0);
    assert_eq!(refused(&bytes), PlanError::Trailing { bytes: 1 });
}

#[test]
fn a_definition_that_is_cut_off_is_refused_wherever() {
    let bytes = shop().encode();
    for end in 1..bytes.len() {
        assert_eq!(refused(&bytes[..end]).name(), "plan.encoding", "cut at {end}");
    }
}

/// The shop's bytes with the first occurrence of some replaced.
fn replaced(old: &[u8], new: &[u8]) -> Vec<u8> {
    let bytes = shop().encode();
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

#[test]
fn only_the_shortest_encoding_is_read() {
    let input_max: &[u8] = &[0xcd, 1, 0];
    let name: &[u8] = b"\xabplace-order";
    let cases: &[(&[u8], &[u8])] = &[
        (input_max, &[0xce, 0, 0, 1, 0]),
        (input_max, &[0xcf, 0, 0, 0, 0, 0, 0, 1, 0]),
        (input_max, &[0xcd, 0, 0x80]),
        (input_max, &[0xcc, 0x7f]),
        (input_max, &[0xd1, 1, 0]),
        (input_max, &[0xd0, 1]),
        (input_max, &[0xff]),
        (input_max, &[0xca, 0, 0, 0, 0]),
        (input_max, &[0xc0]),
        (input_max, &[0xc1]),
        (input_max, &[0xc3]),
        (name, b"\xd9\x0bplace-order"),
        (name, b"\xda\x00\x0bplace-order"),
        (name, b"\xc4\x0bplace-order"),
        (name, b"\xabplace\xff\xffrder"),
        (&[0x97, 1], &[0xdc, 0, 7, 1]),
        (&[0x97, 1], &[0xdd, 0, 0, 0, 7, 1]),
        (&[0x97, 1], &[0x87, 1]),
        (&[0x97, 1], &[0x96, 1]),
        (&[0x97, 1], &[0x98, 1]),
        (&[0x94, 0x97], &[0xdd, 0xff, 0xff, 0xff, 0xff, 0x97]),
        (&[0x94, 0x97], &[0x94, 0x96]),
        (&[0x91, 3], &[0xdc, 0xff, 0xff, 3]),
        (&[0x91, 3], &[0x91, 0x91]),
    ];
    for (number, (old, new)) in cases.iter().enumerate() {
        assert_eq!(refused(&replaced(old, new)).name(), "plan.encoding", "case {number}");
    }
}

#[test]
fn nesting_bombs_and_huge_counts_are_refused_at_once() {
    for byte in [0x91, 0x97, 0x81, 0xdd, 0xdc, 0xdb, 0xc6, 0xcf] {
        assert_eq!(refused(&[byte; 1024]).name(), "plan.encoding");
    }
    let mut saga = shop();
    saga.returns = vec![0; 65];
    let error = saga.compile().unwrap_err();
    assert_eq!(error.name(), "plan.encoding");
    assert!(error.to_string().contains("`returns` of the saga is not an array of at most 64"), "{error}");
}

#[test]
fn names_may_be_as_long_as_their_limit() {
    let mut saga = SagaModel::graph(64, |step| (0..step).collect());
    for (index, step) in saga.steps.iter_mut().enumerate() {
        step.name = format!("{index:0>100}");
        step.service = "\u{e9}".repeat(50);
    }
    let plan = saga.compile().unwrap();
    assert_eq!((plan.steps[63].name.len(), plan.steps[63].service.len()), (100, 100));
}
