//! What a process knows of time: its own, and from it the broker's.

use super::plans::KnownPlan;
use crate::wire::Header;

/// Times that are not `now_ms`.
#[derive(Debug, Default)]
pub(super) struct Clock {
    pub now_ms: u64,
    /// What to add to `now_ms` for the broker's time, once it has told.
    pub broker_ahead_ms: Option<i64>,
}

impl Clock {
    /// How long until a message's deadline: at most what its plan gives a saga, and that where it is not known.
    pub fn remaining_ms(&self, header: &Header, known: &KnownPlan) -> u64 {
        let deadline_ms = header.deadline_ms.get();
        if deadline_ms == 0 {
            return 0;
        }
        self.broker_ahead_ms.map_or(known.plan.deadline_ms, |ahead_ms| {
            let broker_now_ms = self.now_ms.saturating_add_signed(ahead_ms);
            deadline_ms.saturating_sub(broker_now_ms).min(known.plan.deadline_ms)
        })
    }
}
