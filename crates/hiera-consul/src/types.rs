//! The part of Puppet's type language that lookups use: `--type` and `convert_to`.

use crate::error::Error;
use crate::value::Value;

/// The longest list that a number is converted to.
const LONGEST_RANGE: i64 = 1_000_000;

/// A type that a value can be checked against.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything.
    Any,
    /// Anything but undef.
    NotUndef(Box<Type>),
    /// What YAML and JSON can hold.
    Data,
    /// A number, a string or a boolean.
    Scalar,
    /// Null.
    Undef,
    /// True or false.
    Boolean,
    /// An integer in a range.
    Integer(Option<i64>, Option<i64>),
    /// A float.
    Float,
    /// An integer or a float.
    Numeric,
    /// A string with a length in a range.
    String(usize, usize),
    /// One of these strings.
    Enum(Vec<String>),
    /// A list with a size in a range.
    Array(Box<Type>, usize, usize),
    /// A hash with a size in a range.
    Hash(Box<Type>, Box<Type>, usize, usize),
    /// A value or null.
    Optional(Box<Type>),
    /// One of these.
    Variant(Vec<Type>),
}

/// A type as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The expression.
    pub text: String,
    /// What it means.
    pub kind: Type,
}

impl Expected {
    /// Parses a type expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Expected { text: text.to_owned(), kind: Type::parse(text)? })
    }
}

impl Type {
    /// Parses a type expression. Types beyond the list of this module are refused, not ignored.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim(), depth: 0 };
        let found = parser.parse_type()?;
        if parser.rest.is_empty() { Ok(found) } else { Err(format!("unexpected '{}' in type '{text}'", parser.rest)) }
    }

    /// Tells whether a value is of this type.
    pub fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (Type::Any, _) => true,
            (Type::NotUndef(inner), value) => !matches!(value, Value::Null) && inner.accepts(value),
            (Type::Data, value) => value.is_data(),
            (Type::Scalar, value) => !matches!(value, Value::Null | Value::Array(_) | Value::Hash(_)),
            (Type::Undef, Value::Null)
            | (Type::Boolean, Value::Bool(_))
            | (Type::Float | Type::Numeric, Value::Float(_))
            | (Type::Numeric, Value::Int(_) | Value::Big(_))
            | (Type::Integer(None, None), Value::Big(_)) => true,
            (Type::Integer(low, high), Value::Int(n)) => {
                low.is_none_or(|low| *n >= low) && high.is_none_or(|high| *n <= high)
            }
            (Type::String(low, high), Value::String(text)) => (*low..=*high).contains(&text.chars().count()),
            (Type::Enum(names), Value::String(text)) => names.contains(text),
            (Type::Array(item, low, high), Value::Array(list)) => {
                (*low..=*high).contains(&list.len()) && list.iter().all(|v| item.accepts(v))
            }
            (Type::Hash(key, item, low, high), Value::Hash(hash)) => {
                (*low..=*high).contains(&hash.len()) && hash.iter().all(|(k, v)| key.accepts(k) && item.accepts(v))
            }
            (Type::Optional(inner), value) => matches!(value, Value::Null) || inner.accepts(value),
            (Type::Variant(all), value) => all.iter().any(|t| t.accepts(value)),
            _ => false,
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

enum Argument {
    Type(Type),
    Int(i64),
    Text(String),
    Default,
}

impl Parser<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                self.skip();
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-')))
            .unwrap_or(self.rest.len());
        let word = self.rest[..end].to_owned();
        self.rest = &self.rest[end..];
        word
    }

    fn parse_type(&mut self) -> Result<Type, String> {
        self.depth += 1;
        if self.depth > 32 {
            return Err("the type is nested too deeply".to_owned());
        }
        let name = self.word();
        let arguments = if self.eat('[') { self.arguments()? } else { Vec::new() };
        self.depth -= 1;
        build(&name, arguments)
    }

    fn arguments(&mut self) -> Result<Vec<Argument>, String> {
        let mut list = Vec::new();
        loop {
            self.skip();
            let argument = match self.rest.chars().next() {
                Some(quote @ ('\'' | '"')) => {
                    let end = self.rest[1..].find(quote).ok_or("a quote is not closed")?;
                    let text = self.rest[1..=end].to_owned();
                    self.rest = &self.rest[end + 2..];
                    Argument::Text(text)
                }
                Some(c) if c.is_ascii_digit() || c == '-' => {
                    let word = self.word();
                    Argument::Int(word.parse().map_err(|_| format!("'{word}' is not an integer"))?)
                }
                Some(c) if c.is_ascii_lowercase() => match self.word().as_str() {
                    "default" => Argument::Default,
                    other => return Err(format!("unexpected '{other}' in a type")),
                },
                Some(_) => Argument::Type(self.parse_type()?),
                None => return Err("a bracket is not closed".to_owned()),
            };
            list.push(argument);
            if self.eat(']') {
                return Ok(list);
            }
            if !self.eat(',') {
                return Err("a bracket is not closed".to_owned());
            }
        }
    }
}

