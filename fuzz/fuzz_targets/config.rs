//! The fuzz target `config`, for cargo fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsm_fuzz::config::run(bytes));
