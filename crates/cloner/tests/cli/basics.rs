//! What is brought, from where, and what is said about it.

use std::os::unix::fs::PermissionsExt as _;

use test_support::git::{Content, GitServer};

use crate::support::{Ran, Scratch, binary, files, one_file};

/// A repository with every kind of ref; returns the commits one, two (tip of main).
fn history(server: &GitServer) -> (test_support::git::Repo, String, String) {
    let repo = server.repo("h.git");
    let one = repo.commit("main", &[("file", Content::File("one"))]);
    repo.tag("light", &one);
    repo.annotate("v1.0", &one);
    let two = repo.commit("main", &[("file", Content::File("two"))]);
    repo.commit("stable/2026.1", &[("file", Content::File("stable"))]);
    (repo, one, two)
}

fn every_kind_of_ref(mode: &str, local: bool) {
    let server = GitServer::start();
    let (repo, one, two) = history(&server);
    let source = if local { repo.path().display().to_string() } else { server.url("h.git") };
    let scratch = Scratch::new();
    scratch.manifest(&format!(
        "source: {source}\ndest: m/%{{name}}\nhead: {{}}\nbranch: {{ref: stable/2026.1}}\nlight: {{ref: light}}\n\
         annotated: {{ref: v1.0}}\nfull: {{ref: refs/tags/v1.0}}\nsha: {{ref: {one}}}\ntip: {{ref: {two}}}\n"
    ));
    let ran = scratch.run(&["--mode", mode, "--json"]).code(0);
    for (name, text) in [
        ("head", "two"),
        ("branch", "stable"),
        ("light", "one"),
        ("annotated", "one"),
        ("full", "one"),
        ("sha", "one"),
        ("tip", "two"),
    ] {
        assert_eq!(scratch.read(&format!("m/{name}/file")), text, "{name}");
        assert_eq!(ran.state(name), "placed");
        assert_eq!(scratch.root().join(format!("m/{name}/.git")).exists(), mode == "clone");
    }
    for (name, commit) in [("head", &two), ("light", &one), ("annotated", &one), ("sha", &one)] {
        assert_eq!(ran.line(name)["new"], commit.as_str(), "{name}");
    }
    let again = scratch.run(&["--mode", mode, "--json"]).code(0);
    assert!(
        again.lines().iter().all(|line| line["type"] == "summary" || line["state"] == "unchanged"),
        "{}",
        again.out
    );
}

#[test]
fn every_kind_of_ref_is_exported_over_http() {
    every_kind_of_ref("export", false);
}

#[test]
fn every_kind_of_ref_is_exported_from_a_path() {
    every_kind_of_ref("export", true);
}

#[test]
fn every_kind_of_ref_is_cloned_over_http() {
    every_kind_of_ref("clone", false);
}

#[test]
fn every_kind_of_ref_is_cloned_from_a_path() {
    every_kind_of_ref("clone", true);
}

#[test]
fn a_clone_is_one_that_git_can_use() {
    let server = GitServer::start();
    let (_, _, two) = history(&server);
    let scratch = Scratch::new();
    scratch.manifest(&format!(
        "h: {{source: '{}', dest: h, ref: main}}\n",
        server.url("h.git").replace("//", "//me:canary@")
    ));
    scratch.run(&[]).code(0);
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", scratch.path(""))
            .arg("-C")
            .arg(scratch.root().join("h"))
            .args(arguments)
            .output()
            .expect("git runs");
        Ran::from(output).code(0).out
    };
    assert_eq!(git(&["status", "--porcelain=v1", "--branch"]).trim(), "## main...origin/main");
    assert_eq!(git(&["rev-parse", "HEAD"]).trim(), two);
    assert_eq!(git(&["rev-list", "--count", "HEAD"]).trim(), "2");
    assert!(git(&["fsck", "--strict"]).is_empty());
    git(&["fetch", "--quiet"]);
    assert!(!scratch.read("h/.git/config").contains("canary"), "the password must not be stored");
}

