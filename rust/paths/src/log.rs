//! Records into the log on a disk in memory: framed, checksummed, written and synced, with segments made and given up.

use sagacore_broker::log::{Config, Durability, FrameType, Writer, recover};
use sagacore_fuzz::Files;

use crate::{HOUSEKEEPING_OPERATIONS, Path};

const CONFIG: Config = Config { segment_bytes: 64 << 10, durability: Durability::Sync, nonce: 1 };
const RECORD: [u8; 1024] = [0xa5; 1024];
/// Records that stay: some segments' worth.
const KEPT: u64 = 200;

/// One record after the other, each synced by itself.
pub struct Append {
    writer: Writer<Files>,
    first_lsn: u64,
}

impl Append {
    pub fn new() -> Self {
        let disk = Files::default();
        let recovered = recover(&disk, &CONFIG, &mut |_| {}).unwrap_or_else(|error| panic!("an empty disk: {error}"));
        let writer = Writer::start(disk, CONFIG, &recovered, 0).unwrap_or_else(|error| panic!("a new log: {error}"));
        let mut append = Self { writer, first_lsn: 0 };
        // Segments that were given up are used again from here on.
        (0..10 * HOUSEKEEPING_OPERATIONS).for_each(|_| append.operate());
        append.first_lsn = append.writer.durable_lsn();
        append
    }
}

impl Path for Append {
    fn operate(&mut self) {
        let appended = self.writer.append(FrameType::Batch, 0, &RECORD);
        let durable = appended.and_then(|_| self.writer.commit()).unwrap_or_else(|error| panic!("a record: {error}"));
        if durable.is_multiple_of(HOUSEKEEPING_OPERATIONS) {
            let freed = self.writer.release_before(durable.saturating_sub(KEPT));
            freed.unwrap_or_else(|error| panic!("old segments: {error}"));
        }
    }

    fn check(&self, operations: u64) {
        assert_eq!(self.writer.durable_lsn() - self.first_lsn, operations, "durable records");
    }
}
