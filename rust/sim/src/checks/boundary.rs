//! What passes the broker's socket: nothing leaves that is not durable, and what is confirmed is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sagacore_core::client::Action;
use sagacore_core::wire::{
    Flags, Header, Key, Kind, Message, OutcomeCode, Refusal, SagaId, Section, StatusCode, Transaction, Transactions,
};

use super::history::{History, SagaHistory, hash};
use super::{Broken, Checks, SagaKey, ensure, saga_key};
use crate::situations::Situation;

/// What a transaction that came in wants.
#[derive(Debug)]
enum Wish {
    Start(Vec<u8>),
    Consume(Vec<Key>, Kind),
    Spill(Vec<Key>),
    /// A RESOLVE that skips the UNDO of this key.
    Skip(Key),
    /// A CANCEL, and the saga that it names.
    Cancel(Named),
    Other,
}

/// How a saga is named.
#[derive(Debug, Clone)]
enum Named {
    Id(SagaKey),
    Key(Vec<u8>),
}

#[derive(Debug, Default)]
struct Connection {
    process: usize,
    /// The highest number that came in. What comes again was judged the first time.
    highest: u64,
    /// Those that are not confirmed yet, by number.
    open: VecDeque<(u64, Wish)>,
    /// By correlation, the saga that is to be cancelled.
    cancels: BTreeMap<u64, Named>,
    /// By correlation, the UNDO that is to be skipped.
    skips: BTreeMap<u64, Key>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Boundary {
    connections: BTreeMap<Vec<u8>, Connection>,
    /// By process and its life, the highest number that came in.
    highest: BTreeMap<(usize, u32), u64>,
    /// By token, the process that spilled it.
    spilled: BTreeMap<(SagaKey, u8, u16), usize>,
    /// By token of a coordinator, the process that had it last.
    holders: BTreeMap<(SagaKey, u8, u16), usize>,
    /// Processes that have lied.
    pub liars: BTreeSet<usize>,
}

impl Checks {
    /// The broker has crashed: no connection is left.
    pub fn broker_crashed(&mut self) {
        self.boundary.connections.clear();
        self.boundary.spilled.clear();
    }

    /// A frame comes in.
    pub fn incoming(&mut self, identity: &[u8], process: usize, life: u32, frame: &[u8]) {
        let Ok(transactions) = Transactions::parse(frame) else { return };
        for transaction in transactions.map_while(Result::ok) {
            self.incoming_transaction(identity, process, life, &transaction);
        }
    }

    fn incoming_transaction(&mut self, identity: &[u8], process: usize, life: u32, transaction: &Transaction<'_>) {
        let number = transaction.number;
        let Some(first) = transaction.messages().next() else { return };
        if first.header.kind() == Kind::Subscribe {
            let old = self.boundary.connections.insert(identity.to_vec(), Connection { process, ..Default::default() });
            if old.is_some() {
                self.situations.reach(Situation::SessionReplaced);
            }
            return;
        }
        if number == 0 {
            if !transaction.consumes.is_empty() {
                self.ahead.unnumbered.insert(hash(transaction.bytes()));
            }
            return;
        }
        let highest = self.boundary.highest.entry((process, life)).or_default();
        if number <= *highest {
            self.situations.reach(Situation::OutboxReplayed);
        }
        *highest = number.max(*highest);
        let wish = self.wish(transaction, &first);
        let Some(connection) = self.boundary.connections.get_mut(identity) else { return };
        if let Wish::Cancel(saga) = &wish {
            connection.cancels.insert(first.header.amount.get(), saga.clone());
        }
        if let Wish::Skip(key) = wish {
            connection.skips.insert(first.header.amount.get(), key);
        }
        if number > connection.highest {
            connection.highest = number;
            connection.open.push_back((number, wish));
        }
    }

    fn wish(&mut self, transaction: &Transaction<'_>, first: &Message<'_>) -> Wish {
        match first.header.kind() {
            Kind::Start => {
                let key = first.sections().get(Section::KEY).unwrap_or_default();
                if self.history.started(key).is_some() {
                    self.situations.reach(Situation::StartDeduplicated);
                }
                Wish::Start(key.to_vec())
            }
            Kind::Spill => Wish::Spill(transaction.consumes.to_vec()),
            Kind::Cancel if first.header.has(Flags::BY_KEY) => {
                Wish::Cancel(Named::Key(first.sections().get(Section::KEY).unwrap_or_default().to_vec()))
            }
            Kind::Cancel => Wish::Cancel(Named::Id(saga_key(first.header.saga))),
            Kind::Resolve if first.header.active.get() == Action::Skip as u64 => {
                Wish::Skip(Key { kind: Kind::Undo.code(), ..Key::of(first.header) })
            }
            Kind::RetryLater | Kind::Blocked | Kind::Define | Kind::Resolve => Wish::Other,
            kind => Wish::Consume(transaction.consumes.to_vec(), kind),
        }
    }

