//! A small pack read in memory, without a file of any kind.
//!
//! A commit without its history is a pack of some ten or hundred kilobytes. It is read into an
//! object database that lives in memory, its blobs into a map; every object gets its id from its own bytes there, so
//! what is found by a commit's id is what the commit means, whoever sent it. The pack's own checksum
//! says nothing beyond that and is not looked at.

use std::collections::HashMap;

use flate2::{Decompress, FlushDecompress, Status};
use git2::{ObjectType, Odb, Oid};

use crate::git::Blobs;

/// Largest pack that is read in memory.
pub(crate) const MAX_BYTES: usize = 512 << 10;
/// Most bytes of objects that one pack may unfold to in memory.
const MAX_UNPACKED: usize = 3 << 20;

/// Why a pack is not read in memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It unfolds to too much for that; the disk may take it.
    Large,
    /// It is damaged.
    Damaged(&'static str),
}

/// An object that waits for the one it differs from.
struct Delta {
    at: usize,
    base: Base,
    data: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Base {
    Offset(usize),
    Id(Oid),
}

/// Adds every object of `pack` to `odb`, but the blobs, which are returned.
pub(crate) fn unpack(pack: &[u8], odb: &Odb<'_>) -> Result<Blobs, Refused> {
    let word =
        |at: usize| pack.get(at..at + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    if pack.get(..4) != Some(b"PACK") || !matches!(word(4), Some(2 | 3)) {
        return Err(Refused::Damaged("it has no header"));
    }
    let count = word(8).ok_or(Refused::Damaged("it has no header"))?;
    let body = pack.len().checked_sub(20).filter(|end| *end >= 12).ok_or(Refused::Damaged("it is cut off"))?;
    let mut reader = Reader { pack: &pack[..body], at: 12, left: MAX_UNPACKED, zlib: Decompress::new(true) };
    let mut known: HashMap<usize, Oid> = HashMap::new();
    let mut waiting: Vec<Delta> = Vec::new();
    let mut blobs = Blobs::new();
    let write = |blobs: &mut Blobs, kind, data: Vec<u8>| {
        let kept = if kind == ObjectType::Blob {
            Oid::hash_object(kind, &data).inspect(|oid| drop(blobs.insert(*oid, data)))
        } else {
            odb.write(kind, &data)
        };
        kept.map_err(|_| Refused::Damaged("an object cannot be kept"))
    };
    for _ in 0..count {
        let at = reader.at;
        let (kind, size) = reader.head()?;
        let kind = match kind {
            1 => ObjectType::Commit,
            2 => ObjectType::Tree,
            3 => ObjectType::Blob,
            4 => ObjectType::Tag,
            6 | 7 => {
                let base = if kind == 6 { Base::Offset(reader.offset(at)?) } else { Base::Id(reader.id()?) };
                let delta = Delta { at, base, data: reader.inflate(size)? };
                match resolve(&delta, &known, odb, &blobs, &mut reader.left)? {
                    Some((kind, data)) => drop(known.insert(at, write(&mut blobs, kind, data)?)),
                    None => waiting.push(delta),
                }
                continue;
            }
            _ => return Err(Refused::Damaged("an object has no known type")),
        };
        let data = reader.inflate(size)?;
        known.insert(at, write(&mut blobs, kind, data)?);
    }
    if reader.at != body {
        return Err(Refused::Damaged("it is longer than it says"));
    }
    // A delta may stand before what it is based on. Each round resolves one at least.
    while !waiting.is_empty() {
        let before = waiting.len();
        for delta in std::mem::take(&mut waiting) {
            match resolve(&delta, &known, odb, &blobs, &mut reader.left)? {
                Some((kind, data)) => drop(known.insert(delta.at, write(&mut blobs, kind, data)?)),
                None => waiting.push(delta),
            }
        }
        if waiting.len() == before {
            return Err(Refused::Damaged("an object is missing that another is based on"));
        }
    }
    Ok(blobs)
}

fn resolve(
    delta: &Delta,
    known: &HashMap<usize, Oid>,
    odb: &Odb<'_>,
    blobs: &Blobs,
    left: &mut usize,
) -> Result<Option<(ObjectType, Vec<u8>)>, Refused> {
    let base = match delta.base {
        Base::Offset(at) => known.get(&at).copied(),
        Base::Id(id) => Some(id),
    };
    let Some(base) = base else { return Ok(None) };
    if let Some(base) = blobs.get(&base) {
        return Ok(Some((ObjectType::Blob, apply(base, &delta.data, left)?)));
    }
    let Ok(base) = odb.read(base) else { return Ok(None) };
    let data = apply(base.data(), &delta.data, left)?;
    Ok(Some((base.kind(), data)))
}

/// Applies a delta: copies of the base, and new bytes.
fn apply(base: &[u8], mut delta: &[u8], left: &mut usize) -> Result<Vec<u8>, Refused> {
    const WRONG: Refused = Refused::Damaged("a delta does not fit what it is based on");
    let (from, to) = (length(&mut delta).ok_or(WRONG)?, length(&mut delta).ok_or(WRONG)?);
    if from != base.len() {
        return Err(WRONG);
    }
    *left = left.checked_sub(to).ok_or(Refused::Large)?;
    let mut out = Vec::with_capacity(to);
    while let Some((&code, rest)) = delta.split_first() {
        delta = rest;
        let piece = if code & 0x80 != 0 {
            // A bit for each byte of offset and length that is not zero.
            let (mut start, mut length) = (0usize, 0usize);
            for bit in 0..7 {
                if code & (1 << bit) != 0 {
                    let (&byte, rest) = delta.split_first().ok_or(WRONG)?;
                    delta = rest;
                    let (value, place) = if bit < 4 { (&mut start, bit) } else { (&mut length, bit - 4) };
                    *value |= usize::from(byte) << (8 * place);
                }
            }
            base.get(start..start + if length == 0 { 0x10000 } else { length }).ok_or(WRONG)?
        } else {
            let (new, rest) = delta.split_at_checked(usize::from(code)).filter(|_| code > 0).ok_or(WRONG)?;
            delta = rest;
            new
        };
        if out.len() + piece.len() > to {
            return Err(WRONG);
        }
        out.extend_from_slice(piece);
    }
    if out.len() == to { Ok(out) } else { Err(WRONG) }
}

/// Takes a length off the front of a delta: seven bits a byte, the lowest first.
fn length(delta: &mut &[u8]) -> Option<usize> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = delta.split_first().filter(|_| shift < 35)?;
        *delta = rest;
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

struct Reader<'a> {
    pack: &'a [u8],
    at: usize,
    /// Bytes that may still be unfolded.
    left: usize,
    zlib: Decompress,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Refused> {
        let byte = *self.pack.get(self.at).ok_or(Refused::Damaged("it is cut off"))?;
        self.at += 1;
        Ok(byte)
    }

    /// Reads type and size of the next object.
    fn head(&mut self) -> Result<(u8, usize), Refused> {
        let mut byte = self.byte()?;
        let kind = (byte >> 4) & 7;
        let (mut size, mut shift) = (usize::from(byte & 15), 4);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            if shift > 32 {
                return Err(Refused::Large);
            }
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Ok((kind, size))
    }

    /// Reads where the base of the delta at `at` is.
    fn offset(&mut self, at: usize) -> Result<usize, Refused> {
        let mut byte = self.byte()?;
        let mut back = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            if back > self.pack.len() {
                return Err(Refused::Damaged("a delta is based on nothing"));
            }
            back = ((back + 1) << 7) | usize::from(byte & 0x7f);
        }
        at.checked_sub(back).filter(|_| back > 0).ok_or(Refused::Damaged("a delta is based on nothing"))
    }

