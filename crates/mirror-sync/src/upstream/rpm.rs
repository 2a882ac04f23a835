//! An upstream for dnf: `repomd.xml` with `repomd.xml.asc`, then the files it names.

use std::fs::File;

use super::release::check_times;
use super::{Context, Offer, Plan, Remote, accepted};
use crate::config::RpmSource;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::{Answer, Base, Batch, Sums, Validators, Wanted};
use crate::files;
use crate::manifest::{self, Published};
use crate::packing::Packing;
use crate::rpm::package::Package;
use crate::rpm::xml::{Event, Events, Packages, attribute};
use crate::state::Head;

const REPOMD: &str = "repodata/repomd.xml";
const SIGNATURE: &str = "repodata/repomd.xml.asc";
const MAX_REPOMD: u64 = 8 << 20;
const MAX_SIGNATURE: u64 = 1 << 20;
/// Most files that a repository may list.
const MAX_FILES: usize = 1000;
/// Indices of packages, in the order in which they are kept.
pub(crate) const INDICES: [&str; 3] = ["primary", "filelists", "other"];

/// One file that `repomd.xml` names.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// `primary`, `group`, …
    pub(crate) kind: String,
    /// Path in the repository.
    pub(crate) path: String,
    size: u64,
    sums: Sums,
    open: Option<(u64, Sums)>,
}

/// What `repomd.xml` says.
#[derive(Debug)]
pub(crate) struct Repomd {
    /// The newest time in it.
    pub(crate) date: u64,
    /// Its files.
    pub(crate) files: Vec<Listed>,
}

impl Repomd {
    /// Parses the text.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let mut events = Events::new(text)?;
        let (mut date, mut files) = (0, Vec::<Listed>::new());
        while let Some(event) = events.next()? {
            let Event::Open { name, attributes, .. } = event else { continue };
            let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{name} {text:?} is no number"));
            if name == "data" {
                let kind = attribute(attributes, "type").ok_or("data without a type")?;
                let (path, sums) = (String::new(), Sums::default());
                files.push(Listed { kind: kind.into_owned(), path, size: 0, sums, open: None });
                if files.len() > MAX_FILES {
                    return Err("it lists too many files".into());
                }
                continue;
            }
            let Some(file) = files.last_mut() else {
                if name == "revision" {
                    // A number by custom only.
                    date = events.text()?.trim().parse().unwrap_or(0);
                }
                continue;
            };
            match name {
                "checksum" | "open-checksum" => {
                    let kind = attribute(attributes, "type").unwrap_or_default();
                    let value = events.text()?;
                    let sums = match name {
                        "checksum" => &mut file.sums,
                        _ => &mut file.open.get_or_insert_with(Default::default).1,
                    };
                    if matches!(&*kind, "sha256" | "sha512") && !sums.add(value.trim(), kind == "sha512") {
                        return Err(format!("{name} {value:?} is no digest"));
                    }
                }
                "location" => {
                    let path = attribute(attributes, "href").ok_or("a location without a path")?;
                    file.path = files::plain(&path).ok_or_else(|| format!("path {path:?} leaves the repository"))?;
                    if !file.path.starts_with("repodata/") || file.path == REPOMD || file.path == SIGNATURE {
                        return Err(format!("path {path:?} is not one of an index"));
                    }
                }
                "timestamp" => {
                    let text = events.text()?;
                    let seconds = text.split('.').next().unwrap_or_default();
                    date = date.max(number(seconds)?);
                }
                "size" => file.size = number(&events.text()?)?,
                "open-size" => file.open.get_or_insert_with(Default::default).0 = number(&events.text()?)?,
                _ => {}
            }
        }
        for file in &mut files {
            if file.path.is_empty() || file.size == 0 || file.sums.is_empty() {
                return Err(format!("{}: no path, no size, or no SHA-256 or SHA-512 checksum", file.kind));
            }
            file.open.take_if(|(size, sums)| *size == 0 || sums.is_empty());
        }
        if !files.iter().any(|file| file.kind == "primary") {
            return Err("it lists no primary".into());
        }
        Ok(Self { date, files })
    }

    fn find(&self, kind: &str) -> Option<&Listed> {
        self.files.iter().find(|file| file.kind == kind)
    }
}

/// A repository whose signature holds.
pub(crate) struct Root {
    /// What is remembered of it.
    pub(crate) head: Head,
    /// `repomd.xml` and its signature; absent when nothing changed.
    pub(crate) read: Option<(Repomd, Vec<u8>, Vec<u8>)>,
}

