//! Breaks every rule, one at a time, until a seed notices: the measure of the simulator. `mutants [NAME]...` breaks
//! only these; `--seeds N` gives up sooner, `mutants NAME --seed S` tells what happens in one seed then. The last line
//! is JSON.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sagacore_core::mutation::{Mutation, select};
use sagacore_sim::runner::{Failure, run_seed, tell};

/// Seeds that a broken rule may survive at most, less one.
const SEEDS_MAX: u64 = 2_000;
const JOBS: usize = 2;

fn say(line: &str) {
    // Whoever reads may have gone: then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let mut mutations = Vec::new();
    let (mut seed, mut seeds_max) = (None, SEEDS_MAX);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let named = Mutation::ALL.iter().find(|mutation| mutation.name() == word);
        match (word.as_str(), named) {
            ("--seeds", _) => seeds_max = words.next().and_then(|value| value.parse().ok()).unwrap_or(SEEDS_MAX),
            ("--seed", _) => seed = words.next().and_then(|value| value.parse::<u64>().ok()),
            (_, Some(&mutation)) => mutations.push(mutation),
            (_, None) => {
                let names: Vec<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
                let _ = writeln!(std::io::stderr(), "{word} is none of {}", names.join(" "));
                return ExitCode::from(2);
            }
        }
    }
    if mutations.is_empty() {
        mutations.extend_from_slice(Mutation::ALL);
    }
    if let Some(seed) = seed {
        select(mutations.first().copied());
        let (lines, is_right) = tell(seed);
        lines.iter().for_each(|line| say(line));
        return if is_right { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    // A broken rule may well panic: that is how it is noticed, and no news.
    std::panic::set_hook(Box::new(|_| {}));
    let needed = run_all(&mutations, seeds_max);
    if report(&mutations, &needed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// By mutation, the failure that noticed it.
fn run_all(mutations: &[Mutation], seeds_max: u64) -> Vec<Option<Failure>> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; mutations.len()]);
    let work = || {
        while let Some(&mutation) = mutations.get(next.fetch_add(1, Ordering::Relaxed)) {
            let failure = catch(mutation, seeds_max);
            let place = mutations.iter().position(|&other| other == mutation);
            if let (Ok(mut found), Some(place)) = (found.lock(), place) {
                say(&line(mutation, failure.as_ref()));
                found[place] = failure;
            }
        }
    };
    std::thread::scope(|scope| (0..JOBS).for_each(|_| _ = scope.spawn(work)));
    found.into_inner().unwrap_or_default()
}

/// The first seed that fails with this rule broken, and holds without.
fn catch(mutation: Mutation, seeds_max: u64) -> Option<Failure> {
    (0..seeds_max).find_map(|seed| {
        select(Some(mutation));
        let failure = run_seed(seed).1?;
        select(None);
        run_seed(seed).1.is_none().then_some(failure)
    })
}

fn line(mutation: Mutation, failure: Option<&Failure>) -> String {
    let name = mutation.name();
    match failure {
        Some(Failure { seed, invariant, text }) => {
            let text: String = text.chars().take(90).collect();
            format!("{name:<24} {:>5} seeds  {invariant:<8} {text}", seed + 1)
        }
        None => format!("{name:<24} SURVIVED"),
    }
}

fn report(mutations: &[Mutation], found: &[Option<Failure>]) -> bool {
    let pairs = || mutations.iter().zip(found);
    let survived: Vec<String> =
        pairs().filter(|(_, failure)| failure.is_none()).map(|(name, _)| format!("\"{}\"", name.name())).collect();
    let mut seeds: Vec<u64> = pairs().filter_map(|(_, failure)| failure.as_ref()).map(|found| found.seed + 1).collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or_default();
    say(&format!(
        "{{\"mutations\": {}, \"survived\": [{}], \"median_seeds\": {median}}}",
        mutations.len(),
        survived.join(", ")
    ));
    survived.is_empty()
}
