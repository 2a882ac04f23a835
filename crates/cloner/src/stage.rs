//! Making a tree in its staging directory: an export, or a clone.

use std::path::Path;

use git2::Repository;

use crate::checkout;
use crate::fault::{Cause, Fault, Retry};
use crate::git::{self, Head, Objects, Remote, Store, Target};
use crate::job::{Attempt, Job, Setup};
use crate::place::{self, Part, Staged, tree_in};
use crate::record::{GitDir, Record};
use crate::submodule::{self, Submodule};
use crate::tree::{self, Written};

impl Job<'_> {
    /// Exports `target` from whichever of `stores` has it.
    pub(crate) fn export_from(&self, setup: &Setup<'_>, stores: &[Store], target: &Target) -> Result<Attempt, Fault> {
        let has = |store: &&Store| target.is_in(store);
        let store = stores.iter().find(has).or(stores.first()).expect("there is one for each target");
        let target = Target { oid: git::commit(store, target.oid)?.id(), ..target.clone() };
        self.export(setup, store.objects(), &target)
    }

    pub(crate) fn export(&self, setup: &Setup<'_>, source: Objects<'_>, target: &Target) -> Result<Attempt, Fault> {
        let tree = tree_of(source.repository, target)?;
        self.check_locked(&tree.id().to_string())?;
        let checked = self.check_signed(source.repository, target)?;
        setup.site.make_stage()?;
        std::fs::create_dir_all(&self.staging).map_err(|err| Fault::disk(&self.staging, &err))?;
        let written = tree::write(source, &tree, &tree_in(&self.staging))?;
        self.staged(setup, target, source, &tree, checked, None, written)
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
        let Some(like) = like.or(self.like.as_deref()) else {
            return self.clone_with(setup, from, heads, target, None);
        };
        match self.clone_with(setup, from, heads, target, Some(like)) {
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
        setup.site.make_stage()?;
        let clone = git::init(&path, false)?;
        let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot set the clone up", &err);
        clone.remote("origin", &self.source.address()).map_err(fail)?;
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
        let (git, written) = checkout::check_out(&clone, &path, &target, &tree)?;
        self.staged(setup, &target, (&clone).into(), &tree, checked, Some(git), written)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own about one tree")]
    fn staged(
        &self,
        setup: &Setup<'_>,
        target: &Target,
        objects: Objects<'_>,
        tree: &git2::Tree<'_>,
        checked: Option<String>,
        git: Option<GitDir>,
        written: Written,
    ) -> Result<Attempt, Fault> {
        let submodules = if self.repo.submodules { self.parts(objects, tree, &written)? } else { Vec::new() };
        let record = Record {
            v: Record::version(),
            name: self.repo.name.clone(),
            dest: self.dest.to_path_buf(),
            source: self.origin(),
            reference: self.repo.reference.clone(),
            sha: target.oid.to_string(),
            tree: tree.id().to_string(),
            mode: setup.mode,
            manifest: setup.manifest.to_owned(),
            checked,
            git,
            submodules: Vec::new(),
            left_out: !self.repo.submodules && !written.submodules.is_empty(),
            directories: written.directories,
            entries: written.entries,
        };
        Ok(Attempt::Staged(Box::new(Staged { directory: self.staging.clone(), record, submodules })))
    }

    /// Finds the submodules that the tree wants.
    fn parts(&self, objects: Objects<'_>, tree: &git2::Tree<'_>, written: &Written) -> Result<Vec<Part>, Fault> {
        let (submodules, chain) = submodule::of_tree(objects, tree, written, &self.source, &self.chain)?;
        let part = |submodule: Submodule| {
            let like = self.like.as_ref().map(|like| like.join("modules").join(&submodule.name));
            let like = like.filter(|like| like.join("HEAD").is_file());
            let shown = format!("{}/{}", self.repo.name, submodule.path);
            Part { submodule, chain: chain.clone(), like, shown }
        };
        Ok(submodules.into_iter().map(part).collect())
    }
}

fn tree_of<'r>(repository: &'r Repository, target: &Target) -> Result<git2::Tree<'r>, Fault> {
    let commit = git::commit(repository, target.oid)?;
    commit.tree().map_err(|err| Fault::git(Cause::Network, &format!("commit {}", target.oid), &err))
}
