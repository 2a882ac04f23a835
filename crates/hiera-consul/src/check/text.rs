//! Texts: what their `%{…}` lead to.

use super::Checker;
use super::service_key::misspelt;
use crate::engine::{Engine, Invocation};
use crate::error::Error;
use crate::interpolate::method_and_key;
use crate::value::Value;

impl Checker {
    /// Looks at the tokens of a string.
    pub(super) fn text(&mut self, place: &str, line: Option<usize>, text: &str, engine: Option<&Engine>) {
        if Value::from(text).is_encrypted() {
            self.warning(place, line, "an eyaml value is not decrypted; looking it up is refused".to_owned());
        }
        for token in tokens(text) {
            let (method, key) = match parse(token) {
                Ok(parsed) => parsed,
                Err(message) => {
                    self.warning(place, line, message);
                    continue;
                }
            };
            match method {
                "literal" => {}
                "scope" => {
                    if let Some(engine) = engine
                        && matches!(engine.variable(key, text), Ok(None))
                        && !key.is_empty()
                    {
                        self.warning(place, line, format!("{token} becomes empty: the variable has no value"));
                    }
                }
                "lookup" | "hiera" | "alias" => {
                    if method == "alias" && token != text {
                        let message = format!("{token} must be the whole string");
                        let error = Error::Data { message, file: Some(place.into()), line };
                        self.error(&error);
                        continue;
                    }
                    let misspelt = misspelt(key);
                    if let Some(engine) = engine.filter(|_| !self.blind)
                        && misspelt.is_none()
                        && matches!(engine.lookup(key, None, &mut Invocation::default()), Ok(None))
                    {
                        self.warning(place, line, format!("{token} becomes empty: there is no such key"));
                    }
                    if let Some(message) = misspelt {
                        self.warning(place, line, format!("{token}: {message}"));
                    }
                }
                other => {
                    let message = format!("unknown interpolation method '{other}' in {token}");
                    self.error(&Error::Data { message, file: Some(place.into()), line });
                }
            }
        }
    }
}

/// Iterates over the `%{…}` of a string.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find("%{")?;
        let end = start + rest[start..].find('}')? + 1;
        let token = &rest[start..end];
        rest = &rest[end..];
        Some(token)
    })
}

/// Returns method and key of a token.
pub(super) fn parse(token: &str) -> Result<(&str, &str), String> {
    let expression = token[2..token.len() - 1].trim();
    if matches!(expression, "" | "::" | "\"\"" | "''" | "\"::\"" | "'::'") {
        return Ok(("literal", ""));
    }
    match method_and_key(expression) {
        Some(found) => Ok(found),
        None if expression.contains('(') => Err(format!("{token} is read as a variable of that name; quote the key")),
        None => Ok(("scope", expression)),
    }
}
