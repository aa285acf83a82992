//! Damage: whatever bit of the durable log flips, the log is refused or read right, never wrong.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use proptest::prelude::*;
use sagacore_broker::log::{Finding, FrameType, LogError, Verdict, Writer, inspect, repair};
use support::{CrashDisk, Kept, Random, config, read_all};

const SEGMENT_BYTES: u64 = 16 << 10;

/// A frame's place: file, first byte, bytes.
type Extent = (String, usize, usize);

/// A log of some groups, optionally ended by a MARK; its frames, and where they stand.
fn build(seed: u64, groups: usize, marked: bool) -> (CrashDisk, Vec<Kept>, Vec<Extent>) {
    let disk = CrashDisk::default();
    let settings = config(SEGMENT_BYTES);
    let mut random = Random(seed);
    let (_, recovered) = read_all(&disk, &settings).unwrap();
    let mut writer = Writer::start(disk.clone(), settings, &recovered, 5).unwrap();
    for _ in 0..groups {
        for _ in 0..1 + random.below(3) {
            let bytes = random.below(1500) as usize;
            writer.append(FrameType::Batch, 9, &random.bytes(bytes)).unwrap();
        }
        writer.commit().unwrap();
    }
    if marked {
        writer.mark().unwrap();
    }
    let mut extents = Vec::new();
    inspect(&disk, &mut |finding| {
        if let Finding::Frame(entry) = finding {
            let file = format!("{:016x}.seg", entry.position.segment);
            extents.push((file, entry.position.offset as usize, (48 + entry.payload.len()).next_multiple_of(8)));
        }
    })
    .unwrap();
    let (kept, _) = read_all(&disk.copy(), &settings).unwrap();
    (disk, kept, extents)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_refused_or_harmless(
        seed: u64, groups in 1usize..12, file: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8,
    ) {
        let (disk, kept, _) = build(seed, groups, true);
        let names = disk.list();
        let name = &names[file.index(names.len())];
        disk.flip(name, at.index(SEGMENT_BYTES as usize), bit);
        if let Ok((found, _)) = read_all(&disk, &config(SEGMENT_BYTES)) {
            prop_assert_eq!(found, kept);
        }
    }

    #[test]
    fn a_flipped_bit_in_a_frame_is_refused_at_its_place(
        seed: u64, groups in 1usize..12, frame: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8,
    ) {
        let (disk, _, extents) = build(seed, groups, true);
        // The MARK itself was never promised.
        let (file, offset, bytes) = &extents[frame.index(extents.len() - 1)];
        let byte = at.index(*bytes);
        disk.flip(file, offset + byte, bit);
        let before = disk.contents(file);
        let error = read_all(&disk, &config(SEGMENT_BYTES)).expect_err("it must be refused");
        let LogError::Damaged { file: named, offset: at, .. } = &error else { panic!("{error}") };
        // A last frame whose tag is damaged looks like stale bytes: then the next segment is named.
        if (named, *at) != (file, *offset as u64) {
            prop_assert!(*at == 4096 && named > file && (10..12).contains(&byte));
        }
        prop_assert_eq!(disk.contents(file), before, "a refused log is not changed");
    }

    #[test]
    fn without_a_later_frame_only_the_last_group_can_be_lost(
        seed: u64, groups in 2usize..12, frame: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8,
    ) {
        let (disk, kept, extents) = build(seed, groups, false);
        let mut durable_before_last = 0;
        inspect(&disk, &mut |finding| {
            if let Finding::Frame(entry) = finding {
                durable_before_last = entry.durable_lsn;
            }
        })
        .unwrap();
        let (file, offset, bytes) = &extents[frame.index(extents.len())];
        disk.flip(file, offset + at.index(*bytes), bit);
        if let Ok((found, recovered)) = read_all(&disk, &config(SEGMENT_BYTES)) {
            prop_assert!(recovered.next_lsn > durable_before_last);
            prop_assert!(recovered.cut.is_some());
            prop_assert_eq!(&found[..], &kept[..found.len()]);
        }
    }

    #[test]
    fn inspection_agrees_with_recovery_and_changes_nothing(
        seed: u64,
        groups in 1usize..8,
        marked: bool,
        flips in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let (disk, _, extents) = build(seed, groups, marked);
        for at in flips {
            let (file, offset, bytes) = &extents[at.index(extents.len())];
            disk.flip(file, offset + at.index(*bytes), 3);
        }
        let calls = disk.calls();
        let report = inspect(&disk, &mut |_| {}).unwrap();
        prop_assert_eq!(disk.calls(), calls);
        match read_all(&disk, &config(SEGMENT_BYTES)) {
            Ok((found, recovered)) => {
                prop_assert_eq!(report.verdict, Verdict::Unclean);
                prop_assert_eq!(report.last_lsn + 1, recovered.next_lsn);
                prop_assert!(report.frames >= found.len() as u64);
            }
            Err(error) => prop_assert_eq!(report.verdict, Verdict::Refused(error)),
        }
    }

    #[test]
    fn a_repair_keeps_what_comes_before_the_damage(
        seed: u64, groups in 1usize..12, frame: prop::sample::Index, at: prop::sample::Index, header: bool,
    ) {
        let (disk, kept, extents) = build(seed, groups, true);
        let (file, offset, bytes) = &extents[frame.index(extents.len() - 1)];
        let place = if header { at.index(48) } else { offset + at.index(*bytes) };
        disk.flip(file, place, 5);
        prop_assert!(read_all(&disk, &config(SEGMENT_BYTES)).is_err());
        let mut left = Vec::new();
        let repaired = repair(&disk, &config(SEGMENT_BYTES), &mut |entry| left.push(Kept::from(entry)));
        if header && file.starts_with("0000000000000001") {
            prop_assert!(repaired.is_err(), "nothing comes before the first segment");
            return Ok(());
        }
        prop_assert!(repaired.unwrap().is_some());
        prop_assert!(disk.list().iter().any(|name| name.ends_with(".broken")), "what was cut is kept aside");
        left.retain(|frame| frame.kind != FrameType::Mark);
        let (found, recovered) = read_all(&disk, &config(SEGMENT_BYTES)).unwrap();
        prop_assert_eq!(&found, &left);
        prop_assert_eq!(&found[..], &kept[..found.len()]);
        prop_assert!(found.len() < kept.len());
        prop_assert!(recovered.unclean || found.is_empty());
    }
}
