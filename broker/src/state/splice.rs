//! Bodies that a coordinator names without seeing them: put together from what its transaction consumes.

use sagacore_core::limits::STEPS_MAX;
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::plan::Plan;
use sagacore_core::wire::{BodyWriter, Header, Kind, OutcomeCode, Section, Sections};

/// Which results ride in a published message, and which other sections.
struct Wanted {
    results: u64,
    others: &'static [u8],
}

fn wanted(plan: &Plan, header: &Header) -> Wanted {
    match header.kind() {
        Kind::Run => Wanted { results: plan.steps[usize::from(header.place.get())].carry, others: &[Section::INPUT] },
        Kind::Result if header.place.get() == OutcomeCode::Completed.code() => {
            Wanted { results: plan.returns, others: &[] }
        }
        Kind::Result => Wanted { results: 0, others: &[Section::CAUSE, Section::SKIPPED] },
        _ => Wanted { results: 0, others: &[Section::INPUT, Section::CAUSE, Section::SKIPPED] },
    }
}

/// Appends the body of a message to `out`. `bodies` are those of the consumed tokens; where several have a section,
/// the first one's is taken, but lists of skipped steps are put together.
pub fn splice(plan: &Plan, header: &Header, bodies: &[&[u8]], out: &mut Vec<u8>) {
    let wanted = wanted(plan, header);
    let mut body = BodyWriter::new(out);
    let find = |key: u8| bodies.iter().find_map(|body| Sections::parse(body).ok()?.get(key));
    let mut results = wanted.results;
    while results != 0 {
        let step = results.trailing_zeros() as u8;
        results &= results - 1;
        if let Some(value) = find(step) {
            body.section(step, value);
        }
    }
    for &key in wanted.others {
        if key == Section::SKIPPED {
            if let Some(all) = skipped(bodies).filter(|_| !is_broken(Mutation::SkipNotTold)) {
                body.section(key, &all);
            }
        } else if let Some(value) = find(key) {
            body.section(key, value);
        }
    }
    body.finish();
}

/// All lists of skipped steps as one, each step once; none where no step was skipped.
fn skipped(bodies: &[&[u8]]) -> Option<Vec<u8>> {
    let (mut steps, mut items) = (0u64, Vec::new());
    for body in bodies {
        let list = Sections::parse(body).ok().and_then(|sections| sections.get(Section::SKIPPED));
        for (step, item) in pairs(list.unwrap_or_default()) {
            if steps & (1 << step) == 0 {
                steps |= 1 << step;
                items.extend_from_slice(item);
            }
        }
    }
    (steps != 0).then(|| prepend_array(steps.count_ones(), &items))
}

/// The pairs of step and reason in a list, each as its bytes. Ends at the first that is none.
fn pairs(list: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = list;
    let count = rmp::decode::read_array_len(&mut rest).unwrap_or(0);
    (0..count).map_while(move |_| {
        let item = rest;
        if rmp::decode::read_array_len(&mut rest).ok()? != 2 {
            return None;
        }
        let step: u8 = rmp::decode::read_int(&mut rest).ok()?;
        let (_, after) = rmp::decode::read_str_from_slice(rest).ok()?;
        rest = after;
        (usize::from(step) < STEPS_MAX).then(|| (step, &item[..item.len() - rest.len()]))
    })
}

fn prepend_array(count: u32, items: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + 5);
    // Writing to a vector cannot fail.
    let _ = rmp::encode::write_array_len(&mut out, count);
    out.extend_from_slice(items);
    out
}

/// The list of skipped steps of a body with one more.
pub fn skip(body: &[u8], step: u8, reason: &str) -> Vec<u8> {
    let old = Sections::parse(body).ok().and_then(|sections| sections.get(Section::SKIPPED)).unwrap_or_default();
    let mut rest = old;
    let count = rmp::decode::read_array_len(&mut rest).unwrap_or(0);
    let mut items = rest.to_vec();
    // Writing to a vector cannot fail.
    let _ = rmp::encode::write_array_len(&mut items, 2);
    let _ = rmp::encode::write_uint(&mut items, u64::from(step));
    let _ = rmp::encode::write_str(&mut items, reason);
    prepend_array(count + 1, &items)
}
