//! Single files by digest.

use super::packages::save;
use crate::config::{FilesSource, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::{Batch, Sums, Wanted};
use crate::manifest::{self, Published};
use crate::parallel;
use crate::state::State;
use crate::upstream::Context;

/// Fetches what is not in the store yet. What is there is not asked for again: its digest says that it is right.
///
/// # Errors
/// [`Error::Rejected`]; [`Error::Unavailable`]; [`Error::Write`].
pub(super) fn sync(context: &Context<'_>, source: &Source, files: &FilesSource) -> Result<String> {
    let mut wanted = Vec::with_capacity(files.files.len());
    for file in &files.files {
        let wrong = |why: &str| Error::config(context.config.path(), format!("{}: {}: {why}", files.name, file.path));
        let (base, path) = file.place().map_err(wrong)?;
        let sums = Sums { sha256: Some(file.sha256.clone()), sha512: None };
        wanted.push((base, Wanted { path, size: None, sums }));
    }
    if let Some(dry) = &context.dry {
        let (count, _) = context.would_fetch(dry, source.name(), wanted.iter().map(|(_, file)| file));
        return Ok(format!("{} files, {count} to fetch", wanted.len()));
    }
    let batch = Batch::new(context.store, context.fetcher);
    let fetched =
        parallel::map(context.config.jobs, &wanted, |(base, file)| batch.fetch(std::slice::from_ref(base), file));
    let digests = fetched.into_iter().collect::<Result<Vec<Digest>>>()?;
    let new = batch.count();
    if new == 0 && State::load(context.store, source)?.is_some() {
        return Ok("nothing new".into());
    }
    let mut published = Vec::with_capacity(digests.len());
    for (file, sha256) in files.files.iter().zip(digests) {
        let path = context.store.blob(&sha256);
        let size = std::fs::metadata(&path).map_err(Error::read(&path))?.len();
        published.push(Published { path: file.path.clone(), size, sha256 });
    }
    published.sort_by(|a, b| a.path.cmp(&b.path));
    let summary = format!("{} files, {new} new", published.len());
    let part = manifest::Source::Files(manifest::Files { name: files.name.clone(), files: published });
    save(context, source, &part, Digest::of(b""), Vec::new(), Vec::new())?;
    Ok(summary)
}
