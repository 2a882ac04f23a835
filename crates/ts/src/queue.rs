//! A queue: its places and its page, and the questions that every participant asks of them.

use std::time::Duration;

use crate::dir::{Places, QueueName};
use crate::error::Error;
use crate::ident;
use crate::job::Job;
use crate::lock::QueueLock;
use crate::page::{Page, SLOTS};
use crate::sys;

const TAG_BITS: u32 = 12;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// A kick, as its number within its job's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The job's slot.
    pub slot: usize,
    /// The number of the kick.
    pub seq: u64,
}

impl Ticket {
    /// Returns the number that users see; it tells the queue too, so that a mix-up is noticed.
    #[must_use]
    pub fn number(self, queue: &QueueName) -> u64 {
        (self.seq << (TAG_BITS + SLOT_BITS)) | ((self.slot as u64) << TAG_BITS) | queue.tag()
    }

    /// Reads a number back, if it is one of this queue.
    #[must_use]
    pub fn of_number(number: u64, queue: &QueueName) -> Option<Ticket> {
        let slot = usize::try_from((number >> TAG_BITS) & (SLOTS as u64 - 1)).ok()?;
        (number & 0xfff == queue.tag()).then_some(Ticket { slot, seq: number >> (TAG_BITS + SLOT_BITS) })
    }
}

/// What a leader finds to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Kicks of this slot wait.
    Kicked(usize),
    /// The pause after a failure of this slot is over.
    Retry(usize),
    /// The next such pause, or one that kicks have asked for, ends in this time.
    Later(Duration),
    /// Nothing, or the queue is disabled.
    Nothing,
}

/// One queue, ready for use.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) places: Places,
    pub(crate) page: Page,
    /// How many leaders died in a row before us, as far as we know: an heir is told.
    pub(crate) deaths: u32,
}

impl Queue {
    /// Makes what is missing of the queue.
    pub(crate) fn open(places: Places) -> Result<Queue, Error> {
        places.prepare()?;
        let page = Page::open(&places)?;
        Ok(Queue { places, page, deaths: 0 })
    }

    /// Looks at a queue without making anything; `None` when this boot has not seen it.
    pub(crate) fn look(places: Places) -> Result<Option<Queue>, Error> {
        if !places.exists()? {
            return Ok(None);
        }
        Ok(Page::look(&places)?.map(|page| Queue { places, page, deaths: 0 }))
    }

    /// Maps the page that has the name now, if ours has lost it.
    pub(crate) fn refresh(&mut self) -> Result<(), Error> {
        if self.page.is_orphan() {
            self.page = Page::open(&self.places)?;
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> &QueueName {
        &self.places.name
    }

    /// Takes the queue's lock if it is free.
    pub(crate) fn try_lock(&self) -> Result<Option<QueueLock>, Error> {
        QueueLock::try_take(&self.places.dir).map_err(|source| Error::io("lock", &self.places.dir, source))
    }

    /// Returns what is to be done next.
    pub(crate) fn due(&self) -> Due {
        if self.places.disabled().is_some() {
            return Due::Nothing;
        }
        let now = sys::boot_ms();
        let mut later = None;
        for (index, slot) in self.page.jobs_in_turn().filter(|(_, slot)| slot.is_pending()) {
            match slot.not_before() {
                at if at <= now => return Due::Kicked(index),
                at => later = later.into_iter().chain([at]).min(),
            }
        }
        let retry = self.page.jobs().filter_map(|(index, slot)| Some((slot.retry_at()?, index))).min();
        match (retry, later) {
            (Some((at, index)), _) if at <= now => Due::Retry(index),
            (None, None) => Due::Nothing,
            (retry, later) => {
                let next = retry.map(|(at, _)| at).into_iter().chain(later).min().unwrap_or(now);
                Due::Later(Duration::from_millis(next.saturating_sub(now)))
            }
        }
    }

    /// Whether a leader is needed: something is due now or later.
    pub(crate) fn needs_leader(&self) -> bool {
        self.due() != Due::Nothing
    }

    /// Whether something runs or is about to.
    pub(crate) fn is_busy(&self) -> bool {
        self.page.running().is_some()
            || matches!(self.due(), Due::Kicked(_) | Due::Retry(_))
            || self.places.disabled().is_none() && self.page.jobs().any(|(_, slot)| slot.is_pending())
    }

    /// Commits a kick of `job` and returns its ticket.
    pub(crate) fn kick(&self, job: &Job) -> Result<Ticket, Error> {
        let key = job.key();
        let path = self.places.job(key);
        let pace = job.policy.pace(|| ident::host_number(&key.to_string()));
        loop {
            let slot = self.page.find_or_claim(key, &self.places)?;
            let store = || job.store(&path).map_err(|source| Error::io("write", &path, source));
            let kicked = self.page.slot(slot).kick(key, pace, || match store() {
                // On a full disk the record of an earlier kick does as well: command line and directory are the same.
                Err(error) if error.nothing_can_be_written() && Job::load(&path).is_ok() => Ok(()),
                other => other,
            })?;
            if let Some(seq) = kicked {
                self.page.wake();
                let ticket = Ticket { slot, seq };
                if let Some(reason) = &job.reason {
                    crate::why::note(&self.places, ticket, reason);
                }
                return Ok(ticket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_read_back_in_their_queue_only() {
        let queue = QueueName::parse("puppet").expect("a name");
        let other = QueueName::parse("default").expect("a name");
        for ticket in [Ticket { slot: 0, seq: 1 }, Ticket { slot: SLOTS - 1, seq: 1 << 40 }] {
            let number = ticket.number(&queue);
            assert_eq!(Ticket::of_number(number, &queue), Some(ticket));
            assert_eq!(Ticket::of_number(number, &other), None);
        }
    }
}
