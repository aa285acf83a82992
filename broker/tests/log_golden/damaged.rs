//! Logs that a start refuses: damage before the end, gaps, and what is of a later version.

use sagacore_broker::log::repair;

use crate::SEGMENT_BYTES;
use crate::cases::{Case, long, marked, place, seg};
use crate::support::{CrashDisk, config};

/// The frame of this LSN, damaged.
fn frame_damaged(disk: CrashDisk, lsn: u64) -> CrashDisk {
    let (file, offset) = place(&disk, lsn);
    disk.flip(&file, offset + 60, 3);
    disk
}

/// The frame of this LSN with another byte at this place, its checksum right.
fn frame_changed(lsn: u64, at: usize, byte: u8) -> CrashDisk {
    let disk = long();
    let (file, offset) = place(&disk, lsn);
    let contents = disk.contents(&file);
    let seed = u32::from_le_bytes(contents[44..48].try_into().unwrap());
    let length = u32::from_le_bytes(contents[offset..offset + 4].try_into().unwrap()) as usize;
    let mut frame = contents[offset..offset + length].to_vec();
    frame[at] = byte;
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    frame[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
    disk.damage(&file, offset, |bytes| bytes[..length].copy_from_slice(&frame));
    disk
}

/// The log with something else done to it.
fn changed(change: impl FnOnce(&CrashDisk)) -> CrashDisk {
    let disk = marked(long());
    change(&disk);
    disk
}

pub fn all() -> Vec<Case> {
    let repaired = frame_damaged(marked(long()), 9);
    assert!(repair(&repaired, &config(SEGMENT_BYTES), &mut |_| {}).unwrap().is_some());
    vec![
        Case::new(
            "damaged-middle-frame",
            "A bit flipped in a frame; later ones say that it was durable.",
            frame_damaged(marked(long()), 9),
        ),
        Case::new(
            "damaged-last-frame",
            "A bit flipped in the last batch; the MARK behind it says that it was durable.",
            frame_damaged(marked(long()), 19),
        ),
        Case::new("damaged-header", "A bit flipped in a segment's header.", changed(|disk| disk.flip(&seg(3), 17, 2))),
        Case::new("damaged-first-header", "A bit flipped in the oldest segment's header: nothing can be kept.", {
            changed(|disk| disk.flip(&seg(1), 17, 2))
        }),
        Case::new("missing-first-segment", "The first segment is gone, and no release said so.", {
            changed(|disk| disk.forget(&seg(1)))
        }),
        Case::new("missing-middle-segment", "A segment in the middle is gone.", {
            changed(|disk| disk.forget(&seg(3)))
        }),
        Case::new("cut-short", "A segment's file is shorter than its header says.", {
            changed(|disk| disk.put(&seg(2), disk.contents(&seg(2))[..8_192].to_vec()))
        }),
        Case::new("swapped-segments", "Two segments have each other's names.", {
            changed(|disk| {
                let (second, third) = (disk.contents(&seg(2)), disk.contents(&seg(3)));
                disk.put(&seg(2), third);
                disk.put(&seg(3), second);
            })
        }),
        Case::new("leftovers", "No segment, but a freed one: a log was here.", {
            let disk = CrashDisk::default();
            disk.put("0000000000000001.free", vec![0; SEGMENT_BYTES as usize]);
            disk
        }),
        Case::new("unknown-frame-type", "A frame of a later version, of a type unknown here.", frame_changed(9, 8, 9)),
        Case::new("unknown-frame-version", "A frame of version 2.", frame_changed(9, 9, 2)),
        Case::new("unknown-segment-version", "A segment of version 2.", {
            changed(|disk| {
                disk.damage(&seg(2), 8, |bytes| bytes[0] = 2);
                let sum = crc32fast::hash(&disk.contents(&seg(2))[..44]);
                disk.damage(&seg(2), 44, |bytes| bytes[..4].copy_from_slice(&sum.to_le_bytes()));
            })
        }),
        Case::new("after-repair", "damaged-middle-frame, repaired: what was cut is kept aside.", repaired),
    ]
}
