//! Credentials from `.netrc`: `machine HOST login USER password WORD`.
//!
//! Each is for its own host. The `default` entry is not used: it would send a password to whatever
//! host a manifest or a redirect names. A file that others may read is not used either.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use toolkit::files;
use toolkit::redact::Secret;

const MAX_BYTES: u64 = 64 << 10;

/// User and password by host.
#[derive(Debug, Default)]
pub(crate) struct Netrc(HashMap<String, (String, Secret)>);

impl Netrc {
    /// Reads the file that `NETRC` names, else `~/.netrc`. Returns why it is not used, if it is there.
    pub(crate) fn from_env() -> Result<Self, String> {
        let path = match (std::env::var_os("NETRC"), std::env::var_os("HOME")) {
            (Some(path), _) if !path.is_empty() => PathBuf::from(path),
            (_, Some(home)) if !home.is_empty() => Path::new(&home).join(".netrc"),
            _ => return Ok(Self::default()),
        };
        Self::read(&path).map_err(|why| format!("{} is not used: {why}", path.display()))
    }

    fn read(path: &Path) -> Result<Self, String> {
        Ok(read_private(path)?.map(|text| Self::parse(&text)).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut found = HashMap::new();
        let mut machine: Option<String> = None;
        let (mut login, mut password) = (None, None);
        let mut words = text.split_ascii_whitespace();
        let mut keep = |machine: &mut Option<String>, login: &mut Option<String>, password: &mut Option<String>| {
            if let (Some(host), Some(user), Some(word)) = (machine.take(), login.take(), password.take()) {
                // The first entry of a host counts, as for other readers of the file.
                found.entry(host).or_insert((user, Secret::new(word)));
            }
        };
        while let Some(word) = words.next() {
            match word {
                "machine" => {
                    keep(&mut machine, &mut login, &mut password);
                    machine = words.next().map(str::to_ascii_lowercase);
                }
                "default" | "macdef" => {
                    keep(&mut machine, &mut login, &mut password);
                    if word == "macdef" {
                        break;
                    }
                }
                "login" => login = words.next().map(str::to_owned),
                "password" => password = words.next().map(str::to_owned),
                "account" => drop(words.next()),
                _ => {}
            }
        }
        keep(&mut machine, &mut login, &mut password);
        Self(found)
    }

    /// Returns user and password for `authority`, whose port does not matter; of this user if one is named.
    pub(crate) fn find(&self, authority: &str, user: Option<&str>) -> Option<&(String, Secret)> {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => authority,
        };
        self.0.get(&host.to_ascii_lowercase()).filter(|(login, _)| user.is_none_or(|user| user == login))
    }
}

/// Reads a small file that holds a secret; none if it is not there. One that others may read is refused.
pub(crate) fn read_private(path: &Path) -> Result<Option<String>, String> {
    let file = match files::open_named(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        open => open.map_err(|err| err.to_string())?,
    };
    let meta = file.metadata().map_err(|err| err.to_string())?;
    if meta.mode() & 0o077 != 0 {
        return Err("others may read it (chmod 600)".to_owned());
    }
    files::read_to_limit(file, MAX_BYTES).and_then(files::text).map(Some).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn entries_are_for_their_own_host() {
        let netrc = Netrc::parse(
            "machine a.example login me password one\nmachine B.example\n login you\n password two\n\
             machine half login x\ndefault login any password three\nmacdef init\n machine c login x password y\n",
        );
        let find = |host: &str| netrc.find(host, None).map(|(user, word)| (user.as_str(), word.expose()));
        assert_eq!(find("A.example:8080"), Some(("me", "one")));
        assert_eq!(find("b.example"), Some(("you", "two")));
        assert!(netrc.find("b.example", Some("you")).is_some() && netrc.find("b.example", Some("me")).is_none());
        for other in ["half", "c", "other", "example", ""] {
            assert_eq!(find(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join(".netrc");
        assert!(Netrc::read(&path).is_ok());
        std::fs::write(&path, "machine h login a password b").expect("written");
        for (mode, used) in [(0o644, false), (0o640, false), (0o600, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(Netrc::read(&path).is_ok(), used, "{mode:o}");
        }
        // Half a file is half a password.
        std::fs::File::options().append(true).open(&path).and_then(|file| file.set_len(MAX_BYTES)).expect("longer");
        assert!(Netrc::read(&path).is_ok());
        std::fs::File::options().append(true).open(&path).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("longer");
        assert_eq!(Netrc::read(&path).expect_err("refused"), "larger than 64 KiB");
    }
}
