//! The functions of the C library that this one stands in for. What is not of the directory goes straight to the
//! system. So do the calls that are made here: by number, past all functions of that name.

#![expect(unsafe_code, reason = "they have the C library's names, and take what it takes")]

use std::ffi::CStr;
use std::io;

use libc::{AT_FDCWD, c_char, c_int, c_void, off_t, size_t, ssize_t};

use crate::page;
use crate::state::{self, State, System, What};

struct Kernel;

/// What a system call gave, as a number or an error.
fn checked(result: libc::c_long) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn stat(descriptor: c_int) -> io::Result<libc::stat> {
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills in a `stat`, which is of zeros and valid before.
    unsafe {
        checked(libc::syscall(libc::SYS_fstat, descriptor, found.as_mut_ptr()))?;
        Ok(found.assume_init())
    }
}

impl System for Kernel {
    fn id(&self, descriptor: i32) -> io::Result<state::FileId> {
        stat(descriptor).map(|found| (found.st_dev, found.st_ino))
    }

    fn length(&self, descriptor: i32) -> io::Result<u64> {
        Ok(stat(descriptor)?.st_size.unsigned_abs())
    }

    fn extend(&self, descriptor: i32, bytes: u64) -> io::Result<()> {
        // SAFETY: no memory is handed over.
        checked(unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, bytes) }).map(|_| ())
    }

    fn read(&self, descriptor: i32, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the kernel writes at most as many bytes as there are.
        let read = unsafe { libc::syscall(libc::SYS_pread64, descriptor, into.as_mut_ptr(), into.len(), offset) };
        checked(read).map(|count| count as usize)
    }

    fn write(&self, descriptor: i32, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // SAFETY: the kernel reads as many bytes as there are.
            let wrote = unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes.as_ptr(), bytes.len(), offset) };
            let count = checked(wrote)?;
            offset += count;
            bytes = &bytes[count as usize..];
        }
        Ok(())
    }
}

/// What a C function returns: the number, or -1 with `errno`.
fn returned<T: TryFrom<u64> + From<i8>>(result: io::Result<u64>) -> T {
    match result {
        Ok(number) => T::try_from(number).unwrap_or_else(|_| die("a number that is too large")),
        Err(error) => {
            // SAFETY: it is this thread's own.
            unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EIO) };
            T::from(-1)
        }
    }
}

/// Ends the process: what cannot be kept back must not be done in silence.
fn die(text: &str) -> ! {
    let text = format!("sagacore-chaos: {text}\n");
    // SAFETY: the kernel reads as many bytes as there are.
    unsafe {
        libc::syscall(libc::SYS_write, 2, text.as_ptr(), text.len());
        libc::abort()
    }
}

/// Does `work` if the descriptor is of the directory.
fn ours<T>(descriptor: c_int, work: impl FnOnce(&mut State, What) -> T) -> Option<T> {
    if !state::maybe(descriptor) {
        return None;
    }
    let mut state = state::lock()?;
    let what = state.what(&Kernel, descriptor)?;
    Some(work(&mut state, what))
}

fn refuse(descriptor: c_int, call: &str) {
    if ours(descriptor, |_, what| what) == Some(What::File) {
        die(&format!("{call} on a file whose unsynced writes are kept back"));
    }
}

/// # Safety
/// `path` is a C string.
unsafe fn open_any(at: c_int, path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: as the caller says.
    let (opened, name) = unsafe {
        (libc::syscall(libc::SYS_openat, at, path, flags | libc::O_LARGEFILE, mode), CStr::from_ptr(path).to_bytes())
    };
    let descriptor = match checked(opened) {
        Ok(descriptor) => descriptor as c_int,
        Err(error) => return returned(Err(error)),
    };
    state::is_new(descriptor);
    let done = if flags & libc::O_DIRECTORY != 0 {
        state::lock().map(|mut state| state.opened_directory(&Kernel, descriptor))
    } else {
        ours(at, |state, _| {
            if flags & (libc::O_TRUNC | libc::O_APPEND) != 0 || flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT
            {
                die("a file of the directory was opened in a way that is not known here");
            }
            state.opened_file(&Kernel, descriptor, (flags & libc::O_CREAT != 0).then_some(name))
        })
    };
    if let Some(Err(error)) = done {
        die(&format!("opening: {error}"));
    }
    descriptor
}

/// # Safety
/// `bytes` has `count` bytes.
unsafe fn write_at(descriptor: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    // SAFETY: as the caller says.
    let slice = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count) };
    let kept = ours(descriptor, |state, _| state.write(&Kernel, descriptor, offset.unsigned_abs(), slice));
    match kept {
        Some(kept) => returned(kept.map(|()| count as u64)),
        // SAFETY: as the caller says.
        None => returned(checked(unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes, count, offset) })),
    }
}

/// # Safety
/// `into` has room for `count` bytes.
unsafe fn read_at(descriptor: c_int, into: *mut c_void, count: size_t, offset: off_t) -> ssize_t {
    let system = || {
        // SAFETY: as the caller says.
        checked(unsafe { libc::syscall(libc::SYS_pread64, descriptor, into, count, offset) })
    };
    // Under the lock, so that no flush comes between the two.
    let read = ours(descriptor, |state, _| {
        let read = system()?;
        // SAFETY: the kernel has written so many bytes there.
        let found = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), read as usize) };
        state.read(descriptor, offset.unsigned_abs(), found);
        Ok(read)
    });
    returned(read.unwrap_or_else(system))
}

