//! Recorded streams of payloads, and what becomes of them when they come again.
//!
//! `watch --record FILE` and `handle --record FILE` add one line of JSON for each payload that differs from the one
//! before (`watch`) or that comes (`handle`): name, type, fields that count, index, digest, and the payload as
//! text, byte for byte. `replay` reads them without Consul and without the state directory: it decides as for the first
//! time which payloads make a run, and runs the command with the same bytes and the same environment. Answers that
//! became smaller are taken as confirmed. A digest that is no longer the one that was recorded is told: then the way in
//! which payloads are compared has changed.
//!
//! A record holds values of keys, so its mode is 0600; it ends at 64 MiB.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toolkit::signals::Notes;
use toolkit::{Io, exit};

use crate::cli::Replay;
use crate::command::{self, Cause, Ending};
use crate::error::Error;
use crate::handle::fresh_events;
use crate::payload::{self, Kind};
use crate::state::State;

const RECORD_BYTES: u64 = 64 << 20;
/// A payload as text may take twice its length, and more for what must be escaped.
const LINE_BYTES: u64 = 128 << 20;

/// One payload of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Version of this format.
    pub v: u32,
    /// The watch.
    pub name: String,
    /// Its type, if it is known.
    #[serde(rename = "type")]
    pub kind: Option<Kind>,
    /// The top-level fields that count.
    pub fields: Vec<String>,
    /// Consul's index, if it is known.
    pub index: Option<u64>,
    /// The digest of what counts.
    pub digest: String,
    /// The payload as it came.
    pub payload: String,
}

/// A file that payloads are added to.
#[derive(Debug)]
pub struct Recorder(Mutex<File>);

impl Recorder {
    /// Opens a file, making it if it is missing.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Recorder, Error> {
        let flags = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
        opened.map(|file| Recorder(Mutex::new(file))).map_err(|source| Error::Write { path: path.to_owned(), source })
    }

    /// Adds a payload.
    ///
    /// # Errors
    /// It cannot be written, or the record is full.
    pub fn add(&self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = self.0.lock().expect("no holder panics");
        if file.metadata()?.len() + line.len() as u64 > RECORD_BYTES {
            return Err(std::io::Error::other(format!("it would grow beyond {} MiB", RECORD_BYTES >> 20)));
        }
        // One write: handlers of several watches may share the file.
        file.write_all(&line)
    }
}

/// Replays a record; 1 when a command failed or a digest is not the recorded one.
///
/// # Errors
/// The record cannot be read, or the command cannot be started.
pub fn run(options: &Replay, io: &mut Io) -> Result<u8, Error> {
    let path = &options.file;
    let file = File::open(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let notes = Notes::install().map_err(|source| Error::System { what: "handle signals", source })?;
    let mut reader = BufReader::new(file);
    let mut states: HashMap<String, State> = HashMap::new();
    let mut code = exit::OK;
    for number in 1.. {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line);
        if read.map_err(|source| Error::Read { path: path.clone(), source })? == 0 {
            break;
        }
        let wrong = |message: String| Error::Record { path: path.clone(), line: number, message };
        let entry: Entry = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        if entry.v != 1 {
            return Err(wrong(format!("version {} is not known", entry.v)));
        }
        let value = payload::parse(entry.payload.as_bytes()).map_err(|error| wrong(exit::chain(&error)))?;
        if let Some(kind) = entry.kind {
            payload::check(kind, &value).map_err(|error| wrong(exit::chain(&error)))?;
        }
        let digest = payload::digest(entry.kind, &value, &entry.fields);
        let same = digest == entry.digest;
        let mut state = states.remove(&entry.name).unwrap_or_default();
        let due = due(&entry, &value, &digest, &state);
        let ending = match &due {
            Some((payload, digest)) if !options.command.is_empty() => {
                let cause = Cause {
                    name: &entry.name,
                    kind: entry.kind,
                    index: entry.index,
                    digest,
                    seen: std::time::SystemTime::now(),
                    payload: payload.as_bytes(),
                };
                Some(command::run(&options.command, &cause, options.timeout, |pause| {
                    notes.wait(pause);
                    notes.termination()
                })?)
            }
            _ => None,
        };
        if let Some(Ending::Stopped(signal)) = ending {
            return Ok(exit::SIGNALED.saturating_add(u8::try_from(signal).unwrap_or_default()));
        }
        let status = match ending {
            Some(Ending::Code(code)) => Some(code),
            Some(_) => Some(exit::TIMED_OUT),
            None => None,
        };
        if status.is_some_and(|status| status != exit::OK) || !same {
            code = exit::NO;
        }
        if !same {
            io.warn(format_args!("{}:{number}: the digest was {} when it was recorded", path.display(), entry.digest));
        }
        if due.is_some() && status.unwrap_or(exit::OK) == exit::OK {
            if entry.kind == Some(Kind::Event) {
                let ids = value.as_array().into_iter().flatten().filter_map(payload::event_id);
                state.remember(
                    ids.filter(|id| !state.events.iter().any(|seen| seen == id)).map(str::to_owned).collect::<Vec<_>>(),
                );
            }
            state.digest = Some(digest.clone());
        }
        // With a command, stdout is the command's.
        if options.command.is_empty() {
            io.json(&json!({
                "type": "replay",
                "v": 1,
                "line": number,
                "name": entry.name,
                "index": entry.index,
                "digest": digest,
                "same": same,
                "run": due.is_some(),
            }))
            .map_err(Error::Stdout)?;
        }
        states.insert(entry.name, state);
    }
    Ok(code)
}

/// Returns the payload and the digest that a command gets, if it is to run.
fn due(entry: &Entry, value: &Value, digest: &str, state: &State) -> Option<(String, String)> {
    if entry.kind != Some(Kind::Event) {
        return (state.digest.as_deref() != Some(digest)).then(|| (entry.payload.clone(), digest.to_owned()));
    }
    let fresh = fresh_events(value, state);
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    match count(&fresh) {
        0 => None,
        some if some == count(value) => Some((entry.payload.clone(), digest.to_owned())),
        _ => Some((format!("{fresh}\n"), payload::digest(entry.kind, &fresh, &[]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: &str) -> Entry {
        let value = payload::parse(payload.as_bytes()).expect("JSON");
        Entry {
            v: 1,
            name: "w".into(),
            kind: Some(Kind::Key),
            fields: Vec::new(),
            index: Some(7),
            digest: payload::digest(Some(Kind::Key), &value, &[]),
            payload: payload.into(),
        }
    }

    #[test]
    fn an_entry_is_read_back_and_a_record_is_bounded() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("record");
        let recorder = Recorder::open(&path).expect("made");
        let one = entry("{\"Key\":\"k\",\n \"Value\":\"dg==\"}");
        recorder.add(&one).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(serde_json::from_str::<Entry>(&text).expect("JSON"), one);
        recorder.0.lock().expect("ours").set_len(RECORD_BYTES).expect("sparse");
        assert!(recorder.add(&one).is_err());
        std::os::unix::fs::symlink(&path, dir.path().join("link")).expect("made");
        assert!(Recorder::open(&dir.path().join("link")).is_err());
    }
}
