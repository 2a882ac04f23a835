//! What reads brought: the keys below a prefix at one moment.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::kept::brief;

/// Values by key.
pub type Pairs = BTreeMap<String, Vec<u8>>;

/// All keys below a prefix at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tree: Rc<Tree>,
    /// What keys begin with in the tree.
    prefix: String,
}

/// What is known about a read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// Consul's index of the read; of several prefixes at once, that of the newest key.
    pub index: u64,
    /// How long the server that answered had not heard from the leader.
    pub age: Duration,
    /// How many prefixes were read at once.
    pub together: usize,
    /// How long ago, where the snapshot is one that was kept, because Consul is away.
    pub kept: Option<Duration>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.together {
            0 | 1 => write!(f, "at index {}", self.index)?,
            n => write!(f, "of one read of {n} prefixes, newest key at index {}", self.index)?,
        }
        if let Some(kept) = self.kept {
            write!(f, ", kept {} ago, since Consul is away", brief(kept))?;
        } else if !self.age.is_zero() {
            write!(f, ", {} ms old", self.age.as_millis())?;
        }
        Ok(())
    }
}

/// One read, which may serve several levels.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Values by whole key.
    pub(super) pairs: Pairs,
    pub(super) origin: Origin,
    /// The beginnings of the keys that were read; `None` for all below the prefix.
    pub(super) reach: Option<Vec<String>>,
}

impl Snapshot {
    /// Returns a snapshot of these keys.
    pub fn new(pairs: Pairs, origin: Origin) -> Self {
        Snapshot { tree: Rc::new(Tree { pairs, origin, reach: None }), prefix: String::new() }
    }

    pub(super) fn of(tree: Rc<Tree>, prefix: &str) -> Self {
        Snapshot { tree, prefix: prefix.to_owned() }
    }

    /// Returns what is known about the read.
    pub fn origin(&self) -> Origin {
        self.tree.origin
    }

    /// Tells whether the read would have brought this key.
    pub(super) fn reaches(&self, key: &str) -> bool {
        self.tree.reach.as_ref().is_none_or(|reach| {
            let whole = format!("{}{key}", self.prefix);
            reach.iter().any(|beginning| whole.starts_with(beginning.as_str()))
        })
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        // A key that ends with a slash is a folder of Consul's web page.
        if key.is_empty() || key.ends_with('/') {
            return None;
        }
        self.tree.pairs.get(&format!("{}{key}", self.prefix)).map(Vec::as_slice)
    }

    /// Returns the keys that start with `start`, in their order, and their values.
    pub fn starting<'a>(&'a self, start: &str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let whole = format!("{}{start}", self.prefix);
        let length = self.prefix.len();
        self.tree
            .pairs
            .range(whole.clone()..)
            .take_while(move |(key, _)| key.starts_with(&whole))
            .filter(|(key, _)| !key.ends_with('/'))
            .map(move |(key, value)| (&key[length..], value.as_slice()))
    }

    /// Returns all keys in their order, and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.starting("")
    }
}
