//! Whether a snapshot can install what its nodes need, answered by the clients' own solvers.
//!
//! The closure that `sync` makes is a superset by rules of our own. Before a snapshot is published, apt and dnf are
//! pointed at its files alone, in a root that is thrown away, and have to find a solution for what each selection and
//! each catalog asks for. What they find none for is named, and the snapshot is refused. What was proven is remembered
//! beside the snapshot, so that the same content is not proven again for the same demands.

mod apt;
mod dnf;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toolkit::Io;

use crate::child;
use crate::config::{Closed, Config, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{self, Manifest};
use crate::select::{Asked, catalog};
use crate::store::Store;

/// Longest run of a solver.
const LIMIT: Duration = Duration::from_secs(600);
/// From so many findings on, more are of no use.
const ENOUGH: usize = 50;
/// Largest list of what nodes have beforehand.
const MAX_STATUS: u64 = 256 << 20;

/// What must be installable.
#[derive(Debug)]
pub(crate) struct Demands {
    deb: Vec<Demand>,
    rpm: Vec<Demand>,
    /// What Debian nodes have beforehand.
    installed: Option<PathBuf>,
    /// Digest of all of it.
    digest: Digest,
}

/// Names that somebody asks for.
#[derive(Debug, Default)]
struct Demand {
    asked: BTreeSet<Asked>,
    /// Whether one node gets all of them.
    together: bool,
    /// Whether the configuration demands the proof: then a solver that is not here is an error.
    strict: bool,
}

/// What a solver says to names.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// There is a solution.
    Fits,
    /// These are not there at all; of the rest nothing is known.
    Missing(BTreeSet<String>),
    /// There is none, for these reasons.
    Open(Vec<String>),
}

/// A client with the snapshot as its only source, for one architecture.
trait Solver {
    /// Whether there is a solution for these names.
    fn solve(&self, asked: &[&Asked]) -> Result<Verdict>;
}

/// What is remembered beside a snapshot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    v: u32,
    demands: Digest,
}

impl Proof {
    fn path(id: &Digest) -> String {
        format!("snapshots/{id}/closed.json")
    }
}

impl Demands {
    /// Reads what the configuration demands.
    ///
    /// # Errors
    /// [`Error::Config`] naming the catalog or key at fault.
    pub(crate) fn read(config: &Config) -> Result<Self> {
        let mut demands = Self { deb: Vec::new(), rpm: Vec::new(), installed: None, digest: Digest::of(b"") };
        for source in &config.sources {
            let Some(closure) = source.closure() else { continue };
            let into = if matches!(source, Source::Deb(_)) { &mut demands.deb } else { &mut demands.rpm };
            let named = closure.closure.iter();
            let named = named.map(|name| Asked { name: name.clone(), version: None, from: String::new() });
            into.push(Demand { asked: named.collect(), ..Demand::default() });
            for path in &closure.packages {
                into.push(Demand { asked: catalog::read(path)?, together: true, strict: false });
            }
        }
        if let Some(Closed { deb, rpm, installed }) = &config.closed {
            for (key, paths, into) in [("deb", deb, &mut demands.deb), ("rpm", rpm, &mut demands.rpm)] {
                for path in paths {
                    for path in catalogs(path, key)? {
                        into.push(Demand { asked: catalog::read(&path)?, together: true, strict: true });
                    }
                }
            }
            demands.installed.clone_from(installed);
        }
        for demands in [&mut demands.deb, &mut demands.rpm] {
            demands.retain(|demand| !demand.asked.is_empty());
        }
        let mut text = format!("{:?}{:?}", demands.deb, demands.rpm).into_bytes();
        if let Some(path) = &demands.installed {
            let status = files::read_bounded(path, MAX_STATUS);
            text.extend(status.map_err(|error| Error::config(path, format!("cannot read closed.installed: {error}")))?);
        }
        demands.digest = Digest::of(&text);
        Ok(demands)
    }

    fn is_empty(&self) -> bool {
        self.deb.is_empty() && self.rpm.is_empty()
    }

    /// Proves a published snapshot, unless that was done before.
    ///
    /// # Errors
    /// As [`Demands::prove`].
    pub(crate) fn prove_again(&self, store: &Store, id: &Digest, manifest: &Manifest, io: &mut Io) -> Result<()> {
        let known: Option<Proof> = store.read_json(Proof::path(id))?;
        if known.is_some_and(|proof| proof.demands == self.digest) {
            return Ok(());
        }
        self.prove(store, manifest, &store.path(format!("pub/snap/{id}")), io)?;
        self.remember(store, id)
    }

