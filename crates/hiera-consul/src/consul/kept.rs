//! Snapshots of levels on disk, for the time when Consul is away.
//!
//! A level with the option `stale_if_error` is kept in a file each time it was read whole. When Consul is away, that is
//! nobody answers, an answer breaks off, or the cluster has no leader, the file answers in its place, as long as it
//! is younger than the option says. A refusal is no outage: it is never answered from here, and removes the file,
//! since what may no longer be read must not be kept. Nor is an answer that is not Consul's.
//!
//! Values may be secrets: the directory has mode 0700 and its files 0600. A file that belongs to somebody else, that others
//! may read, that was changed, or that is of another address, datacenter, namespace, partition or prefix is not believed.
//! It is written as a whole beside its final name; a file that says the same is written anew only when a twentieth
//! of its time has passed, so that a lookup seldom waits for the disk, and an age is at most that much too high.
//!
//! The file: a line of JSON ([`Head`]) and then key and value of each pair, each as its length in decimal digits, a
//! colon and the bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consul_client::Config;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use toolkit::{atomic, dirs, files, hex};

use super::snapshot::{Origin, Pairs, Snapshot};

const DIRECTORY: &str = "/var/lib/stacktira/hiera-consul";
const FORMAT: &str = "hiera-consul snapshot 1";
const LONGEST_HEAD: u64 = 64 << 10;
/// Twice what the client takes as an answer.
const LARGEST: u64 = 128 << 20;
/// How far a clock may have been ahead when a file was written.
const SLACK: Duration = Duration::from_secs(5);

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    address: String,
    datacenter: Option<String>,
    namespace: Option<String>,
    partition: Option<String>,
    prefix: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    subject: Subject,
    /// Consul's index of the read.
    index: u64,
    /// When the content was last known to be so, in milliseconds since 1970.
    read_at: u64,
    pairs: usize,
    /// Of everything after this line, in hexadecimal digits.
    sha256: String,
}

/// A snapshot that answers for Consul.
pub(crate) struct Kept {
    pub(crate) pairs: Pairs,
    pub(crate) index: u64,
    pub(crate) age: Duration,
}

impl Subject {
    pub(crate) fn new(config: &Config, prefix: &str) -> Subject {
        Subject {
            address: config.address.to_string(),
            datacenter: config.datacenter.clone(),
            namespace: config.namespace.clone(),
            partition: config.partition.clone(),
            prefix: prefix.to_owned(),
        }
    }

    /// Returns the name of its file: so much of the prefix that a person finds it, and a digest of everything.
    fn file_name(&self) -> String {
        let readable: String =
            self.prefix.chars().take(60).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let whole = serde_json::to_vec(self).expect("strings serialise");
        format!("{readable}-{}", &hex::encode(&Sha256::digest(whole))[..16])
    }

    fn file(&self) -> Result<PathBuf, String> {
        Ok(directory()?.join(self.file_name()))
    }

    /// Keeps what was read, unless the file says the same and is young.
    ///
    /// # Errors
    /// It cannot be kept, and why.
    pub(crate) fn keep(&self, snapshot: &Snapshot, limit: Duration) -> Result<(), String> {
        let directory = directory()?;
        dirs::private(&directory, 0o700).map_err(|e| toolkit::exit::chain(&e))?;
        let path = directory.join(self.file_name());
        let pairs: Vec<(&str, &[u8])> = snapshot.iter().collect();
        let Origin { index, age, .. } = snapshot.origin();
        let body = body(&pairs);
        let sha256 = hex::encode(&Sha256::digest(&body));
        let read_at = now().saturating_sub(milliseconds(age));
        if let Ok((head, _)) = self.open(&path) {
            let young = read_at.saturating_sub(head.read_at) <= milliseconds(limit) / 20 && head.read_at <= now();
            // Another run may have read later than this one.
            if head.sha256 == sha256 && head.index == index && young || head.read_at > read_at && head.read_at <= now()
            {
                return Ok(());
            }
        }
        let (format, subject) = (FORMAT.to_owned(), self.clone());
        let head = Head { format, subject, index, read_at, pairs: pairs.len(), sha256 };
        let mut content = serde_json::to_vec(&head).expect("strings and numbers serialise");
        content.push(b'\n');
        content.extend(body);
        atomic::write(&path, &content, 0o600).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(())
    }

    /// Returns what was kept, if it is not older than `limit`.
    ///
    /// # Errors
    /// There is nothing that may be believed, and why.
    pub(crate) fn load(&self, limit: Duration) -> Result<Kept, String> {
        let path = self.file()?;
        let refused = |reason: String| format!("the snapshot {} {reason}", path.display());
        let (head, mut rest) = self.open(&path).map_err(refused)?;
        let now = now();
        if head.read_at > now + milliseconds(SLACK) {
            return Err(refused("is from the future: a clock is wrong".to_owned()));
        }
        let age = Duration::from_millis(now.saturating_sub(head.read_at));
        if age > limit {
            let (age, limit) = (brief(age), toolkit::duration::format(limit));
            return Err(refused(format!("is {age} old, and stale_if_error allows {limit}")));
        }
        let mut body = Vec::new();
        rest.read_to_end(&mut body).map_err(|e| refused(format!("cannot be read: {e}")))?;
        if hex::encode(&Sha256::digest(&body)) != head.sha256 {
            return Err(refused("is damaged: its content is not what was written".to_owned()));
        }
        let pairs = parse(&body).filter(|pairs| pairs.len() == head.pairs);
        let pairs = pairs.ok_or_else(|| refused("is damaged: it is no list of keys and values".to_owned()))?;
        Ok(Kept { pairs, index: head.index, age })
    }

