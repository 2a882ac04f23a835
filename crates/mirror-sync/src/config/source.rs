//! `sources:`, what is mirrored.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{check_base, check_upstream};
use crate::digest::Digest;
use crate::fetch::Base;
use crate::names;

/// One entry of `sources:`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Source {
    /// Debian packages.
    Deb(DebSource),
    /// RPM packages.
    Rpm(RpmSource),
    /// Single files.
    Files(FilesSource),
    /// The repositories of a cloner manifest.
    Git(GitSource),
}

/// Debian packages: a directory of files, or suites of an upstream.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DebSource {
    /// Name, part of the published path.
    pub(crate) name: String,
    dir: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    mirrors: Vec<String>,
    keyring: Option<PathBuf>,
    #[serde(default)]
    fingerprints: Vec<String>,
    select: Option<Select>,
    /// Suites that are published; those of a directory all have the same packages.
    pub(crate) suites: Vec<String>,
    /// Components. Of a directory, a package whose section is `COMPONENT/…` goes there, any other into the first.
    pub(crate) components: Vec<String>,
    /// Architectures; packages of others are left out.
    pub(crate) architectures: Vec<String>,
}

/// RPM packages: a directory of files, or a repository of an upstream.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RpmSource {
    /// Name, part of the published path.
    pub(crate) name: String,
    dir: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    mirrors: Vec<String>,
    keyring: Option<PathBuf>,
    #[serde(default)]
    fingerprints: Vec<String>,
    select: Option<Select>,
    /// Architectures; packages of others are left out. Empty: all.
    #[serde(default)]
    pub(crate) architectures: Vec<String>,
}

impl RpmSource {
    /// Whether packages of an architecture are taken.
    pub(crate) fn takes(&self, arch: &str) -> bool {
        self.architectures.is_empty() || self.architectures.iter().any(|taken| taken == arch)
    }
}

/// Single files by digest.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesSource {
    /// Name, part of the published path.
    pub(crate) name: String,
    /// The files.
    pub(crate) files: Vec<File>,
}

/// One file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Where it is fetched.
    pub(crate) url: String,
    /// What it must be.
    pub(crate) sha256: Digest,
    /// Where it is published below the source.
    pub(crate) path: String,
}

impl File {
    /// Returns the address and the name below it.
    ///
    /// # Errors
    /// What is wrong with the url.
    pub(crate) fn place(&self) -> Result<(Base, String), &'static str> {
        let (base, name) = self.url.rsplit_once('/').ok_or("names no file")?;
        // It is quoted again when it is asked for.
        Ok((Base::new(base)?, percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()))
    }
}

/// The repositories that a cloner manifest names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GitSource {
    /// Name.
    pub(crate) name: String,
    /// The manifest; a relative path is relative to the configuration file.
    pub(crate) manifest: PathBuf,
    /// Base to fetch `BASE/<host>/<path>.git` from instead of the canonical hosts: a URL or a directory.
    pub(crate) mirror: Option<String>,
}

/// `select:`, which packages of an upstream are published.
#[derive(Debug, Default, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Closure {
    /// Names to start from.
    pub(crate) closure: Vec<String>,
    /// Compiled catalogs whose `Package` resources are names to start from.
    pub(crate) packages: Vec<PathBuf>,
    /// Whether what is only recommended is followed too.
    pub(crate) recommends: bool,
}

/// `select:` as written: `full` or a mapping.
#[derive(Debug, Clone, Serialize)]
pub(crate) enum Select {
    /// Everything, the upstream's index as it is.
    Full,
    /// What is needed, with an index of our own.
    Closure(Closure),
}