    /// Remembers that a snapshot was proven.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn remember(&self, store: &Store, id: &Digest) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        store.write_json(Proof::path(id), &Proof { v: 1, demands: self.digest.clone() })
    }

    /// Proves that all of it can be installed from the snapshot in `tree`.
    ///
    /// # Errors
    /// [`Error::Open`] with the list of what cannot; [`Error::Rejected`] when a client cannot read the snapshot;
    /// [`Error::Unavailable`] when a client that is needed is not here or does not end.
    pub(crate) fn prove(&self, store: &Store, manifest: &Manifest, tree: &Path, io: &mut Io) -> Result<()> {
        let mut open = BTreeSet::new();
        if usable("apt-get", &self.deb, io)? {
            let sources: Vec<&manifest::Deb> = manifest.sources.iter().filter_map(manifest::Source::deb).collect();
            let machines: BTreeSet<&str> =
                sources.iter().flat_map(|deb| &deb.architectures).map(String::as_str).collect();
            let solver = |root: &Path, arch: &str| apt::Apt::new(root, tree, &sources, arch, self.installed.as_deref());
            ask(store, &machines, &self.deb, solver, &mut open)?;
        }
        if usable("dnf", &self.rpm, io)? {
            let sources: Vec<&manifest::Rpm> = manifest.sources.iter().filter_map(manifest::Source::rpm).collect();
            let machines = dnf::machines(&sources);
            ask(store, &machines, &self.rpm, |root, arch| dnf::Dnf::new(root, tree, &sources, arch), &mut open)?;
        }
        if open.is_empty() { Ok(()) } else { Err(Error::Open { lines: open.into_iter().collect() }) }
    }
}

/// Whether there is something to prove, and a client to prove it with.
fn usable(program: &str, demands: &[Demand], io: &mut Io) -> Result<bool> {
    if demands.is_empty() {
        return Ok(false);
    }
    let why = if !child::is_there(program) {
        format!("there is no {program} here")
    } else if program == "dnf" && !nix::unistd::geteuid().is_root() {
        "dnf looks for solutions for root alone".to_owned()
    } else {
        return Ok(true);
    };
    if demands.iter().any(|demand| demand.strict) {
        return Err(Error::unavailable("closed", format!("{why}, so nothing can be proven")));
    }
    io.note(format_args!("{why}: that the selections are closed is known by their own rules alone"));
    Ok(false)
}

/// Returns the catalogs that a path means: itself, or every `*.json` file in it.
fn catalogs(path: &Path, key: &str) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let names = files::names_in(path)?;
    let found: Vec<PathBuf> = names.iter().filter(|name| name.ends_with(".json")).map(|name| path.join(name)).collect();
    if found.is_empty() {
        return Err(Error::config(path, format!("closed.{key}: no catalog (*.json) in this directory")));
    }
    Ok(found)
}

/// Asks for every demand on every architecture. A name is missing when no architecture has it.
fn ask<S: Solver>(
    store: &Store,
    machines: &BTreeSet<&str>,
    demands: &[Demand],
    solver: impl Fn(&Path, &str) -> Result<S>,
    open: &mut BTreeSet<String>,
) -> Result<()> {
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for arch in machines {
        let root = store.temporary("closed");
        files::make_dir(&root)?;
        let done = solver(&root, arch).and_then(|solver| {
            for demand in demands {
                let mut search = Search { solver: &solver, missing: BTreeSet::new(), open: Vec::new() };
                let asked: Vec<&Asked> = demand.asked.iter().collect();
                search.look(&asked, demand.together)?;
                for line in search.missing {
                    *missing.entry(line).or_default() += 1;
                }
                open.extend(search.open);
            }
            Ok(())
        });
        files::remove(&root)?;
        done?;
    }
    if machines.is_empty() {
        let all = demands.iter().flat_map(|demand| &demand.asked);
        open.extend(all.map(|asked| format!("{asked}: there is no source of this format")));
    }
    let everywhere = missing.into_iter().filter(|(_, count)| *count == machines.len());
    open.extend(everywhere.map(|(line, _)| line));
    Ok(())
}

/// A search for what has no solution.
struct Search<'a, S> {
    solver: &'a S,
    missing: BTreeSet<String>,
    open: Vec<String>,
}

