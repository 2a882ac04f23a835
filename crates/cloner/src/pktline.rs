//! Git's framing: four hex digits of length, then the line; lengths below four are marks.

use std::io::{self, Read};

/// Longest packet that git sends.
const MAX_PACKET: usize = 65520;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Line(&'a [u8]),
    /// `0000`: a message ends.
    Flush,
    /// `0001`: a section ends.
    Delimiter,
    /// `0002`: the answer ends.
    End,
}

/// Reads packets; holds one at a time.
pub(crate) struct Packets<R> {
    inner: R,
    buffer: Vec<u8>,
}

impl<R: Read> Packets<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, buffer: Vec::new() }
    }

    /// Reads the next packet; none at the end of the stream.
    pub(crate) fn next(&mut self) -> io::Result<Option<Packet<'_>>> {
        let mut head = [0; 4];
        let got = read_some(&mut self.inner, &mut head)?;
        if got == 0 {
            return Ok(None);
        }
        let length = std::str::from_utf8(&head[..got]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let length = match length {
            Some(length) if got == 4 && length <= MAX_PACKET => length,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not in git's framing")),
        };
        Ok(Some(match length {
            0 => Packet::Flush,
            1 => Packet::Delimiter,
            2 => Packet::End,
            3 => return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not in git's framing")),
            _ => {
                self.buffer.resize(length - 4, 0);
                self.inner.read_exact(&mut self.buffer)?;
                Packet::Line(&self.buffer)
            }
        }))
    }

    /// Returns the packet that [`Self::next`] has read last.
    pub(crate) fn last(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads what is behind the last packet, so that the connection can be used again.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut (&mut self.inner).take(64 << 10), &mut io::sink()).map(drop)
    }
}

fn read_some(inner: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match inner.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(got)
}

/// Appends one line to a request.
pub(crate) fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:04x}{text}\n", text.len() + 5).as_bytes());
}

pub(crate) const FLUSH: &[u8] = b"0000";
pub(crate) const DELIMITER: &[u8] = b"0001";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        let mut out = Vec::new();
        line(&mut out, "command=ls-refs");
        out.extend_from_slice(DELIMITER);
        line(&mut out, "");
        out.extend_from_slice(FLUSH);
        let mut packets = Packets::new(&out[..]);
        assert_eq!(packets.next().expect("read"), Some(Packet::Line(b"command=ls-refs\n")));
        assert_eq!(packets.next().expect("read"), Some(Packet::Delimiter));
        assert_eq!(packets.next().expect("read"), Some(Packet::Line(b"\n")));
        assert_eq!(packets.next().expect("read"), Some(Packet::Flush));
        assert_eq!(packets.next().expect("read"), None);
    }

    #[test]
    fn other_framings_are_errors() {
        for text in ["0003", "zzzz", "00", "0009ab", "fff9", "-001", "<html>"] {
            let mut packets = Packets::new(text.as_bytes());
            assert!(packets.next().is_err(), "{text}");
        }
    }
}
