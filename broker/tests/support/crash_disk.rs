//! A disk in memory that crashes as badly as a real one may: each sector that was not synced is old, new, zero or
//! garbage, each name that was not synced is as before or as after, and a failed sync forgets what it did not write.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sagacore_broker::log::{Disk, DiskError};

use super::Random;

const SECTOR: usize = 512;

/// Clones reach the same disk; `copy` makes another.
#[derive(Clone, Default)]
pub struct CrashDisk(Rc<RefCell<State>>);

#[derive(Clone, Default)]
struct State {
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    /// Calls that change something and still work; then the power is cut.
    fuse: Option<u64>,
    is_off: bool,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    fails_next_sync: bool,
    calls: u64,
    syncs: u64,
    settled: u64,
}

#[derive(Clone, Default)]
struct Contents {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn names(&self) -> Vec<&String> {
        match self {
            Self::Create(name, _) | Self::Remove(name) => vec![name],
            Self::Rename(from, to) => vec![from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl CrashDisk {
    /// Another disk with the same state, unsynced parts and faults included: what a killed process leaves behind.
    pub fn copy(&self) -> Self {
        Self(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    /// What a power cut leaves behind.
    pub fn crash(&self, random: &mut Random) -> Self {
        let state = self.0.borrow();
        let mut names = state.durable_names.clone();
        let mut lost: BTreeSet<&String> = BTreeSet::new();
        for change in &state.changes {
            let touched = change.names();
            // What builds on a lost change is lost with it.
            if random.below(2) == 0 || touched.iter().any(|name| lost.contains(name)) {
                lost.extend(touched);
            } else {
                change.apply(&mut names);
            }
        }
        let files = state.files.iter().map(|file| file.crash(random)).collect();
        let after = State { files, durable_names: names.clone(), names, ..State::default() };
        Self(Rc::new(RefCell::new(after)))
    }

    /// Cuts the power after so many more calls that change something.
    pub fn set_fuse(&self, calls: Option<u64>) {
        self.0.borrow_mut().fuse = calls;
    }

    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.borrow_mut().capacity = bytes;
    }

    pub fn fail_next_sync(&self) {
        self.0.borrow_mut().fails_next_sync = true;
    }

    /// Calls so far that change something.
    pub fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    pub fn syncs(&self) -> u64 {
        self.0.borrow().syncs
    }

    /// Files that were read from the disk itself.
    pub fn settled(&self) -> u64 {
        self.0.borrow().settled
    }

    pub fn contents(&self, name: &str) -> Vec<u8> {
        let state = self.0.borrow();
        state.files[state.names[name]].live.clone()
    }

    /// Changes bytes behind everybody's back, durably. An offset beyond the end makes the file longer.
    pub fn damage(&self, name: &str, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.0.borrow_mut();
        let file = state.names[name];
        let contents = &mut state.files[file];
        change(&mut contents.live[offset..]);
        contents.durable = contents.live.clone();
    }

    pub fn flip(&self, name: &str, offset: usize, bit: u8) {
        self.damage(name, offset, |bytes| bytes[0] ^= 1 << bit);
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        let file = state.files.len();
        state.files.push(Contents { live: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    /// Removes a file behind everybody's back, durably.
    pub fn forget(&self, name: &str) {
        let mut state = self.0.borrow_mut();
        assert!(state.names.remove(name).is_some(), "{name} is not there");
        state.durable_names.remove(name);
    }

    pub fn list(&self) -> Vec<String> {
        self.0.borrow().names.keys().cloned().collect()
    }
}

impl Contents {
    fn crash(&self, random: &mut Random) -> Self {
        let is_longer = random.below(2) == 0;
        let mut bytes = self.durable.clone();
        if is_longer {
            bytes.resize(self.live.len(), 0);
        }
        for &sector in &self.dirty {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(bytes.len());
            if range.start >= bytes.len() {
                continue;
            }
            match random.below(4) {
                0 => {}
                1 => bytes[range.clone()].fill(0),
                2 => bytes[range.clone()].copy_from_slice(&random.bytes(range.len())),
                _ => bytes[range.clone()].copy_from_slice(&self.live[range]),
            }
        }
        Self { live: bytes.clone(), durable: bytes, dirty: BTreeSet::new() }
    }
}

impl State {
    fn change(&mut self) -> Result<(), DiskError> {
        self.calls += 1;
        match &mut self.fuse {
            Some(0) => {
                self.is_off = true;
                Err(DiskError::Failed("the power was cut".to_owned()))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn grow(&mut self, file: usize, bytes: usize) -> Result<(), DiskError> {
        let used: usize = self.names.values().map(|file| self.files[*file].live.len()).sum();
        let more = bytes.saturating_sub(self.files[file].live.len());
        if self.capacity.is_some_and(|capacity| (used + more) as u64 > capacity) {
            return Err(DiskError::Full);
        }
        if more > 0 {
            self.files[file].live.resize(bytes, 0);
        }
        Ok(())
    }

    fn rename(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Disk for CrashDisk {
    type File = usize;

    fn names(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.list())
    }

    fn create(&self, name: &str) -> Result<usize, DiskError> {
        let mut state = self.0.borrow_mut();
        state.change()?;
        assert!(!state.names.contains_key(name), "{name} is there already");
        let file = state.files.len();
        state.files.push(Contents::default());
        state.rename(Change::Create(name.to_owned(), file));
        Ok(file)
    }

    fn open(&self, name: &str) -> Result<usize, DiskError> {
        self.0.borrow().names.get(name).copied().ok_or(DiskError::Missing)
    }

    fn length(&self, file: &usize) -> Result<u64, DiskError> {
        Ok(self.0.borrow().files[*file].live.len() as u64)
    }

    fn allocate(&self, file: &usize, bytes: u64) -> Result<bool, DiskError> {
        let mut state = self.0.borrow_mut();
        state.change()?;
        state.grow(*file, bytes as usize).map(|()| true)
    }

    fn read(&self, file: &usize, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let state = self.0.borrow();
        let from = offset as usize;
        let bytes = state.files[*file].live.get(from..from + into.len());
        into.copy_from_slice(bytes.ok_or_else(|| DiskError::Failed("read beyond the end".to_owned()))?);
        Ok(())
    }

    fn write(&self, file: &usize, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        // The power may be cut in the middle of a write.
        let share = match (state.fuse, state.is_off) {
            (_, true) => 0,
            (Some(0), false) => bytes.len() / 2,
            _ => bytes.len(),
        };
        let powered = state.change();
        let (from, to) = (offset as usize, offset as usize + share);
        state.grow(*file, to)?;
        let contents = &mut state.files[*file];
        contents.live[from..to].copy_from_slice(&bytes[..share]);
        contents.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        powered
    }

    fn sync(&self, file: &usize) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.change()?;
        state.syncs += 1;
        let fails = std::mem::take(&mut state.fails_next_sync);
        let contents = &mut state.files[*file];
        let dirty = std::mem::take(&mut contents.dirty);
        if fails {
            // The pages are clean now, and only every other one was written.
            contents.durable.resize(contents.live.len(), 0);
            for sector in dirty.into_iter().step_by(2) {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(contents.live.len());
                contents.durable[range.clone()].copy_from_slice(&contents.live[range]);
            }
            return Err(DiskError::Failed("input/output error".to_owned()));
        }
        contents.durable.resize(contents.live.len(), 0);
        for sector in dirty {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(contents.live.len());
            contents.durable[range.clone()].copy_from_slice(&contents.live[range]);
        }
        Ok(())
    }

    fn settle(&self, file: &usize) -> Result<(), DiskError> {
        self.sync(file)?;
        let mut state = self.0.borrow_mut();
        state.settled += 1;
        let contents = &mut state.files[*file];
        contents.live = contents.durable.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.change()?;
        if !state.names.contains_key(from) {
            return Err(DiskError::Missing);
        }
        state.rename(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.change()?;
        if !state.names.contains_key(name) {
            return Err(DiskError::Missing);
        }
        state.rename(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.change()?;
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let state = self.0.borrow();
        let used: usize = state.names.values().map(|file| state.files[*file].live.len()).sum();
        Ok(state.capacity.unwrap_or(u64::MAX).saturating_sub(used as u64))
    }
}
