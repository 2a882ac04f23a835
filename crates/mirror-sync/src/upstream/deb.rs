//! An upstream for apt: `InRelease` (or `Release` and `Release.gpg`), then its indices.

use std::collections::HashSet;
use std::fs::File;

use super::packages::Entry;
use super::release::{Listed, Release, check_times};
use super::{Context, Offer, Plan, Remote, accepted};
use crate::config::DebSource;
use crate::deb822::Stanzas;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::{Answer, Base, Batch, Validators, Wanted};
use crate::manifest::{Package, Published};
use crate::packing::Packing;
use crate::parallel;
use crate::state::Head;

/// Largest `InRelease` or `Release`.
const MAX_RELEASE: u64 = 32 << 20;
/// Largest detached signature.
const MAX_SIGNATURE: u64 = 1 << 20;

/// A suite whose signature holds.
pub(crate) struct Suite {
    /// Its name, as configured.
    pub(crate) name: String,
    /// What is remembered of it.
    pub(crate) head: Head,
    /// The signed files as they came: name, content.
    raw: Vec<(&'static str, Vec<u8>)>,
    /// What it says; absent when nothing changed since the last time.
    pub(crate) release: Option<Release>,
}

impl Suite {
    fn release(&self) -> Result<&Release> {
        self.release.as_ref().ok_or_else(|| Error::Bug("a suite was not read".into()))
    }
}

/// Fetches and verifies the signed root of every suite; moves the address that answered to the front.
///
/// With `again`, what has not changed is read too.
///
/// # Errors
/// [`Error::Rejected`]; [`Error::Forged`]; [`Error::Unavailable`].
pub(crate) fn suites(
    context: &Context<'_>,
    source: &DebSource,
    remote: &mut Remote,
    before: &[Head],
    again: bool,
) -> Result<Vec<Suite>> {
    let url = &remote.url;
    let (index, suites) = context.on_any(&remote.bases, |base| {
        let suites = source.suites.iter().map(|name| suite(context, remote, base, url, name, before, again));
        suites.collect::<Result<Vec<_>>>()
    })?;
    remote.bases[..=index].rotate_right(1);
    Ok(suites)
}

fn suite(
    context: &Context<'_>,
    remote: &Remote,
    base: &Base,
    url: &str,
    name: &str,
    before: &[Head],
    again: bool,
) -> Result<Suite> {
    let directory = format!("dists/{name}");
    let inline = format!("{directory}/InRelease");
    let plain = format!("{directory}/Release");
    let old = accepted(before, url, &inline).or_else(|| accepted(before, url, &plain));
    let date = old.map(|head| head.date);
    // What was verified before has its digest as its name; only its times count again.
    if let Some(old) = old.filter(|_| !again) {
        let seen = Validators { etag: old.etag.clone(), modified: old.modified.clone() };
        let answer = context.fetcher.check(base, &old.path, &seen, MAX_RELEASE)?;
        let same = match &answer {
            Answer::Same => true,
            Answer::Content(bytes, _) => Digest::of(bytes) == old.sha256,
            Answer::Absent => false,
        };
        if same {
            let timely = check_times(old.date, old.until, context.now, None);
            timely.map_err(|why| Error::rejected(base.join(&old.path), why))?;
            return Ok(Suite { name: name.to_owned(), head: old.clone(), raw: Vec::new(), release: None });
        }
        if let (Answer::Content(bytes, validators), true) = (answer, old.path == inline) {
            return inline_suite(context, remote, base, url, name, bytes, validators, date);
        }
    }
    let fresh = |path: &str, limit| context.fetcher.check(base, path, &Validators::default(), limit);
    let absent = |path: &str| Error::unavailable(base.join(path), "the server answered 404 Not Found");
    match fresh(&inline, MAX_RELEASE)? {
        Answer::Content(bytes, validators) => inline_suite(context, remote, base, url, name, bytes, validators, date),
        Answer::Same | Answer::Absent => {
            let Answer::Content(bytes, validators) = fresh(&plain, MAX_RELEASE)? else { return Err(absent(&inline)) };
            let signature = format!("{plain}.gpg");
            let Answer::Content(signed, _) = fresh(&signature, MAX_SIGNATURE)? else { return Err(absent(&signature)) };
            let verified = remote.keyring.verify_detached(&bytes, &signed);
            verified.map_err(|why| Error::forged(base.join(&signature), why))?;
            let text = bytes.clone();
            let raw = vec![("Release", bytes), ("Release.gpg", signed)];
            read(context, base, url, name, "Release", raw, &text, validators, date)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "what is known of one suite")]
fn inline_suite(
    context: &Context<'_>,
    remote: &Remote,
    base: &Base,
    url: &str,
    name: &str,
    bytes: Vec<u8>,
    validators: Validators,
    date: Option<u64>,
) -> Result<Suite> {
    let at = base.join(&format!("dists/{name}/InRelease"));
    let text = remote.keyring.verify_cleartext(&bytes).map_err(|why| Error::forged(at, why))?;
    read(context, base, url, name, "InRelease", vec![("InRelease", bytes)], text.as_bytes(), validators, date)
}

#[allow(clippy::too_many_arguments, reason = "what is known of one suite")]
fn read(
    context: &Context<'_>,
    base: &Base,
    url: &str,
    name: &str,
    file: &str,
    raw: Vec<(&'static str, Vec<u8>)>,
    text: &[u8],
    validators: Validators,
    date: Option<u64>,
) -> Result<Suite> {
    let path = format!("dists/{name}/{file}");
    let rejected = |why| Error::rejected(base.join(&path), why);
    let release = Release::parse(text).map_err(rejected)?;
    release.timely(context.now, date).map_err(rejected)?;
    let head = Head {
        url: url.to_owned(),
        path: path.clone(),
        sha256: Digest::of(&raw[0].1),
        date: release.date,
        until: release.until,
        etag: validators.etag,
        modified: validators.modified,
    };
    Ok(Suite { name: name.to_owned(), head, raw, release: Some(release) })
}

/// One index of a suite.
struct Index<'a> {
    suite: &'a Suite,
    /// `COMPONENT/binary-ARCH/Packages`
    path: String,
}

/// Fetches and unpacks the indices of suites that were read.
///
/// # Errors
/// [`Error::Rejected`]; [`Error::Unavailable`].
pub(crate) fn offer(
    context: &Context<'_>,
    source: &DebSource,
    remote: &Remote,
    suites: &[Suite],
    whole: bool,
) -> Result<Offer> {
    let mut wanted = Vec::new();
    for suite in suites {
        let release = suite.release()?;
        for component in &source.components {
            for arch in source.architectures.iter().map(String::as_str).chain(["all"]) {
                let path = format!("{component}/binary-{arch}/Packages");
                let listed = Packing::ALL
                    .iter()
                    .any(|packing| release.files.contains_key(&format!("{path}{}", packing.suffix())));
                if listed {
                    wanted.push(Index { suite, path });
                } else if arch != "all" {
                    let at = remote.bases[0].join(&suite.head.path);
                    return Err(Error::rejected(at, format!("it lists no usable {path}")));
                }
            }
        }
    }
    let batch = Batch::new(context.store, context.fetcher);
    let fetched =
        parallel::map(context.config.jobs, &wanted, |index| fetch_index(context, remote, &batch, index, whole));
    let fetched = fetched.into_iter().collect::<Result<Vec<_>>>()?;
    let extras = if whole { extras(context, source, remote, suites, &batch)? } else { Vec::new() };
    let mut offer = Offer { indices: Vec::new(), verbatim: Vec::new() };
    for (index, fetched) in wanted.iter().zip(fetched) {
        let release = index.suite.release()?;
        let what = format!("dists/{}/{}", index.suite.name, index.path);
        let signed = release.files.get(&index.path);
        let unpacked = match fetched {
            None => {
                let plain = signed.expect("only a listed index is known to be there");
                let sha256 = plain.sums.sha256.clone().expect("only by its digest it is known to be there");
                Published { path: what, size: plain.size, sha256 }
            }
            Some((packing, digest)) => {
                if whole {
                    let path = format!("{}{}", index.path, packing.suffix());
                    publish(&mut offer.verbatim, index.suite, release, &path, &digest);
                }
                let signed = signed.map(|plain| (plain.size, &plain.sums));
                context.unpack(&what, &digest, packing, signed)?
            }
        };
        if whole && signed.is_some() {
            publish(&mut offer.verbatim, index.suite, release, &index.path, &unpacked.sha256);
        }
        offer.indices.push(unpacked);
    }
    if whole {
        for (suite, path, digest) in extras {
            publish(&mut offer.verbatim, suite, suite.release()?, &path, &digest);
        }
        for suite in suites {
            for (name, bytes) in &suite.raw {
                let (size, sha256) = (bytes.len() as u64, context.store.put(bytes)?);
                offer.verbatim.push(Published { path: format!("dists/{}/{name}", suite.name), size, sha256 });
            }
        }
        offer.verbatim.sort_by(|a, b| a.path.cmp(&b.path));
        offer.verbatim.dedup_by(|a, b| a.path == b.path);
    }
    Ok(offer)
}

/// Fetches an index in the first form that is there; `None` when its content is in the store already.
fn fetch_index(
    context: &Context<'_>,
    remote: &Remote,
    batch: &Batch<'_>,
    index: &Index<'_>,
    whole: bool,
) -> Result<Option<(Packing, Digest)>> {
    let release = index.suite.release()?;
    let in_store =
        |listed: &Listed| listed.sums.sha256.as_ref().is_some_and(|sha256| context.store.has_blob(sha256, listed.size));
    if !whole && release.files.get(&index.path).is_some_and(in_store) {
        return Ok(None);
    }
    let mut last = None;
    for packing in Packing::ALL {
        let path = format!("{}{}", index.path, packing.suffix());
        let Some(listed) = release.files.get(&path) else { continue };
        match fetch_listed(remote, batch, index.suite, release, &path, listed) {
            Ok(digest) => return Ok(Some((packing, digest))),
            Err(error @ Error::Write { .. }) => return Err(error),
            Err(error) if matches!(last, Some(Error::Rejected { .. })) => drop(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Bug("an index that is not listed".into())))
}

/// By its digest first, because that cannot be of another generation; then once by its name.
fn fetch_listed(
    remote: &Remote,
    batch: &Batch<'_>,
    suite: &Suite,
    release: &Release,
    path: &str,
    listed: &Listed,
) -> Result<Digest> {
    let want = |path: String| Wanted { path, size: Some(listed.size), sums: listed.sums.clone() };
    let name = format!("dists/{}/{path}", suite.name);
    if let (true, Some(sha256)) = (release.by_hash, &listed.sums.sha256) {
        let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
        match batch.fetch(&remote.bases, &want(format!("{directory}/by-hash/SHA256/{sha256}"))) {
            Err(Error::Unavailable { .. } | Error::Rejected { .. }) => {}
            other => return other,
        }
    }
    batch.fetch(&remote.bases, &want(name))
}

/// What clients of a whole mirror may ask for besides: descriptions, and forms of the index that apt prefers.
fn extras<'a>(
    context: &Context<'_>,
    source: &DebSource,
    remote: &Remote,
    suites: &'a [Suite],
    batch: &Batch<'_>,
) -> Result<Vec<(&'a Suite, String, Digest)>> {
    let mut paths = Vec::new();
    for suite in suites {
        let release = suite.release()?;
        for component in &source.components {
            let description = format!("{component}/i18n/Translation-en");
            let names = [".xz", ".bz2", ".gz", ""].map(|suffix| format!("{description}{suffix}"));
            paths.extend(names.into_iter().find(|path| release.files.contains_key(path)).map(|path| (suite, path)));
            for arch in &source.architectures {
                let index = format!("{component}/binary-{arch}/Packages");
                if !release.files.contains_key(&format!("{index}.xz")) {
                    let names = [".bz2", ".lzma"].map(|suffix| format!("{index}{suffix}"));
                    paths.extend(
                        names.into_iter().filter(|path| release.files.contains_key(path)).map(|path| (suite, path)),
                    );
                }
            }
        }
    }
    let fetched = parallel::map(context.config.jobs, &paths, |(suite, path)| {
        let release = suite.release()?;
        match fetch_listed(remote, batch, suite, release, path, &release.files[path]) {
            Ok(digest) => Ok(Some((*suite, path.clone(), digest))),
            // Listed does not mean that it is there.
            Err(Error::Unavailable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    });
    fetched.into_iter().filter_map(Result::transpose).collect()
}

/// Adds a file under its name and, where the suite says so, under its digests.
fn publish(files: &mut Vec<Published>, suite: &Suite, release: &Release, path: &str, sha256: &Digest) {
    let Some(listed) = release.files.get(path) else { return };
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut paths = vec![path.to_owned()];
    if release.by_hash {
        paths.extend(listed.sums.sha256.iter().map(|digest| format!("{directory}/by-hash/SHA256/{digest}")));
        paths.extend(listed.sums.sha512.iter().map(|digest| format!("{directory}/by-hash/SHA512/{digest}")));
    }
    for path in paths {
        let path = format!("dists/{}/{path}", suite.name);
        files.push(Published { path, size: listed.size, sha256: sha256.clone() });
    }
}

/// Returns everything that unpacked indices name.
///
/// # Errors
/// [`Error::Rejected`].
pub(crate) fn everything(context: &Context<'_>, indices: &[Published]) -> Result<Plan> {
    let mut plan = Plan::default();
    for index in indices {
        let path = context.store.blob(&index.sha256);
        let file = File::open(&path).map_err(Error::read(&path))?;
        let rejected = |message: String| Error::rejected(&index.path, message);
        let mut stanzas = Stanzas::new(file);
        while let Some(stanza) = stanzas.next().map_err(|error| rejected(error.to_string()))? {
            plan.add(&Entry::parse(&stanza).map_err(rejected)?);
        }
    }
    plan.finish()
}

impl Plan {
    /// Adds a package.
    pub(crate) fn add(&mut self, entry: &Entry<'_>) {
        self.packages.push(Package {
            name: entry.name.to_owned(),
            version: entry.version.to_owned(),
            arch: entry.arch.to_owned(),
            path: entry.path.clone(),
            size: entry.size,
            sha256: entry.sums.sha256.clone().unwrap_or_else(|| Digest::of(b"")),
        });
        self.wanted.push(Wanted { path: entry.path.clone(), size: Some(entry.size), sums: entry.sums.clone() });
    }

    /// Sorts by path; what is described twice is there once.
    ///
    /// # Errors
    /// [`Error::Rejected`] when one path is said to have different contents, or lies below another.
    pub(crate) fn finish(mut self) -> Result<Self> {
        let mut order: Vec<usize> = (0..self.wanted.len()).collect();
        order.sort_by(|a, b| self.wanted[*a].path.cmp(&self.wanted[*b].path));
        let mut sorted = Self::default();
        let mut packages: Vec<Option<Package>> = self.packages.drain(..).map(Some).collect();
        let mut wanted: Vec<Option<Wanted>> = self.wanted.drain(..).map(Some).collect();
        for index in order {
            let (Some(package), Some(file)) = (packages[index].take(), wanted[index].take()) else { continue };
            match sorted.wanted.last() {
                Some(last) if last.path == file.path => {
                    if last.sums != file.sums || last.size != file.size {
                        return Err(Error::rejected(
                            file.path,
                            "the indices describe two different files by this name",
                        ));
                    }
                }
                _ => {
                    sorted.packages.push(package);
                    sorted.wanted.push(file);
                }
            }
        }
        let paths: HashSet<&str> = sorted.wanted.iter().map(|file| file.path.as_str()).collect();
        let below = |file: &&Wanted| file.path.match_indices('/').any(|(end, _)| paths.contains(&file.path[..end]));
        if let Some(file) = sorted.wanted.iter().find(below) {
            return Err(Error::rejected(&file.path, "it lies below another file"));
        }
        Ok(sorted)
    }
}
