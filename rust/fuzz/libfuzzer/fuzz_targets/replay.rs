//! libFuzzer's way into `sagacore_fuzz::replay`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sagacore_fuzz::replay(bytes));
