//! Which credentials a server gets.
//!
//! In this order: user and password of the source, `--token-file`, `.netrc`; and when a server wants some and
//! has refused these, what git's own helpers say, who are asked once per server and user. A source with a user
//! and no password says whose credentials are meant. Each is for its own host.
//!
//! `git credential fill` is the one interface that all helpers have. It runs with a closed argument
//! list, may not prompt, and ends with the repository's time.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use toolkit::process::Group;
use toolkit::redact::Secret;

use crate::http::lock;
use crate::netrc::{self, Netrc};
use crate::program::with_environment;
use crate::source::HttpUrl;

/// User and password.
pub(crate) type Login = (String, Secret);

/// Longest time that helpers may take.
const LIMIT: Duration = Duration::from_secs(15);
/// Most that they may say.
const MAX_BYTES: u64 = 64 << 10;

/// What helpers may need to find their own files, agents and keyrings.
const PASSED: [&str; 8] = [
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "GIT_CONFIG_GLOBAL",
];

/// Who logs in with a token where nobody says; servers that take tokens do not look at it.
const TOKEN_USER: &str = "x-access-token";

/// `[USER@]HOST=FILE` of the command line: a token for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    user: Option<String>,
    /// Host, and port if it matters.
    authority: String,
    path: PathBuf,
}

impl TokenFile {
    /// Judges what was typed.
    ///
    /// # Errors
    /// How it should look.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "it must look like HOST=FILE or USER@HOST=FILE".to_owned();
        let (server, path) = text.split_once('=').ok_or_else(wrong)?;
        let (user, authority) = match server.rsplit_once('@') {
            Some((user, authority)) => (Some(user.to_owned()), authority),
            None => (None, server),
        };
        let host = !authority.is_empty() && !authority.contains(['/', ' ']);
        if !host || path.is_empty() || user.as_ref().is_some_and(|user| user.is_empty() || user.contains(':')) {
            return Err(wrong());
        }
        Ok(Self { user, authority: authority.to_ascii_lowercase(), path: path.into() })
    }
}

/// All credentials that a run knows.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    netrc: Netrc,
    tokens: Vec<(String, Login)>,
    /// What the helpers have said, by server and user; none where they know nothing.
    helped: Mutex<HashMap<String, Option<Login>>>,
}

impl Keyring {
    /// Reads the files of tokens.
    ///
    /// # Errors
    /// Which one cannot be used, and why.
    pub(crate) fn new(netrc: Netrc, files: &[TokenFile]) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for file in files {
            let token =
                read_token(&file.path).map_err(|why| format!("--token-file: {}: {why}", file.path.display()))?;
            let user = file.user.clone().unwrap_or_else(|| TOKEN_USER.to_owned());
            tokens.push((file.authority.clone(), (user, token)));
        }
        Ok(Self { netrc, tokens, helped: Mutex::default() })
    }

    /// Returns what is known for `server` without asking anybody.
    pub(crate) fn known(&self, server: &HttpUrl) -> Option<Login> {
        if let Some(login) = server.login.as_ref().filter(|(_, password)| !password.expose().is_empty()) {
            return Some(login.clone());
        }
        let user = named(server);
        let authority = server.authority.to_ascii_lowercase();
        let host = authority.split_once(':').map_or(authority.as_str(), |(host, _)| host);
        let fits = |(server, (login, _)): &&(String, Login)| {
            (*server == authority || server == host) && user.is_none_or(|user| user == login || login == TOKEN_USER)
        };
        let token = self.tokens.iter().find(fits).map(|(_, (login, token))| {
            let user = user.filter(|_| login == TOKEN_USER).unwrap_or(login);
            (user.to_owned(), token.clone())
        });
        let helped = || lock(&self.helped).get(&key(server)).cloned().flatten();
        token.or_else(helped).or_else(|| self.netrc.find(&server.authority, user).cloned())
    }

    /// Asks the helpers, unless the source itself has a password.
    pub(crate) fn ask(&self, server: &HttpUrl, deadline: Instant) -> Option<Login> {
        if server.login.as_ref().is_some_and(|(_, password)| !password.expose().is_empty()) {
            return None;
        }
        // One at a time: helpers may talk to people or lock files.
        lock(&self.helped).entry(key(server)).or_insert_with(|| ask(server, deadline)).clone()
    }
}

