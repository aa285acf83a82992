//! Runs seeds: `--seeds N [--from S] [--json]` runs many, `--seed S` replays one and tells its story. `--mutation NAME`
//! breaks a rule on purpose: then the seeds must fail.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use sagacore_sim::{Fault, Mutation, Options, Report, Situations, run};

/// Every so many seeds, one runs twice and must do the same.
const TWICE_EVERY: u64 = 100;

struct Arguments {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    is_json: bool,
    mutation: Option<Mutation>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments { seed: None, seeds: 100, from: 0, is_json: false, mutation: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} wants a number"))?;
            value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"))
        };
        match word.as_str() {
            "--seed" => found.seed = Some(number()?),
            "--seeds" => found.seeds = number()?,
            "--from" => found.from = number()?,
            "--json" => found.is_json = true,
            "--mutation" => {
                let name = words.next().unwrap_or_default();
                let found_one = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
                found.mutation = Some(found_one.ok_or_else(|| format!("{name} is none of {:?}", Mutation::ALL))?);
            }
            _ => return Err(format!("{word} is not known: --seed S, --seeds N, --from S, --json, --mutation NAME")),
        }
    }
    Ok(found)
}

fn say(line: &str) {
    // Whoever reads may have gone: then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "{reason}");
            return ExitCode::from(2);
        }
    };
    let is_right = match arguments.seed {
        Some(seed) => tell(seed, arguments.mutation),
        None => run_many(&arguments),
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Replays one seed with its story.
fn tell(seed: u64, mutation: Option<Mutation>) -> bool {
    let options = Options { mutation, ..Options::of(seed) };
    say(&format!("{options:#?}"));
    let report = run(options, true);
    report.story.iter().for_each(|line| say(line));
    say(&format!(
        "seed {seed}: {} sagas, {} events, {} ms, {} effects, {} undone, trace {:016x}",
        report.sagas, report.events, report.virtual_ms, report.effects, report.undos, report.hash
    ));
    say(&format!("faults {:?}", report.faults));
    for violation in &report.violations {
        say(&format!("VIOLATION of {} at {} us: {}", violation.invariant, violation.at_us, violation.text));
    }
    report.violations.is_empty()
}

#[derive(Default)]
struct Totals {
    sagas: u64,
    events: u64,
    effects: u64,
    undos: u64,
    failed: Vec<u64>,
    situations: Situations,
    faults: BTreeMap<Fault, u64>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.sagas += report.sagas;
        self.events += report.events;
        self.effects += report.effects;
        self.undos += report.undos;
        self.situations.add(&report.situations);
        for (&fault, &count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

fn run_many(arguments: &Arguments) -> bool {
    #[expect(clippy::disallowed_methods, reason = "measures the simulator itself")]
    let began = Instant::now();
    let mut totals = Totals::default();
    for seed in arguments.from..arguments.from + arguments.seeds {
        let run_seed = || run(Options { mutation: arguments.mutation, ..Options::of(seed) }, false);
        let report = run_seed();
        totals.add(&report);
        let differs = seed % TWICE_EVERY == 0 && run_seed().hash != report.hash;
        if let Some(violation) = report.violations.first() {
            totals.failed.push(seed);
            say(&format!("seed {seed} violates {}: {}", violation.invariant, violation.text));
        } else if differs {
            totals.failed.push(seed);
            say(&format!("seed {seed} runs differently the second time"));
        } else {
            continue;
        }
        say(&format!("  cargo run --release -p sagacore-sim --bin simulate -- --seed {seed}"));
    }
    let seconds = began.elapsed().as_secs_f64();
    report(arguments, &totals, seconds);
    totals.failed.is_empty()
}

fn report(arguments: &Arguments, totals: &Totals, seconds: f64) {
    let seeds_per_s = arguments.seeds as f64 / seconds.max(0.001);
    let unreached = totals.situations.unreached();
    if arguments.is_json {
        let faults: Vec<String> =
            totals.faults.iter().map(|(fault, count)| format!("\"{fault:?}\": {count}")).collect();
        let unreached: Vec<String> = unreached.iter().map(|name| format!("\"{name}\"")).collect();
        say(&format!(
            "{{\"seeds\": {}, \"sagas\": {}, \"events\": {}, \"violations\": {}, \"unreached\": [{}], \
             \"faults\": {{{}}}, \"seeds_per_s\": {seeds_per_s:.1}}}",
            arguments.seeds,
            totals.sagas,
            totals.events,
            totals.failed.len(),
            unreached.join(", "),
            faults.join(", ")
        ));
        return;
    }
    for situation in sagacore_sim::Situation::ALL {
        say(&format!("{:>10} {}", totals.situations.count(*situation), situation.name()));
    }
    say(&format!("faults {:?}", totals.faults));
    say(&format!(
        "{} seeds, {} sagas, {} events, {} effects, {} undone, {} violations, {seeds_per_s:.1} seeds/s, \
         unreached {unreached:?}",
        arguments.seeds,
        totals.sagas,
        totals.events,
        totals.effects,
        totals.undos,
        totals.failed.len()
    ));
}
