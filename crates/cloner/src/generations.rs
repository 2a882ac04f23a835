//! `--generations`: the whole set at once, and a way back.
//!
//! `<root>/current` is a link to `generations/NUMBER`, which holds every place of the set; records are
//! in `<root>/.cloner/generations/NUMBER`. A run works beside all this: trees that stay are linked
//! into a new generation file by file, new ones are moved into it, everything is flushed, and one
//! rename of the link makes it current. If a single repository fails nothing changes. `--rollback`
//! points the link at the generation before.
//!
//! What always holds: `current` leads to a whole set, of which all trees belong together; a reader that
//! resolves the link once (`cd -P current`) reads one set for as long as that generation is kept. A
//! generation counts when both its tree and its records are in place; a half one is removed by the
//! next run, which holds the root's lock.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use toolkit::Io;
use toolkit::atomic::sync_dir;

use crate::Entry;
use crate::fault::Fault;
use crate::finish::{self, Finished, Placing};
use crate::hook::Hook;
use crate::job::{Progress, Setup};
use crate::place::{self, Site};
use crate::record::{Record, Records};
use crate::report::{Line, State};
use crate::tree::{self, Depth};

const CURRENT: &str = "current";
const TREES: &str = "generations";

/// The generations of one root.
#[derive(Debug, Clone)]
pub(crate) struct Generations {
    root: PathBuf,
    state: PathBuf,
}

impl Generations {
    pub(crate) fn of(site: &Site) -> Self {
        Self { root: site.root.clone(), state: site.state.clone() }
    }

    fn tree(&self, number: u64) -> PathBuf {
        self.root.join(TREES).join(number.to_string())
    }

    fn records(&self, number: u64) -> PathBuf {
        self.state.join(TREES).join(number.to_string())
    }

