//! The merge strategies: `first`, `unique`, `hash`, `deep`.
//!
//! `combine` walks the sources of one level, highest priority first, and joins what it finds.
//! The deep merge follows the Ruby library that Puppet uses, including that knock-out removes
//! list items and blanks whole values but leaves hash keys alone.

use crate::error::Error;
use crate::value::{Hash, Value};

/// Options of the deep merge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deep {
    /// Items that start with this prefix remove their counterpart.
    pub knockout_prefix: Option<String>,
    /// Sort every list that was merged.
    pub sort_merged_arrays: bool,
    /// Merge hashes inside lists by position.
    pub merge_hash_arrays: bool,
    /// Keep the lower value where the two cannot be merged (Hiera 3's merge_behavior `deep`).
    pub preserve_unmergeables: bool,
}

/// How values of several sources become one.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// The first found value, as it is.
    First,
    /// All values as one flat list without duplicates.
    Unique,
    /// Hashes joined at their top level.
    Hash,
    /// Hashes and lists joined at every level.
    Deep(Deep),
}

impl Strategy {
    /// Reads the `merge` of lookup_options: a name, or a hash with `strategy` and options.
    pub fn from_value(value: &Value) -> Result<Self, Error> {
        let (name, options) = match value {
            Value::String(name) => (name.as_str(), None),
            Value::Hash(hash) => match hash.get_str("strategy") {
                Some(Value::String(name)) => (name.as_str(), Some(hash)),
                _ => {
                    return Err(Error::data("the hash given as 'merge' must name a strategy under the key 'strategy'"));
                }
            },
            other => {
                return Err(Error::data(format!("unknown merge strategy: {}", other.inspect())));
            }
        };
        let mut deep = Deep::default();
        for (key, value) in options.into_iter().flat_map(Hash::iter) {
            let known = match (key.as_str(), value) {
                (Some("strategy"), _) => true,
                (Some("knockout_prefix"), Value::String(prefix)) if name == "deep" => {
                    if prefix.is_empty() {
                        return Err(Error::data("knockout_prefix cannot be an empty string"));
                    }
                    deep.knockout_prefix = Some(prefix.clone());
                    true
                }
                (Some("sort_merged_arrays"), Value::Bool(on)) if name == "deep" => {
                    deep.sort_merged_arrays = *on;
                    true
                }
                (Some("merge_hash_arrays"), Value::Bool(on)) if name == "deep" => {
                    deep.merge_hash_arrays = *on;
                    true
                }
                (Some("knockout_prefix" | "sort_merged_arrays" | "merge_hash_arrays"), Value::Null)
                    if name == "deep" =>
                {
                    true
                }
                // Prints its steps to Ruby's stdout and changes no value.
                (Some("merge_debug"), Value::Bool(_) | Value::Null) if name == "deep" => true,
                _ => false,
            };
            if !known {
                return Err(Error::data(format!(
                    "the merge option {} is not valid for strategy '{name}'",
                    key.inspect()
                )));
            }
        }
        match name {
            "first" => Ok(Strategy::First),
            "unique" => Ok(Strategy::Unique),
            "hash" => Ok(Strategy::Hash),
            "deep" => Ok(Strategy::Deep(deep)),
            other => Err(Error::data(format!("unknown merge strategy: '{other}'"))),
        }
    }

