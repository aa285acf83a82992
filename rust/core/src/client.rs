//! The client's end of the protocol: it starts sagas, and loses no outcome that it was asked to await.
//!
//! A START stays in the peer's outbox until the broker has confirmed it, and is sent again whatever breaks before: the
//! broker knows a repeated START by its key. From then on the saga needs no client. To hear how it ends, the client
//! remembers its key, and attaches to it anew over every new session, until its RESULT has come. So a START is either
//! replayed or attached again, and a RESULT that comes twice is told once.
//!
//! Questions and orders about sagas (STATUS, CANCEL, RESOLVE, STATS, STUCK) are remembered until they are answered and
//! asked again over a new session. Each is named by a *correlation*, a number of the caller's own, never 0.

mod awaited;
mod request;
mod types;

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use self::awaited::Awaited;
use self::request::{Request, check_key, check_subject, name, reason_section};
pub use self::types::{Action, ClientError, ClientOptions, Event, Fault, Subject};
use crate::limits::{ASKED_PER_FRAME, AWAITED_MAX, DEFINITION_BYTES_MAX, PLANS_MAX, SECTION_BYTES_MAX, STEPS_MAX};
use crate::peer::{Heard, Link, Peer, PeerOptions};
use crate::plan;
use crate::wire::{
    Flags, Header, Kind, Message, OutcomeCode, Refusal, Role, SagaId, Section, StatusCode, Transactions,
};

#[derive(Debug)]
struct Definition {
    fingerprint: u64,
    bytes: Box<[u8]>,
    /// The transaction that last carried it; 0: none in this session.
    number: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct ClientCore {
    peer: Peer,
    plans: Vec<Definition>,
    awaited: Awaited,
    requests: HashMap<u64, Request, FixedState>,
    /// Correlations of what is to be asked in this session and was not yet.
    unasked: VecDeque<u64>,
    /// All transactions up to this number are durable.
    confirmed: u64,
    fault: Option<Fault>,
}

impl ClientCore {
    pub fn new(options: ClientOptions) -> Self {
        let peer = Peer::new(PeerOptions {
            role: Role::Client,
            name: String::new(),
            instance: options.instance,
            exclusive: false,
            lease_ms: 0,
            credit: options.credit,
            outbox_bytes_max: options.outbox_bytes_max,
        });
        Self {
            peer,
            plans: Vec::new(),
            awaited: Awaited::default(),
            requests: HashMap::with_hasher(FixedState::default()),
            unasked: VecDeque::new(),
            confirmed: 0,
            fault: None,
        }
    }

    /// A fresh socket is there.
    pub fn connect(&mut self, now_ms: u64) {
        self.fault = None;
        self.unasked.clear();
        self.peer.connect(now_ms);
    }

    /// Whether the connection still works. After a fault it does not.
    pub fn tick(&mut self, now_ms: u64) -> Link {
        if self.fault.is_some() { Link::Reconnect } else { self.peer.tick(now_ms) }
    }

    /// What to send now: call it until there is nothing.
    pub fn frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        if self.fault.is_some() {
            return None;
        }
        if self.peer.is_ready() {
            self.ask();
        }
        self.peer.frame(now_ms)
    }

    pub fn is_ready(&self) -> bool {
        self.peer.is_ready() && self.fault.is_none()
    }

    /// Whether the caller should wait before it starts more.
    pub fn is_full(&self) -> bool {
        self.peer.is_full() || self.awaited.len() >= AWAITED_MAX
    }

    /// Sagas whose outcome is awaited.
    pub fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// The number of the broker that has welcomed us last.
    pub fn shard(&self) -> Option<u16> {
        self.peer.shard()
    }

    /// Why the broker does not take this client; it is asked again from time to time.
    pub fn refused(&self) -> Option<Refusal> {
        self.peer.refused()
    }

