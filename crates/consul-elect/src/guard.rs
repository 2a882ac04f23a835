//! The guard between `run` and COMMAND: nothing of COMMAND outlives its owner.
//!
//! `run` starts this program again as the leader of a new process group; the guard starts COMMAND in the same
//! group and waits for it. The kernel tells the guard when its owner dies, by whatever cause, and the guard's
//! answer is to kill its whole group, itself included. COMMAND dies with the guard the same way, so that killing
//! either of them at any moment leaves nothing. What leaves the group (a daemon that calls setsid) is beyond
//! this; such a COMMAND has to check its fencing token.
//!
//! The owner tells the guard over a pipe how long its lease lasts. When that time is over and the owner has not stopped
//! COMMAND, because it was stopped itself, the guard kills the group.
//!
//! TERM, INT and HUP reach the group as a whole; the guard waits for what COMMAND makes of them.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpgrp, getpid, getppid};
use toolkit::Io;
use toolkit::process::{exit_code_of, spawn_failure_code};

use crate::{Error, clock};

/// How long before the end of the lease the guard kills what its owner should have stopped.
const LAST: Duration = Duration::from_millis(500);
/// How long the guard sleeps at most: poll(2) does not count the sleep of the machine.
const SLICE: Duration = Duration::from_millis(500);

/// What the kernel sends when the owner dies: a signal that programs do not send their own group.
const OWNER_DIED: Signal = Signal::SIGPWR;

/// Runs the command until it ends or the owner does; returns the command's code.
pub(crate) fn run(owner: i32, leash: Option<RawFd>, command: &[OsString], io: &mut Io) -> Result<u8, Error> {
    let leash = leash.map(take).transpose()?;
    let system = |what| move |e: nix::Error| Error::System { what, source: e.into() };
    // Killing the group must never reach a group that is not ours alone.
    if getpgrp() != getpid() {
        return Err(Error::System {
            what: "guard a command outside a process group of its own",
            source: std::io::Error::from(std::io::ErrorKind::PermissionDenied),
        });
    }
    // For those who look at processes, and so that killing by the owner's name leaves this alive to act.
    prctl::set_name(c"elect-guard").map_err(system("name the guard"))?;
    handle(OWNER_DIED, kill_group)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        handle(signal, keep_waiting)?;
    }
    prctl::set_pdeathsig(OWNER_DIED).map_err(system("tie the guard to its owner"))?;
    if getppid().as_raw() != owner {
        // The owner died before the kernel was asked to tell.
        kill_group(0);
    }
    if let Some(leash) = leash {
        std::thread::Builder::new()
            .name("leash".to_owned())
            .spawn(move || watch(&leash))
            .map_err(|source| Error::System { what: "watch the lease", source })?;
    }
    let (program, arguments) = command.split_first().expect("clap requires a command");
    let mut command = Command::new(program);
    command.args(arguments);
    let guard = getpid();
    // SAFETY: between fork and exec only prctl(2) and getppid(2) are called, both async-signal-safe, and
    // nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() == guard { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
        });
    }
    match command.spawn() {
        Ok(mut child) => {
            let status = child.wait().map_err(|source| Error::System { what: "wait for the command", source })?;
            Ok(exit_code_of(status))
        }
        Err(error) => {
            io.error(format_args!("cannot run {}: {error}", program.display()));
            Ok(spawn_failure_code(&error))
        }
    }
}

/// Installs a handler. Unlike an ignored signal it is not inherited by COMMAND.
fn handle(signal: Signal, handler: extern "C" fn(i32)) -> Result<(), Error> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers of this module call at most kill(2), which is async-signal-safe.
    unsafe { sigaction(signal, &action) }
        .map(|_| ())
        .map_err(|e| Error::System { what: "handle signals", source: e.into() })
}

extern "C" fn keep_waiting(_: i32) {}

