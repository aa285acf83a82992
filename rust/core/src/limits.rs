//! Every bound of sagacore, in one place, with the relations between them asserted at compile time.
//!
//! A limit here is part of the protocol: a peer may rely on it, so changing one is a change of the wire format or of
//! what is promised. What an operator may choose (slots, credit) is a setting with its default here.

/// Steps of a saga: a set of steps is one `u64`.
pub const STEPS_MAX: usize = 64;
/// Edges that one slot tracks: the arrivals of a block are one `u64`.
pub const EDGES_PER_BLOCK: usize = 64;
/// Edges into joins, or into the end, of one plan: 32 steps that each lead to 32 others, which lead to the end.
/// Their numbers go beyond it, because a join lies in one block and blocks have gaps.
pub const EDGES_MAX: usize = 1056;

/// A name of a saga, a step or a service, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 100;
/// The user's key of a saga.
pub const KEY_BYTES_MAX: usize = 200;
/// The text of a rejection, a cancellation or an error, cut to this.
pub const REASON_BYTES_MAX: usize = 200;
/// The input of a saga, unless its definition says less.
pub const INPUT_BYTES_DEFAULT: usize = 4 * 1024;
/// One result, unless its step says otherwise.
pub const RESULT_BYTES_DEFAULT: usize = 256;
/// One section of a body, whatever the definition says.
pub const SECTION_BYTES_MAX: usize = 16 * 1024;
/// One message: header, body and MAC. The largest token of a plan must fit, or the plan is refused.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// One transaction: what it consumes and publishes, a fork to 63 steps with inputs of the default size among them.
pub const TRANSACTION_BYTES_MAX: usize = 512 * 1024;
/// One frame: what a peer sends in one ZeroMQ message.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// A plan's definition.
pub const DEFINITION_BYTES_MAX: usize = 32 * 1024;
/// Plans that a broker remembers.
pub const PLANS_MAX: usize = 4096;
/// Messages that one transaction consumes: all arrivals of a block.
pub const CONSUMES_MAX: usize = EDGES_PER_BLOCK;
/// Messages that one transaction publishes: a step that forks to all others, to steps and to joins.
pub const PUBLISHES_MAX: usize = EDGES_MAX + STEPS_MAX;
/// Compiled compensation graphs that a plan keeps, one for each set of steps to undo.
pub const UNDO_GRAPHS_MAX: usize = 64;

/// A peer says something at least this often.
pub const HEARTBEAT_MS: u64 = 200;
/// Silent for so many heartbeats, a peer is dead and its leases are taken back.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;
/// A broker that is silent for so long is asked anew over a fresh connection.
pub const PATIENCE_MS: u64 = 3_000;
/// A subscription that got no answer is repeated so often.
pub const SUBSCRIBE_AGAIN_MS: u64 = 250;
/// What a delivered message may take beyond its step's timeout before it is delivered again: it may queue there.
pub const LEASE_QUEUE_MS: u64 = 10_000;
/// Deliveries of one forward message before its saga is aborted; of any other, before it is listed as stuck.
pub const DELIVERIES_MAX: u32 = 20;
/// Deliveries of one message without an answer after which a server gets it beside few others of its like, and after
/// which beside none.
pub const SUSPECT_AFTER: u32 = 3;
pub const ALONE_AFTER: u32 = 9;
/// So many of them at first, one more for each that is answered, and never more.
pub const SUSPECTS_FIRST: usize = 4;
pub const SUSPECTS_MAX: usize = 64;
/// A redelivery waits, doubling from the first to the last of these.
pub const BACKOFF_FIRST_MS: u64 = 20;
pub const BACKOFF_LAST_MS: u64 = 5_000;
/// What a service may ask with RETRY_LATER.
pub const RETRY_LATER_MS_MAX: u64 = 600_000;
/// A compensation, or a step past the pivot, not done so long after abort or pivot is listed as stuck.
pub const STUCK_AFTER_MS_DEFAULT: u64 = 60_000;
/// A saga's deadline, where its definition gives none, and the longest that one may give.
pub const DEADLINE_MS_DEFAULT: u64 = 30_000;
pub const DEADLINE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// The latest broker time, some thousand years, and the last saga of a log: a record beyond them is none of a broker's.
pub const BROKER_MS_MAX: u64 = 1 << 48;
pub const SEQUENCE_MAX: u64 = 1 << 62;

