//! From the manifest to staged trees: all repositories of one source are one job.
//!
//! A source is listed once and fetched once, however many places ask for it; then each place gets
//! its tree. What fails for one place alone does not stop the others of its source.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::Repository;
use toolkit::backoff::Backoff;

use crate::attempt::{Try, Via};
use crate::cache::Cache;
use crate::checkout;
use crate::cli::Mode;
use crate::fault::{Cause, Fault, Retry};
use crate::fleet::{Fleet, Known};
use crate::git::{self, Head, Remote, Target, Want};
use crate::http::Client;
use crate::lockfile::Lock;
use crate::manifest::{Repo, Signed};
use crate::place::{self, Site, Staged, tree_in};
use crate::record::{GitDir, Occupied, Record};
use crate::signature::{self, Policy};
use crate::slots::Slots;
use crate::source::Source;
use crate::tree::{self, Depth};

/// What all jobs of a run share.
pub(crate) struct Setup<'a> {
    pub(crate) site: &'a Site,
    pub(crate) client: &'a Client,
    /// How many repositories use one server at the same time.
    pub(crate) slots: &'a Slots,
    /// How many are unpacked and written at the same time.
    pub(crate) hands: &'a Slots,
    /// The mirrors, in the order in which they are tried.
    pub(crate) fleets: &'a [Fleet],
    /// Whether the source itself is tried after the mirrors.
    pub(crate) fallback: bool,
    /// Whether only mirrors and the cache may be used.
    pub(crate) offline: bool,
    pub(crate) cache: Option<&'a Cache>,
    pub(crate) signers: &'a signature::Files,
    pub(crate) mode: Mode,
    pub(crate) timeout: Duration,
    pub(crate) retries: u16,
    pub(crate) force: bool,
    pub(crate) plan: bool,
    pub(crate) lock: Option<&'a Lock>,
    pub(crate) locked: bool,
    pub(crate) update: &'a [String],
    pub(crate) manifest: &'a Path,
}

/// A repository of the manifest and its place; `number` tells staging directories apart.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) number: usize,
    pub(crate) repo: &'a Repo,
    pub(crate) dest: &'a Path,
}

/// How far a repository came.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The place holds the commit already.
    Unchanged { sha: String, tree: String },
    /// `--plan`: the place would get the commit.
    Planned { old: Option<String>, new: String },
    /// The tree waits to be placed.
    Staged { old: Option<String>, staged: Box<Staged> },
}

/// A repository whose values passed the checks.
pub(crate) struct Job<'a> {
    number: usize,
    repo: &'a Repo,
    dest: &'a Path,
    source: Source,
    pub(crate) want: Want,
    /// What must be signed, by whom.
    policy: Option<Policy>,
    /// The tag to be signed, where `want` does not name it.
    pub(crate) signed_tag: Option<Want>,
    /// The tree that the lock file promises.
    locked_tree: Option<String>,
    pub(crate) staging: PathBuf,
    /// The commit at the place.
    old: Option<String>,
    /// What is at the place, if nobody has touched it and it came from this source in this mode.
    clean: Option<Box<Record>>,
    /// Why it did not come from where it was looked for before.
    failed: Option<Fault>,
}

/// Tells which repositories are one job: those of the same source, whoever's credentials it has.
pub(crate) fn key(repo: &Repo, manifest: &Path) -> Option<String> {
    let source = Source::parse(&repo.source, manifest.parent().unwrap_or(Path::new("."))).ok()?;
    Some(match &source {
        Source::Http(url) => {
            let login = url.login.as_ref().map(|(user, password)| format!("{user}:{}@", password.expose()));
            format!("{}{}", login.unwrap_or_default(), url.base())
        }
        other => other.to_string(),
    })
}

