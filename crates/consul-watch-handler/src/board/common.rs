//! What all watches of a process share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::replay::{Entry, Recorder};

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

    /// Promises that a part of a watch is heard of again within a time.
    pub(super) fn promise(&self, watch: &str, part: &str, within: Duration) {
        let mut promises = self.promises.lock().expect("no holder panics");
        promises.insert((watch.to_owned(), part.to_owned()), Instant::now() + within);
    }

    /// Takes the promise of a part back: it is at rest.
    pub(super) fn at_rest(&self, watch: &str, part: &str) {
        self.promises.lock().expect("no holder panics").remove(&(watch.to_owned(), part.to_owned()));
    }

    /// Notes that Consul does not answer; whether that is news to the process.
    pub(super) fn silent(&self, watch: &str, part: &str) -> bool {
        let mut silent = self.silent.lock().expect("no holder panics");
        let first = silent.is_empty();
        silent.insert((watch.to_owned(), part.to_owned()));
        first
    }

    /// Notes that Consul answers again, or is no longer asked; whether it now answers everybody.
    pub(super) fn answered(&self, watch: &str, part: &str) -> bool {
        let mut silent = self.silent.lock().expect("no holder panics");
        silent.remove(&(watch.to_owned(), part.to_owned())) && silent.is_empty()
    }

    pub(super) fn record(&self, entry: impl FnOnce() -> Entry) {
        let mut record = self.record.lock().expect("no holder panics");
        if let Some(recorder) = &*record
            && let Err(error) = recorder.add(&entry())
        {
            *record = None;
            self.tell(Message::Warn(format!("nothing more is recorded: {error}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_breaks_its_promise_is_named() {
        let common = Common::new(std::sync::mpsc::channel().0, None);
        common.promise("w", "", Duration::from_secs(60));
        common.promise("w", "service a", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(common.stuck().as_deref(), Some("w (service a)"));
        common.at_rest("w", "service a");
        assert_eq!(common.stuck(), None);
    }
}
