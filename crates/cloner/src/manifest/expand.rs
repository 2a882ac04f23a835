//! `%{variables}` of one repository, expanded to a fixed point.

use std::collections::HashMap;

use super::group::{Group, Place, Scalar};
use super::{MAX_VALUE, ManifestError};
use crate::nearest::nearest;

/// Expands the variables of one repository; each at most once.
pub(super) struct Expander<'a> {
    name: &'a str,
    /// Root first, the repository's own mapping last.
    scope: &'a [&'a Group],
    done: HashMap<&'a str, String>,
    /// Variables being expanded, to see a cycle.
    open: Vec<&'a str>,
}

impl<'a> Expander<'a> {
    pub(super) fn new(name: &'a str, scope: &'a [&'a Group]) -> Self {
        Self { name, scope, done: HashMap::new(), open: Vec::new() }
    }

    /// Returns the nearest definition of `key`, expanded; none if there is none.
    pub(super) fn value(&mut self, key: &str) -> Result<Option<String>, ManifestError> {
        if let Some(done) = self.done.get(key) {
            return Ok(Some(done.clone()));
        }
        let scope = self.scope;
        let Some((key, scalar)) = scope.iter().rev().find_map(|group| group.scalars.entry(key)) else {
            return Ok(None);
        };
        if self.open.contains(&key) {
            let cycle: Vec<&str> = self.open.iter().skip_while(|open| **open != key).copied().chain([key]).collect();
            return Err(scalar.at.error(format!("variable '{key}' needs itself: {}", cycle.join(" -> ")), None));
        }
        self.open.push(key);
        let text = self.expand(scalar)?;
        self.open.pop();
        self.done.insert(key, text.clone());
        Ok(Some(text))
    }

    /// Returns where the nearest definition of `key` stands.
    pub(super) fn at(&self, key: &str) -> Option<&'a Place> {
        self.scope.iter().rev().find_map(|group| group.scalars.get(key)).map(|scalar| &scalar.at)
    }

    fn expand(&mut self, scalar: &Scalar) -> Result<String, ManifestError> {
        let mut out = String::new();
        let mut rest = scalar.text.as_str();
        while let Some(start) = rest.find("%{") {
            out.push_str(&rest[..start]);
            let offset = scalar.text.len() - rest.len() + start;
            let fail = |message: String, hint| Err(scalar.at_offset(offset).error(message, hint));
            let Some(end) = rest[start..].find('}') else {
                return fail("'%{' without '}'".to_owned(), None);
            };
            let variable = rest[start + 2..start + end].trim();
            rest = &rest[start + end + 1..];
            if variable == "name" {
                out.push_str(self.name);
            } else if let Some(value) = self.value(variable)? {
                out.push_str(&value);
            } else {
                let scope = self.scope;
                let known = scope.iter().flat_map(|group| group.scalars.iter().map(|(key, _)| key));
                let hint = nearest(variable, known.chain(["name"])).map(|near| format!("did you mean %{{{near}}}?"));
                return fail(format!("variable '{variable}' is not defined"), hint);
            }
            if out.len() > MAX_VALUE {
                return fail(format!("expands to more than {MAX_VALUE} bytes"), None);
            }
        }
        out.push_str(rest);
        if out.len() > MAX_VALUE {
            return Err(scalar.at.error(format!("a value of more than {MAX_VALUE} bytes"), None));
        }
        Ok(out)
    }
}

/// Returns the names of all variables that `text` asks for.
pub(super) fn asked(text: &str) -> impl Iterator<Item = &str> {
    text.split("%{").skip(1).filter_map(|part| part.split_once('}')).map(|(variable, _)| variable.trim())
}
