//! Which packages of the upstreams are published: closures over the union of all sources of a format.

pub(crate) mod catalog;
pub(crate) mod closure;
pub(crate) mod deb;
pub(crate) mod debian;
pub(crate) mod rpm;

use std::fmt;

/// A package that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// Name.
    pub(crate) name: String,
    /// The one version that will do.
    pub(crate) version: Option<String>,
    /// Who asks, where it is not the configuration.
    pub(crate) from: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.from.is_empty() {
            write!(f, "{}: ", self.from)?;
        }
        match &self.version {
            Some(version) => write!(f, "{} (= {version})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Where a package is described: source, index of the source, position in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Where {
    /// Number of the source among those of the format.
    pub(crate) source: u16,
    /// Number of the index.
    pub(crate) index: u16,
    /// Position: in bytes, or the number of the package in a directory.
    pub(crate) offset: u64,
}
