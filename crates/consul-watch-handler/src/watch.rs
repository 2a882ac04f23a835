//! `watch`: many watches in one process.
//!
//! Each watch has a runner thread and one reader thread a query ([`crate::follow`]); the main thread prints what they
//! say and obeys signals. SIGHUP reads the file again: watches that stayed the same go on untouched, a file that is
//! wrong changes nothing. SIGTERM and SIGINT end the commands with their process groups, then the process; readers that
//! hang in a query are not waited for.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use consul_client::Overrides;
use toolkit::io::Level;
use toolkit::signals::Notes;
use toolkit::{Io, exit};

use crate::Settings;
use crate::command::GRACE;
use crate::config::{self, Config, WatchSpec};
use crate::error::Error;
use crate::follow::{self, Board, Common, Link, Message};
use crate::replay::Recorder;
use crate::runner::Runner;
use crate::state::Store;

/// Follows the watches of a configuration file until a signal says that it is enough.
///
/// # Errors
/// The file, the settings of Consul, or the state directory cannot be used.
pub fn run(path: &Path, record: Option<&Path>, overrides: Overrides, io: &mut Io) -> Result<u8, Error> {
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
    io.note(format_args!("{} watches of {}", fleet.running.len(), path.display()));
    let mut hangups = 0;
    for message in &heard {
        if !matches!(message, Message::Signal) {
            print(message, io);
            continue;
        }
        if let Some(signal) = notes.termination() {
            fleet.end(signal, &heard, io);
            return Ok(exit::OK);
        }
        if notes.hangups() != hangups {
            hangups = notes.hangups();
            match fleet.reload(path) {
                Ok(()) => io.note(format_args!("{} watches of {}", fleet.running.len(), path.display())),
                Err(error) => io.error(format_args!("the old configuration stays: {}", exit::chain(&error))),
            }
        }
    }
    unreachable!("the fleet keeps a sender")
}

fn print(message: Message, io: &mut Io) {
    match message {
        Message::Warn(text) => io.warn(text),
        Message::Recovered(text) if io.level() >= Level::Normal => io.always(text),
        Message::Note(text) => io.note(text),
        Message::Recovered(_) | Message::Signal => {}
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
    /// Runners of watches that are no longer wanted and whose command still runs.
    leaving: Vec<Running>,
}

struct Running {
    spec: WatchSpec,
    board: Arc<Board>,
    runner: JoinHandle<()>,
}

impl Fleet {
    /// Starts what the configuration names and is not running.
    fn start_missing(&mut self) -> Result<(), Error> {
        for spec in &self.config.watches {
            if self.running.iter().any(|running| running.spec == *spec) {
                continue;
            }
            let board = Arc::new(Board::new(spec, Arc::clone(&self.common)));
            let runner = Runner::new(
                spec.clone(),
                Arc::clone(&board),
                Arc::clone(&self.link),
                self.store.clone(),
                self.say.clone(),
            );
            let started = follow::spawn(format!("run:{}", spec.name), move || runner.run())
                .and_then(|runner| follow::start(spec, &board, &self.link, self.config.max_wait).map(|()| runner));
            match started {
                Ok(runner) => self.running.push(Running { spec: spec.clone(), board, runner }),
                Err(source) => {
                    board.stop(None);
                    return Err(Error::System { what: "start a thread", source });
                }
            }
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
        self.leaving.retain(|running| !running.runner.is_finished());
        for running in std::mem::take(&mut self.running) {
            if same_link && config.watches.contains(&running.spec) {
                self.running.push(running);
            } else {
                running.board.stop(None);
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
            running.board.stop(Some(signal));
        }
        let deadline = Instant::now() + GRACE + Duration::from_secs(2);
        while all.iter().any(|running| !running.runner.is_finished()) && Instant::now() < deadline {
            match heard.recv_timeout(Duration::from_millis(5)) {
                Ok(message) => print(message, io),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}
