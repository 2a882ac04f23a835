//! Gzip files that are packed piece by piece: what has not changed since the last one is taken over from it as it is.
//!
//! A piece refers to nothing before it and ends at a whole byte, so pieces stand in any order in one stream, and the
//! file is gzip of one member as any other. Where a piece ends follows from the content: one package more or less
//! changes the piece that it is in, and hardly ever the next.

use std::collections::HashMap;
use std::ops::Range;

use flate2::{Compress, Compression, Crc, FlushCompress};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::Store;

/// Quick first: an index is packed whenever a package changes, and read once by each client.
const LEVEL: u32 = 4;
/// Smallest piece. Smaller ones are packed again less, but worse: of text as in Debian's indices, pieces of 16 KiB make
/// the file 11 % longer, of 32 KiB 7 %.
const LEAST: usize = 16 << 10;
/// Above [`LEAST`] a piece ends with every so-manieth part.
const ONE_OF: u32 = 4;

/// Magic, deflate, no flags, no time (so equal input gives equal bytes), nothing special, no known system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty last block.
const END: [u8; 2] = [3, 0];

/// The pieces of one file, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pieces {
    /// The file.
    blob: Digest,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    /// Of what the content follows from.
    key: Digest,
    /// Length when packed.
    packed: u32,
}

/// What the last files of a source were made of: `ROOT/pieces/NAME.json`. Without it all is packed anew.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Last {
    /// The program that packed; another may pack differently.
    by: String,
    files: Vec<Pieces>,
}

impl Last {
    fn path(name: &str) -> String {
        format!("pieces/{name}.json")
    }

    /// Reads what is known of a source's files: nothing, where that cannot be used.
    pub(crate) fn load(store: &Store, name: &str) -> Self {
        let known: Option<Self> = store.read_json(Self::path(name)).unwrap_or_default();
        known.filter(|last| last.by == env!("CARGO_PKG_VERSION")).unwrap_or_default()
    }

    /// Remembers a source's files.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn save(store: &Store, name: &str, files: Vec<Pieces>) -> Result<()> {
        store.write_json(Self::path(name), &Self { by: env!("CARGO_PKG_VERSION").to_owned(), files })
    }

    /// Returns what was packed of the file of this number.
    fn of(&self, store: &Store, number: usize) -> Known {
        let Some(file) = self.files.get(number) else { return Known::default() };
        let Ok(packed) = store.get(&file.blob) else { return Known::default() };
        let mut at = HEAD.len();
        let mut places = HashMap::with_capacity(file.pieces.len());
        for piece in &file.pieces {
            let end = at.saturating_add(piece.packed as usize);
            places.insert(piece.key.clone(), at..end);
            at = end;
        }
        // Else they are pieces of something else.
        if at + END.len() + 8 == packed.len() { Known { packed, places } } else { Known::default() }
    }
}

#[derive(Default)]
struct Known {
    packed: Vec<u8>,
    places: HashMap<Digest, Range<usize>>,
}

/// A file while it is written.
pub(crate) struct Writer {
    known: Known,
    deflate: Compress,
    packed: Vec<u8>,
    pieces: Vec<Piece>,
    /// The piece that has not ended.
    open: Vec<u8>,
    key: Sha256,
    /// Of the whole content.
    crc: Crc,
    hasher: Sha256,
    size: u64,
}

/// A file that was written.
pub(crate) struct Written {
    /// Length and digest of the file.
    pub(crate) file: (u64, Digest),
    /// Digest and length of the content.
    pub(crate) content: (Digest, u64),
    /// For [`Last::save`].
    pub(crate) pieces: Pieces,
}

impl Writer {
    /// Begins the file of this number; what was packed of its forerunner is taken over.
    pub(crate) fn new(store: &Store, last: &Last, number: usize) -> Self {
        Self {
            known: last.of(store, number),
            deflate: Compress::new(Compression::new(LEVEL), false),
            packed: HEAD.to_vec(),
            pieces: Vec::new(),
            open: Vec::new(),
            key: Sha256::new(),
            crc: Crc::new(),
            hasher: Sha256::new(),
            size: 0,
        }
    }

    /// Appends a part, after which a piece may end. Its key is what it follows from, with no room for another: itself,
    /// where nothing shorter is known.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn add(&mut self, part: &[u8], key: &[u8]) -> Result<()> {
        self.open.extend_from_slice(part);
        self.key.update(key);
        if self.open.len() >= LEAST && crc(part).is_multiple_of(ONE_OF) { self.end_piece() } else { Ok(()) }
    }

    /// Ends the piece here, whatever comes next.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn end_piece(&mut self) -> Result<()> {
        let open = std::mem::take(&mut self.open);
        self.crc.update(&open);
        self.hasher.update(&open);
        self.size += open.len() as u64;
        let key = Digest::finish(std::mem::take(&mut self.key));
        let before = self.packed.len();
        match self.known.places.get(&key) {
            Some(place) => self.packed.extend_from_slice(&self.known.packed[place.clone()]),
            None => self.pack(&open)?,
        }
        let packed = u32::try_from(self.packed.len() - before).map_err(|_| Error::Bug("a piece above 4 GiB".into()))?;
        self.pieces.push(Piece { key, packed });
        self.open = open;
        self.open.clear();
        Ok(())
    }

    fn pack(&mut self, content: &[u8]) -> Result<()> {
        self.deflate.reset();
        loop {
            let rest = &content[usize::try_from(self.deflate.total_in()).expect("no more than there is")..];
            // What cannot be compressed grows by some bytes of every 16 KiB or more.
            self.packed.reserve(rest.len() + rest.len() / 1024 + 64);
            let packed = self.deflate.compress_vec(rest, &mut self.packed, FlushCompress::Sync);
            packed.map_err(|error| Error::Bug(format!("deflate: {error}")))?;
            // With room left, everything is written.
            if self.packed.len() < self.packed.capacity() {
                return Ok(());
            }
        }
    }

    /// Ends the last piece and stores the file.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn finish(mut self, store: &Store) -> Result<Written> {
        self.end_piece()?;
        self.packed.extend_from_slice(&END);
        self.packed.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.packed.extend_from_slice(&self.crc.amount().to_le_bytes());
        let blob = store.put(&self.packed)?;
        Ok(Written {
            file: (self.packed.len() as u64, blob.clone()),
            content: (Digest::finish(self.hasher), self.size),
            pieces: Pieces { blob, pieces: self.pieces },
        })
    }
}

