//! Parsers of outside data, each behind one function over bytes, for the fuzz targets.
//!
//! A function returns when its parser has read or refused the input; what must hold of what was read is
//! asserted here.

use std::cmp::Ordering;
use std::io::{BufRead, Cursor};
use std::path::Path;

use crate::archive;
use crate::deb822::Stanzas;
use crate::files;
use crate::git;
use crate::manifest::Manifest;
use crate::repository;
use crate::rpm;
use crate::select::{catalog, debian};
use crate::serve::http;
use crate::sign::Keyring;
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
        if let Ok(text) = std::str::from_utf8(input) {
            repository::listed(text);
        }
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
        if let Ok(described) = rpm::describe::describe(&header, input.len() as u64, &digest) {
            let package = rpm::package::Package::parse(described.elements[0].as_bytes());
            assert_eq!(package.expect("what is written can be read").path, described.path);
        }
    }
}

/// The manifest of a snapshot.
pub fn manifest(input: &[u8]) {
    let Ok(manifest) = Manifest::decode(input, Path::new("manifest.json")) else { return };
    let (bytes, id) = manifest.encode().expect("what was read can be written");
    let again = Manifest::decode(&bytes, Path::new("manifest.json")).expect("what is written can be read");
    assert_eq!(again.encode().expect("as before").1, id, "one content has one id");
    if manifest.check().is_ok() {
        for source in &manifest.sources {
            assert!(source.files().all(|(path, ..)| repository::is_plain(path)), "everything stays inside");
            assert!(source.directory().is_none_or(|directory| repository::is_plain(&directory)));
            for repo in source.repos() {
                assert!(git::check_path(&repo.path).is_ok());
                assert!(repo.refs.iter().all(|(name, target)| !format!("{name}{target}").contains([' ', '\n', '\0'])));
            }
        }
    }
}

/// A cleartext-signed message, a detached signature over `text`, and a keyring. `key` has signed `text` and
/// nothing else, so nothing else may be accepted.
///
/// # Panics
/// When that does not hold, or `key` is no key.
pub fn signed(key: &[u8], text: &str, input: &[u8]) {
    let keyring = Keyring::from_bytes(key).expect("a key");
    if let Ok(accepted) = keyring.verify_cleartext(input) {
        assert_eq!(accepted.trim_end(), text.trim_end());
    }
    if keyring.verify_detached(text.as_bytes(), input).is_ok() {
        assert!(keyring.verify_detached(input, input).is_err(), "a signature is of one text");
    }
    if let Ok(keyring) = Keyring::from_bytes(input) {
        let armored = keyring.armored().expect("what was read can be written");
        let again = Keyring::from_bytes(armored.as_bytes()).expect("what is written can be read");
        assert_eq!(again.described(), keyring.described());
    }
}

/// Requests to `serve`, one after the other: heads, bodies, ranges.
pub fn request(input: &[u8]) {
    const LIMIT: u64 = 2048;
    let mut reader = Cursor::new(input);
    while let Ok(Some(request)) = http::Request::read(&mut reader) {
        let path = request.path.strip_prefix('/').expect("a path starts with a slash");
        assert!(!path.split('/').any(|part| part == ".." || part.contains(['\0', '\\'])), "{path:?} stays inside");
        if let Some(header) = request.header("range")
            && let http::Range::Part { start, count } = http::range(header, 1000)
        {
            assert!(count > 0 && start + count <= 1000, "{header:?}");
        }
        let _ = (request.keep_alive(), request.expects_continue());
        match request.read_body(&mut reader, LIMIT) {
            Ok(body) => assert!(body.len() as u64 <= LIMIT && (request.has_body() || body.is_empty())),
            Err(_) => break,
        }
    }
    assert!(reader.fill_buf().is_ok());
}

/// What `export` writes: entries, one after the other. Sums of headers are made right, or no change would get past them.
pub fn archive(input: &[u8]) {
    let mut input = input.to_vec();
    for block in input.as_chunks_mut::<512>().0 {
        if block[257..].starts_with(b"ustar") {
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            *block = *header.as_bytes();
        }
    }
    let mut reader = archive::Reader::new(&input[..]);
    while let Ok((name, size)) = reader.next() {
        let path = name.to_string();
        assert!(repository::is_plain(&path), "{path:?} stays inside");
        match reader.whole(1024) {
            Ok(bytes) => {
                assert_eq!(bytes.len() as u64, size, "{path}");
                if let (archive::Name::Head, Ok(head)) = (&name, archive::Head::parse(&bytes)) {
                    assert_eq!(head.snapshot.as_str().len(), 64);
                }
            }
            Err(_) if size > 1024 => {}
            Err(_) => break,
        }
        if name == archive::Name::End {
            break;
        }
    }
}

/// A compiled Puppet catalog.
pub fn catalog(input: &[u8]) {
    if let Ok(asked) = catalog::parse(input, Path::new("/c/web.catalog.json")) {
        for package in asked {
            assert!(package.version.as_deref() != Some("absent"), "{package}");
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds of the fuzz targets are what their parsers accept: else the targets would start from nothing.
    #[test]
    fn seeds_are_accepted() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let read = |path: &str| std::fs::read(fuzz.join(path)).expect(path);
        let keyring = Keyring::from_bytes(&read("signed.asc")).expect("a key");
        let text = String::from_utf8(read("signed.txt")).expect("text");
        assert_eq!(
            keyring.verify_cleartext(&read("seeds/signed/inrelease")).expect("signed").trim_end(),
            text.trim_end()
        );
        for seed in ["detached.asc", "detached.sig"] {
            keyring.verify_detached(text.as_bytes(), &read(&format!("seeds/signed/{seed}"))).expect(seed);
        }
        for seed in ["key.asc", "key.gpg"] {
            Keyring::from_bytes(&read(&format!("seeds/signed/{seed}"))).expect(seed);
        }
        let all = Manifest::decode(&read("seeds/manifest/all"), Path::new("all")).expect("a manifest");
        all.check().expect("sound");
        assert_eq!(catalog::parse(&read("seeds/catalog/web"), Path::new("web")).expect("a catalog").len(), 4);
        catalog::parse(&read("seeds/catalog/wrapped"), Path::new("wrapped")).expect("a catalog");
        for seed in ["pipelined", "body"] {
            let bytes = read(&format!("seeds/request/{seed}"));
            let mut reader = Cursor::new(&bytes[..]);
            while let Some(request) = http::Request::read(&mut reader).expect(seed) {
                request.read_body(&mut reader, 100).expect(seed);
            }
        }
        for (seed, entries) in [("content", 2), ("commits", 2)] {
            let bytes = read(&format!("seeds/archive/{seed}"));
            let mut reader = archive::Reader::new(&bytes[..]);
            for _ in 0..entries {
                reader.next().expect(seed);
            }
            assert_eq!(reader.next().expect(seed).0, archive::Name::End);
        }
        for (target, seed) in [("manifest", "all"), ("request", "body"), ("catalog", "web"), ("archive", "content")] {
            let bytes = read(&format!("seeds/{target}/{seed}"));
            [manifest, request, catalog, archive].iter().for_each(|parse| parse(&bytes));
        }
        signed(&read("signed.asc"), &text, &read("seeds/signed/inrelease"));
    }
}
