//! `status`, the page at the mirror's root, and figures for Prometheus: how old channels are and whether sources work.
//!
//! After every command that changes something `ROOT/pub/index.html`, `ROOT/pub/status.json` and `ROOT/pub/metrics` are
//! written anew (each in one step), and the figures also where `metrics:` says. They are for people and alarms: that
//! one of them cannot be written is a warning and changes nothing else.
//!
//! A channel's age is the time since its snapshot was last known to be what the sources hold: a source in which
//! nothing happens does not make a channel old, a mirror that is not synchronised does.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use toolkit::Io;
use toolkit::exit;

use crate::channel;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::snapshot;
use crate::store::{Store, json_line};

/// Snapshots on the page.
const SHOWN: usize = 200;

/// How the last synchronisation of a source went: `ROOT/outcomes/NAME.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    v: u32,
    /// When it was tried last, in seconds since the epoch.
    tried: u64,
    /// When it went well last.
    done: Option<u64>,
    /// What it said.
    said: String,
    /// Whether the last one went well.
    well: bool,
}

/// Remembers how a source's synchronisation went.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn record(store: &Store, name: &str, done: std::result::Result<&str, &str>) -> Result<()> {
    let path = format!("outcomes/{name}.json");
    let before: Outcome = store.read_json(&path).ok().flatten().unwrap_or_default();
    let now = files::now();
    let (well, said) = match done {
        Ok(said) => (true, said),
        Err(said) => (false, said),
    };
    let outcome = Outcome {
        v: 1,
        tried: now,
        done: if well { Some(now) } else { before.done },
        said: exit::one_line(said),
        well,
    };
    let path = store.path(path);
    toolkit::atomic::write_derived(&path, &json_line(&outcome)?, 0o644).map(|_| ()).map_err(Error::write(&path))
}

/// Everything that is told.
#[derive(Debug, Serialize)]
struct Status {
    r#type: &'static str,
    v: u32,
    at: String,
    channels: Vec<Channel>,
    snapshots: Vec<Snapshot>,
    sources: BTreeMap<String, Outcome>,
}

#[derive(Debug, Serialize)]
struct Channel {
    name: String,
    snapshot: Option<Digest>,
    /// Seconds since the snapshot was last known to be what the sources hold.
    age: Option<u64>,
    /// Whether that is longer than `max_age`.
    stale: bool,
    #[serde(skip)]
    confirmed: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    id: Digest,
    created: String,
    channels: Vec<String>,
    holds: Vec<String>,
}

