//! Leadership that is held: kept alive, watched, and over before Consul can give it to another.
//!
//! Consul ends a session its TTL after the last renewal at the earliest. The lease therefore counts the TTL from
//! the moment *before* the last successful renewal was sent, on a clock that also runs while the machine
//! sleeps, and its owner stops COMMAND early enough before that. Whatever happens to Consul, the network or its
//! leaders, a lease that is not renewed ends by this clock alone.
//!
//! With each renewal goes a beat, a write that those who wait can see; a lease is renewed when both are done. What
//! they make of its absence is told in [`crate::campaign`].
//!
//! One thread renews, another watches the key, so that a leadership taken away by hand ends at once. The watch
//! believes a loss only after a consistent read; it may end a lease early and never lengthens one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use consul_client::{Client, Error as ConsulError, Query, next_index};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::record::Place;

/// Pause after a renewal or a watch that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How long a renewal that is under way is waited for at the end.
const LAST_BEAT: Duration = Duration::from_millis(500);

/// What is stored as a beat.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// How long the lease outlives the beat.
    pub(crate) ttl_ms: u64,
    /// Makes each differ from the one before: Consul does not count a write that changes nothing.
    pub(crate) beat: u64,
}

impl Beat {
    pub(crate) fn new(ttl: Duration, beat: u64) -> Beat {
        Beat { ttl_ms: u64::try_from(ttl.as_millis()).expect("a TTL is some seconds"), beat }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers serialise")
    }

    /// Reads how long the lease outlives the beat; `None` for what is no beat.
    pub(crate) fn ttl_of(value: &[u8]) -> Option<Duration> {
        serde_json::from_slice::<Beat>(value).ok().map(|beat| Duration::from_millis(beat.ttl_ms))
    }
}

/// A lease; its threads stop when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
}

/// What is known of a lease.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    /// When the session may end at the earliest, by [`clock::now`].
    pub(crate) until: Duration,
    /// Why it is certainly over.
    pub(crate) lost: Option<String>,
    /// Why the last renewal failed.
    pub(crate) trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    status: Status,
    stop: bool,
    /// Whether a renewal is under way.
    busy: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid after every statement that changes it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps; returns whether to go on.
    fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self.wake.wait_timeout_while(state, time, |s| !s.stop).unwrap_or_else(PoisonError::into_inner);
        !state.stop && state.status.lost.is_none()
    }

    /// Begins a renewal, unless the lease is over: what others may have counted out is never revived.
    fn begin(&self) -> bool {
        let mut state = self.lock();
        if clock::now() >= state.status.until {
            state.status.lost.get_or_insert_with(|| "this machine stood still, and its lease is over".to_owned());
        }
        state.busy = !state.stop && state.status.lost.is_none();
        state.busy
    }

    fn end(&self) {
        self.lock().busy = false;
        self.wake.notify_all();
    }

    fn lose(&self, why: String) {
        self.lock().status.lost.get_or_insert(why);
    }
}

impl Lease {
    /// Keeps the `session` that holds `place`, renewed with a request sent at `since`, alive from now on.
    pub(crate) fn start(client: &Client, place: &Place, session: &str, ttl: Duration, since: Duration) -> Lease {
        let status = Status { until: since + ttl, lost: None, trouble: None };
        let shared =
            Arc::new(Shared { state: Mutex::new(State { status, stop: false, busy: false }), wake: Condvar::new() });
        let lease = Lease { shared: Arc::clone(&shared) };
        let (renewer, beats, id) = (client.clone(), place.lease.clone(), session.to_owned());
        let to_renew = Arc::clone(&shared);
        // The threads are not joined: a request in flight must not delay the end of the process.
        std::thread::spawn(move || renew(&renewer, &beats, &id, ttl, &to_renew));
        let (watcher, key, id) = (client.clone(), place.key.clone(), session.to_owned());
        std::thread::spawn(move || watch(&watcher, &key, &id, &shared));
        lease
    }

    /// Returns what is known of it.
    pub(crate) fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        self.shared.wake.notify_all();
        // A beat that comes after the place was given back would take its key again. One that hangs is not waited for.
        let waited = self.shared.wake.wait_timeout_while(state, LAST_BEAT, |state| state.busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

fn renew(client: &Client, beats: &str, session: &str, ttl: Duration, shared: &Shared) {
    // Two were written when it was taken.
    let mut beat = 1;
    // The first beat comes at once.
    let mut pause = Duration::ZERO;
    while shared.pause(pause) && shared.begin() {
        let sent = clock::now();
        beat += 1;
        let renewed = client
            .sessions()
            .renew(session)
            .and_then(|_| client.kv().acquire(beats, &Beat::new(ttl, beat).bytes(), session));
        shared.end();
        pause = RETRY;
        match renewed {
            Ok(true) => {
                let mut state = shared.lock();
                state.status.until = sent + ttl;
                state.status.trouble = None;
                pause = ttl / 5;
            }
            // What a predecessor left is gone within its lock delay.
            Ok(false) => shared.lock().status.trouble = Some(format!("{beats} is not free")),
            Err(error @ ConsulError::SessionGone { .. }) => shared.lose(error.to_string()),
            Err(error) => shared.lock().status.trouble = Some(toolkit::exit::chain(&error)),
        }
    }
}

fn watch(client: &Client, key: &str, session: &str, shared: &Shared) {
    let ours = |query: &Query| {
        client.kv().get(key, query).map(|answer| {
            let held = answer.value.as_ref().and_then(|pair| pair.session.as_deref()) == Some(session);
            (held, answer.meta.index)
        })
    };
    let mut index = 0;
    let mut pause = Duration::from_millis(10);
    while shared.pause(pause) {
        pause = match ours(&Query::blocking(index, Duration::from_secs(10))) {
            Ok((true, now)) => {
                index = next_index(index, now);
                Duration::from_millis(100)
            }
            Ok((false, _)) => {
                if let Ok((false, _)) = ours(&Query::consistent()) {
                    shared.lose(format!("{key} is no longer held by this session"));
                }
                index = 0;
                RETRY
            }
            Err(_) => {
                index = 0;
                RETRY
            }
        };
    }
}
