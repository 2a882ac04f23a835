//! Repositories made to do harm.

use test_support::git::{Content, GitServer, Repo};

use crate::support::{Scratch, files, said};

type Entry = (&'static str, &'static str, &'static str);

/// Trees with exactly these raw entries: mode, name, content.
const TREES: &[(&str, &[Entry])] = &[
    ("dotgit", &[("40000", ".git", "config")]),
    ("case", &[("40000", ".GIT", "config")]),
    ("ntfs", &[("100644", "git~1", "x")]),
    ("hfs", &[("40000", ".g\u{200c}it", "config")]),
    ("stream", &[("40000", ".git::$INDEX_ALLOCATION", "config")]),
    ("dots", &[("40000", ".git. .", "config")]),
    ("backslash", &[("100644", ".git\\config", "x")]),
    ("dotdot", &[("100644", "..", "x")]),
    ("dotdotdir", &[("40000", "..", "evil")]),
    ("dot", &[("100644", ".", "x")]),
    ("slash", &[("100644", "../../evil", "x")]),
    ("rooted", &[("100644", "/tmp/evil", "x")]),
    ("inner", &[("100644", "a/b", "x")]),
    ("absolute", &[("120000", "link", "/etc/passwd")]),
    ("leaving", &[("120000", "link", "../outside")]),
    ("deeper", &[("120000", "link", "a/b/../../../outside")]),
    ("parent", &[("120000", "link", "..")]),
    ("togit", &[("120000", "link", ".git/config")]),
    ("nolink", &[("120000", "link", "")]),
    ("through", &[("120000", "a", "."), ("120000", "b", "a/../../x")]),
    ("twice", &[("120000", "a", "b"), ("40000", "a", "evil")]),
    ("same", &[("100644", "a", "1"), ("100644", "a", "2")]),
    ("gitmodules", &[("100644", "x", "y"), ("120000", ".gitmodules", "x")]),
    ("module", &[("160000", "sub", "0123456789012345678901234567890123456789")]),
    (
        "ext",
        &[
            ("100644", ".gitmodules", "[submodule \"s\"]\n\tpath = s\n\turl = ext::sh -c touch% evil\n"),
            ("160000", "s", "0123456789012345678901234567890123456789"),
        ],
    ),
    (
        "option",
        &[
            ("100644", ".gitmodules", "[submodule \"s\"]\n\tpath = -s\n\turl = --upload-pack=touch evil\n"),
            ("160000", "s", "0123456789012345678901234567890123456789"),
        ],
    ),
];

/// Repositories whose objects are not what they are said to be.
const BROKEN: [&str; 9] =
    ["deep", "long", "target", "missing", "blobastree", "treeasblob", "treelessc", "blobtag", "headtree"];

fn broken(repo: &Repo, name: &str) {
    let inner = git2::Repository::open(repo.path()).expect("a repository");
    let odb = inner.odb().expect("objects");
    let blob = inner.blob(b"x").expect("a blob");
    let tree = |mode: &str, name: &str, id: git2::Oid| {
        let mut bytes = format!("{mode} {name}\0").into_bytes();
        bytes.extend_from_slice(id.as_bytes());
        odb.write(git2::ObjectType::Tree, &bytes).expect("a tree")
    };
    let commit = |tree: git2::Oid| {
        let text = format!("tree {tree}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n");
        odb.write(git2::ObjectType::Commit, text.as_bytes()).expect("a commit")
    };
    let tip = match name {
        "deep" => commit((0..200).fold(tree("100644", "x", blob), |below, _| tree("40000", "d", below))),
        "long" => commit(tree("100644", &"n".repeat(300), blob)),
        "target" => commit(tree("120000", "l", inner.blob("a/".repeat(3000).as_bytes()).expect("a blob"))),
        "missing" => commit(tree("100644", "x", git2::Oid::from_str(&"5".repeat(40)).expect("hex"))),
        "blobastree" => commit(tree("40000", "x", blob)),
        "treeasblob" => commit(tree("100644", "x", tree("100644", "y", blob))),
        "treelessc" => commit(blob),
        "blobtag" => {
            let text = format!("object {blob}\ntype blob\ntag main\ntagger a <a@b> 1 +0000\n\nx\n");
            odb.write(git2::ObjectType::Tag, text.as_bytes()).expect("a tag")
        }
        "headtree" => tree("100644", "x", blob),
        other => panic!("{other}"),
    };
    let (file, text) = (repo.path().join("refs/heads/main"), format!("{tip}\n"));
    std::fs::write(file, text).expect("written");
}

#[test]
fn hostile_repositories_are_refused_in_both_modes() {
    let server = GitServer::start();
    let mut names: Vec<&str> = Vec::new();
    for (name, entries) in TREES {
        server.repo(&format!("{name}.git")).commit_raw("main", entries);
        names.push(name);
    }
    for name in BROKEN {
        broken(&server.repo(&format!("{name}.git")), name);
        names.push(name);
    }
    for (mode, local) in [("export", false), ("export", true), ("clone", false), ("clone", true)] {
        let mut manifest = String::from("dest: m/%{name}\nref: main\n");
        for name in &names {
            let file = format!("{name}.git");
            let source = if local { server.root().join(&file).display().to_string() } else { server.url(&file) };
            manifest.push_str(&format!("{name}: {{source: '{source}'}}\n"));
        }
        let scratch = Scratch::new();
        scratch.manifest(&manifest);
        let ran = scratch.run(&["--json", "--retries", "0", "--mode", mode]).code(1);
        for name in &names {
            assert_eq!(ran.state(name), "failed", "{mode} {local} {name}");
            assert!(ran.err.contains(&format!("error: {name} (m/{name}): ")), "{}", ran.err);
            assert!(!scratch.root().join("m").join(name).exists(), "{mode} {local} {name}");
        }
        let left: Vec<String> = files(&scratch.root()).into_iter().filter(|path| path != ".cloner/lock").collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(files(&scratch.path("")), ["repos.yaml", "root/.cloner/lock"]);
    }
    said(&format!("{} hostile repositories refused, each in 2 modes from a server and a path", names.len()));
    assert!(names.len() >= 20);
}

#[test]
fn submodules_are_left_out_where_the_manifest_says_so() {
    let server = GitServer::start();
    server.repo("m.git").commit_raw("main", &[("160000", "sub", &"1".repeat(40)), ("100644", "x", "y")]);
    for mode in ["export", "clone"] {
        let scratch = Scratch::new();
        scratch.manifest(&format!("m: {{source: '{}', dest: m, submodules: false}}\n", server.url("m.git")));
        scratch.run(&["--mode", mode]).code(0);
        assert!(scratch.root().join("m/sub").is_dir());
        assert_eq!(scratch.run(&["--mode", mode, "--json"]).code(0).state("m"), "unchanged");
        scratch.run_with(&["--mode", mode], &["--m::submodules=maybe"]).code(2);
    }
}

#[test]
fn no_hook_filter_or_configuration_of_the_user_is_run() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    repo.commit("main", &[(".gitattributes", Content::File("* filter=evil\n")), ("x", Content::File("y"))]);
    let scratch = Scratch::of(&server);
    let marker = scratch.path("marker");
    let template = scratch.path("template/hooks");
    std::fs::create_dir_all(&template).expect("made");
    let hook = format!("#!/bin/sh\ntouch {}\n", marker.display());
    std::fs::write(template.join("post-checkout"), &hook).expect("written");
    std::fs::set_permissions(
        template.join("post-checkout"),
        <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755),
    )
    .expect("executable");
    std::fs::write(
        scratch.path(".gitconfig"),
        format!(
            "[init]\n templateDir = {0}/template\n[core]\n hooksPath = {0}/template/hooks\n fsmonitor = touch {1}\n\
             [filter \"evil\"]\n smudge = touch {1}\n required = true\n[url \"http://127.0.0.1:1/\"]\n insteadOf = http://\n",
            scratch.path("").display(),
            marker.display()
        ),
    )
    .expect("written");
    scratch.run(&["--mode", "clone"]).code(0);
    assert!(!marker.exists());
    assert!(!scratch.root().join("m/.git/hooks/post-checkout").exists());
}

