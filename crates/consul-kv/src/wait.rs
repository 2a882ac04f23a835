//! Waiting for a key: blocking queries until it has a value that is wanted.
//!
//! Nothing is polled while Consul works: each query blocks until the key changes, a line about the wait is
//! due, or the deadline comes. While Consul is away the wait goes on, at a growing pause; the deadline holds
//! even when an agent takes requests and never answers.

use std::time::{Duration, Instant};

use consul_client::{Class, Client, Error, KvPair, Query, next_index};
use toolkit::Io;
use toolkit::backoff::Backoff;

/// How often the wait is spoken of. Also the longest query, so that a restored snapshot, whose indexes may be lower
/// than the one that is waited on, is noticed.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long a query may take beyond its wait.
const SLACK: Duration = Duration::from_secs(5);
/// Shortest time between two answers that are not wanted, for a key that changes all the time.
const PACE: Duration = Duration::from_millis(100);

/// Returns the pair once it is there and its value none of `unwanted`; `None` when `timeout` passed.
///
/// # Errors
/// Denied, or Consul was away when the time was up.
pub(crate) fn until(
    client: &Client,
    key: &str,
    unwanted: &[&[u8]],
    timeout: Duration,
    io: &mut Io,
) -> Result<Option<KvPair>, Error> {
    let start = Instant::now();
    let mut told = start;
    let mut index = 0;
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let wait = left.min((told + TELL_EVERY).saturating_duration_since(Instant::now()));
        // The first query always gets a moment: a timeout of 0 asks once.
        let query = Query::blocking(index, wait).limit(SLACK.min(left.max(Duration::from_secs(1))));
        let (state, pause) = match client.kv().get(key, &query) {
            Ok(answer) => {
                backoff.reset();
                index = next_index(index, answer.meta.index);
                match answer.value {
                    Some(pair) if !unwanted.contains(&pair.value.as_slice()) => return Ok(Some(pair)),
                    Some(_) => (Ok("its value is not yet a wanted one"), PACE),
                    None => (Ok("it is not there"), PACE),
                }
            }
            Err(error) if error.class() == Class::Unavailable => {
                index = 0;
                (Err(error), backoff.next_delay())
            }
            Err(error) => return Err(error),
        };
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return match state {
                Ok(why) => {
                    io.warn(format_args!(
                        "gave up waiting for {key} after {}: {why}",
                        toolkit::duration::format(timeout)
                    ));
                    Ok(None)
                }
                Err(error) => Err(error),
            };
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let why = match &state {
                Ok(why) => (*why).to_owned(),
                Err(error) => toolkit::exit::chain(error),
            };
            io.warn(format_args!("waiting for {key} for {} s so far: {why}", start.elapsed().as_secs()));
        }
        std::thread::sleep(pause.min(left));
    }
}
