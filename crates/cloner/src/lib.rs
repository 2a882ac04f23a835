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
//! - No hook or filter is run, no configuration of git is read, and credentials
//!   appear in no output, file or URL that libgit2 sees.
//! - Every wait on the network ends with the repository's time limit.
//!
//! Exit codes: 0 all placed; 1 some failed or, with `--status` and `--verify`, differ; 2 usage or
//! an unknown override; 65 manifest; 73 root not writable; 75 another run holds the root.

mod assemble;
mod attempt;
mod batch;
mod cache;
mod checkout;
pub mod cli;
mod convert;
mod credential;
mod dest;
mod diff;
mod error;
mod fault;
mod finish;
mod fleet;
mod generations;
mod git;
mod gitmodules;
mod hook;
mod http;
mod job;
mod lockfile;
pub mod manifest;
mod metrics;
pub mod names;
mod nearest;
mod netrc;
mod pack;
mod pktline;
mod place;
mod pool;
mod program;
mod progress;
mod record;
pub mod refsindex;
mod report;
mod signature;
mod signers;
mod slots;
pub mod source;
mod stage;
mod status;
mod submodule;
mod transport;
mod tree;
mod v2;
mod words;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use toolkit::lock::FileLock;
use toolkit::{Io, dirs, exit};

use crate::cli::Cli;
pub use crate::error::Error;
use crate::fault::{Cause, Fault};
use crate::finish::Finished;
use crate::generations::Generations;
use crate::hook::Hook;
use crate::job::Setup;
use crate::lockfile::Lock;
use crate::manifest::Repo;
use crate::place::Site;
use crate::report::{Line, State};
use crate::source::{Mirror, Source};
use crate::tree::Depth;

/// Runs the tool and returns its exit code.
///
/// # Errors
/// What ends the whole run; a repository that fails alone is in the report and makes the code 1.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    let started = Instant::now();
    let mut lines = Vec::new();
    let result = work(cli, &mut lines, io);
    if let Some(path) = &cli.metrics {
        let code = result.as_ref().map_or_else(exit::Failure::exit_code, |code| *code);
        let figures = metrics::Figures { lines: &lines, code, took: started.elapsed() };
        if let Err(err) = metrics::write(path, &figures) {
            io.warn(format_args!("cannot write the metrics to {}: {err}", path.display()));
        }
    }
    result
}

