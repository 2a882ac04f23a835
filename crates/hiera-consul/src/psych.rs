//! YAML with the meaning that Ruby's Psych gives it, because that is what Puppet reads data with.
//!
//! `libyaml` delivers the tree with plain and quoted scalars kept apart; this module decides
//! what a plain scalar is: YAML 1.1 booleans (`yes`, `off`), octal and base 60 numbers, digit
//! separators, symbols. Dates are refused as Puppet refuses them. Merge keys (`<<`) are resolved,
//! and of duplicate keys the last wins.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use toolkit::yaml::{self, Limits, Node};

use crate::error::Error;
use crate::libyaml;
use crate::value::{Hash, Value};

/// The largest file that is read.
pub const LARGEST: usize = 16 << 20;

/// What a file of this length may cost, aliases expanded: far above real data, far below what would hurt a node.
///
/// Up to a megabyte it is some 50 MB of memory; larger files may cost more, as large ones do.
pub fn limits(length: usize) -> Limits {
    Limits { bytes: LARGEST, depth: 100, nodes: (length / 7).max(150_000), text: (4 * length).max(16 << 20) }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns of this module are constant and valid")
}

macro_rules! pattern {
    ($name:ident, $pattern:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| regex($pattern));
    };
}

// Digits and blanks are those of ASCII, as for Ruby.
pattern!(
    TIME,
    r"(?-u)^-?\d{4}-\d{1,2}-\d{1,2}(?:[Tt]|\s+)\d{1,2}:\d\d:\d\d(?:\.\d*)?(?:\s*(?:Z|[-+]\d{1,2}:?(?:\d\d)?))?$"
);
pattern!(DATE, r"(?-u)^\d{4}-(?:1[012]|0\d|\d)-(?:[12]\d|3[01]|0\d|\d)$");
pattern!(BASE60, r"^[-+]?[0-9][0-9_]*(:[0-5]?[0-9]){1,2}$");
pattern!(BASE60_FLOAT, r"^[-+]?[0-9][0-9_]*(:[0-5]?[0-9]){1,2}\.[0-9_]*$");
pattern!(FLOAT, r"^[-+]?([0-9][0-9_,]*)?\.[0-9]*([eE][-+][0-9]+)?$");
pattern!(
    INTEGER,
    r"^(?:[-+]?0b[0-1_,]+|[-+]?0[0-7_,]+|[-+]?(?:0|[1-9](?:[0-9]|,[0-9]|_[0-9])*)|[-+]?0x[0-9a-fA-F_,]+)$"
);

// What Ruby's Float() takes and Psych does not take for a number by itself.
pattern!(
    FLOAT_TEXT,
    r"^[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]+(?:_[0-9]+)*)?|\.[0-9]+(?:_[0-9]+)*)(?:[eE][-+]?[0-9]+(?:_[0-9]+)*)?$"
);

/// Psych's pattern of what is text at first sight, `[^\d.:-]?[[:alpha:]_\s!@#$%^&*(){}<>|/\\~;=]+`.
fn is_text(text: &str) -> bool {
    let inside =
        |c: char| c.is_alphabetic() || c.is_ascii_whitespace() || c == '\u{b}' || r"_!@#$%^&*(){}<>|/\~;=".contains(c);
    let mut chars = text.chars();
    let first = chars.next();
    first.is_some_and(inside)
        || (first.is_some_and(|c| !c.is_ascii_digit() && !".:-".contains(c)) && chars.next().is_some_and(inside))
}

