//! State directories that belong to their user, and paths below a scratch root.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A state directory that cannot be trusted or made.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It cannot be created or looked at.
    #[error("cannot use the directory {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is there and somebody else could change what is in it.
    #[error("the directory {} is not safe: {reason}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Creates `path` with its parents if it is missing, then checks that it is a directory (no link) of
/// ours that nobody else can write to.
///
/// # Errors
/// It cannot be made, or it is not safe.
pub fn private(path: &Path, mode: u32) -> Result<(), DirError> {
    let failed = |source| DirError::Io { path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
            }
            match std::fs::DirBuilder::new().mode(mode).create(path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            std::fs::symlink_metadata(path)
        }
        other => other,
    };
    let metadata = metadata.map_err(failed)?;
    let user = nix::unistd::geteuid().as_raw();
    let reason = if !metadata.is_dir() {
        "it is not a directory".to_owned()
    } else if metadata.uid() != user {
        format!("it belongs to user {}, not to {user}", metadata.uid())
    } else if metadata.mode() & 0o022 != 0 {
        format!("others may write to it (mode {:04o})", metadata.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(DirError::Unsafe { path: path.to_owned(), reason })
}

/// Returns an absolute path of the system below `STACKTIRA_ROOT`, or as it is when that is not set.
#[must_use]
pub fn under_root(path: &Path) -> PathBuf {
    match std::env::var_os("STACKTIRA_ROOT") {
        Some(root) if !root.is_empty() => Path::new(&root).join(path.strip_prefix("/").unwrap_or(path)),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_with_parents_and_found_again() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let state = dir.path().join("a/b/state");
        private(&state, 0o700).expect("can be made");
        private(&state, 0o700).expect("is ours");
        assert_eq!(std::fs::metadata(&state).expect("there").mode() & 0o7777, 0o700);
    }

    #[test]
    fn what_others_can_write_is_refused() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let open = dir.path().join("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(matches!(private(&open, 0o700), Err(DirError::Unsafe { .. })));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("link");
        assert!(matches!(private(&link, 0o700), Err(DirError::Unsafe { .. })));
    }
}
