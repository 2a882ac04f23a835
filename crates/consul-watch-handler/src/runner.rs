//! The runner of a watch: compares what was seen with what is remembered, and runs the command if it must.
//!
//! Its thread lives from a change until the change is settled; forty quiet watches have no such thread.
//!
//! It holds the lock of its name from the comparison until the success is remembered. Whatever goes wrong (command
//! failed, answer not confirmed, lock taken), it comes back to what is then on the board: a failed command within
//! 10 s, an unconfirmed answer within 5 s.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use consul_client::Class;
use serde_json::Value;
use toolkit::backoff::Backoff;
use toolkit::exit;

use crate::board::{Board, Due, Message, Observation};
use crate::command::{self, Cause, Ending};
use crate::config::WatchSpec;
use crate::error::Error;
use crate::follow::Link;
use crate::handle::fresh_events;
use crate::payload::{self, Kind};
use crate::source::Subject;
use crate::state::{State, Store};

/// The part of a watch that confirms, among the parts that can be in trouble.
const CONFIRM: &str = "confirmation";
/// How long another process may hold the lock of a name.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// The part of a watch that runs its command, among the parts that can be stuck.
const RUNNING: &str = "command";

pub(crate) struct Runner {
    pub(crate) spec: WatchSpec,
    pub(crate) link: Arc<Link>,
    pub(crate) store: Store,
    pub(crate) say: Sender<Message>,
    /// What a success left when it could not be written down.
    unsaved: Option<State>,
    /// The observation that a consistent read contradicted. While it stays on the board it is not believed, and
    /// asked about again and again: readers tell only of changes, and it may come true without one.
    contradicted: Option<u64>,
    failures: Backoff,
    doubts: Backoff,
}

/// What to do after a look at the board.
enum Verdict {
    Settled,
    Again(Duration),
    Stopped,
}

impl Runner {
    pub(crate) fn new(spec: WatchSpec, link: Arc<Link>, store: Store, say: Sender<Message>) -> Runner {
        Runner {
            spec,
            link,
            store,
            say,
            unsaved: None,
            contradicted: None,
            failures: Backoff::new(Duration::from_secs(1), Duration::from_secs(10)),
            doubts: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
        }
    }

    /// Does what there is to do, until there is no more.
    pub(crate) fn run(&mut self, board: &Board) {
        // Confirming, locking, running and ending all have limits; together they are this.
        let limit = LOCK_WAIT + self.spec.timeout + command::GRACE + Duration::from_secs(120);
        let mut retry_at = None;
        loop {
            board.promise(RUNNING, limit);
            let seen = match board.due(self.spec.debounce, retry_at) {
                Due::Observed(seen) => seen,
                Due::Idle => break,
                Due::Stop => {
                    board.end();
                    break;
                }
            };
            let verdict = self.settle(board, &seen).unwrap_or_else(|error| {
                self.warn(format_args!("{}, trying again", exit::chain(&error)));
                Verdict::Again(self.failures.next_delay())
            });
            retry_at = match verdict {
                // A stop is what the board says next.
                Verdict::Settled | Verdict::Stopped => None,
                Verdict::Again(pause) => Some(Instant::now() + pause),
            };
        }
        board.at_rest(RUNNING);
    }

    fn settle(&mut self, board: &Board, seen: &Observation) -> Result<Verdict, Error> {
        let Some(_lock) = self.store.lock(&self.spec.name, LOCK_WAIT, || !board.is_stopped())? else {
            return Ok(Verdict::Stopped);
        };
        let state = self.unsaved.clone().unwrap_or_else(|| self.store.load(&self.spec.name));
        if self.spec.subject.kind() == Kind::Event {
            return self.events(board, seen, state);
        }
        self.level(board, seen, state)
    }

    fn events(&mut self, board: &Board, seen: &Observation, mut state: State) -> Result<Verdict, Error> {
        let fresh = fresh_events(&seen.payload, &state);
        if payload::is_nothing(&fresh) {
            return Ok(Verdict::Settled);
        }
        let digest = payload::digest(Some(Kind::Event), &fresh, &[]);
        self.execute(board, &fresh, &digest, (seen.index, seen.since), |_| {
            let ids = fresh.as_array().into_iter().flatten().filter_map(payload::event_id);
            state.remember(ids.map(str::to_owned));
            State { kind: Some(Kind::Event), digest: Some(digest.clone()), index: Some(seen.index), ..state }
        })
    }

