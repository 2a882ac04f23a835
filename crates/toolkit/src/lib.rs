//! Process conventions that every tool of the workspace shares: exit codes, output, durations, locks,
//! files that appear whole and files that are read within bounds, state directories, child processes, signals,
//! back-off, hex digits and bounded YAML.
//!
//! What always holds: nothing here touches the network, and nothing here ends the process;
//! a tool's `main` turns the answer of [`exit::finish`] into its status.

pub mod args;
pub mod atomic;
pub mod backoff;
pub mod dirs;
pub mod duration;
pub mod exit;
pub mod files;
pub mod hex;
pub mod interpolate;
pub mod io;
pub mod lock;
pub mod process;
pub mod redact;
pub mod signals;
pub mod yaml;

pub use io::Io;