/// Slices of the id space that are dealt to the coordinators.
pub const SLICES: usize = 1024;
/// Sessions of a broker: clients, services and coordinators.
pub const SESSIONS_MAX: usize = 16 * 1024;
/// Coordinators among them: each join or leave deals the slices anew.
pub const COORDINATORS_MAX: usize = 64;
/// What a coordinator may say of itself for the counters.
pub const REPORT_BYTES_MAX: usize = 768;
/// Longest time, beyond what it may queue, that a session may ask for to answer a message.
pub const LEASE_MS_MAX: u64 = DEADLINE_MS_MAX;
/// Who may wait for the outcome of one saga at a time.
pub const ATTACHED_MAX: usize = 64;
/// Answers that a broker owes, in bytes, about, from which on it hears nobody until some are sent.
pub const OWED_BYTES_MAX: usize = 64 << 20;
/// Messages that a session may hold unanswered, unless it asks for less.
pub const CREDIT_MAX: u64 = 65_536;
/// Ended sagas that are remembered: so many, or so long, or so many bytes of results, the least.
pub const OUTCOMES_MAX: usize = 1 << 20;
pub const OUTCOMES_MS: u64 = 600_000;
pub const OUTCOMES_BYTES_MAX: usize = 256 << 20;
/// Sagas that a broker runs at a time; START beyond it is refused and may be retried.
pub const SAGAS_MAX: usize = 16 << 20;
/// What their pending messages carry, in bytes; START beyond it is refused and may be retried.
pub const BODY_BYTES_MAX: usize = 4 << 30;

/// A saga to which nothing happens for two or three times so long is parked: it stays in the log, and in memory is a
/// stub.
pub const PARK_ROUND_MS: u64 = 1_000;
/// Copies for that, in one record, about: what is read back to have one of them.
pub const PARK_RECORD_BYTES: usize = 64 * 1024;
/// And in a millisecond: more would take the disk from those that move.
pub const PARK_BYTES_PER_MS: usize = 64 * 1024;
/// One with more tokens, or more bytes, stays in memory.
pub const PARKED_TOKENS_MAX: usize = 255;
pub const PARKED_BYTES_MAX: usize = 256 * 1024;
/// Deadlines of parked sagas are looked at so often.
pub const DEADLINE_GRAIN_MS: u64 = 16;
/// Sagas that are read back at a time for a queue that has come to them.
pub const RECALLED_AT_ONCE: usize = 1_024;
/// And where as many wait for their turn one by one.
pub const RECALLED_AT_LEAST: usize = 16;
/// Records of copies that are kept after they were read.
pub const COPIES_CACHED: usize = 8;
/// Running sagas that a start keeps in memory, as far as the log has copies of them.
pub const REPLAYED_MAX: usize = 1 << 16;

/// Rows of a fence in memory, and bytes of results in them; a RUN beyond it is asked to come later.
pub const FENCE_ROWS_MAX: usize = SAGAS_MAX;
pub const FENCE_ANSWER_BYTES_MAX: usize = 512 << 20;
/// Rows that a fence forgets at a time: more would hold up what is on its way.
pub const FENCE_FORGET_MAX: usize = 2048;
/// Classes of deadlines, each with its watermark: sagas of class c may take 2^c seconds.
pub const WATERMARK_CLASSES: usize = 21;
/// Sagas of a class that may have begun since the oldest one that its watermark waits for: their rows are kept.
pub const WATERMARK_SPAN_MAX: u64 = 1 << 24;
/// Stuck sagas that no watermark waits for.
pub const WATERMARK_EXCEPTIONS_MAX: usize = 1024;
/// Unconfirmed bytes of a service from which on it takes no more work.
pub const SERVICE_OUTBOX_BYTES_MAX: usize = 64 << 20;
/// A message that a process cannot act on yet, for want of a plan or of room, is asked for again after this.
pub const NOT_YET_MS: u64 = 200;

