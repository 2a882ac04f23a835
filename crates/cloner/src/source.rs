//! Where a repository comes from: judging a manifest's `source`, and its place in a mirror.
//!
//! A source is data from somebody else. http, https, file and plain paths are opened here; ssh and
//! git addresses by the git program, unless a mirror stands in for them. What could become an
//! option, another program or another file (`-x`, `ext::`, `..`, control characters) is refused.

mod submodule;

use std::fmt;
use std::path::{Component, Path, PathBuf};

use toolkit::redact::Secret;

/// A source that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `http://` or `https://`.
    Http(HttpUrl),
    /// A directory of this machine.
    Local(PathBuf),
    /// An address for another protocol (`ssh://`, `git@host:path`, `git://`).
    Other(OtherUrl),
}

/// An HTTP address, its user and password apart from the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Whether TLS is used.
    pub tls: bool,
    /// Name or address and port as written.
    pub authority: String,
    /// The path, beginning with `/`.
    pub path: String,
    /// User and password.
    pub login: Option<(String, Secret)>,
}

/// An address that the git program opens, or whose copy a mirror has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherUrl {
    /// Protocol for messages.
    pub scheme: &'static str,
    /// Name or address and port as written.
    pub authority: String,
    /// The path on that host.
    pub path: String,
    /// Who logs in there.
    user: Option<String>,
    /// Whether it was written `host:path`, where the path begins at the user's home.
    scp: bool,
}

/// A directory or URL below which copies of other hosts' repositories are.
#[derive(Debug, Clone)]
pub enum Mirror {
    /// `http://…` or `https://…`.
    Http(HttpUrl),
    /// A directory.
    Local(PathBuf),
}

impl Source {
    /// Judges `text`; relative paths are below `base`.
    ///
    /// # Errors
    /// A message that says why the source is refused. It does not quote the source, which may hold a password.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the source is empty".to_owned());
        }
        if text.starts_with('-') {
            return Err("the source begins with '-'".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("the source holds a control character".to_owned());
        }
        if text.trim() != text {
            return Err("the source begins or ends with a space".to_owned());
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" => HttpUrl::parse(false, rest).map(Self::Http),
                "https" => HttpUrl::parse(true, rest).map(Self::Http),
                "file" => {
                    let path = rest.strip_prefix("localhost").unwrap_or(rest);
                    if !path.starts_with('/') {
                        return Err("a file:// source needs an absolute path: file:///srv/git/x.git".to_owned());
                    }
                    Ok(Self::Local(PathBuf::from(decode(path)?)))
                }
                "ssh" | "git+ssh" | "ssh+git" => OtherUrl::parse("ssh", rest).map(Self::Other),
                "git" => OtherUrl::parse("git", rest).map(Self::Other),
                _ => Err("the protocol of the source is not allowed: http, https, file and ssh are".to_owned()),
            };
        }
        if text.contains("::") {
            return Err("a source with '::' names a helper program, which is not allowed".to_owned());
        }
        let slash = text.find('/').unwrap_or(text.len());
        if let Some(colon) = text[..slash].find(':') {
            if matches!(text[..colon].to_ascii_lowercase().as_str(), "file" | "http" | "https" | "ssh" | "git") {
                return Err("the protocol of the source must be followed by ://".to_owned());
            }
            return OtherUrl::checked("ssh", &text[..colon], &text[colon + 1..], true).map(Self::Other);
        }
        Ok(Self::Local(base.join(text)))
    }

    /// Returns the address that git can use, without a password.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Other(url) => url.address(),
            source => source.to_string(),
        }
    }

    /// Returns the copy of this source in `mirror`; a local source is its own.
    ///
    /// # Errors
    /// A message that says why the source has no place in a mirror.
    pub fn mirrored(&self, mirror: &Mirror) -> Result<Self, String> {
        let Some(place) = self.mirror_path()? else { return Ok(self.clone()) };
        Ok(match mirror {
            Mirror::Local(directory) => Self::Local(directory.join(place)),
            Mirror::Http(url) => {
                Self::Http(HttpUrl { path: format!("{}/{place}", url.path.trim_end_matches('/')), ..url.clone() })
            }
        })
    }

    /// Returns `<host>/<path>.git`, where a mirror keeps this source; none for a local one.
    ///
    /// The host is in lower case, a port in the address stays as `host_port`, and the path has one `.git`.
    ///
    /// # Errors
    /// The path is empty or would leave the mirror's directory.
    pub fn mirror_path(&self) -> Result<Option<String>, String> {
        let (authority, path) = match self {
            Self::Local(_) => return Ok(None),
            Self::Http(url) => (&url.authority, &url.path),
            Self::Other(url) => (&url.authority, &url.path),
        };
        let host = authority.to_ascii_lowercase();
        // Brackets mark an IPv6 address, whose own colons are no port.
        let host = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => format!("{name}_{port}"),
            _ => host,
        };
        let decoded = decode(path)?;
        let segments: Vec<&str> = decoded.split('/').filter(|segment| !segment.is_empty()).collect();
        if segments.is_empty() || segments.iter().any(|segment| matches!(*segment, "." | ".." | ".git")) {
            return Err("the path of the source has no place in a mirror".to_owned());
        }
        let joined = segments.join("/");
        Ok(Some(format!("{host}/{}.git", joined.strip_suffix(".git").unwrap_or(&joined))))
    }
}

