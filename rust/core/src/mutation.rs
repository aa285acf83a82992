//! Rules broken on purpose, one at a time, each where it is kept: the simulator must notice every one, or its checks
//! are worth nothing. `make mutants` runs them all.
//!
//! Without the feature `mutations`, which no release has, `is_broken` is the constant `false`.

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A broken rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation { $($(#[$doc])* $name),+ }

        impl Mutation {
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

mutations! {
    // What the broker accepts.
    /// A transaction is applied though something that it consumes is not pending any more.
    StaleForwardApplied,
    /// A FAIL aborts its saga though its RUN is not pending any more.
    StaleAbortApplied,
    /// An abort undoes what is done, not what may have run.
    AbortSetWithoutActive,
    /// A saga is aborted though its pivot was delivered.
    AbortWhileDeciding,
    /// A saga is aborted though its pivot is done.
    AbortPastPivot,
    /// A saga is aborted though it is compensated already.
    AbortOfUndoing,
    /// The pivot is given up though it may have taken effect.
    PivotGivenUp,
    /// The pivot may not say no.
    PivotRejectionRefused,
    /// Headers are not compared with the plan.
    HeadersNotChecked,
    /// Anybody may answer for a step.
    SendersNotChecked,
    /// A message may be larger than its plan says.
    SizesNotChecked,
    /// A START whose key is known begins another saga.
    StartsNotDeduplicated,
    /// A key may be used again with another input.
    KeyConflictIgnored,
    /// An ended saga is not remembered.
    OutcomeNotRemembered,
    /// An outcome is told as it was not.
    OutcomeTurned,
    /// The outcome does not tell what an operator skipped.
    SkipNotTold,
    /// New sagas begin though the running ones may need the room.
    RoomIgnored,

    // What leaves the broker, and when.
    /// What a record caused leaves before the record is durable.
    VisibleBeforeDurable,
    /// A transaction is confirmed before it is durable.
    ConfirmedBeforeDurable,
    /// An operator's retry makes visible what is not durable.
    RetryMakesVisible,
    /// A START runs ahead of the log: lost, it leaves no saga to undo what ran.
    StartRunsAhead,
    /// The pivot runs ahead of the log: lost, it may be undone after all.
    PivotRunsAhead,
    /// The first UNDOs run ahead of the log: the abort that they come from may be lost.
    FirstUndoRunsAhead,
    /// What an operator decided runs ahead of the log: lost, its step may be undone after those that come after it.
    DecisionRunsAhead,
    /// An outcome is told ahead of the log.
    ResultRunsAhead,
    /// A REVOKED runs ahead of its START.
    RevokedRunsAhead,
    /// Tokens run ahead before the log says that they may.
    RunsAheadUnsaid,
    /// After something that ran ahead was lost, sagas are not wide.
    NotWidened,
    /// The abort of a wide saga undoes what its tokens name.
    WideUndoneByTokens,

    // What the broker delivers again, and gives up.
    DeadlineNeverExpires,
    StuckNeverListed,
    DeliveryLimitIgnored,
    /// What stood beside a message that kills is delivered with it again, up to its limit.
    SuspectsTogether,
    LeaseNeverEnds,
    /// A peer that says nothing keeps what it was given.
    SilenceTolerated,
    /// A refused sender keeps its leases.
    RefusedKeepsLease,
    /// What is to be delivered later is not.
    DelayNeverEnds,
    /// An arrival that was given to a coordinator is not given to another.
    ArrivalsInMemory,
    /// Arrivals are held though the one that they wait for has come.
    BlindSpill,
    /// What was spilled does not come with the next arrival.
    SpilledNotRecalled,
    /// The slices of a coordinator that is gone are nobody's.
    SlicesNotDealtAgain,

    // Up to where services may forget.
    /// A watermark passes sagas that run.
    WatermarkPassesLive,
    /// A watermark is told before what it is as of is durable.
    WatermarkToldEarly,
    /// A stuck saga that no watermark waits for is waited for again after a restart.
    ExceptionForgotten,
    /// The same, where the log is copied forward.
    ExceptionNotCopied,
    /// Services are not told which sagas no watermark waits for.
    ExceptionNotTold,
    /// As many sagas as there may be are stuck, and watermarks wait for none.
    ExceptionsUnbounded,
    /// Watermarks stay where they are, and no row is ever forgotten.
    WatermarkNeverMoves,
    /// An older watermark replaces a later one.
    OlderWatermarkKept,
    // Two that whoever drives a worker keeps.
    /// Rows are forgotten, and what is asked below the watermark is done all the same.
    ForgottenUnguarded,
    /// An external call that ends after its row was forgotten makes a new one.
    LateEndMakesRow,

    // What the log says, and what is read from it.
    /// Broker time begins anew with each start.
    TimeStartsAnew,
    RecordNotReplayed,
    SagaNotCopied,
    OutcomeNotCopied,
    PlanNotCopied,
    /// Old segments go before the copies of what they hold are durable: broker and log see to that.
    ReleasedBeforeCopied,
    MiddleSegmentDeleted,
    /// Now and then a sync is left out.
    SyncSkipped,
    /// A sync that failed is tried again.
    SyncRetried,
    /// The name of a new segment is not synced.
    NameNotSynced,
    /// The name of a given-up segment is not synced.
    GivenUpNameNotSynced,
    /// A sector that was synced is written again.
    SyncedSectorRewritten,
    /// Whatever is damaged counts as a torn tail.
    CutOnAnyChecksum,
    /// Frames do not say what was durable before them.
    DurableLsnNotStated,
    ChecksumNotChecked,
    /// A recycled segment's checksums are those of its earlier life.
    ChecksumNotSeeded,
    /// What is behind the end of the log stays there.
    TailNotZeroed,
    /// It stays there, and may continue what is written before it: chain and zeros guard the same.
    StaleTailAccepted,

    // Sagas that are parked.
    /// A saga is dropped from memory before its copy is durable.
    ParkedBeforeDurable,
    /// A saga is parked as it was when its copy was made, though it went on since.
    ParkedThoughChanged,
    ParkedDeadlineForgotten,
    /// Its copy was copied forward, and its stub names the old one.
    StubNotMoved,
    /// What a coordinator had of it stays with one that is gone.
    ParkedLeaseKept,
    /// Its queue never comes to it.
    ParkedNotRecalled,

    // What a service keeps.
    NoFence,
    NoTombstone,
    RejectionNotStored,
    IntentNotStored,
    ResultNotStored,
    /// A compensation is called again though its row says that it is done.
    UndoRepeated,
    /// An UNDO does not wait for its action.
    UndoDoesNotWait,
    /// A process does the same thing twice at a time.
    TwoAtOnce,
    /// The idempotency key is another one for each delivery.
    KeyOfDelivery,
    /// A rejection counts as clean though an earlier try may have taken effect.
    UncertainRejectionClean,
    /// The credit of what is finished is not given back.
    CreditNotReturned,
    // Four that whoever drives a worker keeps: Python's fences, or what stands for them.
    /// An action that was given up without effect is not stored as that.
    GivenUpNotStored,
    /// A rejection counts as clean though another try runs.
    CleanBesideOthers,
    /// A repetition is answered with a new result.
    ResultNotFromRow,
    /// A compensation is answered without being done.
    UndoSkipped,
    // Holds, and who waits for them.
    /// A call takes what an older saga waits for.
    LockBarging,
    /// What a step held is held though the step is compensated.
    HoldSurvivesUndo,
    /// A step past the pivot waits: service and broker see to that.
    WaitsPastPivot,
    /// Nobody looks whether the victim of a cycle may be aborted.
    VictimUnchecked,
    /// The oldest saga of a cycle gives way.
    OldestIsVictim,
    /// Nobody gives way.
    DeadlockIgnored,
    /// What is free is not handed on.
    WakeForgotten,
    /// A saga gives way to a cycle of which it may not be a part any more.
    ProbeVictimUnchecked,
    /// A PROBE that was lost is not sent again.
    ProbeNotRepeated,
    /// Holders are out of the way before that is durable.
    FreedBeforeDurable,
    /// A victim does not begin again.
    VictimNotRestarted,
    /// The next attempt of a victim runs ahead of the record that begins it.
    RestartRunsAhead,
    /// A victim that is cancelled while it is undone begins again.
    CancelledBeginsAgain,
    /// After a restart of the broker a victim is one no more.
    VictimForgotten,
    // What coordinators and sessions keep, and what a plan means.
    /// A coordinator forgets an arrival that it was given.
    ArrivalLost,
    /// A join goes on without all of its arrivals.
    JoinWithoutAll,
    /// What is not confirmed is not sent again in the next session.
    OutboxForgets,
    /// Everything is undone side by side.
    UndoOrderIgnored,
}

/// Whether this rule is broken now.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn is_broken(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use selection::{is_broken, select};

#[cfg(feature = "mutations")]
mod selection {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static SELECTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    pub fn is_broken(mutation: Mutation) -> bool {
        SELECTED.get() == Some(mutation)
    }

    /// Breaks this rule, and no other one, in this thread from now on.
    pub fn select(mutation: Option<Mutation>) {
        SELECTED.set(mutation);
    }
}
