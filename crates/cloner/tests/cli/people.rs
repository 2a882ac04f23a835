//! What is told to people, programs and monitoring.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use test_support::git::{Content, GitServer};

use crate::support::{Scratch, binary, files, one_file, skipped};

/// Two repositories, and a program that appends its stdin to `told` and then does what `more` says.
fn scene(server: &GitServer, more: &str) -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    scratch.manifest(&format!("dest: m/%{{name}}\nsource: '{}'\na: {{}}\nb: {{}}\n", server.url("m.git")));
    let program = scratch.path("hook");
    let text =
        format!("#!/bin/sh\necho run >>{0}/runs\n{more}\ncat >>{0}/told\necho noise\n", scratch.path("").display());
    std::fs::write(&program, text).expect("written");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("executable");
    (scratch, program)
}

/// What the program was told since the last look, and how often it was run.
fn told(scratch: &Scratch) -> (usize, Vec<(String, String)>) {
    let take = |name: &str| {
        let text = std::fs::read_to_string(scratch.path(name)).unwrap_or_default();
        let _ = std::fs::remove_file(scratch.path(name));
        text
    };
    let lines = take("told").lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>();
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (take("runs").lines().count(), lines.iter().map(|line| (word(line, "name"), word(line, "state"))).collect())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn a_program_is_told_once_what_has_changed() {
    let server = GitServer::start();
    let (repo, _) = one_file(&server, "1");
    let (scratch, program) = scene(&server, ":");
    let hook = program.to_str().expect("UTF-8");
    let options = ["--mode", "export", "--on-change", hook, "--purge", "--json"];
    let ran = scratch.run(&options).code(0);
    assert_eq!(told(&scratch), (1, pairs(&[("a", "placed"), ("b", "placed")])));
    assert!(!ran.out.contains("noise") && ran.err.contains("noise"), "its output is no data of ours");
    scratch.run(&options).code(0);
    assert_eq!(told(&scratch), (0, vec![]), "nothing changed");
    repo.commit("main", &[("file", Content::File("2"))]);
    scratch.manifest(&format!("dest: m/%{{name}}\nsource: '{}'\na: {{}}\n", server.url("m.git")));
    scratch.run(&options).code(0);
    assert_eq!(told(&scratch), (1, pairs(&[("a", "updated"), ("b", "purged")])));
    assert!(!scratch.root().join(".cloner/changed").exists());
    // A relative path is one of this directory, not of the search path.
    repo.commit("main", &[("file", Content::File("3"))]);
    scratch.run(&["--mode", "export", "--on-change", "hook"]).code(0);
    assert_eq!(told(&scratch).0, 1);
}

#[test]
fn what_a_program_could_not_be_told_is_told_by_the_next_run() {
    let server = GitServer::start();
    let (repo, commit) = one_file(&server, "1");
    let (scratch, program) = scene(&server, &format!("[ -e {0} ] || exit 3", "ready"));
    let options = ["--mode", "export", "--on-change", program.to_str().expect("UTF-8"), "--timeout", "10s"];
    let ran = scratch.run(&options).code(1);
    assert!(ran.err.contains("it ended with 3"), "{}", ran.err);
    assert_eq!(scratch.read("m/a/file"), "1", "the trees are placed all the same");
    assert_eq!(told(&scratch), (1, vec![]));
    std::fs::write(scratch.path("ready"), "").expect("written");
    scratch.run(&options).code(0);
    assert_eq!(told(&scratch), (1, pairs(&[("a", "placed"), ("b", "placed")])), "although this run changed nothing");
    scratch.run(&options).code(0);
    assert_eq!(told(&scratch).0, 0);
    // As a run leaves it that is killed between placing and telling.
    let note = scratch.root().join(".cloner/changed");
    std::fs::write(
        &note,
        format!("{{\"name\":\"b\",\"dest\":\"m/b\",\"state\":\"updated\",\"new\":\"{commit}\"}}\nhalf"),
    )
    .expect("written");
    scratch.manifest(&format!("dest: m/%{{name}}\nsource: '{}'\na: {{}}\n", server.url("m.git")));
    repo.commit("main", &[("file", Content::File("2"))]);
    scratch.run(&options).code(0);
    assert_eq!(told(&scratch), (1, pairs(&[("b", "updated"), ("a", "updated")])));
    std::fs::remove_file(&program).expect("removed");
    repo.commit("main", &[("file", Content::File("3"))]);
    assert!(scratch.run(&options).code(1).err.contains("cannot run it"));
}

#[test]
fn a_program_that_hangs_ends_with_the_time_limit() {
    let server = GitServer::start();
    one_file(&server, "1");
    let (scratch, program) = scene(&server, "sleep 600");
    let ran = scratch.run(&["--on-change", program.to_str().expect("UTF-8"), "--timeout", "1s"]).code(1);
    assert!(ran.err.contains("ended after 1s"), "{}", ran.err);
}

#[test]
fn monitoring_sees_what_failed_and_that_a_run_could_not_be_made() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::new();
    scratch.manifest(&format!(
        "dest: m/%{{name}}\na: {{source: '{0}'}}\nb: {{source: '{0}', ref: nowhere}}\n",
        server.url("m.git")
    ));
    let metrics = || std::fs::read_to_string(scratch.path("cloner.prom")).expect("written");
    let has = |line: &str| assert!(metrics().lines().any(|have| have == line), "{line}: {}", metrics());
    scratch.run(&["--metrics", "cloner.prom"]).code(1);
    has("cloner_last_run_exit_code 1");
    has("cloner_repositories{state=\"placed\"} 1");
    has("cloner_repository_failed{name=\"b\",dest=\"m/b\",cause=\"ref\"} 1");
    scratch.manifest("a: [");
    scratch.run(&["--metrics", "cloner.prom"]).code(65);
    has("cloner_last_run_exit_code 65");
    has("cloner_repositories{state=\"failed\"} 0");
    assert!(scratch.run(&["--metrics", "nowhere/cloner.prom"]).code(65).err.contains("cannot write the metrics"));
}

