//! The command line of `ts`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum};
use toolkit::args::{Verbosity, duration};

use crate::dir::QueueName;
use crate::policy::{Codes, Pauses};

const AFTER_HELP: &str = "\
Examples:
  Ask for a run and go on; any number of calls while one runs cause one more:
      ts -Q puppet --puppet /opt/stacktira/provision/converge.sh
  Ask, wait, and end with the status of the run that covers this call:
      ts -f make -C /srv/site
  Ask now, wait later:
      ticket=$(ts sh -c 'sleep 3; date'); ts -w \"$ticket\"
  At boot and from a timer: run what this boot has not seen, take up what was left:
      ts --resume -Q puppet --puppet /opt/stacktira/provision/converge.sh
  See what goes on, follow it, ask what became of a kick:
      ts -Q puppet -s --json; ts -Q puppet -t; ts --why \"$ticket\"
  From many watches on many hosts: gather, spread, say how it went:
      ts --debounce 2s..30s --splay 1m --metrics /var/lib/node_exporter/ts.prom converge.sh

Environment:
  TS_DIR            State directory, absolute. Default: /run/stacktira/ts for root,
                    $XDG_RUNTIME_DIR/ts for others.
  STACKTIRA_ROOT    Prefix of root's default state directory.
  TS_SCOPE          0 keeps background leaders in the caller's systemd unit. Default: root's
                    leaders move to a scope of their own.
  TS_PUPPET_LOCK    With --puppet: path of the agent's lock, or 0 for none. Default: where
                    Puppet's state directory is.
  TS_QUEUE, TS_RUN  Set for COMMAND and for --on-finish: the queue and the number of the run.
  TS_REASON         Set for COMMAND: the text of --reason.
  TS_STATUS         Set for --on-finish: the status of the run.
  XDG_RUNTIME_DIR   Place of the default state directory of users other than root.

Exit status:
  0      The kick is recorded; or, with -f and -w, the run ended with 0.
  1      -k: nothing runs.
  75     Busy (--if-busy fail), or the queue is disabled (-f, -w).
  124    The run was ended at its time limit.
  125    ts itself failed, or was called wrongly; or the run ended with 0 and its output cannot be
         shown.
  126    The command, or its working directory, cannot be used.
  127    The command was not found.
  128+n  The run was ended by signal n.
  other  -f and -w: the status of the run.
";

/// What to do when the queue is busy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum IfBusy {
    /// Kick: a run starts after the one that goes on
    #[default]
    Kick,
    /// Kick and stay until the run that covers it has ended, as -f
    Join,
    /// Do nothing and end with 0
    Skip,
    /// Do nothing and end with 75
    Fail,
}

impl IfBusy {
    /// Returns the choice that has this name.
    #[must_use]
    pub fn named(name: &str) -> Option<IfBusy> {
        let is = |choice: &IfBusy| choice.to_possible_value().is_some_and(|value| value.matches(name, false));
        IfBusy::value_variants().iter().copied().find(is)
    }
}

