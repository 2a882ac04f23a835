//! The record of an election: the value of `stacktira/leader/NAME`.
//!
//! Both kinds of election make the key anew, so its create index is the fencing token: raised by every write of
//! the cluster, it is higher for every later leader. The record repeats it for readers of the value; in the
//! moment before that it is null there, and readers take it from the key.
//!
//! A key that a session holds was made by `run`, and goes away with the session. One that none holds is the
//! choice of `once`.

use std::time::{SystemTime, UNIX_EPOCH};

use consul_client::{AgentInfo, Client, KvPair, Query};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Name of the leader's node.
    pub(crate) node: String,
    /// Address of the leader's node.
    pub(crate) address: String,
    /// The session that leads; null for a choice made for good.
    pub(crate) session: Option<String>,
    /// The fencing token.
    pub(crate) token: Option<u64>,
    /// When it was elected, in UTC.
    pub(crate) since: String,
}

impl Record {
    pub(crate) fn new(agent: &AgentInfo, session: Option<&str>) -> Record {
        Record {
            node: agent.node.clone(),
            address: agent.address.clone(),
            session: session.map(str::to_owned),
            token: None,
            since: utc(SystemTime::now()),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers serialise")
    }
}

/// A record with the key that holds it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// With its token, whether that is written or not.
    pub(crate) record: Record,
    /// Whether the stored form has the token.
    pub(crate) complete: bool,
    pub(crate) pair: KvPair,
}

impl Stored {
    /// Reads the record of an election; `None` when nobody leads.
    pub(crate) fn read(client: &Client, name: &str, query: &Query) -> Result<Option<Stored>, Error> {
        match client.kv().get(&key(name), query)?.value {
            Some(pair) => Stored::of(pair),
            None => Ok(None),
        }
    }

    fn of(pair: KvPair) -> Result<Option<Stored>, Error> {
        let mut record: Record = serde_json::from_slice(&pair.value)
            .map_err(|e| Error::Record { key: pair.key.clone(), reason: e.to_string() })?;
        if record.session.is_some() && record.session != pair.session {
            // The session ended and left its record: nobody leads.
            return Ok(None);
        }
        let complete = record.token == Some(pair.create_index);
        record.token = Some(pair.create_index);
        Ok(Some(Stored { record, complete, pair }))
    }

    /// Whether a `run` holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.pair.session.is_some()
    }
}

/// Returns the key of an election.
pub(crate) fn key(name: &str) -> String {
    format!("stacktira/leader/{name}")
}

/// One thing that one holder at a time can hold: an election, or one slot of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// What people call it.
    pub(crate) what: String,
    /// Key of the record.
    pub(crate) key: String,
    /// Key of the holder's beats: apart from the record, so that nobody who watches that is woken by them.
    pub(crate) lease: String,
}

impl Place {
    /// Returns the place of a leader.
    pub(crate) fn leader(name: &str) -> Place {
        Place { what: format!("leadership of {name}"), key: key(name), lease: format!("stacktira/lease/{name}") }
    }

    /// Returns a slot, counted from 1.
    pub(crate) fn slot(name: &str, number: u32) -> Place {
        Place {
            what: format!("slot {number} of {name}"),
            key: format!("{}{number}", slots_prefix(name)),
            lease: format!("{}{number}", slot_leases_prefix(name)),
        }
    }
}

/// Returns the prefix of the records of all slots of a name.
pub(crate) fn slots_prefix(name: &str) -> String {
    format!("stacktira/slot/{name}/")
}

/// Returns the prefix of the beats of all slots of a name; names hold no slash, so no election's beats are there.
pub(crate) fn slot_leases_prefix(name: &str) -> String {
    format!("stacktira/lease/{name}/")
}

/// Writes a time as RFC 3339 in UTC, to the second.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that leap days end a year: the usual civil calendar arithmetic.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn a_record_without_its_session_leads_nothing() {
        let pair = |session: Option<&str>| KvPair {
            key: "stacktira/leader/x".to_owned(),
            value: br#"{"node":"n","address":"a","session":"s1","token":null,"since":"t","more":1}"#.to_vec(),
            flags: 0,
            create_index: 7,
            modify_index: 9,
            lock_index: 1,
            session: session.map(str::to_owned),
        };
        let stored = Stored::of(pair(Some("s1"))).expect("it is a record").expect("it is held");
        assert_eq!(stored.record.token, Some(7), "the token is the key's create index");
        assert!(!stored.complete);
        assert!(Stored::of(pair(None)).expect("it is a record").is_none());
        assert!(Stored::of(pair(Some("s2"))).expect("it is a record").is_none());
        let broken = KvPair { value: b"{}".to_vec(), ..pair(None) };
        assert!(matches!(Stored::of(broken), Err(Error::Record { .. })));
    }
}
