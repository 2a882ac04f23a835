//! Turns changes in Consul into the runs that are needed: one for each change that is real.
//!
//! `handle` is a handler for Consul's own watches (`agent-config` makes their definitions); `watch` asks Consul itself and keeps many watches in one
//! process. Both do the same with a payload ([`payload`]): they compare its digest with that of the last payload whose
//! command succeeded ([`state`]), and run the command ([`command`]) if it differs.
//!
//! What always holds:
//! - The digest is remembered after the command succeeded, never before. A crash makes one run too many, never one too few.
//! - Runs of one name never overlap, over all processes that share the state directory.
//! - An answer that is empty or lacks what was there before is believed only after a consistent read says
//!   the same and the token may see all of it ([`source::Subject::confirm`]). Refused, filtered and leaderless
//!   answers mean "unknown": the last state stays.
//! - Memory is bounded: payloads, remembered events, stacks.
//! - `watch` reads while commands run, so a slow command loses no event; whatever happened meanwhile is one more run.
//! - A watch at rest is one sleeping thread and one connection ([`consul_client::Line`]); 40 of them fit into 6 MiB.
//!
//! `replay` decides once more about payloads that were recorded ([`replay`]).
//!
//! Exit codes of `handle`: the command's; 124 timed out, 125 own failure, 126 cannot run, 127 not found,
//! 128 + n signal. Of `watch`: 0 ended by a signal, 2 usage, 65 configuration, 73 state directory.
//! Of `replay`: 1 a command failed or a digest differs.

pub mod agent;
mod board;
pub mod cli;
pub mod command;
pub mod config;
pub mod error;
mod follow;
pub mod handle;
mod lookout;
mod notify;
pub mod payload;
pub mod replay;
mod runner;
pub mod source;
pub mod state;
pub mod watch;

use std::ffi::OsString;

use toolkit::Io;

use crate::cli::{Action, Cli};
use crate::error::{Error, Failed};

/// Does what the command line says.
///
/// # Errors
/// Those of [`Error`], with the code that the subcommand gives to them.
pub fn run(cli: Cli, io: &mut Io) -> Result<u8, Failed> {
    let overrides = cli.consul.overrides();
    match cli.action {
        Action::Handle(handle) => {
            let settings = Settings { file: Vec::new(), overrides };
            handle::run(&handle, &settings, std::io::stdin().lock(), io).map_err(Failed::of_wrapper)
        }
        Action::Watch { config, record } => {
            watch::run(&config, record.as_deref(), overrides, io).map_err(Failed::of_watch)
        }
        Action::AgentConfig { config } => agent_config(&config, io).map_err(Failed::of_watch),
        Action::Replay(replay) => replay::run(&replay, io).map_err(Failed::of_watch),
    }
}

fn agent_config(path: &std::path::Path, io: &mut Io) -> Result<u8, Error> {
    let config = config::load(path)?;
    let program = std::env::current_exe().map_err(|source| Error::System { what: "tell my own path", source })?;
    let definitions = agent::definitions(&config, &program)?;
    for remark in &definitions.remarks {
        io.warn(remark);
    }
    let text = serde_json::to_string_pretty(&definitions.value).expect("plain data has a JSON form");
    io.out(format!("{text}\n")).map_err(Error::Stdout)?;
    Ok(toolkit::exit::OK)
}

/// How to reach Consul: flags, then the environment, then a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Settings of the file, as names of environment variables with the values that hold where they are not set.
    pub file: Vec<(&'static str, OsString)>,
    /// Settings of the command line.
    pub overrides: consul_client::Overrides,
}

impl Settings {
    /// Returns a client; reads the files that the settings name, connects to nothing.
    ///
    /// # Errors
    /// A setting or a file cannot be used.
    pub fn client(&self) -> Result<consul_client::Client, Error> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let has_token = set("CONSUL_HTTP_TOKEN").is_some();
        let lookup = |name: &str| {
            set(name).or_else(|| {
                // A token of the environment wins over a file that the configuration names.
                let applies = !(has_token && name == "CONSUL_HTTP_TOKEN_FILE");
                self.file.iter().find(|(variable, _)| applies && *variable == name).map(|(_, value)| value.clone())
            })
        };
        consul_client::Config::from_env(lookup)
            .and_then(|config| config.with(&self.overrides))
            .and_then(|config| consul_client::Client::new(&config))
            .map_err(|error| Error::Client(Box::new(error)))
    }
}
