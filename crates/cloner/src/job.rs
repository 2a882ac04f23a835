//! One repository on its way from the manifest to a staged tree: what is wanted, what is there, what is to be done.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use git2::Repository;

use crate::cache::Cache;
use crate::cli::Mode;
use crate::fault::{Cause, Fault};
use crate::fleet::{Fleet, Known};
use crate::git::{Head, Target, Want};
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
    pub(crate) number: usize,
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
    pub(crate) failed: Option<Fault>,
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

/// What a look at the place has come to.
pub(crate) enum Ready<'a> {
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
    pub(crate) fn new(setup: &Setup<'_>, member: &Member<'a>) -> Result<Self, Fault> {
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
    pub(crate) fn look(mut self, setup: &Setup<'_>) -> Result<Ready<'a>, Fault> {
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
    pub(crate) fn decided(&self, setup: &Setup<'_>, known: &Known) -> Option<Result<Progress, Fault>> {
        let target = self.want.find(&known.heads).ok()?;
        let attempt = self.decide(setup, &target)?;
        Some(self.progress(setup, attempt))
    }

    pub(crate) fn progress(&self, setup: &Setup<'_>, attempt: Attempt) -> Result<Progress, Fault> {
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
