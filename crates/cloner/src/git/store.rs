//! Where objects are read from.
//!
//! libgit2 hashes every object when it is read, from whatever database. That is right for what was on a disk; the
//! blobs of a pack in memory, which are most of it, were hashed a moment ago when they were unpacked, and lie beside
//! the repository that has the rest.

use std::collections::HashMap;
use std::ops::Deref;

use git2::{ObjectType, Odb, OdbObject, Oid, Repository};

use crate::fault::{Cause, Fault};

/// Blobs by their ids.
pub(crate) type Blobs = HashMap<Oid, Vec<u8>>;

/// Fetched objects.
pub(crate) struct Store {
    repository: Repository,
    blobs: Blobs,
}

impl Store {
    pub(super) fn new(repository: Repository, blobs: Blobs) -> Self {
        Self { repository, blobs }
    }

    /// Returns all that can be read.
    pub(crate) fn objects(&self) -> Objects<'_> {
        Objects { repository: &self.repository, blobs: Some(&self.blobs) }
    }
}

impl From<Repository> for Store {
    fn from(repository: Repository) -> Self {
        Self::new(repository, Blobs::new())
    }
}

/// All but the blobs, which only [`Store::objects`] has.
impl Deref for Store {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repository
    }
}

/// A repository, and what lies beside it.
#[derive(Clone, Copy)]
pub(crate) struct Objects<'a> {
    pub(crate) repository: &'a Repository,
    blobs: Option<&'a Blobs>,
}

impl<'a> From<&'a Repository> for Objects<'a> {
    fn from(repository: &'a Repository) -> Self {
        Self { repository, blobs: None }
    }
}

impl<'a> Objects<'a> {
    /// Prepares for reading blobs.
    pub(crate) fn reader(self) -> Result<Reader<'a>, Fault> {
        let odb = self.repository.odb().map_err(|err| Fault::git(Cause::Disk, "cannot read objects", &err))?;
        Ok(Reader { odb, blobs: self.blobs })
    }
}

/// Reads blobs.
pub(crate) struct Reader<'a> {
    odb: Odb<'a>,
    blobs: Option<&'a Blobs>,
}

/// The content of an object.
pub(crate) enum Blob<'r> {
    Memory(&'r [u8]),
    Read(OdbObject<'r>),
}

impl Reader<'_> {
    fn known(&self, oid: Oid) -> Option<&[u8]> {
        self.blobs.and_then(|blobs| blobs.get(&oid)).map(Vec::as_slice)
    }

    /// Returns length and kind of an object.
    pub(crate) fn header(&self, oid: Oid) -> Result<(usize, ObjectType), git2::Error> {
        match self.known(oid) {
            Some(content) => Ok((content.len(), ObjectType::Blob)),
            None => self.odb.read_header(oid),
        }
    }

    pub(crate) fn read(&self, oid: Oid) -> Result<Blob<'_>, git2::Error> {
        match self.known(oid) {
            Some(content) => Ok(Blob::Memory(content)),
            None => self.odb.read(oid).map(Blob::Read),
        }
    }
}

impl Deref for Blob<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(content) => content,
            Self::Read(object) => object.data(),
        }
    }
}