#[test]
fn people_read_the_worst_first() {
    let server = GitServer::start();
    let (repo, _) = one_file(&server, "1");
    let scratch = Scratch::new();
    scratch.manifest(&format!(
        "dest: m/%{{name}}\nsource: '{}'\na: {{}}\nb: {{ref: later}}\nc: {{dest: ../out}}\n",
        server.url("m.git")
    ));
    let names = |text: &str| {
        let lines = text.lines().filter(|line| line.contains(" (")).map(str::to_owned).collect::<Vec<_>>();
        lines.iter().map(|line| line.replace("cloner: ", "").replace("error: ", "")[..1].to_owned()).collect::<String>()
    };
    let ran = scratch.run(&["-v"]).code(1);
    assert_eq!(names(&ran.err), "bca", "{}", ran.err);
    repo.commit("later", &[("file", Content::File("2"))]);
    repo.commit("main", &[("file", Content::File("3"))]);
    assert_eq!(names(&scratch.run(&["-v"]).code(1).err), "cab", "updated before placed");
    let json = scratch.run(&["--json"]).code(1);
    let order: Vec<Value> = json.lines().iter().take(3).map(|line| line["name"].clone()).collect();
    assert_eq!(order, ["a", "b", "c"], "JSON keeps the manifest's order");
}

#[test]
fn progress_is_drawn_on_a_terminal_only() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::new();
    scratch.manifest(&format!("dest: m/%{{name}}\nsource: '{}'\na: {{}}\nb: {{}}\n", server.url("m.git")));
    let line = format!("{} --root root --mode export repos.yaml", binary().display());
    let script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .current_dir(scratch.path(""))
        .stdin(Stdio::null())
        .output();
    let Ok(output) = script else { return skipped("there is no script program") };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("0/2: a") && text.contains("\x1b[K"), "{text:?}");
    assert!(text.contains("2 repositories: 2 placed"), "{text:?}");
    assert!(!scratch.run(&["-v"]).code(0).err.contains('\x1b'));
}

