//! What may leave before it is durable (rule 8), and which sagas are wide because something did and was then lost.

use std::collections::BTreeSet;

use sagacore_core::wire::{Header, Kind, Transaction};

use super::history::{Name, hash};
use super::{Broken, Checks, SagaKey, ensure, saga_key};
use crate::model::Model;
use crate::situations::Situation;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Tokens in records that were handed to the log in this boot.
    written: BTreeSet<(SagaKey, u32, Name)>,
    /// Of each boot that the log speaks of, its first record, and whether tokens may run ahead.
    boots: Vec<(u64, bool)>,
    /// Something ran ahead at some time.
    pub has_been_open: bool,
    /// What came in under no number, of which some may be accepted: it is not the broker's own.
    pub unnumbered: BTreeSet<u64>,
}

impl Ahead {
    /// Whether the record that says so is durable.
    fn is_said(&self, durable_lsn: u64) -> bool {
        self.boots.last().is_some_and(|&(first_lsn, _)| first_lsn <= durable_lsn)
    }

    /// Whether tokens may run ahead now.
    fn is_open(&self) -> bool {
        self.boots.last().is_some_and(|&(_, may)| may)
    }

    /// A record of transactions is handed to the log.
    pub fn written(&mut self, payload: &[u8]) {
        if !self.is_open() {
            return;
        }
        let mut rest = payload;
        while let Ok((transaction, after)) = Transaction::parse(rest) {
            // What is nobody's own is the broker's: an operator's decision, which waits, or an abort.
            let is_broker_s = transaction.number == 0 && !self.unnumbered.contains(&hash(transaction.bytes()));
            for message in transaction.messages() {
                if is_broker_s && !matches!(message.header.kind(), Kind::Revoked | Kind::Fail) {
                    continue;
                }
                let (kind, place) = match message.header.kind() {
                    // The abort that follows is the same record.
                    Kind::Fail | Kind::Revoked => (Kind::Revoked, 0),
                    kind => (kind, message.header.place.get()),
                };
                let attempt = message.header.attempt.get();
                self.written.insert((saga_key(message.header.saga), attempt, (kind.code(), place)));
            }
            rest = after;
        }
    }
}

impl Checks {
    /// The broker begins to serve: it read the log up to a record, and which one it writes first.
    pub fn boot(&mut self, read_lsn: u64, first_lsn: u64, unclean: bool, may_run_ahead: bool) {
        let ahead = &mut self.ahead;
        ahead.has_been_open |= may_run_ahead;
        ahead.written.clear();
        ahead.boots.retain(|&(lsn, _)| lsn <= read_lsn);
        let did = ahead.is_open();
        if did || may_run_ahead {
            ahead.boots.push((first_lsn, may_run_ahead));
        }
        if did && unclean {
            self.widen();
        }
    }

    /// Of every saga that runs, something may have happened that the log has lost.
    fn widen(&mut self) {
        for (&key, saga) in self.history.sagas.iter_mut().filter(|(_, saga)| saga.ended.is_none()) {
            saga.is_wide = true;
            let count = self.models[saga.plan].count;
            let is_lost = |step: &usize| !saga.published_run(*step) && self.ledger.is_there((key, saga.attempt, *step));
            if (0..count).any(|step| is_lost(&step)) {
                self.situations.reach(Situation::LostRunTookEffect);
            }
        }
    }

    /// A token leaves that is not durably pending.
    pub(super) fn runs_ahead(&mut self, header: &Header) -> Result<(), Broken> {
        let (kind, place) = (header.kind(), header.place.get());
        let saga = self.history.saga(saga_key(header.saga));
        let may = saga.is_some_and(|saga| may_run_ahead(&self.models[saga.plan], header));
        ensure!(
            self.ahead.is_open() && self.ahead.is_said(self.history.lsn()) && may,
            "I9",
            "{kind:?} {place} of {} leaves, and is not durably pending",
            header.saga
        );
        let attempt = header.attempt.get();
        let is_durable = saga.is_some_and(|saga| saga.attempt == attempt);
        ensure!(is_durable, "I9", "{kind:?} {place} of {} leaves, and attempt {attempt} is not durable", header.saga);
        let name = (saga_key(header.saga), attempt, (kind.code(), place));
        ensure!(
            self.ahead.written.contains(&name),
            "I9",
            "{kind:?} {place} of {} leaves before it is written",
            header.saga
        );
        self.situations.reach(Situation::RanAhead);
        Ok(())
    }
}

/// All but what begins a saga, decides, or begins to undo it.
fn may_run_ahead(model: &Model, header: &Header) -> bool {
    match header.kind() {
        Kind::Start => false,
        Kind::Run => model.pivot != Some(usize::from(header.place.get())),
        // Something of the set is undone already: the first UNDOs were durable.
        Kind::Undo => header.undo != header.done,
        _ => true,
    }
}
