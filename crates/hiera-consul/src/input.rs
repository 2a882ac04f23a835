//! Files that people wrote, read within bounds.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::Error;
use crate::psych;

/// Reads a file of configuration or data. What is no file might never end, and is refused before a byte is read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    // A pipe without a writer is not waited for.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let metadata = file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(Error::data("a pipe, a socket or a device, where a file is expected").in_file(path));
    }
    bounded(file, path, usize::try_from(metadata.len()).unwrap_or(usize::MAX))
}

/// Reads as [`read`] does; `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read(path) {
        Err(Error::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Reads what was named on the command line, which may be the pipe that a shell makes of `<(command)`.
pub(crate) fn read_given(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    bounded(file, path, 0)
}

fn bounded(file: File, path: &Path, likely: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(likely.min(psych::LARGEST) + 1);
    file.take(psych::LARGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if bytes.len() > psych::LARGEST {
        return Err(Error::data(format!("larger than {} bytes", psych::LARGEST)).in_file(path));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for path in [&pipe, Path::new("/dev/zero"), Path::new("/dev/null")] {
            assert!(matches!(read(path), Err(Error::Data { .. })), "{}", path.display());
        }
        assert!(matches!(read_given(Path::new("/dev/zero")), Err(Error::Data { .. })));
        assert!(matches!(read(directory.path()), Err(Error::Read { .. })));
        assert!(matches!(read_if_there(&directory.path().join("none")), Ok(None)));
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        for (length, fits) in [(0, true), (psych::LARGEST, true), (psych::LARGEST + 1, false)] {
            File::create(&path).and_then(|file| file.set_len(length as u64)).expect("a file");
            assert_eq!(read(&path).map(|bytes| bytes.len()).ok(), fits.then_some(length));
        }
        // Larger than any memory: refused for the price of the limit.
        File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a file");
        assert!(matches!(read(&path), Err(Error::Data { .. })));
    }
}
