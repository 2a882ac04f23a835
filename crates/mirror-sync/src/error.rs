//! Everything that can go wrong, and the exit code each of it has.

use std::io;
use std::path::{Path, PathBuf};

use cloner::manifest::ManifestError;
use toolkit::exit::{self, Failure};

use crate::digest::Digest;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file, or a file it names, cannot be used.
    #[error("{}: {message}", path.display())]
    Config {
        /// File at fault.
        path: PathBuf,
        /// What is wrong, with key and position.
        message: String,
        /// Next step, where there is one.
        hint: Option<String>,
    },
    /// The manifest of a git source; its message names the file.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file or directory cannot be created or written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Output could not be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// Another writer holds the mirror.
    #[error("{}: another {what} is running", path.display())]
    Busy {
        /// Lock file.
        path: PathBuf,
        /// What the other process does.
        what: &'static str,
    },
    /// A file is not allowed to be used as it is.
    #[error("{}: {message}", path.display())]
    Denied {
        /// File at fault.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file of the mirror itself does not parse.
    #[error("{}: damaged: {message}", path.display())]
    Damaged {
        /// File at fault.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The only source did not synchronise.
    #[error("source {name}")]
    Source {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        cause: Box<Error>,
    },
    /// Some sources did not synchronise. Each was named before.
    #[error("{} of {total} sources failed: {}; nothing published changed", failed.len(), failed.join(", "))]
    Sources {
        /// Names of those that failed.
        failed: Vec<String>,
        /// Number of sources.
        total: usize,
        /// Exit code: 69 when every failure was an unreachable upstream.
        code: u8,
    },
    /// An upstream cannot be reached or does not answer in time.
    #[error("{what}: {message}")]
    Unavailable {
        /// Which upstream.
        what: String,
        /// Why.
        message: String,
    },
    /// Content of a source is not acceptable.
    #[error("{what}: {message}")]
    Rejected {
        /// Which source, file or repository.
        what: String,
        /// Why.
        message: String,
    },
    /// Packages that are asked for cannot be installed from the sources.
    #[error("{}", open(lines))]
    Open {
        /// One line for each.
        lines: Vec<String>,
    },
    /// A source has no complete synchronisation yet.
    #[error("source {name}: {why}")]
    NotSynced {
        /// Source.
        name: String,
        /// Why its state cannot be used.
        why: String,
    },
    /// No such snapshot. `code` is the command's own.
    #[error("no snapshot {id}")]
    NoSnapshot {
        /// Identifier asked for.
        id: String,
        /// Exit code.
        code: u8,
    },
    /// An export holds only what a snapshot has beyond another one, which is not here.
    #[error("{}: holds what snapshot {id} has beyond {since}, and that one is not here", path.display())]
    NoBase {
        /// The file.
        path: PathBuf,
        /// Snapshot.
        id: String,
        /// The one that it builds on.
        since: String,
    },
    /// A channel that the configuration does not name.
    #[error("{}: no channel {channel} (channels: {known})", config.display())]
    NoChannel {
        /// Configuration file.
        config: PathBuf,
        /// Channel asked for.
        channel: String,
        /// Channels of the configuration.
        known: String,
    },
    /// The channel has nothing to go back to.
    #[error("{channel}: {why}")]
    NoRollback {
        /// Whose pointer it is.
        channel: String,
        /// Why.
        why: String,
    },
    /// Somebody else moved a pointer or a rollout at the same time.
    #[error("{what}: somebody else moved it at the same time")]
    Moved {
        /// Which.
        what: String,
    },
    /// A rollout of the channel is under way.
    #[error("channel {channel}: a rollout of {snapshot} is under way")]
    RolloutUnderWay {
        /// Channel.
        channel: String,
        /// What is rolled out.
        snapshot: String,
    },
    /// There is nothing to roll out to, or nothing under way.
    #[error("channel {channel}: {why}")]
    NoRollout {
        /// Channel.
        channel: String,
        /// Why.
        why: String,
    },
    /// A rollout went back.
    #[error("channel {channel}: the rollout of {snapshot} went back: {why}")]
    Returned {
        /// Channel.
        channel: String,
        /// What was rolled out.
        snapshot: String,
        /// What stopped it.
        why: String,
    },
    /// Consul does not do what is needed.
    #[error("consul: {what}: {message}")]
    Consul {
        /// Operation.
        what: String,
        /// Cause.
        message: String,
        /// Exit code: 69 or 77.
        code: u8,
    },
    /// A signature or digest is wrong.
    #[error("{what}: {message}")]
    Forged {
        /// What was checked.
        what: String,
        /// Why it is not accepted.
        message: String,
    },
    /// OpenPGP operation failed.
    #[error("{}: {message}", path.display())]
    Key {
        /// Key file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// `verify` found damage; the findings are on stdout.
    #[error("{count} damaged")]
    Verify {
        /// Number of findings.
        count: usize,
    },
    /// An invariant of this program does not hold.
    #[error("internal error: {0}")]
    Bug(String),
}

/// Joins what is open; a long list is cut.
fn open(lines: &[String]) -> String {
    const SHOWN: usize = 50;
    let mut text = format!("not closed: {}", lines[..lines.len().min(SHOWN)].join("; "));
    if lines.len() > SHOWN {
        text.push_str(&format!("; and {} more", lines.len() - SHOWN));
    }
    text
}

impl Error {
    /// Configuration error without a hint.
    pub(crate) fn config(path: &Path, message: impl Into<String>) -> Self {
        Self::Config { path: path.to_owned(), message: message.into(), hint: None }
    }

    /// Adapter for `map_err` on reads.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// Adapter for `map_err` on writes.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    /// Content of a source that is refused.
    pub(crate) fn rejected(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Rejected { what: what.into(), message: message.into() }
    }

    /// An upstream that is away.
    pub(crate) fn unavailable(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Unavailable { what: what.into(), message: message.into() }
    }

    /// A wrong signature or digest.
    pub(crate) fn forged(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Forged { what: what.into(), message: message.into() }
    }

    /// A snapshot that does not exist, for commands that answer 1.
    pub(crate) fn no_snapshot(id: &Digest) -> Self {
        Self::NoSnapshot { id: id.to_string(), code: exit::NO }
    }
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::Manifest(_) | Self::NoChannel { .. } | Self::Key { .. } => exit::BAD_INPUT,
            Self::Read { .. } | Self::Unavailable { .. } => exit::UNAVAILABLE,
            Self::Write { .. } | Self::Output(_) => exit::CANT_CREATE,
            Self::Busy { .. } | Self::Moved { .. } | Self::RolloutUnderWay { .. } => exit::BUSY,
            Self::Denied { .. } => exit::DENIED,
            Self::Source { cause, .. } if cause.exit_code() == exit::UNAVAILABLE => exit::UNAVAILABLE,
            Self::Source { .. }
            | Self::Rejected { .. }
            | Self::Open { .. }
            | Self::Damaged { .. }
            | Self::NotSynced { .. }
            | Self::NoBase { .. }
            | Self::NoRollback { .. }
            | Self::Forged { .. }
            | Self::NoRollout { .. }
            | Self::Returned { .. }
            | Self::Verify { .. } => exit::NO,
            Self::Sources { code, .. } | Self::NoSnapshot { code, .. } | Self::Consul { code, .. } => *code,
            Self::Bug(_) => exit::BUG,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Config { hint, .. }
            | Self::Manifest(ManifestError::At { hint, .. } | ManifestError::Override { hint, .. }) => hint.clone(),
            Self::Source { cause, .. } => cause.hint(),
            Self::NotSynced { .. } => Some("run `mirror-sync sync`".into()),
            Self::Consul { code, .. } if *code == exit::UNAVAILABLE => {
                Some("nothing was changed; see that the agent runs and has a leader, then run it again".into())
            }
            Self::NoSnapshot { .. } => Some("`mirror-sync list` shows the snapshots".into()),
            Self::NoBase { .. } => Some("import that one first, or export the snapshot without --since".into()),
            Self::Busy { .. } => Some("try again when it is done".into()),
            Self::Moved { .. } => Some("look at `mirror-sync list`, then try again".into()),
            Self::RolloutUnderWay { .. } => Some(
                "wait for it (`mirror-sync rollout status`), or stop it: `mirror-sync rollout abort --channel NAME`"
                    .into(),
            ),
            Self::NoRollback { .. } => {
                Some("`mirror-sync promote ID --channel NAME` goes to any snapshot that exists".into())
            }
            Self::Damaged { .. } => Some("`mirror-sync verify` says what else is damaged".into()),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space (`mirror-sync gc` needs none), then run it again".into())
            }
            _ => None,
        }
    }

    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
