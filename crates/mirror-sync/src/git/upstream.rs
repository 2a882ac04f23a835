//! Where repositories come from and where they are kept.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use cloner::source::{HttpUrl, Mirror, Source};
use toolkit::redact::Secret;

/// Where a repository is fetched from and where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    /// `HOST…/PATH.git`.
    pub(crate) path: String,
    /// Refs that the manifest names; none is HEAD.
    pub(crate) wanted: BTreeSet<Option<String>>,
    pub(super) url: String,
    pub(super) protocol: &'static str,
    pub(super) authorization: Option<(String, Secret)>,
}

impl Upstream {
    /// Finds out where a manifest's `source` is kept and fetched from; `mirror` replaces the canonical host.
    /// Relative paths are below `base`. A local directory is kept under the host `localhost`.
    ///
    /// # Errors
    /// Why the source cannot be mirrored.
    pub(crate) fn new(source: &str, mirror: Option<&str>, base: &Path) -> std::result::Result<Self, String> {
        let parsed = Source::parse(source, base)?;
        let path = match (parsed.mirror_path()?, &parsed) {
            (Some(path), _) => path,
            (None, Source::Local(directory)) => {
                let text = directory.to_str().ok_or("the path is not UTF-8")?.trim_matches('/');
                // A hidden directory is no name in a mirror, but it may well hold repositories.
                let parts = text.split('/').filter(|part| !matches!(*part, "" | "."));
                let parts = parts.map(|part| match part.strip_prefix('.') {
                    Some(rest) if part != ".." => format!("dot.{rest}"),
                    _ => part.to_owned(),
                });
                let text = parts.collect::<Vec<_>>().join("/");
                format!("localhost/{}.git", text.strip_suffix(".git").unwrap_or(&text))
            }
            (None, _) => return Err("the source has no place in a mirror".into()),
        };
        check_path(&path)?;
        let wanted = BTreeSet::new();
        let from = match mirror {
            None => parsed,
            Some(mirror) => match Mirror::parse(mirror).map_err(|why| format!("mirror: {why}"))? {
                Mirror::Local(directory) => Source::Local(directory.join(&path)),
                Mirror::Http(url) => {
                    Source::Http(HttpUrl { path: format!("{}/{path}", url.path.trim_end_matches('/')), ..url })
                }
            },
        };
        Ok(match from {
            Source::Local(directory) => {
                let url = directory.to_str().ok_or("the path is not UTF-8")?.to_owned();
                Self { path, wanted, url, protocol: "file", authorization: None }
            }
            Source::Http(url) => {
                let protocol = if url.tls { "https" } else { "http" };
                let authorization = url.login.as_ref().map(|(user, password)| {
                    let login = format!("{user}:{}", password.expose());
                    let login = base64::engine::general_purpose::STANDARD.encode(login);
                    (format!("{protocol}://{}/", url.authority), Secret::new(format!("Authorization: Basic {login}")))
                });
                Self { path, wanted, url: url.base(), protocol, authorization }
            }
            Source::Other(_) if has_password(source) => {
                return Err("a password in an ssh or git address cannot be used".into());
            }
            Source::Other(other) => {
                Self { path, wanted, url: source.to_owned(), protocol: other.scheme, authorization: None }
            }
        })
    }
}

fn has_password(source: &str) -> bool {
    let authority = source.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    authority.and_then(|authority| authority.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'))
}

/// Checks `HOST…/PATH.git`: plain components, only the last one ends with `.git`.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_path(path: &str) -> std::result::Result<(), String> {
    let parts: Vec<&str> = path.split('/').collect();
    let (last, parents) = parts.split_last().expect("split gives at least one part");
    let plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.chars().all(|c| !c.is_control() && !c.is_whitespace() && !"%?#\\*:[]\"'<>|".contains(c))
    };
    if parents.is_empty() || path.len() > 500 || !parts.iter().all(plain) {
        return Err(format!("bad repository path {path:?}"));
    }
    if parents.iter().any(|part| part.ends_with(".git")) || !last.ends_with(".git") || last.len() == 4 {
        return Err(format!("bad repository path {path:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(source: &str) -> String {
        Upstream::new(source, None, Path::new("/base")).expect(source).path
    }

    #[test]
    fn every_way_to_name_a_repository_has_one_place() {
        for source in [
            "https://Git.Example/team/mod.git",
            "https://git.example/team/mod",
            "https://git.example/team/mod/",
            "https://user:pass@git.example/team/mod.git",
            "ssh://git@git.example/team/mod.git",
            "git@git.example:team/mod.git",
            "git://git.example/team/mod",
        ] {
            assert_eq!(path(source), "git.example/team/mod.git");
        }
        assert_eq!(path("http://git.example:8080/a/b/c.git"), "git.example_8080/a/b/c.git");
        assert_eq!(path("/srv/git/x.git"), "localhost/srv/git/x.git");
        assert_eq!(path("file:///srv/git/x"), "localhost/srv/git/x.git");
        assert_eq!(path("modules/x"), "localhost/base/modules/x.git");
    }

    #[test]
    fn sources_that_lead_elsewhere_are_refused() {
        for source in [
            "",
            "-u",
            "--upload-pack=x",
            "ext::sh -c id",
            "ext::sh",
            "https://host",
            "https://host/../x",
            "https://host/.git",
            "https://host/a.git/b.git",
            "https://ho st/a",
            "https://host/a%20b",
            "https://host/%2e%2e/x",
            "https://host/a\nb",
            "https://../x",
            "file://host/x",
            "../../x",
        ] {
            assert!(Upstream::new(source, None, Path::new("/base")).is_err(), "{source:?}");
        }
    }

    #[test]
    fn a_password_is_in_no_argument_and_no_debug_output() {
        let upstream = Upstream::new("https://user:geheim@git.example/x.git", None, Path::new("/")).expect("accepted");
        assert_eq!(upstream.url, "https://git.example/x.git");
        assert!(!format!("{upstream:?}").contains("geheim"));
        let mirrored = Upstream::new("https://user:geheim@git.example/x.git", Some("/srv/git/"), Path::new("/"))
            .expect("accepted");
        assert_eq!(mirrored.url, "/srv/git/git.example/x.git");
        assert!(mirrored.authorization.is_none());
    }
}
