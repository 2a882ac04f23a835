//! Whole sets: changed at once, kept, and gone back to.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use test_support::git::{Content, GitServer, Repo};

use crate::support::{Scratch, files};

const NAMES: [&str; 3] = ["a", "b", "c"];
const EXPORT: [&str; 4] = ["--mode", "export", "--generations", "3"];

struct Scene {
    server: GitServer,
    repos: Vec<Repo>,
    scratch: Scratch,
}

impl Scene {
    fn new() -> Self {
        let server = GitServer::start();
        let repos = NAMES.iter().map(|name| server.repo(&format!("{name}.git"))).collect();
        let scene = Self { server, repos, scratch: Scratch::new() };
        scene.manifest(&NAMES);
        scene.commit("1", &NAMES);
        scene
    }

    fn manifest(&self, names: &[&str]) {
        let entry = |name: &&str| format!("{name}: {{source: '{}'}}\n", self.server.url(&format!("{name}.git")));
        self.scratch.manifest(&format!("dest: m/%{{name}}\n{}", names.iter().map(entry).collect::<String>()));
    }

    fn commit(&self, text: &str, names: &[&str]) {
        for (name, repo) in NAMES.iter().zip(&self.repos).filter(|(name, _)| names.contains(name)) {
            repo.commit("main", &[("file", Content::File(text)), ("d/same", Content::File(name))]);
        }
    }

    fn run(&self, more: &[&str]) -> crate::support::Ran {
        self.scratch.run(&[&EXPORT[..], more].concat())
    }

    fn current(&self) -> String {
        let target = std::fs::read_link(self.scratch.root().join("current")).expect("a link");
        target.to_str().expect("UTF-8").to_owned()
    }

    fn texts(&self) -> String {
        NAMES.iter().map(|name| self.text(name)).collect()
    }

    fn text(&self, name: &str) -> String {
        let path = self.scratch.root().join(format!("current/m/{name}/file"));
        std::fs::read_to_string(path).unwrap_or_else(|_| "-".to_owned())
    }

    fn back(&self) -> i32 {
        self.scratch.command(&["--rollback"]).status().expect("it runs").code().unwrap_or(-1)
    }
}

#[test]
fn a_set_changes_at_once_and_can_be_gone_back_to() {
    let scene = Scene::new();
    scene.run(&[]).code(0);
    assert_eq!((scene.current().as_str(), scene.texts().as_str()), ("generations/1", "111"));
    assert_eq!(scene.run(&["--json"]).code(0).state("a"), "unchanged");
    assert_eq!(scene.current(), "generations/1", "nothing changed, so there is nothing new");
    scene.commit("2", &["a"]);
    assert_eq!(scene.run(&["--json", "--plan"]).code(0).state("a"), "would-update");
    let ran = scene.run(&["--json"]).code(0);
    assert_eq!((ran.state("a").as_str(), ran.state("b").as_str()), ("updated", "unchanged"));
    assert_eq!((scene.current().as_str(), scene.texts().as_str()), ("generations/2", "211"));
    let inode = |below: &str| scene.scratch.root().join(below).metadata().expect("there").ino();
    assert_eq!(inode("generations/1/m/b/file"), inode("generations/2/m/b/file"), "what is the same is there once");
    scene.run(&["--verify"]).code(0);
    assert_eq!(scene.back(), 0);
    assert_eq!((scene.current().as_str(), scene.texts().as_str()), ("generations/1", "111"));
    scene.run(&["--verify"]).code(0);
    assert_eq!(scene.back(), 1, "there is none before");
    assert_eq!(scene.run(&["--json"]).code(0).state("a"), "updated");
    assert_eq!((scene.current().as_str(), scene.texts().as_str()), ("generations/3", "211"));
    scene.commit("3", &["a"]);
    scene.run(&[]).code(0);
    assert_eq!(scene.current(), "generations/4");
    let kept: Vec<bool> =
        (1..5).map(|number| scene.scratch.root().join(format!("generations/{number}")).exists()).collect();
    assert_eq!(kept, [false, true, true, true]);
    assert_eq!(files(&scene.scratch.root().join(".cloner/stage")), [""; 0]);
}

