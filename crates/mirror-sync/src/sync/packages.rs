//! Synchronises the upstreams of one package format.
//!
//! First every signed root is asked for, conditionally; when none of them, no key, no catalog and no setting
//! changed, that is all. Else the indices of what changed are fetched, the selection is made over all sources of the format
//! together, packages are fetched, and each source's part is written in one step.

use std::collections::{BTreeMap, BTreeSet};

use toolkit::Io;

use crate::config::{Select, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{self, Published};
use crate::select::closure::{Root, Universe, close};
use crate::select::{Asked, Where, catalog};
use crate::state::{Head, PartState, State};
use crate::store::json_line;
use crate::upstream::{Context, Offer, Plan, Remote};

/// What is different between deb and rpm.
pub(super) trait Format {
    /// A source of this format as configured.
    type Source;
    /// Signed roots that were read.
    type Read;

    /// Returns a source's part of this format.
    fn of(source: &Source) -> Option<&Self::Source>;

    /// Asks for the signed roots; those that have not changed are not read.
    fn probe(context: &Context<'_>, source: &Self::Source, remote: &mut Remote, before: &[Head]) -> Result<Vec<Head>>;

    /// Reads the signed roots and fetches the indices.
    fn read(
        context: &Context<'_>,
        source: &Self::Source,
        remote: &mut Remote,
        before: &[Head],
        whole: bool,
    ) -> Result<(Vec<Head>, Self::Read, Offer)>;

    /// Returns everything that indices name; `None` when the configuration leaves some of it out.
    fn everything(context: &Context<'_>, source: &Self::Source, indices: &[Published]) -> Result<Option<Plan>>;

    /// Returns what the configuration does not leave out.
    fn filtered(
        context: &Context<'_>,
        source: &Self::Source,
        number: u16,
        indices: &[Published],
    ) -> Result<BTreeSet<Where>>;

    /// Returns what was picked, and an index of it.
    fn some(
        context: &Context<'_>,
        source: &Self::Source,
        read: &Self::Read,
        indices: &[Published],
        picked: &BTreeSet<Where>,
    ) -> Result<(Plan, Vec<Published>)>;

    /// Makes the part of the manifest.
    fn part(source: &Self::Source, plan: Plan, files: Vec<Published>, keyring: Option<String>) -> manifest::Source;

    /// Picks from the union of all sources; the complaints when something is open.
    fn pick(context: &Context<'_>, union: &Union<'_, Self::Source>) -> Result<Picked>;
}

/// What was picked, or what is open.
pub(super) type Picked = std::result::Result<BTreeSet<Where>, Vec<String>>;

/// All sources of a format: what they offer, and what is asked for.
pub(super) struct Union<'a, S> {
    /// Sources with their indices; a source that never answered has none.
    pub(super) sources: Vec<(&'a S, &'a [Published])>,
    /// States of directories, by the number of their source.
    pub(super) directories: Vec<Option<State>>,
    /// Names to start from.
    pub(super) asked: BTreeSet<Asked>,
    /// Whether recommendations count.
    pub(super) recommends: bool,
}

/// What the universes of all architectures came to.
#[derive(Default)]
pub(super) struct Sum {
    universes: usize,
    places: BTreeSet<Where>,
    open: BTreeSet<String>,
    /// How many universes lack a name.
    absent: BTreeMap<usize, usize>,
}

impl Sum {
    /// Returns the picked packages, unless a need is open or no architecture has a name.
    pub(super) fn picked<S>(self, union: &Union<'_, S>) -> Picked {
        let mut open = self.open;
        for (index, asked) in union.asked.iter().enumerate() {
            if self.absent.get(&index).is_some_and(|count| *count == self.universes) {
                open.insert(format!("{asked}: no source has it"));
            }
        }
        if open.is_empty() { Ok(self.places) } else { Err(open.into_iter().collect()) }
    }
}

impl<S> Union<'_, S> {
    /// Closes over the universe of one architecture.
    pub(super) fn close<U: Universe>(
        &self,
        universe: &U,
        root: impl Fn(&U, &Asked) -> Root,
        place: impl Fn(&U, u32) -> Where,
        sum: &mut Sum,
    ) -> Result<()> {
        let roots: Vec<Root> = self.asked.iter().map(|asked| root(universe, asked)).collect();
        let closed = close(universe, &roots)?;
        sum.universes += 1;
        sum.places.extend(closed.packages.into_iter().map(|package| place(universe, package)));
        sum.open.extend(closed.open);
        for index in closed.absent {
            *sum.absent.entry(index).or_default() += 1;
        }
        Ok(())
    }
}

/// One upstream during a run.
struct Work<'a, F: Format> {
    source: &'a Source,
    inner: &'a F::Source,
    remote: Option<Remote>,
    /// What was accepted before.
    before: Vec<Head>,
    /// The last complete state of this configuration.
    state: Option<PartState>,
    heads: Vec<Head>,
    indices: Vec<Published>,
    read: Option<(F::Read, Vec<Published>)>,
    failed: Option<Error>,
}

