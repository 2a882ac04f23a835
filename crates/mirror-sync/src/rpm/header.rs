//! The header of an RPM package: lead, signature header, main header. Every size in it is hostile.

use std::io::{Read, Seek, SeekFrom};

/// Largest header with its data.
const MAX_HEADER: usize = 64 << 20;
const LEAD: u64 = 96;

/// A header section: entries over a block of data.
#[derive(Debug)]
pub(crate) struct Header {
    /// Tag, type, offset, count.
    entries: Vec<(u32, u32, usize, usize)>,
    data: Vec<u8>,
}

/// What is read from a package.
#[derive(Debug)]
pub(crate) struct Rpm {
    /// The main header.
    pub(crate) header: Header,
    /// Where the main header begins and ends.
    pub(crate) range: (u64, u64),
    /// Length of the unpacked payload.
    pub(crate) archive: u64,
}

/// Reads the headers and checks that the payload is all there.
///
/// # Errors
/// What is wrong with the file, for people.
pub(crate) fn read(mut file: impl Read + Seek) -> Result<Rpm, String> {
    let length = file.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    let mut lead = [0; LEAD as usize];
    fill(&mut file, &mut lead)?;
    if lead[..4] != [0xed, 0xab, 0xee, 0xdb] {
        return Err("not an RPM package".into());
    }
    let (signature, used) = Header::read(&mut file)?;
    let start = LEAD + used.next_multiple_of(8);
    file.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
    let (header, used) = Header::read(&mut file)?;
    let range = (start, start + used);
    // SIGTAG_LONGSIZE, SIGTAG_SIZE: length of the main header and the payload.
    let promised = signature.number(270).or_else(|| signature.number(1000));
    match promised {
        Some(promised) if promised != length - start => {
            return Err(format!(
                "truncated or longer: {promised} bytes should follow the signature, {} do",
                length - start
            ));
        }
        None if length <= range.1 => return Err("truncated: no payload".into()),
        _ => {}
    }
    let archive = header
        .number(271)
        .or_else(|| header.number(1046))
        .or_else(|| signature.number(271))
        .or_else(|| signature.number(1007));
    Ok(Rpm { header, range, archive: archive.unwrap_or(0) })
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<(), String> {
    file.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "truncated".to_owned(),
        _ => error.to_string(),
    })
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

impl Header {
    /// Reads a section; returns it with its length.
    fn read(file: &mut impl Read) -> Result<(Self, u64), String> {
        let mut intro = [0; 16];
        fill(file, &mut intro)?;
        if intro[..4] != [0x8e, 0xad, 0xe8, 0x01] {
            return Err("damaged: no header where one should be".into());
        }
        let (count, size) = (word(&intro, 8), word(&intro, 12));
        let index =
            count.checked_mul(16).filter(|index| index + size <= MAX_HEADER).ok_or("damaged: a header is too large")?;
        let mut entries = Vec::new();
        let mut data = Vec::new();
        // Not before it is there: the sizes are only claims.
        let got = file.take((index + size) as u64).read_to_end(&mut data).map_err(|error| error.to_string())?;
        if got < index + size {
            return Err("truncated".into());
        }
        let body = data.split_off(index);
        for entry in data.chunks_exact(16) {
            let tag = u32::try_from(word(entry, 0)).expect("four bytes");
            let kind = u32::try_from(word(entry, 4)).expect("four bytes");
            entries.push((tag, kind, word(entry, 8), word(entry, 12)));
        }
        Ok((Self { entries, data: body }, 16 + (index + size) as u64))
    }

    fn find(&self, tag: u32) -> Option<(u32, &[u8], usize)> {
        let (_, kind, offset, count) = self.entries.iter().find(|(other, ..)| *other == tag)?;
        Some((*kind, self.data.get(*offset..)?, *count))
    }

    /// Returns numbers of any width.
    pub(crate) fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some((kind, data, count)) = self.find(tag) else { return Vec::new() };
        let width = match kind {
            2 => 1,
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Vec::new(),
        };
        let numbers = data.chunks_exact(width).take(count);
        numbers.map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))).collect()
    }

    /// Returns the first number.
    pub(crate) fn number(&self, tag: u32) -> Option<u64> {
        self.numbers(tag).first().copied()
    }

    /// Returns strings; what is not UTF-8 in them is replaced.
    pub(crate) fn texts(&self, tag: u32) -> Vec<String> {
        let Some((kind, data, count)) = self.find(tag) else { return Vec::new() };
        if !matches!(kind, 6 | 8 | 9) {
            return Vec::new();
        }
        let mut texts = Vec::new();
        let mut rest = data;
        while texts.len() < count {
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { break };
            texts.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 1..];
        }
        texts
    }

    /// Returns the first string.
    pub(crate) fn text(&self, tag: u32) -> Option<String> {
        let (kind, data, count) = self.find(tag)?;
        if !matches!(kind, 6 | 8 | 9) || count == 0 {
            return None;
        }
        let end = data.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&data[..end]).into_owned())
    }
}
