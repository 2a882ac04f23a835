//! How the keys below a level's prefix are keys of Hiera.

use std::cell::OnceCell;

use crate::error::Error;
use crate::psych;
use crate::value::{Hash, Value};

use super::level::{Format, Level};
use super::snapshot::Snapshot;

/// What a level's keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Each stored key is one, slashes and all.
    #[default]
    Keys,
    /// Folders are hashes: `db/host` is `host` in the hash `db`.
    Folders,
    /// One stored value, of this name, is a hash with all of them.
    Document(String),
}

/// Tells the stored key that a value is from.
pub(crate) type Name<'n> = &'n dyn Fn() -> String;

/// A level's values, as its layout has them; what has to be read whole is read once.
#[derive(Debug, Default)]
pub(crate) struct Values {
    document: OnceCell<Hash>,
}

impl Values {
    /// Returns the value of a key, with the stored key it is from where it is one.
    pub(crate) fn get(&self, level: &Level, snapshot: &Snapshot, key: &str) -> Result<Option<Value>, Error> {
        match &level.layout {
            Layout::Keys => match snapshot.get(key) {
                Some(bytes) => level.format.value(&format!("{}{key}", level.prefix), bytes).map(Some),
                None => Ok(None),
            },
            Layout::Folders => folder(level, snapshot, key),
            Layout::Document(name) => Ok(self.document(level, snapshot, name)?.get_str(key).cloned()),
        }
    }

