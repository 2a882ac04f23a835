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
    let date = date(source, entries.values().map(|(package, _)| package.built), warn);
    let mut indices: Vec<Published> = Vec::new();
    for component in &source.components {
        for architecture in &source.architectures {
            let text = packages_index(&entries, component, architecture);
            indices.extend(pack(store, &format!("{component}/binary-{architecture}/Packages"), text)?);
        }
    }
    let mut files = Vec::new();
    for suite in &source.suites {
        let head = format!(
            "Origin: Stacktira\nLabel: {}\nSuite: {suite}\nCodename: {suite}\nDate: {date}\n{}",
            source.name,
            parts(source)
        );
        files.extend(suite_files(store, suite, &head, &indices)?);
    }
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
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
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

/// The fields of a `Release` that follow from the configuration.
pub(crate) fn parts(source: &DebSource) -> String {
    format!("Architectures: {}\nComponents: {}\n", source.architectures.join(" "), source.components.join(" "))
}

/// Stores an index in all its forms.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn pack(store: &Store, path: &str, text: Vec<u8>) -> Result<Vec<Published>> {
    let mut packed = Vec::new();
    for (suffix, bytes) in [(".gz", gzip(&text)?), (".xz", xz(&text)?), ("", text)] {
        let (size, sha256) = (bytes.len() as u64, store.put(&bytes)?);
        packed.push(Published { path: format!("{path}{suffix}"), size, sha256 });
    }
    packed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(packed)
}

/// Makes a suite's `Release` out of its first fields and returns everything below `dists` of the suite.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn suite_files(store: &Store, suite: &str, head: &str, indices: &[Published]) -> Result<Vec<Published>> {
    let mut release = format!("{head}Acquire-By-Hash: yes\nSHA256:\n");
    let mut files = Vec::new();
    for index in indices {
        let _ = writeln!(release, " {} {} {}", index.sha256, index.size, index.path);
        let directory = index.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let by_hash = format!("{directory}/by-hash/SHA256/{}", index.sha256);
        for path in [&index.path, &by_hash] {
            files.push(Published { path: format!("dists/{suite}/{path}"), ..index.clone() });
        }
    }
    let sha256 = store.put(release.as_bytes())?;
    files.push(Published { path: format!("dists/{suite}/Release"), size: release.len() as u64, sha256 });
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(files)
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
    let failed = |error: liblzma::stream::Error| Error::Bug(format!("xz: {error}"));
    let mut options = liblzma::stream::LzmaOptions::new_preset(6).map_err(failed)?;
    // A dictionary larger than the text would only cost memory.
    let dictionary = bytes.len().next_power_of_two().clamp(64 << 10, 8 << 20);
    options.dict_size(u32::try_from(dictionary).expect("at most 8 MiB"));
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc64).map_err(failed)?;
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
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
    files::plain(path).is_some_and(|plain| plain == path)
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
