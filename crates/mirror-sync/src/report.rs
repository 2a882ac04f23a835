//! `list` and `show`: what snapshots there are and what they hold.

use std::collections::BTreeMap;

use serde::Serialize;
use toolkit::Io;

use crate::channel;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{Manifest, Source};
use crate::snapshot::{Info, all};
use crate::store::Store;

/// Channels by the snapshot that they point at.
fn channels(config: &Config, store: &Store) -> Result<BTreeMap<Digest, Vec<String>>> {
    let mut by_id: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for name in &config.channels {
        if let Some(pointer) = channel::read(store, name)? {
            by_id.entry(pointer.snapshot).or_default().push(name.clone());
        }
    }
    Ok(by_id)
}

/// Counts of a source for people.
pub(crate) fn summary(source: &Source) -> String {
    match source {
        Source::Deb(_) | Source::Rpm(_) => {
            let packages = source.packages();
            let size: u64 = packages.iter().map(|package| package.size).sum();
            format!("{}: {} packages, {:.1} MB", source.name(), packages.len(), size as f64 / 1e6)
        }
        Source::Files(part) => {
            let size: u64 = part.files.iter().map(|file| file.size).sum();
            format!("{}: {} files, {:.1} MB", part.name, part.files.len(), size as f64 / 1e6)
        }
        Source::Git(git) => format!("{}: {} repositories", git.name, git.repos.len()),
    }
}

/// `list`.
///
/// # Errors
/// [`Error::Read`]; [`Error::Output`].
pub(crate) fn list(config: &Config, json: bool, io: &mut Io) -> Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        r#type: &'static str,
        v: u32,
        id: &'a Digest,
        created: String,
        channels: &'a [String],
    }
    let store = Store::at(config.root()?);
    let by_id = channels(config, &store)?;
    for (id, info) in all(&store)? {
        let channels = by_id.get(&id).map(Vec::as_slice).unwrap_or_default();
        let created = files::rfc3339(info.created);
        if json {
            io.json(&Line { r#type: "snapshot", v: 1, id: &id, created, channels }).map_err(Error::Output)?;
        } else {
            let line = format!("{id} {created} {}", channels.join(","));
            io.out(format!("{}\n", line.trim_end())).map_err(Error::Output)?;
        }
    }
    Ok(())
}

/// `show`.
///
/// # Errors
/// [`Error::NoSnapshot`]; [`Error::Damaged`]; [`Error::Output`].
pub(crate) fn show(config: &Config, id: &Digest, json: bool, io: &mut Io) -> Result<()> {
    let store = Store::at(config.root()?);
    let manifest = Manifest::load(&store, id)?;
    let info = Info::load(&store, id)?;
    let by_id = channels(config, &store)?;
    let channels = by_id.get(id).cloned().unwrap_or_default();
    let created = files::rfc3339(info.created);
    if !json {
        let mut text = format!("snapshot {id}\ncreated  {created}\n");
        if !info.signer.is_empty() {
            text.push_str(&format!("signer   {}\n", info.signer));
        }
        if !channels.is_empty() {
            text.push_str(&format!("channels {}\n", channels.join(" ")));
        }
        for source in &manifest.sources {
            text.push_str(&format!("source   {}\n", summary(source)));
            match source {
                Source::Deb(_) | Source::Rpm(_) => {
                    for package in source.packages() {
                        text.push_str(&format!("  {} {} {}\n", package.name, package.version, package.arch));
                    }
                }
                Source::Files(part) => {
                    for file in &part.files {
                        text.push_str(&format!("  {} {}\n", file.path, file.sha256));
                    }
                }
                Source::Git(git) => {
                    for repo in &git.repos {
                        let head = repo.head.as_ref().and_then(|head| repo.refs.get(head));
                        text.push_str(&format!("  {} {}\n", repo.path, head.map_or("-", String::as_str)));
                    }
                }
            }
        }
        return io.out(text).map_err(Error::Output);
    }
    let object = |value: serde_json::Value, io: &mut Io| io.json(&value).map_err(Error::Output);
    object(
        serde_json::json!({"type": "snapshot", "v": 1, "id": id, "created": created, "signer": info.signer,
            "channels": channels, "sources": manifest.sources.iter().map(Source::name).collect::<Vec<_>>()}),
        io,
    )?;
    for source in &manifest.sources {
        match source {
            Source::Deb(_) | Source::Rpm(_) => {
                for package in source.packages() {
                    object(
                        serde_json::json!({"type": "package", "v": 1, "source": source.name(), "name": package.name,
                            "version": package.version, "arch": package.arch, "path": package.path,
                            "size": package.size, "sha256": package.sha256}),
                        io,
                    )?;
                }
            }
            Source::Files(part) => {
                for file in &part.files {
                    object(
                        serde_json::json!({"type": "file", "v": 1, "source": part.name, "path": file.path,
                            "size": file.size, "sha256": file.sha256}),
                        io,
                    )?;
                }
            }
            Source::Git(git) => {
                for repo in &git.repos {
                    object(
                        serde_json::json!({"type": "repo", "v": 1, "source": git.name, "path": repo.path,
                            "head": repo.head, "refs": repo.refs}),
                        io,
                    )?;
                }
            }
        }
    }
    Ok(())
}
