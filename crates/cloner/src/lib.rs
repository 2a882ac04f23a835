//! Brings the git repositories of a manifest to this machine, in parallel and exactly.
//!
//! A run has three parts. First the manifest is read, overridden and expanded, and places that
//! cannot both be are refused ([`manifest`]). Then, for all repositories at once, the wanted ref is
//! resolved to a commit and its tree is staged beside the places. Last, everything staged is
//! written to the disk together and each tree is put in its place in one step.
//!
//! What always holds:
//! - Afterwards each dest holds exactly the resolved commit, or is untouched and named with a cause.
//! - Readers of a dest see the old tree or the new one, whole, also when the process is killed.
//! - One run at a time works on a root (`<root>/.cloner/lock`).
//! - What cloner did not write is never deleted.
//! - No hook, filter or other program is run, no configuration of git is read, and credentials
//!   appear in no output, file or URL that libgit2 sees.
//! - Every wait on the network ends with the repository's time limit.
//!
//! Exit codes: 0 all placed; 1 some failed or, with `--status` and `--verify`, differ; 2 usage or
//! an unknown override; 65 manifest; 73 root not writable; 75 another run holds the root.

pub mod cli;
mod credential;
mod dest;
mod error;
mod fault;
mod fleet;
mod git;
mod http;
mod job;
mod lockfile;
pub mod manifest;
mod nearest;
mod netrc;
mod pack;
mod pktline;
mod place;
mod record;
pub mod refsindex;
mod report;
mod slots;
pub mod source;
mod transport;
mod tree;
mod v2;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use toolkit::lock::FileLock;
use toolkit::{Io, dirs, exit};

use crate::cli::Cli;
pub use crate::error::Error;
use crate::fault::{Cause, Fault};
use crate::git::Want;
use crate::job::{Member, Progress, Setup};
use crate::lockfile::Lock;
use crate::manifest::{Manifest, Repo};
use crate::place::Site;
use crate::record::Occupied;
use crate::report::{Line, State};
use crate::source::Mirror;
use crate::tree::Depth;

/// Runs the tool and returns its exit code.
///
/// # Errors
/// What ends the whole run; a repository that fails alone is in the report and makes the code 1.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    let Some(cli::Manifest::Given(words)) = &cli.manifest else {
        return Err(Error::Usage {
            message: "no manifest was given".to_owned(),
            hint: Some("name one, as in `cloner repos.yaml`; --help has examples".to_owned()),
        });
    };
    let (path, repos) = read_manifest(words, io)?;
    let mirror = match &cli.mirror {
        Some(text) => Some(Mirror::parse(text).map_err(|why| Error::Usage {
            message: format!("--mirror: {}", why.replace("source", "mirror")),
            hint: None,
        })?),
        None => None,
    };
    let given = cli.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let root = real_root(&given).map_err(|err| Error::Root { root: given.clone(), message: err.to_string() })?;
    let entries = judge_places(repos, &given, &root)?;
    let site = Site::new(root);
    transport::register();
    if cli.status || cli.verify {
        let depth = if cli.verify { Depth::Content } else { Depth::Stat };
        let lines: Vec<Line> = entries.iter().map(|(repo, dest)| status(&site, repo, dest, depth)).collect();
        report::print(io, &lines, cli.json, true)?;
        let clean = lines.iter().all(|line| line.state == State::Clean);
        return Ok(if clean { exit::OK } else { exit::NO });
    }
    if let Some(name) = cli.update.iter().find(|name| entries.iter().all(|(repo, _)| repo.name != **name)) {
        let names = entries.iter().map(|(repo, _)| repo.name.as_str());
        return Err(Error::Usage {
            message: format!("--update: the manifest has no repository '{name}'"),
            hint: nearest::nearest(name, names).map(|near| format!("did you mean '{near}'?")),
        });
    }
    let held = if cli.plan { None } else { Some(hold(&site, cli.no_wait, io)?) };
    let (lines, lock_written) = bring(cli, &site, &path, mirror.as_ref(), &entries, io)?;
    drop(held);
    report::print(io, &lines, cli.json, cli.plan)?;
    lock_written?;
    let failed = lines.iter().any(|line| line.state == State::Failed);
    Ok(if failed { exit::NO } else { exit::OK })
}

