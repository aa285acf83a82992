//! Whether the log alone gives the same state (I17): what a broker knows, as one string to compare.

use std::fmt::Write as _;

use sagacore_broker::{Broker, Saga, State, Token};

use super::history::hash;

/// What the log says, as far as a broker knows it: running sagas with their tokens, and ended ones. How a saga is kept
/// makes no difference.
pub fn digest(broker: &mut Broker, sequences: u64) -> String {
    let state = broker.state_mut();
    let mut out = format!("next {} plans {}\n", state.next_sequence, state.plans.len());
    for sequence in 1..sequences {
        if let Some(at) = state.saga_by_sequence(sequence) {
            let tokens = state.tokens_of(at).map(|token| &state.tokens[token]).collect();
            describe(state, &state.sagas[at], tokens, &mut out);
        } else if let Some((saga, tokens)) = state.look_at_parked(sequence) {
            describe(state, &saga, tokens.iter().collect(), &mut out);
        }
    }
    for sequence in 1..sequences {
        if let Some(outcome) = state.outcomes.get(sequence) {
            let body = hash(&outcome.body);
            let _ = writeln!(out, "{} {:?} {:x} {body:x}", outcome.id, outcome.code, outcome.key_hash);
        }
    }
    out
}

fn describe(state: &State, saga: &Saga, mut tokens: Vec<&Token>, out: &mut String) {
    let plan = &state.plans.get(saga.plan).plan.fingerprint;
    let _ = writeln!(
        out,
        "{} {plan:x} {} {:?} {} {} {} {} {} {} {:x} {:x}",
        saga.id,
        saga.attempt,
        saga.phase,
        saga.pivoted,
        saga.wide,
        saga.excepted,
        saga.victim,
        saga.age,
        saga.deadline_ms,
        saga.key_hash,
        saga.digest
    );
    tokens.sort_unstable_by_key(|token| (token.kind.code(), token.position));
    for token in tokens {
        let _ = writeln!(
            out,
            "  {:?} {} {:x} {:x} {:x} {:x}",
            token.kind,
            token.position,
            token.done,
            token.active,
            token.undo,
            hash(&token.body)
        );
    }
}