impl Mirror {
    /// Judges a mirror's address: a URL (http, https, file) or a directory.
    ///
    /// # Errors
    /// A message for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        match Source::parse(text, Path::new(""))? {
            Source::Http(url) => Ok(Self::Http(url)),
            Source::Local(path) => std::path::absolute(&path).map(Self::Local).map_err(|err| err.to_string()),
            Source::Other(_) => Err("a mirror is an http or https URL, or a directory".to_owned()),
        }
    }
}

impl HttpUrl {
    fn parse(tls: bool, rest: &str) -> Result<Self, String> {
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if path.contains(['?', '#']) {
            return Err("the source has a query or fragment".to_owned());
        }
        let (login, authority) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((login, authority)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((decode(user)?, Secret::new(decode(password)?))), authority)
            }
        };
        if login.as_ref().is_some_and(|(user, _)| user.is_empty()) {
            return Err("the source has a login without a user".to_owned());
        }
        check_authority(authority)?;
        if !path.is_ascii() || path.contains([' ', '\\', '"', '<', '>', '^', '`', '{', '|', '}']) {
            return Err("the path of the source holds characters that must be percent-encoded".to_owned());
        }
        check_path(path)?;
        Ok(Self { tls, authority: authority.to_owned(), path: path.to_owned(), login })
    }

    /// Returns the address of the repository itself, without user and password.
    #[must_use]
    pub fn base(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path.trim_end_matches('/'))
    }

    /// Reads a plain URL, such as one from a `Location` header.
    pub(crate) fn from_url(url: &str) -> Result<Self, String> {
        match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => Self::parse(false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => Self::parse(true, rest),
            _ => Err("not an http or https address".to_owned()),
        }
    }

    /// Whether both addresses reach the same server by the same protocol.
    pub(crate) fn same_server(&self, other: &Self) -> bool {
        self.tls == other.tls && self.authority.eq_ignore_ascii_case(&other.authority)
    }
}

impl OtherUrl {
    fn parse(scheme: &'static str, rest: &str) -> Result<Self, String> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self::checked(scheme, authority, path, false)
    }

    /// Returns the address for git's command line; a password in it is left out.
    pub(crate) fn address(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        if self.scp {
            format!("{user}{}:{}", self.authority, self.path)
        } else {
            format!("{}://{user}{}/{}", self.scheme, self.authority, self.path)
        }
    }

    /// Returns the address for messages.
    pub(crate) fn shown(&self) -> String {
        format!("{}://{}/{}", self.scheme, self.authority, self.path.trim_start_matches('/'))
    }

    fn checked(scheme: &'static str, authority: &str, path: &str, scp: bool) -> Result<Self, String> {
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        // Both become words of a command line, here and on the other side.
        let plain = |text: &str, more: &[u8]| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte) || more.contains(&byte))
        };
        let password = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        if password.is_some_and(|(user, _)| user.is_empty() || user.starts_with('-') || !plain(user, b"")) {
            return Err("the source has no valid user".to_owned());
        }
        check_authority(authority)?;
        if path.trim_matches('/').is_empty() {
            return Err("the source has no path".to_owned());
        }
        if !plain(path, b"/~@%:,=") || path.split('/').any(|segment| segment.starts_with('-')) {
            return Err("the path of the source holds characters or names that are not allowed".to_owned());
        }
        check_path(path)?;
        let user = password.map(|(user, _)| user.to_owned());
        Ok(Self { scheme, authority: authority.to_owned(), path: path.to_owned(), user, scp })
    }
}

impl fmt::Display for Source {
    /// Shows the address without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&url.base()),
            Self::Local(path) => path.display().fmt(f),
            Self::Other(url) => f.write_str(&url.shown()),
        }
    }
}

