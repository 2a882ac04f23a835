//! dnf: what it is told of a snapshot, once it is proven that the snapshot's manifest vouches for it.
//!
//! `repomd.xml` has to be what the manifest says, and to carry the signature of the site's key, or be published with its
//! upstream's. dnf checks it again, with keys from files that are called by their content: they are there before the file
//! that names them, and those that are not named any more go after it. What a repository's signed index names is
//! checked by its digest, so packages need no signature of their own. A snapshot does not change: nothing expires.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toolkit::dirs::under_root;

use super::{Proof, UPDATE};
use crate::child;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{Manifest, Rpm, Source};
use crate::sign::Keyring;

/// The file that is written.
pub(super) const FILE: &str = "/etc/yum.repos.d/stacktira.repo";
/// Where the keys are.
const KEYS: &str = "/etc/pki/rpm-gpg";
/// How their names begin.
const KEY: &str = "RPM-GPG-KEY-stacktira-";

/// Proves every source for dnf and returns their sections, and the keys that these name.
///
/// # Errors
/// [`Error::Forged`]; [`Error::Unavailable`].
pub(super) fn text(proof: &Proof<'_>, manifest: &Manifest) -> Result<(String, Vec<(PathBuf, String)>)> {
    let (mut text, mut keys) = (String::new(), Vec::new());
    for rpm in manifest.sources.iter().filter_map(Source::rpm) {
        let repository = format!("{}/rpm/{}", proof.base, rpm.name);
        let key = match &rpm.keyring {
            None => {
                proof.repomd_of_site(rpm, &repository)?;
                proof.keyring.armored()?
            }
            Some(keyring) => {
                proof.repomd_of_upstream(rpm, &repository)?;
                let keys = Keyring::from_bytes(keyring.as_bytes());
                let keys = keys.map_err(|why| Error::forged(format!("the keys of source {}", rpm.name), why))?;
                keys.armored()?
            }
        };
        let path = format!("{KEYS}/{KEY}{}", &Digest::of(key.as_bytes()).as_str()[..16]);
        let _ = write!(
            text,
            "\n[stacktira-{0}]\nname={0}\nbaseurl={repository}\nenabled=1\nrepo_gpgcheck=1\ngpgcheck=0\ngpgkey=file://{path}\n\
             metadata_expire=never\nskip_if_unavailable=0\n",
            rpm.name,
        );
        let path = under_root(Path::new(&path));
        if !keys.iter().any(|(other, _)| *other == path) {
            keys.push((path, key));
        }
    }
    Ok((text, keys))
}

impl Proof<'_> {
    fn repomd_of_site(&self, rpm: &Rpm, repository: &str) -> Result<()> {
        let index = self.listed(rpm, repository, "repodata/repomd.xml")?;
        let url = format!("{repository}/repodata/repomd.xml.asc");
        let signature = self.fetcher.get(&url, 64 << 10)?;
        self.keyring.verify_detached(&index, &signature).map(|_| ()).map_err(|why| Error::forged(&url, why))
    }

    fn repomd_of_upstream(&self, rpm: &Rpm, repository: &str) -> Result<()> {
        self.listed(rpm, repository, "repodata/repomd.xml")?;
        self.listed(rpm, repository, "repodata/repomd.xml.asc").map(|_| ())
    }

    fn listed(&self, rpm: &Rpm, repository: &str, path: &str) -> Result<Vec<u8>> {
        let file = rpm.files.iter().find(|file| file.path == path);
        let file =
            file.ok_or_else(|| Error::forged(format!("{repository}/{path}"), "the manifest does not have it"))?;
        self.published(repository, file)
    }
}

/// Lets dnf fetch the metadata of a candidate alone, into the cache that it is used from afterwards.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Write`].
pub(super) fn update(state: &Path, text: &str) -> Result<()> {
    let directory = state.join("dnf");
    let root = std::env::var_os("STACKTIRA_ROOT").filter(|root| !root.is_empty()).map(PathBuf::from);
    // dnf reads keys where this system has them, whatever it installs into.
    let text = match &root {
        Some(root) => text.replace("gpgkey=file:///", &format!("gpgkey=file://{}/", root.display())),
        None => text.to_owned(),
    };
    super::write(&directory.join("stacktira.repo"), &text)?;
    let mut command = child::command("dnf", &["HOME", "http_proxy", "https_proxy", "no_proxy"]);
    if let Some(root) = &root {
        command.arg(format!("--installroot={}", root.display()));
    }
    command.arg(format!("--setopt=reposdir={}", directory.display())).args(["-q", "-y", "makecache", "--refresh"]);
    let away = |message: String| Error::unavailable("dnf makecache", message);
    let answer = child::run(&mut command, UPDATE).map_err(away)?;
    answer.complaint("Error:").map_or(Ok(()), |words| Err(away(words)))
}

/// Removes keys of ours that nothing names any more.
///
/// # Errors
/// [`Error::Read`]; [`Error::Write`].
pub(super) fn remove_other_keys(keys: &[(PathBuf, String)]) -> Result<()> {
    let directory = under_root(Path::new(KEYS));
    for name in files::names_in(&directory)? {
        let path = directory.join(&name);
        if name.starts_with(KEY) && !keys.iter().any(|(other, _)| *other == path) {
            files::remove(&path)?;
        }
    }
    Ok(())
}
