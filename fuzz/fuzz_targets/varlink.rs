//! See `peat_blob_tests::fuzzing::varlink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peat_blob_tests::fuzzing::varlink(bytes));