/// Outcome of one source.
pub(super) type Outcome = (String, Result<String>);

/// Synchronises all upstreams of a format.
///
/// # Errors
/// [`Error::Config`]; [`Error::Write`]. What is wrong with one source is in its outcome.
pub(super) fn run<F: Format>(context: &Context<'_>, io: &mut Io) -> Result<Vec<Outcome>> {
    let all: Vec<(&Source, &F::Source)> =
        context.config.sources.iter().filter_map(|source| Some((source, F::of(source)?))).collect();
    if all.iter().all(|(source, _)| source.upstream().is_none()) {
        return Ok(Vec::new());
    }
    let mut works = Vec::with_capacity(all.len());
    for (source, inner) in &all {
        let mut work = Work::<F>::begin(context, source, inner)?;
        work.attempt(|work| work.probe(context))?;
        works.push(work);
    }
    let (asked, recommends) = asked(&all)?;
    let shared = |works: &[Work<'_, F>]| shared_inputs(context, works, &asked, recommends);
    let inputs = shared(&works)?;
    for work in &mut works {
        if work.source.upstream().is_some() && work.failed.is_none() && !work.is_current(&inputs) {
            work.attempt(|work| work.read(context))?;
        }
    }
    let inputs = shared(&works)?;
    let selecting =
        works.iter().any(|work| work.source.closure().is_some() && work.failed.is_none() && !work.is_current(&inputs));
    let picked = if selecting { Some(pick(context, &works, asked, recommends)?) } else { None };
    let mut outcomes = Vec::new();
    for (number, work) in works.iter_mut().enumerate() {
        if work.source.upstream().is_none() {
            continue;
        }
        let name = work.source.name().to_owned();
        let result = match work.failed.take() {
            Some(error) => Err(error),
            None if work.is_current(&inputs) => Ok("nothing new".to_owned()),
            None => {
                let number = u16::try_from(number).map_err(|_| Error::Bug("too many sources".into()))?;
                work.finish(context, number, picked.as_ref(), &inputs, io)
            }
        };
        match result {
            Err(error @ (Error::Config { .. } | Error::Write { .. } | Error::Bug(_))) => return Err(error),
            result => outcomes.push((name, result)),
        }
    }
    Ok(outcomes)
}

impl<'a, F: Format> Work<'a, F> {
    fn begin(context: &Context<'_>, source: &'a Source, inner: &'a F::Source) -> Result<Self> {
        let mut work = Self {
            source,
            inner,
            remote: None,
            before: Vec::new(),
            state: None,
            heads: Vec::new(),
            indices: Vec::new(),
            read: None,
            failed: None,
        };
        let Some(upstream) = source.upstream() else { return Ok(work) };
        work.before = State::accepted(context.store, source.name())?;
        if let Some(State::Part(state)) = State::load(context.store, source)? {
            work.indices.clone_from(&state.kept);
            work.state = Some(state);
        }
        work.attempt(|work| {
            work.remote = Some(Remote::open(context.config, &upstream)?);
            Ok(())
        })?;
        Ok(work)
    }

    /// Keeps what is wrong with this source alone.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        match step(self) {
            Err(error @ (Error::Config { .. } | Error::Write { .. } | Error::Bug(_))) => Err(error),
            Err(error) => {
                self.failed = Some(error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn probe(&mut self, context: &Context<'_>) -> Result<()> {
        if let Some(remote) = &mut self.remote {
            self.heads = F::probe(context, self.inner, remote, &self.before)?;
        }
        Ok(())
    }

    fn read(&mut self, context: &Context<'_>) -> Result<()> {
        let whole = self.source.closure().is_none();
        let Some(remote) = &mut self.remote else { return Ok(()) };
        let (heads, read, offer) = context.settle(|| F::read(context, self.inner, remote, &self.before, whole))?;
        self.heads = heads;
        self.indices = offer.indices;
        self.read = Some((read, offer.verbatim));
        Ok(())
    }

    /// Everything that a source's content follows from, besides its configuration.
    fn inputs(&self, shared: &Digest) -> Digest {
        let mut text = self.identity();
        if self.source.closure().is_some() {
            text.push_str(&format!(" {shared}"));
        }
        Digest::of(text.as_bytes())
    }

    fn identity(&self) -> String {
        let mut text = self.remote.as_ref().map_or_else(String::new, |remote| remote.keys.to_string());
        for head in &self.heads {
            text.push_str(&format!(" {}", head.sha256));
        }
        text
    }

    fn is_current(&self, shared: &Digest) -> bool {
        self.state.as_ref().is_some_and(|state| state.inputs == self.inputs(shared))
    }

    fn finish(
        &mut self,
        context: &Context<'_>,
        number: u16,
        picked: Option<&Picked>,
        shared: &Digest,
        io: &mut Io,
    ) -> Result<String> {
        let remote = self.remote.as_ref().ok_or_else(|| Error::Bug("a source without an upstream".into()))?;
        let (read, verbatim) = self.read.take().ok_or_else(|| Error::Bug("a source that was not read".into()))?;
        let whole = match self.source.closure() {
            None => F::everything(context, self.inner, &self.indices)?,
            Some(_) => None,
        };
        let (mut plan, files, keyring) = match whole {
            Some(plan) => (plan, verbatim, Some(remote.keyring.armored()?)),
            None => {
                let mine = match (self.source.closure(), picked) {
                    (None, _) => F::filtered(context, self.inner, number, &self.indices)?,
                    (Some(_), Some(Ok(picked))) => {
                        picked.iter().filter(|place| place.source == number).copied().collect()
                    }
                    (Some(_), Some(Err(complaints))) => return Err(Error::Open { lines: complaints.clone() }),
                    (Some(_), None) => return Err(Error::Bug("a selection that was not made".into())),
                };
                let (plan, files) = F::some(context, self.inner, &read, &self.indices, &mine)?;
                (plan, files, None)
            }
        };
        if plan.packages.is_empty() {
            io.warn(format_args!("source {}: no package is published", self.source.name()));
        }
        if let Some(dry) = &context.dry {
            let (count, bytes) = context.would_fetch(dry, self.source.name(), &plan.wanted);
            return Ok(format!("{} packages, {count} to fetch, {bytes} bytes", plan.packages.len()));
        }
        let new = context.fetch(self.source.name(), &remote.bases, &mut plan, io)?;
        let summary = format!("{} packages, {new} new", plan.packages.len());
        let part = F::part(self.inner, plan, files, keyring);
        save(context, self.source, &part, self.inputs(shared), self.heads.clone(), self.indices.clone())?;
        Ok(summary)
    }
}

/// Writes the state of a source whose part is complete.
///
/// # Errors
/// [`Error::Write`].
pub(super) fn save(
    context: &Context<'_>,
    source: &Source,
    part: &manifest::Source,
    inputs: Digest,
    heads: Vec<Head>,
    kept: Vec<Published>,
) -> Result<()> {
    let config = source.fingerprint().ok_or_else(|| Error::Bug("a source without a fingerprint".into()))?;
    let part = context.store.put(&json_line(part)?)?;
    let state = State::Part(PartState { v: State::VERSION, config, inputs, part, heads, kept });
    context.store.write_json(State::path(source.name()), &state)
}

/// Returns the names that all selections of a format start from.
fn asked<S>(all: &[(&Source, &S)]) -> Result<(BTreeSet<Asked>, bool)> {
    let mut asked = BTreeSet::new();
    let mut recommends = false;
    for (source, _) in all {
        let Some(Select::Closure(closure)) = source.upstream().map(|upstream| upstream.select) else { continue };
        recommends |= closure.recommends;
        let explicit = closure.closure.iter();
        asked.extend(explicit.map(|name| Asked { name: name.clone(), version: None, from: String::new() }));
        for path in &closure.packages {
            asked.extend(catalog::read(path)?);
        }
    }
    Ok((asked, recommends))
}

fn shared_inputs<F: Format>(
    context: &Context<'_>,
    works: &[Work<'_, F>],
    asked: &BTreeSet<Asked>,
    recommends: bool,
) -> Result<Digest> {
    if works.iter().all(|work| work.source.closure().is_none()) {
        return Ok(Digest::of(b""));
    }
    let mut text = format!("recommends {recommends}\n");
    for asked in asked {
        text.push_str(&format!("asked {asked}\n"));
    }
    for work in works {
        // A source that failed takes part with what it offered last.
        let heads = if work.heads.is_empty() { &work.before } else { &work.heads };
        let heads: BTreeMap<&str, &Digest> = heads.iter().map(|head| (head.path.as_str(), &head.sha256)).collect();
        text.push_str(&format!("source {} {heads:?}\n", work.source.name()));
        if work.source.upstream().is_none() {
            let state = std::fs::read(context.store.path(State::path(work.source.name()))).unwrap_or_default();
            text.push_str(&format!("directory {}\n", Digest::of(&state)));
        }
    }
    Ok(Digest::of(text.as_bytes()))
}

fn pick<F: Format>(
    context: &Context<'_>,
    works: &[Work<'_, F>],
    asked: BTreeSet<Asked>,
    recommends: bool,
) -> Result<Picked> {
    let mut union = Union { sources: Vec::new(), directories: Vec::new(), asked, recommends };
    for work in works {
        let directory = match work.source.upstream() {
            None => State::load(context.store, work.source)?,
            Some(_) => None,
        };
        union.directories.push(directory);
        union.sources.push((work.inner, &work.indices));
    }
    F::pick(context, &union)
}
