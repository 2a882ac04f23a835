//! Bytes as people and file names have them.

/// Returns bytes as lower-case hex digits.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("a nibble is a hex digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_have_two_digits_each() {
        assert_eq!(super::encode(b"\x00\x0f\xa0\xff"), "000fa0ff");
        assert_eq!(super::encode(b""), "");
    }
}
