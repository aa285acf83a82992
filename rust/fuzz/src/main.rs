//! Runs the targets for a while and keeps what breaks one: `sagacore-fuzz [TARGET] [--seconds N] [--seed N]`, and
//! `sagacore-fuzz TARGET --replay FILE`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use sagacore_fuzz::{Mutator, TARGETS, Target, corpus};

const USAGE: &str = "usage: sagacore-fuzz [wire|body|plan|peers|broker|replay|log] [--seconds N] \
                     [--seed N] [--replay FILE] [--seeds FOLDER]";
/// Inputs between two looks at the clock.
const BATCH: u64 = 1_000;
const FOUND: &str = "target/fuzz";

struct Options {
    target: Option<String>,
    seconds: u64,
    seed: u64,
    replay: Option<PathBuf>,
    seeds: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let chosen = |target: &&Target| options.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(chosen).collect();
    if targets.is_empty() {
        eprintln!("there is no such target\n{USAGE}");
        return ExitCode::from(2);
    }
    if let Some(path) = &options.replay {
        return replay(&targets, path);
    }
    if let Some(folder) = &options.seeds {
        return write_seeds(&targets, folder);
    }
    let each = Duration::from_secs(options.seconds);
    let broken = targets.iter().filter(|target| !holds(target, options.seed, each)).count();
    ExitCode::from(u8::from(broken > 0))
}

/// Tries one target for so long. Where it breaks, says how to see it again.
fn holds(target: &Target, seed: u64, each: Duration) -> bool {
    let begin = Instant::now();
    let bases = match corpus::bases(target) {
        Ok(bases) => bases,
        Err(error) => {
            eprintln!("{}: the kept inputs in {}: {error}", target.name, corpus::folder(target).display());
            return false;
        }
    };
    let mut mutator = Mutator::new(bases, seed);
    let mut tried = 0;
    while begin.elapsed() < each {
        for _ in 0..BATCH {
            let bytes = mutator.draw();
            tried += 1;
            if catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
                let path = PathBuf::from(FOUND).join(format!("{}-{seed}-{tried}", target.name));
                let kept = fs::create_dir_all(FOUND).and_then(|()| fs::write(&path, bytes));
                eprintln!("{}: broken by input {tried} of --seed {seed}", target.name);
                match kept {
                    Ok(()) => eprintln!("hint: sagacore-fuzz {} --replay {}", target.name, path.display()),
                    Err(error) => eprintln!("the input could not be kept in {}: {error}", path.display()),
                }
                return false;
            }
        }
    }
    println!(
        "{}: {tried} inputs of --seed {seed} in {:.1} s, none breaks it",
        target.name,
        begin.elapsed().as_secs_f64()
    );
    true
}

fn replay(targets: &[&Target], path: &PathBuf) -> ExitCode {
    match fs::read(path) {
        Ok(bytes) => {
            for target in targets {
                (target.run)(&bytes);
                println!("{}: {} bytes do not break it", target.name, bytes.len());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::from(2)
        }
    }
}

/// Writes the valid bytes of each target into a folder of its name, for libFuzzer to begin with.
fn write_seeds(targets: &[&Target], folder: &Path) -> ExitCode {
    for target in targets {
        let folder = folder.join(target.name);
        let write = |(number, bytes): (usize, Vec<u8>)| fs::write(folder.join(format!("seed-{number}")), bytes);
        let written = fs::create_dir_all(&folder).and_then(|()| (0..).zip((target.seeds)()).try_for_each(write));
        if let Err(error) = written {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut options = Options { target: None, seconds: 60, seed: clock, replay: None, seeds: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
        match argument.as_str() {
            "--seconds" => options.seconds = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--replay" => options.replay = Some(value()?.into()),
            "--seeds" => options.seeds = Some(value()?.into()),
            name if !name.starts_with('-') => options.target = Some(name.to_owned()),
            other => return Err(format!("{other} is not known")),
        }
    }
    Ok(options)
}
