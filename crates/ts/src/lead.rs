//! Leading a queue: adopt, run, publish, leave.
//!
//! The leader holds the queue's lock. Its rules, each of which the others rely on:
//! - Adopt first. If the record names a living process, its leader died; wait for it before anything else
//!   runs. Its status is lost, so it covers nothing.
//! - Sample the kicks before the fork. A run covers exactly the kicks that were committed before it began.
//! - Publish result, then count, then forget the record. Whoever dies in between has either covered the
//!   kicks or left them pending.
//! - Leave only after unlocking and then seeing that nothing is due, or failing to take the lock again:
//!   a kicker that found the lock taken relies on its holder.
//! - While only a retry, or a run that kicks have put off, is to come the background leader sleeps with the
//!   lock; any kick wakes it, so nobody waits for the pause.
//! - Whoever relies on a leader sees to it that an heir stands by, so that the leader's death costs nobody time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use toolkit::{Io, exit};

use crate::error::Error;
use crate::ident::Process;
use crate::job::Job;
use crate::lock::QueueLock;
use crate::metrics;
use crate::page::Outcome;
use crate::policy;
use crate::puppet::{AgentLock, Refused};
use crate::queue::{Due, Queue};
use crate::run::{self, Ended, Interrupts, Label, Screen};
use crate::runlog::{self, RunLog, Stream};
use crate::scope;
use crate::spawn::Failure;
use crate::sys;
use crate::why;

/// Longest sleep of a leader, after which it looks whether its page is still the one.
const NAP: Duration = Duration::from_secs(60);
/// Leaders that may die in a row before no heir is made any more; the next call makes one again.
const DEATHS: u32 = 8;
/// How long an heir steps aside for somebody who can record nothing and asks for the lock.
const ASIDE: Duration = Duration::from_millis(100);
/// Longest wait for an agent of Puppet, where the run itself has no limit.
const AGENT_PATIENCE: Duration = Duration::from_secs(3600);
/// The time between two looks at it.
const AGENT_LOOK: Duration = Duration::from_secs(1);

/// Starts a background leader that holds the lock from then on; ours can be dropped.
pub(crate) fn spawn_background(queue: &Queue, lock: &QueueLock) -> Result<(), Error> {
    let handed = lock.handed_over().and_then(|stdin| spawn(queue, stdin, &["--lead"]));
    handed.map_err(Error::system("start a background leader"))
}

/// Sees to it that somebody waits to lead in case whoever leads is killed. Called by those who rely on a leader.
///
/// The heir is a process that holds a lock of its own (flock on the directory of the runs), so there is one at most,
/// and that sleeps until it gets the queue's lock: when the leader has left, or was killed. Then it leads, which
/// means to leave if nothing is to be done. With that, the kill of a leader loses nobody time; what two lose, the next
/// call finds. The leader itself never holds the heir's lock: whoever finds that taken relies on somebody else.
pub(crate) fn ensure_heir(queue: &Queue, io: &mut Io) {
    let made = QueueLock::try_take(&queue.places.runs()).and_then(|lock| match lock {
        Some(lock) => spawn(queue, lock.handed_over()?, &["--heir", "1"]),
        None => Ok(()),
    });
    say_if_alone(queue, made, io);
}

/// Makes the heir of an heir that has taken over. It takes its lock by itself, or finds that another stands by.
fn make_next_heir(queue: &Queue, io: &mut Io) {
    let made = if queue.deaths < DEATHS {
        let runs = queue.places.runs();
        QueueLock::offered(&runs).and_then(|stdin| spawn(queue, stdin, &["--heir", &(queue.deaths + 1).to_string()]))
    } else {
        // What kills one leader after the other is not to be fed for ever.
        Err(std::io::Error::other(format!("{DEATHS} leaders have died without a run that ended")))
    };
    say_if_alone(queue, made, io);
}

fn say_if_alone(queue: &Queue, made: std::io::Result<()>, io: &mut Io) {
    if let Err(error) = made {
        io.note(format_args!("nobody stands by for the leader of the queue {}: {error}", queue.name()));
    }
}

