//! Becoming a holder: wait until nobody holds the place, then make its key and lock it in one step. For a leader there
//! is one place; of slots, which are as many places, any will do ([`crate::slots`]).
//!
//! The session has no check of its node: a flap of the gossip would end it behind its owner's back, while an
//! owner that is gone is noticed by its silence anyway. Its locks are deleted with it, so that the key exists
//! exactly as long as somebody leads. Nobody who waits has a session.
//!
//! # Taking over from a silent leader
//!
//! Consul grants a session up to twice its TTL, and starts over when the cluster changes its leader. Who waits is
//! faster: a leader writes a beat with each renewal ([`crate::lease`]), and its lease ends a TTL after the last
//! beat that it *sent* successfully. Once this campaign has seen the same beat for a TTL and [`SLACK`], by its own
//! clock and from the moment it first had the answer, that lease is over and its command stopped; a last
//! consistent read makes sure that no beat came, and its keys and its session are ended. A beat that is under way meanwhile
//! does not matter: its answer would come after its sender has stopped its command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use consul_client::{Behavior, Class, Client, KvPair, NewSession, Query, next_index};
use toolkit::backoff::{Backoff, jittered};

use crate::lease::Beat;
use crate::record::{Place, Record, Stored};
use crate::slots::Slots;
use crate::{Error, clock};

/// How long nobody can lead after a leader was lost. It only has to cover requests that were under way: an owner
/// stops its command before its session can end.
const LOCK_DELAY: Duration = Duration::from_secs(3);
/// How much longer than its TTL a leader must be silent.
const SLACK: Duration = Duration::from_secs(3);
/// The longest query of who waits; a key that ends by hand may not wake it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two looks: a beat that is not there yet lets every write of the cluster wake the query.
const PACE: Duration = Duration::from_millis(100);

/// What a campaign tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Others hold all there is.
    HeldBy(String),
    /// Consul is away.
    Trouble(String),
    /// Leading now.
    Won(Held),
    /// It makes no sense to go on.
    Failed(Error),
}

/// Leadership just won.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) place: Place,
    pub(crate) session: String,
    /// When the request that last renewed the session was sent.
    pub(crate) since: Duration,
    pub(crate) token: u64,
    /// Index of the record as this process wrote it last.
    pub(crate) index: u64,
}

/// What a campaign is for.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// To lead the election of this name.
    Lead(String),
    /// One of `limit` slots of a name.
    Slot { name: String, limit: u32 },
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::Lead(name) => write!(f, "leadership of {name}"),
            Goal::Slot { name, limit: 1 } => write!(f, "the slot of {name}"),
            Goal::Slot { name, limit } => write!(f, "one of {limit} slots of {name}"),
        }
    }
}

/// A campaign.
#[derive(Debug)]
pub(crate) struct Campaign {
    pub(crate) client: Client,
    pub(crate) goal: Goal,
    pub(crate) ttl: Duration,
    /// Set to end it.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Campaign {
    /// Tries until it is over, telling `news`.
    pub(crate) fn run(&self, news: &Sender<News>) {
        let last = match self.win(news) {
            Ok(Some(held)) => News::Won(held),
            Ok(None) => return,
            Err(error) => News::Failed(error),
        };
        if let Err(unheard) = news.send(last)
            && let News::Won(held) = unheard.0
        {
            release(&self.client, &held);
        }
    }

    fn win(&self, news: &Sender<News>) -> Result<Option<Held>, Error> {
        let mut race = match &self.goal {
            Goal::Lead(name) => Race::Lead { name, place: Place::leader(name), sight: Sight::default() },
            Goal::Slot { name, limit } => Race::Slot(Slots::new(name, *limit)),
        };
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        let mut known = None;
        while !self.stop.load(Ordering::SeqCst) {
            let step = match &mut race {
                Race::Lead { name, place, sight } => self.step(name, place, sight),
                Race::Slot(slots) => slots.step(self),
            };
            match step {
                Ok(Step::Won(held)) => return Ok(Some(held)),
                // Whoever ended a session may try first.
                Ok(Step::Freed) => std::thread::sleep(PACE / 4),
                // Somebody was faster, or the lock delay runs: it wakes no query.
                Ok(Step::NotYet) => {
                    std::thread::sleep(jittered(Duration::from_millis(700)));
                }
                Ok(Step::Held(by)) => {
                    if known.as_ref() != Some(&by) {
                        // The receiver goes away only when the process ends.
                        let _ = news.send(News::HeldBy(by.clone()));
                        known = Some(by);
                    }
                    std::thread::sleep(PACE);
                }
                Err(Error::Consul(error)) if error.class() == Class::Unavailable => {
                    let _ = news.send(News::Trouble(toolkit::exit::chain(&error)));
                    std::thread::sleep(backoff.next_delay());
                    continue;
                }
                Err(error) => return Err(error),
            }
            backoff.reset();
        }
        Ok(None)
    }

