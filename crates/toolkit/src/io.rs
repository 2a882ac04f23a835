//! A tool's streams: data on stdout, words for people on stderr, both injected so that tests can look.

use std::fmt::Display;
use std::io::{BufWriter, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use serde::Serialize;

/// How much a tool says on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Errors only.
    Quiet,
    /// Errors and warnings; notes too when stderr is a terminal.
    #[default]
    Normal,
    /// Notes always.
    Verbose,
    /// Details.
    Debug,
}

/// The streams of one run.
pub struct Io {
    tool: &'static str,
    level: Level,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    interactive: bool,
    /// Whether a line that will be written over stands on the terminal.
    fleeting: bool,
}

impl Io {
    /// Returns the process's own streams, stdout buffered.
    #[must_use]
    pub fn stdio(tool: &'static str, level: Level) -> Io {
        Io {
            tool,
            level,
            out: Box::new(BufWriter::new(std::io::stdout())),
            err: Box::new(std::io::stderr()),
            interactive: std::io::stderr().is_terminal(),
            fleeting: false,
        }
    }

    /// Returns streams that are kept in memory, for tests.
    #[must_use]
    pub fn captured(tool: &'static str) -> (Io, Captured) {
        let captured = Captured::default();
        let io = Io {
            tool,
            level: Level::Debug,
            out: Box::new(captured.out.clone()),
            err: Box::new(captured.err.clone()),
            interactive: false,
            fleeting: false,
        };
        (io, captured)
    }

    /// Returns the name that stands before each line on stderr.
    #[must_use]
    pub fn tool(&self) -> &'static str {
        self.tool
    }

    /// Returns how much is said.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether a person watches stderr.
    #[must_use]
    pub fn interactive(&self) -> bool {
        self.interactive
    }

    /// Returns the data stream.
    pub fn data(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// Writes bytes to the data stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn out(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.out.write_all(bytes.as_ref())
    }

    /// Writes one line of JSON to the data stream.
    ///
    /// # Errors
    /// Those of the stream, and values that have no JSON form.
    pub fn json(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// Flushes the data stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }

    /// Says that something failed.
    pub fn error(&mut self, message: impl Display) {
        self.say("error: ", message);
    }

    /// Says what can be done next.
    pub fn hint(&mut self, message: impl Display) {
        self.say("hint: ", message);
    }

    /// Says that something is odd; the run goes on.
    pub fn warn(&mut self, message: impl Display) {
        if self.level >= Level::Normal {
            self.say("warning: ", message);
        }
    }

    /// Says what is going on, to people at a terminal or who asked for it.
    pub fn note(&mut self, message: impl Display) {
        if self.level >= Level::Verbose || (self.level == Level::Normal && self.interactive) {
            self.say("", message);
        }
    }

    /// Says what somebody who debugs wants to know.
    pub fn detail(&mut self, message: impl Display) {
        if self.level >= Level::Debug {
            self.say("", message);
        }
    }

    /// Says a line that was asked for by an option, whatever the level.
    pub fn always(&mut self, message: impl Display) {
        self.say("", message);
    }

    /// Shows a line to a person at a terminal until the next one is said; an empty one takes it away.
    pub fn fleeting(&mut self, line: impl Display) {
        if !self.interactive || self.level < Level::Normal {
            return;
        }
        let line = crate::exit::one_line(&line.to_string());
        let shown: String = line.chars().take(78).collect();
        let _ = self.err.write_all(format!("\r{shown}\x1b[K").as_bytes());
        let _ = self.err.flush();
        self.fleeting = !shown.is_empty();
    }

    fn say(&mut self, prefix: &str, message: impl Display) {
        let line = crate::exit::one_line(&message.to_string());
        let clear = if std::mem::take(&mut self.fleeting) { "\r\x1b[K" } else { "" };
        // One write per line, so that lines of several processes do not mix. When stderr is gone
        // there is nobody to tell.
        let _ = self.err.write_all(format!("{clear}{}: {prefix}{line}\n", self.tool).as_bytes());
        let _ = self.err.flush();
    }
}

/// What a captured [`Io`] has written so far.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    out: Buffer,
    err: Buffer,
}

impl Captured {
    /// Returns the data stream as text.
    #[must_use]
    pub fn out(&self) -> String {
        self.out.text()
    }

    /// Returns the stream for people as text.
    #[must_use]
    pub fn err(&self) -> String {
        self.err.text()
    }
}

#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        let bytes = self.0.lock().expect("a writer does not panic while it holds the buffer");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("a writer does not panic while it holds the buffer").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_words_go_their_own_ways() {
        let (mut io, captured) = Io::captured("tool");
        io.json(&serde_json::json!({"type": "x", "v": 1})).expect("memory takes it");
        io.warn("two\nlines");
        assert_eq!(captured.out(), "{\"type\":\"x\",\"v\":1}\n");
        assert_eq!(captured.err(), "tool: warning: two lines\n");
    }

    #[test]
    fn a_fleeting_line_goes_before_the_next_one() {
        let (mut io, captured) = Io::captured("tool");
        io.fleeting("nobody watches");
        assert_eq!(captured.err(), "");
        io.interactive = true;
        io.fleeting("1/2");
        io.warn("x");
        io.fleeting("");
        io.warn("y");
        assert_eq!(captured.err(), "\r1/2\x1b[K\r\x1b[Ktool: warning: x\n\r\x1b[Ktool: warning: y\n");
    }
}