/// Returns what a plain scalar means.
///
/// Most scalars are told by their first characters: a pattern is built when a scalar is such that it may match, since
/// building all of them costs more than reading a small file.
pub fn scalar(text: &str) -> Result<Value, String> {
    let string = || Value::String(text.to_owned());
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if text.contains('\n') || is_text(text) {
        if text.chars().count() > 5 {
            return Ok(string());
        }
        // Ruby's patterns are for any line of it, and the end of an empty line is a character like others.
        let begins = std::iter::once(text).chain(text.match_indices('\n').map(|(at, _)| &text[at + 1..]));
        if begins.filter_map(|line| line.chars().next()).any(|c| !"ytonf~".contains(c.to_ascii_lowercase())) {
            return Ok(string());
        }
        let is = |words: &[&str]| text.split('\n').any(|line| words.iter().any(|word| line.eq_ignore_ascii_case(word)));
        return Ok(match text {
            "~" => Value::Null,
            _ if is(&["null"]) => Value::Null,
            _ if is(&["yes", "true", "on"]) => Value::Bool(true),
            _ if is(&["no", "false", "off"]) => Value::Bool(false),
            _ => string(),
        });
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if digits
        && (text.len() == 1 || !text.starts_with('0'))
        && let Ok(number) = text.parse()
    {
        return Ok(Value::Int(number));
    }
    let has = |c: char| text.contains(c);
    if has('-') && (TIME.is_match(text) || DATE.is_match(text)) {
        return Err(format!("'{text}' is a date or time, which Hiera data cannot hold; quote it"));
    }
    match text.to_ascii_lowercase().as_str() {
        ".inf" | "+.inf" => return Ok(Value::Float(f64::INFINITY)),
        "-.inf" => return Ok(Value::Float(f64::NEG_INFINITY)),
        ".nan" => return Ok(Value::Float(f64::NAN)),
        _ => {}
    }
    if let Some(name) = text.strip_prefix(':').filter(|name| !name.is_empty()) {
        // In quotes it ends with the last of them, whatever follows.
        let quote = name.chars().next().filter(|first| ['"', '\''].contains(first));
        let quoted = quote.and_then(|quote| name[1..].rsplit_once(quote));
        let name = quoted.map_or(name, |(inside, _)| inside.strip_prefix(':').unwrap_or(inside));
        return Ok(Value::Symbol(name.to_owned()));
    }
    if has(':') && BASE60.is_match(text) {
        let mut sum: i64 = 0;
        for (part, weight) in text.split(':').zip([3600, 60, 1]) {
            let Some(next) = part
                .replace('_', "")
                .parse::<i64>()
                .ok()
                .and_then(|n| n.checked_mul(weight))
                .and_then(|n| sum.checked_add(n))
            else {
                return Ok(string());
            };
            sum = next;
        }
        return Ok(Value::Int(sum));
    }
    if has(':') && has('.') && BASE60_FLOAT.is_match(text) {
        let sum = text
            .split(':')
            .zip([3600.0, 60.0, 1.0])
            .map(|(part, weight)| part.replace('_', "").parse().unwrap_or(0.0) * weight)
            .sum();
        return Ok(Value::Float(sum));
    }
    if text.bytes().filter(|b| *b == b'.').count() == 1 && FLOAT.is_match(text) {
        if matches!(text, "." | "+." | "-.") {
            return Ok(string());
        }
        return text.replace([',', '_'], "").parse().map(Value::Float).map_err(|_| format!("'{text}' is not a number"));
    }
    if !has('.') && !has(':') && INTEGER.is_match(text) {
        return integer(text);
    }
    Ok(string())
}

fn integer(text: &str) -> Result<Value, String> {
    let clean = text.replace([',', '_'], "");
    let (negative, digits) = match clean.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, clean.strip_prefix('+').unwrap_or(&clean)),
    };
    let (radix, digits) = if let Some(rest) = digits.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = digits.strip_prefix("0x") {
        (16, rest)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    let bad = || format!("'{text}' is not a number");
    if digits.is_empty() {
        return Err(bad());
    }
    match i128::from_str_radix(digits, radix) {
        Ok(n) => {
            let n = if negative { -n } else { n };
            Ok(i64::try_from(n).map_or_else(|_| Value::Big(n.to_string()), Value::Int))
        }
        // Beyond 128 bits: its decimal digits are kept as they are.
        Err(_) if radix == 10 => Ok(Value::Big(format!("{}{digits}", if negative { "-" } else { "" }))),
        Err(_) => Err(bad()),
    }
}

