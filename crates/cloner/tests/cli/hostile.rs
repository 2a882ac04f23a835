//! Repositories made to do harm.

use test_support::git::{Content, GitServer};

use crate::support::{Scratch, files};

#[test]
fn unsafe_trees_are_refused_in_both_modes() {
    let server = GitServer::start();
    type Case = (&'static str, &'static [(&'static str, &'static str, &'static str)]);
    let cases: &[Case] = &[
        ("dotgit", &[("40000", ".git", "config")]),
        ("case", &[("40000", ".GIT", "config")]),
        ("ntfs", &[("100644", "git~1", "x")]),
        ("hfs", &[("40000", ".g\u{200c}it", "config")]),
        ("dotdot", &[("100644", "..", "x")]),
        ("dot", &[("100644", ".", "x")]),
        ("slash", &[("100644", "../../evil", "x")]),
        ("absolute", &[("120000", "link", "/etc/passwd")]),
        ("leaving", &[("120000", "link", "../outside")]),
        ("through", &[("120000", "a", "."), ("120000", "b", "a/../../x")]),
        ("twice", &[("120000", "a", "b"), ("40000", "a", "evil")]),
        ("module", &[("160000", "sub", "0123456789012345678901234567890123456789")]),
    ];
    let mut manifest = String::from("dest: m/%{name}\n");
    for (name, entries) in cases {
        let file = format!("{name}.git");
        server.repo(&file).commit_raw("main", entries);
        manifest.push_str(&format!("{name}: {{source: '{}'}}\n", server.url(&file)));
    }
    for mode in ["export", "clone"] {
        let scratch = Scratch::new();
        scratch.manifest(&manifest);
        let ran = scratch.run(&["--json", "--retries", "0", "--mode", mode]).code(1);
        for (name, _) in cases {
            assert_eq!(ran.state(name), "failed", "{mode} {name}");
            assert!(!scratch.root().join("m").join(name).exists(), "{mode} {name}");
        }
        let left: Vec<String> = files(&scratch.root()).into_iter().filter(|path| path != ".cloner/lock").collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!scratch.path("evil").exists() && !scratch.path("outside").exists());
    }
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
        scratch.run_with(&["--mode", mode], &["--m::submodules=maybe"]).code(65);
    }
}

#[test]
fn no_hook_filter_or_configuration_of_the_user_is_run() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    repo.commit("main", &[(".gitattributes", Content::File("* filter=evil\n")), ("x", Content::File("y"))]);
    let scratch = Scratch::new();
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
    scratch.manifest(&format!("m: {{source: '{}', dest: m}}\n", server.url("m.git")));
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
