//! Writing rpm-md: a repository out of the elements of its packages.
//!
//! The bytes follow from the packages alone: lists are sorted, compressed files hold no time, and times are
//! those of the builds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::elements::Elements;
use super::xml::escape;
use crate::config::RpmSource;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{self, Package, Published};
use crate::pieces::{Last, Pieces, Writer};
use crate::state::{FoundRpm, RpmState};
use crate::store::Store;

/// One index while it is written.
pub(crate) struct Index {
    kind: &'static str,
    writer: Writer,
}

/// The three indices and their outer elements.
const KINDS: [(&str, &str); 3] = [
    (
        "primary",
        "<metadata xmlns=\"http://linux.duke.edu/metadata/common\" xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\"",
    ),
    ("filelists", "<filelists xmlns=\"http://linux.duke.edu/metadata/filelists\""),
    ("other", "<otherdata xmlns=\"http://linux.duke.edu/metadata/other\""),
];

/// A file that `repomd.xml` names.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    /// `primary`, `group`, …
    pub(crate) kind: String,
    /// The file.
    pub(crate) file: Published,
    /// Unpacked digest and length, where they are known.
    pub(crate) open: Option<(Digest, u64)>,
}

impl Index {
    /// Begins `primary`, `filelists` or `other` (0, 1, 2) of so many packages.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn new(store: &Store, last: &Last, number: usize, packages: usize) -> Result<Self> {
        let (kind, outer) = KINDS[number];
        let mut writer = Writer::new(store, last, number);
        let head = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{outer} packages=\"{packages}\">\n");
        writer.add(head.as_bytes(), head.as_bytes())?;
        // Another number of packages changes no more than this.
        writer.end_piece()?;
        Ok(Self { kind, writer })
    }

    /// Appends an element; `key` as in [`Writer::add`].
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn add(&mut self, element: &[u8], key: &[u8]) -> Result<()> {
        self.writer.add(element, key)
    }

    /// Stores the index.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn finish(mut self, store: &Store) -> Result<(Data, Pieces)> {
        let outer = match self.kind {
            "primary" => "metadata",
            "other" => "otherdata",
            kind => kind,
        };
        let foot = format!("</{outer}>\n");
        self.writer.add(foot.as_bytes(), foot.as_bytes())?;
        let written = self.writer.finish(store)?;
        let (size, sha256) = written.file;
        let path = format!("repodata/{sha256}-{}.xml.gz", self.kind);
        let data =
            Data { kind: self.kind.to_owned(), file: Published { path, size, sha256 }, open: Some(written.content) };
        Ok((data, written.pieces))
    }
}

/// Makes a repository of a directory's packages.
///
/// # Errors
/// [`Error::Rejected`] when two packages claim one name; [`Error::Read`]; [`Error::Damaged`]; [`Error::Write`].
pub(crate) fn build(store: &Store, source: &RpmSource, state: &RpmState) -> Result<manifest::Rpm> {
    let mut entries: BTreeMap<&str, (usize, &FoundRpm)> = BTreeMap::new();
    for (number, package) in state.packages.iter().enumerate().filter(|(_, found)| source.takes(&found.arch)) {
        if let Some((_, other)) = entries.insert(&package.path, (number, package))
            && other.sha256 != package.sha256
        {
            return Err(Error::rejected(
                format!("source {}", source.name),
                format!("{} and {} are different packages with one name and version", other.file, package.file),
            ));
        }
    }
    // A package from the future would make clients believe that nothing newer comes.
    let now = crate::files::now();
    let time = entries.values().map(|(_, found)| found.built).filter(|built| *built <= now).max().unwrap_or(0);
    let elements = Elements::read(store, &state.elements)?;
    let elements = elements.split(state)?;
    let last = Last::load(store, &source.name);
    let (mut data, mut pieces, mut key) = (Vec::new(), Vec::new(), String::new());
    for kind in 0..KINDS.len() {
        let mut index = Index::new(store, &last, kind, entries.len())?;
        for (number, package) in entries.values() {
            let of_package: &[&[u8]; 3] = &elements[*number];
            // Elements follow from the package; the CRC tells those that another program wrote.
            key.clear();
            let _ = writeln!(key, "{} {:08x} {kind}", package.sha256, package.crc);
            index.add(of_package[kind], key.as_bytes())?;
        }
        let (written, of) = index.finish(store)?;
        data.push(written);
        pieces.push(of);
    }
    Last::save(store, &source.name, pieces)?;
    let packages = entries
        .into_iter()
        .map(|(path, (_, package))| Package {
            name: package.name.clone(),
            version: package.version.clone(),
            arch: package.arch.clone(),
            path: path.to_owned(),
            size: package.size,
            sha256: package.sha256.clone(),
        })
        .collect();
    Ok(manifest::Rpm {
        name: source.name.clone(),
        architectures: source.architectures.clone(),
        packages,
        files: repodata(store, time, data)?,
        keyring: None,
    })
}

/// Writes `repomd.xml` and returns everything in `repodata`.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn repodata(store: &Store, time: u64, data: Vec<Data>) -> Result<Vec<Published>> {
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<repomd xmlns=\"http://linux.duke.edu/metadata/repo\" \
         xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\">\n  <revision>{time}</revision>\n"
    );
    for data in &data {
        let _ = writeln!(text, "  <data type=\"{}\">", data.kind);
        let _ = writeln!(text, "    <checksum type=\"sha256\">{}</checksum>", data.file.sha256);
        if let Some((sha256, _)) = &data.open {
            let _ = writeln!(text, "    <open-checksum type=\"sha256\">{sha256}</open-checksum>");
        }
        text.push_str("    <location href=\"");
        escape(&data.file.path, &mut text);
        let _ = write!(text, "\"/>\n    <timestamp>{time}</timestamp>\n    <size>{}</size>\n", data.file.size);
        if let Some((_, size)) = &data.open {
            let _ = writeln!(text, "    <open-size>{size}</open-size>");
        }
        text.push_str("  </data>\n");
    }
    text.push_str("</repomd>\n");
    let mut files: Vec<Published> = data.into_iter().map(|data| data.file).collect();
    let (size, sha256) = (text.len() as u64, store.put(text.as_bytes())?);
    files.push(Published { path: "repodata/repomd.xml".into(), size, sha256 });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(files)
}
