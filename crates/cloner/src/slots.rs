//! A bound on how many repositories use one server at the same time.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Slots per host.
#[derive(Debug)]
pub(crate) struct Slots {
    each: usize,
    taken: Mutex<HashMap<String, usize>>,
    freed: Condvar,
}

/// A slot that is held; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    slots: &'a Slots,
    host: String,
}

impl Slots {
    pub(crate) fn new(each: usize) -> Self {
        Self { each, taken: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits for a slot of `host`. Holders end with their own time limit, so this ends too.
    pub(crate) fn take(&self, host: &str) -> Slot<'_> {
        let host = host.to_ascii_lowercase();
        let mut taken = self.lock();
        while taken.get(&host).copied().unwrap_or(0) >= self.each {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken.entry(host.clone()).or_default() += 1;
        Slot { slots: self, host }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.slots.lock().get_mut(&self.host) {
            *count -= 1;
        }
        // All, because waiters of other hosts may be the ones that wake.
        self.slots.freed.notify_all();
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
}