fn build(name: &str, arguments: Vec<Argument>) -> Result<Type, String> {
    let mut types = Vec::new();
    let mut texts = Vec::new();
    let mut bounds = Vec::new();
    for argument in arguments {
        match argument {
            Argument::Type(t) => types.push(t),
            Argument::Text(text) => texts.push(text),
            Argument::Int(n) => bounds.push(Some(n)),
            Argument::Default => bounds.push(None),
        }
    }
    let bad = || Err(format!("parameters of type {name} are not understood"));
    let size = |at: usize, missing: usize| -> Result<usize, String> {
        match bounds.get(at) {
            Some(Some(n)) => usize::try_from(*n).map_err(|_| format!("a size of type {name} is negative")),
            _ => Ok(missing),
        }
    };
    let only = |t: usize, x: usize, b: usize| types.len() <= t && texts.len() <= x && bounds.len() <= b;
    let mut taken = types.clone().into_iter();
    let mut next = || Box::new(taken.next().unwrap_or(Type::Any));
    Ok(match name {
        "Any" if only(0, 0, 0) => Type::Any,
        "Data" | "RichData" if only(0, 0, 0) => Type::Data,
        "Scalar" | "ScalarData" if only(0, 0, 0) => Type::Scalar,
        "Undef" if only(0, 0, 0) => Type::Undef,
        "Boolean" if only(0, 0, 0) => Type::Boolean,
        "Float" if only(0, 0, 0) => Type::Float,
        "Numeric" if only(0, 0, 0) => Type::Numeric,
        "Integer" if only(0, 0, 2) => {
            Type::Integer(bounds.first().copied().flatten(), bounds.get(1).copied().flatten())
        }
        "String" if only(0, 0, 2) => Type::String(size(0, 0)?, size(1, usize::MAX)?),
        "Enum" if only(0, usize::MAX, 0) && !texts.is_empty() => Type::Enum(texts),
        "NotUndef" if only(1, 0, 0) => Type::NotUndef(next()),
        "Optional" if only(1, 0, 0) => Type::Optional(next()),
        "Variant" if only(usize::MAX, 0, 0) && !types.is_empty() => Type::Variant(types),
        "Array" if only(1, 0, 2) => Type::Array(next(), size(0, 0)?, size(1, usize::MAX)?),
        "Hash" if (types.len() == 2 || types.is_empty()) && only(2, 0, 2) => {
            Type::Hash(next(), next(), size(0, 0)?, size(1, usize::MAX)?)
        }
        "Any" | "Data" | "RichData" | "Scalar" | "ScalarData" | "Undef" | "Boolean" | "Float" | "Numeric"
        | "Integer" | "String" | "Enum" | "NotUndef" | "Optional" | "Variant" | "Array" | "Hash" => {
            return bad();
        }
        "" => return Err("a type is missing".to_owned()),
        other => return Err(format!("type {other} is not supported")),
    })
}

