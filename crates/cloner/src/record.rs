//! What cloner has placed, one file per place below `<root>/.cloner/placed`.
//!
//! A record says which commit a place holds and lists its files, so that a later run can tell an
//! untouched tree from one somebody works in. Placing writes the new record as `ID.next` before
//! the tree is exchanged and renames it to `ID` afterwards: whenever the process or the machine
//! stops in between, one of the two describes what is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use toolkit::hex;

use crate::cli::Mode;
use crate::git::Target;
use crate::tree::{self, Depth, Directory, Entry};

const VERSION: u32 = 1;

/// One placed tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of this form.
    pub(crate) v: u32,
    pub(crate) name: String,
    /// The place below the root.
    pub(crate) dest: PathBuf,
    /// Where it came from, without credentials.
    pub(crate) source: String,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<String>,
    /// The commit.
    pub(crate) sha: String,
    /// The commit's tree.
    pub(crate) tree: String,
    pub(crate) mode: Mode,
    /// The manifest that asked for it.
    pub(crate) manifest: PathBuf,
    /// What was signed and by which key, if the manifest wanted a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked: Option<String>,
    /// In a clone: what `.git` looked like.
    pub(crate) git: Option<GitDir>,
    /// The submodules that were placed with it, those in others behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) submodules: Vec<Placed>,
    /// Whether it has submodules that were left empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) left_out: bool,
    /// The directories of the tree; none if each has to be listed to know what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directories: Option<Vec<Directory>>,
    pub(crate) entries: Vec<Entry>,
}

/// A submodule in a placed tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    /// Where it is in the tree.
    pub(crate) path: String,
    pub(crate) source: String,
    pub(crate) sha: String,
    /// In a clone: where its git directory is below `.git`, and what that looked like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) git: Option<(PathBuf, GitDir)>,
}

/// The parts of a clone's `.git` whose change means that somebody works there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GitDir {
    head: String,
    branches: Vec<(String, String)>,
    config: String,
    hooks: usize,
}

/// The records of one root.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    directory: PathBuf,
}

/// What is at a place.
#[derive(Debug)]
pub(crate) enum Occupied {
    /// Nothing, or an empty directory.
    No,
    /// What was recorded, untouched.
    Clean(Box<Record>),
    /// What was recorded, with changes.
    Changed(Box<Record>, Vec<String>),
    /// Something that cloner did not place.
    Foreign,
}

impl Record {
    pub(crate) fn version() -> u32 {
        VERSION
    }

    /// Returns what differs from this record at `place`.
    pub(crate) fn changes(&self, place: &Path, depth: Depth) -> io::Result<Vec<String>> {
        let untouched = depth == Depth::Stat && self.is_untouched(place);
        let mut found = if untouched { Vec::new() } else { tree::changes(place, &self.entries, depth)? };
        found.extend(self.git_changes(place));
        Ok(found)
    }

    /// Returns what differs in the git directories at `place`.
    fn git_changes(&self, place: &Path) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(recorded) = &self.git {
            match GitDir::read(place) {
                Ok(now) => found.extend(recorded.changes(&now)),
                Err(err) => found.push(format!(".git cannot be read ({err})")),
            }
        } else if fs::symlink_metadata(place.join(".git")).is_ok() {
            found.push(".git is new".to_owned());
        }
        for submodule in &self.submodules {
            let Some((directory, recorded)) = &submodule.git else { continue };
            match GitDir::read_at(&place.join(".git").join(directory)) {
                Ok(now) => {
                    found.extend(recorded.changes(&now).iter().map(|change| format!("{}: {change}", submodule.path)));
                }
                Err(err) => found.push(format!(".git/{} cannot be read ({err})", directory.display())),
            }
        }
        found
    }

    /// Whether it is sure that the files at `place` are as recorded; if not they may still be.
    fn is_untouched(&self, place: &Path) -> bool {
        let directories = self.directories.as_ref();
        directories.is_some_and(|directories| tree::is_untouched(place, &self.entries, directories))
    }

    /// Whether the tree has its submodules, or has them not, as is `wanted`.
    pub(crate) fn fits_submodules(&self, wanted: bool) -> bool {
        if wanted { !self.left_out } else { self.submodules.is_empty() }
    }
}

