//! A window that moves over a stream: what is looked at is in memory, what was used is dropped.

use std::io::{self, Read};

/// The window. Positions are counted from its beginning.
pub(crate) struct Window<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Where the window begins in `buffer`, and where it ends.
    start: usize,
    end: usize,
    /// Position of `buffer[0]` in the stream.
    base: u64,
    ended: bool,
    /// How much is read at a time.
    chunk: usize,
}

impl<R: Read> Window<R> {
    /// Begins empty; each growth is by at most `chunk` bytes.
    pub(crate) fn new(reader: R, chunk: usize) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, end: 0, base: 0, ended: false, chunk }
    }

    /// What is in the window.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Lets go of the first `count` bytes.
    pub(crate) fn drop_front(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
    }

    /// Lets go of the first `next` bytes and returns the position of the first in the stream and the first `count`.
    pub(crate) fn take(&mut self, count: usize, next: usize) -> (u64, &[u8]) {
        let start = self.start;
        self.drop_front(next);
        (self.base + start as u64, &self.buffer[start..start + count])
    }

    /// Reads more. False at the end of the stream.
    ///
    /// # Errors
    /// Those of the reader.
    pub(crate) fn grow(&mut self) -> io::Result<bool> {
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

    /// How much memory it holds.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }
}

/// Gives a stream in small pieces.
#[cfg(test)]
pub(crate) struct Pieces<'a>(pub(crate) &'a [u8], pub(crate) usize);

#[cfg(test)]
impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}
