//! From a ref to a commit's objects: resolving exactly, and fetching as little as the mode needs.

mod commits;
mod everything;
mod local;
mod old;
mod store;
mod want;

use std::path::Path;

use git2::{Direction, Oid};

use crate::fault::{Cause, Fault};
use crate::http::{Greeting, Session, Stream};
use crate::program::Program;
use crate::transport;
use crate::v2::{self, Answer};

pub(crate) use commits::{Shelf, fetch_between, receive};
pub(crate) use everything::fetch_all;
pub(crate) use local::{commit, init, list_local, open_local, share};
pub(crate) use store::{Blobs, Objects, Reader, Store};
pub(crate) use want::{Head, Target, Want};

/// Most bytes that one repository may send.
const MAX_PACK: usize = 4 << 30;

/// What every clone has.
const EVERYTHING: [&str; 2] = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];

/// Where objects are fetched from.
#[derive(Clone, Copy)]
pub(crate) enum Remote<'a> {
    /// A server.
    Session(&'a Session),
    /// A repository of this machine.
    Local(&'a Path),
    /// Whatever the git program opens.
    Program(&'a Program<'a>),
    /// Nowhere: what is there is all there is.
    Nothing,
}

impl Remote<'_> {
    /// Lists the refs that matter to `wants`, or all of them.
    pub(crate) fn list(self, wants: &[&Want], all: bool) -> Result<Vec<Head>, Fault> {
        match self {
            Self::Session(session) => list(session, wants, all),
            Self::Program(program) => {
                program.list(&wants.iter().flat_map(|want| want.prefixes()).collect::<Vec<String>>())
            }
            Self::Local(path) => list_local(&open_local(path)?),
            Self::Nothing => Err(offline()),
        }
    }

    /// Fetches the commits of `targets` without their history.
    pub(crate) fn fetch_commits(self, targets: &[Target], shelf: &Shelf<'_>) -> Result<Store, Fault> {
        match self {
            Self::Session(session) => commits::fetch_commits(session, targets, shelf),
            Self::Program(program) => {
                let store = (shelf.disk)()?;
                program.fetch_commits(&store, targets)?;
                Ok(store.into())
            }
            Self::Local(path) => open_local(path).map(Store::from),
            Self::Nothing => Err(offline()),
        }
    }
}

/// The failure for what would need the network that may not be used.
pub(crate) fn offline() -> Fault {
    Fault::new(Cause::Network, "the cache does not have it, and --offline forbids asking for it")
        .hint("run once without --offline, or name a mirror")
}

/// Lists the refs of a remote that matter to `wants`, or all of them.
pub(crate) fn list(session: &Session, wants: &[&Want], all: bool) -> Result<Vec<Head>, Fault> {
    let every = ["HEAD", "refs/heads/", "refs/tags/"].map(str::to_owned);
    let mut prefixes: Vec<String> = wants.iter().flat_map(|want| want.prefixes()).collect();
    if all {
        prefixes.retain(|prefix| !every.iter().any(|covered| prefix.starts_with(covered)));
        prefixes.extend(every.clone());
    }
    prefixes.sort();
    prefixes.dedup();
    if prefixes.is_empty() {
        // Commits are asked for by their ids, and whether the server has them is seen then.
        return Ok(Vec::new());
    }
    let Some(heads) = ask(session, &v2::ls_refs(&prefixes), v2::read_refs)? else {
        return transport::run(session, "cannot list the refs", || {
            let mut remote = git2::Remote::create_detached(transport::URL)?;
            let connection = remote.connect_auth(Direction::Fetch, None, None)?;
            Ok(heads(connection.list()?))
        });
    };
    session.speaks_two();
    if !all && wants.iter().any(|want| want.find(&heads).is_err()) {
        // With all names there may be a hint at what was meant.
        return list(session, wants, true);
    }
    Ok(heads)
}

/// Asks in version 2 of the protocol; none if the server does not speak it.
fn ask<T>(session: &Session, question: &[u8], read: impl Fn(Stream) -> Result<T, Answer>) -> Result<Option<T>, Fault> {
    if session.is_old() {
        return Ok(None);
    }
    loop {
        let greeted = session.is_greeted();
        match session.ask(question)?.map(&read) {
            Some(Ok(answer)) => return Ok(Some(answer)),
            Some(Err(Answer::Broken(err))) => return Err(session.read_fault(&err)),
            Some(Err(Answer::Refused(words))) if greeted => {
                let message = format!("{}: the server says: {}", session.base(), words.escape_debug());
                return Err(Fault { in_answer: true, ..Fault::new(Cause::Ref, message) });
            }
            Some(Err(Answer::Other)) if greeted => {
                return Err(Fault::network(format!("{}: the answer is not git's smart protocol", session.base())));
            }
            Some(Err(Answer::Refused(_) | Answer::Other)) | None => {}
        }
        match session.greet()? {
            Greeting::Old(_) => return Ok(None),
            Greeting::Two { sha256: true } => return Err(sha256()),
            Greeting::Two { sha256: false } if greeted => {
                return Err(Fault::network(format!("{}: the answer is not git's smart protocol", session.base())));
            }
            Greeting::Two { sha256: false } => {}
        }
    }
}

fn sha256() -> Fault {
    Fault::new(Cause::Ref, "the repository has SHA-256 ids; such repositories are not supported")
}

fn heads(list: &[git2::RemoteHead<'_>]) -> Vec<Head> {
    list.iter()
        .map(|head| Head {
            name: head.name().to_owned(),
            oid: head.oid(),
            symref: head.symref_target().map(str::to_owned),
        })
        .collect()
}

fn unique(ids: impl Iterator<Item = Oid>) -> Vec<Oid> {
    let mut ids: Vec<Oid> = ids.collect();
    ids.sort();
    ids.dedup();
    ids
}
