//! `watch`: many watches in one process.
//!
//! Each watch has one reader thread a query ([`crate::follow`]) and, while there is something to do, a runner thread; the
//! main thread prints what they say, obeys signals, and tells systemd how it is ([`crate::notify`]). SIGHUP reads the file again: watches that stayed the same go on untouched, a file that is
//! wrong changes nothing. SIGTERM and SIGINT end the commands with their process groups, then the process; readers that
//! hang in a query are not waited for.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use consul_client::Overrides;
use toolkit::io::Level;
use toolkit::signals::Notes;
use toolkit::{Io, exit};

use crate::Settings;
use crate::board::{Board, Common, Message};
use crate::command::GRACE;
use crate::config::{self, Config, WatchSpec};
use crate::error::Error;
use crate::follow::{self, Link, Watch};
use crate::notify::Notify;
use crate::replay::Recorder;
use crate::runner::Runner;
use crate::state::Store;

/// Follows the watches of a configuration file until a signal says that it is enough.
///
/// # Errors
/// The file, the settings of Consul, or the state directory cannot be used.
pub fn run(path: &Path, record: Option<&Path>, overrides: Overrides, io: &mut Io) -> Result<u8, Error> {
    one_arena();
    let notify = Notify::from_env().map_err(|source| Error::System { what: "reach NOTIFY_SOCKET", source })?;
    let config = config::load(path)?;
    let store = Store::from_env()?;
    let link = Arc::new(Link::new(Settings { file: config.consul.clone(), overrides: overrides.clone() })?);
    let notes = Notes::install().map_err(|source| Error::System { what: "handle signals", source })?;
    let (say, heard) = channel();
    let signals = say.clone();
    follow::spawn("signals".to_owned(), move || {
        loop {
            if notes.wait(Duration::from_secs(24 * 3600)) && signals.send(Message::Signal).is_err() {
                return;
            }
        }
    })
    .map_err(|source| Error::System { what: "start a thread", source })?;

    let common = Arc::new(Common::new(say.clone(), record.map(Recorder::open).transpose()?));
    let mut fleet = Fleet { config, overrides, link, store, say, common, running: Vec::new(), leaving: Vec::new() };
    fleet.start_missing()?;
    let followed = |fleet: &Fleet| format!("{} watches of {}", fleet.running.len(), path.display());
    io.note(followed(&fleet));
    notify.say(&format!("READY=1\nSTATUS={}", followed(&fleet)));
    let mut pulse = Pulse::new(notify.every());
    let mut hangups = 0;
    loop {
        let message = match pulse.left() {
            None => heard.recv().ok(),
            Some(left) => match heard.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) => {
                    pulse.beat(&notify, &fleet.common, io);
                    continue;
                }
                other => other.ok(),
            },
        };
        let message = message.expect("the fleet keeps a sender");
        if !matches!(message, Message::Signal) {
            print(message, io);
            continue;
        }
        if let Some(signal) = notes.termination() {
            notify.say("STOPPING=1");
            fleet.end(signal, &heard, io);
            return Ok(exit::OK);
        }
        if notes.hangups() != hangups {
            hangups = notes.hangups();
            notify.reloading();
            match fleet.reload(path) {
                Ok(()) => io.note(followed(&fleet)),
                Err(error) => io.error(format_args!("the old configuration stays: {}", exit::chain(&error))),
            }
            notify.say(&format!("READY=1\nSTATUS={}", followed(&fleet)));
        }
    }
}

/// Lets all threads share one heap: with one for each, forty that sleep hold what they used once. They hardly ever
/// want memory at the same time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn one_arena() {
    // SAFETY: no other thread has been started yet, which is all that mallopt(3) asks for.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other allocators have no heap a thread.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn one_arena() {}

/// When systemd is told next that the service lives.
struct Pulse {
    every: Option<Duration>,
    next: Instant,
    /// What was stuck when it was looked at last.
    stuck: Option<String>,
}

impl Pulse {
    fn new(every: Option<Duration>) -> Pulse {
        Pulse { every, next: Instant::now(), stuck: None }
    }

    fn left(&self) -> Option<Duration> {
        self.every.map(|_| self.next.saturating_duration_since(Instant::now()))
    }

    fn beat(&mut self, notify: &Notify, common: &Common, io: &mut Io) {
        self.next = Instant::now() + self.every.unwrap_or_default();
        let stuck = common.stuck();
        match &stuck {
            None => notify.say("WATCHDOG=1"),
            Some(name) if self.stuck.is_none() => {
                io.error(format_args!(
                    "{name}: it has not been heard of in time; the watchdog is not told that all is well"
                ));
            }
            Some(_) => {}
        }
        self.stuck = stuck;
    }
}

fn print(message: Message, io: &mut Io) {
    match message {
        Message::Warn(text) => io.warn(text),
        Message::Recovered(text) | Message::Ran(text) if io.level() >= Level::Normal => io.always(text),
        Message::Note(text) => io.note(text),
        Message::Recovered(_) | Message::Ran(_) | Message::Signal => {}
    }
}

struct Fleet {
    config: Config,
    overrides: Overrides,
    link: Arc<Link>,
    store: Store,
    say: Sender<Message>,
    common: Arc<Common>,
    running: Vec<Running>,
    /// Watches that are no longer wanted and whose command still runs.
    leaving: Vec<Running>,
}

struct Running {
    spec: WatchSpec,
    watch: Arc<Watch>,
}

impl Fleet {
    /// Starts what the configuration names and is not running.
    fn start_missing(&mut self) -> Result<(), Error> {
        for spec in &self.config.watches {
            if self.running.iter().any(|running| running.spec == *spec) {
                continue;
            }
            let board = Board::new(spec, Arc::clone(&self.common));
            let runner = Runner::new(spec.clone(), Arc::clone(&self.link), self.store.clone(), self.say.clone());
            let link = Arc::clone(&self.link);
            let watch = Watch::start(board, runner, link, self.config.max_wait, spec.subject.clone())
                .map_err(|source| Error::System { what: "start a thread", source })?;
            self.running.push(Running { spec: spec.clone(), watch });
        }
        Ok(())
    }

    fn reload(&mut self, path: &Path) -> Result<(), Error> {
        let config = config::load(path)?;
        let settings = Settings { file: config.consul.clone(), overrides: self.overrides.clone() };
        let link = Arc::new(Link::new(settings)?);
        let same_link = config.consul == self.config.consul && config.max_wait == self.config.max_wait;
        if !same_link {
            self.link = link;
        }
        self.leaving.retain(|running| running.watch.board.is_active());
        for running in std::mem::take(&mut self.running) {
            if same_link && config.watches.contains(&running.spec) {
                self.running.push(running);
            } else {
                running.watch.stop(None);
                self.leaving.push(running);
            }
        }
        self.config = config;
        self.start_missing()
    }

    /// Ends all commands and waits until they are gone.
    fn end(&mut self, signal: i32, heard: &Receiver<Message>, io: &mut Io) {
        let all: Vec<Running> = self.running.drain(..).chain(self.leaving.drain(..)).collect();
        for running in &all {
            running.watch.stop(Some(signal));
        }
        let deadline = Instant::now() + GRACE + Duration::from_secs(2);
        while all.iter().any(|running| running.watch.board.is_active()) && Instant::now() < deadline {
            match heard.recv_timeout(Duration::from_millis(5)) {
                Ok(message) => print(message, io),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}