/// The name of a resource that is held, in bytes of UTF-8.
pub const RESOURCE_BYTES_MAX: usize = 200;
/// Rows of holds and claims that a service keeps in memory; an action that asks for more is tried again later.
pub const HOLD_ROWS_MAX: usize = 1 << 20;
/// Those in its way that a waiting step names. If there are more, it asks again when these are out of the way.
pub const HOLDERS_NAMED_MAX: usize = 16;
/// Ended sagas that a service is told of with a RUN that waited.
pub const FREED_MAX: usize = 10;
/// What a service says of a step that must wait: two codes, the resource, and those in its way.
pub const BLOCKED_BYTES_MAX: usize = 16 + RESOURCE_BYTES_MAX + HOLDERS_NAMED_MAX * 32;
/// Waiting steps whose edges a broker keeps. With one more, the one that waits longest comes again after a while.
pub const WAITERS_MAX: usize = 1 << 16;
pub const WAIT_REFRESH_MS: u64 = 1_000;
/// A step waits for what is being let go of, and the answer crossed that: it is delivered again after this.
pub const WAIT_CROSSED_MS: u64 = 20;
/// Attempts of a saga that loses deadlocks; the last one ends as compensated.
pub const ATTEMPTS_MAX: u32 = 21;
/// Resolved deadlocks that a broker remembers, and sagas of a cycle that it tells of.
pub const DEADLOCKS_KEPT: usize = 1_000;
pub const CYCLE_TOLD_MAX: usize = 32;

/// Shards: brokers that work side by side.
pub const SHARDS_MAX: usize = 64;
/// Sagas on the path of a PROBE: a longer cycle ends by a deadline.
pub const PROBE_PATH_MAX: usize = CYCLE_TOLD_MAX;
/// Sagas of a broker that steps of other shards wait for. Beyond it these ask again each `WAIT_REFRESH_MS`.
pub const WATCHED_MAX: usize = 1 << 16;
/// Edges to other shards that chases have passed in the last `WAIT_REFRESH_MS`: none passes twice.
pub const PROBES_SEEN_MAX: usize = 1 << 16;
/// PROBEs that one step sends on, and messages for other shards that a service's process passes on at a time.
pub const PROBES_MAX: usize = 256;
pub const CARRIED_MAX: usize = 4096;

/// Sagas whose outcome one client awaits before it asks its caller to wait; it takes no more than twice as many.
pub const AWAITED_MAX: usize = 1 << 21;
/// Questions that a client puts into one frame.
pub const ASKED_PER_FRAME: usize = 1024;

/// Slots of a coordinator's table, unless its setting says otherwise.
pub const SLOTS_DEFAULT: usize = 1 << 16;
pub const SLOTS_MIN: usize = 16;
pub const SLOTS_MAX: usize = 1 << 26;

