//! Readers: threads that ask Consul with blocking queries and put what they see on the board of their watch.
//!
//! A reader never runs a command, so it is back at Consul at once and misses nothing while one runs. It asks again
//! after `max_wait` even if nothing happened, because a restored snapshot wakes nobody. It
//! follows Consul's rules for indexes, asks at most ten times a second in the long run, and pauses up to 5 s after
//! an error. An error changes nothing on the board but the trouble that is shown.
//!
//! A watch of tagged services has one reader for the list of services and one for each service that carries the tag.
//! The alternative, one query on all checks, wakes every watcher for every check of the cluster;
//! queries for single services wake only for theirs and cost the servers least.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use consul_client::{Class, Client, Query};
use serde_json::{Map, Value};
use toolkit::backoff::{Backoff, random_fraction};
use toolkit::exit::chain;

use crate::Settings;
use crate::config::{Debounce, WatchSpec};
use crate::error::Error;
use crate::payload::{self, Kind};
use crate::replay::{Entry, Recorder};
use crate::source::{self, Subject};

/// Stack of a thread: address space, of which only what is used costs memory.
const STACK: usize = 512 << 10;
/// How many events a watch holds that its command has not succeeded with; more than Consul keeps.
const EVENTS: usize = 2048;

/// What threads tell the main thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something is wrong; whatever it is, we go on.
    Warn(String),
    /// Something that was wrong is right again.
    Recovered(String),
    /// What is going on.
    Note(String),
    /// A signal arrived.
    Signal,
}

/// The connection to Consul that all threads share.
#[derive(Debug)]
pub(crate) struct Link {
    settings: Settings,
    client: Mutex<Client>,
}

impl Link {
    pub(crate) fn new(settings: Settings) -> Result<Link, Error> {
        Ok(Link { client: Mutex::new(settings.client()?), settings })
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

/// What all boards of this process share: whom they tell, and what is told once for all of them.
#[derive(Debug)]
pub(crate) struct Common {
    say: Sender<Message>,
    record: Mutex<Option<Recorder>>,
    /// The parts of watches, by the watch's name and its own, that Consul does not answer.
    silent: Mutex<BTreeSet<(String, String)>>,
}

impl Common {
    pub(crate) fn new(say: Sender<Message>, record: Option<Recorder>) -> Common {
        Common { say, record: Mutex::new(record), silent: Mutex::new(BTreeSet::new()) }
    }

    fn tell(&self, message: Message) {
        let _ = self.say.send(message);
    }

    /// Notes that Consul does not answer; whether that is news to the process.
    fn silent(&self, watch: &str, part: &str) -> bool {
        let mut silent = self.silent.lock().expect("no holder panics");
        let first = silent.is_empty();
        silent.insert((watch.to_owned(), part.to_owned()));
        first
    }

    /// Notes that Consul answers again, or is no longer asked; whether it now answers everybody.
    fn answered(&self, watch: &str, part: &str) -> bool {
        let mut silent = self.silent.lock().expect("no holder panics");
        silent.remove(&(watch.to_owned(), part.to_owned())) && silent.is_empty()
    }

    fn record(&self, entry: impl FnOnce() -> Entry) {
        let mut record = self.record.lock().expect("no holder panics");
        if let Some(recorder) = &*record
            && let Err(error) = recorder.add(&entry())
        {
            *record = None;
            self.tell(Message::Warn(format!("nothing more is recorded: {error}")));
        }
    }
}

/// What was seen last.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub(crate) payload: Arc<Value>,
    pub(crate) digest: String,
    pub(crate) index: u64,
    /// Rises with each observation that differs from the one before.
    pub(crate) version: u64,
}

/// Why a wait came to an end.
#[derive(Debug)]
pub(crate) enum Due {
    Observed(Observation),
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// The watch is no longer wanted: what runs may end by itself.
    Leave,
    /// The process ends: so does what runs.
    Now(i32),
}

/// What keeps a part of a watch from being known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Consul does not answer, which concerns all watches alike.
    Outage,
    /// A matter of this watch: a right, or the answer itself.
    Own(Class),
}

impl Trouble {
    fn of(error: &consul_client::Error) -> Trouble {
        use consul_client::Error as E;
        match (error, error.class()) {
            (E::Unreachable { .. } | E::Timeout { .. } | E::NoLeader { .. } | E::Status { .. }, Class::Unavailable) => {
                Trouble::Outage
            }
            (_, class) => Trouble::Own(class),
        }
    }
}

