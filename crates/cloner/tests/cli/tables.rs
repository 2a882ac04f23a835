//! Hostile words, one JSON value a line in `hostile/`: each is refused by its name, before any request,
//! without a process, and nothing is written.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use test_support::git::{Content, GitServer};

use crate::support::{Ran, Scratch, files, said};

/// Programs that a source, ref or place might talk cloner into running; each leaves a mark.
const DECOYS: [&str; 8] = ["git", "ssh", "sh", "bash", "ssh-keygen", "gpg", "gpgv", "git-lfs"];

fn table<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{line}: {err}"))).collect()
}

/// Runs and checks that no other program was started and nothing but the root's state was written.
fn run(scratch: &Scratch, options: &[&str], overrides: &[String]) -> Ran {
    let decoys = scratch.path("decoys");
    if !decoys.exists() {
        std::fs::create_dir(&decoys).expect("made");
        for name in DECOYS {
            let path = decoys.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n: >{}\n", scratch.path("started").display())).expect("written");
            let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("executable");
        }
    }
    let before = outside(scratch);
    let log = scratch.path("trace");
    let cloner = scratch.command(options);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=execve", "-o"]).arg(&log);
    let traced =
        Command::new("strace").args(["-o", "/dev/null", "true"]).output().is_ok_and(|ran| ran.status.success());
    if traced {
        // The decoys are for cloner: strace itself is found where this process finds it.
        command.arg("-E").arg(format!("PATH={}", decoys.display())).arg(cloner.get_program());
    } else {
        command = Command::new(cloner.get_program());
    }
    command.args(cloner.get_args()).arg("repos.yaml").args(overrides).current_dir(scratch.path(""));
    command.env_clear().env("HOME", scratch.path("")).stdin(Stdio::null());
    command.env("PATH", if traced { std::env::var_os("PATH").unwrap_or_default() } else { decoys.into_os_string() });
    let ran = Ran::from(command.output().expect("it runs"));
    if traced {
        let trace = std::fs::read_to_string(&log).expect("traced");
        assert_eq!(trace.lines().filter(|line| line.contains("execve(")).count(), 1, "{trace}");
        std::fs::remove_file(&log).expect("removed");
    }
    assert!(!scratch.path("started").exists(), "a program was started");
    assert_eq!(outside(scratch), before);
    let within: Vec<String> = files(&scratch.root()).into_iter().filter(|path| path != ".cloner/lock").collect();
    assert!(within.is_empty(), "{within:?}");
    ran
}

/// All files but those below the root.
fn outside(scratch: &Scratch) -> BTreeSet<String> {
    let all = files(&scratch.path(""));
    all.into_iter().filter(|path| !Path::new(path).starts_with("root")).collect()
}

/// Each value in a repository of its own, under `key`, beside the fixed values.
fn refused(key: &str, values: &[String], fixed: &Map<String, Value>, cause: &str, options: &[&str]) {
    let scratch = Scratch::new();
    let mut manifest = fixed.clone();
    for (number, value) in values.iter().enumerate() {
        manifest.insert(format!("r{number}"), json!({ key: value }));
    }
    scratch.manifest(&Value::Object(manifest).to_string());
    let ran = run(&scratch, &[&["--json", "--retries", "0", "--timeout", "5s"], options].concat(), &[]).code(1);
    let mut accepted = Vec::new();
    for (number, value) in values.iter().enumerate() {
        let name = format!("r{number}");
        if ran.state(&name) != "failed" || ran.cause(&name) != cause {
            accepted.push(format!("{value:?}: {}", ran.line(&name)));
        }
        assert!(ran.err.contains(&format!("error: {name} (")), "{value:?} is not named: {}", ran.err);
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    said(&format!("{} hostile values of '{key}' refused", values.len()));
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("an object") };
    map
}

#[test]
fn hostile_sources_are_refused() {
    let sources: Vec<String> = table(include_str!("hostile/sources.txt"));
    let fixed = object(json!({ "dest": "m/%{name}" }));
    refused("source", &sources, &fixed, "manifest", &[]);
    // A mirror stands in for hosts, not for judgement.
    refused("source", &sources, &fixed, "manifest", &["--mirror", "/nonexistent/mirror"]);
}

#[test]
fn hostile_refs_are_refused() {
    let server = GitServer::start();
    server.repo("m.git").commit("main", &[("x", Content::File("y"))]);
    let refs: Vec<String> = table(include_str!("hostile/refs.txt"));
    let fixed = object(json!({ "source": server.url("m.git"), "dest": "m/%{name}" }));
    refused("ref", &refs, &fixed, "ref", &[]);
    assert_eq!(server.requests(), [], "they are refused before anybody is asked");
}

#[test]
fn hostile_places_are_refused() {
    let server = GitServer::start();
    server.repo("m.git").commit("main", &[("x", Content::File("y"))]);
    let dests: Vec<String> = table(include_str!("hostile/dests.txt"));
    let fixed = object(json!({ "source": server.url("m.git") }));
    refused("dest", &dests, &fixed, "manifest", &[]);
    refused("dest", &dests, &fixed, "manifest", &["--force"]);
    assert!(server.requests().is_empty());
}

#[test]
fn hostile_overrides_are_refused() {
    let server = GitServer::start();
    server.repo("m.git").commit("main", &[("x", Content::File("y"))]);
    let scratch = Scratch::new();
    scratch.manifest(&format!("dest: 'm/%{{name}}'\ng: {{r: {{source: '{}', ref: main}}}}\n", server.url("m.git")));
    let overrides: Vec<Vec<String>> = table(include_str!("hostile/overrides.txt"));
    for words in &overrides {
        let ran = run(&scratch, &[], words).code(2);
        let first = ran.err.lines().next().unwrap_or_default();
        let named = words.iter().any(|word| {
            let word = toolkit::exit::one_line(word.split('=').next().unwrap_or(word));
            first.contains(&word) || first.len() > 1000
        });
        assert!(first.starts_with("cloner: error: ") && named, "{words:?}: {}", ran.err);
        assert!(ran.out.is_empty() && !scratch.root().exists(), "{words:?}");
    }
    assert!(server.requests().is_empty());
    said(&format!("{} hostile overrides refused", overrides.len()));
    let others =
        [include_str!("hostile/sources.txt"), include_str!("hostile/refs.txt"), include_str!("hostile/dests.txt")];
    let all = overrides.len() + others.map(|text| table::<String>(text).len()).iter().sum::<usize>();
    said(&format!("{all} hostile sources, refs, places and overrides in all"));
    assert!(all >= 200, "{all}");
}
