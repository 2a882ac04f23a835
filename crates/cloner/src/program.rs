//! The `git` program, for addresses that only it can open (ssh and git).
//!
//! Its arguments are a closed list, what comes from a manifest stands behind `--`, and was judged
//! before ([`crate::source`]). It reads no configuration of git, starts no hook, prompts for nothing
//! and may use the one protocol of the address only. ssh reads its own configuration, known hosts
//! and agent, as everywhere else. It ends with the repository's time, with all that it started.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use git2::{Oid, Repository};
use toolkit::process::Group;

use crate::fault::{Cause, Fault};
use crate::git::{Head, Target};
use crate::source::OtherUrl;

/// Largest output that is read.
const MAX_OUTPUT: u64 = 64 << 20;

/// What ssh needs to find its own files and agent.
const PASSED: [&str; 4] = ["HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK"];

/// Returns a command that gets these variables of ours and no others.
pub(crate) fn with_environment(program: &str, passed: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command.envs(passed.iter().filter_map(|name| std::env::var_os(name).map(|value| (*name, value))));
    command
}

/// Runs git for one source.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    url: &'a OtherUrl,
    deadline: Instant,
}

impl<'a> Program<'a> {
    pub(crate) fn new(url: &'a OtherUrl, deadline: Instant) -> Self {
        Self { url, deadline }
    }

    /// Lists HEAD, branches and tags, and what `prefixes` name beyond these.
    pub(crate) fn list(&self, prefixes: &[String]) -> Result<Vec<Head>, Fault> {
        let mut command = self.command();
        command.args(["ls-remote", "--quiet", "--symref", "--", &self.url.address()]);
        command
            .args(["HEAD", "refs/heads/*", "refs/tags/*"])
            .args(prefixes.iter().filter(|name| name.starts_with("refs/")));
        let text = self.run(command)?;
        let mut heads: Vec<Head> = Vec::new();
        let mut symref = None;
        for line in text.lines() {
            let Some((value, name)) = line.split_once('\t') else { continue };
            if let Some(target) = value.strip_prefix("ref: ") {
                symref = Some(target.to_owned()).filter(|_| name == "HEAD").or(symref);
                continue;
            }
            if value.len() != 40 {
                return Err(Fault::new(
                    Cause::Ref,
                    "the repository has SHA-256 ids; such repositories are not supported",
                ));
            }
            let oid = Oid::from_str(value).map_err(|err| Fault::git(Cause::Network, "cannot list the refs", &err))?;
            let symref = symref.clone().filter(|_| name == "HEAD");
            if heads.iter().all(|head| head.name != name) {
                heads.push(Head { name: name.to_owned(), oid, symref });
            }
        }
        Ok(heads)
    }

    /// Fetches the commits of `targets` without their history; a server that gives away tips only is asked for all.
    pub(crate) fn fetch_commits(&self, store: &Repository, targets: &[Target]) -> Result<(), Fault> {
        let specs: Vec<String> = targets
            .iter()
            .enumerate()
            .map(|(number, target)| {
                let from = target.refname.clone().unwrap_or_else(|| target.oid.to_string());
                format!("+{from}:refs/cloner/want{number}")
            })
            .collect();
        match self.fetch(store, &specs, true) {
            Err(fault) if fault.in_answer && targets.iter().any(|target| target.refname.is_none()) => {
                self.fetch(store, &["+refs/*:refs/cloner/all/*".to_owned()], false)
            }
            fetched => fetched,
        }
    }

    /// Fetches what `specs` name into `store`.
    pub(crate) fn fetch(&self, store: &Repository, specs: &[String], shallow: bool) -> Result<(), Fault> {
        let mut command = self.command();
        command.arg("--git-dir").arg(store.path());
        command.args(["fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head"]);
        command.args(["--no-auto-maintenance", "--no-recurse-submodules"]).args(shallow.then_some("--depth=1"));
        command.args(["--", &self.url.address()]).args(specs);
        self.run(command).map(drop)
    }

    fn command(&self) -> Command {
        let mut command = with_environment("git", &PASSED);
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("GIT_ALLOW_PROTOCOL", self.url.scheme)
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=10")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "protocol.version=2"])
            .args(["-c", "transfer.fsckObjects=false", "-c", "submodule.recurse=false"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, mut command: Command) -> Result<String, Fault> {
        let mut group = Group::spawn(&mut command).map_err(|err| {
            Fault::new(Cause::Network, format!("git cannot be run: {err}"))
                .hint("ssh and git:// sources need the git program")
        })?;
        let reader = |pipe: Option<Box<dyn std::io::Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if let Some(pipe) = pipe {
                    // What cannot be read is missing, and git's status tells.
                    let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
                }
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let child = group.child();
        let out = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let errors = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        let waited = group.wait_until(self.deadline).map_err(|err| Fault::network(format!("git: {err}")))?;
        if waited.is_none() {
            // With the group its ends of the pipes are closed, so the readers end.
            let _ = group.terminate(Duration::from_millis(200));
        }
        let out = out.join().unwrap_or_default();
        let errors = errors.join().unwrap_or_default();
        match waited {
            None => Err(crate::http::timed_out()),
            Some(status) if status.success() => Ok(out),
            Some(_) => Err(self.judge(&errors)),
        }
    }

    /// Makes a failure of git's words.
    fn judge(&self, errors: &str) -> Fault {
        let has = |words: &[&str]| words.iter().any(|word| errors.contains(word));
        let lines: Vec<&str> = errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = lines.iter().find(|line| !line.starts_with("fatal: Could not read")).or(lines.first());
        let said: String = said.unwrap_or(&"git failed without a word").chars().take(300).collect();
        let message = format!("{}: {}", self.url.shown(), said.trim_start_matches("fatal: "));
        if has(&["Permission denied", "Host key verification failed", "Too many authentication failures"]) {
            return Fault::new(Cause::Auth, message)
                .hint("ssh must be able to log in without a question: key, agent and known_hosts");
        }
        if has(&["couldn't find remote ref", "not our ref", "does not allow request"]) {
            return Fault { in_answer: true, ..Fault::new(Cause::Ref, message) };
        }
        if has(&["does not appear to be a git repository", "not found", "not exist"]) {
            return Fault::new(Cause::Network, message);
        }
        Fault::network(message)
    }
}
