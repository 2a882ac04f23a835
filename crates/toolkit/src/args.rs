//! Arguments that every tool takes, and parsers for values.

use std::time::Duration;

use crate::io::Level;

/// `-q` and `-v`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Verbosity {
    /// Say errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more (can be repeated)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Verbosity {
    /// Returns how much is said.
    #[must_use]
    pub fn level(self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Quiet,
            (false, 0) => Level::Normal,
            (false, 1) => Level::Verbose,
            (false, _) => Level::Debug,
        }
    }
}

/// Parses a duration argument such as `500ms` or `2m`.
///
/// # Errors
/// Text that is no duration, as a message for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    crate::duration::parse(text)
}
