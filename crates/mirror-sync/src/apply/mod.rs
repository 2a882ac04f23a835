//! `apply`: points a node's apt, dnf and `cloner` at the snapshot that its channel names.
//!
//! Everything is proven before anything is touched: the pointer is resolved, the manifest has the
//! snapshot's digest and the site's signature, each signed index carries that signature too (or is what the
//! manifest says, where a source is published as its upstream signed it), and the node's own client has
//! fetched the new lists with a candidate file outside its own directories. Only then the client's file is
//! replaced, in one step. Until that instant the old sources stay as they were, so there is nothing to restore.
//!
//! What the snapshot's git repositories point at is written beside it, for `cloner --refs`: the mirror's own refs move
//! with every `sync`, those of a snapshot do not, and these come from the manifest that the site has signed.

mod apt;
mod dnf;
mod follow;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use toolkit::Io;
use toolkit::dirs::under_root;
use toolkit::lock::FileLock;

use crate::config::{Config, Format, Node};
use crate::consul::{Cluster, NodeState};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::Fetcher;
use crate::files;
use crate::manifest::{Manifest, Published, Source, refs_index};
use crate::sign::Keyring;
use follow::Followed;

/// Where candidates are tried.
const STATE: &str = "/var/lib/stacktira/apply";
/// What the snapshot's git repositories point at, below [`STATE`].
const REFS: &str = "refs.index";
/// Longest run of a client that fetches lists.
const UPDATE: Duration = Duration::from_secs(600);

/// Applies the snapshot that this node is to use, or prints what would be written, and reports in Consul how it went.
///
/// # Errors
/// [`Error::Forged`]; [`Error::Unavailable`]; [`Error::Consul`]; [`Error::Write`].
pub(crate) fn run(config: &Config, print: bool, io: &mut Io) -> Result<()> {
    let node = config.node()?;
    let keyring = Keyring::load(&files::under_root_if_there(&node.keyring))?;
    let fetcher = Fetcher::new(&config.limits);
    let cluster = config.consul.as_ref().map(Cluster::new).transpose()?;
    if print {
        let followed = follow::resolve(config, cluster.as_ref(), node, &fetcher)?;
        let wanted = wanted(&fetcher, &keyring, node, &followed)?;
        return wanted.candidates.iter().try_for_each(|candidate| io.out(&candidate.text).map_err(Error::Output));
    }
    let state = under_root(Path::new(STATE));
    files::make_dir(&state)?;
    let lock = state.join("lock");
    let _lock = FileLock::exclusive_until(&lock, Instant::now() + UPDATE)
        .map_err(|error| Error::Write { path: error.path, source: error.source })?
        .ok_or(Error::Busy { path: lock, what: "apply" })?;
    let mut followed = follow::resolve(config, cluster.as_ref(), node, &fetcher)?;
    if in_place(node).as_ref() != Some(&followed.id) && !followed.delay.is_zero() {
        io.note(format_args!("letting others go first: {}", toolkit::duration::format(followed.delay)));
        std::thread::sleep(followed.delay);
        // It may have gone back meanwhile.
        followed = follow::resolve(config, cluster.as_ref(), node, &fetcher)?;
    }
    let done = take(&fetcher, &keyring, node, &followed, &state, io);
    if let Some(cluster) = &cluster
        && let Err(error) = report(cluster, node, &followed, &done)
    {
        io.warn(format_args!("the state could not be published: {}", toolkit::exit::chain(&error)));
    }
    done
}

/// Says whether the snapshot in place is the one that this node is to use.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Consul`].
pub(crate) fn check(config: &Config, io: &mut Io) -> Result<u8> {
    let node = config.node()?;
    let cluster = config.consul.as_ref().map(Cluster::new).transpose()?;
    let followed = follow::resolve(config, cluster.as_ref(), node, &Fetcher::new(&config.limits))?;
    if in_place(node).as_ref() == Some(&followed.id) {
        io.note(format_args!("snapshot {} is in place", followed.id));
        return Ok(toolkit::exit::OK);
    }
    io.note(format_args!("snapshot {} is to be used", followed.id));
    Ok(toolkit::exit::NO)
}

