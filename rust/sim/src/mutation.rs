//! Rules broken on purpose, in what surrounds the cores: each must be caught, or the checks are worth nothing.

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A service's database forgets its rows.
    NoFence,
    /// An UNDO that finds no row leaves none.
    NoTombstone,
    /// A rejection is answered and not stored.
    RejectionNotStored,
    /// An action that was given up without effect is not stored as that.
    GivenUpNotStored,
    /// A rejection counts as clean though another try runs.
    CleanBesideOthers,
    /// A repetition is answered with a new result.
    ResultNotFromRow,
    /// The idempotency key is another one for each delivery.
    KeyOfDelivery,
    /// A compensation is answered without being done.
    UndoSkipped,
    /// A compensation is done whatever the row says.
    UndoRepeated,
    /// What a record caused leaves the broker before the record is durable.
    VisibleBeforeDurable,
    /// Now and then a sync does nothing and says that it did.
    SyncSkipped,
    /// Names in the log's directory are never synced.
    DirectoryNotSynced,
    /// A record in the middle of the log is not read again.
    RecordSkipped,
    /// Old segments are deleted, and of what was copied nothing is there.
    CopiesLost,
    /// A coordinator forgets an arrival that it was given.
    ArrivalLost,
    /// A service's answer is lost and its outbox does not know.
    OutboxForgets,
    /// A coordinator says that more is done than it was told.
    DoneForged,
    /// A client is told the opposite now and then.
    OutcomeTurned,
}

impl Mutation {
    pub const ALL: [Self; 18] = [
        Self::NoFence,
        Self::NoTombstone,
        Self::RejectionNotStored,
        Self::GivenUpNotStored,
        Self::CleanBesideOthers,
        Self::ResultNotFromRow,
        Self::KeyOfDelivery,
        Self::UndoSkipped,
        Self::UndoRepeated,
        Self::VisibleBeforeDurable,
        Self::SyncSkipped,
        Self::DirectoryNotSynced,
        Self::RecordSkipped,
        Self::CopiesLost,
        Self::ArrivalLost,
        Self::OutboxForgets,
        Self::DoneForged,
        Self::OutcomeTurned,
    ];
}