fn gather(config: &Config, store: &Store) -> Result<Status> {
    let now = files::now();
    let known: Vec<(Digest, snapshot::Info)> = snapshot::all(store)?;
    let mut channels = Vec::new();
    for name in &config.channels {
        let id = channel::read(store, name)?.map(|pointer| pointer.snapshot);
        let info = id.as_ref().and_then(|id| known.iter().find(|(other, _)| other == id)).map(|(_, info)| info);
        // Of an imported snapshot the import is later than that.
        let confirmed = info.map(|info| if info.confirmed > 0 { info.confirmed } else { info.created });
        let age = confirmed.map(|at| now.saturating_sub(at));
        let stale = config.max_age.zip(age).is_some_and(|(limit, age)| age > limit.as_secs());
        channels.push(Channel { name: name.clone(), snapshot: id, age, stale, confirmed });
    }
    let snapshots = known
        .into_iter()
        .map(|(id, info)| Snapshot {
            channels: channels.iter().filter(|c| c.snapshot.as_ref() == Some(&id)).map(|c| c.name.clone()).collect(),
            created: files::rfc3339(info.created),
            holds: info.holds,
            id,
        })
        .collect();
    let mut sources = BTreeMap::new();
    for source in &config.sources {
        let outcome = match store.read_json(format!("outcomes/{}.json", source.name())) {
            // A power cut may have left it so; the next synchronisation tells again.
            Err(Error::Damaged { .. }) => None,
            outcome => outcome?,
        };
        // A source that was not tried yet does not work, but nothing has failed.
        let untried = || Outcome { said: "not synchronised yet".into(), ..Outcome::default() };
        sources.insert(source.name().to_owned(), outcome.unwrap_or_else(untried));
    }
    Ok(Status { r#type: "status", v: 1, at: files::rfc3339(now), channels, snapshots, sources })
}

/// `status`; returns the exit code: 1 when a channel is too old or a source does not work.
///
/// # Errors
/// [`Error::Read`]; [`Error::Output`].
pub(crate) fn run(config: &Config, json: bool, io: &mut Io) -> Result<u8> {
    let status = gather(config, &Store::at(config.root()?))?;
    if json {
        io.json(&status).map_err(Error::Output)?;
    } else {
        io.out(words(&status)).map_err(Error::Output)?;
    }
    let well =
        status.channels.iter().all(|channel| !channel.stale) && status.sources.values().all(|source| source.well);
    Ok(if well { exit::OK } else { exit::NO })
}

fn words(status: &Status) -> String {
    let mut text = String::new();
    for channel in &status.channels {
        let id = channel.snapshot.as_ref().map_or("-", Digest::as_str);
        let age = channel.age.map_or_else(|| "-".into(), span);
        let alarm = if channel.stale { " TOO OLD" } else { "" };
        let _ = writeln!(text, "channel {} {id} {age}{alarm}", channel.name);
    }
    for (name, source) in &status.sources {
        let word = match source {
            Outcome { well: true, .. } => "well",
            Outcome { tried: 0, .. } => "-",
            _ => "FAILED",
        };
        let when = if source.tried == 0 { "never".into() } else { files::rfc3339(source.tried) };
        let _ = writeln!(text, "source {name} {when} {word} {}", source.said);
    }
    let _ = writeln!(text, "snapshots {}", status.snapshots.len());
    text
}

/// A time span as people say it.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Writes page, status and figures; what does not work is warned of. Where nothing is published yet there is
/// nothing to say.
pub(crate) fn publish(config: &Config, io: &mut Io) {
    let Some(store) = config.root().ok().map(Store::at).filter(|store| store.path("pub").is_dir()) else { return };
    let written = (|| -> Result<()> {
        let status = gather(config, &store)?;
        let figures = figures(config, &status);
        let mut outputs = vec![
            (store.path("pub/index.html"), page(&status).into_bytes()),
            (store.path("pub/status.json"), json_line(&status)?),
            (store.path("pub/metrics"), figures.clone().into_bytes()),
        ];
        outputs.extend(config.metrics.clone().map(|path| (path, figures.into_bytes())));
        for (path, bytes) in outputs {
            toolkit::atomic::write_derived(&path, &bytes, 0o644).map_err(Error::write(&path))?;
        }
        Ok(())
    })();
    if let Err(error) = written {
        io.warn(format_args!("the status page is not up to date: {}", exit::chain(&error)));
    }
}

fn figures(config: &Config, status: &Status) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP stacktira_mirror_{name} {help}\n# TYPE stacktira_mirror_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "stacktira_mirror_{name}{labels} {value}");
        }
    };
    // Names hold no quote, backslash or newline: the configuration refuses them.
    let channel = |c: &Channel| format!("{{channel=\"{}\"}}", c.name);
    let source = |name: &str| format!("{{source=\"{name}\"}}");
    gauge("snapshots", "Snapshots that are published.", vec![(String::new(), status.snapshots.len() as u64)]);
    gauge(
        "channel_info",
        "Snapshot that a channel points at.",
        status
            .channels
            .iter()
            .filter_map(|c| Some((format!("{{channel=\"{}\",snapshot=\"{}\"}}", c.name, c.snapshot.as_ref()?), 1)))
            .collect(),
    );
    gauge(
        "channel_confirmed_timestamp_seconds",
        "When a channel's snapshot was last known to be what the sources hold.",
        status.channels.iter().filter_map(|c| Some((channel(c), c.confirmed?))).collect(),
    );
    if let Some(limit) = config.max_age {
        gauge(
            "channel_max_age_seconds",
            "Age from which a channel is too old.",
            vec![(String::new(), limit.as_secs())],
        );
    }
    gauge(
        "source_well",
        "Whether the last synchronisation of a source went well.",
        status.sources.iter().map(|(name, outcome)| (source(name), u64::from(outcome.well))).collect(),
    );
    gauge(
        "source_tried_timestamp_seconds",
        "When a source was last synchronised.",
        status.sources.iter().map(|(name, outcome)| (source(name), outcome.tried)).collect(),
    );
    gauge(
        "source_done_timestamp_seconds",
        "When a source was last synchronised well.",
        status.sources.iter().filter_map(|(name, outcome)| Some((source(name), outcome.done?))).collect(),
    );
    text
}

