//! The one file in which a snapshot crosses an air gap: an uncompressed tar archive that is written and read as a stream.
//!
//! ```text
//! stacktira-export     {"v":1,"snapshot":ID,"since":ID or null,"created":SECONDS,"confirmed":SECONDS}
//! manifest.json        as published; manifest.json.sig is the site's signature of it
//! manifest.json.sig
//! blob/<64 hex>        every content that the snapshot has and `since` has not, each once
//! git/N.bundle         of the N-th repository of the manifest, the commits that `since` has not
//! signature/N          the N-th signature of an index that the site made, in the manifest's order
//! end                  empty
//! ```
//! Nothing is ever written under a name that stands here: names say what an entry is, the manifest says where it
//! goes. An entry that has another name, type or order than these is refused.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use crate::digest::Digest;

/// Size of a header, and what content is filled up to.
const BLOCK: usize = 512;
/// Version of the format.
const VERSION: u32 = 1;

/// The first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    v: u32,
    /// What the archive brings.
    pub(crate) snapshot: Digest,
    /// What the receiver must have already.
    pub(crate) since: Option<Digest>,
    /// When the snapshot was made, in seconds since the epoch.
    pub(crate) created: u64,
    /// When the sources were last found to hold exactly it.
    pub(crate) confirmed: u64,
}

impl Head {
    /// Makes the head of an archive.
    pub(crate) fn new(snapshot: Digest, since: Option<Digest>, created: u64, confirmed: u64) -> Self {
        Self { v: VERSION, snapshot, since, created, confirmed }
    }

    /// Reads the head of an archive.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let head: Self = serde_json::from_slice(bytes).map_err(|error| format!("its head: {error}"))?;
        if head.v == VERSION { Ok(head) } else { Err(format!("its format has version {}", head.v)) }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// [`Head`].
    Head,
    /// The manifest.
    Manifest,
    /// The manifest's signature.
    ManifestSignature,
    /// Content.
    Blob(Digest),
    /// Commits of a repository.
    Bundle(usize),
    /// Signature of an index.
    Signature(usize),
    /// Nothing is missing.
    End,
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        // One number has one form.
        let number = |text: &str| text.parse().ok().filter(|number: &usize| number.to_string() == text);
        Some(match name {
            "stacktira-export" => Self::Head,
            "manifest.json" => Self::Manifest,
            "manifest.json.sig" => Self::ManifestSignature,
            "end" => Self::End,
            _ => match name.split_once('/')? {
                ("blob", digest) => Self::Blob(digest.parse().ok()?),
                ("git", file) => Self::Bundle(number(file.strip_suffix(".bundle")?)?),
                ("signature", text) => Self::Signature(number(text)?),
                _ => return None,
            },
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head => f.write_str("stacktira-export"),
            Self::Manifest => f.write_str("manifest.json"),
            Self::ManifestSignature => f.write_str("manifest.json.sig"),
            Self::Blob(digest) => write!(f, "blob/{digest}"),
            Self::Bundle(number) => write!(f, "git/{number}.bundle"),
            Self::Signature(number) => write!(f, "signature/{number}"),
            Self::End => f.write_str("end"),
        }
    }
}

/// Writes an archive.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    inner: W,
    /// What was written.
    pub(crate) written: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, written: 0 }
    }

    /// Starts an entry; exactly `size` bytes are to follow by [`Writer::content`].
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn entry(&mut self, name: &Name, size: u64) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name.to_string())?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o444);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_cksum();
        self.content(header.as_bytes())
    }

    /// Writes content of the entry that was started last.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Ends an entry: fills up its last block.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn pad(&mut self) -> io::Result<()> {
        let over = usize::try_from(self.written % BLOCK as u64).expect("less than a block");
        if over > 0 { self.content(&[0; BLOCK][over..]) } else { Ok(()) }
    }

    /// Writes a whole entry.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn whole(&mut self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, bytes.len() as u64)?;
        self.content(bytes)?;
        self.pad()
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        self.whole(&Name::End, b"")?;
        self.content(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok((self.inner, self.written))
    }
}

/// Reads an archive. Between two entries it reads the content of the one that [`Reader::next`] returned last.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    inner: R,
    left: u64,
    padding: u64,
}

