//! Version 2 of git's protocol: what is asked, and how the answers are read.
//!
//! A server that speaks it needs no greeting over HTTP: `ls-refs` with the prefixes that matter is
//! one request, `fetch` of given commits another, and nothing is negotiated.

use std::io::{self, Read};

use git2::Oid;

use crate::git::Head;
use crate::pktline::{DELIMITER, FLUSH, Packet, Packets, line};

/// Most refs that one repository may list.
const MAX_REFS: usize = 1_000_000;

/// Why an answer could not be used.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The server says so, in its words.
    Refused(String),
    /// It is not an answer of version 2.
    Other,
    /// It could not be read.
    Broken(io::Error),
}

impl From<io::Error> for Answer {
    fn from(err: io::Error) -> Self {
        if err.kind() == io::ErrorKind::InvalidData { Self::Other } else { Self::Broken(err) }
    }
}

/// What a fetch asks for.
#[derive(Debug, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) wants: &'a [Oid],
    pub(crate) haves: &'a [Oid],
    /// Without history.
    pub(crate) shallow: bool,
}

fn command(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    line(&mut out, &format!("command={name}"));
    line(&mut out, concat!("agent=git/2-cloner-", env!("CARGO_PKG_VERSION")));
    line(&mut out, "object-format=sha1");
    out.extend_from_slice(DELIMITER);
    out
}

/// Asks for the refs whose names begin with one of `prefixes`.
pub(crate) fn ls_refs(prefixes: &[String]) -> Vec<u8> {
    let mut out = command("ls-refs");
    line(&mut out, "peel");
    line(&mut out, "symrefs");
    for prefix in prefixes {
        line(&mut out, &format!("ref-prefix {prefix}"));
    }
    out.extend_from_slice(FLUSH);
    out
}

/// Asks for a pack.
pub(crate) fn fetch(ask: &Ask<'_>) -> Vec<u8> {
    let mut out = command("fetch");
    line(&mut out, "no-progress");
    line(&mut out, "ofs-delta");
    if ask.shallow {
        line(&mut out, "deepen 1");
    }
    for want in ask.wants {
        line(&mut out, &format!("want {want}"));
    }
    for have in ask.haves {
        line(&mut out, &format!("have {have}"));
    }
    // One question, one answer: what is in common is what the server finds among the haves.
    line(&mut out, "done");
    out.extend_from_slice(FLUSH);
    out
}

/// Reads the answer to [`ls_refs`].
pub(crate) fn read_refs(body: impl Read) -> Result<Vec<Head>, Answer> {
    let mut packets = Packets::new(body);
    let mut heads = Vec::new();
    loop {
        match packets.next()? {
            Some(Packet::Line(text)) => {
                let text = text.strip_suffix(b"\n").unwrap_or(text);
                if let Some(words) = text.strip_prefix(b"ERR ") {
                    return Err(Answer::Refused(String::from_utf8_lossy(words).into_owned()));
                }
                // A name that is no text cannot be asked for either.
                if let Ok(text) = std::str::from_utf8(text) {
                    read_ref(text, &mut heads)?;
                }
                if heads.len() > MAX_REFS {
                    return Err(Answer::Refused(format!("it lists more than {MAX_REFS} refs")));
                }
            }
            Some(Packet::Flush) => {
                packets.drain()?;
                return Ok(heads);
            }
            Some(Packet::Delimiter | Packet::End) => {}
            None => return Err(Answer::Other),
        }
    }
}

/// Reads `OID NAME [symref-target:NAME] [peeled:OID]`.
fn read_ref(text: &str, heads: &mut Vec<Head>) -> Result<(), Answer> {
    let mut words = text.split(' ');
    let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(Answer::Other) };
    let (mut symref, mut peeled) = (None, None);
    for word in words {
        if let Some(target) = word.strip_prefix("symref-target:") {
            symref = Some(target.to_owned());
        } else if let Some(id) = word.strip_prefix("peeled:") {
            peeled = Some(Oid::from_str(id).map_err(|_| Answer::Other)?);
        }
    }
    // `unborn` stands where a HEAD without commits would have an id.
    if id == "unborn" {
        return Ok(());
    }
    if id.len() != 40 {
        return Err(Answer::Other);
    }
    let oid = Oid::from_str(id).map_err(|_| Answer::Other)?;
    heads.push(Head { name: name.to_owned(), oid, symref });
    if let Some(oid) = peeled {
        heads.push(Head { name: format!("{name}^{{}}"), oid, symref: None });
    }
    Ok(())
}

