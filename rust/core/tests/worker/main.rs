//! A service process, by its frames: what the broker delivers, what the process answers.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod compensations;
mod process;
mod sessions;
mod steps;
mod waiting;
mod watermarks;
