//! Faults at every system call of a run: a kill, a full disk, a broken disk.
//!
//! Each scene is traced once undisturbed; then, for each system call that was made and each n, it is
//! played with a fault in the n-th such call: of the main thread alone, which places, and of whichever
//! thread comes first, which is mostly one that fetches and stages. What must hold afterwards, whatever
//! was hit: each place holds the old tree or the new one, whole; what somebody else wrote is there, at
//! its place or moved aside; a run that said 0 has done its work; the next run is not held up by a
//! lock, does the work, and leaves nothing half made behind.
//!
//! A sample runs with the other tests. All of it takes minutes (`CLONER_SWEEP_STEP=10`: a tenth of it;
//! `CLONER_SWEEP_FAULT=KILL`: kills alone): `make sweep-cloner`

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use test_support::git::{Content, GitServer, Repo};

use crate::support::{Ran, Scratch, binary, files, skipped};

const KILL: &str = "signal=KILL";
const FAULTS: [&str; 3] = [KILL, "error=ENOSPC", "error=EIO"];
const NAMES: [&str; 2] = ["a", "b"];

/// Calls on files. A kill at another call leaves what the one before it left, and an error of memory or
/// threads ends a process as it must.
const ON_FILES: [&str; 27] = [
    "openat",
    "write",
    "writev",
    "pwrite64",
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "fsync",
    "fdatasync",
    "syncfs",
    "ftruncate",
    "fallocate",
    "chmod",
    "fchmod",
    "link",
    "linkat",
    "symlink",
    "flock",
    "getdents64",
    "readlink",
    "utimensat",
    "copy_file_range",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Nothing is there yet.
    First,
    /// Exported trees are replaced.
    Export,
    /// Clones are replaced.
    Clone,
    /// One tree is removed, because the manifest no longer lists it.
    Purge,
    /// A tree that somebody changed is moved aside.
    Force,
    /// The whole set is replaced at once.
    Set,
    /// The set before is made current again.
    Back,
}

const SCENES: [Scene; 7] =
    [Scene::First, Scene::Export, Scene::Clone, Scene::Purge, Scene::Force, Scene::Set, Scene::Back];

/// Seconds after which a run is taken to hang; what a busy machine needs is less.
const HANGS: &str = "600";

#[derive(Debug, Clone)]
struct Case {
    scene: Scene,
    /// Whether calls of all threads count, or those of the main thread alone.
    threads: bool,
    /// None for an undisturbed play.
    fault: Option<&'static str>,
    call: String,
    n: u32,
}

/// A server with repositories at an old and a new state, and what a scene needs.
struct Stage {
    server: GitServer,
    repos: Vec<(Repo, String, String)>,
}

impl Stage {
    fn new() -> Self {
        let server = GitServer::start();
        let repos = NAMES
            .iter()
            .map(|name| {
                let repo = server.repo(&format!("{name}.git"));
                let commit = |text: &str| {
                    repo.commit(
                        "main",
                        &[
                            ("file", Content::File(text)),
                            ("d/run", Content::Script(text)),
                            ("d/e/deep", Content::File(text)),
                            ("link", Content::Link(if text == "old" { "file" } else { "d/run" })),
                            ("same", Content::File("same")),
                        ],
                    )
                };
                let (old, new) = (commit("old"), commit("new"));
                (repo, old, new)
            })
            .collect();
        Self { server, repos }
    }

    fn upstream(&self, new: bool) {
        for (repo, old, latest) in &self.repos {
            repo.branch("main", if new { latest } else { old });
        }
    }

    fn manifest(&self, scratch: &Scratch, names: &[&str]) {
        let mut text = String::from("dest: 'm/%{name}'\n");
        for name in names {
            text.push_str(&format!("{name}: {{source: '{}'}}\n", self.server.url(&format!("{name}.git"))));
        }
        scratch.manifest(&text);
    }
}