/// The pack in the answer to [`fetch`], as a stream.
pub(crate) struct Pack<R> {
    packets: Packets<R>,
    /// Where in the packet at hand the pack goes on.
    rest: std::ops::Range<usize>,
    ended: bool,
}

impl<R: Read> Pack<R> {
    /// Reads up to where the pack begins.
    pub(crate) fn open(body: R) -> Result<Self, Answer> {
        let mut packets = Packets::new(body);
        loop {
            match packets.next()? {
                Some(Packet::Line(text)) => {
                    if let Some(words) = text.strip_prefix(b"ERR ") {
                        return Err(Answer::Refused(String::from_utf8_lossy(words).trim().to_owned()));
                    }
                    if text.strip_suffix(b"\n").unwrap_or(text) == b"packfile" {
                        return Ok(Self { packets, rest: 0..0, ended: false });
                    }
                }
                Some(Packet::Delimiter) => {}
                Some(Packet::Flush | Packet::End) | None => return Err(Answer::Other),
            }
        }
    }
}

impl<R: Read> Read for Pack<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.packets.next()? {
                Some(Packet::Line([1, data @ ..])) => self.rest = 1..data.len() + 1,
                Some(Packet::Line([2, ..])) => {}
                Some(Packet::Line([3, words @ ..])) => {
                    let words = String::from_utf8_lossy(words);
                    return Err(io::Error::other(format!("the server says: {}", words.trim())));
                }
                Some(Packet::Line(_) | Packet::Delimiter | Packet::End) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the pack is not in git's framing"));
                }
                Some(Packet::Flush) => {
                    self.ended = true;
                    self.packets.drain()?;
                }
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pack is cut off")),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.packets.last()[self.rest.start..self.rest.start + count]);
        self.rest.start += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(lines: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            out.extend_from_slice(format!("{:04x}", line.len() + 4).as_bytes());
            out.extend_from_slice(line);
        }
        out
    }

    #[test]
    fn refs_are_read_with_what_they_lead_to() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let mut body = framed(&[
            format!("{one} HEAD symref-target:refs/heads/main\n").as_bytes(),
            format!("{two} refs/tags/v1 peeled:{one}\n").as_bytes(),
            b"unborn refs/heads/x symref-target:refs/heads/y\n",
        ]);
        body.extend_from_slice(FLUSH);
        let heads = read_refs(&body[..]).expect("read");
        let names: Vec<&str> = heads.iter().map(|head| head.name.as_str()).collect();
        assert_eq!(names, ["HEAD", "refs/tags/v1", "refs/tags/v1^{}"]);
        assert_eq!(heads[0].symref.as_deref(), Some("refs/heads/main"));
        assert_eq!(heads[2].oid.to_string(), one);
        body.truncate(body.len() - 4);
        assert!(matches!(read_refs(&body[..]), Err(Answer::Other)), "a list that is cut off is none");
        assert!(matches!(read_refs(&framed(&[b"ERR no\n"])[..]), Err(Answer::Refused(words)) if words == "no"));
        for other in [&b""[..], b"<html>", &framed(&[b"x\n"]), &framed(&[b"123 refs/heads/x\n"])] {
            assert!(matches!(read_refs(other), Err(Answer::Other)), "{other:?}");
        }
    }

    #[test]
    fn a_pack_is_taken_out_of_its_bands() {
        let mut body = framed(&[b"shallow-info\n", b"shallow x\n"]);
        body.extend_from_slice(DELIMITER);
        body.extend(framed(&[b"packfile\n", b"\x01PA", b"\x02noise", b"\x01", b"\x01CK"]));
        let cut = body.clone();
        body.extend_from_slice(FLUSH);
        let mut text = String::new();
        Pack::open(&body[..]).expect("opened").read_to_string(&mut text).expect("read");
        assert_eq!(text, "PACK");
        assert!(Pack::open(&cut[..]).expect("opened").read_to_end(&mut Vec::new()).is_err());
        let mut fatal = framed(&[b"packfile\n", b"\x01PA", b"\x03out of disk\n"]);
        fatal.extend_from_slice(FLUSH);
        let err = Pack::open(&fatal[..]).expect("opened").read_to_end(&mut Vec::new()).expect_err("refused");
        assert!(err.to_string().contains("out of disk"));
        assert!(matches!(Pack::open(&framed(&[b"ERR not our ref\n"])[..]), Err(Answer::Refused(_))));
    }
}
