//! Signatures by ssh and OpenPGP keys, made by git itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::git::GitServer;

use crate::support::{Scratch, skipped};

/// A work tree whose commits can be signed, and the server that it is pushed to.
struct Author {
    server: GitServer,
    scratch: tempfile::TempDir,
}

impl Author {
    fn new() -> Self {
        let server = GitServer::start();
        drop(server.repo("m.git"));
        let author = Self { server, scratch: tempfile::tempdir().expect("scratch") };
        author.git(&["init", "-q", "-b", "main", "work"]);
        author
    }

    fn path(&self, below: &str) -> PathBuf {
        self.scratch.path().join(below)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.scratch.path())
            .env("GNUPGHOME", self.path("gnupg"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(args)
            .current_dir(if self.path("work").exists() { self.path("work") } else { self.path("") })
            .output()
            .map_err(|err| format!("{program}: {err}"))?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    #[track_caller]
    fn git(&self, args: &[&str]) -> String {
        let fixed = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"];
        self.run("git", &[&fixed[..], args].concat()).expect("git works")
    }

    fn ssh_key(&self, name: &str) -> Result<(), String> {
        let path = self.path(name);
        self.run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &path.to_string_lossy()]).map(drop)
    }

    /// Runs git so that what it makes is signed by the ssh key `name`.
    #[track_caller]
    fn git_ssh(&self, name: &str, args: &[&str]) {
        let key = format!("user.signingKey={}", self.path(name).display());
        self.git(&[&["-c", "gpg.format=ssh", "-c", &key], args].concat());
    }

    fn allow(&self, file: &str, keys: &[&str]) -> PathBuf {
        let line = |key: &&str| {
            let public = std::fs::read_to_string(self.path(&format!("{key}.pub"))).expect("a key");
            format!("a@b namespaces=\"git\" {public}")
        };
        let path = self.path(file);
        std::fs::write(&path, keys.iter().map(line).collect::<String>()).expect("written");
        path
    }

    fn push(&self) {
        let to = self.server.root().join("m.git").display().to_string();
        self.git(&["push", "-q", "--force", "--tags", &to, "main"]);
    }

    fn scratch(&self, signed: &str, signers: &Path) -> Scratch {
        let scratch = Scratch::new();
        scratch.manifest(&format!(
            "m: {{source: '{}', dest: m, signed: {signed}, signers: '{}'}}\n",
            self.server.url("m.git"),
            signers.display()
        ));
        scratch
    }
}

/// Runs for `reference` in both modes and from a path; expects success, or a refusal that says `why`.
#[track_caller]
fn judge(author: &Author, signed: &str, signers: &Path, reference: &str, why: Option<&str>) {
    let local = format!("--m::source={}", author.server.root().join("m.git").display());
    for (mode, more) in [("export", None), ("clone", None), ("export", Some(local.as_str()))] {
        let scratch = author.scratch(signed, signers);
        let overrides: Vec<&str> = ["--m::ref", reference].into_iter().chain(more).collect();
        let ran = scratch.run_with(&["--mode", mode, "--json", "--retries", "0"], &overrides);
        match why {
            None => {
                assert_eq!(ran.code(0).state("m"), "placed");
                let again = scratch.run_with(&["--mode", mode, "--json"], &overrides).code(0);
                assert_eq!(again.state("m"), "unchanged");
            }
            Some(why) => {
                let ran = ran.code(1);
                assert_eq!(ran.cause("m"), "signature", "{mode}: {}", ran.err);
                assert!(ran.err.contains(why), "{mode} {reference}: {}", ran.err);
                assert!(!scratch.root().join("m").exists(), "nothing is placed");
            }
        }
    }
}

#[test]
fn ssh_signatures_decide_what_is_placed() {
    let author = Author::new();
    if let Err(why) = author.ssh_key("alice").and_then(|()| author.ssh_key("mallory")) {
        return skipped(&why);
    }
    author.git_ssh("alice", &["commit", "-q", "--allow-empty", "-S", "-m", "good"]);
    let good = author.git(&["rev-parse", "HEAD"]);
    author.git_ssh("alice", &["tag", "-s", "v1", "-m", "v1"]);
    author.git(&["tag", "-a", "plain", "-m", "unsigned"]);
    author.git(&["tag", "light"]);
    author.git_ssh("mallory", &["tag", "-s", "theirs", "-m", "theirs"]);
    // A signed tag under another name.
    author.git(&["update-ref", "refs/tags/v2", &author.git(&["rev-parse", "v1"])]);
    author.git(&["commit", "-q", "--allow-empty", "-m", "unsigned"]);
    author.git(&["tag", "unsigned"]);
    author.git_ssh("mallory", &["commit", "-q", "--allow-empty", "-S", "-m", "theirs"]);
    author.git(&["tag", "mallorys"]);
    // The good commit's signature over other words.
    let forged = author.git(&["cat-file", "commit", &good]).replace("good", "evil");
    std::fs::write(author.path("forged"), forged + "\n").expect("written");
    let forged = author.git(&["hash-object", "-t", "commit", "-w", &author.path("forged").to_string_lossy()]);
    author.git(&["tag", "forged", &forged]);
    author.push();
    let signers = author.allow("signers", &["alice"]);
    judge(&author, "commit", &signers, &good, None);
    judge(&author, "commit", &signers, "light", None);
    judge(&author, "commit", &signers, "unsigned", Some("is not signed"));
    judge(&author, "commit", &signers, "mallorys", Some("not an allowed signer"));
    judge(&author, "commit", &signers, "forged", Some("does not fit the content"));
    judge(&author, "tag", &signers, "v1", None);
    judge(&author, "tag", &signers, "refs/tags/v1", None);
    judge(&author, "tag", &signers, "plain", Some("it is not signed"));
    judge(&author, "tag", &signers, "light", Some("not an annotated tag"));
    judge(&author, "tag", &signers, "theirs", Some("not an allowed signer"));
    judge(&author, "tag", &signers, "v2", Some("it is signed as 'v1'"));
    judge(&author, "tag", &signers, "main", Some("not an annotated tag"));
    judge(&author, "tag", &signers, &good, Some("not an annotated tag"));
    judge(&author, "tag", &author.path("nowhere"), "v1", Some("signers "));
}

