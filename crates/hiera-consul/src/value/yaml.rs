//! Values as Ruby's YAML dumper lays them out.

use std::fmt::Write as _;

use super::{Value, push_json_string};

impl Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        Value::from_json(serde_json::from_str(text).expect("test JSON"))
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
}
