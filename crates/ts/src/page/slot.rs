//! One job's part of the page: how often it was kicked, what runs cover, and what they said.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::job::Key;
use crate::sys;

/// Results kept for each.
const RING: usize = 16;
const READY: u64 = 1 << 63;

/// One job.
#[repr(C)]
pub(crate) struct Slot {
    /// `READY` and the number of kicks.
    word: AtomicU64,
    /// The kicks that finished runs cover.
    done: AtomicU64,
    /// The kicks that the last started run covers, if it ends.
    began: AtomicU64,
    key: [AtomicU64; 2],
    /// Results up to here are no longer kept.
    floor: AtomicU64,
    /// When (ms since boot) the job is to be run again after a failure; 0 for never.
    retry_at: AtomicU64,
    /// Failures in a row.
    failures: AtomicU64,
    /// The job was kicked or resumed in this boot.
    seen: AtomicU64,
    used_ms: AtomicU64,
    /// When (ms since boot) the first kick came that no started run covers, and the last.
    first_ms: AtomicU64,
    kicked_ms: AtomicU64,
    /// What those kicks said about when their run may start; see [`Pace`].
    quiet_ms: AtomicU64,
    at_most_ms: AtomicU64,
    splay_ms: AtomicU64,
    results: AtomicU64,
    ring: [Entry; RING],
}

#[repr(C)]
struct Entry {
    seq: AtomicU64,
    from: AtomicU64,
    status: AtomicU64,
    run: AtomicU64,
    started_unix_ms: AtomicU64,
    duration_ms: AtomicU64,
}

/// When the run of a kick may start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// No kick has come for this long,
    pub quiet_ms: u64,
    /// or the first one is this old;
    pub at_most_ms: u64,
    /// and in any case the first one is this old.
    pub splay_ms: u64,
}

/// What a finished run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The first kick it covers.
    pub from: u64,
    /// The last kick it covers.
    pub seq: u64,
    /// Its exit status.
    pub status: u8,
    /// Its number.
    pub run: u64,
    /// When it started, by the wall clock.
    pub started_unix_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// Where a kick stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// A run that covers it has ended.
    Covered(Outcome),
    /// No run that covers it has ended yet.
    Pending,
    /// One has, so long ago that its result is no longer kept.
    Forgotten,
    /// There was no such kick.
    Unknown,
}

impl Slot {
    /// Returns the number of kicks, if the slot holds a job.
    pub(crate) fn kicks(&self) -> Option<u64> {
        let word = self.word.load(SeqCst);
        (word & READY != 0).then_some(word & !READY)
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }

    pub(crate) fn began(&self) -> u64 {
        self.began.load(SeqCst)
    }

    pub(crate) fn key(&self) -> Key {
        Key([self.key[0].load(SeqCst), self.key[1].load(SeqCst)])
    }

    pub(crate) fn failures(&self) -> u32 {
        u32::try_from(self.failures.load(SeqCst)).unwrap_or(u32::MAX)
    }

    /// Returns when the job is to be run again after a failure.
    pub(crate) fn retry_at(&self) -> Option<u64> {
        Some(self.retry_at.load(SeqCst)).filter(|at| *at != 0)
    }

    /// Whether kicks wait that no finished run covers.
    pub(crate) fn is_pending(&self) -> bool {
        self.kicks().is_some_and(|kicks| kicks > self.done())
    }

    /// Returns the time (ms since boot) before which the pending kicks do not want their run.
    pub(crate) fn not_before(&self) -> u64 {
        let (first, kicked) = (self.first_ms.load(SeqCst), self.kicked_ms.load(SeqCst));
        let after = |from: u64, pause: &AtomicU64| match pause.load(SeqCst) {
            0 => 0,
            pause => from.saturating_add(pause),
        };
        after(kicked, &self.quiet_ms).min(after(first, &self.at_most_ms)).max(after(first, &self.splay_ms))
    }

    fn set_pace(&self, pace: Pace) {
        self.quiet_ms.store(pace.quiet_ms, SeqCst);
        self.at_most_ms.store(pace.at_most_ms, SeqCst);
        self.splay_ms.store(pace.splay_ms, SeqCst);
    }

