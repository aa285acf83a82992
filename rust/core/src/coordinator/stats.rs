//! What a coordinator did, in numbers.

use super::plans::Plans;
use crate::table::Table;

/// What is counted beside the table's own counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub deliveries: u64,
    pub arrivals: u64,
    pub transactions: u64,
    pub given_back: u64,
    pub refused: u64,
    pub spills_refused: u64,
    pub strays: u64,
    pub plans_refused: u64,
}

/// A coordinator's figures since it was made, and how full its table is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Tokens that the broker delivered, and those of them that came to a join or to the end.
    pub deliveries: u64,
    pub arrivals: u64,
    /// Transactions that moved a saga on; spilling and giving back are counted apart.
    pub transactions: u64,
    /// Arrivals that found no room and were spilled at once, and tokens whose plan is not known.
    pub given_back: u64,
    /// Transactions that the broker refused, and the SPILLs among them.
    pub refused: u64,
    pub spills_refused: u64,
    /// Messages that are nothing to a coordinator, and edges that the plan does not have.
    pub strays: u64,
    pub plans: u64,
    pub plans_refused: u64,
    pub lookups: u64,
    pub hits: u64,
    pub inserts: u64,
    pub evictions_clean: u64,
    /// Dirty slots for which a SPILL was sent.
    pub evictions_dirty: u64,
    pub slots: u64,
    pub slots_used: u64,
    pub slots_pinned: u64,
    pub table_bytes: u64,
}

impl Stats {
    pub(super) fn new(counters: &Counters, table: &Table, plans: &Plans) -> Self {
        Self {
            deliveries: counters.deliveries,
            arrivals: counters.arrivals,
            transactions: counters.transactions,
            given_back: counters.given_back,
            refused: counters.refused,
            spills_refused: counters.spills_refused,
            strays: counters.strays,
            plans: plans.len() as u64,
            plans_refused: counters.plans_refused,
            lookups: table.counters.lookups,
            hits: table.counters.hits,
            inserts: table.counters.inserts,
            evictions_clean: table.counters.evictions_clean,
            evictions_dirty: table.counters.evictions_dirty,
            slots: table.capacity() as u64,
            slots_used: table.len() as u64,
            slots_pinned: table.pinned() as u64,
            table_bytes: table.bytes() as u64,
        }
    }

    /// Every figure with its name.
    pub fn entries(&self) -> [(&'static str, u64); 18] {
        [
            ("deliveries", self.deliveries),
            ("arrivals", self.arrivals),
            ("transactions", self.transactions),
            ("given_back", self.given_back),
            ("refused", self.refused),
            ("spills_refused", self.spills_refused),
            ("strays", self.strays),
            ("plans", self.plans),
            ("plans_refused", self.plans_refused),
            ("lookups", self.lookups),
            ("hits", self.hits),
            ("inserts", self.inserts),
            ("evictions_clean", self.evictions_clean),
            ("evictions_dirty", self.evictions_dirty),
            ("slots", self.slots),
            ("slots_used", self.slots_used),
            ("slots_pinned", self.slots_pinned),
            ("table_bytes", self.table_bytes),
        ]
    }
}