extern "C" fn kill_group(_: i32) {
    // Process 0 means the caller's own group; this does not return.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(0), Signal::SIGKILL);
}

/// The owner's end of a pipe on which it tells the guard how long the lease lasts.
#[derive(Debug)]
pub(crate) struct Leash {
    theirs: OwnedFd,
    ours: std::fs::File,
    until: Duration,
}

impl Leash {
    pub(crate) fn new() -> std::io::Result<Leash> {
        let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Leash { theirs, ours: ours.into(), until: Duration::ZERO })
    }

    /// Says that the lease lasts until this time of [`clock::now`].
    pub(crate) fn extend(&mut self, until: Duration) {
        let bytes = u64::try_from(until.as_millis()).unwrap_or_default().to_ne_bytes();
        // A guard that is gone, or stands still until the pipe is full, is not told: then its time is over.
        if until > self.until && self.ours.write_all(&bytes).is_ok() {
            self.until = until;
        }
    }
}

/// Takes over the guard's end of the pipe, which no COMMAND may get.
fn take(number: RawFd) -> Result<OwnedFd, Error> {
    let system = |e: nix::Error| Error::System { what: "take over the lease's pipe", source: e.into() };
    // SAFETY: `run` opened this descriptor for this process and names it once; nothing else here uses it. A number
    // that is not open fails in the call below and is never read.
    let leash = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&leash, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(system)?;
    Ok(leash)
}

/// Waits until the lease is over or its owner is gone, then kills the group. The owner stops COMMAND earlier; this is
/// for one that stands still (SIGSTOP, a debugger) while COMMAND does not.
fn watch(leash: &OwnedFd) {
    let mut until = None;
    loop {
        let left = until.map_or(SLICE, |until: Duration| until.saturating_sub(LAST).saturating_sub(clock::now()));
        if left.is_zero() {
            kill_group(0);
        }
        match wait_for(leash.as_fd(), left.min(SLICE)) {
            Ok(Some(told)) => until = Some(told),
            Ok(None) => {}
            Err(()) => kill_group(0),
        }
    }
}

/// Returns the end of the lease as it was told last; an error when nobody can tell any more.
fn wait_for(leash: BorrowedFd<'_>, limit: Duration) -> Result<Option<Duration>, ()> {
    let mut fds = [PollFd::new(leash, PollFlags::POLLIN)];
    // Rounded up: a wait of nothing would spin.
    let timeout = PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    if !matches!(poll(&mut fds, timeout), Ok(1..)) {
        return Ok(None);
    }
    let mut bytes = [0; 64 * 8];
    match nix::unistd::read(leash, &mut bytes) {
        // The owner writes eight bytes at a time, and so they come.
        Ok(count) if count > 0 => {
            let last = bytes[..count].chunks_exact(8).next_back().and_then(|last| last.try_into().ok());
            Ok(last.map(|last| Duration::from_millis(u64::from_ne_bytes(last))))
        }
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
        _ => Err(()),
    }
}

/// Returns the command that starts the guard over `command` for this process.
pub(crate) fn command(level: toolkit::io::Level, leash: Option<&Leash>, command: &[OsString]) -> Command {
    // This very program, also when its file was replaced meanwhile.
    let mut guard = Command::new("/proc/self/exe");
    guard.arg0("consul-elect");
    if level == toolkit::io::Level::Quiet {
        guard.arg("-q");
    }
    guard.arg("guard").arg("--parent").arg(getpid().to_string());
    if let Some(leash) = leash {
        let number = leash.theirs.as_raw_fd();
        guard.arg("--lease").arg(number.to_string());
        // SAFETY: between fork and exec only fcntl(2) is called, which is async-signal-safe; the descriptor is open
        // there, as the leash outlives the start of the guard.
        unsafe {
            guard.pre_exec(move || {
                fcntl(BorrowedFd::borrow_raw(number), FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
    }
    guard.arg("--").args(command);
    guard
}
