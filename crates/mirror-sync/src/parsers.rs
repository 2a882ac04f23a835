//! Parsers of outside data, each behind one function over bytes, for the fuzz targets.
//!
//! A function returns when its parser has read or refused the input; what must hold of what was read is
//! asserted here.

use std::cmp::Ordering;
use std::io::Cursor;

use crate::deb822::Stanzas;
use crate::files;
use crate::repository;
use crate::rpm;
use crate::select::debian;
use crate::upstream;

/// `Packages`: stanzas, entries, relations, versions.
pub fn packages(input: &[u8]) {
    let mut stanzas = Stanzas::new(input);
    let mut versions: Vec<String> = Vec::new();
    while let Ok(Some(stanza)) = stanzas.next() {
        let at = usize::try_from(stanza.offset).expect("small");
        assert!(input[at..].starts_with(stanza.text), "a stanza is where it says");
        if let Ok(entry) = upstream::packages::Entry::parse(&stanza) {
            assert!(repository::is_plain(&entry.path), "{:?} stays inside", entry.path);
            versions.truncate(7);
            versions.push(entry.version.to_owned());
        }
        for (_, value) in stanza.fields() {
            let Ok(value) = std::str::from_utf8(value) else { continue };
            for relation in debian::dependencies(value).flat_map(debian::Relation::alternatives) {
                relation.accepts(Some("1.0-1"));
            }
        }
    }
    total(&versions, debian::compare);
}

/// `Release`.
pub fn release(input: &[u8]) {
    if let Ok(release) = upstream::release::Release::parse(input) {
        for (path, listed) in &release.files {
            assert!(repository::is_plain(path) && !listed.sums.is_empty(), "{path:?}");
        }
        let _ = release.timely(1, Some(2));
        assert_eq!(files::parse_date(&files::rfc1123(release.date, "UTC")), Some(release.date));
    }
}

/// `repomd.xml`.
pub fn repomd(input: &[u8]) {
    if let Ok(repomd) = upstream::rpm::Repomd::parse(input) {
        assert!(repomd.files.iter().all(|file| repository::is_plain(&file.path) && file.path.starts_with("repodata/")));
    }
}

/// `primary.xml`: elements, packages, versions.
pub fn primary(input: &[u8]) {
    let mut elements = rpm::xml::Packages::new(input);
    let mut versions: Vec<String> = Vec::new();
    while let Ok(Some(element)) = elements.next() {
        let at = usize::try_from(element.offset).expect("small");
        assert!(input[at..].starts_with(element.text), "an element is where it says");
        if let Ok(package) = rpm::package::Package::parse(element.text) {
            assert!(repository::is_plain(&package.path), "{:?} stays inside", package.path);
            versions.truncate(7);
            versions.push(package.evr.version);
        }
    }
    total(&versions, rpm::version::compare);
}

/// A package file: `.deb` or `.rpm`.
pub fn package(input: &[u8]) {
    if let Ok(control) = crate::deb::read(Cursor::new(input)) {
        assert!(!control.stanza.contains("\n\n"), "one stanza");
    }
    if let Ok(header) = rpm::header::read(Cursor::new(input)) {
        let digest = crate::digest::Digest::of(input);
        if let Ok(described) = rpm::metadata::describe(&header, input.len() as u64, &digest) {
            let package = rpm::package::Package::parse(described.primary.as_bytes());
            assert_eq!(package.expect("what is written can be read").path, described.path);
        }
    }
}

/// An order is one: antisymmetric and transitive.
fn total(versions: &[String], compare: impl Fn(&str, &str) -> Ordering) {
    for a in versions {
        assert_eq!(compare(a, a), Ordering::Equal, "{a:?}");
        for b in versions {
            assert_eq!(compare(a, b), compare(b, a).reverse(), "{a:?} {b:?}");
            for c in versions {
                if compare(a, b).is_le() && compare(b, c).is_le() {
                    assert!(compare(a, c).is_le(), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
}
