//! libFuzzer's way into `sagacore_fuzz::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sagacore_fuzz::log(bytes));
