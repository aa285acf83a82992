//! What happens to the log at a start: it is read, a torn tail is cut, damage is refused.

use sagacore_core::mutation::{Mutation, is_broken};

use super::disk::{Disk, DiskError};
use super::error::{During, LogError};
use super::frame::{Fault, FrameType};
use super::reader::{Chain, FRAMES_AT, Frame, Reader};
use super::segment::{FIRST_SEGMENT, Preparation, segment_name, segment_number};
use super::settle::settle;
use super::{Config, Entry, Position, SECTOR_BYTES, SegmentInfo, free_segments_max};

/// A log that was read and made ready to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The LSN of the next frame.
    pub next_lsn: u64,
    /// The epoch of the boot that begins now.
    pub boot_epoch: u32,
    /// The last broker did not stop cleanly.
    pub unclean: bool,
    /// The latest time in the log; 0 in a new one.
    pub last_time_ms: u64,
    /// The segments that hold frames, oldest first; the last one is written on.
    pub segments: Vec<SegmentInfo>,
    pub cut: Option<Cut>,
    pub(super) chain: Chain,
    pub(super) end: Position,
    /// The segment after the last is there, empty.
    pub(super) has_next: bool,
    /// Files of freed segments.
    pub(super) free: Vec<String>,
}

/// A tail that was cut: nothing in it was ever durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    pub file: String,
    pub offset: u64,
    /// The first LSN that was cut, or would have been.
    pub lsn: u64,
    pub fault: Fault,
    /// Later frames that were valid by themselves. In a recycled file 0 may mean that only stale bytes were cleared.
    pub frames: usize,
}

/// Reads the whole log, giving `sink` every frame but MARKs, and makes it ready to be written. A new one is created in
/// an empty directory. Where a crash interrupted a release, the frames of the segments to be given up come too, and
/// then the release goes on.
///
/// # Errors
/// Damage and gaps are refused, naming the place; then nothing was changed. `LogError::Disk` if the disk fails.
pub fn recover<D: Disk + Clone>(
    disk: &D,
    config: &Config,
    sink: &mut dyn FnMut(Entry<'_>),
) -> Result<Recovered, LogError> {
    config.check()?;
    let names = disk.names().during("list", "the log's directory")?;
    let mut numbers = segment_numbers(&names)?;
    let is_new = numbers.is_empty();
    if is_new {
        if names.iter().any(|name| name.ends_with(".free") || name.ends_with(".broken")) {
            return Err(LogError::MissingSegment { file: "every segment".to_owned() });
        }
        Preparation::new(disk.clone(), config, FIRST_SEGMENT, 1, None).hasty().finish()?;
        numbers.push(FIRST_SEGMENT);
    }
    settle(disk, &numbers)?;
    let mut walk = Walk::from(numbers[0]);
    walk.read(disk, &numbers, &mut |entry| {
        if entry.kind != FrameType::Mark {
            sink(entry);
        }
    })?;
    let beyond = if is_new { Beyond::default() } else { look_beyond(disk, &numbers, &walk, &mut |_| {})? };
    walk.refuse_damage(&numbers, &beyond)?;

    let is_whole = is_new || (walk.chain.is_sealed && beyond.frames == 0 && walk.is_padded(disk)?);
    let cut = if is_whole { None } else { walk.cut(disk, &beyond)? };
    let has_next = drop_later_segments(disk, config, &numbers, &walk, &beyond)?;
    let segments = drop_released_segments(disk, &walk)?;
    let free = keep_free_files(disk, config, &names, segments.len())?;
    let chain = walk.chain;
    Ok(Recovered {
        next_lsn: chain.last_lsn + 1,
        boot_epoch: chain.boot_epoch + 1,
        unclean: chain.has_frames && !chain.is_sealed,
        last_time_ms: chain.last_time_ms,
        segments,
        cut,
        chain,
        end: walk.end,
        has_next,
        free,
    })
}

/// The numbers of the segments, ascending.
///
/// # Errors
/// `MissingSegment` if there is a gap.
pub(super) fn segment_numbers(names: &[String]) -> Result<Vec<u64>, LogError> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(LogError::MissingSegment { file: segment_name(pair[0] + 1) }),
        None => Ok(numbers),
    }
}

/// The log as far as its frames continue each other.
pub(super) struct Walk {
    pub chain: Chain,
    pub segments: Vec<SegmentInfo>,
    /// Where the next frame should stand.
    pub end: Position,
    /// Why none does.
    pub fault: Fault,
    /// Why none does at the start of the segment after, if there is one.
    pub next_fault: Option<Fault>,
}

impl Walk {
    /// Nothing read yet of a log that begins with this segment.
    pub fn from(oldest: u64) -> Self {
        let end = Position { segment: oldest, offset: FRAMES_AT };
        Self { chain: Chain::default(), segments: Vec::new(), end, fault: Fault::Empty, next_fault: None }
    }

