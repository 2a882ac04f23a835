//! `ts` serializes the runs of a command, coalesces the requests for it, and never loses one.
//!
//! There is no daemon. A queue is a directory; its lock is flock(2) on that directory; its counters are
//! in a page that every participant maps. A kick increments its job's counter and tries the lock: whoever
//! gets it leads (see `lead`), everybody else relies on the one who has it.
//!
//! What always holds:
//! - Runs of one queue do not overlap: at every instant either the lock is held, or the running child is
//!   on record and is waited for by whoever takes the lock next.
//! - A run covers exactly the kicks that were committed before it began, so all kicks during a run cause
//!   one more run, which starts after the last of them.
//! - A kick that was answered with a ticket stays pending until a run that covers it has ended and said
//!   with what. Whoever is killed, any later call finds it and sees to it.
//! - No wall clock decides anything.
//!
//! Exit codes: 125 for everything that is `ts`'s own failure, 75 for busy and disabled, else the run's.

pub mod cli;
pub mod dir;
pub mod error;
mod ident;
pub mod job;
mod kick;
mod lead;
mod lock;
mod metrics;
pub mod page;
pub mod policy;
mod puppet;
pub mod queue;
pub mod quick;
mod run;
mod runlog;
mod scope;
mod spawn;
mod status;
mod sys;
mod why;

use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use toolkit::{Io, exit};

use cli::{Cli, IfBusy};
use dir::{Places, QueueName, StateDir};
use error::Error;
use job::Job;
use policy::{Policy, Wishes};
use queue::Queue;

/// Does what the command line asks for and returns the exit status.
///
/// # Errors
/// What fails in `ts` itself; a failing command is a status.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    let root = StateDir::from_env()?;
    let name = match &cli.queue {
        Some(name) => name.clone(),
        None => QueueName::parse("default").map_err(Error::Usage)?,
    };
    let places = root.queue(&name);
    if !cli.command.is_empty() {
        return run_command(cli, &places, io);
    }
    if cli.lead {
        return lead::background(Queue::open(places)?, io);
    }
    if let Some(deaths) = cli.heir {
        return lead::heir(Queue::open(places)?, deaths, io);
    }
    if cli.status {
        let value = status::status(&places)?;
        let written = if cli.json { io.json(&value) } else { status::print_status(&value, io) };
        return written.map(|()| exit::OK).map_err(Error::Stdout);
    }
    if cli.list {
        return list(cli, &root, io);
    }
    if let Some(ticket) = cli.wait {
        return wait(cli, &root, &places, ticket, io);
    }
    if let Some(ticket) = cli.why {
        let queue = queue_of(cli, &root, &places, ticket)?;
        let value = why::why(&queue, ticket)?;
        let written = if cli.json { io.json(&value) } else { why::print(&value, io) };
        return written.map(|()| exit::OK).map_err(Error::Stdout);
    }
    if let Some(run) = cli.output.or(cli.tail) {
        let queue = Queue::look(places.clone())?;
        let run = run.unwrap_or_else(|| runlog::last_run(&places.runs()));
        if !places.exists()? || !runlog::Reader::new(&places, run).exists() {
            return Err(Error::NoRun {
                queue: places.name.to_string(),
                run: if run == 0 { "any run".to_owned() } else { format!("run {run}") },
            });
        }
        let queue = queue.filter(|_| cli.tail.is_some());
        return kick::follow(queue.as_ref(), &places, run).map(|()| exit::OK);
    }
    if cli.kill {
        return match Queue::look(places)? {
            Some(queue) => kick::stop(&queue, io),
            None => Ok(exit::NO),
        };
    }
    if cli.resume {
        return resume(cli, &root, io);
    }
    let mut queue = Queue::open(places)?;
    match &cli.disable {
        Some(reason) => {
            queue.places.disable(&exit::one_line(reason))?;
            // A leader that only waits for a retry goes.
            queue.page.wake();
        }
        None => {
            queue.places.enable()?;
            queue.page.wake();
            kick::ensure_leader(&mut queue, io)?;
        }
    }
    Ok(exit::OK)
}

fn run_command(cli: &Cli, places: &Places, io: &mut Io) -> Result<u8, Error> {
    let job = job_of(cli)?;
    let result = Queue::open(places.clone()).and_then(|mut queue| with_queue(cli, &mut queue, &job, io));
    match result {
        // The directory of the queue is there, and so is its lock.
        Err(error) if error.nothing_can_be_written() && places.exists().is_ok_and(|exists| exists) => {
            kick::degraded(places, &job, &error, io)
        }
        other => other,
    }
}

