//! How far downloads are, for a person at a terminal.

use std::time::{Duration, Instant};

use toolkit::Io;

use crate::fetch::{Fetcher, Wanted};
use crate::store::Store;

/// Time between two drawings.
const PAUSE: Duration = Duration::from_millis(50);
/// Weight of the newest measurement in the rate that is shown.
const NEWEST: f64 = 0.1;

/// What there is to do and what is known of it.
struct Meter {
    name: String,
    files: usize,
    /// Sizes of all of them together, as far as they are known.
    bytes: u64,
    rate: f64,
    seen: (Instant, u64),
}

/// Runs `work` while a line tells how far it is. `wanted` is what it fetches; what is in the store already does not count.
pub(crate) fn watch<T: Send>(
    name: &str,
    wanted: &[Wanted],
    store: &Store,
    fetcher: &Fetcher,
    done: impl Fn() -> usize + Sync,
    io: &mut Io,
    work: impl FnOnce() -> T + Send,
) -> T {
    if !io.interactive() {
        return work();
    }
    let missing: Vec<&Wanted> = wanted.iter().filter(|file| file.present(store).is_none()).collect();
    let bytes = missing.iter().filter_map(|file| file.size).sum();
    let began = fetcher.received();
    let mut meter = Meter { name: name.to_owned(), files: missing.len(), bytes, rate: 0.0, seen: (Instant::now(), 0) };
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        while !worker.is_finished() {
            std::thread::sleep(PAUSE);
            io.fleeting(meter.line(done(), fetcher.received() - began, Instant::now()));
        }
        io.fleeting("");
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Meter {
    /// `debian: 120/300 files, 12.3 of 60.0 MB, 8.1 MB/s, 6 s left`
    fn line(&mut self, done: usize, received: u64, now: Instant) -> String {
        let (then, before) = self.seen;
        let passed = now.saturating_duration_since(then).as_secs_f64();
        if passed > 0.0 {
            let rate = received.saturating_sub(before) as f64 / passed;
            self.rate = if before == 0 { rate } else { self.rate * (1.0 - NEWEST) + rate * NEWEST };
            self.seen = (now, received);
        }
        let total = self.bytes.max(received);
        let mut text = format!(
            "{}: {done}/{} files, {} of {} MB, {} MB/s",
            self.name,
            self.files,
            megabytes(received as f64),
            megabytes(total as f64),
            megabytes(self.rate)
        );
        let left = (total - received) as f64 / self.rate;
        if left.is_finite() && left > 0.0 {
            text.push_str(&format!(", {} left", toolkit::duration::format(Duration::from_secs(left.ceil() as u64))));
        }
        text
    }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rate_and_what_remains() {
        let began = Instant::now();
        let mut meter = Meter { name: "debian".into(), files: 300, bytes: 60_000_000, rate: 0.0, seen: (began, 0) };
        let line = meter.line(0, 0, began);
        assert_eq!(line, "debian: 0/300 files, 0.0 of 60.0 MB, 0.0 MB/s");
        let line = meter.line(50, 10_000_000, began + Duration::from_secs(1));
        assert_eq!(line, "debian: 50/300 files, 10.0 of 60.0 MB, 10.0 MB/s, 5s left");
        // A stall shows, but slowly.
        let line = meter.line(50, 10_000_000, began + Duration::from_secs(2));
        assert_eq!(line, "debian: 50/300 files, 10.0 of 60.0 MB, 9.0 MB/s, 6s left");
        // Sizes may be unknown.
        let mut meter = Meter { name: "x".into(), files: 1, bytes: 0, rate: 0.0, seen: (began, 0) };
        assert!(meter.line(1, 5_000_000, began + Duration::from_secs(1)).contains("5.0 of 5.0 MB"));
    }
}