fn spawn(queue: &Queue, stdin: Stdio, role: &[&str]) -> std::io::Result<()> {
    // The path may be gone after an upgrade; the running image never is.
    let own = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(own.unwrap_or_else(|| "/proc/self/exe".into()));
    command.arg0("ts").args(role).args(["-Q", queue.name().as_str()]);
    command.env_clear().env("TS_DIR", queue.places.root.path());
    if let Some(choice) = std::env::var_os("TS_SCOPE") {
        command.env("TS_SCOPE", choice);
    }
    command.stdin(stdin);
    command.stderr(runlog::leader_log(&queue.places).map_or_else(|_| Stdio::null(), Stdio::from));
    if scope::wanted() {
        // Until the leader has left our unit, our end could be its end.
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        scope::await_ready(child.stdout.take());
    } else {
        command.stdout(Stdio::null()).spawn()?;
    }
    Ok(())
}

/// The life of a background leader.
pub(crate) fn background(mut queue: Queue, io: &mut Io) -> Result<u8, Error> {
    let Some(lock) = given_lock(&queue.places.dir)? else { return Err(not_given()) };
    go_to_background(io)?;
    lead(&mut queue, lock, io)?;
    Ok(exit::OK)
}

/// The life of an heir: a leader's, once nobody else leads.
pub(crate) fn heir(mut queue: Queue, deaths: u32, io: &mut Io) -> Result<u8, Error> {
    queue.deaths = deaths;
    // Another may stand by already.
    let Some(standing_by) = given_lock(&queue.places.runs())? else { return Ok(exit::OK) };
    go_to_background(io)?;
    let lock = loop {
        let lock = QueueLock::take(&queue.places.dir).map_err(|source| Error::io("lock", &queue.places.dir, source))?;
        // Whoever removed the state directory meanwhile began anew without us.
        if !lock.is_of(&queue.places.dir) {
            return Ok(exit::OK);
        }
        if !queue.page.must_yield() {
            break lock;
        }
        lock.release().map_err(Error::system("unlock the queue"))?;
        std::thread::sleep(ASIDE);
    };
    standing_by.release().map_err(Error::system("make way for another heir"))?;
    queue.refresh()?;
    if queue.needs_leader() || queue.page.running().is_some() {
        make_next_heir(&queue, io);
    }
    lead(&mut queue, lock, io)?;
    Ok(exit::OK)
}

fn given_lock(dir: &Path) -> Result<Option<QueueLock>, Error> {
    QueueLock::from_stdin(dir).map_err(|_| not_given())
}

fn not_given() -> Error {
    Error::Usage("--lead and --heir are for ts itself: they expect a lock of the queue as their stdin".to_owned())
}

fn go_to_background(io: &mut Io) -> Result<(), Error> {
    detach().map_err(Error::system("detach from the terminal"))?;
    if scope::wanted()
        && let Err(error) = scope::leave_unit()
    {
        io.warn(format_args!("cannot move to a scope of its own, staying in the caller's unit: {error}"));
    }
    scope::say_ready().map_err(Error::system("redirect stdout"))
}

/// Leaves terminal, session, directory and file modes of whoever kicked; the stdio is ours already, except stdin,
/// which was the lock.
fn detach() -> std::io::Result<()> {
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    // A kicker that was collecting signals had them blocked.
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(())
}

/// Leads until nothing is to be done.
pub(crate) fn lead(queue: &mut Queue, mut lock: QueueLock, io: &mut Io) -> Result<(), Error> {
    loop {
        queue.refresh()?;
        adopt(queue, io);
        let pulse = queue.page.pulse();
        let due = queue.due();
        match due {
            Due::Kicked(slot) | Due::Retry(slot) => {
                let ended = run_slot(queue, slot, due, None, io)?;
                if let Some(signal) = ended.interrupted {
                    io.note(format_args!("ended by {signal}"));
                    return lock.release().map_err(Error::system("unlock the queue"));
                }
                continue;
            }
            Due::Later(left) if !queue.page.must_yield() => {
                queue.page.wait(pulse, left.min(NAP));
                continue;
            }
            Due::Later(_) | Due::Nothing => {}
        }
        let yields = matches!(due, Due::Later(_));
        match leave(queue, lock, yields)? {
            Some(again) => lock = again,
            None => return Ok(()),
        }
    }
}

/// Unlocks, then looks again; returns the lock if there is a reason to go on. Whoever asked us to yield
/// for a run of its own starts a leader after it, so a retry that is still to come is no reason then.
fn leave(queue: &Queue, lock: QueueLock, yields: bool) -> Result<Option<QueueLock>, Error> {
    lock.release().map_err(Error::system("unlock the queue"))?;
    queue.page.wake();
    match queue.due() {
        Due::Nothing => Ok(None),
        Due::Later(_) if yields => Ok(None),
        _ => queue.try_lock(),
    }
}

