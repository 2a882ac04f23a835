//! `convert`: the sources that apt or dnf of a machine use, as sources of a configuration.
//!
//! What cannot be mirrored, or not as safely as it has to be, is left out and named on stderr with file and line: it is
//! never turned into something weaker, such as a source without keys.

mod apt;
mod dnf;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toolkit::Io;

use crate::config::Source;
use crate::error::{Error, Result};
use crate::files::read_bounded;

/// Largest file that is read.
const LARGEST: u64 = 1 << 20;

/// What the files do not say.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// Debian's name of the architecture, where an entry names none.
    pub(crate) architecture: &'a str,
    /// Keys of the entries that name none.
    pub(crate) keyring: Option<&'a Path>,
    /// What `$releasever` is.
    pub(crate) releasever: Option<&'a str>,
}

/// One source, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    format: &'static str,
    url: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suites: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<String>,
    architectures: Vec<String>,
    keyring: PathBuf,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fingerprints: Vec<String>,
}

/// What a file holds: the number of a line, and a source or why it is none.
type Found = Vec<(usize, std::result::Result<Entry, String>)>;

#[derive(Serialize)]
struct Output {
    sources: Vec<Entry>,
}

/// Prints the sources of `files`.
///
/// # Errors
/// [`Error::Config`] for a file that cannot be read, and where no file has a source that can be mirrored.
pub(crate) fn run(files: &[PathBuf], settings: &Settings<'_>, io: &mut Io) -> Result<()> {
    let mut sources: Vec<Entry> = Vec::new();
    for path in files {
        let bytes =
            read_bounded(path, LARGEST).map_err(|error| Error::config(path, format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::config(path, "is no text".to_owned()))?;
        let found = match path.extension().and_then(|extension| extension.to_str()) {
            Some("repo") => dnf::read(&text, settings),
            Some("sources") => apt::read_stanzas(&text, settings),
            _ => apt::read_lines(&text, settings),
        };
        for (line, entry) in found {
            match entry.and_then(|entry| checked(&entry).map(|()| entry)) {
                Ok(entry) => add(&mut sources, entry),
                Err(why) => {
                    let why = toolkit::exit::one_line(&why);
                    io.warn(format!("{}:{line}: left out: {why}", path.display()));
                }
            }
        }
    }
    if sources.is_empty() {
        let shown = files.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
        return Err(Error::config(shown, "no file has a source that can be mirrored".to_owned()));
    }
    name_each(&mut sources);
    let text = serde_yaml::to_string(&Output { sources }).expect("plain data has a YAML form");
    io.out(text).map_err(Error::Output)
}

/// Adds a source; suites of what is otherwise the same come together.
fn add(sources: &mut Vec<Entry>, entry: Entry) {
    let same = |known: &&mut Entry| **known == Entry { suites: known.suites.clone(), ..entry.clone() };
    match sources.iter_mut().find(same) {
        Some(known) => {
            let new: Vec<String> = entry.suites.into_iter().filter(|suite| !known.suites.contains(suite)).collect();
            known.suites.extend(new);
        }
        None => sources.push(entry),
    }
}

/// Gives each source a name that no other has.
fn name_each(sources: &mut [Entry]) {
    let mut taken = BTreeSet::new();
    for entry in sources {
        let wanted = plain_name(&entry.name);
        let numbered = (2..).map(|number| format!("{wanted}-{number}"));
        let name = std::iter::once(wanted.clone()).chain(numbered).find(|name| !taken.contains(name));
        entry.name = name.expect("numbers do not end");
        taken.insert(entry.name.clone());
    }
}

/// Returns what of a text can be a name.
fn plain_name(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._+~-".contains(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(80)
        .collect();
    if plain.is_empty() { "source".to_owned() } else { plain }
}

/// Returns the last part of an address that says something: of its path, else its host.
fn name_of(url: &str) -> String {
    let url = toolkit::redact::url(url);
    let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    rest.split('/').rfind(|part| !part.is_empty()).unwrap_or_default().to_owned()
}

/// Asks the configuration whether it would take the source.
fn checked(entry: &Entry) -> std::result::Result<(), String> {
    let value = serde_yaml::to_value(entry).map_err(|error| error.to_string())?;
    let source: Source = serde_yaml::from_value(value).map_err(|error| error.to_string())?;
    source.check().map_err(|(key, message)| format!("{key} {message}"))
}

/// Returns the keys of an entry that names none.
fn keyring_of(settings: &Settings<'_>) -> std::result::Result<PathBuf, String> {
    let missing = "it names no keys; next: --keyring FILE with the keys that may sign it";
    settings.keyring.map(Path::to_owned).ok_or_else(|| missing.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_it_is() {
        assert_eq!(name_of("http://deb.example/debian/"), "debian");
        assert_eq!(name_of("https://me:word@packages.example"), "packages.example");
        assert_eq!(plain_name("_[x] y/z"), "x--y-z");
        assert_eq!(plain_name("\u{fc}"), "source");
    }
}
