//! A site in a scratch directory: packages, git repositories, a configuration, a server.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Whether a program can be run; tests that need one that cannot are skipped with a word.
#[allow(clippy::print_stderr, reason = "a skip is told to whoever runs the tests")]
pub(crate) fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) extra: String,
    pub(crate) environment: Vec<(String, String)>,
}

pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn from(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn is(self, code: i32) -> Run {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

impl Site {
    /// A site with a key, an empty package directory and no git.
    pub(crate) fn new() -> Site {
        let dir = tempfile::tempdir().expect("scratch directory");
        // apt's own user reads below it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        std::fs::create_dir(dir.path().join("debs")).expect("made");
        let site = Site { dir, extra: String::new(), environment: Vec::new() };
        site.write_config();
        site.run(&["keygen", "--out", &site.text("site.sec.asc"), "--public", &site.text("site.gpg")]).is(0);
        site
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn text(&self, relative: &str) -> String {
        self.path(relative).to_string_lossy().into_owned()
    }

    /// Adds a git source of these `(key, source)` repositories, fetched from `site/upstream`.
    pub(crate) fn with_git(&mut self, repos: &[(&str, &str)]) {
        let mut manifest = String::from("dest: /modules/%{name}\n");
        for (key, source) in repos {
            manifest.push_str(&format!("{key}:\n  source: {source}\n"));
        }
        std::fs::write(self.path("repos.yaml"), manifest).expect("writable");
        self.extra =
            format!("- {{name: modules, type: git, manifest: repos.yaml, mirror: {}}}\n", self.text("upstream"));
        self.write_config();
    }

    pub(crate) fn write_config(&self) {
        self.write_config_with("");
    }

    pub(crate) fn write_config_with(&self, more: &str) {
        let text = format!(
            "root: {root}\nurl: http://mirror.example:8080\nsigning_key: {key}\nchannels: [edge, stable]\n{more}\
             sources:\n- {{name: debian, type: deb, dir: {debs}, suites: [bookworm], components: [main], \
             architectures: [amd64]}}\n{extra}",
            root = self.text("mirror"),
            key = self.text("site.sec.asc"),
            debs = self.text("debs"),
            extra = self.extra,
        );
        std::fs::write(self.path("mirror.yaml"), text).expect("writable");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirror-sync"));
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("a PATH")).env("HOME", self.dir.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(self.path("mirror.yaml")).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::from(self.command(arguments).output().expect("runs"))
    }

    /// sync, then snapshot; the id.
    #[track_caller]
    pub(crate) fn snapshot(&self) -> String {
        self.run(&["sync"]).is(0);
        let out = self.run(&["snapshot"]).is(0).out;
        let id = out.strip_suffix('\n').expect("one line").to_owned();
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        id
    }

    pub(crate) fn published(&self, id: &str) -> PathBuf {
        self.path(&format!("mirror/pub/snap/{id}"))
    }

    pub(crate) fn pointer(&self, channel: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(&format!("mirror/pub/channel/{channel}.json"))).ok()?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        Some(value["snapshot"].as_str().expect("an id").to_owned())
    }

    /// Makes a package with dpkg-deb.
    pub(crate) fn deb(&self, name: &str, version: &str, depends: &str) -> PathBuf {
        self.deb_of(name, version, depends, "payload")
    }

    pub(crate) fn deb_of(&self, name: &str, version: &str, depends: &str, payload: &str) -> PathBuf {
        let tree = self.path(&format!("tree/{name}"));
        let _ = std::fs::remove_dir_all(&tree);
        std::fs::create_dir_all(tree.join("DEBIAN")).expect("made");
        std::fs::create_dir_all(tree.join("usr/share").join(name)).expect("made");
        std::fs::write(tree.join("usr/share").join(name).join("data"), payload).expect("writable");
        let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: Site <site@example.org>\n{depends}\
             Description: test package\n With a second line.\n"
        );
        std::fs::write(tree.join("DEBIAN/control"), control).expect("writable");
        let target = self.path("debs").join(format!("{name}_{}_amd64.deb", version.replace(':', "%3a")));
        let output = Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
            .arg(&tree)
            .arg(&target)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .expect("dpkg-deb runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target
    }

    /// Starts the server on a free port.
    pub(crate) fn serve(&self) -> Server {
        let mut child = self
            .command(&["-v", "serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Server { child, address }
    }
}

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("settable");
        stream
    }

    pub(crate) fn terminate(&mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("ours");
        wait(&mut self.child, Duration::from_secs(20)).expect("ends").code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is done to a published file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Harm {
    /// One bit is another, the length is the same.
    Flipped,
    /// The end is missing.
    Cut,
    /// The file is not there.
    Missing,
}

/// Does harm to a published file, and makes it good again when it is dropped.
pub(crate) struct Altered {
    pub(crate) path: PathBuf,
    content: Vec<u8>,
}

impl Altered {
    pub(crate) fn new(path: PathBuf, harm: Harm) -> Altered {
        let content = std::fs::read(&path).expect("there");
        // Its name goes, not its content: the store has that under another name.
        std::fs::remove_file(&path).expect("ours");
        let mut other = content.clone();
        match harm {
            Harm::Flipped => other[content.len() / 2] ^= 1,
            Harm::Cut => other.truncate(content.len() - 100),
            Harm::Missing => return Altered { path, content },
        }
        std::fs::write(&path, other).expect("writable");
        Altered { path, content }
    }
}

impl Drop for Altered {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        std::fs::write(&self.path, &self.content).expect("writable");
    }
}

pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("waitable") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Runs git with a closed environment.
#[track_caller]
pub(crate) fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Site", "-c", "user.email=site@example.org", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a PATH"))
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Every file below a directory with its content, links and times left aside.
pub(crate) fn tree(directory: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(directory: &Path, base: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in std::fs::read_dir(directory).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                walk(&path, base, found);
            } else {
                let name = path.strip_prefix(base).expect("below").to_string_lossy().into_owned();
                found.push((name, std::fs::read(&path).expect("readable")));
            }
        }
    }
    let mut found = Vec::new();
    walk(directory, directory, &mut found);
    found.sort();
    found
}
