//! `serve`: the coprocess of Puppet's functions.
//!
//! One JSON object a line in, one a line out, in order. Every request has an `id`, which its answer
//! repeats, an `op`, and may have `options`, the options of a Consul level. An error is
//! `{"id": …, "error": {"code": 65|69|77, "message": …}}`; the process goes on. A `run` is a name that the
//! caller chooses: its requests see one state, read when it is first needed and kept until another run begins.
//! Besides that nothing is kept but connections, so the caller decides how old an answer may be.
//!
//! - `snapshot {options, run?, with?}` → `values` by key (typed), `errors` by key, `index`; `age` in seconds where it is
//!   a snapshot that was kept and Consul is away; `warnings` that belong into the run's log; `with` lists the
//!   options of levels that will be asked too, so that all are read at once
//! - `lookup {options, key, run?}` → `found`, `value`: computed keys
//! - `services {tag?, passing?, name?}` → `services`: name → list of `{id, node, address, port, tags, meta}`
//! - `leader {name}` → `leader`: null or `{node, address}`
//! - `version3 {run, settings, paths, key}` → `found`, `value`, and a `warning` when Consul is done without: the
//!   `consul` backend of version 3 files with its settings and interpolated paths. Without `key`: `paths`, for each
//!   path what is stored there: `{values}`, with a list `ask` of keys that have to be asked for one by one; `{ask: true}`
//!   where all have to, `{computed: true}` where those of the catalog have to; `{}` for a path that is skipped; null
//!   for all when Consul is done without
//! - `wait {key | service, passing?, timeout}` → `found`, `value`
//!
//! It ends when its input ends. A line longer than a megabyte is refused without being kept.

mod answer;
mod request;
mod wait;

use std::cell::RefCell;
use std::io::{BufRead, Read};
use std::os::fd::AsFd;
use std::rc::Rc;

use consul_client::Instances;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value as Json, json};
use toolkit::Io;
use toolkit::exit;

use crate::consul::{Access, Level, Levels, Need, Reader};
use crate::consul3::Consul3;
use crate::error::Error;
use crate::value::Hash;

use answer::{Fields, found_answer, instance, refusal, snapshot, stored, to_json};
use request::Request;
use wait::Target;

const LONGEST_LINE: u64 = 1 << 20;
/// Answers the requests on standard input until it ends.
///
/// # Errors
/// Input that cannot be read, output that cannot be written.
pub fn run(access: Access, io: &mut Io) -> Result<u8, Error> {
    let stdin = std::io::stdin();
    let gone = || {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    };
    answer_all(access, stdin.lock(), &gone, io)
}

/// Answers the requests of any input, as [`run`] does for standard input; `gone` tells whether nobody waits any more.
///
/// # Errors
/// Input that cannot be read, output that cannot be written.
pub fn answer_all(access: Access, mut input: impl BufRead, gone: &dyn Fn() -> bool, io: &mut Io) -> Result<u8, Error> {
    let server = Server { access: Rc::new(access), gone, last: RefCell::default(), version3: RefCell::default() };
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut input)
            .take(LONGEST_LINE + 1)
            .read_until(b'\n', &mut line)
            .map_err(|source| Error::Read { path: "standard input".into(), source })?;
        if length == 0 {
            return Ok(exit::OK);
        }
        let answer = if length as u64 > LONGEST_LINE {
            skip_line(&mut input)?;
            Err(refusal(&Json::Null, &Error::data(format!("the request is longer than {LONGEST_LINE} bytes"))))
        } else if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        } else {
            server.answer(&line)
        };
        match answer {
            Ok(Fields::Written(text)) => io.out(text),
            Ok(Fields::Made(answer)) => io.json(&answer),
            Err(refusal) => io.json(&refusal),
        }
        .map_err(Error::Write)?;
        io.flush().map_err(Error::Write)?;
    }
}

fn skip_line(input: &mut impl BufRead) -> Result<(), Error> {
    loop {
        let failed = |source| Error::Read { path: "standard input".into(), source };
        let buffer = input.fill_buf().map_err(failed)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let (used, done) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        input.consume(used);
        if done {
            return Ok(());
        }
    }
}

struct Server<'a> {
    access: Rc<Access>,
    /// Tells whether nobody will send or read any more.
    gone: &'a dyn Fn() -> bool,
    /// The last run and what it has read.
    last: RefCell<Option<(String, Rc<Levels>)>>,
    /// The last run of version 3 and its settings.
    version3: RefCell<Option<(String, Hash, Rc<Consul3>)>>,
}