/// The user that a source names.
fn named(server: &HttpUrl) -> Option<&str> {
    server.login.as_ref().map(|(user, _)| user.as_str())
}

fn key(server: &HttpUrl) -> String {
    let user = named(server).map(|user| format!("{user}@")).unwrap_or_default();
    format!("{}://{user}{}", if server.tls { "https" } else { "http" }, server.authority.to_ascii_lowercase())
}

fn read_token(path: &Path) -> Result<Secret, String> {
    let text = netrc::read_private(path)?.ok_or("it is not there")?;
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        token if token.contains(|c: char| c.is_control() || c.is_whitespace()) => {
            Err("it holds more than one word".to_owned())
        }
        token => Ok(Secret::new(token)),
    }
}

/// Asks the helpers for credentials for `server`; none if there is no git, no helper, or no answer in time.
fn ask(server: &HttpUrl, deadline: Instant) -> Option<Login> {
    let mut command = with_environment("git", &PASSED);
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "")
        .env("SSH_ASKPASS", "")
        .env("LC_ALL", "C")
        .args(["-c", "core.askPass=", "credential", "fill"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let user = named(server).map(|user| format!("username={user}\n")).unwrap_or_default();
    let question = format!(
        "protocol={}\nhost={}\npath={}\n{user}\n",
        if server.tls { "https" } else { "http" },
        server.authority,
        server.path.trim_matches('/'),
    );
    let mut group = Group::spawn(&mut command).ok()?;
    let mut input = group.child().stdin.take()?;
    let output = group.child().stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.take(MAX_BYTES).read_to_end(&mut text).map(|_| text)
    });
    // A question is smaller than a pipe, so this cannot wait for a helper.
    let asked = input.write_all(question.as_bytes());
    drop(input);
    let ended = group.wait_until(deadline.min(Instant::now() + LIMIT)).ok().flatten();
    if ended.is_none() {
        // Its end of the pipe is closed with it, so the reader ends too.
        let _ = group.terminate(Duration::from_millis(100));
    }
    let text = reader.join().ok()?.ok()?;
    asked.ok()?;
    if ended.is_some_and(|status| status.success()) { parse(&text) } else { None }
}

fn parse(text: &[u8]) -> Option<Login> {
    let text = std::str::from_utf8(text).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("username")?.to_owned(), Secret::new(value("password")?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn tokens_are_for_their_host_and_user() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("token");
        std::fs::write(&path, "t0ken\n").expect("written");
        let keyring = |words: &str| {
            let file = TokenFile::parse(&format!("{words}={}", path.display())).expect(words);
            Keyring::new(Netrc::default(), &[file])
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(keyring("h").is_err(), "others may read it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        let known = |words: &str, url: &str| {
            let login = keyring(words).expect("read").known(&HttpUrl::from_url(url).expect("valid"));
            login.map(|(user, token)| format!("{user}:{}", token.expose()))
        };
        for (words, url, expected) in [
            ("H", "https://h:8443/x", Some("x-access-token:t0ken")),
            ("h:8443", "https://H:8443/x", Some("x-access-token:t0ken")),
            ("h", "https://me@h/x", Some("me:t0ken")),
            ("me@h", "https://h/x", Some("me:t0ken")),
            ("h", "https://me:pw@h/x", Some("me:pw")),
            ("you@h", "https://me@h/x", None),
            ("h:8443", "https://h/x", None),
            ("h", "https://h.example/x", None),
        ] {
            assert_eq!(known(words, url).as_deref(), expected, "{words} {url}");
        }
        for text in ["", "h", "h=", "=f", "@h=f", "a:b@h=f", "https://h=f"] {
            assert!(TokenFile::parse(text).is_err(), "{text}");
        }
        for content in ["", "a b", "a\nb"] {
            std::fs::write(&path, content).expect("written");
            assert!(keyring("h").is_err(), "{content:?}");
        }
    }

    #[test]
    fn an_answer_has_user_and_password() {
        let (user, password) =
            parse(b"protocol=https\nhost=h\nusername=me\npassword=a=b c\nother=x\n").expect("both are there");
        assert_eq!((user.as_str(), password.expose()), ("me", "a=b c"));
        assert!(parse(b"username=me\n").is_none() && parse(b"").is_none() && parse(b"\xff").is_none());
    }
}
