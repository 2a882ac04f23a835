//! What can go wrong, and the exit code of each.

use toolkit::exit::{self, Failure};

/// Why `consul-kv` gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Consul did not do it.
    #[error(transparent)]
    Consul(#[from] consul_client::Error),
    /// The value could not be read.
    #[error("cannot read the value from stdin")]
    Input(#[source] std::io::Error),
    /// The answer could not be printed.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Consul(error) => error.exit_code(),
            Error::Input(_) => exit::BAD_INPUT,
            Error::Output(_) => exit::CANT_CREATE,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Consul(error) => error.hint(),
            Error::Input(_) | Error::Output(_) => None,
        }
    }
}
