//! `--why`: what became of a kick, and what caused the run that covers it.
//!
//! Kicks with a reason are noted, one line each (slot, number, time, reason), in a file that its leader starts anew when
//! it has grown; the one before is kept. Notes are for people: a kick whose note could not be written is a kick.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use toolkit::Io;

use crate::dir::Places;
use crate::error::Error;
use crate::job::Job;
use crate::page::Coverage;
use crate::queue::{Due, Queue, Ticket};
use crate::sys;

const NOTES_BYTES: u64 = 128 << 10;
/// Reasons that one answer names.
const REASONS: usize = 20;

fn files(places: &Places) -> [PathBuf; 2] {
    [places.dir.join("kicks.old"), places.dir.join("kicks")]
}

/// Notes why a kick was made.
pub(crate) fn note(places: &Places, ticket: Ticket, reason: &str) {
    let [_, path] = files(places);
    let line = format!("{} {} {} {reason}\n", ticket.slot, ticket.seq, sys::unix_ms());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // One write, so lines of several kickers do not mix. Without space there is no note, and all the same a kick.
    let _ =
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path).and_then(|mut file| {
            match file.metadata()?.len() {
                // Nobody starts it anew while the queue is disabled.
                length if length > 16 * NOTES_BYTES => Ok(()),
                _ => file.write_all(line.as_bytes()),
            }
        });
}

/// Starts the notes anew if they have grown. Holder of the lock only.
pub(crate) fn rotate(places: &Places) {
    let [old, path] = files(places);
    if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.len() > NOTES_BYTES) {
        let _ = std::fs::rename(path, old);
    }
}

#[derive(Debug, PartialEq)]
struct Note {
    ticket: Ticket,
    unix_ms: u64,
    reason: String,
}