    /// Returns the strategy's name.
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::First => "first",
            Strategy::Unique => "unique",
            Strategy::Hash => "hash",
            Strategy::Deep(_) => "deep",
        }
    }

    /// Asks `sources` in order of priority and joins their answers.
    pub fn combine<T>(
        &self,
        sources: &[T],
        mut ask: impl FnMut(&T) -> Result<Option<Value>, Error>,
    ) -> Result<Option<Value>, Error> {
        if *self == Strategy::First {
            for source in sources {
                if let Some(value) = ask(source)? {
                    return Ok(Some(value));
                }
            }
            return Ok(None);
        }
        if let [only] = sources {
            return Ok(ask(only)?.map(|value| self.alone(value)));
        }
        let mut joined: Option<Value> = None;
        for source in sources {
            if let Some(value) = ask(source)? {
                joined = Some(match joined {
                    None => self.convert(value),
                    Some(higher) => self.merge(higher, value)?,
                });
            }
        }
        Ok(joined)
    }

    fn alone(&self, value: Value) -> Value {
        match (self, value) {
            (Strategy::Unique, Value::Array(list)) => Value::Array(uniq(list)),
            (_, value) => value,
        }
    }

    fn convert(&self, value: Value) -> Value {
        match self {
            Strategy::Unique => Value::Array(listed(value)),
            _ => value,
        }
    }

    /// Joins two values, the first having priority.
    pub fn merge(&self, higher: Value, lower: Value) -> Result<Value, Error> {
        match self {
            Strategy::First => Ok(higher),
            Strategy::Unique => {
                for (which, value) in [("first", &higher), ("second", &lower)] {
                    if matches!(value, Value::Null | Value::Hash(_)) || !value.is_data() {
                        return Err(wrong(which, "a value of type Scalar or Array", value));
                    }
                }
                let mut list = listed(higher);
                list.extend(listed(lower));
                Ok(Value::Array(uniq(list)))
            }
            Strategy::Hash => match (higher, lower) {
                (Value::Hash(higher), Value::Hash(mut lower)) => {
                    for (which, hash) in [("first", &higher), ("second", &lower)] {
                        if !hash.iter().all(|(k, v)| matches!(k, Value::String(_)) && v.is_data()) {
                            return Err(Error::data(format!(
                                "the {which} element of the merge has wrong type, expects Hash[String, Data]"
                            )));
                        }
                    }
                    for (key, value) in higher {
                        lower.insert(key, value);
                    }
                    Ok(Value::Hash(lower))
                }
                (Value::Hash(_), other) => Err(wrong("second", "a Hash value", &other)),
                (other, _) => Err(wrong("first", "a Hash value", &other)),
            },
            Strategy::Deep(options) => options.merge(higher, lower),
        }
    }
}

fn wrong(which: &str, expected: &str, value: &Value) -> Error {
    Error::data(format!(
        "the {which} element of the merge has wrong type, expects {expected}, got {}",
        value.type_name()
    ))
}

fn listed(value: Value) -> Vec<Value> {
    fn flatten(list: Vec<Value>, out: &mut Vec<Value>) {
        for item in list {
            match item {
                Value::Array(inner) => flatten(inner, out),
                other => out.push(other),
            }
        }
    }
    match value {
        Value::Array(list) => {
            let mut out = Vec::with_capacity(list.len());
            flatten(list, &mut out);
            out
        }
        other => vec![other],
    }
}

