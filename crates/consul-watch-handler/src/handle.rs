//! `handle`: one payload from stdin, for use under Consul's own watches.

use std::io::Read;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use toolkit::signals::Notes;
use toolkit::{Io, exit};

use crate::Settings;
use crate::cli::Handle;
use crate::command::{self, Cause, Ending};
use crate::error::Error;
use crate::payload::{self, Items, Kind};
use crate::replay::{Entry, Recorder};
use crate::source::{Subject, subject_hint};
use crate::state::{State, Store};

/// Handles one payload; returns the code to exit with.
///
/// # Errors
/// Those of [`Error`].
pub fn run(options: &Handle, settings: &Settings, input: impl Read, io: &mut Io) -> Result<u8, Error> {
    let seen = SystemTime::now();
    let given = given_subject(options)?;
    let (bytes, payload) = payload::read(input)?;
    // From here on a signal is passed on to the command; before, it ends us as if we were not there.
    let notes = Notes::install().map_err(|source| Error::System { what: "handle signals", source })?;
    let kind = options.kind.or(given.as_ref().map(Subject::kind)).or_else(|| Kind::guess(&payload));
    let name = match &options.name {
        Some(name) => name.clone(),
        None => default_name(kind.filter(|_| options.kind.is_some()), options),
    };
    let store = Store::from_env()?;
    let patience = options.timeout + command::GRACE + Duration::from_secs(5);
    let Some(_lock) = store.lock(&name, patience, || notes.termination().is_none())? else {
        return Ok(signal_code(notes));
    };
    let state = store.load(&name);
    // An empty payload does not show its type; what was there before did.
    let kind = kind.or(state.kind);
    if let Some(kind) = kind {
        payload::check(kind, &payload)?;
    }
    let index = std::env::var("CONSUL_INDEX").ok().and_then(|text| text.parse().ok());
    if let Some(path) = &options.record {
        record(path, &name, kind, index, &bytes, &payload, &options.fields, io);
    }
    let handling = Handling { name: &name, kind, index, seen, bytes: &bytes, options, settings, notes };
    if kind == Some(Kind::Event) {
        return handling.events(&payload, state, &store, io);
    }
    handling.state(&payload, given, state, &store, io)
}

struct Handling<'a> {
    name: &'a str,
    kind: Option<Kind>,
    index: Option<u64>,
    /// When it came.
    seen: SystemTime,
    /// The payload as it came.
    bytes: &'a [u8],
    options: &'a Handle,
    settings: &'a Settings,
    notes: Notes,
}

impl Handling<'_> {
    fn events(&self, payload: &Value, mut state: State, store: &Store, io: &mut Io) -> Result<u8, Error> {
        let fresh = fresh_events(payload, &state);
        let Value::Array(events) = &fresh else { unreachable!("a list by construction") };
        if events.is_empty() {
            io.detail(format_args!("{}: no new event", self.name));
            return Ok(exit::OK);
        }
        let digest = payload::digest(self.kind, &fresh, &[]);
        let ending = if payload.as_array().is_some_and(|all| all.len() == events.len()) {
            self.execute(self.bytes, &digest, io)?
        } else {
            self.execute(format!("{fresh}\n").as_bytes(), &digest, io)?
        };
        if ending == Ending::Code(exit::OK) {
            state.remember(events.iter().filter_map(payload::event_id).map(str::to_owned));
            self.commit(State { kind: self.kind, digest: Some(digest), index: self.index, ..state }, store, io);
        }
        Ok(self.code(ending, io))
    }

    fn state(
        &self,
        payload: &Value,
        given: Option<Subject>,
        state: State,
        store: &Store,
        io: &mut Io,
    ) -> Result<u8, Error> {
        let digest = payload::digest(self.kind, payload, &self.options.fields);
        if state.digest.as_deref() == Some(digest.as_str()) {
            io.detail(format_args!("{}: nothing changed", self.name));
            return Ok(exit::OK);
        }
        let items = payload::items(self.kind, payload);
        let subject = given.or_else(|| remembered_subject(self.kind, state.subject.as_deref()));
        self.confirm(payload, &items, subject.as_ref(), &state)?;
        let ending = self.execute(self.bytes, &digest, io)?;
        if ending == Ending::Code(exit::OK) {
            let hint = subject_hint(self.kind, payload).or_else(|| state.subject.clone());
            let done = State {
                kind: self.kind,
                digest: Some(digest),
                index: self.index,
                subject: hint,
                items,
                events: state.events,
                ..State::default()
            };
            self.commit(done, store, io);
        }
        Ok(self.code(ending, io))
    }

    /// Makes sure that what the payload says is gone is gone.
    fn confirm(&self, payload: &Value, items: &Items, subject: Option<&Subject>, state: &State) -> Result<(), Error> {
        let gone: Items = state
            .items
            .iter()
            .filter(|(identity, _)| !items.contains_key(identity))
            .map(|(&identity, &content)| (identity, content))
            .collect();
        let nothing = payload::is_nothing(payload);
        if gone.is_empty() && !nothing {
            return Ok(());
        }
        let name = || self.name.to_owned();
        let what = match (nothing, gone.len()) {
            (true, _) => "nothing is there".to_owned(),
            (false, 1) => "one thing less is there".to_owned(),
            (false, count) => format!("{count} things less are there"),
        };
        let Some(subject) = subject else { return Err(Error::Unverifiable { name: name() }) };
        let client = self.settings.client()?;
        let answer = subject.confirm(&client).map_err(|source| Error::Unconfirmed {
            name: name(),
            what: what.clone(),
            source: Box::new(source),
        })?;
        let held = payload::items(self.kind, &answer.value);
        // Where a watch filters by tag or health, a thing that changed may be gone from its answer and still be held.
        let still = if state.items.is_empty() {
            held.len()
        } else {
            gone.iter().filter(|(identity, content)| held.get(identity) == Some(content)).count()
        };
        if still > 0 { Err(Error::Stale { name: name(), what, still }) } else { Ok(()) }
    }

    fn execute(&self, payload: &[u8], digest: &str, io: &mut Io) -> Result<Ending, Error> {
        io.note(format_args!("{}: changed, running the command", self.name));
        let cause = Cause { name: self.name, kind: self.kind, index: self.index, digest, seen: self.seen, payload };
        let mut hangups = self.notes.hangups();
        command::run(&self.options.command, &cause, self.options.timeout, |pause| {
            self.notes.wait(pause);
            if self.notes.hangups() != hangups {
                hangups = self.notes.hangups();
                return Some(nix::sys::signal::Signal::SIGHUP as i32);
            }
            self.notes.termination()
        })
    }

    /// Remembers a success. If that fails, the command will run once more for the same payload, so the success stands.
    fn commit(&self, state: State, store: &Store, io: &mut Io) {
        if let Err(error) = store.save(self.name, &state) {
            io.warn(format_args!("{}: the command succeeded, but will run again: {}", self.name, exit::chain(&error)));
        }
    }

    fn code(&self, ending: Ending, io: &mut Io) -> u8 {
        match ending {
            Ending::Code(code) => code,
            Ending::TimedOut => {
                let limit = toolkit::duration::format(self.options.timeout);
                io.error(format_args!("{}: the command was ended after {limit}", self.name));
                exit::TIMED_OUT
            }
            Ending::Stopped(signal) => exit::SIGNALED.saturating_add(u8::try_from(signal).unwrap_or_default()),
        }
    }
}

