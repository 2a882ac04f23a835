//! lookup_options: how values of a key are merged and converted, by exact names and by patterns.

use std::rc::Rc;

use regex::{Regex, RegexBuilder};

use crate::error::Error;
use crate::key::Key;
use crate::merge::Strategy;
use crate::value::{Hash, Value};

use super::{Engine, Invocation, LOOKUP_OPTIONS};

/// Names in lookup_options: far more than data has.
const MOST_OPTIONS: usize = 5000;
/// Patterns of lookup_options, and how many of them may be large.
const MOST_PATTERNS: usize = 500;
const MOST_LARGE: usize = 16;

/// lookup_options, ready to be asked.
pub(super) struct Options {
    pub(super) exact: Hash,
    pub(super) patterns: Vec<(Regex, Value)>,
}

impl Options {
    pub(super) fn of(&self, root: &str) -> Option<&Hash> {
        let found = match self.exact.get_str(root) {
            Some(Value::Null) | None => {
                self.patterns.iter().find(|(pattern, _)| pattern.is_match(root)).map(|(_, value)| value)
            }
            found => found,
        };
        found.and_then(Value::as_hash)
    }
}

impl Engine {
    pub(super) fn options_of(
        &self,
        key: &Key,
        module: Option<&str>,
        inv: &mut Invocation,
    ) -> Result<Option<Hash>, Error> {
        let cached = self.options.borrow().get(&module.map(str::to_owned)).cloned();
        let options = match cached {
            Some(options) => options,
            None => {
                let options = self.retrieve_options(module, inv)?;
                self.options.borrow_mut().insert(module.map(str::to_owned), options.clone());
                options
            }
        };
        Ok(options.and_then(|options| options.of(&key.root).cloned()))
    }

    pub(super) fn retrieve_options(
        &self,
        module: Option<&str>,
        inv: &mut Invocation,
    ) -> Result<Option<Rc<Options>>, Error> {
        let key = Key::parse(LOOKUP_OPTIONS, String::new)?;
        let hash = Strategy::Hash;
        if self.global_options.borrow().is_none() {
            let found = valid_options(self.in_global(&key, &hash, inv)?, None)?;
            *self.global_options.borrow_mut() = Some(found);
        }
        let global = self.global_options.borrow().clone().flatten();
        if inv.global_only {
            return compile(global);
        }
        if self.environment_options.borrow().is_none() {
            let own = valid_options(self.in_environment(&key, &hash, inv)?, None)?;
            let joined = match (global, own) {
                (Some(global), Some(own)) => hash.merge(Value::Hash(global), Value::Hash(own))?.as_hash().cloned(),
                (global, own) => global.or(own),
            };
            *self.environment_options.borrow_mut() = Some(joined);
        }
        let outer = self.environment_options.borrow().clone().flatten();
        let Some(module) = module else { return compile(outer) };
        let own = valid_options(self.in_module(&key, &hash, Some(module), inv)?, Some(module))?;
        let joined = match (outer, own) {
            (Some(outer), Some(own)) => hash.merge(Value::Hash(outer), Value::Hash(own))?.as_hash().cloned(),
            (outer, own) => outer.or(own),
        };
        compile(joined)
    }
}

pub(super) fn valid_options(found: Option<Value>, module: Option<&str>) -> Result<Option<Hash>, Error> {
    let options = match found {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Hash(options)) => options,
        Some(other) => {
            return Err(Error::data(format!("value of lookup_options must be a hash, got {}", other.type_name())));
        }
    };
    // They are joined and kept several times over.
    if options.len() > MOST_OPTIONS {
        return Err(Error::data(format!("lookup_options has more than {MOST_OPTIONS} names")));
    }
    let prefix = module.map(|module| format!("{module}::"));
    for (key, _) in options.iter() {
        let Some(text) = key.as_str() else {
            return Err(Error::data(format!("lookup_options has a key that is no string: {}", key.inspect())));
        };
        if let (Some(prefix), Some(module)) = (&prefix, module) {
            let name = text.strip_prefix('^').unwrap_or(text);
            if !name.starts_with(prefix.as_str()) {
                return Err(Error::data(format!(
                    "all lookup_options of module '{module}' must begin with '{prefix}', got '{text}'"
                )));
            }
        }
    }
    Ok(Some(options))
}

/// Builds a pattern of lookup_options. All of them together stay below 50 MB: few may be large.
fn pattern(text: &str, large: &mut usize) -> Result<Regex, Error> {
    // Ruby's ^ and $ stand at line ends.
    let build = |limit: usize| RegexBuilder::new(text).multi_line(true).size_limit(limit).build();
    let built = match build(64 << 10) {
        Err(regex::Error::CompiledTooBig(_)) if *large < MOST_LARGE => {
            *large += 1;
            build(1 << 20)
        }
        other => other,
    };
    built.map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::data(format!("pattern '{text}' of lookup_options: {reason}"))
    })
}

pub(super) fn compile(options: Option<Hash>) -> Result<Option<Rc<Options>>, Error> {
    let Some(options) = options else { return Ok(None) };
    let mut exact = Hash::new();
    let mut patterns = Vec::new();
    let mut large = 0;
    for (key, value) in options {
        match key.as_str().filter(|text| text.starts_with('^')) {
            // Ruby's ^ and $ stand at line ends.
            Some(text) => {
                if patterns.len() >= MOST_PATTERNS {
                    return Err(Error::data(format!("lookup_options has more than {MOST_PATTERNS} patterns")));
                }
                patterns.push((pattern(text, &mut large)?, value));
            }
            None => exact.insert(key, value),
        }
    }
    Ok(Some(Rc::new(Options { exact, patterns })))
}
