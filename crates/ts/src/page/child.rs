//! The running child's part of the page, by which it is found again whoever started it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::SLOTS;
use crate::ident;
use crate::sys;

/// The running child, written by itself before exec.
#[repr(C)]
pub(crate) struct Rec {
    state: AtomicU64,
    pid: AtomicU64,
    start: AtomicU64,
    slot: AtomicU64,
    seq: AtomicU64,
    run: AtomicU64,
    started_boot_ms: AtomicU64,
    started_unix_ms: AtomicU64,
    /// The run whose end was asked for; its status is final, whatever the policy says.
    stop: AtomicU64,
}

/// What is known of the running child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its process id, which is its group's too.
    pub pid: i32,
    /// Its start tick.
    pub start: u64,
    /// Its job's slot.
    pub slot: usize,
    /// The kicks it covers when it ends.
    pub seq: u64,
    /// Its number.
    pub run: u64,
    /// When it started, in ms since boot.
    pub started_boot_ms: u64,
    /// When it started, by the wall clock.
    pub started_unix_ms: u64,
}

impl Rec {
    /// Fills in what the leader knows; the holder of the lock calls this before it forks.
    pub(crate) fn announce(&self, slot: usize, seq: u64, run: u64) {
        self.state.store(0, SeqCst);
        self.slot.store(slot as u64, SeqCst);
        self.seq.store(seq, SeqCst);
        self.run.store(run, SeqCst);
        self.started_boot_ms.store(sys::boot_ms(), SeqCst);
        self.started_unix_ms.store(sys::unix_ms(), SeqCst);
    }

    /// Writes the identity of the calling process; called between fork and exec, allocates nothing.
    pub(crate) fn sign(&self) -> std::io::Result<()> {
        let start = ident::own_start_ticks()?;
        self.pid.store(u64::from(std::process::id()), SeqCst);
        self.start.store(start, SeqCst);
        self.state.store(1, SeqCst);
        Ok(())
    }

    /// Forgets the child.
    pub(crate) fn clear(&self) {
        self.state.store(0, SeqCst);
    }

    /// Whether somebody asked for the end of the run that is announced.
    pub(crate) fn stop_asked(&self) -> bool {
        self.stop.load(SeqCst) == self.run.load(SeqCst)
    }

    /// Asks for the end of a run.
    pub(crate) fn ask_stop(&self, run: u64) {
        self.stop.store(run, SeqCst);
    }

    pub(super) fn read(&self) -> Option<Running> {
        if self.state.load(SeqCst) != 1 {
            return None;
        }
        let running = Running {
            pid: i32::try_from(self.pid.load(SeqCst)).ok()?,
            start: self.start.load(SeqCst),
            slot: usize::try_from(self.slot.load(SeqCst)).ok().filter(|slot| *slot < SLOTS)?,
            seq: self.seq.load(SeqCst),
            run: self.run.load(SeqCst),
            started_boot_ms: self.started_boot_ms.load(SeqCst),
            started_unix_ms: self.started_unix_ms.load(SeqCst),
        };
        (self.state.load(SeqCst) == 1 && self.run.load(SeqCst) == running.run).then_some(running)
    }
}
