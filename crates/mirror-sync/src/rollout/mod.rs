//! `rollout`: brings a channel to a snapshot in stages, and back by itself when something is not well.
//!
//! First the canaries, then waves of nodes, each gated on what every node reports of itself (`apply`'s state,
//! the run's state, Consul's checks), at last the channel's pointer. Everything that is known about a rollout is in
//! one document in Consul, and every step is one compare-and-set of it. So a process that dies leaves nothing half:
//! `rollout resume` goes on from where it was, on any machine that may promote, and any number of processes may
//! watch the same rollout.

mod document;
mod judge;
mod plan;

use std::time::{Duration, Instant};

use serde_json::json;
use toolkit::Io;
use toolkit::backoff::Backoff;

use crate::channel;
use crate::config::Config;
use crate::consul::{Aim, Cluster, Scope, Seen, operator};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::snapshot;
use crate::store::Store;
pub(crate) use document::{Phase, Rollout};
use judge::{Reports, Verdict, judge};
pub use plan::{Canary, Percent};

/// How often the nodes' reports are read.
const POLL: Duration = Duration::from_millis(1000);
/// How long Consul may be away before a watcher gives up; the rollout stays where it is.
const AWAY: Duration = Duration::from_secs(300);

/// What a rollout is begun with.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) channel: &'a str,
    pub(crate) canaries: &'a [Canary],
    pub(crate) waves: &'a [Percent],
    pub(crate) wait: Duration,
    pub(crate) settle: Duration,
    pub(crate) spread: Duration,
    pub(crate) failed_runs: usize,
    pub(crate) reason: &'a str,
}

fn key(channel: &str) -> String {
    format!("rollout/{channel}")
}

fn read(cluster: &Cluster, channel: &str) -> Result<Seen<Rollout>> {
    cluster.document(&key(channel))
}

/// Returns the rollout that a node of this channel has to obey, if there is one.
///
/// # Errors
/// [`Error::Consul`].
pub(crate) fn of_node(cluster: &Cluster, channel: &str, node: &str) -> Result<Option<Rollout>> {
    Ok(read(cluster, channel)?.value.filter(|rollout| rollout.takes(node).is_some()))
}

/// Returns all rollouts, by channel.
///
/// # Errors
/// [`Error::Consul`].
pub(crate) fn all(cluster: &Cluster) -> Result<Vec<(String, Rollout)>> {
    Ok(cluster.all("rollout")?.into_iter().collect())
}

/// Checks that nothing is under way on a channel that somebody wants to move.
///
/// # Errors
/// [`Error::RolloutUnderWay`].
pub(crate) fn none_under_way(cluster: &Cluster, channel: &str) -> Result<()> {
    match read(cluster, channel)?.value {
        Some(rollout) if rollout.phase == Phase::Running => Err(under_way(channel, &rollout)),
        _ => Ok(()),
    }
}

fn under_way(channel: &str, rollout: &Rollout) -> Error {
    Error::RolloutUnderWay { channel: channel.to_owned(), snapshot: rollout.snapshot.to_string() }
}

/// `rollout start`: plans the stages, writes the document and, unless `detach`, watches it to its end.
///
/// # Errors
/// [`Error::RolloutUnderWay`]; [`Error::NoRollout`]; [`Error::Returned`]; as `promote`.
pub(crate) fn start(
    config: &Config,
    id: &Digest,
    settings: &Settings<'_>,
    dry_run: bool,
    detach: bool,
    io: &mut Io,
) -> Result<()> {
    let channel = settings.channel;
    channel::known(config, channel)?;
    let cluster = channel::cluster(config)?;
    let store = Store::at(config.root()?);
    snapshot::must_exist(&store, id)?;
    // gc takes it too: from the first stage on the snapshot is in use.
    let lock = store.channel_lock()?;
    snapshot::must_exist(&store, id)?;
    let seen = read(&cluster, channel)?;
    if let Some(rollout) = &seen.value
        && rollout.phase == Phase::Running
    {
        return Err(under_way(channel, rollout));
    }
    let previous = match cluster.pointer(&Scope::Channel(channel.to_owned()))?.value {
        Some(Aim::Snapshot(previous)) => Some(previous),
        _ => None,
    };
    let failing = cluster.failing()?;
    let plan = plan::plan(channel, id, &cluster.all("state")?, &failing, settings.canaries, settings.waves)
        .map_err(|why| Error::NoRollout { channel: channel.to_owned(), why })?;
    for node in &plan.gone {
        io.warn(format_args!("{node} is not alive and takes no part"));
    }
    if dry_run {
        for stage in &plan.stages {
            io.out(format!("{} {}\n", stage.name, stage.nodes.join(","))).map_err(Error::Output)?;
        }
        return Ok(());
    }
    let now = files::now();
    let rollout = Rollout {
        v: 1,
        phase: Phase::Running,
        snapshot: id.clone(),
        previous,
        stage: 0,
        stages: plan.stages,
        begun: now,
        moved: now,
        wait: settings.wait.as_secs(),
        settle: settings.settle.as_secs(),
        spread: settings.spread.as_secs(),
        failed_runs: settings.failed_runs,
        ignored: failing,
        failures: std::collections::BTreeMap::new(),
        by: operator(),
        reason: settings.reason.to_owned(),
        why: String::new(),
    };
    if !cluster.replace(&key(channel), &rollout, &seen)? {
        return Err(Error::Moved { what: format!("channel {channel}: the rollout") });
    }
    drop(lock);
    say_stage(channel, &rollout, io);
    if detach { Ok(()) } else { watch(config, &cluster, channel, io) }
}