#[test]
fn a_policy_holds_for_what_is_there_and_for_what_is_locked() {
    let author = Author::new();
    if let Err(why) = author.ssh_key("alice").and_then(|()| author.ssh_key("bob")) {
        return skipped(&why);
    }
    author.git_ssh("alice", &["commit", "-q", "--allow-empty", "-S", "-m", "good"]);
    author.git_ssh("alice", &["tag", "-s", "v1", "-m", "v1"]);
    author.push();
    let signers = author.allow("signers", &["alice"]);
    // What was placed without a policy is checked when there is one.
    let scratch = author.scratch("false", &signers);
    scratch.run_with(&["--mode", "export"], &["--m::ref", "v1"]).code(0);
    let with = ["--m::ref", "v1", "--m::signed=tag"];
    assert_eq!(scratch.run_with(&["--mode", "export", "--json"], &with).code(0).state("m"), "updated");
    assert_eq!(scratch.run_with(&["--mode", "export", "--json"], &with).code(0).state("m"), "unchanged");
    // Who is no longer allowed vouches for nothing.
    author.allow("signers", &["bob"]);
    let ran = scratch.run_with(&["--mode", "export", "--json"], &with).code(1);
    assert_eq!(ran.cause("m"), "signature");
    assert!(scratch.root().join("m").exists(), "the tree stays as it was");
    // A lock file fixes the commit; the tag is checked all the same.
    author.allow("signers", &["alice"]);
    let other = author.scratch("tag", &signers);
    other.run_with(&["--mode", "export", "--lock", "lock"], &["--m::ref", "v1"]).code(0);
    std::fs::remove_dir_all(other.root()).expect("removed");
    let locked = ["--mode", "export", "--lock", "lock", "--locked", "--json"];
    assert_eq!(other.run_with(&locked, &["--m::ref", "v1"]).code(0).state("m"), "placed");
    std::fs::remove_dir_all(other.root()).expect("removed");
    author.allow("signers", &["bob"]);
    assert_eq!(other.run_with(&locked, &["--m::ref", "v1"]).code(1).cause("m"), "signature");
    for wrong in ["signed: maybe", "signed: tag"] {
        other.manifest(&format!("m: {{source: x, dest: m, {wrong}}}\n"));
        other.run(&[]).code(65);
    }
}

#[test]
fn openpgp_signatures_decide_too() {
    let author = Author::new();
    std::fs::create_dir(author.path("gnupg")).expect("made");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
    std::fs::set_permissions(author.path("gnupg"), mode).expect("private");
    let make = |who: &str| {
        author
            .run("gpg", &["--batch", "--passphrase", "", "--quick-gen-key", who, "ed25519", "sign", "never"])
            .map(drop)
    };
    if let Err(why) = make("alice@example.org").and_then(|()| make("mallory@example.org")) {
        return skipped(&why);
    }
    let sign = |who: &str, args: &[&str]| {
        let key = format!("user.signingKey={who}");
        author.git(&[&["-c", &key], args].concat());
    };
    sign("alice@example.org", &["commit", "-q", "--allow-empty", "-S", "-m", "good"]);
    sign("alice@example.org", &["tag", "-s", "v1", "-m", "v1"]);
    sign("mallory@example.org", &["tag", "-s", "theirs", "-m", "theirs"]);
    author.git(&["tag", "good"]);
    author.git(&["commit", "-q", "--allow-empty", "-m", "unsigned"]);
    author.push();
    let export = |file: &str, args: &[&str]| {
        let text = author.run("gpg", &[args, &["--export", "alice@example.org"]].concat()).expect("exported");
        std::fs::write(author.path(file), text + "\n").expect("written");
        author.path(file)
    };
    let signers = export("signers", &["--armor"]);
    judge(&author, "commit", &signers, "good", None);
    judge(&author, "tag", &signers, "v1", None);
    judge(&author, "commit", &signers, "main", Some("is not signed"));
    judge(&author, "tag", &signers, "theirs", Some("no allowed signer has signed it"));
    // gpg writes a revocation beside each new key, disarmed by a colon.
    let revocations = std::fs::read_dir(author.path("gnupg/openpgp-revocs.d")).expect("there");
    for file in revocations.flatten() {
        let text = std::fs::read_to_string(file.path()).expect("text").replace("\n:-----BEGIN", "\n-----BEGIN");
        std::fs::write(author.path("revocation"), text).expect("written");
        author.run("gpg", &["--batch", "--import", &author.path("revocation").to_string_lossy()]).expect("imported");
    }
    let revoked = export("revoked", &["--armor"]);
    judge(&author, "tag", &revoked, "v1", Some("which was revoked"));
    let _ = author.run("gpgconf", &["--kill", "all"]);
}
