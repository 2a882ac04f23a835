//! The page: a queue's counters, its running child and its recent results, in one file that every
//! participant maps.
//!
//! What always holds:
//! - A kick is one compare-and-swap of the job's `word`. It cannot tear and needs no disk block: the file
//!   is fully allocated before it gets its name.
//! - Everything but `word`, `wake` and `stop` is written by the holder of the queue's lock, or, in `rec`,
//!   by the child that shares that lock until its exec.
//! - A slot is claimed or reused under the short `table` lock, and reused only when nothing of it is
//!   pending. Its count goes on upwards, so a kicker that read the slot before cannot commit to it after,
//!   and no ticket is given twice within one boot.
//! - All accesses are sequentially consistent: "publish, then try the lock" of a kicker against "unlock,
//!   then read again" of a leader is only right if one of the two sees the other.
//! - The page outlives no boot: what is found from another boot has no running child.

mod child;
mod slot;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use toolkit::lock::FileLock;

use crate::dir::Places;
use crate::error::Error;
use crate::ident;
use crate::job::{Job, Key};
use crate::sys;

pub(crate) use child::Rec;
pub use child::Running;
pub(crate) use slot::Slot;
pub use slot::{Coverage, Outcome, Pace};

/// Jobs that one queue can tell apart at a time.
pub const SLOTS: usize = 64;
const MAGIC: u64 = u64::from_be_bytes(*b"ts-page2");
/// How long a request to yield holds; whoever makes it repeats it much more often.
const YIELD_MS: u64 = 500;
const TABLE_PATIENCE: Duration = Duration::from_secs(5);

#[repr(C)]
struct Layout {
    magic: AtomicU64,
    boot: [AtomicU64; 2],
    /// Changes whenever anything does; sleepers wait on it.
    wake: AtomicU32,
    _pad: AtomicU32,
    /// Number of the last run.
    runs: AtomicU64,
    /// The slot after the one that ran last, so that every job gets its turn.
    cursor: AtomicU64,
    /// When (ms since boot) somebody who can record nothing asked for the lock of a leader that only waits.
    yield_to: AtomicU64,
    /// Runs that ended in success, in failure, and with their leader's death; kicks that runs covered; and
    /// when the last success was, by the wall clock. Only counted.
    tally: [AtomicU64; 5],
    rec: Rec,
    slots: [Slot; SLOTS],
}

/// What is counted over all runs of a queue, since its page was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs that ended with a status that means success.
    pub succeeded: u64,
    /// Runs that ended with another.
    pub failed: u64,
    /// Runs whose leader died, so that nobody knows.
    pub lost: u64,
    /// Kicks that runs covered.
    pub covered: u64,
    /// When the last success ended, by the wall clock; 0 for never.
    pub success_unix_ms: u64,
}

/// A mapped page.
pub(crate) struct Page {
    layout: NonNull<Layout>,
    file: File,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length and no reference outlives `self`.
        let _ = unsafe { munmap(self.layout.cast(), size_of::<Layout>()) };
    }
}

impl Page {
    /// Maps the queue's page, making it first if it is missing, damaged or of another boot.
    ///
    /// # Errors
    /// It cannot be made, or the short lock is stuck.
    pub(crate) fn open(places: &Places) -> Result<Page, Error> {
        let path = places.page();
        let boot = ident::boot_id().map_err(Error::system("read the boot id"))?;
        if let Some(page) = Page::map(&path).map_err(|source| Error::io("map", &path, source))?
            && page.boot() == boot
        {
            return Ok(page);
        }
        let _table = lock_table(places)?;
        // Somebody else may have made it while we waited.
        match Page::map(&path).map_err(|source| Error::io("map", &path, source))? {
            Some(page) => {
                if page.boot() != boot {
                    page.enter_boot(boot);
                }
                Ok(page)
            }
            None => Page::create(places, boot),
        }
    }

