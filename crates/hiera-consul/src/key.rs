//! Lookup keys: `root.segment.0."quoted.segment"`.

use crate::error::Error;
use crate::value::Value;

/// One step below the root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// An index into a list, or an integer key.
    Index(i64),
    /// A key of a hash.
    Name(String),
}

impl std::fmt::Display for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Segment::Index(n) => write!(f, "{n}"),
            Segment::Name(name) => f.write_str(name),
        }
    }
}

/// A parsed key.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key as it was written.
    pub text: String,
    /// What a data provider is asked for.
    pub root: String,
    /// What is dug out of the found value.
    pub segments: Vec<Segment>,
}

impl Key {
    /// Parses `text`; `context` names where it stands, for the message.
    pub fn parse(text: &str, context: impl Fn() -> String) -> Result<Self, Error> {
        let mut segments =
            split(text).ok_or_else(|| Error::data(format!("syntax error in {}", context())))?.into_iter();
        let root = match segments.next() {
            Some(segment) => segment.to_string(),
            None => String::new(),
        };
        Ok(Key { text: text.to_owned(), root, segments: segments.collect() })
    }

    /// Returns the module that the key belongs to: what is before the first `::`.
    pub fn module(&self) -> Option<&str> {
        self.root.find("::").map(|at| &self.root[..at])
    }

    /// Digs the segments out of `value`; `None` when one of them is not there.
    pub fn dig(&self, value: Value) -> Result<Option<Value>, Error> {
        let mut value = value;
        for segment in &self.segments {
            value = match (value, segment) {
                (Value::Null, _) => return Ok(None),
                (Value::Array(mut list), Segment::Index(n)) => {
                    match usize::try_from(*n).ok().filter(|at| *at < list.len()) {
                        Some(at) => list.swap_remove(at),
                        None => return Ok(None),
                    }
                }
                (Value::Hash(hash), segment) => {
                    let found = match segment {
                        Segment::Index(n) => hash.get(&Value::Int(*n)),
                        Segment::Name(name) => hash.get_str(name),
                    };
                    match found {
                        Some(found) => found.clone(),
                        None => return Ok(None),
                    }
                }
                (other, segment) => {
                    return Err(Error::data(format!(
                        "type mismatch: got {} where a hash was expected to access '{segment}' of key '{}'",
                        other.type_name(),
                        self.text
                    )));
                }
            };
        }
        Ok(Some(value))
    }
}

/// Splits a key into segments; `None` is a syntax error.
///
/// A segment is a quoted text (either quote) or anything without quotes and dots; blanks around
/// it do not count. Segments are separated by exactly one dot.
fn split(key: &str) -> Option<Vec<Segment>> {
    if !key.contains(['\'', '"', '.']) {
        return Some(vec![Segment::Name(key.to_owned())]);
    }
    let mut segments = Vec::new();
    let mut rest = key;
    loop {
        let trimmed = rest.trim_start();
        let (segment, after) = match trimmed.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let body = &trimmed[1..];
                let end = body.find(quote)?;
                if end == 0 {
                    return None;
                }
                (Segment::Name(body[..end].to_owned()), body[end + 1..].trim_start())
            }
            _ => {
                let end = rest.find(['\'', '"', '.']).unwrap_or(rest.len());
                if end == 0 {
                    return None;
                }
                (number_or_name(rest[..end].trim()), &rest[end..])
            }
        };
        segments.push(segment);
        if after.is_empty() {
            return Some(segments);
        }
        rest = after.strip_prefix('.')?;
        if rest.is_empty() {
            return None;
        }
    }
}

fn number_or_name(text: &str) -> Segment {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(n) = text.trim_start_matches('+').parse()
    {
        return Segment::Index(n);
    }
    Segment::Name(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(key: &str) -> Option<Vec<String>> {
        split(key).map(|s| s.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn splits_dots_and_quotes() {
        assert_eq!(texts("a::b.c.0").expect("valid"), ["a::b", "c", "0"]);
        assert_eq!(texts("a.'b.c'.\"d\"").expect("valid"), ["a", "b.c", "d"]);
        assert_eq!(texts(" a . 'b' ").expect("valid"), ["a", "b"]);
        assert_eq!(texts("plain key").expect("valid"), ["plain key"]);
    }

    #[test]
    fn refuses_broken_keys() {
        for key in ["a..b", "a.", ".a", "'a.b\"", "a.''.b", "a.'pa'key", "'", "."] {
            assert_eq!(texts(key), None, "{key}");
        }
    }
}