fn with_queue(cli: &Cli, queue: &mut Queue, job: &Job, io: &mut Io) -> Result<u8, Error> {
    let mut foreground = cli.foreground;
    if cli.if_busy != IfBusy::Kick && queue.is_busy() {
        match cli.if_busy {
            IfBusy::Skip => return Ok(exit::OK),
            IfBusy::Fail => return Err(Error::Busy(queue.name().to_string())),
            IfBusy::Join => foreground = true,
            IfBusy::Kick => {}
        }
    }
    if foreground {
        refuse_to_wait_for_ourselves(queue)?;
        return kick::foreground(queue, job, io);
    }
    if cli.resume && queue.page.has_seen(job.key()) {
        kick::ensure_leader(queue, io)?;
        return Ok(exit::OK);
    }
    let ticket = kick::kick(queue, job, io)?;
    // Printed last: a closed pipe must not cost the kick its leader.
    io.out(format!("{ticket}\n")).map_err(Error::Stdout)?;
    Ok(exit::OK)
}

/// A run that stays for another run of its own queue would never end.
fn refuse_to_wait_for_ourselves(queue: &Queue) -> Result<(), Error> {
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
    match queue.page.running() {
        Some(running) if is("TS_QUEUE", queue.name().as_str()) && is("TS_RUN", &running.run.to_string()) => {
            Err(Error::Itself { queue: queue.name().to_string(), run: running.run })
        }
        _ => Ok(()),
    }
}

/// Returns a path that means the same wherever it is used; a bare `name` is left for PATH if that is wished.
fn lasting_path(option: &str, path: &str, cwd: &Path, bare: bool) -> Result<String, Error> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::Usage(format!("{option}: `{path}` is no path")));
    }
    if bare && !path.contains('/') {
        return Ok(path.to_owned());
    }
    let whole = cwd.join(path).into_os_string().into_string();
    whole.map_err(|path| Error::Usage(format!("{option}: {} is not UTF-8", job::safe(&path))))
}

fn job_of(cli: &Cli) -> Result<Job, Error> {
    let cwd: PathBuf = std::env::current_dir().map_err(Error::system("tell the working directory"))?;
    // The only way to read the mask is to set it; this process has one thread.
    let mask = umask(Mode::from_bits_truncate(0o077));
    umask(mask);
    let wishes = Wishes {
        puppet: cli.puppet,
        success: cli.success.clone(),
        retry: cli.retry.clone(),
        backoff: cli.backoff,
        timeout: cli.timeout,
        kill_after: cli.kill_after,
        debounce: cli.debounce,
        splay: cli.splay,
        metrics: cli.metrics.as_deref().map(|path| lasting_path("--metrics", path, &cwd, false)).transpose()?,
        on_finish: cli.on_finish.as_deref().map(|path| lasting_path("--on-finish", path, &cwd, true)).transpose()?,
    };
    Ok(Job {
        argv: cli.command.clone(),
        cwd,
        env: std::env::vars_os().collect(),
        umask: mask.bits(),
        policy: Policy::new(&wishes),
        reason: cli.reason.as_deref().map(exit::one_line),
    })
}

fn chosen(cli: &Cli, root: &StateDir) -> Result<Vec<QueueName>, Error> {
    match &cli.queue {
        Some(name) => Ok(vec![name.clone()]),
        None => root.queues(),
    }
}

fn list(cli: &Cli, root: &StateDir, io: &mut Io) -> Result<u8, Error> {
    for name in chosen(cli, root)? {
        for job in status::list(&root.queue(&name))? {
            let written = if cli.json { io.json(&job) } else { status::print_job(&job, io) };
            written.map_err(Error::Stdout)?;
        }
    }
    Ok(exit::OK)
}

fn resume(cli: &Cli, root: &StateDir, io: &mut Io) -> Result<u8, Error> {
    for name in chosen(cli, root)? {
        let places = root.queue(&name);
        if places.exists()? {
            kick::ensure_leader(&mut Queue::open(places)?, io)?;
        }
    }
    Ok(exit::OK)
}

fn wait(cli: &Cli, root: &StateDir, places: &Places, ticket: Option<u64>, io: &mut Io) -> Result<u8, Error> {
    if let Some(number) = ticket {
        let mut queue = queue_of(cli, root, places, number)?;
        refuse_to_wait_for_ourselves(&queue)?;
        return kick::wait_for(&mut queue, number, io);
    }
    match Queue::look(places.clone())? {
        Some(mut queue) => {
            refuse_to_wait_for_ourselves(&queue)?;
            kick::wait_for_all(&mut queue, io)
        }
        None => Ok(exit::OK),
    }
}

/// Returns the queue of a ticket: the one that -Q names, or the one that the ticket tells.
fn queue_of(cli: &Cli, root: &StateDir, places: &Places, ticket: u64) -> Result<Queue, Error> {
    let wrong = |reason: &str| Error::Ticket { ticket, reason: reason.to_owned() };
    let mut places = places.clone();
    if cli.queue.is_none() {
        let of_queue = |name: &QueueName| queue::Ticket::of_number(ticket, name).is_some();
        let mut names = root.queues()?.into_iter().filter(of_queue);
        let name = names.next().ok_or_else(|| wrong("was never given"))?;
        if names.next().is_some() {
            return Err(wrong("could be of more than one queue"));
        }
        places = root.queue(&name);
    }
    Queue::look(places)?.ok_or_else(|| wrong("was never given"))
}
