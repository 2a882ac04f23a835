//! The answer that is kept for the rest of this boot.
//!
//! The file holds the metadata as it was, so that scripts may read it too; mode 0640, because owners put secrets
//! into metadata. A kept answer counts only if nobody but root or we could have written it. Whatever is wrong with
//! it, the sources are asked again: the cache can be lost at any time.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use toolkit::{Io, atomic, files};

use crate::source::LIMIT;

const CLOCK_LAG: Duration = Duration::from_millis(20);

/// Returns what was kept, unless one of the files in `sources` has changed since.
pub fn load(path: &Path, sources: &[&Path], io: &mut Io) -> Option<Value> {
    let file = files::open_regular(path).ok()?;
    let status = file.metadata().ok()?;
    let owner = status.uid();
    if status.mode() & 0o022 != 0 || (owner != 0 && owner != nix::unistd::geteuid().as_raw()) {
        io.warn(format_args!("{} is ignored: others may write to it", path.display()));
        return None;
    }
    let kept_at = status.modified().ok()?;
    if sources.iter().any(|source| modified(source).is_some_and(|changed| changed >= kept_at)) {
        return None;
    }
    let bytes = files::read_to_limit(file, LIMIT).ok()?;
    crate::object(&bytes, &path.display().to_string()).ok()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// Keeps an answer to a question that was asked at `asked_at`. That it cannot be kept costs the next caller
/// time and nobody the answer, so it is only said.
pub fn store(path: &Path, metadata: &Value, asked_at: SystemTime, io: &mut Io) {
    if let Err(error) = try_store(path, metadata, asked_at) {
        io.note(format_args!("the metadata is not kept in {}: {error}", path.display()));
    }
}

fn try_store(path: &Path, metadata: &Value, asked_at: SystemTime) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut bytes = metadata.to_string().into_bytes();
    bytes.push(b'\n');
    atomic::write(path, &bytes, 0o640)?;
    // A source that changes while it is read, or right after, must count as newer. The system stamps files with
    // a clock that lags by up to a tick.
    std::fs::File::open(path)?.set_modified(asked_at - CLOCK_LAG)
}