/// Waits for a run whose leader has died.
pub(crate) fn adopt(queue: &Queue, io: &mut Io) {
    let Some(running) = queue.page.recorded() else { return };
    if let Some(process) = Process::find(running.pid, running.start) {
        io.note(format_args!("run {} has lost its leader; waiting for process {}", running.run, running.pid));
        // A run that was started while nothing could be recorded belongs to no slot.
        let path = queue.places.job(queue.page.slot(running.slot).key());
        let job = Job::load(&path).ok().filter(|_| running.seq != 0);
        let log = RunLog::adopt(&queue.places, running.run);
        let policy = job.as_ref().map(|job| &job.policy);
        // Puppet believes in the lock of a leader that lives; an agent that was quicker is there already.
        let _agent = job.as_ref().map(AgentLock::take);
        run::attend_orphan(&process, running.pid, running.started_boot_ms, policy, &log);
        log.say("the leader of this run died; its status is unknown, so it is run again");
        log.finish();
        queue.page.count(None, false);
        queue.page.rec().clear();
        if let Some(job) = &job {
            publish_metrics(queue, job, io);
        }
    }
    queue.page.rec().clear();
    queue.page.wake();
}

fn publish_metrics(queue: &Queue, job: &Job, io: &mut Io) {
    if let Some(path) = &job.policy.metrics
        && let Err(error) = metrics::write(queue, Path::new(path))
    {
        io.warn(format_args!("cannot write the metrics to {path}: {error}"));
    }
}

/// Runs the slot's job once and publishes the result.
pub(crate) fn run_slot(
    queue: &Queue,
    index: usize,
    due: Due,
    mut screen: Option<&mut Screen>,
    io: &mut Io,
) -> Result<Ended, Error> {
    let page = &queue.page;
    let slot = page.slot(index);
    let shown = screen.is_some();
    let interrupts = Interrupts::collect().map_err(Error::system("collect signals"))?;
    match due {
        Due::Retry(_) => slot.kick_for_retry(),
        _ => slot.reset_failures(),
    }
    let from = slot.done() + 1;
    let seq = slot.begin();
    page.took_turn(index);
    let run = page.next_run();
    let log = match RunLog::create(&queue.places, run) {
        Ok(log) => Some(log),
        Err(error) => {
            io.warn(format_args!("the output of run {run} is not kept: {error}"));
            None
        }
    };
    page.rec().announce(index, seq, run);
    page.wake();
    let (started, started_unix_ms) = (sys::boot_ms(), sys::unix_ms());
    let path = queue.places.job(slot.key());
    let (ended, job) = match Job::load(&path) {
        Ok(job) => {
            let show = || screen.as_mut().is_some_and(|screen| screen.show(&queue.places, run));
            let attendance = Attendance { log: log.as_ref(), interrupts: &interrupts, shown };
            (start_and_attend(queue, &job, run, attendance, show, io), Some(job))
        }
        Err(error) => {
            let text = format!("the record of the job cannot be read: {}: {error}", path.display());
            let ended = cannot(exit::WRAPPER, &text, log.as_ref(), shown, io);
            (Ended { unfit: !Job::is_damaged(&error), ..ended }, None)
        }
    };
    let outcome = Outcome {
        from,
        seq,
        status: ended.status,
        run,
        started_unix_ms,
        duration_ms: sys::boot_ms().saturating_sub(started),
    };
    let policy = job.as_ref().map(|job| &job.policy);
    let failures = slot.failures().saturating_add(1);
    let retry_in = match policy {
        _ if ended.stopped => None,
        Some(policy) if policy.retries(ended.status) => Some(policy.pause(failures)),
        // The command is not to blame, and nobody else would come back to it.
        _ if ended.unfit => Some(policy::own_pause(failures)),
        _ => None,
    };
    if let Some(pause) = retry_in {
        io.note(format_args!("run {run} ended with {}; again in {} s", ended.status, pause.as_secs()));
    }
    // Runs that say little need not be counted each time.
    let mut crowded = run.is_multiple_of(runlog::PRUNE_EVERY);
    if let Some(log) = log {
        log.trim();
        crowded |= log.bytes() > runlog::LITTLE_BYTES;
        log.finish();
    }
    let success = policy.is_some_and(|policy| policy.success.contains(ended.status));
    page.count(Some(&outcome), success);
    slot.publish(outcome, retry_in);
    page.rec().clear();
    page.wake();
    drop(interrupts);
    if let Some(job) = &job {
        publish_metrics(queue, job, io);
        let label = Label { queue: queue.name(), run: Some(run) };
        let output = runlog::path(&queue.places.runs(), run, Stream::Err);
        if let Err(error) = run::tell(job, label, ended.status, Some(&output)) {
            let program = job.policy.on_finish.as_deref().unwrap_or_default();
            io.warn(format_args!("{program}, told of the end of run {run}: {error}"));
        }
    }
    why::rotate(&queue.places);
    if crowded {
        runlog::prune(&queue.places.root, |places| {
            Queue::look(places.clone()).ok().flatten().and_then(|queue| queue.page.running()).map(|running| running.run)
        });
    }
    Ok(ended)
}

