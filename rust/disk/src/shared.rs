//! What the log's threads tell the broker's loop.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use sagacore_broker::log::SegmentInfo;

/// Written by the threads, read by the loop. The descriptor is readable when something has changed.
#[derive(Debug)]
pub struct Shared {
    pub durable_lsn: AtomicU64,
    /// Batches and their bytes that were handed over and are not yet durable.
    pub queued_batches: AtomicU64,
    pub queued_bytes: AtomicU64,
    pub segments_bytes: AtomicU64,
    pub spare_bytes: AtomicU64,
    pub is_full: AtomicBool,
    pub commits: AtomicU64,
    pub slowest_commit_us: AtomicU64,
    pub last_commit_us: AtomicU64,
    /// When the commit that is under way began, in microseconds after `since`; 0: none is.
    commit_began_us: AtomicU64,
    since: Instant,
    segments: Mutex<Vec<SegmentInfo>>,
    poisoned: OnceLock<String>,
    wake: OwnedFd,
}

impl Shared {
    pub fn new(durable_lsn: u64) -> Result<Self, Errno> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            durable_lsn: durable_lsn.into(),
            queued_batches: 0.into(),
            queued_bytes: 0.into(),
            segments_bytes: 0.into(),
            spare_bytes: 0.into(),
            is_full: false.into(),
            commits: 0.into(),
            slowest_commit_us: 0.into(),
            last_commit_us: 0.into(),
            commit_began_us: 0.into(),
            since: Instant::now(),
            segments: Mutex::new(Vec::new()),
            poisoned: OnceLock::new(),
            wake,
        })
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.wake
    }

    /// Makes the descriptor readable.
    #[expect(clippy::host_endian_bytes, reason = "the kernel reads a number of its own order")]
    pub fn wake(&self) {
        // It fails only when it has been woken 2^64 - 2 times: then it is readable.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor wait for the next change.
    pub fn acknowledge(&self) {
        let mut count = [0; 8];
        // It fails only when there was nothing new.
        let _ = rustix::io::read(&self.wake, &mut count);
    }

    /// Stops the log, for the first reason that is given.
    pub fn poison(&self, text: &str) {
        let _ = self.poisoned.set(text.to_owned());
        self.wake();
    }

    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.get().map(String::as_str)
    }

    pub fn segments(&self) -> MutexGuard<'_, Vec<SegmentInfo>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit begins.
    pub fn begin_commit(&self) {
        self.commit_began_us.store(self.now_us().max(1), Ordering::Relaxed);
    }

    /// How long the commit that is under way has taken so far, in microseconds.
    pub fn commit_under_way_us(&self) -> u64 {
        match self.commit_began_us.load(Ordering::Relaxed) {
            0 => 0,
            began_us => self.now_us().saturating_sub(began_us),
        }
    }

    /// A commit has ended.
    pub fn end_commit(&self) {
        let us = self.commit_under_way_us();
        self.commit_began_us.store(0, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.last_commit_us.store(us, Ordering::Relaxed);
        self.slowest_commit_us.fetch_max(us, Ordering::Relaxed);
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
