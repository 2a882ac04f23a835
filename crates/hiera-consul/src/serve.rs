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

use std::cell::RefCell;
use std::io::{BufRead, Read};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use consul_client::{Class, Instances, Query, ServiceEntry};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value as Json, json};
use toolkit::exit::{self, Failure};
use toolkit::{Io, backoff::Backoff};

use crate::consul::{Access, Level, Levels, Need, Reader, Values};
use crate::consul3::{Consul3, Stored};
use crate::error::Error;
use crate::value::{Hash, Value, push_json_string};

const LONGEST_LINE: u64 = 1 << 20;
/// One blocking query. Between two of them it is noticed that the caller has gone.
const ONE_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

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

fn refusal(id: &Json, error: &Error) -> Json {
    let mut body = json!({"code": error.exit_code(), "message": exit::chain(error)});
    if let Some(hint) = error.hint() {
        body["hint"] = Json::String(hint);
    }
    json!({"id": id, "error": body})
}

fn to_json(value: &Value) -> Result<Json, Error> {
    value.to_json().and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(no_json)
}

fn no_json() -> Error {
    Error::data("the value holds a number that JSON cannot express")
}

/// The fields of an answer.
enum Fields {
    Made(Map<String, Json>),
    /// A line of JSON, as far as its last field; for answers with many values.
    Written(String),
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

/// A request, its fields taken one by one so that an unknown one is noticed.
struct Request {
    fields: Map<String, Json>,
}

impl Request {
    fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.fields.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(Error::data(format!("field '{name}' must be a string that is not empty"))),
        }
    }

    fn required(&mut self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| Error::data(format!("field '{name}' is missing")))
    }

    fn flag(&mut self, name: &str, missing: bool) -> Result<bool, Error> {
        match self.fields.remove(name) {
            None | Some(Json::Null) => Ok(missing),
            Some(Json::Bool(on)) => Ok(on),
            Some(_) => Err(Error::data(format!("field '{name}' must be true or false"))),
        }
    }

    /// The timeout: seconds, or a text such as `2m`.
    fn timeout(&mut self) -> Result<Duration, Error> {
        let bad = || Error::data("field 'timeout' must be seconds or a text such as \"2m\", at most a day");
        let timeout = match self.fields.remove("timeout") {
            Some(Json::Number(n)) => n.as_f64().and_then(|n| Duration::try_from_secs_f64(n).ok()).ok_or_else(bad)?,
            Some(Json::String(text)) => toolkit::duration::parse(&text).map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        if timeout > LONGEST_WAIT { Err(bad()) } else { Ok(timeout) }
    }

    /// The options of a level.
    fn options(&mut self) -> Result<Hash, Error> {
        self.hash("options")
    }

    fn hash(&mut self, name: &str) -> Result<Hash, Error> {
        match self.fields.remove(name).map(Value::from_json) {
            None | Some(Value::Null) => Ok(Hash::new()),
            Some(Value::Hash(hash)) => Ok(hash),
            Some(_) => Err(Error::data(format!("field '{name}' must be an object"))),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let bad = || Error::data(format!("field '{name}' must be a list of strings"));
        match self.fields.remove(name) {
            Some(Json::Array(list)) => {
                list.into_iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(bad)).collect()
            }
            _ => Err(bad()),
        }
    }

    /// The options of levels that will be asked too. They are a hint: what is wrong with one is said when
    /// it is asked.
    fn with(&mut self) -> Result<Vec<Level>, Error> {
        match self.fields.remove("with") {
            None | Some(Json::Null) => Ok(Vec::new()),
            Some(Json::Array(list)) => Ok(list
                .into_iter()
                .filter_map(|options| match Value::from_json(options) {
                    Value::Hash(options) => Level::from_options(&options).ok(),
                    _ => None,
                })
                .collect()),
            Some(_) => Err(Error::data("field 'with' must be a list")),
        }
    }

    fn done(&self) -> Result<(), Error> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::data(format!("field '{name}' is not known to this request"))),
        }
    }
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

    /// Waits until the target is there; `None` when the time is over.
    fn wait(&self, level: &Level, target: &Target, timeout: Duration) -> Result<Option<Json>, Error> {
        let reader = self.reader(level)?;
        let failed = |error| reader.failed(format!("cannot wait for {target}"), error);
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut index = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let query =
                Query::blocking(index, left.min(ONE_WAIT).max(Duration::from_millis(1))).consistency(level.consistency);
            let asked = Instant::now();
            let answer = match target {
                Target::Key(key) => reader.client().kv().get(key, &query).map(|answer| {
                    answer.map(|pair| pair.map(|p| Json::String(String::from_utf8_lossy(&p.value).into_owned())))
                }),
                Target::Service(name, passing) => {
                    let which = Instances { passing: *passing, tags: Vec::new() };
                    // An empty list is worth waiting on only when it is no refusal.
                    reader
                        .read(|client| client.health().service(name, &which, &query))
                        .and_then(|answer| reader.may_see(name).map(|()| answer))
                        .map(|answer| {
                            answer.map(|entries| (!entries.is_empty()).then(|| entries.iter().map(instance).collect()))
                        })
                }
            };
            let failure = match answer {
                Ok(answer) => {
                    if answer.value.is_some() {
                        return Ok(answer.value);
                    }
                    let next = consul_client::next_index(index, answer.meta.index);
                    // An answer that came at once and brought nothing must not make a hot loop.
                    let idle = index == 0 || asked.elapsed() > Duration::from_millis(100);
                    index = next;
                    if idle {
                        backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
                        None
                    } else {
                        Some(None)
                    }
                }
                // Consul may be away for a while; that is part of what is waited for.
                Err(error) if error.class() == Class::Unavailable => {
                    index = 0;
                    Some(Some(error))
                }
                Err(error) => return Err(failed(error)),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (self.gone)() {
                return match failure.flatten() {
                    Some(error) => Err(failed(error)),
                    None => Ok(None),
                };
            }
            if failure.is_some() {
                std::thread::sleep(backoff.next_delay().min(left));
            }
        }
    }
}

