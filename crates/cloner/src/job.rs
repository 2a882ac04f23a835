//! One repository's way from the manifest to a staged tree.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{Repository, RepositoryInitOptions, build::CheckoutBuilder};
use toolkit::backoff::Backoff;

use crate::cli::Mode;
use crate::fault::{Cause, Fault, Retry};
use crate::git::{self, Head, Remote, Target, Want};
use crate::lockfile::Lock;
use crate::manifest::Repo;
use crate::place::{self, Site, Staged, tree_in};
use crate::record::{GitDir, Occupied, Record};
use crate::slots::Slots;
use crate::source::{Mirror, Source};
use crate::transport::{Client, Session};
use crate::tree::{self, Depth};

/// What all jobs of a run share.
pub(crate) struct Setup<'a> {
    pub(crate) site: &'a Site,
    pub(crate) client: &'a Client,
    pub(crate) slots: &'a Slots,
    pub(crate) mirror: Option<&'a Mirror>,
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

/// How far a job came.
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
    repo: &'a Repo,
    dest: &'a Path,
    /// Where it belongs, without credentials; what records and clones say.
    origin: String,
    /// Where it is taken from.
    via: Source,
    want: Want,
    /// The tree that the lock file promises.
    locked_tree: Option<String>,
    staging: PathBuf,
}

/// Works on one repository; `number` tells staging directories apart.
pub(crate) fn work(setup: &Setup<'_>, repo: &Repo, dest: &Path, number: usize) -> Result<Progress, Fault> {
    let job = Job::new(setup, repo, dest, number)?;
    let root = &setup.site.root;
    let place = root.join(dest);
    let disk = |err: std::io::Error| Fault::disk(&place, &err);
    crate::dest::check_path(root, dest).map_err(|why| Fault::new(Cause::LocalChanges, why))?;
    let records = &setup.site.records;
    let occupied = records.look(root, dest, Depth::Stat).map_err(disk)?;
    let old = match &occupied {
        Occupied::No => None,
        Occupied::Clean(record) => Some(record),
        Occupied::Changed(record, _) if setup.force => Some(record),
        Occupied::Foreign if setup.force => None,
        Occupied::Changed(_, changes) => return Err(place::changed(changes)),
        Occupied::Foreign => return Err(place::foreign()),
    };
    let clean = match &occupied {
        Occupied::Clean(record) if record.mode == setup.mode && record.source == job.origin => Some(record),
        _ => None,
    };
    // A run that was stopped after placing has not confirmed yet.
    if !setup.plan && matches!(occupied, Occupied::Clean(_)) && records.is_announced(dest) {
        records.settle(root, dest).map_err(disk)?;
    }
    let old = old.map(|record| record.sha.clone());
    if let (Want::Commit(oid), Some(record)) = (&job.want, clean)
        && record.sha == oid.to_string()
    {
        return job.unchanged(setup, record);
    }
    let _slot = match &job.via {
        Source::Http(url) => Some(setup.slots.take(&url.authority)),
        _ => None,
    };
    // Waiting for a slot is no network time.
    let deadline = Instant::now() + setup.timeout;
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut attempt = 0;
    loop {
        let fault = match job.attempt(setup, clean.map(|record| record.sha.as_str()), deadline) {
            Ok(Attempt::Same) => return job.unchanged(setup, clean.expect("only a clean place can be the same")),
            Ok(Attempt::New(new)) => return Ok(Progress::Planned { old, new }),
            Ok(Attempt::Staged(staged)) => return Ok(Progress::Staged { old, staged }),
            Err(fault) => fault,
        };
        // What a failed attempt leaves would only fill the disk; the next run sweeps it anyway.
        let _ = place::remove_tree(&job.staging);
        let pause = match fault.retry {
            Retry::Never => return Err(fault),
            Retry::Soon => backoff.next_delay(),
            Retry::After(pause) => pause,
        };
        // The pause may be any number that a server thought of.
        let in_time = Instant::now().checked_add(pause).is_some_and(|end| end < deadline);
        if attempt == setup.retries || !in_time {
            let attempts = attempt + 1;
            let times = if attempts == 1 { String::new() } else { format!(" (after {attempts} attempts)") };
            return Err(Fault { message: format!("{}{times}", fault.message), ..fault });
        }
        attempt += 1;
        std::thread::sleep(pause);
    }
}

enum Attempt {
    Same,
    New(String),
    Staged(Box<Staged>),
}

