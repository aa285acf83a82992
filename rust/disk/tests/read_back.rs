//! Records of copies are read back from real files, whole or not at all.

#![allow(clippy::unwrap_used)] // In a test, a panic says where it failed.

mod support;

use sagacore_broker::log::{
    Config, CopyPlaces, CopyReader, Durability, FrameType, LogError, ReadBack, SEGMENT_BYTES_MIN, Writer, recover,
};
use sagacore_disk::FileDisk;
use support::Directory;

const CONFIG: Config = Config { segment_bytes: SEGMENT_BYTES_MIN, durability: Durability::Sync, nonce: 7 };

fn payload(number: usize) -> Vec<u8> {
    (0..200 + number * 13).map(|at| (at * 31 + number) as u8).collect()
}

/// A log of records and copies over several segments; gives the copies' LSNs.
fn write(disk: &FileDisk, copies: &CopyPlaces) -> Vec<u64> {
    let found = recover(disk, &CONFIG, &mut |_| {}).unwrap();
    let mut writer = Writer::start(disk.clone(), CONFIG, &found, 1).unwrap();
    writer.note_copies(copies.clone());
    let mut lsns = Vec::new();
    for number in 0..60 {
        writer.append(FrameType::Batch, 2, &[7; 300]).unwrap();
        lsns.push(writer.append(FrameType::Copy, 2, &payload(number)).unwrap());
        writer.commit().unwrap();
    }
    lsns
}

#[test]
fn copies_are_read_back_before_and_after_a_start() {
    let directory = Directory::new();
    let disk = FileDisk::open(&directory.path).unwrap();
    let copies = CopyPlaces::default();
    let lsns = write(&disk, &copies);
    assert!(directory.segments() > 3);
    let recovered = CopyPlaces::default();
    recover(&disk, &CONFIG, &mut |entry| {
        if entry.kind == FrameType::Copy {
            recovered.note(entry.lsn, entry.position, entry.payload.len());
        }
    })
    .unwrap();
    for places in [copies, recovered] {
        let mut reader = CopyReader::new(disk.clone(), places);
        let mut read = Vec::new();
        for (number, &lsn) in lsns.iter().enumerate().rev() {
            reader.read(lsn, &mut read).unwrap();
            assert_eq!(read, payload(number));
        }
        assert!(matches!(reader.read(lsns[0] - 1, &mut read), Err(LogError::ReadBack { .. })), "that is no copy");
    }
}

#[test]
fn a_flipped_bit_is_refused_by_name() {
    let directory = Directory::new();
    let disk = FileDisk::open(&directory.path).unwrap();
    let copies = CopyPlaces::default();
    let lsns = write(&disk, &copies);
    let path = directory.path.join("0000000000000001.seg");
    let whole = std::fs::read(&path).unwrap();
    let at = whole.windows(200).position(|window| window == &payload(3)[..200]).unwrap();
    for byte in at - 48..at + payload(3).len() {
        let mut broken = whole.clone();
        broken[byte] ^= 0x10;
        std::fs::write(&path, &broken).unwrap();
        let mut reader = CopyReader::new(disk.clone(), copies.clone());
        let error = reader.read(lsns[3], &mut Vec::new()).unwrap_err();
        assert_eq!(error.name(), "log.read-back", "byte {byte}: {error}");
        reader.read(lsns[4], &mut Vec::new()).unwrap();
    }
}

#[test]
fn what_was_released_is_forgotten() {
    let directory = Directory::new();
    let disk = FileDisk::open(&directory.path).unwrap();
    let copies = CopyPlaces::default();
    let lsns = write(&disk, &copies);
    let found = recover(&disk, &CONFIG, &mut |_| {}).unwrap();
    let mut writer = Writer::start(disk.clone(), CONFIG, &found, 3).unwrap();
    writer.note_copies(copies.clone());
    assert!(writer.release_before(lsns[50]).unwrap() > 0);
    let mut reader = CopyReader::new(disk, copies);
    assert_eq!(reader.read(lsns[0], &mut Vec::new()).unwrap_err().name(), "log.read-back");
    reader.read(lsns[55], &mut Vec::new()).unwrap();
}
