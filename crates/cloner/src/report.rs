//! What a run tells: a line per repository and a summary, for people or as JSON.

use serde::Serialize;
use toolkit::Io;

use crate::fault::{Cause, Fault};
use crate::manifest::Repo;
use crate::source::Source;

/// What became of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Placed,
    Updated,
    Unchanged,
    Failed,
    WouldPlace,
    WouldUpdate,
    /// `--purge`: removed, because the manifest no longer lists it.
    Purged,
    WouldPurge,
    /// `--generations`: ready, but another repository of the set failed.
    Held,
    /// `--status`: as placed.
    Clean,
    /// `--status`: somebody changed it.
    Changed,
    /// `--status`: the manifest asks for something else by now.
    Outdated,
    /// `--status`: nothing is there.
    Absent,
    /// `--status`: something else is there.
    Foreign,
}

impl State {
    /// Worst first.
    pub(crate) const ALL: [Self; 14] = [
        Self::Failed,
        Self::Held,
        Self::Changed,
        Self::Foreign,
        Self::Absent,
        Self::Outdated,
        Self::Purged,
        Self::WouldPurge,
        Self::Updated,
        Self::WouldUpdate,
        Self::Placed,
        Self::WouldPlace,
        Self::Unchanged,
        Self::Clean,
    ];
    /// What becomes of repositories in an ordinary run.
    pub(crate) const USUAL: [Self; 4] = [Self::Failed, Self::Updated, Self::Placed, Self::Unchanged];

    /// Whether something on the disk became another.
    pub(crate) fn is_change(self) -> bool {
        matches!(self, Self::Placed | Self::Updated | Self::Purged)
    }

    fn rank(self) -> usize {
        Self::ALL.iter().position(|state| *state == self).unwrap_or(Self::ALL.len())
    }

    pub(crate) fn word(self) -> String {
        word(&self)
    }
}

/// One repository's line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    #[serde(rename = "type")]
    kind: &'static str,
    v: u32,
    name: String,
    dest: String,
    source: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
    old: Option<String>,
    new: Option<String>,
    pub(crate) state: State,
    cause: Option<Cause>,
    message: Option<String>,
    /// `--diff`: what would come.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<String>,
    #[serde(skip)]
    hint: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    #[serde(rename = "type")]
    kind: &'static str,
    v: u32,
    repos: usize,
    placed: usize,
    updated: usize,
    unchanged: usize,
    failed: usize,
    would_place: usize,
    would_update: usize,
    purged: usize,
    would_purge: usize,
    held: usize,
    clean: usize,
    changed: usize,
    outdated: usize,
    absent: usize,
    foreign: usize,
}

impl Line {
    pub(crate) fn new(repo: &Repo, state: State, old: Option<String>, new: Option<String>) -> Self {
        Self {
            kind: "repo",
            v: 1,
            name: repo.name.clone(),
            dest: repo.dest.clone(),
            source: shown(&repo.source),
            reference: repo.reference.clone(),
            old,
            new,
            state,
            cause: None,
            message: None,
            log: Vec::new(),
            hint: None,
        }
    }

    pub(crate) fn failed(repo: &Repo, old: Option<String>, fault: Fault) -> Self {
        Self {
            cause: Some(fault.cause),
            message: Some(toolkit::exit::one_line(&fault.message)),
            hint: fault.hint,
            ..Self::new(repo, State::Failed, old, None)
        }
    }

    pub(crate) fn would_purge(self) -> Self {
        Self { state: State::WouldPurge, ..self }
    }

    pub(crate) fn message(self, message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..self }
    }

    /// The commits of an update that is planned.
    pub(crate) fn update(&self) -> Option<(&str, &str)> {
        let (old, new) = (self.old.as_deref()?, self.new.as_deref()?);
        (self.state == State::WouldUpdate && old != new).then_some((old, new))
    }

    pub(crate) fn log(&mut self, log: Vec<String>) {
        self.log = log;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dest(&self) -> &str {
        &self.dest
    }

    /// The word of the cause; empty if nothing failed.
    pub(crate) fn cause_word(&self) -> String {
        self.cause.as_ref().map(word).unwrap_or_default()
    }

    /// For people: `keystone (modules/keystone): 1a2b3c4d5e6f -> 6f5e4d3c2b1a`.
    fn text(&self) -> String {
        let short = |sha: &Option<String>| sha.as_ref().map(|sha| sha.chars().take(12).collect::<String>());
        let commits = match (short(&self.old), short(&self.new)) {
            (Some(old), Some(new)) if old != new => format!(" {old} -> {new}"),
            (_, Some(new)) => format!(" at {new}"),
            (Some(old), None) => format!(" at {old}"),
            (None, None) => String::new(),
        };
        let message = self.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        format!("{} ({}) {}{commits}{message}", self.name, self.dest, self.state.word())
    }
}

/// Prints all lines and the summary: JSON in the manifest's order, words for people worst first. For a
/// `listing`, states are the data that was asked for.
pub(crate) fn print(io: &mut Io, lines: &[Line], json: bool, listing: bool) -> std::io::Result<()> {
    if json {
        for line in lines {
            io.json(line)?;
        }
    }
    let mut sorted: Vec<&Line> = lines.iter().collect();
    sorted.sort_by_key(|line| line.state.rank());
    for line in sorted {
        if listing && !json && line.state != State::Failed {
            io.out(format!("{}\n", toolkit::exit::one_line(&line.text())))?;
            for commit in &line.log {
                io.out(format!("    {commit}\n"))?;
            }
        }
        match (line.state, &line.cause) {
            (State::Failed, Some(cause)) => {
                let message = line.message.as_deref().unwrap_or_default();
                io.error(format_args!("{} ({}): {}: {message}", line.name, line.dest, word(cause)));
                if let Some(hint) = &line.hint {
                    io.hint(hint);
                }
            }
            (State::Unchanged, _) => io.detail(line.text()),
            _ if listing => {}
            _ => io.note(line.text()),
        }
    }
    let count = |state: State| lines.iter().filter(|line| line.state == state).count();
    let summary = Summary {
        kind: "summary",
        v: 1,
        repos: lines.len(),
        placed: count(State::Placed),
        updated: count(State::Updated),
        unchanged: count(State::Unchanged),
        failed: count(State::Failed),
        would_place: count(State::WouldPlace),
        would_update: count(State::WouldUpdate),
        purged: count(State::Purged),
        would_purge: count(State::WouldPurge),
        held: count(State::Held),
        clean: count(State::Clean),
        changed: count(State::Changed),
        outdated: count(State::Outdated),
        absent: count(State::Absent),
        foreign: count(State::Foreign),
    };
    if json {
        io.json(&summary)?;
    }
    if summary.failed > 0 {
        // The only repository has just been named.
        if summary.repos > 1 {
            io.error(format_args!("{} of {} repositories failed", summary.failed, summary.repos));
        }
    } else if !listing {
        io.note(format_args!(
            "{} repositories: {} placed, {} updated, {} unchanged",
            summary.repos, summary.placed, summary.updated, summary.unchanged
        ));
    }
    Ok(())
}

/// A source without credentials, even one that does not pass the checks.
pub(crate) fn shown(source: &str) -> String {
    match Source::parse(source, std::path::Path::new("")) {
        Ok(source) => source.to_string(),
        Err(_) => toolkit::exit::one_line(&toolkit::redact::url(source)),
    }
}

/// The kebab-case name that serde gives to a unit variant.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
