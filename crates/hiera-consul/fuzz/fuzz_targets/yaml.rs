//! YAML as Psych reads it: any bytes are read or refused, and data that is written is read back as it was.
#![no_main]

use hiera_consul::psych;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(value) = psych::load(input) {
        let text = value.to_yaml();
        // Symbols and numbers that are none have no form of their own.
        if value.is_data() && value.to_json().is_some() {
            assert_eq!(psych::load(text.as_bytes()).ok().as_ref(), Some(&value), "written as {text:?}");
        }
    }
});
