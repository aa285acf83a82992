//! A disk in memory that crashes as badly as a real one may: each sector that was not synced is old, new, zero or
//! garbage, names that were not synced are as before or as after, a failed sync forgets what it did not write, and
//! space runs out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sagacore_broker::log::{Disk, DiskError};

use crate::random::Random;

const SECTOR: usize = 512;

/// A directory. Clones reach the same one; `copy` makes another.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that were not synced, in order.
    changes: Vec<Change>,
    /// Calls that change something and still work; then the power is cut.
    fuse: Option<u64>,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    fails_next_sync: bool,
}

#[derive(Debug, Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn touches(&self) -> Vec<&String> {
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

impl File {
    fn sector(&self, sector: usize) -> std::ops::Range<usize> {
        sector * SECTOR..((sector + 1) * SECTOR).min(self.live.len())
    }

    fn sync(&mut self, is_whole: bool) {
        self.durable.resize(self.live.len(), 0);
        let dirty = std::mem::take(&mut self.dirty);
        for sector in dirty.into_iter().filter(|sector| is_whole || sector % 2 == 0) {
            let range = self.sector(sector);
            self.durable[range.clone()].copy_from_slice(&self.live[range]);
        }
    }

    fn crash(&mut self, random: &mut Random) {
        let mut bytes = std::mem::take(&mut self.durable);
        if random.coin() {
            bytes.resize(self.live.len().max(bytes.len()), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(bytes.len()).min(self.live.len());
            if range.is_empty() {
                continue;
            }
            match random.below(4) {
                0 => {}
                1 => bytes[range].fill(0),
                2 => bytes[range].iter_mut().for_each(|byte| *byte = random.next() as u8),
                _ => bytes[range.clone()].copy_from_slice(&self.live[range]),
            }
        }
        self.live.clone_from(&bytes);
        self.durable = bytes;
    }
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same files as they are read now, of which nothing fails.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let files = state.names.values().map(|&file| {
            let live = state.files[file].live.clone();
            File { durable: live.clone(), live, dirty: BTreeSet::new() }
        });
        let files: Vec<File> = files.collect();
        let names: BTreeMap<String, usize> = state.names.keys().cloned().zip(0..).collect();
        Self(Arc::new(Mutex::new(State { files, durable_names: names.clone(), names, ..State::default() })))
    }

    /// The power is cut and comes back.
    pub fn crash(&self, random: &mut Random) {
        let state = &mut *self.state();
        let mut names = state.durable_names.clone();
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for change in std::mem::take(&mut state.changes) {
            // What builds on a lost change is lost with it.
            if random.coin() || change.touches().iter().any(|name| lost.contains(*name)) {
                lost.extend(change.touches().into_iter().cloned());
            } else {
                change.apply(&mut names);
            }
        }
        state.durable_names.clone_from(&names);
        state.names = names;
        state.files.iter_mut().for_each(|file| file.crash(random));
        state.fuse = None;
        state.fails_next_sync = false;
    }

    /// Cuts the power after so many more calls that change something.
    pub fn set_fuse(&self, calls: u64) {
        self.state().fuse = Some(calls);
    }

    /// Leaves so many bytes beyond what is used; none: as many as one likes.
    pub fn set_room(&self, bytes: Option<u64>) {
        let mut state = self.state();
        state.capacity = bytes.map(|bytes| state.used() + bytes);
    }

    pub fn fail_next_sync(&self) {
        self.state().fails_next_sync = true;
    }

    /// Turns one bit of some file, behind everybody's back.
    pub fn flip_some(&self, random: &mut Random) {
        let state = &mut *self.state();
        let files: Vec<usize> = state.names.values().copied().collect();
        let Some(file) = random.pick(&files) else { return };
        let file = &mut state.files[file];
        if !file.live.is_empty() {
            let at = random.index(file.live.len());
            let bit = 1 << random.below(8);
            file.live[at] ^= bit;
            file.durable.clone_from(&file.live);
        }
    }
}

impl SimDisk {
    /// Loses a segment that is neither among the last two, with which the log just ends sooner, nor given up.
    pub fn lose_some(&self, random: &mut Random) {
        let state = &mut *self.state();
        let segments: Vec<String> = state.names.keys().filter(|name| name.ends_with(".seg")).cloned().collect();
        let last = segments.len().saturating_sub(2);
        if last > 0 {
            state.names.remove(&segments[random.index(last)]);
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|&file| self.files[file].live.len() as u64).sum()
    }

    /// Something is to be changed.
    fn change(&mut self) -> Result<(), DiskError> {
        match &mut self.fuse {
            Some(0) => Err(DiskError::Failed("the power was cut".to_owned())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn grow(&mut self, file: usize, bytes: usize) -> Result<(), DiskError> {
        let more = bytes.saturating_sub(self.files[file].live.len());
        if more > 0 {
            if self.capacity.is_some_and(|capacity| self.used() + more as u64 > capacity) {
                return Err(DiskError::Full);
            }
            self.files[file].live.resize(bytes, 0);
        }
        Ok(())
    }

    fn rename(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Disk for SimDisk {
    type File = usize;

    fn names(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> Result<usize, DiskError> {
        let mut state = self.state();
        state.change()?;
        if state.names.contains_key(name) {
            return Err(DiskError::Failed(format!("{name} is there already")));
        }
        let file = state.files.len();
        state.files.push(File::default());
        state.rename(Change::Create(name.to_owned(), file));
        Ok(file)
    }

    fn open(&self, name: &str) -> Result<usize, DiskError> {
        self.state().names.get(name).copied().ok_or(DiskError::Missing)
    }

    fn length(&self, file: &usize) -> Result<u64, DiskError> {
        Ok(self.state().files[*file].live.len() as u64)
    }

    fn allocate(&self, file: &usize, bytes: u64) -> Result<bool, DiskError> {
        let mut state = self.state();
        state.change()?;
        state.grow(*file, bytes as usize).map(|()| true)
    }

    fn read(&self, file: &usize, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let state = self.state();
        let from = offset as usize;
        let bytes = state.files[*file].live.get(from..from + into.len());
        into.copy_from_slice(bytes.ok_or_else(|| DiskError::Failed("read beyond the end".to_owned()))?);
        Ok(())
    }

    fn write(&self, file: &usize, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.state();
        let powered = state.change();
        // The power may be cut in the middle of a write.
        let share = if powered.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let (from, to) = (offset as usize, offset as usize + share);
        state.grow(*file, to)?;
        let contents = &mut state.files[*file];
        contents.live[from..to].copy_from_slice(&bytes[..share]);
        contents.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        powered
    }

    fn sync(&self, file: &usize) -> Result<(), DiskError> {
        let mut state = self.state();
        state.change()?;
        let fails = std::mem::take(&mut state.fails_next_sync);
        state.files[*file].sync(!fails);
        if fails { Err(DiskError::Failed("input/output error".to_owned())) } else { Ok(()) }
    }

    fn settle(&self, file: &usize) -> Result<(), DiskError> {
        self.sync(file)?;
        let contents = &mut self.state().files[*file];
        contents.live.clone_from(&contents.durable);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut state = self.state();
        state.change()?;
        if !state.names.contains_key(from) {
            return Err(DiskError::Missing);
        }
        state.rename(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.state();
        state.change()?;
        if !state.names.contains_key(name) {
            return Err(DiskError::Missing);
        }
        state.rename(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        let mut state = self.state();
        state.change()?;
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let state = self.state();
        Ok(state.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(state.used())))
    }
}
