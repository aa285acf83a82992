//! Rules of the protocol that can be broken, one at a time.

macro_rules! mutations {
    ($($(#[$text:meta])* $name:ident,)*) => {
        /// A broken rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[$text])* $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutations! {
    // Rule 1: one record, single-use keys.
    /// A service's transaction is accepted though its RUN is not pending any more.
    MoveOnUnchecked,
    /// An abort is accepted in any phase, an ended saga's too.
    AbortInAnyPhase,
    /// A join fires at the first arrival.
    JoinTakesOne,
    /// A coordinator's arrivals are consumed when they are delivered, not when it decides.
    ArrivalsIntoMemory,
    /// A slot that was spilled and came again decides unchecked.
    RecalledUnchecked,
    /// A step publishes what comes next and does not consume its RUN in the same record.
    AckApart,
    /// After a stop of the broker, what a lost segment had consumed is pending again.
    ConsumedComesBack,
    /// The leases of a refused transaction are not taken back.
    RefusedKeepsLeases,
    /// A transaction built under an earlier boot is taken. Alone it does no harm: see `SECOND_LINES`.
    BootUnchecked,
    // Rules 3 and 4: the fence.
    /// An action runs again though its row is there.
    NoFence,
    /// An UNDO that finds no row leaves none.
    NoTombstone,
    /// A rejection is sent without a row.
    RejectionNotStored,
    /// Rows of both attempts are the same.
    AttemptNotInKey,
    /// An external action is called before its intent is stored.
    IntentNotStored,
    /// A repeated call carries another key, so that it takes effect again.
    CalledWithoutKey,
    /// A compensation that finds an intent does not cancel by the key.
    CancelWithoutKey,
    /// A rejection is taken as clean though an earlier try may have called.
    RejectedDespiteIntent,
    // Rule 5: abort.
    /// The set holds what is done, not what may have run.
    AbortWithoutActive,
    /// Spilled arrivals stay pending beside REVOKED.
    AbortLeavesSpilled,
    /// So do leased ones.
    AbortLeavesLeased,
    /// Of the steps that run side by side, only the first is in the set.
    AbortForgetsSibling,
    /// A step that expires is left out of the set if this boot of the broker has not delivered it.
    ExpiredCleanIfNotSeen,
    /// All compensations run at once.
    UndoUnordered,
    // Rule 6: the pivot.
    /// An abort is accepted past the pivot.
    AbortPastPivot,
    /// An abort is accepted while the pivot runs.
    AbortWhileDeciding,
    /// After a stop of the broker, a pending pivot does not count as delivered.
    DecidingForgotten,
    /// Steps past the pivot may reject.
    RejectPastPivot,
    // Rule 7: stuck.
    /// An UNDO that does not succeed is passed on at its delivery limit.
    UndoGivenUp,
    /// A skip publishes what comes next and leaves the UNDO pending.
    SkipLeavesToken,
    // Rule 8: durable before visible.
    /// Everything may be seen before it is durable.
    VisibleEarly,
    /// START is confirmed before it is durable.
    ConfirmedEarly,
    /// In relaxed visibility, sagas older than an unclean stop abort with the set that the log says.
    NotWide,
    /// A FAIL of an earlier boot is taken, and says that the saga is not wide.
    OldBootDecidesWide,
    /// In relaxed visibility START may run ahead of the sync.
    StartAhead,
    /// So may the first RUNs of another attempt.
    RestartAhead,
    /// So may the RUN of the pivot.
    PivotAhead,
    /// So may the first UNDOs, which decide an abort.
    UndoAhead,
    /// So may the outcome.
    ResultAhead,
    /// So may what an operator decided.
    SkipAhead,
    // Rule 9: ended sagas are remembered.
    /// A repeated START begins another saga.
    StartTwice,
    /// So does one whose saga has ended.
    EndedForgotten,
    // Rule 12: watermarks.
    /// Rows below the watermark are deleted, and what comes later is not refused.
    RowsGoneUnguarded,
    /// The watermark passes sagas that have not ended.
    WatermarkPastLive,
    /// The watermark is told before the ends that it counts are durable.
    WatermarkEarly,
    /// A watermark that passes a stuck saga does not name it.
    ExceptionUntold,
    /// The list of those is lost when the broker stops.
    ExceptionForgotten,
    // Rule 13: headers are checked.
    /// What is published is not compared with the plan.
    ForgedPublication,
    /// The sender is not compared with who serves the step.
    ForgedSender,
    /// The sets are the sender's.
    ForgedSets,
    // Rule 14, and SPILL.
    /// Arrivals of one saga go to two coordinators.
    TwoOwners,
    /// A SPILL is accepted beside an arrival that it does not name.
    SpillBesideArrival,
    /// A SPILL is accepted from a session that does not hold what it names.
    SpillNotHeld,
}

/// Rules that stand behind others: without one of them nothing breaks, and the model shows that too.
/// A transaction of an earlier boot meets compare-and-set, rows that answer, and a broker that takes sets from nobody.
pub const SECOND_LINES: &[Mutation] = &[Mutation::BootUnchecked];

impl Mutation {
    /// Those that some configuration must catch.
    pub fn that_break() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|mutation| !SECOND_LINES.contains(mutation))
    }

    /// As it is named on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}
