//! What stands on the command line from the manifest on: its path, and overrides of its values.

use std::ffi::OsString;
use std::path::PathBuf;

use toolkit::Io;

use crate::cli;
use crate::error::Error;
use crate::manifest::{Manifest, ManifestError, Repo};

/// Reads the manifest that `words` begin with and applies the overrides that follow.
pub(crate) fn read(words: &[OsString], io: &mut Io) -> Result<(PathBuf, Vec<Repo>), Error> {
    let mut words = words.iter();
    let path = PathBuf::from(words.next().expect("an external subcommand has at least its name"));
    let mut overrides = Vec::new();
    while let Some(word) = words.next() {
        let usage = |message: String, hint: Option<&str>| Error::Usage { message, hint: hint.map(str::to_owned) };
        let text = |word: &OsString| {
            word.to_str().map(str::to_owned).ok_or_else(|| usage("an override is not UTF-8".to_owned(), None))
        };
        let word = text(word)?;
        let Some(body) = word.strip_prefix("--").filter(|body| !body.is_empty() && !body.starts_with('=')) else {
            let message = format!("'{word}' after the manifest is no override");
            return Err(usage(
                message,
                Some("options come before the manifest, overrides are --KEY VALUE or --KEY=VALUE"),
            ));
        };
        let (key, value) = match body.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => {
                let value = words.next().map(text).transpose()?.filter(|value| !value.starts_with("--"));
                let hint = if cli::is_option(body) {
                    "options come before the manifest"
                } else {
                    "write --KEY=VALUE for a value that begins with --"
                };
                (body.to_owned(), value.ok_or_else(|| usage(format!("override '{word}' has no value"), Some(hint)))?)
            }
        };
        overrides.push((key, value));
    }
    let mut manifest = Manifest::load(&path)?;
    for (key, value) in overrides {
        manifest.set(&format!("--{key}"), &key, &value).map_err(|error| match error {
            ManifestError::Override { given, message, .. } if cli::is_option(&key) => {
                ManifestError::Override { given, message, hint: Some("options come before the manifest".to_owned()) }
            }
            other => other,
        })?;
    }
    let repos = manifest.repos()?;
    manifest.warnings().into_iter().for_each(|warning| io.warn(warning));
    if repos.is_empty() {
        io.warn(format_args!("{}: no repository in it; a mapping with a `source` is one", path.display()));
    }
    let path = std::path::absolute(&path).unwrap_or(path);
    Ok((path, repos))
}