/// Works on all repositories of one source.
pub(crate) fn work(setup: &Setup<'_>, members: &[Member<'_>]) -> Vec<(usize, Result<Progress, Fault>)> {
    let mut results = Vec::new();
    let mut pending = Vec::new();
    for member in members {
        match Job::new(setup, *member).and_then(|job| job.look(setup)) {
            Ok(Ready::Done(progress)) => results.push((member.number, Ok(progress))),
            Ok(Ready::Pending(job)) => pending.push(*job),
            Err(fault) => results.push((member.number, Err(fault))),
        }
    }
    if pending.is_empty() {
        return results;
    }
    let source = pending[0].source.clone();
    let vias = match vias(setup, &source) {
        Ok(vias) => vias,
        Err(fault) => {
            results.extend(pending.into_iter().map(|job| (job.number, Err(fault.clone()))));
            return results;
        }
    };
    for (number, via) in vias.iter().enumerate() {
        let left = from(setup, &source, via, pending, &mut results);
        pending = Vec::new();
        for (mut job, fault) in left {
            let elsewhere = matches!(fault.cause, Cause::Network | Cause::Auth | Cause::Ref);
            let fault = match job.failed.take() {
                Some(before) => Fault { message: format!("{}; then {}", before.message, fault.message), ..fault },
                None => fault,
            };
            if elsewhere && number + 1 < vias.len() {
                job.failed = Some(fault);
                pending.push(job);
            } else {
                results.push((job.number, Err(fault)));
            }
        }
        if pending.is_empty() {
            break;
        }
    }
    results
}

/// Where `source` is looked for, in this order.
fn vias(setup: &Setup<'_>, source: &Source) -> Result<Vec<Via>, Fault> {
    if let Source::Local(_) = source {
        return Ok(vec![Via::From(source.clone(), None)]);
    }
    let mut vias = Vec::new();
    for (number, fleet) in setup.fleets.iter().enumerate() {
        let there = source.mirrored(&fleet.mirror).map_err(|why| Fault::new(Cause::Manifest, why))?;
        vias.push(Via::From(there, Some(number)));
    }
    if !setup.offline && (vias.is_empty() || setup.fallback) {
        vias.push(Via::From(source.clone(), None));
    }
    if setup.offline && setup.cache.is_some() {
        vias.push(Via::Cache);
    }
    if vias.is_empty() { Err(git::offline()) } else { Ok(vias) }
}

/// Takes what `pending` asks for from `via`; returns the jobs that failed.
fn from<'a>(
    setup: &Setup<'_>,
    source: &Source,
    via: &Via,
    mut pending: Vec<Job<'a>>,
    results: &mut Vec<(usize, Result<Progress, Fault>)>,
) -> Vec<(Job<'a>, Fault)> {
    let place = source.mirror_path().ok().flatten();
    // An index that decides costs its server nothing, so it needs no slot.
    let known = match (via, &place) {
        (Via::From(Source::Http(_), Some(number)), Some(place)) => {
            setup.fleets[*number].find(setup.client, place, Instant::now() + setup.timeout)
        }
        _ => None,
    };
    if let Some(known) = &known {
        pending.retain(|job| match job.decided(setup, known) {
            Some(progress) => {
                results.push((job.number, progress));
                false
            }
            None => true,
        });
        if pending.is_empty() {
            return Vec::new();
        }
    }
    // Before the slot, which others could use meanwhile.
    let local = matches!(via, Via::From(Source::Local(_), _));
    let cache = match (setup.cache, &place) {
        (Some(cache), Some(place)) if !local => match cache.hold(place, setup.mode, Instant::now() + setup.timeout) {
            Ok(entry) => Some(entry),
            Err(fault) => return pending.into_iter().map(|job| (job, fault.clone())).collect(),
        },
        _ => None,
    };
    let host = match via {
        Via::From(Source::Http(url), _) => Some(&url.authority),
        Via::From(Source::Other(url), _) => Some(&url.authority),
        Via::From(Source::Local(_), _) | Via::Cache => None,
    };
    let mut slot = host.map(|host| setup.slots.take(host));
    // Waiting for a slot is no network time.
    let deadline = Instant::now() + setup.timeout;
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut lasting = Vec::new();
    for attempt in 0.. {
        let tried = Try { setup, via, known: known.as_ref(), cache: cache.as_ref(), deadline };
        let each: Vec<Result<Attempt, Fault>> = match tried.run(&pending, &mut slot) {
            Ok(each) => each,
            Err(fault) => pending.iter().map(|_| Err(fault.clone())).collect(),
        };
        let mut left = Vec::new();
        for (job, result) in pending.into_iter().zip(each) {
            match result.and_then(|attempt| job.progress(setup, attempt)) {
                Ok(progress) => results.push((job.number, Ok(progress))),
                Err(fault) if fault.retry == Retry::Never => lasting.push((job, fault)),
                Err(fault) => left.push((job, fault)),
            }
        }
        let Some((_, fault)) = left.first() else { break };
        let pause = match fault.retry {
            Retry::After(pause) => pause,
            Retry::Soon | Retry::Never => backoff.next_delay(),
        };
        // The pause may be any number that a server thought of.
        let in_time = Instant::now().checked_add(pause).is_some_and(|end| end < deadline);
        if attempt == u32::from(setup.retries) || !in_time {
            let times = if attempt == 0 { String::new() } else { format!(" (after {} attempts)", attempt + 1) };
            let ended = |fault: Fault| Fault { message: format!("{}{times}", fault.message), ..fault };
            lasting.extend(left.into_iter().map(|(job, fault)| (job, ended(fault))));
            break;
        }
        pending = left.into_iter().map(|(job, _)| job).collect();
        std::thread::sleep(pause);
        if slot.is_none() {
            slot = host.map(|host| setup.slots.take(host));
        }
    }
    lasting
}

