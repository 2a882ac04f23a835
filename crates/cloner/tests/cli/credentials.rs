//! Who is told which credentials, and who never is.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use test_support::git::{Behaviour, GitServer};

use crate::support::{Ran, Scratch, one_file};

fn write(path: &Path, mode: u32, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
}

#[test]
fn credentials_go_to_their_own_server_only() {
    let (ours, theirs) = (GitServer::start(), GitServer::start());
    one_file(&ours, "1");
    one_file(&theirs, "1");
    let scratch = Scratch::new();
    scratch.manifest(&format!("m: {{source: 'http://me:pw@{}/m.git', dest: m}}\n", ours.authority()));
    ours.behave(Behaviour::Login("Basic bWU6cHc=".to_owned()));
    scratch.run(&["--mode", "export"]).code(0);
    ours.behave(Behaviour::Redirect(format!("http://{}", theirs.authority())));
    drop(ours.requests());
    scratch.run_with(&["--mode", "export"], &["--m::dest=n"]).code(0);
    assert!(ours.requests()[0].authorization.is_some());
    let seen = theirs.requests();
    assert!(seen.len() > 1, "the redirect holds for the fetch too");
    assert!(seen.iter().all(|request| request.authorization.is_none()));
}

#[test]
fn credentials_come_from_netrc_too() {
    let server = GitServer::start();
    one_file(&server, "1");
    server.behave(Behaviour::Login("Basic bWU6cHc=".to_owned()));
    let scratch = Scratch::of(&server);
    assert_eq!(scratch.run(&["--json"]).code(1).cause("m"), "auth");
    let netrc = scratch.path(".netrc");
    write(&netrc, 0o644, "machine 127.0.0.1 login me password pw\n");
    assert!(scratch.run(&[]).code(1).err.contains("others may read it"));
    std::fs::set_permissions(&netrc, PermissionsExt::from_mode(0o600)).expect("set");
    scratch.run(&[]).code(0);
    assert_eq!(scratch.read("m/file"), "1");
}

#[test]
fn credentials_come_from_gits_helpers_when_they_are_wanted() {
    let (server, other) = (GitServer::start(), GitServer::start());
    one_file(&server, "1");
    one_file(&other, "1");
    let scratch = Scratch::of(&server);
    let helper = scratch.path("helper");
    let log = scratch.path("asked");
    write(&helper, 0o755, &format!("#!/bin/sh\ncat >> {}\necho username=me\necho password=pw\n", log.display()));
    write(&scratch.path(".gitconfig"), 0o644, &format!("[credential]\n\thelper = {}\n", helper.display()));
    let run = || {
        let mut command = scratch.command(&["--json"]);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).arg("repos.yaml");
        Ran::from(command.output().expect("it runs"))
    };
    run().code(0);
    assert!(!log.exists(), "a server that wants none gets none");
    server.behave(Behaviour::Login("Basic bWU6cHc=".to_owned()));
    drop(std::fs::remove_dir_all(scratch.root()));
    run().code(0);
    let asked = std::fs::read_to_string(&log).expect("the helper was asked");
    assert_eq!(asked.matches("protocol=http\n").count(), 1, "once for a server: {asked}");
    // Nobody is asked about a server that the manifest does not name.
    other.behave(Behaviour::Login("Basic bWU6cHc=".to_owned()));
    server.behave(Behaviour::Redirect(format!("http://{}", other.authority())));
    drop(std::fs::remove_dir_all(scratch.root()));
    std::fs::remove_file(&log).expect("removed");
    assert_eq!(run().code(1).cause("m"), "auth");
    assert!(!log.exists());
    assert!(other.requests().iter().all(|request| request.authorization.is_none()));
}

#[test]
fn a_token_file_is_for_its_server_only() {
    let (server, other) = (GitServer::start(), GitServer::start());
    one_file(&server, "1");
    one_file(&other, "1");
    // x-access-token:t0ken, and me:t0ken where the source names a user.
    for (user, header) in [("", "Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="), ("me@", "Basic bWU6dDBrZW4=")] {
        server.behave(Behaviour::Login(header.to_owned()));
        let scratch = Scratch::new();
        scratch.manifest(&format!(
            "dest: '%{{name}}'\na: {{source: 'http://{user}{}/m.git'}}\nb: {{source: '{}'}}\n",
            server.authority(),
            other.url("m.git")
        ));
        std::fs::write(scratch.path("token"), "t0ken\n").expect("written");
        let mode =
            |bits| std::fs::set_permissions(scratch.path("token"), PermissionsExt::from_mode(bits)).expect("set");
        let named = format!("{}=token", server.authority());
        let options = ["--mode", "export", "--json", "-vv", "--token-file", &named];
        mode(0o640);
        let ran = scratch.run(&options).code(2);
        assert!(ran.err.contains("others may read it"), "{}", ran.err);
        mode(0o600);
        let ran = scratch.run(&options).code(0);
        assert!(!ran.out.contains("t0ken") && !ran.err.contains("t0ken"));
        assert!(other.requests().iter().all(|request| request.authorization.is_none()));
    }
    Scratch::of(&server).run(&["--token-file", "nothing"]).code(2);
}

#[test]
fn a_helper_is_asked_for_the_user_of_the_source_and_after_netrc_was_refused() {
    let server = GitServer::start();
    one_file(&server, "1");
    server.behave(Behaviour::Login("Basic bWU6cHc=".to_owned()));
    let scratch = Scratch::new();
    scratch.manifest(&format!("m: {{source: 'http://me@{}/m.git', dest: m}}\n", server.authority()));
    let (helper, log) = (scratch.path("helper"), scratch.path("asked"));
    write(&helper, 0o755, &format!("#!/bin/sh\ncat >> {}\necho password=pw\n", log.display()));
    write(&scratch.path(".gitconfig"), 0o644, &format!("[credential]\n\thelper = {}\n", helper.display()));
    write(&scratch.path(".netrc"), 0o600, "machine 127.0.0.1 login me password wrong\n");
    let mut command = scratch.command(&["--json"]);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).arg("repos.yaml");
    Ran::from(command.output().expect("it runs")).code(0);
    let asked = std::fs::read_to_string(&log).expect("the helper was asked");
    assert!(asked.contains("username=me\n"), "{asked}");
    assert_eq!(asked.matches("protocol=http\n").count(), 1, "{asked}");
}
