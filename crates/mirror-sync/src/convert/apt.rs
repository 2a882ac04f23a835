//! apt's files: `sources.list` with an entry a line, and `*.sources` with stanzas.

use std::path::PathBuf;

use super::{Entry, Found, Settings, keyring_of, name_of};
use crate::deb822::{Stanza, Stanzas};

/// What an entry says besides its addresses.
#[derive(Debug, Default)]
struct Options<'a> {
    architectures: Vec<&'a str>,
    signed_by: Option<&'a str>,
    trusted: bool,
}

/// Why an entry that adds to apt's list of architectures, or takes from it, is left out.
const RELATIVE: &str = "it changes a list of architectures that is not here; name them";

type Result<T> = std::result::Result<T, String>;

/// Reads a `sources.list`.
pub(super) fn read_lines(text: &str, settings: &Settings<'_>) -> Found {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() || is_source_code(line) {
            continue;
        }
        found.push((number + 1, line_entry(line, settings)));
    }
    found
}

/// Sources of programs are not mirrored, which nobody has to be told for each.
fn is_source_code(line: &str) -> bool {
    line.split([' ', '\t', '[']).next() == Some("deb-src")
}

fn line_entry(line: &str, settings: &Settings<'_>) -> Result<Entry> {
    let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']));
    let rest = rest.ok_or_else(|| "it begins neither with deb nor with deb-src".to_owned())?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(|| "its [ has no ]".to_owned())?,
        None => ("", rest),
    };
    let mut told = Options::default();
    for option in options.split_whitespace() {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("the option {option} has no value"))?;
        told.take(name, value)?;
    }
    let mut words = rest.split_whitespace();
    let url = words.next().ok_or_else(|| "it has no address".to_owned())?;
    let suite = words.next().ok_or_else(|| "it has no suite".to_owned())?;
    told.entry(url, &[suite], &words.collect::<Vec<_>>(), settings)
}

/// Reads a `*.sources`.
pub(super) fn read_stanzas(text: &str, settings: &Settings<'_>) -> Found {
    let mut found = Vec::new();
    // A comment between stanzas is one of its own here, without fields.
    let mut stanzas = Stanzas::few(text.as_bytes());
    loop {
        match stanzas.next() {
            Ok(Some(stanza)) => {
                let offset = usize::try_from(stanza.offset).unwrap_or(text.len());
                let line = text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
                if stanza.fields().next().is_some() {
                    found.extend(stanza_entries(&stanza, settings).into_iter().map(|entry| (line, entry)));
                }
            }
            Ok(None) => return found,
            Err(error) => {
                found.push((1, Err(error.to_string())));
                return found;
            }
        }
    }
}

fn stanza_entries(stanza: &Stanza<'_>, settings: &Settings<'_>) -> Vec<Result<Entry>> {
    let words = |name: &str| -> Vec<&str> {
        let lines = stanza.field(name).unwrap_or_default().lines();
        lines.filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect()
    };
    if words("Enabled").first().is_some_and(|word| is_no(word)) {
        return vec![Err("it is switched off (Enabled)".to_owned())];
    }
    if !words("Types").contains(&"deb") {
        return if words("Types").contains(&"deb-src") {
            Vec::new()
        } else {
            vec![Err("its Types name no deb".into())]
        };
    }
    if !words("Architectures-Add").is_empty() || !words("Architectures-Remove").is_empty() {
        return vec![Err(RELATIVE.to_owned())];
    }
    let told = Options {
        architectures: words("Architectures"),
        signed_by: stanza.field("Signed-By"),
        trusted: words("Trusted").first().is_some_and(|word| !is_no(word)),
    };
    let (suites, components) = (words("Suites"), words("Components"));
    let addresses = words("URIs");
    if addresses.is_empty() {
        return vec![Err("it has no URIs".to_owned())];
    }
    addresses.into_iter().map(|url| told.entry(url, &suites, &components, settings)).collect()
}

fn is_no(word: &str) -> bool {
    ["no", "false", "without", "off", "disable"].contains(&word.to_ascii_lowercase().as_str())
}

impl<'a> Options<'a> {
    /// Takes an option; those that change nothing about what is there are not looked at.
    fn take(&mut self, name: &str, value: &'a str) -> Result<()> {
        match name.to_ascii_lowercase().as_str() {
            "arch" => self.architectures = value.split(',').filter(|word| !word.is_empty()).collect(),
            "arch+" | "arch-" => return Err(RELATIVE.to_owned()),
            "signed-by" => self.signed_by = Some(value),
            "trusted" => self.trusted = !is_no(value),
            _ => {}
        }
        Ok(())
    }

