//! The manifest of a snapshot: what exactly it holds, in one byte form.
//!
//! Its SHA-256 is the snapshot's id. So that equal content has an equal id it holds no time, host,
//! parent or signature, and every list in it is sorted.

mod check;

use std::collections::BTreeMap;
use std::path::Path;

use cloner::refsindex;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::sign::Keyring;
use crate::store::{Store, json_line};

/// Version of the format.
const VERSION: u32 = 1;

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    v: u32,
    /// Sources by name.
    pub(crate) sources: Vec<Source>,
}

/// One source's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Source {
    /// A repository for apt.
    Deb(Deb),
    /// A repository for dnf.
    Rpm(Rpm),
    /// Single files.
    Files(Files),
    /// Git repositories.
    Git(Git),
}

impl Source {
    /// Returns the source's name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Deb(deb) => &deb.name,
            Self::Rpm(rpm) => &rpm.name,
            Self::Files(files) => &files.name,
            Self::Git(git) => &git.name,
        }
    }

    /// Returns the repository for apt, if it is one.
    pub(crate) fn deb(&self) -> Option<&Deb> {
        if let Self::Deb(deb) = self { Some(deb) } else { None }
    }

    /// Returns the repository for dnf, if it is one.
    pub(crate) fn rpm(&self) -> Option<&Rpm> {
        if let Self::Rpm(rpm) = self { Some(rpm) } else { None }
    }

    /// Returns the directory of a snapshot where the source's files are; git repositories are elsewhere.
    pub(crate) fn directory(&self) -> Option<String> {
        match self {
            Self::Deb(deb) => Some(format!("deb/{}", deb.name)),
            Self::Rpm(rpm) => Some(format!("rpm/{}", rpm.name)),
            Self::Files(files) => Some(format!("files/{}", files.name)),
            Self::Git(_) => None,
        }
    }

    /// Returns the packages.
    pub(crate) fn packages(&self) -> &[Package] {
        match self {
            Self::Deb(deb) => &deb.packages,
            Self::Rpm(rpm) => &rpm.packages,
            Self::Files(_) | Self::Git(_) => &[],
        }
    }

    /// Returns the repositories.
    pub(crate) fn repos(&self) -> &[Repo] {
        match self {
            Self::Git(git) => &git.repos,
            Self::Deb(_) | Self::Rpm(_) | Self::Files(_) => &[],
        }
    }

    /// Returns every published file but signatures that are made for the snapshot: path, length, content.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64, &Digest)> {
        let files = match self {
            Self::Deb(deb) => deb.files.as_slice(),
            Self::Rpm(rpm) => &rpm.files,
            Self::Files(files) => &files.files,
            Self::Git(_) => &[],
        };
        let packages = self.packages().iter().map(|package| (package.path.as_str(), package.size, &package.sha256));
        packages.chain(files.iter().map(|file| (file.path.as_str(), file.size, &file.sha256)))
    }

    /// Returns the files that the site signs, one by one, in a snapshot: those of repositories whose index is ours.
    pub(crate) fn signed(&self) -> Vec<Signed> {
        match self {
            Self::Deb(deb) if deb.keyring.is_none() => {
                deb.suites.iter().map(|suite| Signed::Release(format!("dists/{suite}"))).collect()
            }
            Self::Rpm(rpm) if rpm.keyring.is_none() => vec![Signed::Repomd],
            _ => Vec::new(),
        }
    }

    /// Returns the paths, in the snapshot, of the signatures that the site makes.
    pub(crate) fn signatures(&self) -> Vec<String> {
        let directory = self.directory().unwrap_or_default();
        let paths = self.signed().into_iter().flat_map(|signed| signed.signatures());
        paths.map(|path| format!("{directory}/{path}")).collect()
    }

    /// Checks one of these signatures; `read` gives the content of a digest.
    ///
    /// # Errors
    /// Those of `read`; in the inner result why it is not acceptable.
    pub(crate) fn prove(
        &self,
        path: &str,
        signature: &[u8],
        keyring: &Keyring,
        read: impl FnOnce(&Digest) -> Result<Vec<u8>>,
    ) -> Result<std::result::Result<(), String>> {
        let directory = self.directory().unwrap_or_default();
        let of_path = |signed: &Signed| signed.signatures().iter().any(|own| format!("{directory}/{own}") == path);
        let content = self.signed().iter().find(|signed| of_path(signed)).map(Signed::content);
        let Some((.., sha256)) = self.files().find(|(path, ..)| Some(*path) == content.as_deref()) else {
            return Ok(Err("signs nothing of the snapshot".into()));
        };
        let bytes = read(sha256)?;
        Ok(if path.ends_with("/InRelease") {
            keyring
                .verify_cleartext(signature)
                .and_then(|text| if text.as_bytes() == bytes { Ok(()) } else { Err("differs from Release".into()) })
        } else {
            keyring.verify_detached(&bytes, signature).map(|_| ())
        })
    }
}

/// What the site's key signs in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// `Release` in this directory: `InRelease` and `Release.gpg` are made.
    Release(String),
    /// `repodata/repomd.xml`: `repodata/repomd.xml.asc` is made.
    Repomd,
}

impl Signed {
    /// Returns the paths of the signatures.
    pub(crate) fn signatures(&self) -> Vec<String> {
        match self {
            Self::Release(directory) => vec![format!("{directory}/InRelease"), format!("{directory}/Release.gpg")],
            Self::Repomd => vec!["repodata/repomd.xml.asc".into()],
        }
    }