    /// Returns the number of the current generation; none if there is none yet.
    pub(crate) fn current(&self) -> io::Result<Option<u64>> {
        let link = self.root.join(CURRENT);
        match fs::read_link(&link) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(_) => Err(self.foreign()),
            Ok(target) => {
                let number = target.strip_prefix(TREES).ok().and_then(Path::to_str).and_then(|text| text.parse().ok());
                match number {
                    Some(number) if self.tree(number).is_dir() && self.records(number).is_dir() => Ok(Some(number)),
                    _ => Err(self.foreign()),
                }
            }
        }
    }

    fn foreign(&self) -> io::Error {
        let message = format!("{} is not a link to a generation that cloner made", self.root.join(CURRENT).display());
        io::Error::other(message)
    }

    /// Returns the site of the current generation: its places and records, with the state of the root.
    pub(crate) fn view(&self) -> io::Result<Site> {
        // Number 0 is never made: nothing is there, and nothing is recorded.
        let number = self.current()?.unwrap_or(0);
        Ok(Site { root: self.tree(number), state: self.state.clone(), records: Records::at(&self.records(number)) })
    }

    /// Lists the generations, oldest first.
    fn all(&self) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<u64> = numbers(&self.root.join(TREES))?;
        numbers.retain(|number| self.records(*number).is_dir());
        Ok(numbers)
    }

    /// Removes half made generations and makes the directories; the lock is held.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        tree::make_dirs(&self.root, Path::new(TREES))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.state.join(TREES))?;
        for number in numbers(&self.state.join(TREES))? {
            if !self.tree(number).is_dir() {
                place::remove_tree(&self.records(number))?;
            }
        }
        for number in numbers(&self.root.join(TREES))? {
            if !self.records(number).is_dir() {
                place::remove_tree(&self.tree(number))?;
            }
        }
        Ok(())
    }

    /// Makes a generation of what was staged and what stays, and makes it the current one.
    pub(crate) fn publish(
        &self,
        setup: &Setup<'_>,
        entries: &[Entry],
        results: Vec<Result<Progress, Fault>>,
        purge: bool,
        hook: Option<&mut Hook>,
        io: &mut Io,
    ) -> Finished {
        let found = if purge && !entries.is_empty() { finish::gone(setup, entries) } else { Ok(Vec::new()) };
        let gone = match found {
            Ok(gone) => gone,
            Err(err) => {
                let fault = Fault::disk(setup.site.records.directory(), &err);
                return finish::tell(entries, results, |_, _| Placing::Failed(fault.clone()));
            }
        };
        let failed = results.iter().any(Result::is_err);
        let (gone, purged): (Vec<Record>, Vec<Line>) = gone.into_iter().unzip();
        let mut changes = finish::changes(entries, &results);
        changes.extend(purged.iter().cloned());
        if failed || setup.plan || changes.is_empty() {
            let mut finished = finish::tell(entries, results, |_, _| Placing::Held);
            if setup.plan && !failed {
                finished.lines.extend(purged.into_iter().map(Line::would_purge));
            }
            return finished;
        }
        match self.switch(setup, entries, &results, &gone, hook, &changes) {
            Ok(number) => {
                io.note(format_args!("generation {number} is current"));
                let mut finished = finish::tell(entries, results, |_, _| Placing::Done);
                finished.lines.extend(purged);
                finished
            }
            Err(fault) => {
                io.error(format_args!("the set is not changed: {}", fault.message));
                finish::tell(entries, results, |_, _| Placing::Failed(fault.clone()))
            }
        }
    }

    fn switch(
        &self,
        setup: &Setup<'_>,
        entries: &[Entry],
        results: &[Result<Progress, Fault>],
        gone: &[Record],
        hook: Option<&mut Hook>,
        changes: &[Line],
    ) -> Result<u64, Fault> {
        let base = setup.site;
        let next = base.stage().join("next");
        let (trees, records) = (next.join("tree"), next.join("records"));
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |err: io::Error| Fault::disk(&path, &err)
        };
        base.make_stage()?;
        fs::create_dir_all(&next).map_err(disk(&next))?;
        fs::DirBuilder::new().mode(0o700).create(&records).map_err(disk(&records))?;
        tree::make_dir(&trees).map_err(disk(&trees))?;
        let new = Records::at(&records);
        let mut done: Vec<&Path> = gone.iter().map(|record| record.dest.as_path()).collect();
        for ((_, dest), result) in entries.iter().zip(results) {
            let (Ok(dest), Ok(Progress::Staged { staged, .. })) = (dest, result) else { continue };
            let to = trees.join(dest);
            tree::make_dirs(&trees, dest.parent().unwrap_or(Path::new(""))).map_err(disk(&to))?;
            fs::rename(staged.tree(), &to).map_err(disk(&to))?;
            new.write(&staged.record).map_err(disk(&records))?;
            done.push(dest);
        }
        let before = match base.records.all() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
            all => all.map_err(disk(base.records.directory()))?,
        };
        for record in before.into_iter().filter(|record| !done.contains(&record.dest.as_path())) {
            let (from, to) = (base.root.join(&record.dest), trees.join(&record.dest));
            if !from.is_dir() {
                continue;
            }
            tree::make_dirs(&trees, record.dest.parent().unwrap_or(Path::new(""))).map_err(disk(&to))?;
            let directories = record.directories.clone();
            let (entries, directories) = tree::share(&from, &to, &record.entries, directories).map_err(disk(&to))?;
            new.write(&Record { entries, directories, ..record }).map_err(disk(&records))?;
        }
        base.flush().map_err(disk(&next))?;
        if let Some(hook) = hook {
            hook.announce(changes).map_err(disk(&self.state))?;
        }
        let number = self.all().map_err(disk(&self.root))?.last().map_or(1, |last| last + 1);
        let (to_records, to_tree) = (self.records(number), self.tree(number));
        fs::rename(&records, &to_records).map_err(disk(&to_records))?;
        sync_dir(&self.state.join(TREES)).map_err(disk(&to_records))?;
        fs::rename(&trees, &to_tree).map_err(disk(&to_tree))?;
        sync_dir(&self.root.join(TREES)).map_err(disk(&to_tree))?;
        self.point(number).map_err(disk(&self.root.join(CURRENT)))?;
        Ok(number)
    }

    /// Makes `number` the current generation, in one step.
    fn point(&self, number: u64) -> io::Result<()> {
        let link = self.state.join("stage").join(CURRENT);
        fs::create_dir_all(self.state.join("stage"))?;
        std::os::unix::fs::symlink(Path::new(TREES).join(number.to_string()), &link)?;
        fs::rename(&link, self.root.join(CURRENT))?;
        sync_dir(&self.root)
    }

    /// Removes all but the newest `keep` generations and the current one. What somebody changed in one
    /// that goes is moved aside first.
    pub(crate) fn prune(&self, keep: usize, io: &mut Io) -> io::Result<()> {
        let (all, current) = (self.all()?, self.current()?);
        let old = all.len().saturating_sub(keep);
        for number in all.into_iter().take(old).filter(|number| Some(*number) != current) {
            let root = self.tree(number);
            let site =
                Site { root: root.clone(), state: self.state.clone(), records: Records::at(&self.records(number)) };
            for record in site.records.all()? {
                let place = root.join(&record.dest);
                if place.is_dir() && record.changes(&place, Depth::Stat).is_ok_and(|changes| changes.is_empty()) {
                    continue;
                }
                if fs::symlink_metadata(&place).is_ok() {
                    let saved = site.saved(&record.dest)?;
                    fs::rename(&place, &saved)?;
                    io.warn(format_args!("{}: a changed tree is kept in {}", record.name, saved.display()));
                }
            }
            // Without its tree it is half a generation, whatever happens next.
            fs::create_dir_all(self.state.join("stage"))?;
            let grave = self.state.join("stage").join(format!("generation-{number}"));
            fs::rename(&root, &grave)?;
            place::remove_tree(&self.records(number))?;
            place::remove_tree(&grave)?;
        }
        Ok(())
    }

    /// Points back at the generation before; returns its number, the one that was current, and what differs.
    pub(crate) fn rollback(&self) -> io::Result<Option<Rollback>> {
        let current = self.current()?;
        let before = current.and_then(|current| self.all().ok()?.into_iter().rev().find(|number| *number < current));
        let (Some(from), Some(to)) = (current, before) else { return Ok(None) };
        let records = |number| Records::at(&self.records(number)).all();
        let (now, then) = (records(from)?, records(to)?);
        let find = |records: &[Record], dest: &Path| records.iter().find(|record| record.dest == dest).cloned();
        let mut lines = Vec::new();
        for record in &then {
            let repo = finish::unlisted(record);
            let new = Some(record.sha.clone());
            match find(&now, &record.dest) {
                Some(was) if was.sha == record.sha && was.source == record.source => {}
                Some(was) => lines.push(Line::new(&repo, State::Updated, Some(was.sha), new)),
                None => lines.push(Line::new(&repo, State::Placed, None, new)),
            }
        }
        for record in now.iter().filter(|record| find(&then, &record.dest).is_none()) {
            lines.push(Line::new(&finish::unlisted(record), State::Purged, Some(record.sha.clone()), None));
        }
        Ok(Some(Rollback { from, to, lines }))
    }

    /// Does what [`Self::rollback`] has found.
    pub(crate) fn back(&self, rollback: &Rollback) -> io::Result<()> {
        self.point(rollback.to)
    }
}

/// A way back.
#[derive(Debug)]
pub(crate) struct Rollback {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) lines: Vec<Line>,
}

/// The numbers that are names in `directory`, in order.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        // Only the one way of writing a number is ours.
        let name = entry?.file_name().into_string().unwrap_or_default();
        numbers.extend(name.parse::<u64>().ok().filter(|number| number.to_string() == name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
