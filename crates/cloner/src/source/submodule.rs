//! The address of a submodule, which its repository's tree names.
//!
//! `./` and `../` are relative to the repository's own address, as git resolves them; everything else is
//! judged like a manifest's source. A tree may not point at this machine unless the repository is on
//! it too, and may not lead from an encrypted protocol to a plain one.

use std::path::Path;

use super::{HttpUrl, OtherUrl, Source, normal_relative};

impl Source {
    /// Returns where the submodule with the address `url` of the repository at this source comes from.
    ///
    /// # Errors
    /// A message that says why it is refused.
    pub(crate) fn submodule(&self, url: &str) -> Result<Self, String> {
        let source = if url.starts_with("./") || url.starts_with("../") {
            self.relative(url)?
        } else {
            match Self::parse(url, Path::new(""))? {
                Self::Local(path) if !path.is_absolute() => {
                    return Err("its address is a path that does not begin with ./ or ../".to_owned());
                }
                Self::Local(_) if !matches!(self, Self::Local(_)) => {
                    return Err("its address is a path of this machine".to_owned());
                }
                source => source,
            }
        };
        if self.is_encrypted() && source.is_plain() {
            return Err("its address leads to a protocol that is not encrypted".to_owned());
        }
        Ok(source)
    }

    fn is_encrypted(&self) -> bool {
        match self {
            Self::Http(url) => url.tls,
            Self::Other(url) => url.scheme == "ssh",
            Self::Local(_) => false,
        }
    }

    fn is_plain(&self) -> bool {
        !matches!(self, Self::Local(_)) && !self.is_encrypted()
    }

    fn relative(&self, url: &str) -> Result<Self, String> {
        let (mut rest, mut up) = (url, 0);
        loop {
            rest = if let Some(below) = rest.strip_prefix("../") {
                up += 1;
                below
            } else if let Some(below) = rest.strip_prefix("./") {
                below
            } else {
                break;
            }
            .trim_start_matches('/');
        }
        let below = |path: &str| {
            let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
            let kept = segments.len().checked_sub(up).ok_or("its address leaves the server of its repository")?;
            segments.truncate(kept);
            segments.extend(rest.trim_end_matches('/').split('/').filter(|segment| !segment.is_empty()));
            Ok::<String, String>(segments.join("/"))
        };
        match self {
            Self::Http(parent) => {
                let text = HttpUrl { path: format!("/{}", below(&parent.path)?), ..parent.clone() }.base();
                match Self::parse(&text, Path::new(""))? {
                    // The server is the same, so its credentials are too.
                    Self::Http(url) => Ok(Self::Http(HttpUrl { login: parent.login.clone(), ..url })),
                    other => Ok(other),
                }
            }
            Self::Other(parent) => {
                let root = if parent.path.starts_with('/') { "/" } else { "" };
                let url = OtherUrl { path: format!("{root}{}", below(&parent.path)?), ..parent.clone() };
                Self::parse(&url.address(), Path::new(""))
            }
            Self::Local(parent) => {
                let mut path = parent.clone();
                for _ in 0..up {
                    if !path.pop() {
                        return Err("its address leaves the file system".to_owned());
                    }
                }
                let plain = !rest.chars().any(char::is_control);
                let rest = normal_relative(Path::new(rest)).filter(|_| plain);
                Ok(Self::Local(path.join(rest.ok_or("its address holds '..' or a control character")?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(parent: &str, url: &str) -> Result<String, String> {
        let source = Source::parse(parent, Path::new("/base")).expect(parent).submodule(url)?;
        Ok(match &source {
            Source::Other(url) => url.address(),
            source => source.to_string(),
        })
    }

    #[test]
    fn relative_addresses_are_resolved_as_git_does() {
        for (parent, url, expected) in [
            ("https://h/a/b.git", "../x.git", "https://h/a/x.git"),
            ("https://h/a/b.git/", "../../c/x", "https://h/c/x"),
            ("https://h/a/b.git", "./x", "https://h/a/b.git/x"),
            ("https://h/a/b.git", "./", "https://h/a/b.git"),
            ("http://h:8080/a", ".././../x", ""),
            ("https://h/a", "../x", "https://h/x"),
            ("git@h:a/b.git", "../x.git", "git@h:a/x.git"),
            ("git@h:b.git", "../x.git", "git@h:x.git"),
            ("h:/srv/b.git", "../x.git", "h:/srv/x.git"),
            ("ssh://me@h:29418/a/b", "../../c", "ssh://me@h:29418/c"),
            ("/srv/git/b.git", "../x.git", "/srv/git/x.git"),
            ("file:///srv/git/b.git", "../../x.git", "/srv/x.git"),
            ("/srv/b.git", "/srv/x.git", "/srv/x.git"),
            ("/srv/b.git", "https://h/x", "https://h/x"),
            ("https://h/a/b", "https://other/x.git", "https://other/x.git"),
            ("https://h/a/b", "git@other:x.git", "git@other:x.git"),
            ("http://h/a/b", "git://other/x.git", "git://other/x.git"),
        ] {
            assert_eq!(resolve(parent, url).unwrap_or_default(), expected, "{parent} {url}");
        }
    }

    #[test]
    fn credentials_go_to_the_same_server_only() {
        let parent = Source::parse("https://me:canary@h/a/b", Path::new("")).expect("valid");
        let login = |url: &str| match parent.submodule(url) {
            Ok(Source::Http(url)) => url.login.is_some(),
            other => panic!("{other:?}"),
        };
        assert!(login("../x") && !login("https://other/x") && !login("https://h/x"));
    }

    #[test]
    fn hostile_addresses_are_refused() {
        for (parent, url) in [
            ("https://h/a/b", "../../../x"),
            ("https://h/a/b", "../../../other.example/x"),
            ("git@h:b", "../../x"),
            ("/srv/b", "../../../x"),
            ("https://h/a/b", "../a/../../x"),
            ("https://h/a/b", "../x?y"),
            ("https://h/a/b", "../%2e%2e/x"),
            ("https://h/a/b", "../x\ny"),
            ("git@h:a/b", "../-x"),
            ("git@h:a/b", "../$(x)"),
            ("/srv/a/b", "../x/../../../etc"),
            ("/srv/a/b", "../x\ny"),
            ("https://h/a/b", "http://h/x"),
            ("https://h/a/b", "git://h/x"),
            ("git@h:a/b", "http://h/x"),
            ("https://h/a/b", "/srv/x"),
            ("https://h/a/b", "file:///srv/x"),
            ("git@h:a/b", "/srv/x"),
            ("http://h/a/b", "x"),
            ("/srv/b", "x"),
            ("/srv/b", ".."),
            ("https://h/a/b", ""),
            ("https://h/a/b", "-x"),
            ("https://h/a/b", "--upload-pack=touch x"),
            ("https://h/a/b", "ext::sh -c x"),
            ("https://h/a/b", "ssh://-oProxyCommand=x/y"),
        ] {
            let resolved = resolve(parent, url);
            assert!(resolved.is_err(), "{parent} {url}: {resolved:?}");
        }
    }
}