/// Brings everything, the root being held; says what became of each repository and of the lock file.
fn bring(
    cli: &Cli,
    site: &Site,
    manifest: &Path,
    mirror: Option<&Mirror>,
    entries: &[Entry],
    io: &mut Io,
) -> Result<(Vec<Line>, Result<(), Error>), Error> {
    let lock = match &cli.lock {
        Some(path) => Some(Lock::read(path, cli.locked || !cli.update.is_empty())?),
        None => None,
    };
    let netrc = netrc::Netrc::from_env().unwrap_or_else(|why| {
        io.warn(why);
        netrc::Netrc::default()
    });
    let client = http::Client::new(usize::from(cli.jobs), netrc)
        .map_err(|message| Error::Usage { message, hint: Some("name a file of PEM certificates".to_owned()) })?;
    let slots = slots::Slots::new(usize::from(cli.per_host));
    let hands = slots::Slots::new(std::thread::available_parallelism().map_or(1, usize::from));
    let fleet = mirror.map(|mirror| fleet::Fleet::new(mirror.clone(), &site.state, !cli.plan));
    let setup = Setup {
        site,
        client: &client,
        slots: &slots,
        hands: &hands,
        fleet: fleet.as_ref(),
        mode: cli.mode,
        timeout: cli.timeout,
        retries: cli.retries,
        force: cli.force,
        plan: cli.plan,
        lock: lock.as_ref(),
        locked: cli.locked,
        update: &cli.update,
        manifest,
    };
    let results = work_all(&setup, entries, usize::from(cli.jobs));
    let (mut lines, resolved) = finish(&setup, entries, results, io);
    let lock_written = match (&cli.lock, &lock) {
        (Some(path), Some(old)) if !cli.plan && !cli.locked => {
            let repos = entries.iter().zip(resolved).map(|((repo, _), resolved)| (repo, resolved));
            Lock::of(repos, old).write(path)
        }
        _ => Ok(()),
    };
    let failed = lock_written.is_err() || lines.iter().any(|line| line.state == State::Failed);
    if cli.purge && !failed && !entries.is_empty() {
        lines.extend(purge(&setup, entries)?);
    }
    if !cli.plan {
        // Old trees and what failed attempts left; the next run would do it too.
        if let Err(err) = place::remove_tree(&site.stage()) {
            io.warn(format_args!("cannot remove {}: {err}", site.stage().display()));
        }
    }
    Ok((lines, lock_written))
}

type Entry = (Repo, Result<PathBuf, Fault>);

/// Reads the manifest that `words` begin with and applies the overrides that follow.
fn read_manifest(words: &[OsString], io: &mut Io) -> Result<(PathBuf, Vec<Repo>), Error> {
    let mut words = words.iter();
    let path = PathBuf::from(words.next().expect("an external subcommand has at least its name"));
    let mut overrides = Vec::new();
    while let Some(word) = words.next() {
        let usage = |message: String, hint: Option<&str>| Error::Usage { message, hint: hint.map(str::to_owned) };
        let text = |word: &OsString| {
            word.to_str().map(str::to_owned).ok_or_else(|| usage("an override is not UTF-8".to_owned(), None))
        };
        let word = text(word)?;
        let Some(body) = word.strip_prefix("--").filter(|body| !body.is_empty() && !body.starts_with('=')) else {
            let message = format!("'{word}' after the manifest is no override");
            return Err(usage(
                message,
                Some("options come before the manifest, overrides are --KEY VALUE or --KEY=VALUE"),
            ));
        };
        let (key, value) = match body.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => {
                let value = words.next().map(text).transpose()?.filter(|value| !value.starts_with("--"));
                let hint = if cli::is_option(body) {
                    "options come before the manifest"
                } else {
                    "write --KEY=VALUE for a value that begins with --"
                };
                (body.to_owned(), value.ok_or_else(|| usage(format!("override '{word}' has no value"), Some(hint)))?)
            }
        };
        overrides.push((key, value));
    }
    let mut manifest = Manifest::load(&path)?;
    for (key, value) in overrides {
        manifest.set(&format!("--{key}"), &key, &value)?;
    }
    let repos = manifest.repos()?;
    manifest.warnings().into_iter().for_each(|warning| io.warn(warning));
    let path = std::path::absolute(&path).unwrap_or(path);
    Ok((path, repos))
}

