//! `run` and `slot`: hold something while a command runs.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use consul_client::Client;
use nix::sys::signal::Signal;
use toolkit::process::{Group, exit_code_of};
use toolkit::signals::Notes;
use toolkit::{Io, exit};

use crate::campaign::{Campaign, Goal, Held, News, release};
use crate::cli::HoldArgs;
use crate::guard::Leash;
use crate::lease::Lease;
use crate::{Error, clock, guard};

/// How often child, signals and lease are looked at.
const TICK: Duration = Duration::from_millis(50);
/// What the end of COMMAND may take beyond `--kill-after`: scheduling, and the kernel's work on a KILL.
const MARGIN: Duration = Duration::from_secs(1);
/// How often a wait is spoken of.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is to be done while holding something.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) goal: Goal,
    pub(crate) options: &'a HoldArgs,
    /// Whether the command goes on when what was held is lost.
    pub(crate) goes_on: bool,
    pub(crate) command: &'a [OsString],
}

/// Waits until it is held, runs the command, returns its code.
pub(crate) fn run(client: &Client, task: &Task<'_>, io: &mut Io) -> Result<u8, Error> {
    let notes = Notes::install().map_err(|source| Error::System { what: "handle signals", source })?;
    match campaign(client, task, notes, io)? {
        Outcome::Signal(number) => Ok(signal_code(number)),
        Outcome::Won(held) => {
            io.note(format_args!("holding {} with token {}", held.place.what, held.token));
            let result = lead(client, task, &held, notes, io);
            if let Err(Error::Lost { .. }) = result {
                // The keys are another's by now, or will be; if Consul is away, the session ends by itself.
                let _ = client.sessions().destroy(&held.session);
            } else if !release(client, &held) {
                io.warn(format_args!(
                    "could not give {} back; it ends within {}",
                    held.place.what,
                    toolkit::duration::format(task.options.ttl * 2)
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
fn campaign(client: &Client, task: &Task<'_>, notes: Notes, io: &mut Io) -> Result<Outcome, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let campaign =
        Campaign { client: client.clone(), goal: task.goal.clone(), ttl: task.options.ttl, stop: Arc::clone(&stop) };
    let (sender, receiver) = channel();
    std::thread::spawn(move || campaign.run(&sender));
    let start = Instant::now();
    let mut told = start;
    let mut holders = None;
    let mut trouble = None;
    let given_up = loop {
        match receiver.recv_timeout(TICK) {
            Ok(News::Won(held)) => return Ok(Outcome::Won(held)),
            Ok(News::Failed(error)) => return Err(error),
            Ok(News::HeldBy(by)) => {
                trouble = None;
                if holders.is_none() {
                    io.warn(format_args!("waiting for {}, held by {by}", task.goal));
                    told = Instant::now();
                }
                holders = Some(by);
            }
            Ok(News::Trouble(why)) => {
                if trouble.is_none() {
                    io.warn(format_args!("waiting for Consul: {why}"));
                    told = Instant::now();
                }
                trouble = Some(why);
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
        if let Some(limit) = task.options.timeout
            && start.elapsed() >= limit
        {
            break Err(Error::TimedOut { goal: task.goal.to_string(), after: limit });
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let why = match (&trouble, &holders) {
                (Some(why), _) => why.clone(),
                (None, Some(by)) => format!("held by {by}"),
                (None, None) => "not free yet".to_owned(),
            };
            io.warn(format_args!("waiting for {} for {} s so far: {why}", task.goal, start.elapsed().as_secs()));
        }
    };
    stop.store(true, Ordering::SeqCst);
    abandon(client, &receiver);
    given_up
}

/// Gives a campaign that is stopped a moment to end cleanly, and gives back what it may just have won.
fn abandon(client: &Client, receiver: &Receiver<News>) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while let Ok(news) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let News::Won(held) = news {
            release(client, &held);
        }
    }
}

/// Runs the command for as long as it is certain that the place is held.
fn lead(client: &Client, task: &Task<'_>, held: &Held, notes: Notes, io: &mut Io) -> Result<u8, Error> {
    let HoldArgs { ttl, kill_after, .. } = *task.options;
    let what = &held.place.what;
    let starting = |source| Error::System { what: "start the guard of the command", source };
    let mut lease = Some(Lease::start(client, &held.place, &held.session, ttl, held.since));
    let mut leash = if task.goes_on { None } else { Some(Leash::new().map_err(starting)?) };
    let mut command = guard::command(io.level(), leash.as_ref(), task.command);
    match &task.goal {
        Goal::Lead(name) => command.env("STACKTIRA_LEADER", name),
        Goal::Slot { name, .. } => command.env("STACKTIRA_SLOT", name),
    };
    command.env("STACKTIRA_FENCING_TOKEN", held.token.to_string());
    if let Some(leash) = &mut leash {
        leash.extend(held.since + ttl);
    }
    let mut group = Group::spawn(&mut command).map_err(starting)?;
    let waiting = |source| Error::System { what: "wait for the command", source };
    let reserve = kill_after + MARGIN;
    let mut trouble = false;
    loop {
        if let Some(status) = group.try_wait().map_err(waiting)? {
            // What COMMAND left behind must not work on when nothing is held.
            group.signal(Signal::SIGKILL);
            return Ok(exit_code_of(status));
        }
        if let Some(number) = signalled(notes) {
            io.note(format_args!("stopping the command on signal {number}"));
            group.terminate(kill_after).map_err(waiting)?;
            return Ok(signal_code(number));
        }
        let Some(status) = lease.as_ref().map(Lease::status) else {
            notes.wait(TICK);
            continue;
        };
        let reason = match &status.lost {
            Some(reason) => Some(reason.clone()),
            None if clock::now() + reserve >= status.until => Some(format!(
                "it could not be renewed in time: {}",
                status.trouble.as_deref().unwrap_or("this machine stood still")
            )),
            None => None,
        };
        match (reason, task.goes_on) {
            (Some(reason), false) => {
                group.terminate(kill_after).map_err(waiting)?;
                return Err(Error::Lost { what: what.clone(), reason });
            }
            (Some(reason), true) => {
                io.warn(format_args!("lost {what}, the command goes on without it: {reason}"));
                lease = None;
                continue;
            }
            (None, _) => {}
        }
        if let Some(leash) = &mut leash {
            leash.extend(status.until);
        }
        match (&status.trouble, trouble) {
            (Some(why), false) => io.warn(format_args!("cannot renew {what}: {why}")),
            (None, true) => io.warn(format_args!("{what} is renewed again")),
            _ => {}
        }
        trouble = status.trouble.is_some();
        notes.wait(TICK);
    }
}
