//! Keys of version 3: dots lead into what was found.

use crate::error::Error;
use crate::value::Value;

/// Splits a key at dots; quoted parts keep theirs.
pub(super) fn split(key: &str) -> Option<Vec<String>> {
    let mut segments = Vec::new();
    let mut rest = key;
    loop {
        let (segment, after) = match rest.chars().next()? {
            quote @ ('"' | '\'') => {
                let end = rest[1..].find(quote).filter(|end| *end > 0)?;
                (&rest[1..=end], &rest[end + 2..])
            }
            _ => {
                let end = rest.find(['\'', '"', '.']).unwrap_or(rest.len());
                if end == 0 {
                    return None;
                }
                rest.split_at(end)
            }
        };
        segments.push(segment.to_owned());
        if after.is_empty() {
            return Some(segments);
        }
        rest = after.strip_prefix('.')?;
    }
}

/// Follows the segments of `key` into a value.
pub(super) fn dig(segments: &[String], value: Value, key: &str) -> Result<Option<Value>, Error> {
    let mut value = value;
    for segment in segments {
        let number = segment.bytes().all(|b| b.is_ascii_digit());
        value = match (value, number) {
            (Value::Null, _) => return Ok(None),
            (Value::Array(mut list), true) => match segment.parse::<usize>().ok().filter(|at| *at < list.len()) {
                Some(at) => list.swap_remove(at),
                None => return Ok(None),
            },
            (Value::Hash(hash), false) => match hash.get_str(segment) {
                Some(value) => value.clone(),
                None => return Ok(None),
            },
            (other, _) => {
                return Err(Error::data(format!(
                    "type mismatch: got {} where {} was expected to access '{segment}' of key '{key}'",
                    other.type_name(),
                    if number { "an Array" } else { "a Hash" }
                )));
            }
        };
    }
    Ok(Some(value))
}
