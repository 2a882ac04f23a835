//! The last part of a run: what is staged is placed, and what the manifest no longer lists is removed.

use std::collections::BTreeSet;
use std::path::Path;

use toolkit::Io;
use toolkit::atomic::sync_dir;

use crate::Entry;
use crate::error::Error;
use crate::fault::Fault;
use crate::hook::Hook;
use crate::job::{Progress, Setup};
use crate::manifest::Repo;
use crate::place::{Staged, Way};
use crate::record::Record;
use crate::report::{Line, State};

/// What became of each repository, in the manifest's order.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) lines: Vec<Line>,
    /// The commits and trees that places now hold, for the lock file.
    pub(crate) resolved: Vec<Option<(String, String)>>,
}

/// What became of one staged tree.
pub(crate) enum Placing {
    Done,
    /// It would belong to a set that is not whole.
    Held,
    Failed(Fault),
}

/// Says what became of each repository; `place` is asked for those that were staged.
pub(crate) fn tell(
    entries: &[Entry],
    results: Vec<Result<Progress, Fault>>,
    mut place: impl FnMut(&Repo, &Staged) -> Placing,
) -> Finished {
    let mut lines = Vec::new();
    let mut resolved = vec![None; entries.len()];
    for (((repo, _), result), resolved) in entries.iter().zip(results).zip(&mut resolved) {
        lines.push(match result {
            Err(fault) => Line::failed(repo, None, fault),
            Ok(Progress::Unchanged { sha, tree }) => {
                *resolved = Some((sha.clone(), tree));
                Line::new(repo, State::Unchanged, Some(sha.clone()), Some(sha))
            }
            Ok(Progress::Planned { old, new }) => {
                let state = if old.is_some() { State::WouldUpdate } else { State::WouldPlace };
                Line::new(repo, state, old, Some(new))
            }
            Ok(Progress::Staged { old, staged }) => match place(repo, &staged) {
                Placing::Done => {
                    *resolved = Some((staged.record.sha.clone(), staged.record.tree.clone()));
                    placed_line(repo, old, &staged)
                }
                Placing::Held => {
                    let line = Line::new(repo, State::Held, old, Some(staged.record.sha.clone()));
                    line.message("the set is not changed, because a repository failed")
                }
                Placing::Failed(fault) => Line::failed(repo, old, fault),
            },
        });
    }
    Finished { lines, resolved }
}

/// Places what is staged, each tree by itself; the disk is waited for once for all of them.
pub(crate) fn place(
    setup: &Setup<'_>,
    entries: &[Entry],
    results: Vec<Result<Progress, Fault>>,
    hook: Option<&mut Hook>,
    io: &mut Io,
) -> Finished {
    let site = setup.site;
    let changes = changes(entries, &results);
    let mut ways: Vec<Option<Result<Way, Fault>>> =
        results.iter().map(|result| staged(result).map(|staged| site.ready(staged, setup.force))).collect();
    let flushed = if changes.is_empty() { Ok(()) } else { site.flush() };
    let flushed = flushed.and_then(|()| hook.map_or(Ok(()), |hook| hook.announce(&changes)));
    let mut changed = BTreeSet::new();
    for (way, staged) in ways.iter_mut().zip(results.iter().map(staged)) {
        let (Some(Ok(ready)), Some(staged)) = (&way, staged) else { continue };
        let moved = match &flushed {
            Ok(()) => site.put(staged, ready, &mut changed),
            Err(err) => {
                site.records.withdraw(&staged.record.dest);
                Err(Fault::disk(&site.stage(), err))
            }
        };
        if let Err(fault) = moved {
            *way = Some(Err(fault));
        }
    }
    // If the disk refuses now, what is announced tells the next run what is there.
    let synced = changed.iter().try_for_each(|directory| sync_dir(directory));
    let mut ways = ways.into_iter().flatten();
    tell(entries, results, |repo, staged| {
        let placed = ways.next().expect("each staged tree was made ready").and_then(|way| match &synced {
            Ok(()) => site.settle(staged, way),
            Err(err) => Err(Fault::disk(&site.root, err)),
        });
        match placed {
            Ok(saved) => {
                if let Some(saved) = saved {
                    io.warn(format_args!("{}: the old tree is kept in {}", repo.name, saved.display()));
                }
                Placing::Done
            }
            Err(fault) => Placing::Failed(fault),
        }
    })
}

fn staged(result: &Result<Progress, Fault>) -> Option<&Staged> {
    match result {
        Ok(Progress::Staged { staged, .. }) => Some(staged),
        _ => None,
    }
}

/// Returns what will be said of all staged trees when they are placed.
pub(crate) fn changes(entries: &[Entry], results: &[Result<Progress, Fault>]) -> Vec<Line> {
    let change = |((repo, _), result): (&Entry, &Result<Progress, Fault>)| match result {
        Ok(Progress::Staged { old, staged }) => Some(placed_line(repo, old.clone(), staged)),
        _ => None,
    };
    entries.iter().zip(results).filter_map(change).collect()
}

fn placed_line(repo: &Repo, old: Option<String>, staged: &Staged) -> Line {
    let state = if old.is_some() { State::Updated } else { State::Placed };
    Line::new(repo, state, old, Some(staged.record.sha.clone()))
}

/// Removes what this manifest had placed and no longer lists.
///
/// Called after full success only: a failure may mean that the manifest was not what was meant.
pub(crate) fn purge(setup: &Setup<'_>, entries: &[Entry], hook: Option<&mut Hook>) -> Result<Vec<Line>, Error> {
    let site = setup.site;
    let root = |err: std::io::Error| Error::Root { root: site.root.clone(), message: err.to_string() };
    let (records, lines): (Vec<Record>, Vec<Line>) = gone(setup, entries).map_err(root)?.into_iter().unzip();
    if setup.plan {
        return Ok(lines.into_iter().map(Line::would_purge).collect());
    }
    if let Some(hook) = hook {
        hook.announce(&lines).map_err(root)?;
    }
    let purged = records.iter().zip(lines).map(|(record, line)| match site.purge(record) {
        Ok(()) => line,
        Err(fault) => Line::failed(&unlisted(record), Some(record.sha.clone()), fault),
    });
    Ok(purged.collect())
}

/// Returns what the manifest had placed and no longer lists, and what will be said when it is removed.
pub(crate) fn gone(setup: &Setup<'_>, entries: &[Entry]) -> std::io::Result<Vec<(Record, Line)>> {
    let records = match setup.site.records.all() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        all => all?,
    };
    let listed = |dest: &Path| entries.iter().any(|(_, listed)| listed.as_ref().is_ok_and(|listed| listed == dest));
    let gone = records.into_iter().filter(|record| record.manifest == setup.manifest && !listed(&record.dest));
    let line = |record: &Record| Line::new(&unlisted(record), State::Purged, Some(record.sha.clone()), None);
    Ok(gone.map(|record| (record.clone(), line(&record))).collect())
}

/// What the manifest said of a tree that it no longer lists.
pub(crate) fn unlisted(record: &Record) -> Repo {
    Repo {
        name: record.name.clone(),
        path: record.name.clone(),
        source: record.source.clone(),
        reference: record.reference.clone(),
        dest: record.dest.display().to_string(),
        submodules: true,
        signed: None,
        signers: None,
        at: String::new(),
    }
}
