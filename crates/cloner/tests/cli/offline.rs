//! Mirrors in order, the cache, no network, and addresses that only the git program opens.

use std::path::Path;
use std::time::{Duration, Instant};

use test_support::git::{Behaviour, Content, GitServer};

use crate::support::{Ran, Scratch, files, one_file};

const MODES: [&str; 2] = ["export", "clone"];

fn wipe(scratch: &Scratch) {
    drop(std::fs::remove_dir_all(scratch.root()));
}

#[test]
fn what_the_cache_has_needs_no_network() {
    let server = GitServer::start();
    let (repo, first) = one_file(&server, "1");
    repo.annotate("v1", &first);
    for (mode, old) in [("export", false), ("clone", false), ("export", true), ("clone", true)] {
        server.speak_old(old);
        server.behave(Behaviour::Serve);
        let scratch = Scratch::new();
        scratch.manifest(&format!(
            "source: '{}'\ndest: '%{{name}}'\na: {{ref: main}}\nb: {{ref: v1}}\nc: {{}}\n",
            server.url("m.git")
        ));
        let cached = ["--mode", mode, "--cache", "cache", "--json", "--retries", "0"];
        let offline = [&cached[..], &["--offline"]].concat();
        let ran = scratch.run(&offline).code(1);
        assert_eq!(ran.cause("a"), "network");
        assert!(ran.err.contains("--offline"), "{}", ran.err);
        scratch.run(&cached).code(0);
        // Another root, with the server away; then the first one again.
        wipe(&scratch);
        drop(server.requests());
        server.behave(Behaviour::Status(500, String::new()));
        scratch.run(&offline).code(0);
        for name in ["a", "b", "c"] {
            assert_eq!(scratch.read(&format!("{name}/file")), "1", "{mode} {old}");
        }
        assert_eq!(scratch.run(&offline).code(0).state("a"), "unchanged");
        assert!(server.requests().is_empty());
        let ran = scratch.run_with(&offline, &["--a::ref=nope"]).code(1);
        assert_eq!(ran.cause("a"), "network", "what the cache does not know may exist");
        // Without --offline a server that is away is a failure, whatever the cache has.
        assert_eq!(scratch.run(&cached).code(1).cause("a"), "network");
    }
}

#[test]
fn a_damaged_cache_is_moved_away_and_fetched_again() {
    let server = GitServer::start();
    one_file(&server, &"text\n".repeat(1000));
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 3] = [
        ("packs", |entry| {
            for path in files(entry).iter().filter(|path| path.ends_with(".pack")) {
                let path = entry.join(path);
                let mut bytes = std::fs::read(&path).expect("a pack");
                let middle = bytes.len() / 2;
                bytes[12..middle].fill(0x55);
                std::fs::remove_file(&path).expect("it is read-only");
                std::fs::write(&path, bytes).expect("written");
            }
        }),
        ("no repository", |entry| std::fs::remove_file(entry.join("HEAD")).expect("removed")),
        ("refs", |entry| std::fs::write(entry.join("cloner.refs"), "damaged").expect("written")),
    ];
    for mode in MODES {
        for (what, damage) in damages {
            let scratch = Scratch::of(&server);
            let cached = ["--mode", mode, "--cache", "cache", "--retries", "0"];
            scratch.run(&cached).code(0);
            let entry =
                files(&scratch.path("cache")).into_iter().find(|path| path.ends_with(".git/HEAD")).expect("kept");
            damage(scratch.path("cache").join(entry).parent().expect("the entry"));
            wipe(&scratch);
            scratch.run(&cached).code(0);
            assert_eq!(scratch.read("m/file").len(), 5000, "{mode}: {what}");
            // Healed: the next root needs no network.
            wipe(&scratch);
            scratch.run(&cached).code(0);
            wipe(&scratch);
            scratch.run(&[&cached[..], &["--offline"]].concat()).code(0);
        }
    }
}

#[test]
fn roots_share_a_cache_at_the_same_time() {
    let server = GitServer::start();
    let (repo, _) = one_file(&server, "1");
    for number in 0..4 {
        repo.commit("main", &[("file", Content::File(&format!("{number}")))]);
        let cache = Scratch::new();
        let roots: Vec<Scratch> = (0..4).map(|_| Scratch::of(&server)).collect();
        let start = |(index, scratch): (usize, &Scratch)| {
            let mut command = scratch.command(&["--mode", MODES[index % 2], "--cache"]);
            command.arg(cache.path("cache")).arg("repos.yaml");
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("it runs")
        };
        let runs: Vec<_> = roots.iter().enumerate().map(start).collect();
        for (scratch, run) in roots.iter().zip(runs) {
            Ran::from(run.wait_with_output().expect("it ends")).code(0);
            assert_eq!(scratch.read("m/file"), number.to_string());
        }
    }
}

