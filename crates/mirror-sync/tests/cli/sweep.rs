//! Killed, or without space, at every system call that changes something: what is published stays whole, and the
//! next run makes of the rest what an undisturbed run makes.
//!
//! `strace` does the harm: it kills the process at the n-th call of a kind, or lets that call and all later ones of
//! its kind fail with ENOSPC. In the ordinary suite a sample of the points is played; `make sweep-mirror` plays all.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Run, Site, git, has, tree};

/// Calls that change the file system or start something.
const CALLS: [&str; 16] = [
    "openat",
    "write",
    "rename",
    "renameat2",
    "link",
    "linkat",
    "mkdir",
    "unlink",
    "unlinkat",
    "rmdir",
    "fsync",
    "fchmod",
    "chmod",
    "ftruncate",
    "flock",
    "execve",
];
/// Calls that need space.
const SPACE: [&str; 9] =
    ["write", "pwrite64", "rename", "link", "linkat", "mkdir", "fsync", "ftruncate", "copy_file_range"];
/// What a build node does one after the other.
const COMMANDS: [&str; 4] = ["sync", "snapshot", "promote", "gc"];
/// The same on the other side of an air gap.
const BEYOND: [&str; 3] = ["import", "promote", "gc"];

/// A command and what comes after it.
fn from(command: &str) -> &'static [&'static str] {
    match COMMANDS.iter().position(|other| *other == command) {
        Some(position) => &COMMANDS[position..],
        None => &BEYOND,
    }
}

struct Scene {
    site: Site,
    /// The snapshot that is published before.
    old: String,
    /// The one that is made.
    new: String,
}

impl Scene {
    /// A mirror with a snapshot that a channel points at and one that gc removes, and news at its sources.
    fn new() -> Scene {
        let mut site = Site::new();
        let work = site.path("work");
        std::fs::create_dir_all(site.path("upstream/git.example")).expect("made");
        std::fs::create_dir(&work).expect("made");
        git(&work, &["init", "--quiet"]);
        git(&work, &["commit", "--quiet", "--allow-empty", "-m", "one"]);
        git(&site.path("upstream/git.example"), &["clone", "--quiet", "--bare", &site.text("work"), "m.git"]);
        site.with_git(&[("m", "https://git.example/m.git")]);
        site.write_config_with("keep: 0\ngrace: 0s\njobs: 2\n");
        let gone = site.deb("st-old", "1", "");
        site.snapshot();
        std::fs::remove_file(gone).expect("there");
        site.deb("st-a", "1.0", "");
        let old = site.snapshot();
        site.run(&["promote", &old, "--channel", "stable"]).is(0);
        site.deb("st-a", "2.0", "");
        site.deb("st-b", "1.0", "");
        git(&work, &["commit", "--quiet", "--amend", "--allow-empty", "-m", "two"]);
        git(&work, &["push", "--quiet", "--force", &site.text("upstream/git.example/m.git"), "HEAD:refs/heads/main"]);
        std::fs::rename(site.path("mirror"), site.path("before-sync")).expect("ours");
        let scene = Scene { site, old, new: String::new() };
        scene.reset("sync");
        let new = scene.site.snapshot();
        let scene = Scene { new, ..scene };
        scene.site.run(&["export", &scene.new, "--since", &scene.old, "--out", &scene.site.text("new.tar")]).is(0);
        let mut same = Command::new("cp");
        same.arg("-a").arg(scene.site.path("before-sync")).arg(scene.site.path("before-import"));
        assert!(same.status().expect("runs").success());
        // The mirror before each command.
        for pair in COMMANDS.windows(2) {
            scene.reset(pair[0]);
            scene.calm(pair[0]);
            std::fs::rename(scene.site.path("mirror"), scene.site.path(&format!("before-{}", pair[1]))).expect("ours");
        }
        scene
    }

    fn reset(&self, command: &str) {
        let _ = std::fs::remove_dir_all(self.site.path("mirror"));
        let copied = Command::new("cp")
            .arg("-a")
            .arg(self.site.path(&format!("before-{command}")))
            .arg(self.site.path("mirror"))
            .status()
            .expect("runs");
        assert!(copied.success());
    }