/// Fetches and verifies the signed root; moves the address that answered to the front.
///
/// # Errors
/// [`Error::Rejected`]; [`Error::Forged`]; [`Error::Unavailable`].
pub(crate) fn root(context: &Context<'_>, remote: &mut Remote, before: &[Head], again: bool) -> Result<Root> {
    let (index, root) = context.on_any(&remote.bases, |base| at(context, remote, base, before, again))?;
    remote.bases[..=index].rotate_right(1);
    Ok(root)
}

fn at(context: &Context<'_>, remote: &Remote, base: &Base, before: &[Head], again: bool) -> Result<Root> {
    let url = base.join(REPOMD);
    let old = accepted(before, &remote.url, REPOMD);
    let seen = match old.filter(|_| !again) {
        Some(old) => Validators { etag: old.etag.clone(), modified: old.modified.clone() },
        None => Validators::default(),
    };
    let (bytes, validators) = match (context.fetcher.check(base, REPOMD, &seen, MAX_REPOMD)?, old) {
        (Answer::Same, Some(old)) => return Ok(Root { head: old.clone(), read: None }),
        (Answer::Content(bytes, _), Some(old)) if !again && Digest::of(&bytes) == old.sha256 => {
            return Ok(Root { head: old.clone(), read: None });
        }
        (Answer::Content(bytes, validators), _) => (bytes, validators),
        (Answer::Same | Answer::Absent, _) => {
            return Err(Error::unavailable(url, "the server answered 404 Not Found"));
        }
    };
    let Answer::Content(signature, _) =
        context.fetcher.check(base, SIGNATURE, &Validators::default(), MAX_SIGNATURE)?
    else {
        return Err(Error::forged(base.join(SIGNATURE), "there is no signature"));
    };
    let verified = remote.keyring.verify_detached(&bytes, &signature);
    verified.map_err(|why| Error::forged(base.join(SIGNATURE), why))?;
    let rejected = |why| Error::rejected(&url, why);
    let repomd = Repomd::parse(&bytes).map_err(rejected)?;
    check_times(repomd.date, None, context.now, old.map(|head| head.date)).map_err(rejected)?;
    let head = Head {
        url: remote.url.clone(),
        path: REPOMD.to_owned(),
        sha256: Digest::of(&bytes),
        date: repomd.date,
        until: None,
        etag: validators.etag,
        modified: validators.modified,
    };
    Ok(Root { head, read: Some((repomd, bytes, signature)) })
}

/// Fetches the files and unpacks the indices of packages. The order of the offered indices is `primary`,
/// `filelists`, `other`, then what else is to be kept for a part of the repository.
///
/// # Errors
/// [`Error::Rejected`]; [`Error::Unavailable`].
pub(crate) fn offer(context: &Context<'_>, remote: &Remote, root: &Root, whole: bool) -> Result<Offer> {
    let (repomd, bytes, signature) =
        root.read.as_ref().ok_or_else(|| Error::Bug("a repository that was not read".into()))?;
    // Databases are only another form of the same; a part of the repository has none.
    let wanted: Vec<&Listed> = repomd.files.iter().filter(|file| whole || is_kept(file)).collect();
    let files: Vec<Wanted> = wanted
        .iter()
        .map(|file| Wanted { path: file.path.clone(), size: Some(file.size), sums: file.sums.clone() })
        .collect();
    let batch = Batch::new(context.store, context.fetcher);
    let digests = batch.fetch_all(context.config.jobs, &remote.bases, &files)?;
    let mut offer = Offer { indices: Vec::new(), verbatim: Vec::new() };
    for kind in INDICES {
        let Some(number) = wanted.iter().position(|file| file.kind == kind) else { continue };
        let file = wanted[number];
        let packing = Packing::of_name(&file.path).ok_or_else(|| {
            Error::rejected(remote.bases[0].join(&file.path), "packed in a way that is not read here")
        })?;
        let signed = file.open.as_ref().map(|(size, sums)| (*size, sums));
        let known = signed.and_then(|(size, sums)| Some((size, sums.sha256.clone()?)));
        let path = format!("repodata/{kind}.xml");
        offer.indices.push(match known {
            Some((size, sha256)) if context.store.has_blob(&sha256, size) => Published { path, size, sha256 },
            _ => context.unpack(&path, &digests[number], packing, signed)?,
        });
    }
    for (file, sha256) in wanted.iter().zip(digests) {
        let published = Published { path: file.path.clone(), size: file.size, sha256 };
        if !INDICES.contains(&file.kind.as_str()) && is_kept(file) {
            offer.indices.push(published.clone());
        }
        offer.verbatim.push(published);
    }
    for (path, bytes) in [(REPOMD, bytes), (SIGNATURE, signature)] {
        let (size, sha256) = (bytes.len() as u64, context.store.put(bytes)?);
        offer.verbatim.push(Published { path: path.to_owned(), size, sha256 });
    }
    offer.verbatim.sort_by(|a, b| a.path.cmp(&b.path));
    offer.verbatim.dedup_by(|a, b| a.path == b.path);
    Ok(offer)
}