    fn step(&self, name: &str, place: &Place, sight: &mut Sight) -> Result<Step, Error> {
        let Some(pair) = self.client.kv().get(&place.key, &Query::new())?.value else {
            return Ok(self.attempt(place)?.map_or(Step::NotYet, Step::Won));
        };
        let Some(session) = &pair.session else {
            // Chosen for good, which a consistent read has to say, too.
            return match Stored::read(&self.client, name, &Query::consistent())? {
                Some(stored) if !stored.is_held() => {
                    Err(Error::Chosen { name: name.to_owned(), node: stored.record.node })
                }
                _ => Ok(Step::NotYet),
            };
        };
        if self.is_silent(&place.lease, session, sight)? && self.depose(place, &pair, sight)? {
            return Ok(Step::Freed);
        }
        Ok(Step::Held(holder(&pair)))
    }

    /// Takes the place from a holder whose lease is over; whether that worked. Its keys go before its session, so that no
    /// lock delay runs: what it is for, requests that are under way, was waited for with [`SLACK`].
    pub(crate) fn depose(&self, place: &Place, pair: &KvPair, sight: &mut Sight) -> Result<bool, Error> {
        let Some(session) = pair.session.as_deref() else { return Ok(false) };
        let vacated = vacate(&self.client, place, session, pair.modify_index)
            .and_then(|()| self.client.sessions().destroy(session));
        match vacated {
            Ok(()) => Ok(true),
            // Without the right to end sessions of other nodes, Consul's own end of it is waited for.
            Err(error) if error.class() == Class::Denied => {
                *sight = Sight::default();
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the leader's next beat, for a while; returns whether its lease is certainly over.
    fn is_silent(&self, lease: &str, session: &str, sight: &mut Sight) -> Result<bool, Error> {
        let left = sight.overdue.map_or(LOOK_EVERY, |at| at.saturating_sub(clock::now()));
        // Consul adds up to a sixteenth.
        let wait = left.min(LOOK_EVERY).mul_f64(16.0 / 17.0).max(Duration::from_millis(10));
        let query = Query::blocking(sight.index, wait);
        let answer = self.client.kv().get(lease, &query)?;
        sight.index = next_index(sight.index, answer.meta.index);
        if !sight.look(session, answer.value.as_ref(), clock::now()) {
            return Ok(false);
        }
        let last = self.client.kv().get(lease, &Query::consistent())?.value;
        Ok(sight.look(session, last.as_ref(), clock::now()))
    }

    pub(crate) fn attempt(&self, place: &Place) -> Result<Option<Held>, Error> {
        let agent = self.client.agent().info()?;
        let session = self.client.sessions().create(&NewSession {
            name: format!("consul-elect: {}", place.what),
            ttl: self.ttl,
            lock_delay: LOCK_DELAY,
            behavior: Behavior::Delete,
            node_checks: Some(Vec::new()),
        })?;
        let won = self.take(place, &Record::new(&agent, Some(&session)), &session);
        if !matches!(won, Ok(Some(_))) {
            // If this fails too, the session ends by itself.
            let _ = self.client.sessions().destroy(&session);
        }
        won
    }

    /// Takes a place that seems free. The beat is taken first and renewed last, so that nobody ever holds a place
    /// without a beat that others can miss, and a lease is never longer than its last beat lets them think.
    fn take(&self, place: &Place, record: &Record, session: &str) -> Result<Option<Held>, Error> {
        let (kv, key) = (self.client.kv(), place.key.as_str());
        let beat = |beat| Beat::new(self.ttl, beat).bytes();
        if !kv.acquire(&place.lease, &beat(0), session)? {
            return Ok(None);
        }
        let Some(token) = kv.acquire_new(key, &record.bytes(), session)? else {
            remove_beat(&self.client, place, session)?;
            return Ok(None);
        };
        let record = Record { token: Some(token), ..record.clone() };
        if !kv.acquire(key, &record.bytes(), session)? {
            return Ok(None);
        }
        let Some(pair) = kv.get(key, &Query::consistent())?.value else { return Ok(None) };
        if pair.session.as_deref() != Some(session) || pair.create_index != token {
            return Ok(None);
        }
        // These requests may have taken a while: the lease starts with its whole time.
        let since = clock::now();
        self.client.sessions().renew(session)?;
        if !kv.acquire(&place.lease, &beat(1), session)? {
            return Ok(None);
        }
        let place = place.clone();
        Ok(Some(Held { place, session: session.to_owned(), since, token, index: pair.modify_index }))
    }
}

enum Race<'a> {
    Lead { name: &'a str, place: Place, sight: Sight },
    Slot(Slots),
}

pub(crate) enum Step {
    Won(Held),
    /// It is tried again after a pause.
    NotYet,
    /// A holder was deposed.
    Freed,
    /// By these nodes.
    Held(String),
}

/// Names the holder of a record.
pub(crate) fn holder(pair: &KvPair) -> String {
    let record = serde_json::from_slice::<Record>(&pair.value);
    record.map_or_else(|_| "an unknown node".to_owned(), |record| record.node)
}

/// What a campaign has seen of the leader's beats.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Index to wait for the next beat with.
    index: u64,
    /// Session and modify index of the last beat.
    last: Option<(String, u64)>,
    /// When its sender's lease is over, by [`clock::now`].
    overdue: Option<Duration>,
}

impl Sight {
    /// Returns when the lease that is seen is over, if no other beat comes.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        self.overdue
    }

    /// Takes in what was read by `now`; returns whether the lease of `session` is over.
    pub(crate) fn look(&mut self, session: &str, beat: Option<&KvPair>, now: Duration) -> bool {
        let seen = beat
            .filter(|pair| pair.session.as_deref() == Some(session))
            .and_then(|pair| Some((pair.modify_index, Beat::ttl_of(&pair.value)?)));
        let Some((index, ttl)) = seen else {
            // No beat yet: nothing is known of its lease, and Consul's own end of the session is waited for.
            *self = Sight { index: self.index, ..Sight::default() };
            return false;
        };
        let same = self.last.as_ref().is_some_and(|(s, i)| s == session && *i == index);
        if !same {
            self.last = Some((session.to_owned(), index));
            self.overdue = Some(now + ttl + SLACK);
        }
        self.overdue.is_some_and(|at| now >= at)
    }
}

/// Gives a place back. Returns whether Consul took it; if not, it ends with the TTL.
pub(crate) fn release(client: &Client, held: &Held) -> bool {
    let keys_gone = vacate(client, &held.place, &held.session, held.index);
    let session_gone = client.sessions().destroy(&held.session);
    keys_gone.is_ok() && session_gone.is_ok()
}

/// Removes the keys of a holder: before its session, since a key that goes with its session leaves a lock delay, and the
/// beat last, since those who wait watch it.
fn vacate(client: &Client, place: &Place, session: &str, index: u64) -> Result<(), consul_client::Error> {
    client.kv().delete_cas(&place.key, index)?;
    remove_beat(client, place, session)
}

fn remove_beat(client: &Client, place: &Place, session: &str) -> Result<(), consul_client::Error> {
    let beat = client.kv().get(&place.lease, &Query::consistent())?.value;
    // A successor may have begun to beat.
    if let Some(pair) = beat
        && pair.session.as_deref() == Some(session)
    {
        client.kv().delete_cas(&place.lease, pair.modify_index)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(session: &str, index: u64) -> KvPair {
        KvPair {
            key: "stacktira/lease/x".to_owned(),
            value: Beat::new(Duration::from_secs(10), index).bytes(),
            flags: 0,
            create_index: 1,
            modify_index: index,
            lock_index: 1,
            session: Some(session.to_owned()),
        }
    }

    #[test]
    fn only_a_whole_ttl_and_more_without_a_beat_is_silence() {
        let at = Duration::from_secs;
        let mut sight = Sight::default();
        assert!(!sight.look("s", Some(&beat("s", 1)), at(100)));
        assert!(!sight.look("s", Some(&beat("s", 1)), at(112)));
        assert!(!sight.look("s", Some(&beat("s", 2)), at(113)), "a beat came");
        assert!(!sight.look("s", Some(&beat("s", 2)), at(125)));
        assert!(sight.look("s", Some(&beat("s", 2)), at(126)));
        assert!(!sight.look("t", Some(&beat("t", 2)), at(126)), "another leader");
        assert!(!sight.look("t", Some(&beat("s", 2)), at(200)), "not its beat");
        assert!(!sight.look("t", None, at(300)), "no beat is not silence");
        assert!(!sight.look("t", Some(&beat("t", 2)), at(301)), "the clock starts over");
    }
}
