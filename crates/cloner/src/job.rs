//! From the manifest to staged trees: all repositories of one source are one job.
//!
//! A source is listed once and fetched once, however many places ask for it; then each place gets
//! its tree. What fails for one place alone does not stop the others of its source.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::Repository;
use toolkit::backoff::Backoff;

use crate::attempt::{Try, Via};
use crate::cache::Cache;
use crate::cli::Mode;
use crate::fault::{Cause, Fault, Retry};
use crate::fleet::{self, Fleet, Known};
use crate::git::{self, Head, Target, Want};
use crate::http::Client;
use crate::lockfile::Lock;
use crate::manifest::{Repo, Signed};
use crate::place::{self, Part, Site, Staged};
use crate::record::{Occupied, Record};
use crate::refsindex::Index;
use crate::signature::{self, Policy};
use crate::slots::Slots;
use crate::source::Source;
use crate::submodule::{Chain, Submodule};
use crate::tree::Depth;

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
    /// What refs are, if they are not asked for.
    pub(crate) refs: Option<&'a Index>,
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

/// Something to be brought; `number` tells staging directories apart.
#[derive(Debug, Clone)]
pub(crate) struct Member<'a> {
    pub(crate) number: usize,
    pub(crate) what: What<'a>,
}

#[derive(Debug, Clone)]
pub(crate) enum What<'a> {
    /// A repository of the manifest and its place.
    Listed(&'a Repo, &'a Path),
    /// A submodule of something else.
    Part(Box<Part>),
}

impl Member<'_> {
    /// Returns what messages call it.
    pub(crate) fn name(&self) -> &str {
        match &self.what {
            What::Listed(repo, _) => &repo.name,
            What::Part(part) => &part.shown,
        }
    }

    /// Tells which members are one job: those of the same source, whoever's credentials it has.
    pub(crate) fn key(&self, manifest: &Path) -> Option<String> {
        match &self.what {
            What::Listed(repo, _) => Source::parse(&repo.source, base(manifest)).ok().map(|source| key(&source)),
            What::Part(part) => Some(key(&part.submodule.source)),
        }
    }
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
    pub(crate) repo: Cow<'a, Repo>,
    pub(crate) dest: Cow<'a, Path>,
    pub(crate) source: Source,
    /// What lies above it, if it is a submodule.
    pub(crate) chain: Chain,
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
    /// A git directory whose objects need not be fetched again.
    pub(crate) like: Option<PathBuf>,
    /// Why it did not come from where it was looked for before.
    failed: Option<Fault>,
}

/// What a source is called, with the credentials that it has.
pub(crate) fn key(source: &Source) -> String {
    match source {
        Source::Http(url) => {
            let login = url.login.as_ref().map(|(user, password)| format!("{user}:{}@", password.expose()));
            format!("{}{}", login.unwrap_or_default(), url.base())
        }
        other => other.to_string(),
    }
}

/// What relative paths in the manifest are relative to.
fn base(manifest: &Path) -> &Path {
    manifest.parent().unwrap_or(Path::new("."))
}

