//! A bound on how many repositories use one server at the same time, which adapts to the server.
//!
//! A server that says it is overloaded (429, 503) gets half as many from then on, one at least; each
//! time as many as it gets now have gone well, it gets one more, up to the bound.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Slots per host.
#[derive(Debug)]
pub(crate) struct Slots {
    most: usize,
    hosts: Mutex<HashMap<String, Host>>,
    freed: Condvar,
}

#[derive(Debug)]
struct Host {
    limit: usize,
    taken: usize,
    /// Answers since the limit was changed.
    went_well: usize,
}

/// A slot that is held; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    slots: &'a Slots,
    host: String,
}

impl Slots {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, hosts: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits for a slot of `host`. Holders end with their own time limit, so this ends too.
    pub(crate) fn take(&self, host: &str) -> Slot<'_> {
        let host = host.to_ascii_lowercase();
        let mut hosts = self.lock();
        loop {
            let entry = hosts.entry(host.clone()).or_insert(Host { limit: self.most, taken: 0, went_well: 0 });
            if entry.taken < entry.limit {
                entry.taken += 1;
                return Slot { slots: self, host };
            }
            hosts = self.freed.wait(hosts).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, host: &str, change: impl FnOnce(&mut Host)) {
        if let Some(entry) = self.lock().get_mut(host) {
            change(entry);
        }
        // All, because waiters of other hosts may be the ones that wake.
        self.freed.notify_all();
    }
}

impl Slot<'_> {
    /// Notes that the server had too much to do.
    pub(crate) fn crowded(&self) {
        self.slots.change(&self.host, |host| {
            // Those who were let in together are told together; that is one sign, not many.
            if host.taken <= host.limit {
                host.limit = (host.limit / 2).max(1);
            }
            host.went_well = 0;
        });
    }

    /// Notes that the server did its work.
    pub(crate) fn went_well(&self) {
        self.slots.change(&self.host, |host| {
            host.went_well += 1;
            if host.went_well >= host.limit && host.limit < self.slots.most {
                host.limit += 1;
                host.went_well = 0;
            }
        });
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.slots.change(&self.host, |host| host.taken -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_host_has_more_than_its_slots() {
        let slots = Slots::new(2);
        let (active, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let _other = slots.take("other");
            for _ in 0..8 {
                scope.spawn(|| {
                    let _slot = slots.take("Host");
                    peak.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    active.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(peak.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_crowded_server_gets_half_and_comes_back_step_by_step() {
        let slots = Slots::new(8);
        let limit = |host: &str| slots.lock()[host].limit;
        let held: Vec<Slot<'_>> = (0..8).map(|_| slots.take("h")).collect();
        held[0].crowded();
        assert_eq!(limit("h"), 4);
        held[1].crowded();
        assert_eq!(limit("h"), 4, "eight were let in together");
        drop(held);
        for expected in [2, 1, 1] {
            slots.take("h").crowded();
            assert_eq!(limit("h"), expected);
        }
        for _ in 0..100 {
            slots.take("h").went_well();
        }
        assert_eq!(limit("h"), 8);
    }
}
