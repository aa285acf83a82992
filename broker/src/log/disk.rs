//! What the log needs of a disk: one directory of files. The real one is `sagacore-disk`; tests and the simulator have
//! others, which crash, fill up and fail on demand.

/// Why a call of `Disk` failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No space is left. Only this one may be retried, and only before a segment is in use.
    #[error("no space is left")]
    Full,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// Anything else, in the system's words.
    #[error("{0}")]
    Failed(String),
}

/// A directory of files, as the log uses it. Handles are cheap; a clone of the disk reaches the same directory.
///
/// Nothing is durable until `sync` (a file's bytes) or `sync_directory` (names) has returned. A failed `sync` is never
/// called again by the log: the system may have dropped what it could not write.
pub trait Disk {
    /// An open file. It closes when dropped.
    type File;

    /// The names in the directory, in any order.
    fn names(&self) -> Result<Vec<String>, DiskError>;

    /// Creates an empty file. One of that name must not exist.
    fn create(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Opens a file to read and write.
    fn open(&self, name: &str) -> Result<Self::File, DiskError>;

    /// The file's length in bytes.
    fn length(&self, file: &Self::File) -> Result<u64, DiskError>;

    /// Makes the file `bytes` long, with space reserved. False where the file system cannot reserve: nothing happened.
    fn allocate(&self, file: &Self::File, bytes: u64) -> Result<bool, DiskError>;

    /// Fills `into` from `offset`. Fewer bytes than that are an error.
    fn read(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes all of `bytes` at `offset`.
    fn write(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes the file's bytes durable.
    fn sync(&self, file: &Self::File) -> Result<(), DiskError>;

    /// Makes what a reader sees and what the disk holds the same: syncs, then forgets what is cached. After a failed
    /// sync of an earlier process the cache may hold bytes that the disk lacks. The file will be read soon.
    fn settle(&self, file: &Self::File) -> Result<(), DiskError>;

    /// The file will be read soon.
    fn prefetch(&self, _file: &Self::File) -> Result<(), DiskError> {
        Ok(())
    }

    /// Renames a file, in place of one that has the new name. Atomic, but durable only after `sync_directory`.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> Result<(), DiskError>;

    /// Bytes that the file system has left for this process.
    fn free_bytes(&self) -> Result<u64, DiskError>;
}
