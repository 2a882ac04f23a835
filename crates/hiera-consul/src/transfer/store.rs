//! Consul's side of an import or export.

use std::collections::BTreeMap;

use consul_client::{MOST_WRITES, Query, TRANSACTION_LIMIT, VALUE_LIMIT, Write};

use crate::consul::{Access, Format, Layout, Level, Need, Origin, Pairs, Reader, Snapshot, Values, document};
use crate::error::Error;
use crate::value::{Hash, Value};

use super::{Difference, Form, Side, is_part};

/// Room for the brackets of a transaction's request.
const SLACK: usize = 64;

/// The keys below a prefix.
pub(super) struct Store<'f> {
    reader: Reader,
    form: &'f Form,
}

/// What is stored.
pub(super) struct There {
    pub(super) side: Side,
    /// Modify indexes by whole key.
    indexes: BTreeMap<String, u64>,
}

/// A write, owned.
#[derive(Debug)]
pub(super) enum Step {
    Set { key: String, value: Vec<u8>, index: u64 },
    Remove { key: String, index: u64 },
}

impl Step {
    fn as_write(&self) -> Write<'_> {
        match self {
            Step::Set { key, value, index } => Write::Set { key, value, index: *index },
            Step::Remove { key, index } => Write::Remove { key, index: *index },
        }
    }
}

impl<'f> Store<'f> {
    pub(super) fn open(access: &Access, form: &'f Form) -> Result<Self, Error> {
        let reader = Reader::new(access.client(&consul_client::Overrides::default())?);
        Ok(Store { reader, form })
    }

    /// Reads everything below the prefix, as one level or as many.
    pub(super) fn read(&self, single: bool) -> Result<There, Error> {
        let (reader, prefix) = (&self.reader, self.form.prefix.as_str());
        let pairs = reader
            .read(|client| client.kv().list(prefix, &Query::new()))
            .and_then(|answer| reader.may(&[Need::Keys(prefix.to_owned())]).map(|()| answer.value))
            .and_then(|pairs| if pairs.is_empty() { reader.confirm_empty(prefix).map(|()| pairs) } else { Ok(pairs) })
            .map_err(|source| reader.failed(format!("cannot read the keys below {prefix}"), source))?;
        let mut there = There { side: Side::new(), indexes: BTreeMap::new() };
        let mut levels: BTreeMap<String, Pairs> = BTreeMap::new();
        // A key that ends with a slash is a folder of Consul's web page.
        for pair in pairs.into_iter().filter(|pair| !pair.key.ends_with('/')) {
            let rest = &pair.key[prefix.len()..];
            let (level, name) = match rest.rsplit_once('/') {
                _ if single => ("", rest),
                Some((level, name)) => (level, name),
                None => {
                    return Err(Error::data(format!(
                        "Consul key {} is in no folder below {prefix}, and so of no file; name a file instead of a directory, or another prefix",
                        pair.key
                    )));
                }
            };
            let sound = single || level.split('/').all(|part| is_part(part) && !part.starts_with('.'));
            if !sound {
                return Err(Error::data(format!(
                    "Consul key {} cannot be of a data file: its folder is no path",
                    pair.key
                )));
            }
            levels.entry(level.to_owned()).or_default().insert(name.to_owned(), pair.value);
            there.indexes.insert(pair.key, pair.modify_index);
        }
        for (name, pairs) in levels {
            let snapshot = Snapshot::new(pairs, Origin::default());
            let level = Level {
                prefix: self.form.folder(&name),
                format: self.form.format,
                layout: self.form.layout.clone(),
                ..Level::default()
            };
            if let Layout::Document(document) = &self.form.layout {
                if let Some(other) = snapshot.iter().map(|(key, _)| key).find(|key| key != document) {
                    return Err(Error::data(format!(
                        "Consul key {}{other} is beside the document {document}, and would be of no file",
                        level.prefix
                    )));
                }
                if let Some(bytes) = snapshot.get(document) {
                    let place = format!("{}{document}", level.prefix);
                    let text = text(&place, bytes)?;
                    there.side.insert((name, document.clone()), Value::String(text));
                }
                continue;
            }
            let values = Values::default();
            for (key, _) in values.keys(&level, &snapshot)? {
                let value = values.get(&level, &snapshot, &key)?.unwrap_or_default();
                there.side.insert((name.clone(), key), value);
            }
        }
        Ok(there)
    }

