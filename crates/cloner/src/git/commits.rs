//! Commits without their history: what an export needs.

use std::io::{Read, Write as _};

use git2::{Oid, Repository};

use super::{MAX_PACK, Store, Target, ask, list, old, unique};
use crate::fault::{Cause, Fault};
use crate::http::Session;
use crate::pack;
use crate::v2::{self, Ask};

/// Where fetched objects go.
pub(crate) struct Shelf<'a> {
    /// Makes or opens a bare repository.
    pub(crate) disk: &'a dyn Fn() -> Result<Repository, Fault>,
    /// Whether small packs are read in memory instead.
    pub(crate) memory: bool,
}

/// Fetches the commits of `targets` without their history, all at once, and returns where they are.
pub(super) fn fetch_commits(session: &Session, targets: &[Target], shelf: &Shelf<'_>) -> Result<Store, Fault> {
    let wants: Vec<Oid> = unique(targets.iter().flat_map(|target| [Some(target.oid), target.tag]).flatten());
    let question = v2::fetch(&Ask { wants: &wants, haves: &[], shallow: true });
    match ask(session, &question, |body| Ok(receive(session, v2::Pack::open(body)?, shelf))) {
        Ok(Some(received)) => return received,
        Ok(None) => {
            let store = (shelf.disk)()?;
            for target in targets {
                old::fetch_commit(session, &store, target)?;
            }
            return Ok(store.into());
        }
        // A server may give away tips only; then all history is searched.
        Err(fault) if fault.in_answer && targets.iter().any(|target| target.refname.is_none()) => {}
        Err(fault) => return Err(fault),
    }
    let tips = unique(list(session, &[], true)?.iter().map(|head| head.oid));
    let store = (shelf.disk)()?;
    fetch_into(session, &store, &Ask { wants: &tips, haves: &[], shallow: false })?;
    Ok(store.into())
}

/// Fetches what leads from `old` to `new` into memory, or fails as `large` does if it is too much for that.
pub(crate) fn fetch_between(
    session: &Session,
    old: Oid,
    new: Oid,
    large: &dyn Fn() -> Result<Repository, Fault>,
) -> Result<Store, Fault> {
    let question = v2::fetch(&Ask { wants: &[new], haves: &[old], shallow: false });
    let shelf = Shelf { disk: large, memory: true };
    match ask(session, &question, |body| Ok(receive(session, v2::Pack::open(body)?, &shelf)))? {
        Some(received) => received,
        None => Err(Fault::new(Cause::Network, "the server speaks an old protocol and would send all history")),
    }
}

/// Fetches a pack by version 2 into `store`.
pub(super) fn fetch_into(session: &Session, store: &Repository, what: &Ask<'_>) -> Result<(), Fault> {
    let keep = |body| Ok(keep(session, v2::Pack::open(body)?, Vec::new(), store));
    match ask(session, &v2::fetch(what), keep)? {
        Some(kept) => kept,
        None => Err(Fault::network(format!("{}: the server has changed its protocol", session.base()))),
    }
}

/// Reads a pack into memory, or onto the disk if it is too large for that.
pub(crate) fn receive(session: &Session, mut pack: impl Read, shelf: &Shelf<'_>) -> Result<Store, Fault> {
    let mut bytes = Vec::new();
    if !shelf.memory {
        let store = (shelf.disk)()?;
        keep(session, pack, bytes, &store)?;
        return Ok(store.into());
    }
    let limit = pack::MAX_BYTES as u64 + 1;
    (&mut pack).take(limit).read_to_end(&mut bytes).map_err(|err| session.read_fault(&err))?;
    if bytes.len() <= pack::MAX_BYTES {
        let memory = |err: git2::Error| Fault::git(Cause::Network, "cannot keep objects in memory", &err);
        let odb = git2::Odb::new().map_err(memory)?;
        odb.add_new_mempack_backend(1).map_err(memory)?;
        match pack::unpack(&bytes, &odb) {
            Ok(blobs) => return Ok(Store::new(Repository::from_odb(odb).map_err(memory)?, blobs)),
            Err(pack::Refused::Damaged(why)) => {
                return Err(Fault::network(format!("{}: the pack is damaged: {why}", session.base())));
            }
            Err(pack::Refused::Large) => {}
        }
    }
    let store = (shelf.disk)()?;
    keep(session, pack, bytes, &store)?;
    Ok(store.into())
}

/// Writes a pack, of which `begun` has been read, into `store`.
fn keep(session: &Session, mut pack: impl Read, begun: Vec<u8>, store: &Repository) -> Result<(), Fault> {
    let fail = |err: git2::Error| Fault::git(Cause::Network, "cannot keep the pack", &err);
    let odb = store.odb().map_err(fail)?;
    let mut writer = odb.packwriter().map_err(fail)?;
    let (mut chunk, mut total) = (begun, 0);
    loop {
        total += chunk.len();
        if total > MAX_PACK {
            let message = format!("{}: the repository sends more than {} GiB", session.base(), MAX_PACK >> 30);
            return Err(Fault::new(Cause::Network, message));
        }
        // What libgit2 says about a full disk reaches us as text alone.
        writer.write_all(&chunk).map_err(|err| fail(git2::Error::from_str(&err.to_string())))?;
        chunk.resize(64 << 10, 0);
        let got = pack.read(&mut chunk).map_err(|err| session.read_fault(&err))?;
        chunk.truncate(got);
        if got == 0 {
            break;
        }
    }
    writer.commit().map_err(fail)?;
    Ok(())
}
