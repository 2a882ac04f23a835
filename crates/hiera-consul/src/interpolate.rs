//! `%{…}`: variables of the scope, and the methods `lookup`, `hiera`, `alias`, `literal`, `scope`.
//!
//! What is not there becomes nothing, as in Puppet. What a token resolves to is interpolated again,
//! so a value that leads back to itself is an error, not a loop.

use crate::engine::{Engine, Invocation};
use crate::error::Error;
use crate::key::Key;
use crate::value::Value;

/// The longest string that interpolation may make.
const LONGEST: usize = 16 << 20;

impl Engine {
    /// Resolves every token in a value, keys of hashes included. `methods` allows the function form.
    pub(crate) fn interpolate(&self, value: Value, methods: bool, inv: &mut Invocation) -> Result<Value, Error> {
        match value {
            Value::String(text) if text.contains("%{") => self.interpolate_text(&text, methods, inv),
            Value::Array(list) => list
                .into_iter()
                .map(|item| self.interpolate(item, methods, inv))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            Value::Hash(hash) => hash
                .into_iter()
                .map(|(k, v)| Ok((self.interpolate(k, methods, inv)?, self.interpolate(v, methods, inv)?)))
                .collect::<Result<_, Error>>()
                .map(Value::Hash),
            other => Ok(other),
        }
    }

    fn interpolate_text(&self, subject: &str, methods: bool, inv: &mut Invocation) -> Result<Value, Error> {
        let mut out = String::with_capacity(subject.len());
        let mut rest = subject;
        while let Some(start) = rest.find("%{") {
            let Some(length) = rest[start..].find('}') else { break };
            let token = &rest[start..=start + length];
            out.push_str(&rest[..start]);
            rest = &rest[start + length + 1..];
            let expression = token[2..token.len() - 1].trim();
            if matches!(expression, "" | "::" | "\"\"" | "''" | "\"::\"" | "'::'") {
                continue;
            }
            let (method, key) = match method_and_key(expression) {
                Some(_) if !methods => {
                    return Err(Error::data(format!(
                        "interpolation using method syntax is not allowed in this context: {token}"
                    )));
                }
                Some(found) => found,
                None => ("scope", expression),
            };
            let value = match method {
                "literal" => Value::from(key),
                "scope" => self.variable(key, subject)?.unwrap_or(Value::Null),
                "lookup" | "hiera" | "alias" => {
                    if method == "alias" && token != subject {
                        return Err(Error::data(
                            "'alias' interpolation is only permitted if the expression is equal to the entire string",
                        ));
                    }
                    self.say(|| format!("Interpolation on \"{subject}\""));
                    let found =
                        self.deeper(|| self.lookup(key, None, inv))?.unwrap_or_else(|| Value::String(String::new()));
                    if method == "alias" {
                        return Ok(found);
                    }
                    found
                }
                other => return Err(Error::data(format!("unknown interpolation method '{other}'"))),
            };
            let name = if method == "scope" { format!("scope:{key}") } else { key.to_owned() };
            let value = inv.guarded(&name, |inv| self.interpolate(value, methods, inv))?;
            out.push_str(&value.to_text());
            if out.len() > LONGEST {
                return Err(Error::data(format!("interpolation makes a string longer than {LONGEST} bytes")));
            }
        }
        out.push_str(rest);
        Ok(Value::String(out))
    }

    /// Returns a variable of the scope, dug with dots; `None` when it or a part is not there.
    pub(crate) fn variable(&self, name: &str, subject: &str) -> Result<Option<Value>, Error> {
        let key = Key::parse(name, || format!("string: {subject}"))?;
        match self.scope.get(&key.root) {
            Some(value) => key.dig(value),
            None => Ok(None),
        }
    }
}

/// Splits `method('key')`.
pub(crate) fn method_and_key(expression: &str) -> Option<(&str, &str)> {
    let (method, rest) = expression.split_once('(')?;
    let body = rest.strip_suffix(')')?;
    if method.is_empty() || !method.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    ['"', '\''].iter().find_map(|quote| {
        let key = body.strip_prefix(*quote)?.strip_suffix(*quote)?;
        (!key.is_empty() && !key.contains(*quote)).then_some((method, key))
    })
}
