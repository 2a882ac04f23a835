//! The tree of a manifest as it was written: mappings, texts and where they stand.

use std::collections::HashMap;
use std::sync::Arc;

use toolkit::yaml::{Mark, Node, Value};

use super::ManifestError;

/// A mapping: texts by key and mappings below.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) at: Place,
    pub(super) scalars: Ordered<Scalar>,
    pub(super) groups: Ordered<Group>,
}

/// A text.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) at: Place,
    /// A plain scalar's text stands in the file as it is, so an offset in it is a column.
    pub(super) plain: bool,
}

/// Where something was written.
#[derive(Debug, Clone)]
pub(super) enum Place {
    File { file: Arc<str>, line: usize, column: usize },
    Override(String),
}

/// Values by name in the order in which they were written.
#[derive(Debug, Clone)]
pub(super) struct Ordered<T> {
    items: Vec<(String, T)>,
    index: HashMap<String, usize>,
}

impl<T> Ordered<T> {
    fn new() -> Self {
        Self { items: Vec::new(), index: HashMap::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.entry(name).map(|(_, value)| value)
    }

    /// Returns the value with its name, which lives as long as the value.
    pub(super) fn entry(&self, name: &str) -> Option<(&str, &T)> {
        let (name, value) = &self.items[*self.index.get(name)?];
        Some((name, value))
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        Some(&mut self.items[*self.index.get(name)?].1)
    }

    /// Sets a value; one that is there keeps its place in the order.
    pub(super) fn set(&mut self, name: String, value: T) {
        match self.index.get(&name) {
            Some(&index) => self.items[index].1 = value,
            None => {
                self.index.insert(name.clone(), self.items.len());
                self.items.push((name, value));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.items.iter().map(|(name, value)| (name.as_str(), value))
    }

    fn into_items(self) -> Vec<(String, T)> {
        self.items
    }
}

impl Group {
    pub(super) fn empty(at: Place) -> Self {
        Self { at, scalars: Ordered::new(), groups: Ordered::new() }
    }

    fn has(&self, key: &str) -> bool {
        self.scalars.get(key).is_some() || self.groups.get(key).is_some()
    }

    /// Reads a mapping; `skip` names a key that the caller has read by itself.
    pub(super) fn from_node(file: &Arc<str>, node: &Node, skip: Option<&str>) -> Result<Self, ManifestError> {
        let place = |mark: &Mark| Place::of(file, mark);
        let mut group = Self::empty(place(&node.mark));
        let Value::Mapping(pairs) = &node.value else {
            return Ok(group);
        };
        if let Some(key) = node.duplicate() {
            let name = key.as_str().unwrap_or_default();
            return Err(place(&key.mark).error(format!("'{name}' stands here a second time"), None));
        }
        let mut merges = Vec::new();
        for (key, value) in pairs {
            let at = place(&value.mark);
            let Value::Scalar { text: name, plain: plain_key } = &key.value else {
                return Err(place(&key.mark).error("a key must be a text".to_owned(), None));
            };
            if skip == Some(name) {
                continue;
            }
            if *plain_key && name == "<<" {
                let items = match &value.value {
                    Value::Mapping(_) => std::slice::from_ref(value),
                    Value::Sequence(items) => items,
                    Value::Scalar { .. } => return Err(at.error("'<<' takes mappings".to_owned(), None)),
                };
                for item in items {
                    if !matches!(item.value, Value::Mapping(_)) {
                        return Err(place(&item.mark).error("'<<' takes mappings".to_owned(), None));
                    }
                    merges.push(Self::from_node(file, item, None)?);
                }
                continue;
            }
            match &value.value {
                Value::Sequence(_) => {
                    return Err(at.error(format!("'{name}' is a list; a manifest has texts and mappings only"), None));
                }
                Value::Scalar { text, plain } => {
                    if value.is_null() {
                        let hint = format!(
                            "write `{name}: {{}}` for a repository that inherits all, `{name}: ''` for an empty text"
                        );
                        return Err(place(&key.mark).error(format!("'{name}' has no value"), Some(hint)));
                    }
                    group.scalars.set(name.clone(), Scalar { text: text.clone(), at, plain: *plain });
                }
                Value::Mapping(_) => {
                    let mut child = Self::from_node(file, value, None)?;
                    // A repository is found by its name, not by what follows it.
                    child.at = place(&key.mark);
                    group.groups.set(name.clone(), child);
                }
            }
        }
        for merge in merges {
            for (name, scalar) in merge.scalars.into_items() {
                if !group.has(&name) {
                    group.scalars.set(name, scalar);
                }
            }
            for (name, child) in merge.groups.into_items() {
                if !group.has(&name) {
                    group.groups.set(name, child);
                }
            }
        }
        Ok(group)
    }

    /// Lays `over` on this: its texts replace those of the same path, its new ones are added.
    pub(super) fn overlay(&mut self, over: Self) -> Result<(), ManifestError> {
        let clash = |here: &Place, name: &str, is: &str, was: &str, there: &Place| {
            here.error(format!("'{name}' is {is} here and {was} in {}", there.show()), None)
        };
        for (name, scalar) in over.scalars.into_items() {
            if let Some(old) = self.groups.get(&name) {
                return Err(clash(&scalar.at, &name, "a text", "a mapping", &old.at));
            }
            self.scalars.set(name, scalar);
        }
        for (name, child) in over.groups.into_items() {
            if let Some(old) = self.scalars.get(&name) {
                return Err(clash(&child.at, &name, "a mapping", "a text", &old.at));
            }
            match self.groups.get_mut(&name) {
                Some(old) => {
                    old.at = child.at.clone();
                    old.overlay(child)?;
                }
                None => self.groups.set(name, child),
            }
        }
        Ok(())
    }
}

impl Scalar {
    /// Returns where the byte at `offset` of the text stands, as far as that is known.
    pub(super) fn at_offset(&self, offset: usize) -> Place {
        match &self.at {
            Place::File { file, line, column } if self.plain && !self.text[..offset].contains('\n') => Place::File {
                file: Arc::clone(file),
                line: *line,
                column: column + self.text[..offset].chars().count(),
            },
            at => at.clone(),
        }
    }
}

impl Place {
    pub(super) fn of(file: &Arc<str>, mark: &Mark) -> Self {
        Self::File { file: Arc::clone(file), line: mark.line, column: mark.column }
    }

    pub(super) fn show(&self) -> String {
        match self {
            Self::File { file, line, column } => format!("{file}:{line}:{column}"),
            Self::Override(given) => format!("override '{given}'"),
        }
    }

    pub(super) fn error(&self, message: String, hint: Option<String>) -> ManifestError {
        match self {
            Self::File { .. } => ManifestError::At { at: self.show(), message, hint },
            Self::Override(given) => ManifestError::Override { given: given.clone(), message, hint },
        }
    }
}