const _: () = {
    assert!(STEPS_MAX == u64::BITS as usize, "a set of steps is one u64");
    assert!(EDGES_PER_BLOCK == u64::BITS as usize, "the arrivals of a block are one u64");
    assert!(
        EDGES_MAX == (STEPS_MAX / 2) * (STEPS_MAX / 2 + 1),
        "the most edges that a transitively reduced graph of all steps and the end can have"
    );
    assert!(SECTION_BYTES_MAX + 1024 <= MESSAGE_BYTES_MAX, "a section fits into a message");
    assert!(INPUT_BYTES_DEFAULT <= SECTION_BYTES_MAX && RESULT_BYTES_DEFAULT <= SECTION_BYTES_MAX);
    assert!(MESSAGE_BYTES_MAX + 4096 <= TRANSACTION_BYTES_MAX, "a message fits into a transaction");
    assert!(TRANSACTION_BYTES_MAX <= FRAME_BYTES_MAX, "a transaction fits into a frame");
    assert!(DEFINITION_BYTES_MAX + 1024 <= MESSAGE_BYTES_MAX, "a plan's definition fits into a message");
    assert!(KEY_BYTES_MAX + REASON_BYTES_MAX + NAME_BYTES_MAX < 1024);
    assert!(DEADLINE_MS_MAX <= 1_000 << (WATERMARK_CLASSES - 1), "every deadline has its class");
    assert!(WATERMARK_SPAN_MAX >= SAGAS_MAX as u64, "all sagas that run may be of one class");
    assert!(FENCE_ROWS_MAX >= SAGAS_MAX, "a service of one step has a row for each saga that runs");
    assert!(
        (3 + WATERMARK_CLASSES + WATERMARK_EXCEPTIONS_MAX) * 8 + 1024 <= MESSAGE_BYTES_MAX,
        "a watermark fits into a message"
    );
    assert!(PARKED_TOKENS_MAX <= u8::MAX as usize, "a stub counts them in a byte");
    assert!(DELIVERIES_MAX <= u8::MAX as u32, "a stub counts them in a byte");
    assert!(SUSPECT_AFTER < ALONE_AFTER && 0 < SUSPECTS_FIRST && SUSPECTS_FIRST <= SUSPECTS_MAX);
    assert!(ALONE_AFTER * 2 <= DELIVERIES_MAX, "who stands beside two that kill is found innocent in time");
    assert!(RECALLED_AT_LEAST <= RECALLED_AT_ONCE);
    assert!(PLANS_MAX <= u16::MAX as usize, "a stub names its plan in two bytes");
    assert!(DEADLINE_GRAIN_MS < HEARTBEAT_MS, "a deadline is not noticed late");
    assert!(PARK_ROUND_MS >= HEARTBEAT_MS * HEARTBEATS_MISSED_MAX, "what a dead peer had moves before it is parked");
    assert!(PARK_RECORD_BYTES + PARKED_BYTES_MAX <= FRAME_BYTES_MAX, "a record of copies is no larger than a frame");
    assert!(COPIES_CACHED * FRAME_BYTES_MAX <= 64 << 20, "what was read back stays small");
    assert!(RECALLED_AT_ONCE <= REPLAYED_MAX);
    assert!(FREED_MAX * 20 <= KEY_BYTES_MAX, "a RUN that waited has room for it: the key's, which only START carries");
    assert!(FREED_MAX <= HOLDERS_NAMED_MAX && RESOURCE_BYTES_MAX < 256 && HOLDERS_NAMED_MAX <= 16);
    assert!(CYCLE_TOLD_MAX * (RESOURCE_BYTES_MAX + NAME_BYTES_MAX + 64) + 1024 <= MESSAGE_BYTES_MAX);
    assert!(PROBE_PATH_MAX * (RESOURCE_BYTES_MAX + NAME_BYTES_MAX + 64) + 16 <= SECTION_BYTES_MAX);
    assert!(SHARDS_MAX <= u16::MAX as usize && PROBES_MAX <= CARRIED_MAX && PROBES_MAX <= PROBES_SEEN_MAX);
    assert!(WAIT_CROSSED_MS <= WAIT_REFRESH_MS && WAIT_REFRESH_MS <= RETRY_LATER_MS_MAX);
    assert!(BACKOFF_FIRST_MS <= BACKOFF_LAST_MS && BACKOFF_LAST_MS <= RETRY_LATER_MS_MAX);
    assert!(HEARTBEAT_MS * HEARTBEATS_MISSED_MAX < 1_000, "a dead peer's work moves within a second");
    assert!(DEADLINE_MS_DEFAULT <= DEADLINE_MS_MAX);
    assert!(BROKER_MS_MAX > 1_000 * DEADLINE_MS_MAX, "times are added without a look at their sum");
    assert!(COORDINATORS_MAX <= SLICES && COORDINATORS_MAX <= SESSIONS_MAX, "each coordinator has a slice");
    assert!(COORDINATORS_MAX * (REPORT_BYTES_MAX + 8) + 4096 < MESSAGE_BYTES_MAX, "counters fit into a message");
    assert!(OWED_BYTES_MAX >= 64 * FRAME_BYTES_MAX, "what is owed is sent in full frames");
    assert!(
        (2 * 2 * AWAITED_MAX * KEY_BYTES_MAX) as u64 + (1 << 20) < u32::MAX as u64,
        "names of awaited sagas, and as much again of ended ones, are found by a u32"
    );
    assert!(ASKED_PER_FRAME * (KEY_BYTES_MAX + 256) < FRAME_BYTES_MAX / 2, "questions fit into a frame");
    assert!(SLICES.is_power_of_two() && SLOTS_DEFAULT.is_power_of_two() && SLOTS_MAX.is_power_of_two());
    assert!(SLOTS_MIN <= SLOTS_DEFAULT && SLOTS_DEFAULT <= SLOTS_MAX);
};