/// Reads the first YAML document; an empty one is null. What follows it is not looked at.
pub fn load(bytes: &[u8]) -> Result<Value, Error> {
    match libyaml::parse_first(bytes, &limits(bytes.len())) {
        Ok(None) => Ok(Value::Null),
        Ok(Some(node)) => convert(node),
        Err(error) => Err(Error::Data { message: error.message, file: None, line: Some(error.mark.line) }),
    }
}

/// Reads JSON, within the limits of YAML: a value for each comma, wherever the commas stand.
pub fn load_json(bytes: &[u8]) -> Result<Value, Error> {
    let most = limits(bytes.len()).nodes;
    if bytes.iter().filter(|byte| **byte == b',').count() > most {
        return Err(Error::data(format!("holds more than {most} values for a file of {} bytes", bytes.len())));
    }
    serde_json::from_slice(&whole_zeros(bytes)).map(Value::from_json).map_err(|e| Error::Data {
        message: e.to_string(),
        file: None,
        line: Some(e.line()),
    })
}

/// Writes `-0` as `0`, outside of strings: Ruby has one whole zero, and `serde_json` reads `-0` as a fraction.
fn whole_zeros(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_zero = |rest: &[u8]| {
        rest.first() == Some(&b'0') && !rest.get(1).is_some_and(|next| next.is_ascii_digit() || b".eE".contains(next))
    };
    let mut bytes = Cow::Borrowed(bytes);
    let mut inside = false;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if inside => at += 1,
            b'"' => inside = !inside,
            b'-' if !inside && is_zero(&bytes[at + 1..]) => bytes.to_mut()[at] = b' ',
            _ => {}
        }
        at += 1;
    }
    bytes
}

fn convert(node: Node) -> Result<Value, Error> {
    let line = Some(node.mark.line);
    let fail = |message: String| Error::Data { message, file: None, line };
    let tag = node.tag.as_deref();
    match node.value {
        yaml::Value::Scalar { text, plain } => match tag {
            Some("!!str" | "!str" | "!ruby/string") => Ok(Value::String(text)),
            Some(tag) if tag.starts_with("!ruby/sym") => Ok(Value::Symbol(text)),
            Some(tag) if SCALAR_OBJECTS.contains(&tag) || of_class(tag, &["!str", "!ruby/string"]) => {
                Err(fail(forbidden(tag)))
            }
            Some("!!binary" | "!binary") => match String::from_utf8(unpack(&text)) {
                Ok(text) => Ok(Value::String(text)),
                Err(_) => Err(fail("a binary value that is not text cannot be Hiera data".to_owned())),
            },
            Some("!!float" | "!float") => match scalar(&text).map_err(fail)? {
                Value::Int(n) => Ok(Value::Float(n as f64)),
                Value::Float(n) => Ok(Value::Float(n)),
                Value::String(text) if FLOAT_TEXT.is_match(text.trim_ascii()) => {
                    let number = text.trim_ascii().replace('_', "").parse();
                    number.map(Value::Float).map_err(|_| fail(format!("'{text}' is not a number")))
                }
                _ => Err(fail(format!("'{text}' is tagged as a number and is none"))),
            },
            // Quotes make text of what has no tag.
            None if !plain => Ok(Value::String(text)),
            _ => scalar(&text).map_err(fail),
        },
        yaml::Value::Sequence(items) if matches!(tag, Some("!!omap" | "!omap")) => ordered(items),
        yaml::Value::Sequence(items) => match tag {
            Some(tag) if of_class(tag, &["!ruby/array"]) => Err(fail(forbidden(tag))),
            _ => items.into_iter().map(convert).collect::<Result<_, _>>().map(Value::Array),
        },
        yaml::Value::Mapping(pairs) => {
            match tag {
                Some("!!str" | "!str" | "!ruby/string") if pairs.is_empty() => return Ok(Value::Null),
                Some("!ruby/hash-with-ivars") => return elements(pairs),
                Some(tag) if is_object(tag) => return Err(fail(forbidden(tag))),
                _ => {}
            }
            let mut hash = Hash::new();
            for (key, value) in pairs {
                let literal = key.tag.as_deref() == Some("!!str");
                let key = convert(key)?;
                let value = convert(value)?;
                if key.as_str() != Some("<<") || literal {
                    hash.insert(key, value);
                    continue;
                }
                match value {
                    Value::Hash(merged) => merge_into(&mut hash, merged),
                    Value::Array(list) if list.iter().all(|v| matches!(v, Value::Hash(_))) => {
                        // The first of the list wins over those after it.
                        for item in list.into_iter().rev() {
                            if let Value::Hash(merged) = item {
                                merge_into(&mut hash, merged);
                            }
                        }
                    }
                    other => hash.insert(key, other),
                }
            }
            Ok(Value::Hash(hash))
        }
    }
}