/// What readers and the runner of one watch share.
#[derive(Debug)]
pub(crate) struct Board {
    name: String,
    kind: Kind,
    fields: Vec<String>,
    common: Arc<Common>,
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner {
    seen: Option<Observation>,
    handled: u64,
    first_change: Option<Instant>,
    last_change: Instant,
    members: BTreeMap<String, Member>,
    generation: u64,
    troubles: BTreeMap<String, Trouble>,
    stop: Stop,
}

#[derive(Debug)]
struct Member {
    generation: u64,
    value: Option<Value>,
}

impl Board {
    pub(crate) fn new(spec: &WatchSpec, common: Arc<Common>) -> Board {
        Board {
            name: spec.name.clone(),
            kind: spec.subject.kind(),
            fields: spec.fields.clone(),
            common,
            inner: Mutex::new(Inner {
                seen: None,
                handled: 0,
                first_change: None,
                last_change: Instant::now(),
                members: BTreeMap::new(),
                generation: 0,
                troubles: BTreeMap::new(),
                stop: Stop::No,
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    /// Puts an answer on the board; wakes the runner if it differs from the one before.
    fn post(&self, payload: Value, index: u64) {
        self.post_locked(&mut self.lock(), payload, index);
    }

    fn post_locked(&self, inner: &mut Inner, payload: Value, index: u64) {
        let events = (self.kind == Kind::Event).then(|| payload.clone());
        let payload = if self.kind == Kind::Event { joined(inner.seen.as_ref(), payload) } else { payload };
        let digest = payload::digest(Some(self.kind), &payload, &self.fields);
        let version = match &inner.seen {
            Some(seen) if seen.digest == digest => return,
            Some(seen) => seen.version + 1,
            None => 1,
        };
        match &events {
            Some(events) => self.record(events, &payload::digest(Some(self.kind), events, &[]), index),
            None => self.record(&payload, &digest, index),
        }
        inner.seen = Some(Observation { payload: Arc::new(payload), digest, index, version });
        inner.last_change = Instant::now();
        inner.first_change.get_or_insert(inner.last_change);
        self.wake.notify_all();
    }

    fn record(&self, payload: &Value, digest: &str, index: u64) {
        self.common.record(|| Entry {
            v: 1,
            name: self.name.clone(),
            kind: Some(self.kind),
            fields: self.fields.clone(),
            index: Some(index),
            digest: digest.to_owned(),
            payload: format!("{payload}\n"),
        });
    }

    /// Says which services carry the tag; returns those that need a reader, with the number it must show.
    fn set_services(&self, names: &[String], index: u64) -> Vec<(String, u64)> {
        let mut inner = self.lock();
        inner.members.retain(|name, _| names.contains(name));
        let stale = |part: &String| part.starts_with("service ") && !names.iter().any(|name| part[8..] == **name);
        let gone: Vec<String> = inner.troubles.keys().filter(|part| stale(part)).cloned().collect();
        for part in gone {
            self.fine_locked(&mut inner, &part);
        }
        let mut fresh = Vec::new();
        for name in names {
            if !inner.members.contains_key(name) {
                inner.generation += 1;
                let generation = inner.generation;
                inner.members.insert(name.clone(), Member { generation, value: None });
                fresh.push((name.clone(), generation));
            }
        }
        self.compose(&mut inner, index);
        fresh
    }

    fn set_member(&self, name: &str, generation: u64, value: Value, index: u64) {
        let mut inner = self.lock();
        match inner.members.get_mut(name) {
            Some(member) if member.generation == generation => member.value = Some(value),
            _ => return,
        }
        self.compose(&mut inner, index);
    }

    /// Posts the whole once every part of it is known.
    fn compose(&self, inner: &mut Inner, index: u64) {
        let whole: Option<Map<String, Value>> =
            inner.members.iter().map(|(name, member)| Some((name.clone(), member.value.clone()?))).collect();
        if let Some(whole) = whole {
            self.post_locked(inner, Value::Object(whole), index);
        }
    }

    fn wants(&self, name: &str, generation: u64) -> bool {
        let inner = self.lock();
        inner.stop == Stop::No && inner.members.get(name).is_some_and(|member| member.generation == generation)
    }

    /// Says loudly that a part of the watch is in trouble, unless the same is known of another part or of this one.
    pub(crate) fn trouble(&self, part: &str, error: &consul_client::Error) {
        let trouble = Trouble::of(error);
        let mut inner = self.lock();
        if inner.stop != Stop::No {
            return;
        }
        let before = inner.troubles.insert(part.to_owned(), trouble);
        if before == Some(Trouble::Outage) && trouble != Trouble::Outage {
            self.common.answered(&self.name, part);
        }
        let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        // That Consul does not answer concerns all watches alike: it is said once for the process.
        if trouble == Trouble::Outage {
            if self.common.silent(&self.name, part) {
                let text = format!("unknown, the last state stays for all watches: {}{hint}", chain(error));
                self.common.tell(Message::Warn(text));
            }
            return;
        }
        let known =
            inner.troubles.iter().any(|(other, known)| *known == trouble && (other != part || before == Some(trouble)));
        if !known {
            let text = format!("{}: unknown, the last state stays: {}{hint}", self.name, chain(error));
            self.common.tell(Message::Warn(text));
        }
    }

    /// Takes back the trouble of a part.
    pub(crate) fn fine(&self, part: &str) {
        self.fine_locked(&mut self.lock(), part);
    }

    fn fine_locked(&self, inner: &mut Inner, part: &str) {
        let others_are_silent_only = |inner: &Inner| inner.troubles.values().all(|trouble| *trouble == Trouble::Outage);
        let told = match inner.troubles.remove(part) {
            Some(Trouble::Outage) => self.common.answered(&self.name, part).then(|| "Consul answers again".to_owned()),
            Some(_) => others_are_silent_only(inner).then(|| format!("{}: Consul answers again", self.name)),
            None => None,
        };
        if let Some(text) = told {
            self.common.tell(Message::Recovered(text));
        }
    }

    /// Tells everybody at this board to stop; a signal number ends the command too.
    pub(crate) fn stop(&self, signal: Option<i32>) {
        let mut inner = self.lock();
        inner.stop = signal.map_or(Stop::Leave, Stop::Now);
        for part in std::mem::take(&mut inner.troubles).into_keys() {
            self.common.answered(&self.name, &part);
        }
        drop(inner);
        self.wake.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stop != Stop::No
    }

    /// Sleeps, but not beyond a stop; returns whether there is one.
    fn rest(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut inner = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if inner.stop != Stop::No {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            inner = self.wake.wait_timeout(inner, left).expect("no holder panics").0;
        }
    }

    /// Sleeps a little; returns the signal by which a running command must end, if it must.
    pub(crate) fn ending(&self, pause: Duration) -> Option<i32> {
        let mut inner = self.lock();
        if !matches!(inner.stop, Stop::Now(_)) {
            inner = self.wake.wait_timeout(inner, pause).expect("no holder panics").0;
        }
        match inner.stop {
            Stop::Now(signal) => Some(signal),
            _ => None,
        }
    }

    /// Waits until something new was seen and has settled, or until `retry_at` with what was seen last.
    pub(crate) fn due(&self, debounce: Debounce, retry_at: Option<Instant>) -> Due {
        let mut inner = self.lock();
        loop {
            if inner.stop != Stop::No {
                return Due::Stop;
            }
            let now = Instant::now();
            let fresh = inner.seen.as_ref().is_some_and(|seen| seen.version > inner.handled);
            let settled = inner
                .first_change
                .filter(|_| fresh)
                .map(|first| (inner.last_change + debounce.quiet).min(first + debounce.at_most));
            let due = match (settled, retry_at) {
                (Some(settled), Some(retry)) => Some(settled.min(retry)),
                (one, other) => one.or(other),
            };
            match (due, &inner.seen) {
                (Some(due), Some(seen)) if due <= now => {
                    let seen = seen.clone();
                    inner.handled = seen.version;
                    inner.first_change = None;
                    return Due::Observed(seen);
                }
                (Some(due), _) if due > now => {
                    inner = self.wake.wait_timeout(inner, due - now).expect("no holder panics").0;
                }
                _ => inner = self.wake.wait(inner).expect("no holder panics"),
            }
        }
    }
}

/// Adds new events behind those that were seen before.
fn joined(seen: Option<&Observation>, fresh: Value) -> Value {
    let Value::Array(fresh) = fresh else { return seen.map_or(Value::Null, |seen| (*seen.payload).clone()) };
    let mut all = match seen.map(|seen| &*seen.payload) {
        Some(Value::Array(before)) => before.clone(),
        _ => Vec::new(),
    };
    let known: std::collections::HashSet<String> =
        all.iter().filter_map(payload::event_id).map(str::to_owned).collect();
    all.extend(fresh.into_iter().filter(|event| payload::event_id(event).is_some_and(|id| !known.contains(id))));
    let surplus = all.len().saturating_sub(EVENTS);
    all.drain(..surplus);
    Value::Array(all)
}

/// Starts the readers of a watch.
///
/// # Errors
/// The system gives no more threads.
pub(crate) fn start(spec: &WatchSpec, board: &Arc<Board>, link: &Arc<Link>, max_wait: Duration) -> std::io::Result<()> {
    let reader = Reader {
        subject: spec.subject.clone(),
        part: String::new(),
        board: Arc::clone(board),
        link: Arc::clone(link),
        max_wait,
    };
    let subject = spec.subject.clone();
    spawn(format!("read:{}", spec.name), move || match subject {
        Subject::Tagged { tag, passing } => follow_tagged(&reader, &tag, passing),
        _ => {
            let board = Arc::clone(&reader.board);
            reader.run(|| !board.is_stopped(), |payload, index| board.post(payload, index));
        }
    })
    .map(drop)
}

/// Starts a thread with a small stack.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(body)
}

fn follow_tagged(reader: &Reader, tag: &str, passing: bool) {
    let board = &reader.board;
    reader.run(
        || !board.is_stopped(),
        |services, index| {
            let names = source::tagged(&services, tag);
            for (service, generation) in board.set_services(&names, index) {
                let start = || {
                    let member = Reader {
                        subject: source::instances_of(&service, tag, passing),
                        part: format!("service {service}"),
                        board: Arc::clone(board),
                        link: Arc::clone(&reader.link),
                        max_wait: reader.max_wait,
                    };
                    let service = service.clone();
                    spawn(format!("read:{service}"), move || {
                        let board = Arc::clone(&member.board);
                        member.run(
                            || board.wants(&service, generation),
                            |entries, index| {
                                board.set_member(&service, generation, source::instances(&entries), index);
                            },
                        );
                    })
                };
                while let Err(error) = start() {
                    let text = format!("{}: cannot follow {service}, trying again: {error}", board.name);
                    board.common.tell(Message::Warn(text));
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
    board: Arc<Board>,
    link: Arc<Link>,
    max_wait: Duration,
}

impl Reader {
    fn run(&self, go_on: impl Fn() -> bool, mut deliver: impl FnMut(Value, u64)) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        let mut pace = Pace::new();
        let mut index = 0;
        while go_on() {
            let query = if index == 0 { Query::new() } else { Query::blocking(index, self.wait()) };
            match self.subject.read(&self.link.client(), &query) {
                Ok(answer) => {
                    if !go_on() {
                        return;
                    }
                    backoff.reset();
                    self.board.fine(&self.part);
                    index = self.subject.next_index(index, &answer.meta);
                    match payload::check(self.subject.kind(), &answer.value) {
                        Ok(()) => deliver(answer.value, answer.meta.index),
                        // An answer of another shape is no answer; that it comes again is paced below.
                        Err(error) => {
                            self.board.common.tell(Message::Warn(format!("{}: {error}", self.board.name)));
                        }
                    }
                    if self.board.rest(pace.pause()) {
                        return;
                    }
                }
                Err(error) => {
                    self.board.trouble(&self.part, &error);
                    if error.class() == Class::Denied {
                        self.link.renew();
                    }
                    if self.board.rest(backoff.next_delay()) {
                        return;
                    }
                }
            }
        }
    }

    /// Consul adds up to a sixteenth of its own; some of ours spreads watches that started together.
    fn wait(&self) -> Duration {
        self.max_wait.mul_f64((0.85 + 0.15 * random_fraction()) * 16.0 / 17.0)
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
    use serde_json::json;
    use std::sync::mpsc::{Receiver, channel};

    fn board(subject: Subject) -> (Arc<Board>, Receiver<Message>) {
        let spec = WatchSpec {
            name: "w".into(),
            subject,
            fields: Vec::new(),
            debounce: Debounce::default(),
            timeout: Duration::from_secs(1),
            run: vec!["true".into()],
        };
        let (say, heard) = channel();
        (Arc::new(Board::new(&spec, Arc::new(Common::new(say, None)))), heard)
    }

    const AT_ONCE: Debounce = Debounce { quiet: Duration::ZERO, at_most: Duration::ZERO };

    fn seen(board: &Board) -> Value {
        match board.due(AT_ONCE, Some(Instant::now())) {
            Due::Observed(seen) => (*seen.payload).clone(),
            Due::Stop => panic!("nobody stopped it"),
        }
    }

    #[test]
    fn tagged_services_are_posted_only_when_all_are_known() {
        let (board, _heard) = board(Subject::Tagged { tag: "t".into(), passing: true });
        let fresh = board.set_services(&["a".into(), "b".into()], 1);
        board.set_member("a", fresh[0].1, json!([1]), 2);
        assert!(board.lock().seen.is_none());
        board.set_member("b", fresh[1].1, json!([]), 3);
        assert_eq!(seen(&board), json!({"a": [1], "b": []}));
        assert!(board.set_services(&["a".into()], 4).is_empty());
        assert_eq!(seen(&board), json!({"a": [1]}));
        assert!(!board.wants("b", fresh[1].1));
        let again = board.set_services(&["a".into(), "b".into()], 5);
        board.set_member("b", fresh[1].1, json!(["old"]), 6);
        assert_eq!(seen(&board), json!({"a": [1]}), "a reader of before is not listened to");
        board.set_member("b", again[0].1, json!(["new"]), 7);
        assert_eq!(seen(&board), json!({"a": [1], "b": ["new"]}));
    }

    #[test]
    fn changes_are_gathered_but_not_for_ever() {
        let (board, _heard) = board(Subject::Nodes);
        let debounce = Debounce { quiet: Duration::from_millis(80), at_most: Duration::from_millis(300) };
        let writer = Arc::clone(&board);
        let start = Instant::now();
        let writing = std::thread::spawn(move || {
            for number in 0..50 {
                writer.post(json!([{"Node": number}]), number);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let mut runs = 0;
        loop {
            let Due::Observed(last) = board.due(debounce, None) else { panic!("nobody stopped it") };
            runs += 1;
            if *last.payload == json!([{"Node": 49}]) {
                break;
            }
        }
        writing.join().expect("no panic");
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert!((2..=4).contains(&runs), "{runs}");
    }

    #[test]
    fn events_pile_up_once_each() {
        let (board, _heard) = board(Subject::Event { name: None });
        let event = |id: &str| json!({"ID": id, "Name": "deploy"});
        board.post(json!([event("1"), event("2")]), 9);
        board.post(json!([event("2"), event("3")]), 5);
        board.post(json!([]), 1);
        assert_eq!(seen(&board), json!([event("1"), event("2"), event("3")]));
    }

    #[test]
    fn trouble_is_told_once_and_so_is_its_end() {
        let (board, heard) = board(Subject::Nodes);
        let denied = || consul_client::Error::Denied { what: "x".into(), detail: "y".into() };
        for part in ["", "service a", ""] {
            board.trouble(part, &denied());
        }
        board.fine("");
        board.fine("service a");
        board.fine("");
        let told: Vec<Message> = heard.try_iter().collect();
        assert!(matches!(told.as_slice(), [Message::Warn(_), Message::Recovered(_)]), "{told:?}");
    }

    #[test]
    fn an_outage_is_told_once_for_all_watches() {
        let (say, heard) = channel();
        let common = Arc::new(Common::new(say, None));
        let named = |name: &str| WatchSpec {
            name: name.into(),
            subject: Subject::Nodes,
            fields: Vec::new(),
            debounce: Debounce::default(),
            timeout: Duration::from_secs(1),
            run: vec!["true".into()],
        };
        let boards: Vec<Board> = ["a", "b", "c"].map(|name| Board::new(&named(name), Arc::clone(&common))).into();
        let down = || consul_client::Error::NoLeader { address: "x".into(), request: "y".into(), detail: "z".into() };
        for board in boards.iter().chain(&boards) {
            board.trouble("", &down());
        }
        boards[2].stop(None);
        boards[0].fine("");
        // One of them may not see what it asks for: that is its own matter.
        boards[1].trouble("", &consul_client::Error::Denied { what: "x".into(), detail: "y".into() });
        boards[0].trouble("", &down());
        boards[0].fine("");
        boards[1].fine("");
        let told: Vec<String> = heard.try_iter().map(|message| format!("{message:?}")).collect();
        assert_eq!(told.len(), 5, "{told:#?}");
        assert!(told[0].starts_with("Warn(\"unknown, the last state stays for all watches"), "{told:#?}");
        assert!(told[1].starts_with("Warn(\"b: unknown"), "{told:#?}");
        assert!(told[2].contains("for all watches") && told[3] == "Recovered(\"Consul answers again\")", "{told:#?}");
        assert_eq!(told[4], "Recovered(\"b: Consul answers again\")");
    }

    #[test]
    fn queries_are_paced() {
        let mut pace = Pace::new();
        let immediate = (0..20).filter(|_| pace.pause().is_zero()).count();
        assert!(immediate >= 19, "{immediate}");
        let owed: Duration = pace.pause() + pace.pause();
        assert!(owed > Duration::from_millis(100), "{owed:?}");
    }
}
