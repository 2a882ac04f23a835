//! Values as Ruby prints them.

use std::fmt::Write as _;

use super::Value;

impl Value {
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
}

/// Returns a float as Ruby prints it.
pub(super) fn ruby_float(f: f64) -> String {
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
}