/// Makes text safe wherever HTML may hold it.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

fn page(status: &Status) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Mirror</title>\n<style>body{font:15px/1.5 \
         sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse;margin:0 0 2em}td,th{padding:.2em 1em .2em \
         0;text-align:left;vertical-align:top}tr+tr{border-top:1px solid #ccc}code{font-size:90%}.bad{color:#a00;font-weight:\
         bold}</style>\n<h1>Mirror</h1>\n",
    );
    let link = |id: &Digest| format!("<a href=\"/snap/{id}/manifest.json\"><code>{}</code></a>", &id.as_str()[..16]);
    html.push_str("<h2>Channels</h2>\n<table>\n<tr><th>Channel<th>Snapshot<th>Last known to be current\n");
    for channel in &status.channels {
        let id = channel.snapshot.as_ref().map_or_else(|| "none".into(), link);
        let when = channel.confirmed.map(files::rfc3339).unwrap_or_default();
        let alarm = if channel.stale { " <span class=\"bad\">too old</span>" } else { "" };
        let name = escape(&channel.name);
        let _ = writeln!(html, "<tr><td><a href=\"/channel/{name}.json\">{name}</a><td>{id}<td>{when}{alarm}");
    }
    html.push_str("</table>\n<h2>Sources</h2>\n<table>\n<tr><th>Source<th>Last tried<th>How it went\n");
    for (name, source) in &status.sources {
        let when = if source.tried == 0 { "never".into() } else { files::rfc3339(source.tried) };
        let class = if source.well { "" } else { " class=\"bad\"" };
        let _ = writeln!(html, "<tr><td>{}<td>{when}<td{class}>{}", escape(name), escape(&source.said));
    }
    html.push_str("</table>\n<h2>Snapshots</h2>\n<table>\n<tr><th>Snapshot<th>Made<th>Channels<th>Holds\n");
    for snapshot in status.snapshots.iter().take(SHOWN) {
        let (id, created) = (link(&snapshot.id), &snapshot.created);
        let channels = escape(&snapshot.channels.join(", "));
        let _ = writeln!(html, "<tr><td>{id}<td>{created}<td>{channels}<td>{}", escape(&snapshot.holds.join("; ")));
    }
    let _ = writeln!(html, "</table>");
    if status.snapshots.len() > SHOWN {
        let _ = writeln!(html, "<p>And {} older ones.", status.snapshots.len() - SHOWN);
    }
    let _ = writeln!(
        html,
        "<p>Written {}. The same for machines: <a href=\"/status.json\">status.json</a>, <a href=\"/metrics\">metrics</a>.",
        status.at
    );
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        let id = Digest::of(b"x");
        Status {
            r#type: "status",
            v: 1,
            at: files::rfc3339(0),
            channels: vec![Channel {
                name: "stable".into(),
                snapshot: Some(id.clone()),
                age: Some(90_000),
                stale: true,
                confirmed: Some(5),
            }],
            snapshots: vec![Snapshot {
                id,
                created: files::rfc3339(0),
                channels: vec!["stable".into()],
                holds: vec!["<script>alert(1)</script> & \"'".into()],
            }],
            sources: BTreeMap::from([(
                "debian".into(),
                Outcome { v: 1, tried: 7, done: None, said: "<img src=x onerror=a>".into(), well: false },
            )]),
        }
    }

    #[test]
    fn whatever_upstreams_say_is_text_on_the_page() {
        let html = page(&sample());
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
        assert!(html.contains("&lt;script&gt;") && html.contains("too old"), "{html}");
    }

    #[test]
    fn ages_and_failures_are_told_to_people() {
        let words = words(&sample());
        assert!(
            words.contains("25h TOO OLD") && words.contains("source debian 1970-01-01T00:00:07Z FAILED"),
            "{words}"
        );
    }
}
