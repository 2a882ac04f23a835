//! How to ask, and what comes back beside the value.

use std::time::Duration;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The leader answers from its own state; in a rare window after a leader change the answer
    /// may be a moment old.
    #[default]
    Default,
    /// The leader first asks the other servers whether it still leads.
    Consistent,
    /// Any server answers, even without a leader, from whatever state it has.
    Stale,
}

/// The longest wait that Consul grants a blocking query.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// Options of a read.
///
/// With `index` other than 0 the read blocks until the index of the answer is higher, or `wait`
/// has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Query {
    /// Index of the answer already known; 0 does not block.
    pub index: u64,
    /// How long to block; up to [`MAX_WAIT`]. `None` is Consul's own five minutes.
    pub wait: Option<Duration>,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Accept an answer that leaves out what the token may not see. The caller reads
    /// [`Meta::filtered_by_acl`] itself.
    pub allow_filtered: bool,
    /// Limit for the call beyond its wait, instead of [`crate::Config::total_timeout`]: for callers
    /// that have a deadline of their own.
    pub limit: Option<Duration>,
}

impl Query {
    /// Returns a query that does not block, of default consistency.
    pub fn new() -> Query {
        Query::default()
    }

    /// Returns a query that does not block and whose answer is certainly not old.
    pub fn consistent() -> Query {
        Query::new().consistency(Consistency::Consistent)
    }

    /// Returns a query that blocks until something is newer than `index`, for at most `wait`.
    pub fn blocking(index: u64, wait: Duration) -> Query {
        Query { index, wait: Some(wait), ..Query::default() }
    }

    /// Sets the consistency.
    pub fn consistency(mut self, consistency: Consistency) -> Query {
        self.consistency = consistency;
        self
    }

    /// Accepts answers that leave out what the token may not see.
    pub fn allow_filtered(mut self) -> Query {
        self.allow_filtered = true;
        self
    }

    /// Sets the limit for the call beyond its wait.
    pub fn limit(mut self, limit: Duration) -> Query {
        self.limit = Some(limit);
        self
    }

    pub(crate) fn waits(&self) -> Option<Duration> {
        (self.index > 0).then(|| self.wait.unwrap_or(Duration::from_secs(300)).min(MAX_WAIT))
    }

    pub(crate) fn parameters(&self, into: &mut Vec<(&'static str, String)>) {
        match self.consistency {
            Consistency::Default => {}
            Consistency::Consistent => into.push(("consistent", String::new())),
            Consistency::Stale => into.push(("stale", String::new())),
        }
        if let Some(wait) = self.waits() {
            into.push(("index", self.index.to_string()));
            into.push(("wait", format!("{}ms", wait.as_millis().max(1))));
        }
    }
}

/// What Consul says about an answer in its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// `X-Consul-Index`; 0 where the endpoint gives none.
    pub index: u64,
    /// Whether the answering server knew a leader. Only a stale read can come back with `false`;
    /// for others that is an error already.
    pub known_leader: bool,
    /// How long ago the answering server last heard from the leader.
    pub last_contact: Duration,
    /// Whether the answer leaves out what the token may not see. Servers older than 1.11 never
    /// say so: see [`crate::rights`].
    pub filtered_by_acl: bool,
}

/// A value with what Consul says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// The value.
    pub value: T,
    /// What Consul says about it.
    pub meta: Meta,
}

impl<T> Answer<T> {
    /// Returns the answer with its value changed by `f`.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: f(self.value), meta: self.meta }
    }
}

/// Returns the index to ask with next, after `answered` came back to a query with `previous`.
///
/// The rules of Consul's documentation for blocking queries: an index that went backwards
/// (restored snapshot, new cluster) starts over without blocking, and an index of 0 counts as 1,
/// since asking with 0 would not block and the loop would spin. A loop still needs a pause after
/// an answer that came at once.
///
/// Not for events: their index is made from the event's id and goes up and down.
pub fn next_index(previous: u64, answered: u64) -> u64 {
    let answered = answered.max(1);
    if answered < previous { 0 } else { answered }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_rules() {
        assert_eq!(next_index(0, 7), 7);
        assert_eq!(next_index(7, 7), 7);
        assert_eq!(next_index(7, 9), 9);
        assert_eq!(next_index(9, 7), 0, "a lower index starts over");
        assert_eq!(next_index(0, 0), 1, "0 would not block");
        assert_eq!(next_index(5, 0), 0);
    }

    #[test]
    fn only_an_index_makes_a_query_block() {
        let mut parameters = Vec::new();
        Query { wait: Some(Duration::from_secs(3)), ..Query::new() }.parameters(&mut parameters);
        assert!(parameters.is_empty());
        Query::blocking(5, Duration::from_secs(7200)).parameters(&mut parameters);
        assert_eq!(parameters, [("index", "5".to_owned()), ("wait", "600000ms".to_owned())]);
    }
}
