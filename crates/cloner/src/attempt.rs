//! One attempt to bring all places of a source what they ask for, from one of the places it can come from.
//!
//! The refs are listed once, the objects fetched once, and each place gets its tree. With a cache the objects
//! go through it; where that fails it is done again without, and if that works the cache was to blame.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cache;
use crate::cli::Mode;
use crate::fault::{Cause, Fault};
use crate::fleet::{self, Known};
use crate::git::{self, Head, Remote, Shelf, Store, Target, Want};
use crate::job::{Attempt, Job, Setup};
use crate::place::{self, tree_in};
use crate::program::Program;
use crate::slots::Slot;
use crate::source::{HttpUrl, Mirror, Source};

/// Where a source can be taken from.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    /// From itself, or from the mirror with this number.
    From(Source, Option<usize>),
    /// From the cache alone.
    Cache,
}

/// One attempt for all places of a source.
pub(crate) struct Try<'t> {
    pub(crate) setup: &'t Setup<'t>,
    pub(crate) via: &'t Via,
    pub(crate) known: Option<&'t Known>,
    pub(crate) cache: Option<&'t cache::Entry>,
    pub(crate) deadline: Instant,
}

/// What is left to do after the refs have been looked at.
struct Open<'j, 'a> {
    index: usize,
    job: &'j Job<'a>,
    target: Target,
}

type Results = Vec<Result<Attempt, Fault>>;