#[test]
fn places_outside_of_the_root_or_behind_links_are_refused() {
    let server = GitServer::start();
    server.repo("m.git").commit("main", &[("x", Content::File("y"))]);
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.root()).expect("made");
    std::fs::create_dir_all(scratch.path("elsewhere")).expect("made");
    std::os::unix::fs::symlink(scratch.path("elsewhere"), scratch.root().join("link")).expect("linked");
    scratch.manifest(&format!(
        "source: '{}'\na: {{dest: link}}\nb: {{dest: link2/x}}\nc: {{dest: /etc/x}}\nd: {{dest: a/.git/hooks}}\ne: {{dest: .cloner/x}}\n",
        server.url("m.git")
    ));
    std::os::unix::fs::symlink(scratch.path("elsewhere"), scratch.root().join("link2")).expect("linked");
    for options in [&["--json"][..], &["--json", "--force"]] {
        let ran = scratch.run(options).code(1);
        for name in ["a", "b", "c", "d", "e"] {
            assert_eq!(ran.state(name), "failed", "{name}");
        }
    }
    assert!(files(&scratch.path("elsewhere")).is_empty());
}

#[test]
fn a_password_appears_nowhere() {
    let server = GitServer::start();
    let scratch = Scratch::new();
    let with = |port: &str| format!("http://me:canary@{port}/m.git");
    scratch.manifest(&format!(
        "a: {{source: '{}', dest: a}}\nb: {{source: '{}', dest: b}}\nc: {{source: 'weird://me:canary@x/y', dest: c}}\n\
         d: {{source: 'http://me:canary@host/a b', dest: d}}\n",
        with(&server.authority()),
        with("127.0.0.1:1")
    ));
    let ran = scratch.run(&["--json", "-vv", "--retries", "0"]).code(1);
    assert!(!ran.out.contains("canary") && !ran.err.contains("canary"), "{}{}", ran.out, ran.err);
    for name in ["--plan", "--status"] {
        let ran = scratch.run(&["--json", "-vv", "--retries", "0", name]).code(1);
        assert!(!ran.out.contains("canary") && !ran.err.contains("canary"));
    }
}