fn uniq(list: Vec<Value>) -> Vec<Value> {
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    list.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

impl Deep {
    /// Merges `source` (higher priority) over `dest`.
    pub fn merge(&self, source: Value, dest: Value) -> Result<Value, Error> {
        if matches!(source, Value::Null) {
            return Ok(dest);
        }
        if matches!(dest, Value::Null | Value::Bool(false)) && !self.preserve_unmergeables {
            return Ok(source);
        }
        match (source, dest) {
            (Value::Hash(source), Value::Hash(mut dest)) => {
                for (key, value) in source {
                    let merged = match dest.get(&key) {
                        Some(old) if !matches!(old, Value::Null | Value::Bool(false)) => {
                            self.merge(value, old.clone())?
                        }
                        // Merged with itself, so that duplicates, order and knock-outs are
                        // treated alike on both sides.
                        _ => self.merge(value.clone(), value)?,
                    };
                    dest.insert(key, merged);
                }
                Ok(Value::Hash(dest))
            }
            // An empty hash has no entry that could overwrite anything.
            (Value::Hash(source), dest) if source.is_empty() => Ok(dest),
            (Value::Array(source), Value::Array(dest)) => self.merge_lists(source, dest),
            (Value::Array(source), dest) => {
                // A bare prefix in the list truncates what is below before it is overwritten.
                let (source, dest) = match &self.knockout_prefix {
                    Some(prefix) if source.iter().any(|v| v.as_str() == Some(prefix)) => {
                        (source.into_iter().filter(|v| v.as_str() != Some(prefix)).collect(), Value::Null)
                    }
                    _ => (source, dest),
                };
                Ok(self.overwrite(Value::Array(source), dest))
            }
            (source, dest) => Ok(self.overwrite(source, dest)),
        }
    }

    fn merge_lists(&self, mut source: Vec<Value>, mut dest: Vec<Value>) -> Result<Value, Error> {
        if let Some(prefix) = &self.knockout_prefix {
            if source.iter().any(|item| item.as_str() == Some(prefix)) {
                dest.clear();
                source.retain(|item| item.as_str() != Some(prefix));
            }
            let mut kept = Vec::with_capacity(source.len());
            for item in source {
                match item.as_str().and_then(|text| knocked_out(text, prefix)) {
                    Some(bare) => {
                        let bare = Value::String(bare);
                        dest.retain(|old| *old != bare && *old != item);
                    }
                    None => kept.push(item),
                }
            }
            source = kept;
        }
        let hashes = |list: &[Value]| list.iter().all(|item| matches!(item, Value::Hash(_)));
        let mut joined = if self.merge_hash_arrays && hashes(&source) && hashes(&dest) {
            let mut joined = Vec::with_capacity(source.len().max(dest.len()));
            let mut source = source.into_iter();
            for old in dest {
                joined.push(match source.next() {
                    Some(new) => self.merge(new, old)?,
                    None => old,
                });
            }
            joined.extend(source);
            joined
        } else {
            dest.extend(source);
            uniq(dest)
        };
        if self.sort_merged_arrays {
            sort(&mut joined)?;
        }
        Ok(Value::Array(joined))
    }

    fn overwrite(&self, source: Value, dest: Value) -> Value {
        if self.preserve_unmergeables {
            return dest;
        }
        let Some(prefix) = &self.knockout_prefix else {
            return source;
        };
        match source {
            Value::String(text) if knocked_out(&text, prefix).is_some() => Value::String(String::new()),
            Value::Array(list) => Value::Array(
                list.into_iter().filter(|v| !v.as_str().is_some_and(|s| starts_a_line(s, prefix))).collect(),
            ),
            other => other,
        }
    }
}

fn starts_a_line(text: &str, prefix: &str) -> bool {
    text.split('\n').any(|line| line.starts_with(prefix))
}

/// Returns `text` without the prefix at its line starts, when there was one.
fn knocked_out(text: &str, prefix: &str) -> Option<String> {
    if !starts_a_line(text, prefix) {
        return None;
    }
    let lines: Vec<_> = text.split('\n').map(|line| line.strip_prefix(prefix).unwrap_or(line)).collect();
    Some(lines.join("\n"))
}

/// Sorts as Ruby sorts: all numbers, or all strings, or all lists.
fn sort(list: &mut [Value]) -> Result<(), Error> {
    use std::cmp::Ordering;
    fn number(value: &Value) -> Option<f64> {
        match value {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            Value::Big(digits) => digits.parse().ok(),
            _ => None,
        }
    }
    fn compare(a: &Value, b: &Value) -> Option<Ordering> {
        match (a, b) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Value::Array(a), Value::Array(b)) => {
                for (a, b) in a.iter().zip(b) {
                    match compare(a, b)? {
                        Ordering::Equal => {}
                        other => return Some(other),
                    }
                }
                Some(a.len().cmp(&b.len()))
            }
            (a, b) if a == b => Some(Ordering::Equal),
            (a, b) => number(a)?.partial_cmp(&number(b)?),
        }
    }
    let mut failed = false;
    list.sort_by(|a, b| {
        compare(a, b).unwrap_or_else(|| {
            failed = true;
            Ordering::Equal
        })
    });
    if failed {
        return Err(Error::data("sort_merged_arrays: the merged list holds values that cannot be compared"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        Value::from_json(serde_json::from_str(text).expect("test JSON"))
    }

    fn deep(source: &str, dest: &str, options: &Deep) -> Value {
        options.merge(json(source), json(dest)).expect("merges")
    }

    #[test]
    fn deep_puts_lower_items_first_and_lets_higher_scalars_win() {
        let options = Deep::default();
        assert_eq!(deep(r#"{"x":[1,2],"y":2}"#, r#"{"x":[3,1],"y":[7]}"#, &options), json(r#"{"x":[3,1,2],"y":2}"#));
        assert_eq!(deep("null", "[1]", &options), json("[1]"));
    }

    #[test]
    fn knockout_removes_items_and_blanks_values_but_keeps_keys() {
        let options = Deep { knockout_prefix: Some("--".to_owned()), ..Deep::default() };
        assert_eq!(
            deep(
                r#"{"x":["--1","2"],"whole":"--","--gone":null}"#,
                r#"{"x":["1","3"],"whole":[1],"gone":1}"#,
                &options
            ),
            json(r#"{"x":["3","2"],"whole":"","gone":1,"--gone":null}"#)
        );
    }

    #[test]
    fn hashes_in_lists_merge_by_position() {
        let options = Deep { merge_hash_arrays: true, ..Deep::default() };
        assert_eq!(deep(r#"[{"y":1},{"q":2}]"#, r#"[{"z":2}]"#, &options), json(r#"[{"z":2,"y":1},{"q":2}]"#));
    }

    #[test]
    fn unique_flattens_and_refuses_hashes() {
        let mut sources = vec![json("[1,[2,1]]"), json("3")];
        sources.dedup();
        let joined = Strategy::Unique.combine(&sources, |v| Ok(Some(v.clone()))).expect("merges");
        assert_eq!(joined, Some(json("[1,2,3]")));
        assert!(Strategy::Unique.merge(json("{}"), json("1")).is_err());
    }
}