/// Whether a part of the repository has this file too.
fn is_kept(file: &Listed) -> bool {
    !file.kind.ends_with("_db") && !file.kind.ends_with("_zck") && file.kind != "prestodelta"
}

impl Root {
    /// Returns the kind of a file that is kept besides the indices.
    pub(crate) fn kind(&self, path: &str) -> Option<&str> {
        let (repomd, ..) = self.read.as_ref()?;
        repomd.files.iter().find(|file| file.path == path).map(|file| file.kind.as_str())
    }

    /// Whether the repository has an index.
    pub(crate) fn has(&self, kind: &str) -> bool {
        self.read.as_ref().is_some_and(|(repomd, ..)| repomd.find(kind).is_some())
    }
}

/// Opens the `primary` of what was offered.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn open(context: &Context<'_>, index: &Published) -> Result<File> {
    let path = context.store.blob(&index.sha256);
    File::open(&path).map_err(Error::read(&path))
}

/// Calls back for every package of an index.
///
/// # Errors
/// [`Error::Rejected`]; that of the callback.
pub(crate) fn each(
    context: &Context<'_>,
    index: &Published,
    mut work: impl FnMut(u64, &Package<'_>, &[u8]) -> Result<()>,
) -> Result<()> {
    let rejected = |why: String| Error::rejected(&index.path, why);
    let mut packages = Packages::new(open(context, index)?);
    while let Some(element) = packages.next().map_err(|error| rejected(error.to_string()))? {
        work(element.offset, &Package::parse(element.text).map_err(rejected)?, element.text)?;
    }
    Ok(())
}

/// Returns everything that `primary` names; `None` when architectures are configured that leave some of it out.
///
/// # Errors
/// [`Error::Rejected`].
pub(crate) fn everything(context: &Context<'_>, source: &RpmSource, indices: &[Published]) -> Result<Option<Plan>> {
    let mut plan = Plan::default();
    let mut whole = true;
    each(context, &indices[0], |_, package, _| {
        whole &= source.takes(&package.arch);
        plan.add_rpm(package);
        Ok(())
    })?;
    if whole { plan.finish().map(Some) } else { Ok(None) }
}

impl Plan {
    /// Adds a package.
    pub(crate) fn add_rpm(&mut self, package: &Package<'_>) {
        self.packages.push(manifest::Package {
            name: package.name.clone().into_owned(),
            version: package.evr.to_string(),
            arch: package.arch.clone().into_owned(),
            path: package.path.clone(),
            size: package.size,
            sha256: package.sums.sha256.clone().unwrap_or_else(|| Digest::of(b"")),
        });
        self.wanted.push(Wanted { path: package.path.clone(), size: Some(package.size), sums: package.sums.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repomd(path: &str, kind: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><repomd><revision>1700000000</revision><data type=\"primary\">\
             <checksum type=\"{kind}\">{}</checksum><location href=\"{path}\"/><timestamp>1700000100.5</timestamp>\
             <size>12</size><open-size>0</open-size></data></repomd>",
            "0".repeat(64)
        )
    }

    #[test]
    fn a_repomd_is_read_and_what_could_do_harm_is_refused() {
        let read = Repomd::parse(repomd("repodata/x-primary.xml.gz", "sha256").as_bytes()).expect("parses");
        assert_eq!((read.date, read.files.len()), (1_700_000_100, 1));
        for path in ["../repodata/x", "/x", "x.xml", "repodata/../../x", "repodata/repomd.xml", "repodata/a\\b"] {
            assert!(Repomd::parse(repomd(path, "sha256").as_bytes()).is_err(), "{path}");
        }
        assert!(Repomd::parse(repomd("repodata/x", "sha").as_bytes()).is_err(), "weak");
        assert!(Repomd::parse(repomd("repodata/x", "sha256").replace("primary", "other").as_bytes()).is_err());
        assert!(Repomd::parse(b"").is_err());
    }
}
