//! Makes a damaged log startable again, by giving up what follows the damage. Only ever on an operator's word.

use super::disk::{Disk, DiskError};
use super::error::{During, LogError};
use super::recovery::{Beyond, Cut, Walk, look_beyond, segment_numbers, settle};
use super::segment::{segment_name, segment_number};
use super::{Config, Entry, ZERO_BYTES};

/// Cuts a log that `recover` refuses at its first damaged or missing frame. The segment with the damage is copied to a
/// `.broken` file, later ones are renamed to that. `None` if there is nothing to repair: a start will do.
///
/// What is cut was durable: sagas may be lost or undone only in part. `sink` gets the frames that are kept.
///
/// # Errors
/// What cannot be repaired this way: a log whose beginning is gone, or one of a newer version. Then nothing was
/// changed.
pub fn repair<D: Disk>(disk: &D, config: &Config, sink: &mut dyn FnMut(Entry<'_>)) -> Result<Option<Cut>, LogError> {
    config.check()?;
    let names = disk.names().during("list", "the log's directory")?;
    let mut numbers = before_gap(&names);
    let Some(&oldest) = numbers.first() else {
        return Err(LogError::MissingSegment { file: "every segment".to_owned() });
    };
    settle(disk, &numbers)?;
    let mut walk = Walk::from(oldest);
    let read = walk.read(disk, &numbers, sink);
    let beyond = match read {
        Ok(()) => look_beyond(disk, &numbers, &walk, &mut |_| {}),
        Err(error) => Err(error),
    };
    let beyond = match beyond {
        Ok(beyond) if beyond.evidence.is_none() && segment_numbers(&names).is_ok() => {
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
    let no_evidence = Beyond { evidence: None, ..beyond };
    walk.refuse_damage(&numbers, &no_evidence)?;

    let end = segment_name(walk.end.segment);
    copy(disk, &end, &broken_name(&end))?;
    let mut later: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    later.retain(|number| *number > walk.end.segment);
    later.sort_unstable();
    for number in later.into_iter().rev() {
        let name = segment_name(number);
        disk.rename(&name, &broken_name(&name)).during("rename", &name)?;
        disk.sync_directory().during("sync the directory of", &name)?;
    }
    walk.cut(disk, &no_evidence)?;
    Ok(Some(walk.describe_cut(&no_evidence)))
}

/// The numbers of the segments up to the first gap.
pub(super) fn before_gap(names: &[String]) -> Vec<u64> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let length = numbers.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count() + 1;
    numbers.truncate(length);
    numbers
}

fn broken_name(name: &str) -> String {
    format!("{name}.broken")
}

fn copy<D: Disk>(disk: &D, from: &str, to: &str) -> Result<(), LogError> {
    match disk.remove(to) {
        Ok(()) | Err(DiskError::Missing) => {}
        Err(error) => return Err(error).during("remove", to),
    }
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