    /// Maps the page if it is there and of this boot; makes nothing.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn look(places: &Places) -> Result<Option<Page>, Error> {
        let path = places.page();
        let page = Page::map(&path).map_err(|source| Error::io("map", &path, source))?;
        let boot = ident::boot_id().map_err(Error::system("read the boot id"))?;
        Ok(page.filter(|page| page.boot() == boot))
    }

    fn map(path: &Path) -> std::io::Result<Option<Page>> {
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != size_of::<Layout>() as u64 {
            return Ok(None);
        }
        let length = std::num::NonZeroUsize::new(size_of::<Layout>()).expect("the layout is not empty");
        // SAFETY: a shared mapping of a file of exactly this length; it is only ever reached through the
        // atomics of `Layout`, for which every bit pattern is valid, by us and by every other process.
        // The file is in a directory that only we can write to, and no code of ours shortens it.
        let address = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file.as_fd(), 0)?
        };
        let page = Page { layout: address.cast(), file };
        Ok((page.layout().magic.load(SeqCst) == MAGIC).then_some(page))
    }

    /// Makes the page under a temporary name, fully allocated, and gives it its name when it is whole.
    fn create(places: &Places, boot: [u64; 2]) -> Result<Page, Error> {
        let path = places.page();
        let temporary = places.dir.join("page.new");
        let made = Page::write_blank(&temporary, boot);
        if made.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        made.map_err(|source| Error::io("create", &path, source))?;
        let page = Page::map(&temporary)
            .and_then(|page| page.ok_or_else(|| std::io::Error::other("the new page is not whole")))
            .map_err(|source| Error::io("map", &temporary, source))?;
        page.layout().runs.store(crate::runlog::last_run(&places.runs()), SeqCst);
        page.recover_jobs(places).map_err(|source| Error::io("read", &places.jobs(), source))?;
        std::fs::rename(&temporary, &path).map_err(|source| Error::io("rename", &path, source))?;
        Ok(page)
    }

    fn write_blank(path: &Path, boot: [u64; 2]) -> std::io::Result<()> {
        use std::io::Write;
        let _ = std::fs::remove_file(path);
        let mut file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let length = i64::try_from(size_of::<Layout>()).expect("the layout is small");
        nix::fcntl::posix_fallocate(&file, 0, length)?;
        let mut head = MAGIC.to_ne_bytes().to_vec();
        head.extend(boot[0].to_ne_bytes());
        head.extend(boot[1].to_ne_bytes());
        file.write_all(&head)
    }

    /// A page that was lost took the counters with it, so every job on record counts as kicked. What cannot be read now
    /// is not given up: then there is no page yet.
    fn recover_jobs(&self, places: &Places) -> std::io::Result<()> {
        let mut slots = self.layout().slots.iter();
        for entry in std::fs::read_dir(places.jobs())? {
            let entry = entry?;
            match Job::load(&entry.path()) {
                Ok(job) if entry.file_name() == *job.key().to_string() => {
                    let Some(slot) = slots.next() else { return Ok(()) };
                    if slot.claim(job.key()) {
                        slot.recover();
                    }
                }
                Err(error) if !Job::is_damaged(&error) => return Err(error),
                // What a killed kicker left half-written.
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
        Ok(())
    }

    /// Forgets the child of the boot before; what was pending or waiting for a retry stays so.
    fn enter_boot(&self, boot: [u64; 2]) {
        let layout = self.layout();
        layout.rec.clear();
        for slot in &layout.slots {
            slot.enter_boot();
        }
        layout.boot[0].store(boot[0], SeqCst);
        layout.boot[1].store(boot[1], SeqCst);
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping lives as long as `self`, is large enough and page-aligned, and holds atomics only.
        unsafe { self.layout.as_ref() }
    }

    fn boot(&self) -> [u64; 2] {
        [self.layout().boot[0].load(SeqCst), self.layout().boot[1].load(SeqCst)]
    }

    /// Whether the file that is mapped has lost its name, so that nobody else will see it.
    pub(crate) fn is_orphan(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    pub(crate) fn rec(&self) -> &Rec {
        &self.layout().rec
    }

    /// Returns the child on record, whether or not it still lives.
    pub(crate) fn recorded(&self) -> Option<Running> {
        self.layout().rec.read()
    }

    /// Returns the child on record if it lives.
    pub(crate) fn running(&self) -> Option<Running> {
        self.recorded().filter(|running| ident::Process::find(running.pid, running.start).is_some())
    }

    pub(crate) fn slot(&self, index: usize) -> &Slot {
        &self.layout().slots[index]
    }

    /// Returns the slots that hold a job.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.layout().slots.iter().enumerate().filter(|(_, slot)| slot.kicks().is_some())
    }

    /// Returns the slots that hold a job, beginning after the one that ran last.
    pub(crate) fn jobs_in_turn(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let first = usize::try_from(self.layout().cursor.load(SeqCst)).unwrap_or(0) % SLOTS;
        (0..SLOTS)
            .map(move |step| (first + step) % SLOTS)
            .map(|index| (index, self.slot(index)))
            .filter(|(_, slot)| slot.kicks().is_some())
    }

    /// Notes whose turn it was. Holder of the lock only.
    pub(crate) fn took_turn(&self, index: usize) {
        self.layout().cursor.store((index as u64 + 1) % SLOTS as u64, SeqCst);
    }

    /// Returns the number of a new run. Holder of the lock only.
    pub(crate) fn next_run(&self) -> u64 {
        self.layout().runs.fetch_add(1, SeqCst) + 1
    }

    /// Returns the slot that holds this job.
    pub(crate) fn find(&self, key: Key) -> Option<usize> {
        self.jobs().find(|(_, slot)| slot.key() == key).map(|(index, _)| index)
    }

    /// Whether this boot has seen the job.
    pub(crate) fn has_seen(&self, key: Key) -> bool {
        self.find(key).is_some_and(|index| self.slot(index).is_seen())
    }

    /// Returns the slot of the job, claiming one if it has none.
    ///
    /// # Errors
    /// The short lock is stuck, or every slot holds a job that is still to be run.
    pub(crate) fn find_or_claim(&self, key: Key, places: &Places) -> Result<usize, Error> {
        if let Some(index) = self.find(key) {
            return Ok(index);
        }
        let _table = lock_table(places)?;
        if let Some(index) = self.find(key) {
            return Ok(index);
        }
        // Never used first, then what nobody used for longest.
        let running = self.recorded().map(|running| running.slot);
        let mut free: Vec<usize> =
            (0..SLOTS).filter(|index| Some(*index) != running && self.slot(*index).is_idle()).collect();
        free.sort_by_key(|index| self.slot(*index).used_ms());
        for index in free {
            let old = self.slot(index).kicks().map(|_| self.slot(index).key());
            if self.slot(index).claim(key) {
                if let Some(old) = old {
                    let _ = std::fs::remove_file(places.job(old));
                }
                return Ok(index);
            }
        }
        Err(Error::Full { queue: places.name.to_string(), jobs: SLOTS })
    }

    /// Returns what to compare in [`Page::wait`]; read it before looking at anything else.
    pub(crate) fn pulse(&self) -> u32 {
        self.layout().wake.load(SeqCst)
    }

    /// Sleeps until something has changed since `pulse` was read, or the time is up.
    pub(crate) fn wait(&self, pulse: u32, timeout: Duration) {
        sys::futex_wait(&self.layout().wake, pulse, timeout);
    }

    /// Says that something has changed.
    pub(crate) fn wake(&self) {
        self.layout().wake.fetch_add(1, SeqCst);
        sys::futex_wake(&self.layout().wake);
    }

    /// Asks a leader that only waits for a retry to let go of the lock.
    pub(crate) fn ask_yield(&self) {
        self.layout().yield_to.store(sys::boot_ms().max(1), SeqCst);
        self.wake();
    }

    /// Whether that was asked a moment ago, and by whoever asks still.
    pub(crate) fn must_yield(&self) -> bool {
        let asked = self.layout().yield_to.load(SeqCst);
        asked != 0 && sys::boot_ms().saturating_sub(asked) < YIELD_MS
    }

    /// Takes the request back.
    pub(crate) fn yielded(&self) {
        self.layout().yield_to.store(0, SeqCst);
    }

    /// Counts a run; `None` for one whose end nobody saw. Holder of the lock only.
    pub(crate) fn count(&self, outcome: Option<&Outcome>, success: bool) {
        let tally = &self.layout().tally;
        match outcome {
            None => drop(tally[2].fetch_add(1, SeqCst)),
            Some(outcome) => {
                tally[usize::from(!success)].fetch_add(1, SeqCst);
                tally[3].fetch_add((outcome.seq + 1).saturating_sub(outcome.from), SeqCst);
                if success {
                    tally[4].store(sys::unix_ms(), SeqCst);
                }
            }
        }
    }

    /// Returns what has been counted.
    pub(crate) fn tally(&self) -> Tally {
        let [succeeded, failed, lost, covered, success_unix_ms] =
            [0, 1, 2, 3, 4].map(|index: usize| self.layout().tally[index].load(SeqCst));
        Tally { succeeded, failed, lost, covered, success_unix_ms }
    }
}

fn lock_table(places: &Places) -> Result<FileLock, Error> {
    let path = places.table();
    FileLock::exclusive_until(&path, Instant::now() + TABLE_PATIENCE)
        .map_err(|error| Error::io("lock", &error.path, error.source))?
        .ok_or(Error::Table { path, seconds: TABLE_PATIENCE.as_secs() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::{QueueName, StateDir};
    use std::convert::Infallible;

    pub(super) fn queue() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().expect("scratch directory");
        let places = StateDir::at(dir.path().to_owned()).queue(&QueueName::parse("q").expect("a name"));
        places.prepare().expect("ours");
        (dir, places)
    }

    pub(super) fn kick(page: &Page, places: &Places, key: Key) -> (usize, u64) {
        let index = page.find_or_claim(key, places).expect("a slot is free");
        let seq = page
            .slot(index)
            .kick(key, Pace::default(), || Ok::<(), Infallible>(()))
            .expect("infallible")
            .expect("its slot");
        (index, seq)
    }

    pub(super) fn outcome(from: u64, seq: u64, status: u8) -> Outcome {
        Outcome { from, seq, status, run: seq, started_unix_ms: 1, duration_ms: 2 }
    }

    #[test]
    fn a_slot_is_reused_only_when_nothing_of_it_is_pending() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        for job in 0..SLOTS as u64 {
            kick(&page, &places, Key([job + 1, 0]));
        }
        assert!(matches!(page.find_or_claim(Key([999, 0]), &places), Err(Error::Full { .. })));
        let idle = page.find(Key([7, 0])).expect("there");
        let began = page.slot(idle).begin();
        page.slot(idle).publish(outcome(began, began, 1), Some(Duration::from_secs(60)));
        assert!(page.find_or_claim(Key([999, 0]), &places).is_err(), "its retry is to come");
        page.slot(idle).reset_failures();
        let (index, seq) = kick(&page, &places, Key([999, 0]));
        assert_eq!(index, idle);
        assert!(seq > began, "no ticket is given twice");
        assert_eq!(page.slot(idle).coverage(began), Coverage::Forgotten);
        let late = page.slot(idle).kick(Key([7, 0]), Pace::default(), || Ok::<(), Infallible>(())).expect("infallible");
        assert_eq!(late, None, "the old job's kickers must look again");
    }

    #[test]
    fn counters_are_shared_and_kept() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        let other = Page::open(&places).expect("there");
        let (index, seq) = kick(&page, &places, Key([1, 1]));
        assert_eq!(other.slot(index).kicks(), Some(seq));
        drop((page, other));
        assert!(Page::open(&places).expect("there").slot(index).is_pending());
    }

    #[test]
    fn a_page_of_another_boot_has_no_child_and_keeps_what_is_pending() {
        let (_dir, places) = queue();
        let page = Page::open(&places).expect("made");
        let (index, _) = kick(&page, &places, Key([1, 1]));
        page.rec().announce(index, 1, 1);
        page.rec().sign().expect("proc is there");
        assert!(page.running().is_some());
        page.layout().boot[0].store(1, SeqCst);
        assert!(Page::look(&places).expect("readable").is_none());
        let page = Page::open(&places).expect("taken over");
        assert_eq!(page.recorded(), None);
        assert!(page.slot(index).is_pending());
        assert!(!page.has_seen(Key([1, 1])));
    }

    #[test]
    fn a_damaged_page_is_made_anew() {
        let (_dir, places) = queue();
        let old = Page::open(&places).expect("made");
        std::fs::write(places.dir.join("garbage"), "not a page").expect("ours");
        std::fs::rename(places.dir.join("garbage"), places.page()).expect("ours");
        let new = Page::open(&places).expect("made anew");
        assert!(old.is_orphan() && !new.is_orphan());
        assert_eq!(new.jobs().count(), 0);
    }
}