/// Returns the root without links in it, so that places below it can be checked link by link.
fn real_root(root: &Path) -> std::io::Result<PathBuf> {
    match root.canonicalize() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => std::path::absolute(root),
        real => real,
    }
}

fn judge_places(repos: Vec<Repo>, given: &Path, root: &Path) -> Result<Vec<Entry>, Error> {
    // An absolute dest may lie below the root as it was given or as it really is.
    let given = std::path::absolute(given).unwrap_or_else(|_| root.to_owned());
    let dests: Vec<Result<PathBuf, String>> =
        repos.iter().map(|repo| dest::parse(&repo.dest, &given).or_else(|_| dest::parse(&repo.dest, root))).collect();
    let valid: Vec<Option<PathBuf>> = dests.iter().map(|dest| dest.as_ref().ok().cloned()).collect();
    if let Some((later, earlier)) = dest::conflict(&valid) {
        let (later, earlier) = (&repos[later], &repos[earlier]);
        return Err(Error::Conflict {
            at: later.at.clone(),
            dest: later.dest.clone(),
            name: later.path.clone(),
            other: earlier.path.clone(),
            other_at: earlier.at.clone(),
        });
    }
    let judged = dests.into_iter().map(|dest| dest.map_err(|why| Fault::new(Cause::Manifest, why)));
    Ok(repos.into_iter().zip(judged).collect())
}

/// Takes the root's lock and makes its state directory ready.
fn hold(site: &Site, no_wait: bool, io: &mut Io) -> Result<FileLock, Error> {
    let root = |message: String| Error::Root { root: site.root.clone(), message };
    dirs::private(&site.state, 0o750).map_err(|err| root(exit::chain(&err)))?;
    let taken = FileLock::try_exclusive(&site.lock()).map_err(|err| root(exit::chain(&err)))?;
    let lock = match taken {
        Some(lock) => lock,
        None if no_wait => return Err(Error::Busy { root: site.root.clone() }),
        None => {
            io.note(format_args!("waiting for another run in {}", site.root.display()));
            FileLock::exclusive(&site.lock()).map_err(|err| root(exit::chain(&err)))?
        }
    };
    site.prepare().map_err(|err| root(err.to_string()))?;
    Ok(lock)
}

/// Works on all repositories, those of one source together, `jobs` sources at a time; results are in the manifest's
/// order.
fn work_all(setup: &Setup<'_>, entries: &[Entry], jobs: usize) -> Vec<Result<Progress, Fault>> {
    let mut results: Vec<Option<Result<Progress, Fault>>> = Vec::new();
    let mut groups: Vec<Vec<Member<'_>>> = Vec::new();
    let mut by_source: HashMap<String, usize> = HashMap::new();
    for (number, (repo, dest)) in entries.iter().enumerate() {
        results.push(dest.as_ref().err().cloned().map(Err));
        let Ok(dest) = dest else { continue };
        let group = match job::key(repo, setup.manifest) {
            Some(key) => *by_source.entry(key).or_insert(groups.len()),
            None => groups.len(),
        };
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(Member { number, repo, dest });
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(&mut results);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(groups.len()) {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let worked = job::work(setup, group);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    for (number, result) in worked {
                        done[number] = Some(result);
                    }
                }
            });
        }
    });
    results.into_iter().map(|result| result.expect("every repository was worked on")).collect()
}

