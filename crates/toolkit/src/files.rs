//! Files and streams read whole, never more than a limit, and never held up by what is no file.
//!
//! | Function | Symbolic links | Pipes, sockets, devices | For |
//! |---|---|---|---|
//! | [`open_regular`], [`read_regular`] | refused | refused | what lies where somebody else could have put a link |
//! | [`open_named`], [`read_bounded`] | followed | refused | paths from settings and other files |
//! | [`read_given`] | followed | read, a pipe is waited for | paths of a command line, such as `<(command)` |
//!
//! What is refused is an [`io::Error`] that says what it is: `IsADirectory` for a directory, `InvalidInput` for the
//! rest, `FileTooLarge` for more than the limit. The caller adds the path.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file, not by a symbolic link.
///
/// # Errors
/// Those of open(2), and what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open(path, libc::O_NOFOLLOW).map_err(|error| match error.raw_os_error() {
        // As open(2) says it: "Too many levels of symbolic links".
        Some(libc::ELOOP) if path.is_symlink() => refusal(ErrorKind::InvalidInput, "a symbolic link"),
        _ => error,
    })
}

/// Opens a regular file that was named: symbolic links are followed.
///
/// # Errors
/// Those of open(2), and what is no regular file.
pub fn open_named(path: &Path) -> io::Result<File> {
    open(path, 0)
}

fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    // A pipe without a writer is not waited for, and no terminal becomes ours.
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(refusal(ErrorKind::IsADirectory, "a directory"))
    } else {
        // A socket cannot be opened at all.
        Err(refusal(ErrorKind::InvalidInput, if kind.is_fifo() { "a pipe" } else { "a device" }))
    }
}

fn refusal(kind: ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, format!("{what}, where a file is expected"))
}

/// Reads a regular file, not by a symbolic link.
///
/// # Errors
/// Those of [`open_regular`] and [`read_to_limit`].
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_whole(open_regular(path)?, limit)
}

/// Reads a regular file that was named; symbolic links are followed.
///
/// # Errors
/// Those of [`open_named`] and [`read_to_limit`].
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_whole(open_named(path)?, limit)
}

fn read_whole(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let likely = file.metadata()?.len().min(limit);
    read_into(Vec::with_capacity(usize::try_from(likely).unwrap_or(0) + 1), file, limit)
}

/// Reads what was given on the command line, which may be a pipe; symbolic links are followed.
///
/// # Errors
/// Those of open(2) and [`read_to_limit`].
pub fn read_given(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_to_limit(File::open(path)?, limit)
}

/// Reads a stream to its end.
///
/// # Errors
/// Those of the stream; `FileTooLarge` once more than `limit` bytes have come.
pub fn read_to_limit(stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    read_into(Vec::new(), stream, limit)
}

fn read_into(mut bytes: Vec<u8>, stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    stream.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {}", size(limit))));
    }
    Ok(bytes)
}

/// Makes a text of what was read.
///
/// # Errors
/// `InvalidData` with the line that is not UTF-8.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        io::Error::new(ErrorKind::InvalidData, format!("line {line} is not valid UTF-8"))
    })
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "0 bytes".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn said<T: std::fmt::Debug>(result: io::Result<T>) -> (ErrorKind, String) {
        let error = result.expect_err("refused");
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_is_no_file_is_refused_at_once_and_said() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let pipe = scratch.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).expect("a link");
        let socket = scratch.path().join("socket");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        for (path, what) in [(&*pipe, "a pipe"), (Path::new("/dev/zero"), "a device")] {
            let refused = (ErrorKind::InvalidInput, format!("{what}, where a file is expected"));
            assert_eq!(said(open_regular(path)), refused);
            assert_eq!(said(open_named(path)), refused);
            assert_eq!(said(read_bounded(path, 1)), refused);
        }
        assert_eq!(said(open_regular(&link)).1, "a symbolic link, where a file is expected");
        assert_eq!(said(open_named(&link)).1, "a pipe, where a file is expected");
        // open(2) itself refuses a socket.
        assert!(read_bounded(&socket, 1).is_err());
        assert_eq!(said(read_bounded(scratch.path(), 1)).0, ErrorKind::IsADirectory);
        assert_eq!(said(open_regular(scratch.path())).1, "a directory, where a file is expected");
        assert_eq!(said(read_given(scratch.path(), 1)).0, ErrorKind::IsADirectory);
        for missing in [open_regular(&scratch.path().join("none")), open_named(&scratch.path().join("none"))] {
            assert_eq!(said(missing).0, ErrorKind::NotFound);
        }
    }

    #[test]
    fn links_are_followed_where_a_path_was_named_and_refused_elsewhere() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
        std::fs::write(&file, "text").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(read_bounded(&link, 9).expect("followed"), b"text");
        assert_eq!(read_given(&link, 9).expect("followed"), b"text");
        assert_eq!(said(open_regular(&link)).0, ErrorKind::InvalidInput);
        assert_eq!(said(read_regular(&link, 9)).0, ErrorKind::InvalidInput);
        assert_eq!(read_regular(&file, 9).expect("read"), b"text");
        // A link on the way is no link at the end.
        let below = scratch.path().join("below");
        std::os::unix::fs::symlink(scratch.path(), &below).expect("a link");
        assert!(open_regular(&below.join("file")).is_ok());
        // One that leads to itself is a link too.
        let circle = scratch.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).expect("a link");
        assert_eq!(said(open_regular(&circle)).0, ErrorKind::InvalidInput);
        assert_eq!(open_named(&circle).expect_err("a loop").raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn the_limit_itself_fits_and_one_byte_more_does_not() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("file");
        for (length, fits) in [(0, true), (2048, true), (2049, false), (1 << 40, false)] {
            File::create(&path).and_then(|file| file.set_len(length)).expect("a file");
            for read in [read_bounded(&path, 2048), read_regular(&path, 2048), read_given(&path, 2048)] {
                match read {
                    Ok(bytes) => assert!(fits && bytes.len() as u64 == length, "{length}"),
                    Err(error) => {
                        assert!(!fits && error.kind() == ErrorKind::FileTooLarge, "{length}");
                        assert_eq!(error.to_string(), "larger than 2 KiB");
                    }
                }
            }
        }
        assert_eq!(read_to_limit(&b"all"[..], u64::MAX).expect("read"), b"all");
        assert_eq!(said(read_to_limit(io::repeat(0), 3 << 20)).1, "larger than 3 MiB");
        assert_eq!(said(read_to_limit(io::repeat(0), 1000)).1, "larger than 1000 bytes");
        assert_eq!(said(read_given(Path::new("/dev/zero"), 0)).1, "larger than 0 bytes");
    }

    #[test]
    fn a_pipe_that_was_given_is_read_to_its_end() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let pipe = scratch.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        std::thread::scope(|scope| {
            // Opening waits for the reader.
            scope.spawn(|| std::fs::write(&pipe, "from a pipe").expect("written"));
            assert_eq!(read_given(&pipe, 64).expect("read"), b"from a pipe");
        });
    }

    #[test]
    fn a_text_is_utf_8_or_the_line_is_named() {
        assert_eq!(text("é\n".into()).expect("text"), "é\n");
        assert_eq!(
            said(text(b"a\nb\n\xff".to_vec())),
            (ErrorKind::InvalidData, "line 3 is not valid UTF-8".to_owned())
        );
    }
}