/// `rollout resume`: watches what is under way on one channel or all to its end.
///
/// # Errors
/// As [`start`]; of several channels the first error.
pub(crate) fn resume(config: &Config, channel: Option<&str>, io: &mut Io) -> Result<()> {
    let cluster = channel::cluster(config)?;
    let mut channels = Vec::new();
    for (name, rollout) in all(&cluster)? {
        if rollout.phase == Phase::Running && channel.is_none_or(|channel| channel == name) {
            say_stage(&name, &rollout, io);
            channels.push(name);
        }
    }
    if channels.is_empty() {
        io.note("no rollout is under way");
    }
    let mut result = Ok(());
    for name in channels {
        result = result.and(watch(config, &cluster, &name, io));
    }
    result
}

/// `rollout abort`: every node follows the channel again.
///
/// # Errors
/// [`Error::NoRollout`]; [`Error::Moved`]; [`Error::Consul`].
pub(crate) fn abort(config: &Config, channel: &str, why: &str, io: &mut Io) -> Result<()> {
    let cluster = channel::cluster(config)?;
    let seen = read(&cluster, channel)?;
    let rollout = seen
        .value
        .as_ref()
        .filter(|rollout| rollout.phase == Phase::Running)
        .ok_or_else(|| Error::NoRollout { channel: channel.to_owned(), why: "no rollout is under way".into() })?;
    let why = if why.is_empty() { format!("aborted by {}", operator()) } else { why.to_owned() };
    if !finish(&cluster, channel, rollout, &seen, Phase::Returned, &why)? {
        return Err(Error::Moved { what: format!("channel {channel}: the rollout") });
    }
    io.note(format_args!("channel {channel}: every node follows the channel again"));
    Ok(())
}

/// `rollout status`.
///
/// # Errors
/// [`Error::Consul`]; [`Error::Output`].
pub(crate) fn status(config: &Config, channel: Option<&str>, as_json: bool, io: &mut Io) -> Result<()> {
    let cluster = channel::cluster(config)?;
    let reports = reports(&cluster)?;
    for (name, rollout) in all(&cluster)? {
        if channel.is_some_and(|channel| channel != name) {
            continue;
        }
        let verdict = judge(&rollout, &reports, files::now());
        let missed = match (&verdict, rollout.phase) {
            (Verdict::Wait(missed), Phase::Running) => missed.clone(),
            (Verdict::Back(why), Phase::Running) => vec![why.clone()],
            _ => Vec::new(),
        };
        if as_json {
            let line = json!({"type": "rollout", "v": 1, "channel": name, "phase": rollout.phase,
                "snapshot": rollout.snapshot, "previous": rollout.previous, "stage": rollout.stage,
                "stages": rollout.stages, "begun": files::rfc3339(rollout.begun), "by": rollout.by,
                "waits_for": missed, "why": rollout.why});
            io.json(&line).map_err(Error::Output)?;
            continue;
        }
        let phase = match rollout.phase {
            Phase::Running => {
                let stage = &rollout.stages[rollout.stage.min(rollout.stages.len().saturating_sub(1))];
                format!("stage {} of {} ({})", rollout.stage + 1, rollout.stages.len(), stage.name)
            }
            Phase::Done => "done".into(),
            Phase::Returned => format!("went back: {}", rollout.why),
        };
        io.out(format!("{name} {} {phase}\n", rollout.snapshot)).map_err(Error::Output)?;
        for word in &missed {
            io.out(format!("  waits for {word}\n")).map_err(Error::Output)?;
        }
    }
    Ok(())
}

fn reports(cluster: &Cluster) -> Result<Reports> {
    Ok(Reports { states: cluster.all("state")?, runs: cluster.runs()?, failing: cluster.failing()? })
}

fn finish(
    cluster: &Cluster,
    channel: &str,
    rollout: &Rollout,
    seen: &Seen<Rollout>,
    phase: Phase,
    why: &str,
) -> Result<bool> {
    let next = Rollout { phase, why: why.to_owned(), ..rollout.clone() };
    cluster.replace(&key(channel), &next, seen)
}

