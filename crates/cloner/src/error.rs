//! What ends a whole run, as opposed to [`crate::fault`], which fails one repository.

use std::path::PathBuf;

use toolkit::exit::{self, Failure};

use crate::manifest::ManifestError;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line cannot be understood.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The manifest, or an override of it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Two repositories that cannot both be placed.
    #[error("{at}: dest '{dest}' of '{name}' is the same as, or lies in, that of '{other}' ({other_at})")]
    Conflict {
        /// Position of the later one.
        at: String,
        /// Its dest.
        dest: String,
        /// Its name.
        name: String,
        /// The earlier one's name.
        other: String,
        /// The earlier one's position.
        other_at: String,
    },
    /// The root or cloner's state in it.
    #[error("cannot use the root {}: {message}", root.display())]
    Root {
        /// The root.
        root: PathBuf,
        /// Why.
        message: String,
    },
    /// The lock file's content.
    #[error("lock file {}: {message}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The refs index that was given.
    #[error("refs index {}: {message}", path.display())]
    Refs {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The lock file on disk.
    #[error("cannot write the lock file {}", path.display())]
    WriteLock {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another run is at work.
    #[error("another run holds {}", root.display())]
    Busy {
        /// The root.
        root: PathBuf,
    },
    /// The output.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Manifest(ManifestError::Override { .. }) => exit::USAGE,
            Self::Manifest(_) | Self::Conflict { .. } | Self::Lock { .. } | Self::Refs { .. } => exit::BAD_INPUT,
            Self::Root { .. } | Self::WriteLock { .. } | Self::Output(_) => exit::CANT_CREATE,
            Self::Busy { .. } => exit::BUSY,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. }
            | Self::Manifest(ManifestError::At { hint, .. } | ManifestError::Override { hint, .. }) => hint.clone(),
            Self::Busy { .. } => Some("leave --no-wait out to wait for it".to_owned()),
            Self::Lock { .. } => {
                Some("a run with --lock, without --locked and --update, makes one where there is none".to_owned())
            }
            Self::Refs { .. } => Some("`mirror-sync apply` writes one".to_owned()),
            _ => None,
        }
    }
}
