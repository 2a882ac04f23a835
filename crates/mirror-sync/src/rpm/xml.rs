//! The XML of rpm-md, read as the stream of elements that it is: no document in memory, no entities but XML's own.

use std::borrow::Cow;
use std::io::{self, Read};

use crate::window::Window;

/// Largest element of a package.
const MAX_PACKAGE: usize = 32 << 20;
const CHUNK: usize = 256 << 10;

/// One `<package …>…</package>` element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    /// Where it begins in the stream.
    pub(crate) offset: u64,
    /// The element, tags included.
    pub(crate) text: &'a [u8],
}

/// The package elements of `primary`, `filelists` or `other`.
pub(crate) struct Packages<R> {
    window: Window<R>,
}

impl<R: Read> Packages<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { window: Window::new(reader, CHUNK) }
    }

    /// Returns the next package; `None` at the end.
    ///
    /// # Errors
    /// Those of the reader; `InvalidData` for an element that is cut or longer than any real one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Element<'_>>> {
        const OPEN: &[u8] = b"<package";
        const CLOSE: &[u8] = b"</package>";
        loop {
            if let Some(at) = find(self.window.bytes(), 0, OPEN) {
                self.window.drop_front(at);
                break;
            }
            self.window.drop_front(self.window.len().saturating_sub(OPEN.len() - 1));
            if !self.window.grow()? {
                return Ok(None);
            }
        }
        let mut seen = 0;
        let length = loop {
            if let Some(at) = find(self.window.bytes(), seen, CLOSE) {
                break at + CLOSE.len();
            }
            seen = self.window.len().saturating_sub(CLOSE.len() - 1);
            if self.window.len() > MAX_PACKAGE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a package element is longer than 32 MiB"));
            }
            if !self.window.grow()? {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a package element does not end"));
            }
        };
        let (offset, text) = self.window.take(length, length);
        Ok(Some(Element { offset, text }))
    }
}

fn find(text: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let mut at = from;
    while let Some(found) = text.get(at..)?.iter().position(|byte| *byte == b'<') {
        let here = at + found;
        if text[here..].starts_with(needle) {
            return Some(here);
        }
        at = here + 1;
    }
    None
}

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// `<name …>` or `<name …/>`; the attributes are unread.
    Open { name: &'a str, attributes: &'a str, empty: bool },
    /// `</name>`
    Close,
    /// What is between tags, not decoded.
    Text(&'a str),
}

/// Pieces of a document in memory.
pub(crate) struct Events<'a> {
    rest: &'a str,
}

impl<'a> Events<'a> {
    /// Begins.
    ///
    /// # Errors
    /// The document is not UTF-8.
    pub(crate) fn new(text: &'a [u8]) -> Result<Self, String> {
        std::str::from_utf8(text).map(|rest| Self { rest }).map_err(|_| "it is not UTF-8".to_owned())
    }

    /// Returns the next piece; declarations and comments are passed over.
    ///
    /// # Errors
    /// What is no XML, or has a document type or CDATA, which metadata never has.
    pub(crate) fn next(&mut self) -> Result<Option<Event<'a>>, String> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let Some(tag) = self.rest.strip_prefix('<') else {
                let end = self.rest.find('<').unwrap_or(self.rest.len());
                let (text, rest) = self.rest.split_at(end);
                self.rest = rest;
                return Ok(Some(Event::Text(text)));
            };
            if let Some(comment) = tag.strip_prefix("!--") {
                self.rest = comment.split_once("-->").ok_or("a comment does not end")?.1;
                continue;
            }
            if tag.starts_with('!') {
                return Err("it has a document type or CDATA".into());
            }
            let end = tag_end(tag).ok_or("a tag does not end")?;
            let inner = &tag[..end];
            self.rest = &tag[end + 1..];
            if inner.starts_with('?') {
                continue;
            }
            if inner.starts_with('/') {
                return Ok(Some(Event::Close));
            }
            let (inner, empty) = match inner.strip_suffix('/') {
                Some(inner) => (inner, true),
                None => (inner, false),
            };
            let name_end = inner.find(|c: char| c.is_ascii_whitespace()).unwrap_or(inner.len());
            let (name, attributes) = inner.split_at(name_end);
            return Ok(Some(Event::Open { name, attributes, empty }));
        }
    }

    /// Returns the text up to the next tag.
    ///
    /// # Errors
    /// As [`Events::next`]; an entity that XML does not have.
    pub(crate) fn text(&mut self) -> Result<Cow<'a, str>, String> {
        let end = self.rest.find('<').unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        decode(text)
    }
}

