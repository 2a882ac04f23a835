//! Values as Hiera sees them, and how they are printed.
//!
//! A lookup keeps apart what YAML and Ruby keep apart: null, `""`, `false` and "not there" (the
//! last is `Option::None` around a value, never a value). Hash keys may be any scalar, because
//! YAML allows it; they keep the order of their first insertion.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{Hash as StdHash, Hasher};

/// One value of Hiera data.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// YAML and JSON null.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// An integer beyond 64 bits, as its decimal digits.
    Big(String),
    /// A floating point number.
    Float(f64),
    /// A Ruby symbol: legal as a key of a data file, illegal as a value of a lookup.
    Symbol(String),
    /// Text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// A mapping.
    Hash(Hash),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::Big(a), Value::Big(b))
            | (Value::Symbol(a), Value::Symbol(b))
            | (Value::String(a), Value::String(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => a == b,
            (Value::Hash(a), Value::Hash(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl StdHash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Value::Null => {}
            Value::Bool(b) => b.hash(state),
            Value::Int(i) => i.hash(state),
            Value::Float(f) => f.to_bits().hash(state),
            Value::Big(s) | Value::Symbol(s) | Value::String(s) => s.hash(state),
            Value::Array(a) => a.hash(state),
            // Equality ignores order, so the hash must too.
            Value::Hash(h) => h.len().hash(state),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

/// An insertion-ordered mapping.
#[derive(Clone, Debug, Default)]
pub struct Hash {
    entries: Vec<(Value, Value)>,
    /// Built once the mapping is too large to scan.
    index: Option<HashMap<Value, usize>>,
}

const SCAN: usize = 12;

impl PartialEq for Hash {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.entries.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}

impl Hash {
    /// Returns an empty mapping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, key: &Value) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.entries.iter().position(|(k, _)| k == key),
        }
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.position(key).map(|at| &self.entries[at].1)
    }

    /// Returns the value of a text key.
    pub fn get_str(&self, key: &str) -> Option<&Value> {
        if self.index.is_some() {
            return self.get(&Value::String(key.to_owned()));
        }
        self.entries.iter().find(|(k, _)| matches!(k, Value::String(s) if s == key)).map(|(_, v)| v)
    }

    /// Returns the value of `key` for change.
    pub fn get_mut(&mut self, key: &Value) -> Option<&mut Value> {
        self.position(key).map(|at| &mut self.entries[at].1)
    }

    /// Sets `key`; a key that exists keeps its place.
    pub fn insert(&mut self, key: Value, value: Value) {
        if let Some(at) = self.position(&key) {
            self.entries[at].1 = value;
            return;
        }
        if let Some(index) = &mut self.index {
            index.insert(key.clone(), self.entries.len());
        }
        self.entries.push((key, value));
        if self.index.is_none() && self.entries.len() > SCAN {
            self.index = Some(self.entries.iter().enumerate().map(|(at, (k, _))| (k.clone(), at)).collect());
        }
    }

    /// Iterates over the entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.entries.iter().map(|(k, v)| (k, v))
    }
}

impl IntoIterator for Hash {
    type Item = (Value, Value);
    type IntoIter = std::vec::IntoIter<(Value, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl FromIterator<(Value, Value)> for Hash {
    fn from_iter<I: IntoIterator<Item = (Value, Value)>>(iter: I) -> Self {
        let mut hash = Hash::new();
        for (key, value) in iter {
            hash.insert(key, value);
        }
        hash
    }
}

impl Value {
    /// Tells whether a string in it is, or holds, a value that hiera-eyaml encrypted: `ENC[METHOD,…]`.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Value::String(text) => text.match_indices("ENC[").any(|(at, start)| {
                let rest = &text[at + start.len()..];
                let method = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
                method > 0 && rest[method..].starts_with(',')
            }),
            Value::Array(list) => list.iter().any(Value::is_encrypted),
            Value::Hash(hash) => hash.iter().any(|(_, value)| value.is_encrypted()),
            _ => false,
        }
    }

    /// Returns the text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the mapping.
    pub fn as_hash(&self) -> Option<&Hash> {
        match self {
            Value::Hash(hash) => Some(hash),
            _ => None,
        }
    }

    /// Returns the name that Puppet's messages use for the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "Undef",
            Value::Bool(_) => "Boolean",
            Value::Int(_) | Value::Big(_) => "Integer",
            Value::Float(_) => "Float",
            Value::Symbol(_) => "Symbol",
            Value::String(_) => "String",
            Value::Array(_) => "Array",
            Value::Hash(_) => "Hash",
        }
    }

    /// Tells whether Puppet's type `Data` accepts the value.
    pub fn is_data(&self) -> bool {
        match self {
            Value::Symbol(_) => false,
            Value::Array(list) => list.iter().all(Value::is_data),
            Value::Hash(hash) => hash.iter().all(|(k, v)| matches!(k, Value::String(_)) && v.is_data()),
            _ => true,
        }
    }

    /// Tells whether Puppet's type `RichData` accepts the value: any scalar may be a key.
    pub fn is_rich_data(&self) -> bool {
        match self {
            Value::Symbol(_) => false,
            Value::Array(list) => list.iter().all(Value::is_rich_data),
            Value::Hash(hash) => hash.iter().all(|(k, v)| {
                matches!(k, Value::String(_) | Value::Int(_) | Value::Big(_) | Value::Float(_)) && v.is_rich_data()
            }),
            _ => true,
        }
    }

    /// Turns symbol keys into text keys, at every depth; symbol values stay.
    pub fn symbol_keys_to_text(self) -> Self {
        match self {
            Value::Array(list) => Value::Array(list.into_iter().map(Value::symbol_keys_to_text).collect()),
            Value::Hash(hash) => Value::Hash(
                hash.into_iter()
                    .map(|(k, v)| {
                        let key = match k {
                            Value::Symbol(s) => Value::String(s),
                            other => other,
                        };
                        (key, v.symbol_keys_to_text())
                    })
                    .collect(),
            ),
            other => other,
        }
    }

    /// Converts from parsed JSON.
    pub fn from_json(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(u)) => Value::Big(u.to_string()),
                (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Value::String(s),
            serde_json::Value::Array(a) => Value::Array(a.into_iter().map(Value::from_json).collect()),
            serde_json::Value::Object(o) => {
                Value::Hash(o.into_iter().map(|(k, v)| (Value::String(k), Value::from_json(v))).collect())
            }
        }
    }

    /// Writes one line of JSON. `None` when a number has no JSON form (NaN, infinity).
    pub fn to_json(&self) -> Option<String> {
        let mut out = String::new();
        self.write_json(&mut out)?;
        Some(out)
    }

    /// Writes it as [`Value::to_json`] does; on `None` a part of it may be written.
    pub(crate) fn write_json(&self, out: &mut String) -> Option<()> {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Int(i) => {
                let _ = write!(out, "{i}");
            }
            Value::Big(digits) => out.push_str(digits),
            Value::Float(f) if f.is_finite() => out.push_str(&ruby_float(*f)),
            Value::Float(_) => return None,
            Value::Symbol(s) | Value::String(s) => push_json_string(out, s),
            Value::Array(list) => {
                out.push('[');
                for (at, item) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write_json(out)?;
                }
                out.push(']');
            }
            Value::Hash(hash) => {
                out.push('{');
                for (at, (key, value)) in hash.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    push_json_string(out, &key.to_text());
                    out.push(':');
                    value.write_json(out)?;
                }
                out.push('}');
            }
        }
        Some(())
    }

    /// Returns what Ruby's `to_s` returns: the form in which a value enters a string.
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::String(s) | Value::Symbol(s) => s.clone(),
            other => other.inspect(),
        }
    }

    /// Returns what Ruby's `inspect` returns.
    pub fn inspect(&self) -> String {
        match self {
            Value::Null => "nil".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::Big(digits) => digits.clone(),
            Value::Float(f) => ruby_float(*f),
            Value::Symbol(s) => format!(":{s}"),
            Value::String(s) => inspect_string(s),
            Value::Array(list) => {
                let items: Vec<_> = list.iter().map(Value::inspect).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Hash(hash) => {
                let items: Vec<_> = hash.iter().map(|(k, v)| format!("{}=>{}", k.inspect(), v.inspect())).collect();
                format!("{{{}}}", items.join(", "))
            }
        }
    }

    /// Writes a YAML document as Ruby's YAML dumper lays it out.
    pub fn to_yaml(&self) -> String {
        let mut out = String::from("---");
        match self {
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                yaml_block(self, 0, &mut out);
            }
            Value::Hash(hash) if !hash.is_empty() => {
                out.push('\n');
                yaml_block(self, 0, &mut out);
            }
            other => push_after(&mut out, other),
        }
        out
    }
}