    /// Removes what was kept.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(crate) fn forget(&self) -> Result<(), String> {
        let path = self.file()?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot remove {}: {e}", path.display())),
            _ => Ok(()),
        }
    }

    /// Opens the file of this subject and reads its first line.
    fn open(&self, path: &Path) -> Result<(Head, impl Read), String> {
        let file = files::open_regular(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "is not there".to_owned(),
            _ => format!("cannot be opened: {e}"),
        })?;
        trusted(&file, path)?;
        let mut rest = BufReader::new(file.take(LARGEST));
        let mut line = Vec::new();
        (&mut rest).take(LONGEST_HEAD).read_until(b'\n', &mut line).map_err(|e| format!("cannot be read: {e}"))?;
        let head: Head = serde_json::from_slice(&line).map_err(|_| "is damaged: it has no head".to_owned())?;
        if head.format != FORMAT {
            return Err("is of another version".to_owned());
        }
        if head.subject != *self {
            return Err(format!("is of {} at {}", head.subject.prefix, head.subject.address));
        }
        Ok((head, rest))
    }
}

/// Tells what is wrong with a file or its directory that others could have written or read.
fn trusted(file: &File, path: &Path) -> Result<(), String> {
    let metadata = file.metadata().map_err(|e| format!("cannot be looked at: {e}"))?;
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(format!("belongs to user {}, not to {user}", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(format!("is open to others (mode {:04o})", metadata.mode() & 0o7777));
    }
    match path.parent() {
        Some(directory) => {
            dirs::private(directory, 0o700).map_err(|e| format!("cannot be trusted: {}", toolkit::exit::chain(&e)))
        }
        None => Ok(()),
    }
}

/// The directory: the system's for root, else the user's own.
fn directory() -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if nix::unistd::geteuid().is_root() || set("STACKTIRA_ROOT").is_some() {
        return Ok(dirs::under_root(Path::new(DIRECTORY)));
    }
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state
        .map(|state| state.join("stacktira/hiera-consul"))
        .ok_or_else(|| "neither XDG_STATE_HOME nor HOME is set".to_owned())
}

fn body(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::with_capacity(pairs.iter().map(|(key, value)| key.len() + value.len() + 16).sum());
    for part in pairs.iter().flat_map(|(key, value)| [key.as_bytes(), *value]) {
        body.extend(part.len().to_string().bytes());
        body.push(b':');
        body.extend(part);
    }
    body
}

/// Reads what [`body`] writes; `None` for anything else.
fn parse(mut body: &[u8]) -> Option<Pairs> {
    fn part<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
        let digits = body.iter().take(10).position(|byte| *byte == b':')?;
        let number = &body[..digits];
        if number.is_empty() || !number.iter().all(u8::is_ascii_digit) || (number.len() > 1 && number[0] == b'0') {
            return None;
        }
        let length: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
        let rest = &body[digits + 1..];
        if length > rest.len() {
            return None;
        }
        let (part, rest) = rest.split_at(length);
        *body = rest;
        Some(part)
    }
    let mut pairs = Pairs::new();
    while !body.is_empty() {
        let key = String::from_utf8(part(&mut body)?.to_vec()).ok()?;
        let value = part(&mut body)?.to_vec();
        // Written in order, so a key that does not follow the last is none of ours.
        if pairs.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        pairs.insert(key, value);
    }
    Some(pairs)
}

/// Writes an age as people say it, in its two largest units.
pub(crate) fn brief(age: Duration) -> String {
    let seconds = age.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

fn now() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &[u8])]) -> Pairs {
        all.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect()
    }

    #[test]
    fn pairs_come_back_as_they_were() {
        let all: [(&str, &[u8]); 4] = [("", b"x"), ("a", b""), ("b/c", b"1:2\n\0\xff"), ("\u{fc}", b"10:")];
        assert_eq!(parse(&body(&all)), Some(pairs(&all)));
        assert_eq!(parse(b""), Some(Pairs::new()));
    }

    #[test]
    fn anything_else_is_no_list_of_pairs() {
        for text in [
            "1",
            "1:",
            "1:a",
            "1:a1:",
            "1:a2:b",
            ":",
            "01:a1:b",
            "99999999999:a",
            "-1:a",
            "1:b1:x1:a1:x",
            "1:a1:x1:a1:x",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"1:\xff1:x"), None);
    }

    #[test]
    fn names_differ_with_everything_that_a_snapshot_is_of() {
        let base = Subject {
            address: "http://a:1".into(),
            datacenter: None,
            namespace: None,
            partition: None,
            prefix: "h/c/".into(),
        };
        let mut names = std::collections::BTreeSet::from([base.file_name()]);
        for other in [
            Subject { address: "http://a:2".into(), ..base.clone() },
            Subject { datacenter: Some("x".into()), ..base.clone() },
            Subject { namespace: Some("x".into()), ..base.clone() },
            Subject { partition: Some("x".into()), ..base.clone() },
            Subject { prefix: "h_c_".into(), ..base.clone() },
            Subject { prefix: "\u{fc}/".repeat(1000), ..base.clone() },
        ] {
            let name = other.file_name();
            assert!(name.len() < 100 && !name.contains('/'), "{name}");
            assert!(names.insert(name));
        }
    }

    #[test]
    fn ages_are_said_briefly() {
        for (seconds, text) in [(0, "0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(brief(Duration::from_secs(seconds)), text);
        }
    }
}
