//! `wait`: until a key or a service is there.

use std::time::{Duration, Instant};

use consul_client::{Class, Instances, Query};
use serde_json::Value as Json;
use toolkit::backoff::Backoff;

use super::Server;
use super::answer::instance;
use crate::consul::Level;
use crate::error::Error;

/// One blocking query. Between two of them it is noticed that the caller has gone.
const ONE_WAIT: Duration = Duration::from_secs(5);

/// What is waited for.
pub(super) enum Target {
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

impl Server<'_> {
    /// Waits until the target is there; `None` when the time is over.
    pub(super) fn wait(&self, level: &Level, target: &Target, timeout: Duration) -> Result<Option<Json>, Error> {
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
