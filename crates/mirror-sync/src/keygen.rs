//! `keygen`: makes the site's OpenPGP key pair, so that a build node needs no gnupg.
//!
//! A secret key that is there is never replaced: nodes trust its public half. Then only the public file is
//! brought in line with it, which makes the command safe to run again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toolkit::Io;

use crate::error::{Error, Result};
use crate::sign::{self, SigningKey};

/// Makes or completes the pair.
///
/// # Errors
/// [`Error::Write`]; [`Error::Key`] or [`Error::Denied`] for a secret key that is there and cannot be used.
pub(crate) fn run(secret: &Path, public: &Path, user_id: &str, io: &mut Io) -> Result<()> {
    let key = match fs::symlink_metadata(secret) {
        Ok(_) => SigningKey::load(secret)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(secret, user_id)?,
        Err(error) => return Err(Error::write(secret)(error)),
    };
    // apt reads armour only from files called .asc, and the binary form from .gpg.
    let armored = public.extension().is_some_and(|extension| extension == "asc");
    toolkit::atomic::write(public, &key.public(armored)?, 0o644).map_err(Error::write(public))?;
    io.note(format_args!("key {}", key.fingerprint()));
    Ok(())
}

fn create(secret: &Path, user_id: &str) -> Result<SigningKey> {
    let key = sign::generate(user_id)?;
    let mut name = secret.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = toolkit::atomic::write(&temporary, &key.secret_armored()?, 0o600)
        // A link never replaces a key that another keygen made at the same time.
        .and_then(|_| fs::hard_link(&temporary, secret));
    let removed = fs::remove_file(&temporary);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => SigningKey::load(secret),
        Err(error) => Err(Error::write(secret)(error)),
        Ok(()) => removed.map(|()| key).map_err(Error::write(&temporary)),
    }
}
