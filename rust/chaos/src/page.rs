//! The page that the process shares with whoever runs the chaos.
//!
//! ```text
//!   0    8 clock     milliseconds to add to the wall clock, signed; written by the other side
//!   8    8 sectors   sectors that are kept back now; a killed process leaves how many it lost
//! ```

#![expect(unsafe_code, reason = "memory that another process writes too is mapped, and read by atomics alone")]

use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

#[repr(C)]
struct Page {
    clock_ms: AtomicI64,
    sectors: AtomicU64,
}

const PAGE_BYTES: usize = size_of::<Page>();
const _: () = assert!(PAGE_BYTES == 16);

/// Milliseconds to add to the wall clock.
pub fn clock_ms() -> i64 {
    page().map_or(0, |page| page.clock_ms.load(Ordering::Relaxed))
}

/// Tells how many sectors are kept back.
pub fn set_sectors(count: u64) {
    if let Some(page) = page() {
        page.sectors.store(count, Ordering::Relaxed);
    }
}

fn page() -> Option<&'static Page> {
    static PAGE: OnceLock<Option<&'static Page>> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let path = std::env::var_os("SAGACORE_CHAOS_PAGE")?;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).ok()?;
        if file.metadata().ok()?.len() < PAGE_BYTES as u64 {
            return None;
        }
        // SAFETY: a fresh mapping of a file that is long enough. It is never unmapped.
        let mapped = unsafe {
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), PAGE_BYTES, rights, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        // SAFETY: pages are aligned, any bytes are a `Page`, and everybody reads and writes it by atomics.
        (mapped != libc::MAP_FAILED).then(|| unsafe { &*mapped.cast::<Page>() })
    })
}
