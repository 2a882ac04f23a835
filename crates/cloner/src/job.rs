//! From the manifest to staged trees: all repositories of one source are one job.
//!
//! A source is listed once and fetched once, however many places ask for it; then each place gets
//! its tree. What fails for one place alone does not stop the others of its source.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{Repository, RepositoryInitOptions};
use toolkit::backoff::Backoff;

use crate::checkout;
use crate::cli::Mode;
use crate::fault::{Cause, Fault, Retry};
use crate::fleet::{self, Fleet, Known};
use crate::git::{self, Head, Remote, Target, Want};
use crate::http::{Client, Session};
use crate::lockfile::Lock;
use crate::manifest::{Repo, Signed};
use crate::place::{self, Site, Staged, tree_in};
use crate::record::{GitDir, Occupied, Record};
use crate::signature::{self, Policy};
use crate::slots::{Slot, Slots};
use crate::source::{HttpUrl, Mirror, Source};
use crate::tree::{self, Depth};

/// What all jobs of a run share.
pub(crate) struct Setup<'a> {
    pub(crate) site: &'a Site,
    pub(crate) client: &'a Client,
    /// How many repositories use one server at the same time.
    pub(crate) slots: &'a Slots,
    /// How many are unpacked and written at the same time.
    pub(crate) hands: &'a Slots,
    pub(crate) fleet: Option<&'a Fleet>,
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
struct Job<'a> {
    number: usize,
    repo: &'a Repo,
    dest: &'a Path,
    source: Source,
    /// Where it is taken from.
    via: Source,
    want: Want,
    /// What must be signed, by whom.
    policy: Option<Policy>,
    /// The tag to be signed, where `want` does not name it.
    signed_tag: Option<Want>,
    /// The tree that the lock file promises.
    locked_tree: Option<String>,
    staging: PathBuf,
    /// The commit at the place.
    old: Option<String>,
    /// What is at the place, if nobody has touched it and it came from this source in this mode.
    clean: Option<Box<Record>>,
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
    let via = pending[0].via.clone();
    // An index that decides costs its server nothing, so it needs no slot.
    let known = match (&via, setup.fleet, pending[0].source.mirror_path()) {
        (Source::Http(_), Some(fleet), Ok(Some(place))) => {
            fleet.find(setup.client, &place, Instant::now() + setup.timeout)
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
            return results;
        }
    }
    let mut slot = match &via {
        Source::Http(url) => Some(setup.slots.take(&url.authority)),
        _ => None,
    };
    // Waiting for a slot is no network time.
    let deadline = Instant::now() + setup.timeout;
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    for attempt in 0.. {
        let tried = Try { setup, via: &via, known: known.as_ref(), deadline };
        let outcome = tried.run(&pending, &mut slot);
        let each: Vec<Result<Attempt, Fault>> = match outcome {
            Ok(each) => each,
            Err(fault) => pending.iter().map(|_| Err(fault.clone())).collect(),
        };
        let mut left = Vec::new();
        for (job, result) in pending.into_iter().zip(each) {
            match result {
                Err(fault) if fault.retry != Retry::Never => left.push((job, fault)),
                result => results.push((job.number, result.and_then(|attempt| job.progress(setup, attempt)))),
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
            results.extend(left.into_iter().map(|(job, fault)| (job.number, Err(ended(fault)))));
            break;
        }
        pending = left.into_iter().map(|(job, _)| job).collect();
        std::thread::sleep(pause);
        if let (None, Source::Http(url)) = (&slot, &via) {
            slot = Some(setup.slots.take(&url.authority));
        }
    }
    results
}

enum Ready<'a> {
    Done(Progress),
    Pending(Box<Job<'a>>),
}

enum Attempt {
    Same,
    New(String),
    Staged(Box<Staged>),
}

/// One attempt for all places of a source.
struct Try<'t> {
    setup: &'t Setup<'t>,
    via: &'t Source,
    known: Option<&'t Known>,
    deadline: Instant,
}