impl<'de> Deserialize<'de> for Select {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Select;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`full`, `{closure: [NAME…]}` or `{packages: [CATALOG.json…]}`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Select, E> {
                match text {
                    "full" => Ok(Select::Full),
                    other => Err(E::custom(format!("{other:?} is no selection: write full, closure: or packages:"))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Select, A::Error> {
                Closure::deserialize(MapAccessDeserializer::new(map)).map(Select::Closure)
            }
        }
        from.deserialize_any(Either)
    }
}

/// Where packages come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// A directory of package files; the metadata is generated.
    Dir(&'a Path),
    /// A signed repository.
    Upstream(Upstream<'a>),
}

/// A signed repository somewhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream<'a> {
    /// Its address.
    pub(crate) url: &'a str,
    /// Further addresses of the same content.
    pub(crate) mirrors: &'a [String],
    /// Keys that may sign.
    pub(crate) keyring: &'a Path,
    /// Which of the keys are accepted; empty: all.
    pub(crate) fingerprints: &'a [String],
    /// Which packages.
    pub(crate) select: &'a Select,
}

static FULL: Select = Select::Full;

impl Source {
    /// Returns the source's name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Deb(deb) => &deb.name,
            Self::Rpm(rpm) => &rpm.name,
            Self::Files(files) => &files.name,
            Self::Git(git) => &git.name,
        }
    }

    /// Returns where packages come from; `None` for sources without packages.
    pub(crate) fn origin(&self) -> Option<Origin<'_>> {
        let (dir, url, mirrors, keyring, fingerprints, select) = match self {
            Self::Deb(deb) => (&deb.dir, &deb.url, &deb.mirrors, &deb.keyring, &deb.fingerprints, &deb.select),
            Self::Rpm(rpm) => (&rpm.dir, &rpm.url, &rpm.mirrors, &rpm.keyring, &rpm.fingerprints, &rpm.select),
            Self::Files(_) | Self::Git(_) => return None,
        };
        Some(match (dir, url) {
            (None, Some(url)) => Origin::Upstream(Upstream {
                url,
                mirrors,
                keyring: keyring.as_deref().unwrap_or(Path::new("")),
                fingerprints,
                select: select.as_ref().unwrap_or(&FULL),
            }),
            (dir, _) => Origin::Dir(dir.as_deref().unwrap_or(Path::new(""))),
        })
    }

    /// Returns the upstream, where there is one.
    pub(crate) fn upstream(&self) -> Option<Upstream<'_>> {
        match self.origin() {
            Some(Origin::Upstream(upstream)) => Some(upstream),
            _ => None,
        }
    }

    /// Returns the selection, unless everything is published.
    pub(crate) fn closure(&self) -> Option<&Closure> {
        match self.upstream()?.select {
            Select::Full => None,
            Select::Closure(closure) => Some(closure),
        }
    }

    /// Returns a digest of what decides the content of a source that `sync` makes the published form of.
    pub(crate) fn fingerprint(&self) -> Option<Digest> {
        let text = match self {
            Self::Deb(deb) if deb.dir.is_none() => serde_json::to_vec(deb),
            Self::Rpm(rpm) if rpm.dir.is_none() => serde_json::to_vec(rpm),
            Self::Files(files) => serde_json::to_vec(files),
            Self::Deb(_) | Self::Rpm(_) | Self::Git(_) => return None,
        };
        text.ok().map(|text| Digest::of(&text))
    }

    /// Makes relative paths those of the configuration file's directory.
    pub(super) fn resolve(&mut self, base: &Path) {
        let join = |path: &mut PathBuf| *path = base.join(&*path).components().collect();
        match self {
            Self::Deb(DebSource { dir, keyring, select, .. }) | Self::Rpm(RpmSource { dir, keyring, select, .. }) => {
                dir.iter_mut().chain(keyring).for_each(join);
                if let Some(Select::Closure(closure)) = select {
                    closure.packages.iter_mut().for_each(join);
                }
            }
            Self::Git(git) => git.manifest = base.join(&git.manifest),
            Self::Files(_) => {}
        }
    }

    /// Checks everything but the name; the error is the key below the source's and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        match self {
            Self::Deb(deb) => {
                self.check_origin(deb.dir.is_some(), deb.url.as_deref(), deb.keyring.is_some(), deb.select.is_some())?;
                check_names("suites", &deb.suites, true)?;
                check_names("components", &deb.components, true)?;
                check_names("architectures", &deb.architectures, true)?;
                if deb.architectures.iter().any(|arch| arch == "all" || arch == "source") {
                    let message = "must be those of machines (packages for all of them are always taken)";
                    return Err(("architectures", message.into()));
                }
            }
            Self::Rpm(rpm) => {
                self.check_origin(rpm.dir.is_some(), rpm.url.as_deref(), rpm.keyring.is_some(), rpm.select.is_some())?;
                check_names("architectures", &rpm.architectures, false)?;
            }
            Self::Files(files) => check_files(&files.files)?,
            Self::Git(git) => {
                if git.mirror.as_deref().is_some_and(|mirror| mirror.is_empty() || mirror.starts_with('-')) {
                    return Err(("mirror", "must be a URL or an absolute directory".into()));
                }
            }
        }
        Ok(())
    }

    fn check_origin(
        &self,
        dir: bool,
        url: Option<&str>,
        keyring: bool,
        select: bool,
    ) -> Result<(), (&'static str, String)> {
        let wrong = |key, message: &str| Err((key, message.to_owned()));
        let Some(url) = url else {
            return match (dir, keyring || select) {
                (false, _) => wrong("url", "missing: a source of packages has a url: or a dir:"),
                (true, true) => wrong("dir", "everything in a directory is published, without keyring: and select:"),
                (true, false) => Ok(()),
            };
        };
        if dir {
            return wrong("dir", "a source has a url: or a dir:, not both");
        }
        if !keyring {
            return wrong("keyring", "missing: what a URL offers is verified with the keys of its keyring");
        }
        check_upstream(url).map_err(|message| ("url", message.to_owned()))?;
        let upstream = self.upstream().expect("a source with a url: has an upstream");
        for mirror in upstream.mirrors {
            check_upstream(mirror).map_err(|message| ("mirrors", message.to_owned()))?;
        }
        for fingerprint in upstream.fingerprints {
            let digits: String = fingerprint.split_whitespace().collect();
            if !matches!(digits.len(), 40 | 64) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return wrong("fingerprints", &format!("{fingerprint:?} is not the 40 hex digits of a key"));
            }
        }
        if let Select::Closure(closure) = upstream.select {
            if closure.closure.is_empty() && closure.packages.is_empty() {
                return wrong("select", "names no package and no catalog");
            }
            if closure.closure.iter().any(|name| name.is_empty() || name.contains(char::is_whitespace)) {
                return wrong("select", "a name is empty or holds a space");
            }
        }
        Ok(())
    }
}

