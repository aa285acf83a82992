//! Many seeds, on several threads, and what came of them: what both command lines show.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::checks::Violation;
use crate::options::{Fault, Options};
use crate::shards;
use crate::situations::{Situation, Situations};
use crate::world::{Report, run};

/// Every so many seeds, one runs twice and must do the same.
const TWICE_EVERY: u64 = 100;
/// Every so many seeds, one has a world of brokers side by side besides its own.
const SHARDS_EVERY: u64 = 2;
/// From so many seeds on, a situation that none has come to is a failure.
pub const REACHES_ALL_FROM: u64 = 1_000;

/// A seed that did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub invariant: &'static str,
    pub text: String,
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub sagas: u64,
    pub events: u64,
    pub effects: u64,
    pub undos: u64,
    pub failures: Vec<Failure>,
    pub situations: Situations,
    pub faults: BTreeMap<Fault, u64>,
}

/// Runs a seed, and says what did not hold. A panic of a core counts too.
pub fn run_seed(seed: u64) -> (Option<Report>, Option<Failure>) {
    let ran = |is_told| catch_unwind(AssertUnwindSafe(|| run(Options::of(seed), is_told)));
    let fail = |invariant, text| Some(Failure { seed, invariant, text });
    let report = match ran(false) {
        Ok(report) => report,
        Err(panic) => return (None, fail("panic", text_of(&*panic))),
    };
    let differs = seed.is_multiple_of(TWICE_EVERY) && ran(false).ok().map(|second| second.hash) != Some(report.hash);
    let failure = match report.violations.first() {
        Some(Violation { invariant, text, .. }) => fail(invariant, text.clone()),
        None if differs => fail("replay", "it runs differently the second time".to_owned()),
        None => shards_of(seed).and_then(|(invariant, text)| fail(invariant, text)),
    };
    (Some(report), failure)
}

/// What did not hold between brokers side by side, in the seeds that have such.
fn shards_of(seed: u64) -> Option<(&'static str, String)> {
    if !seed.is_multiple_of(SHARDS_EVERY) {
        return None;
    }
    match catch_unwind(|| shards::run(seed)) {
        Ok(found) => found.map(|text| ("I14", text)),
        Err(panic) => Some(("panic", text_of(&*panic))),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Runs so many seeds from one on.
pub fn run_many(from: u64, seeds: u64, jobs: usize) -> Totals {
    let next = AtomicU64::new(from);
    let work = || {
        let mut totals = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return totals;
            }
            let (report, failure) = run_seed(seed);
            totals.add(report.as_ref(), failure);
        }
    };
    let mut totals = std::thread::scope(|scope| {
        let others: Vec<_> = (1..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut totals = work();
        for other in others {
            // A job catches what panics within a seed.
            totals.merge(other.join().unwrap_or_default());
        }
        totals
    });
    totals.failures.sort_by_key(|failure| failure.seed);
    totals
}

impl Failure {
    /// What did not hold, and how to see it again.
    pub fn lines(&self) -> [String; 2] {
        let Self { seed, invariant, text } = self;
        [format!("seed {seed} violates {invariant}: {text}"), format!("  sagacore simulate --seed {seed}")]
    }
}

impl Totals {
    fn add(&mut self, report: Option<&Report>, failure: Option<Failure>) {
        self.seeds += 1;
        self.failures.extend(failure);
        let Some(report) = report else { return };
        self.sagas += report.sagas;
        self.events += report.events;
        self.effects += report.effects;
        self.undos += report.undos;
        self.situations.add(&report.situations);
        for (&fault, &count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.sagas += other.sagas;
        self.events += other.events;
        self.effects += other.effects;
        self.undos += other.undos;
        self.failures.extend(other.failures);
        self.situations.add(&other.situations);
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    /// Whether all held, and so many seeds came to all that they should.
    pub fn is_right(&self) -> bool {
        let reached = self.seeds < REACHES_ALL_FROM || self.situations.unreached().is_empty();
        self.failures.is_empty() && reached
    }

    /// One line for programs.
    pub fn json(&self, seconds: f64) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("\"{fault:?}\": {count}")).collect();
        let unreached: Vec<String> =
            self.situations.unreached().iter().map(|situation| format!("\"{situation}\"")).collect();
        format!(
            "{{\"seeds\": {}, \"sagas\": {}, \"events\": {}, \"violations\": {}, \"unreached\": [{}], \
             \"faults\": {{{}}}, \"seeds_per_s\": {:.1}}}",
            self.seeds,
            self.sagas,
            self.events,
            self.failures.len(),
            unreached.join(", "),
            faults.join(", "),
            self.seeds_per_s(seconds),
        )
    }

    /// The same for people, with how often each situation was met.
    pub fn lines(&self, seconds: f64) -> Vec<String> {
        let count = |situation: &Situation| format!("{:>10} {}", self.situations.count(*situation), situation.name());
        let mut lines: Vec<String> = Situation::ALL.iter().map(count).collect();
        lines.push(format!("faults {:?}", self.faults));
        lines.push(format!(
            "{} seeds, {} sagas, {} events, {} effects, {} undone, {} violations, {:.1} seeds/s, unreached {:?}",
            self.seeds,
            self.sagas,
            self.events,
            self.effects,
            self.undos,
            self.failures.len(),
            self.seeds_per_s(seconds),
            self.situations.unreached(),
        ));
        lines
    }

    fn seeds_per_s(&self, seconds: f64) -> f64 {
        self.seeds as f64 / seconds.max(0.001)
    }
}

/// Replays one seed: its options, its story, and what did not hold. Whether all held.
pub fn tell(seed: u64) -> (Vec<String>, bool) {
    let options = Options::of(seed);
    let mut lines = vec![format!("{options:#?}")];
    let report = match catch_unwind(AssertUnwindSafe(|| run(options, true))) {
        Ok(report) => report,
        Err(panic) => {
            lines.push(format!("VIOLATION of panic: {}", text_of(&*panic)));
            return (lines, false);
        }
    };
    lines.extend(report.story);
    lines.push(format!(
        "seed {seed}: {} sagas, {} events, {} ms, {} effects, {} undone, trace {:016x}",
        report.sagas, report.events, report.virtual_ms, report.effects, report.undos, report.hash
    ));
    lines.push(format!("faults {:?}", report.faults));
    for violation in &report.violations {
        let Violation { at_us, invariant, text } = violation;
        lines.push(format!("VIOLATION of {invariant} at {at_us} us: {text}"));
    }
    (lines, report.violations.is_empty())
}