impl GitDir {
    /// Reads the state of the clone at `place`.
    pub(crate) fn read(place: &Path) -> Result<Self, String> {
        Self::read_at(&place.join(".git"))
    }

    /// Reads the state of the git directory `git`.
    pub(crate) fn read_at(git: &Path) -> Result<Self, String> {
        let text = |err: git2::Error| err.message().to_owned();
        let repository = crate::git::open_local(git).map_err(|fault| fault.message)?;
        let mut branches = Vec::new();
        for reference in repository.references().map_err(text)? {
            let reference = reference.map_err(text)?;
            let Ok(name) = reference.name() else { continue };
            if name.starts_with("refs/heads/") || name == "refs/stash" {
                branches.push((name.to_owned(), reference.target().map(|oid| oid.to_string()).unwrap_or_default()));
            }
        }
        branches.sort();
        let index = repository.index().map_err(text)?;
        let head = repository.head().and_then(|head| head.peel_to_tree()).map_err(text)?;
        let staged = repository.diff_tree_to_index(Some(&head), Some(&index), None).map_err(text)?.deltas().len();
        let config = fs::read(git.join("config")).map_err(|err| err.to_string())?;
        let mut head = fs::read_to_string(git.join("HEAD")).map_err(|err| err.to_string())?.trim().to_owned();
        if staged > 0 {
            head.push_str(" with staged changes");
        }
        let hooks = match fs::read_dir(git.join("hooks")) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => 0,
            hooks => {
                let listed: io::Result<Vec<fs::DirEntry>> = hooks.and_then(Iterator::collect);
                listed.map_err(|err| err.to_string())?.len()
            }
        };
        Ok(Self { head, branches, config: hex::encode(&Sha256::digest(config)), hooks })
    }

    /// Checks that this is a fresh clone at `target`: a ref that cannot be read is passed over by libgit2.
    pub(crate) fn stands_on(&self, target: &Target) -> Result<(), String> {
        let oid = target.oid.to_string();
        let (head, branches) = match &target.branch {
            Some(branch) => (format!("ref: refs/heads/{branch}"), vec![(format!("refs/heads/{branch}"), oid)]),
            None => (oid, Vec::new()),
        };
        if self.head != head {
            return Err(format!("HEAD is {}", self.head));
        }
        if self.branches != branches { Err(format!("its branches are {:?}", self.branches)) } else { Ok(()) }
    }

    fn changes(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.head != now.head {
            found.push(format!("HEAD is {}", now.head));
        }
        for branch in now.branches.iter().filter(|branch| !self.branches.contains(branch)) {
            found.push(format!("{} is new or moved", branch.0));
        }
        if self.config != now.config {
            found.push(".git/config is changed".to_owned());
        }
        if self.hooks != now.hooks {
            found.push(".git/hooks is changed".to_owned());
        }
        found
    }
}

impl Records {
    pub(crate) fn new(state: &Path) -> Self {
        Self { directory: state.join("placed") }
    }

