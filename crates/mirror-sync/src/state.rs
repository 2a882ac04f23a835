//! What the last complete sync of a source found: `ROOT/sources/NAME.json`.
//!
//! A snapshot is made from these files alone, so it never sees half of a sync: a source's state is
//! replaced in one step after everything it names is stored.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::{self, Origin};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::git::published::AllForms;
use crate::manifest::{self, Published, Repo};
use crate::store::{Stamp, Store};

/// State of one source.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum State {
    /// Of a directory of Debian packages.
    Deb(DebState),
    /// Of a directory of RPM packages.
    Rpm(RpmState),
    /// Of everything whose published form is made by `sync`.
    Part(PartState),
    /// Of git repositories.
    Git(GitState),
}

/// A source as it will be published.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartState {
    /// Format version.
    pub(crate) v: u32,
    /// Digest of the configuration that led to this.
    pub(crate) config: Digest,
    /// Digest of everything that the selection was made of.
    pub(crate) inputs: Digest,
    /// Blob that holds the manifest's part, as JSON. Apart, because a run that finds nothing new does not need it.
    pub(crate) part: Digest,
    /// The signed roots that it was made from.
    pub(crate) heads: Vec<Head>,
    /// What later runs read again: unpacked indices of the upstream.
    pub(crate) kept: Vec<Published>,
}

/// One signed root of an upstream: an `InRelease` or a `repomd.xml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// The source's address.
    pub(crate) url: String,
    /// Path below it.
    pub(crate) path: String,
    /// Its bytes.
    pub(crate) sha256: Digest,
    /// When it was made, in seconds since the epoch; a later run accepts nothing older.
    pub(crate) date: u64,
    /// When it expires.
    pub(crate) until: Option<u64>,
    /// `ETag` of the answer.
    pub(crate) etag: Option<String>,
    /// `Last-Modified` of the answer.
    pub(crate) modified: Option<String>,
}

impl PartState {
    fn read(&self, store: &Store) -> Result<manifest::Source> {
        let bytes = store.get(&self.part)?;
        let damaged =
            |error: serde_json::Error| Error::Damaged { path: store.blob(&self.part), message: error.to_string() };
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    /// Reads the part of the manifest, everything of which is in the store.
    ///
    /// # Errors
    /// [`Error::NotSynced`] when something that it names is not in the store; [`Error::Read`].
    pub(crate) fn part(&self, store: &Store) -> Result<manifest::Source> {
        let part = self.read(store)?;
        if let Some((path, ..)) = part.files().find(|(_, size, sha256)| !store.has_blob(sha256, *size)) {
            State::forget(store, part.name())?;
            let why = format!("the content of {path} is not in the store");
            return Err(Error::NotSynced { name: part.name().to_owned(), why });
        }
        Ok(part)
    }

    /// Adds the blobs that this state needs.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Damaged`].
    pub(crate) fn mark(&self, store: &Store, blobs: &mut BTreeSet<Digest>) -> Result<()> {
        blobs.extend(self.kept.iter().map(|index| index.sha256.clone()));
        blobs.extend(self.heads.iter().map(|head| head.sha256.clone()));
        blobs.insert(self.part.clone());
        blobs.extend(self.read(store)?.files().map(|(_, _, sha256)| sha256.clone()));
        Ok(())
    }
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

/// RPM packages found in a directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RpmState {
    /// Format version.
    pub(crate) v: u32,
    /// Directory that was read.
    pub(crate) dir: String,
    /// Packages by file name.
    pub(crate) packages: Vec<FoundRpm>,
    /// Blob that holds their elements.
    pub(crate) elements: Digest,
}

/// One RPM package file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FoundRpm {
    /// File name in the directory.
    pub(crate) file: String,
    /// Tells whether the file changed since.
    pub(crate) stamp: Stamp,
    /// Length.
    pub(crate) size: u64,
    /// Content.
    pub(crate) sha256: Digest,
    /// Name.
    pub(crate) name: String,
    /// Version as people write it.
    pub(crate) version: String,
    /// Architecture.
    pub(crate) arch: String,
    /// When it was built.
    pub(crate) built: u64,
    /// Path in a repository.
    pub(crate) path: String,
    /// Lengths of its elements.
    pub(crate) lengths: [u32; 3],
    /// CRC-32 of its elements.
    pub(crate) crc: u32,
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
    /// Their static forms.
    #[serde(default)]
    pub(crate) forms: AllForms,
}

impl State {
    /// Format version that is written.
    pub(crate) const VERSION: u32 = 1;

