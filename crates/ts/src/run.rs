//! One run: a child in a process group of its own, its identity on record before exec, its output in
//! files, its end awaited without pipes.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use toolkit::exit;
use toolkit::process::Group;

use crate::dir::{Places, QueueName};
use crate::ident::{self, Process, poll_timeout};
use crate::job::Job;
use crate::page::Page;
use crate::policy::Policy;
use crate::runlog::{self, Reader, RunLog, Shown, Sink, Stream};
use crate::spawn::{Failure, Program};
use crate::sys::{self, Writes};

/// The time between two looks at a busy log.
const LOOK: Duration = Duration::from_millis(5);
/// A run that takes longer than this has its writes told by the kernel.
const SHORT: Duration = Duration::from_millis(50);
/// The time between two looks where nothing can tell us of writes.
const POLL: Duration = Duration::from_millis(25);

/// How long the program that hears of a run's end may take.
const HOOK_PATIENCE: Duration = Duration::from_secs(60);

/// Signals that end a foreground `ts`; a leader passes them to the run.
#[derive(Debug)]
pub(crate) struct Interrupts {
    fd: SignalFd,
    before: SigSet,
}

impl Interrupts {
    /// Blocks the signals and collects them from then on.
    pub(crate) fn collect() -> std::io::Result<Interrupts> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Interrupts { fd, before })
    }

    /// Sleeps this long, or until a signal comes.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Signal> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, poll_timeout(timeout));
        self.next()
    }

    /// Returns a signal that has come.
    pub(crate) fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // Setting a mask that was read from this thread cannot fail.
        let _ = self.before.thread_set_mask();
    }
}

/// The streams on which a foreground `ts` shows a run's output.
#[derive(Debug)]
pub(crate) struct Screen {
    out: Shown<std::io::Stdout>,
    err: Shown<std::io::Stderr>,
    reader: Option<Reader>,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        Screen { out: Shown::new(std::io::stdout()), err: Shown::new(std::io::stderr()), reader: None }
    }

    /// Shows what is new of a run, without waiting for whoever reads us; answers whether there is more.
    pub(crate) fn show(&mut self, places: &Places, run: u64) -> bool {
        if self.reader.as_ref().is_none_or(|reader| reader.run() != run) {
            self.reader = Some(Reader::new(places, run));
        }
        let copied = self.reader.as_mut().map_or(0, |reader| reader.copy(&mut self.out, &mut self.err));
        copied > 0 || !self.out.ready() || !self.err.ready()
    }

    /// Returns a screen that waits for whoever reads it.
    pub(crate) fn patient() -> Screen {
        let mut screen = Screen::new();
        (screen.out.patient, screen.err.patient) = (true, true);
        screen
    }

    /// Shows what is new of a run until its process has ended. Sleeps while nothing is written.
    pub(crate) fn follow(&mut self, process: &Process, places: &Places, run: u64) {
        let paths = Stream::BOTH.map(|stream| runlog::path(&places.runs(), run, stream));
        let writes = Writes::of(&paths.each_ref().map(|path| path.as_path()));
        loop {
            while self.show(places, run) {}
            match (process.fd(), &writes) {
                (Some(fd), Some(writes)) => {
                    let mut fds = [fd, writes.fd()].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                    let _ = poll(&mut fds, poll_timeout(Duration::from_secs(60)));
                    writes.drain();
                }
                _ => std::thread::sleep(POLL),
            }
            if !process.alive() {
                return;
            }
        }
    }

    /// Shows the rest of a run that has ended, as slowly as whoever reads us wants. Not while leading.
    ///
    /// # Errors
    /// Something could not be shown, now or before, although there is a reader.
    pub(crate) fn finish(&mut self, places: &Places, run: u64) -> std::io::Result<()> {
        (self.out.patient, self.err.patient) = (true, true);
        self.show(places, run);
        let Some(reader) = &mut self.reader else { return Ok(()) };
        while reader.copy(&mut self.out, &mut self.err) > 0 {}
        reader.take_failure().map_or(Ok(()), Err)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: u8,
    /// It was asked to end; it is not tried again.
    pub(crate) stopped: bool,
    /// Want of memory, processes or descriptors kept us from starting it.
    pub(crate) unfit: bool,
    /// The signal that made us ask.
    pub(crate) interrupted: Option<Signal>,
}

/// What a run is told about itself, in its environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label<'a> {
    pub(crate) queue: &'a QueueName,
    /// Its number, where runs are numbered.
    pub(crate) run: Option<u64>,
}

impl Label<'_> {
    /// Returns what a run is told, and the names of what it must not hear from elsewhere.
    fn variables(self, job: &Job) -> [(&'static str, Option<OsString>); 3] {
        [
            ("TS_QUEUE", Some(self.queue.as_str().into())),
            ("TS_RUN", self.run.map(|run| run.to_string().into())),
            // Why this run is: a script can say so where it reports. Never somebody else's reason, inherited.
            ("TS_REASON", job.reason.as_ref().map(OsString::from)),
        ]
    }
}

