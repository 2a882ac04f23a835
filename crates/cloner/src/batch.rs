//! A batch: the jobs of one source, from the manifest to staged trees.
//!
//! A source is listed once and fetched once, however many places ask for it; then each place gets
//! its tree. What fails for one place alone does not stop the others of its source.

use std::time::{Duration, Instant};

use toolkit::backoff::Backoff;

use crate::attempt::{Try, Via};
use crate::cache::Entry;
use crate::fault::{Cause, Fault, Retry};
use crate::fleet::{self, Known};
use crate::git::{self, Want};
use crate::job::{Attempt, Job, Member, Progress, Ready, Setup};
use crate::source::Source;

/// Works on all members of one source. Says so before it waits for a server.
pub(crate) fn run(
    setup: &Setup<'_>,
    members: &[Member<'_>],
    waits: &dyn Fn(),
) -> Vec<(usize, Result<Progress, Fault>)> {
    let mut results = Vec::new();
    let mut pending = Vec::new();
    for member in members {
        match Job::new(setup, member).and_then(|job| job.look(setup)) {
            Ok(Ready::Done(progress)) => results.push((member.number, Ok(progress))),
            Ok(Ready::Pending(job)) => pending.push(*job),
            Err(fault) => results.push((member.number, Err(fault))),
        }
    }
    if pending.is_empty() {
        return results;
    }
    let source = pending[0].source.clone();
    let vias = match vias(setup, &source) {
        Ok(vias) => vias,
        Err(fault) => {
            results.extend(pending.into_iter().map(|job| (job.number, Err(fault.clone()))));
            return results;
        }
    };
    for (number, via) in vias.iter().enumerate() {
        let left = from(setup, &source, via, pending, &mut results, waits);
        pending = Vec::new();
        for (mut job, fault) in left {
            let elsewhere = matches!(fault.cause, Cause::Network | Cause::Auth | Cause::Ref);
            let fault = match job.failed.take() {
                Some(before) => Fault { message: format!("{}; then {}", before.message, fault.message), ..fault },
                None => fault,
            };
            if elsewhere && number + 1 < vias.len() {
                job.failed = Some(fault);
                pending.push(job);
            } else {
                results.push((job.number, Err(fault)));
            }
        }
        if pending.is_empty() {
            break;
        }
    }
    results
}

/// Where `source` is looked for, in this order.
fn vias(setup: &Setup<'_>, source: &Source) -> Result<Vec<Via>, Fault> {
    if let Source::Local(_) = source {
        return Ok(vec![Via::From(source.clone(), None)]);
    }
    let mut vias = Vec::new();
    for (number, fleet) in setup.fleets.iter().enumerate() {
        let there = source.mirrored(&fleet.mirror).map_err(|why| Fault::new(Cause::Manifest, why))?;
        vias.push(Via::From(there, Some(number)));
    }
    if !setup.offline && (vias.is_empty() || setup.fallback) {
        vias.push(Via::From(source.clone(), None));
    }
    if setup.offline && setup.cache.is_some() {
        vias.push(Via::Cache);
    }
    if vias.is_empty() { Err(git::offline()) } else { Ok(vias) }
}

/// Takes what `pending` asks for from `via`; returns the jobs that failed.
fn from<'a>(
    setup: &Setup<'_>,
    source: &Source,
    via: &Via,
    mut pending: Vec<Job<'a>>,
    results: &mut Vec<(usize, Result<Progress, Fault>)>,
    waits: &dyn Fn(),
) -> Vec<(Job<'a>, Fault)> {
    let place = source.mirror_path().ok().flatten();
    let mut failed = Vec::new();
    // An index that decides costs its server nothing, so it needs no slot.
    let mut known = match &place {
        Some(place) => consult(setup, via, place, &mut pending, &mut failed),
        None => None,
    };
    if let Some(known) = &known {
        pending.retain(|job| match job.decided(setup, known) {
            Some(progress) => {
                results.push((job.number, progress));
                false
            }
            None => true,
        });
    }
    if pending.is_empty() {
        return failed;
    }
    // Whatever the mirror's own index says of refs by now, a pack that it names has the commit.
    if let (Some(_), Some(known), Via::From(Source::Http(_), Some(number)), Some(place)) =
        (setup.refs, &mut known, via, &place)
    {
        let index = setup.fleets[*number].find(setup.client, place, Instant::now() + setup.timeout);
        known.packs = index.map(|index| index.packs).unwrap_or_default();
    }
    let local = matches!(via, Via::From(Source::Local(_), _));
    if !local {
        waits();
    }
    // Before the slot, which others could use meanwhile.
    let cache = match (setup.cache, &place) {
        (Some(cache), Some(place)) if !local => match cache.hold(place, setup.mode, Instant::now() + setup.timeout) {
            Ok(entry) => Some(entry),
            Err(fault) => {
                failed.extend(pending.into_iter().map(|job| (job, fault.clone())));
                return failed;
            }
        },
        _ => None,
    };
    failed.extend(try_and_again(setup, via, known.as_ref(), cache.as_ref(), pending, results));
    failed
}