#[test]
fn mirrors_are_tried_in_order_and_then_the_source() {
    let (first, second, source) = (GitServer::start(), GitServer::start(), GitServer::start());
    source.repo("m.git").commit("main", &[("file", Content::File("source"))]);
    let place = format!("{}/m.git", source.authority().replace(':', "_"));
    second.repo(&place).commit("main", &[("file", Content::File("second"))]);
    let scratch = Scratch::of(&source);
    let mirrors = [format!("http://{}", first.authority()), format!("http://{}", second.authority())];
    let options = ["--mirror", &mirrors[0], "--mirror", &mirrors[1], "--json", "--retries", "0"];
    scratch.run(&options).code(0);
    assert_eq!(scratch.read("m/file"), "second");
    second.behave(Behaviour::Status(503, String::new()));
    let ran = scratch.run(&options).code(1);
    assert_eq!(ran.cause("m"), "network");
    assert!(ran.err.contains("404") && ran.err.contains("503"), "both are named: {}", ran.err);
    assert!(source.requests().is_empty(), "the source was not asked for");
    scratch.run(&[&options[..], &["--fallback"]].concat()).code(0);
    assert_eq!(scratch.read("m/file"), "source");
    scratch.run(&["--fallback"]).code(2);
}

/// A stand-in for ssh: runs the command for the other side here, and notes how it was called.
fn fake_ssh(scratch: &Scratch) -> std::ffi::OsString {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = scratch.path("fake");
    std::fs::create_dir_all(&directory).expect("made");
    let path = directory.join("ssh");
    let script = "#!/bin/sh\nprintf '%s\\n' \"$*\" >> \"$HOME/ssh.log\"\n[ -e \"$HOME/denied\" ] && { echo 'Permission denied (publickey).' >&2; exit 255; }\n\
                  [ -e \"$HOME/hang\" ] && sleep 60\nfor last; do :; done\ncd \"$HOME\" && eval \"exec $last\"\n";
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    let mut all = directory.into_os_string();
    all.push(":");
    all.push(std::env::var_os("PATH").unwrap_or_default());
    all
}

#[test]
fn ssh_sources_go_through_the_git_program() {
    let scratch = Scratch::new();
    let search = fake_ssh(&scratch);
    let repo = test_support::git::Repo::create(&scratch.path("srv/m.git"));
    let first = repo.commit("main", &[("file", Content::File("1"))]);
    repo.commit("main", &[("file", Content::File("2"))]);
    repo.annotate("v1", &first);
    scratch.manifest(&format!(
        "dest: '%{{name}}'\nsource: 'git@host.example:srv/m.git'\na: {{}}\nb: {{ref: v1}}\nc: {{ref: {first}}}\n\
         d: {{source: 'ssh://me@host.example:2222{}'}}\nnone: {{ref: nope}}\n",
        repo.path().display()
    ));
    let run = |options: &[&str]| {
        let mut command = scratch.command(options);
        command.env("PATH", &search).env("GIT_SSH_COMMAND", "false").arg("repos.yaml");
        Ran::from(command.output().expect("it runs"))
    };
    for mode in MODES {
        wipe(&scratch);
        let ran = run(&["--mode", mode, "--json"]).code(1);
        assert_eq!(ran.cause("none"), "ref");
        for (name, text) in [("a", "2"), ("b", "1"), ("c", "1"), ("d", "2")] {
            assert_eq!(scratch.read(&format!("{name}/file")), text, "{mode}: {}", ran.err);
        }
        let ran = run(&["--mode", mode, "--json"]).code(1);
        assert_eq!((ran.state("a"), ran.state("d")), ("unchanged".to_owned(), "unchanged".to_owned()));
        if mode == "clone" {
            // Whoever works there fetches from the same place as the same user.
            assert!(scratch.read("a/.git/config").contains("url = git@host.example:srv/m.git\n"));
            assert!(scratch.read("d/.git/config").contains("url = ssh://me@host.example:2222/"));
        }
    }
    let log = std::fs::read_to_string(scratch.path("ssh.log")).expect("called");
    assert!(log.lines().all(|line| line.contains("BatchMode=yes")), "{log}");
    assert!(
        log.contains("git@host.example git-upload-pack 'srv/m.git'") && log.contains("-p 2222 me@host.example"),
        "{log}"
    );
    // Through a cache, and then from it alone.
    let cached = ["--mode", "export", "--cache", "cache", "--json"];
    run(&cached).code(1);
    wipe(&scratch);
    std::fs::write(scratch.path("denied"), "").expect("written");
    let ran = run(&[&cached[..], &["--offline"]].concat()).code(1);
    assert_eq!(ran.state("a"), "placed", "{}", ran.err);
    assert_eq!(run(&["--json"]).code(1).cause("a"), "auth");
    std::fs::remove_file(scratch.path("denied")).expect("removed");
    std::fs::write(scratch.path("hang"), "").expect("written");
    let start = Instant::now();
    wipe(&scratch);
    assert_eq!(run(&["--json", "--timeout", "1s"]).code(1).cause("a"), "network");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