    /// Returns the records in `directory` itself.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, dest: &Path, extension: &str) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        let id = hex::encode(&Sha256::digest(dest.as_os_str().as_bytes())[..16]);
        self.directory.join(format!("{id}.{extension}"))
    }

    /// Reads a record; one that is damaged or of another version counts as none, so that its place
    /// is treated as somebody else's.
    fn read(&self, dest: &Path, extension: &str) -> io::Result<Option<Record>> {
        let bytes = match fs::read(self.path(dest, extension)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        Ok(record.filter(|record| record.v == VERSION && record.dest == dest))
    }

    /// Returns all current records, by place.
    pub(crate) fn all(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let record: Option<Record> = serde_json::from_slice(&fs::read(&path)?).ok();
                // A record stands for the place that its name is made from, and for no other.
                records.extend(record.filter(|record| record.v == VERSION && self.path(&record.dest, "json") == path));
            }
        }
        records.sort_by(|a, b| a.dest.cmp(&b.dest));
        Ok(records)
    }

    /// Forgets the record of a place.
    pub(crate) fn forget(&self, dest: &Path) -> io::Result<()> {
        self.withdraw(dest);
        fs::remove_file(self.path(dest, "json"))?;
        toolkit::atomic::sync_dir(&self.directory)
    }

    /// Looks at the place of `dest` below `root`.
    pub(crate) fn look(&self, root: &Path, dest: &Path, depth: Depth) -> io::Result<Occupied> {
        let place = root.join(dest);
        // A run that was stopped while placing leaves both; the newer one is tried first.
        let mut records = Vec::new();
        for extension in ["next", "json"] {
            let Some(record) = self.read(dest, extension)? else { continue };
            if depth == Depth::Stat && record.is_untouched(&place) && record.git_changes(&place).is_empty() {
                return Ok(Occupied::Clean(Box::new(record)));
            }
            records.push(record);
        }
        match fs::read_dir(&place) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Occupied::No),
            Err(err) => return Err(err),
            Ok(mut entries) => {
                if entries.next().is_none() {
                    // A commit may have an empty tree; else an empty directory is as good as none.
                    let record =
                        self.read(dest, "json")?.filter(|record| record.entries.is_empty() && record.git.is_none());
                    return Ok(record.map_or(Occupied::No, |record| Occupied::Clean(Box::new(record))));
                }
            }
        }
        let mut changed = None;
        for record in records {
            let changes = record.changes(&place, depth)?;
            if changes.is_empty() {
                return Ok(Occupied::Clean(Box::new(record)));
            }
            changed = Some((record, changes));
        }
        Ok(match changed {
            Some((record, changes)) => Occupied::Changed(Box::new(record), changes),
            None => Occupied::Foreign,
        })
    }

    /// Writes what is about to be placed.
    pub(crate) fn announce(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        toolkit::atomic::write(&self.path(&record.dest, "next"), &bytes, 0o600).map(drop)
    }

    /// As [`Self::announce`], for many: what is written is on the disk once the caller has flushed it. One that is
    /// torn by a crash before that counts as none.
    pub(crate) fn draft(&self, record: &Record) -> io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let bytes = serde_json::to_vec(record)?;
        let path = self.path(&record.dest, "next");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&bytes)
    }

    /// Makes the announced record the current one, once the caller has synced [`Self::directory`].
    pub(crate) fn confirm_draft(&self, dest: &Path) -> io::Result<()> {
        fs::rename(self.path(dest, "next"), self.path(dest, "json"))
    }

    /// Writes a record of a place that nobody looks at yet; the caller flushes.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        fs::write(self.path(&record.dest, "json"), serde_json::to_vec(record)?)
    }

    /// Makes the announced record the current one.
    pub(crate) fn confirm(&self, dest: &Path) -> io::Result<()> {
        fs::rename(self.path(dest, "next"), self.path(dest, "json"))?;
        toolkit::atomic::sync_dir(&self.directory)
    }

    /// Forgets an announced record whose tree was not placed.
    pub(crate) fn withdraw(&self, dest: &Path) {
        // If it stays, the next look finds that it does not describe the place.
        let _ = fs::remove_file(self.path(dest, "next"));
    }

    /// Whether an announced record waits to be confirmed.
    pub(crate) fn is_announced(&self, dest: &Path) -> bool {
        self.path(dest, "next").exists()
    }

    /// Confirms an announced record if it describes what is there, else forgets it.
    pub(crate) fn settle(&self, root: &Path, dest: &Path) -> io::Result<()> {
        match self.read(dest, "next")? {
            Some(record) if record.changes(&root.join(dest), Depth::Stat)?.is_empty() => self.confirm(dest),
            _ => {
                self.withdraw(dest);
                Ok(())
            }
        }
    }
}
