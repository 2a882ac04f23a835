//! The Consul levels of one run, each read once and all of them together where that is possible.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use consul_client::{Class, Consistency, KvPair, MOST_TREES, Overrides, Query};
use toolkit::exit;

use crate::consul3::Consul3;
use crate::engine::{ConsulSource, Entry};
use crate::error::Error;
use crate::value::{Hash, Value};

use super::Access;
use super::computed::Computed;
use super::kept::brief;
use super::layout::{Layout, Values};
use super::level::Level;
use super::reader::{Need, Reader};
use super::snapshot::{Origin, Pairs, Snapshot, Tree};

/// A prefix that is read, or will be; no other of the same reader and consistency lies inside of it.
struct Root {
    reader: Rc<Reader>,
    consistency: Consistency,
    prefix: String,
    /// The levels inside of it, as far as they are known.
    levels: Vec<Level>,
    tree: Option<Rc<Tree>>,
}

impl Root {
    fn is_of(&self, reader: &Rc<Reader>, consistency: Consistency) -> bool {
        Rc::ptr_eq(&self.reader, reader) && self.consistency == consistency
    }
}

/// Everything that one run has read of a level.
struct Read {
    level: Level,
    snapshot: Snapshot,
    values: Values,
    computed: Rc<Computed>,
    answers: RefCell<HashMap<String, Option<Value>>>,
}

/// Computed keys by the settings of the reads behind them.
type Settings = (Overrides, Consistency, bool);

/// Answers a run's Consul levels; each level is read once.
pub struct Levels {
    access: Rc<Access>,
    /// The keys that will be asked for, where that is known: nothing else is read then.
    keys: RefCell<Option<Vec<String>>>,
    /// Whether a key was asked for that is not among them.
    beyond: Cell<bool>,
    readers: RefCell<Vec<(Overrides, Rc<Reader>)>>,
    read: RefCell<Vec<(Hash, Rc<Read>)>>,
    computed: RefCell<Vec<(Settings, Rc<Computed>)>>,
    roots: RefCell<Vec<Root>>,
    /// The backends of version 3, by their settings.
    version3: RefCell<Vec<(Hash, Rc<Consul3>)>>,
    /// Readers whose Consul was away: what is kept is not asked for again, so that an outage costs one time limit.
    away: RefCell<Vec<Rc<Reader>>>,
    /// What was done about an outage.
    notices: RefCell<Vec<String>>,
}

impl Levels {
    /// Returns a source that reads through `access`.
    pub fn new(access: Rc<Access>) -> Self {
        Levels {
            access,
            keys: RefCell::default(),
            beyond: Cell::default(),
            readers: RefCell::default(),
            read: RefCell::default(),
            computed: RefCell::default(),
            roots: RefCell::default(),
            version3: RefCell::default(),
            away: RefCell::default(),
            notices: RefCell::default(),
        }
    }

    /// Returns a source that reads these keys alone, until another one is asked for.
    ///
    /// One key among ten thousand is a read of some bytes then. Whether values lead to further keys is
    /// known only afterwards; [`ConsulSource::widen`] then begins anew with all keys of the levels, so that what is found
    /// still is of one state.
    pub fn of_keys(access: Rc<Access>, keys: Vec<String>) -> Self {
        Levels { keys: RefCell::new(Some(keys)), ..Levels::new(access) }
    }

