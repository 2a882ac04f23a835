//! What can go wrong in `ts` itself; what goes wrong in the command is its own status.

use std::path::{Path, PathBuf};

use toolkit::exit::{self, Failure};

/// An error of `ts`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No state directory can be told.
    #[error("no state directory: neither TS_DIR nor XDG_RUNTIME_DIR is set")]
    NoStateDir,
    /// `TS_DIR` is relative.
    #[error("TS_DIR is not an absolute path: {}", .0.display())]
    RelativeStateDir(PathBuf),
    /// The state directory cannot be made or trusted.
    #[error(transparent)]
    Dir(#[from] toolkit::dirs::DirError),
    /// A file cannot be used.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The short lock of the table was not to be had.
    #[error("cannot lock {}: another ts has held it for {seconds} s", path.display())]
    Table {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// Every slot holds a job that is still to be run.
    #[error("the queue {queue} is full: {jobs} different commands are pending; this kick was not recorded")]
    Full {
        /// The queue.
        queue: String,
        /// How many.
        jobs: usize,
    },
    /// The options do not go together.
    #[error("{0}")]
    Usage(String),
    /// The ticket does not belong here.
    #[error("ticket {ticket} {reason}")]
    Ticket {
        /// The ticket.
        ticket: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such run, or its output is gone.
    #[error("the queue {queue} keeps no output of {run}")]
    NoRun {
        /// The queue.
        queue: String,
        /// What was asked for.
        run: String,
    },
    /// Nothing is started while the queue is disabled.
    #[error("the queue {queue} is disabled: {reason}")]
    Disabled {
        /// The queue.
        queue: String,
        /// Why.
        reason: String,
    },
    /// A run waits for a run of its own queue.
    #[error("this is run {run} of the queue {queue}; waiting for a later one would never end")]
    Itself {
        /// The queue.
        queue: String,
        /// The run that waits.
        run: u64,
    },
    /// Something runs and the caller wanted nothing then.
    #[error("the queue {0} is busy")]
    Busy(String),
    /// The system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The output of a run cannot be shown.
    #[error("{}", Error::output_text(*run))]
    Output {
        /// The run.
        run: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The answer cannot be written.
    #[error("cannot write to stdout")]
    Stdout(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn output_text(run: u64) -> String {
        format!("cannot show the whole output of run {run}")
    }

    pub(crate) fn io(verb: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::Io { verb, path: path.to_owned(), source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::System { what, source }
    }

    /// Whether the cause is that nothing can be written: a full or read-only file system.
    pub(crate) fn nothing_can_be_written(&self) -> bool {
        // That is about who reads us, not about our own files.
        if matches!(self, Error::Output { .. } | Error::Stdout(_)) {
            return false;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return matches!(io.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS));
            }
            cause = error.source();
        }
        false
    }
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Disabled { .. } | Error::Busy(_) => exit::BUSY,
            _ => exit::WRAPPER,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::NoStateDir | Error::RelativeStateDir(_) => {
                Some("set TS_DIR to a directory of your own, by its full path".to_owned())
            }
            Error::Dir(toolkit::dirs::DirError::Unsafe { .. }) => {
                Some("set TS_DIR to a directory that only you can write to".to_owned())
            }
            Error::Output { run, .. } => Some(format!("it is kept: ts -c {run}, with -Q and the queue's name")),
            Error::Itself { .. } => Some("kick without -f, or use another queue".to_owned()),
            Error::Full { .. } => Some("give other commands a queue of their own with -Q".to_owned()),
            Error::Disabled { queue, .. } => Some(format!("enable it with `ts -Q {queue} --enable`")),
            Error::Ticket { .. } => Some(
                "a ticket is the number that the kick printed, not that of a run; name the queue of the kick with -Q"
                    .to_owned(),
            ),
            Error::NoRun { queue, .. } => Some(format!(
                "`ts -Q {queue} -s` names the newest run; the last {} at most are kept; -Q names another queue",
                crate::runlog::RUNS
            )),
            _ => None,
        }
    }
}
