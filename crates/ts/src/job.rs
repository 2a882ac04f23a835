//! A job: what is run, from where, with which environment; and the file that records it.
//!
//! Two kicks are of the same job when queue, argv and working directory are the same, byte for byte.
//! The environment, the umask, the policy and the reason are those of the first pending kick; they are
//! written down (mode 0600) before that kick is committed, so whoever runs it runs the same thing.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::policy::Policy;

const MAGIC: &[u8] = b"ts-job 1\n";
/// A record holds one argument list and one environment, which the kernel bounds much lower.
const LIMIT_BYTES: u64 = 16 << 20;

/// What identifies a job within its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u64; 2]);

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// One job with everything a run needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The command and its arguments; never empty.
    pub argv: Vec<OsString>,
    /// The directory it runs in.
    pub cwd: PathBuf,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its umask.
    pub umask: u32,
    /// What its statuses mean.
    pub policy: Policy,
    /// Why it was asked for.
    pub reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    umask: u32,
    policy: Policy,
    reason: Option<String>,
    args: usize,
}

impl Job {
    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> Key {
        let mut hash = Sha256::new();
        hash.update(self.cwd.as_os_str().as_bytes());
        for arg in &self.argv {
            hash.update([0]);
            hash.update(arg.as_bytes());
        }
        let digest = hash.finalize();
        let half = |at: usize| u64::from_be_bytes(digest[at..at + 8].try_into().expect("eight bytes"));
        Key([half(0), half(8)])
    }

    /// Returns the record: a magic line, one line of JSON, then strings that each end in a zero byte
    /// (working directory, arguments, environment); none of these can hold one.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head =
            Head { umask: self.umask, policy: self.policy.clone(), reason: self.reason.clone(), args: self.argv.len() };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(serde_json::to_vec(&head).expect("plain data has a JSON form"));
        bytes.push(b'\n');
        let mut push = |parts: &[&OsStr]| {
            for part in parts {
                bytes.extend_from_slice(part.as_bytes());
            }
            bytes.push(0);
        };
        push(&[self.cwd.as_os_str()]);
        for arg in &self.argv {
            push(&[arg]);
        }
        for (name, value) in &self.env {
            push(&[name, OsStr::new("="), value]);
        }
        bytes
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Bytes that no [`Job::encode`] has written, as a message.
    pub fn decode(bytes: &[u8]) -> Result<Job, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it is no record of a job")?;
        let line = rest.iter().position(|byte| *byte == b'\n').ok_or("its first line is cut")?;
        let head: Head = serde_json::from_slice(&rest[..line]).map_err(|error| error.to_string())?;
        let strings = rest[line + 1..].strip_suffix(&[0]).ok_or("its end is cut")?;
        let mut strings = strings.split(|byte| *byte == 0).map(|bytes| OsString::from_vec(bytes.to_vec()));
        let cwd = PathBuf::from(strings.next().ok_or("it has no directory")?);
        let argv: Vec<OsString> = strings.by_ref().take(head.args).collect();
        if argv.is_empty() || argv.len() != head.args {
            return Err("its arguments are cut".to_owned());
        }
        let mut env = Vec::new();
        for pair in strings {
            // A name may start with `=`, but it is never empty.
            let bytes = pair.as_bytes();
            let at = bytes.iter().skip(1).position(|byte| *byte == b'=').ok_or("its environment is malformed")? + 1;
            env.push((OsStr::from_bytes(&bytes[..at]).to_owned(), OsStr::from_bytes(&bytes[at + 1..]).to_owned()));
        }
        Ok(Job { argv, cwd, env, umask: head.umask & 0o777, policy: head.policy, reason: head.reason })
    }

    /// Writes the record; it appears whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn store(&self, path: &Path) -> std::io::Result<()> {
        // No sync: a record that a power cut takes is gone together with the kick it belongs to, and a
        // boot is a kick.
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let written = write_new(&temporary, &self.encode(), 0o600).and_then(|()| std::fs::rename(&temporary, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Reads the record back.
    ///
    /// # Errors
    /// Those of the file system, and records that are damaged.
    pub(crate) fn load(path: &Path) -> std::io::Result<Job> {
        use std::io::Read;
        let mut bytes = Vec::with_capacity(16 << 10);
        crate::dir::open_read(path)?.take(LIMIT_BYTES).read_to_end(&mut bytes)?;
        Job::decode(&bytes).map_err(|reason| std::io::Error::new(ErrorKind::InvalidData, reason))
    }

    /// Whether [`Job::load`] failed because there is nothing to be read, now or later.
    pub(crate) fn is_damaged(error: &std::io::Error) -> bool {
        // ELOOP: a link, and no record of ours.
        matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::NotFound | ErrorKind::IsADirectory)
            || error.raw_os_error() == Some(libc::ELOOP)
    }

    /// Returns the command line for people and JSON; bytes that are not UTF-8 become `\xNN`.
    #[must_use]
    pub fn safe_argv(&self) -> Vec<String> {
        self.argv.iter().map(|arg| safe(arg)).collect()
    }
}

/// Returns the text with bytes that are not UTF-8 written as `\xNN`.
#[must_use]
pub fn safe(text: &OsStr) -> String {
    let mut out = String::new();
    for chunk in text.as_bytes().utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Writes a file that was not there.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let create = || std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match create() {
        // A leftover of a killed process that had our id.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let _ = std::fs::remove_file(path);
            create()?
        }
        other => other?,
    };
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Wishes;

    fn job() -> Job {
        Job {
            argv: vec!["sh".into(), "-c".into(), OsString::from_vec(b"a\nb \xff".to_vec()), "".into()],
            cwd: "/some dir".into(),
            env: vec![("A".into(), "b=c\n".into()), ("=C:".into(), "x".into()), ("EMPTY".into(), "".into())],
            umask: 0o027,
            policy: Policy::new(&Wishes { puppet: true, ..Wishes::default() }),
            reason: Some("watch \"x\"".into()),
        }
    }

    #[test]
    fn a_record_is_read_back() {
        assert_eq!(Job::decode(&job().encode()), Ok(job()));
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let bytes = job().encode();
        for length in 0..bytes.len() {
            if let Ok(cut) = Job::decode(&bytes[..length]) {
                assert_eq!(cut.argv, job().argv, "only whole variables may be missing");
            }
        }
        assert!(Job::decode(b"ts-job 1\n{}\n\0").is_err());
    }

    #[test]
    fn the_key_tells_command_lines_apart() {
        let key = |argv: &[&str], cwd: &str| {
            Job { argv: argv.iter().map(OsString::from).collect(), cwd: cwd.into(), ..job() }.key()
        };
        assert_ne!(key(&["frob", "a b"], "/"), key(&["frob", "a", "b"], "/"));
        assert_ne!(key(&["frob"], "/a"), key(&["frob"], "/b"));
        assert_eq!(key(&["frob"], "/a"), key(&["frob"], "/a"));
    }

    #[test]
    fn bytes_are_made_safe() {
        assert_eq!(job().safe_argv()[2], "a\nb \\xff");
    }
}
