//! The guard between `run` and COMMAND: nothing of COMMAND outlives its owner.
//!
//! `run` starts this program again as the leader of a new process group; the guard starts COMMAND in the same
//! group and waits for it. The kernel tells the guard when its owner dies, by whatever cause, and the guard's
//! answer is to kill its whole group, itself included. COMMAND dies with the guard the same way, so that killing
//! either of them at any moment leaves nothing. What leaves the group (a daemon that calls setsid) is beyond
//! this; such a COMMAND has to check its fencing token.
//!
//! TERM, INT and HUP reach the group as a whole; the guard waits for what COMMAND makes of them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpgrp, getpid, getppid};
use toolkit::Io;
use toolkit::process::{exit_code_of, spawn_failure_code};

use crate::Error;

/// What the kernel sends when the owner dies: a signal that programs do not send their own group.
const OWNER_DIED: Signal = Signal::SIGPWR;

/// Runs the command until it ends or the owner does; returns the command's code.
pub(crate) fn run(owner: i32, command: &[OsString], io: &mut Io) -> Result<u8, Error> {
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

/// Returns the command that starts the guard over `command` for this process.
pub(crate) fn command(level: toolkit::io::Level, command: &[OsString]) -> Command {
    // This very program, also when its file was replaced meanwhile.
    let mut guard = Command::new("/proc/self/exe");
    guard.arg0("consul-elect");
    if level == toolkit::io::Level::Quiet {
        guard.arg("-q");
    }
    guard.arg("guard").arg("--parent").arg(getpid().to_string()).arg("--").args(command);
    guard
}
