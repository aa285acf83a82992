//! The broker's log: the real one, on a simulated disk, as its thread drives it. What the broker hands over waits until
//! the commit under way has ended, and goes out together with what came meanwhile.

use std::collections::VecDeque;

use sagacore_broker::log::{
    Config, CopyPlaces, CopyReader, Durability, FrameType, LogError, ReadBack, Recovered, Writer, recover,
};
use sagacore_broker::{Record, RecordKind};

use crate::disk::SimDisk;
use crate::random::Random;

/// A frame that has its LSN; without a kind it is a note of the log itself.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: Option<RecordKind>,
    pub lsn: u64,
    pub time_ms: u64,
    pub payload: Vec<u8>,
}

/// See the module's text.
pub struct Log {
    pub disk: SimDisk,
    config: Config,
    writer: Option<Writer<SimDisk>>,
    /// Handed over and not committed, and how many of them the commit under way has.
    queue: VecDeque<Frame>,
    group: Option<usize>,
    release_before: Option<u64>,
    /// The last one handed over, and the last one that is durable.
    pub last_lsn: u64,
    pub durable_lsn: u64,
    /// What was durable before the last commit: from then on the log says so itself.
    pub stated_lsn: u64,
}

/// What a log holds.
pub struct Found {
    pub frames: Vec<Frame>,
    pub recovered: Recovered,
    disk: SimDisk,
    /// As it was: a broker reads back while it recovers, before what was to be released is gone.
    before: SimDisk,
    copies: CopyPlaces,
}

impl Found {
    /// Reads its copies again.
    pub fn read_back(&self) -> Box<dyn ReadBack> {
        Box::new(CopyReader::new(self.disk.clone(), self.copies.clone()))
    }

    /// The same, during the replay.
    pub fn read_back_before(&self) -> Box<dyn ReadBack> {
        Box::new(CopyReader::new(self.before.clone(), self.copies.clone()))
    }
}

/// Reads a log, and makes it ready to be written.
pub fn read(disk: &SimDisk, config: &Config) -> Result<Found, LogError> {
    let (mut frames, copies, before) = (Vec::new(), CopyPlaces::default(), disk.copy());
    let recovered = recover(disk, config, &mut |entry| {
        let kind = match entry.kind {
            FrameType::Batch => Some(RecordKind::Transactions),
            FrameType::Copy => Some(RecordKind::Copies),
            FrameType::Boot | FrameType::Seal | FrameType::Mark => None,
        };
        if entry.kind == FrameType::Copy {
            copies.note(entry.lsn, entry.position, entry.payload.len());
        }
        let payload = if kind.is_some() { entry.payload.to_vec() } else { Vec::new() };
        frames.push(Frame { kind, lsn: entry.lsn, time_ms: entry.time_ms, payload });
    })?;
    Ok(Found { frames, recovered, disk: disk.clone(), before, copies })
}

