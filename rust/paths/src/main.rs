//! Runs a path so many times, for whoever counts: `paths NAME OPERATIONS [--worse]`. Without words it lists the paths.
//!
//! `--worse` does the work of every fifth operation twice: a count that does not notice that is none.

use std::io::Write as _;
use std::process::ExitCode;

use sagacore_paths::{PATHS, path};

const WORSE_EVERY: u64 = 5;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, operations, is_worse) = match words[..] {
        [] => return list(),
        [name, operations] => (name, operations, false),
        [name, operations, "--worse"] => (name, operations, true),
        _ => return refuse("paths [NAME OPERATIONS [--worse]]"),
    };
    let (Some(mut path), Ok(operations)) = (path(name), operations.parse()) else {
        return refuse("no such path, or no number of operations; without words, paths are listed");
    };
    let mut done = 0;
    for operation in 0..operations {
        let times = 1 + u64::from(is_worse && operation % WORSE_EVERY == 0);
        (0..times).for_each(|_| path.operate());
        done += times;
    }
    path.check(done);
    ExitCode::SUCCESS
}

/// Name and operation, a line each.
fn list() -> ExitCode {
    let mut out = std::io::stdout();
    let written = PATHS.iter().try_for_each(|(name, operation, _)| writeln!(out, "{name}\t{operation}"));
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse(text: &str) -> ExitCode {
    // Whoever reads may have gone: then there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(2)
}
