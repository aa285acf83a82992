//! Checks that every configuration holds and that every mutation is caught: `--deep` adds the large configurations,
//! `--only NAME` checks one configuration, `--trace NAME` tells how a mutation (or a configuration) fails.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use sagacore_model::action::Kinds;
use sagacore_model::checker::{Answer, Verdict, check};
use sagacore_model::configuration::{ALL, Configuration, Size};
use sagacore_model::model::Model;
use sagacore_model::mutation::{Mutation, SECOND_LINES};
use sagacore_model::trace::tell;

const USAGE: &str = "sagacore-model [--deep | --only CONFIGURATION | --trace MUTATION-OR-CONFIGURATION]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] => check_all(Size::Medium),
        ["--deep"] => check_all(Size::Deep),
        ["--only", name] => check_one(name),
        ["--trace", name] => trace(name),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(2)
        }
    }
}

/// What all searches came to.
#[derive(Default)]
struct Sum {
    configurations: usize,
    states: usize,
    mutations: usize,
    reached: Kinds,
    failed: Vec<String>,
    survived: Vec<String>,
}

fn check_all(size: Size) -> io::Result<bool> {
    let begin = Instant::now();
    let mut sum = Sum::default();
    for setting in ALL.iter().filter(|setting| setting.size <= size) {
        hold(*setting, &mut sum)?;
    }
    for mutation in Mutation::that_break() {
        catch(mutation, &mut sum)?;
    }
    for &mutation in SECOND_LINES {
        tolerate(mutation, size, &mut sum)?;
    }
    let unreached: Vec<String> = sum.reached.missing().map(|kind| format!("\"{kind}\"")).collect();
    let quoted = |names: &[String]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
    writeln!(
        io::stdout(),
        "{{\"configurations\":{},\"states\":{},\"mutations\":{},\"failed\":[{}],\"survived\":[{}],\"unreached\":[{}],\
         \"seconds\":{:.1}}}",
        sum.configurations,
        sum.states,
        sum.mutations,
        quoted(&sum.failed),
        quoted(&sum.survived),
        unreached.join(","),
        begin.elapsed().as_secs_f64(),
    )?;
    Ok(sum.failed.is_empty() && sum.survived.is_empty() && unreached.is_empty())
}

fn hold(setting: Configuration, sum: &mut Sum) -> io::Result<()> {
    let model = Model::new(setting, None);
    let verdict = check(&model);
    sum.configurations += 1;
    sum.states += verdict.states;
    sum.reached.join(verdict.reached);
    if !matches!(verdict.answer, Answer::Holds) {
        sum.failed.push(setting.name.to_owned());
    }
    row(setting.name, verdict.states, verdict.took.as_secs_f64(), &told(&model, &verdict))
}

/// A mutation must break a configuration: the first that it does is enough.
fn catch(mutation: Mutation, sum: &mut Sum) -> io::Result<()> {
    let begin = Instant::now();
    let mut states = 0;
    sum.mutations += 1;
    for setting in ALL.iter().filter(|setting| setting.size <= Size::Medium) {
        let model = Model::new(*setting, Some(mutation));
        let verdict = check(&model);
        states += verdict.states;
        if let Answer::Breaks(failure) = &verdict.answer {
            let caught = format!("caught by {}: {:?} in {}", setting.name, failure.property, failure.trace.len());
            sum.states += states;
            return row(&mutation.name(), states, begin.elapsed().as_secs_f64(), &caught);
        }
    }
    sum.states += states;
    sum.survived.push(mutation.name());
    row(&mutation.name(), states, begin.elapsed().as_secs_f64(), "SURVIVED")
}

/// A second line may be missing: nothing breaks, while all others stand.
fn tolerate(mutation: Mutation, size: Size, sum: &mut Sum) -> io::Result<()> {
    let begin = Instant::now();
    let mut states = 0;
    let mut answer = "second line: nothing breaks without it".to_owned();
    let size = if size == Size::Deep { size } else { Size::Small };
    for setting in ALL.iter().filter(|setting| setting.size <= size) {
        let model = Model::new(*setting, Some(mutation));
        let verdict = check(&model);
        states += verdict.states;
        if !matches!(verdict.answer, Answer::Holds) {
            sum.failed.push(format!("{}, {}", mutation.name(), setting.name));
            answer = told(&model, &verdict);
        }
    }
    sum.states += states;
    row(&mutation.name(), states, begin.elapsed().as_secs_f64(), &answer)
}

fn row(name: &str, states: usize, seconds: f64, answer: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{name:26} {states:>10} states {seconds:7.2} s  {answer}")
}

fn told(model: &Model, verdict: &Verdict) -> String {
    match &verdict.answer {
        Answer::Holds => "holds".to_owned(),
        Answer::Breaks(failure) => format!("BREAKS {}\n{}", failure.property, tell(model, failure)),
        Answer::TooLarge => "TOO LARGE: nothing is shown".to_owned(),
    }
}

fn check_one(name: &str) -> io::Result<bool> {
    let setting = ALL.iter().find(|setting| setting.name == name);
    let setting = setting.ok_or_else(|| io::Error::other(format!("{name} is no configuration")))?;
    let mut sum = Sum::default();
    hold(*setting, &mut sum)?;
    Ok(sum.failed.is_empty())
}

/// Tells how a mutation breaks the first configuration that it breaks, or how a configuration breaks by itself.
fn trace(name: &str) -> io::Result<bool> {
    let mutation = Mutation::ALL.iter().copied().find(|mutation| mutation.name() == name);
    let settings: Vec<_> = ALL.iter().filter(|setting| mutation.is_some() || setting.name == name).collect();
    if settings.is_empty() {
        return Err(io::Error::other(format!("{name} is neither a mutation nor a configuration")));
    }
    for setting in settings {
        let model = Model::new(*setting, mutation);
        if let Answer::Breaks(failure) = &check(&model).answer {
            writeln!(io::stdout(), "{}", tell(&model, failure))?;
            return Ok(true);
        }
    }
    writeln!(io::stdout(), "{name}: nothing breaks")?;
    Ok(true)
}