    fn id(&mut self) -> Result<Oid, Refused> {
        let bytes = self.pack.get(self.at..self.at + 20).ok_or(Refused::Damaged("it is cut off"))?;
        self.at += 20;
        Oid::from_bytes(bytes).map_err(|_| Refused::Damaged("a delta is based on nothing"))
    }

    fn inflate(&mut self, size: usize) -> Result<Vec<u8>, Refused> {
        const WRONG: Refused = Refused::Damaged("an object cannot be unpacked");
        self.left = self.left.checked_sub(size).ok_or(Refused::Large)?;
        self.zlib.reset(true);
        // One byte more, so that an object that is longer than it says is seen.
        let mut out = Vec::with_capacity(size + 1);
        loop {
            let (input, written) = (&self.pack[self.at..], out.len());
            let before = self.zlib.total_in();
            let status = self.zlib.decompress_vec(input, &mut out, FlushDecompress::Finish).map_err(|_| WRONG)?;
            let used = usize::try_from(self.zlib.total_in() - before).map_err(|_| WRONG)?;
            self.at += used;
            match status {
                Status::StreamEnd if out.len() == size => return Ok(out),
                Status::StreamEnd => return Err(WRONG),
                _ if used == 0 && out.len() == written => return Err(WRONG),
                _ if out.len() > size => return Err(WRONG),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use git2::Repository;

    /// A pack that git has made, of three versions of one long file.
    fn sample() -> (tempfile::TempDir, Vec<u8>, Vec<Oid>) {
        let scratch = tempfile::tempdir().expect("scratch");
        let repository = Repository::init_bare(scratch.path()).expect("made");
        let mut builder = repository.packbuilder().expect("a builder");
        let mut ids = Vec::new();
        let base: String = (0..4000).map(|number| format!("line {}\n", number * 7919 % 4001)).collect();
        for version in 0..3 {
            let text = base.replacen("line 77\n", &format!("version {version}\n"), 1);
            ids.push(repository.blob(text.as_bytes()).expect("kept"));
        }
        for id in &ids {
            builder.insert_object(*id, Some("file")).expect("added");
        }
        let mut buffer = git2::Buf::new();
        builder.write_buf(&mut buffer).expect("packed");
        (scratch, buffer.to_vec(), ids)
    }

    fn memory(work: impl FnOnce(&Odb<'_>)) {
        let odb = Odb::new().expect("a database");
        odb.add_new_mempack_backend(1).expect("in memory");
        work(&odb);
    }

    #[test]
    fn objects_and_deltas_are_what_git_has_packed() {
        let (scratch, pack, ids) = sample();
        let repository = Repository::open(scratch.path()).expect("there");
        let source = repository.odb().expect("objects");
        assert!(pack.len() < 40_000, "there are deltas in it: {} bytes", pack.len());
        memory(|odb| {
            let blobs = unpack(&pack, odb).expect("whole");
            for id in &ids {
                assert_eq!(blobs[id], source.read(*id).expect("there").data());
            }
        });
    }

    #[test]
    fn damage_anywhere_is_no_crash_and_gives_no_other_object() {
        let (_scratch, pack, ids) = sample();
        for at in (0..pack.len() - 20).step_by(11) {
            let mut damaged = pack.clone();
            damaged[at] ^= 0x55;
            memory(|odb| {
                let blobs = unpack(&damaged, odb).unwrap_or_default();
                let whole = ids.iter().all(|id| blobs.contains_key(id));
                assert!(!whole || at == 7, "byte {at}");
            });
            memory(|odb| assert!(unpack(&pack[..at], odb).is_err(), "{at}"));
        }
    }

    #[test]
    fn a_pack_that_unfolds_without_end_is_refused() {
        use std::io::Write as _;
        let mut pack = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
        let size = MAX_UNPACKED + 1;
        let mut left = size >> 4;
        pack.push(0x80 | (3 << 4) | u8::try_from(size & 15).expect("four bits"));
        while left > 0x7f {
            pack.push(0x80 | u8::try_from(left & 0x7f).expect("seven bits"));
            left >>= 7;
        }
        pack.push(u8::try_from(left).expect("seven bits"));
        let mut zlib = flate2::write::ZlibEncoder::new(pack, flate2::Compression::best());
        zlib.write_all(&vec![0; size]).expect("packed");
        let mut pack = zlib.finish().expect("packed");
        pack.extend_from_slice(&[0; 20]);
        memory(|odb| assert_eq!(unpack(&pack, odb).err(), Some(Refused::Large)));
    }
}
