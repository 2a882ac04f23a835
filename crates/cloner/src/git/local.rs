//! Repositories of this machine.

use std::path::Path;

use git2::{ObjectType, Oid, Repository};

use super::{Head, unique};
use crate::fault::{Cause, Fault};

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