impl Log {
    pub fn new(segment_bytes: u64, disk_segments: Option<u64>, seed: u64) -> Self {
        let segment_bytes = segment_bytes.next_multiple_of(4096);
        let disk = SimDisk::default();
        disk.set_room(disk_segments.map(|segments| segments * segment_bytes));
        Self {
            disk,
            config: Config { segment_bytes, durability: Durability::Sync, nonce: seed },
            writer: None,
            queue: VecDeque::new(),
            group: None,
            release_before: None,
            last_lsn: 0,
            durable_lsn: 0,
            stated_lsn: 0,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the log at a start and goes on with it.
    pub fn open(&mut self) -> Result<Found, LogError> {
        // Drawn anew by each process.
        self.config.nonce = self.config.nonce.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let found = read(&self.disk, &self.config)?;
        let mut writer = Writer::start(self.disk.clone(), self.config, &found.recovered, found.recovered.last_time_ms)?;
        writer.note_copies(found.copies.clone());
        self.queue.clear();
        self.group = None;
        self.release_before = None;
        self.durable_lsn = writer.durable_lsn();
        self.last_lsn = self.durable_lsn;
        self.stated_lsn = self.durable_lsn - 1;
        self.writer = Some(writer);
        Ok(found)
    }

    pub fn next_lsn(&self) -> u64 {
        self.last_lsn + 1
    }

    /// The broker hands over a record.
    pub fn append(&mut self, record: Record) {
        let Record { kind, lsn, time_ms, payload, .. } = record;
        self.last_lsn = lsn;
        self.queue.push_back(Frame { kind: Some(kind), lsn, time_ms, payload });
    }

    /// Deletes what comes before a record, with the next commit.
    pub fn release_before(&mut self, lsn: u64) {
        self.release_before = Some(lsn);
    }

    /// Begins a commit of all that waits, if none is under way.
    pub fn begin_commit(&mut self) -> bool {
        let begins = self.group.is_none() && (!self.queue.is_empty() || self.release_before.is_some());
        if begins {
            self.group = Some(self.queue.len());
        }
        begins
    }

    /// The commit under way has ended: gives what is durable now.
    pub fn end_commit(&mut self, random: &mut Random) -> Result<Vec<Frame>, LogError> {
        let group = self.group.take().unwrap_or(0);
        let frames: Vec<Frame> = self.queue.drain(..group).collect();
        let release = self.release_before.take();
        let Some(writer) = &mut self.writer else { return Ok(Vec::new()) };
        write(writer, &frames)?;
        if let Some(lsn) = release {
            writer.release_before(lsn)?;
        }
        let durable_lsn = writer.commit()?;
        self.stated_lsn = std::mem::replace(&mut self.durable_lsn, durable_lsn);
        if self.queue.is_empty() && random.chance(2_000) {
            // Not synced: a crash may take it, so nothing relies on it.
            writer.mark()?;
        }
        if random.coin() && !writer.prepare_ahead()? {
            writer.set_full();
        }
        Ok(frames)
    }

    /// The broker stops cleanly: all that waits is written, and the log says that it ends.
    pub fn close(&mut self, time_ms: u64) -> Result<(), LogError> {
        let frames: Vec<Frame> = self.queue.drain(..).collect();
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        write(&mut writer, &frames)?;
        writer.seal(time_ms)
    }

    /// The power is cut, perhaps in the middle of a commit.
    pub fn crash(&mut self, random: &mut Random) {
        if let Some(mut writer) = self.writer.take() {
            let group = self.group.take().unwrap_or(0);
            let frames: Vec<Frame> = self.queue.drain(..group).collect();
            let release = self.release_before.take();
            if (release.is_some() || !frames.is_empty()) && random.chance(7_000) {
                self.disk.set_fuse(random.below(if release.is_some() { 16 } else { 6 }));
                // It fails as soon as the power is gone.
                let written = write(&mut writer, &frames);
                let released = written.and_then(|()| release.map_or(Ok(0), |lsn| writer.release_before(lsn)));
                let _ = released.and_then(|_| writer.commit());
            }
        }
        self.disk.crash(random);
    }

    /// Whether the disk has no space for another segment. That is tried again now.
    pub fn is_full(&mut self) -> bool {
        let Some(writer) = self.writer.as_mut().filter(|writer| writer.is_full()) else { return false };
        !writer.prepare_ahead().unwrap_or(false)
    }

    pub fn first_lsns(&self) -> Vec<u64> {
        let segments = self.writer.iter().flat_map(Writer::segments);
        segments.map(|segment| segment.first_lsn).collect()
    }

    /// Whether all that was handed over is durable.
    pub fn is_settled(&self) -> bool {
        self.durable_lsn == self.last_lsn
    }
}

fn write(writer: &mut Writer<SimDisk>, frames: &[Frame]) -> Result<(), LogError> {
    for frame in frames {
        let kind = if frame.kind == Some(RecordKind::Copies) { FrameType::Copy } else { FrameType::Batch };
        let lsn = writer.append(kind, frame.time_ms, &frame.payload)?;
        if lsn != frame.lsn {
            return Err(LogError::Poisoned { text: format!("record {} became {lsn}", frame.lsn) });
        }
    }
    Ok(())
}