/// Returns the CRC-32 of bytes.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::digest::Digest;

    /// Parts of many lengths, some of which cannot be compressed.
    fn parts(seed: u64, count: u64) -> Vec<Vec<u8>> {
        let part = |number: u64| {
            let mut noise = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
            let mut next = || {
                noise = noise.wrapping_mul(0xd129_0dd1_3cbf_8b43).wrapping_add(1);
                noise >> 56
            };
            let length = if number.is_multiple_of(97) { 40_000 } else { next() * 8 };
            let wild = number.is_multiple_of(5);
            (0..length).map(|at| if wild { next() as u8 } else { b'a' + (at % 7 + number % 3) as u8 }).collect()
        };
        (0..count).map(part).collect()
    }

    fn write(store: &Store, last: &Last, parts: &[Vec<u8>]) -> (Written, Vec<u8>) {
        let mut writer = Writer::new(store, last, 0);
        for part in parts {
            writer.add(part, part).expect("packs");
        }
        let written = writer.finish(store).expect("writable");
        let bytes = store.get(&written.file.1).expect("stored");
        (written, bytes)
    }

    fn scratch() -> (tempfile::TempDir, Store, toolkit::lock::FileLock) {
        let dir = tempfile::tempdir().expect("scratch directory");
        let (store, lock) = Store::writer(&dir.path().join("m")).expect("writable");
        (dir, store, lock)
    }

    #[test]
    fn it_is_gzip_of_one_member() {
        let (_dir, store, _lock) = scratch();
        for count in [0, 1, 2, 700] {
            let parts = parts(1, count);
            let content = parts.concat();
            let (written, bytes) = write(&store, &Last::default(), &parts);
            let mut unpacked = Vec::new();
            let mut decoder = flate2::bufread::GzDecoder::new(&bytes[..]);
            decoder.read_to_end(&mut unpacked).expect("gzip");
            assert!(unpacked == content, "{count} parts");
            assert!(decoder.into_inner().is_empty(), "nothing follows the member");
            assert_eq!(written.content, (Digest::of(&content), content.len() as u64));
            assert_eq!(written.file.0, bytes.len() as u64);
        }
    }

    #[test]
    fn what_is_taken_over_is_what_would_have_been_packed() {
        let (_dir, store, _lock) = scratch();
        let before = parts(1, 700);
        Last::save(&store, "s", vec![write(&store, &Last::default(), &before).0.pieces]).expect("writable");
        let last = Last::load(&store, "s");
        let mut after = before.clone();
        after[350] = b"another".to_vec();
        after.remove(10);
        after.insert(600, b"one more".to_vec());
        let known = last.of(&store, 0).places;
        let (written, bytes) = write(&store, &last, &after);
        let new = written.pieces.pieces.iter().filter(|piece| !known.contains_key(&piece.key)).count();
        assert!(known.len() > 20 && (1..=9).contains(&new), "{new} new of {}", known.len());
        assert!(bytes == write(&store, &Last::default(), &after).1, "the same file either way");
    }

    #[test]
    fn what_cannot_be_used_is_not() {
        let (_dir, store, _lock) = scratch();
        let parts = parts(2, 200);
        let (written, bytes) = write(&store, &Last::default(), &parts);
        let path = store.path(Last::path("s"));
        let save = |pieces: Pieces| Last::save(&store, "s", vec![pieces]).expect("writable");
        // Another program's.
        save(written.pieces.clone());
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, text.replace(env!("CARGO_PKG_VERSION"), "0")).expect("writable");
        assert!(Last::load(&store, "s").files.is_empty());
        // No JSON; nothing.
        std::fs::write(&path, "{").expect("writable");
        assert!(Last::load(&store, "s").files.is_empty());
        assert!(Last::load(&store, "t").files.is_empty());
        // Lengths that do not add up.
        let mut wrong = written.pieces.clone();
        wrong.pieces[0].packed = u32::MAX;
        save(wrong);
        assert!(Last::load(&store, "s").of(&store, 0).places.is_empty());
        // A blob that is not what it was, or gone.
        save(written.pieces.clone());
        assert!(!Last::load(&store, "s").of(&store, 0).places.is_empty());
        let blob = store.blob(&written.file.1);
        std::fs::remove_file(&blob).expect("there");
        assert!(Last::load(&store, "s").of(&store, 0).places.is_empty());
        std::fs::write(&blob, vec![0; bytes.len()]).expect("writable");
        let last = Last::load(&store, "s");
        assert!(last.of(&store, 0).places.is_empty());
        std::fs::remove_file(&blob).expect("there");
        assert!(write(&store, &last, &parts).1 == bytes, "packed anew");
    }
}