impl Server<'_> {
    /// Returns the answer with its id, or the refusal.
    fn answer(&self, line: &[u8]) -> Result<Fields, Json> {
        let nameless = |message: String| refusal(&Json::Null, &Error::data(message));
        let fields = match serde_json::from_slice(line) {
            Ok(Json::Object(fields)) => fields,
            Ok(_) => return Err(nameless("the request is not a JSON object".to_owned())),
            Err(e) => return Err(nameless(format!("the request is not JSON: {e}"))),
        };
        let mut request = Request { fields };
        let Some(id) = request.fields.remove("id").filter(|id| id.is_number() || id.is_string()) else {
            return Err(nameless("field 'id' is missing".to_owned()));
        };
        match self.dispatch(&mut request) {
            Ok(Fields::Made(mut answer)) => {
                answer.insert("id".to_owned(), id);
                Ok(Fields::Made(answer))
            }
            Ok(Fields::Written(mut text)) => {
                text.push_str(&format!(",\"id\":{id}}}\n"));
                Ok(Fields::Written(text))
            }
            Err(error) => Err(refusal(&id, &error)),
        }
    }

    fn dispatch(&self, request: &mut Request) -> Result<Fields, Error> {
        let answer = match request.required("op")?.as_str() {
            "snapshot" => {
                let level = Level::from_options(&request.options()?)?;
                let (run, with) = (request.text("run")?, request.with()?);
                request.done()?;
                let levels = self.levels(run);
                with.iter().for_each(|level| levels.expect(level));
                return snapshot(&levels, &level).map(Fields::Written);
            }
            "lookup" => {
                let level = Level::of_service(&request.options()?)?;
                let (run, key) = (request.text("run")?, request.required("key")?);
                request.done()?;
                let found = self.levels(run).computed(&level)?.lookup(&key)?;
                found_answer(found.as_ref().map(to_json).transpose()?)
            }
            "services" => {
                let level = Level::of_service(&request.options()?)?;
                let (tag, name) = (request.text("tag")?, request.text("name")?);
                let passing = request.flag("passing", true)?;
                request.done()?;
                json!({"services": self.services(&level, tag, name, passing)?})
            }
            "leader" => {
                let level = Level::of_service(&request.options()?)?;
                let name = request.required("name")?;
                request.done()?;
                let leader = self.reader(&level)?.leader(&name, &level.query())?;
                json!({"leader": leader.map(|l| json!({"node": l.node, "address": l.address}))})
            }
            "version3" => {
                let run = request.required("run")?;
                let settings = request.hash("settings")?;
                let (paths, key) = (request.texts("paths")?, request.text("key")?);
                request.done()?;
                let backend = self.version3(run, settings)?;
                let Some(key) = key else {
                    let stored = stored(backend.stored(&paths)?.as_deref());
                    return Ok(Fields::Written(match backend.take_warning() {
                        Some(warning) => format!("{stored},\"warning\":{}", Json::String(warning)),
                        None => stored,
                    }));
                };
                let mut answer = found_answer(backend.lookup_at(&key, &paths)?.as_ref().map(to_json).transpose()?);
                if let Some(warning) = backend.take_warning() {
                    answer["warning"] = Json::String(warning);
                }
                answer
            }
            "wait" => {
                let level = Level::of_service(&request.options()?)?;
                let (key, service) = (request.text("key")?, request.text("service")?);
                let passing = request.flag("passing", true)?;
                let timeout = request.timeout()?;
                request.done()?;
                let target = match (key, service) {
                    (Some(key), None) => Target::Key(key),
                    (None, Some(name)) => Target::Service(name, passing),
                    _ => return Err(Error::data("one of the fields 'key' and 'service' must be given")),
                };
                found_answer(self.wait(&level, &target, timeout)?)
            }
            other => return Err(Error::data(format!("op '{other}' is not known"))),
        };
        match answer {
            Json::Object(answer) => Ok(Fields::Made(answer)),
            _ => Ok(Fields::Made(Map::new())),
        }
    }

    /// Returns the backend of a run; a new one when the run or its settings are not the last.
    fn version3(&self, run: String, settings: Hash) -> Result<Rc<Consul3>, Error> {
        if let Some((known, same, backend)) = &*self.version3.borrow()
            && *known == run
            && *same == settings
        {
            return Ok(Rc::clone(backend));
        }
        let backend = Rc::new(Consul3::new(&settings, &self.access)?);
        *self.version3.borrow_mut() = Some((run, settings, Rc::clone(&backend)));
        Ok(backend)
    }

    /// Returns the levels of a run; new ones when it is not the last one, or has no name.
    fn levels(&self, run: Option<String>) -> Rc<Levels> {
        if let (Some(run), Some((known, levels))) = (&run, &*self.last.borrow())
            && known == run
        {
            return Rc::clone(levels);
        }
        let levels = Rc::new(Levels::new(Rc::clone(&self.access)));
        if let Some(run) = run {
            *self.last.borrow_mut() = Some((run, Rc::clone(&levels)));
        }
        levels
    }

    /// Returns a reader that knows nothing yet.
    fn reader(&self, level: &Level) -> Result<Reader, Error> {
        self.access.client(&level.overrides).map(Reader::new)
    }

    fn services(
        &self,
        level: &Level,
        tag: Option<String>,
        name: Option<String>,
        passing: bool,
    ) -> Result<Map<String, Json>, Error> {
        let reader = self.reader(level)?;
        let query = level.query();
        reader.expect([Need::Nodes]);
        let mut all = reader.services(&query)?;
        all.retain(|service, tags| {
            name.as_ref().is_none_or(|name| name == service) && tag.as_ref().is_none_or(|tag| tags.contains(tag))
        });
        reader.expect(all.keys().map(|service| Need::Service(service.clone())));
        reader.may(&[Need::Nodes]).map_err(|source| reader.failed("cannot read the services", source))?;
        let which = Instances { passing, tags: tag.iter().cloned().collect() };
        let mut found = Map::new();
        for service in all.into_keys() {
            // The right to all services does not mean the right to each.
            let entries = reader
                .read(|client| client.health().service(&service, &which, &query))
                .and_then(|answer| reader.may_see(&service).map(|()| answer.value))
                .map_err(|source| reader.failed(format!("cannot read service {service}"), source))?;
            found.insert(service, entries.iter().map(instance).collect());
        }
        Ok(found)
    }
}
