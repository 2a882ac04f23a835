//! What can go wrong, and how the process then ends.

use std::path::PathBuf;

use toolkit::exit::{self, Failure};

use crate::config::ConfigError;
use crate::payload::PayloadError;

/// An error of `consul-watch-handler`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting of Consul cannot be used.
    #[error("cannot set up the connection to Consul")]
    Client(#[source] Box<consul_client::Error>),
    /// The payload cannot be used.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Directory(#[from] toolkit::dirs::DirError),
    /// No state directory is known.
    #[error("no state directory: {} cannot be used and XDG_RUNTIME_DIR is not set", crate::state::DEFAULT)]
    NoDirectory,
    /// A lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] toolkit::lock::LockError),
    /// Another handler of this name does not end.
    #[error("another handler named {name} still runs after {} s", waited.as_secs())]
    Busy {
        /// The name.
        name: String,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// An empty answer whose truth nobody can check.
    #[error(
        "{name}: the payload says that nothing is there, and nothing tells what was watched, so it is not believed"
    )]
    Unverifiable {
        /// The name.
        name: String,
    },
    /// An empty or shrunk answer that could not be confirmed.
    #[error("{name}: the payload says that {what}, which Consul does not confirm")]
    Unconfirmed {
        /// The name.
        name: String,
        /// What the payload says.
        what: String,
        /// Why.
        source: Box<consul_client::Error>,
    },
    /// An empty or shrunk answer that is wrong.
    #[error("{name}: the payload says that {what}, but the servers still hold {still} of them; it is not believed")]
    Stale {
        /// The name.
        name: String,
        /// What the payload says.
        what: String,
        /// How many are still there.
        still: usize,
    },
    /// The command could not be started.
    #[error("cannot run {command}")]
    Spawn {
        /// Its first word.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused something that always works.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A watch cannot be said in Consul's own terms.
    #[error("{name}: {reason}")]
    NoEquivalent {
        /// The watch.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A record is no record.
    #[error("{}:{line}: {message}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The answer cannot be written.
    #[error("cannot write to stdout")]
    Stdout(#[source] std::io::Error),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// Returns the code that `watch` ends with; `handle` is a wrapper and has its own.
    fn plain_code(&self) -> u8 {
        match self {
            Error::Usage(_) => exit::USAGE,
            Error::Config(_) | Error::NoEquivalent { .. } | Error::Record { .. } | Error::Read { .. } => {
                exit::BAD_INPUT
            }
            Error::Client(error) => error.exit_code(),
            Error::Directory(_) | Error::NoDirectory | Error::Lock(_) | Error::Write { .. } | Error::Stdout(_) => {
                exit::CANT_CREATE
            }
            Error::Busy { .. } => exit::BUSY,
            Error::Unverifiable { .. } | Error::Payload(_) => exit::BAD_INPUT,
            Error::Unconfirmed { source, .. } => source.exit_code(),
            Error::Stale { .. } => exit::UNAVAILABLE,
            Error::Spawn { source, .. } => toolkit::process::spawn_failure_code(source),
            Error::System { .. } => exit::BUG,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Error::Config(error) => error.hint(),
            Error::Client(error) | Error::Unconfirmed { source: error, .. } => error.hint(),
            Error::NoEquivalent { .. } => Some("follow it with consul-watch-handler watch".to_owned()),
            Error::Unverifiable { .. } => {
                Some("give --type, and --key, --prefix or --service where it needs one".to_owned())
            }
            Error::Stale { .. } => Some("Consul will call again when its answer has caught up".to_owned()),
            Error::NoDirectory | Error::Directory(_) => {
                Some("set STACKTIRA_WATCH_DIR to a directory of this user".to_owned())
            }
            Error::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("name the command by its full path: Consul's PATH may be short".to_owned())
            }
            _ => None,
        }
    }
}

/// An error that ends the process, with the code that the subcommand gives to it.
#[derive(Debug)]
pub struct Failed {
    error: Error,
    code: u8,
}

impl Failed {
    /// An error of `handle`, which speaks a wrapper's codes.
    #[must_use]
    pub fn of_wrapper(error: Error) -> Failed {
        let code = match &error {
            Error::Spawn { source, .. } => toolkit::process::spawn_failure_code(source),
            _ => exit::WRAPPER,
        };
        Failed { error, code }
    }

    /// An error of `watch`.
    #[must_use]
    pub fn of_watch(error: Error) -> Failed {
        Failed { code: error.plain_code(), error }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Failure for Failed {
    fn exit_code(&self) -> u8 {
        self.code
    }

    fn hint(&self) -> Option<String> {
        self.error.advice()
    }
}
