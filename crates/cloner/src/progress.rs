//! How far a run is, for a person at a terminal.

use std::time::{Duration, Instant};

use toolkit::Io;

/// Least time between two drawings.
const PAUSE: Duration = Duration::from_millis(50);

/// Counts what is done and knows what is in work.
#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    done: usize,
    failed: usize,
    /// What is in work, longest first.
    open: Vec<String>,
    drawn: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, done: 0, failed: 0, open: Vec::new(), drawn: None }
    }

    pub(crate) fn begun(&mut self, name: &str, io: &mut Io) {
        self.open.push(name.to_owned());
        self.draw(io);
    }

    /// Counts what was found meanwhile.
    pub(crate) fn more(&mut self, count: usize) {
        self.total += count;
    }

    pub(crate) fn done(&mut self, name: &str, count: usize, failed: bool, io: &mut Io) {
        if let Some(index) = self.open.iter().position(|open| open == name) {
            self.open.remove(index);
        }
        self.done += count;
        self.failed += usize::from(failed);
        self.draw(io);
    }

    pub(crate) fn end(&self, io: &mut Io) {
        if self.drawn.is_some() {
            io.fleeting("");
        }
    }

    fn draw(&mut self, io: &mut Io) {
        if !io.interactive() || self.drawn.is_some_and(|drawn| drawn.elapsed() < PAUSE) {
            return;
        }
        self.drawn = Some(Instant::now());
        io.fleeting(self.text());
    }

    /// `[=====>    ] 12/51, 1 failed: nova, glance`
    fn text(&self) -> String {
        const WIDTH: usize = 20;
        let filled = self.done * WIDTH / self.total.max(1);
        let bar = format!("{}{}", "=".repeat(filled), " ".repeat(WIDTH - filled));
        let failed = if self.failed == 0 { String::new() } else { format!(", {} failed", self.failed) };
        let open = if self.open.is_empty() { String::new() } else { format!(": {}", self.open.join(", ")) };
        format!("[{bar}] {}/{}{failed}{open}", self.done, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_much_is_done_and_what_is_in_work() {
        let (mut io, _) = Io::captured("t");
        let mut progress = Progress::new(4);
        progress.begun("a", &mut io);
        progress.begun("b", &mut io);
        assert_eq!(progress.text(), format!("[{}] 0/4: a, b", " ".repeat(20)));
        progress.done("a", 3, true, &mut io);
        assert_eq!(progress.text(), format!("[{}{}] 3/4, 1 failed: b", "=".repeat(15), " ".repeat(5)));
    }
}
