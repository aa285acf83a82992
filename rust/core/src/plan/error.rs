//! Why a definition is refused.

use crate::limits::{
    DEADLINE_MS_MAX, DEFINITION_BYTES_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, SECTION_BYTES_MAX, STEPS_MAX,
    TRANSACTION_BYTES_MAX,
};

/// What is wrong with a definition. The name before the colon is stable: tests and other languages use it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("plan.length: the definition has {bytes} bytes; it must have 1 to {DEFINITION_BYTES_MAX}")]
    Length { bytes: usize },
    #[error("plan.encoding: {part} is not {wanted} in its shortest MessagePack encoding, or is cut off")]
    Encoding { part: String, wanted: &'static str },
    #[error("plan.trailing: {bytes} bytes follow the definition")]
    Trailing { bytes: usize },
    #[error("plan.format: format {format} is not known; update what reads the definition or write format 1")]
    Format { format: u64 },
    #[error("plan.name: {part} must have 1 to {NAME_BYTES_MAX} bytes of text without control characters")]
    Name { part: String },
    #[error("plan.input: the input may have {bytes} bytes, at most {SECTION_BYTES_MAX} are possible; pass a reference")]
    Input { bytes: u64 },
    #[error("plan.deadline: a deadline of {deadline_ms} ms is not possible; give 1 to {DEADLINE_MS_MAX}")]
    Deadline { deadline_ms: u64 },
    #[error("plan.undo: the order of compensation {code} is not known; give 0 for parallel or 1 for chain")]
    Undo { code: u64 },
    #[error("plan.steps: the saga has {count} steps; it must have 1 to {STEPS_MAX}")]
    Steps { count: usize },
    #[error("plan.flags: step `{step}` has unknown flags {flags:#x}")]
    Flags { step: String, flags: u64 },
    #[error("plan.result: step `{step}` may give {bytes} bytes, at most {SECTION_BYTES_MAX} are possible")]
    ResultSize { step: String, bytes: u64 },
    #[error("plan.duplicate: two steps are named `{step}`; rename one of them")]
    Duplicate { step: String },
    #[error("plan.unknown: {list} names step number {index}; the steps are 0 to {last}")]
    Unknown { list: String, index: u64, last: usize },
    #[error("plan.repeated: {list} names step `{step}` twice")]
    Repeated { list: String, step: String },
    #[error("plan.ascending: {list} must name steps in ascending order; `{step}` comes too late")]
    Ascending { list: String, step: String },
    #[error("plan.cycle: {list} names step `{step}`, which does not come earlier: the order would be circular")]
    Cycle { list: String, step: String },
    #[error("plan.reads: step `{reader}` reads the result of `{step}` but does not come after it; add it to `after`")]
    Reads { reader: String, step: String },
    #[error("plan.pivots: both `{first}` and `{second}` are pivots; a saga has one at most")]
    Pivots { first: String, second: String },
    #[error("plan.pivot: step `{step}` comes neither before nor after the pivot `{pivot}`; order it with `after`")]
    Pivot { step: String, pivot: String },
    #[error(
        "plan.token: {message} may have {bytes} bytes, at most {MESSAGE_BYTES_MAX} are possible; \
         declare a smaller input or smaller results, or read fewer"
    )]
    Token { message: String, bytes: usize },
    #[error(
        "plan.fork: what step `{step}` sends when it is done may have {bytes} bytes, at most \
         {TRANSACTION_BYTES_MAX} are possible; declare smaller sizes or let fewer steps follow it"
    )]
    Fork { step: String, bytes: usize },
}

impl PlanError {
    /// The stable name of what is wrong, as `plan.cycle`.
    pub fn name(&self) -> String {
        let text = self.to_string();
        text.split(':').next().unwrap_or_default().to_owned()
    }
}
