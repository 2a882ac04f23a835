//! Compressed streams: what is read of them is bounded in memory and in length.

use std::io::{self, Read};

/// Memory that the xz decoder may use.
const MAX_XZ_MEMORY: u64 = 128 << 20;
/// Largest zstd window (2^27 bytes).
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// None.
    Plain,
    /// `.gz`
    Gzip,
    /// `.xz`
    Xz,
    /// `.zst`
    Zstd,
}

impl Packing {
    /// All, in the order in which apt prefers them.
    pub(crate) const ALL: [Packing; 4] = [Packing::Xz, Packing::Gzip, Packing::Zstd, Packing::Plain];

    /// Returns the suffix of file names.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Packing::Plain => "",
            Packing::Gzip => ".gz",
            Packing::Xz => ".xz",
            Packing::Zstd => ".zst",
        }
    }

    /// Returns the compression that a suffix names.
    pub(crate) fn of_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|packing| packing.suffix() == suffix)
    }

    /// Returns the compression that the end of a name tells.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.') {
            Some((_, "gz" | "xz" | "zst")) => Self::of_suffix(&name[name.rfind('.')?..]),
            Some((_, "bz2" | "lzma" | "zck")) => None,
            _ => Some(Packing::Plain),
        }
    }

    /// Returns the unpacked content.
    ///
    /// # Errors
    /// The decoder cannot be made.
    pub(crate) fn reader<'a>(self, bytes: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Packing::Plain => Box::new(bytes),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            Packing::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY, liblzma::stream::CONCATENATED)?;
                Box::new(liblzma::read::XzDecoder::new_stream(bytes, stream))
            }
            Packing::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(bytes)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// Reads no more than `left` bytes; one more is an error, unlike with [`Read::take`].
pub(crate) struct Capped<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Capped<R> {
    pub(crate) fn new(reader: R, limit: u64) -> Self {
        Self { reader, left: limit }
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::new(io::ErrorKind::FileTooLarge, "unpacked it is larger than it may be")),
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_is_longer_than_the_limit_is_an_error_and_what_is_as_long_is_not() {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(&[7; 100_000]).expect("memory takes it");
        let packed = encoder.finish().expect("memory takes it");
        let unpack = |limit| {
            let reader = Packing::Xz.reader(&packed[..]).expect("a decoder");
            Capped::new(reader, limit).read_to_end(&mut Vec::new())
        };
        assert_eq!(unpack(100_000).expect("fits"), 100_000);
        assert_eq!(unpack(99_999).expect_err("too long").kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn names_tell_the_compression() {
        assert_eq!(Packing::of_name("a/primary.xml.gz"), Some(Packing::Gzip));
        assert_eq!(Packing::of_name("a/primary.xml"), Some(Packing::Plain));
        assert_eq!(Packing::of_name("a/primary.xml.bz2"), None);
        assert_eq!(Packing::of_suffix(".7z"), None);
    }
}