/// Takes one step after the other until the rollout has ended. While Consul is away the rollout stands still.
fn watch(config: &Config, cluster: &Cluster, channel: &str, io: &mut Io) -> Result<()> {
    let mut well_since: Option<(usize, Instant)> = None;
    let mut said = String::new();
    let mut away: Option<Instant> = None;
    let mut backoff = Backoff::new(POLL, Duration::from_secs(10));
    loop {
        match step(config, cluster, channel, &mut well_since, &mut said, io) {
            Ok(Some(end)) => return end,
            Ok(None) => {
                away = None;
                backoff.reset();
                std::thread::sleep(POLL);
            }
            Err(error @ Error::Consul { code: toolkit::exit::UNAVAILABLE, .. }) => {
                let since = *away.get_or_insert_with(|| {
                    io.warn(format_args!("{}; the rollout stands still", toolkit::exit::chain(&error)));
                    Instant::now()
                });
                if since.elapsed() > AWAY {
                    return Err(error);
                }
                std::thread::sleep(backoff.next_delay());
            }
            Err(error) => return Err(error),
        }
    }
}

/// One look and at most one write; `Some` when the rollout has ended.
fn step(
    config: &Config,
    cluster: &Cluster,
    channel: &str,
    well_since: &mut Option<(usize, Instant)>,
    said: &mut String,
    io: &mut Io,
) -> Result<Option<Result<()>>> {
    let seen = read(cluster, channel)?;
    let Some(rollout) = &seen.value else {
        let why = "its document in Consul was removed".to_owned();
        return Ok(Some(Err(Error::NoRollout { channel: channel.to_owned(), why })));
    };
    match rollout.phase {
        Phase::Running => {}
        Phase::Done => {
            io.note(format_args!("channel {channel} points at {}: every node is well", rollout.snapshot));
            return Ok(Some(Ok(())));
        }
        Phase::Returned => {
            return Ok(Some(Err(Error::Returned {
                channel: channel.to_owned(),
                snapshot: rollout.snapshot.to_string(),
                why: rollout.why.clone(),
            })));
        }
    }
    let reports = reports(cluster)?;
    let failures = judge::new_failures(rollout, &reports);
    if !failures.is_empty() {
        let mut next = rollout.clone();
        for (node, started) in failures {
            io.note(format_args!("a run with the snapshot failed on {node}"));
            next.failures.entry(node).or_default().insert(started);
        }
        // At once: where runs fail one after the other there may never be a look without a new one.
        match judge(&next, &reports, files::now()) {
            Verdict::Back(why) => finish(cluster, channel, &next, &seen, Phase::Returned, &why)?,
            Verdict::Wait(_) | Verdict::Well => cluster.replace(&key(channel), &next, &seen)?,
        };
        return step_again();
    }
    match judge(rollout, &reports, files::now()) {
        Verdict::Wait(missed) => {
            *well_since = None;
            let word = format!("waiting for {} ({})", missed.len(), judge::few(&missed));
            if *said != word {
                io.note(&word);
                *said = word;
            }
        }
        Verdict::Back(why) => {
            // Whether this write or another watcher's wins: the next look tells how it ended.
            finish(cluster, channel, rollout, &seen, Phase::Returned, &why)?;
            return step_again();
        }
        Verdict::Well => {
            let since = match well_since {
                Some((stage, since)) if *stage == rollout.stage => *since,
                _ => {
                    let now = Instant::now();
                    *well_since = Some((rollout.stage, now));
                    now
                }
            };
            if since.elapsed() < Duration::from_secs(rollout.settle) {
                return step_again();
            }
            if rollout.stage + 1 < rollout.stages.len() {
                let next = Rollout { stage: rollout.stage + 1, moved: files::now(), ..rollout.clone() };
                if cluster.replace(&key(channel), &next, &seen)? {
                    say_stage(channel, &next, io);
                }
                return step_again();
            }
            // The pointer first: should this process die here, the next one finds every stage well and does it again.
            channel::point_at(
                config,
                Some(cluster),
                channel,
                &rollout.snapshot,
                &format!("rollout by {}", rollout.by),
            )?;
            finish(cluster, channel, rollout, &seen, Phase::Done, "")?;
        }
    }
    step_again()
}

fn step_again() -> Result<Option<Result<()>>> {
    Ok(None)
}

fn say_stage(channel: &str, rollout: &Rollout, io: &mut Io) {
    if let Some(stage) = rollout.stages.get(rollout.stage) {
        let nodes = &stage.nodes;
        let names = if nodes.len() > 5 { format!("{} nodes", nodes.len()) } else { nodes.join(", ") };
        let number = rollout.stage + 1;
        io.note(format_args!(
            "channel {channel}: stage {number} of {} ({}): {names}",
            rollout.stages.len(),
            stage.name
        ));
    }
}
