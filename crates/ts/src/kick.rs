//! The other side: kicking, joining, waiting, stopping.

use std::time::Duration;

use nix::sys::signal::Signal;
use toolkit::{Io, exit};

use crate::dir::Places;
use crate::error::Error;
use crate::ident::Process;
use crate::job::Job;
use crate::lead;
use crate::lock::QueueLock;
use crate::page::{Coverage, Outcome};
use crate::puppet::AgentLock;
use crate::queue::{Due, Queue, Ticket};
use crate::run::{self, Interrupts, Label, Screen};

/// The time between two looks of a joiner at output, signals, and whether the queue has lost its leader.
const LOOK: Duration = Duration::from_millis(50);

/// Commits a kick, sees to it that somebody leads, and returns the kick's number.
pub(crate) fn kick(queue: &mut Queue, job: &Job, io: &mut Io) -> Result<u64, Error> {
    let ticket = queue.kick(job)?;
    if let Some(reason) = queue.places.disabled() {
        io.warn(format_args!("the kick is recorded; the queue {} is disabled: {reason}", queue.name()));
    }
    ensure_leader(queue, io)?;
    Ok(ticket.number(queue.name()))
}

/// Starts a background leader if something is to be done and nobody leads; and sees to it that another stands by, since
/// from then on we rely on whoever leads.
pub(crate) fn ensure_leader(queue: &mut Queue, io: &mut Io) -> Result<(), Error> {
    loop {
        let Some(lock) = queue.try_lock()? else {
            lead::ensure_heir(queue, io);
            break;
        };
        // An orphan needs a leader too: to bound its log and its time, and to run what follows it.
        if queue.needs_leader() || queue.page.running().is_some() {
            if hand_over(queue, lock, io)? {
                lead::ensure_heir(queue, io);
            }
            break;
        }
        lock.release().map_err(Error::system("unlock the queue"))?;
        if !queue.needs_leader() {
            break;
        }
    }
    Ok(())
}

/// Gives the lock to a background leader and answers true, or leads here if none can be started.
fn hand_over(queue: &mut Queue, lock: QueueLock, io: &mut Io) -> Result<bool, Error> {
    match lead::spawn_background(queue, &lock) {
        Ok(()) => Ok(true),
        Err(error) => {
            io.warn(format_args!("{}; leading in the foreground", toolkit::exit::chain(&error)));
            lead::lead(queue, lock, io).map(|()| false)
        }
    }
}

/// How a joiner's wait ended.
enum Waited {
    Covered(Outcome),
    Interrupted(Signal),
}

/// Kicks, stays until a run that covers the kick has ended, and returns that run's status.
pub(crate) fn foreground(queue: &mut Queue, job: &Job, io: &mut Io) -> Result<u8, Error> {
    refuse_if_disabled(queue)?;
    let ticket = queue.kick(job)?;
    let mut screen = Screen::new();
    match join(queue, ticket, Some(&mut screen), io)? {
        Waited::Covered(outcome) => {
            match screen.finish(&queue.places, outcome.run) {
                // A run that failed has said so by its status already.
                Err(source) if outcome.status == exit::OK => Err(Error::Output { run: outcome.run, source }),
                Err(source) => {
                    io.warn(format_args!("{}: {source}", Error::output_text(outcome.run)));
                    Ok(outcome.status)
                }
                Ok(()) => Ok(outcome.status),
            }
        }
        Waited::Interrupted(signal) => Ok(run::by_signal(signal)),
    }
}

/// Waits for the run that covers a ticket and returns its status.
pub(crate) fn wait_for(queue: &mut Queue, number: u64, io: &mut Io) -> Result<u8, Error> {
    let wrong = |reason: &str| Error::Ticket { ticket: number, reason: reason.to_owned() };
    let ticket = Ticket::of_number(number, queue.name())
        .ok_or_else(|| wrong(&format!("is none of the queue {}", queue.name())))?;
    match join(queue, ticket, None, io)? {
        Waited::Covered(outcome) => Ok(outcome.status),
        Waited::Interrupted(signal) => Ok(run::by_signal(signal)),
    }
}

