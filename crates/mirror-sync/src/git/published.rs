//! Static forms of repositories, for clients that no git process is to answer.
//!
//! A repository's bundle, `PATH.bundle` beside `PATH.git`, is one file with all branches and tags: `git clone FILE`, and
//! whatever carries files. A pack, `packs/SHA256.pack`, is one commit that the manifest asks for with everything in its
//! tree, without parents: with the refs index, [`cloner`] gets a new version by two requests. Both are made when what they
//! hold has changed, appear whole, and are known by digests in the source's state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cloner::refsindex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Git;
use crate::config::{Config, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::Repo;
use crate::state::State;
use crate::store::Store;

/// Directory of the packs below `ROOT/git`.
pub(crate) const PACKS: &str = "packs";

/// The static forms of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forms {
    /// Digest of the refs that the bundle holds.
    pub(crate) refs: Option<Digest>,
    /// The bundle; absent: there are no refs.
    pub(crate) bundle: Option<Content>,
    /// Packs by what a ref of the manifest means: a branch's commit, a tag, a commit.
    pub(crate) packs: BTreeMap<String, Pack>,
}

/// A file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    pub(crate) sha256: Digest,
    pub(crate) size: u64,
}

/// A pack and the commit in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pack {
    pub(crate) commit: String,
    pub(crate) sha256: Digest,
    pub(crate) size: u64,
}

/// Static forms by the path of their repository.
pub(crate) type AllForms = BTreeMap<String, Forms>;

/// Returns the static forms that the states of all sources know.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn known(store: &Store, config: &Config) -> Result<AllForms> {
    let mut all = AllForms::new();
    for source in config.sources.iter().filter(|source| matches!(source, Source::Git(_))) {
        if let Some(State::Git(state)) = State::load(store, source)? {
            for (path, forms) in state.forms {
                let known: &mut Forms = all.entry(path).or_default();
                known.refs = forms.refs;
                known.bundle = forms.bundle;
                known.packs.extend(forms.packs);
            }
        }
    }
    Ok(all)
}

/// Returns where the bundle of a repository is: `HOST…/PATH.bundle` for `HOST…/PATH.git`.
pub(crate) fn bundle_path(path: &str) -> String {
    format!("{}.bundle", path.strip_suffix(".git").unwrap_or(path))
}

fn is_there(path: &Path, size: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

/// Returns a file's digest and length.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn content(path: &Path) -> Result<Content> {
    let mut file = files::open_regular(path).map_err(Error::read(path))?;
    let mut hasher = Sha256::new();
    let size = io::copy(&mut file, &mut hasher).map_err(Error::read(path))?;
    Ok(Content { sha256: Digest::finish(hasher), size })
}