enum Ready<'a> {
    Done(Progress),
    Pending(Box<Job<'a>>),
}

/// What an attempt has come to for one place.
pub(crate) enum Attempt {
    /// The place holds the commit already.
    Same,
    /// `--plan`: this commit would be placed.
    New(String),
    Staged(Box<Staged>),
}

impl<'a> Job<'a> {
    fn new(setup: &Setup<'_>, member: Member<'a>) -> Result<Self, Fault> {
        let Member { number, repo, dest } = member;
        let refused = |why: String| Fault::new(Cause::Manifest, why);
        let base = setup.manifest.parent().unwrap_or(Path::new("."));
        let source = Source::parse(&repo.source, base).map_err(refused)?;
        let mut want = Want::parse(repo.reference.as_deref())?;
        let named = want.clone();
        let policy = setup.signers.policy(repo, base)?;
        let mut locked_tree = None;
        if let Some(lock) = setup.lock.filter(|_| setup.locked || !setup.update.is_empty())
            && !setup.update.contains(&repo.name)
        {
            match lock.find(repo) {
                Some((sha, tree)) => (want, locked_tree) = (Want::parse(Some(sha))?, Some(tree.to_owned())),
                None if setup.locked => {
                    return Err(Fault::new(Cause::Lock, "the lock file has no entry of this name, source and ref")
                        .hint("run without --locked, or with --update NAME, to resolve it"));
                }
                None => {}
            }
        }
        let staging = setup.site.stage().join(number.to_string());
        let about_tag = policy.as_ref().is_some_and(|policy| policy.signed == Signed::Tag);
        let signed_tag = Some(named).filter(|named| about_tag && *named != want);
        let (old, clean, failed) = (None, None, None);
        Ok(Self { number, repo, dest, source, want, policy, signed_tag, locked_tree, staging, old, clean, failed })
    }

