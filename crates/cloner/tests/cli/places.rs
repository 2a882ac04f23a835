//! What is at a place before, during and after.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use test_support::git::{Behaviour, Content, GitServer};

use crate::support::{Ran, Scratch, binary, files, one_file, skipped};

#[test]
fn local_changes_are_named_even_if_upstream_did_not_move() {
    let server = GitServer::start();
    one_file(&server, "1");
    for mode in ["export", "clone"] {
        let scratch = Scratch::of(&server);
        scratch.run(&["--mode", mode]).code(0);
        std::fs::write(scratch.root().join("m/file"), "mine").expect("written");
        let ran = scratch.run(&["--mode", mode, "--json"]).code(1);
        assert_eq!(ran.cause("m"), "local-changes");
        assert_eq!(ran.line("m")["message"], "file is changed");
        assert_eq!(scratch.read("m/file"), "mine");
        let forced = scratch.run(&["--mode", mode, "--force"]).code(0);
        assert!(forced.err.contains("the old tree is kept in"), "{}", forced.err);
        assert_eq!(scratch.read("m/file"), "1");
        let saved = files(&scratch.root().join(".cloner/saved"));
        let kept = saved.iter().find(|path| path.ends_with("/file")).expect("kept");
        assert_eq!(scratch.read(&format!(".cloner/saved/{kept}")), "mine");
        assert_eq!(scratch.run(&["--mode", mode, "--json"]).code(0).state("m"), "unchanged");
    }
}

/// Runs again and returns which directories were listed; none where that cannot be seen.
fn listed(scratch: &Scratch, options: &[&str]) -> Option<String> {
    let log = scratch.path("strace");
    let cloner = scratch.command(options);
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=getdents64", "-o"]).arg(&log).arg(cloner.get_program());
    strace.args(cloner.get_args()).arg("repos.yaml").current_dir(scratch.path("")).env("HOME", scratch.path(""));
    match strace.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Some(std::fs::read_to_string(log).expect("a trace")),
        _ => {
            skipped("strace is not installed or may not trace");
            None
        }
    }
}

#[test]
fn directories_of_an_unchanged_place_are_not_listed_and_what_comes_to_them_is_seen() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    let commit = |text: &str| repo.commit("main", &[("d/e/file", Content::File("same")), ("top", Content::File(text))]);
    let other = server.repo("n.git");
    other.commit("main", &[("d/e/file", Content::File("other"))]);
    for options in [&["--mode", "export"][..], &["--mode", "clone"], &["--mode", "export", "--generations", "2"]] {
        commit("1");
        let scratch = Scratch::new();
        let (m, n) = (server.url("m.git"), server.url("n.git"));
        scratch.manifest(&format!("m: {{source: '{m}', dest: m}}\nn: {{source: '{n}', dest: n}}\n"));
        scratch.run(options).code(0);
        commit("2");
        // With generations n stays, and is linked into the next one.
        scratch.run(options).code(0);
        let top = scratch.root().join(if options.len() > 2 { "current" } else { "" });
        let Some(log) = listed(&scratch, options) else { return };
        for name in ["m", "n"] {
            assert!(log.contains(&format!("/{name}>")), "{log}");
            assert!(!log.contains(&format!("/{name}/d>")) && !log.contains("/e>"), "{log}");
        }
        for name in ["m", "n"] {
            std::fs::write(top.join(name).join("d/e/mine"), "").expect("written");
            let ran = scratch.run(&[options, &["--json"]].concat()).code(1);
            assert_eq!(ran.line(name)["message"], "d/e/mine is new");
            std::fs::remove_file(top.join(name).join("d/e/mine")).expect("removed");
        }
        scratch.run(options).code(0);
    }
}

#[test]
fn work_in_a_clone_is_seen() {
    let server = GitServer::start();
    one_file(&server, "1");
    let steps: [&[&str]; 4] = [
        &["commit", "--allow-empty", "-qm", "mine"],
        &["branch", "topic"],
        &["config", "x.y", "z"],
        &["checkout", "-q", "--detach"],
    ];
    for step in steps {
        let scratch = Scratch::of(&server);
        scratch.run(&[]).code(0);
        let git = std::process::Command::new("git")
            .env("HOME", scratch.path(""))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .arg("-C")
            .arg(scratch.root().join("m"))
            .args(["-c", "user.name=x", "-c", "user.email=x@y"])
            .args(step)
            .status();
        assert!(git.expect("git runs").success());
        assert_eq!(scratch.run(&["--json"]).code(1).cause("m"), "local-changes", "{step:?}");
    }
}

