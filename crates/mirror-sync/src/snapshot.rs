//! `snapshot`, `list`, `show`, `diff`: immutable, signed states of the mirror.
//!
//! A snapshot is built as a tree of hard links in `ROOT/tmp` and renamed to `ROOT/pub/snap/ID` when it is
//! whole, signed and its commits are pinned. Nothing in it changes afterwards, so every URL below it stays
//! valid for as long as the snapshot exists, and old index files can always be fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toolkit::Io;
use toolkit::exit;
use toolkit::lock::FileLock;

use crate::channel;
use crate::config::{self, Config};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::Git;
use crate::manifest::{Git as GitPart, Manifest, Signed, Source};
use crate::parallel;
use crate::repository;
use crate::sign::SigningKey;
use crate::state::State;
use crate::store::Store;

/// What is known about a snapshot besides its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Info {
    v: u32,
    /// Seconds since the epoch.
    pub(crate) created: u64,
    /// Fingerprint of the key that signed it.
    pub(crate) signer: String,
}

impl Info {
    fn path(id: &Digest) -> String {
        format!("snapshots/{id}/info.json")
    }

    /// Reads a snapshot's facts; of one copied from elsewhere its own directory tells the time.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Damaged`].
    pub(crate) fn load(store: &Store, id: &Digest) -> Result<Self> {
        if let Some(info) = store.read_json(Self::path(id))? {
            return Ok(info);
        }
        let path = store.path(format!("pub/snap/{id}"));
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(Error::read(&path))?;
        let created = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { v: 1, created, signer: String::new() })
    }
}

/// Makes a snapshot of the last complete sync of every source; returns its id.
///
/// # Errors
/// [`Error::NotSynced`]; [`Error::Busy`]; [`Error::Rejected`]; [`Error::Write`].
pub(crate) fn create(config: &Config, io: &mut Io) -> Result<Digest> {
    config.some_sources()?;
    let (store, lock) = Store::writer(config.root()?)?;
    let key = SigningKey::load(config.signing_key()?)?;
    let manifest = collect(&store, config, io)?;
    let (bytes, id) = manifest.encode()?;
    let target = store.path(format!("pub/snap/{id}"));
    if target.is_dir() {
        io.note(format_args!("nothing changed since snapshot {id}"));
        return Ok(id);
    }
    let work = store.temporary("snapshot");
    files::make_dir(&work)?;
    let mut links = Links::new(&store);
    for source in &manifest.sources {
        if let Source::Git(part) = source {
            pin(&store, &lock, config, part, &id)?;
        }
        let Some(directory) = source.directory() else { continue };
        let base = work.join(directory);
        files::make_dir(&base)?;
        for (path, _, sha256) in source.files() {
            if !repository::is_plain(path) {
                return Err(Error::Bug(format!("path {path:?} leaves the repository")));
            }
            links.add(sha256, &base.join(path))?;
        }
        for signed in source.signed() {
            sign(&base, &signed, &key)?;
        }
    }
    write_new(&work.join("manifest.json"), &bytes)?;
    write_new(&work.join("manifest.json.sig"), &key.detached(&bytes)?)?;
    sync_tree(&work)?;
    files::make_dir(&store.path(format!("snapshots/{id}")))?;
    store.write_json(Info::path(&id), &Info { v: 1, created: files::now(), signer: key.fingerprint() })?;
    fs::rename(&work, &target).map_err(Error::write(&target))?;
    let parent = store.path("pub/snap");
    toolkit::atomic::sync_dir(&parent).map_err(Error::write(&parent))?;
    Ok(id)
}

fn collect(store: &Store, config: &Config, io: &mut Io) -> Result<Manifest> {
    let mut sources = Vec::new();
    for source in &config.sources {
        let not_synced = |why: &str| Error::NotSynced { name: source.name().to_owned(), why: why.to_owned() };
        let state = State::load(store, source)?
            .ok_or_else(|| not_synced("never synchronised completely as it is configured now"))?;
        match (state, source) {
            (State::Deb(state), config::Source::Deb(deb)) => {
                if let Some(lost) = state.packages.iter().find(|found| !store.has_blob(&found.sha256, found.size)) {
                    return Err(not_synced(&format!("the content of {} is not in the store", lost.file)));
                }
                let part = repository::build(store, deb, &state.packages, &mut |message| io.warn(message))?;
                sources.push(Source::Deb(part));
            }
            (State::Part(state), _) => sources.push(state.part(store)?),
            (State::Git(state), config::Source::Git(git)) => {
                sources.push(Source::Git(GitPart { name: git.name.clone(), repos: state.repos }));
            }
            _ => return Err(not_synced("its state is of another type")),
        }
    }
    Ok(Manifest::new(sources))
}

