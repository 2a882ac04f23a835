//! The `Release` file of a suite, read after its signature was verified.

use std::collections::BTreeMap;

use crate::deb822::Stanzas;
use crate::fetch::Sums;
use crate::files;

/// Most files that a suite may list.
const MAX_FILES: usize = 100_000;
/// How far the clocks of an upstream and of this machine may be apart.
const SKEW: u64 = 3600;

/// One listed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Length.
    pub(crate) size: u64,
    /// Digests.
    pub(crate) sums: Sums,
}

/// What a `Release` file says.
#[derive(Debug)]
pub(crate) struct Release {
    /// Fields that a new `Release` of a part of the suite keeps, in this order.
    pub(crate) kept: Vec<(&'static str, String)>,
    /// `Date`.
    pub(crate) date: u64,
    /// `Valid-Until`.
    pub(crate) until: Option<u64>,
    /// Whether files are also there by their digests.
    pub(crate) by_hash: bool,
    /// Files by path.
    pub(crate) files: BTreeMap<String, Listed>,
}

/// What pins, preferences and people go by.
const KEPT: [&str; 9] =
    ["Origin", "Label", "Suite", "Version", "Codename", "Date", "NotAutomatic", "ButAutomaticUpgrades", "Description"];

impl Release {
    /// Parses the text.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let mut stanzas = Stanzas::new(text);
        let stanza = stanzas.next().map_err(|error| error.to_string())?.ok_or("it is empty")?;
        let mut files: BTreeMap<String, Listed> = BTreeMap::new();
        let mut kept = Vec::new();
        let (mut date, mut until, mut by_hash) = (None, None, false);
        for (name, value) in stanza.fields() {
            let text = || std::str::from_utf8(value).map_err(|_| "it is not UTF-8".to_owned());
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            let time = || -> Result<u64, String> {
                let value = text()?;
                files::parse_date(value).ok_or_else(|| format!("{value:?} is no date"))
            };
            if let Some(known) = KEPT.iter().find(|known| is(known)) {
                let value = text()?;
                if !value.contains('\n') {
                    kept.push((*known, value.to_owned()));
                }
            }
            if is("Date") {
                date = Some(time()?);
            } else if is("Valid-Until") {
                until = Some(time()?);
            } else if is("Acquire-By-Hash") {
                by_hash = text()? == "yes";
            } else if is("SHA256") || is("SHA512") {
                list(text()?, is("SHA512"), &mut files)?;
            }
        }
        kept.sort_by_key(|(name, _)| KEPT.iter().position(|known| known == name));
        kept.dedup_by_key(|(name, _)| *name);
        if files.is_empty() {
            return Err("it lists no file with a SHA-256 or SHA-512 digest".into());
        }
        Ok(Self { kept, date: date.ok_or("it has no Date")?, until, by_hash, files })
    }

    /// Checks the times against the clock and against what was accepted before.
    ///
    /// # Errors
    /// Why the file is not to be used now.
    pub(crate) fn timely(&self, now: u64, accepted: Option<u64>) -> Result<(), String> {
        check_times(self.date, self.until, now, accepted)
    }
}

/// The rules for times, which hold for remembered files too.
///
/// # Errors
/// Why what has these times is not to be used now.
pub(crate) fn check_times(date: u64, until: Option<u64>, now: u64, accepted: Option<u64>) -> Result<(), String> {
    if let Some(until) = until
        && until < now
    {
        return Err(format!("expired: it was valid until {}", files::rfc3339(until)));
    }
    if date > now + SKEW {
        return Err(format!("it is from the future: {}", files::rfc3339(date)));
    }
    match accepted {
        Some(accepted) if date < accepted => Err(format!(
            "goes back in time: it is of {}, and one of {} was accepted before",
            files::rfc3339(date),
            files::rfc3339(accepted)
        )),
        _ => Ok(()),
    }
}

fn list(text: &str, sha512: bool, files: &mut BTreeMap<String, Listed>) -> Result<(), String> {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(digest), size, path) = (words.next(), words.next(), words.next()) else { continue };
        let wrong = || format!("line {line:?} is no digest, size and path");
        let (size, path) = (size.ok_or_else(wrong)?, path.ok_or_else(wrong)?);
        let size: u64 = size.parse().map_err(|_| wrong())?;
        let path = files::plain(path).ok_or_else(|| format!("path {path:?} leaves the repository"))?;
        let entry = files.entry(path).or_insert_with(|| Listed { size, sums: Sums::default() });
        if entry.size != size {
            return Err(wrong());
        }
        if !entry.sums.add(digest, sha512) {
            return Err(wrong());
        }
        if files.len() > MAX_FILES {
            return Err("it lists too many files".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn release(more: &str) -> String {
        format!(
            "Origin: Site\nSuite: stable\nCodename: bookworm\nDate: Tue, 29 Feb 2000 00:00:00 UTC\n{more}SHA256:\n \
             {ZEROS} 12 main/binary-amd64/Packages.xz\n {ZEROS} 0 ./main/binary-all/Packages\n"
        )
    }

    #[test]
    fn what_is_needed_is_read() {
        let text = release("Valid-Until: Wed, 1 Mar 2000 00:00:00 +0000\nAcquire-By-Hash: yes\nMD5Sum:\n x 1 y\n");
        let release = Release::parse(text.as_bytes()).expect("parses");
        assert_eq!((release.date, release.until, release.by_hash), (951_782_400, Some(951_868_800), true));
        assert!(release.kept.contains(&("Codename", "bookworm".to_owned())));
        let paths: Vec<&String> = release.files.keys().collect();
        assert_eq!(paths, ["main/binary-all/Packages", "main/binary-amd64/Packages.xz"]);
        assert!(release.timely(951_782_500, Some(951_782_400)).is_ok());
        assert!(release.timely(951_868_801, None).expect_err("too late").contains("expired"));
        assert!(release.timely(951_782_500, Some(951_782_401)).expect_err("older").contains("back in time"));
        assert!(release.timely(900_000_000, None).expect_err("early").contains("future"));
    }

    #[test]
    fn what_could_do_harm_is_refused() {
        for more in ["Valid-Until: soon\n", "SHA512:\n ab 1 x\n", "SHA256:\n zz 1 x\n"] {
            assert!(Release::parse(release(more).as_bytes()).is_err(), "{more}");
        }
        for path in ["../x", "/x", "a/../../x", "a\\b", "a//b"] {
            let text = format!("Date: Tue, 29 Feb 2000 00:00:00 UTC\nSHA256:\n {ZEROS} 1 {path}\n");
            assert!(Release::parse(text.as_bytes()).expect_err(path).contains("leaves"), "{path}");
        }
        assert!(
            Release::parse(b"Date: Tue, 29 Feb 2000 00:00:00 UTC\nMD5Sum:\n 0 1 x\n").is_err(),
            "weak digests only"
        );
        assert!(Release::parse(b"").is_err());
    }
}
