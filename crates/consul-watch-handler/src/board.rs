//! Boards: what was seen of each watch last, and how long it waits before something is done about it.
//!
//! Readers post, and start the runner of their watch when there is something new ([`Board::begin`]); the runner takes
//! what has settled ([`Board::due`]), and its thread ends when there is no more. An error changes nothing on
//! the board but the trouble that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use consul_client::Class;
use serde_json::{Map, Value};
use toolkit::exit::chain;

use crate::config::{Debounce, WatchSpec};
use crate::payload::{self, Kind};
use crate::replay::{Entry, Recorder};

/// How many events a watch holds that its command has not succeeded with; more than Consul keeps.
const EVENTS: usize = 2048;

/// What threads tell the main thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something is wrong; whatever it is, we go on.
    Warn(String),
    /// Something that was wrong is right again.
    Recovered(String),
    /// What was run and how it ended.
    Ran(String),
    /// What is going on.
    Note(String),
    /// A signal arrived.
    Signal,
}

/// What all boards of this process share: whom they tell, and what is told once for all of them.
#[derive(Debug)]
pub(crate) struct Common {
    say: Sender<Message>,
    record: Mutex<Option<Recorder>>,
    /// The parts of watches, by the watch's name and its own, that Consul does not answer.
    silent: Mutex<BTreeSet<(String, String)>>,
    /// By when each part of a watch that is at work has promised to be heard of again.
    promises: Mutex<BTreeMap<(String, String), Instant>>,
}

impl Common {
    pub(crate) fn new(say: Sender<Message>, record: Option<Recorder>) -> Common {
        Common { say, record: Mutex::new(record), silent: Mutex::default(), promises: Mutex::default() }
    }

    pub(crate) fn tell(&self, message: Message) {
        let _ = self.say.send(message);
    }

