//! `consul-elect`: elect one node for a piece of work.
//!
//! - `run` leads while a command runs. At no time do two owners' commands run: a session of Consul decides, the
//!   command is stopped by this machine's own clock before that session can end, and dies with its owner. For the
//!   rest (a machine that stands still in the middle of a write) there is the fencing token: an integer that only
//!   rises, for whatever the command writes to, to refuse older ones.
//! - `slot` is the same for a number of holders at a time: a cap on how many nodes do something at once.
//! - `once` chooses one node for good.
//! - `show` prints who leads.
//!
//! The record of both is the key `stacktira/leader/NAME`; see the module `record` for what it holds.
//!
//! Assumptions: a session's TTL is never shorter than asked for (Consul promises that), clocks of two machines
//! run at the same speed to within a second in half a minute, and a restored snapshot is not older than the last
//! election (tokens would repeat).

mod campaign;
pub mod cli;
mod clock;
mod error;
mod guard;
mod lead;
mod lease;
mod once;
mod record;
mod slots;

use std::time::Duration;

use consul_client::{Client, Config, Query};
use serde::Serialize;
use toolkit::{Io, exit};

pub use error::Error;

use campaign::Goal;
use cli::{Action, Cli, OnLoss, RunArgs, SlotArgs};
use lead::Task;
use record::{Record, Stored};

/// Limit for each request of `run` and `slot`, where a lease runs out meanwhile.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// Does what the command line says; returns the exit code.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    match &cli.action {
        Action::Guard { parent, lease, command } => guard::run(*parent, *lease, command, io),
        Action::Run(RunArgs { hold, name, command }) => {
            let goal = Goal::Lead(name.clone());
            wrap(cli, &Task { goal, options: hold, goes_on: false, command }, io)
        }
        Action::Slot(SlotArgs { limit, on_loss, hold, name, command }) => {
            let goal = Goal::Slot { name: name.clone(), limit: *limit };
            wrap(cli, &Task { goal, options: hold, goes_on: *on_loss == OnLoss::Continue, command }, io)
        }
        Action::Once { reset: true, name, .. } => {
            once::reset(&client(cli, None)?, name)?;
            Ok(exit::OK)
        }
        Action::Once { mine, json, name, .. } => {
            let client = client(cli, None)?;
            let record = once::choose(&client, name, io)?;
            print(name, &record, *json, io)?;
            if *mine && client.agent().info()?.node != record.node {
                return Ok(exit::NO);
            }
            Ok(exit::OK)
        }
        Action::Show { consistent, json, name } => {
            let query = if *consistent { Query::consistent() } else { Query::new() };
            match Stored::read(&client(cli, None)?, name, &query)? {
                Some(stored) => {
                    print(name, &stored.record, *json, io)?;
                    Ok(exit::OK)
                }
                None => {
                    io.note(format_args!("nobody leads {name}"));
                    Ok(exit::NO)
                }
            }
        }
    }
}

fn wrap(cli: &Cli, task: &Task<'_>, io: &mut Io) -> Result<u8, Error> {
    client(cli, Some(REQUEST_LIMIT))
        .and_then(|client| lead::run(&client, task, io))
        .map_err(|error| Error::Wrapper(Box::new(error)))
}

/// Returns the client; `limit` shortens its calls where a lease runs out meanwhile.
fn client(cli: &Cli, limit: Option<Duration>) -> Result<Client, Error> {
    let mut config = Config::from_env(|name| std::env::var_os(name))?.with(&cli.consul.overrides())?;
    if let Some(limit) = limit {
        config.connect_timeout = limit;
        config.total_timeout = limit;
    }
    Ok(Client::new(&config)?)
}

fn print(name: &str, record: &Record, json: bool, io: &mut Io) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Shown<'a> {
        r#type: &'static str,
        v: u8,
        name: &'a str,
        #[serde(flatten)]
        record: &'a Record,
    }
    if json {
        io.json(&Shown { r#type: "leader", v: 1, name, record })?;
    } else {
        let token = record.token.unwrap_or_default();
        io.out(format!("{} {} {token}\n", record.node, record.address))?;
    }
    Ok(())
}
