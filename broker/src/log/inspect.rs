//! Looks at a log without changing it: for `sagacore log verify` and `sagacore log dump`.

use super::disk::Disk;
use super::error::{During, LogError};
use super::frame::{Fault, FrameHeader};
use super::recovery::{Cut, Walk, look_beyond, segment_numbers};
use super::{Entry, Position, SegmentInfo};

/// What stands at some place of the log, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding<'a> {
    /// A frame that continues the log; MARKs too.
    Frame(Entry<'a>),
    /// Here the log ends: no frame continues it.
    End { position: Position, next_lsn: u64, fault: Fault },
    /// A frame behind the end that is valid by itself.
    Stray { position: Position, header: FrameHeader },
}

/// What a start would do with the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Go on: the last broker stopped cleanly.
    Sealed,
    /// Go on after an unclean stop, cutting what may stand behind the end.
    Unclean,
    /// Refuse.
    Refused(LogError),
}

/// A log in numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub segments: Vec<SegmentInfo>,
    /// The last LSN; 0 if there is no frame.
    pub last_lsn: u64,
    pub last_time_ms: u64,
    pub boot_epoch: u32,
    pub frames: u64,
    pub payload_bytes: u64,
    /// Frames behind the end that are valid by themselves.
    pub stray_frames: usize,
    /// What a start would cut.
    pub cut: Option<Cut>,
}

impl Report {
    /// Why a start would refuse the log, if it would.
    pub fn refusal(&self) -> Option<&LogError> {
        match &self.verdict {
            Verdict::Refused(error) => Some(error),
            Verdict::Sealed | Verdict::Unclean => None,
        }
    }
}

/// Reads the whole log and gives `sink` all that it finds.
///
/// # Errors
/// Only if the disk fails or there is no log: what is wrong with the log itself is the report's verdict.
pub fn inspect<D: Disk>(disk: &D, sink: &mut dyn FnMut(Finding<'_>)) -> Result<Report, LogError> {
    let names = disk.names().during("list", "the log's directory")?;
    let (numbers, mut refusal) = match segment_numbers(&names) {
        Ok(numbers) => (numbers, None),
        Err(error) => (super::repair::before_gap(&names), Some(error)),
    };
    let Some(&oldest) = numbers.first() else {
        return Err(LogError::MissingSegment { file: "every segment".to_owned() });
    };
    let (mut frames, mut payload_bytes) = (0, 0);
    let mut walk = Walk::from(oldest);
    let read = walk.read(disk, &numbers, &mut |entry| {
        frames += 1;
        payload_bytes += entry.payload.len() as u64;
        sink(Finding::Frame(entry));
    });
    sink(Finding::End { position: walk.end, next_lsn: walk.chain.last_lsn + 1, fault: walk.fault });

    let mut stray_frames = 0;
    let judged = read.and_then(|()| {
        let beyond = look_beyond(disk, &numbers, &walk, &mut |frame| {
            stray_frames += 1;
            sink(Finding::Stray { position: frame.position, header: frame.header });
        })?;
        walk.refuse_damage(&numbers, &beyond)?;
        let is_whole = walk.chain.is_sealed && beyond.frames == 0;
        if is_whole { Ok(None) } else { walk.tail(disk, &beyond) }
    });
    let mut cut = None;
    match judged {
        Err(error @ LogError::Disk { .. }) => return Err(error),
        Err(error) => refusal = refusal.or(Some(error)),
        Ok(found) => cut = found.filter(|_| refusal.is_none()),
    }
    let verdict = match refusal {
        Some(error) => Verdict::Refused(error),
        None if walk.chain.is_sealed => Verdict::Sealed,
        None => Verdict::Unclean,
    };
    let chain = walk.chain;
    Ok(Report {
        verdict,
        segments: walk.segments,
        last_lsn: chain.last_lsn,
        last_time_ms: chain.last_time_ms,
        boot_epoch: chain.boot_epoch,
        frames,
        payload_bytes,
        stray_frames,
        cut,
    })
}
