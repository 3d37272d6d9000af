//! See `checks::signature`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| callbridge_fuzz::checks::signature::check(input));