fn pin(store: &Store, lock: &FileLock, config: &Config, part: &GitPart, id: &Digest) -> Result<()> {
    let git = Git::writer(store, &config.limits, lock);
    parallel::map(config.jobs, &part.repos, |repo| git.pin(repo, id)).into_iter().collect()
}

fn sign(base: &Path, signed: &Signed, key: &SigningKey) -> Result<()> {
    match signed {
        Signed::Release(directory) => {
            let directory = base.join(directory);
            let path = directory.join("Release");
            let text = fs::read_to_string(&path).map_err(Error::read(&path))?;
            write_new(&directory.join("InRelease"), &key.cleartext(&text)?)?;
            write_new(&directory.join("Release.gpg"), &key.detached(text.as_bytes())?)
        }
        Signed::Repomd => {
            let path = base.join("repodata/repomd.xml");
            let bytes = fs::read(&path).map_err(Error::read(&path))?;
            write_new(&base.join("repodata/repomd.xml.asc"), &key.detached(&bytes)?)
        }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::write(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).map_err(Error::write(path))?;
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(Error::write(path))
}

/// Syncs the directories of a tree; its files are synced already.
fn sync_tree(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::read(directory))? {
        let entry = entry.map_err(Error::read(directory))?;
        if entry.file_type().map_err(Error::read(directory))?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    toolkit::atomic::sync_dir(directory).map_err(Error::write(directory))
}

/// Hard links of blobs, each directory made once.
struct Links<'a> {
    store: &'a Store,
    made: BTreeSet<std::path::PathBuf>,
}

impl<'a> Links<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, made: BTreeSet::new() }
    }

    fn add(&mut self, sha256: &Digest, path: &Path) -> Result<()> {
        let parent = path.parent().expect("a published file has a directory");
        if !self.made.contains(parent) {
            files::make_dir(parent)?;
            self.made.insert(parent.to_owned());
        }
        let blob = self.store.blob(sha256);
        match fs::hard_link(&blob, path) {
            // A file system allows a blob only so many names; a copy serves as well.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EMLINK as i32) => {
                fs::copy(&blob, path).map(|_| ()).map_err(Error::write(path))
            }
            other => other.map_err(Error::write(path)),
        }
    }
}

/// Returns the ids of all snapshots with their facts, newest first.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn all(store: &Store) -> Result<Vec<(Digest, Info)>> {
    let mut snapshots = Vec::new();
    for name in files::names_in(&store.path("pub/snap"))? {
        if let Ok(id) = name.parse::<Digest>() {
            let info = Info::load(store, &id)?;
            snapshots.push((id, info));
        }
    }
    snapshots.sort_by(|a, b| b.1.created.cmp(&a.1.created).then_with(|| a.0.cmp(&b.0)));
    Ok(snapshots)
}

/// Channels by the snapshot that they point at.
fn channels(config: &Config, store: &Store) -> Result<BTreeMap<Digest, Vec<String>>> {
    let mut by_id: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for name in &config.channels {
        if let Some(pointer) = channel::read(store, name)? {
            by_id.entry(pointer.snapshot).or_default().push(name.clone());
        }
    }
    Ok(by_id)
}

/// Counts of a source for people.
fn summary(source: &Source) -> String {
    match source {
        Source::Deb(_) | Source::Rpm(_) => {
            let packages = source.packages();
            let size: u64 = packages.iter().map(|package| package.size).sum();
            format!("{}: {} packages, {:.1} MB", source.name(), packages.len(), size as f64 / 1e6)
        }
        Source::Files(part) => {
            let size: u64 = part.files.iter().map(|file| file.size).sum();
            format!("{}: {} files, {:.1} MB", part.name, part.files.len(), size as f64 / 1e6)
        }
        Source::Git(git) => format!("{}: {} repositories", git.name, git.repos.len()),
    }
}