impl<'a> Job<'a> {
    fn new(setup: &Setup<'_>, repo: &'a Repo, dest: &'a Path, number: usize) -> Result<Self, Fault> {
        let refused = |why: String| Fault::new(Cause::Manifest, why);
        let base = setup.manifest.parent().unwrap_or(Path::new("."));
        let source = Source::parse(&repo.source, base).map_err(refused)?;
        let via = match setup.mirror {
            Some(mirror) => source.mirrored(mirror).map_err(refused)?,
            None => source.clone(),
        };
        if let Source::Other(url) = &via {
            return Err(refused(format!("{} sources are only taken from a mirror", url.scheme))
                .hint("use an https source, or pass --mirror"));
        }
        let mut want = Want::parse(repo.reference.as_deref())?;
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
        Ok(Self { repo, dest, origin: source.to_string(), via, want, locked_tree, staging })
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

    fn attempt(&self, setup: &Setup<'_>, have: Option<&str>, deadline: Instant) -> Result<Attempt, Fault> {
        match &self.via {
            Source::Local(path) => {
                let source = git::open_local(path)?;
                let heads = git::list_local(&source)?;
                let mut target = self.want.find(&heads)?;
                target.oid = git::commit(&source, target.oid)?.id();
                let sha = target.oid.to_string();
                if have == Some(&sha) {
                    return Ok(Attempt::Same);
                }
                if setup.plan {
                    return Ok(Attempt::New(sha));
                }
                match setup.mode {
                    // Nothing needs to be copied but the files.
                    Mode::Export => self.export(setup, &source, &target),
                    Mode::Clone => self.clone(setup, Remote::Local(path), &heads, &target),
                }
            }
            Source::Http(url) => {
                let session = setup.client.session(url, deadline);
                let heads = git::list(&session)?;
                let target = self.want.find(&heads)?;
                let sha = target.oid.to_string();
                if have == Some(&sha) {
                    return Ok(Attempt::Same);
                }
                if setup.plan {
                    return Ok(Attempt::New(sha));
                }
                match setup.mode {
                    Mode::Export => self.fetch_and_export(setup, &session, target),
                    Mode::Clone => self.clone(setup, Remote::Session(&session), &heads, &target),
                }
            }
            Source::Other(_) => unreachable!("refused when the job was made"),
        }
    }

    fn fetch_and_export(&self, setup: &Setup<'_>, session: &Session, mut target: Target) -> Result<Attempt, Fault> {
        let path = self.staging.join("objects.git");
        let store = init(&path, true)?;
        git::fetch_commit(session, &store, &target)?;
        target.oid = git::commit(&store, target.oid)?.id();
        let staged = self.export(setup, &store, &target)?;
        drop(store);
        // The objects have served; flushing them to the disk would be for nothing.
        place::remove_tree(&path).map_err(|err| Fault::disk(&path, &err))?;
        Ok(staged)
    }

    fn export(&self, setup: &Setup<'_>, source: &Repository, target: &Target) -> Result<Attempt, Fault> {
        let tree = tree_of(source, target)?;
        self.check_locked(&tree.id().to_string())?;
        std::fs::create_dir_all(&self.staging).map_err(|err| Fault::disk(&self.staging, &err))?;
        tree::write(source, &tree, self.repo.submodules, &tree_in(&self.staging))?;
        self.staged(setup, target, &tree, None)
    }

    fn clone(&self, setup: &Setup<'_>, from: Remote<'_>, heads: &[Head], target: &Target) -> Result<Attempt, Fault> {
        let path = tree_in(&self.staging);
        let clone = init(&path, false)?;
        let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot set the clone up", &err);
        clone.remote("origin", &self.origin).map_err(fail)?;
        git::fetch_all(from, &clone, heads, target)?;
        let commit = git::commit(&clone, target.oid)?;
        let target = Target { oid: commit.id(), ..target.clone() };
        let tree = tree_of(&clone, &target)?;
        self.check_locked(&tree.id().to_string())?;
        tree::check(&clone, &tree, self.repo.submodules)?;
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
        clone.checkout_tree(commit.as_object(), Some(CheckoutBuilder::new().force())).map_err(fail)?;
        let git = GitDir::read(&path).map_err(|why| Fault::new(Cause::Disk, why))?;
        self.staged(setup, &target, &tree, Some(git))
    }

    fn staged(
        &self,
        setup: &Setup<'_>,
        target: &Target,
        tree: &git2::Tree<'_>,
        git: Option<GitDir>,
    ) -> Result<Attempt, Fault> {
        let record = Record {
            v: Record::version(),
            name: self.repo.name.clone(),
            dest: self.dest.to_owned(),
            source: self.origin.clone(),
            reference: self.repo.reference.clone(),
            sha: target.oid.to_string(),
            tree: tree.id().to_string(),
            mode: setup.mode,
            manifest: setup.manifest.to_owned(),
            git,
            entries: tree::scan(&tree_in(&self.staging))?,
        };
        Ok(Attempt::Staged(Box::new(Staged { directory: self.staging.clone(), record })))
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