    /// Parses what was written. The tag is the first field, always: serde would look for it everywhere and keep all of a
    /// large state in memory once more for that.
    fn parse(mut bytes: Vec<u8>) -> serde_json::Result<Self> {
        let end = bytes.iter().position(|byte| *byte == b',').unwrap_or(0);
        let (head, rest) = bytes.split_at_mut(end);
        if let Some(comma) = rest.first_mut() {
            *comma = b'{';
        }
        match &*head {
            br#"{"type":"deb""# => serde_json::from_slice(rest).map(Self::Deb),
            br#"{"type":"rpm""# => serde_json::from_slice(rest).map(Self::Rpm),
            br#"{"type":"part""# => serde_json::from_slice(rest).map(Self::Part),
            br#"{"type":"git""# => serde_json::from_slice(rest).map(Self::Git),
            _ => Err(serde::de::Error::custom("of no known type")),
        }
    }

    /// Returns the file's path below the mirror.
    pub(crate) fn path(name: &str) -> String {
        format!("sources/{name}.json")
    }

    /// Forgets a source's state: the next sync reads everything again, and looks for every blob.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn forget(store: &Store, name: &str) -> Result<()> {
        crate::files::remove(&store.path(Self::path(name)))
    }

    /// Removes what is damaged of a source's state, and the state, so that the next sync makes both again; returns what to
    /// tell. Other errors are returned as they are.
    pub(crate) fn lost(store: &Store, name: &str, error: Error) -> Error {
        let Error::Damaged { path, message } = error else { return error };
        if let Err(error) = crate::files::remove(&path).and_then(|()| Self::forget(store, name)) {
            return error;
        }
        Error::NotSynced { name: name.to_owned(), why: format!("{}: {message}", path.display()) }
    }

    /// Reads a source's state; `None` if there is none, or one of another version or configuration.
    ///
    /// # Errors
    /// [`Error::Read`]. A state that does not parse counts as none: the next sync replaces it.
    pub(crate) fn load(store: &Store, source: &config::Source) -> Result<Option<Self>> {
        let state = match store.read_parsed(Self::path(source.name()), Self::parse) {
            Err(Error::Damaged { .. }) => None,
            other => other?,
        };
        Ok(state.filter(|state| match (state, source) {
            (Self::Deb(state), config::Source::Deb(_)) => {
                state.v == Self::VERSION
                    && matches!(source.origin(), Some(Origin::Dir(dir)) if state.dir == dir.to_string_lossy())
            }
            (Self::Rpm(state), config::Source::Rpm(_)) => {
                state.v == Self::VERSION
                    && matches!(source.origin(), Some(Origin::Dir(dir)) if state.dir == dir.to_string_lossy())
            }
            (Self::Part(state), _) => {
                state.v == Self::VERSION && source.fingerprint().is_some_and(|digest| digest == state.config)
            }
            (Self::Git(state), config::Source::Git(git)) => {
                state.v == Self::VERSION
                    && state.manifest == git.manifest.to_string_lossy()
                    && state.mirror == git.mirror
            }
            _ => false,
        }))
    }

    /// Returns the signed roots that were accepted for a source, however it was configured then.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub(crate) fn accepted(store: &Store, name: &str) -> Result<Vec<Head>> {
        match store.read_parsed(Self::path(name), Self::parse) {
            Ok(Some(Self::Part(state))) => Ok(state.heads),
            Ok(_) | Err(Error::Damaged { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let digest = Digest::of(b"");
        let head = Head {
            url: "http://x".into(),
            path: "a,b".into(),
            sha256: digest.clone(),
            date: 1,
            until: None,
            etag: None,
            modified: None,
        };
        let states = [
            State::Deb(DebState { v: 1, dir: "/d,e".into(), packages: Vec::new() }),
            State::Rpm(RpmState { v: 1, dir: "/r".into(), packages: Vec::new(), elements: digest.clone() }),
            State::Git(GitState {
                v: 1,
                manifest: "m".into(),
                mirror: None,
                repos: Vec::new(),
                forms: AllForms::new(),
            }),
            State::Part(PartState {
                v: 1,
                config: digest.clone(),
                inputs: digest.clone(),
                part: digest,
                heads: vec![head],
                kept: Vec::new(),
            }),
        ];
        for state in states {
            let bytes = crate::store::json_line(&state).expect("writes");
            let again = State::parse(bytes.clone()).expect("reads");
            assert_eq!(crate::store::json_line(&again).expect("writes"), bytes);
        }
        for wrong in ["", "{}", "{\"v\":1}", "{\"type\":\"x\",\"v\":1}", "{\"type\":\"deb\",\"v\":1,\"more\":1}", ","] {
            assert!(State::parse(wrong.into()).is_err(), "{wrong}");
        }
    }
}
