//! Every way a lookup can fail, and the exit code of each.

use std::path::{Path, PathBuf};

use toolkit::exit::{self, Failure};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument cannot mean anything.
    #[error("{0}")]
    Argument(String),

    /// Configuration, data, a merge or a type is wrong.
    #[error("{place}{message}", place = place(.file.as_deref(), *.line))]
    Data {
        /// What is wrong.
        message: String,
        /// The file that holds it.
        file: Option<PathBuf>,
        /// The line of that file.
        line: Option<usize>,
    },

    /// A value that only hiera-eyaml can read.
    #[error("the value of {0} is encrypted by eyaml, which is not decrypted here")]
    Encrypted(String),

    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },

    /// The system gives no thread.
    #[error("cannot start a thread")]
    Start {
        /// Why.
        #[source]
        source: std::io::Error,
    },

    /// A file or directory cannot be made.
    #[error("cannot write {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },

    /// Somebody else wrote a key between reading and writing it.
    #[error("{keys}{more} changed in Consul meanwhile; {done} keys are written", more = more_keys(*.more))]
    Changed {
        /// Keys of the transaction that was not made.
        keys: String,
        /// How many more it has.
        more: usize,
        /// How many keys were written before.
        done: usize,
    },

    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Write(#[source] std::io::Error),

    /// Consul did not give the answer.
    #[error("{what}")]
    Consul {
        /// What was asked of it.
        what: String,
        /// Why it failed.
        #[source]
        source: consul_client::Error,
    },
}

fn place(file: Option<&Path>, line: Option<usize>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
        (Some(file), None) => format!("{}: ", file.display()),
        (None, _) => String::new(),
    }
}

fn more_keys(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" or one of {more} more") }
}

impl Error {
    /// Wrong data, at a place the caller may add.
    pub fn data(message: impl Into<String>) -> Self {
        Error::Data { message: message.into(), file: None, line: None }
    }

    /// Names the file, unless a file is named already.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Error::Data { message, file: None, line } => Error::Data { message, file: Some(path.to_owned()), line },
            other => other,
        }
    }

    /// Names the key whose lookup met a Consul that gave no answer.
    pub fn asked_for(self, key: &str) -> Self {
        match self {
            Error::Consul { .. } => self.while_doing(format_args!("key '{key}'")),
            other => other,
        }
    }

    /// Puts what was being done before the message of wrong data, or of a Consul that gave none.
    pub fn while_doing(self, what: impl std::fmt::Display) -> Self {
        match self {
            Error::Data { message, file, line } => Error::Data { message: format!("{what}: {message}"), file, line },
            Error::Consul { what: inner, source } => Error::Consul { what: format!("{what}: {inner}"), source },
            other => other,
        }
    }
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Argument(_) => exit::USAGE,
            Error::Data { .. } | Error::Encrypted(_) => exit::BAD_INPUT,
            Error::Read { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => exit::DENIED,
                _ => exit::BAD_INPUT,
            },
            Error::Start { .. } | Error::Changed { .. } => exit::BUSY,
            Error::Write(_) | Error::Create { .. } => exit::CANT_CREATE,
            Error::Consul { source, .. } => source.exit_code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Consul { source, .. } => source.hint(),
            Error::Changed { .. } => Some("run it again: what is written already is left as it is".to_owned()),
            Error::Encrypted(_) => {
                Some("ask Puppet with hiera-eyaml, or keep the secret where only the node can read it".to_owned())
            }
            _ => None,
        }
    }

    fn is_closed_pipe(&self) -> bool {
        matches!(self, Error::Write(source) if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}
