//! The data files of an import or export.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toolkit::atomic;

use crate::consul::Layout;
use crate::error::Error;
use crate::input;
use crate::psych;
use crate::value::{Hash, Value};

use super::{Form, Side, is_part};

/// Directories in directories.
const DEEPEST: usize = 32;
/// Data files of one tree.
const MOST_FILES: usize = 100_000;

/// A data file, or a directory of them.
pub(super) struct Files<'f> {
    path: PathBuf,
    single: bool,
    form: &'f Form,
    /// Files by level.
    found: BTreeMap<String, PathBuf>,
}

/// What is to be done to a file.
pub(super) enum Change {
    Write { path: PathBuf, text: String },
    Remove { path: PathBuf },
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json")
}

fn is_data(path: &Path) -> bool {
    path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known))
}

fn read_failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |source| Error::Read { path: path.to_owned(), source }
}

fn create_failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |source| Error::Create { path: path.to_owned(), source }
}

impl<'f> Files<'f> {
    /// Looks at what is there; a path with the ending of a data file is one, whether it is there or not.
    pub(super) fn open(path: &Path, form: &'f Form) -> Result<Self, Error> {
        let single = is_data(path) && !path.is_dir();
        if form.layout == Layout::Folders && !single {
            return Err(Error::Argument(
                "--folders is for one file: where folders are hashes, none of them can be told to be a file".to_owned(),
            ));
        }
        let mut files = Files { path: path.to_owned(), single, form, found: BTreeMap::new() };
        if single {
            if path.exists() {
                files.found.insert(String::new(), path.to_owned());
            }
        } else if path.exists() {
            files.walk(path, "", 0)?;
        }
        Ok(files)
    }