    /// Commits a kick for `key` and returns its number, unless the slot is another job's by now.
    /// `first` is called before the commit when the kick is the first that no started run covers; its pace
    /// holds for those that follow, until one comes that does not want to wait at all.
    pub(crate) fn kick<E>(
        &self,
        key: Key,
        pace: Pace,
        mut first: impl FnMut() -> Result<(), E>,
    ) -> Result<Option<u64>, E> {
        loop {
            let word = self.word.load(SeqCst);
            if word & READY == 0 || self.key() != key {
                return Ok(None);
            }
            let kicks = word & !READY;
            let opens = kicks == self.done() || kicks == self.began();
            if opens {
                first()?;
                let now = sys::boot_ms();
                self.set_pace(pace);
                self.first_ms.store(now, SeqCst);
                self.kicked_ms.store(now, SeqCst);
            }
            if self.word.compare_exchange(word, word + 1, SeqCst, SeqCst).is_ok() {
                let now = sys::boot_ms();
                self.seen.store(1, SeqCst);
                self.used_ms.store(now, SeqCst);
                self.kicked_ms.store(now, SeqCst);
                if !opens && pace == Pace::default() {
                    self.set_pace(pace);
                }
                return Ok(Some(kicks + 1));
            }
        }
    }

    /// Turns a due retry into the run's own kick. Holder of the lock only.
    pub(crate) fn kick_for_retry(&self) {
        self.word.fetch_add(1, SeqCst);
        self.retry_at.store(0, SeqCst);
    }

    /// Starts over with failures: somebody kicked. Holder of the lock only.
    pub(crate) fn reset_failures(&self) {
        self.failures.store(0, SeqCst);
        self.retry_at.store(0, SeqCst);
    }

    /// Samples the kicks that a run starting now covers. Holder of the lock only.
    pub(crate) fn begin(&self) -> u64 {
        let kicks = self.kicks().unwrap_or(0);
        self.began.store(kicks, SeqCst);
        kicks
    }

    /// Publishes a result; joiners see it before the kicks count as covered. Holder of the lock only.
    pub(crate) fn publish(&self, outcome: Outcome, retry_in: Option<Duration>) {
        let results = self.results.load(SeqCst);
        let entry = &self.ring[usize::try_from(results).unwrap_or(0) % RING];
        // Whoever misses the old entry must already find the floor above it.
        self.floor.fetch_max(entry.seq.load(SeqCst), SeqCst);
        entry.seq.store(0, SeqCst);
        entry.from.store(outcome.from, SeqCst);
        entry.status.store(outcome.status.into(), SeqCst);
        entry.run.store(outcome.run, SeqCst);
        entry.started_unix_ms.store(outcome.started_unix_ms, SeqCst);
        entry.duration_ms.store(outcome.duration_ms, SeqCst);
        entry.seq.store(outcome.seq, SeqCst);
        self.results.store(results.wrapping_add(1), SeqCst);
        match retry_in {
            Some(pause) => {
                let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                self.failures.fetch_add(1, SeqCst);
                self.retry_at.store(sys::boot_ms().saturating_add(pause).max(1), SeqCst);
            }
            None => self.reset_failures(),
        }
        self.used_ms.store(sys::boot_ms(), SeqCst);
        self.done.store(outcome.seq, SeqCst);
    }

    /// Returns where the kick `seq` stands.
    pub(crate) fn coverage(&self, seq: u64) -> Coverage {
        if seq == 0 || self.kicks().is_none_or(|kicks| seq > kicks) {
            return Coverage::Unknown;
        }
        // The floor is read last: an entry that was overwritten while we looked has raised it.
        let covering = self.outcomes().into_iter().find(|outcome| outcome.seq >= seq);
        let floor = self.floor.load(SeqCst);
        match covering {
            _ if seq <= floor => Coverage::Forgotten,
            Some(outcome) => Coverage::Covered(outcome),
            None => Coverage::Pending,
        }
    }

