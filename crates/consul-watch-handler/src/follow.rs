//! Readers: threads that ask Consul with blocking queries and put what they see on the board of their watch.
//!
//! A reader never runs a command, so it is back at Consul at once and misses nothing while one runs. It
//! follows Consul's rules for indexes, asks at most ten times a second in the long run, and pauses up to 5 s after
//! an error. An error changes nothing on the board but the trouble that is shown. A query that ends early without news
//! was ended by a restored snapshot: what came with it is of the store that was left, so it is asked again at once.
//! One reader looks again after `max_wait` for all ([`crate::lookout`]).
//!
//! A watch of tagged services has one reader for the list of services and one for each service that carries the tag.
//! The alternative, one query on all checks, wakes every watcher for every check of the cluster;
//! queries for single services wake only for theirs and cost the servers least.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consul_client::{Class, Client, Line, LineEnd, MAX_WAIT, Query};
use serde_json::Value;
use toolkit::backoff::{Backoff, random_fraction};

use crate::Settings;
use crate::board::{Board, Message};
use crate::error::Error;
use crate::lookout::{Lookout, Place};
use crate::payload;
use crate::runner::Runner;
use crate::source::{self, Subject};

/// How long an answer may be overdue, beyond every limit of ours, before its reader counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Stack of a thread: address space, of which only what is used costs memory.
const STACK: usize = 512 << 10;

/// The connection to Consul that all threads share.
#[derive(Debug)]
pub(crate) struct Link {
    settings: Settings,
    client: Mutex<Client>,
    lookout: Lookout,
}

impl Link {
    pub(crate) fn new(settings: Settings) -> Result<Link, Error> {
        Ok(Link { client: Mutex::new(settings.client()?), settings, lookout: Lookout::default() })
    }

    pub(crate) fn client(&self) -> Client {
        self.client.lock().expect("no holder panics").clone()
    }

    /// Reads the settings' files again: the token may have been replaced.
    pub(crate) fn renew(&self) {
        if let Ok(client) = self.settings.client() {
            *self.client.lock().expect("no holder panics") = client;
        }
    }
}

/// A watch at work: its board, its readers, and the runner that a reader starts when there is something to do.
pub(crate) struct Watch {
    pub(crate) board: Board,
    link: Arc<Link>,
    max_wait: Duration,
    /// What ends the readers' waits.
    ends: Mutex<Vec<LineEnd>>,
    /// Held by the one runner thread there is at a time.
    runner: Mutex<Runner>,
}

impl Watch {
    /// Starts the readers of a watch.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn start(
        board: Board,
        runner: Runner,
        link: Arc<Link>,
        max_wait: Duration,
        subject: Subject,
    ) -> std::io::Result<Arc<Watch>> {
        let watch = Arc::new(Watch { board, link, max_wait, ends: Mutex::default(), runner: Mutex::new(runner) });
        let reader = Reader { subject: subject.clone(), part: String::new(), watch: Arc::clone(&watch) };
        spawn(format!("read:{}", watch.board.name()), move || match subject {
            Subject::Tagged { tag, passing } => follow_tagged(&reader, &tag, passing),
            _ => {
                let board = &reader.watch.board;
                reader.run(|| !board.is_stopped(), |payload, index| board.post(payload, index));
            }
        })?;
        Ok(watch)
    }

    /// Tells everybody to stop; a signal number ends the command too. Readers do not wait for their answers.
    pub(crate) fn stop(&self, signal: Option<i32>) {
        self.board.stop(signal);
        for end in self.ends.lock().expect("no holder panics").drain(..) {
            end.end();
        }
    }

    /// Starts the runner if there is something to do and it is not at work. Where no thread can be had, the next
    /// answer tries again.
    fn attend(self: &Arc<Watch>) {
        if !self.board.begin() {
            return;
        }
        let watch = Arc::clone(self);
        let started = spawn(format!("run:{}", self.board.name()), move || {
            watch.runner.lock().expect("no holder panics").run(&watch.board);
        });
        if let Err(error) = started {
            self.board.end();
            let text = format!("{}: cannot start a thread, trying again: {error}", self.board.name());
            self.board.common().tell(Message::Warn(text));
        }
    }
}

/// Starts a thread with a small stack.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(body)
}

