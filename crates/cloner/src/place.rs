//! Putting a staged tree where readers look for it, in one step.
//!
//! Trees are staged below `<root>/.cloner/stage`, on the file system of their places. A new tree
//! is renamed to its place; one that replaces another is exchanged with it (`RENAME_EXCHANGE`), so
//! a reader sees the old tree or the new one, whole. A process that dies leaves either, and what
//! is left in the staging directory is removed by the next run, which holds the same lock.
//!
//! All trees of a run are placed together, so that few waits for the disk serve for many: the
//! announced records and the trees are flushed, then every tree is moved, then the directories are
//! synced, then the records are confirmed. That the last step reaches the disk is not waited for: an
//! announced record that describes what is there is as good.
//!
//! What cloner did not place is never deleted: it is refused, or with `--force` it changes places
//! with the new tree in `<root>/.cloner/saved`, where it stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::time::ClockId;
use toolkit::atomic::sync_dir;

use crate::dest;
use crate::fault::{Cause, Fault};
use crate::record::{Occupied, Record, Records};
use crate::submodule::{Chain, Submodule};
use crate::tree::Depth;

/// The directories of one root that cloner works in.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) records: Records,
}

/// A tree that is ready to be placed.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Holds the tree and whatever was needed to make it; removed in the end.
    pub(crate) directory: PathBuf,
    pub(crate) record: Record,
    /// What is yet to be brought into it.
    pub(crate) submodules: Vec<Part>,
}

/// A submodule on its way into a tree.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) submodule: Submodule,
    /// What lies above it.
    pub(crate) chain: Chain,
    /// A git directory whose objects it may share.
    pub(crate) like: Option<PathBuf>,
    /// What messages call it.
    pub(crate) shown: String,
}

impl Staged {
    pub(crate) fn tree(&self) -> PathBuf {
        tree_in(&self.directory)
    }
}

/// How a tree comes to its place.
#[derive(Debug)]
pub(crate) enum Way {
    /// To an empty place, or over what was recorded there.
    Over(Option<Box<Record>>),
    /// Over what must be kept, which goes here.
    Save(PathBuf),
}

/// Where a tree lies in its staging directory.
pub(crate) fn tree_in(directory: &Path) -> PathBuf {
    directory.join("tree")
}

impl Site {
    pub(crate) fn new(root: PathBuf) -> Self {
        let state = root.join(dest::STATE_DIR);
        Self { records: Records::new(&state), root, state }
    }