#[test]
fn what_cloner_did_not_place_is_refused_or_moved_aside() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    let place = scratch.root().join("m");
    std::fs::create_dir_all(&place).expect("made");
    scratch.run(&[]).code(0);
    std::fs::remove_dir_all(&place).expect("removed");
    scratch.run(&[]).code(0);
    std::fs::remove_dir_all(scratch.root()).expect("removed");
    std::fs::create_dir_all(&place).expect("made");
    std::fs::write(place.join("precious"), "x").expect("written");
    assert_eq!(scratch.run(&["--json"]).code(1).cause("m"), "local-changes");
    assert_eq!(files(&place), ["precious"]);
    scratch.run(&["--force", "--mode", "export"]).code(0);
    assert_eq!(files(&place), ["file"]);
    assert!(files(&scratch.root().join(".cloner/saved")).iter().any(|path| path.ends_with("/precious")));
}

#[test]
fn a_file_at_the_place_is_never_touched() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    std::fs::create_dir_all(scratch.root()).expect("made");
    std::fs::write(scratch.root().join("m"), "x").expect("written");
    for options in [&["--json"][..], &["--json", "--force"]] {
        assert_eq!(scratch.run(options).code(1).cause("m"), "local-changes");
    }
    assert_eq!(scratch.read("m"), "x");
}

#[test]
fn a_reader_never_sees_a_missing_or_mixed_tree() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    let commit = |number: usize| {
        let text = number.to_string();
        repo.commit("main", &[("a", Content::File(&text)), ("d/b", Content::File(&text))])
    };
    commit(0);
    let scratch = Scratch::of(&server);
    scratch.run(&["--mode", "export"]).code(0);
    let stop = AtomicBool::new(false);
    let place = scratch.root().join("m");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::SeqCst) {
                // A directory that is open stays the same tree, as for a compiler that holds it.
                use std::os::fd::AsRawFd as _;
                let directory = std::fs::File::open(&place).expect("the place is never missing");
                let base = format!("/proc/self/fd/{}", directory.as_raw_fd());
                let a = std::fs::read_to_string(format!("{base}/a"));
                let b = std::fs::read_to_string(format!("{base}/d/b"));
                // The old tree may be under removal by the time it is read, but never mixed.
                if let (Ok(a), Ok(b)) = (a, b) {
                    assert_eq!(a, b);
                    seen += 1;
                }
            }
            seen
        });
        for number in 1..12 {
            commit(number);
            scratch.run(&["--mode", "export"]).code(0);
        }
        stop.store(true, Ordering::SeqCst);
        assert!(reader.join().expect("no mixed tree") > 0);
    });
}

#[test]
fn a_killed_run_leaves_the_old_or_the_new_tree_and_the_next_one_heals() {
    let server = GitServer::start();
    let repo = server.repo("m.git");
    let names: Vec<String> = (0..150).map(|number| format!("d{}/f{number}", number % 7)).collect();
    let commit = |text: &str| {
        let content: Vec<(&str, Content<'_>)> = names.iter().map(|name| (name.as_str(), Content::File(text))).collect();
        repo.commit("main", &content)
    };
    commit("0");
    let scratch = Scratch::of(&server);
    scratch.run(&["--mode", "export"]).code(0);
    let mut killed = 0;
    for step in 1..40 {
        let text = step.to_string();
        let before = scratch.read("m/d0/f0");
        let new = commit(&text);
        let mut child =
            scratch.command(&["--mode", "export"]).arg("repos.yaml").stderr(Stdio::null()).spawn().expect("it runs");
        std::thread::sleep(Duration::from_millis(2 * step % 60));
        killed += usize::from(child.try_wait().expect("a child").is_none());
        child.kill().expect("killed");
        child.wait().expect("ended");
        let found: Vec<String> = names.iter().map(|name| scratch.read(&format!("m/{name}"))).collect();
        assert!(found.iter().all(|text| *text == found[0]), "mixed");
        assert!(found[0] == before || found[0] == text, "neither old nor new");
        if step % 3 == 0 {
            let ran = scratch.run(&["--mode", "export", "--json"]).code(0);
            assert_eq!(ran.line("m")["new"], new.as_str());
            assert_eq!(files(&scratch.root().join(".cloner/stage")), [""; 0]);
            assert!(!files(&scratch.root().join(".cloner/placed")).iter().any(|path| path.ends_with(".next")));
        }
    }
    assert!(killed > 5, "the delays must hit running processes ({killed})");
}

#[test]
fn two_runs_of_a_root_do_not_overlap() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    server.behave(Behaviour::Hang);
    let mut first = scratch
        .command(&["--timeout", "3s", "--retries", "0"])
        .arg("repos.yaml")
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    while server.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let busy = scratch.run(&["--no-wait"]).code(75);
    assert!(busy.err.contains("another run holds"), "{}", busy.err);
    // A plan needs no lock and is not held up.
    server.behave(Behaviour::Serve);
    scratch.run(&["--plan"]).code(0);
    let waiting = scratch.command(&[]).arg("repos.yaml").output().expect("it runs");
    Ran::from(waiting).code(0);
    assert_eq!(first.wait().expect("ended").code(), Some(1));
    assert_eq!(scratch.read("m/file"), "1");
}

