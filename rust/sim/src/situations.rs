//! Rare situations that a run should come to. A simulator that never meets them proves nothing about them.

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A situation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Situation { $($(#[$doc])* $name),+ }

        impl Situation {
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

situations! {
    /// A saga went on and a late abort changed nothing.
    ForwardBeforeAbort,
    /// A step ended and its saga had been aborted meanwhile.
    AbortBeforeForward,
    /// A RUN found that its UNDO had been there first.
    TombstoneBeforeAction,
    Spill,
    Recall,
    /// What one coordinator spilled came back to another.
    RecalledElsewhere,
    /// An arrival went to another coordinator than the time before.
    SlotMoved,
    StaleTransaction,
    StaleSpill,
    Redelivery,
    DeliveryLimit,
    DeadlineAbort,
    Cancelled,
    CancelTooLate,
    Resolved,
    CompensationSkipped,
    OutcomeForgotten,
    OutboxReplayed,
    StartDeduplicated,
    KeyConflict,
    AnsweredFromRow,
    IntentCalledAgain,
    /// A compensation that does not know whether its action took place.
    UncertainCompensation,
    /// A compensation found an action that had been rejected.
    UndoOfRejected,
    UncertainRejection,
    GivenUp,
    GivenUpClean,
    PivotRejected,
    RejectedPastPivot,
    /// A call reached the gateway after its compensation.
    LateCallRefused,
    /// A process went on with a commit after its lease had ended.
    ZombieCommit,
    TailLost,
    TailSurvived,
    TornTailCut,
    CleanStart,
    DamageRefused,
    /// A bit turned where nothing is.
    DamageHarmless,
    SyncFailed,
    /// A record found no room in the log.
    NoRoom,
    NoSpaceToStart,
    StartRefusedFull,
    BrokerRestarted,
    SessionReplaced,
    NoSession,
    ExclusiveRefused,
    FrameRefused,
    PeerUnreachable,
    JoinOfThree,
    UndoJoin,
    NothingToUndo,
    FrameForged,
    CopiesWritten,
    SegmentsReleased,
    ReplayedAfterRelease,
    CoordinatorGaveBack,
    ResultAfterRestart,
    StuckListed,
    /// A token left the broker before it was durable.
    RanAhead,
    /// After a crash a step has its effect, and the log does not know that it was asked for.
    LostRunTookEffect,
    /// An abort undid more than the tokens named: of the rest nobody knew whether it had run.
    WideAbort,
    /// A service was asked for something of a saga that had ended, and had forgotten it.
    ZombieBelowWatermark,
    /// A call ended after its saga had, and after its row was forgotten.
    LateEndBelowWatermark,
    /// A stuck saga that watermarks pass.
    WatermarkException,
    StartRefusedClassFull,
    /// An operator did something about a saga that was listed as stuck.
    StuckResolved,
    /// A process answered for a step that another service has.
    ForbiddenRefused,
    /// A message that is larger than its plan says.
    OversizeRefused,
    SagaParked,
    SagaReadBack,
    /// A start found so many copies in the log that it parked some.
    ParkedInReplay,
    /// A step had to wait for what another saga held.
    Waited,
    /// What a saga that had ended held was taken over.
    TakenOver,
    /// Of sagas that waited for each other, one gave way.
    Deadlocked,
    /// An older saga did not wait for a younger one.
    Wounded,
    /// Sagas waited for each other at their pivots, and one said no.
    PivotGaveWay,
    /// A victim was cancelled while it was undone.
    VictimCancelled,
    /// A victim began again.
    Restarted,
    /// And completed then.
    RestartCompleted,
}

/// How often each was reached.
#[derive(Debug, Clone)]
pub struct Situations {
    counts: Vec<u64>,
}

impl Default for Situations {
    fn default() -> Self {
        Self { counts: vec![0; Situation::ALL.len()] }
    }
}

impl Situations {
    pub fn reach(&mut self, situation: Situation) {
        self.counts[situation as usize] += 1;
    }

    pub fn count(&self, situation: Situation) -> u64 {
        self.counts[situation as usize]
    }

    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    pub fn unreached(&self) -> Vec<&'static str> {
        let unreached = Situation::ALL.iter().filter(|&&situation| self.count(situation) == 0);
        unreached.map(|situation| situation.name()).collect()
    }
}