impl<S: Solver> Search<'_, S> {
    /// Looks among these names. When there is no solution for all, each half is looked at, down to the names that have
    /// none by themselves; what only fails together counts when one node gets all of it.
    fn look(&mut self, asked: &[&Asked], together: bool) -> Result<()> {
        if asked.is_empty() || self.open.len() + self.missing.len() >= ENOUGH {
            return Ok(());
        }
        match self.solver.solve(asked)? {
            Verdict::Fits => Ok(()),
            Verdict::Missing(names) => {
                let (gone, rest): (Vec<&Asked>, Vec<&Asked>) =
                    asked.iter().partition(|asked| names.contains(&asked.name));
                if gone.is_empty() {
                    return Err(Error::Bug(format!("a solver misses what nobody asked for: {names:?}")));
                }
                self.missing.extend(gone.iter().map(|asked| format!("{asked}: no source has it")));
                self.look(&rest, together)
            }
            Verdict::Open(words) => {
                let before = self.open.len() + self.missing.len();
                if let [asked] = asked {
                    self.open.push(format!("{asked}: {}", words.join(", ")));
                    return Ok(());
                }
                let (first, second) = asked.split_at(asked.len() / 2);
                self.look(first, together)?;
                // A conflict between the halves shows when both of them are well.
                self.look(second, together)?;
                if together && self.open.len() + self.missing.len() == before {
                    let from = &asked[0].from;
                    let names: Vec<&str> = asked.iter().map(|asked| asked.name.as_str()).collect();
                    self.open.push(format!("{from}: {} together: {}", list(&names), words.join(", ")));
                }
                Ok(())
            }
        }
    }
}

/// A path that means itself in the clients' files.
fn plain(path: &Path) -> Result<&str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "/._-+,=@~".contains(c);
    path.to_str().filter(|text| text.chars().all(fine)).ok_or_else(|| {
        Error::rejected(path.display().to_string(), "a snapshot can be checked only below a path of plain characters")
    })
}

/// Joins names; a long list is cut.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packages with what they need; `!x` conflicts.
    struct Made(BTreeMap<&'static str, &'static str>);

    impl Solver for Made {
        fn solve(&self, asked: &[&Asked]) -> Result<Verdict> {
            let names: BTreeSet<&str> = asked.iter().map(|asked| asked.name.as_str()).collect();
            let missing: BTreeSet<String> =
                names.iter().filter(|name| !self.0.contains_key(*name)).map(|name| (*name).to_owned()).collect();
            if !missing.is_empty() {
                return Ok(Verdict::Missing(missing));
            }
            for name in &names {
                let fails = match self.0[name] {
                    "" => false,
                    need => need.strip_prefix('!').is_none_or(|other| names.contains(other)),
                };
                if fails {
                    return Ok(Verdict::Open(vec![format!("{name} needs {}", self.0[name])]));
                }
            }
            Ok(Verdict::Fits)
        }
    }

    fn asked(name: &str) -> Asked {
        Asked { name: name.into(), version: None, from: "catalog c".into() }
    }

    fn look(names: &[&str], together: bool) -> (Vec<String>, Vec<String>) {
        let solver = Made(BTreeMap::from([("a", ""), ("b", "x"), ("c", ""), ("d", "!a"), ("e", "y")]));
        let mut search = Search { solver: &solver, missing: BTreeSet::new(), open: Vec::new() };
        let asked: Vec<Asked> = names.iter().map(|name| asked(name)).collect();
        search.look(&asked.iter().collect::<Vec<_>>(), together).expect("solves");
        (search.missing.into_iter().collect(), search.open)
    }

    #[test]
    fn everything_that_is_open_is_named() {
        assert_eq!(look(&["a", "c"], true), (vec![], vec![]));
        let (missing, open) = look(&["a", "z", "b", "c", "e", "q"], true);
        assert_eq!(missing, ["catalog c: q: no source has it", "catalog c: z: no source has it"]);
        assert_eq!(open, ["catalog c: b: b needs x", "catalog c: e: e needs y"]);
    }

    #[test]
    fn what_conflicts_counts_only_on_one_node() {
        assert_eq!(look(&["a", "c", "d"], false), (vec![], vec![]));
        assert_eq!(look(&["a", "c", "d"], true).1, ["catalog c: a, c, d together: d needs !a"]);
    }
}
