//! Suspects: messages that were delivered some times without an answer.
//!
//! One that kills whoever gets it takes down all that was delivered with it, time after time, up to the limit of all
//! of them. So a server gets few suspects at a time, more with each that is answered, as a sender learns what a network
//! takes (V. Jacobson, 1988): after a crash of the service itself they are soon through. One that went without an
//! answer many times is delivered beside no other suspect, and who only stood beside is answered long before the limit.

use sagacore_core::limits::{ALONE_AFTER, SUSPECT_AFTER, SUSPECTS_FIRST, SUSPECTS_MAX};
use sagacore_core::mutation::{Mutation, is_broken};

use super::Queues;
use super::queues::{is_leased, is_ready};
use crate::state::{SessionRef, State, TokenRef};

/// What a server has of them. Some may have been answered since.
#[derive(Debug)]
pub struct Suspects {
    leased: Vec<TokenRef>,
    /// So many at a time.
    width: usize,
}

impl Default for Suspects {
    fn default() -> Self {
        Self { leased: Vec::new(), width: SUSPECTS_FIRST }
    }
}

impl Suspects {
    pub fn is_empty(&self) -> bool {
        self.leased.is_empty()
    }

    /// It came to nothing: one fewer, and slowly again.
    pub fn failed(&mut self, token: TokenRef) {
        let before = self.leased.len();
        self.leased.retain(|&other| other != token);
        if self.leased.len() < before {
            self.width = SUSPECTS_FIRST;
        }
    }

    fn answered(&mut self, is_leased: impl Fn(TokenRef) -> bool) -> bool {
        let before = self.leased.len();
        self.leased.retain(|&token| is_leased(token));
        let answered = before - self.leased.len();
        self.width = (self.width + answered).min(SUSPECTS_MAX);
        answered > 0
    }
}

pub(super) fn is_suspect(state: &State, token: TokenRef) -> bool {
    u32::from(state.tokens[token].unanswered) >= SUSPECT_AFTER && !is_broken(Mutation::SuspectsTogether)
}

impl Queues {
    /// Delivers suspects to servers that may have one more.
    pub(super) fn dispatch_suspects(&mut self, state: &mut State, service: usize, now_ms: u64) {
        loop {
            let queue = &mut self.services[service];
            let Some(&token) = queue.suspects.front() else { return };
            if !is_ready(state, token) {
                queue.suspects.pop_front();
                self.with_run.remove(&token);
                continue;
            }
            let sessions = &self.sessions;
            let takes = |server| {
                let session = sessions.get(server).filter(|session| session.has_credit());
                session.is_some_and(|session| admits(state, &session.suspects, token, server))
            };
            let Some(index) = queue.server(state.tokens[token].unanswered.into(), takes) else { return };
            queue.suspects.pop_front();
            let server = queue.servers[index];
            if let Some(session) = self.sessions.get_mut(server) {
                session.suspects.leased.push(token);
            }
            self.deliver(state, token, server, now_ms);
        }
    }

    /// A session has said something: if suspects of it are answered, it may have others.
    pub fn answered(&mut self, state: &State, session: SessionRef) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        if found.suspects.answered(|token| is_leased(state, token, session)) {
            self.credited(session);
        }
    }

    /// What became of suspects may have been decided elsewhere, by a deadline for example.
    pub(super) fn stir_suspects(&mut self) {
        for service in 0..self.services.len() {
            if !self.services[service].suspects.is_empty() {
                self.stir(service as u32);
            }
        }
    }
}

fn admits(state: &State, suspects: &Suspects, token: TokenRef, server: SessionRef) -> bool {
    let unanswered = |token| u32::from(state.tokens[token].unanswered);
    let mut beside = suspects.leased.iter().copied().filter(|&other| is_leased(state, other, server)).peekable();
    if beside.peek().is_none() {
        return true;
    }
    // A delivery that is under way has been counted.
    let is_crowd = unanswered(token) < ALONE_AFTER && beside.clone().all(|other| unanswered(other) <= ALONE_AFTER);
    is_crowd && beside.count() < suspects.width
}