pub(crate) fn push_json_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("text serialises"));
}

/// The longest key that stands on a line with its value.
const LONGEST_KEY: usize = 500;

fn yaml_block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Array(list) => {
            for item in list {
                out.push_str(&pad);
                out.push('-');
                let mut nested = String::new();
                match item {
                    Value::Array(inner) if !inner.is_empty() => {
                        yaml_block(item, indent + 2, &mut nested);
                    }
                    Value::Hash(inner) if !inner.is_empty() => {
                        yaml_block(item, indent + 2, &mut nested);
                    }
                    scalar => {
                        push_after(out, scalar);
                        continue;
                    }
                }
                // The first line of the nested block goes on the line of the dash.
                out.push(' ');
                out.push_str(nested.trim_start_matches(' '));
            }
        }
        Value::Hash(hash) => {
            for (key, item) in hash.iter() {
                out.push_str(&pad);
                let text = yaml_scalar(key);
                // Before a colon on the same line a reader takes 1024 characters for a key.
                if text.len() > LONGEST_KEY {
                    out.push_str(&format!("? {text}\n{pad}:"));
                } else {
                    out.push_str(&format!("{text}:"));
                }
                match item {
                    Value::Array(inner) if !inner.is_empty() => {
                        out.push('\n');
                        yaml_block(item, indent, out);
                    }
                    Value::Hash(inner) if !inner.is_empty() => {
                        out.push('\n');
                        yaml_block(item, indent + 2, out);
                    }
                    scalar => {
                        push_after(out, scalar);
                    }
                }
            }
        }
        scalar => {
            out.push_str(&pad);
            out.push_str(&yaml_scalar(scalar));
            out.push('\n');
        }
    }
}

