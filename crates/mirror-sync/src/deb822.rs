//! Streams of Debian control stanzas (`Packages`), read with bounded memory and without copies.

use std::io::{self, Read};

/// Largest stanza.
const MAX_STANZA: usize = 1 << 20;
/// What is read at a time.
const CHUNK: usize = 256 << 10;

/// Stanzas of a stream.
pub(crate) struct Stanzas<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Where the next stanza begins in `buffer`, and where what was read ends.
    start: usize,
    end: usize,
    /// Position of `buffer[0]` in the stream.
    base: u64,
    ended: bool,
    /// How much is read at a time.
    chunk: usize,
}

/// One stanza: its lines, without the empty line after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stanza<'a> {
    /// Where it begins in the stream.
    pub(crate) offset: u64,
    /// Its lines.
    pub(crate) text: &'a [u8],
}

impl<R: Read> Stanzas<R> {
    /// Reads a whole index.
    pub(crate) fn new(reader: R) -> Self {
        Self::with(reader, CHUNK)
    }

    /// Reads a single stanza.
    pub(crate) fn few(reader: R) -> Self {
        Self::with(reader, 8 << 10)
    }

    fn with(reader: R, chunk: usize) -> Self {
        Self { reader, buffer: vec![0; chunk], start: 0, end: 0, base: 0, ended: false, chunk }
    }

    /// Returns the next stanza; `None` at the end.
    ///
    /// # Errors
    /// Those of the reader; `InvalidData` for a stanza that is longer than any real one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Stanza<'_>>> {
        // Empty lines before it.
        loop {
            while self.start < self.end && matches!(self.buffer[self.start], b'\n' | b'\r') {
                self.start += 1;
            }
            if self.start < self.end {
                break;
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
        let mut seen = self.start;
        let (end, next) = loop {
            if let Some(found) = find_end(&self.buffer[self.start..self.end], seen - self.start) {
                break (self.start + found, self.start + found + 1);
            }
            if self.end - self.start > MAX_STANZA {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a stanza is longer than 1 MiB"));
            }
            let known = (self.end - self.start).saturating_sub(2);
            if !self.fill()? {
                break (self.end, self.end);
            }
            seen = self.start + known;
        };
        let start = self.start;
        self.start = next;
        Ok(Some(Stanza { offset: self.base + start as u64, text: &self.buffer[start..end] }))
    }

    /// Reads more; what was used is dropped. False at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < self.end + self.chunk {
            self.buffer.resize(self.end + self.chunk, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(count) => {
                    self.end += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns where the last line of a stanza ends, its newline included.
fn find_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = text[at..].iter().position(|byte| *byte == b'\n') {
        let line_end = at + found;
        match text.get(line_end + 1) {
            Some(b'\n') => return Some(line_end + 1),
            Some(b'\r') if text.get(line_end + 2) == Some(&b'\n') => return Some(line_end + 1),
            Some(_) => at = line_end + 1,
            None => return None,
        }
    }
    None
}

impl<'a> Stanza<'a> {
    /// Returns the fields: name and value, the value with its continuation lines.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.text;
        std::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    return None;
                }
                let mut end = line_end(rest, 0);
                while end < rest.len() && matches!(rest[end], b' ' | b'\t') {
                    end = line_end(rest, end);
                }
                let (field, after) = rest.split_at(end);
                rest = after;
                if let Some(colon) = field.iter().position(|byte| *byte == b':')
                    && !matches!(field[0], b' ' | b'\t' | b'#')
                {
                    return Some((&field[..colon], field[colon + 1..].trim_ascii()));
                }
            }
        })
    }

    /// Returns a field that is text.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(value).ok()
    }
}

/// Returns where the line that begins at `from` ends, its newline included.
fn line_end(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |found| from + found + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a stream in small pieces.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn stanzas_are_the_same_however_they_arrive() {
        let text = b"\n\nPackage: a\nDepends: b,\n c\n\n\nPackage: d\r\nSize: 1\r\n\r\nPackage: e";
        for piece in 1..text.len() {
            let mut stanzas = Stanzas::new(Pieces(text, piece));
            let mut found = Vec::new();
            while let Some(stanza) = stanzas.next().expect("readable") {
                assert!(text[usize::try_from(stanza.offset).expect("small")..].starts_with(stanza.text), "{piece}");
                found.push((stanza.field("package").map(str::to_owned), stanza.field("Depends").map(str::to_owned)));
            }
            let name = |name: &str| Some(name.to_owned());
            assert_eq!(found, [(name("a"), Some("b,\n c".into())), (name("d"), None), (name("e"), None)], "{piece}");
        }
    }

    #[test]
    fn an_endless_line_ends_at_the_limit() {
        let mut stanzas = Stanzas::new(io::repeat(b'x').take(1 << 40));
        assert_eq!(stanzas.next().expect_err("refused").kind(), io::ErrorKind::InvalidData);
        assert!(stanzas.buffer.len() < 3 << 20);
    }
}
