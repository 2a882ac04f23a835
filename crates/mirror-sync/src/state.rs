//! What the last complete sync of a source found: `ROOT/sources/NAME.json`.
//!
//! A snapshot is made from these files alone, so it never sees half of a sync: a source's state is
//! replaced in one step after everything it names is stored.

use serde::{Deserialize, Serialize};

use crate::config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Repo;
use crate::store::{Stamp, Store};

/// State of one source.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum State {
    /// Of a directory of packages.
    Deb(DebState),
    /// Of git repositories.
    Git(GitState),
}

/// Packages found in a directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DebState {
    /// Format version.
    pub(crate) v: u32,
    /// Directory that was read.
    pub(crate) dir: String,
    /// Packages by file name.
    pub(crate) packages: Vec<Found>,
}

/// One package file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Found {
    /// File name in the directory.
    pub(crate) file: String,
    /// Tells whether the file changed since.
    pub(crate) stamp: Stamp,
    /// Length.
    pub(crate) size: u64,
    /// Content.
    pub sha256: Digest,
    /// `Package`.
    pub(crate) package: String,
    /// `Version`.
    pub(crate) version: String,
    /// `Architecture`.
    pub(crate) architecture: String,
    /// `Section`.
    pub(crate) section: Option<String>,
    /// When it was built.
    pub(crate) built: u64,
    /// Control stanza.
    pub(crate) stanza: String,
}

/// Repositories found by a manifest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GitState {
    /// Format version.
    pub(crate) v: u32,
    /// Manifest that was read.
    pub(crate) manifest: String,
    /// `mirror:` at that time.
    pub(crate) mirror: Option<String>,
    /// Repositories by path.
    pub(crate) repos: Vec<Repo>,
}

impl State {
    /// Format version that is written.
    pub(crate) const VERSION: u32 = 1;

    /// Returns the file's path below the mirror.
    pub(crate) fn path(name: &str) -> String {
        format!("sources/{name}.json")
    }

    /// Reads a source's state; `None` if there is none, or one of another version or configuration.
    ///
    /// # Errors
    /// [`Error::Read`]. A state that does not parse counts as none: the next sync replaces it.
    pub(crate) fn load(store: &Store, source: &config::Source) -> Result<Option<Self>> {
        let state = match store.read_json::<Self>(Self::path(source.name())) {
            Err(Error::Damaged { .. }) => None,
            other => other?,
        };
        Ok(state.filter(|state| match (state, source) {
            (Self::Deb(state), config::Source::Deb(deb)) => {
                state.v == Self::VERSION && state.dir == deb.dir.to_string_lossy()
            }
            (Self::Git(state), config::Source::Git(git)) => {
                state.v == Self::VERSION
                    && state.manifest == git.manifest.to_string_lossy()
                    && state.mirror == git.mirror
            }
            _ => false,
        }))
    }
}
