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

/// Places what is staged and says what became of each repository.
///
/// Beside the lines come the commits and trees that places now hold, for the lock file.
pub(crate) fn place(
    setup: &Setup<'_>,
    entries: &[Entry],
    results: Vec<Result<Progress, Fault>>,
    hook: Option<&mut Hook>,
    io: &mut Io,
) -> (Vec<Line>, Vec<Option<(String, String)>>) {
    let site = setup.site;
    let changes: Vec<Line> =
        entries.iter().zip(&results).filter_map(|((repo, _), result)| change(repo, result)).collect();
    let mut ways: Vec<Option<Result<Way, Fault>>> =
        results.iter().map(|result| staged(result).map(|staged| site.ready(staged, setup.force))).collect();
    let flushed = if changes.is_empty() { Ok(()) } else { site.flush() };
    let flushed = flushed.and_then(|()| hook.map_or(Ok(()), |hook| hook.announce(&changes.iter().collect::<Vec<_>>())));
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
    let mut lines = Vec::new();
    let mut resolved = vec![None; entries.len()];
    for ((((repo, _), result), way), resolved) in entries.iter().zip(results).zip(ways).zip(&mut resolved) {
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
            Ok(Progress::Staged { old, staged }) => {
                let placed = way.expect("it was made ready").and_then(|way| match &synced {
                    Ok(()) => site.settle(&staged, way),
                    Err(err) => Err(Fault::disk(&site.root, err)),
                });
                match placed {
                    Ok(saved) => {
                        if let Some(saved) = saved {
                            io.warn(format_args!("{}: the old tree is kept in {}", repo.name, saved.display()));
                        }
                        *resolved = Some((staged.record.sha.clone(), staged.record.tree.clone()));
                        placed_line(repo, old, &staged)
                    }
                    Err(fault) => Line::failed(repo, old, fault),
                }
            }
        });
    }
    if !changed.is_empty()
        && let Err(err) = sync_dir(site.records.directory())
    {
        io.warn(format_args!("cannot sync {}: {err}", site.records.directory().display()));
    }
    (lines, resolved)
}

fn staged(result: &Result<Progress, Fault>) -> Option<&Staged> {
    match result {
        Ok(Progress::Staged { staged, .. }) => Some(staged),
        _ => None,
    }
}

/// Returns what will be said of a staged tree when it is placed.
fn change(repo: &Repo, result: &Result<Progress, Fault>) -> Option<Line> {
    match result {
        Ok(Progress::Staged { old, staged }) => Some(placed_line(repo, old.clone(), staged)),
        _ => None,
    }
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
    let records = match site.records.all() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        all => all.map_err(root)?,
    };
    let listed = |dest: &Path| entries.iter().any(|(_, listed)| listed.as_ref().is_ok_and(|listed| listed == dest));
    let gone: Vec<(Record, Repo)> = records
        .into_iter()
        .filter(|record| record.manifest == setup.manifest && !listed(&record.dest))
        .map(|record| {
            let repo = unlisted(&record);
            (record, repo)
        })
        .collect();
    let line = |(record, repo): &(Record, Repo), state| Line::new(repo, state, Some(record.sha.clone()), None);
    if setup.plan {
        return Ok(gone.iter().map(|gone| line(gone, State::WouldPurge)).collect());
    }
    if let Some(hook) = hook {
        let lines: Vec<Line> = gone.iter().map(|gone| line(gone, State::Purged)).collect();
        hook.announce(&lines.iter().collect::<Vec<_>>()).map_err(root)?;
    }
    let purged = gone.iter().map(|gone| match site.purge(&gone.0) {
        Ok(()) => line(gone, State::Purged),
        Err(fault) => Line::failed(&gone.1, Some(gone.0.sha.clone()), fault),
    });
    Ok(purged.collect())
}

/// What the manifest said of a tree that it no longer lists.
fn unlisted(record: &Record) -> Repo {
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
