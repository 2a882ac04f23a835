//! `run`: hold leadership while a command runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use consul_client::Client;
use nix::sys::signal::Signal;
use toolkit::process::{Group, exit_code_of};
use toolkit::signals::Notes;
use toolkit::{Io, exit};

use crate::campaign::{Campaign, Held, News, release};
use crate::cli::RunArgs;
use crate::lease::Lease;
use crate::{Error, clock, guard};

/// How often child, signals and lease are looked at.
const TICK: Duration = Duration::from_millis(50);
/// What the end of COMMAND may take beyond `--kill-after`: scheduling, and the kernel's work on a KILL.
const MARGIN: Duration = Duration::from_secs(1);

/// Waits for leadership, runs the command, returns its code.
pub(crate) fn run(client: &Client, arguments: &RunArgs, io: &mut Io) -> Result<u8, Error> {
    let notes = Notes::install().map_err(|source| Error::System { what: "handle signals", source })?;
    match campaign(client, arguments, notes, io)? {
        Outcome::Signal(number) => Ok(signal_code(number)),
        Outcome::Won(held) => {
            io.note(format_args!("leading {} with token {}", arguments.name, held.token));
            let result = lead(client, arguments, &held, notes, io);
            if let Err(Error::Lost { .. }) = result {
                // The keys are another's by now, or will be; if Consul is away, the session ends by itself.
                let _ = client.sessions().destroy(&held.session);
            } else if !release(client, &arguments.name, &held) {
                io.warn(format_args!(
                    "could not give leadership of {} back; it ends within {}",
                    arguments.name,
                    toolkit::duration::format(arguments.ttl * 2)
                ));
            }
            result
        }
    }
}

enum Outcome {
    Won(Held),
    Signal(i32),
}

fn signalled(notes: Notes) -> Option<i32> {
    notes.termination().or_else(|| (notes.hangups() > 0).then_some(Signal::SIGHUP as i32))
}

fn signal_code(number: i32) -> u8 {
    u8::try_from(number).map_or(exit::WRAPPER, |n| exit::SIGNALED.saturating_add(n))
}

/// Campaigns in a thread of its own, so that signals and the time limit are heeded while Consul is asked.
fn campaign(client: &Client, arguments: &RunArgs, notes: Notes, io: &mut Io) -> Result<Outcome, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let campaign =
        Campaign { client: client.clone(), name: arguments.name.clone(), ttl: arguments.ttl, stop: Arc::clone(&stop) };
    let (sender, receiver) = channel();
    std::thread::spawn(move || campaign.run(&sender));
    let start = Instant::now();
    let mut trouble = false;
    let given_up = loop {
        match receiver.recv_timeout(TICK) {
            Ok(News::Won(held)) => return Ok(Outcome::Won(held)),
            Ok(News::Failed(error)) => return Err(error),
            Ok(News::LedBy(node)) => {
                trouble = false;
                io.note(format_args!("{} is led by {node}; waiting", arguments.name));
            }
            Ok(News::Trouble(why)) => {
                if !std::mem::replace(&mut trouble, true) {
                    io.warn(format_args!("waiting for Consul: {why}"));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("its thread ended without a word");
                return Err(Error::System { what: "go on with the campaign", source });
            }
        }
        if let Some(number) = signalled(notes) {
            break Ok(Outcome::Signal(number));
        }
        if let Some(limit) = arguments.timeout
            && start.elapsed() >= limit
        {
            break Err(Error::TimedOut { name: arguments.name.clone(), after: limit });
        }
    };
    stop.store(true, Ordering::SeqCst);
    abandon(client, arguments, &receiver);
    given_up
}

/// Gives a campaign that is stopped a moment to end cleanly, and gives back what it may just have won.
fn abandon(client: &Client, arguments: &RunArgs, receiver: &Receiver<News>) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while let Ok(news) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let News::Won(held) = news {
            release(client, &arguments.name, &held);
        }
    }
}

/// Runs the command for as long as leadership is certain.
fn lead(client: &Client, arguments: &RunArgs, held: &Held, notes: Notes, io: &mut Io) -> Result<u8, Error> {
    let lease = Lease::start(client, &arguments.name, &held.session, arguments.ttl, held.since);
    let mut command = guard::command(io.level(), &arguments.command);
    command.env("STACKTIRA_LEADER", &arguments.name).env("STACKTIRA_FENCING_TOKEN", held.token.to_string());
    let mut group = Group::spawn(&mut command)
        .map_err(|source| Error::System { what: "start the guard of the command", source })?;
    let waiting = |source| Error::System { what: "wait for the command", source };
    let reserve = arguments.kill_after + MARGIN;
    let mut trouble = false;
    loop {
        if let Some(status) = group.try_wait().map_err(waiting)? {
            // What COMMAND left behind must not work on without leadership.
            group.signal(Signal::SIGKILL);
            return Ok(exit_code_of(status));
        }
        if let Some(number) = signalled(notes) {
            io.note(format_args!("stopping the command on signal {number}"));
            group.terminate(arguments.kill_after).map_err(waiting)?;
            return Ok(signal_code(number));
        }
        let status = lease.status();
        let reason = match status.lost {
            Some(reason) => Some(reason),
            None if clock::now() + reserve >= status.until => Some(format!(
                "it could not be renewed in time: {}",
                status.trouble.as_deref().unwrap_or("this machine stood still")
            )),
            None => None,
        };
        if let Some(reason) = reason {
            group.terminate(arguments.kill_after).map_err(waiting)?;
            return Err(Error::Lost { name: arguments.name.clone(), reason });
        }
        match (&status.trouble, trouble) {
            (Some(why), false) => io.warn(format_args!("cannot renew leadership of {}: {why}", arguments.name)),
            (None, true) => io.warn(format_args!("leadership of {} is renewed again", arguments.name)),
            _ => {}
        }
        trouble = status.trouble.is_some();
        notes.wait(TICK);
    }
}