    /// Hands over every key, what tells the stored key that it is from, and its value.
    pub(crate) fn each(
        &self,
        level: &Level,
        snapshot: &Snapshot,
        mut visit: impl FnMut(&str, Name<'_>, Result<Value, Error>),
    ) -> Result<(), Error> {
        if level.layout == Layout::Keys {
            for (key, bytes) in snapshot.iter() {
                let name = || format!("{}{key}", level.prefix);
                // The name is for errors alone.
                let value = level.format.value(key, bytes).or_else(|_| level.format.value(&name(), bytes));
                visit(key, &name, value);
            }
            return Ok(());
        }
        for (key, name) in self.keys(level, snapshot)? {
            // A key that was listed is there.
            let value = self.get(level, snapshot, &key).map(Option::unwrap_or_default);
            visit(&key, &|| name.clone(), value);
        }
        Ok(())
    }

    /// Returns all keys, each with the stored key that it is from.
    pub(crate) fn keys(&self, level: &Level, snapshot: &Snapshot) -> Result<Vec<(String, String)>, Error> {
        let prefix = &level.prefix;
        Ok(match &level.layout {
            Layout::Keys => snapshot.iter().map(|(key, _)| (key.to_owned(), format!("{prefix}{key}"))).collect(),
            Layout::Folders => {
                let mut roots: Vec<&str> =
                    snapshot.iter().map(|(key, _)| key.split('/').next().unwrap_or_default()).collect();
                roots.sort_unstable();
                roots.dedup();
                roots.iter().map(|root| ((*root).to_owned(), format!("{prefix}{root}"))).collect()
            }
            Layout::Document(name) => {
                let document = self.document(level, snapshot, name)?;
                document.iter().map(|(key, _)| (key.to_text(), format!("{prefix}{name}"))).collect()
            }
        })
    }

    fn document(&self, level: &Level, snapshot: &Snapshot, name: &str) -> Result<&Hash, Error> {
        if let Some(document) = self.document.get() {
            return Ok(document);
        }
        let place = format!("{}{name}", level.prefix);
        let document = match snapshot.get(name) {
            None => Hash::new(),
            Some(bytes) => match document(level.format, &place, bytes)? {
                Value::Hash(hash) => hash,
                // As a data file of comments alone.
                Value::Null => Hash::new(),
                other => {
                    let kind = other.type_name();
                    return Err(Error::data(format!("Consul key {place} holds {kind} where a hash is expected")));
                }
            },
        };
        Ok(self.document.get_or_init(|| document))
    }
}

/// Reads a document; JSON is YAML too, so that `auto` need not guess.
pub(crate) fn document(format: Format, place: &str, bytes: &[u8]) -> Result<Value, Error> {
    let named = |error: Error| error.while_doing(format_args!("the value of Consul key {place}"));
    match format {
        Format::Json => psych::load_json(bytes).map_err(named),
        _ => psych::load(bytes).map(Value::symbol_keys_to_text).map_err(named),
    }
}

/// Puts together what is at a key and below it.
fn folder(level: &Level, snapshot: &Snapshot, key: &str) -> Result<Option<Value>, Error> {
    // What holds a slash is inside of a hash, not a key.
    if key.is_empty() || key.contains('/') {
        return Ok(None);
    }
    let place = |key: &str| format!("{}{key}", level.prefix);
    let inside = format!("{key}/");
    let mut below = snapshot.starting(&inside).peekable();
    let own = snapshot.get(key);
    if below.peek().is_none() {
        return own.map(|bytes| level.format.value(&place(key), bytes)).transpose();
    }
    if own.is_some() {
        return Err(both(&place(key)));
    }
    let mut root = Hash::new();
    for (name, bytes) in below {
        let value = level.format.value(&place(name), bytes)?;
        let mut parts: Vec<&str> = name[inside.len()..].split('/').collect();
        let last = parts.pop().unwrap_or_default();
        let mut hash = &mut root;
        for part in parts {
            let part = Value::from(part);
            if hash.get(&part).is_none() {
                hash.insert(part.clone(), Value::Hash(Hash::new()));
            }
            hash = match hash.get_mut(&part) {
                Some(Value::Hash(inner)) => inner,
                _ => return Err(both(&place(name))),
            };
        }
        if hash.get_str(last).is_some() {
            return Err(both(&place(name)));
        }
        hash.insert(Value::from(last), value);
    }
    Ok(Some(Value::Hash(root)))
}

fn both(place: &str) -> Error {
    Error::data(format!(
        "Consul key {place} is a value and a folder, or is in one; with folders it can be only one of them"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Origin;
    use super::*;

    fn of(layout: Layout, pairs: &[(&str, &str)]) -> (Level, Snapshot) {
        let level = Level { prefix: "p/".to_owned(), layout, ..Level::default() };
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
        (level, Snapshot::new(pairs, Origin::default()))
    }

    fn json(value: &Value) -> String {
        value.to_json().expect("JSON")
    }

    #[test]
    fn folders_are_hashes() {
        let pairs = [("db-x", "1"), ("db/host", "h"), ("db/ports/0", "80"), ("db/ports/tls", "true"), ("n", "7")];
        let (level, snapshot) = of(Layout::Folders, &pairs);
        let values = Values::default();
        let get = |key: &str| values.get(&level, &snapshot, key).expect("sound");
        assert_eq!(get("db").map(|v| json(&v)).as_deref(), Some(r#"{"host":"h","ports":{"0":80,"tls":true}}"#));
        assert_eq!((get("n"), get("db/host"), get("d"), get("")), (Some(Value::Int(7)), None, None, None));
        let keys: Vec<_> = values.keys(&level, &snapshot).expect("sound").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["db", "db-x", "n"]);
    }

    #[test]
    fn a_value_that_is_a_folder_too_is_refused() {
        for pairs in
            [[("a", "1"), ("a/b", "2")], [("a/b", "{\"c\": 1}"), ("a/b/d", "2")], [("a/b", "1"), ("a/b/c/d", "2")]]
        {
            let (level, snapshot) = of(Layout::Folders, &pairs);
            let refused = Values::default().get(&level, &snapshot, "a").is_err();
            // A hash as a value is one that a folder can add to.
            assert_eq!(refused, !pairs[0].1.starts_with('{'), "{pairs:?}");
        }
    }

    #[test]
    fn a_document_is_a_hash_of_keys() {
        let (level, snapshot) = of(Layout::Document("data".into()), &[("data", "a: yes\n:s: 0755\n"), ("other", "x")]);
        let values = Values::default();
        assert_eq!(values.get(&level, &snapshot, "a").expect("sound"), Some(Value::Bool(true)));
        assert_eq!(values.get(&level, &snapshot, "s").expect("sound"), Some(Value::Int(493)));
        assert_eq!(values.get(&level, &snapshot, "other").expect("sound"), None);
        let (level, snapshot) = of(Layout::Document("data".into()), &[("data", "- a\n")]);
        assert!(Values::default().get(&level, &snapshot, "a").is_err());
        let (level, snapshot) = of(Layout::Document("none".into()), &[]);
        assert_eq!(Values::default().get(&level, &snapshot, "a").expect("sound"), None);
    }
}