#[test]
fn an_export_is_the_commits_tree_with_modes_and_links() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    repo.commit(
        "main",
        &[
            (".gitattributes", Content::File("* text eol=crlf export-subst\nhidden export-ignore\n")),
            ("hidden", Content::File("here\n$Format:%H$\n")),
            ("bin/run", Content::Script("#!/bin/sh\n")),
            ("link", Content::Link("bin/run")),
        ],
    );
    let scratch = Scratch::of(&server);
    scratch.run(&["--mode", "export"]).code(0);
    assert_eq!(files(&scratch.root().join("m")), [".gitattributes", "bin/run", "hidden", "link"]);
    assert_eq!(scratch.read("m/hidden"), "here\n$Format:%H$\n");
    let mode = |path: &str| scratch.root().join(path).metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("m/bin/run"), mode("m/hidden"), mode("m")), (0o755, 0o644, 0o755));
    assert_eq!(std::fs::read_link(scratch.root().join("m/link")).expect("a link"), std::path::Path::new("bin/run"));
}

#[test]
fn changes_upstream_are_followed_and_force_pushes_too() {
    let server = GitServer::start();
    let (repo, first) = one_file(&server, "1");
    let scratch = Scratch::of(&server);
    for mode in ["export", "clone"] {
        scratch.run(&["--mode", mode]).code(0);
        let second = repo.commit("main", &[("other", Content::File("2"))]);
        let ran = scratch.run(&["--mode", mode, "--json"]).code(0);
        let line = ran.line("m");
        assert_eq!(line["state"], "updated");
        assert_eq!(line["new"], second.as_str());
        assert!(scratch.root().join("m/other").exists() && !scratch.root().join("m/file").exists());
        repo.tag("x", &first);
        let back = scratch.run_with(&["--mode", mode, "--json"], &["--m::ref", "x"]).code(0);
        assert_eq!(back.line("m")["new"], first.as_str());
        assert_eq!(files(&scratch.root().join(".cloner/stage")), [""; 0]);
    }
}

#[test]
fn one_bad_repository_does_not_stop_the_others() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::new();
    scratch.manifest(&format!(
        "source: '{0}'\ndest: m/%{{name}}\ngood: {{}}\nnoref: {{ref: mian}}\nnorepo: {{source: '{1}'}}\n\
         dead: {{source: 'http://127.0.0.1:1/x'}}\nout: {{dest: ../out}}\nopt: {{source: --upload-pack=x}}\n\
         ext: {{source: 'ext::sh -c x'}}\nssh: {{source: 'git@-host:a/b'}}\n",
        server.url("m.git"),
        server.url("none.git")
    ));
    let ran = scratch.run(&["--json", "--retries", "0"]).code(1);
    assert_eq!(ran.state("good"), "placed");
    for (name, cause) in [
        ("noref", "ref"),
        ("norepo", "network"),
        ("dead", "network"),
        ("out", "manifest"),
        ("opt", "manifest"),
        ("ext", "manifest"),
        ("ssh", "manifest"),
    ] {
        assert_eq!(ran.cause(name), cause, "{name}");
        assert_eq!(ran.state(name), "failed");
    }
    let summary = ran.lines().pop().expect("a summary");
    assert_eq!((&summary["type"], &summary["failed"], &summary["placed"]), (&"summary".into(), &7.into(), &1.into()));
    assert!(ran.err.contains("hint: did you mean 'main'?"), "{}", ran.err);
    assert!(ran.err.ends_with("cloner: error: 7 of 8 repositories failed\n"), "{}", ran.err);
}