impl Try<'_> {
    /// Returns what became of each job, or what failed for all of them.
    fn run(&self, jobs: &[Job<'_>], slot: &mut Option<Slot<'_>>) -> Result<Vec<Result<Attempt, Fault>>, Fault> {
        for job in jobs {
            // What a failed attempt left would only be in the way.
            let _ = place::remove_tree(&job.staging).and_then(|()| place::remove_tree(&job.objects()));
        }
        match self.via {
            Source::Local(path) => self.local(jobs, path),
            Source::Http(url) => {
                let done = self.http(jobs, url, slot);
                if let (Err(fault), Some(slot)) = (&done, slot)
                    && fault.crowded
                {
                    slot.crowded();
                }
                done
            }
            Source::Other(_) => unreachable!("refused when the job was made"),
        }
    }

    fn local(&self, jobs: &[Job<'_>], path: &Path) -> Result<Vec<Result<Attempt, Fault>>, Fault> {
        let source = git::open_local(path)?;
        let heads = git::list_local(&source)?;
        let one = |job: &Job<'_>| {
            let mut target = job.want.find(&heads)?;
            target.oid = git::commit(&source, target.oid)?.id();
            target.tag = job.tag(&heads, &target);
            if let Some(attempt) = job.decide(self.setup, &target) {
                return Ok(attempt);
            }
            let _hand = self.setup.hands.take("");
            match self.setup.mode {
                // Nothing needs to be copied but the files.
                Mode::Export => job.export(self.setup, &source, &target),
                Mode::Clone => job.make_clone(self.setup, Remote::Local(path), &heads, &target, None),
            }
        };
        Ok(jobs.iter().map(one).collect())
    }

    fn http(
        &self,
        jobs: &[Job<'_>],
        url: &HttpUrl,
        slot: &mut Option<Slot<'_>>,
    ) -> Result<Vec<Result<Attempt, Fault>>, Fault> {
        let session = self.setup.client.session(url, self.deadline);
        let wants: Vec<&Want> = jobs.iter().map(|job| &job.want).collect();
        // A commit that the lock file fixes says nothing of the tag that must be signed.
        let tags: Vec<&Want> = jobs.iter().filter_map(|job| job.signed_tag.as_ref()).collect();
        let asked: Vec<&Want> = wants.iter().chain(&tags).copied().collect();
        let listed;
        let heads = match self.known {
            Some(known) if asked.iter().all(|want| want.find(&known.heads).is_ok()) => &known.heads,
            _ => {
                listed = git::list(&session, &asked, self.setup.mode == Mode::Clone)?;
                &listed
            }
        };
        let find = |job: &Job<'_>| {
            let target = job.want.find(heads)?;
            Ok(Target { tag: job.tag(heads, &target), ..target })
        };
        let targets: Vec<Result<Target, Fault>> = jobs.iter().map(find).collect();
        let decided = |job: &Job<'_>, target: &Result<Target, Fault>| match target {
            Err(fault) => Some(Err(fault.clone())),
            Ok(target) => job.decide(self.setup, target).map(Ok),
        };
        let mut results: Vec<Option<Result<Attempt, Fault>>> =
            jobs.iter().zip(&targets).map(|(job, target)| decided(job, target)).collect();
        let open: Vec<(usize, &Job<'_>, Target)> = jobs
            .iter()
            .zip(targets)
            .enumerate()
            .filter(|(index, _)| results[*index].is_none())
            .filter_map(|(index, (job, target))| Some((index, job, target.ok()?)))
            .collect();
        if open.is_empty() {
            drop(done(slot));
        } else if self.setup.mode == Mode::Export {
            let wanted: Vec<Target> = open.iter().map(|(_, _, target)| target.clone()).collect();
            let objects = open[0].1.objects();
            let stores = self.fetch(&session, &wanted, &objects)?;
            drop(done(slot));
            let _hand = self.setup.hands.take("");
            for (index, job, target) in &open {
                results[*index] = Some(job.export_from(self.setup, &stores, target));
            }
            drop(stores);
            // The objects have served; flushing them to the disk would be for nothing.
            place::remove_tree(&objects).map_err(|err| Fault::disk(&objects, &err))?;
        } else {
            // Places of the same source take their objects from the first of them.
            let mut first: Option<PathBuf> = None;
            for (index, job, target) in &open {
                let result = job.make_clone(self.setup, Remote::Session(&session), heads, target, first.as_deref());
                match &result {
                    Ok(_) => drop(first.get_or_insert(tree_in(&job.staging))),
                    Err(fault) if fault.cause == Cause::Network => return Err(fault.clone()),
                    Err(_) => {}
                }
                results[*index] = Some(result);
            }
            drop(done(slot));
        }
        Ok(results.into_iter().map(|result| result.expect("each was decided or worked on")).collect())
    }

    /// Fetches the commits of `targets`: from the mirror's packs, else from the server.
    fn fetch(&self, session: &Session, targets: &[Target], objects: &Path) -> Result<Vec<Repository>, Fault> {
        let made = std::cell::Cell::new(0);
        let disk = || {
            made.set(made.get() + 1);
            init(&objects.join(format!("{}.git", made.get())), true)
        };
        let mut stores: Vec<Repository> = Vec::new();
        let mut rest = Vec::new();
        for target in targets {
            if stores.iter().any(|store| target.is_in(store)) {
                continue;
            }
            let pack = self.known.and_then(|known| known.pack(target.oid));
            let got = match (pack, self.setup.fleet.map(|fleet| &fleet.mirror)) {
                (Some(pack), Some(Mirror::Http(url))) => {
                    fleet::fetch_pack(self.setup.client, url, pack, self.deadline, &disk)
                }
                _ => Ok(None),
            };
            match got {
                Ok(Some(store)) if target.is_in(&store) => stores.push(store),
                // A mirror that has cleaned up, or a damaged pack: the server itself still has it.
                Ok(_) | Err(_) => rest.push(target.clone()),
            }
        }
        if !rest.is_empty() {
            stores.push(git::fetch_commits(session, &rest, &disk)?);
        }
        Ok(stores)
    }
}