/// Starts the job as the child that `page` announces.
pub(crate) fn spawn(page: &Page, job: &Job, label: Label<'_>, log: Option<&RunLog>) -> Result<Pid, Failure> {
    let stdio = |stream| -> std::io::Result<OwnedFd> {
        match log.and_then(|log| log.handle(stream)) {
            Some(file) => file.map(OwnedFd::from),
            None => std::fs::OpenOptions::new().write(true).open("/dev/null").map(OwnedFd::from),
        }
    };
    let stdio = [Stream::Out, Stream::Err].map(stdio);
    let [stdout, stderr] = stdio.map(|fd| fd.map(Some).map_err(Failure::Program));
    start(job, label, Some(page), [stdout?, stderr?])
}

/// Runs the job with our own stdout and stderr and returns its status. There may be no page to put the
/// child on record; then only our own life keeps the queue's lock.
pub(crate) fn plain(job: &Job, label: Label<'_>, page: Option<&Page>) -> Result<u8, Failure> {
    let child = start(job, label, page, [None, None])?;
    let interrupts = Interrupts::collect().map_err(Failure::Program)?;
    Ok(attend(page, child, &job.policy, None, &interrupts, || false).status)
}

fn start(job: &Job, label: Label<'_>, page: Option<&Page>, output: [Option<OwnedFd>; 2]) -> Result<Pid, Failure> {
    let told = label.variables(job);
    let inherited = job.env.iter().filter(|(name, _)| told.iter().all(|(ours, _)| name != *ours));
    let mut env: Vec<(&OsStr, &OsStr)> = inherited.map(|(name, value)| (&**name, &**value)).collect();
    env.extend(told.iter().filter_map(|(name, value)| Some((OsStr::new(name), value.as_deref()?))));
    let [stdout, stderr] = output;
    crate::spawn::spawn(Program {
        argv: &job.argv,
        env,
        cwd: &job.cwd,
        umask: job.umask,
        stdin: std::fs::File::open("/dev/null").map_err(Failure::Program)?.into(),
        stdout,
        stderr,
        record: page.map(Page::rec),
    })
}

/// Tells the job's `--on-finish` program how a run ended. It is given a minute; its output is added to the run's.
pub(crate) fn tell(job: &Job, label: Label<'_>, status: u8, output: Option<&Path>) -> std::io::Result<()> {
    let Some(program) = &job.policy.on_finish else { return Ok(()) };
    let stdio = || -> Stdio {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = output.map(|path| std::fs::OpenOptions::new().append(true).custom_flags(flags).open(path));
        opened.and_then(Result::ok).map_or_else(Stdio::null, Stdio::from)
    };
    let mut command = Command::new(program);
    command.env_clear().envs(job.env.iter().cloned()).env("TS_STATUS", status.to_string());
    for (name, value) in label.variables(job) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if job.cwd.is_dir() {
        command.current_dir(&job.cwd);
    }
    command.stdin(Stdio::null()).stdout(stdio()).stderr(stdio());
    let mut group = Group::spawn(&mut command)?;
    match group.wait_until(Instant::now() + HOOK_PATIENCE)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(std::io::Error::other(status.to_string())),
        None => {
            group.terminate(Duration::from_secs(1))?;
            Err(std::io::Error::other(format!("ended after {} s", HOOK_PATIENCE.as_secs())))
        }
    }
}