/// Waits until every kick that is there now is covered; returns the status of the run that ended last.
pub(crate) fn wait_for_all(queue: &mut Queue, io: &mut Io) -> Result<u8, Error> {
    let tickets: Vec<Ticket> = queue
        .page
        .jobs()
        .filter(|(_, slot)| slot.is_pending())
        .filter_map(|(slot, state)| Some(Ticket { slot, seq: state.kicks()? }))
        .collect();
    let mut last: Option<Outcome> = None;
    for ticket in tickets {
        match join(queue, ticket, None, io)? {
            Waited::Covered(outcome) => last = last.filter(|last| last.run > outcome.run).or(Some(outcome)),
            Waited::Interrupted(signal) => return Ok(run::by_signal(signal)),
        }
    }
    let newest = || queue.page.jobs().flat_map(|(_, slot)| slot.outcomes()).max_by_key(|outcome| outcome.run);
    Ok(last.or_else(newest).map_or(exit::OK, |outcome| outcome.status))
}

fn refuse_if_disabled(queue: &Queue) -> Result<(), Error> {
    match queue.places.disabled() {
        Some(reason) => Err(Error::Disabled { queue: queue.name().to_string(), reason }),
        None => Ok(()),
    }
}

/// Waits for a ticket. Whoever waits is also the heir of a leader that dies.
fn join(queue: &mut Queue, ticket: Ticket, mut screen: Option<&mut Screen>, io: &mut Io) -> Result<Waited, Error> {
    let wrong = |reason: &str| Error::Ticket { ticket: ticket.number(queue.name()), reason: reason.to_owned() };
    let (unknown, forgotten) = (wrong("was never given"), wrong("is so old that its result is no longer kept"));
    let interrupts = Interrupts::collect().map_err(Error::system("collect signals"))?;
    loop {
        let pulse = queue.page.pulse();
        match queue.page.slot(ticket.slot).coverage(ticket.seq) {
            Coverage::Covered(outcome) => return Ok(Waited::Covered(outcome)),
            Coverage::Forgotten => return Err(forgotten),
            Coverage::Unknown => return Err(unknown),
            Coverage::Pending => {}
        }
        let running = queue.page.recorded();
        if running.is_none() {
            refuse_if_disabled(queue)?;
        }
        if let Some(lock) = queue.try_lock()? {
            if let Some(signal) = lead_once(queue, lock, ticket, screen.as_deref_mut(), io)? {
                // The run of our own kick was asked to end; what it said is its result.
                if let Coverage::Covered(outcome) = queue.page.slot(ticket.slot).coverage(ticket.seq) {
                    return Ok(Waited::Covered(outcome));
                }
                return Ok(Waited::Interrupted(signal));
            }
            continue;
        }
        if let Some(signal) = interrupts.next() {
            return Ok(Waited::Interrupted(signal));
        }
        if let (Some(screen), Some(running)) = (screen.as_deref_mut(), running)
            && running.slot == ticket.slot
            && running.seq >= ticket.seq
        {
            screen.show(&queue.places, running.run);
        }
        queue.page.wait(pulse, LOOK);
    }
}

/// Uses the lock for the run of our own kick, if that is next and is to be shown; leaves everything else
/// to a background leader. Answers the signal that ended the run, if one did.
fn lead_once(
    queue: &mut Queue,
    lock: QueueLock,
    ticket: Ticket,
    screen: Option<&mut Screen>,
    io: &mut Io,
) -> Result<Option<Signal>, Error> {
    queue.refresh()?;
    let orphan = queue.page.running().is_some();
    let mut signal = None;
    if !orphan {
        queue.page.rec().clear();
        let due = queue.due();
        if let (Some(screen), Due::Kicked(slot)) = (screen, due)
            && slot == ticket.slot
        {
            signal = lead::run_slot(queue, slot, due, Some(screen), io)?.interrupted;
        }
    }
    if orphan || queue.needs_leader() {
        hand_over(queue, lock, io)?;
        return Ok(signal);
    }
    lock.release().map_err(Error::system("unlock the queue"))?;
    if queue.needs_leader() {
        ensure_leader(queue, io)?;
    }
    Ok(signal)
}