/// A `>` inside of quotes does not end a tag.
fn tag_end(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// Returns an attribute, decoded.
pub(crate) fn attribute<'a>(attributes: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut rest = attributes;
    loop {
        rest = rest.trim_start();
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, after) = after[1..].split_once(quote)?;
        if key.trim_end() == name {
            return decode(value).ok();
        }
        rest = after;
    }
}

/// Replaces entities.
fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains('&') {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        let (entity, after) = after.split_once(';').ok_or("an entity does not end")?;
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let character = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => match entity.strip_prefix('#') {
                Some(code) => match code.strip_prefix('x') {
                    Some(hex) => number(hex, 16),
                    None => number(code, 10),
                },
                None => None,
            },
        };
        decoded.push(character.ok_or_else(|| format!("unknown entity {entity:?}"))?);
        rest = after;
    }
    decoded.push_str(rest);
    Ok(Cow::Owned(decoded))
}

/// Appends text with what XML cannot hold replaced.
pub(crate) fn escape(text: &str, into: &mut String) {
    for character in text.chars() {
        match character {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\n' | '\t' => into.push(character),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => into.push('?'),
            character => into.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Pieces;

    #[test]
    fn packages_are_the_same_however_they_arrive() {
        let text = b"<?xml?><metadata packages=\"2\">\n<package a=\"1\"><x/></package><pack/><package>b</package>\n</metadata>";
        for piece in 1..text.len() {
            let mut packages = Packages::new(Pieces(text, piece));
            let mut found = Vec::new();
            while let Some(element) = packages.next().expect("readable") {
                assert!(text[usize::try_from(element.offset).expect("small")..].starts_with(element.text));
                found.push(String::from_utf8_lossy(element.text).into_owned());
            }
            assert_eq!(found, ["<package a=\"1\"><x/></package>", "<package>b</package>"], "{piece}");
        }
        assert!(Packages::new(&b"<package>"[..]).next().is_err());
        let endless = (&b"<package>"[..]).chain(io::repeat(b'x').take(1 << 40));
        assert!(Packages::new(endless).next().expect_err("refused").to_string().contains("longer"));
    }

    #[test]
    fn events_and_entities() {
        let mut events = Events::new(b"<?x?><!-- <a> --><a b='1>' c=\"&lt;&#65;\"/>t&amp;u</a>").expect("text");
        let Some(Event::Open { name, attributes, empty }) = events.next().expect("parses") else { panic!("a tag") };
        assert_eq!((name, empty), ("a", true));
        assert_eq!(attribute(attributes, "c").expect("there"), "<A");
        assert_eq!(attribute(attributes, "b").expect("there"), "1>");
        assert_eq!(attribute(attributes, "d"), None);
        assert_eq!(events.text().expect("decodes"), "t&u");
        assert_eq!(events.next().expect("parses"), Some(Event::Close));
        assert_eq!(events.next().expect("parses"), None);
        for wrong in ["<!DOCTYPE x>", "<![CDATA[x]]>", "<a", "<!-- x"] {
            assert!(Events::new(wrong.as_bytes()).expect("text").next().is_err(), "{wrong}");
        }
        assert!(decode("&bomb;").is_err() && decode("&amp").is_err());
        let mut escaped = String::new();
        escape("a<b>&\"\u{7}", &mut escaped);
        assert_eq!(escaped, "a&lt;b&gt;&amp;&quot;?");
    }
}