/// Waits for the run, keeps its log small, passes signals on and holds it to its time.
pub(crate) fn attend(
    page: Option<&Page>,
    group: Pid,
    policy: &Policy,
    log: Option<&RunLog>,
    interrupts: &Interrupts,
    mut show: impl FnMut() -> bool,
) -> Ended {
    let pid = group.as_raw();
    let fd = sys::pidfd_open(pid).ok();
    // Closing inotify takes the kernel 10 ms and more, so a short run is looked at now and then instead.
    let mut writes: Option<Writes> = None;
    let mut short = log.is_some();
    let started = Instant::now();
    let limit = policy.timeout_ms.map(|ms| started + Duration::from_millis(ms));
    let (mut timed_out, mut interrupted) = (false, None);
    let mut kill_at: Option<Instant> = None;
    let mut killed = false;
    let mut busy = false;
    let peek = loop {
        // WNOWAIT: while the child is a zombie its id, and with it the group's, cannot be reused.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(group), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            Ok(status) => break Some(status),
            Err(_) => break None,
        }
        let now = Instant::now();
        if !timed_out && kill_at.is_none() && limit.is_some_and(|limit| now >= limit) {
            timed_out = true;
            if let (Some(log), Some(ms)) = (log, policy.timeout_ms) {
                let limit = toolkit::duration::format(Duration::from_millis(ms));
                log.say(&format!("the time limit of {limit} is over; ending the run"));
            }
            let _ = killpg(group, Signal::SIGTERM);
            kill_at = Some(now + policy.kill_after());
        }
        if let Some(signal) = interrupts.next() {
            interrupted = interrupted.or(Some(signal));
            let _ = killpg(group, signal);
            kill_at = kill_at.or(Some(now + policy.kill_after()));
        }
        if !killed && kill_at.is_some_and(|at| now >= at) {
            killed = true;
            let _ = killpg(group, Signal::SIGKILL);
        }
        if let Some(log) = log {
            log.trim();
            if short && now.duration_since(started) >= SHORT {
                short = false;
                writes = Writes::of(&log.paths());
            }
        }
        let more = show();
        let next = kill_at.filter(|_| !killed).or(limit.filter(|_| !timed_out && kill_at.is_none()));
        let mut pause = next.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(now));
        if fd.is_none() || (log.is_some() && writes.is_none() && !short) {
            pause = pause.min(POLL);
        } else if busy || more || short {
            // A chatty child does not get to wake us for each line.
            pause = pause.min(LOOK);
        }
        let mut fds = vec![PollFd::new(interrupts.fd.as_fd(), PollFlags::POLLIN)];
        fds.extend(fd.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        if let Some(writes) = writes.as_ref().filter(|_| !busy) {
            fds.push(PollFd::new(writes.fd().as_fd(), PollFlags::POLLIN));
        }
        let ready = poll(&mut fds, poll_timeout(pause)).unwrap_or(0);
        let listened = writes.is_some() && !busy;
        busy = listened && ready > 0 && fds.last().is_some_and(|fd| fd.any() == Some(true));
        if let Some(writes) = writes.as_ref().filter(|_| busy) {
            writes.drain();
        }
    };
    let signaled = matches!(peek, Some(WaitStatus::Signaled(..)));
    let stopped = interrupted.is_some() || page.is_some_and(|page| page.rec().stop_asked());
    if let Some(log) = log.filter(|_| stopped && interrupted.is_none()) {
        log.say("the run was stopped by ts -k");
    }
    // A run that did not end by itself must not leave workers behind; one that did may leave daemons.
    if signaled || timed_out || stopped {
        clear_group(pid, policy.kill_after());
    }
    let ended = loop {
        match waitpid(group, None) {
            Err(Errno::EINTR) => {}
            other => break other,
        }
    };
    let status = match ended {
        _ if timed_out => exit::TIMED_OUT,
        Ok(WaitStatus::Exited(_, code)) => u8::try_from(code).unwrap_or(exit::WRAPPER),
        Ok(WaitStatus::Signaled(_, signal, _)) => by_signal(signal),
        _ => exit::WRAPPER,
    };
    Ended { status, stopped, unfit: false, interrupted }
}

/// Returns the status of what a signal ended.
pub(crate) fn by_signal(signal: Signal) -> u8 {
    u8::try_from(signal as i32).map_or(exit::WRAPPER, |signal| exit::SIGNALED.saturating_add(signal))
}

/// Ends what is left of a group: TERM, then after `grace` KILL.
fn clear_group(pid: i32, grace: Duration) {
    let group = Pid::from_raw(pid);
    if !ident::group_has_others(pid) {
        return;
    }
    let _ = killpg(group, Signal::SIGTERM);
    let deadline = Instant::now() + grace;
    while ident::group_has_others(pid) {
        if Instant::now() >= deadline {
            let _ = killpg(group, Signal::SIGKILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a child whose leader has died, with the same care. Its status cannot be known.
pub(crate) fn attend_orphan(process: &Process, pid: i32, started_boot_ms: u64, policy: Option<&Policy>, log: &RunLog) {
    let limit = policy.and_then(|policy| policy.timeout_ms).map(|ms| started_boot_ms.saturating_add(ms));
    let kill_after = policy.map_or(Duration::from_secs(10), Policy::kill_after);
    let writes = Writes::of(&log.paths());
    let mut ended = false;
    while !ended {
        let now = sys::boot_ms();
        let left = limit.map(|limit| Duration::from_millis(limit.saturating_sub(now)));
        if left == Some(Duration::ZERO) {
            end_group(process, pid, kill_after);
            return;
        }
        let pause = left.unwrap_or(Duration::MAX).min(Duration::from_secs(60));
        ended = match (process.fd(), &writes) {
            (Some(fd), Some(writes)) => {
                let mut fds =
                    [PollFd::new(fd.as_fd(), PollFlags::POLLIN), PollFd::new(writes.fd().as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, poll_timeout(pause));
                writes.drain();
                process.wait(LOOK.min(pause))
            }
            _ => process.wait(pause.min(POLL)),
        };
        log.trim();
    }
}

/// Ends a process that has been identified, with its group: TERM, then after `grace` KILL.
pub(crate) fn end_group(process: &Process, pid: i32, grace: Duration) {
    let group = Pid::from_raw(pid);
    if process.alive() {
        let _ = killpg(group, Signal::SIGTERM);
    }
    if !process.wait(Duration::ZERO) {
        let deadline = Instant::now() + grace;
        while !process.wait(deadline.saturating_duration_since(Instant::now())) {
            if Instant::now() >= deadline {
                let _ = killpg(group, Signal::SIGKILL);
                while !process.wait(Duration::from_secs(1)) {}
            }
        }
    }
}