#[test]
fn many_runs_at_once_end_in_one_right_tree() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::of(&server);
    let children: Vec<_> = (0..6)
        .map(|_| scratch.command(&[]).arg("repos.yaml").stderr(Stdio::piped()).spawn().expect("it runs"))
        .collect();
    for child in children {
        Ran::from(child.wait_with_output().expect("ended")).code(0);
    }
    assert_eq!(scratch.run(&["--verify", "--json"]).code(0).state("m"), "clean");
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = GitServer::start();
    server.repo("m.git").commit("main", &[("d/file", Content::File("1")), ("run", Content::Script("x"))]);
    let scratch = Scratch::of(&server);
    let script = format!("umask 077; exec {} --root root --mode export repos.yaml --m::dest=a/b/m", binary().display());
    let ran = std::process::Command::new("sh").args(["-c", &script]).current_dir(scratch.path("")).output();
    Ran::from(ran.expect("it runs")).code(0);
    for (path, expected) in [
        ("a", 0o755),
        ("a/b", 0o755),
        ("a/b/m", 0o755),
        ("a/b/m/d", 0o755),
        ("a/b/m/d/file", 0o644),
        ("a/b/m/run", 0o755),
    ] {
        let mode = scratch.root().join(path).metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{path}: {mode:o}");
    }
}

#[test]
fn a_root_that_cannot_be_made_is_73() {
    let scratch = Scratch::new();
    scratch.manifest("m: {source: /nowhere, dest: m}\n");
    std::fs::write(scratch.root(), "a file").expect("written");
    scratch.run(&[]).code(73);
}

#[test]
fn changing_mode_or_source_replaces_the_tree() {
    let server = GitServer::start();
    one_file(&server, "1");
    server.repo("n.git").commit("main", &[("file", Content::File("other"))]);
    let scratch = Scratch::of(&server);
    scratch.run(&["--mode", "export"]).code(0);
    scratch.run(&["--mode", "clone"]).code(0);
    assert!(scratch.root().join("m/.git").exists());
    scratch.run_with(&["--mode", "clone"], &[&format!("--m::source={}", server.url("n.git"))]).code(0);
    assert!(scratch.read("m/.git/config").contains("n.git"));
    scratch.run(&["--mode", "export"]).code(0);
    assert_eq!(files(&scratch.root().join("m")), ["file"]);
}

#[test]
fn purge_removes_what_the_same_manifest_had_placed_and_nothing_else() {
    let server = GitServer::start();
    one_file(&server, "1");
    let scratch = Scratch::new();
    let source = server.url("m.git");
    let both = format!("source: '{source}'\ndest: 'm/%{{name}}'\na: {{}}\nb: {{}}\n");
    let one = format!("source: '{source}'\ndest: 'm/%{{name}}'\na: {{}}\n");
    scratch.manifest(&both);
    scratch.run(&["--mode", "export"]).code(0);
    // Another manifest's place and one that nobody placed.
    std::fs::write(scratch.path("other.yaml"), format!("c: {{source: '{source}', dest: m/c}}\n")).expect("written");
    Ran::from(scratch.command(&["--mode", "export"]).arg("other.yaml").output().expect("it runs")).code(0);
    std::fs::create_dir(scratch.root().join("m/d")).expect("made");
    std::fs::write(scratch.root().join("m/d/x"), "").expect("written");

    scratch.manifest("# nothing\n");
    scratch.run(&["--mode", "export", "--purge"]).code(0);
    assert!(scratch.root().join("m/b/file").exists(), "an empty manifest never purges");
    scratch.manifest(&format!("{one}bad: {{ref: nope}}\n"));
    scratch.run(&["--mode", "export", "--purge"]).code(1);
    assert!(scratch.root().join("m/b/file").exists(), "a failure purges nothing");
    scratch.manifest(&one);
    scratch.run(&["--mode", "export"]).code(0);
    assert_eq!(scratch.run(&["--mode", "export", "--purge", "--plan", "--json"]).code(0).state("b"), "would-purge");
    std::fs::write(scratch.root().join("m/b/mine"), "").expect("written");
    assert_eq!(scratch.run(&["--mode", "export", "--purge", "--json"]).code(1).cause("b"), "local-changes");
    std::fs::remove_file(scratch.root().join("m/b/mine")).expect("removed");
    assert_eq!(scratch.run(&["--mode", "export", "--purge", "--json"]).code(0).state("b"), "purged");
    assert_eq!(files(&scratch.root().join("m")), ["a/file", "c/file", "d/x"]);
    assert_eq!(scratch.run(&["--mode", "export", "--purge", "--json"]).code(0).lines().len(), 2);
}

