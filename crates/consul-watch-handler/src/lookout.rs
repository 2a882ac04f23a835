//! The lookout: one reader looks again for all of them.
//!
//! A query that waits is told of every change but one: a snapshot that is restored may leave an older state behind than
//! the one that is waited on. Consul ends waiting queries early then, with their index unchanged, and readers ask once
//! more without an index when they see it. Whether every server and agent on the way does so is not for us to rely on,
//! so somebody has to look again now and then. With forty watches that look every thirty seconds
//! a process at rest never rests. It is enough that one does: the reader with the highest
//! index, whose answer cannot stay where it was when the store goes back. When its index falls, or it
//! gets into trouble, all others are recalled, which ends their queries; otherwise they wait as long as Consul lets them.
//!
//! That is for agents on this host alone, which cannot vanish without the connection being closed. Queries to
//! others end after `max_wait`, each by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use consul_client::LineEnd;

/// The readers that share an agent, and which of them looks out.
#[derive(Debug, Default)]
pub(crate) struct Lookout(Mutex<Crew>);

#[derive(Debug, Default)]
struct Crew {
    readers: BTreeMap<u64, Reader>,
    on_duty: Option<u64>,
    next: u64,
}

#[derive(Debug)]
struct Reader {
    end: LineEnd,
    /// What it was told last; 0 is nothing.
    index: u64,
    in_trouble: bool,
}

/// A reader's place among them, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    lookout: &'a Lookout,
    number: u64,
}

impl Lookout {
    /// Takes a reader in, whose queries `end` ends.
    pub(crate) fn join(&self, end: LineEnd) -> Place<'_> {
        let mut crew = self.lock();
        let number = crew.next;
        crew.next += 1;
        crew.readers.insert(number, Reader { end, index: 0, in_trouble: false });
        Place { lookout: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, Crew> {
        self.0.lock().expect("no holder panics")
    }
}

impl Place<'_> {
    /// Whether somebody else looks out, so that the next query may wait long.
    pub(crate) fn is_relieved(&self) -> bool {
        self.lookout.lock().on_duty.is_some_and(|number| number != self.number)
    }

    /// Says what index came. Whoever has the highest is on duty; if that of the lookout fell, all others are recalled.
    pub(crate) fn saw(&self, index: u64) {
        let mut crew = self.lookout.lock();
        let Some(reader) = crew.readers.get_mut(&self.number) else { return };
        let fell = index < reader.index;
        reader.index = index;
        reader.in_trouble = false;
        let highest = crew.on_duty.and_then(|number| crew.readers.get(&number)).map_or(0, Reader::rank);
        if crew.on_duty == Some(self.number) && fell {
            crew.recall(self.number);
        } else if index >= highest {
            crew.on_duty = Some(self.number);
        }
    }

    /// Says that no answer came. When this begins for the lookout, another one takes its duty over, and all are recalled:
    /// what it met may concern them too.
    pub(crate) fn in_trouble(&self) {
        let mut crew = self.lookout.lock();
        let Some(reader) = crew.readers.get_mut(&self.number) else { return };
        let began = !std::mem::replace(&mut reader.in_trouble, true);
        if began && crew.on_duty == Some(self.number) {
            crew.appoint();
            crew.recall(self.number);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut crew = self.lookout.lock();
        crew.readers.remove(&self.number);
        if crew.on_duty == Some(self.number) {
            crew.appoint();
            // It waits long as yet.
            if let Some(reader) = crew.on_duty.and_then(|number| crew.readers.get(&number)) {
                reader.end.cut();
            }
        }
    }
}

impl Crew {
    /// Gives the duty to the reader with the highest index that gets answers; to nobody if there is none, so that all
    /// of them look out for themselves.
    fn appoint(&mut self) {
        let best = self.readers.iter().max_by_key(|(_, reader)| reader.rank());
        self.on_duty = best.filter(|(_, reader)| reader.rank() > 0).map(|(number, _)| *number);
    }

    /// Ends the queries of all but one.
    fn recall(&self, but: u64) {
        for reader in self.readers.iter().filter(|(number, _)| **number != but).map(|(_, reader)| reader) {
            reader.end.cut();
        }
    }
}

impl Reader {
    /// How well it is placed to look out; 0 is not at all.
    fn rank(&self) -> u64 {
        if self.in_trouble { 0 } else { self.index }
    }
}

#[cfg(test)]
mod tests {
    use consul_client::Line;

    use super::*;

    #[test]
    fn the_highest_index_looks_out_and_calls_when_it_falls() {
        let lookout = Lookout::default();
        let mut lines = [Line::new(), Line::new(), Line::new()];
        let places: Vec<Place<'_>> = lines.iter().map(|line| lookout.join(line.end())).collect();
        assert!(places.iter().all(|place| !place.is_relieved()), "nobody looks out before there is an answer");
        places[0].saw(7);
        assert_eq!(relieved(&places), [false, true, true]);
        places[1].saw(9);
        places[2].saw(8);
        assert_eq!(relieved(&places), [true, false, true]);
        places[2].saw(3);
        assert_eq!(cut(&mut lines), [false, false, false], "a fall of the others concerns them alone");
        places[1].saw(4);
        assert_eq!(cut(&mut lines), [true, false, true]);
    }

    #[test]
    fn trouble_and_leave_hand_the_duty_over() {
        let lookout = Lookout::default();
        let mut lines = [Line::new(), Line::new(), Line::new()];
        let mut places: Vec<Place<'_>> = lines.iter().map(|line| lookout.join(line.end())).collect();
        for (place, index) in places.iter().zip([5, 6, 7]) {
            place.saw(index);
        }
        places[2].in_trouble();
        assert_eq!(cut(&mut lines), [true, true, false]);
        assert_eq!(relieved(&places), [true, false, true]);
        places[2].in_trouble();
        assert_eq!(cut(&mut lines), [false, false, false], "told once");
        places.remove(1);
        assert_eq!(cut(&mut lines), [true, false, false], "the new one waits long as yet");
        assert_eq!(relieved(&places), [false, true]);
        places[0].in_trouble();
        assert_eq!(relieved(&places), [false, false], "nobody gets answers");
        places[1].saw(2);
        assert_eq!(relieved(&places), [true, false]);
    }

    fn relieved(places: &[Place<'_>]) -> Vec<bool> {
        places.iter().map(Place::is_relieved).collect()
    }

    fn cut(lines: &mut [Line]) -> Vec<bool> {
        lines.iter_mut().map(|line| line.take_cut()).collect()
    }
}
