//! What goes on: `-s` and `-l`, read from the page without any lock.

use serde_json::{Value, json};
use toolkit::Io;

use crate::dir::Places;
use crate::error::Error;
use crate::job::Job;
use crate::page::{Outcome, Running, Slot};
use crate::queue::{Queue, Ticket};
use crate::sys;

/// How often a status is read anew because something has changed meanwhile.
const LOOKS: usize = 100;

/// Returns one queue's status: `running`, `pending`, `starts_in`, `retry`, `disabled` and `last`.
pub(crate) fn status(places: &Places) -> Result<Value, Error> {
    let queue = Queue::look(places.clone())?;
    let mut looks = LOOKS;
    loop {
        let pulse = queue.as_ref().map(|queue| queue.page.pulse());
        let value = look(places, queue.as_ref());
        looks -= 1;
        // Parts from before and after a change would not fit together: a run that has just begun is in neither.
        if looks == 0 || pulse == queue.as_ref().map(|queue| queue.page.pulse()) {
            return Ok(value);
        }
    }
}

fn look(places: &Places, queue: Option<&Queue>) -> Value {
    let disabled = places.disabled().map(|reason| json!({ "reason": reason }));
    let running = queue.and_then(|queue| queue.page.running());
    let retry = queue.and_then(|queue| {
        let slots = queue.page.jobs().filter(|(_, slot)| !slot.is_pending());
        let (at, slot) = slots.filter_map(|(index, slot)| Some((slot.retry_at()?, index))).min()?;
        Some(json!({
            "argv": argv(queue, slot),
            "in": seconds(at.saturating_sub(sys::boot_ms())),
            "failures": queue.page.slot(slot).failures(),
        }))
    });
    let pending: u64 =
        queue.map_or(0, |queue| queue.page.jobs().map(|(index, slot)| waiting(index, slot, running)).sum());
    // Kicks that are gathered, or this host's share of a splay.
    let starts_in = queue.filter(|_| running.is_none() && disabled.is_none()).and_then(|queue| {
        let pending = queue.page.jobs().filter(|(index, slot)| waiting(*index, slot, running) > 0);
        pending.map(|(_, slot)| slot.not_before().saturating_sub(sys::boot_ms())).min().filter(|ms| *ms > 0)
    });
    let last = queue.and_then(|queue| {
        let outcomes = queue.page.jobs().flat_map(|(slot, state)| state.outcomes().into_iter().map(move |o| (slot, o)));
        let (slot, outcome) = outcomes.max_by_key(|(_, outcome)| outcome.run)?;
        Some(last(queue, slot, &outcome))
    });
    json!({
        "type": "status",
        "v": 1,
        "queue": places.name.as_str(),
        "running": queue.zip(running).map(|(queue, running)| running_json(queue, running)),
        "pending": pending,
        "starts_in": starts_in.map(seconds),
        "retry": retry,
        "disabled": disabled,
        "last": last,
    })
}

/// Returns one object per job of a queue.
pub(crate) fn list(places: &Places) -> Result<Vec<Value>, Error> {
    let Some(queue) = Queue::look(places.clone())? else { return Ok(Vec::new()) };
    let running = queue.page.running();
    let mut jobs = Vec::new();
    for (index, slot) in queue.page.jobs() {
        let job = load(&queue, index);
        let pending = waiting(index, slot, running);
        let state = match (running, slot.retry_at()) {
            (Some(running), _) if running.slot == index && running.seq != 0 => "running",
            _ if pending > 0 => "pending",
            (_, Some(_)) => "retry",
            _ => "idle",
        };
        jobs.push(json!({
            "type": "job",
            "v": 1,
            "queue": places.name.as_str(),
            "argv": job.as_ref().map(Job::safe_argv),
            "cwd": job.as_ref().map(|job| crate::job::safe(job.cwd.as_os_str())),
            "reason": job.and_then(|job| job.reason),
            "state": state,
            "pending": pending,
            "failures": slot.failures(),
            "retry_in": slot.retry_at().map(|at| seconds(at.saturating_sub(sys::boot_ms()))),
            "last": slot.outcomes().last().map(|outcome| last(&queue, index, outcome)),
        }));
    }
    Ok(jobs)
}

