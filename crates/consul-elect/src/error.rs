//! What can go wrong, and the exit code of each.

use std::time::Duration;

use toolkit::exit::{self, Failure};

/// Why `consul-elect` gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Consul did not do it.
    #[error(transparent)]
    Consul(#[from] consul_client::Error),
    /// What is stored is no record.
    #[error("what is stored at {key} is no record of an election: {reason}")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `once` of a name that is led by a `run`.
    #[error("{name} is led by a running `consul-elect run` on {node}")]
    Led {
        /// The election.
        name: String,
        /// The leader's node.
        node: String,
    },
    /// `run` of a name that was chosen for good.
    #[error("{name} was given to {node} for good by `consul-elect once`")]
    Chosen {
        /// The election.
        name: String,
        /// The chosen node.
        node: String,
    },
    /// The record changed all the time.
    #[error("the choice for {name} was changed by others {attempts} times while it was being made")]
    Contended {
        /// The election.
        name: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// What was wanted did not come.
    #[error("did not get {goal} within {}", toolkit::duration::format(*.after))]
    TimedOut {
        /// What was wanted.
        goal: String,
        /// The limit.
        after: Duration,
    },
    /// What was held ended while COMMAND ran; it was stopped.
    #[error("lost {what} and stopped the command: {reason}")]
    Lost {
        /// What was held.
        what: String,
        /// How that was noticed.
        reason: String,
    },
    /// The system refuses what `run` needs.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The answer could not be printed.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
    /// Any of these in `run` and `slot`, whose codes below 124 belong to COMMAND.
    #[error(transparent)]
    Wrapper(Box<Error>),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Consul(error) => error.exit_code(),
            Error::Record { .. } => exit::BAD_INPUT,
            Error::Led { .. } | Error::Contended { .. } => exit::BUSY,
            Error::Chosen { .. } | Error::Lost { .. } | Error::System { .. } => exit::WRAPPER,
            Error::TimedOut { .. } => exit::TIMED_OUT,
            Error::Output(_) => exit::CANT_CREATE,
            Error::Wrapper(error) => match **error {
                Error::TimedOut { .. } => exit::TIMED_OUT,
                _ => exit::WRAPPER,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Consul(error) => error.hint(),
            Error::Chosen { name, .. } => {
                Some(format!("use another name, or forget the choice: consul-elect once {name} --reset"))
            }
            Error::Record { key, .. } => Some(format!("look at it with: consul-kv get {key}")),
            Error::Wrapper(error) => error.hint(),
            _ => None,
        }
    }
}
