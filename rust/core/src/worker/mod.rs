//! One process of a service: takes deliveries, hands out what is to be called, and passes tokens on.
//!
//! ```text
//!   frames -> receive -> plans (DEFINE)
//!                     -> watermark (WATERMARK): up to where all sagas have ended
//!                     -> running (RUN, UNDO): one thing at a time for a (saga, attempt, step)
//!                          -> below the watermark: nothing is done, and nothing answered
//!                          -> fence in memory: a repetition is answered from its row, without a call
//!                          -> Ready: to be called by whoever drives this; with a fence elsewhere, that one decides
//!                     -> carried (WAKE, PROBE): for the broker of another shard, by way of that one's worker
//!   finish(verdict)   -> one transaction that consumes the delivered message and publishes what follows
//!   frame             -> what to send; the outbox keeps it until it is durable
//! ```
//! A lost session changes nothing here: what runs goes on, and its transaction is sent in the next session. If the
//! broker has given the message to somebody else meanwhile, one of the two transactions is stale.

mod across;
mod clock;
mod ending;
mod plans;
mod running;
mod send;
mod types;

use crate::fence::{
    Admission, Doing, Event, FenceKey, MemoryRows, OnRun, OnUndo, RowState, on_arrival, on_run, on_undo,
};
use crate::limits::{FENCE_ANSWER_BYTES_MAX, FENCE_FORGET_MAX, FENCE_ROWS_MAX, NOT_YET_MS, SERVICE_OUTBOX_BYTES_MAX};
use crate::mutation::{Mutation, is_broken};
use crate::peer::{Heard, Link, Peer, PeerOptions};
use crate::watermark::Watermark;
use crate::wire::{CauseCode, Flags, Freed, Header, Holder, Kind, Message, Refusal, Role, Section, Transactions};
use clock::Clock;
use ending::{Ending, cut, ending, idempotency_key, retry};
use plans::Plans;
use running::{Running, Taken, key_of};

pub use plans::Phase;
pub use types::{IDEMPOTENCY_KEY_BYTES, Misuse, Ready, Verdict, Work, WorkerOptions, WorkerStats};

/// See the module's text.
#[derive(Debug)]
pub struct Worker {
    options: WorkerOptions,
    peer: Peer,
    plans: Plans,
    running: Running,
    rows: MemoryRows,
    /// What the broker last told, and whether the caller has not taken it yet.
    told: Watermark,
    is_news: bool,
    clock: Clock,
    session: u32,
    /// With the fence in memory: steps that were undone without a call, and may have left a claim, and those that
    /// ended later than their saga.
    let_go: Vec<Holder>,
    /// By shard that it is for, what another broker is to be told.
    carried: Vec<(u16, Vec<u8>)>,
    /// Deliveries of this session that are finished and whose credit is not given back yet.
    owed: u64,
    stats: WorkerStats,
}

impl Worker {
    pub fn new(options: WorkerOptions) -> Self {
        let peer = Peer::new(PeerOptions {
            role: Role::Service,
            name: options.service.clone(),
            instance: options.instance,
            exclusive: options.memory_fence,
            lease_ms: options.lease_ms,
            credit: options.credit,
            outbox_bytes_max: SERVICE_OUTBOX_BYTES_MAX,
        });
        Self {
            options,
            peer,
            plans: Plans::default(),
            running: Running::default(),
            rows: MemoryRows::new(FENCE_ROWS_MAX, FENCE_ANSWER_BYTES_MAX),
            told: Watermark::unknown(),
            is_news: false,
            clock: Clock::default(),
            session: 0,
            let_go: Vec::new(),
            carried: Vec::new(),
            owed: 0,
            stats: WorkerStats::default(),
        }
    }

    /// A fresh socket is there.
    pub fn connect(&mut self, now_ms: u64) {
        self.clock.now_ms = now_ms;
        self.peer.connect(now_ms);
    }

