//! apt: what it is told of a snapshot, once it is proven that the snapshot's manifest vouches for it.
//!
//! Of a source whose index the site makes, each suite's `InRelease` has to carry the site's signature, and apt is given
//! the site's keys. A source that is published as its upstream signed it is proven by the digest that the manifest
//! has of that signed file; apt is given the upstream's keys, inline, so that they are replaced in the same step as the
//! rest. What the upstream says of how long its index is valid is no question there: a snapshot does not get any
//! newer, and whether the channel is too old is what `max_age` watches.

use std::fmt::Write as _;
use std::path::Path;

use super::{MAX_SIGNED, Proof, UPDATE};
use crate::child;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Deb, Manifest, Source};
use crate::repository;
use crate::sign::Keyring;

/// The file that is written.
pub(super) const FILE: &str = "/etc/apt/sources.list.d/stacktira.sources";

/// Proves every source for apt and returns their stanzas.
///
/// # Errors
/// [`Error::Forged`]; [`Error::Unavailable`].
pub(super) fn text(proof: &Proof<'_>, manifest: &Manifest) -> Result<String> {
    let mut text = String::new();
    for deb in manifest.sources.iter().filter_map(Source::deb) {
        let repository = format!("{}/deb/{}", proof.base, deb.name);
        let _ = write!(
            text,
            "\nTypes: deb\nURIs: {repository}\nSuites: {}\nComponents: {}\nArchitectures: {}\n",
            deb.suites.join(" "),
            deb.components.join(" "),
            deb.architectures.join(" "),
        );
        match &deb.keyring {
            None => {
                proof.signed_by_site(deb, &repository)?;
                let _ = writeln!(text, "Signed-By: {}", proof.node.keyring.display());
            }
            Some(keyring) => {
                proof.signed_by_upstream(deb, &repository)?;
                let keys = Keyring::from_bytes(keyring.as_bytes())
                    .map_err(|why| Error::forged(format!("the keys of source {}", deb.name), why))?;
                let _ = write!(text, "Check-Valid-Until: no\nSigned-By:\n{}", folded(&keys.armored()?));
            }
        }
    }
    Ok(text)
}

impl Proof<'_> {
    fn signed_by_site(&self, deb: &Deb, repository: &str) -> Result<()> {
        for suite in &deb.suites {
            let url = format!("{repository}/dists/{suite}/InRelease");
            let message = self.fetcher.get(&url, MAX_SIGNED)?;
            let release = self.keyring.verify_cleartext(&message).map_err(|why| Error::forged(&url, why))?;
            // The signed index files are those that the signed manifest names.
            let known = |path: &str, digest: &Digest| {
                let path = format!("dists/{suite}/{path}");
                deb.files.iter().any(|file| file.path == path && file.sha256 == *digest)
            };
            if !repository::listed(&release).iter().all(|(path, digest)| known(path, digest)) {
                return Err(Error::forged(&url, "lists index files that the manifest does not"));
            }
        }
        Ok(())
    }

    fn signed_by_upstream(&self, deb: &Deb, repository: &str) -> Result<()> {
        for suite in &deb.suites {
            let listed = |name: &str| {
                let path = format!("dists/{suite}/{name}");
                deb.files.iter().find(|file| file.path == path)
            };
            let signed = match (listed("InRelease"), listed("Release"), listed("Release.gpg")) {
                (Some(inline), ..) => vec![inline],
                (None, Some(release), Some(signature)) => vec![release, signature],
                _ => {
                    let url = format!("{repository}/dists/{suite}/InRelease");
                    return Err(Error::forged(url, "the manifest does not have it"));
                }
            };
            for file in signed {
                self.published(repository, file)?;
            }
        }
        Ok(())
    }
}

/// Lets apt fetch the lists of a candidate alone; the lists of other sources stay.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Write`].
pub(super) fn update(state: &Path, text: &str) -> Result<()> {
    let candidate = state.join("stacktira.sources");
    super::write(&candidate, text)?;
    let mut command = child::command("apt-get", &["APT_CONFIG", "http_proxy", "https_proxy", "no_proxy"]);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-q", "update", "--error-on=any", "-o", "APT::Get::List-Cleanup=false"]);
    if let (Some(root), None) = (std::env::var_os("STACKTIRA_ROOT"), std::env::var_os("APT_CONFIG"))
        && !root.is_empty()
    {
        command.arg("-o").arg(format!("Dir={}", root.to_string_lossy()));
    }
    command.arg("-o").arg(format!("Dir::Etc::SourceList={}", candidate.display()));
    command.args(["-o", "Dir::Etc::SourceParts=/dev/null"]);
    let away = |message: String| Error::unavailable("apt-get update", message);
    let answer = child::run(&mut command, UPDATE).map_err(away)?;
    answer.complaint("E:").map_or(Ok(()), |words| Err(away(words)))
}

/// Text as the value of a field: a space before each line, a dot for an empty one.
fn folded(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_value_begins_a_field() {
        assert_eq!(folded("BEGIN\n\nabc\n=x\n"), " BEGIN\n .\n abc\n =x\n");
        assert!(folded("a\nTypes: deb").lines().all(|line| line.starts_with(' ')));
    }
}
