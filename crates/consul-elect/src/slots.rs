//! Slots: at most so many holders of a name at a time, anywhere in the cluster.
//!
//! Each slot is a place like that of a leader: a key that exists exactly as long as somebody holds it, a session, beats,
//! and a fencing token that is higher for each later holder of the slot. Who wants any of them reads all records at
//! once, tries one of those that are free, chosen at random so that many who wait do not all try the same, and else
//! waits for a record to go. Holders that fell silent are deposed as silent leaders are ([`crate::campaign`]).
//!
//! The limit is the caller's: who asks with a lower one uses fewer of the slots, and those above it are left as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use consul_client::{KvPair, Query, next_index};
use toolkit::backoff::random_fraction;

use crate::campaign::{Campaign, LOOK_EVERY, Sight, Step, holder};
use crate::record::{Place, slot_leases_prefix, slots_prefix};
use crate::{Error, clock};

/// A campaign for any of the slots.
#[derive(Debug)]
pub(crate) struct Slots {
    name: String,
    places: Vec<Place>,
    /// Index to wait with for the next change of the records.
    index: u64,
    sights: Vec<Sight>,
}

impl Slots {
    pub(crate) fn new(name: &str, limit: u32) -> Slots {
        let places: Vec<Place> = (1..=limit).map(|number| Place::slot(name, number)).collect();
        let sights = places.iter().map(|_| Sight::default()).collect();
        Slots { name: name.to_owned(), places, index: 0, sights }
    }

    /// Looks once, waiting for a change for a while.
    pub(crate) fn step(&mut self, campaign: &Campaign) -> Result<Step, Error> {
        let query = if self.index == 0 { Query::new() } else { Query::blocking(self.index, self.patience()) };
        let answer = campaign.client.kv().list(&slots_prefix(&self.name), &query)?;
        self.index = next_index(self.index, answer.meta.index);
        let held: BTreeMap<&str, &KvPair> = answer.value.iter().map(|pair| (pair.key.as_str(), pair)).collect();
        let free: Vec<&Place> = self.places.iter().filter(|place| !held.contains_key(place.key.as_str())).collect();
        if !free.is_empty() {
            // What is tried and not won must not be waited for: a lock delay that ends wakes nobody.
            self.index = 0;
            return Ok(campaign.attempt(pick(&free))?.map_or(Step::NotYet, Step::Won));
        }
        let records: Vec<KvPair> =
            self.places.iter().filter_map(|place| held.get(place.key.as_str()).map(|pair| (*pair).clone())).collect();
        if self.depose_silent(campaign, &records)? {
            self.index = 0;
            return Ok(Step::Freed);
        }
        let mut holders: Vec<String> = records.iter().map(holder).collect();
        holders.sort();
        holders.dedup();
        Ok(Step::Held(holders.join(", ")))
    }

    /// How long to wait for a change before silent holders are looked for.
    fn patience(&self) -> Duration {
        let now = clock::now();
        let left = self.sights.iter().filter_map(|sight| sight.overdue()).map(|at| at.saturating_sub(now)).min();
        left.map_or(LOOK_EVERY, |left| left.clamp(Duration::from_millis(100), LOOK_EVERY))
    }

    /// Ends the sessions of holders whose lease is over; `records` are those of all places.
    fn depose_silent(&mut self, campaign: &Campaign, records: &[KvPair]) -> Result<bool, Error> {
        let prefix = slot_leases_prefix(&self.name);
        let beats = |query: &Query| -> Result<BTreeMap<String, KvPair>, Error> {
            let listed = campaign.client.kv().list(&prefix, query)?.value;
            Ok(listed.into_iter().map(|pair| (pair.key.clone(), pair)).collect())
        };
        let seen = beats(&Query::new())?;
        let mut sure = None;
        let mut any = false;
        for ((place, sight), record) in self.places.iter().zip(&mut self.sights).zip(records) {
            let Some(session) = record.session.as_deref() else { continue };
            if !sight.look(session, seen.get(&place.lease), clock::now()) {
                continue;
            }
            // A beat may have come that this answer was too old for.
            let sure = match &sure {
                Some(sure) => sure,
                None => sure.insert(beats(&Query::consistent())?),
            };
            if sight.look(session, sure.get(&place.lease), clock::now()) {
                any |= campaign.depose(place, record, sight)?;
            }
        }
        Ok(any)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "there are few, and the remainder keeps it inside"
)]
fn pick<'a>(free: &[&'a Place]) -> &'a Place {
    free[(random_fraction() * free.len() as f64) as usize % free.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_free_slot_is_chosen_now_and_then() {
        let places: Vec<Place> = (1..=3).map(|number| Place::slot("x", number)).collect();
        let all: Vec<&Place> = places.iter().collect();
        let chosen: std::collections::BTreeSet<&str> = (0..200).map(|_| pick(&all).key.as_str()).collect();
        assert_eq!(
            chosen.into_iter().collect::<Vec<_>>(),
            ["stacktira/slot/x/1", "stacktira/slot/x/2", "stacktira/slot/x/3"]
        );
    }
}
