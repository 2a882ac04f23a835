//! Submodules: brought with what they are in, from wherever that comes from, and refused when they mean harm.

use std::path::Path;
use std::process::Command;

use test_support::git::{Behaviour, Content, GitServer, Repo};

use crate::support::{Ran, Scratch, files};

const MODES: [&str; 2] = ["export", "clone"];

fn gitmodules(sections: &[(&str, &str, &str)]) -> String {
    sections
        .iter()
        .map(|(name, path, url)| format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n"))
        .collect()
}

/// `top.git` with `lib/b` (b.git), which has `inner` (c.git). Commits of c, b and top.
struct Family {
    top: Repo,
    b: Repo,
    c: Repo,
}

impl Family {
    fn new(server: &GitServer, below: &str) -> (Self, [String; 3]) {
        let repo = |name: &str| server.repo(&format!("{below}{name}.git"));
        let family = Self { top: repo("top"), b: repo("b"), c: repo("c") };
        let commits = family.commit("1");
        (family, commits)
    }

    fn commit(&self, text: &str) -> [String; 3] {
        let c = self.c.commit("main", &[("file", Content::File(text)), ("run", Content::Script(text))]);
        // What is wanted is no tip: it is recorded by its id.
        self.c.commit("main", &[("file", Content::File("later"))]);
        let modules = gitmodules(&[("deep/inner", "inner", "./../c.git")]);
        let b = self.b.commit(
            "main",
            &[
                (".gitmodules", Content::File(&modules)),
                ("file", Content::File(text)),
                ("inner", Content::Submodule(&c)),
                ("link", Content::Link("inner/file")),
            ],
        );
        let modules = gitmodules(&[("b", "lib/b", "../b.git"), ("also c", "c", "../c.git")]);
        let top = self.top.commit(
            "main",
            &[
                (".gitmodules", Content::File(&modules)),
                ("file", Content::File(text)),
                ("lib/b", Content::Submodule(&b)),
                ("c", Content::Submodule(&c)),
            ],
        );
        [c, b, top]
    }
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()
        .expect("git runs");
    Ran::from(output).code(0).out
}

fn check(place: &Path, text: &str) {
    for path in ["file", "lib/b/file", "lib/b/inner/file", "lib/b/inner/run", "lib/b/link", "c/file"] {
        let found = std::fs::read_to_string(place.join(path));
        assert_eq!(found.unwrap_or_else(|err| panic!("{path}: {err}")), text, "{path}");
    }
}

fn every_way(mode: &str, local: bool) {
    let server = GitServer::start();
    let (family, _) = Family::new(&server, "");
    let source = if local { family.top.path().display().to_string() } else { server.url("top.git") };
    let scratch = Scratch::new();
    scratch.manifest(&format!("top: {{source: '{source}', dest: m/top}}\n"));
    let place = scratch.root().join("m/top");
    let run = |options: &[&str]| scratch.run(&[&["--mode", mode, "--json"], options].concat());
    assert_eq!(run(&["--plan"]).code(0).state("top"), "would-place");
    assert!(!scratch.root().exists());
    for (text, state) in [("1", "placed"), ("2", "updated")] {
        if state == "updated" {
            family.commit(text);
        }
        let top = family.top.tip("main");
        let ran = run(&[]).code(0);
        assert_eq!((ran.state("top").as_str(), ran.line("top")["new"].as_str()), (state, Some(top.as_str())));
        check(&place, text);
        drop(server.requests());
        assert_eq!(run(&[]).code(0).state("top"), "unchanged");
        assert_eq!(server.requests().len(), usize::from(!local), "submodules cost nothing when nothing has changed");
        assert_eq!(scratch.run(&["--json", "--verify"]).code(0).state("top"), "clean");
        assert_eq!(files(&scratch.root().join(".cloner/stage")), [""; 0]);
    }
    std::fs::write(place.join("lib/b/inner/file"), "mine").expect("written");
    for option in ["--status", "--verify"] {
        let ran = scratch.run(&["--json", option]).code(1);
        let message = ran.line("top")["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("lib/b/inner/file is changed"), "{message}");
    }
    assert_eq!(run(&[]).code(1).cause("top"), "local-changes");
    run(&["--force"]).code(0);
    check(&place, "2");
}

#[test]
fn submodules_are_exported_over_http() {
    every_way("export", false);
}

#[test]
fn submodules_are_exported_from_a_path() {
    every_way("export", true);
}

#[test]
fn submodules_are_cloned_over_http() {
    every_way("clone", false);
}

#[test]
fn submodules_are_cloned_from_a_path() {
    every_way("clone", true);
}

#[test]
fn git_finds_nothing_to_say_about_a_clone_with_submodules() {
    let server = GitServer::start();
    let (_family, [c, b, _]) = Family::new(&server, "");
    let scratch = Scratch::new();
    let source = server.url("top.git").replace("//", "//me:canary@");
    scratch.manifest(&format!("top: {{source: '{source}', dest: top}}\n"));
    scratch.run(&[]).code(0);
    let place = scratch.root().join("top");
    let status = git(&place, &["submodule", "status", "--recursive"]);
    let lines: Vec<&str> = status.lines().map(|line| line.split(" (").next().unwrap_or_default()).collect();
    assert_eq!(lines, [format!(" {c} c"), format!(" {b} lib/b"), format!(" {c} lib/b/inner")]);
    for below in ["", "lib/b", "lib/b/inner", "c"] {
        assert_eq!(git(&place.join(below), &["status", "--porcelain=v1"]), "", "{below}");
        assert_eq!(git(&place.join(below), &["fsck", "--strict"]), "", "{below}");
        let top = git(&place.join(below), &["rev-parse", "--show-toplevel"]);
        assert_eq!(Path::new(top.trim()), place.canonicalize().expect("there").join(below), "{below}");
    }
    // What git itself would do next has nothing to do, and finds the addresses.
    git(&place, &["submodule", "update", "--init", "--recursive"]);
    assert_eq!(git(&place, &["config", "submodule.b.url"]).trim(), server.url("b.git"));
    git(&place.join("lib/b"), &["fetch", "--quiet"]);
    assert!(place.join(".git/modules/b/modules/deep/inner/HEAD").is_file());
    for path in files(&place.join(".git")).iter().filter(|path| path.ends_with("config")) {
        assert!(!std::fs::read_to_string(place.join(".git").join(path)).expect("text").contains("canary"), "{path}");
    }
    // A commit in a submodule is somebody's work, though the files are as they were.
    scratch.run(&["--json"]).code(0);
    git(&place.join("lib/b"), &["branch", "mine"]);
    let ran = scratch.run(&["--json"]).code(1);
    assert_eq!(ran.cause("top"), "local-changes");
    assert!(ran.err.contains("lib/b: refs/heads/mine is new"), "{}", ran.err);
}

#[test]
fn clones_are_brought_forward_with_the_objects_of_their_submodules() {
    let server = GitServer::start();
    let filler: String = (0..40_000).map(|number| format!("{}\n", number * 7919 % 40_009)).collect();
    let (top, b) = (server.repo("top.git"), server.repo("b.git"));
    let modules = gitmodules(&[("b", "b", "../b.git")]);
    let commit = |text: &str| {
        let inner = b.commit("main", &[("file", Content::File(text)), ("filler", Content::File(&filler))]);
        top.commit("main", &[(".gitmodules", Content::File(&modules)), ("b", Content::Submodule(&inner))]);
    };
    commit("1");
    let scratch = Scratch::new();
    scratch.manifest(&format!("top: {{source: '{}', dest: top}}\n", server.url("top.git")));
    scratch.run(&[]).code(0);
    let cold = server.bytes();
    commit("2");
    scratch.run(&[]).code(0);
    assert_eq!(scratch.read("top/b/file"), "2");
    let warm = server.bytes();
    assert!(warm * 10 < cold, "{warm} bytes after {cold}");
}

#[test]
fn submodules_can_be_left_out_and_taken_in_again() {
    let server = GitServer::start();
    let _family = Family::new(&server, "");
    for mode in MODES {
        let scratch = Scratch::new();
        scratch.manifest(&format!("top: {{source: '{}', dest: top}}\n", server.url("top.git")));
        let run = |options: &[&str], wanted: &str| {
            let wanted = format!("--top::submodules={wanted}");
            scratch.run_with(&[&["--mode", mode, "--json"], options].concat(), &[&wanted])
        };
        assert_eq!(run(&[], "false").code(0).state("top"), "placed");
        assert!(std::fs::read_dir(scratch.root().join("top/lib/b")).expect("empty").next().is_none());
        assert_eq!(run(&[], "false").code(0).state("top"), "unchanged");
        assert_eq!(run(&["--status"], "true").code(1).state("top"), "outdated");
        assert_eq!(run(&["--plan"], "true").code(0).state("top"), "would-update");
        assert_eq!(run(&[], "true").code(0).state("top"), "updated");
        check(&scratch.root().join("top"), "1");
        assert_eq!(run(&["--status"], "false").code(1).state("top"), "outdated");
        assert_eq!(run(&[], "false").code(0).state("top"), "updated");
        assert!(std::fs::read_dir(scratch.root().join("top/lib/b")).expect("empty").next().is_none());
    }
}

#[test]
fn one_submodule_that_fails_leaves_its_repository_untouched() {
    let server = GitServer::start();
    let (family, _) = Family::new(&server, "");
    server.repo("other.git").commit("main", &[("file", Content::File("1"))]);
    for mode in MODES {
        let scratch = Scratch::new();
        scratch.manifest(&format!(
            "dest: '%{{name}}'\ntop: {{source: '{}'}}\nother: {{source: '{}'}}\n",
            server.url("top.git"),
            server.url("other.git")
        ));
        let options = ["--mode", mode, "--json", "--retries", "0"];
        let text = if mode == "export" { "1" } else { "2" };
        scratch.run(&options).code(0);
        // A commit that nobody has, in the innermost one; then a repository that is not there.
        let modules = gitmodules(&[("i", "inner", "../c.git"), ("n", "none", "../none.git")]);
        for (path, cause) in [("inner", "ref"), ("none", "network")] {
            let broken = [(".gitmodules", Content::File(&modules)), (path, Content::Submodule(&"1".repeat(40)))];
            let inner = family.b.commit("main", &broken);
            let modules = gitmodules(&[("b", "b", "../b.git")]);
            family.top.commit("main", &[(".gitmodules", Content::File(&modules)), ("b", Content::Submodule(&inner))]);
            let ran = scratch.run(&options).code(1);
            assert_eq!((ran.cause("top").as_str(), ran.state("other")), (cause, "unchanged".to_owned()));
            assert!(ran.err.contains(&format!("submodule 'b/{path}': ")), "{}", ran.err);
            check(&scratch.root().join("top"), text);
            assert_eq!(scratch.run(&["--json", "--verify"]).code(0).state("top"), "clean");
        }
        family.commit("2");
    }
}

#[test]
fn a_submodule_of_many_is_one_job_of_the_pool() {
    let server = GitServer::start();
    let shared = server.repo("shared.git");
    let inner = shared.commit("main", &[("file", Content::File("1"))]);
    let modules = gitmodules(&[("s", "s", "../shared.git")]);
    let mut manifest = String::from("dest: '%{name}'\n");
    for number in 0..6 {
        let name = format!("r{number}");
        let entries =
            [(".gitmodules", Content::File(&modules)), ("s", Content::Submodule(&inner)), ("n", Content::File(&name))];
        server.repo(&format!("{name}.git")).commit("main", &entries);
        manifest.push_str(&format!("{name}: {{source: '{}'}}\n", server.url(&format!("{name}.git"))));
    }
    manifest.push_str(&format!("shared: {{source: '{}'}}\n", server.url("shared.git")));
    for jobs in ["1", "2", "16"] {
        let scratch = Scratch::new();
        scratch.manifest(&manifest);
        drop(server.requests());
        scratch.run(&["--mode", "export", "--jobs", jobs]).code(0);
        for number in 0..6 {
            assert_eq!(scratch.read(&format!("r{number}/s/file")), "1");
        }
        let asked = server.requests().iter().filter(|request| request.line.contains("/shared.git/")).count();
        // The refs and the commit for the repository of the manifest, then what was found while it was worked on.
        assert!(asked <= 8 && (jobs != "1" || asked <= 3), "{asked} requests with {jobs} jobs");
    }
    assert!(server.peak() <= 8, "{}", server.peak());
}

#[test]
fn mirrors_caches_lock_files_and_sets_have_submodules_too() {
    let (mirror, away) = (GitServer::start(), GitServer::start());
    away.behave(Behaviour::Status(500, String::new()));
    let place = away.authority().replace(':', "_");
    let (family, _) = Family::new(&mirror, &format!("{place}/x/"));
    for mode in MODES {
        let scratch = Scratch::new();
        scratch.manifest(&format!("top: {{source: '{}', dest: top}}\n", away.url("x/top.git")));
        let url = format!("http://{}", mirror.authority());
        let run = |options: &[&str]| scratch.run(&[&["--mode", mode, "--json", "--retries", "0"], options].concat());
        let wipe = || drop(std::fs::remove_dir_all(scratch.root()));
        let before = family.top.tip("main");
        run(&["--mirror", &url, "--cache", "cache", "--lock", "lock"]).code(0);
        let text = std::fs::read_to_string(scratch.root().join("top/file")).expect("placed");
        assert!(std::fs::read_to_string(scratch.path("lock")).expect("written").contains(&before));
        // From a directory, and from the cache alone.
        wipe();
        run(&["--mirror", &mirror.root().display().to_string()]).code(0);
        check(&scratch.root().join("top"), &text);
        wipe();
        drop(mirror.requests());
        run(&["--cache", "cache", "--offline"]).code(0);
        check(&scratch.root().join("top"), &text);
        assert!(mirror.requests().is_empty() && away.requests().is_empty());
        // What was locked fixes what is in it.
        family.commit("3");
        wipe();
        run(&["--mirror", &url, "--lock", "lock", "--locked"]).code(0);
        check(&scratch.root().join("top"), &text);
        run(&["--mirror", &url, "--lock", "lock", "--update", "top"]).code(0);
        check(&scratch.root().join("top"), "3");
        // Whole sets, where what stays is shared.
        wipe();
        let both = format!(
            "dest: '%{{name}}'\ntop: {{source: '{0}'}}\nc: {{source: '{1}'}}\n",
            away.url("x/top.git"),
            away.url("x/c.git")
        );
        scratch.manifest(&both);
        let sets = ["--mirror", &url, "--generations", "2"];
        run(&sets).code(0);
        family.c.commit("main", &[("file", Content::File("4"))]);
        let ran = run(&sets).code(0);
        assert_eq!((ran.state("top"), ran.state("c")), ("unchanged".to_owned(), "updated".to_owned()));
        check(&scratch.root().join("current/top"), "3");
        assert_eq!(run(&["--generations", "2", "--verify"]).code(0).state("top"), "clean");
        if mode == "clone" {
            assert_eq!(git(&scratch.root().join("current/top/lib/b/inner"), &["status", "--porcelain=v1"]), "");
            assert!(!git(&scratch.root().join("current/top"), &["submodule", "status"]).contains(['-', '+']));
        }
        family.commit("5");
    }
}

/// What a tree says about its submodules, and what is said about it; `%` is the path of a decoy on this machine.
const HOSTILE: &[(&str, &str, &str)] = &[
    ("name up", "[submodule \"../../../evil\"]\npath = s\nurl = ../b.git\n", "is not a safe name"),
    ("name in", "[submodule \"a/../../hooks\"]\npath = s\nurl = ../b.git\n", "is not a safe name"),
    ("name root", "[submodule \"/tmp/evil\"]\npath = s\nurl = ../b.git\n", "is not a safe name"),
    ("name git", "[submodule \".git\"]\npath = s\nurl = ../b.git\n", "is not a safe name"),
    ("name option", "[submodule \"-x\"]\npath = s\nurl = ../b.git\n", "is not a safe name"),
    ("name quote", "[submodule \"a\\\"]\"]\npath = s\nurl = ../b.git\n", "is not a safe name"),
    (
        "names nested",
        "[submodule \"a\"]\npath = s\nurl = ../b.git\n[submodule \"a/hooks\"]\npath = t\nurl = ../b.git\n",
        "lies in, that of another",
    ),
    (
        "paths nested",
        "[submodule \"a\"]\npath = s\nurl = ../b.git\n[submodule \"b\"]\npath = s/t\nurl = ../b.git\n",
        "lies in, that of another",
    ),
    (
        "paths same",
        "[submodule \"a\"]\npath = s\nurl = ../b.git\n[submodule \"b\"]\npath = s\nurl = ../c.git\n",
        "lies in, that of another",
    ),
    ("path up", "[submodule \"a\"]\npath = ../s\nurl = ../b.git\n", "path that is not safe"),
    ("path in", "[submodule \"a\"]\npath = x/../s\nurl = ../b.git\n", "path that is not safe"),
    ("path root", "[submodule \"a\"]\npath = /s\nurl = ../b.git\n", "path that is not safe"),
    ("path git", "[submodule \"a\"]\npath = .git/hooks\nurl = ../b.git\n", "path that is not safe"),
    ("path option", "[submodule \"a\"]\npath = -s\nurl = ../b.git\n", "path that is not safe"),
    ("path link", "[submodule \"a\"]\npath = link/s\nurl = ../b.git\n", "through a symbolic link"),
    ("update", "[submodule \"a\"]\npath = s\nurl = ../b.git\nupdate = !touch %\n", "wants a command"),
    ("url path", "[submodule \"a\"]\npath = s\nurl = %\n", "a path of this machine"),
    ("url file", "[submodule \"a\"]\npath = s\nurl = file://%\n", "a path of this machine"),
    ("url word", "[submodule \"a\"]\npath = s\nurl = b.git\n", "does not begin with ./"),
    ("url ext", "[submodule \"a\"]\npath = s\nurl = ext::sh -c touch% %\n", "helper program"),
    ("url option", "[submodule \"a\"]\npath = s\nurl = --upload-pack=touch %\n", "begins with '-'"),
    ("url ssh", "[submodule \"a\"]\npath = s\nurl = ssh://-oProxyCommand=touch/x\n", "no valid host"),
    ("url up", "[submodule \"a\"]\npath = s\nurl = ../../../etc/x.git\n", "leaves the server"),
    ("url dots", "[submodule \"a\"]\npath = s\nurl = ../b/%2e%2e/%2e%2e/x\n", "'.' or '..'"),
    ("url line", "[submodule \"a\"]\npath = s\nurl = \"../b\\n.git\"\n", "control character"),
    ("no url", "[submodule \"a\"]\npath = s\n", "has no url"),
    ("other path", "[submodule \"a\"]\npath = t\nurl = ../b.git\n", "does not name it"),
    ("nothing", "", "does not name it"),
    ("include", "[include]\n\tpath = %\n", "does not name it"),
    ("syntax", "[submodule \"a\"\n", "line 1: "),
];

#[test]
fn hostile_submodules_are_refused_by_name() {
    let server = GitServer::start();
    let b = server.repo("b.git");
    let inner = b.commit("main", &[("file", Content::File("1"))]);
    let scratch = Scratch::new();
    let decoy = Repo::create(&scratch.path("decoy"));
    decoy.commit("main", &[("secret", Content::File("canary"))]);
    std::fs::write(scratch.path("decoy/modules"), gitmodules(&[("a", "s", "../b.git")])).expect("written");
    let mut manifest = String::from("dest: 'm/%{name}'\n");
    let mut said = Vec::new();
    for (number, (what, modules, why)) in HOSTILE.iter().enumerate() {
        let decoy = if modules.starts_with("[include]") { "decoy/modules" } else { "decoy" };
        let text = modules.replace('%', &scratch.path(decoy).display().to_string());
        // Percent-encoded dots are meant as they stand.
        let text = if modules.contains("%2e") { (*modules).to_owned() } else { text };
        let entries = [
            (".gitmodules", Content::File(&text)),
            ("s", Content::Submodule(&inner)),
            ("link", Content::Link("dir")),
            ("dir/file", Content::File("x")),
        ];
        let entries = if text.is_empty() { &entries[1..] } else { &entries[..] };
        server.repo(&format!("h{number}.git")).commit("main", entries);
        manifest.push_str(&format!("h{number}: {{source: '{}'}}\n", server.url(&format!("h{number}.git"))));
        said.push((what, why));
    }
    scratch.manifest(&manifest);
    let before: Vec<String> = files(&scratch.path(""));
    for mode in MODES {
        drop(server.requests());
        let ran = scratch.run(&["--json", "--mode", mode, "--retries", "0"]).code(1);
        for (number, (what, why)) in said.iter().enumerate() {
            let line = ran.line(&format!("h{number}"));
            let message = line["message"].as_str().unwrap_or_default();
            assert_eq!(line["cause"], "ref", "{mode} {what}: {message}");
            assert!(
                message.contains("submodules are refused: ") && message.contains(**why),
                "{mode} {what}: {message}"
            );
        }
        assert!(server.requests().iter().all(|request| !request.line.contains("/b.git")), "nothing was asked for");
        let left: Vec<String> = files(&scratch.path("")).into_iter().filter(|path| !before.contains(path)).collect();
        assert_eq!(left, ["root/.cloner/lock"], "{mode}");
    }
    // Left empty, none of this means anything.
    scratch.run_with(&["--mode", "export"], &["--submodules=false"]).code(0);
    assert!(scratch.root().join("m/h0/s").is_dir());
    crate::support::said(&format!("{} hostile .gitmodules, each in 2 modes", HOSTILE.len()));
}

#[test]
fn hostile_submodules_deeper_down_are_refused_too() {
    let server = GitServer::start();
    let url = |name: &str| format!("../{name}.git");
    let plain = server.repo("plain.git").commit("main", &[("file", Content::File("1"))]);
    // One that contains itself through another one, one that is too deep, and one that has a link for a file in it.
    let (one, two) = (server.repo("one.git"), server.repo("two.git"));
    let first = one.commit("main", &[("file", Content::File("1"))]);
    let middle = two.commit(
        "main",
        &[(".gitmodules", Content::File(&gitmodules(&[("o", "o", &url("one"))]))), ("o", Content::Submodule(&first))],
    );
    one.commit(
        "main",
        &[(".gitmodules", Content::File(&gitmodules(&[("t", "t", &url("two"))]))), ("t", Content::Submodule(&middle))],
    );
    let mut below = plain;
    for number in (0..10).rev() {
        let to = if number == 9 { url("plain") } else { url(&format!("d{}", number + 1)) };
        let modules = gitmodules(&[("x", "x", &to)]);
        let entries = [(".gitmodules", Content::File(&modules)), ("x", Content::Submodule(&below))];
        below = server.repo(&format!("d{number}.git")).commit("main", &entries);
    }
    let evil = server.repo("evil.git").commit_raw("main", &[("120000", "l", "../../../../etc")]);
    let modules = gitmodules(&[("e", "e", &url("evil"))]);
    let entries = [(".gitmodules", Content::File(&modules)), ("e", Content::Submodule(&evil))];
    server.repo("linked.git").commit("main", &entries);
    // A submodule of itself, as pages of a site have it, is none of these.
    let site = server.repo("site.git");
    let pages = site.commit("pages", &[("index", Content::File("1"))]);
    let modules = gitmodules(&[("p", "p", "./")]);
    site.commit("main", &[(".gitmodules", Content::File(&modules)), ("p", Content::Submodule(&pages))]);
    for mode in MODES {
        let scratch = Scratch::new();
        let mut manifest = String::from("dest: 'm/%{name}'\n");
        for name in ["one", "d0", "linked", "site"] {
            manifest.push_str(&format!("{name}: {{source: '{}'}}\n", server.url(&format!("{name}.git"))));
        }
        scratch.manifest(&manifest);
        let ran = scratch.run(&["--json", "--mode", mode, "--retries", "0"]).code(1);
        for (name, why) in [("one", "that it is in itself"), ("d0", "deep in others"), ("linked", "leaves the tree")] {
            let message = ran.line(name)["message"].as_str().unwrap_or_default().to_owned();
            assert!(message.starts_with("submodule '") && message.contains(why), "{mode} {name}: {message}");
            assert!(!scratch.root().join("m").join(name).exists());
        }
        assert_eq!(scratch.read("m/site/p/index"), "1");
    }
}
