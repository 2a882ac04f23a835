//! A repository for apt out of packages: paths, indices, `Release`.
//!
//! The same packages and configuration give the same bytes on any host: lists are sorted, compressed files
//! hold no time stamp, and `Date` is the build time of the newest package, not of the run.
//! Every index is also published by its digest (`by-hash`), which apt prefers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use crate::config::DebSource;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{Deb, Package, Published};
use crate::state::Found;
use crate::store::Store;

/// Makes indices and returns what is to be published.
///
/// # Errors
/// [`Error::Rejected`] when two packages claim one name; [`Error::Write`].
pub(crate) fn build(store: &Store, source: &DebSource, found: &[Found], warn: &mut dyn FnMut(String)) -> Result<Deb> {
    let mut entries: BTreeMap<String, (&Found, &str)> = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for package in found {
        if package.architecture != "all" && !source.architectures.contains(&package.architecture) {
            left_out.insert(package.architecture.as_str());
            continue;
        }
        let component = component(source, package);
        let path = pool_path(component, package);
        if let Some((other, _)) = entries.get(&path) {
            if other.sha256 != package.sha256 {
                return Err(Error::rejected(
                    format!("source {}", source.name),
                    format!("{} and {} are different packages with one name and version", other.file, package.file),
                ));
            }
            continue;
        }
        entries.insert(path, (package, component));
    }
    if !left_out.is_empty() {
        let list: Vec<&str> = left_out.into_iter().collect();
        warn(format!("source {}: packages of other architectures left out: {}", source.name, list.join(", ")));
    }
    let mut files = Vec::new();
    let date = date(source, entries.values().map(|(package, _)| package.built), warn);
    let mut indices: Vec<Published> = Vec::new();
    for component in &source.components {
        for architecture in &source.architectures {
            let text = packages_index(&entries, component, architecture);
            let base = format!("{component}/binary-{architecture}/Packages");
            for (suffix, bytes) in [("", text.clone()), (".gz", gzip(&text)?), (".xz", xz(&text)?)] {
                let (size, sha256) = (bytes.len() as u64, store.put(&bytes)?);
                indices.push(Published { path: format!("{base}{suffix}"), size, sha256 });
            }
        }
    }
    for suite in &source.suites {
        let release = release(source, suite, &date, &indices);
        let sha256 = store.put(release.as_bytes())?;
        files.push(Published { path: format!("dists/{suite}/Release"), size: release.len() as u64, sha256 });
        for index in &indices {
            let directory = index.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let by_hash = format!("{directory}/by-hash/SHA256/{}", index.sha256);
            for path in [&index.path, &by_hash] {
                files.push(Published { path: format!("dists/{suite}/{path}"), ..index.clone() });
            }
        }
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    let packages = entries
        .into_iter()
        .map(|(path, (package, _))| Package {
            name: package.package.clone(),
            version: package.version.clone(),
            arch: package.architecture.clone(),
            path,
            size: package.size,
            sha256: package.sha256.clone(),
        })
        .collect();
    Ok(Deb {
        name: source.name.clone(),
        suites: source.suites.clone(),
        components: source.components.clone(),
        architectures: source.architectures.clone(),
        packages,
        files,
        keyring: None,
    })
}

/// A section `COMPONENT/…` names a component that is configured; everything else goes into the first.
fn component<'a>(source: &'a DebSource, package: &Found) -> &'a str {
    let named = package.section.as_deref().and_then(|section| section.split_once('/')).map(|(component, _)| component);
    source
        .components
        .iter()
        .find(|component| Some(component.as_str()) == named)
        .unwrap_or_else(|| source.components.first().expect("the configuration demands a component"))
}

/// `pool/main/libf/libfoo/libfoo_1.0-1_amd64.deb`: Debian's layout, the epoch left out of the name.
fn pool_path(component: &str, package: &Found) -> String {
    let name = &package.package;
    let prefix = if name.starts_with("lib") && name.len() > 3 { &name[..4] } else { &name[..1] };
    let version = package.version.split_once(':').map_or(package.version.as_str(), |(_, version)| version);
    format!("pool/{component}/{prefix}/{name}/{name}_{version}_{}.deb", package.architecture)
}

fn packages_index(entries: &BTreeMap<String, (&Found, &str)>, component: &str, architecture: &str) -> Vec<u8> {
    let mut text = String::new();
    for (path, (package, at)) in entries {
        if *at == component && (package.architecture == architecture || package.architecture == "all") {
            text.push_str(&package.stanza);
            let _ = writeln!(text, "Filename: {path}\nSize: {}\nSHA256: {}\n", package.size, package.sha256);
        }
    }
    text.into_bytes()
}

fn release(source: &DebSource, suite: &str, date: &str, indices: &[Published]) -> String {
    let mut text = format!(
        "Origin: Stacktira\nLabel: {}\nSuite: {suite}\nCodename: {suite}\nDate: {date}\nArchitectures: {}\n\
         Components: {}\nAcquire-By-Hash: yes\nSHA256:\n",
        source.name,
        source.architectures.join(" "),
        source.components.join(" "),
    );
    for index in indices {
        let _ = writeln!(text, " {} {} {}", index.sha256, index.size, index.path);
    }
    text
}

/// Returns when the newest package was built. A package from the future does not count: apt would refuse the date.
fn date(source: &DebSource, built: impl Iterator<Item = u64>, warn: &mut dyn FnMut(String)) -> String {
    let now = files::now();
    let mut newest = 0;
    let mut future = 0;
    for time in built {
        if time <= now {
            newest = newest.max(time);
        } else {
            future += 1;
        }
    }
    if future > 0 {
        warn(format!("source {}: {future} packages were built in the future, says their archive", source.name));
    }
    files::rfc1123(newest, "UTC")
}

/// Packs as every `.gz` of an index is.
///
/// # Errors
/// [`Error::Bug`].
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // No name and no time in the header, so equal input gives equal bytes.
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|error| Error::Bug(format!("gzip: {error}")))
}

/// Packs as every `.xz` of an index is.
///
/// # Errors
/// [`Error::Bug`].
pub(crate) fn xz(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|error| Error::Bug(format!("xz: {error}")))
}

/// Unpacks an index whose name ends with `form`, to at most `limit` bytes.
///
/// # Errors
/// Those of the form.
pub(crate) fn unpacked(form: &str, packed: Vec<u8>, limit: u64) -> std::io::Result<Vec<u8>> {
    match form {
        ".gz" => files::read_to_limit(flate2::read::MultiGzDecoder::new(&packed[..]), limit),
        ".xz" => files::read_to_limit(liblzma::read::XzDecoder::new(&packed[..]), limit),
        _ => Ok(packed),
    }
}

/// Whether a path of a repository is plain: relative, with no empty, `.` or `..` component.
pub(crate) fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && path.len() < 1000
        && !path.contains(|c: char| c.is_control() || c == '\\')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Returns the digests that a `Release` text gives for its suite's index files.
pub(crate) fn listed(release: &str) -> BTreeMap<&str, Digest> {
    let mut inside = false;
    let mut listed = BTreeMap::new();
    for line in release.lines() {
        if let Some(rest) = line.strip_prefix(' ') {
            let mut words = rest.split_ascii_whitespace();
            if let (true, Some(digest), Some(_), Some(path)) = (inside, words.next(), words.next(), words.next())
                && let Ok(digest) = digest.parse()
            {
                listed.insert(path, digest);
            }
        } else {
            inside = line == "SHA256:";
        }
    }
    listed
}
