//! Any bytes are read or refused, and only what the key has signed is accepted; see `mirror_sync::parsers::signed`.
//! The secret half of `signed.asc` was thrown away when the seeds were made.
#![no_main]

const KEY: &[u8] = include_bytes!("../signed.asc");
const TEXT: &str = include_str!("../signed.txt");

libfuzzer_sys::fuzz_target!(|input: &[u8]| mirror_sync::parsers::signed(KEY, TEXT, input));