/// Begins a member of a JSON object that has others before it, unless it is the first.
fn member(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    push_json_string(out, name);
    out.push(':');
}

/// What is stored at the paths of version 3: text, as the original reads it.
fn stored(paths: Option<&[Stored]>) -> String {
    let Some(paths) = paths else { return "{\"paths\":null".to_owned() };
    let mut out = String::from("{\"paths\":[");
    for (at, stored) in paths.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        match stored {
            Stored::Nothing => out.push_str("{}"),
            Stored::Asked(true) => out.push_str("{\"computed\":true}"),
            Stored::Asked(false) => out.push_str("{\"ask\":true}"),
            Stored::Values(snapshot) => {
                let mut ask = Vec::new();
                out.push_str("{\"values\":{");
                for (key, bytes) in snapshot.iter() {
                    match std::str::from_utf8(bytes) {
                        Ok(text) => {
                            member(&mut out, key);
                            push_json_string(&mut out, text);
                        }
                        Err(_) => ask.push(key),
                    }
                }
                out.push_str(&format!("}},\"ask\":{}}}", json!(ask)));
            }
        }
    }
    out.push(']');
    out
}

/// Reads a level, with all that is announced, and types its values.
fn snapshot(levels: &Levels, level: &Level) -> Result<String, Error> {
    let snapshot = levels.snapshot(level)?;
    let mut errors = Map::new();
    let mut out = String::from("{\"values\":{");
    Values::default().each(level, &snapshot, |key, name, value| {
        let before = out.len();
        let written = value.and_then(|value| {
            if value.is_encrypted() {
                return Err(Error::Encrypted(format!("Consul key {}", name())));
            }
            member(&mut out, key);
            value.write_json(&mut out).ok_or_else(no_json)
        });
        if let Err(error) = written {
            out.truncate(before);
            errors.insert(key.to_owned(), Json::String(exit::chain(&error)));
        }
    })?;
    let origin = snapshot.origin();
    out.push_str(&format!("}},\"errors\":{},\"index\":{}", Json::Object(errors), origin.index));
    if let Some(age) = origin.kept {
        out.push_str(&format!(",\"age\":{}", age.as_secs()));
    }
    let warnings = levels.take_notices();
    if !warnings.is_empty() {
        out.push_str(&format!(",\"warnings\":{}", json!(warnings)));
    }
    Ok(out)
}

enum Target {
    Key(String),
    Service(String, bool),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Key(key) => write!(f, "key {key}"),
            Target::Service(name, _) => write!(f, "service {name}"),
        }
    }
}

fn found_answer(value: Option<Json>) -> Json {
    match value {
        Some(value) => json!({"found": true, "value": value}),
        None => json!({"found": false}),
    }
}

fn instance(entry: &ServiceEntry) -> Json {
    json!({
        "id": entry.service.id,
        "node": entry.node.node,
        "address": entry.effective_address(),
        "port": entry.service.port,
        "tags": entry.service.tags,
        "meta": entry.service.meta,
    })
}
