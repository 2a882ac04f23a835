//! Exit codes, and the one place where an error becomes text and a code.

use std::process::ExitCode;

use crate::Io;

/// Done, or found.
pub const OK: u8 = 0;
/// The tool's own "no": absent, some failed, differs.
pub const NO: u8 = 1;
/// The command line cannot be understood.
pub const USAGE: u8 = 2;
/// An input file or its data is wrong.
pub const BAD_INPUT: u8 = 65;
/// Consul, an upstream or a mirror cannot be reached or does not answer as promised.
pub const UNAVAILABLE: u8 = 69;
/// A bug in the tool.
pub const BUG: u8 = 70;
/// A file or directory cannot be created or written.
pub const CANT_CREATE: u8 = 73;
/// Somebody else is at it; try later.
pub const BUSY: u8 = 75;
/// Permission denied, by Consul or by the system.
pub const DENIED: u8 = 77;
/// Wrappers: the command ran into its time limit.
pub const TIMED_OUT: u8 = 124;
/// Wrappers: the wrapper itself failed, or was called wrongly.
pub const WRAPPER: u8 = 125;
/// Wrappers: the command was found and cannot be run.
pub const CANNOT_RUN: u8 = 126;
/// Wrappers: the command was not found.
pub const NOT_FOUND: u8 = 127;
/// Wrappers: the command died of signal n, as 128 + n.
pub const SIGNALED: u8 = 128;

/// An error that knows how its process ends.
pub trait Failure: std::error::Error {
    /// Returns the exit code that the table above gives to this error.
    fn exit_code(&self) -> u8;

    /// Returns what the user can do next, if that is known.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Whether the reader of our output has gone away, which is no error of ours.
    fn is_closed_pipe(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = self.source();
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.kind() == std::io::ErrorKind::BrokenPipe;
            }
            source = error.source();
        }
        false
    }
}

/// Prints what clap answered: help and version to stdout with code 0, anything else to stderr with `code`.
#[must_use]
pub fn usage(error: &clap::Error, code: u8) -> ExitCode {
    match error.print() {
        // Help that could not be printed was not given. A reader who has gone away had enough.
        Err(failure) if failure.kind() != std::io::ErrorKind::BrokenPipe && !error.use_stderr() => {
            ExitCode::from(CANT_CREATE)
        }
        _ if error.use_stderr() => ExitCode::from(code),
        _ => ExitCode::SUCCESS,
    }
}

/// Turns the result of a tool into its exit status, saying what failed on stderr.
pub fn finish<E: Failure>(result: Result<u8, E>, io: &mut Io) -> ExitCode {
    finish_as(result, io, CANT_CREATE)
}

/// As [`finish`], for a wrapper: all codes but its own belong to its child, so that output which cannot be
/// written is [`WRAPPER`] too.
pub fn finish_wrapper<E: Failure>(result: Result<u8, E>, io: &mut Io) -> ExitCode {
    finish_as(result, io, WRAPPER)
}

fn finish_as<E: Failure>(result: Result<u8, E>, io: &mut Io, unwritable: u8) -> ExitCode {
    let flushed = io.flush();
    match (result, flushed) {
        (Ok(code), Ok(())) => ExitCode::from(code),
        (Ok(code), Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(code),
        (Ok(_), Err(error)) => {
            io.error(format_args!("cannot write the output: {error}"));
            ExitCode::from(unwritable)
        }
        (Err(error), _) if error.is_closed_pipe() => ExitCode::SUCCESS,
        (Err(error), _) => {
            io.error(chain(&error));
            if let Some(hint) = error.hint() {
                io.hint(hint);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Renders an error with its causes on one line, leaving out a cause that its parent already quotes.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = one_line(&cause.to_string());
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Makes text safe for one line of a terminal or log: control characters become visible escapes.
#[must_use]
pub fn one_line(text: &str) -> String {
    let trimmed = text.trim_end();
    let mut line = String::with_capacity(trimmed.len());
    for character in trimmed.chars() {
        match character {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("cannot read\nthe file")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    impl Failure for Outer {
        fn exit_code(&self) -> u8 {
            BAD_INPUT
        }
    }

    #[test]
    fn an_error_and_its_cause_are_one_line() {
        let error = Outer(std::io::Error::other("disk \x1b[31mgone"));
        assert_eq!(chain(&error), "cannot read the file: disk \\u{1b}[31mgone");
    }

    #[test]
    fn a_closed_pipe_is_recognised_below_the_error() {
        assert!(Outer(std::io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
        assert!(!Outer(std::io::ErrorKind::NotFound.into()).is_closed_pipe());
    }
}