/// What a refs index says of the repository at `place` before its server is asked. Where the one that was given says
/// nothing, jobs that want a ref move from `pending` to `failed`; a commit needs no ref.
fn consult<'a>(
    setup: &Setup<'_>,
    via: &Via,
    place: &str,
    pending: &mut Vec<Job<'a>>,
    failed: &mut Vec<(Job<'a>, Fault)>,
) -> Option<Known> {
    match (setup.refs, via) {
        (Some(index), _) => match fleet::given(index, place) {
            Ok(Some(known)) => Some(known),
            other => {
                let why = other.err().unwrap_or_else(|| format!("it has no repository {place}"));
                let fault = Fault::new(Cause::Ref, format!("the refs index that was given does not help: {why}"));
                let (commits, left): (Vec<_>, Vec<_>) =
                    std::mem::take(pending).into_iter().partition(|job| matches!(job.want, Want::Commit(_)));
                *pending = commits;
                failed.extend(left.into_iter().map(|job| (job, fault.clone())));
                None
            }
        },
        (None, Via::From(Source::Http(_), Some(number))) => {
            setup.fleets[*number].find(setup.client, place, Instant::now() + setup.timeout)
        }
        _ => None,
    }
}

/// Tries until every job is done, has failed for good, or the time or the retries are used up; returns those that failed.
fn try_and_again<'a>(
    setup: &Setup<'_>,
    via: &Via,
    known: Option<&Known>,
    cache: Option<&Entry>,
    mut pending: Vec<Job<'a>>,
    results: &mut Vec<(usize, Result<Progress, Fault>)>,
) -> Vec<(Job<'a>, Fault)> {
    let host = match via {
        Via::From(Source::Http(url), _) => Some(&url.authority),
        Via::From(Source::Other(url), _) => Some(&url.authority),
        Via::From(Source::Local(_), _) | Via::Cache => None,
    };
    let mut slot = host.map(|host| setup.slots.take(host));
    // Waiting for a slot is no network time.
    let deadline = Instant::now() + setup.timeout;
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut lasting = Vec::new();
    for attempt in 0.. {
        let tried = Try { setup, via, known, cache, deadline };
        let each: Vec<Result<Attempt, Fault>> = match tried.run(&pending, &mut slot) {
            Ok(each) => each,
            Err(fault) => pending.iter().map(|_| Err(fault.clone())).collect(),
        };
        let mut left = Vec::new();
        for (job, result) in pending.into_iter().zip(each) {
            match result.and_then(|attempt| job.progress(setup, attempt)) {
                Ok(progress) => results.push((job.number, Ok(progress))),
                Err(fault) if fault.retry == Retry::Never => lasting.push((job, fault)),
                Err(fault) => left.push((job, fault)),
            }
        }
        let Some((_, fault)) = left.first() else { break };
        let pause = match fault.retry {
            Retry::After(pause) => pause,
            Retry::Soon | Retry::Never => backoff.next_delay(),
        };
        // The pause may be any number that a server thought of.
        let in_time = Instant::now().checked_add(pause).is_some_and(|end| end < deadline);
        if attempt == u32::from(setup.retries) || !in_time {
            let times = if attempt == 0 { String::new() } else { format!(" (after {} attempts)", attempt + 1) };
            let ended = |fault: Fault| Fault { message: format!("{}{times}", fault.message), ..fault };
            lasting.extend(left.into_iter().map(|(job, fault)| (job, ended(fault))));
            break;
        }
        pending = left.into_iter().map(|(job, _)| job).collect();
        std::thread::sleep(pause);
        if slot.is_none() {
            slot = host.map(|host| setup.slots.take(host));
        }
    }
    lasting
}
