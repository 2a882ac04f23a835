//! Putting submodules into the tree that has them, before it is placed.
//!
//! Each submodule was staged by itself. Its tree moves over the empty directory that its repository's tree
//! has for it, its files become entries of that tree's record. In a clone its git directory moves to
//! `.git/modules/NAME`, or into that of the submodule that it is in, and git's files that join both are
//! written. A tree of which one submodule failed is not placed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::fault::{Cause, Fault};
use crate::job::Progress;
use crate::place::{Staged, tree_in};
use crate::record::{GitDir, Placed};
use crate::submodule::Submodule;
use crate::tree;

/// A repository or submodule, and the numbers of the submodules in it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) result: Option<Result<Progress, Fault>>,
    pub(crate) parts: Vec<(Submodule, usize)>,
}

/// Returns the first `count` results, with what belongs into them.
pub(crate) fn all(mut nodes: Vec<Node>, count: usize) -> Vec<Result<Progress, Fault>> {
    (0..count).map(|number| whole(&mut nodes, number)).collect()
}

fn whole(nodes: &mut [Node], number: usize) -> Result<Progress, Fault> {
    let result = nodes[number].result.take().expect("every repository was worked on");
    let parts = std::mem::take(&mut nodes[number].parts);
    match result? {
        Progress::Staged { old, mut staged } if !parts.is_empty() => {
            let mut children = Vec::new();
            collect(nodes, parts, "", Path::new(""), &mut children)?;
            join(&mut staged, children)?;
            Ok(Progress::Staged { old, staged })
        }
        progress => Ok(progress),
    }
}

/// A staged submodule and where it goes.
struct Child {
    submodule: Submodule,
    staged: Staged,
    /// Its place in the outermost tree.
    path: PathBuf,
    /// Its git directory, and that of what it is in, below the outermost `.git`.
    git: PathBuf,
    above: PathBuf,
}

/// Lists all that goes into one tree, what is outside before what is in it.
fn collect(
    nodes: &mut [Node],
    parts: Vec<(Submodule, usize)>,
    prefix: &str,
    above: &Path,
    into: &mut Vec<Child>,
) -> Result<(), Fault> {
    for (submodule, number) in parts {
        let path = format!("{prefix}{}", submodule.path);
        let result = nodes[number].result.take().expect("every submodule was worked on");
        let inner = std::mem::take(&mut nodes[number].parts);
        let staged = match result {
            Ok(Progress::Staged { staged, .. }) => *staged,
            Ok(other) => unreachable!("a submodule is staged or has failed, not {other:?}"),
            Err(fault) => {
                return Err(Fault { message: format!("submodule '{path}': {}", fault.message), ..fault });
            }
        };
        let git = above.join("modules").join(&submodule.name);
        let below = format!("{path}/");
        into.push(Child { submodule, staged, path: path.into(), git: git.clone(), above: above.to_owned() });
        collect(nodes, inner, &below, &git, into)?;
    }
    Ok(())
}

fn join(top: &mut Staged, children: Vec<Child>) -> Result<(), Fault> {
    let tree = tree_in(&top.directory);
    let git = tree.join(".git");
    let clone = top.record.git.is_some();
    for child in &children {
        let disk = |err: io::Error| Fault::disk(&tree.join(&child.path), &err);
        let from = tree_in(&child.staged.directory);
        if clone {
            take_git_dir(&from, &git, child).map_err(disk)?;
            name_in_config(&git, child)?;
        }
        // It goes over the empty directory that stands for it.
        fs::rename(&from, tree.join(&child.path)).map_err(disk)?;
        if clone {
            let below = child.path.join(".git");
            let content = format!("gitdir: {}\n", up(&child.path).join(".git").join(&child.git).display());
            let entry = tree::write_own(&tree.join(&below), &below, content.as_bytes()).map_err(disk)?;
            top.record.entries.push(entry);
        }
    }
    let read = |directory: &Path| GitDir::read_at(directory).map_err(|why| Fault::new(Cause::Disk, why));
    let mut directories = top.record.directories.take();
    for child in children {
        let record = child.staged.record;
        directories = directories.zip(record.directories).map(|(mut all, more)| {
            all.extend(more.into_iter().map(|directory| directory.under(&child.path)));
            all
        });
        top.record.entries.extend(record.entries.into_iter().map(|entry| entry.under(&child.path)));
        top.record.submodules.push(Placed {
            path: child.path.display().to_string(),
            source: record.source,
            sha: record.sha,
            git: if clone { Some((child.git.clone(), read(&git.join(&child.git))?)) } else { None },
        });
    }
    if clone {
        top.record.git = Some(read(&git)?);
    }
    tree::sort(&mut top.record.entries);
    // What was brought into them has changed them.
    top.record.directories = directories.and_then(|directories| tree::look_again(&tree, directories));
    Ok(())
}

/// Moves a submodule's git directory to where git looks for it.
fn take_git_dir(from: &Path, git: &Path, child: &Child) -> io::Result<()> {
    let to = git.join(&child.git);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::symlink_metadata(&to).is_ok() {
        return Err(io::Error::other(format!("{} is taken", child.git.display())));
    }
    fs::rename(from.join(".git"), to)
}

/// Writes what `git submodule init` writes, and where the work tree is.
fn name_in_config(git: &Path, child: &Child) -> Result<(), Fault> {
    let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot set the submodule up", &err);
    let name = &child.submodule.name;
    let mut above = git2::Config::open(&git.join(&child.above).join("config")).map_err(fail)?;
    above.set_bool(&format!("submodule.{name}.active"), true).map_err(fail)?;
    above.set_str(&format!("submodule.{name}.url"), &child.submodule.source.address()).map_err(fail)?;
    let mut own = git2::Config::open(&git.join(&child.git).join("config")).map_err(fail)?;
    let work_tree = up(&Path::new(".git").join(&child.git)).join(&child.path);
    own.set_str("core.worktree", &work_tree.display().to_string()).map_err(fail)
}

/// Returns the way from the directory `path` to what it is relative to.
fn up(path: &Path) -> PathBuf {
    path.components().map(|_| "..").collect()
}