    pub(super) fn is_single(&self) -> bool {
        self.single
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    fn walk(&mut self, directory: &Path, level: &str, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(Error::data("more directories in directories than data has").in_file(directory));
        }
        let entries = std::fs::read_dir(directory).map_err(read_failed(directory))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(read_failed(directory))?.file_name());
        }
        names.sort();
        for name in names {
            let path = directory.join(&name);
            let Some(name) = name.to_str() else {
                return Err(Error::data("the name is not UTF-8").in_file(&path));
            };
            if name.starts_with('.') {
                continue;
            }
            let kind = path.symlink_metadata().map_err(read_failed(&path))?;
            let below = |name: &str| if level.is_empty() { name.to_owned() } else { format!("{level}/{name}") };
            if kind.is_symlink() && (path.is_dir() || is_data(&path)) {
                // It may lead out of the tree, or round in circles.
                return Err(Error::data("symbolic links in a data tree are not followed").in_file(&path));
            }
            if kind.is_dir() {
                self.walk(&path, &below(name), depth + 1)?;
            } else if path.extension().is_some_and(|end| end == "eyaml") {
                return Err(Error::data("eyaml files are not read; give them to Puppet alone").in_file(&path));
            } else if is_data(&path) {
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                if let Some(other) = self.found.insert(below(stem), path.clone()) {
                    let message = format!(
                        "is the same level as {}: both would be {}",
                        other.display(),
                        self.form.folder(&below(stem))
                    );
                    return Err(Error::data(message).in_file(&path));
                }
                if self.found.len() > MOST_FILES {
                    return Err(Error::data(format!("more than {MOST_FILES} data files")).in_file(&self.path));
                }
            }
        }
        Ok(())
    }

    /// Reads all of them.
    pub(super) fn read(&self) -> Result<Side, Error> {
        let mut side = Side::new();
        for (level, path) in &self.found {
            let bytes = input::read(path)?;
            let hash = parse(path, &bytes)?;
            if let Layout::Document(name) = &self.form.layout {
                let text = String::from_utf8(bytes).map_err(|_| Error::data("not valid UTF-8").in_file(path))?;
                side.insert((level.clone(), name.clone()), Value::String(text));
                continue;
            }
            for (key, value) in hash {
                let name = match &key {
                    Value::String(name) if is_part(name) => name.clone(),
                    Value::String(name) => {
                        let message = format!("key '{name}' cannot be a key of Consul in its folder");
                        return Err(Error::data(message).in_file(path));
                    }
                    other => {
                        let message = format!("key {} is no text: no lookup can ask for it", other.inspect());
                        return Err(Error::data(message).in_file(path));
                    }
                };
                side.insert((level.clone(), name), value);
            }
        }
        Ok(side)
    }

    /// Returns which files have to be written or removed, each whole.
    pub(super) fn plan(&self, there: &Side, wanted: &Side, delete: bool) -> Result<Vec<Change>, Error> {
        let levels: BTreeSet<&String> = there.keys().chain(wanted.keys()).map(|(level, _)| level).collect();
        // A file without keys is a level too: it is one of those that are not wanted.
        let empty = self.found.keys().filter(|level| !levels.contains(level));
        let mut changes: Vec<Change> = Vec::new();
        for level in empty.filter(|_| delete) {
            changes.push(Change::Remove { path: self.found[level].clone() });
        }
        for level in levels {
            let of = |side: &Side| -> BTreeMap<String, Value> {
                side.range((level.clone(), String::new())..)
                    .take_while(|((name, _), _)| name == level)
                    .map(|((_, key), value)| (key.clone(), value.clone()))
                    .collect()
            };
            let (old, mut new) = (of(there), of(wanted));
            if !delete {
                for (key, value) in &old {
                    new.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            let same = old.len() == new.len()
                && old.iter().zip(&new).all(|((a, v), (b, w))| a == b && v == w && v.inspect() == w.inspect());
            if same {
                // Also the comments in it.
                continue;
            }
            let path = match self.found.get(level) {
                Some(path) => path.clone(),
                None if self.single => self.path.clone(),
                None => self.path.join(format!("{level}.yaml")),
            };
            if new.is_empty() && !self.single {
                changes.push(Change::Remove { path });
                continue;
            }
            let text = match (&self.form.layout, new.values().next()) {
                (Layout::Document(_), Some(Value::String(text))) => text.clone(),
                _ => self.render(&path, new)?,
            };
            changes.push(Change::Write { path, text });
        }
        Ok(changes)
    }

    fn render(&self, path: &Path, values: BTreeMap<String, Value>) -> Result<String, Error> {
        let hash: Hash = values.into_iter().map(|(key, value)| (Value::String(key), value)).collect();
        let value = Value::Hash(hash);
        let text = if is_json(path) { value.to_json().map(|text| text + "\n") } else { Some(value.to_yaml()) };
        let same = |text: &String| {
            parse(path, text.as_bytes()).is_ok_and(|read| Value::Hash(read).inspect() == value.inspect())
        };
        text.filter(same)
            .ok_or_else(|| Error::data("a value has no form in such a file that reads as it is").in_file(path))
    }

    /// Makes the changes. Files appear whole and keep their mode; new ones are the owner's and the group's.
    pub(super) fn apply(&self, changes: &[Change]) -> Result<(), Error> {
        for change in changes {
            match change {
                Change::Write { path, text } => {
                    self.make_parents(path)?;
                    let mode = match path.symlink_metadata() {
                        Ok(there) => there.permissions().mode() & 0o7777,
                        Err(e) if e.kind() == ErrorKind::NotFound => 0o640,
                        Err(e) => return Err(create_failed(path)(e)),
                    };
                    atomic::write(path, text.as_bytes(), mode).map_err(create_failed(path))?;
                }
                Change::Remove { path } => std::fs::remove_file(path).map_err(create_failed(path))?,
            }
        }
        Ok(())
    }

    /// Makes the directories of a file below the tree's own, through no link.
    fn make_parents(&self, path: &Path) -> Result<(), Error> {
        if self.single {
            return Ok(());
        }
        let mut at = self.path.clone();
        std::fs::create_dir_all(&at).map_err(create_failed(&at))?;
        let inside = path.strip_prefix(&self.path).ok().and_then(Path::parent).unwrap_or(Path::new(""));
        for part in inside.components() {
            at.push(part);
            match std::fs::create_dir(&at) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    if !at.symlink_metadata().map_err(create_failed(&at))?.is_dir() {
                        return Err(Error::data("is no directory, and a level has to be below it").in_file(&at));
                    }
                }
                other => other.map_err(create_failed(&at))?,
            }
        }
        Ok(())
    }
}

/// Reads a data file as lookups do; one without a hash is refused, not taken for empty.
fn parse(path: &Path, bytes: &[u8]) -> Result<Hash, Error> {
    let value =
        if is_json(path) { psych::load_json(bytes) } else { psych::load(bytes).map(Value::symbol_keys_to_text) };
    match value.map_err(|e| e.in_file(path))? {
        Value::Hash(hash) => Ok(hash),
        // Comments alone, or an empty document.
        Value::Null if !is_json(path) => Ok(Hash::new()),
        other => Err(Error::data(format!("holds {} where a hash is expected", other.type_name())).in_file(path)),
    }
}