#[test]
fn one_failure_holds_the_whole_set_back() {
    let scene = Scene::new();
    scene.run(&[]).code(0);
    scene.commit("2", &NAMES);
    let with = |override_: &str| scene.scratch.run_with(&[&EXPORT[..], &["--json"]].concat(), &[override_]);
    let ran = with("--c::ref=nowhere").code(1);
    assert_eq!(["a", "b", "c"].map(|name| ran.state(name)), ["held", "held", "failed"]);
    assert_eq!((scene.current().as_str(), scene.texts().as_str()), ("generations/1", "111"));
    scene.run(&[]).code(0);
    assert_eq!(scene.texts(), "222");
}

#[test]
fn what_somebody_changed_is_refused_and_never_lost() {
    let scene = Scene::new();
    scene.run(&[]).code(0);
    let mine = scene.scratch.root().join("current/m/a/mine");
    std::fs::write(&mine, "precious").expect("written");
    let ran = scene.run(&["--json"]).code(1);
    assert_eq!(ran.cause("a"), "local-changes");
    scene.run(&["--force"]).code(0);
    assert!(!mine.exists() && scene.scratch.root().join("generations/1/m/a/mine").exists());
    for text in ["2", "3", "4"] {
        scene.commit(text, &["b"]);
        scene.run(&[]).code(0);
    }
    assert!(!scene.scratch.root().join("generations/1").exists());
    let saved = files(&scene.scratch.root().join(".cloner/saved"));
    assert!(saved.iter().any(|path| path.ends_with("/mine")), "{saved:?}");
}

#[test]
fn what_is_no_longer_listed_goes_with_purge_only() {
    let scene = Scene::new();
    scene.run(&[]).code(0);
    scene.manifest(&NAMES[..2]);
    scene.commit("2", &["a"]);
    scene.run(&[]).code(0);
    assert_eq!(scene.texts(), "211");
    assert_eq!(scene.run(&["--purge", "--plan", "--json"]).code(0).state("c"), "would-purge");
    assert_eq!(scene.run(&["--purge", "--json"]).code(0).state("c"), "purged");
    assert_eq!(scene.texts(), "21-");
    assert_eq!(scene.back(), 0);
    assert_eq!(scene.texts(), "211");
}

#[test]
fn clones_in_a_set_are_ones_that_git_can_use() {
    let scene = Scene::new();
    let options = ["--mode", "clone", "--generations", "2"];
    scene.scratch.run(&options).code(0);
    scene.commit("2", &["a"]);
    scene.scratch.run(&options).code(0);
    assert_eq!(scene.texts(), "211");
    for name in NAMES {
        let git = |args: &[&str]| {
            let output = std::process::Command::new("git")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("HOME", scene.scratch.path(""))
                .arg("-C")
                .arg(scene.scratch.root().join("current/m").join(name))
                .args(args)
                .output();
            crate::support::Ran::from(output.expect("git runs")).code(0).out
        };
        assert_eq!(git(&["status", "--porcelain"]), "");
        git(&["fsck", "--strict"]);
        git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "mine"]);
    }
    assert_eq!(scene.scratch.run(&[&options[..], &["--json"]].concat()).code(1).cause("b"), "local-changes");
    scene.back();
    let ran = scene.scratch.run(&[&options[..], &["--status", "--json"]].concat());
    assert_eq!(ran.state("b"), "clean", "what git changes in one set does not reach the other");
    let ran = scene.scratch.run(&["--status"]).code(1);
    assert!(
        ran.out.contains("absent") && ran.err.contains("hint: ") && ran.err.contains("--generations"),
        "{}",
        ran.err
    );
}