/// Each form says the same set, also at locked commits.
#[test]
fn forms_of_other_tools_are_read_and_written() {
    let server = GitServer::start();
    let (_, commit) = one_file(&server, "1");
    let scratch = Scratch::new();
    let source = server.url("m.git");
    let with_login = source.replace("//", "//me:canary@");
    scratch.manifest(&format!(
        "g:\n  source: '{with_login}'\n  dest: 'm/%{{name}}'\n  a: {{ref: main}}\n  'b c': {{dest: \"m/it's\"}}\n"
    ));
    let convert = |file: &str, form: &str, more: &[&str]| {
        let command = scratch.command(&[&["--convert", form], more].concat()).arg(file).output();
        let ran = crate::support::Ran::from(command.expect("it runs")).code(0);
        assert!(!ran.out.contains("canary"));
        ran.out
    };
    let plain = |text: &str| text.lines().map(|line| line.trim_start().to_owned()).collect::<Vec<_>>().join("\n");
    for (form, file) in [("puppetfile", "Puppetfile"), ("repos", "all.repos"), ("manifest", "other.yaml")] {
        std::fs::write(scratch.path(file), convert("repos.yaml", form, &[])).expect("written");
        let ran = scratch.command(&["--status", "--json"]).arg(file).output().expect("it runs");
        let ran = crate::support::Ran::from(ran).code(1);
        let said: Vec<(String, Value)> = ran.lines()[..2]
            .iter()
            .map(|line| (line["dest"].as_str().unwrap_or_default().to_owned(), line["ref"].clone()))
            .collect();
        assert_eq!(said, [("m/a".to_owned(), "main".into()), ("m/it's".to_owned(), Value::Null)], "{form}");
        assert_eq!(
            plain(&convert(file, form, &[])),
            plain(&convert("repos.yaml", form, &[])),
            "{form}: there and back"
        );
    }
    scratch.run(&["--mode", "export", "--lock", "lock"]).code(0);
    let locked = convert("repos.yaml", "puppetfile", &["--lock", "lock", "--locked"]);
    assert_eq!(locked.matches(&commit).count(), 2, "{locked}");
    let ran =
        scratch.run_with(&["--convert", "manifest", "--lock", "lock", "--locked"], &["--g::a::ref=other"]).code(2);
    assert!(ran.err.contains("no entry of 'a'"), "{}", ran.err);
    let placed =
        scratch.command(&["--mode", "export", "--json", "--force"]).arg("all.repos").output().expect("it runs");
    crate::support::Ran::from(placed).code(0);
}

#[test]
fn a_plan_lists_what_updates_would_bring() {
    let server = GitServer::start();
    let (repo, _) = one_file(&server, "0");
    let scratch = Scratch::new();
    for source in [server.url("m.git"), repo.path().display().to_string()] {
        scratch.manifest(&format!("m: {{source: '{source}', dest: m}}\n"));
        scratch.run(&["--mode", "export"]).code(0);
        let commits: Vec<String> =
            (1..4).map(|text| repo.commit("main", &[("file", Content::File(&text.to_string()))])).collect();
        let before = files(&scratch.root());
        let plan = scratch.run(&["--mode", "export", "--plan", "--diff", "--json"]).code(0).line("m");
        let expected: Vec<String> = commits.iter().rev().map(|commit| format!("{} test", &commit[..10])).collect();
        let mut listed: Vec<String> = serde_json::from_value(plan["log"].clone()).expect("a log");
        assert_eq!(listed.len(), 3, "{source}: {listed:?}");
        // They were all made in the same second.
        listed.sort();
        assert_eq!(
            listed,
            {
                let mut sorted = expected;
                sorted.sort();
                sorted
            },
            "{source}"
        );
        let text = scratch.run(&["--mode", "export", "--plan", "--diff"]).code(0).out;
        assert!(text.contains(&format!("\n    {} test\n", &commits[2][..10])), "{text}");
        assert_eq!(files(&scratch.root()), before, "a plan changes nothing");
        assert!(scratch.run(&["--mode", "export", "--plan", "--json"]).code(0).line("m")["log"].is_null());
        // The plan is what then happens.
        let done = scratch.run(&["--mode", "export", "--json"]).code(0).line("m");
        assert_eq!((&plan["old"], &plan["new"]), (&done["old"], &done["new"]));
        for number in 0..30 {
            repo.commit("main", &[("file", Content::File(&format!("{number} more")))]);
        }
        let log = scratch.run(&["--mode", "export", "--plan", "--diff", "--json"]).code(0).line("m")["log"].clone();
        assert_eq!(log.as_array().map(Vec::len), Some(21));
        assert_eq!(log[20], "and 10 more");
        // Somebody has rewritten the history.
        let other = server.repo("other.git");
        let fresh = other.commit("main", &[("file", Content::File(&source))]);
        let status = Command::new("git")
            .args(["-C", &repo.path().display().to_string(), "fetch", "-q"])
            .arg(other.path())
            .arg("+main:main")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .status();
        assert!(status.expect("git runs").success());
        let log = scratch.run(&["--mode", "export", "--plan", "--diff", "--json"]).code(0).line("m")["log"].clone();
        assert_eq!(log[0], format!("{} test", &fresh[..10]));
        assert!(log[1].as_str().is_some_and(|line| line.ends_with("is not in its history")), "{log}");
        std::fs::remove_dir_all(other.path()).expect("removed");
    }
    scratch.run(&["--diff"]).code(2);
}
