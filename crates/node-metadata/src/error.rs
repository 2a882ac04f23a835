//! What can go wrong, and how the process then ends.

use std::path::PathBuf;

use toolkit::exit::{self, Failure};

/// An error of `node-metadata`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source is there and cannot be read.
    #[error("cannot read the metadata in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A source is there and is no JSON.
    #[error("the metadata of {place} is not valid JSON")]
    Json {
        /// File or address.
        place: String,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// A source is there and holds something else than an object.
    #[error("the metadata of {place} is {found}; a JSON object is expected")]
    NotAnObject {
        /// File or address.
        place: String,
        /// What it is.
        found: &'static str,
    },
    /// A source is larger than any metadata is.
    #[error("the metadata of {place} is larger than {limit} bytes")]
    TooLarge {
        /// File or address.
        place: String,
        /// How much is read.
        limit: u64,
    },
    /// `STACKTIRA_METADATA_URL` is no address.
    #[error("STACKTIRA_METADATA_URL is not an http address: {url}")]
    Url {
        /// The value, without user and password.
        url: String,
    },
    /// The metadata service does not answer, and no other source is there.
    #[error("no metadata: no file holds any, and {url} does not answer ({attempts} attempts): {reason}")]
    Unreachable {
        /// The service, without user and password.
        url: String,
        /// How often it was asked.
        attempts: u32,
        /// What happened last.
        reason: String,
    },
    /// No source is there.
    #[error("no metadata: no file holds any, and {url} has none (status {status})")]
    Nowhere {
        /// The service, without user and password.
        url: String,
        /// What it answered.
        status: u16,
    },
    /// Output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => exit::DENIED,
            Error::Read { .. }
            | Error::Json { .. }
            | Error::NotAnObject { .. }
            | Error::TooLarge { .. }
            | Error::Url { .. } => exit::BAD_INPUT,
            Error::Unreachable { .. } | Error::Nowhere { .. } => exit::UNAVAILABLE,
            Error::Output(_) => exit::CANT_CREATE,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Unreachable { .. } | Error::Nowhere { .. } => Some(format!(
                "mount the config drive on {} or write a JSON object to {}",
                toolkit::dirs::under_root(crate::source::CONFIG_DRIVE.as_ref()).display(),
                toolkit::dirs::under_root(crate::source::LOCAL_FILE.as_ref()).display(),
            )),
            Error::Url { .. } => Some("write http://HOST[:PORT][/PATH]".to_owned()),
            _ => None,
        }
    }
}