/// Returns the events of a payload that are not remembered, as a list.
#[must_use]
pub fn fresh_events(payload: &Value, state: &State) -> Value {
    let seen: std::collections::HashSet<&str> = state.events.iter().map(String::as_str).collect();
    let events = payload.as_array().map(Vec::as_slice).unwrap_or_default();
    Value::Array(
        events.iter().filter(|event| payload::event_id(event).is_some_and(|id| !seen.contains(id))).cloned().collect(),
    )
}

/// Adds a payload to a record. What cannot be recorded is handled all the same.
#[expect(clippy::too_many_arguments, reason = "they are the fields of the entry")]
fn record(
    path: &std::path::Path,
    name: &str,
    kind: Option<Kind>,
    index: Option<u64>,
    bytes: &[u8],
    payload: &Value,
    fields: &[String],
    io: &mut Io,
) {
    let entry = Entry {
        v: 1,
        name: name.to_owned(),
        kind,
        fields: fields.to_vec(),
        index,
        digest: payload::digest(kind, payload, fields),
        payload: String::from_utf8_lossy(bytes).into_owned(),
    };
    let added = Recorder::open(path)
        .and_then(|recorder| recorder.add(&entry).map_err(|source| Error::Write { path: path.to_owned(), source }));
    if let Err(error) = added {
        io.warn(format_args!("{name}: the payload is not recorded: {}", exit::chain(&error)));
    }
}

fn given_subject(options: &Handle) -> Result<Option<Subject>, Error> {
    let subject = if let Some(key) = &options.key {
        Subject::Key(key.clone())
    } else if let Some(prefix) = &options.prefix {
        Subject::Prefix(prefix.clone())
    } else if let Some(name) = &options.service {
        if options.kind == Some(Kind::Checks) {
            return Ok(Some(Subject::Checks { service: Some(name.clone()) }));
        }
        Subject::Service { name: name.clone(), tag: options.tag.clone(), passing: options.passing }
    } else {
        return Ok(None);
    };
    match options.kind {
        Some(kind) if kind != subject.kind() => {
            Err(Error::Usage(format!("--type {kind} does not go with an option for type {}", subject.kind())))
        }
        _ => Ok(Some(subject)),
    }
}

/// Returns the subject of a watch as far as its type and what was there tell. It may be wider than the real one.
fn remembered_subject(kind: Option<Kind>, hint: Option<&str>) -> Option<Subject> {
    match (kind?, hint) {
        (Kind::Key, Some(key)) => Some(Subject::Key(key.to_owned())),
        (Kind::Keyprefix, Some(prefix)) => Some(Subject::Prefix(prefix.to_owned())),
        (Kind::Service, Some(name)) => Some(Subject::Service { name: name.to_owned(), tag: None, passing: false }),
        (Kind::Services, _) => Some(Subject::Services),
        (Kind::Nodes, _) => Some(Subject::Nodes),
        (Kind::Checks, _) => Some(Subject::Checks { service: None }),
        _ => None,
    }
}

fn default_name(kind: Option<Kind>, options: &Handle) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = Vec::new();
    for word in &options.command {
        text.extend_from_slice(word.as_bytes());
        text.push(0);
    }
    for word in [&options.key, &options.prefix, &options.service, &options.tag].into_iter().flatten() {
        text.extend_from_slice(word.as_bytes());
        text.push(1);
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&text);
    format!("{}-{}", kind.map_or("watch", Kind::name), toolkit::hex::encode(&digest[..8]))
}

fn signal_code(notes: Notes) -> u8 {
    let signal = notes.termination().and_then(|signal| u8::try_from(signal).ok()).unwrap_or_default();
    exit::SIGNALED.saturating_add(signal)
}