/// Writes a scalar after what it belongs to, and ends the line.
fn push_after(out: &mut String, scalar: &Value) {
    let text = yaml_scalar(scalar);
    if !text.is_empty() {
        out.push(' ');
        out.push_str(&text);
    }
    out.push('\n');
}

/// Tells whether a character ends a line of YAML, or may stand in none; all of them have four digits.
fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn yaml_scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Float(f) if f.is_nan() => ".nan".to_owned(),
        Value::Float(f) if f.is_infinite() => if *f > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
        Value::String(s) => {
            let marked = s.starts_with(|c: char| !c.is_alphanumeric() && c != '/' && c != '_')
                || matches!(s.as_str(), "y" | "n" | "Y" | "N")
                || s.chars().any(is_special);
            let same = crate::psych::scalar(s).is_ok_and(|v| v == Value::String(s.clone()));
            if marked {
                let mut quoted = String::new();
                push_json_string(&mut quoted, s);
                let mut out = String::with_capacity(quoted.len());
                for c in quoted.chars() {
                    match is_special(c) {
                        true => drop(write!(out, "\\u{:04x}", u32::from(c))),
                        false => out.push(c),
                    }
                }
                out
            } else if same && !s.ends_with([' ', ':']) && !s.contains(": ") && !s.contains(" #") {
                s.clone()
            } else {
                format!("'{}'", s.replace('\'', "''"))
            }
        }
        Value::Array(_) => "[]".to_owned(),
        Value::Hash(_) => "{}".to_owned(),
        other => other.inspect(),
    }
}

