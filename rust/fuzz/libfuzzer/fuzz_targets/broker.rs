//! libFuzzer's way into `sagacore_fuzz::broker`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sagacore_fuzz::broker(bytes));
