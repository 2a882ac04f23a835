//! From a ref to a commit's objects: resolving exactly, and fetching as little as the mode needs.

use std::io::{Read, Write as _};
use std::path::Path;

use git2::{AutotagOption, Direction, FetchOptions, ObjectType, Oid, RemoteCallbacks, Repository};

use crate::fault::{Cause, Fault};
use crate::http::{Greeting, Session, Stream};
use crate::nearest::nearest;
use crate::program::Program;
use crate::v2::{self, Answer, Ask};
use crate::{pack, transport};

/// Most bytes that one repository may send.
const MAX_PACK: usize = 4 << 30;

/// Longest name of a ref.
const MAX_REF: usize = 1024;

/// What the manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The remote's HEAD.
    Head,
    /// A branch, a tag, or a full ref name.
    Name(String),
    /// A full commit id.
    Commit(Oid),
}

/// A ref as a remote lists it.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) oid: Oid,
    pub(crate) symref: Option<String>,
}

/// What a [`Want`] is at a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The commit, or for a remote that does not say it the tag object.
    pub(crate) oid: Oid,
    /// The ref that leads to it; none if only the id is known.
    pub(crate) refname: Option<String>,
    /// The tag object that led to it, if it is wanted too.
    pub(crate) tag: Option<Oid>,
    /// The branch to stand on in a clone.
    pub(crate) branch: Option<String>,
}

impl Target {
    /// Whether `repository` has all that was asked for.
    pub(crate) fn is_in(&self, repository: &Repository) -> bool {
        let has = |oid| repository.find_object(oid, None).is_ok();
        has(self.oid) && self.tag.is_none_or(has)
    }
}

impl Want {
    /// Judges the manifest's `ref`.
    pub(crate) fn parse(reference: Option<&str>) -> Result<Self, Fault> {
        let Some(text) = reference else { return Ok(Self::Head) };
        if text == "HEAD" {
            return Ok(Self::Head);
        }
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex && text.len() == 40 {
            let oid = Oid::from_str(text).map_err(|err| Fault::git(Cause::Ref, text, &err))?;
            return Ok(Self::Commit(oid));
        }
        if hex && text.len() == 64 {
            return Err(Fault::new(
                Cause::Ref,
                format!("'{text}' is a SHA-256 id; such repositories are not supported"),
            ));
        }
        if text.len() > MAX_REF {
            return Err(Fault::new(Cause::Ref, format!("a ref of more than {MAX_REF} bytes")));
        }
        let full = if text.starts_with("refs/") { text.to_owned() } else { format!("refs/heads/{text}") };
        if text.starts_with('-') || text.contains(char::is_control) || !git2::Reference::is_valid_name(&full) {
            return Err(Fault::new(Cause::Ref, format!("'{}' is not a valid ref", text.escape_debug())));
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// Finds this in the refs of a remote.
    pub(crate) fn find(&self, heads: &[Head]) -> Result<Target, Fault> {
        let by_name = |name: &str| heads.iter().find(|head| head.name == name);
        // A tag object's commit is listed beside it.
        let peeled = |head: &Head| by_name(&format!("{}^{{}}", head.name)).map_or(head.oid, |peeled| peeled.oid);
        let target = |head: &Head| Target {
            oid: peeled(head),
            refname: Some(head.name.clone()),
            tag: None,
            branch: head.name.strip_prefix("refs/heads/").map(str::to_owned),
        };
        match self {
            Self::Head => {
                let head = by_name("HEAD").ok_or_else(|| {
                    Fault::new(Cause::Ref, "the repository has no HEAD (is it empty?)").hint("name a branch as ref")
                })?;
                let branch = head.symref.as_ref().and_then(|name| name.strip_prefix("refs/heads/"));
                Ok(Target { branch: branch.map(str::to_owned), ..target(head) })
            }
            Self::Commit(oid) => {
                let tip = heads.iter().find(|head| head.oid == *oid && head.name.starts_with("refs/"));
                let refname = tip.map(|head| head.name.strip_suffix("^{}").unwrap_or(&head.name).to_owned());
                Ok(Target { oid: *oid, refname, tag: None, branch: None })
            }
            Self::Name(name) if name.starts_with("refs/") => {
                by_name(name).map(target).ok_or_else(|| missing(name, heads))
            }
            Self::Name(name) => {
                let branch = by_name(&format!("refs/heads/{name}")).map(target);
                let tag = by_name(&format!("refs/tags/{name}")).map(target);
                match (branch, tag) {
                    (Some(branch), Some(tag)) if branch.oid != tag.oid => Err(Fault::new(
                        Cause::Ref,
                        format!("'{name}' is both a branch and a tag, at different commits"),
                    )
                    .hint(format!("write refs/heads/{name} or refs/tags/{name}"))),
                    (Some(target), _) | (None, Some(target)) => Ok(target),
                    (None, None) => Err(missing(name, heads)),
                }
            }
        }
    }
}

fn missing(name: &str, heads: &[Head]) -> Fault {
    let fault = Fault::new(Cause::Ref, format!("the repository has no branch or tag '{name}'"));
    if name.len() >= 7 && name.len() < 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return fault.hint("a commit is named by all 40 digits of its id");
    }
    let known = heads
        .iter()
        .filter(|head| !head.name.ends_with("^{}"))
        .filter_map(|head| head.name.strip_prefix("refs/heads/").or_else(|| head.name.strip_prefix("refs/tags/")));
    match nearest(name, known) {
        Some(near) => fault.hint(format!("did you mean '{near}'?")),
        None => fault,
    }
}

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
    pub(crate) fn fetch_commits(self, targets: &[Target], shelf: &Shelf<'_>) -> Result<Repository, Fault> {
        match self {
            Self::Session(session) => fetch_commits(session, targets, shelf),
            Self::Program(program) => {
                let store = (shelf.disk)()?;
                program.fetch_commits(&store, targets)?;
                Ok(store)
            }
            Self::Local(path) => open_local(path),
            Self::Nothing => Err(offline()),
        }
    }
}

