//! The elements of a directory's packages: one blob, package after package, each in `primary`, `filelists`, `other`.
//!
//! They are apart from the state that names them, because a run that finds nothing new does not need them. When
//! something is new, most of them are copied from blob to blob; what a disk does to them meanwhile is found by a
//! CRC-32 of each package's, at a tenth of the price of a digest.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::pieces::crc;
use crate::state::{FoundRpm, RpmState};
use crate::store::Store;

/// Largest blob that is read.
const MAX: u64 = 1 << 30;

/// The blob of a state.
pub(crate) struct Elements {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Elements {
    /// Reads a blob.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not there, too; [`Error::Read`].
    pub(crate) fn read(store: &Store, blob: &Digest) -> Result<Self> {
        let path = store.blob(blob);
        let bytes = match files::read_bounded(&path, MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::Damaged { path, message: error.to_string() });
            }
            other => other.map_err(Error::read(&path))?,
        };
        Ok(Self { path, bytes })
    }

    /// Returns all elements of a package.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn of(&self, package: &FoundRpm, place: Range<usize>) -> Result<&[u8]> {
        let damaged = || Error::Damaged {
            path: self.path.clone(),
            message: format!("it is not what was read of {}", package.file),
        };
        self.bytes.get(place).filter(|bytes| crc(bytes) == package.crc).ok_or_else(damaged)
    }

    /// Returns the elements of all packages of a state, of each those of `primary`, `filelists` and `other`.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn split<'a>(&'a self, state: &RpmState) -> Result<Vec<[&'a [u8]; 3]>> {
        let mut end = 0;
        let split = |package| {
            let place = place(package, &mut end);
            let (primary, rest) = self.of(package, place)?.split_at(package.lengths[0] as usize);
            let (filelists, other) = rest.split_at(package.lengths[1] as usize);
            Ok([primary, filelists, other])
        };
        state.packages.iter().map(split).collect()
    }
}

/// Returns where a package's elements are, and moves `end`, where those of the one before it ended.
pub(crate) fn place(package: &FoundRpm, end: &mut usize) -> Range<usize> {
    let start = *end;
    *end += package.lengths.iter().map(|length| *length as usize).sum::<usize>();
    start..*end
}
