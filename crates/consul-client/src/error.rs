//! What can go wrong, told apart by what the caller should do about it.
//!
//! The rule behind the variants: nothing but a well-formed answer of a cluster with a leader is
//! ever reported as "absent". Everything else is one of these.

use std::path::PathBuf;
use std::time::Duration;

/// What an address that cannot be used was given as.
pub(crate) const ADDRESS: &str = "address of Consul";
/// The same, where the environment gave it.
pub(crate) const ADDRESS_VARIABLE: &str = "CONSUL_HTTP_ADDR";

/// Why a call did not give an answer that may be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, or it broke before the whole answer was there.
    #[error("no answer from Consul at {address}")]
    Unreachable {
        /// Scheme, host and port.
        address: String,
        /// What the transport said.
        source: Cause,
    },
    /// The time limit of the call passed.
    #[error("no answer from Consul at {address} to {request} within {}", seconds(.after))]
    Timeout {
        /// Scheme, host and port.
        address: String,
        /// Method and path.
        request: String,
        /// The limit of the whole call.
        after: Duration,
    },
    /// The agent answered, but the cluster has no leader or cannot be reached through it.
    #[error("Consul at {address} cannot answer {request} now: {detail}")]
    NoLeader {
        /// Scheme, host and port.
        address: String,
        /// Method and path.
        request: String,
        /// The agent's own words.
        detail: String,
    },
    /// The token may not do this.
    #[error("Consul refuses {what}: {detail}")]
    Denied {
        /// Method and path, or the right that is missing.
        what: String,
        /// The agent's own words.
        detail: String,
    },
    /// The answer leaves out what the token may not see, so it cannot be told from "nothing there".
    #[error("Consul left out of the answer to {request} what this token may not see")]
    Filtered {
        /// Method and path.
        request: String,
    },
    /// The session is unknown: it expired, was destroyed, or never existed.
    #[error("session {session} no longer exists")]
    SessionGone {
        /// The session's id.
        session: String,
    },
    /// A status that the API does not give in this place.
    #[error("Consul at {address} answered {request} with status {code}: {body}")]
    Status {
        /// Scheme, host and port.
        address: String,
        /// Method and path.
        request: String,
        /// HTTP status.
        code: u16,
        /// Beginning of the body, printable characters only.
        body: String,
    },
    /// An answer with a good status whose content is not what the API promises.
    #[error("what {address} answered to {request} is not Consul's: {detail}")]
    Body {
        /// Scheme, host and port.
        address: String,
        /// Method and path.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The answer is longer than the configured limit.
    #[error("the answer to {request} is longer than {limit} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A value that Consul does not store.
    #[error("the value of {key} is larger than the {} KiB that Consul takes", limit / 1024)]
    ValueTooLarge {
        /// The key it was meant for.
        key: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A key that cannot be named through the HTTP API.
    #[error("key {key:?} cannot be used: {reason}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting that makes no sense.
    #[error("{setting}: {reason}")]
    Config {
        /// Environment variable or field.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that a setting names could not be used.
    #[error("cannot use {} ({setting}): {reason}", path.display())]
    File {
        /// Environment variable or field that names it.
        setting: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the transport said, as words.
///
/// It hides the type on purpose: callers look for broken pipes among the causes of an error to tell
/// that *their* reader has gone, and a connection to Consul that broke must not look like one.
#[derive(Debug)]
pub struct Cause(Box<dyn std::error::Error + Send + Sync>);

impl Cause {
    pub(crate) fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Cause {
        Cause(error.into())
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {}

/// The three things a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again later: nothing is known about the data.
    Unavailable,
    /// Somebody must grant a right.
    Denied,
    /// What was asked or configured must be changed.
    Input,
}

impl Class {
    /// Returns the exit code of the `sysexits` convention: 69, 77 or 65.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Unavailable => 69,
            Class::Denied => 77,
            Class::Input => 65,
        }
    }
}

impl Error {
    /// Returns what a caller can do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Unreachable { .. }
            | Error::Timeout { .. }
            | Error::NoLeader { .. }
            | Error::SessionGone { .. }
            | Error::Body { .. }
            | Error::TooLarge { .. } => Class::Unavailable,
            Error::Status { code, .. } => match code {
                400 | 405 | 413 => Class::Input,
                _ => Class::Unavailable,
            },
            Error::Denied { .. } | Error::Filtered { .. } => Class::Denied,
            Error::ValueTooLarge { .. } | Error::Key { .. } | Error::Config { .. } | Error::File { .. } => Class::Input,
        }
    }

    /// Returns the exit code of a tool that gives up because of this error.
    pub fn exit_code(&self) -> u8 {
        self.class().exit_code()
    }

    /// Returns the next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unreachable { .. } | Error::Timeout { .. } => {
                Some("check that a Consul agent runs there, or set CONSUL_HTTP_ADDR or --http-addr".to_owned())
            }
            Error::NoLeader { .. } => {
                Some("the cluster has no leader that this agent can reach; try again once it has one".to_owned())
            }
            Error::Denied { .. } | Error::Filtered { .. } => {
                Some("give a token that may: CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN or --token-file".to_owned())
            }
            Error::Config { setting, .. } if setting == ADDRESS || setting == ADDRESS_VARIABLE => {
                Some("write HOST:PORT, http://HOST:PORT or https://HOST:PORT, as in 127.0.0.1:8500".to_owned())
            }
            _ => None,
        }
    }
}

fn seconds(after: &Duration) -> String {
    if after.subsec_millis() == 0 { format!("{} s", after.as_secs()) } else { format!("{:.1} s", after.as_secs_f64()) }
}

/// Shortens what a server sent to one printable line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    const LENGTH: usize = 200;
    let text: String = String::from_utf8_lossy(&body[..body.len().min(4 * LENGTH)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LENGTH)
        .collect();
    let text = text.trim();
    if text.is_empty() { "empty body".to_owned() } else { text.to_owned() }
}
