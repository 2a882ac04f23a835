//! The interpolation of version 3: `%{…}` with methods of its own, and what it takes for a loop.

use std::cell::RefCell;
use std::rc::Rc;

use super::key::{dig, split};
use super::{Hiera3, Resolution};
use crate::error::Error;
use crate::value::Value;

const MOST_NESTED: usize = 150;

/// What is being interpolated, to find loops; shared by everything inside of one string.
pub(super) type Guard = Rc<RefCell<Vec<String>>>;

impl Hiera3 {
    /// Interpolates a part of the configuration. One that is met within another is of the same loop.
    pub(super) fn interpolate_config(&self, text: &str) -> Result<String, Error> {
        let outer = self.config_guard.borrow().clone();
        let guard = outer.clone().unwrap_or_default();
        if outer.is_none() {
            *self.config_guard.borrow_mut() = Some(Rc::clone(&guard));
        }
        let result = self.interpolate(text, Some(&guard));
        if outer.is_none() {
            *self.config_guard.borrow_mut() = None;
        }
        Ok(result.map_err(|e| e.in_file(&self.file))?.to_text())
    }

    pub(super) fn interpolate(&self, text: &str, guard: Option<&Guard>) -> Result<Value, Error> {
        let guard = guard.cloned().unwrap_or_default();
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, token, after)) = next_token(rest) {
            out.push_str(before);
            rest = after;
            let (value, method) = self.token(token, &guard)?;
            if method == Method::Alias && !matches!(value, Value::String(_)) {
                if token.len() == text.len() {
                    return Ok(value);
                }
                return Err(Error::data(format!("alias cannot stand inside of a string: {text}")));
            }
            out.push_str(&value.to_text());
        }
        out.push_str(rest);
        Ok(Value::String(out))
    }

    /// Resolves one `%{…}`.
    fn token(&self, token: &str, guard: &Guard) -> Result<(Value, Method), Error> {
        let expression = &token[2..token.len() - 1];
        if matches!(expression.trim(), "" | "::" | "\"\"" | "''" | "\"::\"" | "'::'") {
            return Ok((Value::from(""), Method::Scope));
        }
        {
            let mut seen = guard.borrow_mut();
            if seen.iter().any(|other| other == expression) {
                return Err(Error::data(format!("lookup recursion detected in [{}]", seen.join(", "))));
            }
            if seen.len() >= MOST_NESTED {
                return Err(Error::data(format!("lookups are nested deeper than {MOST_NESTED}")));
            }
            seen.push(expression.to_owned());
        }
        let (method, key) = method_and_key(expression)?;
        let value = match method {
            Method::Scope => self.variable(key, token)?,
            // Stays in the guard, as in Hiera 3: the same literal twice in a string counts as a loop.
            Method::Literal => return Ok((Value::from(key), method)),
            Method::Hiera | Method::Alias => self.lookup_guarded(key, Resolution::Priority, Some(guard))?,
        };
        let value = value.unwrap_or(Value::Null);
        // Of a string that came out only the first token is resolved, and it becomes the whole.
        let inner = match &value {
            Value::String(text) => next_token(text).map(|(_, inner, _)| inner.to_owned()),
            _ => None,
        };
        let value = match inner {
            Some(inner) => self.token(&inner, guard)?.0,
            None => value,
        };
        guard.borrow_mut().pop();
        Ok((value, method))
    }

    fn variable(&self, key: &str, token: &str) -> Result<Option<Value>, Error> {
        let segments =
            split(key).ok_or_else(|| Error::data(format!("syntax error in interpolation expression: {token}")))?;
        dig(&segments, Value::Hash(self.scope.clone()), key)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Scope,
    Hiera,
    Literal,
    Alias,
}

fn method_and_key(expression: &str) -> Result<(Method, &str), Error> {
    let call = expression.split_once('(').and_then(|(name, rest)| {
        let argument = rest.strip_suffix(')')?;
        let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (word && !argument.contains(')')).then_some((name, argument))
    });
    let Some((name, argument)) = call else { return Ok((Method::Scope, expression)) };
    let method = match name {
        "scope" => Method::Scope,
        "hiera" => Method::Hiera,
        "literal" => Method::Literal,
        "alias" => Method::Alias,
        other => return Err(Error::data(format!("invalid interpolation method '{other}'"))),
    };
    let key = ['"', '\''].iter().find_map(|quote| {
        let key = argument.strip_prefix(*quote)?.strip_suffix(*quote)?;
        (!key.is_empty() && !key.contains(*quote)).then_some(key)
    });
    match key {
        Some(key) => Ok((method, key)),
        None => Err(Error::data(format!("argument to interpolation method '{name}' must be quoted, got '{argument}'"))),
    }
}

/// Returns what is before, the first `%{…}`, and what is after it.
fn next_token(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find("%{")?;
    let end = start + text[start..].find('}')? + 1;
    Some((&text[..start], &text[start..end], &text[end..]))
}
