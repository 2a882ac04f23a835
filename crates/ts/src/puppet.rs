//! Keeping Puppet's agent out while a `--puppet` run goes on.
//!
//! Puppet 7's agent takes `$statedir/agent_catalog_run.lock`: a file that holds the process id of its owner. It believes
//! in that owner as long as the process lives and is named `puppet` or `puppet-…` (or is a ruby that runs puppet), and
//! removes the file otherwise. So a leader writes down its own id and calls itself `puppet-ts` until the run has
//! ended; `puppet agent` then says that a run is already in progress. A leader that is killed leaves a file whose owner
//! is dead, which Puppet clears away itself; the next leader, which adopts the run, takes the lock again.
//!
//! An agent's own run that goes on is waited for, at most as long as our run may take. Where the lock cannot be had for
//! another reason the run goes on without, and says so: it is a courtesy to Puppet, nothing of ours relies on it.
//!
//! The file is linked into place with its content, so nobody sees it empty. Nothing is locked where the command
//! is `puppet agent` itself, or where `TS_PUPPET_LOCK` of the kick's environment is 0.
//! `puppet apply` knows no lock; `doc/puppet-shim` brings it into the queue.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::job::Job;
use crate::sys;

const LOCK: &str = "agent_catalog_run.lock";
/// Where Puppet keeps its state: Puppet's own packages, Debian's, and older ones of Debian.
const STATE: [&str; 3] = ["opt/puppetlabs/puppet/cache/state", "var/cache/puppet/state", "var/lib/puppet/state"];
const USER_STATE: [&str; 2] = [".puppetlabs/opt/puppet/cache/state", ".puppet/cache/state"];
/// The name by which Puppet takes us for itself.
const NAME: &std::ffi::CStr = c"puppet-ts";
/// Puppet creates its file and fills it a moment later.
const FILLING: Duration = Duration::from_secs(5);

/// The agent's locks that exist here, held. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct AgentLock {
    held: Vec<PathBuf>,
    name: Option<std::ffi::CString>,
}

/// Why the lock is not ours.
#[derive(Debug)]
pub(crate) enum Refused {
    /// This process runs Puppet, or is about to.
    Held { path: PathBuf, pid: i32 },
    /// The file cannot be made.
    Failed { path: PathBuf, source: std::io::Error },
}

impl AgentLock {
    /// Takes the agent's lock for a run of this job, unless somebody has it.
    pub(crate) fn take(job: &Job) -> Result<AgentLock, Refused> {
        let paths = paths(job);
        let mut lock = AgentLock { held: Vec::new(), name: None };
        if paths.is_empty() {
            return Ok(lock);
        }
        // First the name: between the file and the name Puppet would not believe in us.
        lock.name = sys::thread_name();
        sys::set_thread_name(NAME);
        for path in paths {
            match take_one(&path) {
                Ok(None) => lock.held.push(path),
                Ok(Some(pid)) => return Err(Refused::Held { path, pid }),
                Err(source) => return Err(Refused::Failed { path, source }),
            }
        }
        Ok(lock)
    }
}

impl Drop for AgentLock {
    fn drop(&mut self) {
        for path in &self.held {
            if matches!(owner(path), Ok(Owner::Process(pid)) if pid == own_pid()) {
                let _ = std::fs::remove_file(path);
            }
        }
        if let Some(name) = &self.name {
            sys::set_thread_name(name);
        }
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("process ids are positive and small")
}

/// Returns the lock files that Puppet would use with the job's environment.
fn paths(job: &Job) -> Vec<PathBuf> {
    if !job.policy.puppet || runs_agent(&job.argv) {
        return Vec::new();
    }
    let variable = |name: &str| {
        let value = job.env.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_os_str());
        value.filter(|value| !value.is_empty())
    };
    match variable("TS_PUPPET_LOCK") {
        Some(choice) if choice == "0" => return Vec::new(),
        Some(path) => return vec![job.cwd.join(path)],
        None => {}
    }
    let (base, places): (PathBuf, &[&str]) = if nix::unistd::geteuid().is_root() {
        (variable("STACKTIRA_ROOT").unwrap_or(OsStr::new("/")).into(), &STATE)
    } else {
        match variable("HOME") {
            Some(home) => (home.into(), &USER_STATE),
            None => return Vec::new(),
        }
    };
    // Where Puppet has never run there is no such directory, and no agent.
    places.iter().map(|place| base.join(place)).filter(|place| place.is_dir()).map(|place| place.join(LOCK)).collect()
}

/// Whether the command is the agent itself, which takes its lock by itself.
fn runs_agent(argv: &[OsString]) -> bool {
    let mut words = argv.iter();
    words.any(|word| Path::new(word).file_name() == Some(OsStr::new("puppet")))
        && words.find(|word| !word.as_bytes().starts_with(b"-")).is_some_and(|word| word == "agent")
}