/// Judges `host`, `host:port`, `[address]` or `[address]:port`.
fn check_authority(authority: &str) -> Result<(), String> {
    let port = match authority.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .filter(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok())
            .map(|(_, rest)| rest),
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let valid = !host.is_empty() && host.len() <= 253 && !host.starts_with(['-', '.']);
            (valid && host.bytes().all(known) && !host.contains("..")).then_some(port)
        }
    };
    let valid = port.is_some_and(|port| {
        port.is_empty()
            || port.strip_prefix(':').is_some_and(|number| {
                number.bytes().all(|byte| byte.is_ascii_digit()) && number.parse().is_ok_and(|port: u16| port > 0)
            })
    });
    if valid { Ok(()) } else { Err("the source has no valid host".to_owned()) }
}

/// Judges a path of a URL as it means itself after percent-decoding.
fn check_path(path: &str) -> Result<(), String> {
    let decoded = decode(path)?;
    if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("the path of the source holds '.' or '..'".to_owned());
    }
    if decoded.contains('\\') {
        return Err("the path of the source holds a backslash".to_owned());
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, String> {
    let digits = |part: &str| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(digits) {
        return Err("the source holds '%' without two hexadecimal digits".to_owned());
    }
    let decoded = percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| "the source is not UTF-8 after percent-decoding".to_owned())?;
    if decoded.chars().any(char::is_control) {
        return Err("the source holds a control character".to_owned());
    }
    Ok(decoded.into_owned())
}

/// Returns `path` without `.`, or none if it has `..` or is not below where it starts.
pub(crate) fn normal_relative(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, String> {
        Source::parse(text, Path::new("/base"))
    }

    #[test]
    fn protocols_are_told_apart() {
        assert!(matches!(parse("https://opendev.org/openstack/puppet-nova"), Ok(Source::Http(url)) if url.tls));
        assert_eq!(parse("file:///srv/a%20b.git"), Ok(Source::Local("/srv/a b.git".into())));
        assert_eq!(parse("/srv/x"), Ok(Source::Local("/srv/x".into())));
        assert_eq!(parse("rel/x"), Ok(Source::Local("/base/rel/x".into())));
        assert!(matches!(parse("git@github.com:a/b.git"), Ok(Source::Other(url)) if url.scheme == "ssh"));
        assert!(matches!(parse("ssh://git@h:29418/a"), Ok(Source::Other(_))));
        for text in [
            "http://[::1]:8080/x",
            "http://me:p%40ss@h/x",
            "https://h/a-b_c.d~e/f+g,h;i=j:k@l/(m)&n%20o",
            "ssh://me@h/~you/x.git",
            "h:x/y.git",
            "./-x",
            "a b/c",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn hostile_sources_are_refused() {
        for text in [
            "",
            "-oProxyCommand=touch x",
            "--upload-pack=touch x",
            "ext::sh -c touch% x",
            "fd::7",
            "http://",
            "http://-x/y",
            "https://host/a?b=c",
            "https://host/a\nb",
            "http://host\r\nX: y/a",
            "ftp://host/a",
            "javascript://a/b",
            "ssh://-oProxyCommand=x/y",
            "-x@host:path",
            "file://host/path",
            "file:relative",
            "http://host/a b",
            "a\0b",
            "http://host/%00",
            "file:///a%0ab",
        ] {
            let parsed = parse(text);
            assert!(parsed.is_err(), "{text:?}: {parsed:?}");
        }
    }

    #[test]
    fn a_mirror_has_a_place_for_each_host() {
        let mirror = Mirror::parse("http://192.168.242.5:8080/git/").expect("valid");
        for (text, expected) in [
            ("https://opendev.org/openstack/puppet-nova", "opendev.org/openstack/puppet-nova.git"),
            ("https://user:pw@GitHub.com/a/b.git/", "github.com/a/b.git"),
            ("git@github.com:a/b.git", "github.com/a/b.git"),
            ("ssh://git@review.x:29418/a/b", "review.x_29418/a/b.git"),
            ("http://h:80/a//b", "h_80/a/b.git"),
        ] {
            let there = parse(text).expect(text).mirrored(&mirror).expect(text);
            assert_eq!(there.to_string(), format!("http://192.168.242.5:8080/git/{expected}"));
        }
        for text in ["https://h/", "https://h/.git"] {
            assert!(parse(text).expect(text).mirrored(&mirror).is_err(), "{text}");
        }
        let local = Mirror::parse("file:///srv/git").expect("valid");
        let there = parse("https://h/a").expect("valid").mirrored(&local);
        assert_eq!(there, Ok(Source::Local("/srv/git/h/a.git".into())));
    }

    #[test]
    fn passwords_are_not_shown() {
        let source = parse("https://me:canary@host/x").expect("valid");
        assert!(!format!("{source} {source:?}").contains("canary"));
        let Source::Http(url) = source else { panic!("http") };
        assert_eq!(url.login.expect("kept").1.expose(), "canary");
    }
}
