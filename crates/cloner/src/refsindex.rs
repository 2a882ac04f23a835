//! The refs index: what all repositories of a mirror point at, in one file.
//!
//! A mirror at `URL` (what `--mirror` names) may publish
//!
//! - `URL/refs.index`, replaced as a whole whenever a ref moves, and
//! - `URL/packs/SHA256.pack`, which never change: each holds one commit and everything in its tree,
//!   without parents, deltas only against objects of the same file. SHA256 is the file's digest.
//!
//! One conditional request for the index (`If-None-Match` with its `ETag`) then decides for all
//! repositories whether something is new, and a new commit is one more request without a git
//! process at either end. Both files are ordinary static files, and neither has to be trusted more
//! than the mirror: objects are checked by their ids, so a pack that lies is refused.
//!
//! The index is UTF-8 text, a line per fact:
//!
//! ```text
//! stacktira refs index 1
//! repo opendev.org/openstack/puppet-nova.git
//! head refs/heads/master
//! ref 1111111111111111111111111111111111111111 refs/heads/master
//! ref 2222222222222222222222222222222222222222 refs/tags/v1 1111111111111111111111111111111111111111
//! pack 1111111111111111111111111111111111111111 SHA256 BYTES
//! end 1
//! ```
//!
//! `repo` begins a repository and names its place in the mirror ([`crate::source::Source::mirror_path`]);
//! repositories are sorted by it. `head` is the ref that HEAD stands for. `ref` gives id and name, and
//! for an annotated tag the commit behind it. `pack` says that a commit's pack is published, with
//! digest and length. `end` counts the repositories, so a file that is cut off is not used.
//!
//! ```
//! use cloner::refsindex::{Index, Pack, Refs, write};
//!
//! let commit = "1".repeat(40);
//! let mut refs = Refs { head: Some("refs/heads/main".into()), ..Refs::default() };
//! refs.refs.insert("refs/heads/main".into(), (commit.clone(), None));
//! refs.packs.insert(commit, Pack { digest: "a".repeat(64), bytes: 300 });
//! let text = write([("git.example/a.git", &refs)]).expect("names are valid");
//! assert_eq!(Index::parse(text).expect("whole").find("git.example/a.git").expect("valid"), Some(refs));
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

/// Name of the index below a mirror's address.
pub const FILE: &str = "refs.index";
/// Largest index that is read.
pub const MAX_BYTES: u64 = 64 << 20;

const FIRST: &str = "stacktira refs index 1";

/// Returns where below a mirror's address the pack with this digest is.
#[must_use]
pub fn pack_path(digest: &str) -> String {
    format!("packs/{digest}.pack")
}

/// What one repository points at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs {
    /// The ref that HEAD stands for.
    pub head: Option<String>,
    /// Ids by ref name; the second is the commit behind an annotated tag.
    pub refs: BTreeMap<String, (String, Option<String>)>,
    /// The packs that are published, by commit.
    pub packs: BTreeMap<String, Pack>,
}

/// A published pack of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
}

/// An index as read: one text, and where in it each repository is.
///
/// Repositories are parsed when they are asked for, so a large index costs its own length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    text: String,
    /// The place in the mirror, and the lines about it.
    repos: Vec<(Range<usize>, Range<usize>)>,
}

impl Index {
    /// Takes a text that is whole: first line, sorted repositories, their number.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: String) -> Result<Self, String> {
        let mut repos: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        let (mut at, mut whole) = (0, false);
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let (start, wrong) = (at, |what: &str| Err(format!("line {}: {what}", number + 1)));
            at += line.len();
            let Some(line) = line.strip_suffix('\n') else { return wrong("is cut off") };
            if number == 0 {
                if line != FIRST {
                    return wrong(&format!("is not '{FIRST}'"));
                }
            } else if whole {
                return wrong("is behind the end");
            } else if let Some(path) = line.strip_prefix("repo ") {
                if repos.last().is_some_and(|(last, _)| &text[last.clone()] >= path) {
                    return wrong("the repositories are not sorted");
                }
                repos.push((start + "repo ".len()..at - 1, at..at));
            } else if let Some(count) = line.strip_prefix("end ") {
                if count != repos.len().to_string() {
                    return wrong("counts other repositories");
                }
                whole = true;
            } else {
                let Some((_, lines)) = repos.last_mut() else { return wrong("belongs to no repository") };
                lines.end = at;
            }
        }
        if whole { Ok(Self { text, repos }) } else { Err("is cut off".to_owned()) }
    }

    /// Returns what the repository at `path` points at, if the mirror has it.
    ///
    /// # Errors
    /// The line that is wrong.
    pub fn find(&self, path: &str) -> Result<Option<Refs>, String> {
        match self.repos.binary_search_by(|(range, _)| self.text[range.clone()].cmp(path)) {
            Ok(found) => parse_refs(&self.text[self.repos[found].1.clone()]).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Returns the text that was parsed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn parse_refs(lines: &str) -> Result<Refs, String> {
    let mut refs = Refs::default();
    for line in lines.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["head", name] if is_name(name) => refs.head = Some(name.to_owned()),
            ["ref", id, name] if is_hex(id, 40) && is_name(name) => {
                refs.refs.insert(name.to_owned(), (id.to_owned(), None));
            }
            ["ref", id, name, peeled] if is_hex(id, 40) && is_name(name) && is_hex(peeled, 40) => {
                refs.refs.insert(name.to_owned(), (id.to_owned(), Some(peeled.to_owned())));
            }
            ["pack", commit, digest, bytes] if is_hex(commit, 40) && is_hex(digest, 64) => {
                let bytes = bytes.parse().map_err(|_| format!("'{line}' has no length"))?;
                refs.packs.insert(commit.to_owned(), Pack { digest: digest.to_owned(), bytes });
            }
            _ => return Err(format!("'{}' is not understood", line.escape_debug())),
        }
    }
    Ok(refs)
}