    /// Looks at the place; a pin that is in place is done.
    fn look(mut self, setup: &Setup<'_>) -> Result<Ready<'a>, Fault> {
        let root = &setup.site.root;
        let place = root.join(self.dest);
        let disk = |err: std::io::Error| Fault::disk(&place, &err);
        crate::dest::check_path(root, self.dest).map_err(|why| Fault::new(Cause::LocalChanges, why))?;
        let records = &setup.site.records;
        let occupied = records.look(root, self.dest, Depth::Stat).map_err(disk)?;
        // A run that was stopped after placing has not confirmed yet.
        if !setup.plan && matches!(occupied, Occupied::Clean(_)) && records.is_announced(self.dest) {
            records.settle(root, self.dest).map_err(disk)?;
        }
        match occupied {
            Occupied::No => {}
            Occupied::Clean(record) => {
                self.old = Some(record.sha.clone());
                let signed = self.policy.as_ref().is_none_or(|policy| policy.fits(record.checked.as_deref()));
                let fits = record.mode == setup.mode && record.source == self.origin() && signed;
                self.clean = Some(record).filter(|_| fits);
            }
            Occupied::Changed(record, _) if setup.force => self.old = Some(record.sha),
            Occupied::Foreign if setup.force => {}
            Occupied::Changed(_, changes) => return Err(place::changed(&changes)),
            Occupied::Foreign => return Err(place::foreign()),
        }
        match (&self.want, &self.clean) {
            (Want::Commit(oid), Some(record)) if record.sha == oid.to_string() => {
                self.unchanged(setup, record).map(Ready::Done)
            }
            _ => Ok(Ready::Pending(Box::new(self))),
        }
    }

    /// Returns where it belongs, without credentials; what records and clones say.
    fn origin(&self) -> String {
        self.source.to_string()
    }

    /// Names the tag object that must be signed.
    pub(crate) fn tag(&self, heads: &[Head], target: &Target) -> Option<git2::Oid> {
        self.policy.as_ref().and_then(|policy| policy.tag(self.repo.reference.as_deref(), heads, target))
    }

    /// Checks the signature that the manifest wants, if any.
    fn check_signed(&self, repository: &Repository, target: &Target) -> Result<Option<String>, Fault> {
        let reference = self.repo.reference.as_deref();
        self.policy.as_ref().map(|policy| policy.check(repository, reference, target)).transpose()
    }

    /// Removes what an attempt has left.
    pub(crate) fn sweep(&self) -> std::io::Result<()> {
        place::remove_tree(&self.staging).and_then(|()| place::remove_tree(&self.objects()))
    }

    /// Returns where objects are kept that are too many for memory.
    pub(crate) fn objects(&self) -> PathBuf {
        self.staging.with_extension("objects")
    }

    /// What is to be done for `target` without its objects, if anything.
    pub(crate) fn decide(&self, setup: &Setup<'_>, target: &Target) -> Option<Attempt> {
        let sha = target.oid.to_string();
        match &self.clean {
            Some(record) if record.sha == sha => Some(Attempt::Same),
            _ if setup.plan => Some(Attempt::New(sha)),
            _ => None,
        }
    }

    /// What the refs index alone decides.
    fn decided(&self, setup: &Setup<'_>, known: &Known) -> Option<Result<Progress, Fault>> {
        let target = self.want.find(&known.heads).ok()?;
        let attempt = self.decide(setup, &target)?;
        Some(self.progress(setup, attempt))
    }

    fn progress(&self, setup: &Setup<'_>, attempt: Attempt) -> Result<Progress, Fault> {
        match attempt {
            Attempt::Same => self.unchanged(setup, self.clean.as_ref().expect("only a clean place can be the same")),
            Attempt::New(new) => Ok(Progress::Planned { old: self.old.clone(), new }),
            Attempt::Staged(staged) => Ok(Progress::Staged { old: self.old.clone(), staged }),
        }
    }

    fn unchanged(&self, setup: &Setup<'_>, record: &Record) -> Result<Progress, Fault> {
        self.check_locked(&record.tree)?;
        if !setup.plan && record.reference != self.repo.reference {
            // The same commit by another name: the tree stays, what is said about it changes.
            let record = Record { reference: self.repo.reference.clone(), ..record.clone() };
            let records = &setup.site.records;
            records
                .announce(&record)
                .and_then(|()| records.confirm(self.dest))
                .map_err(|err| Fault::disk(records.directory(), &err))?;
        }
        Ok(Progress::Unchanged { sha: record.sha.clone(), tree: record.tree.clone() })
    }

    fn check_locked(&self, tree: &str) -> Result<(), Fault> {
        match &self.locked_tree {
            Some(locked) if locked != tree => {
                Err(Fault::new(Cause::Lock, format!("the commit's tree is {tree}, the lock file has {locked}")))
            }
            _ => Ok(()),
        }
    }

    /// Exports `target` from whichever of `stores` has it.
    pub(crate) fn export_from(
        &self,
        setup: &Setup<'_>,
        stores: &[Repository],
        target: &Target,
    ) -> Result<Attempt, Fault> {
        let has = |store: &&Repository| target.is_in(store);
        let store = stores.iter().find(has).or(stores.first()).expect("there is one for each target");
        let target = Target { oid: git::commit(store, target.oid)?.id(), ..target.clone() };
        self.export(setup, store, &target)
    }

    pub(crate) fn export(&self, setup: &Setup<'_>, source: &Repository, target: &Target) -> Result<Attempt, Fault> {
        let tree = tree_of(source, target)?;
        self.check_locked(&tree.id().to_string())?;
        let checked = self.check_signed(source, target)?;
        std::fs::create_dir_all(&self.staging).map_err(|err| Fault::disk(&self.staging, &err))?;
        let entries = tree::write(source, &tree, self.repo.submodules, &tree_in(&self.staging))?;
        Ok(self.staged(setup, target, &tree, checked, None, entries))
    }

    /// Makes a clone; objects that are in the git directory `like`, or in that of the place, are not fetched again.
    pub(crate) fn make_clone(
        &self,
        setup: &Setup<'_>,
        from: Remote<'_>,
        heads: &[Head],
        target: &Target,
        like: Option<&Path>,
    ) -> Result<Attempt, Fault> {
        let place = self.clean.as_ref().map(|record| setup.site.root.join(&record.dest).join(".git"));
        let Some(like) = like.map(Path::to_owned).or(place) else {
            return self.clone_with(setup, from, heads, target, None);
        };
        match self.clone_with(setup, from, heads, target, Some(&like)) {
            // Somebody may have damaged what was to be shared; then everything comes from the source.
            Err(fault) if fault.retry == Retry::Never => {
                place::remove_tree(&self.staging).map_err(|err| Fault::disk(&self.staging, &err))?;
                self.clone_with(setup, from, heads, target, None)
            }
            cloned => cloned,
        }
    }

    fn clone_with(
        &self,
        setup: &Setup<'_>,
        from: Remote<'_>,
        heads: &[Head],
        target: &Target,
        like: Option<&Path>,
    ) -> Result<Attempt, Fault> {
        let path = tree_in(&self.staging);
        let clone = git::init(&path, false)?;
        let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot set the clone up", &err);
        clone.remote("origin", &self.origin()).map_err(fail)?;
        let haves = match like {
            Some(like) => git::share(like, &path.join(".git"))?,
            None => Vec::new(),
        };
        git::fetch_all(from, &clone, heads, target, &haves)?;
        let commit = git::commit(&clone, target.oid)?;
        let target = Target { oid: commit.id(), ..target.clone() };
        let tree = tree_of(&clone, &target)?;
        self.check_locked(&tree.id().to_string())?;
        let checked = self.check_signed(&clone, &target)?;
        match &target.branch {
            Some(branch) => {
                let name = format!("refs/heads/{branch}");
                clone.reference(&name, target.oid, true, "cloner").map_err(fail)?;
                clone.set_head(&name).map_err(fail)?;
                let mut config = clone.config().map_err(fail)?;
                config.set_str(&format!("branch.{branch}.remote"), "origin").map_err(fail)?;
                config.set_str(&format!("branch.{branch}.merge"), &name).map_err(fail)?;
            }
            None => clone.set_head_detached(target.oid).map_err(fail)?,
        }
        let (git, entries) = checkout::check_out(&clone, &path, &target, &tree, self.repo.submodules)?;
        Ok(self.staged(setup, &target, &tree, checked, Some(git), entries))
    }

    fn staged(
        &self,
        setup: &Setup<'_>,
        target: &Target,
        tree: &git2::Tree<'_>,
        checked: Option<String>,
        git: Option<GitDir>,
        entries: Vec<tree::Entry>,
    ) -> Attempt {
        let record = Record {
            v: Record::version(),
            name: self.repo.name.clone(),
            dest: self.dest.to_owned(),
            source: self.origin(),
            reference: self.repo.reference.clone(),
            sha: target.oid.to_string(),
            tree: tree.id().to_string(),
            mode: setup.mode,
            manifest: setup.manifest.to_owned(),
            checked,
            git,
            entries,
        };
        Attempt::Staged(Box::new(Staged { directory: self.staging.clone(), record }))
    }
}

fn tree_of<'r>(repository: &'r Repository, target: &Target) -> Result<git2::Tree<'r>, Fault> {
    let commit = git::commit(repository, target.oid)?;
    commit.tree().map_err(|err| Fault::git(Cause::Network, &format!("commit {}", target.oid), &err))
}