#[test]
fn a_full_disk_leaves_the_old_tree_and_is_named() {
    // A file system of its own in a mount namespace; where that is not allowed there is nothing to fill.
    let server = GitServer::start();
    let (repo, _) = one_file(&server, "1");
    let scratch = Scratch::of(&server);
    std::fs::create_dir_all(scratch.root()).expect("made");
    let big = "x".repeat(3 << 20);
    let script = format!(
        "mount -t tmpfs -o size=2m tmpfs {root} || exit 99\n{cloner} --root {root} --mode export repos.yaml || exit 98\n\
         {cloner} --root {root} --mode export --retries 0 --json repos.yaml --m::ref big; echo code=$?\n\
         cat {root}/m/file",
        root = scratch.root().display(),
        cloner = binary().display()
    );
    repo.commit("big", &[("file", Content::File(&big))]);
    let output =
        std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(scratch.path("")).output();
    let Ok(output) = output else {
        println!("skipped: there is no unshare program");
        return;
    };
    if output.status.code() != Some(0) {
        assert_ne!(output.status.code(), Some(98), "{}", String::from_utf8_lossy(&output.stderr));
        println!("skipped: no mount namespace: {}", String::from_utf8_lossy(&output.stderr).trim());
        return;
    }
    let out = String::from_utf8(output.stdout).expect("text");
    assert!(out.contains("code=1") && out.contains("\"cause\":\"disk\"") && out.ends_with('1'), "{out}");
}

/// The kernel exchanges no directory that lies in a lower layer, as in an image of a container.
#[test]
fn a_tree_in_a_lower_layer_stays_whole_and_sets_work_there() {
    let server = GitServer::start();
    let (repo, _) = one_file(&server, "1");
    let scratch = Scratch::of(&server);
    scratch.run(&["--mode", "export"]).code(0);
    repo.commit("main", &[("file", Content::File("2"))]);
    let script = format!(
        "mount -t tmpfs tmpfs {top} || exit 99\nmkdir {top}/upper {top}/work {top}/root\n\
         mount -t overlay -o lowerdir={lower},upperdir={top}/upper,workdir={top}/work overlay {top}/root || exit 99\n\
         c='{cloner} --root {top}/root --mode export'\n\
         $c repos.yaml; echo code=$?; cat {top}/root/m/file; echo\n\
         $c --generations 2 repos.yaml; echo code=$?; cat {top}/root/current/m/file; echo\n\
         rm -rf {top}/root/m; $c repos.yaml; echo code=$?; cat {top}/root/m/file; echo\n\
         $c repos.yaml --m::ref=other; echo code=$?; cat {top}/root/m/file",
        top = scratch.path("top").display(),
        lower = scratch.root().display(),
        cloner = binary().display()
    );
    repo.commit("other", &[("file", Content::File("3"))]);
    std::fs::create_dir(scratch.path("top")).expect("made");
    let output =
        std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(scratch.path("")).output();
    let Ok(output) = output else { return skipped("there is no unshare program") };
    let ran = Ran::from(output);
    if matches!(ran.code, 1 | 99) {
        return skipped(&format!("no overlay: {}", ran.err.trim()));
    }
    assert_eq!(ran.out, "code=1\n1\ncode=0\n2\ncode=0\n2\ncode=0\n3", "{}", ran.err);
    assert!(ran.err.contains("lower layer of an overlay"), "{}", ran.err);
}