/// Reads an ordered mapping: of each item its first part is a key, and its last the value.
fn ordered(items: Vec<Node>) -> Result<Value, Error> {
    let mut hash = Hash::new();
    for item in items {
        let line = Some(item.mark.line);
        let mut parts: Vec<Node> = match item.value {
            yaml::Value::Mapping(pairs) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
            yaml::Value::Sequence(parts) => parts,
            yaml::Value::Scalar { .. } => Vec::new(),
        };
        // One part alone is both.
        let Some(value) = parts.pop() else {
            let message = "an item of an ordered mapping has no key and value".to_owned();
            return Err(Error::Data { message, file: None, line });
        };
        let key = if parts.is_empty() { value.clone() } else { parts.swap_remove(0) };
        hash.insert(convert(key)?, convert(value)?);
    }
    Ok(Value::Hash(hash))
}

/// Decodes base64 as Ruby's `unpack('m')` does: what is no digit of it is passed over, and `=` ends it where it may stand.
fn unpack(text: &str) -> Vec<u8> {
    let (mut bytes, mut group, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if count >= 2 => break,
            _ => continue,
        };
        group = group << 6 | u32::from(digit);
        count += 1;
        if count == 4 {
            bytes.extend(&group.to_be_bytes()[1..]);
            (group, count) = (0, 0);
        }
    }
    match count {
        2 => bytes.push((group >> 4) as u8),
        3 => bytes.extend(&((group >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    bytes
}

fn merge_into(hash: &mut Hash, merged: Hash) {
    for (key, value) in merged {
        hash.insert(key, value);
    }
}

/// Tags of scalars that Psych makes objects of, which safe loading forbids. Tags that it does not know have no effect.
const SCALAR_OBJECTS: [&str; 9] = [
    "!ruby/class",
    "!ruby/module",
    "!ruby/regexp",
    "!ruby/range",
    "!ruby/encoding",
    "!ruby/object:BigDecimal",
    "!ruby/object:Complex",
    "!ruby/object:DateTime",
    "!ruby/object:Rational",
];

/// Tells whether a tag is one of these with the name of a class after a colon.
fn of_class(tag: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| tag.strip_prefix(start).is_some_and(|rest| rest.starts_with(':')))
}

/// Tells whether Psych makes an object of a mapping with this tag, which safe loading forbids.
fn is_object(tag: &str) -> bool {
    const WITH_CLASS: [&str; 6] =
        ["!map", "!str", "!ruby/string", "!ruby/hash", "!ruby/hash-with-ivars", "!ruby/array"];
    const KINDS: [&str; 4] = ["!ruby/object", "!ruby/struct", "!ruby/exception", "!ruby/range"];
    const ALONE: [&str; 7] = ["!!set", "!set", "!!omap", "!omap", "!!str", "!str", "!ruby/string"];
    KINDS.contains(&tag) || ALONE.contains(&tag) || of_class(tag, &KINDS) || of_class(tag, &WITH_CLASS)
}

/// Reads what Psych writes of a hash with variables of its own: the elements are the hash.
fn elements(pairs: Vec<(Node, Node)>) -> Result<Value, Error> {
    let mut hash = Hash::new();
    for (_, value) in pairs.into_iter().filter(|(key, _)| key.as_str() == Some("elements")) {
        if let Value::Hash(elements) = convert(value)? {
            merge_into(&mut hash, elements);
        }
    }
    Ok(Value::Hash(hash))
}

fn forbidden(tag: &str) -> String {
    format!("the tag {tag} is not allowed in Hiera data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Value {
        scalar(text).expect("a value")
    }

    #[test]
    fn scalars_mean_what_psych_says() {
        for (text, value) in [
            ("yes", Value::Bool(true)),
            ("Off", Value::Bool(false)),
            ("0755", Value::Int(493)),
            ("0899", Value::from("0899")),
            ("1_000", Value::Int(1000)),
            ("1,000", Value::Int(1000)),
            ("1e3", Value::from("1e3")),
            ("1.5e+3", Value::Float(1500.0)),
            ("1.5e3", Value::from("1.5e3")),
            ("0o17", Value::from("0o17")),
            ("12:30:45", Value::Int(45045)),
            ("1:2", Value::Int(3720)),
            ("0x1f", Value::Int(31)),
            ("0b11", Value::Int(3)),
            ("-0b11", Value::Int(-3)),
            ("y", Value::from("y")),
            ("~", Value::Null),
            ("", Value::Null),
            (".inf", Value::Float(f64::INFINITY)),
            ("18446744073709551616", Value::Big("18446744073709551616".to_owned())),
            ("10.0.0.1", Value::from("10.0.0.1")),
            ("1.2.3", Value::from("1.2.3")),
            (":sym", Value::Symbol("sym".to_owned())),
            ("-", Value::from("-")),
            ("2.0", Value::Float(2.0)),
            ("123", Value::Int(123)),
        ] {
            assert_eq!(one(text), value, "{text}");
        }
        assert!(scalar("2024-02-03").is_err());
        assert!(scalar("2024-02-03 10:20:30").is_err());
    }

    #[test]
    fn quoted_scalars_stay_text_and_merge_keys_merge() {
        let value = load(b"b: &b {x: 1, y: 2}\na:\n  <<: *b\n  x: 3\nq: '0755'\nd: 1\nd: 2\n").expect("loads");
        let hash = value.as_hash().expect("a hash");
        let a = hash.get_str("a").and_then(Value::as_hash).expect("a hash");
        assert_eq!(a.get_str("x"), Some(&Value::Int(3)));
        assert_eq!(a.get_str("y"), Some(&Value::Int(2)));
        assert_eq!(hash.get_str("q"), Some(&Value::from("0755")));
        assert_eq!(hash.get_str("d"), Some(&Value::Int(2)));
    }

    #[test]
    fn a_whole_zero_of_json_has_no_sign() {
        let text = r#"{"a": -0, "b": [-0,-0.0,-0e1,-01], "c": "-0 \"-0", "d": -0}"#;
        let whole = whole_zeros(text.as_bytes());
        assert_eq!(whole, text.replace(": -0,", ":  0,").replace("[-0,", "[ 0,").replace("-0}", " 0}").as_bytes());
    }

    #[test]
    fn errors_name_the_line() {
        let error = load(b"a: 1\nb: 2024-02-03\n").expect_err("a date");
        assert!(matches!(error, Error::Data { line: Some(2), .. }));
        assert!(load(b"a: !ruby/object:Foo {}\n").is_err());
    }
}