fn check_names(key: &'static str, values: &[String], needed: bool) -> Result<(), (&'static str, String)> {
    if needed && values.is_empty() {
        return Err((key, "must name at least one".into()));
    }
    let mut seen = BTreeSet::new();
    for value in values {
        names::check(value).map_err(|why| (key, format!("{value:?} {why}")))?;
        if !seen.insert(value) {
            return Err((key, format!("{value} is there twice")));
        }
    }
    Ok(())
}

fn check_files(files: &[File]) -> Result<(), (&'static str, String)> {
    let mut seen = BTreeSet::new();
    for file in files {
        let place = check_base(&file.url).and_then(|()| file.place());
        place.map_err(|message| ("files", format!("{}: {message}", file.path)))?;
        if !crate::repository::is_plain(&file.path) {
            return Err(("files", format!("{:?} is no plain relative path", file.path)));
        }
        if !seen.insert(file.path.as_str()) {
            return Err(("files", format!("{} is there twice", file.path)));
        }
    }
    // A file cannot be where another's directory is.
    let below = |path: &&&str| path.match_indices('/').any(|(end, _)| seen.contains(&path[..end]));
    match seen.iter().find(below) {
        Some(path) => Err(("files", format!("{path} lies below another file"))),
        None if files.is_empty() => Err(("files", "must name at least one".into())),
        None => Ok(()),
    }
}