/// Works on all members of one source. Says so before it waits for a server.
pub(crate) fn work(
    setup: &Setup<'_>,
    members: &[Member<'_>],
    waits: &dyn Fn(),
) -> Vec<(usize, Result<Progress, Fault>)> {
    let mut results = Vec::new();
    let mut pending = Vec::new();
    for member in members {
        match Job::new(setup, member).and_then(|job| job.look(setup)) {
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
        let left = from(setup, &source, via, pending, &mut results, waits);
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
    waits: &dyn Fn(),
) -> Vec<(Job<'a>, Fault)> {
    let place = source.mirror_path().ok().flatten();
    let mut refused = Vec::new();
    // An index that decides costs its server nothing, so it needs no slot.
    let mut known = match (setup.refs, via, &place) {
        (Some(index), _, Some(place)) => match fleet::given(index, place) {
            Ok(Some(known)) => Some(known),
            // Nothing says what its refs are; a commit needs no ref.
            other => {
                let why = other.err().unwrap_or_else(|| format!("it has no repository {place}"));
                let fault = Fault::new(Cause::Ref, format!("the refs index that was given does not help: {why}"));
                let (commits, left) = pending.into_iter().partition(|job| matches!(job.want, Want::Commit(_)));
                pending = commits;
                refused = left.into_iter().map(|job| (job, fault.clone())).collect();
                None
            }
        },
        (None, Via::From(Source::Http(_), Some(number)), Some(place)) => {
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
    }
    if pending.is_empty() {
        return refused;
    }
    // Whatever the mirror's own index says of refs by now, a pack that it names has the commit.
    if let (Some(_), Some(known), Via::From(Source::Http(_), Some(number)), Some(place)) =
        (setup.refs, &mut known, via, &place)
    {
        let index = setup.fleets[*number].find(setup.client, place, Instant::now() + setup.timeout);
        known.packs = index.map(|index| index.packs).unwrap_or_default();
    }
    let local = matches!(via, Via::From(Source::Local(_), _));
    if !local {
        waits();
    }
    // Before the slot, which others could use meanwhile.
    let cache = match (setup.cache, &place) {
        (Some(cache), Some(place)) if !local => match cache.hold(place, setup.mode, Instant::now() + setup.timeout) {
            Ok(entry) => Some(entry),
            Err(fault) => {
                refused.extend(pending.into_iter().map(|job| (job, fault.clone())));
                return refused;
            }
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
    let mut lasting = refused;
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
    fn new(setup: &Setup<'_>, member: &Member<'a>) -> Result<Self, Fault> {
        let number = member.number;
        let (repo, dest) = match &member.what {
            What::Listed(repo, dest) => (*repo, *dest),
            What::Part(part) => return Ok(Self::part(setup, number, part)),
        };
        let refused = |why: String| Fault::new(Cause::Manifest, why);
        let base = base(setup.manifest);
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
        let about_tag = policy.as_ref().is_some_and(|policy| policy.signed == Signed::Tag);
        let signed_tag = Some(named).filter(|named| about_tag && *named != want);
        let (repo, dest) = (Cow::Borrowed(repo), Cow::Borrowed(dest));
        Ok(Self { policy, signed_tag, locked_tree, ..Self::plain(setup, number, repo, dest, source, want) })
    }

    /// Makes the job of a submodule, which has no place of its own and nothing to be said about it in the manifest.
    fn part(setup: &Setup<'_>, number: usize, part: &Part) -> Self {
        let Submodule { path, source, commit, .. } = &part.submodule;
        let repo = Repo {
            name: part.shown.clone(),
            path: part.shown.clone(),
            source: source.to_string(),
            reference: None,
            dest: path.clone(),
            submodules: true,
            signed: None,
            signers: None,
            at: String::new(),
        };
        let dest = Cow::Owned(PathBuf::from(path));
        let plain = Self::plain(setup, number, Cow::Owned(repo), dest, source.clone(), Want::Commit(*commit));
        Self { chain: part.chain.clone(), like: part.like.clone(), ..plain }
    }

    fn plain(
        setup: &Setup<'_>,
        number: usize,
        repo: Cow<'a, Repo>,
        dest: Cow<'a, Path>,
        source: Source,
        want: Want,
    ) -> Self {
        Self {
            number,
            repo,
            dest,
            source,
            chain: Chain::default(),
            want,
            policy: None,
            signed_tag: None,
            locked_tree: None,
            staging: setup.site.stage().join(number.to_string()),
            old: None,
            clean: None,
            like: None,
            failed: None,
        }
    }

    /// Looks at the place; a pin that is in place is done.
    fn look(mut self, setup: &Setup<'_>) -> Result<Ready<'a>, Fault> {
        if !self.chain.is_empty() {
            return Ok(Ready::Pending(Box::new(self)));
        }
        let root = &setup.site.root;
        let place = root.join(&self.dest);
        let disk = |err: std::io::Error| Fault::disk(&place, &err);
        crate::dest::check_path(root, &self.dest).map_err(|why| Fault::new(Cause::LocalChanges, why))?;
        let records = &setup.site.records;
        let occupied = records.look(root, &self.dest, Depth::Stat).map_err(disk)?;
        // A run that was stopped after placing has not confirmed yet.
        if !setup.plan && matches!(occupied, Occupied::Clean(_)) && records.is_announced(&self.dest) {
            records.settle(root, &self.dest).map_err(disk)?;
        }
        match occupied {
            Occupied::No => {}
            Occupied::Clean(record) => {
                self.old = Some(record.sha.clone());
                let signed = self.policy.as_ref().is_none_or(|policy| policy.fits(record.checked.as_deref()));
                let fits = record.mode == setup.mode && record.source == self.origin() && signed;
                self.clean = Some(record).filter(|record| fits && record.fits_submodules(self.repo.submodules));
                self.like = self.clean.as_ref().map(|record| root.join(&record.dest).join(".git"));
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
    pub(crate) fn origin(&self) -> String {
        self.source.to_string()
    }

    /// Names the tag object that must be signed.
    pub(crate) fn tag(&self, heads: &[Head], target: &Target) -> Option<git2::Oid> {
        self.policy.as_ref().and_then(|policy| policy.tag(self.repo.reference.as_deref(), heads, target))
    }

    /// Checks the signature that the manifest wants, if any.
    pub(crate) fn check_signed(&self, repository: &Repository, target: &Target) -> Result<Option<String>, Fault> {
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
                .and_then(|()| records.confirm(&self.dest))
                .map_err(|err| Fault::disk(records.directory(), &err))?;
        }
        Ok(Progress::Unchanged { sha: record.sha.clone(), tree: record.tree.clone() })
    }

    pub(crate) fn check_locked(&self, tree: &str) -> Result<(), Fault> {
        match &self.locked_tree {
            Some(locked) if locked != tree => {
                Err(Fault::new(Cause::Lock, format!("the commit's tree is {tree}, the lock file has {locked}")))
            }
            _ => Ok(()),
        }
    }
}