/// What a leader has at hand while a run goes on.
#[derive(Clone, Copy)]
struct Attendance<'a> {
    log: Option<&'a RunLog>,
    interrupts: &'a Interrupts,
    shown: bool,
}

fn start_and_attend(
    queue: &Queue,
    job: &Job,
    run: u64,
    attendance: Attendance<'_>,
    show: impl FnMut() -> bool,
    io: &mut Io,
) -> Ended {
    let Attendance { log, interrupts, shown } = attendance;
    let _agent = match keep_agent_out(job, attendance, io) {
        Ok(lock) => lock,
        Err(ended) => return ended,
    };
    match run::spawn(&queue.page, job, Label { queue: queue.name(), run: Some(run) }, log) {
        Ok(child) => {
            io.detail(format_args!("run {run}: {}", job.safe_argv().join(" ")));
            queue.page.wake();
            publish_metrics(queue, job, io);
            run::attend(Some(&queue.page), child, &job.policy, log, interrupts, show)
        }
        Err(failure) => {
            let (code, text) = not_started(job, &failure);
            Ended { unfit: code == exit::WRAPPER, ..cannot(code, &text, log, shown, io) }
        }
    }
}

/// Returns the status and the words for a run that could not be started.
pub(crate) fn not_started(job: &Job, failure: &Failure) -> (u8, String) {
    let command = job.safe_argv().join(" ");
    let code = match failure.source().raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => exit::WRAPPER,
        _ => toolkit::process::spawn_failure_code(failure.source()),
    };
    match failure {
        Failure::Program(error) => (code, format!("cannot run {command}: {error}")),
        // A missing directory must not look like a missing command.
        Failure::Directory(error) => (
            exit::CANNOT_RUN,
            format!("cannot run {command}: directory {}: {error}", crate::job::safe(job.cwd.as_os_str())),
        ),
    }
}

/// Takes the lock of Puppet's agent for a Puppet run, waiting for an agent that has it.
fn keep_agent_out(job: &Job, attendance: Attendance<'_>, io: &mut Io) -> Result<Option<AgentLock>, Ended> {
    let Attendance { log, interrupts, shown } = attendance;
    let patience = job.policy.timeout_ms.map_or(AGENT_PATIENCE, Duration::from_millis);
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match AgentLock::take(job) {
            Ok(lock) => return Ok(Some(lock)),
            Err(Refused::Failed { path, source }) => {
                io.warn(format_args!("going on without the lock of Puppet's agent, {}: {source}", path.display()));
                return Ok(None);
            }
            Err(Refused::Held { path, pid }) => {
                if Instant::now() >= deadline {
                    let limit = toolkit::duration::format(patience);
                    let text = format!("process {pid} runs Puppet for {limit} already ({})", path.display());
                    return Err(cannot(exit::BUSY, &text, log, shown, io));
                }
                if !std::mem::replace(&mut told, true)
                    && let Some(log) = log
                {
                    log.say(&format!("waiting for process {pid}, which runs Puppet ({})", path.display()));
                }
            }
        }
        if let Some(signal) = interrupts.wait(AGENT_LOOK) {
            let status = run::by_signal(signal);
            return Err(Ended { status, stopped: true, unfit: false, interrupted: Some(signal) });
        }
    }
}

/// Says why nothing was started, where the run's output would be; there a foreground `ts` shows it.
fn cannot(status: u8, text: &str, log: Option<&RunLog>, shown: bool, io: &mut Io) -> Ended {
    if let Some(log) = log {
        log.say(text);
    }
    if !shown || log.is_none() {
        io.error(text);
    }
    Ended { status, stopped: false, unfit: false, interrupted: None }
}