/// `list`.
///
/// # Errors
/// [`Error::Read`]; [`Error::Output`].
pub(crate) fn list(config: &Config, json: bool, io: &mut Io) -> Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        r#type: &'static str,
        v: u32,
        id: &'a Digest,
        created: String,
        channels: &'a [String],
    }
    let store = Store::at(config.root()?);
    let by_id = channels(config, &store)?;
    for (id, info) in all(&store)? {
        let channels = by_id.get(&id).map(Vec::as_slice).unwrap_or_default();
        let created = files::rfc3339(info.created);
        if json {
            io.json(&Line { r#type: "snapshot", v: 1, id: &id, created, channels }).map_err(Error::Output)?;
        } else {
            let line = format!("{id} {created} {}", channels.join(","));
            io.out(format!("{}\n", line.trim_end())).map_err(Error::Output)?;
        }
    }
    Ok(())
}

/// `show`.
///
/// # Errors
/// [`Error::NoSnapshot`]; [`Error::Damaged`]; [`Error::Output`].
pub(crate) fn show(config: &Config, id: &Digest, json: bool, io: &mut Io) -> Result<()> {
    let store = Store::at(config.root()?);
    let manifest = Manifest::load(&store, id)?;
    let info = Info::load(&store, id)?;
    let by_id = channels(config, &store)?;
    let channels = by_id.get(id).cloned().unwrap_or_default();
    let created = files::rfc3339(info.created);
    if !json {
        let mut text = format!("snapshot {id}\ncreated  {created}\n");
        if !info.signer.is_empty() {
            text.push_str(&format!("signer   {}\n", info.signer));
        }
        if !channels.is_empty() {
            text.push_str(&format!("channels {}\n", channels.join(" ")));
        }
        for source in &manifest.sources {
            text.push_str(&format!("source   {}\n", summary(source)));
            match source {
                Source::Deb(_) | Source::Rpm(_) => {
                    for package in source.packages() {
                        text.push_str(&format!("  {} {} {}\n", package.name, package.version, package.arch));
                    }
                }
                Source::Files(part) => {
                    for file in &part.files {
                        text.push_str(&format!("  {} {}\n", file.path, file.sha256));
                    }
                }
                Source::Git(git) => {
                    for repo in &git.repos {
                        let head = repo.head.as_ref().and_then(|head| repo.refs.get(head));
                        text.push_str(&format!("  {} {}\n", repo.path, head.map_or("-", String::as_str)));
                    }
                }
            }
        }
        return io.out(text).map_err(Error::Output);
    }
    let object = |value: serde_json::Value, io: &mut Io| io.json(&value).map_err(Error::Output);
    object(
        serde_json::json!({"type": "snapshot", "v": 1, "id": id, "created": created, "signer": info.signer,
            "channels": channels, "sources": manifest.sources.iter().map(Source::name).collect::<Vec<_>>()}),
        io,
    )?;
    for source in &manifest.sources {
        match source {
            Source::Deb(_) | Source::Rpm(_) => {
                for package in source.packages() {
                    object(
                        serde_json::json!({"type": "package", "v": 1, "source": source.name(), "name": package.name,
                            "version": package.version, "arch": package.arch, "path": package.path,
                            "size": package.size, "sha256": package.sha256}),
                        io,
                    )?;
                }
            }
            Source::Files(part) => {
                for file in &part.files {
                    object(
                        serde_json::json!({"type": "file", "v": 1, "source": part.name, "path": file.path,
                            "size": file.size, "sha256": file.sha256}),
                        io,
                    )?;
                }
            }
            Source::Git(git) => {
                for repo in &git.repos {
                    object(
                        serde_json::json!({"type": "repo", "v": 1, "source": git.name, "path": repo.path,
                            "head": repo.head, "refs": repo.refs}),
                        io,
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// One difference between two snapshots.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    r#type: &'static str,
    v: u32,
    source: String,
    name: String,
    arch: Option<String>,
    old: Option<String>,
    new: Option<String>,
}

/// What is compared: source, name, architecture, with every version and what tells apart equal versions.
type Items = BTreeMap<(String, String, Option<String>), BTreeSet<(String, String)>>;

fn items(manifest: &Manifest) -> Items {
    let mut items = Items::new();
    for source in &manifest.sources {
        match source {
            Source::Deb(_) | Source::Rpm(_) => {
                for package in source.packages() {
                    let key = (source.name().to_owned(), package.name.clone(), Some(package.arch.clone()));
                    items.entry(key).or_default().insert((package.version.clone(), package.sha256.to_string()));
                }
            }
            Source::Files(part) => {
                for file in &part.files {
                    let key = (part.name.clone(), file.path.clone(), None);
                    items.entry(key).or_default().insert((file.sha256.to_string(), String::new()));
                }
            }
            Source::Git(git) => {
                for repo in &git.repos {
                    for (name, target) in &repo.refs {
                        let key = (git.name.clone(), format!("{} {name}", repo.path), None);
                        items.entry(key).or_default().insert((target.clone(), String::new()));
                    }
                }
            }
        }
    }
    items
}

fn changes(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let (old, new) = (items(old), items(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let none = BTreeSet::new();
    let mut changes = Vec::new();
    for key in keys {
        let (before, after) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        let mut gone = before.difference(after).map(|(version, _)| version.clone());
        let mut come = after.difference(before).map(|(version, _)| version.clone());
        loop {
            let (old, new) = (gone.next(), come.next());
            if old.is_none() && new.is_none() {
                break;
            }
            let (source, name, arch) = key.clone();
            changes.push(Change { r#type: "change", v: 1, source, name, arch, old, new });
        }
    }
    changes
}

/// `diff`; returns the exit code.
///
/// # Errors
/// [`Error::NoSnapshot`] with 65; [`Error::Damaged`]; [`Error::Output`].
pub(crate) fn diff(config: &Config, old: &Digest, new: &Digest, json: bool, io: &mut Io) -> Result<u8> {
    let store = Store::at(config.root()?);
    let load = |id: &Digest| {
        Manifest::load(&store, id).map_err(|error| match error {
            Error::NoSnapshot { id, .. } => Error::NoSnapshot { id, code: exit::BAD_INPUT },
            other => other,
        })
    };
    let changes = changes(&load(old)?, &load(new)?);
    for change in &changes {
        if json {
            io.json(change).map_err(Error::Output)?;
        } else {
            let arch = change.arch.as_ref().map(|arch| format!(":{arch}")).unwrap_or_default();
            let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".into());
            let line =
                format!("{} {}{arch} {} {}\n", change.source, change.name, version(&change.old), version(&change.new));
            io.out(line).map_err(Error::Output)?;
        }
    }
    Ok(if changes.is_empty() { exit::OK } else { exit::NO })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Deb, Package};

    fn manifest(packages: &[(&str, &str, &str)]) -> Manifest {
        let packages = packages
            .iter()
            .map(|(name, version, content)| Package {
                name: (*name).into(),
                version: (*version).into(),
                arch: "amd64".into(),
                path: format!("pool/{name}"),
                size: 1,
                sha256: Digest::of(content.as_bytes()),
            })
            .collect();
        let lists = Vec::new;
        Manifest::new(vec![Source::Deb(Deb {
            name: "debian".into(),
            suites: lists(),
            components: lists(),
            architectures: lists(),
            packages,
            files: Vec::new(),
            keyring: None,
        })])
    }

    #[test]
    fn differences_pair_what_went_with_what_came() {
        let old = manifest(&[("a", "1", "x"), ("b", "1", "x"), ("same", "1", "x"), ("rebuilt", "1", "x")]);
        let new = manifest(&[("a", "2", "x"), ("c", "1", "x"), ("same", "1", "x"), ("rebuilt", "1", "y")]);
        let changes = changes(&old, &new);
        let short: Vec<_> = changes.iter().map(|c| (c.name.as_str(), c.old.as_deref(), c.new.as_deref())).collect();
        assert_eq!(
            short,
            [
                ("a", Some("1"), Some("2")),
                ("b", Some("1"), None),
                ("c", None, Some("1")),
                ("rebuilt", Some("1"), Some("1"))
            ]
        );
    }
}