    /// Which rule the broker broke in this connection.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Keeps a plan's definition, to be sent before the first START of it in every session. Gives its fingerprint.
    ///
    /// # Errors
    /// `PlanSize` or `PlanCount`.
    pub fn define(&mut self, definition: &[u8]) -> Result<u64, ClientError> {
        if definition.is_empty() || definition.len() > DEFINITION_BYTES_MAX {
            return Err(ClientError::PlanSize);
        }
        let fingerprint = plan::fingerprint(definition);
        if !self.plans.iter().any(|plan| plan.fingerprint == fingerprint) {
            if self.plans.len() >= PLANS_MAX {
                return Err(ClientError::PlanCount);
            }
            self.plans.push(Definition { fingerprint, bytes: definition.into(), number: 0 });
        }
        Ok(fingerprint)
    }

    /// Starts a saga for each key and input, with correlations that ascend by one from the first. All or none.
    /// `quiet`: only the RESULT is told, not that the START is durable.
    ///
    /// # Errors
    /// What is wrong with the plan, a key, an input or the correlations.
    pub fn start_batch<'a>(
        &mut self,
        plan: u64,
        sagas: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        first_correlation: u64,
        quiet: bool,
    ) -> Result<(), ClientError> {
        let correlations = first_correlation..=u64::MAX;
        let mut count = 0;
        for (correlation, (key, input)) in correlations.clone().zip(sagas.clone()) {
            self.check_free(correlation)?;
            check_key(key)?;
            if input.len() > SECTION_BYTES_MAX {
                return Err(ClientError::InputSize);
            }
            count += 1;
        }
        if self.awaited.len() + count > 2 * AWAITED_MAX {
            return Err(ClientError::SagasCount);
        }
        self.send_definition(plan)?;
        let mut header = Header::new(Kind::Start);
        header.plan = plan.into();
        if quiet {
            header.set(Flags::QUIET);
        }
        for (correlation, (key, input)) in correlations.zip(sagas) {
            header.amount = correlation.into();
            let number = self.peer.transact(|transaction| {
                transaction.publish_with(header, |body| {
                    body.section(Section::INPUT, input).section(Section::KEY, key);
                });
            });
            self.awaited.insert(correlation, number, Subject::Key(key), quiet);
        }
        Ok(())
    }

    /// Awaits the outcome of a saga that runs, or has ended not too long ago.
    ///
    /// # Errors
    /// What is wrong with the key or the correlation.
    pub fn attach(&mut self, correlation: u64, subject: Subject<'_>) -> Result<(), ClientError> {
        self.check_free(correlation)?;
        check_subject(subject)?;
        if self.awaited.len() >= 2 * AWAITED_MAX {
            return Err(ClientError::SagasCount);
        }
        self.awaited.insert(correlation, 0, subject, false);
        self.ask_soon(correlation);
        Ok(())
    }

    /// Asks how far a saga is.
    ///
    /// # Errors
    /// What is wrong with the key or the correlation.
    pub fn status(&mut self, correlation: u64, subject: Subject<'_>) -> Result<(), ClientError> {
        self.request(correlation, Request::about(Kind::Status, subject)?)
    }

    /// Asks to abort a saga. Answered by a CANCEL, or refused where it is too late.
    ///
    /// # Errors
    /// What is wrong with the key or the correlation.
    pub fn cancel(&mut self, correlation: u64, subject: Subject<'_>, reason: &str) -> Result<(), ClientError> {
        let mut request = Request::about(Kind::Cancel, subject)?;
        request.sections.push(reason_section(reason));
        self.request(correlation, request)
    }

    /// Asks for the broker's counters.
    ///
    /// # Errors
    /// `CorrelationUsed`.
    pub fn stats(&mut self, correlation: u64) -> Result<(), ClientError> {
        self.request(correlation, Request::new(Kind::Stats))
    }

    /// Asks for the sagas that are stuck.
    ///
    /// # Errors
    /// `CorrelationUsed`.
    pub fn stuck(&mut self, correlation: u64) -> Result<(), ClientError> {
        self.request(correlation, Request::new(Kind::Stuck))
    }

    /// Asks for the deadlocks that were resolved, those with this number and higher ones, as many as fit.
    ///
    /// # Errors
    /// `CorrelationUsed`.
    pub fn deadlocks(&mut self, correlation: u64, from: u64) -> Result<(), ClientError> {
        let mut request = Request::new(Kind::Deadlocks);
        request.header.active = from.into();
        self.request(correlation, request)
    }

    /// Decides about a step that is stuck.
    ///
    /// # Errors
    /// What is wrong with the step, the result or the correlation.
    pub fn resolve(
        &mut self,
        correlation: u64,
        saga: SagaId,
        step: u8,
        action: Action,
        reason: &str,
        result: &[u8],
    ) -> Result<(), ClientError> {
        if usize::from(step) >= STEPS_MAX {
            return Err(ClientError::StepNumber);
        }
        if result.len() > SECTION_BYTES_MAX {
            return Err(ClientError::ResultSize);
        }
        let mut request = Request::about(Kind::Resolve, Subject::Id(saga))?;
        request.header.place = u16::from(step).into();
        request.header.active = (action as u64).into();
        request.sections.push(reason_section(reason));
        request.sections.push((Section::DATA, result.into()));
        self.request(correlation, request)
    }

    /// Gives up waiting for an answer. What was ordered may happen all the same.
    pub fn forget(&mut self, correlation: u64) {
        self.awaited.remove(correlation);
        self.requests.remove(&correlation);
    }

    /// Reads what came and tells what it means, each RESULT once.
    ///
    /// # Errors
    /// What the broker did wrong: what it said before was told, the rest of the frame and all that still comes over
    /// this connection is ignored, and `tick` asks for a new one, over which all that is unanswered is asked again.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64, tell: &mut impl FnMut(Event<'_>)) -> Result<(), Fault> {
        if self.fault.is_some() {
            return Ok(());
        }
        let heard = self.hear_frame(frame, now_ms, tell);
        self.fault = heard.err();
        heard
    }

    fn hear_frame(&mut self, frame: &[u8], now_ms: u64, tell: &mut impl FnMut(Event<'_>)) -> Result<(), Fault> {
        for transaction in Transactions::parse(frame)? {
            for message in transaction?.messages() {
                match self.peer.receive(&message, now_ms) {
                    Heard::Session => {}
                    Heard::Welcome => self.resume(),
                    Heard::Confirmed(number) => self.confirmed = self.confirmed.max(number),
                    Heard::Refused { number, .. } => self.hear_refusal(&message, number, tell)?,
                    Heard::Delivery => self.hear_answer(&message, tell)?,
                }
            }
        }
        Ok(())
    }

    fn hear_answer(&mut self, message: &Message<'_>, tell: &mut impl FnMut(Event<'_>)) -> Result<(), Fault> {
        let header = message.header;
        let (correlation, kind, code) = (header.amount.get(), header.kind(), header.place.get());
        let (is_awaited, code, extra) = match kind {
            Kind::Result if OutcomeCode::from_code(code).is_none() => return Err(Fault::AnswerCode),
            Kind::Result => (self.awaited.remove(correlation), code, header.done.get()),
            Kind::Status => (self.hear_status(correlation, code)?, code, header.active.get()),
            Kind::Cancel | Kind::Resolve | Kind::Stats | Kind::Stuck | Kind::Deadlocks => {
                (self.answered(correlation, kind)?, 0, 0)
            }
            _ => return Err(Fault::AnswerKind),
        };
        if is_awaited {
            tell(Event { correlation, kind, code, saga: header.saga, extra, body: message.body });
        }
        Ok(())
    }

    /// Answers a question, or a START or ATTACH of which the RESULT is still to come.
    fn hear_status(&mut self, correlation: u64, code: u16) -> Result<bool, Fault> {
        let status = StatusCode::from_code(code).ok_or(Fault::AnswerCode)?;
        Ok(self.answered(correlation, Kind::Status)?
            || match status {
                StatusCode::Unknown => self.awaited.remove(correlation),
                _ => self.awaited.hush(correlation),
            })
    }

    fn hear_refusal(
        &mut self,
        message: &Message<'_>,
        number: u64,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        let header = message.header;
        let refusal = Refusal::from_code(header.place.get()).ok_or(Fault::AnswerCode)?;
        if refusal == Refusal::NoPlan {
            self.plans.iter_mut().for_each(|plan| plan.number = 0);
        }
        let correlation = header.active.get();
        let is_ours = self.awaited.remove(correlation) || self.requests.remove(&correlation).is_some();
        let plan = self.plans.iter().find(|plan| number != 0 && plan.number == number);
        let (correlation, extra) = match (is_ours, plan) {
            (true, _) => (correlation, number),
            (false, Some(plan)) => (0, plan.fingerprint),
            (false, None) => return Ok(()),
        };
        let event = Event {
            correlation,
            kind: Kind::Refused,
            code: refusal.code(),
            saga: header.saga,
            extra,
            body: message.body,
        };
        tell(event);
        Ok(())
    }

    /// Whether a request waited for this. A late answer to one that was forgotten, or answered twice, is nobody's.
    fn answered(&mut self, correlation: u64, kind: Kind) -> Result<bool, Fault> {
        match self.requests.remove(&correlation) {
            Some(request) if request.header.kind() != kind => Err(Fault::AnswerKind),
            found => Ok(found.is_some()),
        }
    }

    /// A new session has begun. What the outbox still holds it replays; all else that is unanswered is asked again.
    fn resume(&mut self) {
        let confirmed = self.confirmed;
        for plan in &mut self.plans {
            if plan.number <= confirmed {
                plan.number = 0;
            }
        }
        let mut requests: Vec<u64> = self.requests.keys().copied().collect();
        requests.sort_unstable();
        self.unasked.clear();
        for correlation in requests {
            let Some(request) = self.requests.get_mut(&correlation) else { continue };
            if request.number == 0 {
                self.unasked.push_back(correlation);
            } else if request.number <= confirmed {
                request.number = request.transact(&mut self.peer);
            }
        }
        self.unasked.extend(self.awaited.confirmed(confirmed));
    }

    /// Tells the broker the next of what is to be asked. A frame's worth, so that a million of them cost no memory.
    fn ask(&mut self) {
        for _ in 0..ASKED_PER_FRAME {
            let Some(correlation) = self.unasked.pop_front() else { return };
            if let Some((subject, quiet)) = self.awaited.get(correlation) {
                let mut header = Header::new(Kind::Attach);
                header.amount = correlation.into();
                if quiet {
                    header.set(Flags::QUIET);
                }
                let key = name(&mut header, subject);
                self.peer.tell(header, |body| {
                    if let Some(key) = key {
                        body.section(Section::KEY, key);
                    }
                });
            } else if let Some(request) = self.requests.get(&correlation) {
                self.peer.tell(request.header, |body| request.write(body));
            }
        }
    }

    fn ask_soon(&mut self, correlation: u64) {
        if self.peer.is_ready() {
            self.unasked.push_back(correlation);
        }
    }

    fn request(&mut self, correlation: u64, request: Request) -> Result<(), ClientError> {
        self.check_free(correlation)?;
        let mut request = request;
        request.header.amount = correlation.into();
        if request.is_order() {
            request.number = request.transact(&mut self.peer);
        } else {
            self.ask_soon(correlation);
        }
        self.requests.insert(correlation, request);
        Ok(())
    }

    fn send_definition(&mut self, plan: u64) -> Result<(), ClientError> {
        let found = self.plans.iter_mut().find(|known| known.fingerprint == plan);
        let plan = found.ok_or(ClientError::PlanUnknown)?;
        if plan.number == 0 {
            let mut header = Header::new(Kind::Define);
            header.plan = plan.fingerprint.into();
            plan.number = self.peer.transact(|transaction| {
                transaction.publish_with(header, |body| {
                    body.section(Section::DATA, &plan.bytes);
                });
            });
        }
        Ok(())
    }

    fn check_free(&self, correlation: u64) -> Result<(), ClientError> {
        let is_used = self.awaited.contains(correlation) || self.requests.contains_key(&correlation);
        if correlation == 0 || is_used { Err(ClientError::CorrelationUsed) } else { Ok(()) }
    }
}