    /// Returns what was done about a Consul that is away, and snapshots that could not be kept.
    pub(crate) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.borrow_mut())
    }

    /// Returns the run's reader with these settings.
    pub(crate) fn reader(&self, overrides: &Overrides) -> Result<Rc<Reader>, Error> {
        let own = self.access.own(overrides);
        if let Some((_, reader)) = self.readers.borrow().iter().find(|(known, _)| *known == own) {
            return Ok(Rc::clone(reader));
        }
        let reader = Rc::new(Reader::new(self.access.client(overrides)?));
        self.readers.borrow_mut().push((own, Rc::clone(&reader)));
        Ok(reader)
    }

    /// Returns what answers the computed keys of a level.
    pub(crate) fn computed(&self, level: &Level) -> Result<Rc<Computed>, Error> {
        let settings = (self.access.own(&level.overrides), level.consistency, level.services);
        if let Some((_, computed)) = self.computed.borrow().iter().find(|(known, _)| *known == settings) {
            return Ok(Rc::clone(computed));
        }
        let computed = Rc::new(Computed::new(self.reader(&level.overrides)?, level.clone()));
        self.computed.borrow_mut().push((settings, Rc::clone(&computed)));
        Ok(computed)
    }

    /// Says which level will probably be read, so that it can be read together with others.
    pub(crate) fn expect(&self, level: &Level) {
        // What is wrong with the settings is said when the level is asked.
        if !level.is_empty()
            && let Ok(reader) = self.reader(&level.overrides)
        {
            reader.expect([Need::Keys(level.prefix.clone())]);
            self.root(&reader, level);
        }
    }

    fn read(&self, options: &Hash) -> Result<Rc<Read>, Error> {
        if let Some((_, read)) = self.read.borrow().iter().find(|(known, _)| known == options) {
            return Ok(Rc::clone(read));
        }
        let level = Level::from_options(options)?;
        let snapshot = self.snapshot(&level)?;
        let computed = self.computed(&level)?;
        let read = Rc::new(Read { level, snapshot, values: Values::default(), computed, answers: RefCell::default() });
        self.read.borrow_mut().push((options.clone(), Rc::clone(&read)));
        Ok(read)
    }

    /// Returns the place of the root that holds a level.
    fn root(&self, reader: &Rc<Reader>, level: &Level) -> usize {
        let mut roots = self.roots.borrow_mut();
        let same = |root: &Root| root.is_of(reader, level.consistency);
        if let Some(at) = roots.iter().position(|root| same(root) && level.prefix.starts_with(&root.prefix)) {
            if !roots[at].levels.contains(level) {
                roots[at].levels.push(level.clone());
            }
            return at;
        }
        // What is read already stays; what is not may become a part of this one.
        let mut levels = vec![level.clone()];
        roots.retain_mut(|root| {
            let inside = same(root) && root.tree.is_none() && root.prefix.starts_with(&level.prefix);
            if inside {
                levels.append(&mut root.levels);
            }
            !inside
        });
        let (reader, prefix) = (Rc::clone(reader), level.prefix.clone());
        roots.push(Root { reader, consistency: level.consistency, prefix, levels, tree: None });
        roots.len() - 1
    }

    /// Returns the beginnings of all keys that will be asked for below these prefixes; `None` where everything has to
    /// be read.
    fn beginnings(&self, group: &[(usize, String)]) -> Option<Vec<String>> {
        let (keys, roots) = (self.keys.borrow(), self.roots.borrow());
        let mut beginnings = Vec::new();
        for level in group.iter().flat_map(|(n, _)| &roots[*n].levels) {
            if level.stale_if_error.is_some() {
                return None;
            }
            match &level.layout {
                Layout::Document(name) => beginnings.push(format!("{}{name}", level.prefix)),
                _ => beginnings.extend(keys.as_ref()?.iter().map(|key| format!("{}{key}", level.prefix))),
            }
        }
        // None of them may lie inside of another.
        beginnings.sort();
        beginnings.dedup_by(|inner, outer| inner.starts_with(outer.as_str()));
        Some(beginnings).filter(|all| keys.is_some() && all.len() <= MOST_TREES)
    }

    /// Returns all keys of a level: as Consul has them, or as they were kept where the level says so and Consul is
    /// away.
    pub(crate) fn snapshot(&self, level: &Level) -> Result<Snapshot, Error> {
        if level.is_empty() {
            return Ok(Snapshot::default());
        }
        let reader = self.reader(&level.overrides)?;
        let Some(limit) = level.stale_if_error else { return self.current(&reader, level) };
        let subject = self.access.subject(level)?;
        let notice = |text: String| self.notices.borrow_mut().push(text);
        let kept = |why: &str| {
            subject.load(limit).map(|kept| {
                let (prefix, age) = (&level.prefix, brief(kept.age));
                notice(format!("{why}; going on with the keys below {prefix} as they were {age} ago"));
                let origin = Origin { index: kept.index, kept: Some(kept.age), ..Origin::default() };
                Snapshot::new(kept.pairs, origin)
            })
        };
        if self.away.borrow().iter().any(|away| Rc::ptr_eq(away, &reader))
            && let Ok(snapshot) = kept(&format!("Consul at {} is away", reader.client().address()))
        {
            return Ok(snapshot);
        }
        match self.current(&reader, level) {
            Ok(snapshot) => {
                if let Err(reason) = subject.keep(&snapshot, limit) {
                    notice(format!("no snapshot of {} is kept: {reason}", level.prefix));
                }
                Ok(snapshot)
            }
            Err(Error::Consul { what, source }) if is_outage(&source) => {
                self.away.borrow_mut().push(reader);
                kept(&exit::chain(&source))
                    .map_err(|reason| Error::Consul { what: format!("{what}; {reason}"), source })
            }
            Err(error) => {
                if matches!(&error, Error::Consul { source, .. } if source.class() == Class::Denied)
                    && let Err(reason) = subject.forget()
                {
                    notice(reason);
                }
                Err(error)
            }
        }
    }

    /// Reads all keys of a level, with all levels that are not read yet, and checks that the token may.
    fn current(&self, reader: &Rc<Reader>, level: &Level) -> Result<Snapshot, Error> {
        reader.expect([Need::Keys(level.prefix.clone())]);
        let at = self.root(reader, level);
        let tree = self.tree(reader, at, level)?;
        let root = self.roots.borrow()[at].prefix.clone();
        let prefix = level.prefix.as_str();
        let checked = reader
            .may(&[Need::Keys(prefix.to_owned())])
            .and_then(|()| if tree.pairs.is_empty() { reader.confirm_empty(&root) } else { Ok(()) });
        checked.map_err(|source| reader.failed(format!("cannot read the keys below {prefix}"), source))?;
        Ok(Snapshot::of(tree, prefix))
    }

    /// Returns what a root holds, and reads it first with all others that are not read yet, as one state.
    fn tree(&self, reader: &Rc<Reader>, at: usize, level: &Level) -> Result<Rc<Tree>, Error> {
        if let Some(tree) = &self.roots.borrow()[at].tree {
            return Ok(Rc::clone(tree));
        }
        let query = Query::new().consistency(level.consistency);
        let group: Vec<(usize, String)> = {
            let roots = self.roots.borrow();
            let unread = |n: &usize| *n != at && roots[*n].tree.is_none() && roots[*n].is_of(reader, level.consistency);
            let others = (0..roots.len()).filter(unread);
            [at].into_iter().chain(others).take(MOST_TREES).map(|n| (n, roots[n].prefix.clone())).collect()
        };
        let failed = |source| {
            let root = &group[0].1;
            let whole = match (group.len(), *root == level.prefix) {
                (1, true) => String::new(),
                (1, false) => format!(", in one read with all below {root}"),
                (n, _) => format!(", in one read of {n} prefixes"),
            };
            reader.failed(format!("cannot read the keys below {}{whole}", level.prefix), source)
        };
        let prefixes: Vec<String> = group.iter().map(|(_, prefix)| prefix.clone()).collect();
        for reach in self.beginnings(&group).map(Some).into_iter().chain([None]) {
            let asked = reach.as_ref().unwrap_or(&prefixes);
            if reach.is_none() && asked.len() == 1 {
                break;
            }
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            match reader.read(|client| client.kv().trees(&asked, &query)) {
                Ok(answer) => {
                    let (index, age) = (answer.meta.index, answer.meta.last_contact);
                    let origin = Origin { index, age, together: prefixes.len(), kept: None };
                    let mut pairs = answer.value;
                    let mut roots = self.roots.borrow_mut();
                    for (n, prefix) in &group {
                        let (own, rest) = pairs.into_iter().partition(|pair: &KvPair| pair.key.starts_with(prefix));
                        pairs = rest;
                        roots[*n].tree = Some(Rc::new(tree(own, origin, reach.clone())));
                    }
                    return Ok(roots[at].tree.clone().expect("it was just read"));
                }
                // One prefix that cannot be read must not take the others with it; nor an old Consul without
                // such reads, nor a key that Consul cannot be asked for.
                Err(error) if !matches!(error.class(), consul_client::Class::Unavailable) || is_status(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let answer = reader.read(|client| client.kv().list(&prefixes[0], &query)).map_err(failed)?;
        let origin = Origin { index: answer.meta.index, age: answer.meta.last_contact, together: 1, kept: None };
        let tree = Rc::new(tree(answer.value, origin, None));
        self.roots.borrow_mut()[at].tree = Some(Rc::clone(&tree));
        Ok(tree)
    }
}

fn tree(pairs: Vec<KvPair>, origin: Origin, reach: Option<Vec<String>>) -> Tree {
    let pairs: Pairs = pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
    Tree { pairs, origin, reach }
}

/// Tells whether nobody answers for Consul. A refusal is none, nor is an answer of somebody else.
fn is_outage(error: &consul_client::Error) -> bool {
    use consul_client::Error::{NoLeader, Timeout, Unreachable};
    matches!(error, Unreachable { .. } | Timeout { .. } | NoLeader { .. })
}

/// Tells whether an agent without the request answered.
fn is_status(error: &consul_client::Error) -> bool {
    matches!(error, consul_client::Error::Status { code: 404 | 405 | 413, .. })
}

impl ConsulSource for Levels {
    fn announce(&self, options: &Hash) {
        if let Ok(level) = Level::from_options(options) {
            self.expect(&level);
        }
    }

    fn lookup(&self, options: &Hash, key: &str) -> Result<Option<Value>, Error> {
        let read = self.read(options)?;
        let stored = match &read.level.layout {
            Layout::Document(name) => name,
            Layout::Keys | Layout::Folders => key,
        };
        if !read.snapshot.reaches(stored) {
            self.beyond.set(true);
            return Err(Error::data(format!("Consul key {}{stored} was not read", read.level.prefix)));
        }
        if let Some(value) = read.values.get(&read.level, &read.snapshot, key)? {
            return Ok(Some(value));
        }
        if let Some(answer) = read.answers.borrow().get(key) {
            return Ok(answer.clone());
        }
        let answer = read.computed.lookup(key)?;
        read.answers.borrow_mut().insert(key.to_owned(), answer.clone());
        Ok(answer)
    }

    fn version3(
        &self,
        settings: &Hash,
        key: &str,
        text: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<(Option<Value>, Option<String>), Error> {
        let known = self.version3.borrow().iter().find(|(known, _)| known == settings).map(|(_, b)| Rc::clone(b));
        let backend = match known {
            Some(backend) => backend,
            None => {
                let backend = Rc::new(Consul3::new(settings, &self.access)?);
                self.version3.borrow_mut().push((settings.clone(), Rc::clone(&backend)));
                backend
            }
        };
        let found = backend.lookup(key, text)?;
        Ok((found, backend.take_warning()))
    }

    fn widen(&self) -> bool {
        let widened = self.beyond.replace(false);
        if widened {
            self.keys.take();
            self.read.take();
            self.roots.take();
        }
        widened
    }

    fn notices(&self) -> Vec<String> {
        self.take_notices()
    }

    fn entries(&self, options: &Hash) -> Result<Vec<Entry>, Error> {
        let read = self.read(options)?;
        let entry = |(key, name): (String, String)| {
            // A key that was listed is there.
            let value = read.values.get(&read.level, &read.snapshot, &key).map(Option::unwrap_or_default);
            Entry { key, name, value }
        };
        Ok(read.values.keys(&read.level, &read.snapshot)?.into_iter().map(entry).collect())
    }

    fn place(&self, options: &Hash) -> Option<String> {
        let read = self.read(options).ok()?;
        if read.level.is_empty() {
            return Some("no prefix: a variable in it has no value".to_owned()).filter(|_| read.level.hollow);
        }
        let (keys, prefix) = (read.snapshot.iter().count(), &read.level.prefix);
        Some(format!("{keys} keys below {prefix} {}", read.snapshot.origin()))
    }
}
