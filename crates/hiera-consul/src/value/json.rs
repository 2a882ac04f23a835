//! Values as JSON.

use std::fmt::Write as _;

use super::Value;
use super::ruby::ruby_float;

impl Value {
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
}

pub(crate) fn push_json_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("text serialises"));
}