fn work(cli: &Cli, lines: &mut Vec<Line>, io: &mut Io) -> Result<u8, Error> {
    if cli.rollback {
        return rollback(cli, lines, io);
    }
    let Some(cli::Manifest::Given(words)) = &cli.manifest else {
        return Err(Error::Usage {
            message: "no manifest was given".to_owned(),
            hint: Some("name one, as in `cloner repos.yaml`; --help has examples".to_owned()),
        });
    };
    let (path, repos) = words::read(words, io)?;
    if let Some(format) = cli.convert {
        let lock = cli.lock.as_ref().filter(|_| cli.locked).map(|path| Lock::read(path, true)).transpose()?;
        let text = convert::text(&repos, lock.as_ref(), format)
            .map_err(|message| Error::Usage { message: format!("--convert: {message}"), hint: None })?;
        io.out(text)?;
        return Ok(exit::OK);
    }
    let mirrors = cli.mirror.iter().map(|text| {
        Mirror::parse(text).map_err(|why| Error::Usage {
            message: format!("--mirror: {}", why.replace("source", "mirror")),
            hint: None,
        })
    });
    let mirrors = mirrors.collect::<Result<Vec<Mirror>, Error>>()?;
    let given = cli.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let root = real_root(&given).map_err(|err| Error::Root { root: given.clone(), message: err.to_string() })?;
    let entries = judge_places(repos, &given, &root)?;
    let site = Site::new(root);
    let generations = cli.generations.map(|_| Generations::of(&site));
    let view = |site: &Site| match &generations {
        Some(generations) => generations.view().map_err(|err| root_error(site, &err)),
        None => Ok(site.clone()),
    };
    transport::register();
    if cli.status || cli.verify {
        let (depth, site) = (if cli.verify { Depth::Content } else { Depth::Stat }, view(&site)?);
        lines.extend(entries.iter().map(|(repo, dest)| status::look(&site, repo, dest, depth)));
        report::print(io, lines, cli.json, true)?;
        let absent = lines.iter().any(|line| line.state == State::Absent);
        if absent && cli.generations.is_none() && matches!(Generations::of(&site).current(), Ok(Some(_))) {
            io.hint(format_args!("{}/current is a set: with --generations N it is looked at", site.root.display()));
        }
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
    if let Some(generations) = generations.as_ref().filter(|_| !cli.plan) {
        generations.prepare().map_err(|err| root_error(&site, &err))?;
    }
    let mut hook = hook(cli, &site)?;
    let (brought, lock_written) = bring(cli, &site, &path, mirrors, &entries, hook.as_mut(), io)?;
    lines.extend(brought);
    report::print(io, lines, cli.json, cli.plan)?;
    let told = tell(hook.as_mut(), lines, io);
    drop(held);
    lock_written?;
    let failed = !told || lines.iter().any(|line| line.state == State::Failed);
    Ok(if failed { exit::NO } else { exit::OK })
}

/// Points back at the generation before.
fn rollback(cli: &Cli, lines: &mut Vec<Line>, io: &mut Io) -> Result<u8, Error> {
    if cli.manifest.is_some() {
        let hint = Some("it goes back to what is kept, whatever a manifest says".to_owned());
        return Err(Error::Usage { message: "--rollback takes no manifest".to_owned(), hint });
    }
    let given = cli.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let root = real_root(&given).map_err(|err| Error::Root { root: given.clone(), message: err.to_string() })?;
    let site = Site::new(root);
    let generations = Generations::of(&site);
    let fail = |err: std::io::Error| root_error(&site, &err);
    if generations.current().map_err(fail)?.is_none() {
        io.error(format_args!("{} has no generations", site.root.display()));
        io.hint("a run with --generations makes them");
        return Ok(exit::NO);
    }
    let held = hold(&site, cli.no_wait, io)?;
    let Some(rollback) = generations.rollback().map_err(fail)? else {
        io.error(format_args!("{} has no generation before the current one", site.root.display()));
        return Ok(exit::NO);
    };
    let mut hook = hook(cli, &site)?;
    if let Some(hook) = &mut hook {
        hook.announce(&rollback.lines).map_err(fail)?;
    }
    generations.back(&rollback).map_err(fail)?;
    lines.extend(rollback.lines);
    report::print(io, lines, cli.json, false)?;
    io.note(format_args!("generation {} is current again, after {}", rollback.to, rollback.from));
    let told = tell(hook.as_mut(), lines, io);
    drop(held);
    Ok(if told { exit::OK } else { exit::NO })
}

fn root_error(site: &Site, err: &std::io::Error) -> Error {
    Error::Root { root: site.root.clone(), message: err.to_string() }
}

fn hook(cli: &Cli, site: &Site) -> Result<Option<Hook>, Error> {
    let new = |program: &PathBuf| Hook::new(program, &site.state, cli.timeout).map_err(|err| root_error(site, &err));
    cli.on_change.as_ref().map(new).transpose()
}

/// Tells the program of `--on-change` what has changed; false if it could not be told.
fn tell(hook: Option<&mut Hook>, lines: &[Line], io: &mut Io) -> bool {
    let changed: Vec<&Line> = lines.iter().filter(|line| line.state.is_change()).collect();
    let told = hook.map_or(Ok(()), |hook| hook.tell(&changed));
    if let Err(why) = &told {
        io.error(why);
    }
    told.is_ok()
}

/// Brings everything, the root being held; says what became of each repository and of the lock file.
fn bring(
    cli: &Cli,
    top: &Site,
    manifest: &Path,
    mirrors: Vec<Mirror>,
    entries: &[Entry],
    mut hook: Option<&mut Hook>,
    io: &mut Io,
) -> Result<(Vec<Line>, Result<(), Error>), Error> {
    let lock = match &cli.lock {
        Some(path) => Some(Lock::read(path, cli.locked || !cli.update.is_empty())?),
        None => None,
    };
    let refs = cli
        .refs
        .as_ref()
        .map(|path| fleet::read_given(path).map_err(|message| Error::Refs { path: path.clone(), message }));
    let refs = refs.transpose()?;
    let netrc = netrc::Netrc::from_env().unwrap_or_else(|why| {
        io.warn(why);
        netrc::Netrc::default()
    });
    let keyring = credential::Keyring::new(netrc, &cli.token_file).map_err(|message| Error::Usage {
        message,
        hint: Some("it must hold the token alone, and nobody else may read it".to_owned()),
    })?;
    let client = http::Client::new(usize::from(cli.jobs), keyring)
        .map_err(|message| Error::Usage { message, hint: Some("name a file of PEM certificates".to_owned()) })?;
    let slots = slots::Slots::new(usize::from(cli.per_host));
    let hands = slots::Slots::new(std::thread::available_parallelism().map_or(1, usize::from));
    let fleets: Vec<fleet::Fleet> =
        mirrors.into_iter().map(|mirror| fleet::Fleet::new(mirror, &top.state, !cli.plan)).collect();
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let cache = cli.cache.as_ref().map(|directory| cache::Cache::new(absolute(directory)));
    let signers = signature::Files::default();
    let generations = cli.generations.map(|keep| (Generations::of(top), keep));
    let site = &match &generations {
        Some((generations, _)) => generations.view().map_err(|err| root_error(top, &err))?,
        None => top.clone(),
    };
    let setup = Setup {
        signers: &signers,
        site,
        client: &client,
        slots: &slots,
        hands: &hands,
        fleets: &fleets,
        refs: refs.as_ref(),
        fallback: cli.fallback,
        offline: cli.offline,
        cache: cache.as_ref(),
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
    let results = pool::work(&setup, entries, usize::from(cli.jobs), io);
    let Finished { mut lines, resolved } = match &generations {
        Some((generations, _)) => generations.publish(&setup, entries, results, cli.purge, hook.as_deref_mut(), io),
        None => finish::place(&setup, entries, results, hook.as_deref_mut(), io),
    };
    if cli.diff {
        add_logs(&setup, entries, &mut lines, usize::from(cli.jobs), io);
    }
    let lock_written = match (&cli.lock, &lock) {
        (Some(path), Some(old)) if !cli.plan && !cli.locked => {
            let repos = entries.iter().zip(resolved).map(|((repo, _), resolved)| (repo, resolved));
            Lock::of(repos, old).write(path)
        }
        _ => Ok(()),
    };
    let failed = lock_written.is_err() || lines.iter().any(|line| line.state == State::Failed);
    if cli.purge && !failed && !entries.is_empty() && generations.is_none() {
        lines.extend(finish::purge(&setup, entries, hook)?);
    }
    if !cli.plan {
        if let Some((generations, keep)) = &generations
            && let Err(err) = generations.prune(usize::from(*keep), io)
        {
            io.warn(format_args!("cannot remove old generations: {err}"));
        }
        // Old trees and what failed attempts left; the next run would do it too.
        if let Err(err) = place::remove_tree(&site.stage()) {
            io.warn(format_args!("cannot remove {}: {err}", site.stage().display()));
        }
    }
    Ok((lines, lock_written))
}

type Entry = (Repo, Result<PathBuf, Fault>);

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

/// Asks for the commits that planned updates would bring, `jobs` at a time.
fn add_logs(setup: &Setup<'_>, entries: &[Entry], lines: &mut [Line], jobs: usize, io: &mut Io) {
    let base = setup.manifest.parent().unwrap_or(Path::new("."));
    let log = |line: &Line, repo: &Repo| {
        let (old, new) = line.update()?;
        let source = Source::parse(&repo.source, base).and_then(|source| match setup.fleets.first() {
            Some(fleet) => source.mirrored(&fleet.mirror),
            None => Ok(source),
        });
        let source = source.map_err(|why| Fault::new(Cause::Manifest, why)).and_then(|source| match source {
            Source::Http(_) | Source::Other(_) if setup.offline && setup.fleets.is_empty() => Err(git::offline()),
            source => Ok(source),
        });
        Some(source.and_then(|source| diff::log(setup.client, &source, old, new, Instant::now() + setup.timeout)))
    };
    let work: Vec<(&mut Line, &Entry)> =
        lines.iter_mut().zip(entries).filter(|(line, _)| line.update().is_some()).collect();
    let work = Mutex::new(work.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((line, (repo, _))) = { work.lock().unwrap_or_else(PoisonError::into_inner).next() } {
                    match log(line, repo) {
                        Some(Ok(log)) => line.log(log),
                        Some(Err(fault)) => {
                            let why = format!("{}: no log: {}", repo.name, fault.message);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(why);
                        }
                        None => {}
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().for_each(|why| io.warn(why));
}
