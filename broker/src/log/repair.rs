//! Makes a damaged log startable again, by giving up what follows the damage. Only ever on an operator's word.

use super::disk::Disk;
use super::error::{During, LogError};
use super::reader::{FRAMES_AT, Reader};
use super::recovery::{Beyond, Cut, Walk, look_beyond, segment_numbers};
use super::segment::{segment_name, segment_number};
use super::settle::settle;
use super::{Config, Entry, ZERO_BYTES};

/// Cuts a log that `recover` refuses at its first damaged or missing frame. The segment with the damage is copied to a
/// `.broken` file first, later ones are renamed to that. `None` if there is nothing to repair: a start will do.
///
/// What is cut was durable: sagas may be lost or undone only in part. `sink` gets the frames that are kept.
///
/// # Errors
/// What cannot be repaired this way: a log whose beginning is gone, or one of a newer version. Then nothing was
/// changed.
pub fn repair<D: Disk>(disk: &D, config: &Config, sink: &mut dyn FnMut(Entry<'_>)) -> Result<Option<Cut>, LogError> {
    config.check()?;
    let names = disk.names().during("list", "the log's directory")?;
    settle(disk, &before_gap(&names))?;
    let Some(damage) = find(disk, &names, sink)? else { return Ok(None) };
    let end = segment_name(damage.walk.end.segment);
    copy(disk, &end, &aside_name(&names, &end))?;
    // From the last one back, so that a crash leaves no gap.
    for number in damage.later.iter().rev() {
        let name = segment_name(*number);
        disk.rename(&name, &aside_name(&names, &name)).during("rename", &name)?;
        disk.sync_directory().during("sync the directory of", &name)?;
    }
    damage.walk.cut(disk, &damage.beyond)?;
    Ok(Some(damage.cut))
}

/// What a repair would cut. Nothing is changed.
///
/// # Errors
/// As a repair.
pub fn plan_repair<D: Disk>(disk: &D) -> Result<Option<Cut>, LogError> {
    let names = disk.names().during("list", "the log's directory")?;
    Ok(find(disk, &names, &mut |_| {})?.map(|damage| damage.cut))
}

/// Where a log is damaged, and what a repair gives up.
struct Damage {
    walk: Walk,
    /// Without the evidence that it is damage.
    beyond: Beyond,
    /// The segments after the one with the damage.
    later: Vec<u64>,
    /// With all whole frames that follow.
    cut: Cut,
}

fn find<D: Disk>(disk: &D, names: &[String], sink: &mut dyn FnMut(Entry<'_>)) -> Result<Option<Damage>, LogError> {
    let mut numbers = before_gap(names);
    let Some(&oldest) = numbers.first() else {
        return Err(LogError::MissingSegment { file: "every segment".to_owned() });
    };
    let mut walk = Walk::from(oldest);
    let read = walk.read(disk, &numbers, sink);
    let beyond = read.and_then(|()| look_beyond(disk, &numbers, &walk, &mut |_| {}));
    let beyond = match beyond {
        Ok(beyond) if beyond.evidence.is_none() && segment_numbers(names).is_ok() => {
            return walk.refuse_damage(&numbers, &beyond).map(|()| None);
        }
        Ok(beyond) => beyond,
        // The end stands before the file that cannot be read: it and all that follow go.
        Err(LogError::SegmentHeader { .. } | LogError::SegmentLength { .. } | LogError::FirstLsn { .. }) => {
            numbers.retain(|number| *number <= walk.end.segment);
            look_beyond(disk, &numbers, &walk, &mut |_| {})?
        }
        Err(error) => return Err(error),
    };
    let beyond = Beyond { evidence: None, ..beyond };
    walk.refuse_damage(&numbers, &beyond)?;
    let mut later: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    later.retain(|number| *number > walk.end.segment);
    later.sort_unstable();
    let mut cut = walk.describe_cut(&beyond);
    // Those that the search stopped before.
    for number in later.iter().filter(|number| !numbers.contains(number)) {
        cut.frames += count_frames(disk, *number)?;
    }
    Ok(Some(Damage { walk, beyond, later, cut }))
}

/// The whole frames of a segment that the log does not reach; none if its header cannot be read.
fn count_frames<D: Disk>(disk: &D, number: u64) -> Result<usize, LogError> {
    let mut reader = match Reader::open(disk, number) {
        Ok(reader) => reader,
        Err(error @ LogError::Disk { .. }) => return Err(error),
        Err(_) => return Ok(0),
    };
    let (mut frames, mut offset) = (0, FRAMES_AT);
    while let Some(found) = reader.find(offset)? {
        let Ok(frame) = reader.frame(found)? else { break };
        frames += 1;
        offset = found + u64::from(frame.header.length.get());
    }
    Ok(frames)
}

/// The numbers of the segments up to the first gap.
pub(super) fn before_gap(names: &[String]) -> Vec<u64> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let length = numbers.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count() + 1;
    numbers.truncate(length);
    numbers
}

/// A name for what is kept of a file, that no earlier repair has used.
fn aside_name(names: &[String], name: &str) -> String {
    let mut aside = format!("{name}.broken");
    let mut count = 1;
    while names.contains(&aside) {
        count += 1;
        aside = format!("{name}.{count}.broken");
    }
    aside
}

fn copy<D: Disk>(disk: &D, from: &str, to: &str) -> Result<(), LogError> {
    let source = disk.open(from).during("open", from)?;
    let target = disk.create(to).during("create", to)?;
    let length = disk.length(&source).during("read the length of", from)?;
    let mut piece = vec![0; ZERO_BYTES];
    let mut at = 0;
    while at < length {
        let bytes = (length - at).min(ZERO_BYTES as u64) as usize;
        disk.read(&source, at, &mut piece[..bytes]).during("read", from)?;
        disk.write(&target, at, &piece[..bytes]).during("write", to)?;
        at += bytes as u64;
    }
    disk.sync(&target).during("sync", to)?;
    disk.sync_directory().during("sync the directory of", to)
}