fn parse(line: &str) -> Option<Note> {
    let mut words = line.splitn(4, ' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (slot, seq, unix_ms) = (usize::try_from(number()?).ok()?, number()?, number()?);
    Some(Note { ticket: Ticket { slot, seq }, unix_ms, reason: words.next()?.to_owned() })
}

fn notes(places: &Places) -> Vec<Note> {
    let mut text = Vec::new();
    for path in files(places) {
        if let Ok(file) = crate::dir::open_read(&path) {
            let _ = file.take(17 * NOTES_BYTES).read_to_end(&mut text);
        }
    }
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit a double for 285,000 years")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Returns what became of a kick.
pub(crate) fn why(queue: &Queue, number: u64) -> Result<Value, Error> {
    let wrong = |reason: &str| Error::Ticket { ticket: number, reason: reason.to_owned() };
    let ticket = Ticket::of_number(number, queue.name()).ok_or_else(|| wrong("is none of this queue"))?;
    let slot = queue.page.slot(ticket.slot);
    let coverage = slot.coverage(ticket.seq);
    let running = queue.page.running().filter(|run| run.slot == ticket.slot && run.seq >= ticket.seq);
    // The kicks that the run covers, its number, when it started, and how it ended.
    let (state, run) = match (coverage, running) {
        (Coverage::Unknown, _) => return Err(wrong("was never given")),
        (Coverage::Forgotten, _) => ("forgotten", None),
        (Coverage::Covered(run), _) => ("covered", Some((run.from, run.seq, run.run, run.started_unix_ms, Some(run)))),
        (Coverage::Pending, Some(run)) => {
            ("running", Some((slot.done() + 1, run.seq, run.run, run.started_unix_ms, None)))
        }
        (Coverage::Pending, None) => ("pending", None),
    };
    let notes = notes(&queue.places);
    let noted = notes.iter().rev().find(|note| note.ticket == ticket);
    let mut reasons: Vec<&str> = Vec::new();
    if let Some((from, seq, ..)) = run {
        for note in notes.iter().filter(|note| note.ticket.slot == ticket.slot) {
            if (from..=seq).contains(&note.ticket.seq) && !reasons.contains(&&*note.reason) && reasons.len() < REASONS {
                reasons.push(&note.reason);
            }
        }
    }
    let of_slot = |seq| Ticket { slot: ticket.slot, seq }.number(queue.name());
    let job = Job::load(&queue.places.job(slot.key())).ok().filter(|_| state != "forgotten");
    Ok(json!({
        "type": "why",
        "v": 1,
        "ticket": number,
        "queue": queue.name().as_str(),
        "argv": job.as_ref().map(Job::safe_argv),
        "state": state,
        "kicked": noted.map(|note| seconds(note.unix_ms)),
        "reason": noted.map(|note| &note.reason),
        "run": run.map(|(from, seq, run, started, ended)| json!({
            "run": run,
            "status": ended.map(|ended| ended.status),
            "started": seconds(started),
            "duration": ended.map(|ended| seconds(ended.duration_ms)),
            "waited": noted.map(|note| seconds(started.saturating_sub(note.unix_ms))),
            "reasons": reasons,
            "tickets": { "first": of_slot(from), "last": of_slot(seq), "count": (seq + 1).saturating_sub(from) },
        })),
        "waits_for": (state == "pending").then(|| waits_for(queue)).transpose()?,
    }))
}

/// Says why a pending kick has no run yet.
fn waits_for(queue: &Queue) -> Result<String, Error> {
    if let Some(running) = queue.page.running() {
        return Ok(format!("the end of run {}", running.run));
    }
    if let Some(reason) = queue.places.disabled() {
        return Ok(format!("--enable: {reason}"));
    }
    if let Due::Later(left) = queue.due() {
        return Ok(format!("{} s to pass", left.as_secs_f64()));
    }
    // Whoever leads holds the lock; trying it is answered at once, and it is given back.
    Ok(match queue.try_lock()? {
        Some(lock) => {
            lock.release().map_err(Error::system("unlock the queue"))?;
            "a leader: the last one was killed; ts --resume starts one".to_owned()
        }
        None => "its turn".to_owned(),
    })
}

/// Writes the answer for people.
pub(crate) fn print(value: &Value, io: &mut Io) -> std::io::Result<()> {
    let text = |value: &Value| toolkit::exit::one_line(value.as_str().unwrap_or_default());
    let mut line = |name: &str, text: String| io.out(format!("{name:<9} {text}\n"));
    line("ticket", format!("{} of the queue {}", value["ticket"], text(&value["queue"])))?;
    line("command", toolkit::exit::one_line(&crate::status::words(&value["argv"])))?;
    if !value["reason"].is_null() {
        line("kicked", format!("at {}: {}", value["kicked"], text(&value["reason"])))?;
    }
    let run = &value["run"];
    line(
        "state",
        match value["state"].as_str() {
            Some("covered") => {
                format!("run {} covers it and ended with {} after {} s", run["run"], run["status"], run["duration"])
            }
            Some("running") => format!("run {} covers it and goes on", run["run"]),
            Some("pending") => format!("pending; waits for {}", text(&value["waits_for"])),
            _ => "a run that covers it has ended; its result is no longer kept".to_owned(),
        },
    )?;
    if run.is_null() {
        return Ok(());
    }
    if !run["waited"].is_null() {
        line("waited", format!("{} s for its start", run["waited"]))?;
    }
    line(
        "kicks",
        format!("{} (tickets {} to {})", run["tickets"]["count"], run["tickets"]["first"], run["tickets"]["last"]),
    )?;
    for reason in run["reasons"].as_array().into_iter().flatten() {
        line("because", text(reason))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back() {
        let note = Note { ticket: Ticket { slot: 3, seq: 7 }, unix_ms: 9, reason: "watch a  b".to_owned() };
        assert_eq!(parse("3 7 9 watch a  b"), Some(note));
        for line in ["", "3 7 9", "x 7 9 y", "3 7 9z y"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
