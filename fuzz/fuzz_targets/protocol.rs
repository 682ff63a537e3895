//! The fuzz target `protocol`, for cargo fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsm_fuzz::protocol::run(bytes));
