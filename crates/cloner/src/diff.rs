//! `--plan --diff`: what would come with an update, as a short log.
//!
//! The server is asked for what leads from the commit at the place to the new one, and nothing else;
//! that is read in memory, so a plan still changes nothing on the disk.

use std::collections::{BinaryHeap, HashSet};
use std::path::Path;
use std::time::Instant;

use git2::{Oid, Repository};
use toolkit::exit::one_line;

use crate::fault::{Cause, Fault};
use crate::git;
use crate::http::Client;
use crate::source::Source;

/// Most lines of one log.
const MAX_LINES: usize = 20;
/// Most commits that are looked at for one log.
const MAX_COMMITS: usize = 100_000;

/// Returns the log of the commits that `new` has and `old` has not, newest first.
pub(crate) fn log(
    client: &Client,
    source: &Source,
    old: &str,
    new: &str,
    deadline: Instant,
) -> Result<Vec<String>, Fault> {
    let oid = |text: &str| Oid::from_str(text).map_err(|err| Fault::git(Cause::Ref, text, &err));
    let (old, new) = (oid(old)?, oid(new)?);
    match source {
        Source::Local(path) => local(path, old, new),
        Source::Http(url) => {
            let too_large = || Err(Fault::new(Cause::Network, "too much has changed for a log in memory"));
            let store = git::fetch_between(&client.session(url, deadline), old, new, &too_large)?;
            Ok(walk(&store, old, new, |_| false))
        }
        Source::Other(url) => Err(Fault::new(Cause::Network, format!("no log is taken from {} sources", url.scheme))),
    }
}

fn local(path: &Path, old: Oid, new: Oid) -> Result<Vec<String>, Fault> {
    let repository = git::open_local(path)?;
    // What the old commit has is no news; one that is gone has nothing.
    let mut known = HashSet::new();
    if let Ok(mut commits) = repository.revwalk()
        && commits.push(old).is_ok()
    {
        known.extend(commits.flatten().take(MAX_COMMITS));
    }
    Ok(walk(&repository, old, new, |oid| known.contains(&oid)))
}

/// Lists what leads to `new`, as far as the repository has it and it is not `known`.
fn walk(repository: &Repository, old: Oid, new: Oid, known: impl Fn(Oid) -> bool) -> Vec<String> {
    let commit = |oid| repository.find_object(oid, None).and_then(|object| object.peel_to_commit()).ok();
    let (mut lines, mut count, mut joined) = (Vec::new(), 0usize, false);
    let (mut seen, mut open) = (HashSet::new(), BinaryHeap::new());
    open.extend(commit(new).map(|commit| (commit.time().seconds(), commit.id())));
    while let Some((_, oid)) = open.pop() {
        let Some(commit) = commit(oid) else { continue };
        count += 1;
        if lines.len() < MAX_LINES {
            let short: String = oid.to_string().chars().take(10).collect();
            let subject = String::from_utf8_lossy(commit.message_bytes()).lines().next().unwrap_or_default().to_owned();
            lines.push(one_line(&format!("{short} {subject}")));
        }
        if count == MAX_COMMITS {
            break;
        }
        for parent in commit.parent_ids() {
            joined |= parent == old;
            if parent != old
                && !known(parent)
                && seen.insert(parent)
                && let Ok(parent) = repository.find_commit(parent)
            {
                open.push((parent.time().seconds(), parent.id()));
            }
        }
    }
    if count > lines.len() {
        lines.push(format!("and {} more", count - lines.len()));
    }
    if !joined {
        let short: String = old.to_string().chars().take(10).collect();
        lines.push(format!("{short} is not in its history"));
    }
    lines
}
