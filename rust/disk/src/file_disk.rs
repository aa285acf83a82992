//! A directory of real files.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Advice, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sagacore_broker::log::{Disk, DiskError, LogError};

use crate::descriptors;

/// File systems that cannot promise what they sync, by the number that the kernel gives them.
const NETWORK: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
];

/// How a directory is opened: to list it, and to sync its entries.
const TO_LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The log's directory, locked against other writers as long as a clone of this lives.
#[derive(Clone, Debug)]
pub struct FileDisk(Arc<Directory>);

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    file: OwnedFd,
    access: OFlags,
}

impl FileDisk {
    /// Opens the directory to write, and creates it if it is not there.
    ///
    /// # Errors
    /// `LogError::Locked` if another process has it, `Network` on a network file system, `Disk` for all else.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        create(path)?;
        let disk = Self::open_as(path, OFlags::RDWR)?;
        let directory = &disk.0;
        let kind = fs::fstatfs(&directory.file).map_err(|error| failed("look at", path, error))?.f_type as u64;
        if let Some(kind) = network_file_system(kind) {
            return Err(LogError::Network { directory: path.display().to_string(), kind });
        }
        match fs::flock(&directory.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(disk),
            Err(Errno::WOULDBLOCK) => Err(LogError::Locked { directory: path.display().to_string() }),
            Err(error) => Err(failed("lock", path, error)),
        }
    }

    /// Opens the directory only to read, without a lock: what a broker is writing meanwhile may look torn.
    ///
    /// # Errors
    /// `LogError::Disk`.
    pub fn open_to_read(path: &Path) -> Result<Self, LogError> {
        Self::open_as(path, OFlags::RDONLY)
    }

    fn open_as(path: &Path, access: OFlags) -> Result<Self, LogError> {
        let file = fs::open(path, TO_LIST, Mode::empty()).map_err(|error| failed("open", path, error))?;
        Ok(Self(Arc::new(Directory { path: path.to_owned(), file, access })))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, DiskError> {
        let flags = flags | self.0.access | OFlags::CLOEXEC;
        descriptors::open(|| fs::openat(&self.0.file, name, flags, Mode::RUSR | Mode::WUSR)).map_err(disk_error)
    }
}

/// The name of a network file system, by the number that the kernel gives it; nothing for any other.
fn network_file_system(kind: u64) -> Option<&'static str> {
    // On some machines the number comes with its sign extended.
    NETWORK.iter().find(|(number, _)| *number == kind & 0xffff_ffff).map(|(_, name)| *name)
}

/// Creates the directory and those above it, each durable in the one that holds it.
fn create(path: &Path) -> Result<(), LogError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    create(parent)?;
    match fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("create", path, error)),
    }
    let holder = fs::open(parent, TO_LIST, Mode::empty()).map_err(|error| failed("open", parent, error))?;
    fs::fsync(&holder).map_err(|error| failed("sync", parent, error))
}

fn failed(action: &'static str, path: &Path, error: Errno) -> LogError {
    LogError::Disk { action, file: path.display().to_string(), error: disk_error(error) }
}

fn disk_error(error: Errno) -> DiskError {
    match error {
        Errno::NOSPC | Errno::DQUOT => DiskError::Full,
        Errno::NOENT => DiskError::Missing,
        error => DiskError::Failed(std::io::Error::from(error).to_string()),
    }
}

impl Disk for FileDisk {
    type File = OwnedFd;

    fn names(&self) -> Result<Vec<String>, DiskError> {
        let listed = descriptors::open(|| fs::openat(&self.0.file, ".", TO_LIST, Mode::empty())).map_err(disk_error)?;
        let mut names = Vec::new();
        for entry in fs::Dir::new(listed).map_err(disk_error)? {
            // Names that are not text are none of ours.
            if let Ok(name) = entry.map_err(disk_error)?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> Result<OwnedFd, DiskError> {
        self.open_file(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> Result<OwnedFd, DiskError> {
        self.open_file(name, OFlags::empty())
    }

    fn length(&self, file: &OwnedFd) -> Result<u64, DiskError> {
        let length = fs::fstat(file).map_err(disk_error)?.st_size;
        u64::try_from(length).map_err(|_| DiskError::Failed("a negative length".to_owned()))
    }

    fn allocate(&self, file: &OwnedFd, bytes: u64) -> Result<bool, DiskError> {
        match rustix::io::retry_on_intr(|| fs::fallocate(file, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(disk_error(error)),
        }
    }

    fn read(&self, file: &OwnedFd, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut into[done..], at)) {
                Ok(0) => return Err(DiskError::Failed(format!("the file ends at byte {at}"))),
                Ok(count) => done += count,
                Err(error) => return Err(disk_error(error)),
            }
        }
        Ok(())
    }

    fn write(&self, file: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match rustix::io::retry_on_intr(|| rustix::io::pwrite(file, &bytes[done..], at)) {
                Ok(0) => return Err(DiskError::Failed(format!("nothing could be written at byte {at}"))),
                Ok(count) => done += count,
                Err(error) => return Err(disk_error(error)),
            }
        }
        Ok(())
    }

    fn sync(&self, file: &OwnedFd) -> Result<(), DiskError> {
        // Not even an interrupted sync is called again: what it left unwritten may count as written.
        fs::fdatasync(file).map_err(disk_error)
    }

    fn settle(&self, file: &OwnedFd) -> Result<(), DiskError> {
        self.sync(file)?;
        fs::fadvise(file, 0, None, Advice::DontNeed).map_err(disk_error)?;
        self.prefetch(file)
    }

    fn prefetch(&self, file: &OwnedFd) -> Result<(), DiskError> {
        fs::fadvise(file, 0, None, Advice::WillNeed).map_err(disk_error)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::renameat(&self.0.file, from, &self.0.file, to).map_err(disk_error)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        fs::unlinkat(&self.0.file, name, AtFlags::empty()).map_err(disk_error)
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        fs::fsync(&self.0.file).map_err(disk_error)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let found = fs::fstatvfs(&self.0.file).map_err(disk_error)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        assert_eq!(network_file_system(0x6969), Some("NFS"));
        assert_eq!(network_file_system(0xffff_ffff_ff53_4d42), Some("CIFS"));
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994] {
            assert_eq!(network_file_system(local), None, "ext4, XFS, Btrfs, tmpfs");
        }
    }
}
