//! The small configurations hold, and the broken rules are caught. `make model` checks the larger ones too.

use sagacore_model::checker::{Answer, check};
use sagacore_model::configuration::{ALL, Configuration, Size};
use sagacore_model::model::Model;
use sagacore_model::mutation::{Mutation, SECOND_LINES};
use sagacore_model::trace::tell;

fn small() -> impl Iterator<Item = Configuration> {
    ALL.iter().copied().filter(|setting| setting.size == Size::Small)
}

fn must_hold(model: &Model) {
    match check(model).answer {
        Answer::Holds => {}
        Answer::Breaks(failure) => panic!("{}", tell(model, &failure)),
        Answer::TooLarge => panic!("{} is too large", model.setting.name),
    }
}

#[test]
fn small_configurations_hold() {
    small().for_each(|setting| must_hold(&Model::new(setting, None)));
}

#[test]
fn broken_rules_are_caught() {
    let breaks = |mutation, setting| matches!(check(&Model::new(setting, mutation)).answer, Answer::Breaks(_));
    // All but a few are caught by a small one, so the larger ones are seldom begun.
    let settings = || ALL.iter().copied().filter(|setting| setting.size <= Size::Medium);
    let survived: Vec<_> =
        Mutation::that_break().filter(|&mutation| !settings().any(|setting| breaks(Some(mutation), setting))).collect();
    assert!(survived.is_empty(), "no configuration catches {survived:?}");
}

#[test]
fn second_lines_may_be_missing() {
    for &mutation in SECOND_LINES {
        small().for_each(|setting| must_hold(&Model::new(setting, Some(mutation))));
    }
}

#[test]
fn a_trace_tells_the_shortest_way() {
    let setting = small().find(|setting| setting.name == "stuck-relaxed").unwrap();
    let model = Model::new(setting, Some(Mutation::SkipAhead));
    let Answer::Breaks(failure) = check(&model).answer else { panic!("it holds") };
    let story = tell(&model, &failure);
    assert_eq!(failure.trace.len(), 16, "{story}");
    assert!(story.contains("an operator skips B") && story.contains("I7"), "{story}");
}
