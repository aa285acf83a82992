//! The kinds of messages, and the small closed sets of codes that headers carry.

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident : $repr:ty { $($(#[$vdoc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name { $($(#[$vdoc])* $variant = $value),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub const fn from_code(code: $repr) -> Option<Self> {
                match code { $($value => Some($name::$variant),)+ _ => None }
            }

            pub const fn code(self) -> $repr {
                self as $repr
            }
        }
    };
}

codes! {
    /// What a message asks or tells. The first seven, but FAIL, are *tokens*: pending at the broker until consumed.
    Kind: u8 {
        /// client -> coordinator: begin this plan with this input under this key.
        Start = 1,
        /// coordinator or service -> service: do the step, then pass the token on.
        Run = 2,
        /// service -> coordinator: an edge into a join, or into the end, is reached.
        Done = 3,
        /// service -> broker: the step was rejected or given up; consumes its RUN.
        Fail = 4,
        /// broker -> coordinator: the one answer to every abort.
        Revoked = 5,
        /// coordinator or service -> service: compensate the step, then pass on.
        Undo = 6,
        /// service -> coordinator: an edge of the compensation graph is reached.
        Undone = 7,
        /// coordinator -> broker -> client: the saga has ended.
        Result = 8,
        /// client, service -> broker -> peers: a plan's definition under its fingerprint.
        Define = 9,
        /// client, operator -> broker: abort this attempt.
        Cancel = 10,
        /// coordinator -> broker: hold these arrivals until the next one.
        Spill = 11,
        /// service -> broker: deliver this again after so long.
        RetryLater = 12,
        /// service -> broker: the step must wait for what others hold; see `Blocked`.
        Blocked = 13,
        /// broker -> service -> broker of another shard: somebody is out of the way; see `ProbeHop`.
        Wake = 14,
        /// broker -> service -> broker of another shard: is somebody still in the way, and who waits for whom.
        Probe = 15,
        /// operator -> broker: retry, skip or resolve a stuck step.
        Resolve = 16,
        /// client -> broker: how far is this saga; and the answer.
        Status = 17,
        /// client -> broker: tell me this saga's outcome.
        Attach = 18,
        /// peer -> broker: who I am and what I serve; and the broker's welcome.
        Subscribe = 19,
        /// peer -> broker: you may have delivered so many to me since the session began.
        Credit = 20,
        /// broker -> peer: your transactions up to this number are durable.
        Confirm = 21,
        /// both ways: I am alive.
        Ping = 22,
        /// broker -> peer: that transaction changed nothing, and why.
        Refused = 23,
        /// operator -> broker: counters; and the answer.
        Stats = 24,
        /// In the log: a victim is undone, and begins again as its next attempt.
        Restart = 25,
        /// operator -> broker: the sagas that are stuck; and the answer. In the log: no watermark waits for this one.
        Stuck = 26,
        /// broker -> service: up to where every saga has ended; see `crate::watermark`.
        Watermark = 27,
        /// operator -> broker: the deadlocks that were resolved; and the answer.
        Deadlocks = 28,
    }
}

impl Kind {
    /// Whether a message of this kind is pending at the broker until a transaction consumes it.
    pub const fn is_token(self) -> bool {
        matches!(self, Self::Start | Self::Run | Self::Done | Self::Revoked | Self::Undo | Self::Undone)
    }

    /// Whether a token of this kind is held for a coordinator, not for a service.
    pub const fn is_for_coordinator(self) -> bool {
        matches!(self, Self::Start | Self::Done | Self::Revoked | Self::Undone)
    }

    /// Whether the saga of such a token still goes forward, so that an abort may consume it.
    pub const fn is_forward(self) -> bool {
        matches!(self, Self::Start | Self::Run | Self::Done)
    }
}

codes! {
    /// Why a saga was aborted.
    CauseCode: u8 {
        /// An action raised `Rejected`: nothing of the step took effect.
        Rejected = 1,
        /// An action failed more often than its policy allows: it may have taken effect.
        GaveUp = 2,
        /// The saga's deadline passed.
        Deadline = 3,
        /// A client or an operator cancelled it.
        Cancelled = 4,
        /// A message was delivered more often than the limit without an answer.
        DeliveryLimit = 5,
        /// It lost a deadlock, or what it held was wanted by an older saga: it begins again.
        Victim = 6,
    }
}

codes! {
    /// How a saga ended: the `place` of a RESULT.
    OutcomeCode: u16 { Completed = 1, Compensated = 2 }
}

codes! {
    /// How far a saga is: the `place` of a STATUS that answers.
    StatusCode: u16 {
        Unknown = 0,
        Running = 1,
        Deciding = 2,
        Completed = 3,
        Compensating = 4,
        Compensated = 5,
        Stuck = 6,
    }
}

codes! {
    /// Who a peer is: the `place` of its SUBSCRIBE.
    Role: u16 { Client = 1, Service = 2, Coordinator = 3 }
}

codes! {
    /// Why the broker refused a transaction: the `place` of a REFUSED.
    Refusal: u16 {
        /// Something that it consumes is not pending any more: forget it.
        Stale = 1,
        /// The session is not known, after a restart or a silence: subscribe again and replay.
        NoSession = 2,
        /// The sender may not say this: it does not serve the step, or is no coordinator.
        Forbidden = 3,
        /// A header is not what the plan says.
        Mismatch = 4,
        /// The plan is not known: define it first.
        NoPlan = 5,
        /// The broker is full: no new saga now, try again later.
        Full = 6,
        /// The key was used with another plan or input.
        KeyConflict = 7,
        /// The saga may not be aborted: it is deciding, past its pivot, undoing or ended.
        TooLate = 8,
        /// The saga is not known.
        Unknown = 9,
        /// A frame that breaks the format; the reason names the rule.
        Malformed = 10,
        /// The service has a process with in-memory fences already.
        Exclusive = 11,
        /// A body or a part of it is larger than the plan or a limit allows.
        TooLarge = 12,
        /// A plan that cannot be compiled, or another one under the same fingerprint.
        BadPlan = 13,
        /// Not of this protocol yet.
        Unsupported = 14,
        /// No new saga whose deadline is of this class now: its watermark is held back. Try again later.
        ClassFull = 15,
    }
}

codes! {
    /// How a hold is shared.
    HoldMode: u8 {
        /// By nobody.
        Exclusive = 0,
        /// By all who ask so.
        Shared = 1,
        /// A pool: as many as it has.
        Counted = 2,
    }
}

codes! {
    /// What a service does about sagas that wait for each other.
    WaitPolicy: u8 {
        /// They wait; of a cycle, the youngest gives way.
        Detect = 0,
        /// An older one does not wait for a younger one, which gives way.
        WoundWait = 1,
    }
}
