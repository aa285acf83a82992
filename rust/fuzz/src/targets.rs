//! The targets: a function for each parser of bytes that come from outside, and for what acts on them.

use sagacore_core::plan::{Plan, fingerprint};
use sagacore_core::wire::{BodyWriter, Message, Section, Sections, Transaction, TransactionWriter, Transactions};

use crate::{brokers, logs, peers, seeds};

/// A function that takes any bytes, and the valid ones that mutation begins with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "wire", run: wire, seeds: seeds::frames },
    Target { name: "body", run: body, seeds: seeds::bodies },
    Target { name: "plan", run: plan, seeds: seeds::plans },
    Target { name: "peers", run: peers::peers, seeds: peers::frames },
    Target { name: "broker", run: brokers::broker, seeds: brokers::frames },
    Target { name: "replay", run: brokers::replay, seeds: brokers::records },
    Target { name: "log", run: logs::log, seeds: logs::files },
];

/// A frame is refused, or all that was read from it is in it, and writing it again loses nothing.
pub fn wire(bytes: &[u8]) {
    let Ok(transactions) = Transactions::parse(bytes) else { return };
    let mut read = 0;
    let mut again = Vec::new();
    for transaction in transactions {
        let Ok(transaction) = transaction else { return };
        assert_eq!(
            transaction.bytes(),
            &bytes[read..read + transaction.bytes().len()],
            "transactions are back to back"
        );
        read += transaction.bytes().len();
        again.clear();
        rewrite(&transaction, &mut again);
        let (copy, rest) = Transaction::parse(&again).unwrap_or_else(|broken| panic!("written again: {broken}"));
        assert!(rest.is_empty(), "written again, something follows it");
        same(&transaction, &copy);
    }
    assert_eq!(read, bytes.len(), "nothing is left over");
}

fn rewrite(transaction: &Transaction<'_>, out: &mut Vec<u8>) {
    let mut writer = TransactionWriter::new(out, transaction.number);
    for key in transaction.consumes {
        writer.consume(key);
    }
    for message in transaction.messages() {
        writer.publish_with(*message.header, |body| {
            for (key, value) in message.sections() {
                body.section(key, value);
            }
        });
    }
    writer.finish();
}

fn same(one: &Transaction<'_>, other: &Transaction<'_>) {
    assert_eq!((one.number, one.consumes), (other.number, other.consumes));
    assert_eq!(one.messages().len(), other.messages().len());
    for (one, other) in one.messages().zip(other.messages()) {
        same_message(&one, &other);
    }
}

fn same_message(one: &Message<'_>, other: &Message<'_>) {
    // A body may be written longer than need be, and a MAC is of the bytes as they were.
    let mut header = *other.header;
    header.length = one.header.length;
    header.body_length = one.header.body_length;
    header.mac_length = one.header.mac_length;
    assert_eq!(*one.header, header);
    assert!(one.sections().eq(other.sections()));
    for (key, value) in one.sections() {
        assert!(key < Section::END);
        assert_eq!(one.sections().get(key), Some(value));
    }
}

/// A body is refused, or its sections are all of it, in order; written again, no byte more, they are the same.
pub fn body(bytes: &[u8]) {
    let Ok(sections) = Sections::parse(bytes) else { return };
    let (mut again, mut last) = (Vec::new(), None);
    let mut writer = BodyWriter::new(&mut again);
    for (key, value) in sections {
        assert!(key < Section::END && last < Some(key), "keys ascend");
        let (whole, part) = (bytes.as_ptr_range(), value.as_ptr_range());
        assert!(whole.start <= part.start && part.end <= whole.end, "a value is a part of the body");
        writer.section(key, value);
        last = Some(key);
    }
    assert!(writer.finish() <= bytes.len(), "the writer takes the shortest encoding");
    assert!(parsed(&again).eq(sections));
    for key in 0..=u8::MAX {
        assert_eq!(sections.get(key), parsed(&again).find(|&(at, _)| at == key).map(|(_, value)| value));
    }
}

fn parsed(body: &[u8]) -> Sections<'_> {
    Sections::parse(body).unwrap_or_else(|broken| panic!("written again: {broken}"))
}

/// A definition is refused, or the plan is within its limits, and any set of its steps can be undone.
pub fn plan(bytes: &[u8]) {
    let Ok(plan) = Plan::compile(bytes) else { return };
    assert_eq!(plan.fingerprint, fingerprint(bytes));
    assert!(plan.messages > plan.steps.len(), "every step is asked for, and the end is told");
    assert_eq!(plan.compensable & !plan.before_pivot, 0, "what comes after the pivot is never undone");
    // The bytes themselves choose the sets: the same input does the same each time.
    for set in [0, plan.compensable, plan.compensable & plan.fingerprint, plan.forward.members & !plan.fingerprint] {
        let graph = plan.undo(set);
        assert_eq!(graph.members, set);
        assert_eq!(graph.roots & !set, 0, "only what is in the set is undone");
        assert_eq!(graph.roots == 0, set == 0, "it begins somewhere");
    }
}
