//! Why one repository failed. The others go on.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// The kind of a failure, as the summary and `--json` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// The manifest asks for something that is not allowed.
    Manifest,
    /// The source cannot be reached or does not answer as a git server does.
    Network,
    /// The source wants (other) credentials.
    Auth,
    /// There is no such branch, tag or commit, or its tree cannot be placed safely.
    Ref,
    /// The destination holds what would be lost.
    LocalChanges,
    /// The disk refused.
    Disk,
    /// It is not signed as the manifest wants.
    Signature,
    /// The lock file does not have it, or has something else.
    Lock,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Never,
    Soon,
    /// Not before this long, as the server said.
    After(Duration),
}

/// One repository's failure.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) retry: Retry,
    /// Whether libgit2 found it in what a server or repository said, as opposed to no answer at all.
    pub(crate) in_answer: bool,
    /// Whether the server says that it has too much to do.
    pub(crate) crowded: bool,
}

impl Fault {
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), hint: None, retry: Retry::Never, in_answer: false, crowded: false }
    }

    pub(crate) fn network(message: impl Into<String>) -> Self {
        Self { retry: Retry::Soon, ..Self::new(Cause::Network, message) }
    }

    pub(crate) fn disk(path: &Path, err: &std::io::Error) -> Self {
        Self::new(Cause::Disk, format!("{}: {err}", path.display()))
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Turns an error of libgit2 into a failure; `otherwise` is its cause unless the disk is to blame.
    pub(crate) fn git(otherwise: Cause, what: &str, err: &git2::Error) -> Self {
        use git2::ErrorClass;
        let message = format!("{what}: {}", err.message());
        if matches!(err.class(), ErrorClass::Os | ErrorClass::Filesystem) {
            return Self::new(Cause::Disk, message);
        }
        let fault = Self { in_answer: true, ..Self::new(otherwise, message) };
        if otherwise == Cause::Network { Self { retry: Retry::Soon, ..fault } } else { fault }
    }
}
