//! Which packages of the upstreams are published: closures over the union of all sources of a format.

pub(crate) mod catalog;
pub(crate) mod closure;
pub(crate) mod deb;
pub(crate) mod debian;
pub(crate) mod rpm;

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};

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

/// Where the description of a package can be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Text<'a> {
    /// In this of the indices.
    File(u32),
    /// Here.
    Memory(&'a [u8]),
}

impl Text<'_> {
    /// Reads the description: of an index, `length` bytes at `offset`.
    fn read(self, files: &[File], offset: u64, length: u32) -> Result<Vec<u8>> {
        match self {
            Text::Memory(text) => Ok(text.to_vec()),
            Text::File(file) => {
                let mut text = vec![0; length as usize];
                let read = files[file as usize].read_exact_at(&mut text, offset);
                read.map_err(|source| Error::Read { path: "the index".into(), source })?;
                Ok(text)
            }
        }
    }
}