    /// Reads the log in order until no frame continues it. A segment is over when its next frame stands in the next
    /// one. After an error the walk is what was read before it.
    pub fn read<D: Disk>(
        &mut self,
        disk: &D,
        numbers: &[u64],
        sink: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), LogError> {
        for &number in numbers {
            let mut reader = Reader::open(disk, number)?;
            if !self.read_segment(&mut reader, sink)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads one segment. False if the log does not go on in it.
    fn read_segment<D: Disk>(
        &mut self,
        reader: &mut Reader<'_, D>,
        sink: &mut dyn FnMut(Entry<'_>),
    ) -> Result<bool, LogError> {
        let before = self.chain;
        let (number, bytes) = (reader.number, reader.bytes());
        if self.segments.is_empty() {
            self.segments.push(SegmentInfo { number, first_lsn: 1, bytes });
        }
        let mut offset = FRAMES_AT;
        let mut has_frames = false;
        let fault = loop {
            offset = reader.after_padding(offset)?;
            let frame = match reader.frame(offset)? {
                Ok(frame) => frame,
                Err(fault) => break fault,
            };
            match self.chain.accept(&frame)? {
                Ok(entry) => sink(entry),
                Err(fault) if has_frames => break fault,
                Err(fault) => {
                    refuse_older(&before, &frame)?;
                    break fault;
                }
            }
            if !has_frames {
                self.enter(&before, &frame, bytes);
                has_frames = true;
            }
            offset += u64::from(frame.header.length.get());
            self.end = Position { segment: number, offset };
        };
        if has_frames || !before.has_frames {
            self.end = Position { segment: number, offset };
            self.fault = fault;
        } else {
            self.next_fault = Some(fault);
        }
        Ok(has_frames)
    }

    /// Notes the first frame of a segment.
    fn enter(&mut self, before: &Chain, frame: &Frame<'_>, bytes: u64) {
        let number = frame.position.segment;
        if before.has_frames {
            self.segments.push(SegmentInfo { number, first_lsn: before.last_lsn + 1, bytes });
        } else {
            self.segments[0].first_lsn = first_lsn(frame);
        }
    }

    /// Whether the segment after the end begins with a broken frame of its own. Stale bytes have another tag.
    fn is_next_torn(&self) -> bool {
        matches!(self.next_fault, Some(Fault::Checksum | Fault::Length))
    }

    /// Where the next frame stood, as well as can be told, and what is wrong there.
    fn place(&self, beyond: &Beyond) -> (Position, Fault) {
        let nothing_here = matches!(self.fault, Fault::Empty | Fault::Tag | Fault::End)
            && beyond.first_segment.is_some_and(|first| first > self.end.segment);
        match self.next_fault {
            Some(fault) if fault != Fault::Chain && (nothing_here || self.is_next_torn()) => {
                (Position { segment: self.end.segment + 1, offset: FRAMES_AT }, fault)
            }
            _ => (self.end, self.fault),
        }
    }

    /// What is cut if the log ends here.
    pub fn describe_cut(&self, beyond: &Beyond) -> Cut {
        let (Position { segment, offset }, fault) = self.place(beyond);
        Cut { file: segment_name(segment), offset, lsn: self.chain.last_lsn + 1, fault, frames: beyond.frames }
    }

    /// Whether what follows the end is damage, and not a tail that was never durable.
    pub fn refuse_damage(&self, numbers: &[u64], beyond: &Beyond) -> Result<(), LogError> {
        if let Some(later_lsn) = beyond.evidence.filter(|_| !is_broken(Mutation::CutOnAnyChecksum)) {
            let Cut { file, offset, lsn, fault, .. } = self.describe_cut(beyond);
            return Err(LogError::Damaged { file, offset, lsn, fault, later_lsn });
        }
        let oldest = self.chain.oldest_segment.max(FIRST_SEGMENT);
        if !self.chain.has_frames && numbers[0] != FIRST_SEGMENT {
            return Err(LogError::NoFirstFrame { file: segment_name(numbers[0]), fault: self.fault });
        }
        if numbers[0] > oldest {
            return Err(LogError::MissingSegment { file: segment_name(numbers[0] - 1) });
        }
        Ok(())
    }

    /// Whether only zeros come before the sector in which the log goes on: anything else there would end it.
    fn is_padded<D: Disk>(&self, disk: &D) -> Result<bool, LogError> {
        let offset = self.end.offset;
        let goes_on = Reader::open(disk, self.end.segment)?.after_padding(offset)?;
        Ok(goes_on == offset.next_multiple_of(SECTOR_BYTES))
    }

    /// What is to be cut behind the end; `None` if nothing stands there.
    pub fn tail<D: Disk>(&self, disk: &D, beyond: &Beyond) -> Result<Option<Cut>, LogError> {
        let mut reader = Reader::open(disk, self.end.segment)?;
        let is_torn = beyond.frames > 0 || self.is_next_torn() || !reader.is_empty(self.end.offset, beyond.used_to)?;
        Ok(is_torn.then(|| self.describe_cut(beyond)))
    }

    /// Overwrites the tail with zeros, synced, so that nothing of it is ever read again. `None` if there was nothing.
    pub fn cut<D: Disk>(&self, disk: &D, beyond: &Beyond) -> Result<Option<Cut>, LogError> {
        let cut = self.tail(disk, beyond)?;
        let stays = is_broken(Mutation::TailNotZeroed) || is_broken(Mutation::StaleTailAccepted);
        if cut.is_some() && !stays {
            Reader::open(disk, self.end.segment)?.zero(self.end.offset, beyond.used_to)?;
        }
        Ok(cut)
    }
}

/// The first LSN of a log's oldest segment. A MARK repeats the one before.
pub(super) fn first_lsn(frame: &Frame<'_>) -> u64 {
    let is_mark = frame.header.frame_type == FrameType::Mark as u8;
    frame.header.lsn.get() + u64::from(is_mark)
}

/// A segment that begins with what was before is a file from elsewhere: no crash leaves that.
fn refuse_older(before: &Chain, frame: &Frame<'_>) -> Result<(), LogError> {
    let (expected, found) = (before.last_lsn + 1, first_lsn(frame));
    if before.has_frames && found < expected {
        let file = segment_name(frame.position.segment);
        return Err(LogError::FirstLsn { file, found, expected });
    }
    Ok(())
}

/// What stands behind the place where the log ends.
#[derive(Default)]
pub(super) struct Beyond {
    /// Frames that are valid by themselves.
    pub frames: usize,
    /// The LSN of one that says that what is missing was durable.
    pub evidence: Option<u64>,
    /// The first and the last segment that have such frames.
    pub first_segment: Option<u64>,
    pub last_segment: Option<u64>,
    /// Behind this, the segment where the log ends has only zeros.
    pub used_to: u64,
}

/// Looks for frames behind the end, at every place where one can begin.
pub(super) fn look_beyond<D: Disk>(
    disk: &D,
    numbers: &[u64],
    walk: &Walk,
    sink: &mut dyn FnMut(&Frame<'_>),
) -> Result<Beyond, LogError> {
    let mut beyond = Beyond::default();
    for &number in numbers.iter().filter(|number| **number >= walk.end.segment) {
        let is_end = number == walk.end.segment;
        let mut reader = Reader::open(disk, number)?;
        let mut offset = if is_end { walk.end.offset } else { FRAMES_AT };
        while let Some(found) = reader.find(offset)? {
            let Ok(frame) = reader.frame(found)? else { break };
            sink(&frame);
            beyond.frames += 1;
            beyond.first_segment.get_or_insert(number);
            beyond.last_segment = Some(number);
            if frame.header.durable_lsn.get() > walk.chain.last_lsn && beyond.evidence.is_none() {
                beyond.evidence = Some(frame.header.lsn.get());
            }
            offset = found + u64::from(frame.header.length.get());
        }
        if is_end {
            beyond.used_to = reader.used_to;
        }
    }
    Ok(beyond)
}

/// Removes the segments after the end, but an empty one that the log can go on in. Whether there is one.
fn drop_later_segments<D: Disk>(
    disk: &D,
    config: &Config,
    numbers: &[u64],
    walk: &Walk,
    beyond: &Beyond,
) -> Result<bool, LogError> {
    let next = walk.end.segment + 1;
    let is_empty = beyond.last_segment.is_none_or(|last| last < next) && !walk.is_next_torn();
    let has_next = numbers.contains(&next) && is_empty && {
        let reader = Reader::open(disk, next)?;
        reader.bytes() == config.segment_bytes
    };
    // From the last one back, so that a crash leaves no gap.
    for number in numbers.iter().rev().filter(|number| **number > walk.end.segment + u64::from(has_next)) {
        remove(disk, &segment_name(*number))?;
    }
    Ok(has_next)
}

/// Goes on with a release that a crash interrupted. Gives the segments that stay.
fn drop_released_segments<D: Disk>(disk: &D, walk: &Walk) -> Result<Vec<SegmentInfo>, LogError> {
    let oldest = walk.chain.oldest_segment.min(walk.end.segment);
    let mut segments = walk.segments.clone();
    while segments[0].number < oldest {
        remove(disk, &segment_name(segments.remove(0).number))?;
    }
    Ok(segments)
}

/// Keeps as many freed segments as may be used again, and removes other leftovers.
fn keep_free_files<D: Disk>(
    disk: &D,
    config: &Config,
    names: &[String],
    in_use: usize,
) -> Result<Vec<String>, LogError> {
    let mut free = Vec::new();
    let mut names: Vec<&String> =
        names.iter().filter(|name| name.ends_with(".free") || name.ends_with(".tmp")).collect();
    names.sort_unstable();
    for name in names {
        if name.ends_with(".free") && free.len() < free_segments_max(in_use) {
            let file = disk.open(name).during("open", name)?;
            if disk.length(&file).during("read the length of", name)? == config.segment_bytes {
                free.push(name.clone());
                continue;
            }
        }
        remove(disk, name)?;
    }
    Ok(free)
}

fn remove<D: Disk>(disk: &D, name: &str) -> Result<(), LogError> {
    match disk.remove(name) {
        Ok(()) | Err(DiskError::Missing) => {}
        Err(error) => return Err(error).during("remove", name),
    }
    disk.sync_directory().during("sync the directory of", name)
}
