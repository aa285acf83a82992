//! Connections take every descriptor that they get, all the time: the log gets its files all the same.
#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod support;

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sagacore_broker::log::Disk;
use sagacore_disk::FileDisk;
use support::Directory;

const SOFT: u64 = 64;
const KEPT: u64 = 16;
const FILES: usize = 5_000;
/// Fewer than are kept: the log's own files are above the limit, too.
const OPEN_FILES: usize = 6;

/// Takes descriptors until `done`, and lets go of those that somebody has ended. Returns how many that were.
fn take_all(done: &AtomicBool) -> usize {
    let mut taken: Vec<UnixDatagram> = Vec::new();
    let mut ended = 0;
    while !done.load(Relaxed) {
        while let Ok(socket) = UnixDatagram::unbound() {
            taken.push(socket);
        }
        let before = taken.len();
        taken.retain(|socket| {
            let mut asked = [PollFd::new(socket, PollFlags::empty())];
            poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
        });
        ended += before - taken.len();
    }
    ended
}

#[test]
fn the_log_opens_its_files_while_others_take_all_that_they_get() {
    let directory = Directory::new();
    let disk = FileDisk::open(&directory.path).unwrap();
    disk.create("file").unwrap();
    let limit = Rlimit { current: Some(SOFT), maximum: Some(SOFT + KEPT) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let done = AtomicBool::new(false);
    let ended: usize = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..2).map(|_| scope.spawn(|| take_all(&done))).collect();
        // Two threads of the log, as in a broker: one writes, the other prepares the next segment.
        let openers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut open = VecDeque::new();
                    for _ in 0..FILES {
                        open.push_back(disk.open("file").unwrap());
                        if open.len() > OPEN_FILES {
                            open.pop_front();
                        }
                    }
                })
            })
            .collect();
        let opened: Vec<_> = openers.into_iter().map(|opener| opener.join()).collect();
        let names = disk.names();
        done.store(true, Relaxed); // Before anything is asserted, or the takers never end.
        assert!(opened.iter().all(Result::is_ok));
        assert!(names.unwrap().contains(&"file".to_owned()));
        takers.into_iter().map(|taker| taker.join().unwrap()).sum()
    });
    println!("{ended} were ended above the limit");
    assert_eq!(getrlimit(Resource::Nofile), limit, "the limit is where it was");
}