impl Try<'_> {
    /// Returns what became of each job, or what failed for all of them.
    pub(crate) fn run(&self, jobs: &[Job<'_>], slot: &mut Option<Slot<'_>>) -> Result<Results, Fault> {
        for job in jobs {
            // What a failed attempt left would only be in the way.
            let _ = job.sweep();
        }
        match self.via {
            Via::From(Source::Local(path), _) => self.local(jobs, path),
            Via::From(Source::Http(url), _) => {
                let session = self.setup.client.session(url, self.deadline);
                let done = self.remote(jobs, Remote::Session(&session), slot);
                if let (Err(fault), Some(slot)) = (&done, slot)
                    && fault.crowded
                {
                    slot.crowded();
                }
                done
            }
            Via::From(Source::Other(url), _) => {
                let program = Program::new(url, self.deadline);
                self.remote(jobs, Remote::Program(&program), slot)
            }
            Via::Cache => self.remote(jobs, Remote::Nothing, slot),
        }
    }

    fn local(&self, jobs: &[Job<'_>], path: &Path) -> Result<Results, Fault> {
        let source = git::open_local(path)?;
        let heads = match self.given() {
            Some(known) => known.heads.clone(),
            None => git::list_local(&source)?,
        };
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
                Mode::Export => job.export(self.setup, (&source).into(), &target),
                Mode::Clone => job.make_clone(self.setup, Remote::Local(path), &heads, &target, None),
            }
        };
        Ok(jobs.iter().map(one).collect())
    }

    fn remote(&self, jobs: &[Job<'_>], remote: Remote<'_>, slot: &mut Option<Slot<'_>>) -> Result<Results, Fault> {
        let heads = self.heads(jobs, remote)?;
        let find = |job: &Job<'_>| {
            let target = job.want.find(&heads).map_err(|fault| match remote {
                // What the cache does not list may well exist.
                Remote::Nothing => git::offline(),
                _ => fault,
            })?;
            Ok(Target { tag: job.tag(&heads, &target), ..target })
        };
        let mut results: Vec<Option<Result<Attempt, Fault>>> = Vec::new();
        let mut open = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            results.push(match find(job) {
                Err(fault) => Some(Err(fault)),
                Ok(target) => match job.decide(self.setup, &target) {
                    Some(attempt) => Some(Ok(attempt)),
                    None => {
                        open.push(Open { index, job, target });
                        None
                    }
                },
            });
        }
        if !open.is_empty() {
            for (open, result) in open.iter().zip(self.bring(remote, &open, &heads, slot)?) {
                results[open.index] = Some(result);
            }
        }
        drop(done(slot));
        Ok(results.into_iter().map(|result| result.expect("each was decided or worked on")).collect())
    }

    /// Returns what refs are, if they are not to be asked for.
    fn given(&self) -> Option<&Known> {
        self.known.filter(|_| self.setup.refs.is_some())
    }

    /// Returns the refs that matter: from an index, from the remote, or from the cache.
    fn heads(&self, jobs: &[Job<'_>], remote: Remote<'_>) -> Result<Vec<Head>, Fault> {
        if let Some(known) = self.given() {
            return Ok(known.heads.clone());
        }
        // A commit that the lock file fixes says nothing of the tag that must be signed.
        let tags = jobs.iter().filter_map(|job| job.signed_tag.as_ref());
        let asked: Vec<&Want> = jobs.iter().map(|job| &job.want).chain(tags).collect();
        if let Some(known) = self.known
            && asked.iter().all(|want| want.find(&known.heads).is_ok())
        {
            return Ok(known.heads.clone());
        }
        if let (Remote::Nothing, Some(cache)) = (remote, self.cache) {
            return Ok(cache.heads().unwrap_or_default());
        }
        let heads = remote.list(&asked, self.setup.mode == Mode::Clone)?;
        if let Some(cache) = self.cache.filter(|_| !self.setup.plan) {
            cache.open().and_then(|_| cache.keep_heads(&heads))?;
        }
        Ok(heads)
    }

    fn bring(
        &self,
        remote: Remote<'_>,
        open: &[Open<'_, '_>],
        heads: &[Head],
        slot: &mut Option<Slot<'_>>,
    ) -> Result<Results, Fault> {
        let Some(cache) = self.cache else { return self.bring_with(None, remote, open, heads, slot) };
        let first = self.bring_with(Some(cache), remote, open, heads, slot);
        let to_blame = |fault: &Fault| matches!(fault.cause, Cause::Disk | Cause::Ref | Cause::Network);
        let suspect = match &first {
            Err(fault) => fault.cause == Cause::Disk,
            Ok(each) => each.iter().any(|result| result.as_ref().is_err_and(to_blame)),
        };
        if matches!(remote, Remote::Nothing) || !suspect {
            return first;
        }
        for open in open {
            open.job.sweep().map_err(|err| Fault::disk(&open.job.staging, &err))?;
        }
        let second = self.bring_with(None, remote, open, heads, slot)?;
        if second.iter().any(Result::is_ok) {
            // If it cannot be moved away now, the next run comes here again.
            let _ = cache.quarantine();
        }
        Ok(second)
    }

    fn bring_with(
        &self,
        cache: Option<&cache::Entry>,
        remote: Remote<'_>,
        open: &[Open<'_, '_>],
        heads: &[Head],
        slot: &mut Option<Slot<'_>>,
    ) -> Result<Results, Fault> {
        match self.setup.mode {
            Mode::Export => self.exports(cache, remote, open, slot),
            Mode::Clone => self.clones(cache, remote, open, heads),
        }
    }

    fn exports(
        &self,
        cache: Option<&cache::Entry>,
        remote: Remote<'_>,
        open: &[Open<'_, '_>],
        slot: &mut Option<Slot<'_>>,
    ) -> Result<Results, Fault> {
        let targets: Vec<Target> = open.iter().map(|open| open.target.clone()).collect();
        let objects = open[0].job.objects();
        let stores = self.fetch(cache, remote, &targets, &objects)?;
        drop(done(slot));
        let _hand = self.setup.hands.take("");
        let results = open.iter().map(|open| open.job.export_from(self.setup, &stores, &open.target)).collect();
        drop(stores);
        // The objects have served; flushing them to the disk would be for nothing.
        place::remove_tree(&objects).map_err(|err| Fault::disk(&objects, &err))?;
        Ok(results)
    }

    fn clones(
        &self,
        cache: Option<&cache::Entry>,
        remote: Remote<'_>,
        open: &[Open<'_, '_>],
        heads: &[Head],
    ) -> Result<Results, Fault> {
        let mut results = Vec::new();
        // Places of the same source take their objects from the first of them, or from the cache.
        let mut first: Option<PathBuf> = None;
        for Open { job, target, .. } in open {
            let made = match cache {
                Some(cache) => {
                    let store = cache.open()?;
                    git::fetch_all(remote, &store, heads, target, &cache.haves(&store))?;
                    job.make_clone(self.setup, Remote::Nothing, heads, target, Some(&cache.path))
                }
                None => job.make_clone(self.setup, remote, heads, target, first.as_deref()),
            };
            match &made {
                Ok(_) => drop(first.get_or_insert(tree_in(&job.staging).join(".git"))),
                Err(fault) if fault.cause == Cause::Network => return Err(fault.clone()),
                Err(_) => {}
            }
            results.push(made);
        }
        Ok(results)
    }

    /// Fetches the commits of `targets`: from the cache, from the mirror's packs, from the remote.
    fn fetch(
        &self,
        cache: Option<&cache::Entry>,
        remote: Remote<'_>,
        targets: &[Target],
        objects: &Path,
    ) -> Result<Vec<Store>, Fault> {
        let made = std::cell::Cell::new(0);
        let disk = || match cache {
            Some(cache) => cache.open(),
            None => {
                self.setup.site.make_stage()?;
                made.set(made.get() + 1);
                git::init(&objects.join(format!("{}.git", made.get())), true)
            }
        };
        let shelf = Shelf { disk: &disk, memory: cache.is_none() };
        let mut stores: Vec<Store> = Vec::new();
        if let Some(cache) = cache {
            stores.push(cache.open()?.into());
        }
        let mut rest = Vec::new();
        for target in targets {
            if stores.iter().any(|store| target.is_in(store)) {
                continue;
            }
            let pack = self.known.and_then(|known| known.pack(target.oid));
            let got = match (pack, self.mirror()) {
                (Some(pack), Some(url)) => fleet::fetch_pack(self.setup.client, url, pack, self.deadline, &shelf),
                _ => Ok(None),
            };
            match got {
                Ok(Some(store)) if target.is_in(&store) => stores.push(store),
                // A mirror that has cleaned up, or a damaged pack: the server itself still has it.
                Ok(_) | Err(_) => rest.push(target.clone()),
            }
        }
        if !rest.is_empty() {
            stores.push(remote.fetch_commits(&rest, &shelf)?);
        }
        Ok(stores)
    }

    /// Returns the address of the mirror that this attempt uses.
    fn mirror(&self) -> Option<&HttpUrl> {
        match self.via {
            Via::From(_, Some(number)) => match &self.setup.fleets[*number].mirror {
                Mirror::Http(url) => Some(url),
                Mirror::Local(_) => None,
            },
            _ => None,
        }
    }
}

/// Notes that the server did its part, and frees its slot.
fn done<'s>(slot: &mut Option<Slot<'s>>) -> Option<Slot<'s>> {
    slot.take().inspect(|slot| slot.went_well())
}