    /// Puts what has to be written into as few transactions as take it.
    pub(super) fn plan(
        &self,
        there: &There,
        differences: &[Difference],
        delete: bool,
    ) -> Result<Vec<Vec<Step>>, Error> {
        let index = |key: &str| there.indexes.get(key).copied().unwrap_or(0);
        let (mut sets, mut removes) = (Vec::new(), Vec::new());
        for difference in differences {
            let root = format!("{}{}", self.form.folder(difference.level), difference.key);
            let mut wanted = BTreeMap::new();
            match difference.after {
                Some(value) => self.encode(&root, value, &mut wanted)?,
                None if delete => {}
                None => continue,
            }
            // A value of several keys may lose some of them, and one alone may become several.
            let inside = format!("{root}/");
            let old = there.indexes.range(root.clone()..).take_while(|(key, _)| key.starts_with(&root));
            for (key, index) in old
                .filter(|(key, _)| **key == root || (self.form.layout == Layout::Folders && key.starts_with(&inside)))
            {
                if !wanted.contains_key(key) {
                    removes.push(Step::Remove { key: key.clone(), index: *index });
                }
            }
            for (key, value) in wanted {
                if value.len() > VALUE_LIMIT {
                    let size = value.len();
                    return Err(Error::data(format!(
                        "the value of {key} has {size} bytes; Consul takes {VALUE_LIMIT}"
                    )));
                }
                let index = index(&key);
                sets.push(Step::Set { key, value, index });
            }
        }
        let mut steps: Vec<Vec<Step>> = Vec::new();
        let mut length = 0;
        for step in sets.into_iter().chain(removes) {
            let own = step.as_write().length();
            match steps.last_mut() {
                Some(last) if last.len() < MOST_WRITES && length + own + SLACK <= TRANSACTION_LIMIT => {
                    last.push(step);
                    length += own;
                }
                _ => {
                    steps.push(vec![step]);
                    length = own;
                }
            }
        }
        Ok(steps)
    }

    /// Makes the writes, transaction by transaction.
    pub(super) fn apply(&self, steps: &[Vec<Step>]) -> Result<(), Error> {
        let client = self.reader.client();
        let mut done = 0;
        for (number, step) in steps.iter().enumerate() {
            let failed = |source| {
                let progress = format!("transaction {} of {}, {done} keys are written", number + 1, steps.len());
                self.reader.failed(format!("cannot write the keys below {} ({progress})", self.form.prefix), source)
            };
            let made = match &step[..] {
                // Alone it may be larger than a transaction.
                [Step::Set { key, value, index }] => client.kv().cas(key, value, *index),
                _ => client.kv().apply(&step.iter().map(Step::as_write).collect::<Vec<_>>()),
            };
            if !made.map_err(failed)? {
                let keys: Vec<_> =
                    step.iter().map(Step::as_write).map(|write| write.key().to_owned()).take(3).collect();
                return Err(Error::Changed { keys: keys.join(", "), more: step.len().saturating_sub(3), done });
            }
            done += step.len();
        }
        Ok(())
    }

    /// Writes a value so that reading it gives the same again.
    fn encode(&self, root: &str, value: &Value, pairs: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
        if let (Layout::Document(_), Value::String(text)) = (&self.form.layout, value) {
            // It was read as data before; the level reads the same bytes.
            document(self.form.format, root, text.as_bytes())?;
            pairs.insert(root.to_owned(), text.clone().into_bytes());
            return Ok(());
        }
        if let (Layout::Folders, Value::Hash(hash)) = (&self.form.layout, value)
            && is_folder(hash)
        {
            for (key, value) in hash.iter() {
                self.encode(&format!("{root}/{}", key.to_text()), value, pairs)?;
            }
            return Ok(());
        }
        let format = self.form.format;
        let text = match (format, value) {
            (Format::Raw | Format::Auto, Value::String(text)) => Some(text.clone()),
            (Format::Yaml, value) => Some(value.to_yaml()),
            (Format::Raw, _) => None,
            _ => value.to_json(),
        };
        let same = |text: &String| {
            format.value(root, text.as_bytes()).is_ok_and(|read| read == *value && read.inspect() == value.inspect())
        };
        let written = text.filter(same).or_else(|| {
            // Text that looks like JSON has to be quoted.
            if format == Format::Auto { value.to_json().filter(same) } else { None }
        });
        let Some(text) = written else {
            let hint = match format {
                Format::Yaml => "no format has a form for it",
                Format::Raw => "format raw is text alone; use --format auto, json or yaml",
                _ => "use --format yaml for the level and here",
            };
            let kind = value.type_name();
            return Err(Error::data(format!(
                "the value of {root} ({kind}) cannot be stored such that it is read as it is: {hint}"
            )));
        };
        pairs.insert(root.to_owned(), text.into_bytes());
        Ok(())
    }
}

/// Tells whether a hash can be a folder; else it is one value.
fn is_folder(hash: &Hash) -> bool {
    // The store gives its keys back sorted, so that another order is one that it cannot keep.
    let keys: Option<Vec<&str>> = hash.iter().map(|(key, _)| key.as_str().filter(|key| is_part(key))).collect();
    keys.is_some_and(|keys| !keys.is_empty() && keys.is_sorted())
}

fn text(place: &str, bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::data(format!("the value of Consul key {place} is not text")))
}