/// Counts the kicks that neither a finished nor the running run covers.
fn waiting(index: usize, slot: &Slot, running: Option<Running>) -> u64 {
    let covered = running.filter(|running| running.slot == index).map_or(0, |running| running.seq).max(slot.done());
    slot.kicks().unwrap_or(0).saturating_sub(covered)
}

fn load(queue: &Queue, slot: usize) -> Option<Job> {
    Job::load(&queue.places.job(queue.page.slot(slot).key())).ok()
}

fn argv(queue: &Queue, slot: usize) -> Option<Vec<String>> {
    load(queue, slot).map(|job| job.safe_argv())
}

fn running_json(queue: &Queue, running: Running) -> Value {
    // A run that was started while nothing could be recorded belongs to no slot.
    let job = load(queue, running.slot).filter(|_| running.seq != 0);
    json!({
        "queue": queue.name().as_str(),
        "argv": job.as_ref().map(Job::safe_argv),
        "reason": job.and_then(|job| job.reason),
        "pid": running.pid,
        "run": running.run,
        "started": seconds(running.started_unix_ms),
        "duration": seconds(sys::boot_ms().saturating_sub(running.started_boot_ms)),
    })
}

fn last(queue: &Queue, slot: usize, outcome: &Outcome) -> Value {
    let number = |seq| Ticket { slot, seq }.number(queue.name());
    json!({
        "argv": argv(queue, slot),
        "run": outcome.run,
        "status": outcome.status,
        "started": seconds(outcome.started_unix_ms),
        "duration": seconds(outcome.duration_ms),
        "tickets": {
            "first": number(outcome.from),
            "last": number(outcome.seq),
            "count": (outcome.seq + 1).saturating_sub(outcome.from),
        },
    })
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit a double for 285,000 years")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Writes a status for people.
pub(crate) fn print_status(value: &Value, io: &mut Io) -> std::io::Result<()> {
    let mut line = |name: &str, text: String| io.out(format!("{name:<9} {}\n", toolkit::exit::one_line(&text)));
    line("queue", text(&value["queue"]))?;
    let running = &value["running"];
    if running.is_null() {
        line("running", "nothing".to_owned())?;
    } else {
        let head = format!("run {} (process {}, {} s)", running["run"], running["pid"], running["duration"]);
        line("running", format!("{head}: {}", words(&running["argv"])))?;
        if !running["reason"].is_null() {
            line("reason", text(&running["reason"]))?;
        }
    }
    let starts = if value["starts_in"].is_null() {
        String::new()
    } else {
        format!(", not before {} s from now", value["starts_in"])
    };
    line("pending", format!("{}{starts}", value["pending"]))?;
    let retry = &value["retry"];
    if !retry.is_null() {
        line("retry", format!("in {} s: {}", retry["in"], words(&retry["argv"])))?;
    }
    if !value["disabled"].is_null() {
        line("disabled", text(&value["disabled"]["reason"]))?;
    }
    let last = &value["last"];
    if !last.is_null() {
        let head = format!("run {} ended with {} after {} s", last["run"], last["status"], last["duration"]);
        line("last", format!("{head}: {}", words(&last["argv"])))?;
    }
    Ok(())
}

/// Writes a job as one line for people.
pub(crate) fn print_job(value: &Value, io: &mut Io) -> std::io::Result<()> {
    let status = value["last"]["status"].as_u64().map_or_else(|| "-".to_owned(), |status| status.to_string());
    let command = toolkit::exit::one_line(&words(&value["argv"]));
    let (queue, state) = (text(&value["queue"]), text(&value["state"]));
    io.out(format!("{queue:<12} {state:<8} {:>4} {status:>4}  {command}\n", value["pending"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn words(argv: &Value) -> String {
    let words = argv.as_array().map(|words| words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    words.unwrap_or_else(|| "(not on record)".to_owned())
}
