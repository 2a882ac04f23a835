//! Packages as `primary` describes them.

use std::borrow::Cow;

use super::version::Evr;
use super::xml::{Event, Events, attribute};
use crate::fetch::Sums;
use crate::files;

/// Largest package that is believed.
const MAX_SIZE: u64 = 1 << 40;

/// A name with a version, of `provides` or `requires`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capability<'a> {
    /// Name, file or expression.
    pub(crate) name: Cow<'a, str>,
    /// `LT`, `LE`, `EQ`, `GE`, `GT` and the version.
    pub(crate) version: Option<(Cow<'a, str>, Evr)>,
}

/// A package.
#[derive(Debug, Clone)]
pub(crate) struct Package<'a> {
    /// Name.
    pub(crate) name: Cow<'a, str>,
    /// Architecture.
    pub(crate) arch: Cow<'a, str>,
    /// Epoch, version, release.
    pub(crate) evr: Evr,
    /// Path in the repository.
    pub(crate) path: String,
    /// Length.
    pub(crate) size: u64,
    /// Digests.
    pub(crate) sums: Sums,
    /// What the other indices call it by.
    pub(crate) pkgid: Cow<'a, str>,
    /// `rpm:provides`
    pub(crate) provides: Vec<Capability<'a>>,
    /// `rpm:requires`
    pub(crate) requires: Vec<Capability<'a>>,
    /// `rpm:recommends`
    pub(crate) recommends: Vec<Capability<'a>>,
    /// Files that `primary` names.
    pub(crate) files: Vec<Cow<'a, str>>,
}

impl<'a> Package<'a> {
    /// Reads a `<package>` element.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, String> {
        let mut events = Events::new(text)?;
        let (mut name, mut arch, mut evr, mut path, mut size) = (None, None, None, None, None);
        let mut pkgid = None;
        let mut sums = Sums::default();
        let (mut provides, mut requires, mut recommends, mut files) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut list = "";
        while let Some(event) = events.next()? {
            let Event::Open { name: tag, attributes, empty } = event else { continue };
            match tag {
                "name" if name.is_none() => name = Some(events.text()?),
                "arch" if arch.is_none() => arch = Some(events.text()?),
                "version" if evr.is_none() => evr = Some(version(attributes)),
                "checksum" => {
                    let value = events.text()?;
                    let kind = attribute(attributes, "type").unwrap_or_default();
                    if !matches!(&*kind, "sha256" | "sha512") || !sums.add(&value, kind == "sha512") {
                        return Err(format!("checksum of type {kind:?}: SHA-256 or SHA-512 is needed"));
                    }
                    pkgid = Some(value);
                }
                "size" => size = attribute(attributes, "package").and_then(|size| size.parse::<u64>().ok()),
                "location" => {
                    if attribute(attributes, "xml:base").is_some() {
                        return Err("a location with a base of its own".into());
                    }
                    path = attribute(attributes, "href");
                }
                "file" if !empty => files.push(events.text()?),
                "rpm:provides" | "rpm:requires" | "rpm:recommends" | "rpm:conflicts" | "rpm:obsoletes"
                | "rpm:suggests" | "rpm:supplements" | "rpm:enhances" => list = if empty { "" } else { tag },
                "rpm:entry" => {
                    let entries = match list {
                        "rpm:provides" => &mut provides,
                        "rpm:requires" => &mut requires,
                        "rpm:recommends" => &mut recommends,
                        _ => continue,
                    };
                    let name = attribute(attributes, "name").ok_or("an entry without a name")?;
                    let version = match (attribute(attributes, "flags"), attribute(attributes, "ver")) {
                        (Some(flags), Some(_)) => Some((flags, version(attributes))),
                        _ => None,
                    };
                    entries.push(Capability { name, version });
                }
                _ => {}
            }
        }
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.len() <= 300
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-_".contains(&byte))
        };
        let name = name.filter(|name| word(name)).ok_or("a package without a usable name")?;
        let here = |what: &str| format!("package {name}: {what}");
        let arch = arch.filter(|arch| word(arch)).ok_or_else(|| here("no usable arch"))?;
        let path = path.ok_or_else(|| here("no location"))?;
        let path = files::plain(&path).ok_or_else(|| here(&format!("location {path:?} leaves the repository")))?;
        if path == "repodata" || path.starts_with("repodata/") {
            return Err(here(&format!("location {path:?} is where indices are")));
        }
        let size = size.filter(|size| *size <= MAX_SIZE).ok_or_else(|| here("no usable size"))?;
        let pkgid = pkgid.ok_or_else(|| here("no checksum"))?;
        let evr = evr.filter(|evr| !evr.version.is_empty()).ok_or_else(|| here("no version"))?;
        Ok(Self { name, arch, evr, path, size, sums, pkgid, provides, requires, recommends, files })
    }
}

fn version(attributes: &str) -> Evr {
    let text = |name| attribute(attributes, name).map(Cow::into_owned);
    Evr {
        epoch: text("epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
        version: text("ver").unwrap_or_default(),
        release: text("rel").filter(|release| !release.is_empty()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn element(path: &str, more: &str) -> String {
        format!(
            "<package type=\"rpm\"><name>tool</name><arch>x86_64</arch><version epoch=\"1\" ver=\"2.0\" rel=\"3.el9\"/>\
             <checksum type=\"sha256\" pkgid=\"YES\">{}</checksum><size package=\"7\" installed=\"1\"/>\
             <location href=\"{path}\"/><format>{more}<file>/usr/bin/tool</file></format></package>",
            "0".repeat(64)
        )
    }

    #[test]
    fn a_package_is_read_and_what_could_do_harm_is_refused() {
        let text = element(
            "./p/tool.rpm",
            "<rpm:provides><rpm:entry name=\"tool\" flags=\"EQ\" epoch=\"1\" ver=\"2.0\" rel=\"3.el9\"/></rpm:provides>\
             <rpm:conflicts><rpm:entry name=\"no\"/></rpm:conflicts>\
             <rpm:requires><rpm:entry name=\"/bin/sh\"/><rpm:entry name=\"a &amp; b\"/></rpm:requires>",
        );
        let package = Package::parse(text.as_bytes()).expect("a package");
        assert_eq!((package.path.as_str(), package.evr.to_string().as_str()), ("p/tool.rpm", "1:2.0-3.el9"));
        assert_eq!(package.provides[0].version.as_ref().expect("there").1.to_string(), "1:2.0-3.el9");
        let requires: Vec<&str> = package.requires.iter().map(|entry| &*entry.name).collect();
        assert_eq!(requires, ["/bin/sh", "a & b"]);
        assert_eq!(package.files, ["/usr/bin/tool"]);
        for path in ["../x.rpm", "/x.rpm", "a\\b", "repodata/repomd.xml", "http://x/y"] {
            assert!(Package::parse(element(path, "").as_bytes()).is_err(), "{path}");
        }
        let weak = text.replace("type=\"sha256\"", "type=\"sha\"");
        assert!(Package::parse(weak.as_bytes()).expect_err("weak").contains("SHA-256"));
        let elsewhere = text.replace("href=", "xml:base=\"http://x\" href=");
        assert!(Package::parse(elsewhere.as_bytes()).is_err());
    }
}
