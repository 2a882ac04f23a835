//! Servers that fail, lie or wait.

use std::time::{Duration, Instant};

use test_support::git::{Behaviour, Content, GitServer};

use crate::support::{Scratch, one_file, said};

#[test]
fn a_silent_and_a_dripping_server_end_with_the_time_limit() {
    let server = GitServer::start();
    one_file(&server, "1");
    for behaviour in [Behaviour::Hang, Behaviour::Drip] {
        server.behave(behaviour.clone());
        let scratch = Scratch::of(&server);
        let start = Instant::now();
        let ran = scratch.run(&["--json", "--timeout", "1s"]).code(1);
        assert!(start.elapsed() < Duration::from_secs(4), "{behaviour:?} took {:?}", start.elapsed());
        assert_eq!(ran.cause("m"), "network");
        assert!(!scratch.root().join("m").exists());
    }
}

#[test]
fn every_fault_ends_in_time_and_the_others_are_placed() {
    let late = |behaviour: Behaviour| Behaviour::Late(Box::new(behaviour));
    let faults = [
        ("hang", Behaviour::Hang, "network"),
        ("drip", Behaviour::Drip, "network"),
        ("reset", Behaviour::Reset, "network"),
        ("cut", Behaviour::Cut, "network"),
        ("freeze", Behaviour::Freeze, "network"),
        ("busy", Behaviour::Status(503, "Retry-After: 1".to_owned()), "network"),
        ("auth", Behaviour::Login("Basic x".to_owned()), "auth"),
        ("away", Behaviour::Redirect("http://127.0.0.1:1".to_owned()), "network"),
        ("late-hang", late(Behaviour::Hang), "network"),
        ("late-drip", late(Behaviour::Drip), "network"),
        ("late-reset", late(Behaviour::Reset), "network"),
        ("late-cut", late(Behaviour::Cut), "network"),
        ("late-freeze", late(Behaviour::Freeze), "network"),
        ("late-busy", late(Behaviour::Status(503, String::new())), "network"),
        ("late-auth", late(Behaviour::Status(401, String::new())), "auth"),
    ];
    let mut manifest = String::from("dest: '%{name}'\n");
    let mut servers = Vec::new();
    for (name, ..) in &faults {
        let server = GitServer::start();
        one_file(&server, name);
        manifest.push_str(&format!("{name}: {{source: '{}'}}\n", server.url("m.git")));
        servers.push(server);
    }
    let healthy = GitServer::start();
    for number in 0..8 {
        let name = format!("ok{number}");
        healthy.repo(&format!("{name}.git")).commit("main", &[("file", Content::File(&name))]);
        manifest.push_str(&format!("{name}: {{source: '{}'}}\n", healthy.url(&format!("{name}.git"))));
    }
    for mode in ["export", "clone"] {
        let run = |limit: Duration| {
            let scratch = Scratch::new();
            scratch.manifest(&manifest);
            let start = Instant::now();
            let limit = format!("{}ms", limit.as_millis());
            let ran = scratch.run(&["--json", "--timeout", &limit, "--retries", "2", "--jobs", "32", "--mode", mode]);
            (scratch, ran, start.elapsed())
        };
        // What a run without faults takes here and now belongs to no wait.
        servers.iter().for_each(|server| server.behave(Behaviour::Serve));
        let (_, ran, base) = run(Duration::from_secs(60));
        let limit = Duration::from_secs(3) + 2 * base;
        ran.code(0);
        servers.iter().zip(&faults).for_each(|(server, (_, behaviour, _))| server.behave(behaviour.clone()));
        let (scratch, ran, took) = run(limit);
        let ran = ran.code(1);
        for number in 0..8 {
            assert_eq!(scratch.read(&format!("ok{number}/file")), format!("ok{number}"));
        }
        for (name, _, cause) in &faults {
            assert_eq!(ran.cause(name), *cause, "{name}");
            assert!(!scratch.root().join(name).exists(), "{name}");
        }
        said(&format!(
            "mode {mode}: {} faults, {took:?} with a limit of {limit:?}, {base:?} without faults",
            faults.len()
        ));
        assert!(took < limit + Duration::from_secs(1) + base, "{took:?}");
    }
}