impl Git<'_> {
    /// Writes `ROOT/git/refs.index`: what all repositories point at, in one file, for clients that only want to know
    /// whether something is new. It is made of what is there, so one that a killed run left behind is mended.
    ///
    /// # Errors
    /// [`Error::Rejected`]; [`Error::Write`].
    pub(crate) fn write_index(&self, paths: &[String], forms: &AllForms, jobs: usize) -> Result<()> {
        let local = |path: &String| Ok(super::repo(path, self.local(&self.directory(path))?));
        let repos = crate::parallel::map(jobs, paths, local).into_iter().collect::<Result<Vec<Repo>>>()?;
        let mut entries = Vec::with_capacity(repos.len());
        for repo in &repos {
            let Some(mut entry) = repo.index() else { continue };
            for pack in forms.get(&repo.path).into_iter().flat_map(|forms| forms.packs.values()) {
                let published = refsindex::Pack { digest: pack.sha256.to_string(), bytes: pack.size };
                entry.packs.insert(pack.commit.clone(), published);
            }
            entries.push((repo.path.as_str(), entry));
        }
        let text = refsindex::write(entries.iter().map(|(path, refs)| (*path, refs)))
            .map_err(|why| Error::rejected(refsindex::FILE, why))?;
        let file = self.store.path("git").join(refsindex::FILE);
        toolkit::atomic::write(&file, text.as_bytes(), 0o644).map(|_| ()).map_err(Error::write(&file))
    }

    fn pack_file(&self, sha256: &Digest) -> PathBuf {
        self.store.path("git").join(refsindex::pack_path(sha256.as_str()))
    }

    /// Makes the static forms of a repository that are not there yet. `wanted` are the refs that the manifest names; none
    /// of them is HEAD.
    ///
    /// # Errors
    /// [`Error::Rejected`] with git's words; [`Error::Write`].
    pub(crate) fn publish(&self, repo: &Repo, wanted: &BTreeSet<Option<String>>, before: &Forms) -> Result<Forms> {
        let mut text = repo.head.clone().unwrap_or_default();
        for (name, target) in &repo.refs {
            let _ = write!(text, "\n{target} {name}");
        }
        let refs = Some(Digest::of(text.as_bytes()));
        let file = self.store.path("git").join(bundle_path(&repo.path));
        let current = before.refs == refs && before.bundle.as_ref().is_none_or(|bundle| is_there(&file, bundle.size));
        let bundle = if current { before.bundle.clone() } else { self.write_bundle(repo, &file)? };
        let mut packs = BTreeMap::new();
        for target in targets(repo, wanted) {
            let known = before.packs.get(&target).filter(|pack| is_there(&self.pack_file(&pack.sha256), pack.size));
            let pack = match known {
                Some(pack) => Some(pack.clone()),
                None => self.write_pack(repo, &target)?,
            };
            packs.extend(pack.map(|pack| (target, pack)));
        }
        Ok(Forms { refs, bundle, packs })
    }

    fn write_bundle(&self, repo: &Repo, file: &Path) -> Result<Option<Content>> {
        if repo.refs.is_empty() {
            files::remove(file)?;
            return Ok(None);
        }
        let work = self.store.temporary("bundle");
        let mut create = self.command(Some(&self.directory(&repo.path)), None);
        create.args(["bundle", "create", "--quiet"]).arg(&work);
        // What a clone of it begins with.
        if repo.head.as_ref().is_some_and(|head| repo.refs.contains_key(head)) {
            create.arg("HEAD");
        }
        create.args(["--branches", "--tags"]);
        self.run(create, None, self.limits.total).map_err(|message| Error::rejected(&repo.path, message))?;
        self.place_file(&work, file).map(Some)
    }

    /// Writes the pack of one commit; `None` when the target is none.
    fn write_pack(&self, repo: &Repo, target: &str) -> Result<Option<Pack>> {
        let directory = self.directory(&repo.path);
        let mut peel = self.command(Some(&directory), None);
        peel.args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{target}^{{commit}}")]);
        let Ok(commit) = self.run(peel, None, super::run::LOCAL) else { return Ok(None) };
        let commit = commit.trim().to_owned();
        // The index of packs knows SHA-1 ids alone.
        if commit.len() != 40 {
            return Ok(None);
        }
        let failed = |message| Error::rejected(&repo.path, message);
        let mut list = self.command(Some(&directory), None);
        list.args(["rev-list", "--objects", "--no-walk", &commit]);
        let objects = self.run(list, None, self.limits.total).map_err(failed)?;
        let work = self.store.temporary("pack");
        files::make_dir(&work)?;
        let mut pack = self.command(Some(&directory), None);
        pack.args(["pack-objects", "-q", "--delta-base-offset"]).arg(work.join("pack"));
        let name = self.run(pack, Some(objects.into_bytes()), self.limits.total).map_err(failed)?;
        let made = work.join(format!("pack-{}.pack", name.trim()));
        let Content { sha256, size } = content(&made)?;
        self.place_file(&made, &self.pack_file(&sha256))?;
        files::remove(&work)?;
        Ok(Some(Pack { commit, sha256, size }))
    }

    /// Gives a finished file its name.
    fn place_file(&self, work: &Path, file: &Path) -> Result<Content> {
        let content = content(work)?;
        let parent = file.parent().expect("a file of the mirror has a directory");
        files::make_dir(parent)?;
        File::open(work).and_then(|work| work.sync_all()).map_err(Error::write(work))?;
        fs::set_permissions(work, std::os::unix::fs::PermissionsExt::from_mode(0o444)).map_err(Error::write(work))?;
        fs::rename(work, file).map_err(Error::write(file))?;
        toolkit::atomic::sync_dir(parent).map_err(Error::write(parent))?;
        Ok(content)
    }
}

/// Returns what the refs of a manifest mean in a repository. A name may be that of a branch and of a tag.
fn targets(repo: &Repo, wanted: &BTreeSet<Option<String>>) -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    for name in wanted {
        let Some(name) = name else {
            targets.extend(repo.head.as_ref().and_then(|head| repo.refs.get(head)).cloned());
            continue;
        };
        for full in [name.clone(), format!("refs/heads/{name}"), format!("refs/tags/{name}")] {
            targets.extend(repo.refs.get(&full).cloned());
        }
        if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            targets.insert(name.to_ascii_lowercase());
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_what_the_repository_has_of_it() {
        let id = |digit: &str| digit.repeat(40);
        let refs = [("refs/heads/main", "1"), ("refs/heads/v1", "2"), ("refs/tags/v1", "3")];
        let repo = Repo {
            path: "h/a.git".into(),
            head: Some("refs/heads/main".into()),
            refs: refs.iter().map(|(name, digit)| ((*name).to_owned(), id(digit))).collect(),
            peeled: BTreeMap::new(),
        };
        let of = |name: Option<&str>| {
            targets(&repo, &BTreeSet::from([name.map(str::to_owned)])).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of(None), [id("1")]);
        assert_eq!(of(Some("main")), [id("1")]);
        assert_eq!(of(Some("v1")), [id("2"), id("3")]);
        assert_eq!(of(Some("refs/tags/v1")), [id("3")]);
        assert_eq!(of(Some(&id("A"))), [id("a")]);
        assert_eq!(of(Some("--none")), Vec::<String>::new());
        assert_eq!(bundle_path("h/a.git"), "h/a.bundle");
    }
}