    /// Returns the kept results, oldest first.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = self.ring.iter().filter_map(Entry::read).collect();
        outcomes.sort_by_key(|outcome| outcome.seq);
        outcomes
    }

    /// Whether this boot has seen the job.
    pub(super) fn is_seen(&self) -> bool {
        self.seen.load(SeqCst) != 0
    }

    /// Returns when (ms since boot) it was last used.
    pub(super) fn used_ms(&self) -> u64 {
        self.used_ms.load(SeqCst)
    }

    /// Enters another boot: what was pending or waiting for a retry stays so.
    pub(super) fn enter_boot(&self) {
        self.seen.store(0, SeqCst);
        self.set_pace(Pace::default());
        if self.retry_at().is_some() {
            self.retry_at.store(1, SeqCst);
        }
    }

    /// Counts one kick for a job whose counters were lost.
    pub(super) fn recover(&self) {
        self.word.fetch_add(1, SeqCst);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.kicks().is_none_or(|kicks| kicks == self.done() && self.retry_at().is_none())
    }

    /// Makes the slot hold a job. Under the table lock only.
    pub(super) fn claim(&self, key: Key) -> bool {
        let word = self.word.load(SeqCst);
        if word & READY != 0 && (word & !READY != self.done() || self.retry_at().is_some()) {
            return false;
        }
        // One kick is skipped: a kicker that still believes in the old job fails to commit.
        let next = (word & !READY) + 1;
        if self.word.compare_exchange(word, next, SeqCst, SeqCst).is_err() {
            return false;
        }
        self.key[0].store(key.0[0], SeqCst);
        self.key[1].store(key.0[1], SeqCst);
        for entry in &self.ring {
            entry.seq.store(0, SeqCst);
        }
        self.results.store(0, SeqCst);
        self.reset_failures();
        self.seen.store(0, SeqCst);
        self.set_pace(Pace::default());
        self.floor.store(next, SeqCst);
        self.began.store(next, SeqCst);
        self.done.store(next, SeqCst);
        self.used_ms.store(sys::boot_ms(), SeqCst);
        self.word.store(next | READY, SeqCst);
        true
    }
}

impl Entry {
    fn read(&self) -> Option<Outcome> {
        let seq = self.seq.load(SeqCst);
        let outcome = Outcome {
            from: self.from.load(SeqCst),
            seq,
            status: u8::try_from(self.status.load(SeqCst)).ok()?,
            run: self.run.load(SeqCst),
            started_unix_ms: self.started_unix_ms.load(SeqCst),
            duration_ms: self.duration_ms.load(SeqCst),
        };
        (seq != 0 && self.seq.load(SeqCst) == seq).then_some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::Page;
    use super::super::tests::{kick, outcome, queue};
    use super::*;

    #[test]
    fn a_kick_is_pending_until_a_run_that_began_after_it_is_published() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        let (index, first) = kick(&page, &places, Key([1, 1]));
        let slot = page.slot(index);
        assert_eq!(slot.coverage(first), Coverage::Pending);
        let began = slot.begin();
        let (_, second) = kick(&page, &places, Key([1, 1]));
        slot.publish(outcome(first, began, 3), None);
        assert_eq!(slot.coverage(first), Coverage::Covered(outcome(first, began, 3)));
        assert_eq!(slot.coverage(second), Coverage::Pending);
        assert!(slot.is_pending());
        assert_eq!(slot.coverage(second + 1), Coverage::Unknown);
    }

    #[test]
    fn the_record_is_written_for_the_first_pending_kick_only() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        let key = Key([1, 1]);
        let slot = page.slot(page.find_or_claim(key, &places).expect("free"));
        let mut written = 0;
        let mut kick = || {
            slot.kick(key, Pace::default(), || {
                written += 1;
                Ok::<(), Infallible>(())
            })
        };
        for _ in 0..3 {
            kick().expect("infallible");
        }
        slot.begin();
        for _ in 0..3 {
            kick().expect("infallible");
        }
        assert_eq!(written, 2);
    }

    #[test]
    fn kicks_are_gathered_until_it_is_quiet_but_not_for_ever() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        let key = Key([1, 1]);
        let slot = page.slot(page.find_or_claim(key, &places).expect("free"));
        let kick = |pace| slot.kick(key, pace, || Ok::<(), Infallible>(())).expect("infallible");
        let pace = Pace { quiet_ms: 1_000, at_most_ms: 5_000, splay_ms: 0 };
        let before = sys::boot_ms();
        kick(pace);
        assert!(slot.not_before() >= before + 1_000 && slot.not_before() <= sys::boot_ms() + 1_000);
        slot.first_ms.store(before.saturating_sub(4_500), SeqCst);
        kick(pace);
        assert!(slot.not_before() <= before + 500, "the first kick has waited long enough");
        slot.set_pace(Pace { splay_ms: 60_000, ..pace });
        assert!(slot.not_before() > before + 50_000);
        kick(Pace::default());
        assert_eq!(slot.not_before(), 0, "who is in a hurry takes the others along");
    }

    #[test]
    fn old_results_are_forgotten_and_said_to_be() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        let key = Key([1, 1]);
        let mut first = 0;
        for round in 0..=RING {
            let (index, seq) = kick(&page, &places, key);
            if round == 0 {
                first = seq;
            }
            page.slot(index).publish(outcome(seq, page.slot(index).begin(), 0), None);
        }
        let slot = page.slot(page.find(key).expect("kept"));
        assert_eq!(slot.coverage(first), Coverage::Forgotten);
        assert!(matches!(slot.coverage(first + 1), Coverage::Covered(_)));
    }
}
