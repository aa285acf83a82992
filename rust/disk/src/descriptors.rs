//! Descriptors that are the log's alone: no number of connections can stop it.
//!
//! Connections end at the soft limit of open files. The log goes beyond it, up to the hard one:
//!
//! 1. One at a time raises the limit, by one descriptor after another, until its file is open.
//! 2. Meanwhile the threads that accept connections may take what was meant for the file: then the next is tried.
//! 3. What they took is above the soft limit, where nothing but the log belongs, so it is known, and it is cut. Who was
//!    cut connects again, as after any lost connection.

#![expect(unsafe_code, reason = "what others hold above the limit is known by its number alone")]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How often the log tries to get a descriptor while all above the limit are taken, and how long it waits each time
/// for those who were cut to let go.
const TRIES: u32 = 500;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// The limit belongs to the process: only one may raise it, or it stays where another had put it.
static RAISED: Mutex<()> = Mutex::new(());

/// Opens a file, beyond the soft limit if the process has as many descriptors as it allows itself.
pub(crate) fn open(open: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        match open().or_else(|error| if error == Errno::MFILE { beyond_limit(&open) } else { Err(error) }) {
            Err(Errno::MFILE) => std::thread::sleep(BETWEEN_TRIES),
            opened => return opened,
        }
    }
    Err(Errno::MFILE)
}

fn beyond_limit(open: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let _alone = RAISED.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    let Some(soft) = limit.current else { return Err(Errno::MFILE) };
    let mut opened = Err(Errno::MFILE);
    let mut raised = soft;
    while matches!(opened, Err(Errno::MFILE)) && limit.maximum.is_none_or(|hard| raised < hard) {
        raised += 1;
        setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit })?;
        opened = open();
    }
    setrlimit(Resource::Nofile, limit)?;
    for number in soft..raised {
        cut_connection(number);
    }
    opened
}

/// Ends the connection that has this descriptor, if one has.
fn cut_connection(number: u64) {
    let Ok(number) = RawFd::try_from(number) else { return };
    // SAFETY: the descriptor is used within this function alone, and may be closed meanwhile: then the calls fail.
    // Nothing else can have come in its place, as nothing is opened above the limit without the lock.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let is_socket = fstat(descriptor).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Socket);
    if is_socket {
        // It may have ended by itself.
        let _ = shutdown(descriptor, Shutdown::Both);
    }
}
