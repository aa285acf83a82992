//! How a piece of work ended, judged by where its step stands, and what its payload says.

use std::borrow::Cow;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use zerocopy::IntoBytes;

use super::running::Entry;
use super::{IDEMPOTENCY_KEY_BYTES, Misuse, Phase, Verdict, send};
use crate::limits::REASON_BYTES_MAX;
use crate::mutation::{Mutation, is_broken};
use crate::wire::{Blocked, CauseCode, Header};

/// What becomes of an action's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Done,
    Fail { code: CauseCode, is_clean: bool },
    Later { delay_ms: u64 },
    Blocked,
    Nothing,
}

/// What becomes of an action's message. The pivot ends done or cleanly rejected; what is past it is tried until done.
pub(super) fn ending(
    verdict: Verdict,
    payload: &[u8],
    entry: &Entry,
    phase: Phase,
    memory_fence: bool,
) -> Result<Ending, Misuse> {
    let (code, is_clean) = match verdict {
        Verdict::Done => return Ok(Ending::Done),
        Verdict::Retry => return Ok(Ending::Later { delay_ms: retry(payload)?.0 }),
        Verdict::Drop => return Ok(Ending::Nothing),
        Verdict::Undone => return Err(Misuse::ActionVerdict),
        Verdict::Blocked if phase == Phase::Past && !is_broken(Mutation::WaitsPastPivot) => {
            return Err(Misuse::BlockedPastPivot);
        }
        Verdict::Blocked => return Blocked::read(payload).map(|_| Ending::Blocked).ok_or(Misuse::Blocked),
        Verdict::Victim => (CauseCode::Victim, !entry.was_tried),
        Verdict::Rejected => (CauseCode::Rejected, !entry.was_tried),
        Verdict::RejectedUncertain => (CauseCode::Rejected, is_broken(Mutation::UncertainRejectionClean)),
        Verdict::GaveUp => (CauseCode::GaveUp, false),
        // Memory takes nothing back: an action that failed there may have left half of its effect.
        Verdict::GaveUpClean => (CauseCode::GaveUp, !memory_fence),
    };
    match phase {
        Phase::Before => Ok(Ending::Fail { code, is_clean }),
        Phase::Pivot if is_clean || is_broken(Mutation::PivotGivenUp) => Ok(Ending::Fail { code, is_clean }),
        Phase::Pivot | Phase::Past => Ok(Ending::Later { delay_ms: send::backoff_ms(entry.header.deliveries.get()) }),
    }
}

/// The delay and the reason in the payload of a `Retry`.
pub(super) fn retry(payload: &[u8]) -> Result<(u64, &[u8]), Misuse> {
    let digits = payload.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (delay, reason) = payload.split_at(digits);
    let delay_ms = std::str::from_utf8(delay).ok().and_then(|delay| delay.parse().ok()).ok_or(Misuse::Delay)?;
    match reason {
        [] => Ok((delay_ms, reason)),
        [b' ', reason @ ..] => Ok((delay_ms, reason)),
        _ => Err(Misuse::Delay),
    }
}

/// The text of a reason up to its limit, whole characters only.
pub(super) fn cut(reason: &[u8]) -> Cow<'_, str> {
    let cut = |text: &str| (0..=text.len().min(REASON_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end));
    match String::from_utf8_lossy(reason) {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..cut(text).unwrap_or(0)]),
        Cow::Owned(mut text) => {
            text.truncate(cut(&text).unwrap_or(0));
            Cow::Owned(text)
        }
    }
}

/// The key that an action gives to whoever takes effects elsewhere: the same for each call, another for each attempt.
pub(super) fn idempotency_key(header: &Header) -> [u8; IDEMPOTENCY_KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(header.saga.as_bytes());
    hasher.write(header.attempt.as_bytes());
    hasher.write(header.place.as_bytes());
    if is_broken(Mutation::KeyOfDelivery) {
        hasher.write(header.deliveries.as_bytes());
    }
    let hash = hasher.finish128().as_bytes();
    let mut key = [0; IDEMPOTENCY_KEY_BYTES];
    for (pair, byte) in key.chunks_exact_mut(2).zip(hash) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    key
}
