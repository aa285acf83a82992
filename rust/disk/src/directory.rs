//! A directory of files on this machine, held by one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use sagacore_broker::log::{Disk, DiskError, LogError};

/// A log's directory. Clones share it, and its lock, which ends with the last of them.
#[derive(Clone)]
pub struct Directory {
    path: Arc<Path>,
    handle: Arc<OwnedFd>,
}

/// What `statfs` calls file systems that live on another machine: they cannot promise what they sync.
const NETWORKS: [(i64, &str); 4] =
    [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB2"), (0x0102_1997, "9P")];

impl Directory {
    /// Opens a directory, makes it where it is missing, and locks it.
    ///
    /// # Errors
    /// `Locked` where another process has it, `Network` for a network file system, `Disk` for anything else.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let name = path.display().to_string();
        let failed = |action: &'static str| {
            let name = name.clone();
            move |error: Error| LogError::Disk { action, file: name, error: disk_error(&error) }
        };
        std::fs::create_dir_all(path).map_err(failed("create"))?;
        let absolute = std::fs::canonicalize(path).map_err(failed("find"))?;
        // A new directory's name must outlive a crash just as its files' names.
        for folder in absolute.ancestors().skip(1).take(1) {
            let parent = File::open(folder).map_err(failed("open the parent of"))?;
            parent.sync_all().map_err(failed("sync the parent of"))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&absolute, flags, Mode::empty()).map_err(|error| failed("open")(error.into()))?;
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LogError::Locked { directory: name }),
            Err(error) => return Err(failed("lock")(error.into())),
        }
        let system = rustix::fs::fstatfs(&handle).map_err(|error| failed("look at")(error.into()))?;
        let kind = system.f_type as i64 & 0xffff_ffff;
        if let Some(&(_, kind)) = NETWORKS.iter().find(|(magic, _)| *magic == kind) {
            return Err(LogError::Network { directory: name, kind });
        }
        Ok(Self { path: absolute.into(), handle: Arc::new(handle) })
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for Directory {
    type File = File;

    fn names(&self) -> Result<Vec<String>, DiskError> {
        let entries = std::fs::read_dir(&self.path).map_err(of)?;
        let names = entries.map(|entry| Ok(entry.map_err(of)?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn create(&self, name: &str) -> Result<File, DiskError> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path_of(name)).map_err(of)
    }

    fn open(&self, name: &str) -> Result<File, DiskError> {
        OpenOptions::new().read(true).write(true).open(self.path_of(name)).map_err(of)
    }

    fn length(&self, file: &File) -> Result<u64, DiskError> {
        Ok(file.metadata().map_err(of)?.len())
    }

    fn allocate(&self, file: &File, bytes: u64) -> Result<bool, DiskError> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(of(error.into())),
        }
    }

    fn read(&self, file: &File, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        file.read_exact_at(into, offset).map_err(of)
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        file.write_all_at(bytes, offset).map_err(of)
    }

    fn sync(&self, file: &File) -> Result<(), DiskError> {
        rustix::fs::fdatasync(file).map_err(|error| of(error.into()))
    }

    fn settle(&self, file: &File) -> Result<(), DiskError> {
        self.sync(file)?;
        // Advice: a file system that does not take it, such as one in memory, has no cache to forget.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        std::fs::rename(self.path_of(from), self.path_of(to)).map_err(of)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.path_of(name)).map_err(of)
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        rustix::fs::fsync(&*self.handle).map_err(|error| of(error.into()))
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let system = rustix::fs::fstatvfs(&*self.handle).map_err(|error| of(error.into()))?;
        Ok(system.f_bavail * system.f_frsize)
    }
}

fn of(error: Error) -> DiskError {
    disk_error(&error)
}

fn disk_error(error: &Error) -> DiskError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::Full,
        ErrorKind::NotFound => DiskError::Missing,
        _ => DiskError::Failed(error.to_string()),
    }
}