/// Returns a float as Ruby prints it.
fn ruby_float(f: f64) -> String {
    if f.is_nan() {
        return "NaN".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = f.abs();
    if f == 0.0 || (1e-4..1e16).contains(&size) {
        let text = format!("{f}");
        return if text.contains('.') { text } else { format!("{text}.0") };
    }
    let text = format!("{f:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = if mantissa.contains('.') { mantissa.to_owned() } else { format!("{mantissa}.0") };
    match exponent.strip_prefix('-') {
        Some(digits) => format!("{mantissa}e-{digits:0>2}"),
        None => format!("{mantissa}e+{exponent:0>2}"),
    }
}

fn inspect_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '#' if matches!(chars.peek(), Some('{' | '$' | '@')) => out.push_str("\\#"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        Value::from_json(serde_json::from_str(text).expect("test JSON"))
    }

    #[test]
    fn prints_like_ruby() {
        let value = json(r#"{"a":[1,2.0,null,"x\"y"],"b":{"c":true}}"#);
        assert_eq!(value.inspect(), r#"{"a"=>[1, 2.0, nil, "x\"y"], "b"=>{"c"=>true}}"#);
        assert_eq!(json("null").to_text(), "");
        assert_eq!(ruby_float(1e16), "1.0e+16");
        assert_eq!(ruby_float(0.00001), "1.0e-05");
        assert_eq!(ruby_float(100.0), "100.0");
    }

    #[test]
    fn yaml_comes_back_as_the_same_value() {
        let value =
            json(r#"{"a":["yes","0755","",null,"a: b",{"k":[[1],{}]}],"x y":{"z":"- t"},"n":1.5,"multi":"l1\nl2"}"#);
        let text = value.to_yaml();
        let back = crate::psych::load(text.as_bytes()).expect("own YAML parses");
        assert_eq!(back, value, "{text}");
        for c in (0..0x300_u32).chain(0x2000..0x2070).chain(0xfe00..0x1_0010).filter_map(char::from_u32) {
            for text in [c.to_string(), format!("a{c}b"), format!("a {c}"), format!("{c} #: "), format!("\"{c}#\r")] {
                let pair = (Value::String(text.clone()), Value::Array(vec![Value::String(text)]));
                let value = Value::Hash([pair].into_iter().collect());
                let written = value.to_yaml();
                assert_eq!(crate::psych::load(written.as_bytes()).ok().as_ref(), Some(&value), "{written:?}");
            }
        }
        let key = |n: usize| Value::String("\u{f}".repeat(n));
        let list = Value::Array(vec![Value::Int(1)]);
        for value in [Value::Null, list.clone(), Value::Hash([(key(400), list)].into_iter().collect())] {
            let value = Value::Hash([(key(100), value.clone()), (key(400), value)].into_iter().collect());
            let value = Value::Array(vec![Value::Hash([(Value::from("a"), value)].into_iter().collect())]);
            let text = value.to_yaml();
            assert_eq!(crate::psych::load(text.as_bytes()).ok().as_ref(), Some(&value), "{text}");
        }
    }

    #[test]
    fn large_hash_keeps_order_and_finds_keys() {
        let mut hash = Hash::new();
        for n in 0..100 {
            hash.insert(Value::String(format!("k{n}")), Value::Int(n));
        }
        hash.insert(Value::from("k3"), Value::Null);
        assert_eq!(hash.len(), 100);
        assert_eq!(hash.get_str("k99"), Some(&Value::Int(99)));
        assert_eq!(hash.iter().nth(3).map(|(_, v)| v.clone()), Some(Value::Null));
    }
}