/// Notes that the server did its part, and frees its slot.
fn done<'s>(slot: &mut Option<Slot<'s>>) -> Option<Slot<'s>> {
    slot.take().inspect(|slot| slot.went_well())
}

impl<'a> Job<'a> {
    fn new(setup: &Setup<'_>, member: Member<'a>) -> Result<Self, Fault> {
        let Member { number, repo, dest } = member;
        let refused = |why: String| Fault::new(Cause::Manifest, why);
        let base = setup.manifest.parent().unwrap_or(Path::new("."));
        let source = Source::parse(&repo.source, base).map_err(refused)?;
        let via = match setup.fleet {
            Some(fleet) => source.mirrored(&fleet.mirror).map_err(refused)?,
            None => source.clone(),
        };
        if let Source::Other(url) = &via {
            return Err(refused(format!("{} sources are only taken from a mirror", url.scheme))
                .hint("use an https source, or pass --mirror"));
        }
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
        let (old, clean) = (None, None);
        Ok(Self { number, repo, dest, source, via, want, policy, signed_tag, locked_tree, staging, old, clean })
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
    fn tag(&self, heads: &[Head], target: &Target) -> Option<git2::Oid> {
        self.policy.as_ref().and_then(|policy| policy.tag(self.repo.reference.as_deref(), heads, target))
    }

    /// Checks the signature that the manifest wants, if any.
    fn check_signed(&self, repository: &Repository, target: &Target) -> Result<Option<String>, Fault> {
        let reference = self.repo.reference.as_deref();
        self.policy.as_ref().map(|policy| policy.check(repository, reference, target)).transpose()
    }

    /// Returns where objects are kept that are too many for memory.
    fn objects(&self) -> PathBuf {
        self.staging.with_extension("objects")
    }

    /// What is to be done for `target` without its objects, if anything.
    fn decide(&self, setup: &Setup<'_>, target: &Target) -> Option<Attempt> {
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
    fn export_from(&self, setup: &Setup<'_>, stores: &[Repository], target: &Target) -> Result<Attempt, Fault> {
        let has = |store: &&Repository| target.is_in(store);
        let store = stores.iter().find(has).or(stores.first()).expect("there is one for each target");
        let target = Target { oid: git::commit(store, target.oid)?.id(), ..target.clone() };
        self.export(setup, store, &target)
    }

    fn export(&self, setup: &Setup<'_>, source: &Repository, target: &Target) -> Result<Attempt, Fault> {
        let tree = tree_of(source, target)?;
        self.check_locked(&tree.id().to_string())?;
        let checked = self.check_signed(source, target)?;
        std::fs::create_dir_all(&self.staging).map_err(|err| Fault::disk(&self.staging, &err))?;
        let entries = tree::write(source, &tree, self.repo.submodules, &tree_in(&self.staging))?;
        Ok(self.staged(setup, target, &tree, checked, None, entries))
    }

    /// Makes a clone; objects that are in the work tree `like`, or in the one at the place, are not fetched again.
    fn make_clone(
        &self,
        setup: &Setup<'_>,
        from: Remote<'_>,
        heads: &[Head],
        target: &Target,
        like: Option<&Path>,
    ) -> Result<Attempt, Fault> {
        let place = self.clean.as_ref().map(|record| setup.site.root.join(&record.dest));
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
        let clone = init(&path, false)?;
        let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot set the clone up", &err);
        clone.remote("origin", &self.origin()).map_err(fail)?;
        let haves = match like {
            Some(like) => git::share(like, &path)?,
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

/// Makes a repository without a template, so without hooks.
fn init(path: &Path, bare: bool) -> Result<Repository, Fault> {
    let mut options = RepositoryInitOptions::new();
    options.bare(bare).no_reinit(true).mkpath(true).external_template(false);
    Repository::init_opts(path, &options)
        .map_err(|err| Fault::git(Cause::Disk, &format!("cannot create {}", path.display()), &err))
}
