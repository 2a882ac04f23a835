//! `apply`: points a node's apt at the snapshot that its channel names.
//!
//! Everything is proven before anything is touched: the pointer is resolved, the manifest has the
//! snapshot's digest and the site's signature, each suite's `InRelease` carries that signature too (or is what the
//! manifest says, where a source is published as its upstream signed it), and apt has
//! fetched the new lists with a candidate file outside its own directories. Only then the sources file is
//! replaced, in one step. Until that instant the old sources stay as they were, so there is nothing to restore.

mod follow;
mod sources;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use toolkit::Io;
use toolkit::dirs::under_root;
use toolkit::lock::FileLock;
use toolkit::process::Group;

use crate::config::{Config, Node};
use crate::consul::{Cluster, NodeState};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::Fetcher;
use crate::files;
use crate::manifest::Manifest;
use crate::sign::Keyring;
use follow::Followed;

/// The file that is written.
const SOURCES: &str = "/etc/apt/sources.list.d/stacktira.sources";
/// Where candidates are tried.
const STATE: &str = "/var/lib/stacktira/apply";
/// Longest run of `apt-get update`.
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
        let text = candidate(&fetcher, &keyring, node, &followed)?;
        return io.out(text).map_err(Error::Output);
    }
    let state = under_root(Path::new(STATE));
    files::make_dir(&state)?;
    let lock = state.join("lock");
    let _lock = FileLock::exclusive_until(&lock, Instant::now() + UPDATE)
        .map_err(|error| Error::Write { path: error.path, source: error.source })?
        .ok_or(Error::Busy { path: lock, what: "apply" })?;
    let mut followed = follow::resolve(config, cluster.as_ref(), node, &fetcher)?;
    if in_place().as_ref() != Some(&followed.id) && !followed.delay.is_zero() {
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

/// Proves the snapshot, lets apt try it, and puts it in place.
fn take(
    fetcher: &Fetcher,
    keyring: &Keyring,
    node: &Node,
    followed: &Followed,
    state: &Path,
    io: &mut Io,
) -> Result<()> {
    let id = &followed.id;
    let text = candidate(fetcher, keyring, node, followed)?;
    let path = under_root(Path::new(SOURCES));
    if std::fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
        io.note(format_args!("snapshot {id} is in place"));
        return Ok(());
    }
    if node.update {
        let candidate = state.join("stacktira.sources");
        toolkit::atomic::write(&candidate, text.as_bytes(), 0o644).map_err(Error::write(&candidate))?;
        update(&candidate)?;
    }
    if let Some(parent) = path.parent() {
        files::make_dir(parent)?;
    }
    toolkit::atomic::write(&path, text.as_bytes(), 0o644).map_err(Error::write(&path))?;
    io.note(format_args!("{} now points at snapshot {id}", path.display()));
    Ok(())
}

fn candidate(fetcher: &Fetcher, keyring: &Keyring, node: &Node, followed: &Followed) -> Result<String> {
    let base = format!("{}/snap/{}", node.mirror.trim_end_matches('/'), followed.id);
    let manifest = manifest(fetcher, keyring, &base, &followed.id)?;
    let header = format!("# Written by mirror-sync apply: channel {}, snapshot {}\n", followed.channel, followed.id);
    Ok(header + &sources::text(&sources::Proof { fetcher, keyring, node, base: &base }, &manifest)?)
}

/// Returns the snapshot that the sources file in place says it was written for.
fn in_place() -> Option<Digest> {
    let bytes = files::read_bounded(&under_root(Path::new(SOURCES)), 1 << 20).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.lines().next()?.strip_prefix("# Written by mirror-sync apply: ")?.rsplit(' ').next()?.parse().ok()
}

/// Tells the cluster how it went; the same words again are not written again within an hour.
fn report(cluster: &Cluster, node: &Node, followed: &Followed, done: &Result<()>) -> Result<()> {
    let (word, message) = match done {
        Ok(()) => ("applied", String::new()),
        Err(error @ (Error::Forged { .. } | Error::Damaged { .. })) => ("failed", toolkit::exit::chain(error)),
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
        have: in_place(),
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

/// Lets apt fetch the lists of the candidate alone; the lists of other sources stay.
fn update(candidate: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env_clear().env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    for name in ["APT_CONFIG", "http_proxy", "https_proxy", "no_proxy"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.args(["-q", "update", "--error-on=any", "-o", "APT::Get::List-Cleanup=false"]);
    if let (Some(root), None) = (std::env::var_os("STACKTIRA_ROOT"), std::env::var_os("APT_CONFIG"))
        && !root.is_empty()
    {
        command.arg("-o").arg(format!("Dir={}", root.to_string_lossy()));
    }
    command.arg("-o").arg(format!("Dir::Etc::SourceList={}", candidate.display()));
    command.args(["-o", "Dir::Etc::SourceParts=/dev/null"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let away = |message: String| Error::unavailable("apt-get update", message);
    let mut group = Group::spawn(&mut command).map_err(|error| away(format!("cannot run: {error}")))?;
    let pipe = group.child().stderr.take().expect("stderr is piped");
    let reader = std::thread::spawn(move || files::read_to_limit(pipe, 1 << 20).unwrap_or_default());
    let status = match group.wait_until(Instant::now() + UPDATE).map_err(|error| away(error.to_string()))? {
        Some(status) => status,
        None => {
            group.terminate(Duration::from_secs(5)).map_err(|error| away(error.to_string()))?;
            return Err(away(format!("not done after {}", toolkit::duration::format(UPDATE))));
        }
    };
    // Whatever still holds the pipe is ended, so that the reader ends.
    group.signal(nix::sys::signal::Signal::SIGKILL);
    let errors = reader.join().expect("the reader does not panic");
    if status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&errors);
    let words: Vec<&str> = errors.lines().filter(|line| line.starts_with("E:")).take(3).collect();
    Err(away(if words.is_empty() { status.to_string() } else { words.join("; ") }))
}
