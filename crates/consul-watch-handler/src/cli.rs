//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use consul_client::args::ConsulArgs;
use toolkit::args::{Verbosity, duration};

use crate::payload::Kind;

const AFTER_HELP: &str = "\
Examples:
  consul-watch-handler watch /etc/stacktira/watch.yaml
  consul watch -type=key -key=app/motd \\
      consul-watch-handler handle --name motd -- /usr/local/bin/write-motd
  consul watch -type=service -service=web -passingonly=true \\
      consul-watch-handler handle --service web --passing --fields Service -- ts converge.sh
  consul-watch-handler agent-config watch.yaml > /etc/consul.d/watches.json
  consul-watch-handler watch --record /root/stream watch.yaml
  consul-watch-handler replay /root/stream | jq 'select(.run)'
  curl -s http://127.0.0.1:8500/v1/catalog/nodes |
      STACKTIRA_WATCH_DIR=$HOME/.watch consul-watch-handler handle --type nodes -- cat

Environment:
  STACKTIRA_WATCH_DIR     state directory (default /run/stacktira/watch, else below
                          XDG_RUNTIME_DIR)
  STACKTIRA_ROOT          directory below which the default state directory lies, for tests and
                          images
  CONSUL_INDEX            handle: index of the payload, set by Consul
  CONSUL_HTTP_ADDR        address of the Consul agent (default http://127.0.0.1:8500)
  CONSUL_HTTP_TOKEN       token; not passed on to commands
  CONSUL_HTTP_TOKEN_FILE  file that holds the token
  CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT,
  CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME, CONSUL_NAMESPACE, CONSUL_PARTITION
                          as for Consul itself
  NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID
                          watch: set by systemd for a service of Type=notify

  Commands get STACKTIRA_WATCH_NAME, STACKTIRA_WATCH_TYPE, STACKTIRA_WATCH_INDEX,
  STACKTIRA_WATCH_DIGEST and STACKTIRA_WATCH_SEEN (when the change was seen, seconds since 1970),
  and the payload on stdin.

Exit status:
  0    watch: ended by SIGTERM or SIGINT; handle: nothing changed, or the command succeeded
  1    replay: a command failed, or a digest is not the recorded one
  2    the command line cannot be understood (handle: 125)
  65   the configuration, or the record of replay, cannot be read or is wrong; the message names
       file and line
  73   watch: the state directory cannot be used
  124  handle: the command ran into its time limit
  125  handle: its own failure or usage, broken payload, empty answer that Consul does not confirm
  126  handle: the command cannot be run
  127  handle: the command was not found
  *    handle: the command's own code, 128 + n when signal n ended it";

/// Turn changes in Consul into the runs that are needed
///
/// A command runs when what is watched differs from what it last succeeded with, and only then: not because Consul was
/// restarted or reloaded, an index moved or a list changed its order. What Consul refuses, leaves out or cannot
/// answer is unknown, never gone.
#[derive(Debug, Parser)]
#[command(name = "consul-watch-handler", version, after_long_help = AFTER_HELP)]
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

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run a command if the payload on stdin differs from the last one that it succeeded with
    ///
    /// For use as the handler of a Consul watch. Reads the whole payload (at most 16 MiB). List order, indexes and
    /// the output of checks do not count. Only when the command succeeded is the payload remembered. An answer that is
    /// empty, or lacks what was there, is believed only after a consistent read says the same and
    /// the token may see all of it. Events are told apart by id, and the command gets only new ones.
    Handle(Handle),
    /// Follow many watches in one process and run their commands when something changed
    ///
    /// CONFIG is YAML:
    ///
    ///   max_wait: 30s
    ///   consul: {address: "http://127.0.0.1:8500", token_file: /etc/stacktira/token}
    ///   watches:
    ///   - name: motd
    ///     type: key
    ///     key: app/motd
    ///     run: [/usr/local/bin/write-motd]
    ///   - name: balancer
    ///     type: services
    ///     tag: haproxy::balanced
    ///     passing: true
    ///     debounce: 200ms..5s
    ///     run: [ts, -Q, converge, /opt/stacktira/provision/converge.sh]
    ///
    /// Types and their keys: key (key), keyprefix (prefix), services (tag, passing), nodes, service
    /// (service, tag, passing), checks (service), event (event). All take name, fields, debounce,
    /// timeout (default 30m) and run. A debounce of MIN..MAX gathers changes until none came for
    /// MIN, or the first is MAX old. Without one, the first change runs the command at once, and
    /// those within 100ms of a run are gathered for up to 2s. `consul` takes address, token_file,
    /// ca_file, ca_path, client_cert, client_key, tls_server_name, namespace and partition; the
    /// environment wins over it.
    ///
    /// max_wait (default 30s) is how long it may go unnoticed that Consul's state was put back
    /// without a word, as by a restored snapshot, or that the agent hangs. One query asks again that
    /// often for all watches if the agent is on this host; otherwise each does.
    ///
    /// A services watch with a tag follows every service that carries the tag, and its instances. A
    /// failed command is tried again within 15 s. SIGHUP reads CONFIG again; SIGTERM ends the
    /// commands and the process. Each run that succeeded is a line on stderr. systemd is told what a
    /// service of Type=notify tells, and that the process lives only while each watch does.
    #[command(verbatim_doc_comment)]
    Watch {
        /// Configuration file
        config: PathBuf,
        /// Add each payload that differs to FILE (0600, at most 64 MiB), for replay
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// Print the watches of a configuration as definitions for Consul's own agent
    ///
    /// The agent then runs `handle`. What Consul's watches cannot do is said on stderr, and a services watch with a tag
    /// is refused. The agent reads with its own token.
    AgentConfig {
        /// Configuration file, as for watch
        config: PathBuf,
    },
    /// Decide once more about payloads that were recorded, without Consul and without memory
    ///
    /// Record them with `watch --record FILE` or `handle --record FILE`. Prints one JSON object for each; with COMMAND, runs
    /// it for those that make a run, with the same bytes on stdin and the same environment.
    Replay(Replay),
}

/// The options of `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// End the command after this long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    pub timeout: Duration,
    /// The record
    pub file: PathBuf,
    /// Command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The options of `handle`.
#[derive(Debug, Args)]
pub struct Handle {
    /// Name under which the payload is remembered (default: made from the type and the command)
    ///
    /// Handlers of one name run one after the other.
    #[arg(long, value_parser = crate::state::check_name)]
    pub name: Option<String>,
    /// Type of the watch (default: told by the payload)
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Kind>,
    /// Top-level fields that count, of the object or of each row (default: all)
    #[arg(long, value_name = "F,…", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub fields: Vec<String>,
    /// Key that is watched, to confirm that it is gone
    #[arg(long, value_parser = crate::source::check_key, conflicts_with_all = ["prefix", "service"])]
    pub key: Option<String>,
    /// Prefix that is watched, to confirm that keys are gone
    #[arg(long, value_parser = crate::source::check_key, conflicts_with = "service")]
    pub prefix: Option<String>,
    /// Service that is watched, to confirm that instances are gone
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub service: Option<String>,
    /// Tag that the watched service is filtered by
    #[arg(long, requires = "service", value_parser = NonEmptyStringValueParser::new())]
    pub tag: Option<String>,
    /// The watch is for passing instances only
    #[arg(long, requires = "service")]
    pub passing: bool,
    /// Add the payload to FILE (0600, at most 64 MiB), for replay
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// End the command after this long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    pub timeout: Duration,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Returns the command line's description, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_is_consistent() {
        super::command().debug_assert();
    }

    #[test]
    fn options_of_the_command_are_its_own() {
        use clap::Parser;
        let words = ["consul-watch-handler", "handle", "--name", "n", "ts", "--token-file", "f", "-v", "--name=x"];
        let cli = super::Cli::try_parse_from(words).expect("it parses");
        let super::Action::Handle(handle) = cli.action else { panic!("another subcommand") };
        assert_eq!(handle.command, ["ts", "--token-file", "f", "-v", "--name=x"]);
        assert_eq!(cli.consul.token_file, None);
    }
}