    /// Takes a frame from the broker and appends what is to be called.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64, ready: &mut Vec<Ready>) {
        self.clock.now_ms = now_ms;
        let Ok(transactions) = Transactions::parse(frame) else {
            self.stats.malformed += 1;
            return;
        };
        for transaction in transactions {
            let Ok(transaction) = transaction else {
                self.stats.malformed += 1;
                return;
            };
            for message in transaction.messages() {
                self.hear(&message, ready);
            }
        }
    }

    /// Ends a piece of work and appends what may begin now: an UNDO that waited for this action.
    ///
    /// # Errors
    /// What the caller did wrong. Nothing has changed then, and the work still runs.
    pub fn finish(
        &mut self,
        ticket: u64,
        verdict: Verdict,
        payload: &[u8],
        now_ms: u64,
        ready: &mut Vec<Ready>,
    ) -> Result<(), Misuse> {
        self.clock.now_ms = now_ms;
        let at = self.running.by_ticket(ticket).ok_or(Misuse::Ticket)?;
        match self.running.at(at).doing {
            // Nobody waits for it, and a row would stay for ever, as would what it took after its saga had ended.
            _ if self.options.memory_fence && self.has_passed(at) => {
                self.stats.passed += 1;
                self.let_go_of(self.running.at(at).key());
            }
            Doing::Action => self.finish_action(at, verdict, payload)?,
            Doing::Compensation => self.finish_compensation(at, verdict, payload)?,
        }
        self.release(at, ready);
        Ok(())
    }

    /// Heartbeats, and rows that can be forgotten. `Reconnect`: open a new socket and call `connect`.
    pub fn tick(&mut self, now_ms: u64) -> Link {
        self.clock.now_ms = now_ms;
        self.rows.forget(&self.told, FENCE_FORGET_MAX);
        self.peer.tick(now_ms)
    }

    /// What to send now; call it until there is nothing.
    pub fn frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        if self.owed > 0 && !self.peer.is_full() {
            self.peer.grant(std::mem::take(&mut self.owed));
        }
        self.peer.frame(now_ms)
    }

    /// The watermark, where it is another one than was taken last. A fence elsewhere stores it with its rows, and asks
    /// what is stored before it does anything: this process may have been paused while another one went on.
    pub fn take_watermark(&mut self) -> Option<&Watermark> {
        std::mem::take(&mut self.is_news).then_some(&self.told)
    }

    /// With the fence in memory, since this was asked last: steps that were answered as undone without a call, and
    /// those that ended later than their saga. What they claim or hold is to be let go of.
    pub fn take_let_go(&mut self) -> Vec<Holder> {
        std::mem::take(&mut self.let_go)
    }

    pub fn is_ready(&self) -> bool {
        self.peer.is_ready()
    }

    /// Why the broker does not take this process: `Exclusive` where another one holds its fences in memory.
    pub fn refused(&self) -> Option<Refusal> {
        self.peer.refused()
    }

    pub fn stats(&self) -> WorkerStats {
        WorkerStats {
            running: self.running.len() as u64,
            rows: self.rows.len() as u64,
            plans: self.plans.len() as u64,
            unconfirmed: self.peer.unconfirmed() as u64,
            ..self.stats
        }
    }

    /// The input of a saga whose work runs; empty for work that does not.
    pub fn input(&self, ticket: u64) -> &[u8] {
        let at = self.running.by_ticket(ticket);
        at.and_then(|at| self.running.at(at).sections().get(Section::INPUT)).unwrap_or_default()
    }

    /// An earlier result that running work gets. An action has those that its step reads, in its order; a
    /// compensation, with the fence in memory, the one of its action, or none if it may or may not have happened.
    pub fn result(&self, ticket: u64, place: usize) -> Option<&[u8]> {
        let entry = self.running.at(self.running.by_ticket(ticket)?);
        match entry.doing {
            Doing::Action => {
                let read = *self.plans.get(entry.plan).reads(&entry.header).get(place)?;
                entry.sections().get(read)
            }
            Doing::Compensation => match self.rows.find(&entry.key(), self.plans.get(entry.plan).class) {
                (RowState::Done, result) if place == 0 => Some(result),
                _ => None,
            },
        }
    }

    fn hear(&mut self, message: &Message<'_>, ready: &mut Vec<Ready>) {
        let header = message.header;
        let kind = header.kind();
        if matches!(kind, Kind::Subscribe | Kind::Ping) && header.deadline_ms.get() != 0 {
            self.clock.broker_ahead_ms = Some(header.deadline_ms.get().wrapping_sub(self.clock.now_ms) as i64);
        }
        match self.peer.receive(message, self.clock.now_ms) {
            Heard::Welcome => {
                self.session += 1;
                self.owed = 0;
                self.stats.sessions += 1;
            }
            Heard::Refused { refusal: Refusal::Stale, .. } => self.stats.stale += 1,
            Heard::Refused { .. } => self.stats.refused += 1,
            Heard::Delivery => match kind {
                Kind::Define => self.define(message),
                Kind::Watermark => self.learn(message),
                Kind::Run => self.take(message, Doing::Action, ready),
                Kind::Undo => self.take(message, Doing::Compensation, ready),
                Kind::Wake | Kind::Probe => self.carry(message),
                _ => {}
            },
            Heard::Session | Heard::Confirmed(_) => {}
        }
    }

    fn define(&mut self, message: &Message<'_>) {
        let definition = message.sections().get(Section::DATA).unwrap_or_default();
        if self.plans.define(definition, &self.options).is_err() {
            self.stats.malformed += 1;
        }
    }

    fn learn(&mut self, message: &Message<'_>) {
        let Some(told) = message.sections().get(Section::DATA).and_then(Watermark::read) else {
            self.stats.malformed += 1;
            return;
        };
        if told.replaces(&self.told) {
            if told.log != self.told.log {
                self.rows.renew();
            }
            self.told = told;
            self.is_news = true;
        }
    }

    /// Whether the saga of what runs has durably ended, as far as this process knows.
    fn has_passed(&self, at: u32) -> bool {
        let entry = self.running.at(at);
        let class = self.plans.get(entry.plan).class;
        let is_guarded = !is_broken(Mutation::ForgottenUnguarded);
        is_guarded && (entry.log != self.told.log || self.told.has_passed(class, entry.header.saga.sequence.get()))
    }

    fn take(&mut self, message: &Message<'_>, doing: Doing, ready: &mut Vec<Ready>) {
        self.stats.delivered += 1;
        let header = message.header;
        let taken = match self.taken(message, doing) {
            Ok(taken) => taken,
            Err((delay_ms, reason)) => return self.not_yet(header, delay_ms, reason),
        };
        let running = self.running.find(&key_of(header));
        match (on_arrival(running.map(|at| self.running.at(at).doing), doing), running) {
            (Admission::Begin, _) => {
                let at = self.running.begin(message, taken);
                self.begin(at, ready);
            }
            (Admission::Wait, Some(at)) => {
                if !self.running.wait(at, message, taken) {
                    self.ignore(None);
                }
            }
            (_, running) => self.ignore(running.filter(|&at| self.running.at(at).doing == doing)),
        }
    }

    /// What a message asks for, or after how long it may be asked again, and why.
    fn taken(&self, message: &Message<'_>, doing: Doing) -> Result<Taken, (u64, &'static str)> {
        let header = message.header;
        let backoff_ms = send::backoff_ms(header.deliveries.get()).max(NOT_YET_MS);
        let Some(plan) = self.plans.find(header.plan.get()) else {
            return Err((NOT_YET_MS, "this process was not told the plan"));
        };
        let known = self.plans.get(plan);
        let Some(step) = known.own_step(header.place.get()) else {
            return Err((backoff_ms, "this process does not implement the step; deploy it, or start one that does"));
        };
        let reads = known.reads(header);
        let sections = message.sections();
        let lacks_result = || reads.iter().any(|&read| sections.get(read).is_none());
        if sections.get(Section::INPUT).is_none() || (doing == Doing::Action && lacks_result()) {
            return Err((backoff_ms, "the message lacks the input or a result that the step reads"));
        }
        if self.options.memory_fence && doing == Doing::Action && self.rows.is_full_with(self.running.len()) {
            return Err((backoff_ms, "the fence in memory is full; start fewer sagas, or use a fence in a database"));
        }
        Ok(Taken { plan, log: self.told.log, step, doing, session: self.session })
    }

    fn not_yet(&mut self, header: &Header, delay_ms: u64, reason: &str) {
        self.stats.not_yet += 1;
        self.owed += 1;
        send::later(&mut self.peer, header, delay_ms, reason.as_bytes());
    }

    /// A repetition takes over the place of what it repeats in this session's credit, or gives its own back.
    fn ignore(&mut self, repeated: Option<u32>) {
        self.stats.ignored += 1;
        match repeated.map(|at| self.running.at_mut(at)) {
            Some(entry) if entry.session != self.session => entry.session = self.session,
            _ => self.owed += 1,
        }
    }

    /// Something may begin: with the fence in memory its row decides, else all is handed out.
    fn begin(&mut self, at: u32, ready: &mut Vec<Ready>) {
        if self.has_passed(at) {
            self.stats.passed += 1;
            return self.release(at, ready);
        }
        let is_to_call = !self.options.memory_fence
            || match self.running.at(at).doing {
                Doing::Action => self.ask_for_action(at),
                Doing::Compensation => self.ask_for_compensation(at),
            };
        if is_to_call {
            ready.push(self.ready(at));
        } else {
            self.stats.answered += 1;
            self.release(at, ready);
        }
    }

    /// Answers a RUN from its row in memory, or says that the action is to be called.
    fn ask_for_action(&mut self, at: u32) -> bool {
        let entry = self.running.at_mut(at);
        let known = self.plans.get(entry.plan);
        let (state, answer) = self.rows.find(&entry.key(), known.class);
        match on_run(state) {
            OnRun::Call => return true,
            OnRun::CallAgain => {
                entry.was_tried = true;
                return true;
            }
            OnRun::AnswerDone => {
                send::done(&mut self.peer, &known.plan, &entry.header, entry.sections(), answer);
            }
            OnRun::AnswerRejected => send::fail(&mut self.peer, &entry.header, CauseCode::Rejected, true, answer),
            OnRun::Drop => self.stats.dropped += 1,
        }
        false
    }

    /// Answers an UNDO from its row in memory, or says that the compensation is to be called.
    fn ask_for_compensation(&mut self, at: u32) -> bool {
        let entry = self.running.at(at);
        let key = entry.key();
        let class = self.plans.get(entry.plan).class;
        let decision = on_undo(self.rows.find(&key, class).0);
        self.rows.record(&key, class, Event::UndoBegun, &[]);
        match decision {
            OnUndo::Compensate | OnUndo::CompensateUncertain => true,
            OnUndo::LeaveTombstone | OnUndo::AnswerUndone => {
                let plan = &self.plans.get(entry.plan).plan;
                send::undone(&mut self.peer, plan, &entry.header);
                if self.stats.blocked > 0 {
                    self.let_go_of(key);
                }
                false
            }
        }
    }

    fn let_go_of(&mut self, FenceKey { saga, attempt, step }: FenceKey) {
        self.let_go.push(Holder { saga, attempt, place: u16::from(step) });
    }

    fn ready(&self, at: u32) -> Ready {
        let entry = self.running.at(at);
        let undo = entry.doing == Doing::Compensation;
        let step = &self.plans.get(entry.plan).plan.steps[usize::from(entry.header.place.get())];
        Ready {
            ticket: self.running.ticket(at),
            undo,
            step: entry.step,
            results: if undo { 1 } else { step.reads_ordered.len() },
            result_bytes_max: step.result_max,
        }
    }

    /// All that is known of work that runs.
    pub fn work(&self, ticket: u64) -> Option<Work> {
        let entry = self.running.at(self.running.by_ticket(ticket)?);
        let known = self.plans.get(entry.plan);
        let header = &entry.header;
        Some(Work {
            ticket,
            undo: entry.doing == Doing::Compensation,
            step: entry.step,
            saga: header.saga,
            attempt: header.attempt.get(),
            deliveries: header.deliveries.get(),
            deadline_ms: match header.deadline_ms.get() {
                0 => 0,
                _ => self.clock.now_ms + self.clock.remaining_ms(header, known),
            },
            idempotency_key: idempotency_key(header),
            result_bytes_max: known.plan.steps[usize::from(header.place.get())].result_max,
            phase: known.phase(header.place.get()),
            log: entry.log,
            class: known.class,
            place: header.place.get(),
            age: header.age.get(),
            freed: Freed::read_all(entry.sections().get(Section::FREED).unwrap_or_default()).to_vec(),
            wounded: header.has(Flags::WOUNDED),
        })
    }

    fn finish_action(&mut self, at: u32, verdict: Verdict, payload: &[u8]) -> Result<(), Misuse> {
        let entry = self.running.at(at);
        let known = self.plans.get(entry.plan);
        let bytes_max = known.plan.steps[usize::from(entry.header.place.get())].result_max;
        if verdict == Verdict::Done && payload.len() > bytes_max {
            return Err(Misuse::ResultSize { bytes: payload.len(), bytes_max });
        }
        let phase = known.phase(entry.header.place.get());
        let ending = ending(verdict, payload, entry, phase, self.options.memory_fence)?;
        if self.options.memory_fence && !matches!(ending, Ending::Nothing | Ending::Blocked) {
            let event = match ending {
                Ending::Done => Event::Succeeded,
                Ending::Fail { is_clean: true, .. } => Event::RejectedCleanly,
                _ => Event::Tried,
            };
            match ending {
                Ending::Done => self.rows.record(&entry.key(), known.class, event, payload),
                _ => self.rows.record(&entry.key(), known.class, event, cut(payload).as_bytes()),
            };
        }
        let peer = &mut self.peer;
        match ending {
            Ending::Done => {
                self.stats.done += 1;
                send::done(peer, &known.plan, &entry.header, entry.sections(), payload);
            }
            Ending::Fail { code, is_clean } => {
                self.stats.failed += 1;
                send::fail(peer, &entry.header, code, is_clean, payload);
            }
            Ending::Later { delay_ms } => {
                self.stats.retried += 1;
                let reason = if verdict == Verdict::Retry { retry(payload)?.1 } else { payload };
                send::later(peer, &entry.header, delay_ms, reason);
            }
            Ending::Blocked => {
                self.stats.blocked += 1;
                send::blocked(peer, &entry.header, payload);
            }
            Ending::Nothing => self.stats.dropped += 1,
        }
        Ok(())
    }

    fn finish_compensation(&mut self, at: u32, verdict: Verdict, payload: &[u8]) -> Result<(), Misuse> {
        let entry = self.running.at(at);
        match verdict {
            Verdict::Undone => {
                if self.options.memory_fence {
                    self.rows.record(&entry.key(), self.plans.get(entry.plan).class, Event::Compensated, &[]);
                }
                self.stats.undone += 1;
                let plan = &self.plans.get(entry.plan).plan;
                send::undone(&mut self.peer, plan, &entry.header);
            }
            Verdict::Retry => {
                let (delay_ms, reason) = retry(payload)?;
                self.stats.retried += 1;
                send::later(&mut self.peer, &entry.header, delay_ms, reason);
            }
            Verdict::Drop => self.stats.dropped += 1,
            _ => return Err(Misuse::CompensationVerdict),
        }
        Ok(())
    }

    fn release(&mut self, at: u32, ready: &mut Vec<Ready>) {
        if self.running.at(at).session == self.session && !is_broken(Mutation::CreditNotReturned) {
            self.owed += 1;
        }
        if let Some(waiting) = self.running.end(at) {
            self.begin(waiting, ready);
        }
    }
}
