//! Streams of Debian control stanzas (`Packages`), read with bounded memory and without copies.

use std::io::{self, Read};

use crate::window::Window;

/// Largest stanza.
const MAX_STANZA: usize = 1 << 20;
/// What is read at a time.
const CHUNK: usize = 256 << 10;

/// Stanzas of a stream.
pub(crate) struct Stanzas<R> {
    window: Window<R>,
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
        Self { window: Window::new(reader, chunk) }
    }

    /// Returns the next stanza; `None` at the end.
    ///
    /// # Errors
    /// Those of the reader; `InvalidData` for a stanza that is longer than any real one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Stanza<'_>>> {
        // Empty lines before it.
        loop {
            let empty = self.window.bytes().iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            self.window.drop_front(empty);
            if self.window.len() > 0 {
                break;
            }
            if !self.window.grow()? {
                return Ok(None);
            }
        }
        let mut seen = 0;
        let (end, next) = loop {
            if let Some(found) = find_end(self.window.bytes(), seen) {
                break (found, found + 1);
            }
            let length = self.window.len();
            if length > MAX_STANZA {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a stanza is longer than 1 MiB"));
            }
            if !self.window.grow()? {
                break (length, length);
            }
            seen = length.saturating_sub(2);
        };
        let (offset, text) = self.window.take(end, next);
        Ok(Some(Stanza { offset, text }))
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
    use crate::window::Pieces;

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
        assert!(stanzas.window.held() < 3 << 20);
    }
}