/// Writes an index. Equal content is equal bytes, whatever the order of `repos`.
///
/// # Errors
/// The name or id that cannot be in an index.
pub fn write<'a>(repos: impl IntoIterator<Item = (&'a str, &'a Refs)>) -> Result<String, String> {
    let repos: BTreeMap<&str, &Refs> = repos.into_iter().collect();
    let mut text = format!("{FIRST}\n");
    // Writing to a string never fails.
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap_or_default();
    for (path, refs) in &repos {
        let plain = !path.is_empty() && !path.chars().any(|c| c.is_control() || c == ' ');
        valid(plain, path)?;
        line(format_args!("repo {path}"));
        if let Some(head) = &refs.head {
            valid(is_name(head), head)?;
            line(format_args!("head {head}"));
        }
        for (name, (id, peeled)) in &refs.refs {
            valid(is_name(name), name)?;
            valid(is_hex(id, 40), id)?;
            match peeled {
                Some(peeled) => {
                    valid(is_hex(peeled, 40), peeled)?;
                    line(format_args!("ref {id} {name} {peeled}"));
                }
                None => line(format_args!("ref {id} {name}")),
            }
        }
        for (commit, pack) in &refs.packs {
            valid(is_hex(commit, 40), commit)?;
            valid(is_hex(&pack.digest, 64), &pack.digest)?;
            line(format_args!("pack {commit} {} {}", pack.digest, pack.bytes));
        }
    }
    line(format_args!("end {}", repos.len()));
    Ok(text)
}

fn valid(is: bool, text: &str) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("'{}' cannot be in a refs index", text.escape_debug())) }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_name(name: &str) -> bool {
    name.starts_with("refs/") && git2::Reference::is_valid_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Refs {
        let mut refs = Refs { head: Some("refs/heads/main".to_owned()), ..Refs::default() };
        refs.refs.insert("refs/heads/main".to_owned(), ("1".repeat(40), None));
        refs.refs.insert("refs/tags/v1".to_owned(), ("2".repeat(40), Some("1".repeat(40))));
        refs.packs.insert("1".repeat(40), Pack { digest: "a".repeat(64), bytes: 7 });
        refs
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (refs, empty) = (sample(), Refs::default());
        let text = write([("h/b.git", &refs), ("h/a.git", &empty)]).expect("valid");
        assert_eq!(text, write([("h/a.git", &empty), ("h/b.git", &refs)]).expect("valid"));
        let index = Index::parse(text.clone()).expect("whole");
        assert_eq!(index.find("h/b.git"), Ok(Some(refs)));
        assert_eq!(index.find("h/a.git"), Ok(Some(empty)));
        assert_eq!(index.find("h/c.git"), Ok(None));
        assert_eq!(index.text(), text);
        assert_eq!(Index::parse(write([]).expect("valid")).expect("whole").find(""), Ok(None));
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_not_used() {
        let refs = sample();
        let text = write([("h/a.git", &refs), ("h/b.git", &refs)]).expect("valid");
        for end in 0..text.len() {
            assert!(Index::parse(text[..end].to_owned()).is_err(), "{end}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for body in [
            "end 1\n",
            "ref 1\nend 0\n",
            "repo b\nrepo a\nend 2\n",
            "repo a\nrepo a\nend 2\n",
            "repo a\nend 1\nrepo b\n",
            "repo a\nend 01\n",
        ] {
            assert!(Index::parse(format!("{FIRST}\n{body}")).is_err(), "{body}");
        }
        assert!(Index::parse("stacktira refs index 2\nend 0\n".to_owned()).is_err());
        let (id, digest) = ("1".repeat(40), "a".repeat(64));
        for line in [
            format!("ref {id} refs/heads/../x"),
            format!("ref {} refs/heads/x", "A".repeat(40)),
            format!("ref {id} HEAD"),
            format!("pack {id} ../../etc 1"),
            format!("pack {id} {digest} -1"),
            "head main".to_owned(),
            String::new(),
        ] {
            let index = Index::parse(format!("{FIRST}\nrepo a\n{line}\nend 1\n")).expect("lines are judged later");
            assert!(index.find("a").is_err(), "{line}");
        }
    }

    #[test]
    fn names_that_would_break_a_line_are_not_written() {
        let mut refs = Refs { head: Some("refs/heads/a\nrepo b".to_owned()), ..Refs::default() };
        assert!(write([("a", &refs)]).is_err());
        refs.head = None;
        assert!(write([("a b", &refs)]).is_err() && write([("a\nb", &refs)]).is_err());
    }
}
