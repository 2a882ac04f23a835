//! Refs that a file gives, whatever they are at the server by now.

use cloner::refsindex::{Refs, write};
use test_support::git::{Content, GitServer};

use crate::support::Scratch;

fn refs(refs: &[(&str, &str, Option<&str>)]) -> Refs {
    let entry = |(name, id, peeled): &(&str, &str, Option<&str>)| {
        ((*name).to_owned(), ((*id).to_owned(), peeled.map(str::to_owned)))
    };
    Refs { head: Some("refs/heads/main".to_owned()), refs: refs.iter().map(entry).collect(), ..Refs::default() }
}

#[test]
fn what_the_server_has_by_now_does_not_matter() {
    for mode in ["export", "clone"] {
        let server = GitServer::start();
        let repo = server.repo("h/m.git");
        let first = repo.commit("main", &[("file", Content::File("1"))]);
        let tag = repo.annotate("v1", &first);
        let given = refs(&[("refs/heads/main", &first, None), ("refs/tags/v1", &tag, Some(&first))]);
        let second = repo.commit("main", &[("file", Content::File("2"))]);
        // A mirror may have thrown the names away; what a snapshot pins can be asked for.
        server.allow_any_commit(true);
        let scratch = Scratch::new();
        std::fs::write(scratch.path("index"), write([("h/m.git", &given)]).expect("valid")).expect("written");
        scratch.manifest("source: 'https://h/m'\ndest: '%{name}'\nbranch: {ref: main}\ntag: {ref: v1}\nhead: {}\n");
        let mirror = format!("http://{}", server.authority());
        let options = ["--mode", mode, "--json", "--mirror", &mirror, "--refs", "index"];
        let ran = scratch.run(&options).code(0);
        for name in ["branch", "tag", "head"] {
            assert_eq!(
                (ran.line(name)["new"].as_str(), scratch.read(&format!("{name}/file"))),
                (Some(&*first), "1".into())
            );
        }
        drop(server.requests());
        let again = scratch.run(&options).code(0);
        assert_eq!((again.state("tag"), server.requests().len()), ("unchanged".into(), 0), "nobody is asked");
        // The next snapshot, and back.
        let next = refs(&[("refs/heads/main", &second, None), ("refs/tags/v1", &tag, Some(&first))]);
        for (refs, file) in [(&next, "2"), (&given, "1")] {
            std::fs::write(scratch.path("index"), write([("h/m.git", refs)]).expect("valid")).expect("written");
            scratch.run(&options).code(0);
            assert_eq!((scratch.read("branch/file"), scratch.read("tag/file")), (file.to_owned(), "1".to_owned()));
        }
    }
}

#[test]
fn what_the_file_does_not_know_is_an_error() {
    let server = GitServer::start();
    let repo = server.repo("h/m.git");
    let first = repo.commit("main", &[("file", Content::File("1"))]);
    repo.branch("later", &first);
    let unknown = server.repo("h/n.git");
    let commit = unknown.commit("main", &[("file", Content::File("n"))]);
    let scratch = Scratch::new();
    let given = refs(&[("refs/heads/main", &first, None)]);
    std::fs::write(scratch.path("index"), write([("h/m.git", &given)]).expect("valid")).expect("written");
    scratch.manifest(&format!(
        "dest: '%{{name}}'\nknown: {{source: 'https://h/m', ref: main}}\nlater: {{source: 'https://h/m', ref: later}}\n\
         unknown: {{source: 'https://h/n', ref: main}}\nfull: {{source: 'https://h/n', ref: {commit}}}\n"
    ));
    let mirror = format!("http://{}", server.authority());
    let options = ["--mode", "export", "--json", "--mirror", &mirror, "--refs", "index"];
    let ran = scratch.run(&options).code(1);
    assert_eq!((ran.state("known"), ran.state("full")), ("placed".into(), "placed".into()), "{}", ran.out);
    assert_eq!((ran.cause("later"), ran.cause("unknown")), ("ref".into(), "ref".into()));
    let why = ran.line("unknown")["message"].to_string();
    assert!(why.contains("h/n.git"), "{why}");
    assert!(!scratch.root().join("unknown").exists() && !scratch.root().join("later").exists());

    std::fs::write(scratch.path("index"), "<html>").expect("written");
    let refused = scratch.run(&options).code(65);
    assert!(refused.err.contains("index") && refused.err.contains("line 1"), "{}", refused.err);
    std::fs::remove_file(scratch.path("index")).expect("there");
    let ran = scratch.run(&options).code(65);
    assert!(ran.err.contains("error: refs index ") && ran.err.contains("mirror-sync apply"), "{}", ran.err);
}
