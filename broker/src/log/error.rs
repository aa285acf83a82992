//! What can be wrong with a log, by name, with what to do about it.

use super::disk::DiskError;
use super::frame::Fault;

/// Why the log does not start or go on. The name before the colon is stable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("log.locked: another process writes the log in {directory}")]
    Locked { directory: String },
    #[error("log.network: {directory} is on a network file system ({kind})")]
    Network { directory: String, kind: &'static str },
    #[error("log.disk: cannot {action} {file}: {error}")]
    Disk { action: &'static str, file: String, error: DiskError },
    #[error("log.setting: {text}")]
    Setting { text: String },
    #[error(
        "log.damaged: {file} is damaged at byte {offset}, where LSN {lsn} should be ({fault}); \
         a later frame, LSN {later_lsn}, says that it was durable"
    )]
    Damaged { file: String, offset: u64, lsn: u64, fault: Fault, later_lsn: u64 },
    #[error("log.read-back: {file} is damaged at byte {offset}, where LSN {lsn} was written ({fault})")]
    ReadBack { file: String, offset: u64, lsn: u64, fault: Fault },
    #[error("log.no-first-frame: {file} has no valid first frame ({fault}), and the segments before it are gone")]
    NoFirstFrame { file: String, fault: Fault },
    #[error("log.missing-segment: {file} is missing")]
    MissingSegment { file: String },
    #[error("log.first-lsn: {file} begins with LSN {found}, but LSN {expected} comes next")]
    FirstLsn { file: String, found: u64, expected: u64 },
    #[error("log.segment-header: the header of {file} is damaged, or of another segment")]
    SegmentHeader { file: String },
    #[error("log.segment-version: {file} has version {version}, which is not known")]
    SegmentVersion { file: String, version: u32 },
    #[error("log.segment-length: {file} has {found} bytes, not {expected}")]
    SegmentLength { file: String, found: u64, expected: u64 },
    #[error("log.frame-version: {file} has a frame of version {version} at byte {offset}, which is not known")]
    FrameVersion { file: String, offset: u64, version: u8 },
    #[error("log.frame-type: {file} has a frame of type {code} at byte {offset}, which is not known")]
    FrameType { file: String, offset: u64, code: u8 },
    #[error("log.too-large: a batch of {bytes} bytes is more than the {max} that fit into a frame")]
    TooLarge { bytes: usize, max: usize },
    #[error("log.no-room: the last segment is full and the disk has no space for another")]
    NoRoom,
    #[error("log.poisoned: the log stopped at an earlier error: {text}")]
    Poisoned { text: String },
}

impl LogError {
    /// The stable name, as `log.damaged`.
    pub fn name(&self) -> String {
        let text = self.to_string();
        text.split(':').next().unwrap_or_default().to_owned()
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "stop the other broker, or give this one a directory of its own",
            Self::Network { .. } => "keep the log on a local disk: a network file system cannot promise what it syncs",
            Self::Disk { error: DiskError::Full, .. } | Self::NoRoom => "free space on the log's disk and start again",
            Self::Disk { .. } => "see to the disk or the directory's permissions; what was confirmed stays confirmed",
            Self::Setting { .. } => "correct the setting",
            Self::Damaged { .. } | Self::ReadBack { .. } | Self::SegmentHeader { .. } => {
                "copy the directory, look with `sagacore log verify`, then restore a copy or cut with \
                 `sagacore log repair`, which drops what follows the damage"
            }
            Self::MissingSegment { .. } | Self::NoFirstFrame { .. } | Self::FirstLsn { .. } => {
                "put the file back from a copy; `sagacore log repair` can only keep what comes before the gap"
            }
            Self::SegmentLength { .. } => "the file was cut or extended by hand: restore it, or `sagacore log repair`",
            Self::SegmentVersion { .. } | Self::FrameVersion { .. } | Self::FrameType { .. } => {
                "a newer sagacore wrote this log: start that version"
            }
            Self::TooLarge { .. } => "log it in smaller batches, or raise the segments' size",
            Self::Poisoned { .. } => "the broker must stop and start again; recovery keeps all that was confirmed",
        }
    }
}

/// Says what was done to which file when a disk's call failed.
pub(super) trait During<T> {
    fn during(self, action: &'static str, file: &str) -> Result<T, LogError>;
}

impl<T> During<T> for Result<T, DiskError> {
    fn during(self, action: &'static str, file: &str) -> Result<T, LogError> {
        self.map_err(|error| LogError::Disk { action, file: file.to_owned(), error })
    }
}
