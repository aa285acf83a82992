//! Runs seeds without Python, with whatever the build asserts: `--seeds N [--from S] [--jobs J] [--json]` runs many,
//! `--seed S` replays one and tells its story. The same as `sagacore simulate`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use sagacore_sim::runner::{Failure, run_many, tell};

struct Arguments {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    jobs: usize,
    is_json: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments { seed: None, seeds: 100, from: 0, jobs: 1, is_json: false };
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
            "--jobs" => found.jobs = number()? as usize,
            "--json" => found.is_json = true,
            _ => return Err(format!("{word} is not known: --seed S, --seeds N, --from S, --jobs J, --json")),
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
        Some(seed) => {
            let (lines, is_right) = tell(seed);
            lines.iter().for_each(|line| say(line));
            is_right
        }
        None => run(&arguments),
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(arguments: &Arguments) -> bool {
    #[expect(clippy::disallowed_methods, reason = "measures the simulator itself")]
    let began = Instant::now();
    let totals = run_many(arguments.from, arguments.seeds, arguments.jobs);
    totals.failures.iter().flat_map(Failure::lines).for_each(|line| say(&line));
    let seconds = began.elapsed().as_secs_f64();
    if arguments.is_json {
        say(&totals.json(seconds));
    } else {
        totals.lines(seconds).iter().for_each(|line| say(line));
    }
    totals.is_right()
}
