//! What the tests of the log's thread share: a directory that goes away, and a disk with faults.
#![allow(dead_code)] // Each test file uses its own part of this.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sagacore_broker::log::{Disk, DiskError};
use sagacore_disk::{FileDisk, LogThread};

/// Removed when dropped.
pub struct Directory {
    pub path: PathBuf,
}

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Directory {
    pub fn new() -> Self {
        let name = format!("log-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    /// The names of the files in it.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The files that segments are in, as the file system knows them.
    pub fn inodes(&self) -> Vec<u64> {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(&self.path).unwrap().filter_map(Result::ok);
        entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.ino()).collect()
    }

    /// How many segments are in use or ready.
    pub fn segments(&self) -> usize {
        self.names().iter().filter(|name| name.ends_with(".seg")).count()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Waits until all up to this LSN is durable, by the descriptor.
pub fn wait_for(log: &LogThread, lsn: u64) {
    let began = Instant::now();
    while log.durable_lsn() < lsn {
        assert_eq!(log.poisoned(), None);
        assert!(began.elapsed() < Duration::from_secs(30), "LSN {lsn} does not become durable");
        assert!(is_readable(log, Duration::from_secs(30)), "the loop is not woken");
        log.acknowledge();
    }
}

pub fn is_readable(log: &LogThread, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let descriptor = log.descriptor();
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Default, Debug)]
pub struct Faults {
    /// Every sync takes so long.
    pub sync_ms: AtomicU64,
    pub fails_sync: AtomicBool,
    pub is_full: AtomicBool,
    pub syncs: AtomicU64,
}

/// Real files, with faults.
#[derive(Clone)]
pub struct FaultyDisk {
    disk: FileDisk,
    pub faults: Arc<Faults>,
}

impl FaultyDisk {
    pub fn open(path: &Path) -> Self {
        Self { disk: FileDisk::open(path).unwrap(), faults: Arc::default() }
    }
}

impl Disk for FaultyDisk {
    type File = OwnedFd;

    fn names(&self) -> Result<Vec<String>, DiskError> {
        self.disk.names()
    }

    fn create(&self, name: &str) -> Result<OwnedFd, DiskError> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> Result<OwnedFd, DiskError> {
        self.disk.open(name)
    }

    fn length(&self, file: &OwnedFd) -> Result<u64, DiskError> {
        self.disk.length(file)
    }

    fn allocate(&self, file: &OwnedFd, bytes: u64) -> Result<bool, DiskError> {
        if self.faults.is_full.load(Ordering::Relaxed) {
            return Err(DiskError::Full);
        }
        self.disk.allocate(file, bytes)
    }

    fn read(&self, file: &OwnedFd, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read(file, offset, into)
    }

    fn write(&self, file: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.write(file, offset, bytes)
    }

    fn sync(&self, file: &OwnedFd) -> Result<(), DiskError> {
        self.faults.syncs.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(self.faults.sync_ms.load(Ordering::Relaxed)));
        if self.faults.fails_sync.load(Ordering::Relaxed) {
            return Err(DiskError::Failed("input/output error".to_owned()));
        }
        self.disk.sync(file)
    }

    fn settle(&self, file: &OwnedFd) -> Result<(), DiskError> {
        self.disk.settle(file)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        self.disk.sync_directory()
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }
}
