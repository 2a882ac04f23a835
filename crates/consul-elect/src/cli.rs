//! The command line: types, help and examples; no I/O.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use consul_client::args::ConsulArgs;
use toolkit::args::Verbosity;

const AFTER: &str = "\
Examples:
  consul-elect run backup -- /usr/local/sbin/backup --all
  consul-elect slot reindex --limit 3 --timeout 10m -- /usr/local/sbin/reindex
  consul-elect once database --mine && init-database
  consul-elect once database --json
  consul-elect show backup
  consul-elect once database --reset

Environment:
  CONSUL_HTTP_ADDR        where Consul's agent listens (default 127.0.0.1:8500)
  CONSUL_HTTP_TOKEN_FILE  file with the token to send
  CONSUL_HTTP_TOKEN       the token itself
  CONSUL_HTTP_SSL         use https for an address without a scheme
  CONSUL_HTTP_SSL_VERIFY  false: do not check the agent's certificate
  CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME
                          TLS settings, as for Consul's own programs
  STACKTIRA_LEADER        set for COMMAND of `run`: the NAME it leads
  STACKTIRA_SLOT          set for COMMAND of `slot`: the NAME it has a slot of
  STACKTIRA_FENCING_TOKEN
                          set for COMMAND: an integer, higher for each later leader of NAME or
                          holder of the slot

Exit status:
  0    done; `once`: chosen, now or earlier
  1    `show`: nobody leads; `once --mine`: another node is chosen
  2    usage
  65   what is stored for NAME is no record of an election
  69   Consul is unreachable or has no leader
  75   `once`: a `run` leads NAME now
  77   Consul denies it
  124  `run`, `slot`: leadership or a slot did not come within --timeout
  125  `run`, `slot`: usage, leadership or slot lost, or a failure of its own
  126  `run`, `slot`: COMMAND cannot be run
  127  `run`, `slot`: COMMAND was not found
  *    `run`, `slot`: COMMAND's own code; 128 + n after signal n";

/// Elect one node for a piece of work
///
/// `run` holds leadership while a command runs, `slot` one of a number of slots, `once` chooses one node for good, `show`
/// prints who leads. Who leads is the record at the key stacktira/leader/NAME of Consul, who has a slot at
/// stacktira/slot/NAME/NUMBER.
#[derive(Debug, Parser)]
#[command(name = "consul-elect", version, after_long_help = AFTER)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// How much to say.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// How to reach Consul.
    #[command(flatten)]
    pub consul: ConsulArgs,
}

/// Returns the command, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run a command while leading
    ///
    /// Waits for leadership, runs COMMAND, and gives leadership back when it ends. COMMAND and what it starts
    /// in its process group are stopped (TERM, then KILL) before Consul may give leadership to another, and die
    /// with this process. A Consul that is away is waited for, as long as leadership is safe.
    Run(RunArgs),
    /// Run a command while holding one of a number of slots
    ///
    /// At most --limit commands run at a time under NAME in the whole cluster. As `run` in everything else: who waits
    /// says for whom, a holder that dies is followed, and COMMAND is stopped when the slot is lost.
    Slot(SlotArgs),
    /// Choose one node for good, and print it
    ///
    /// Of any number of callers at the same time one is chosen and recorded; every caller, now and later, prints
    /// the same line: node, address and fencing token.
    Once {
        /// Exit with 1 when the node of this agent is not the chosen one
        #[arg(long)]
        mine: bool,
        /// Forget the choice, so that the next caller chooses again
        #[arg(long, conflicts_with_all = ["mine", "json"])]
        reset: bool,
        /// Print an object instead
        #[arg(long)]
        json: bool,
        /// Name of the election
        #[arg(value_parser = name)]
        name: String,
    },
    /// Print node, address and fencing token of the leader
    Show {
        /// Let Consul's leader make sure that it still leads, so that the answer is certainly not old
        #[arg(long)]
        consistent: bool,
        /// Print an object instead
        #[arg(long)]
        json: bool,
        /// Name of the election
        #[arg(value_parser = name)]
        name: String,
    },
    /// Keep a command from outliving its owner; `run` starts this itself
    #[command(hide = true)]
    Guard {
        /// Process id of the owner
        #[arg(long)]
        parent: i32,
        /// Descriptor on which the owner tells how long its lease lasts
        #[arg(long)]
        lease: Option<i32>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// How to hold it.
    #[command(flatten)]
    pub hold: HoldArgs,
    /// Name of the election
    #[arg(value_parser = name)]
    pub name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `slot`.
#[derive(Debug, Args)]
pub struct SlotArgs {
    /// How many may hold a slot at a time
    ///
    /// Who asks with a lower limit uses fewer of the slots; nobody is stopped for it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// What happens to COMMAND when the slot is lost, as by an outage of Consul
    ///
    /// With `continue`, more commands than --limit may run until it ends: for work that must not be cut off.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnLoss::Stop)]
    pub on_loss: OnLoss,
    /// How to hold it.
    #[command(flatten)]
    pub hold: HoldArgs,
    /// Name of the slots
    #[arg(value_parser = name)]
    pub name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// What happens to a command whose slot is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnLoss {
    /// It is stopped.
    Stop,
    /// It goes on.
    Continue,
}

/// How leadership or a slot is held.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// How long leadership or the slot outlives a holder that is gone; 10s to 30s
    ///
    /// Who waits takes over this long after the last sign of life and a few seconds more; an outage of Consul up
    /// to two thirds of it, such as the election of a leader, is survived.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = ttl)]
    pub ttl: Duration,
    /// How long COMMAND gets to end after TERM before it is killed; at most 4s
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = kill_after)]
    pub kill_after: Duration,
    /// Give up when it has not come within this long; without it, wait as long as it takes
    #[arg(long, value_name = "DURATION", value_parser = toolkit::args::duration)]
    pub timeout: Option<Duration>,
}

/// A name becomes one part of a key.
fn name(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.len() <= 128 && !text.starts_with(['.', '-']) && text.chars().all(fine) {
        return Ok(text.to_owned());
    }
    Err("use letters, digits, - _ and . (not first), at most 128".to_owned())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = toolkit::args::duration(text)?;
    if (Duration::from_secs(10)..=Duration::from_secs(30)).contains(&ttl) {
        return Ok(ttl);
    }
    Err("it must be from 10s to 30s".to_owned())
}

fn kill_after(text: &str) -> Result<Duration, String> {
    let time = toolkit::args::duration(text)?;
    if time <= Duration::from_secs(4) {
        return Ok(time);
    }
    Err("it must be at most 4s: COMMAND has to be gone before leadership can end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn command_keeps_its_options() {
        for line in ["consul-elect run db -- sh -c x", "consul-elect run db sh -c x"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("it parses");
            assert!(matches!(cli.action, Action::Run(RunArgs { command, .. }) if command == ["sh", "-c", "x"]));
        }
        assert!(Cli::try_parse_from(["consul-elect", "run", "db"]).is_err());
    }

    #[test]
    fn names_are_one_part_of_a_key() {
        assert!(name("db-1.x_y").is_ok());
        for bad in ["", "a/b", "..", ".a", "-a", "a b", "ä"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
