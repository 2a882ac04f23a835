//! Makes man pages and completions from the command lines that the tools themselves parse.
//!
//! Nothing is written twice by hand: a page's options come from the tool's clap types, its sections EXAMPLES, FILES,
//! ENVIRONMENT and EXIT STATUS from the same text that `--help` ends with. Files that have not changed are
//! not rewritten.

pub mod cli;
pub mod man;

use std::path::{Path, PathBuf};

use clap_complete::Shell;
use toolkit::exit::{self, Failure};
use toolkit::{Io, atomic};

use crate::cli::{Cli, Task};

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct Error {
    /// The file or directory.
    path: PathBuf,
    /// What the system said.
    source: std::io::Error,
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        exit::CANT_CREATE
    }
}

/// Returns the command line of every tool that is installed.
#[must_use]
pub fn tools() -> Vec<clap::Command> {
    vec![
        cloner::cli::command(),
        consul_elect::cli::command(),
        consul_kv::cli::command(),
        consul_watch_handler::cli::command(),
        hiera_consul::cli::command(),
        mirror_sync::cli::command(),
        node_metadata::cli::command(),
        ts::cli::command(),
    ]
}

/// Does what the command line says.
///
/// # Errors
/// A file cannot be written.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    match &cli.task {
        Task::Man { directory } => {
            for tool in tools() {
                let path = directory.join(format!("{}.1", tool.get_name()));
                write(&path, man::page(tool).as_bytes())?;
                io.note(path.display());
            }
        }
        Task::Completions { directory } => {
            for mut tool in tools() {
                let name = tool.get_name().to_owned();
                for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                    let mut script = Vec::new();
                    clap_complete::generate(shell, &mut tool, &name, &mut script);
                    let path = directory.join(file_name(shell, &name));
                    write(&path, &script)?;
                    io.note(path.display());
                }
            }
        }
    }
    Ok(exit::OK)
}

/// Returns the file name under which a shell looks for the completions of a tool.
fn file_name(shell: Shell, tool: &str) -> String {
    match shell {
        Shell::Zsh => format!("_{tool}"),
        Shell::Fish => format!("{tool}.fish"),
        _ => format!("{tool}.bash"),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let failed = |source| Error { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    atomic::write(path, content, 0o644).map(drop).map_err(failed)
}
