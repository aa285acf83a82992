//! What a log must hold, kept in the simplest way, beside a writer over a disk that crashes.

use std::collections::BTreeMap;

use sagacore_broker::log::{Config, Durability, Entry, FrameType, LogError, Recovered, Writer, recover};

use super::{CrashDisk, Random};

/// A frame as the model keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    pub kind: FrameType,
    pub lsn: u64,
    pub time_ms: u64,
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sum = crc32fast::hash(&self.payload);
        write!(f, "{:?} {} at {}: {} bytes {sum:08x}", self.kind, self.lsn, self.time_ms, self.payload.len())
    }
}

impl From<Entry<'_>> for Kept {
    fn from(entry: Entry<'_>) -> Self {
        Self { kind: entry.kind, lsn: entry.lsn, time_ms: entry.time_ms, payload: entry.payload.to_vec() }
    }
}

/// Recovers and gives all frames.
pub fn read_all(disk: &CrashDisk, config: &Config) -> Result<(Vec<Kept>, Recovered), LogError> {
    let mut kept = Vec::new();
    let recovered = recover(disk, config, &mut |entry| kept.push(Kept::from(entry)))?;
    Ok((kept, recovered))
}

pub fn config(segment_bytes: u64) -> Config {
    Config { segment_bytes, durability: Durability::Sync, nonce: 1 }
}

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Step {
    Append {
        bytes: usize,
    },
    Copy {
        bytes: usize,
    },
    Commit,
    Mark,
    /// Prepare the next segment.
    Prepare,
    /// Give up all before the LSN at this share, in percent, of what is durable.
    Release {
        percent: u64,
    },
}

/// A log through its lives, and what it must hold.
pub struct Model {
    pub disk: CrashDisk,
    pub config: Config,
    pub writer: Option<Writer<CrashDisk>>,
    /// By LSN, all that may be in the log.
    frames: BTreeMap<u64, Kept>,
    /// All up to this was promised.
    durable_lsn: u64,
    /// All from this on must be there.
    needed_from: u64,
    /// Whether the last stop was clean, if that is certain.
    was_clean: Option<bool>,
    time_ms: u64,
    random: Random,
}

impl Model {
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            disk: CrashDisk::default(),
            config,
            writer: None,
            frames: BTreeMap::new(),
            durable_lsn: 0,
            needed_from: 1,
            was_clean: None,
            time_ms: 1_000,
            random: Random(seed),
        }
    }

    /// Starts the broker: recovers, compares, writes the BOOT frame. An error stands for a crash.
    pub fn start(&mut self) -> Result<(), LogError> {
        self.config.nonce = self.random.next();
        let (kept, recovered) = read_all(&self.disk, &self.config)?;
        self.compare(&kept, &recovered);
        let again = self.disk.copy();
        again.set_fuse(None);
        let (second, recovered_again) = read_all(&again, &self.config).unwrap();
        // The first one may have gone on with a release: what was in those segments is gone then.
        let oldest_lsn = recovered.segments[0].first_lsn;
        let left: Vec<Kept> = kept.iter().filter(|frame| frame.lsn >= oldest_lsn).cloned().collect();
        assert_eq!(second, left, "a second recovery reads the same");
        assert_eq!(recovered_again.next_lsn, recovered.next_lsn);
        assert_eq!(recovered_again.segments, recovered.segments);
        assert_eq!(recovered_again.cut, None, "the first recovery cut all that was to be cut");

        self.frames.split_off(&recovered.next_lsn);
        let payload = Vec::new();
        self.frames.insert(
            recovered.next_lsn,
            Kept { kind: FrameType::Boot, lsn: recovered.next_lsn, time_ms: self.time_ms, payload },
        );
        self.was_clean = None;
        let writer = Writer::start(self.disk.clone(), self.config, &recovered, self.time_ms)?;
        self.durable_lsn = writer.durable_lsn();
        self.was_clean = Some(false);
        self.writer = Some(writer);
        Ok(())
    }

    fn compare(&self, kept: &[Kept], recovered: &Recovered) {
        let first = kept.first().map_or(recovered.next_lsn, |frame| frame.lsn);
        assert!(first <= self.needed_from, "LSN {} is needed and gone; the log begins with {first}", self.needed_from);
        assert!(recovered.next_lsn > self.durable_lsn, "{} is promised, {} next", self.durable_lsn, recovered.next_lsn);
        for (lsn, frame) in (first..).zip(kept) {
            assert_eq!(frame.lsn, lsn, "LSNs ascend by one");
            let mut expected = self.frames[&lsn].clone();
            if frame.kind == FrameType::Boot {
                expected.payload = frame.payload.clone();
            }
            assert_eq!(*frame, expected);
        }
        assert_eq!(first + kept.len() as u64, recovered.next_lsn);
        if let Some(was_clean) = self.was_clean {
            assert_eq!(recovered.unclean, !was_clean, "a stop is seen as what it was");
        }
    }

    pub fn run(&mut self, step: &Step) -> Result<(), LogError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let done = match *step {
            Step::Append { bytes } => self.append(&mut writer, FrameType::Batch, bytes),
            Step::Copy { bytes } => self.append(&mut writer, FrameType::Copy, bytes),
            Step::Commit => writer.commit().map(|_| ()),
            Step::Mark => writer.mark(),
            Step::Prepare => writer.prepare_ahead().map(|_| ()),
            Step::Release { percent } => {
                let lsn = self.durable_lsn * percent / 100;
                self.needed_from = self.needed_from.max(lsn);
                writer.release_before(lsn).map(|_| ())
            }
        };
        self.durable_lsn = self.durable_lsn.max(writer.durable_lsn());
        if done.is_err() {
            assert!(writer.poisoned().is_some());
            assert!(matches!(writer.commit(), Err(LogError::Poisoned { .. })), "nothing is tried again");
        }
        self.writer = Some(writer);
        done
    }

    fn append(&mut self, writer: &mut Writer<CrashDisk>, kind: FrameType, bytes: usize) -> Result<(), LogError> {
        self.time_ms += 1;
        let (lsn, time_ms) = (writer.next_lsn(), self.time_ms);
        let payload = self.random.bytes(bytes.min(self.config.payload_bytes_max()));
        self.frames.insert(lsn, Kept { kind, lsn, time_ms, payload: payload.clone() });
        assert_eq!(writer.append(kind, time_ms, &payload)?, lsn);
        Ok(())
    }

    /// Stops the broker cleanly, if the disk lets it.
    pub fn seal(&mut self) -> Result<(), LogError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let lsn = writer.next_lsn();
        self.frames.insert(lsn, Kept { kind: FrameType::Seal, lsn, time_ms: self.time_ms, payload: Vec::new() });
        let sealed = writer.seal(self.time_ms);
        self.durable_lsn = self.durable_lsn.max(writer.durable_lsn());
        self.was_clean = sealed.is_ok().then_some(true);
        sealed
    }

    /// The power is cut.
    pub fn crash(&mut self, seed: u64) {
        self.writer = None;
        if self.config.durability == Durability::Os {
            // Then nothing was promised to survive this, only that what is left is the log's beginning.
            self.durable_lsn = 0;
        }
        self.disk = self.disk.crash(&mut Random(seed));
    }

    /// The process is killed: what it wrote is there, synced or not.
    pub fn kill(&mut self) {
        self.writer = None;
        self.disk = self.disk.copy();
        self.disk.set_fuse(None);
    }
}