/// Takes one lock; `Some` is the process that has it.
fn take_one(path: &Path) -> std::io::Result<Option<i32>> {
    let temporary = path.with_extension(format!("lock.{}", std::process::id()));
    for _ in 0..8 {
        crate::job::write_new(&temporary, std::process::id().to_string().as_bytes(), 0o644)?;
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        match owner(path) {
            Ok(Owner::Process(pid)) if pid == own_pid() => return Ok(None),
            Ok(Owner::Process(pid)) if is_puppet(pid) => return Ok(Some(pid)),
            Ok(Owner::Coming) => return Ok(Some(0)),
            Ok(Owner::Process(_) | Owner::Nobody) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("it comes and goes"))
}

#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Process(i32),
    /// The file was made a moment ago and is not filled yet.
    Coming,
    Nobody,
}

fn owner(path: &Path) -> std::io::Result<Owner> {
    let file = crate::dir::open_read(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    file.take(64).read_to_string(&mut text)?;
    if let Ok(pid) = text.trim().parse() {
        return Ok(Owner::Process(pid));
    }
    let age = metadata.modified().ok().and_then(|made| SystemTime::now().duration_since(made).ok());
    Ok(if text.is_empty() && age.is_some_and(|age| age < FILLING) { Owner::Coming } else { Owner::Nobody })
}

/// Whether Puppet would take this process for itself.
fn is_puppet(pid: i32) -> bool {
    let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { return false };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    named_puppet(name.trim_end(), &String::from_utf8_lossy(&line))
}

fn named_puppet(name: &str, line: &str) -> bool {
    let mut rests = name.match_indices("puppet").map(|(at, word)| &name[at + word.len()..]);
    name.contains("ruby") && line.contains("puppet") || rests.any(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Wishes};

    fn job(lock: &Path, argv: &[&str]) -> Job {
        Job {
            argv: argv.iter().map(OsString::from).collect(),
            cwd: "/".into(),
            env: vec![("TS_PUPPET_LOCK".into(), lock.into())],
            umask: 0o022,
            policy: Policy::new(&Wishes { puppet: true, ..Wishes::default() }),
            reason: None,
        }
    }

    fn name() -> String {
        sys::thread_name().expect("a name").into_string().expect("plain")
    }

    #[test]
    fn the_lock_is_ours_by_puppets_own_rule_and_given_back() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join(LOCK);
        let before = name();
        let lock = AgentLock::take(&job(&path, &["/x/converge.sh"])).expect("free");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), std::process::id().to_string());
        assert_eq!(name(), "puppet-ts");
        assert!(named_puppet("puppet-ts", ""));
        drop(lock);
        assert!(!path.exists());
        assert_eq!(name(), before);
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }

    #[test]
    fn what_a_dead_or_other_process_left_is_cleared_and_a_living_puppet_is_not() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join(LOCK);
        for stale in ["1", "2147483647", "garbage"] {
            std::fs::write(&path, stale).expect("ours");
            drop(AgentLock::take(&job(&path, &["x"])).expect(stale));
        }
        let agent = dir.path().join("puppet");
        std::fs::copy("/bin/sleep", &agent).expect("there");
        let mut child = std::process::Command::new(&agent).arg("1000").spawn().expect("it runs");
        // The kernel lets the parent go on a moment before the child has its new name.
        let pid = i32::try_from(child.id()).expect("pids are small");
        let named = (0..2000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            is_puppet(pid)
        });
        std::fs::write(&path, child.id().to_string()).expect("ours");
        let refused = AgentLock::take(&job(&path, &["x"]));
        child.kill().expect("ours");
        child.wait().expect("reaped");
        assert!(named);
        assert!(matches!(&refused, Err(Refused::Held { pid: held, .. }) if *held == pid), "{refused:?}");
        drop(AgentLock::take(&job(&path, &["x"])).expect("its owner is dead"));
        std::fs::write(&path, "").expect("ours");
        assert!(matches!(AgentLock::take(&job(&path, &["x"])), Err(Refused::Held { pid: 0, .. })));
    }

    #[test]
    fn a_link_is_not_followed_and_a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join(LOCK);
        std::os::unix::fs::symlink(dir.path().join("target"), &path).expect("made");
        assert!(matches!(AgentLock::take(&job(&path, &["x"])), Err(Refused::Failed { .. })));
        assert!(!dir.path().join("target").exists());
        let nowhere = dir.path().join("none").join(LOCK);
        assert!(matches!(AgentLock::take(&job(&nowhere, &["x"])), Err(Refused::Failed { .. })));
    }

    #[test]
    fn the_agent_takes_its_lock_itself() {
        let nowhere = Path::new("/nonexistent/lock");
        assert!(paths(&job(nowhere, &["/usr/bin/puppet", "--verbose", "agent", "-t"])).is_empty());
        assert_eq!(paths(&job(nowhere, &["puppet", "apply", "agent"])), [nowhere]);
        assert!(paths(&job(Path::new("0"), &["x"])).is_empty());
    }
}