#[test]
fn the_only_repository_is_named_once() {
    let scratch = Scratch::new();
    scratch.manifest("m: {source: /nonexistent/m.git, dest: m}\n");
    let ran = scratch.run(&[]).code(1);
    assert!(ran.err.starts_with("cloner: error: m (m): network: /nonexistent/m.git: "), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn a_plan_says_what_would_be_done_and_touches_nothing() {
    let server = GitServer::start();
    let (repo, first) = one_file(&server, "1");
    let scratch = Scratch::of(&server);
    let ran = scratch.run(&["--plan"]).code(0);
    assert_eq!(ran.out, format!("m (m) would-place at {}\n", &first[..12]));
    assert!(!scratch.root().exists());
    scratch.run(&[]).code(0);
    repo.commit("main", &[("file", Content::File("2"))]);
    assert_eq!(scratch.run(&["--plan", "--json"]).code(0).state("m"), "would-update");
    assert_eq!(scratch.read("m/file"), "1");
    assert_eq!(scratch.run_with(&["--plan", "--json"], &["--m::ref=nope"]).code(1).cause("m"), "ref");
}

#[test]
fn a_mirror_stands_in_for_every_host() {
    let server = GitServer::start();
    for name in ["git/opendev.org/openstack/puppet-nova.git", "git/github.com/puppetlabs/stdlib.git"] {
        server.repo(name).commit("debian/bookworm", &[("metadata.json", Content::File(name))]);
    }
    let manifest = "ref: debian/bookworm\ndest: modules/%{name}\n\
                    nova: {source: 'https://opendev.org/openstack/puppet-nova'}\n\
                    stdlib: {source: 'git@github.com:puppetlabs/stdlib.git'}\n";
    for mirror in [server.url("git"), server.root().join("git").display().to_string()] {
        let scratch = Scratch::new();
        scratch.manifest(manifest);
        scratch.run(&["--mirror", &mirror, "--mode", "export"]).code(0);
        assert!(scratch.read("modules/stdlib/metadata.json").contains("stdlib"));
        assert!(scratch.read("modules/nova/metadata.json").contains("nova"));
        let record = std::fs::read_dir(scratch.root().join(".cloner/placed")).expect("there").count();
        assert_eq!(record, 2);
    }
}

#[test]
fn status_and_verify_need_no_network() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    assert_eq!(scratch.run(&["--status", "--json"]).code(1).state("m"), "absent");
    scratch.run(&["--mode", "export"]).code(0);
    drop(server);
    assert_eq!(scratch.run(&["--status", "--json"]).code(0).state("m"), "clean");
    scratch.run(&["--verify"]).code(0);
    assert_eq!(scratch.run_with(&["--status", "--json"], &["--m::ref=v2"]).code(1).state("m"), "outdated");
    std::fs::write(scratch.root().join("m/extra"), "").expect("written");
    let ran = scratch.run(&["--verify"]).code(1);
    assert!(ran.out.contains("changed") && ran.out.contains("extra is new"), "{}", ran.out);
}

#[test]
fn wrong_command_lines_are_refused_with_two() {
    let scratch = Scratch::new();
    scratch.manifest("g:\n  m: {source: /nowhere, dest: m}\n");
    for (overrides, said) in [
        (&["--g::n::ref", "x"][..], "has no 'n' there"),
        (&["--destdir=x"], "has no 'destdir' there"),
        (&["--g::m=x"], "names a group or repository"),
        (&["--g::m::ref"], "has no value"),
        (&["word"], "is no override"),
        (&["--json"], "hint: options come before the manifest"),
        (&["--retries", "0"], "hint: options come before the manifest"),
        (&["--g::m::rfe", "x"], "the nearest known one is --g::m::ref"),
    ] {
        let ran = scratch.run_with(&[], overrides).code(2);
        assert!(ran.err.contains(said), "{overrides:?}: {}", ran.err);
        assert!(ran.out.is_empty());
    }
    scratch.run(&["--bogus"]).code(2);
    scratch.run(&["--jobs", "0"]).code(2);
    scratch.run(&["--timeout", "5"]).code(2);
    scratch.run(&["--mirror", "git@host:x"]).code(2);
    assert!(!scratch.root().exists());
}

#[test]
fn wrong_manifests_are_refused_with_65_and_a_place() {
    let scratch = Scratch::new();
    for (text, said) in [
        ("m: {source: s, dest: '%{nope}'}", "repos.yaml:1:22: variable 'nope' is not defined"),
        ("a: {source: s, dest: x}\nb: {source: s, dest: ./x}", "repos.yaml:2:1: dest './x' of 'b' is the same"),
        (
            "a: {source: s, dest: x}\nb: {source: s, dest: x/y}",
            "repos.yaml:2:1: dest 'x/y' of 'b' is the same as, or lies in",
        ),
        ("a: [", "repos.yaml:"),
    ] {
        scratch.manifest(text);
        let ran = scratch.run(&[]).code(65);
        assert!(ran.err.contains(said), "{}", ran.err);
        assert_eq!(ran.err.lines().filter(|line| !line.contains("hint:")).count(), 1, "{}", ran.err);
    }
    std::fs::remove_file(scratch.path("repos.yaml")).expect("removed");
    let ran = scratch.run(&[]).code(65);
    assert!(ran.err.contains("error: cannot read the manifest repos.yaml: "), "{}", ran.err);
    assert!(!scratch.root().exists());
}

#[test]
fn help_and_version_go_to_stdout() {
    let scratch = Scratch::new();
    let help = scratch.run(&["--help"]).code(0);
    for heading in ["Examples:", "Environment:", "Exit status:"] {
        assert!(help.out.lines().any(|line| line == heading), "{heading} in {}", help.out);
    }
    assert!(scratch.run(&["--version"]).code(0).out.starts_with("cloner "));
    let bare = std::process::Command::new(binary()).output().expect("it runs");
    assert_eq!(bare.status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let scratch = Scratch::new();
    scratch.manifest("vars: {a: b}");
    let mut child =
        scratch.command(&["--json"]).arg("repos.yaml").stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_lock_file_fixes_what_is_placed() {
    let server = GitServer::start();
    let repo = server.repo("a.git");
    let first = repo.commit("main", &[("file", Content::File("1"))]);
    server.repo("b.git").commit("main", &[("file", Content::File("b"))]);
    let scratch = Scratch::new();
    scratch.manifest(&format!(
        "dest: '%{{name}}'\nref: main\na: {{source: '{}'}}\nb: {{source: '{}'}}\n",
        server.url("a.git"),
        server.url("b.git")
    ));
    scratch.run(&["--lock", "lock"]).code(0);
    let text = std::fs::read_to_string(scratch.path("lock")).expect("written");
    assert!(text.contains(&first));
    repo.commit("main", &[("file", Content::File("2"))]);
    drop(server.requests());
    scratch.run(&["--lock", "lock", "--locked"]).code(0);
    assert_eq!((scratch.read("a/file").as_str(), server.requests().len()), ("1", 0));
    assert_eq!(std::fs::read_to_string(scratch.path("lock")).expect("there"), text);
    // A second machine gets the same, although the branch has moved.
    let elsewhere = scratch.path("elsewhere");
    let options = ["--root", elsewhere.to_str().expect("text"), "--lock", "lock", "--locked", "--mode", "export"];
    let mut command = std::process::Command::new(binary());
    let ran = command.current_dir(scratch.path("")).args(options).arg("repos.yaml").output().expect("it runs");
    Ran::from(ran).code(0);
    assert_eq!(std::fs::read_to_string(elsewhere.join("a/file")).expect("placed"), "1");
    scratch.run(&["--lock", "lock", "--update", "b"]).code(0);
    assert_eq!(std::fs::read_to_string(scratch.path("lock")).expect("there"), text);
    scratch.run(&["--lock", "lock", "--update", "a"]).code(0);
    assert_eq!(scratch.read("a/file"), "2");
    assert_ne!(std::fs::read_to_string(scratch.path("lock")).expect("there"), text);
    let other = scratch.run_with(&["--lock", "lock", "--locked", "--json"], &["--ref=v9"]).code(1);
    assert_eq!(other.cause("a"), "lock");
    scratch.run(&["--lock", "lock", "--update", "c"]).code(2);
    scratch.run(&["--locked"]).code(2);
    let unwritable = scratch.run(&["--lock", "nowhere/lock", "--json"]).code(73);
    assert_eq!(unwritable.state("a"), "unchanged", "what was done is said all the same");
    std::fs::write(scratch.path("lock"), "x").expect("written");
    let ran = scratch.run(&["--lock", "lock", "--locked"]).code(65);
    assert!(ran.err.contains("error: lock file lock: ") && ran.err.contains("hint: a run with --lock"), "{}", ran.err);
}

#[test]
fn a_manifest_extends_another_and_slips_are_warned_about() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::new();
    std::fs::write(
        scratch.path("base.yaml"),
        format!("dest: 'm/%{{name}}'\na: {{source: '{}'}}\n", server.url("m.git")),
    )
    .expect("written");
    scratch.manifest("extends: base.yaml\na: {brnach: main}\nb: {source: '%{a}', a: nowhere}\n");
    let ran = scratch.run(&["--json", "--status"]).code(1);
    assert_eq!(ran.line("a")["dest"], "m/a");
    assert!(ran.err.contains("warning: repos.yaml:2:13: nothing uses 'brnach'"), "{}", ran.err);
    scratch.manifest("extends: base.yaml\n");
    assert_eq!(scratch.run(&["--json"]).code(0).state("a"), "placed");
    assert_eq!(scratch.read("m/a/file"), "1");
}

#[test]
fn a_manifest_without_a_repository_is_warned_about() {
    let scratch = Scratch::new();
    for empty in ["{}\n", "dest: x\na: {surce: 'https://example.org/a'}\n"] {
        scratch.manifest(empty);
        let ran = scratch.run(&[]).code(0);
        assert!(ran.err.contains("warning: repos.yaml: no repository in it"), "{}", ran.err);
    }
}