    fn entry(&self, url: &str, suites: &[&str], components: &[&str], settings: &Settings<'_>) -> Result<Entry> {
        if suites.is_empty() || suites.iter().any(|suite| suite.ends_with('/')) {
            return Err("it is a flat repository, without suites and components".to_owned());
        }
        if self.trusted {
            return Err("it is trusted without a signature".to_owned());
        }
        let (keyring, fingerprints) = self.keys(settings)?;
        let owned = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
        let architectures: Vec<&str> = match self.architectures.as_slice() {
            [] => vec![settings.architecture],
            named => named.iter().copied().filter(|arch| !["all", "source"].contains(arch)).collect(),
        };
        Ok(Entry {
            name: name_of(url),
            format: "deb",
            url: url.trim_end_matches('/').to_owned(),
            mirrors: Vec::new(),
            suites: owned(suites),
            components: owned(components),
            architectures: owned(&architectures),
            keyring,
            fingerprints,
        })
    }

    /// Returns the file with its keys, and which of them count.
    fn keys(&self, settings: &Settings<'_>) -> Result<(PathBuf, Vec<String>)> {
        let Some(text) = self.signed_by else { return Ok((keyring_of(settings)?, Vec::new())) };
        if text.contains("-----BEGIN") {
            return Err("its key stands in the entry; next: write it to a file and name that file in Signed-By".into());
        }
        let words: Vec<&str> = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()).collect();
        let (files, keys): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with('/'));
        let keyring = match files.as_slice() {
            [] => keyring_of(settings)?,
            [one] => PathBuf::from(one),
            _ => return Err("it names several files with keys; next: one file with all of them".to_owned()),
        };
        // apt marks a key whose subkeys do not count.
        Ok((keyring, keys.iter().map(|key| key.trim_end_matches('!').to_owned()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SETTINGS: Settings<'_> = Settings { architecture: "amd64", keyring: None, releasever: None };

    fn shown(found: Found) -> Vec<String> {
        let show = |(line, entry): (usize, Result<Entry>)| match entry {
            Ok(entry) => format!(
                "{line} {} {} {} {} {} {}",
                entry.url,
                entry.suites.join(","),
                entry.components.join(","),
                entry.architectures.join(","),
                entry.keyring.display(),
                entry.fingerprints.join(",")
            ),
            Err(why) => format!("{line} {why}"),
        };
        found.into_iter().map(show).collect()
    }

    #[test]
    fn lines() {
        let text = "# a list\n\
            deb [arch=amd64,arm64 signed-by=/k.gpg] http://h/debian/ bookworm main contrib # words\n\
            deb-src http://h/debian bookworm main\n\
            deb[signed-by=/k.gpg]\thttp://h/x stable main\n\
            deb http://h/debian bookworm main\n\
            deb [trusted=yes] http://h/debian bookworm main\n\
            deb [signed-by=/k.gpg] http://h/flat ./\n\
            deb [signed-by=/k.gpg http://h/x stable main\n\
            debs http://h/x stable main\n\
            deb [arch+=i386 signed-by=/k.gpg] http://h/x stable main\n\
            deb [signed-by=/k.gpg] http://h/x\n";
        let found = shown(read_lines(text, &SETTINGS));
        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                "2 http://h/debian bookworm main,contrib amd64,arm64 /k.gpg ",
                "4 http://h/x stable main amd64 /k.gpg ",
                "5 it names no keys; next: --keyring FILE with the keys that may sign it",
                "6 it is trusted without a signature",
                "7 it is a flat repository, without suites and components",
                "8 its [ has no ]",
                "9 it begins neither with deb nor with deb-src",
                "10 it changes a list of architectures that is not here; name them",
                "11 it has no suite",
            ]
        );
        let settings = Settings { keyring: Some(Path::new("/site.gpg")), ..SETTINGS };
        let found = shown(read_lines("deb http://h/debian bookworm main", &settings));
        assert_eq!(found, ["1 http://h/debian bookworm main amd64 /site.gpg "]);
    }

    #[test]
    fn stanzas() {
        let print = "ABCDEF0123456789ABCDEF0123456789ABCDEF01";
        let text = format!(
            "# Debian's own\n\nTypes: deb deb-src\nURIs: http://h/debian\n http://i/debian\n# between\nSuites: bookworm\n bookworm-updates\n\
             Components: main\nSigned-By: /k.gpg {print}!\n\nTypes: deb\nEnabled: no\nURIs: http://h/x\n\nTypes: deb\nURIs: http://h/y\n\
             Suites: s\nComponents: c\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n\nTypes: deb-src\nURIs: http://h/z\n\n\
             Types: deb\nURIs: http://h/z\nSuites: s\nComponents: c\nSigned-By: /a /b\n"
        );
        let found = shown(read_stanzas(&text, &SETTINGS));
        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                &format!("3 http://h/debian bookworm,bookworm-updates main amd64 /k.gpg {print}"),
                &format!("3 http://i/debian bookworm,bookworm-updates main amd64 /k.gpg {print}"),
                "12 it is switched off (Enabled)",
                "16 its key stands in the entry; next: write it to a file and name that file in Signed-By",
                "27 it names several files with keys; next: one file with all of them",
            ]
        );
    }
}