/// Shows the output of a run as it grows, until the run has ended.
pub(crate) fn follow(queue: Option<&Queue>, places: &Places, run: u64) -> Result<(), Error> {
    let mut screen = Screen::patient();
    let recorded = queue.and_then(|queue| queue.page.recorded()).filter(|running| running.run == run);
    if let Some(process) = recorded.and_then(|running| Process::find(running.pid, running.start)) {
        screen.follow(&process, places, run);
    }
    screen.finish(places, run).map_err(|source| Error::Output { run, source })
}

/// Asks the run that goes on to end, with its whole group; it is not tried again.
pub(crate) fn stop(queue: &Queue, io: &mut Io) -> Result<u8, Error> {
    let found = queue.page.recorded().and_then(|running| Some((running, Process::find(running.pid, running.start)?)));
    let Some((running, process)) = found else {
        io.note(format_args!("nothing runs in the queue {}", queue.name()));
        return Ok(exit::NO);
    };
    queue.page.rec().ask_stop(running.run);
    let job = Job::load(&queue.places.job(queue.page.slot(running.slot).key())).ok();
    let grace = job.map_or(Duration::from_secs(10), |job| job.policy.kill_after());
    run::end_group(&process, running.pid, grace);
    Ok(exit::OK)
}

/// Runs the command here and now under the queue's lock: nothing can be recorded, and nothing is dropped.
pub(crate) fn degraded(places: &Places, job: &Job, cause: &Error, io: &mut Io) -> Result<u8, Error> {
    io.warn(format_args!(
        "{}; running the command here, under the plain lock of the queue {}",
        toolkit::exit::chain(cause),
        places.name
    ));
    let queue = Queue::look(places.clone()).ok().flatten();
    let failed = |source| Error::io("lock", &places.dir, source);
    let lock = match &queue {
        None => QueueLock::take(&places.dir).map_err(failed)?,
        Some(queue) => loop {
            if let Some(lock) = QueueLock::try_take(&places.dir).map_err(failed)? {
                break lock;
            }
            // A leader that only waits for a retry lets go. Asked again and again, because one of several
            // who ask takes the request back when it has had its run.
            queue.page.ask_yield();
            std::thread::sleep(LOOK);
        },
    };
    let mut run = None;
    if let Some(queue) = &queue {
        queue.page.yielded();
        lead::adopt(queue, io);
        // On record like any run, so that nothing overlaps it if we die; it covers no kick.
        let number = queue.page.next_run();
        queue.page.rec().announce(0, 0, number);
        run = Some(number);
    }
    let label = Label { queue: &places.name, run };
    let _agent = AgentLock::take(job);
    let status = run::plain(job, label, queue.as_ref().map(|queue| &queue.page)).unwrap_or_else(|failure| {
        let (status, text) = lead::not_started(job, &failure);
        io.error(text);
        status
    });
    if status == exit::TIMED_OUT {
        io.warn("the run was ended at its time limit, or with this status by itself");
    }
    if let Some(queue) = &queue {
        queue.page.rec().clear();
    }
    if let Err(error) = run::tell(job, label, status, None) {
        io.warn(format_args!("the program that is told of the run's end: {error}"));
    }
    lock.release().map_err(Error::system("unlock the queue"))?;
    if let Some(mut queue) = queue {
        ensure_leader(&mut queue, io)?;
    }
    Ok(status)
}