/// What a client is to be told.
struct Candidate {
    format: Format,
    /// Where it is told.
    path: PathBuf,
    text: String,
    /// Keys that the text names by their place, which follows from what they are.
    keys: Vec<(PathBuf, String)>,
}

/// What is proven, and with what.
struct Proof<'a> {
    fetcher: &'a Fetcher,
    /// The site's keys.
    keyring: &'a Keyring,
    node: &'a Node,
    /// Address of the snapshot.
    base: &'a str,
}

impl Proof<'_> {
    /// Fetches a published file and checks that it is what the manifest says.
    fn published(&self, repository: &str, file: &Published) -> Result<Vec<u8>> {
        let url = format!("{repository}/{}", file.path);
        let bytes = self.fetcher.get(&url, MAX_SIGNED)?;
        if Digest::of(&bytes) == file.sha256 {
            Ok(bytes)
        } else {
            Err(Error::forged(&url, "it is not what the manifest says"))
        }
    }
}

/// Proves the snapshot, lets the clients try it, and puts it in place.
fn take(
    fetcher: &Fetcher,
    keyring: &Keyring,
    node: &Node,
    followed: &Followed,
    state: &Path,
    io: &mut Io,
) -> Result<()> {
    let id = &followed.id;
    let Wanted { mut candidates, refs } = wanted(fetcher, keyring, node, followed)?;
    candidates.retain(|candidate| std::fs::read(&candidate.path).ok().as_deref() != Some(candidate.text.as_bytes()));
    for candidate in &candidates {
        for (path, key) in &candidate.keys {
            write(path, key)?;
        }
        if node.update {
            match candidate.format {
                Format::Deb => apt::update(state, &candidate.text)?,
                Format::Rpm => dnf::update(state, &candidate.text)?,
            }
        }
    }
    // Before the clients' files, by which it is known that all of it is done.
    let index = state.join(REFS);
    match refs {
        Some(text) => write(&index, &text)?,
        None => files::remove(&index)?,
    }
    if candidates.is_empty() {
        io.note(format_args!("snapshot {id} is in place"));
    }
    for candidate in &candidates {
        write(&candidate.path, &candidate.text)?;
        io.note(format_args!("{} now points at snapshot {id}", candidate.path.display()));
        if candidate.format == Format::Rpm {
            dnf::remove_other_keys(&candidate.keys)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        files::make_dir(parent)?;
    }
    toolkit::atomic::write(path, text.as_bytes(), 0o644).map(|_| ()).map_err(Error::write(path))
}

/// What a node is to have of a snapshot.
struct Wanted {
    candidates: Vec<Candidate>,
    /// The refs index of its git repositories, if it has any.
    refs: Option<String>,
}

/// Proves a snapshot and says what is to be written.
fn wanted(fetcher: &Fetcher, keyring: &Keyring, node: &Node, followed: &Followed) -> Result<Wanted> {
    let base = format!("{}/snap/{}", node.mirror.trim_end_matches('/'), followed.id);
    let mut manifest = manifest(fetcher, keyring, &base, &followed.id)?;
    if let Some(name) = node.sources.iter().find(|name| !manifest.sources.iter().any(|source| source.name() == *name)) {
        return Err(Error::rejected(format!("snapshot {}", followed.id), format!("it has no source {name}")));
    }
    let mut repos = manifest.sources.iter().flat_map(Source::repos).peekable();
    let refs = repos.peek().is_some().then(|| refs_index(repos)).transpose();
    let refs = refs.map_err(|why| Error::forged(format!("{base}/manifest.json"), why))?;
    manifest.sources.retain(|source| node.sources.is_empty() || node.sources.iter().any(|name| name == source.name()));
    let head = format!("{HEAD}channel {}, snapshot {}\n", followed.channel, followed.id);
    let proof = Proof { fetcher, keyring, node, base: &base };
    let candidate = |format: &Format| {
        let (text, keys) = match format {
            Format::Deb => (apt::text(&proof, &manifest)?, Vec::new()),
            Format::Rpm => dnf::text(&proof, &manifest)?,
        };
        Ok(Candidate { format: *format, path: file_of(*format), text: format!("{head}{text}"), keys })
    };
    let candidates = node.formats.iter().map(candidate).collect::<Result<Vec<Candidate>>>()?;
    Ok(Wanted { candidates, refs })
}

/// How each file begins.
const HEAD: &str = "# Written by mirror-sync apply: ";
/// Largest signed index.
const MAX_SIGNED: u64 = 64 << 20;

fn file_of(format: Format) -> PathBuf {
    under_root(Path::new(match format {
        Format::Deb => apt::FILE,
        Format::Rpm => dnf::FILE,
    }))
}

/// Returns the snapshot that the files in place say they were written for.
fn in_place(node: &Node) -> Option<Digest> {
    let named = |format: &Format| -> Option<Digest> {
        let text = String::from_utf8(files::read_bounded(&file_of(*format), 1 << 20).ok()?).ok()?;
        text.lines().next()?.strip_prefix(HEAD)?.rsplit(' ').next()?.parse().ok()
    };
    let first = named(node.formats.first()?)?;
    node.formats.iter().all(|format| named(format).as_ref() == Some(&first)).then_some(first)
}

/// Tells the cluster how it went; the same words again are not written again within an hour.
fn report(cluster: &Cluster, node: &Node, followed: &Followed, done: &Result<()>) -> Result<()> {
    let (word, message) = match done {
        Ok(()) => ("applied", String::new()),
        Err(error @ (Error::Forged { .. } | Error::Damaged { .. } | Error::Rejected { .. })) => {
            ("failed", toolkit::exit::chain(error))
        }
        Err(error) => ("away", toolkit::exit::chain(error)),
    };
    let name = follow::name_of(node);
    let state = NodeState {
        v: 1,
        node: name.clone(),
        role: node.role.clone(),
        channel: followed.channel.clone(),
        by: followed.by.to_owned(),
        want: Some(followed.id.clone()),
        have: in_place(node),
        state: word.to_owned(),
        at: files::now(),
        message: toolkit::exit::one_line(&message).chars().take(500).collect(),
    };
    let key = format!("state/{name}");
    let seen = match cluster.document::<NodeState>(&key) {
        Ok(seen) => seen,
        // Something else is there: it is replaced, but what somebody writes meanwhile is not.
        Err(Error::Consul { code: toolkit::exit::BAD_INPUT, .. }) => cluster.any(&key)?,
        Err(error) => return Err(error),
    };
    let same = |old: &NodeState| NodeState { at: state.at, ..old.clone() } == state && state.at.abs_diff(old.at) < 3600;
    if !seen.value.as_ref().is_some_and(same) {
        // A lost race is lost to this node's next run.
        cluster.replace(&key, &state, &seen)?;
    }
    Ok(())
}

fn manifest(fetcher: &Fetcher, keyring: &Keyring, base: &str, id: &Digest) -> Result<Manifest> {
    let url = format!("{base}/manifest.json");
    let bytes = fetcher.get(&url, 512 << 20)?;
    if Digest::of(&bytes) != *id {
        return Err(Error::forged(&url, "its digest is not the snapshot's id"));
    }
    let signature = fetcher.get(&format!("{url}.sig"), 64 << 10)?;
    keyring.verify_detached(&bytes, &signature).map_err(|message| Error::forged(format!("{url}.sig"), message))?;
    Manifest::decode(&bytes, Path::new(&url))
}