    fn arguments(&self, command: &str) -> Vec<String> {
        let words: Vec<&str> = match command {
            "import" => return vec!["import".into(), self.site.text("new.tar")],
            "promote" => vec!["promote", &self.new, "--channel", "stable"],
            other => vec![other],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    fn run(&self, command: &str) -> Run {
        let arguments = self.arguments(command);
        self.site.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn calm(&self, command: &str) {
        self.run(command).is(0);
    }

    /// Runs a command under strace; the log if `inject` is none.
    fn traced(&self, command: &str, inject: Option<&str>) -> (Run, String) {
        let log = self.site.path("strace.log");
        let mut strace = Command::new("timeout");
        strace.args(["-k", "1", "60", "strace", "-f", "-qq", "-o"]).arg(&log);
        match inject {
            Some(inject) => strace.args(["-e", "trace=none", "-e", inject]),
            None => strace.args(["-e", &format!("trace={},{}", CALLS.join(","), SPACE.join(","))]),
        };
        let arguments = self.arguments(command);
        let plain = self.site.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        strace.arg(plain.get_program()).args(plain.get_args()).env_clear();
        strace.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        let run = Run::from(strace.output().expect("runs"));
        (run, std::fs::read_to_string(&log).unwrap_or_default())
    }

    /// How often each call is made by the process that makes it most.
    fn counts(&self, command: &str, calls: &[&str]) -> BTreeMap<String, usize> {
        self.reset(command);
        let (run, log) = self.traced(command, None);
        run.is(0);
        let mut by_process: BTreeMap<(String, &str), usize> = BTreeMap::new();
        for line in log.lines() {
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            if calls.contains(&call) {
                *by_process.entry((call.to_owned(), pid)).or_default() += 1;
            }
        }
        let mut counts = BTreeMap::new();
        for ((call, _), count) in by_process {
            let most: &mut usize = counts.entry(call).or_default();
            *most = count.max(*most);
        }
        counts
    }

    /// What must be true whatever happened, and after one more run.
    fn check(&self, command: &str, point: &str) {
        if command != "gc" {
            assert!(
                self.site.published(&self.old).join("manifest.json").is_file(),
                "{point}: the old snapshot is gone"
            );
        }
        let verified = self.site.run(&["verify"]);
        assert_eq!(verified.code, 0, "{point}: {}{}", verified.out, verified.err);
        let pointer = self.site.pointer("stable").expect("a pointer");
        assert!([&self.old, &self.new].contains(&&pointer), "{point}: {pointer}");
        // The next runs make of it what undisturbed ones make.
        for command in from(command) {
            let run = self.run(command);
            assert_eq!(run.code, 0, "{point}, then {command}: {}", run.err);
            if ["snapshot", "import"].contains(command) {
                assert_eq!(run.out.trim(), self.new, "{point}");
            }
        }
        assert_eq!(self.site.pointer("stable").as_deref(), Some(self.new.as_str()), "{point}");
        assert!(tree(&self.site.path("mirror/tmp")).is_empty(), "{point}");
        let verified = self.site.run(&["verify"]);
        assert_eq!(verified.code, 0, "{point}, at last: {}{}", verified.out, verified.err);
    }
}

fn usable() -> bool {
    has("strace") && has("dpkg-deb") && has("git")
}

/// Plays every `step`-th point; returns how many.
fn sweep(calls: &[&str], harm: &str, plus: &str, step: usize, mut judge: impl FnMut(&Run, &str)) -> usize {
    let scene = Scene::new();
    let (mut number, mut played) = (0, 0);
    for command in COMMANDS.into_iter().chain(["import"]) {
        for (call, count) in scene.counts(command, calls) {
            for n in 1..=count {
                number += 1;
                if number % step != 0 {
                    continue;
                }
                played += 1;
                scene.reset(command);
                let point = format!("{command}: {call} {n} of {count}");
                let (run, _) = scene.traced(command, Some(&format!("inject={call}:{harm}:when={n}{plus}")));
                judge(&run, &point);
                scene.check(command, &point);
            }
        }
    }
    played
}

fn killed(step: usize) -> usize {
    sweep(&CALLS, "signal=SIGKILL", "", step, |run, point| {
        assert!([-1, 0, 1, 69, 73, 137].contains(&run.code), "{point}: {} {}", run.code, run.err);
    })
}

fn full(step: usize) -> usize {
    sweep(&SPACE, "error=ENOSPC", "+", step, |run, point| {
        // A message that cannot be written changes nothing.
        assert!([0, 1, 69, 73].contains(&run.code), "{point}: {} {}", run.code, run.err);
        assert!(run.code != 1 || !run.err.is_empty(), "{point}: no word");
    })
}

#[test]
fn killed_at_a_sample_of_system_calls_nothing_is_half() {
    if usable() {
        assert!(killed(67) > 3);
    }
}

#[test]
fn without_space_at_a_sample_of_system_calls_nothing_is_half() {
    if usable() {
        assert!(full(31) > 3);
    }
}

#[test]
#[ignore = "minutes; `make sweep-mirror`"]
#[allow(clippy::print_stderr, reason = "the number of points is the result")]
fn a_fault_at_every_system_call() {
    if !usable() {
        return;
    }
    let step = std::env::var("STACKTIRA_SWEEP_STEP").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (killed, full) = std::thread::scope(|scope| {
        let full = scope.spawn(|| full(step));
        (killed(step), full.join().expect("passes"))
    });
    eprintln!("sweep: killed at {killed} points, without space at {full}: always whole, always the same result");
}

/// A file system of a few megabytes that is full to the last byte.
#[test]
fn gc_works_on_a_full_disk() {
    if !has("dpkg-deb") || !has("unshare") || !nix::unistd::geteuid().is_root() {
        return;
    }
    let site = Site::new();
    site.write_config_with("keep: 0\ngrace: 0s\n");
    let first = site.deb_of("st-a", "1.0", "", &noise(400_000));
    let binary = env!("CARGO_BIN_EXE_mirror-sync");
    let second = format!("{}.later", first.display());
    std::fs::rename(site.deb_of("st-a", "2.0", "", &noise(400_001)), &second).expect("ours");
    let script = format!(
        "set -e; mount -t tmpfs -o size=6m,mode=755 tmpfs {root}; m='{binary} --config {config}'\n\
         $m sync; old=$($m snapshot); rm {first}; mv {second} {debs}/new.deb; $m sync; new=$($m snapshot)\n\
         $m promote $new --channel stable\n\
         cat /dev/zero >{root}/filler 2>/dev/null || :; : >{root}/last 2>/dev/null || :\n\
         if echo x 2>/dev/null >>{root}/filler; then echo 'not full' >&2; exit 9; fi\n\
         test -d {root}/pub/snap/$old; $m gc; test ! -e {root}/pub/snap/$old\n\
         dd if=/dev/zero of={root}/more bs=1k count=300 2>/dev/null; rm {root}/filler {root}/more; $m verify\n",
        root = site.text("mirror"),
        config = site.text("mirror.yaml"),
        first = first.display(),
        debs = site.text("debs"),
    );
    std::fs::create_dir(site.path("mirror")).expect("made");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script]).env_clear();
    unshare.env("PATH", std::env::var_os("PATH").expect("a PATH")).stdin(Stdio::null());
    let run = Run::from(unshare.output().expect("runs"));
    if run.err.contains("permission denied") || run.err.contains("must be superuser") {
        // A container may forbid mounts.
        return;
    }
    run.is(0);
    assert!(Path::new(&site.path("mirror")).read_dir().expect("there").next().is_none(), "the mount was its own");
}

/// Text that does not compress.
fn noise(length: usize) -> String {
    let mut state = length as u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from((state >> 33) % 94).expect("small"))
        })
        .collect()
}
