//! What was written to a file and not yet synced, by sectors.

use std::collections::BTreeMap;

pub const SECTOR_BYTES: usize = 512;

/// The unsynced sectors of one file. A disk writes a sector whole or not at all.
#[derive(Debug, Default)]
pub struct Sectors(BTreeMap<u64, [u8; SECTOR_BYTES]>);

impl Sectors {
    /// Keeps `bytes` back, written at `offset`. `old` reads what the file holds at an offset, zeros beyond its end.
    pub fn write(&mut self, offset: u64, bytes: &[u8], mut old: impl FnMut(u64, &mut [u8])) {
        for (number, within, piece) in pieces(offset, bytes.len()) {
            let sector = self.0.entry(number).or_insert_with(|| {
                let mut sector = [0; SECTOR_BYTES];
                if piece.len() < SECTOR_BYTES {
                    old(number * SECTOR_BYTES as u64, &mut sector);
                }
                sector
            });
            sector[within..within + piece.len()].copy_from_slice(&bytes[piece]);
        }
    }

    /// Lays what was kept back over what was read from `offset` on.
    pub fn lay_over(&self, offset: u64, read: &mut [u8]) {
        for (number, within, piece) in pieces(offset, read.len()) {
            if let Some(sector) = self.0.get(&number) {
                let end = within + piece.len();
                read[piece].copy_from_slice(&sector[within..end]);
            }
        }
    }

    /// The sectors that a write of so many bytes touches, with their offsets.
    pub fn touched(&self, offset: u64, bytes: usize) -> impl Iterator<Item = (u64, &[u8; SECTOR_BYTES])> {
        pieces(offset, bytes).filter_map(|(number, ..)| Some((number * SECTOR_BYTES as u64, self.0.get(&number)?)))
    }

    /// All that was kept back, as runs of bytes with their offsets. Nothing is kept back afterwards.
    pub fn drain(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, sector) in std::mem::take(&mut self.0) {
            let offset = number * SECTOR_BYTES as u64;
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(&sector),
                _ => runs.push((offset, sector.to_vec())),
            }
        }
        runs
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The sectors of a range: the number of each, where in it the range begins, and which bytes of the range it has.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let (number, within) = (at / SECTOR_BYTES as u64, (at % SECTOR_BYTES as u64) as usize);
        let piece = done..bytes.min(done + SECTOR_BYTES - within);
        done = piece.end;
        (!piece.is_empty()).then_some((number, within, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &[u8], kept: &Sectors, offset: usize, bytes: usize) -> Vec<u8> {
        let mut found = disk[offset..offset + bytes].to_vec();
        kept.lay_over(offset as u64, &mut found);
        found
    }

    #[test]
    fn what_was_written_is_read_and_the_disk_has_it_after_a_sync_alone() {
        let mut disk = vec![7; 4 * SECTOR_BYTES];
        let (mut expected, mut kept) = (disk.clone(), Sectors::default());
        for (offset, bytes, value) in [(10, 20, 1), (500, 600, 2), (512, 512, 3), (1_000, 1_048, 4), (2_047, 1, 5)] {
            let written = vec![value; bytes];
            kept.write(offset as u64, &written, |at, into| {
                into.copy_from_slice(&disk[at as usize..at as usize + into.len()]);
            });
            expected[offset..offset + bytes].copy_from_slice(&written);
            assert!(disk.iter().all(|byte| *byte == 7), "nothing reaches the disk before the sync");
            for from in [0, 9, 511, 512, 1_500] {
                assert_eq!(read(&disk, &kept, from, 500), expected[from..from + 500], "from {from}");
            }
        }
        for (offset, run) in kept.drain() {
            disk[offset as usize..offset as usize + run.len()].copy_from_slice(&run);
        }
        assert_eq!((disk, kept.len()), (expected, 0));
    }

    #[test]
    fn runs_are_as_long_as_can_be() {
        let mut kept = Sectors::default();
        kept.write(512, &[1; 1_024], |_, _| ());
        kept.write(4_096, &[2; 1], |_, _| ());
        let runs: Vec<_> = kept.drain().into_iter().map(|(offset, run)| (offset, run.len())).collect();
        assert_eq!(runs, [(512, 1_024), (4_096, 512)]);
    }
}