impl<R: Read> Reader<R> {
    /// Reads an archive from its first byte.
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// Goes to the next entry, over what was not read of the last one; returns what it is and how long.
    ///
    /// # Errors
    /// `UnexpectedEof` for an archive that ends before its end; `InvalidData` for what is no archive of this form.
    pub(crate) fn next(&mut self) -> io::Result<(Name, u64)> {
        let rest = self.left + self.padding;
        if io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink())? < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.left, self.padding) = (0, 0);
        let mut block = [0; BLOCK];
        self.inner.read_exact(&mut block)?;
        let (name, size) = parse(&block).ok_or_else(|| invalid("not an archive of `export`, or damaged"))?;
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok((name, size))
    }

    /// Reads the whole content of an entry.
    ///
    /// # Errors
    /// As [`Reader::next`]; `InvalidData` above the limit.
    pub(crate) fn whole(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        if self.left > limit {
            return Err(invalid(&format!("an entry has more than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

/// Understands a header as [`Writer`] makes it, and nothing else.
fn parse(block: &[u8; BLOCK]) -> Option<(Name, u64)> {
    let header = Header::from_byte_slice(block);
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let ustar = header.as_ustar()?;
    let fine = header.cksum().ok()? == sum && header.entry_type() == EntryType::Regular && ustar.prefix[0] == 0;
    let end = ustar.name.iter().position(|byte| *byte == 0).unwrap_or(ustar.name.len());
    let name = std::str::from_utf8(&ustar.name[..end]).ok()?;
    // What no file can have is no size.
    let size = header.entry_size().ok().filter(|size| *size < 1 << 62)?;
    if fine { Some((Name::parse(name)?, size)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(Name, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (name, bytes) in entries {
            writer.whole(name, bytes).expect("memory takes it");
        }
        writer.finish().expect("memory takes it").0
    }

    #[test]
    fn what_is_written_is_read_and_tar_can_read_it_too() {
        let digest = Digest::of(b"x");
        let entries = [
            (Name::Head, &b"{}"[..]),
            (Name::Blob(digest), &[7; 1300]),
            (Name::Bundle(12), b""),
            (Name::Signature(0), b"s"),
        ];
        let bytes = archive(&entries);
        let mut reader = Reader::new(&bytes[..]);
        for (name, content) in &entries {
            assert_eq!(reader.next().expect("there"), (name.clone(), content.len() as u64));
            // What nobody reads is skipped.
            if *name != Name::Bundle(12) {
                assert_eq!(reader.whole(2000).expect("whole"), *content);
            }
        }
        assert_eq!(reader.next().expect("there"), (Name::End, 0));
        let mut tar = tar::Archive::new(&bytes[..]);
        let paths: Vec<String> = tar
            .entries()
            .expect("tar")
            .map(|entry| entry.expect("an entry").path().expect("a path").to_string_lossy().into_owned())
            .collect();
        assert_eq!(paths.len(), 5);
        assert_eq!(paths[2], "git/12.bundle");
    }

    #[test]
    fn sizes_above_eight_gigabytes_fit() {
        let mut writer = Writer::new(Vec::new());
        writer.entry(&Name::Bundle(0), 20 << 30).expect("memory takes it");
        let mut reader = Reader::new(&writer.inner[..]);
        assert_eq!(reader.next().expect("there"), (Name::Bundle(0), 20 << 30));
    }

    #[test]
    fn an_archive_that_ends_early_or_was_changed_is_refused_at_every_byte() {
        let bytes = archive(&[(Name::Head, b"{}"), (Name::Manifest, &[1; 600])]);
        let read = |bytes: &[u8]| -> io::Result<()> {
            let mut reader = Reader::new(bytes);
            loop {
                if reader.next()?.0 == Name::End {
                    return Ok(());
                }
                reader.whole(1000)?;
            }
        };
        read(&bytes).expect("whole");
        let needed = bytes.len() - 2 * BLOCK;
        for length in 0..needed {
            assert!(read(&bytes[..length]).is_err(), "{length}");
        }
        for at in 0..BLOCK {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in
            ["", "blob/../../x", "blob/xyz", "git/01.bundle", "git/-1.bundle", "git/x", "/etc/passwd", "signature/+1"]
        {
            assert_eq!(Name::parse(name), None, "{name}");
        }
    }
}