/// Places what is staged and says what became of each repository.
///
/// Beside the lines come the commits and trees that places now hold, for the lock file.
fn finish(
    setup: &Setup<'_>,
    entries: &[Entry],
    results: Vec<Result<Progress, Fault>>,
    io: &mut Io,
) -> (Vec<Line>, Vec<Option<(String, String)>>) {
    let staged = results.iter().any(|result| matches!(result, Ok(Progress::Staged { .. })));
    let flushed = if staged { setup.site.flush() } else { Ok(()) };
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
            Ok(Progress::Staged { old, staged }) => {
                let placed = match &flushed {
                    Ok(()) => setup.site.place(&staged, setup.force),
                    Err(err) => Err(Fault::disk(&setup.site.stage(), err)),
                };
                match placed {
                    Ok(saved) => {
                        if let Some(saved) = saved {
                            io.warn(format_args!("{}: the old tree is kept in {}", repo.name, saved.display()));
                        }
                        *resolved = Some((staged.record.sha.clone(), staged.record.tree.clone()));
                        let state = if old.is_some() { State::Updated } else { State::Placed };
                        Line::new(repo, state, old, Some(staged.record.sha.clone()))
                    }
                    Err(fault) => Line::failed(repo, old, fault),
                }
            }
        });
    }
    (lines, resolved)
}

/// Removes what this manifest had placed and no longer lists.
///
/// Called after full success only: a failure may mean that the manifest was not what was meant.
fn purge(setup: &Setup<'_>, entries: &[Entry]) -> Result<Vec<Line>, Error> {
    let site = setup.site;
    let records = match site.records.all() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        all => all.map_err(|err| Error::Root { root: site.root.clone(), message: err.to_string() })?,
    };
    let listed = |dest: &Path| entries.iter().any(|(_, listed)| listed.as_ref().is_ok_and(|listed| listed == dest));
    let mut lines = Vec::new();
    for record in records.into_iter().filter(|record| record.manifest == setup.manifest && !listed(&record.dest)) {
        let repo = Repo {
            name: record.name.clone(),
            path: record.name.clone(),
            source: record.source.clone(),
            reference: record.reference.clone(),
            dest: record.dest.display().to_string(),
            submodules: true,
            at: String::new(),
        };
        let old = Some(record.sha.clone());
        lines.push(if setup.plan {
            Line::new(&repo, State::WouldPurge, old, None)
        } else {
            match site.purge(&record) {
                Ok(()) => Line::new(&repo, State::Purged, old, None),
                Err(fault) => Line::failed(&repo, old, fault),
            }
        });
    }
    Ok(lines)
}

/// Looks at one place, without the network.
fn status(site: &Site, repo: &Repo, dest: &Result<PathBuf, Fault>, depth: Depth) -> Line {
    let dest = match dest {
        Ok(dest) => dest,
        Err(fault) => return Line::failed(repo, None, fault.clone()),
    };
    if let Err(why) = dest::check_path(&site.root, dest) {
        return Line::failed(repo, None, Fault::new(Cause::LocalChanges, why));
    }
    match site.records.look(&site.root, dest, depth) {
        Err(err) => Line::failed(repo, None, Fault::disk(&site.root.join(dest), &err)),
        Ok(Occupied::No) => Line::new(repo, State::Absent, None, None),
        Ok(Occupied::Foreign) => Line::new(repo, State::Foreign, None, None),
        Ok(Occupied::Changed(record, changes)) => {
            Line::new(repo, State::Changed, Some(record.sha), None).message(place::summary(&changes))
        }
        Ok(Occupied::Clean(record)) => {
            let pinned = match Want::parse(repo.reference.as_deref()) {
                Ok(Want::Commit(oid)) => record.sha == oid.to_string(),
                _ => record.reference == repo.reference,
            };
            if pinned {
                Line::new(repo, State::Clean, Some(record.sha.clone()), Some(record.sha))
            } else {
                let was = record.reference.as_deref().unwrap_or("HEAD").to_owned();
                Line::new(repo, State::Outdated, Some(record.sha), None).message(format!("placed for ref {was}"))
            }
        }
    }
}