    /// Returns the path of what is signed.
    pub(crate) fn content(&self) -> String {
        match self {
            Self::Release(directory) => format!("{directory}/Release"),
            Self::Repomd => "repodata/repomd.xml".into(),
        }
    }
}

/// A repository for apt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deb {
    /// Source.
    pub(crate) name: String,
    /// Suites, as configured.
    pub(crate) suites: Vec<String>,
    /// Components, as configured.
    pub(crate) components: Vec<String>,
    /// Architectures, as configured.
    pub(crate) architectures: Vec<String>,
    /// Packages by path.
    pub(crate) packages: Vec<Package>,
    /// Index files by path, signatures of the site not among them.
    pub(crate) files: Vec<Published>,
    /// Armoured keys of the upstream, where its own signed index is published as it is. Absent: the site signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keyring: Option<String>,
}

/// A repository for dnf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rpm {
    /// Source.
    pub(crate) name: String,
    /// Architectures, as configured.
    pub(crate) architectures: Vec<String>,
    /// Packages by path.
    pub(crate) packages: Vec<Package>,
    /// Index files by path, signatures of the site not among them.
    pub(crate) files: Vec<Published>,
    /// Armoured keys of the upstream, as in [`Deb::keyring`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keyring: Option<String>,
}

/// Single files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    /// Source.
    pub(crate) name: String,
    /// Files by path.
    pub(crate) files: Vec<Published>,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// Name.
    pub(crate) name: String,
    /// Version with epoch and revision or release; an epoch 0 is left out.
    pub(crate) version: String,
    /// Architecture.
    pub(crate) arch: String,
    /// Path in the repository.
    pub(crate) path: String,
    /// Length.
    pub(crate) size: u64,
    /// Content.
    pub sha256: Digest,
}

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Published {
    /// Path in the repository.
    pub(crate) path: String,
    /// Length.
    pub(crate) size: u64,
    /// Content.
    pub sha256: Digest,
}

/// Git repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Git {
    /// Source.
    pub(crate) name: String,
    /// Repositories by path.
    pub(crate) repos: Vec<Repo>,
}

/// A repository and what its refs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repo {
    /// `HOST…/PATH.git`, below `ROOT/git` and the server's `/git`.
    pub(crate) path: String,
    /// The branch that HEAD names.
    pub(crate) head: Option<String>,
    /// Heads and tags with what they point at.
    pub(crate) refs: BTreeMap<String, String>,
    /// Annotated tags with the commits behind them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) peeled: BTreeMap<String, String>,
}

impl Repo {
    /// Returns what a refs index says of it; none where the format cannot, as it knows SHA-1 ids alone.
    pub(crate) fn index(&self) -> Option<refsindex::Refs> {
        let entry = |(name, id): (&String, &String)| (name.clone(), (id.clone(), self.peeled.get(name).cloned()));
        // Of a repository without that branch HEAD stands for nothing.
        let head = self.head.clone().filter(|head| self.refs.contains_key(head));
        let short = self.refs.values().all(|id| id.len() == 40);
        short.then(|| refsindex::Refs { head, refs: self.refs.iter().map(entry).collect(), packs: BTreeMap::new() })
    }
}

/// Writes the refs index of repositories; of those that are given twice the first counts.
///
/// # Errors
/// Why the format cannot say it.
pub(crate) fn refs_index<'a>(repos: impl IntoIterator<Item = &'a Repo>) -> std::result::Result<String, String> {
    let mut entries = BTreeMap::new();
    for repo in repos {
        if let Some(refs) = repo.index() {
            entries.entry(repo.path.as_str()).or_insert(refs);
        }
    }
    refsindex::write(entries.iter().map(|(path, refs)| (*path, refs)))
}

impl Manifest {
    /// Makes a manifest; the order of `sources` does not matter.
    pub(crate) fn new(mut sources: Vec<Source>) -> Self {
        sources.sort_by(|a, b| a.name().cmp(b.name()));
        Self { v: VERSION, sources }
    }

    /// Returns the byte form and its digest, the snapshot's id.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn encode(&self) -> Result<(Vec<u8>, Digest)> {
        let bytes = json_line(self)?;
        let id = Digest::of(&bytes);
        Ok((bytes, id))
    }

    /// Reads a manifest that is known to be genuine.
    ///
    /// # Errors
    /// [`Error::Damaged`] naming `from`.
    pub(crate) fn decode(bytes: &[u8], from: &Path) -> Result<Self> {
        let damaged = |message: String| Error::Damaged { path: from.to_owned(), message };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.v == VERSION { Ok(manifest) } else { Err(damaged(format!("format version {}", manifest.v))) }
    }

    /// Reads a published snapshot's manifest and checks it against the id.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]; [`Error::Damaged`] when the bytes have another digest.
    pub(crate) fn load(store: &Store, id: &Digest) -> Result<Self> {
        let path = store.path(format!("pub/snap/{id}/manifest.json"));
        let bytes = match crate::files::read_regular(&path, 512 << 20) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::no_snapshot(id)),
            other => other.map_err(Error::read(&path))?,
        };
        if Digest::of(&bytes) != *id {
            return Err(Error::Damaged { path, message: "its digest is not the snapshot's id".into() });
        }
        Self::decode(&bytes, &path)
    }
}
