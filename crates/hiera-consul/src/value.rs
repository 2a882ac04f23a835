//! Values as Hiera sees them; how they are read and printed is in the modules below.
//!
//! A lookup keeps apart what YAML and Ruby keep apart: null, `""`, `false` and "not there" (the
//! last is `Option::None` around a value, never a value). Hash keys may be any scalar, because
//! YAML allows it; they keep the order of their first insertion.

mod hash;
mod json;
mod ruby;
mod yaml;

use std::hash::{Hash as StdHash, Hasher};

pub use hash::Hash;
pub(crate) use json::push_json_string;

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
}
