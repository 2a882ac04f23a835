//! Credentials from git's own helpers, asked once per server and only when a server wants some.
//!
//! `git credential fill` is the one interface that all helpers have. It runs with a closed argument
//! list, may not prompt, and ends with the repository's time.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use toolkit::process::Group;
use toolkit::redact::Secret;

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

/// Asks the helpers for credentials for `server`; none if there is no git, no helper, or no answer in time.
pub(crate) fn ask(server: &HttpUrl, deadline: Instant) -> Option<Login> {
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
    let question = format!(
        "protocol={}\nhost={}\npath={}\n\n",
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

    #[test]
    fn an_answer_has_user_and_password() {
        let (user, password) =
            parse(b"protocol=https\nhost=h\nusername=me\npassword=a=b c\nother=x\n").expect("both are there");
        assert_eq!((user.as_str(), password.expose()), ("me", "a=b c"));
        assert!(parse(b"username=me\n").is_none() && parse(b"").is_none() && parse(b"\xff").is_none());
    }
}