    fn level(&mut self, board: &Board, seen: &Observation, state: State) -> Result<Verdict, Error> {
        let kind = Some(self.spec.subject.kind());
        if state.digest.as_deref() == Some(seen.digest.as_str()) {
            self.quiet(board);
            return Ok(Verdict::Settled);
        }
        let mut payload = Arc::clone(&seen.payload);
        let mut digest = seen.digest.clone();
        let mut index = seen.index;
        let mut items = payload::items(kind, &payload);
        let shrunk = state.items.keys().any(|identity| !items.contains_key(identity));
        let contradicted = self.contradicted == Some(seen.version);
        if shrunk || contradicted || payload::is_nothing(&payload) {
            match self.spec.subject.confirm(&self.link.client()) {
                Ok(answer) => {
                    board.fine(CONFIRM);
                    digest = payload::digest(kind, &answer.value, &self.spec.fields);
                    items = payload::items(kind, &answer.value);
                    index = answer.meta.index;
                    payload = Arc::new(answer.value);
                }
                Err(error) => {
                    board.trouble(CONFIRM, &error);
                    if error.class() == Class::Denied {
                        self.link.renew();
                    }
                    return Ok(Verdict::Again(self.doubts.next_delay()));
                }
            }
        }
        if digest == seen.digest {
            self.quiet(board);
        } else {
            if !contradicted {
                self.note(format_args!("an answer that lacked things was old"));
            }
            self.contradicted = Some(seen.version);
        }
        let verdict = if state.digest.as_deref() == Some(digest.as_str()) {
            Verdict::Settled
        } else {
            self.execute(board, &payload, &digest.clone(), (index, seen.since), |spec| State {
                kind,
                digest: Some(digest),
                index: Some(index),
                subject: match &spec.subject {
                    Subject::Key(name) | Subject::Prefix(name) | Subject::Service { name, .. } => Some(name.clone()),
                    _ => None,
                },
                items,
                ..State::default()
            })?
        };
        match verdict {
            Verdict::Settled if self.contradicted.is_some() => Ok(Verdict::Again(self.doubts.next_delay())),
            other => Ok(other),
        }
    }

    /// Forgets doubts about what was on the board.
    fn quiet(&mut self, board: &Board) {
        board.fine(CONFIRM);
        self.contradicted = None;
        self.doubts.reset();
    }

    fn execute(
        &mut self,
        board: &Board,
        payload: &Value,
        digest: &str,
        (index, seen): (u64, SystemTime),
        success: impl FnOnce(&WatchSpec) -> State,
    ) -> Result<Verdict, Error> {
        let mut bytes = payload.to_string().into_bytes();
        bytes.push(b'\n');
        let cause = Cause {
            name: &self.spec.name,
            kind: Some(self.spec.subject.kind()),
            index: Some(index),
            digest,
            seen,
            payload: &bytes,
        };
        self.note(format_args!("changed{}, running {}", self.place(index), shown(&self.spec.run)));
        let began = Instant::now();
        let ending = command::run(&self.spec.run, &cause, self.spec.timeout, |pause| board.ending(pause))?;
        let failure = match ending {
            Ending::Code(exit::OK) => {
                self.failures.reset();
                self.ran(format_args!(
                    "changed{}, {} succeeded after {} ms",
                    self.place(index),
                    shown(&self.spec.run),
                    began.elapsed().as_millis()
                ));
                self.commit(success(&self.spec));
                return Ok(Verdict::Settled);
            }
            Ending::Stopped(_) => return Ok(Verdict::Stopped),
            Ending::Code(code) => format!("failed with code {code}"),
            Ending::TimedOut => format!("was ended after {}", toolkit::duration::format(self.spec.timeout)),
        };
        let pause = self.failures.next_delay();
        self.warn(format_args!("{} {failure}, trying again in {} ms", shown(&self.spec.run), pause.as_millis()));
        Ok(Verdict::Again(pause))
    }

    fn commit(&mut self, state: State) {
        match self.store.save(&self.spec.name, &state) {
            Ok(()) => self.unsaved = None,
            Err(error) => {
                if self.unsaved.is_none() {
                    self.warn(format_args!("after a restart the command will run once more: {}", exit::chain(&error)));
                }
                self.unsaved = Some(state);
            }
        }
    }

    fn warn(&self, text: std::fmt::Arguments<'_>) {
        let _ = self.say.send(Message::Warn(format!("{}: {text}", self.spec.name)));
    }

    /// Names the index of a change; that of an event is no place in a history.
    fn place(&self, index: u64) -> String {
        if self.spec.subject.kind() == Kind::Event { String::new() } else { format!(" (index {index})") }
    }

    fn ran(&self, text: std::fmt::Arguments<'_>) {
        let _ = self.say.send(Message::Ran(format!("{}: {text}", self.spec.name)));
    }

    fn note(&self, text: std::fmt::Arguments<'_>) {
        let _ = self.say.send(Message::Note(format!("{}: {text}", self.spec.name)));
    }
}

/// Names a command for people: the file name of its first word. Arguments are nobody's business in a log.
fn shown(argv: &[OsString]) -> String {
    let path = Path::new(&argv[0]);
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