fn follow_tagged(reader: &Reader, tag: &str, passing: bool) {
    let board = &reader.watch.board;
    reader.run(
        || !board.is_stopped(),
        |services, index| {
            let names = source::tagged(&services, tag);
            for (service, generation) in board.set_services(&names, index) {
                let start = || {
                    let member = Reader {
                        subject: source::instances_of(&service, tag, passing),
                        part: format!("service {service}"),
                        watch: Arc::clone(&reader.watch),
                    };
                    let service = service.clone();
                    spawn(format!("read:{service}"), move || {
                        let board = &member.watch.board;
                        member.run(
                            || board.wants(&service, generation),
                            |entries, index| {
                                board.set_member(&service, generation, source::instances(&entries), index);
                            },
                        );
                    })
                };
                while let Err(error) = start() {
                    let text = format!("{}: cannot follow {service}, trying again: {error}", board.name());
                    board.common().tell(Message::Warn(text));
                    if board.rest(Duration::from_secs(5)) {
                        return;
                    }
                }
            }
        },
    );
}

struct Reader {
    subject: Subject,
    part: String,
    watch: Arc<Watch>,
}

impl Reader {
    fn run(&self, go_on: impl Fn() -> bool, deliver: impl FnMut(Value, u64)) {
        self.ask(go_on, deliver);
        self.watch.board.at_rest(&self.part);
    }

    fn ask(&self, go_on: impl Fn() -> bool, mut deliver: impl FnMut(Value, u64)) {
        let Watch { board, link, .. } = &*self.watch;
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        let mut pace = Pace::new();
        let mut line = Line::new();
        self.watch.ends.lock().expect("no holder panics").push(line.end());
        let place = self.subject.has_index_of_store().then(|| link.lookout.join(line.end()));
        let mut index = 0;
        while go_on() {
            if line.take_cut() {
                index = 0;
            }
            let client = link.client();
            let is_relieved = client.stays_on_host() && place.as_ref().is_some_and(Place::is_relieved);
            let wait = self.wait(is_relieved);
            let query = if index == 0 { Query::new() } else { Query::blocking(index, wait) };
            board.promise(&self.part, wait * 2 + PATIENCE);
            let asked = Instant::now();
            match self.subject.read_on(&client, &mut line, &query) {
                Ok(answer) => {
                    if !go_on() {
                        return;
                    }
                    backoff.reset();
                    board.fine(&self.part);
                    if let Some(place) = &place {
                        place.saw(answer.meta.index);
                    }
                    let ended_early = place.is_some() && answer.meta.index == index && asked.elapsed() < wait;
                    index = if ended_early { 0 } else { self.subject.next_index(index, &answer.meta) };
                    match payload::check(self.subject.kind(), &answer.value) {
                        Ok(()) => deliver(answer.value, answer.meta.index),
                        // An answer of another shape is no answer; that it comes again is paced below.
                        Err(error) => {
                            board.common().tell(Message::Warn(format!("{}: {error}", board.name())));
                        }
                    }
                    self.watch.attend();
                    if board.rest(pace.pause()) {
                        return;
                    }
                }
                // Recalled: no trouble, but a reason to look.
                Err(_) if line.take_cut() => {
                    index = 0;
                    if board.rest(pace.pause()) {
                        return;
                    }
                }
                Err(error) => {
                    board.trouble(&self.part, &error);
                    if let Some(place) = &place {
                        place.in_trouble();
                    }
                    if error.class() == Class::Denied {
                        link.renew();
                    }
                    if board.rest(backoff.next_delay()) {
                        return;
                    }
                }
            }
        }
    }

    /// Consul adds up to a sixteenth of its own; some of ours spreads watches that started together.
    fn wait(&self, is_relieved: bool) -> Duration {
        let longest = if is_relieved { MAX_WAIT } else { self.watch.max_wait };
        longest.mul_f64((0.85 + 0.15 * random_fraction()) * 16.0 / 17.0)
    }
}

/// Lets twenty queries through at once and ten a second after that.
struct Pace {
    credit: f64,
    checked: Instant,
}

impl Pace {
    const BURST: f64 = 20.0;
    const PER_SECOND: f64 = 10.0;

    fn new() -> Pace {
        Pace { credit: Pace::BURST, checked: Instant::now() }
    }

    /// Returns how long to wait before the next query.
    fn pause(&mut self) -> Duration {
        let now = Instant::now();
        let earned = now.duration_since(self.checked).as_secs_f64() * Pace::PER_SECOND;
        self.checked = now;
        self.credit = (self.credit + earned).min(Pace::BURST) - 1.0;
        if self.credit >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.credit / Pace::PER_SECOND) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_paced() {
        let mut pace = Pace::new();
        let immediate = (0..20).filter(|_| pace.pause().is_zero()).count();
        assert!(immediate >= 19, "{immediate}");
        let owed: Duration = pace.pause() + pace.pause();
        assert!(owed > Duration::from_millis(100), "{owed:?}");
    }
}