/// The failure for what would need the network that may not be used.
pub(crate) fn offline() -> Fault {
    Fault::new(Cause::Network, "the cache does not have it, and --offline forbids asking for it")
        .hint("run once without --offline, or name a mirror")
}

impl Want {
    /// Returns what the names of the refs begin with that can answer this.
    fn prefixes(&self) -> Vec<String> {
        match self {
            Self::Head => vec!["HEAD".to_owned()],
            Self::Commit(_) => Vec::new(),
            Self::Name(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Name(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
        }
    }
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

/// Where fetched objects go.
pub(crate) struct Shelf<'a> {
    /// Makes or opens a bare repository.
    pub(crate) disk: &'a dyn Fn() -> Result<Repository, Fault>,
    /// Whether small packs are read in memory instead.
    pub(crate) memory: bool,
}

/// Fetches the commits of `targets` without their history, all at once, and returns where they are.
fn fetch_commits(session: &Session, targets: &[Target], shelf: &Shelf<'_>) -> Result<Repository, Fault> {
    let wants: Vec<Oid> = unique(targets.iter().flat_map(|target| [Some(target.oid), target.tag]).flatten());
    let question = v2::fetch(&Ask { wants: &wants, haves: &[], shallow: true });
    match ask(session, &question, |body| Ok(receive(session, v2::Pack::open(body)?, shelf))) {
        Ok(Some(received)) => return received,
        Ok(None) => {
            let store = (shelf.disk)()?;
            for target in targets {
                fetch_old(session, &store, target)?;
            }
            return Ok(store);
        }
        // A server may give away tips only; then all history is searched.
        Err(fault) if fault.in_answer && targets.iter().any(|target| target.refname.is_none()) => {}
        Err(fault) => return Err(fault),
    }
    let tips = unique(list(session, &[], true)?.iter().map(|head| head.oid));
    let store = (shelf.disk)()?;
    fetch_into(session, &store, &Ask { wants: &tips, haves: &[], shallow: false })?;
    Ok(store)
}

/// Fetches what leads from `old` to `new` into memory, or fails as `large` does if it is too much for that.
pub(crate) fn fetch_between(
    session: &Session,
    old: Oid,
    new: Oid,
    large: &dyn Fn() -> Result<Repository, Fault>,
) -> Result<Repository, Fault> {
    let question = v2::fetch(&Ask { wants: &[new], haves: &[old], shallow: false });
    let shelf = Shelf { disk: large, memory: true };
    match ask(session, &question, |body| Ok(receive(session, v2::Pack::open(body)?, &shelf)))? {
        Some(received) => received,
        None => Err(Fault::new(Cause::Network, "the server speaks an old protocol and would send all history")),
    }
}

/// Fetches by an older version of the protocol, into `store`.
fn fetch_old(session: &Session, store: &Repository, target: &Target) -> Result<(), Fault> {
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

/// Fetches a pack by version 2 into `store`.
fn fetch_into(session: &Session, store: &Repository, what: &Ask<'_>) -> Result<(), Fault> {
    let keep = |body| Ok(keep(session, v2::Pack::open(body)?, Vec::new(), store));
    match ask(session, &v2::fetch(what), keep)? {
        Some(kept) => kept,
        None => Err(Fault::network(format!("{}: the server has changed its protocol", session.base()))),
    }
}

/// Reads a pack into memory, or onto the disk if it is too large for that.
pub(crate) fn receive(session: &Session, mut pack: impl Read, shelf: &Shelf<'_>) -> Result<Repository, Fault> {
    let mut bytes = Vec::new();
    if !shelf.memory {
        let store = (shelf.disk)()?;
        keep(session, pack, bytes, &store)?;
        return Ok(store);
    }
    let limit = pack::MAX_BYTES as u64 + 1;
    (&mut pack).take(limit).read_to_end(&mut bytes).map_err(|err| session.read_fault(&err))?;
    if bytes.len() <= pack::MAX_BYTES {
        let memory = |err: git2::Error| Fault::git(Cause::Network, "cannot keep objects in memory", &err);
        let odb = git2::Odb::new().map_err(memory)?;
        odb.add_new_mempack_backend(1).map_err(memory)?;
        match pack::unpack(&bytes, &odb) {
            Ok(()) => return Repository::from_odb(odb).map_err(memory),
            Err(pack::Refused::Damaged(why)) => {
                return Err(Fault::network(format!("{}: the pack is damaged: {why}", session.base())));
            }
            Err(pack::Refused::Large) => {}
        }
    }
    let store = (shelf.disk)()?;
    keep(session, pack, bytes, &store)?;
    Ok(store)
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

fn unique(ids: impl Iterator<Item = Oid>) -> Vec<Oid> {
    let mut ids: Vec<Oid> = ids.collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Fetches all branches and tags into `clone` and sets its refs, as `git clone` does. What `clone`
/// has already is not sent again.
pub(crate) fn fetch_all(
    from: Remote<'_>,
    clone: &Repository,
    heads: &[Head],
    target: &Target,
    haves: &[Oid],
) -> Result<(), Fault> {
    match from {
        Remote::Session(session) if !session.is_old() => fetch_missing(session, clone, heads, target, haves)?,
        Remote::Program(program) => {
            let mut specs = EVERYTHING.map(str::to_owned).to_vec();
            if clone.find_object(target.oid, None).is_err() && !is_everywhere(target) {
                let from = target.refname.clone().unwrap_or_else(|| target.oid.to_string());
                specs.push(format!("+{from}:refs/cloner/want"));
            }
            program.fetch(clone, &specs, false)?;
        }
        Remote::Nothing => {}
        _ => fetch_all_old(from, clone, target)?,
    }
    for head in heads {
        let name = match head.name.strip_prefix("refs/heads/") {
            Some(branch) => format!("refs/remotes/origin/{branch}"),
            None if head.name.starts_with("refs/tags/") && !head.name.ends_with("^{}") => head.name.clone(),
            None => continue,
        };
        // A remote may list what it does not send; such a ref is left out rather than broken.
        if clone.find_object(head.oid, None).is_ok() {
            clone
                .reference(&name, head.oid, true, "cloner")
                .map_err(|err| Fault::git(Cause::Ref, &format!("cannot create {name}"), &err))?;
        }
    }
    Ok(())
}

fn fetch_missing(
    session: &Session,
    clone: &Repository,
    heads: &[Head],
    target: &Target,
    haves: &[Oid],
) -> Result<(), Fault> {
    let listed = heads.iter().filter(|head| head.name.starts_with("refs/") && !head.name.ends_with("^{}"));
    let tips = unique(listed.map(|head| head.oid).chain([target.oid]));
    let wants: Vec<Oid> = tips.into_iter().filter(|oid| clone.find_object(*oid, None).is_err()).collect();
    if wants.is_empty() {
        return Ok(());
    }
    let all = fetch_into(session, clone, &Ask { wants: &wants, haves, shallow: false });
    match all {
        // It may not give away what is no tip; the caller will see that it is missing.
        Err(fault) if fault.in_answer && target.refname.is_none() && wants.len() > 1 => {
            let wants: Vec<Oid> = wants.into_iter().filter(|oid| *oid != target.oid).collect();
            fetch_into(session, clone, &Ask { wants: &wants, haves, shallow: false })
        }
        all => all,
    }
}

/// Whether the target's ref is among those that every clone has.
fn is_everywhere(target: &Target) -> bool {
    let everywhere =
        |name: &String| name.starts_with("refs/heads/") || name.starts_with("refs/tags/") || name == "HEAD";
    target.refname.as_ref().is_some_and(everywhere)
}

fn fetch_all_old(from: Remote<'_>, clone: &Repository, target: &Target) -> Result<(), Fault> {
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

/// Gives the repository with the git directory `into` the objects of `from`, as hard links where that is
/// possible. Returns the commits that it then has with all their history.
pub(crate) fn share(from: &Path, into: &Path) -> Result<Vec<Oid>, Fault> {
    let partial = ["shallow", "objects/info/alternates"];
    if partial.iter().any(|name| std::fs::symlink_metadata(from.join(name)).is_ok()) {
        return Ok(Vec::new());
    }
    share_objects(&from.join("objects"), &into.join("objects"))
        .map_err(|err| Fault::disk(&into.join("objects"), &err))?;
    let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot read the refs", &err);
    let repository = open_local(from)?;
    let mut haves = Vec::new();
    for reference in repository.references().map_err(fail)? {
        haves.extend(reference.map_err(fail)?.target());
    }
    Ok(unique(haves.into_iter()))
}

fn share_objects(from: &Path, into: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), into.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != "info" {
            std::fs::create_dir_all(&to)?;
            share_objects(&path, &to)?;
        } else if kind.is_file() && std::fs::hard_link(&path, &to).is_err() {
            std::fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// Makes a repository without a template, so without hooks.
pub(crate) fn init(path: &Path, bare: bool) -> Result<Repository, Fault> {
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(bare).no_reinit(true).mkpath(true).external_template(false);
    Repository::init_opts(path, &options)
        .map_err(|err| Fault::git(Cause::Disk, &format!("cannot create {}", path.display()), &err))
}

/// Opens a repository of this machine at exactly `path`.
pub(crate) fn open_local(path: &Path) -> Result<Repository, Fault> {
    let flags = git2::RepositoryOpenFlags::NO_SEARCH;
    Repository::open_ext(path, flags, std::iter::empty::<&Path>()).map_err(|err| match err.code() {
        git2::ErrorCode::NotFound => {
            Fault::new(Cause::Network, format!("{}: no git repository is there", path.display()))
        }
        git2::ErrorCode::Owner => Fault::new(
            Cause::Auth,
            format!("{}: the repository belongs to another user, so it is not trusted", path.display()),
        )
        .hint("run as its owner, or change the owner"),
        _ => Fault::git(Cause::Network, &path.display().to_string(), &err),
    })
}

/// Lists the refs of a local repository in the form of a remote's list.
pub(crate) fn list_local(repository: &Repository) -> Result<Vec<Head>, Fault> {
    let fail = |err: git2::Error| Fault::git(Cause::Ref, "cannot read the refs", &err);
    let mut list = Vec::new();
    if let Ok(head) = repository.find_reference("HEAD") {
        let symref = head.symbolic_target().ok().flatten().map(str::to_owned);
        if let Ok(resolved) = head.resolve()
            && let Some(oid) = resolved.target()
        {
            list.push(Head { name: "HEAD".to_owned(), oid, symref });
        }
    }
    for reference in repository.references().map_err(fail)? {
        let reference = reference.map_err(fail)?;
        let (Ok(name), Ok(resolved)) = (reference.name().map(str::to_owned), reference.resolve()) else { continue };
        let Some(oid) = resolved.target() else { continue };
        list.push(Head { name: name.clone(), oid, symref: None });
        if let Ok(peeled) = resolved.peel(ObjectType::Any)
            && peeled.id() != oid
        {
            list.push(Head { name: format!("{name}^{{}}"), oid: peeled.id(), symref: None });
        }
    }
    Ok(list)
}

/// Returns the commit that `oid` is or leads to.
pub(crate) fn commit(repository: &Repository, oid: Oid) -> Result<git2::Commit<'_>, Fault> {
    let object = repository
        .find_object(oid, None)
        .map_err(|_| Fault::new(Cause::Ref, format!("the repository does not have the commit {oid}")))?;
    object
        .peel_to_commit()
        .map_err(|_| Fault::new(Cause::Ref, format!("{oid} is not a commit and does not lead to one")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, digit: u8) -> Head {
        Head { name: name.to_owned(), oid: oid(digit), symref: None }
    }

    fn oid(digit: u8) -> Oid {
        Oid::from_str(&format!("{digit:x}").repeat(40)).expect("hex")
    }

    #[test]
    fn refs_are_judged() {
        assert_eq!(Want::parse(None).expect("valid"), Want::Head);
        assert_eq!(Want::parse(Some(&"A".repeat(40))).expect("valid"), Want::Commit(oid(10)));
        for text in ["stable/2026.1", "v1.0", "refs/changes/1/2", "1.10", "#5", "a b"] {
            assert_eq!(Want::parse(Some(text)).is_ok(), text != "a b", "{text}");
        }
        for text in
            ["", "-x", "--upload-pack=x", "a..b", "a\nb", "x.lock", "a@{1}", "a~1", "a^", "a:b", "/a", &"a".repeat(64)]
        {
            assert!(Want::parse(Some(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_found_exactly() {
        let mut heads = vec![
            Head { symref: Some("refs/heads/main".to_owned()), ..head("HEAD", 1) },
            head("refs/heads/main", 1),
            head("refs/heads/both", 2),
            head("refs/tags/both", 3),
            head("refs/heads/feature/main2", 4),
            head("refs/tags/v1", 5),
            head("refs/tags/v1^{}", 6),
        ];
        let find = |text: Option<&str>| Want::parse(text).expect("valid").find(&heads);
        let target = find(None).expect("found");
        assert_eq!((target.oid, target.branch.as_deref()), (oid(1), Some("main")));
        let tag = find(Some("v1")).expect("found");
        assert_eq!((tag.oid, tag.refname.as_deref(), tag.branch), (oid(6), Some("refs/tags/v1"), None));
        assert_eq!(find(Some("both")).expect_err("two").cause, Cause::Ref);
        assert_eq!(find(Some("refs/tags/both")).expect("full").oid, oid(3));
        assert!(find(Some("main2")).is_err());
        assert_eq!(find(Some("v2")).expect_err("none").hint.as_deref(), Some("did you mean 'v1'?"));
        let pin = find(Some(&"6".repeat(40))).expect("a tip");
        assert_eq!(pin.refname.as_deref(), Some("refs/tags/v1"));
        assert_eq!(find(Some(&"9".repeat(40))).expect("no tip").refname, None);
        heads.remove(0);
        assert!(Want::Head.find(&heads).is_err());
    }
}