/// Run a command in its queue, one at a time, and let requests for the same command coalesce
///
/// A call is a kick: it is recorded and its ticket, a number, is printed. Runs of one queue never
/// overlap. Kicks of the same command line, from the same directory, coalesce: however many come
/// during a run, one more run starts after the last of them. There is no daemon; whoever finds the
/// queue without a leader starts one.
///
/// Everything after COMMAND belongs to COMMAND. It runs without a shell, with /dev/null as stdin, with
/// the environment and under the options of the first kick that no started run covers.
#[derive(Debug, Default, PartialEq, Eq, Parser)]
#[command(
    name = "ts",
    version,
    after_long_help = AFTER_HELP,
    override_usage = "ts [OPTIONS] COMMAND [ARG]...\n       ts [OPTIONS] -s | -l | -w [TICKET] | -c [RUN] | -t [RUN] | -k |\n                    --why TICKET | --resume | --disable REASON | --enable",
)]
pub struct Cli {
    /// Stay until the run that covers this kick has ended; show its output, end with its status
    #[arg(short, long, requires = "command")]
    pub foreground: bool,
    /// Name of the queue (default: default)
    #[arg(short = 'Q', long, value_name = "NAME", value_parser = QueueName::parse)]
    pub queue: Option<QueueName>,
    /// List the jobs of all queues, or of the one named by -Q
    ///
    /// A line for each: queue, state, kicks that wait for a run, status of its last run (-: none), command.
    #[arg(short, long, group = "mode", conflicts_with = "command")]
    pub list: bool,
    /// Show what the queue does
    #[arg(short, long, group = "mode", conflicts_with = "command")]
    pub status: bool,
    /// Wait for the run that covers the ticket, or for everything pending; end with its status
    #[arg(short, long, value_name = "TICKET", num_args = 0..=1, group = "mode", conflicts_with = "command")]
    pub wait: Option<Option<u64>>,
    /// Print the output of a run (default: the newest)
    #[arg(short = 'c', long, value_name = "RUN", num_args = 0..=1, group = "mode", conflicts_with = "command")]
    pub output: Option<Option<u64>>,
    /// Show the output of a run as it grows, until it ends (default: the newest)
    #[arg(short, long, value_name = "RUN", num_args = 0..=1, group = "mode", conflicts_with = "command")]
    pub tail: Option<Option<u64>>,
    /// Say what became of a kick: which run covers it, for which reasons, how long it waited
    #[arg(long, value_name = "TICKET", group = "mode", conflicts_with = "command")]
    pub why: Option<u64>,
    /// Stop the run that goes on; it is not tried again
    #[arg(short, long, group = "mode", conflicts_with = "command")]
    pub kill: bool,
    /// Take up what was left; with COMMAND, kick it if this boot has not seen it
    ///
    /// For boot and timers. Without -Q and COMMAND, in all queues.
    #[arg(long, group = "mode", conflicts_with = "foreground")]
    pub resume: bool,
    /// Record kicks but start nothing until --enable
    #[arg(long, value_name = "REASON", group = "mode", conflicts_with = "command")]
    pub disable: Option<String>,
    /// Start what was recorded while the queue was disabled
    #[arg(long, group = "mode", conflicts_with = "command")]
    pub enable: bool,
    /// Print JSON, one object per line (with -s, -l and --why)
    #[arg(long, requires = "mode", conflicts_with_all = ["wait", "output", "tail", "kill", "resume", "disable", "enable"])]
    pub json: bool,
    /// Take the statuses as `puppet apply --detailed-exitcodes` means them
    ///
    /// Success: 0 and 2. Tried again: 1, 4, 6, signals, 124 (time limit), and 126 and 127, which are also
    /// said in the queue's leader.log. --success and --retry override.
    ///
    /// Keeps `puppet agent` out during the run by taking its lock, agent_catalog_run.lock; an agent's own run is
    /// waited for, at most as long as --timeout (else 1 h; then the status is 75, and it is tried again).
    #[arg(long, requires = "command")]
    pub puppet: bool,
    /// Statuses that mean success, such as 0,2 (default: 0)
    #[arg(long, value_name = "CODES", value_parser = Codes::parse, requires = "command")]
    pub success: Option<Codes>,
    /// Statuses after which the job is run again later, such as 1,4-6,signal (default: none)
    ///
    /// What ts itself cannot start, for want of memory, processes or descriptors, is tried again in any case (1 s to 10 min).
    #[arg(long, value_name = "CODES", value_parser = Codes::parse, requires = "command")]
    pub retry: Option<Codes>,
    /// Pauses before that; they double (default: 10s..10m)
    ///
    /// A new kick ends the pause and starts over with MIN.
    #[arg(long, value_name = "MIN..MAX", value_parser = Pauses::parse, requires = "command")]
    pub backoff: Option<Pauses>,
    /// Time limit of a run; then its process group gets TERM and the status is 124
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "command")]
    pub timeout: Option<Duration>,
    /// Time between TERM and KILL (default: 10s)
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "command")]
    pub kill_after: Option<Duration>,
    /// Gather kicks: start when none has come for MIN, or when the first is MAX old
    ///
    /// Holds for the kicks that follow, until one comes without --debounce and --splay: that is run at once.
    #[arg(long, value_name = "MIN..MAX", value_parser = Pauses::parse, requires = "command")]
    pub debounce: Option<Pauses>,
    /// Start this host's share of DURATION later, so that hosts spread; the same at each time
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "command")]
    pub splay: Option<Duration>,
    /// File for Prometheus (textfile collector), written whole when runs start and end
    #[arg(long, value_name = "FILE", requires = "command")]
    pub metrics: Option<String>,
    /// Executable to run after each run, at most 1 min, with TS_STATUS, TS_QUEUE and TS_RUN
    #[arg(long, value_name = "PATH", requires = "command")]
    pub on_finish: Option<String>,
    /// Why the run is asked for; shown by -s and -l, and given to COMMAND as TS_REASON
    #[arg(long, value_name = "TEXT", requires = "command")]
    pub reason: Option<String>,
    /// What to do if something runs or is pending in the queue
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = IfBusy::Kick, conflicts_with_all = ["foreground", "resume"])]
    pub if_busy: IfBusy,
    /// Lead the queue whose lock is stdin; for ts itself
    #[arg(long, hide = true, group = "mode", conflicts_with = "command")]
    pub lead: bool,
    /// Stand by for the leader, holding the lock that is stdin; for ts itself
    #[arg(long, value_name = "DEATHS", hide = true, group = "mode", conflicts_with = "command")]
    pub heir: Option<u32>,
    /// How much is said.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// Command to run, and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required_unless_present = "mode")]
    pub command: Vec<OsString>,
}

/// Returns the command line, for man page and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn everything_after_the_command_belongs_to_it() {
        let cli = Cli::try_parse_from(["ts", "-Q", "q", "sh", "-c", "x", "--json", "-s"]).expect("valid");
        assert_eq!(cli.command, ["sh", "-c", "x", "--json", "-s"]);
        assert!(!cli.json && !cli.status);
        let cli = Cli::try_parse_from(["ts", "--", "-odd"]).expect("valid");
        assert_eq!(cli.command, ["-odd"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for args in [
            &["--bogus", "true"][..],
            &[],
            &["-f"],
            &["-s", "true"],
            &["-s", "-l"],
            &["--json", "true"],
            &["-w", "x"],
            &["-Q", "../x", "true"],
            &["--if-busy", "explode", "true"],
            &["--timeout", "5", "true"],
        ] {
            assert!(Cli::try_parse_from([&["ts"], args].concat()).is_err(), "{args:?}");
        }
    }
}
