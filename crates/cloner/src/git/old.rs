//! Fetching by libgit2: from servers that speak an older version of the protocol, and from paths.

use git2::{AutotagOption, FetchOptions, RemoteCallbacks, Repository};

use super::everything::is_everywhere;
use super::{EVERYTHING, MAX_PACK, Remote, Target, offline};
use crate::fault::{Cause, Fault};
use crate::http::Session;
use crate::transport;

/// Fetches by an older version of the protocol, into `store`.
pub(super) fn fetch_commit(session: &Session, store: &Repository, target: &Target) -> Result<(), Fault> {
    let from = Remote::Session(session);
    if let Some(refname) = &target.refname {
        return download(from, store, &[format!("+{refname}:refs/cloner/want")], Some(1));
    }
    // The id is no tip. A server that allows it gives the commit alone; else all history is searched.
    let alone = download(from, store, &[format!("{}:refs/cloner/want", target.oid)], Some(1));
    match alone {
        Ok(()) if store.find_commit(target.oid).is_ok() => return Ok(()),
        // The server answered, if only that it does not give single commits.
        Err(fault) if !fault.in_answer => return Err(fault),
        _ => {}
    }
    download(from, store, &EVERYTHING.map(str::to_owned), None)
}

/// Fetches all branches and tags, and the commit of `target`.
pub(super) fn fetch_all(from: Remote<'_>, clone: &Repository, target: &Target) -> Result<(), Fault> {
    let mut specs = EVERYTHING.map(str::to_owned).to_vec();
    if let Some(refname) = &target.refname
        && !is_everywhere(target)
    {
        specs.push(format!("+{refname}:refs/cloner/want"));
    }
    download(from, clone, &specs, None)?;
    if clone.find_commit(target.oid).is_err() && target.refname.is_none() {
        match download(from, clone, &[format!("{}:refs/cloner/want", target.oid)], None) {
            // The server does not give it; the caller will see that it is missing.
            Err(fault) if fault.in_answer => {}
            fetched => fetched?,
        }
    }
    Ok(())
}

fn download(from: Remote<'_>, repository: &Repository, specs: &[String], depth: Option<i32>) -> Result<(), Fault> {
    let mut options = FetchOptions::new();
    options.download_tags(AutotagOption::None).update_fetchhead(false);
    match from {
        Remote::Local(path) => {
            let url = path
                .to_str()
                .ok_or_else(|| Fault::new(Cause::Manifest, "a local source to clone must have a UTF-8 path"))?;
            let fetched =
                repository.remote_anonymous(url).and_then(|mut remote| remote.download(specs, Some(&mut options)));
            fetched.map_err(|err| Fault::git(Cause::Network, &format!("cannot fetch from {url}"), &err))
        }
        Remote::Program(program) => program.fetch(repository, specs, depth.is_some()),
        Remote::Nothing => Err(offline()),
        Remote::Session(session) => transport::run(session, "cannot fetch", || {
            let mut callbacks = RemoteCallbacks::new();
            callbacks.transfer_progress(|progress| {
                if progress.received_bytes() > MAX_PACK {
                    let message = format!("the repository sends more than {} GiB", MAX_PACK >> 30);
                    session.note(Fault::new(Cause::Network, message));
                    return false;
                }
                !session.expired()
            });
            callbacks.sideband_progress(|_| !session.expired());
            options.remote_callbacks(callbacks);
            if let Some(depth) = depth {
                options.depth(depth);
            }
            repository.remote_anonymous(transport::URL)?.download(specs, Some(&mut options))
        }),
    }
}
