//! Becoming leader: wait until nobody leads, then make the key and lock it in one step.
//!
//! The session has no check of its node: a flap of the gossip would end it behind its owner's back, while an
//! owner that is gone is noticed by the TTL anyway. Its locks are deleted with it, so that the key exists exactly
//! as long as somebody leads. Nobody who waits has a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use consul_client::{Behavior, Class, Client, NewSession, Query, next_index};
use toolkit::backoff::{Backoff, jittered};

use crate::record::{Record, Stored, key};
use crate::{Error, clock};

/// How long nobody can lead after a leader was lost. It only has to cover requests that were under way: an owner
/// stops its command before its session can end.
const LOCK_DELAY: Duration = Duration::from_secs(5);

/// What a campaign tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Somebody else leads.
    LedBy(String),
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
    pub(crate) session: String,
    /// When the request that last renewed the session was sent.
    pub(crate) since: Duration,
    pub(crate) token: u64,
    /// Index of the record as this process wrote it last.
    pub(crate) index: u64,
}

/// A campaign for one election.
#[derive(Debug)]
pub(crate) struct Campaign {
    pub(crate) client: Client,
    pub(crate) name: String,
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
            release(&self.client, &self.name, &held);
        }
    }

    fn win(&self, news: &Sender<News>) -> Result<Option<Held>, Error> {
        let mut index = 0;
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        let mut leader = None;
        while !self.stop.load(Ordering::SeqCst) {
            match self.step(index) {
                Ok(Step::Won(held)) => return Ok(Some(held)),
                // Somebody was faster, or the lock delay runs: it wakes no query.
                Ok(Step::NotYet) => {
                    index = 0;
                    std::thread::sleep(jittered(Duration::from_millis(700)));
                }
                Ok(Step::Led(node, answered)) => {
                    index = next_index(index, answered);
                    if leader.as_ref() != Some(&node) {
                        // The receiver goes away only when the process ends.
                        let _ = news.send(News::LedBy(node.clone()));
                        leader = Some(node);
                    }
                }
                Err(Error::Consul(error)) if error.class() == Class::Unavailable => {
                    index = 0;
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

    fn step(&self, index: u64) -> Result<Step, Error> {
        let query = Query::blocking(index, Duration::from_secs(10));
        let answer = self.client.kv().get(&key(&self.name), &query)?;
        match answer.value {
            None => Ok(self.attempt()?.map_or(Step::NotYet, Step::Won)),
            Some(pair) if pair.session.is_none() => {
                // Chosen for good, which a consistent read has to say, too.
                match Stored::read(&self.client, &self.name, &Query::consistent())? {
                    Some(stored) if !stored.is_held() => {
                        Err(Error::Chosen { name: self.name.clone(), node: stored.record.node })
                    }
                    _ => Ok(Step::NotYet),
                }
            }
            Some(pair) => {
                let record = serde_json::from_slice::<Record>(&pair.value);
                let node = record.map_or_else(|_| "an unknown node".to_owned(), |record| record.node);
                Ok(Step::Led(node, answer.meta.index))
            }
        }
    }

    fn attempt(&self) -> Result<Option<Held>, Error> {
        let agent = self.client.agent().info()?;
        let session = self.client.sessions().create(&NewSession {
            name: format!("consul-elect {}", self.name),
            ttl: self.ttl,
            lock_delay: LOCK_DELAY,
            behavior: Behavior::Delete,
            node_checks: Some(Vec::new()),
        })?;
        let won = self.take(&Record::new(&agent, Some(&session)), &session);
        if !matches!(won, Ok(Some(_))) {
            // If this fails too, the session ends by itself.
            let _ = self.client.sessions().destroy(&session);
        }
        won
    }

    fn take(&self, record: &Record, session: &str) -> Result<Option<Held>, Error> {
        let (kv, key) = (self.client.kv(), key(&self.name));
        let Some(token) = kv.acquire_new(&key, &record.bytes(), session)? else { return Ok(None) };
        let record = Record { token: Some(token), ..record.clone() };
        if !kv.acquire(&key, &record.bytes(), session)? {
            return Ok(None);
        }
        let Some(pair) = kv.get(&key, &Query::consistent())?.value else { return Ok(None) };
        if pair.session.as_deref() != Some(session) || pair.create_index != token {
            return Ok(None);
        }
        // These requests may have taken a while: the lease starts with its whole time.
        let since = clock::now();
        self.client.sessions().renew(session)?;
        Ok(Some(Held { session: session.to_owned(), since, token, index: pair.modify_index }))
    }
}

enum Step {
    Won(Held),
    NotYet,
    /// The node, and the index of the answer.
    Led(String, u64),
}

/// Gives leadership back: the key goes first, since a key that goes with its session leaves a lock delay.
/// Returns whether Consul took it; if not, it ends with the session's TTL.
pub(crate) fn release(client: &Client, name: &str, held: &Held) -> bool {
    let key_gone = client.kv().delete_cas(&key(name), held.index);
    let session_gone = client.sessions().destroy(&held.session);
    key_gone.is_ok() && session_gone.is_ok()
}
