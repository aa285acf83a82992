//! What the library knows: which descriptors are of the directory, and what of its files is kept back.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::page;
use crate::sectors::{SECTOR_BYTES, Sectors};
use crate::undo::Undo;

/// Descriptors that may be of the directory, by number. A quick look, without the lock: it can be out of date.
static MAYBE: [AtomicBool; 4_096] = [const { AtomicBool::new(false) }; 4_096];

/// A file, whatever it is called: device and inode.
pub type FileId = (u64, u64);

/// The system's own calls.
pub trait System {
    fn id(&self, descriptor: i32) -> io::Result<FileId>;
    fn length(&self, descriptor: i32) -> io::Result<u64>;
    fn extend(&self, descriptor: i32, bytes: u64) -> io::Result<()>;
    fn read(&self, descriptor: i32, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    fn write(&self, descriptor: i32, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Directory,
    File,
}

pub struct State {
    path: PathBuf,
    notes: PathBuf,
    early_permille: u64,
    dice: u64,
    descriptors: HashMap<i32, (FileId, What)>,
    files: HashMap<FileId, Sectors>,
    undo: Option<Undo>,
}

/// Whether a descriptor may be of the directory.
pub fn maybe(descriptor: i32) -> bool {
    usize::try_from(descriptor).ok().and_then(|at| MAYBE.get(at)).is_some_and(|flag| flag.load(Ordering::Acquire))
}

/// The system has just given this number, so whatever had it before was closed: not always by a call that is seen here.
pub fn is_new(descriptor: i32) {
    if let Some(flag) = usize::try_from(descriptor).ok().and_then(|at| MAYBE.get(at)) {
        flag.store(false, Ordering::Release);
    }
}

/// How long a sync takes at least. On a disk that is too quick a kill would hardly ever find anything unsynced.
pub fn sync_time() -> Duration {
    static TIME: OnceLock<Duration> = OnceLock::new();
    *TIME.get_or_init(|| Duration::from_micros(number("SAGACORE_CHAOS_SYNC_US")))
}

fn number(variable: &str) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The state; none where no directory was named.
pub fn lock() -> Option<MutexGuard<'static, State>> {
    static STATE: OnceLock<Option<Mutex<State>>> = OnceLock::new();
    let state = STATE.get_or_init(|| Some(Mutex::new(State::from_environment()?)));
    state.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
}

impl State {
    fn from_environment() -> Option<Self> {
        let path = PathBuf::from(std::env::var_os("SAGACORE_CHAOS_DIRECTORY")?);
        let notes = PathBuf::from(std::env::var_os("SAGACORE_CHAOS_NOTES")?);
        let dice = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (descriptors, files) = (HashMap::new(), HashMap::new());
        Some(Self { path, notes, early_permille: number("SAGACORE_CHAOS_EARLY"), dice, descriptors, files, undo: None })
    }

    /// What a descriptor is, if it is of the directory. It may have been closed behind our back and be another's.
    pub fn what(&mut self, system: &impl System, descriptor: i32) -> Option<What> {
        let (id, what) = *self.descriptors.get(&descriptor)?;
        if system.id(descriptor).is_ok_and(|now| now == id) {
            return Some(what);
        }
        self.forget(descriptor);
        None
    }

    /// A directory was opened: if it is ours, what the last process had not synced is undone before anybody looks.
    pub fn opened_directory(&mut self, system: &impl System, descriptor: i32) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let Ok(found) = std::fs::metadata(&self.path) else { return Ok(()) };
        if system.id(descriptor)? != (found.dev(), found.ino()) {
            return Ok(());
        }
        if self.undo.is_none() {
            let (early, dice) = (self.early_permille, self.roll());
            let survive = |steps| if early == 0 { 0 } else { (dice % (steps as u64 + 1)) as usize };
            self.undo = Some(Undo::open(&self.path, &self.notes, survive)?);
        }
        self.remember(system, descriptor, What::Directory)
    }

    /// A file of the directory was opened, or created.
    pub fn opened_file(&mut self, system: &impl System, descriptor: i32, created: Option<&[u8]>) -> io::Result<()> {
        self.remember(system, descriptor, What::File)?;
        if let Some(name) = created {
            // Another file may have had its number before.
            let id = self.descriptors[&descriptor].0;
            self.files.remove(&id);
            let name = text(name)?;
            self.undo()?.created(name)?;
        }
        Ok(())
    }

    pub fn closed(&mut self, descriptor: i32) {
        self.forget(descriptor);
    }

    /// The notes of what is done to the directory.
    pub fn undo(&mut self) -> io::Result<&mut Undo> {
        self.undo.as_mut().ok_or_else(|| io::Error::other("the directory was never opened"))
    }

    /// Keeps a write back, but for what the system happens to write at once.
    pub fn write(&mut self, system: &impl System, descriptor: i32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let id = self.descriptors[&descriptor].0;
        let end = offset + bytes.len() as u64;
        if end > system.length(descriptor)? {
            system.extend(descriptor, end)?;
        }
        let mut failed = Ok(());
        let mut sectors = self.files.remove(&id).unwrap_or_default();
        sectors.write(offset, bytes, |at, into| {
            if let Err(error) = system.read(descriptor, at, into) {
                failed = Err(error);
            }
        });
        if self.early_permille > 0 {
            for (at, sector) in sectors.touched(offset, bytes.len()) {
                if self.roll() % 1_000 < self.early_permille {
                    let within = (SECTOR_BYTES as u64).min(system.length(descriptor)? - at);
                    system.write(descriptor, at, &sector[..within as usize])?;
                }
            }
        }
        self.files.insert(id, sectors);
        self.tell();
        failed
    }

    /// Lays what is kept back over what was read.
    pub fn read(&self, descriptor: i32, offset: u64, read: &mut [u8]) {
        if let Some(sectors) = self.files.get(&self.descriptors[&descriptor].0) {
            sectors.lay_over(offset, read);
        }
    }

    /// Gives the file all that was kept back. The system's own sync comes after it.
    pub fn flush(&mut self, system: &impl System, descriptor: i32) -> io::Result<()> {
        let id = self.descriptors[&descriptor].0;
        let length = system.length(descriptor)?;
        for (offset, run) in self.files.remove(&id).map(|mut sectors| sectors.drain()).unwrap_or_default() {
            let within = (run.len() as u64).min(length.saturating_sub(offset));
            system.write(descriptor, offset, &run[..within as usize])?;
        }
        self.tell();
        Ok(())
    }

    fn remember(&mut self, system: &impl System, descriptor: i32, what: What) -> io::Result<()> {
        let at = usize::try_from(descriptor).ok().and_then(|at| MAYBE.get(at));
        at.ok_or_else(|| io::Error::other("too many descriptors"))?.store(true, Ordering::Release);
        self.descriptors.insert(descriptor, (system.id(descriptor)?, what));
        Ok(())
    }

    fn forget(&mut self, descriptor: i32) {
        self.descriptors.remove(&descriptor);
        is_new(descriptor);
    }

    fn tell(&self) {
        page::set_sectors(self.files.values().map(|sectors| sectors.len() as u64).sum());
    }

    /// The next of a row of numbers that look like chance (xorshift).
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }
}

/// A file's name as text. The log has no others.
pub fn text(name: &[u8]) -> io::Result<&str> {
    let name = std::ffi::OsStr::from_bytes(name).to_str();
    name.filter(|name| !name.contains([' ', '\n'])).ok_or_else(|| io::Error::other("a name that is not plain"))
}
