//! Files that people wrote, read within bounds.

use std::io::{self, ErrorKind};
use std::path::Path;

use toolkit::files;

use crate::error::Error;
use crate::psych;

/// Reads a file of configuration or data. What is no file might never end, and is refused before a byte is read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    files::read_bounded(path, psych::LARGEST as u64).map_err(failed(path))
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
    files::read_given(path, psych::LARGEST as u64).map_err(failed(path))
}

/// What is too large or no file is wrong data; the rest is the system's.
fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| match source.kind() {
        ErrorKind::FileTooLarge | ErrorKind::InvalidInput => Error::data(source.to_string()).in_file(path),
        _ => Error::Read { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

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
