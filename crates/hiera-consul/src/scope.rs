//! The variables that hierarchies and data may interpolate.
//!
//! Facts are top-scope variables, as in a catalog; `facts`, `trusted`, `environment` and what
//! `--scope` names stand beside them. A leading `::` means the same variable.

use std::cell::RefCell;

use crate::value::{Hash, Value};

/// Variables of one lookup run.
#[derive(Debug, Default)]
pub struct Scope {
    variables: Hash,
    /// Variables of `mapped_paths`, innermost last.
    local: RefCell<Vec<(String, Value)>>,
}

impl Scope {
    /// Builds the scope of a node.
    pub fn new(node: &str, environment: Option<&str>, facts: Hash) -> Self {
        let mut variables = facts.clone();
        let (hostname, domain) = node.split_once('.').unwrap_or((node, ""));
        let trusted: Hash = [
            ("authenticated", Value::from("local")),
            ("certname", Value::from(node)),
            ("domain", Value::from(domain)),
            ("extensions", Value::Hash(Hash::new())),
            ("external", Value::Hash(Hash::new())),
            ("hostname", Value::from(hostname)),
        ]
        .into_iter()
        .map(|(k, v)| (Value::from(k), v))
        .collect();
        variables.insert(Value::from("facts"), Value::Hash(facts));
        variables.insert(Value::from("trusted"), Value::Hash(trusted));
        if let Some(environment) = environment {
            variables.insert(Value::from("environment"), Value::from(environment));
        }
        Scope { variables, local: RefCell::default() }
    }

    /// Builds a scope of exactly these variables.
    pub fn bare(variables: Hash) -> Self {
        Scope { variables, local: RefCell::default() }
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: Value) {
        self.variables.insert(Value::from(name), value);
    }

    /// Returns a variable.
    pub fn get(&self, name: &str) -> Option<Value> {
        let top = name.strip_prefix("::");
        if top.is_none() {
            let local = self.local.borrow();
            if let Some((_, value)) = local.iter().rev().find(|(n, _)| n == name) {
                return Some(value.clone());
            }
        }
        self.variables.get_str(top.unwrap_or(name)).cloned()
    }

    /// Runs `f` with one more variable in sight.
    pub fn with_local<T>(&self, name: &str, value: Value, f: impl FnOnce() -> T) -> T {
        self.local.borrow_mut().push((name.to_owned(), value));
        let result = f();
        self.local.borrow_mut().pop();
        result
    }
}
