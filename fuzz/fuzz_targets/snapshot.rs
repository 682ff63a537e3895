//! The fuzz target `snapshot`, for cargo fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: dsm_fuzz::snapshot::seed_corpus(),
    |bytes: &[u8]| dsm_fuzz::snapshot::run(bytes)
);