    pub(crate) fn stage(&self) -> PathBuf {
        self.state.join("stage")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Makes what a stopped run left behind consistent and creates what is missing; the lock is held.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        remove_tree(&self.stage())?;
        if !self.records.directory().is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(self.records.directory())?;
            sync_dir(&self.state)?;
        }
        for directory in [&self.state, self.records.directory()] {
            toolkit::atomic::sweep(directory)?;
        }
        Ok(())
    }

    /// Makes the directory for what is staged, which a run that changes nothing does not need.
    pub(crate) fn make_stage(&self) -> Result<(), Fault> {
        match fs::DirBuilder::new().mode(0o700).create(self.stage()) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(Fault::disk(&self.stage(), &err)),
            _ => Ok(()),
        }
    }

    /// Writes everything staged to the disk, before anything refers to it. What changes afterwards has later times than
    /// what was recorded, on which [`tree::is_untouched`](crate::tree::is_untouched) relies.
    pub(crate) fn flush(&self) -> io::Result<()> {
        // File systems take their times from this clock, which moves every few milliseconds.
        let clock = || ClockId::CLOCK_REALTIME_COARSE.now();
        let begun = clock()?;
        nix::unistd::syncfs(File::open(&self.state)?)?;
        while clock()? == begun {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Makes ready for a staged tree to be moved to its place: looks at what is there and announces what will be.
    /// Nothing may be moved before [`Self::flush`].
    pub(crate) fn ready(&self, staged: &Staged, force: bool) -> Result<Way, Fault> {
        let record = &staged.record;
        let place = self.root.join(&record.dest);
        let disk = |err: io::Error| Fault::disk(&place, &err);
        // Long may have passed since the first look: the network was in between.
        dest::check_path(&self.root, &record.dest).map_err(|why| Fault::new(Cause::LocalChanges, why))?;
        let occupied = self.records.look(&self.root, &record.dest, Depth::Stat).map_err(disk)?;
        let way = match occupied {
            Occupied::Clean(before) => Way::Over(Some(before)),
            Occupied::No => Way::Over(None),
            Occupied::Changed(..) | Occupied::Foreign if force => Way::Save(self.saved(&record.dest).map_err(disk)?),
            Occupied::Changed(_, changes) => return Err(changed(&changes)),
            Occupied::Foreign => return Err(foreign()),
        };
        self.make_parents(place.parent().expect("a dest lies below the root")).map_err(disk)?;
        self.records.draft(record).map_err(disk)?;
        Ok(way)
    }

    /// Moves a staged tree to its place, in one step for readers. Adds the directories whose change must reach the
    /// disk before [`Self::settle`].
    pub(crate) fn put(&self, staged: &Staged, way: &Way, changed: &mut BTreeSet<PathBuf>) -> Result<(), Fault> {
        let place = self.root.join(&staged.record.dest);
        let moved = match way {
            // The new tree goes to where the old one is to be kept, then both change places: the old
            // one is at no time where a sweep finds it.
            Way::Save(saved) => fs::rename(staged.tree(), saved).and_then(|()| {
                exchange(saved, &place).inspect_err(|_| {
                    // Back to where the sweep removes it; if that fails too it is only litter.
                    let _ = fs::rename(saved, staged.tree());
                })
            }),
            Way::Over(_) => match fs::symlink_metadata(&place) {
                Ok(_) => exchange(&staged.tree(), &place),
                Err(_) => rename_new(&staged.tree(), &place),
            },
        };
        if let Err(err) = moved {
            self.records.withdraw(&staged.record.dest);
            return Err(cross_device(Fault::disk(&place, &err)));
        }
        changed.extend(place.parent().map(Path::to_owned));
        if let Way::Save(saved) = way {
            changed.extend(saved.parent().map(Path::to_owned));
        }
        Ok(())
    }

    /// Notes that a tree is in its place. Returns where the tree that was in the way is kept, if it is.
    pub(crate) fn settle(&self, staged: &Staged, way: Way) -> Result<Option<PathBuf>, Fault> {
        let record = &staged.record;
        let disk = |err: io::Error| Fault::disk(&self.root.join(&record.dest), &err);
        self.records.confirm_draft(&record.dest).map_err(disk)?;
        let before = match way {
            Way::Save(saved) => return Ok(Some(saved)),
            Way::Over(None) => return Ok(None),
            Way::Over(Some(before)) => before,
        };
        // Somebody may have written into the old tree up to the exchange.
        match before.changes(&staged.tree(), Depth::Stat) {
            Ok(changes) if changes.is_empty() => Ok(None),
            _ => {
                let saved = self.saved(&record.dest).map_err(disk)?;
                fs::rename(staged.tree(), &saved).map_err(disk)?;
                Ok(Some(saved))
            }
        }
    }

    /// Removes a place that is as it was recorded; a changed one is refused.
    pub(crate) fn purge(&self, record: &Record) -> Result<(), Fault> {
        let place = self.root.join(&record.dest);
        let disk = |err: io::Error| Fault::disk(&place, &err);
        // The record may have been tampered with: it is judged like a manifest's dest.
        let text = record.dest.to_str().ok_or_else(|| Fault::new(Cause::Manifest, "the place is not UTF-8"))?;
        let dest = dest::parse(text, &self.root).map_err(|why| Fault::new(Cause::Manifest, why))?;
        dest::check_path(&self.root, &dest).map_err(|why| Fault::new(Cause::LocalChanges, why))?;
        match self.records.look(&self.root, &dest, Depth::Stat).map_err(disk)? {
            Occupied::No => {}
            Occupied::Clean(_) => {
                self.make_stage()?;
                let grave = free(&self.stage().join("purged"));
                rename_new(&place, &grave).map_err(|err| cross_device(disk(err)))?;
                sync_dir(place.parent().expect("a dest lies below the root")).map_err(disk)?;
                // Changed up to the last moment: back, if the place is still free.
                if !record.changes(&grave, Depth::Stat).map_err(disk)?.is_empty() {
                    rename_new(&grave, &place).map_err(disk)?;
                    return Err(Fault::new(Cause::LocalChanges, "changed while it was to be removed"));
                }
            }
            Occupied::Changed(_, changes) => {
                return Err(Fault::new(Cause::LocalChanges, format!("not removed: {}", summary(&changes)))
                    .hint("remove it by hand if it is not needed"));
            }
            Occupied::Foreign => return Err(foreign()),
        }
        self.records.forget(&dest).map_err(disk)
    }

    /// Returns a free path to keep what was at `dest`.
    pub(crate) fn saved(&self, dest: &Path) -> io::Result<PathBuf> {
        let directory = self.state.join("saved");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let flat = dest.to_string_lossy().replace('/', "_");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        Ok(free(&directory.join(format!("{flat}.{now}"))))
    }

    fn make_parents(&self, parent: &Path) -> io::Result<()> {
        if parent.is_dir() {
            return Ok(());
        }
        let above = parent.parent().expect("the root exists, so the recursion ends there");
        self.make_parents(above)?;
        fs::DirBuilder::new().mode(0o755).create(parent)?;
        // The umask may have taken bits away that readers need.
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        sync_dir(above)
    }
}

/// Returns `path`, or the first of `path.1`, `path.2`, … that does not exist. The lock is held, so it stays free.
fn free(path: &Path) -> PathBuf {
    let numbered = |number: usize| PathBuf::from(format!("{}.{number}", path.display()));
    std::iter::once(path.to_owned())
        .chain((1..).map(numbered))
        .find(|path| fs::symlink_metadata(path).is_err())
        .expect("one of endlessly many is free")
}

/// The failure for a place that holds something else.
pub(crate) fn foreign() -> Fault {
    Fault::new(Cause::LocalChanges, "the place is not empty and cloner did not fill it")
        .hint("--force moves what is there to .cloner/saved below the root")
}

/// The failure for a place that somebody works in.
pub(crate) fn changed(changes: &[String]) -> Fault {
    Fault::new(Cause::LocalChanges, summary(changes))
        .hint("--force moves the changed tree to .cloner/saved below the root")
}

/// Names the first few changes.
pub(crate) fn summary(changes: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = changes[..changes.len().min(SHOWN)].join(", ");
    if changes.len() > SHOWN {
        text.push_str(&format!(" and {} more", changes.len() - SHOWN));
    }
    text
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE)?)
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?)
}

fn cross_device(fault: Fault) -> Fault {
    fault.hint(
        "the place and the root must be on one file system that can exchange directories; \
         a tree in the lower layer of an overlay cannot be exchanged and must be removed first (--generations replaces no tree)",
    )
}

/// Removes a tree that may be missing.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