#[test]
fn passing_failures_are_tried_again_and_lasting_ones_are_not() {
    let server = GitServer::start();
    one_file(&server, "1");
    server.behave(Behaviour::StatusTimes(503, 2));
    Scratch::of(&server).run(&["--retries", "2"]).code(0);
    server.behave(Behaviour::StatusTimes(503, 2));
    Scratch::of(&server).run(&["--retries", "1"]).code(1);
    for (status, cause) in [(401, "auth"), (403, "auth"), (404, "network")] {
        server.behave(Behaviour::Status(status, String::new()));
        drop(server.requests());
        assert_eq!(Scratch::of(&server).run(&["--json", "--retries", "5"]).code(1).cause("m"), cause);
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[test]
fn retry_after_is_honoured_within_the_time_limit() {
    let server = GitServer::start();
    one_file(&server, "1");
    for wait in ["3600", "18446744073709551615"] {
        server.behave(Behaviour::Status(429, format!("Retry-After: {wait}")));
        let start = Instant::now();
        Scratch::of(&server).run(&["--retries", "5", "--timeout", "20s"]).code(1);
        assert!(start.elapsed() < Duration::from_secs(3), "such a wait does not fit, so there is none");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn hostile_redirects_are_refused() {
    let server = GitServer::start();
    one_file(&server, "1");
    let to_self = format!("http://{}", server.authority());
    for to in ["file:///etc", "ssh://x", "http://127.0.0.1:1", &to_self] {
        server.behave(Behaviour::Redirect(to.to_owned()));
        let ran = Scratch::of(&server).run(&["--json", "--retries", "0"]).code(1);
        assert_eq!(ran.cause("m"), "network", "{to}");
    }
    assert!(server.requests().len() <= 12, "a loop ends");
}

#[test]
fn other_answers_than_gits_are_refused() {
    let server = GitServer::start();
    server.behave(Behaviour::Status(200, "Content-Type: text/html".to_owned()));
    let ran = Scratch::of(&server).run(&["--json"]).code(1);
    assert!(ran.line("m")["message"].as_str().is_some_and(|message| message.contains("not git's smart protocol")));
    // The right label on nothing at all.
    let label = "Content-Type: application/x-git-upload-pack-advertisement".to_owned();
    server.behave(Behaviour::Status(200, label));
    assert_eq!(Scratch::of(&server).run(&["--json", "--retries", "0"]).code(1).cause("m"), "network");
}

#[test]
fn few_requests_are_made_and_none_for_a_pin_in_place() {
    let server = GitServer::start();
    let (repo, first) = one_file(&server, "1");
    repo.commit("main", &[("file", Content::File("2"))]);
    let scratch = Scratch::new();
    scratch.manifest(&format!("m: {{source: '{}', dest: m, ref: {first}}}\n", server.url("m.git")));
    let requests = |overrides: &[&str]| {
        scratch.run_with(&["--mode", "export"], overrides).code(0);
        server.requests().len()
    };
    // A commit is asked for by its id, a name is looked up first; older servers are greeted, and asked where the
    // history is cut off.
    for (old, expected) in [(false, [1, 0, 2, 1]), (true, [4, 0, 4, 2])] {
        server.speak_old(old);
        server.allow_any_commit(old);
        drop(std::fs::remove_dir_all(scratch.root()));
        let seen = [requests(&[]), requests(&[]), requests(&["--m::ref=main"]), requests(&["--m::ref=main"])];
        assert_eq!(seen, expected, "old: {old}");
        assert_eq!(scratch.read("m/file"), "2");
    }
}

/// Publishes the refs index and the packs of `repos` below the server's mirror path `mirror`.
fn publish(server: &GitServer, places: &[(&str, &test_support::git::Repo)]) {
    use cloner::refsindex::{Pack, Refs, write};
    use sha2::{Digest as _, Sha256};
    std::fs::create_dir_all(server.root().join("packs")).expect("made");
    let mut all = Vec::new();
    for (place, repo) in places {
        let repository = git2::Repository::open(repo.path()).expect("there");
        let mut refs = Refs { head: Some("refs/heads/main".to_owned()), ..Refs::default() };
        for reference in repository.references().expect("listed").flatten() {
            let id = reference.target().expect("direct");
            refs.refs.insert(reference.name().expect("text").to_owned(), (id.to_string(), None));
            let mut builder = repository.packbuilder().expect("a builder");
            builder.insert_object(id, None).expect("added");
            builder.insert_tree(repository.find_commit(id).expect("a commit").tree_id()).expect("added");
            let mut pack = git2::Buf::new();
            builder.write_buf(&mut pack).expect("packed");
            let digest: String = Sha256::digest(&pack[..]).iter().map(|byte| format!("{byte:02x}")).collect();
            std::fs::write(server.root().join(format!("packs/{digest}.pack")), &pack[..]).expect("written");
            refs.packs.insert(id.to_string(), Pack { digest, bytes: pack.len() as u64 });
        }
        all.push(((*place).to_owned(), refs));
    }
    let text = write(all.iter().map(|(place, refs)| (place.as_str(), refs))).expect("valid");
    std::fs::write(server.root().join(cloner::refsindex::FILE), text).expect("written");
}

#[test]
fn a_mirrors_index_decides_for_all_with_one_request() {
    let server = GitServer::start();
    let repos = ["a", "b", "c"].map(|name| {
        let repo = server.repo(&format!("h/{name}.git"));
        repo.commit("main", &[("file", Content::File(name)), ("d/run", Content::Script("#!/bin/sh\n"))]);
        repo
    });
    let places: Vec<(String, &test_support::git::Repo)> =
        ["a", "b", "c"].iter().zip(&repos).map(|(name, repo)| (format!("h/{name}.git"), repo)).collect();
    let places: Vec<(&str, &test_support::git::Repo)> =
        places.iter().map(|(name, repo)| (name.as_str(), *repo)).collect();
    publish(&server, &places);
    let scratch = Scratch::new();
    scratch.manifest("source: 'https://h/%{name}'\ndest: '%{name}'\na: {ref: main}\nb: {}\nc: {submodules: true}\n");
    let mirror = format!("http://{}", server.authority());
    let run = || {
        drop(server.requests());
        let ran = scratch.run(&["--mode", "export", "--json", "--mirror", &mirror]).code(0);
        let posts = server.requests().iter().map(|request| request.line.clone()).collect::<Vec<_>>();
        (ran, posts)
    };
    let (_, lines) = run();
    assert_eq!(lines.iter().filter(|line| line.starts_with("GET /packs/")).count(), 3, "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(scratch.read("b/file"), "b");
    let (_, lines) = run();
    assert_eq!(lines, ["GET /refs.index"], "one request for all");
    // Something new, published: the index and one pack. Not published: the server itself is asked.
    repos[0].commit("main", &[("file", Content::File("2"))]);
    publish(&server, &places);
    let (_, lines) = run();
    assert_eq!((lines.len(), scratch.read("a/file").as_str()), (2, "2"), "{lines:?}");
    let third = repos[1].commit("side", &[("file", Content::File("3"))]);
    scratch.manifest("source: 'https://h/%{name}'\ndest: '%{name}'\na: {ref: main}\nb: {ref: side}\nc: {}\n");
    let (ran, lines) = run();
    assert_eq!(ran.line("b")["new"], third, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("POST")));
    // A pack that is damaged, or gone, is no reason to fail, and neither is a damaged index.
    for damage in ["damaged", ""] {
        for entry in std::fs::read_dir(server.root().join("packs")).expect("there").flatten() {
            if damage.is_empty() {
                std::fs::remove_file(entry.path()).expect("removed");
            } else {
                std::fs::write(entry.path(), damage).expect("written");
            }
        }
        drop(std::fs::remove_dir_all(scratch.root()));
        run();
        assert_eq!(scratch.read("c/file"), "c");
    }
    std::fs::write(server.root().join(cloner::refsindex::FILE), "<html>").expect("written");
    run();
}

#[test]
fn a_crowded_server_is_asked_more_gently() {
    let server = GitServer::start();
    let mut manifest = String::from("dest: 'm/%{name}'\n");
    for number in 0..6 {
        let file = format!("r{number}.git");
        server.repo(&file).commit("main", &[("file", Content::File(&file))]);
        manifest.push_str(&format!("r{number}: {{source: '{}'}}\n", server.url(&file)));
    }
    server.behave(Behaviour::StatusTimes(429, 5));
    let scratch = Scratch::new();
    scratch.manifest(&manifest);
    scratch.run(&["--mode", "export", "--retries", "5"]).code(0);
}

#[test]
fn certificates_are_read_from_the_named_file() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    std::fs::write(scratch.path("empty.pem"), "").expect("written");
    let run = |name: &str, file: &str| {
        let mut command = scratch.command(&["--json"]);
        command.env(name, scratch.path(file)).arg("repos.yaml");
        crate::support::Ran::from(command.output().expect("it runs"))
    };
    for name in ["SSL_CERT_FILE", "GIT_SSL_CAINFO"] {
        for file in ["empty.pem", "missing.pem"] {
            let ran = run(name, file).code(2);
            assert!(ran.err.contains(name) && ran.err.contains(file), "{}", ran.err);
        }
    }
}

#[test]
fn places_of_one_source_are_one_fetch() {
    let server = GitServer::start();
    let (repo, first) = one_file(&server, "1");
    let second = repo.commit("main", &[("file", Content::File("2"))]);
    for (old, mode) in [(false, "export"), (false, "clone"), (true, "export"), (true, "clone")] {
        server.speak_old(old);
        server.allow_any_commit(old);
        let scratch = Scratch::new();
        scratch.manifest(&format!(
            "source: '{}'\ndest: '%{{name}}'\na: {{ref: main}}\nb: {{ref: {first}}}\nc: {{ref: {second}}}\nd: {{ref: nope}}\n",
            server.url("m.git")
        ));
        drop(server.requests());
        let ran = scratch.run(&["--mode", mode, "--json"]).code(1);
        assert_eq!(ran.cause("d"), "ref", "the others of its source are placed");
        for (name, text) in [("a", "2"), ("b", "1"), ("c", "2")] {
            assert_eq!(scratch.read(&format!("{name}/file")), text, "{old} {mode}");
        }
        let fetches = server.requests().iter().filter(|request| request.line.starts_with("POST")).count();
        // The refs, in an export all of them only because of the one that is not there, and the objects.
        assert!(old || fetches == if mode == "export" { 3 } else { 2 }, "{fetches} in mode {mode}");
    }
}

#[test]
fn a_clone_is_brought_forward_with_what_it_has() {
    let server = GitServer::start();
    let filler: String = (0..40_000).map(|number| format!("{}\n", number * 7919 % 40_009)).collect();
    let repo = server.repo("m.git");
    repo.commit("main", &[("file", Content::File("1")), ("filler", Content::File(&filler))]);
    for old in [false, true] {
        server.speak_old(old);
        let scratch = Scratch::of(&server);
        scratch.run(&[]).code(0);
        let cold = server.bytes();
        repo.commit("main", &[("file", Content::File("2")), ("filler", Content::File(&filler))]);
        scratch.run(&[]).code(0);
        assert_eq!(scratch.read("m/file"), "2");
        let warm = server.bytes();
        assert!(old || warm * 10 < cold, "{warm} bytes after {cold}");
        // What was to be shared is damaged: everything is fetched again.
        let objects = scratch.root().join("m/.git/objects");
        for entry in std::fs::read_dir(&objects).expect("there").flatten() {
            drop(std::fs::remove_dir_all(entry.path()));
        }
        repo.commit("main", &[("file", Content::File("3")), ("filler", Content::File(&filler))]);
        let ran = scratch.run(&["--force"]).code(0);
        assert_eq!(scratch.read("m/file"), "3", "{}", ran.err);
        let _ = server.bytes();
    }
}

#[test]
fn jobs_bound_what_is_asked_at_the_same_time() {
    let server = GitServer::start();
    let mut manifest = String::from("dest: m/%{name}\n");
    for number in 0..12 {
        let file = format!("r{number}.git");
        server.repo(&file).commit("main", &[("file", Content::File(&file))]);
        manifest.push_str(&format!("r{number}: {{source: '{}'}}\n", server.url(&file)));
    }
    let scratch = Scratch::new();
    scratch.manifest(&manifest);
    scratch.run(&["--jobs", "2", "--mode", "export"]).code(0);
    assert!(server.peak() <= 2, "{} at once", server.peak());
    for number in 0..12 {
        assert_eq!(scratch.read(&format!("m/r{number}/file")), format!("r{number}.git"));
    }
}

#[test]
fn a_commit_that_is_no_tip_is_found_whatever_the_server_allows() {
    let server = GitServer::start();
    let (repo, first) = one_file(&server, "1");
    repo.commit("main", &[("file", Content::File("2"))]);
    for (allowed, mode) in [(false, "export"), (false, "clone"), (true, "export"), (true, "clone")] {
        server.allow_any_commit(allowed);
        let scratch = Scratch::new();
        scratch.manifest(&format!(
            "source: '{}'\ndest: '%{{name}}'\nm: {{ref: {first}}}\nnone: {{ref: {}}}\n",
            server.url("m.git"),
            "1".repeat(40)
        ));
        let ran = scratch.run(&["--mode", mode, "--json", "--retries", "0"]).code(1);
        assert_eq!(scratch.read("m/file"), "1", "{allowed} {mode}");
        assert_eq!(ran.cause("none"), "ref", "{allowed} {mode}: {}", ran.err);
    }
}

#[test]
fn an_empty_repository_is_a_missing_ref() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    let scratch = Scratch::of(&server);
    for source in [server.url("m.git"), repo.path().display().to_string()] {
        let source = format!("--m::source={source}");
        assert_eq!(scratch.run_with(&["--json"], &[&source]).code(1).cause("m"), "ref");
        assert_eq!(scratch.run_with(&["--json"], &[&source, "--m::ref=main"]).code(1).cause("m"), "ref");
    }
}

#[test]
fn proxies_of_the_environment_are_used_and_no_proxy_is_honoured() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    let run = |no_proxy: &str| {
        let mut command = scratch.command(&["--json", "--retries", "0"]);
        command.env("http_proxy", "http://127.0.0.1:1").env("no_proxy", no_proxy).arg("repos.yaml");
        crate::support::Ran::from(command.output().expect("it runs"))
    };
    assert_eq!(run("other.example").code(1).cause("m"), "network");
    run("127.0.0.1").code(0);
}
