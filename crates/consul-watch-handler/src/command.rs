//! The command that a change runs: payload on stdin, the cause in its environment, ended as a whole.
//!
//! The payload is handed over as a file in memory, so a command that does not read it never blocks us, and we
//! never block it. The command does not get `CONSUL_HTTP_TOKEN`: what it may do in Consul is its own
//! configuration's matter (`CONSUL_HTTP_TOKEN_FILE` is passed on, since it is only a name).

use std::ffi::OsString;
use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use toolkit::process::{Group, exit_code_of};

use crate::error::Error;
use crate::payload::Kind;

/// How long a command that is told to end may take.
pub const GRACE: Duration = Duration::from_secs(5);

/// Why the command runs.
#[derive(Debug)]
pub struct Cause<'a> {
    /// The watch.
    pub name: &'a str,
    /// Its type, if it is known.
    pub kind: Option<Kind>,
    /// Consul's index, if it is known.
    pub index: Option<u64>,
    /// Digest of the payload.
    pub digest: &'a str,
    /// When the change was seen first.
    pub seen: SystemTime,
    /// The payload.
    pub payload: &'a [u8],
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code (128 + n for signal n).
    Code(u8),
    /// It was ended because its time was up.
    TimedOut,
    /// It was ended because we are told to end, by this signal.
    Stopped(i32),
}

/// Runs a command to its end, or until its time is up or `stop` names a signal.
///
/// `stop` is also what waits between two looks: it sleeps for the given time at most, and returns early when there is
/// a reason to.
///
/// # Errors
/// It cannot be started.
pub fn run(
    argv: &[OsString],
    cause: &Cause<'_>,
    limit: Duration,
    mut stop: impl FnMut(Duration) -> Option<i32>,
) -> Result<Ending, Error> {
    let system = |what| move |source| Error::System { what, source };
    let mut command = Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .env("STACKTIRA_WATCH_NAME", cause.name)
        .env("STACKTIRA_WATCH_TYPE", cause.kind.map_or("", Kind::name))
        .env("STACKTIRA_WATCH_INDEX", cause.index.map(|index| index.to_string()).unwrap_or_default())
        .env("STACKTIRA_WATCH_DIGEST", cause.digest)
        .env("STACKTIRA_WATCH_SEEN", seconds(cause.seen))
        .env_remove("CONSUL_HTTP_TOKEN")
        // What systemd wants to hear, it wants to hear from us.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .stdin(payload_file(cause.payload).map_err(system("hold the payload in memory"))?);
    let spawned = Group::spawn(&mut command);
    let mut group =
        spawned.map_err(|source| Error::Spawn { command: argv[0].to_string_lossy().into_owned(), source })?;
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = group.try_wait().map_err(system("wait for the command"))? {
            return Ok(Ending::Code(exit_code_of(status)));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            group.terminate(GRACE).map_err(system("end the command"))?;
            return Ok(Ending::TimedOut);
        }
        if let Some(signal) = stop(pause.min(left)) {
            end(&mut group, signal).map_err(system("end the command"))?;
            return Ok(Ending::Stopped(signal));
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn end(group: &mut Group, signal: i32) -> std::io::Result<ExitStatus> {
    // The command hears the signal that we heard, before the one that it cannot mistake.
    if let Ok(signal) = Signal::try_from(signal) {
        group.signal(signal);
    }
    group.terminate(GRACE)
}

/// Writes a time as seconds since 1970, to the millisecond.
fn seconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}", since.as_secs(), since.subsec_millis())
}

fn payload_file(payload: &[u8]) -> std::io::Result<Stdio> {
    let descriptor = memfd_create(c"watch-payload", MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(descriptor);
    file.write_all(payload)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Stdio::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration, stop: impl FnMut(Duration) -> Option<i32>) -> Result<Ending, Error> {
        let argv = ["/bin/sh", "-c", script].map(OsString::from);
        let payload = vec![b'x'; 1 << 20];
        let cause = Cause {
            name: "w",
            kind: Some(Kind::Key),
            index: Some(7),
            digest: "d",
            seen: UNIX_EPOCH,
            payload: &payload,
        };
        run(&argv, &cause, limit, stop)
    }

    fn nap(pause: Duration) -> Option<i32> {
        std::thread::sleep(pause);
        None
    }

    #[test]
    fn codes_come_back_and_an_unread_payload_is_no_harm() {
        let long = Duration::from_secs(20);
        assert_eq!(shell("exit 3", long, nap).expect("runs"), Ending::Code(3));
        assert_eq!(shell("kill -9 $$", long, nap).expect("runs"), Ending::Code(137));
        assert_eq!(shell("test $(wc -c) = 1048576", long, nap).expect("runs"), Ending::Code(0));
        let told = "test $STACKTIRA_WATCH_NAME$STACKTIRA_WATCH_TYPE$STACKTIRA_WATCH_INDEX$STACKTIRA_WATCH_DIGEST = wkey7d && \
             test $STACKTIRA_WATCH_SEEN = 0.000";
        assert_eq!(shell(told, long, nap).expect("runs"), Ending::Code(0));
    }

    #[test]
    fn time_limits_and_signals_end_it() {
        assert_eq!(shell("sleep 60", Duration::from_millis(50), nap).expect("runs"), Ending::TimedOut);
        let ended = shell("sleep 60", Duration::from_secs(20), |_| Some(15)).expect("runs");
        assert_eq!(ended, Ending::Stopped(15));
    }

    #[test]
    fn a_command_that_is_not_there_is_an_error() {
        let cause = Cause { name: "w", kind: None, index: None, digest: "d", seen: UNIX_EPOCH, payload: b"" };
        let result = run(&["/nonexistent".into()], &cause, Duration::from_secs(1), nap);
        assert!(matches!(result, Err(Error::Spawn { .. })));
    }
}
