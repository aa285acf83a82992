//! A counterexample, step by step.

use std::fmt::Write as _;

use crate::checker::Failure;
use crate::model::Model;
use crate::plan::{Steps, each};
use crate::state::{ATTEMPTS, Outcome, Row, Saga, letters, names};

/// What happened, a line each, with what the log, the fences and the world say of each saga after it.
pub fn tell(model: &Model, failure: &Failure) -> String {
    let mut out = format!("plan {}, configuration {}", model.plan.name, model.setting.name);
    if let Some(mutation) = model.mutation {
        let _ = write!(out, ", broken: {}", mutation.name());
    }
    for (number, (action, state)) in failure.trace.iter().enumerate() {
        let _ = write!(out, "\n{:>3}. {action}", number + 1);
        for saga in &state.sagas[..model.setting.sagas] {
            let _ = write!(out, "\n       {}", describe(model, saga));
        }
    }
    let _ = write!(out, "\nThen this does not hold: {}", failure.property);
    out
}

fn describe(model: &Model, saga: &Saga) -> String {
    let mut out = format!("log: {}", log_of(saga));
    if saga.wide != 0 {
        out.push_str(", wide");
    }
    for attempt in 0..ATTEMPTS {
        let row = |row: Row| steps_with(saga, attempt, row);
        let rows = [(Row::INTENT, "intent"), (Row::DID, "did"), (Row::REJECTED, "rejected"), (Row::UNDONE, "undone")];
        for (kind, name) in rows.into_iter().chain([(Row::TOMBSTONE, "tombstone")]).filter(|(kind, _)| row(*kind) != 0)
        {
            let _ = write!(out, "; row {name} {}", letters(row(kind)));
        }
        if saga.standing(attempt) != 0 {
            let _ = write!(out, "; effects {}", letters(saga.standing(attempt)));
        }
        if attempt == 0 && saga.live.attempt > 0 {
            out.push_str("; second attempt");
        }
    }
    for slot in saga.slots[..model.setting.coordinators].iter().filter(|slot| slot.arrivals != 0) {
        let _ = write!(out, "; slot {{{}}}", names(slot.arrivals));
    }
    out
}

fn log_of(saga: &Saga) -> String {
    let live = match saga.live.outcome {
        Outcome::COMPLETED => "completed".to_owned(),
        Outcome::COMPENSATED => "compensated".to_owned(),
        _ if saga.live.pending == 0 => "nothing".to_owned(),
        _ => names(saga.live.pending),
    };
    if saga.live == saga.synced { live } else { format!("{live} (not synced)") }
}

fn steps_with(saga: &Saga, attempt: usize, row: Row) -> Steps {
    each(Steps::MAX).filter(|&step| saga.rows[attempt][step] == row).fold(0, |all, step| all | 1 << step)
}