#[test]
fn what_is_not_ours_is_refused() {
    let scene = Scene::new();
    let root = scene.scratch.root();
    assert_eq!(scene.back(), 1, "nothing to go back to");
    std::fs::create_dir_all(root.join("current")).expect("made");
    assert!(scene.run(&[]).code(73).err.contains("is not a link"));
    std::fs::remove_dir(root.join("current")).expect("removed");
    for target in ["/etc", "generations/7", "generations/../..", "elsewhere"] {
        std::os::unix::fs::symlink(target, root.join("current")).expect("linked");
        scene.run(&[]).code(73);
        assert_eq!(scene.back(), 73);
        std::fs::remove_file(root.join("current")).expect("removed");
    }
    scene.scratch.run(&["--rollback"]).code(2);
}

/// Reads until `wanted` whole sets were seen; `read` says what one set is.
fn readers(wanted: usize, update: impl Fn(usize), read: impl Fn() -> Result<(), String> + Sync) -> usize {
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if let Err(why) = read() {
                    stop.store(true, Ordering::SeqCst);
                    return Err(why);
                }
                seen.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let mut updates = 0;
        while seen.load(Ordering::SeqCst) < wanted && !stop.load(Ordering::SeqCst) || updates < 5 {
            updates += 1;
            update(updates);
        }
        stop.store(true, Ordering::SeqCst);
        reader.join().expect("no panic").expect("no set was missing or mixed");
        updates
    })
}

#[test]
fn ten_thousand_reads_of_a_set_are_of_one_set() {
    let scene = Scene::new();
    scene.run(&[]).code(0);
    let current = scene.scratch.root().join("current");
    let update = |number: usize| {
        scene.commit(&format!("{}", number + 1), &NAMES);
        scene.run(&[]).code(0);
    };
    readers(10_000, update, || {
        // As a catalog's compiler that holds its environment: the link is resolved once.
        let set = current.canonicalize().map_err(|err| format!("current: {err}"))?;
        let mut texts = Vec::new();
        for name in NAMES {
            let place = set.join("m").join(name);
            texts.push(std::fs::read_to_string(place.join("file")).map_err(|err| format!("{name}: {err}"))?);
            std::fs::read_to_string(place.join("d/same")).map_err(|err| format!("{name}: {err}"))?;
        }
        if texts.iter().all(|text| *text == texts[0]) { Ok(()) } else { Err(format!("mixed: {texts:?}")) }
    });
}

#[test]
fn ten_thousand_reads_of_single_places_are_of_one_tree() {
    let scene = Scene::new();
    let options = ["--mode", "export"];
    scene.scratch.run(&options).code(0);
    let root = scene.scratch.root();
    let update = |number: usize| {
        for (name, repo) in NAMES.iter().zip(&scene.repos) {
            let text = format!("{number}");
            repo.commit(
                "main",
                &[("file", Content::File(&text)), ("d/same", Content::File(name)), ("d/e", Content::File(&text))],
            );
        }
        scene.scratch.run(&options).code(0);
    };
    readers(10_000, update, || {
        for name in NAMES {
            use std::os::fd::AsRawFd as _;
            // The place is never missing, and through one open directory both files are of one tree. An old
            // tree may be gone by the time that it is read; then the next look is at the new one.
            let place = root.join("m").join(name);
            let open = std::fs::File::open(&place).map_err(|err| format!("{name} is missing: {err}"))?;
            let base = format!("/proc/self/fd/{}", open.as_raw_fd());
            let read = |below: &str| std::fs::read_to_string(format!("{base}/{below}"));
            if let (Ok(one), Ok(two)) = (read("file"), read("d/e"))
                && one != two
            {
                return Err(format!("{name} is mixed: {one} {two}"));
            }
            std::fs::read_to_string(place.join("file")).map_err(|err| format!("{name}/file is missing: {err}"))?;
        }
        Ok(())
    });
}
