//! Boards: what was seen of each watch last, and how long it waits before something is done about it.
//!
//! Readers post, and start the runner of their watch when there is something new ([`Board::begin`]); the runner takes
//! what has settled ([`Board::due`]), and its thread ends when there is no more. An error changes nothing on
//! the board but the trouble that is shown.

mod common;
mod members;
mod trouble;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::config::{Debounce, WatchSpec};
use crate::payload::{self, Kind};
use crate::replay::Entry;

pub(crate) use common::{Common, Message};
use members::Members;
use trouble::Troubles;

/// How many events a watch holds that its command has not succeeded with; more than Consul keeps.
const EVENTS: usize = 2048;

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
    members: Members,
    troubles: Troubles,
    stop: Stop,
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
                members: Members::default(),
                troubles: Troubles::default(),
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
        let stale = |part: &str| part.strip_prefix("service ").is_some_and(|name| !names.iter().any(|n| n == name));
        for part in inner.troubles.parts(stale) {
            inner.troubles.end(&self.common, &self.name, &part);
        }
        let fresh = inner.members.set(names);
        self.compose(&mut inner, index);
        fresh
    }

    pub(crate) fn set_member(&self, name: &str, generation: u64, value: Value, index: u64) {
        let mut inner = self.lock();
        if inner.members.know(name, generation, value) {
            self.compose(&mut inner, index);
        }
    }

    /// Posts the whole once every part of it is known.
    fn compose(&self, inner: &mut Inner, index: u64) {
        if let Some(whole) = inner.members.whole() {
            self.post_locked(inner, whole, index);
        }
    }

    pub(crate) fn wants(&self, name: &str, generation: u64) -> bool {
        let inner = self.lock();
        inner.stop == Stop::No && inner.members.has(name, generation)
    }

    /// Says loudly that a part of the watch is in trouble, unless the same is known of another part or of this one.
    pub(crate) fn trouble(&self, part: &str, error: &consul_client::Error) {
        let mut inner = self.lock();
        if inner.stop == Stop::No {
            inner.troubles.begin(&self.common, &self.name, part, error);
        }
    }

    /// Takes back the trouble of a part.
    pub(crate) fn fine(&self, part: &str) {
        self.lock().troubles.end(&self.common, &self.name, part);
    }

    /// Tells everybody at this board to stop; a signal number ends the command too.
    pub(crate) fn stop(&self, signal: Option<i32>) {
        let mut inner = self.lock();
        inner.stop = signal.map_or(Stop::Leave, Stop::Now);
        inner.troubles.drop_all(&self.common, &self.name);
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
        self.common.promise(&self.name, part, within);
    }

    /// Takes the promise of a part back: it is at rest.
    pub(crate) fn at_rest(&self, part: &str) {
        self.common.at_rest(&self.name, part);
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
    fn events_pile_up_once_each() {
        let (board, _heard) = board(Subject::Event { name: None });
        let event = |id: &str| json!({"ID": id, "Name": "deploy"});
        board.post(json!([event("1"), event("2")]), 9);
        board.post(json!([event("2"), event("3")]), 5);
        board.post(json!([]), 1);
        assert_eq!(seen(&board), json!([event("1"), event("2"), event("3")]));
    }
}
