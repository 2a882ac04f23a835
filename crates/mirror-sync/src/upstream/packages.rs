//! Entries of a `Packages` index.

use crate::deb822::Stanza;
use crate::fetch::Sums;
use crate::files;

/// Largest package that is believed.
const MAX_SIZE: u64 = 1 << 40;

/// A package as an index describes it.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    /// `Package`.
    pub(crate) name: &'a str,
    /// `Version`.
    pub(crate) version: &'a str,
    /// `Architecture`.
    pub(crate) arch: &'a str,
    /// `Filename`, inside the repository.
    pub(crate) path: String,
    /// `Size`.
    pub(crate) size: u64,
    /// `SHA256`, `SHA512`.
    pub(crate) sums: Sums,
    /// `Provides`.
    pub(crate) provides: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// Reads a stanza.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn parse(stanza: &Stanza<'a>) -> Result<Self, String> {
        let (mut name, mut version, mut arch, mut path, mut size) = (None, None, None, None, None);
        let mut provides = None;
        let mut sums = Sums::default();
        for (field, value) in stanza.fields() {
            // The length rules out most fields before anything is compared.
            let slot = match field.len() {
                7 if field.eq_ignore_ascii_case(b"Package") => &mut name,
                7 if field.eq_ignore_ascii_case(b"Version") => &mut version,
                12 if field.eq_ignore_ascii_case(b"Architecture") => &mut arch,
                8 if field.eq_ignore_ascii_case(b"Filename") => &mut path,
                8 if field.eq_ignore_ascii_case(b"Provides") => &mut provides,
                4 if field.eq_ignore_ascii_case(b"Size") => &mut size,
                6 if field.eq_ignore_ascii_case(b"SHA256") || field.eq_ignore_ascii_case(b"SHA512") => {
                    let digest = std::str::from_utf8(value).unwrap_or_default();
                    if !sums.add(digest, field.ends_with(b"512")) {
                        return Err("a digest is not written as hex digits".into());
                    }
                    continue;
                }
                _ => continue,
            };
            if slot.is_some() {
                return Err(format!("field {} is there twice", String::from_utf8_lossy(field)));
            }
            let value = std::str::from_utf8(value);
            *slot = Some(value.map_err(|_| format!("field {} is not UTF-8", String::from_utf8_lossy(field)))?);
        }
        let name = name.filter(|name| is_word(name, b"+.-_")).ok_or("no usable Package field")?;
        let here = |what: &str| format!("package {name}: {what}");
        let version = version.filter(|version| is_word(version, b".+:~-_")).ok_or_else(|| here("no usable Version"))?;
        let arch = arch.filter(|arch| is_word(arch, b"-_")).ok_or_else(|| here("no usable Architecture"))?;
        let path = path.ok_or_else(|| here("no Filename"))?;
        let path = files::plain(path).ok_or_else(|| here(&format!("Filename {path:?} leaves the repository")))?;
        if path == "dists" || path.starts_with("dists/") {
            return Err(here(&format!("Filename {path:?} is where indices are")));
        }
        let size = size.and_then(|size| size.parse::<u64>().ok()).filter(|size| *size <= MAX_SIZE);
        let size = size.ok_or_else(|| here("no usable Size"))?;
        if sums.is_empty() {
            return Err(here("no SHA256 and no SHA512"));
        }
        Ok(Self { name, version, arch, path, size, sums, provides })
    }
}

/// A letter or digit, then more of them or of `allowed`.
fn is_word(text: &str, allowed: &[u8]) -> bool {
    text.len() <= 300
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || allowed.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        Entry::parse(&Stanza { offset: 0, text: text.as_bytes() }).map(|entry| entry.path)
    }

    #[test]
    fn an_entry_is_read_and_what_could_do_harm_is_refused() {
        let sha256 = "0".repeat(64);
        let stanza = |path: &str, more: &str| {
            format!(
                "Package: a\nVersion: 1:2-3\nArchitecture: all\nFilename: {path}\nSize: 7\nSHA256: {sha256}\n{more}"
            )
        };
        assert_eq!(parse(&stanza("./pool/a.deb", "Depends: b\n")).expect("fine"), "pool/a.deb");
        for path in ["pool/../../../etc/x", "/etc/x", "pool/a\\b", "dists/stable/InRelease", ""] {
            assert!(parse(&stanza(path, "")).is_err(), "{path}");
        }
        assert!(parse(&stanza("pool/a", "Size: 8\n")).expect_err("twice").contains("twice"));
        assert!(parse(&stanza("pool/a", "").replace("SHA256", "MD5sum")).expect_err("weak").contains("SHA256"));
        assert!(parse(&stanza("pool/a", "").replace("Size: 7", "Size: -7")).is_err());
        assert!(parse(&stanza("pool/a", "").replace("Package: a", "Package: ../a")).is_err());
    }
}