/// What is at a place: a whole tree's text, or why it is none.
fn whole(place: &Path) -> Result<String, String> {
    if !place.exists() {
        return Ok("absent".to_owned());
    }
    let read = |below: &str| std::fs::read_to_string(place.join(below)).map_err(|err| format!("{below}: {err}"));
    let text = read("file")?;
    for below in ["d/run", "d/e/deep", "link"] {
        if read(below)? != text {
            return Err(format!("{below} is not {text}"));
        }
    }
    if read("same")? != "same" {
        return Err("same is not whole".to_owned());
    }
    Ok(text)
}

/// Plays the case and returns the trace.
fn survive(stage: &Stage, case: &Case) -> Result<String, String> {
    let Case { scene, threads, fault, ref call, n } = *case;
    let scratch = Scratch::new();
    let log = scratch.path("strace");
    let mode = if scene == Scene::Clone { "clone" } else { "export" };
    let sets: &[&str] = if matches!(scene, Scene::Set | Scene::Back) { &["--generations", "2"] } else { &[] };
    let places = scratch.root().join(if sets.is_empty() { "m" } else { "current/m" });
    let options = [&["--mode", mode, "--jobs", "1"], sets].concat();
    // A server that is slow on a busy machine is not what is looked at.
    let run = |more: &[&str]| scratch.run(&[&options[..], &["--retries", "5"], more].concat());
    stage.manifest(&scratch, &NAMES);
    stage.upstream(false);
    if scene != Scene::First {
        run(&[]).code(0);
    }
    let (mut more, mut wanted): (&[&str], _) = (&[], ["new", "new"]);
    let mine = scratch.root().join("m/b/mine");
    match scene {
        Scene::First => wanted = ["old", "old"],
        Scene::Export | Scene::Clone | Scene::Set => stage.upstream(true),
        Scene::Back => {
            stage.upstream(true);
            run(&[]).code(0);
            stage.upstream(false);
            wanted = ["old", "old"];
        }
        Scene::Purge => {
            stage.manifest(&scratch, &NAMES[..1]);
            (more, wanted) = (&["--purge"], ["old", "absent"]);
        }
        Scene::Force => {
            stage.upstream(true);
            std::fs::write(&mine, "precious").expect("written");
            more = &["--force"];
        }
    }
    let before = NAMES.map(|name| whole(&places.join(name)).expect("prepared"));
    let mut strace = Command::new("timeout");
    strace.args(["-k", "1", HANGS, "strace", "-o"]).arg(&log).args(threads.then_some("-f"));
    if let Some(fault) = fault {
        strace.args(["-e", &format!("inject={call}:{fault}:when={n}")]);
    }
    let back = scene == Scene::Back;
    let cloner = if back {
        scratch.command(&["--rollback"])
    } else {
        scratch.command(&[&options[..], &["--retries", "0"], more].concat())
    };
    strace.arg(cloner.get_program()).args(cloner.get_args()).args((!back).then_some("repos.yaml"));
    strace.current_dir(scratch.path(""));
    strace.env_clear().env("HOME", scratch.path("")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = strace.stdin(Stdio::null()).output().expect("strace runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0 | 1 | 65 | 73 | 127 | 137) | None => {}
        Some(124) => return Err("it hangs".to_owned()),
        Some(code) => return Err(format!("it ends with {code}: {said}")),
    }
    if said.contains("panicked") {
        return Err(said);
    }
    let now = NAMES.map(|name| whole(&places.join(name)));
    if !sets.is_empty() && now[0] != now[1] {
        return Err(format!("the set is mixed: {now:?}"));
    }
    for ((now, before), wanted) in now.iter().zip(&before).zip(wanted) {
        match now {
            Err(why) => return Err(format!("a tree is mixed: {why}")),
            Ok(now) if now != before && now != wanted => return Err(format!("neither old nor new but {now}")),
            Ok(now) if output.status.success() && now != wanted => return Err(format!("it says 0 and left {now}")),
            Ok(_) => {}
        }
    }
    let kept = || {
        let saved = scratch.root().join(".cloner/saved");
        mine.exists() || files(&saved).iter().any(|path| path.ends_with("/mine"))
    };
    if scene == Scene::Force && !kept() {
        return Err("what somebody else wrote is lost".to_owned());
    }
    let healed = run(&[more, &["--no-wait"]].concat());
    if healed.code != 0 {
        return Err(format!("the next run ends with {}: {}", healed.code, healed.err));
    }
    for (name, wanted) in NAMES.iter().zip(wanted) {
        match whole(&places.join(name)) {
            Ok(now) if now == wanted => {}
            now => return Err(format!("the next run left {now:?} instead of {wanted}")),
        }
    }
    if scene == Scene::Force && (!kept() || mine.exists()) {
        return Err("what somebody else wrote is not aside".to_owned());
    }
    let half: Vec<String> = files(&scratch.root())
        .into_iter()
        .filter(|path| path.starts_with(".cloner/stage") || path.ends_with(".next") || path.ends_with(".tmp"))
        .collect();
    if !half.is_empty() {
        return Err(format!("left behind: {half:?}"));
    }
    if scratch.run(&[sets, &["--verify"]].concat()).code != 0 {
        return Err("--verify finds a difference".to_owned());
    }
    Ok(std::fs::read_to_string(&log).unwrap_or_default())
}

/// Returns each system call of a trace with the number of times that the thread made it that made it most often.
fn calls(trace: &str, threads: bool) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in trace.lines() {
        let (thread, rest) = if threads { line.split_once(' ').unwrap_or_default() } else { ("", line) };
        let name = rest.trim_start().split('(').next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            *counts.entry((thread, name)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, u32> = BTreeMap::new();
    for ((_, name), count) in counts {
        let known = most.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

/// The figure of a campaign, which no assertion shows.
fn told(figure: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{figure}");
}

/// Plays every `step`-th case; false where that cannot be done.
fn sweep(step: usize) -> Option<BTreeMap<&'static str, usize>> {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skipped("strace is not installed or may not trace");
        return None;
    }
    let only = std::env::var("CLONER_SWEEP_FAULT").ok();
    let stage = Stage::new();
    let mut cases = Vec::new();
    for scene in SCENES {
        for threads in [false, true] {
            let undisturbed = Case { scene, threads, fault: None, call: String::new(), n: 0 };
            let trace = survive(&stage, &undisturbed).unwrap_or_else(|why| panic!("{scene:?} undisturbed: {why}"));
            for (call, count) in calls(&trace, threads).into_iter().filter(|(call, _)| ON_FILES.contains(&&**call)) {
                for fault in FAULTS.into_iter().filter(|fault| only.as_ref().is_none_or(|only| fault.ends_with(only))) {
                    cases.extend((1..=count).map(|n| Case {
                        scene,
                        threads,
                        fault: Some(fault),
                        call: call.clone(),
                        n,
                    }));
                }
            }
        }
    }
    let all = cases.len();
    let cases: Vec<Case> = cases.into_iter().step_by(step).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let stage = Stage::new();
                while let Some(case) = cases.get(next.fetch_add(1, SeqCst)) {
                    if let Err(why) = survive(&stage, case) {
                        failures.lock().expect("no panic").push(format!("{case:?}: {why}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    let mut played: BTreeMap<&'static str, usize> = BTreeMap::new();
    cases.iter().for_each(|case| *played.entry(case.fault.unwrap_or_default()).or_default() += 1);
    told(&format!("{} of {all} points: {played:?}; {} failed", cases.len(), failures.len()));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Some(played)
}

#[test]
fn a_sample_of_faults_leaves_old_or_new_trees() {
    sweep(443);
}

#[test]
#[ignore = "minutes; `make sweep-cloner`"]
fn a_fault_at_every_system_call_leaves_old_or_new_trees() {
    let step = std::env::var("CLONER_SWEEP_STEP").ok().and_then(|step| step.parse().ok()).unwrap_or(1);
    let Some(played) = sweep(step) else { return };
    if step == 1 {
        assert!(played[KILL] >= 500 && played["error=ENOSPC"] >= 100, "{played:?}");
    }
}

/// Updates trees on a file system of its own that is made full at `sizes` places; none where that is not allowed.
fn full_disks(sizes: usize) -> Option<usize> {
    let stage = Stage::new();
    stage.upstream(true);
    for (repo, ..) in &stage.repos {
        // Large enough that the pack, the files and the records each meet the end of some disk.
        let noise: String =
            (0..32_000u32).map(|number| format!("{:08x}", number.wrapping_mul(2_654_435_761))).collect();
        repo.commit("main", &[("file", Content::File("new")), ("noise", Content::File(&noise))]);
    }
    let scratch = Scratch::new();
    stage.manifest(&scratch, &NAMES);
    std::fs::create_dir_all(scratch.root()).expect("made");
    let (old, new): (Vec<_>, Vec<_>) = stage.repos.iter().map(|(repo, old, _)| (old.clone(), repo.tip("main"))).unzip();
    let overrides = |commits: &[String]| {
        NAMES.iter().zip(commits).map(|(name, commit)| format!("--{name}::ref={commit}")).collect::<Vec<_>>().join(" ")
    };
    // For each size: the old trees on a large disk, then the new ones on one with so many free pages.
    let script = format!(
        "mount -t tmpfs -o size=64m tmpfs {root} || exit 99\n\
         c='{cloner} --root {root} --mode export --retries 5 --jobs 1'\n\
         for free in $(seq 0 {sizes}); do\n\
         $c repos.yaml {old} || {{ echo \"$free does not heal\"; exit 98; }}\n\
         [ ! -e {root}/.cloner/stage ] || {{ echo \"$free left something\"; exit 98; }}\n\
         used=$(df --output=used -k {root} | tail -n 1)\n\
         mount -o remount,size=$((used + 4 * free))k {root} || exit 97\n\
         timeout {HANGS} $c repos.yaml {new} >out 2>&1; code=$?\n\
         mount -o remount,size=64m {root}\n\
         echo \"$free $code $(cat {root}/m/a/file {root}/m/b/file | tr '\\n' ' ') $(grep -c 'disk:' out)\"\n\
         done",
        root = scratch.root().display(),
        cloner = binary().display(),
        old = overrides(&old),
        new = overrides(&new),
    );
    stage.server.allow_any_commit(true);
    let mut command = Command::new("unshare");
    let Ok(output) = command.args(["-m", "sh", "-c", &script]).current_dir(scratch.path("")).output() else {
        skipped("there is no unshare program");
        return None;
    };
    let ran = Ran::from(output);
    if matches!(ran.code, 1 | 99) {
        skipped(&format!("no mount namespace: {}", ran.err.trim()));
        return None;
    }
    let ran = ran.code(0);
    let mut refused = 0;
    for line in ran.out.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (code, trees, named) = (words[1], words[2], words[3]);
        let fine = match code {
            "0" => trees == "newnew",
            "1" => named != "0" && ["oldold", "oldnew", "newold"].contains(&trees),
            "73" => trees == "oldold",
            _ => false,
        };
        assert!(fine, "{line}\n{}", ran.err);
        refused += usize::from(code != "0");
    }
    told(&format!("{} sizes, {refused} too small", ran.out.lines().count()));
    assert!(refused > 0, "{}", ran.out);
    Some(refused)
}

#[test]
fn disks_of_some_sizes_leave_old_or_new_trees() {
    full_disks(8);
}

#[test]
#[ignore = "a minute; `make sweep-cloner`"]
fn disks_of_many_sizes_leave_old_or_new_trees() {
    if let Some(refused) = full_disks(180) {
        assert!(refused >= 100, "{refused}");
    }
}
