//! Any bytes are read or refused; see `mirror_sync::parsers::archive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mirror_sync::parsers::archive(input));