    /// Returns a part of a watch that has not been heard of when it should have been.
    pub(crate) fn stuck(&self) -> Option<String> {
        let now = Instant::now();
        let promises = self.promises.lock().expect("no holder panics");
        let ((watch, part), _) = promises.iter().find(|(_, by)| **by < now)?;
        Some(if part.is_empty() { watch.clone() } else { format!("{watch} ({part})") })
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
    /// When the first change came that nothing was done about yet.
    pub(crate) since: SystemTime,
    /// Rises with each observation that differs from the one before.
    pub(crate) version: u64,
}

/// Why a wait came to an end.
#[derive(Debug)]
pub(crate) enum Due {
    Observed(Observation),
    /// There is nothing to do; whoever posts next starts a runner.
    Idle,
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
    /// Whether a runner is at work.
    active: bool,
    /// When something was last taken from the board.
    taken: Option<Instant>,
    first_change: Option<(Instant, SystemTime)>,
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
                active: false,
                taken: None,
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
    pub(crate) fn post(&self, payload: Value, index: u64) {
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
        inner.last_change = Instant::now();
        let now = (inner.last_change, SystemTime::now());
        let (_, since) = *inner.first_change.get_or_insert(now);
        inner.seen = Some(Observation { payload: Arc::new(payload), digest, index, since, version });
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
    pub(crate) fn set_services(&self, names: &[String], index: u64) -> Vec<(String, u64)> {
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

    pub(crate) fn set_member(&self, name: &str, generation: u64, value: Value, index: u64) {
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

    pub(crate) fn wants(&self, name: &str, generation: u64) -> bool {
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
    pub(crate) fn rest(&self, pause: Duration) -> bool {
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

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    /// Promises that a part of the watch is heard of again within a time.
    pub(crate) fn promise(&self, part: &str, within: Duration) {
        let mut promises = self.common.promises.lock().expect("no holder panics");
        promises.insert((self.name.clone(), part.to_owned()), Instant::now() + within);
    }

    /// Takes the promise of a part back: it is at rest.
    pub(crate) fn at_rest(&self, part: &str) {
        self.common.promises.lock().expect("no holder panics").remove(&(self.name.clone(), part.to_owned()));
    }

    /// Whether there is something to do and nobody at work; if so, the caller has to start a runner.
    pub(crate) fn begin(&self) -> bool {
        let mut inner = self.lock();
        let due = inner.stop == Stop::No && inner.seen.as_ref().is_some_and(|seen| seen.version > inner.handled);
        due && !std::mem::replace(&mut inner.active, true)
    }

    /// Says that the runner that [`Board::begin`] asked for is not at work, or no longer.
    pub(crate) fn end(&self) {
        self.lock().active = false;
    }

    pub(crate) fn is_active(&self) -> bool {
        self.lock().active
    }

    /// Waits until something new was seen and has settled, or until `retry_at` with what was seen last. Without
    /// either, the runner's work is over.
    pub(crate) fn due(&self, debounce: Debounce, retry_at: Option<Instant>) -> Due {
        let mut inner = self.lock();
        loop {
            if inner.stop != Stop::No {
                return Due::Stop;
            }
            let now = Instant::now();
            let fresh = inner.seen.as_ref().is_some_and(|seen| seen.version > inner.handled);
            let settled = inner.first_change.filter(|_| fresh).map(|(first, _)| {
                let calm = inner.taken.is_none_or(|taken| first >= taken + debounce.quiet);
                if debounce.at_once && calm {
                    first
                } else {
                    (inner.last_change + debounce.quiet).min(first + debounce.at_most)
                }
            });
            let due = match (settled, retry_at) {
                (Some(settled), Some(retry)) => Some(settled.min(retry)),
                (one, other) => one.or(other),
            };
            match (due, &inner.seen) {
                (Some(due), Some(seen)) if due <= now => {
                    let seen = seen.clone();
                    inner.handled = seen.version;
                    inner.first_change = None;
                    inner.taken = Some(now);
                    return Due::Observed(seen);
                }
                (Some(due), _) if due > now => {
                    inner = self.wake.wait_timeout(inner, due - now).expect("no holder panics").0;
                }
                _ => {
                    inner.active = false;
                    return Due::Idle;
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Subject;
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

    const AT_ONCE: Debounce = Debounce { quiet: Duration::ZERO, at_most: Duration::ZERO, at_once: false };

    fn seen(board: &Board) -> Value {
        match board.due(AT_ONCE, Some(Instant::now())) {
            Due::Observed(seen) => (*seen.payload).clone(),
            other => panic!("there is something: {other:?}"),
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
        let debounce =
            Debounce { quiet: Duration::from_millis(80), at_most: Duration::from_millis(300), at_once: false };
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
            let last = match board.due(debounce, None) {
                Due::Observed(last) => last,
                Due::Idle => continue,
                Due::Stop => panic!("nobody stopped it"),
            };
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
    fn the_first_change_after_a_quiet_while_does_not_wait() {
        let (board, _heard) = board(Subject::Nodes);
        let debounce = Debounce { quiet: Duration::from_millis(200), at_most: Duration::from_secs(20), at_once: true };
        board.post(json!([{"Node": 1}]), 1);
        assert!(board.begin() && !board.begin(), "one runner");
        let start = Instant::now();
        assert!(matches!(board.due(debounce, None), Due::Observed(seen) if seen.version == 1));
        assert!(start.elapsed() < debounce.quiet);
        board.post(json!([{"Node": 2}]), 2);
        assert!(matches!(board.due(debounce, None), Due::Observed(seen) if seen.version == 2));
        assert!(start.elapsed() >= debounce.quiet, "what follows is gathered");
        assert!(matches!(board.due(debounce, None), Due::Idle));
        assert!(!board.is_active() && !board.begin());
        board.post(json!([{"Node": 3}]), 3);
        assert!(board.begin());
    }

    #[test]
    fn a_part_that_breaks_its_promise_is_named() {
        let (board, _heard) = board(Subject::Nodes);
        board.promise("", Duration::from_secs(60));
        board.promise("service a", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(board.common().stuck().as_deref(), Some("w (service a)"));
        board.at_rest("service a");
        assert_eq!(board.common().stuck(), None);
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
}