    /// A frame leaves.
    pub fn outgoing(&mut self, identity: &[u8], process: usize, frame: &[u8]) -> Result<(), Broken> {
        let parsed =
            Transactions::parse(frame).map_err(|error| Broken("format", format!("a frame leaves: {error}")))?;
        for transaction in parsed {
            let transaction = transaction.map_err(|error| Broken("format", format!("a frame leaves: {error}")))?;
            for message in transaction.messages() {
                self.outgoing_message(identity, process, &message)?;
            }
        }
        Ok(())
    }

    fn outgoing_message(&mut self, identity: &[u8], process: usize, message: &Message<'_>) -> Result<(), Broken> {
        let header = message.header;
        match header.kind() {
            kind if kind.is_token() => self.token_leaves(process, header),
            Kind::Confirm => self.confirm_leaves(identity, header.amount.get()),
            Kind::Refused => self.refusal_leaves(identity, header),
            Kind::Result => self.outcome_leaves(header.saga, OutcomeCode::from_code(header.place.get())),
            Kind::Status => match StatusCode::from_code(header.place.get()) {
                Some(StatusCode::Completed) => self.outcome_leaves(header.saga, Some(OutcomeCode::Completed)),
                Some(StatusCode::Compensated) => self.outcome_leaves(header.saga, Some(OutcomeCode::Compensated)),
                Some(StatusCode::Unknown) => Ok(()),
                Some(StatusCode::Stuck) => {
                    self.situations.reach(Situation::StuckListed);
                    self.saga_leaves(header.saga)
                }
                _ => self.saga_leaves(header.saga),
            },
            Kind::Cancel => {
                let connection = self.boundary.connections.get(identity);
                let Some(named) = connection.and_then(|found| found.cancels.get(&header.amount.get())) else {
                    return Ok(());
                };
                let is_aborted = self.history.is_aborted(named);
                ensure!(is_aborted, "I8", "{named:?} is told to be cancelled, and that is not durable");
                Ok(())
            }
            Kind::Watermark => {
                let data = message.sections().get(Section::DATA).unwrap_or_default();
                self.watermarks.leaves(&self.models, &self.history, data)
            }
            Kind::Resolve => {
                let connection = self.boundary.connections.get(identity);
                let key = connection.and_then(|found| found.skips.get(&header.amount.get()));
                let is_pending = key.is_some_and(|key| self.history.pending(key).is_some());
                ensure!(!is_pending, "I8", "{key:?} is told to be skipped, and is still pending");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn token_leaves(&mut self, process: usize, header: &Header) -> Result<(), Broken> {
        let (key, kind, place) = (saga_key(header.saga), header.kind(), header.place.get());
        let name = (key, header.kind, place);
        let Some(found) = self.history.sagas.get_mut(&key) else {
            return Err(Broken("I8", format!("{kind:?} {place} of {} leaves, and no START is durable", header.saga)));
        };
        let is_current = found.attempt == header.attempt.get();
        let pending = found.pending.get(&(header.kind, place)).filter(|_| is_current);
        let Some(pending) = pending else { return self.runs_ahead(header) };
        let sets = (header.done.get(), header.active.get(), header.undo.get());
        ensure!(
            sets == (pending.done, pending.active, pending.undo),
            "I2",
            "{kind:?} {place} of {} leaves as {sets:x?}, not {pending:?}",
            header.saga
        );
        let model = &self.models[found.plan];
        found.is_decided |= kind == Kind::Run && model.pivot == Some(usize::from(place));
        if header.deliveries.get() > 0 {
            self.situations.reach(Situation::Redelivery);
        }
        if kind.is_for_coordinator() {
            if self.boundary.holders.insert(name, process).is_some_and(|before| before != process) {
                self.situations.reach(Situation::SlotMoved);
            }
            if let Some(spiller) = self.boundary.spilled.remove(&name) {
                self.situations.reach(Situation::Recall);
                if spiller != process {
                    self.situations.reach(Situation::RecalledElsewhere);
                }
            }
        }
        Ok(())
    }

    fn saga_leaves(&self, saga: SagaId) -> Result<(), Broken> {
        ensure!(self.history.saga(saga_key(saga)).is_some(), "I8", "{saga} is told to run, and no START is durable");
        Ok(())
    }

    fn outcome_leaves(&self, saga: SagaId, code: Option<OutcomeCode>) -> Result<(), Broken> {
        let ended = self.history.saga(saga_key(saga)).and_then(|found| found.ended.as_ref()).map(|ended| ended.code);
        ensure!(ended.is_some() && ended == code, "I8", "{saga} is told to be {code:?}, and durably it is {ended:?}");
        Ok(())
    }

    fn confirm_leaves(&mut self, identity: &[u8], number: u64) -> Result<(), Broken> {
        let Some(connection) = self.boundary.connections.get_mut(identity) else { return Ok(()) };
        while connection.open.front().is_some_and(|&(open, _)| open <= number) {
            let Some((open, wish)) = connection.open.pop_front() else { break };
            match wish {
                Wish::Start(key) => {
                    let durable = self.history.by_start_key.contains_key(&key);
                    ensure!(durable, "I8", "START {open} is confirmed, and is not durable");
                }
                Wish::Consume(keys, kind) => {
                    for key in keys {
                        let pending = self.history.pending(&key).is_some();
                        ensure!(!pending, "I8", "{kind:?} {open} is confirmed, and what it consumes is still pending");
                    }
                }
                Wish::Spill(keys) => {
                    self.situations.reach(Situation::Spill);
                    let process = connection.process;
                    let names = keys.iter().map(|key| (saga_key(key.saga), key.kind, key.place.get()));
                    self.boundary.spilled.extend(names.map(|name| (name, process)));
                }
                Wish::Cancel(named) => {
                    let has_ended = self.history.named(&named).is_some_and(|saga| saga.ended.is_some());
                    let done = has_ended || self.history.is_aborted(&named);
                    ensure!(done, "I8", "the CANCEL of {named:?} is confirmed, and nothing is durable");
                }
                Wish::Skip(key) => {
                    ensure!(
                        self.history.pending(&key).is_none(),
                        "I8",
                        "{key:?} is confirmed as skipped, and is pending"
                    );
                }
                Wish::Other => {}
            }
        }
        Ok(())
    }

    fn refusal_leaves(&mut self, identity: &[u8], header: &Header) -> Result<(), Broken> {
        let refusal = Refusal::from_code(header.place.get());
        match refusal {
            Some(Refusal::NoSession) => self.situations.reach(Situation::NoSession),
            Some(Refusal::Exclusive) => self.situations.reach(Situation::ExclusiveRefused),
            Some(Refusal::Malformed) => self.situations.reach(Situation::FrameRefused),
            Some(Refusal::TooLate) => self.situations.reach(Situation::CancelTooLate),
            Some(Refusal::KeyConflict) => self.situations.reach(Situation::KeyConflict),
            Some(Refusal::Stale) => self.situations.reach(Situation::StaleTransaction),
            Some(Refusal::Forbidden) => self.situations.reach(Situation::ForbiddenRefused),
            Some(Refusal::TooLarge) => self.situations.reach(Situation::OversizeRefused),
            _ => {}
        }
        let number = header.amount.get();
        let Some(connection) = self.boundary.connections.get_mut(identity).filter(|_| number > 0) else {
            return Ok(());
        };
        let Some(at) = connection.open.iter().position(|&(open, _)| open == number) else { return Ok(()) };
        let Some((_, wish)) = connection.open.remove(at) else { return Ok(()) };
        // What ran ahead of a record that was lost may be answered for what it is not any more.
        let is_honest = !self.boundary.liars.contains(&connection.process) && !self.ahead.has_been_open;
        match wish {
            Wish::Spill(_) => self.situations.reach(Situation::StaleSpill),
            Wish::Consume(keys, kind) if refusal == Some(Refusal::Stale) => {
                let saga = keys.first().and_then(|key| self.history.saga(saga_key(key.saga)));
                let Some(saga) = saga else { return Ok(()) };
                let of_run = keys[0].kind() == Kind::Run;
                let is_done = of_run && saga.done & 1 << keys[0].place.get() != 0;
                if kind == Kind::Fail && is_done {
                    self.situations.reach(Situation::ForwardBeforeAbort);
                } else if kind != Kind::Fail && of_run && saga.undo_set.is_some() && !is_done {
                    self.situations.reach(Situation::AbortBeforeForward);
                }
            }
            Wish::Consume(keys, kind) => {
                ensure!(!is_honest, "rule 13", "{kind:?} {number} of an honest process is {refusal:?}: {keys:?}");
            }
            _ => {}
        }
        Ok(())
    }
}

impl History {
    fn named(&self, named: &Named) -> Option<&SagaHistory> {
        match named {
            Named::Id(key) => self.saga(*key),
            Named::Key(start_key) => self.started(start_key),
        }
    }

    /// Whether a saga was aborted, as far as it was ever started. A key may be a new one's by the time that somebody is
    /// told of the old one.
    fn is_aborted(&self, named: &Named) -> bool {
        let is_aborted = |found: &SagaHistory| found.undo_set.is_some();
        match named {
            Named::Id(key) => self.saga(*key).is_none_or(is_aborted),
            Named::Key(key) => {
                self.started(key).is_none_or(|latest| is_aborted(latest) || self.started_all(key).any(is_aborted))
            }
        }
    }
}

/// The tokens and outcomes of a frame, for people.
pub fn describe(frame: &[u8]) -> Vec<String> {
    let transactions = Transactions::parse(frame).into_iter().flatten().map_while(Result::ok);
    let messages = transactions.flat_map(|transaction| transaction.messages());
    let of_sagas = messages.map(|message| *message.header).filter(|header| {
        let kind = header.kind();
        kind.is_token() || matches!(kind, Kind::Result | Kind::Refused | Kind::Cancel)
    });
    let line = |header: Header| {
        let (kind, place, deliveries) = (header.kind(), header.place.get(), header.deliveries.get());
        match kind {
            Kind::Refused => format!("REFUSED {:?}, number {}", Refusal::from_code(place), header.amount),
            _ => format!("{kind:?} {place} of {}, delivered {deliveries} times before", header.saga),
        }
    };
    of_sagas.map(line).collect()
}