fn sync(descriptor: c_int, call: libc::c_long) -> c_int {
    if ours(descriptor, |_, what| what) == Some(What::File) {
        std::thread::sleep(state::sync_time());
    }
    let flushed = ours(descriptor, |state, what| match what {
        What::File => state.flush(&Kernel, descriptor),
        What::Directory => Ok(()),
    });
    if let Some(Err(error)) = flushed {
        return returned(Err(error));
    }
    // SAFETY: no memory is handed over.
    let synced = checked(unsafe { libc::syscall(call, descriptor) });
    if synced.is_ok() {
        let settled = ours(descriptor, |state, what| match what {
            What::Directory => state.undo()?.settle(),
            What::File => Ok(()),
        });
        if let Some(Err(error)) = settled {
            die(&format!("syncing the directory: {error}"));
        }
    }
    returned(synced)
}

/// # Safety
/// `path` is a C string.
unsafe fn plain_name<'a>(path: *const c_char) -> &'a str {
    // SAFETY: as the caller says.
    let name = unsafe { CStr::from_ptr(path) };
    state::text(name.to_bytes()).unwrap_or_else(|error| die(&error.to_string()))
}

/// Defines functions with the C library's names. The tests of this crate go without: they need a working file system.
macro_rules! stand_in {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty { $($body:tt)* })*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[cfg_attr(test, allow(dead_code, reason = "the tests call none of them, but for those that another calls"))]
        unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            // SAFETY: the caller keeps to what the C library asks of it.
            #[allow(unused_unsafe, reason = "some need none")]
            unsafe { $($body)* }
        }
    )*};
}

// What C has as `...` is a mode here: it comes in the same register.
stand_in! {
    open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int { open_any(AT_FDCWD, path, flags, mode) }
    open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int { open_any(AT_FDCWD, path, flags, mode) }
    openat(at: c_int, path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
        open_any(at, path, flags, mode)
    }
    openat64(at: c_int, path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
        open_any(at, path, flags, mode)
    }
    close(descriptor: c_int) -> c_int {
        ours(descriptor, |state, _| state.closed(descriptor));
        returned(checked(libc::syscall(libc::SYS_close, descriptor)))
    }
    pwrite(descriptor: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
        write_at(descriptor, bytes, count, offset)
    }
    pwrite64(descriptor: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
        write_at(descriptor, bytes, count, offset)
    }
    pread(descriptor: c_int, into: *mut c_void, count: size_t, offset: off_t) -> ssize_t {
        read_at(descriptor, into, count, offset)
    }
    pread64(descriptor: c_int, into: *mut c_void, count: size_t, offset: off_t) -> ssize_t {
        read_at(descriptor, into, count, offset)
    }
    fdatasync(descriptor: c_int) -> c_int { sync(descriptor, libc::SYS_fdatasync) }
    fsync(descriptor: c_int) -> c_int { sync(descriptor, libc::SYS_fsync) }
    renameat(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char) -> c_int {
        let rename = || checked(libc::syscall(libc::SYS_renameat2, from_at, from, to_at, to, 0));
        let renamed = ours(from_at, |state, _| {
            let (old, new) = (plain_name(from), plain_name(to));
            state.undo()?.renaming(new)?;
            let renamed = rename()?;
            state.undo()?.renamed(old, new)?;
            Ok(renamed)
        });
        returned(renamed.unwrap_or_else(rename))
    }
    unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
        let removing = ours(at, |state, _| state.undo()?.removing(plain_name(path)));
        match removing {
            Some(Err(error)) => returned(Err(error)),
            _ => returned(checked(libc::syscall(libc::SYS_unlinkat, at, path, flags))),
        }
    }
    write(descriptor: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
        refuse(descriptor, "write");
        returned(checked(libc::syscall(libc::SYS_write, descriptor, bytes, count)))
    }
    writev(descriptor: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t {
        refuse(descriptor, "writev");
        returned(checked(libc::syscall(libc::SYS_writev, descriptor, parts, count)))
    }
    read(descriptor: c_int, into: *mut c_void, count: size_t) -> ssize_t {
        refuse(descriptor, "read");
        returned(checked(libc::syscall(libc::SYS_read, descriptor, into, count)))
    }
    ftruncate(descriptor: c_int, bytes: off_t) -> c_int {
        refuse(descriptor, "ftruncate");
        returned(checked(libc::syscall(libc::SYS_ftruncate, descriptor, bytes)))
    }
    ftruncate64(descriptor: c_int, bytes: off_t) -> c_int {
        refuse(descriptor, "ftruncate");
        returned(checked(libc::syscall(libc::SYS_ftruncate, descriptor, bytes)))
    }
    clock_gettime(clock: libc::clockid_t, into: *mut libc::timespec) -> c_int {
        let result = libc::syscall(libc::SYS_clock_gettime, clock, into);
        if result == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
            let later_ms = page::clock_ms();
            (*into).tv_sec += later_ms.div_euclid(1_000);
            (*into).tv_nsec += later_ms.rem_euclid(1_000) * 1_000_000;
            if (*into).tv_nsec >= 1_000_000_000 {
                (*into).tv_sec += 1;
                (*into).tv_nsec -= 1_000_000_000;
            }
        }
        returned(checked(result))
    }
    time(into: *mut libc::time_t) -> libc::time_t {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        if !into.is_null() {
            *into = now.tv_sec;
        }
        now.tv_sec
    }
    gettimeofday(into: *mut libc::timeval, zone: *mut c_void) -> c_int {
        let _ = zone;
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let result = clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        *into = libc::timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 };
        result
    }
}