/// Applies `convert_to`: a type's name, or a list of a name and arguments.
pub fn convert(target: &Value, value: Value) -> Result<Value, Error> {
    let (name, arguments) = match target {
        Value::String(name) => (name.as_str(), &[][..]),
        Value::Array(list) => match list.split_first() {
            Some((Value::String(name), rest)) => (name.as_str(), rest),
            _ => return Err(Error::data("the first element must be the name of a type")),
        },
        other => return Err(Error::data(format!("{} is not a type", other.inspect()))),
    };
    let bad = |value: &Value| Error::data(format!("{} cannot be converted to {name}", value.inspect()));
    match (name, arguments, value) {
        ("Array", [Value::Bool(true)], value) => Ok(match value {
            Value::Array(list) => Value::Array(list),
            other => Value::Array(vec![other]),
        }),
        ("Array", [] | [Value::Bool(false)], value) => match value {
            Value::Array(list) => Ok(Value::Array(list)),
            Value::Hash(hash) => Ok(Value::Array(hash.into_iter().map(|(k, v)| Value::Array(vec![k, v])).collect())),
            Value::String(text) => Ok(Value::Array(text.chars().map(|c| Value::String(c.to_string())).collect())),
            // A number is iterated over.
            Value::Int(n @ 0..=LONGEST_RANGE) => Ok(Value::Array((0..n).map(Value::Int).collect())),
            other => Err(bad(&other)),
        },
        ("Integer", [], value) => match value {
            Value::Int(_) | Value::Big(_) => Ok(value),
            Value::Float(f) if f.is_finite() && f.abs() < 9.0e18 => Ok(Value::Int(f as i64)),
            Value::Bool(b) => Ok(Value::Int(i64::from(b))),
            Value::String(text) => parse_integer(&text).map(Value::Int).ok_or_else(|| bad(&Value::String(text))),
            other => Err(bad(&other)),
        },
        ("Float" | "Numeric", [], value) => match (name, value) {
            (_, Value::Float(f)) => Ok(Value::Float(f)),
            ("Numeric", value @ (Value::Int(_) | Value::Big(_))) => Ok(value),
            ("Float", Value::Int(n)) => Ok(Value::Float(n as f64)),
            ("Float", Value::Bool(b)) => Ok(Value::Float(f64::from(u8::from(b)))),
            (_, Value::Bool(b)) => Ok(Value::Int(i64::from(b))),
            (_, Value::String(text)) => match (name, parse_integer(&text), text.trim().parse::<f64>()) {
                ("Numeric", Some(n), _) => Ok(Value::Int(n)),
                (_, Some(n), _) => Ok(Value::Float(n as f64)),
                (_, None, Ok(f)) if f.is_finite() => Ok(Value::Float(f)),
                _ => Err(bad(&Value::String(text))),
            },
            (_, other) => Err(bad(&other)),
        },
        ("Boolean", [], value) => match value {
            Value::Bool(b) => Ok(Value::Bool(b)),
            Value::Int(n) => Ok(Value::Bool(n != 0)),
            Value::Float(f) => Ok(Value::Bool(f != 0.0)),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "y" => Ok(Value::Bool(true)),
                "false" | "no" | "n" => Ok(Value::Bool(false)),
                _ => Err(bad(&Value::String(text))),
            },
            other => Err(bad(&other)),
        },
        ("String", [], value) => match value {
            Value::Float(f) if f.is_finite() => Ok(Value::String(format!("{f:.6}"))),
            Value::Float(f) => Ok(Value::String(if f.is_nan() {
                "NaN".to_owned()
            } else {
                if f > 0.0 { "Inf" } else { "-Inf" }.to_owned()
            })),
            Value::Array(_) | Value::Hash(_) => {
                let mut out = String::new();
                puppet_text(&value, &mut out);
                Ok(Value::String(out))
            }
            other => Ok(Value::String(other.to_text())),
        },
        _ => Err(Error::data(format!("conversion to {} is not supported", target.to_text()))),
    }
}

fn parse_integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest.trim_start()),
        None => (1, text.strip_prefix('+').unwrap_or(text).trim_start()),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok()?.checked_mul(sign)
}

/// Writes a value as Puppet writes it inside of a collection.
fn puppet_text(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("undef"),
        Value::String(text) => puppet_quote(text, out),
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                puppet_text(item, out);
            }
            out.push(']');
        }
        Value::Hash(hash) => {
            out.push('{');
            for (at, (key, item)) in hash.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                puppet_text(key, out);
                out.push_str(" => ");
                puppet_text(item, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.inspect()),
    }
}

fn puppet_quote(text: &str, out: &mut String) {
    if text.chars().any(|c| c < ' ') {
        out.push('"');
        for c in text.chars() {
            match c {
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '"' | '$' | '\\' => out.extend(['\\', c]),
                c if c < ' ' => out.push_str(&format!("\\u{{{:X}}}", u32::from(c))),
                c => out.push(c),
            }
        }
        out.push('"');
        return;
    }
    out.push('\'');
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => {
                out.extend(['\\', c]);
                escaped = false;
            }
            '\'' => out.push_str("\\'"),
            '\\' => escaped = true,
            c => out.push(c),
        }
    }
    if escaped {
        out.push('\\');
    }
    out.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_accept_what_puppet_accepts() {
        let hash = Value::from_json(serde_json::json!({"a": {"b": "c"}}));
        let t = |text: &str| Type::parse(text).expect("a type");
        assert!(t("Hash[String, Hash[String, String]]").accepts(&hash));
        assert!(!t("Hash[String, String]").accepts(&hash));
        assert!(t("Optional[Integer[1, 5]]").accepts(&Value::Int(5)));
        assert!(!t("Integer[1, 5]").accepts(&Value::Int(6)));
        assert!(t("Variant[Enum['a', 'b'], Array[String, 1]]").accepts(&Value::from("b")));
        assert!(!t("Array[String, 1]").accepts(&Value::Array(Vec::new())));
        for bad in ["Foo", "Array[", "Hash[String]", "", "String]", "Integer[a]"] {
            assert!(Type::parse(bad).is_err(), "{bad}");
        }
    }
}
