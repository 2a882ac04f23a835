//! A token is seen by Consul and by nobody else.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use test_support::consul::{FakeConsul, Fault};

use crate::bench::{Bench, Run, has, until};

const CANARY: &str = "canary-5b1f8c22-token";

/// How a tool gets its token.
#[derive(Debug, Clone, Copy)]
enum By {
    Variable,
    File,
    Flag,
}

fn bench(consul: &FakeConsul) -> Bench {
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    bench.write("token", format!("{CANARY}\n"));
    let level = "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/}}\n";
    bench.write("hiera.yaml", level);
    bench.run("mirror-sync", ["keygen", "--out", "site.sec.asc", "--public", "site.gpg"]).is(0);
    std::fs::create_dir(bench.path("debs")).unwrap();
    bench.write(
        "mirror.yaml",
        format!(
            "root: {root}\nurl: http://m\nsigning_key: {key}\nchannels: [stable]\nconsul: {{}}\nsources:\n\
             - {{name: site, type: deb, dir: {debs}, suites: [s], components: [main], architectures: [amd64]}}\n",
            root = bench.text("mirror"),
            key = bench.text("site.sec.asc"),
            debs = bench.text("debs"),
        ),
    );
    bench
}

/// Runs a tool to its end with the token, and makes sure that nothing it says holds it.
#[track_caller]
fn run(bench: &Bench, by: By, words: &str) -> Run {
    let mut words = words.split(' ');
    let mut command = bench.command(words.next().unwrap(), [""; 0]);
    let file = bench.text("token");
    match by {
        By::Variable => command.env("CONSUL_HTTP_TOKEN", CANARY),
        By::File => command.env("CONSUL_HTTP_TOKEN_FILE", &file),
        By::Flag => command.args(["--token-file", &file]),
    };
    command.args(["-v", "-v"]).args(words);
    let run = Run::from(command.output().unwrap());
    assert!(!run.out.contains(CANARY) && !run.err.contains(CANARY), "{command:?}\n{run:?}");
    run
}

const CALLS: [&str; 9] = [
    "consul-kv put hiera/k v",
    "consul-kv get hiera/k",
    "consul-kv list hiera/",
    "consul-kv wait --timeout 300ms hiera/k",
    "consul-elect once db",
    "consul-elect show db",
    "hiera-consul lookup --hiera_config hiera.yaml k",
    "hiera-consul lookup --hiera_config hiera.yaml --explain k",
    "consul-kv delete hiera/k",
];

#[test]
fn no_tool_shows_its_token_whether_it_works_or_fails() {
    let mut consul = FakeConsul::start();
    let bench = bench(&consul);
    consul.require_token(CANARY);
    for by in [By::Variable, By::File, By::Flag] {
        for words in CALLS {
            run(&bench, by, words).is(0);
        }
    }
    bench.run("consul-kv", ["get", "k"]).is(77);
    // Refused, sick, and broken in ways that make tools quote what they got or asked.
    for fault in [Fault::Status(403, "Permission denied".to_owned()), Fault::Body("<html>".to_owned()), Fault::Close] {
        consul.heal();
        consul.fault("", fault.clone());
        for by in [By::Variable, By::File, By::Flag] {
            for words in CALLS {
                let run = run(&bench, by, words);
                assert!([69, 77].contains(&run.code), "{fault:?} {words}: {run:?}");
                // An explanation goes as far as the level that failed; everything else prints nothing.
                assert!(run.out.is_empty() || words.contains("--explain"), "{fault:?} {words}: {run:?}");
            }
        }
    }
    consul.stop();
    for by in [By::Variable, By::File, By::Flag] {
        for words in CALLS {
            run(&bench, by, words).is(69);
        }
    }
    // Settings that make no sense.
    for words in CALLS {
        let mut words = words.split(' ');
        let mut command = bench.command(words.next().unwrap(), words);
        let text = format!("{CANARY}\u{1}broken");
        let run = Run::from(command.env("CONSUL_HTTP_TOKEN", text).output().unwrap());
        assert!(!run.out.contains(CANARY) && !run.err.contains(CANARY) && run.code != 0, "{command:?}\n{run:?}");
    }
}

#[test]
fn mirror_sync_uses_and_hides_its_token() {
    let mut consul = FakeConsul::start();
    let mut bench = bench(&consul);
    consul.require_token(CANARY);
    let id = {
        run(&bench, By::Variable, "mirror-sync --config mirror.yaml sync").is(0);
        run(&bench, By::File, "mirror-sync --config mirror.yaml snapshot").is(0).out.trim_end().to_owned()
    };
    let promote = format!("mirror-sync --config mirror.yaml promote {id} --channel stable");
    for by in [By::Variable, By::File] {
        run(&bench, by, &promote).is(0);
    }
    bench.run("mirror-sync", promote.split(' ').skip(1)).is(77);
    consul.stop();
    run(&bench, By::Variable, &promote).is(69);
    bench.set("CONSUL_HTTP_ADDR", "");
    bench.set("CONSUL_HTTP_TOKEN", CANARY);
    for file in files(&bench.path("mirror")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{}", file.display());
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found
}

/// The programs that tools start see neither the token in their arguments nor, without need, in their environment.
#[test]
fn programs_that_are_started_do_not_get_the_token() {
    if !has("git") {
        return;
    }
    let mut bench = Bench::new();
    let seen = bench.text("seen");
    for program in ["git", "ssh", "apt-get"] {
        bench.script(
            &format!("shims/{program}"),
            &format!("{{ echo {program} \"$@\"; tr '\\0' '\\n' < /proc/self/environ; }} >> {seen}\nexit 128"),
        );
    }
    let path = format!("{}:{}", bench.text("shims"), bench.setting("PATH"));
    bench.set("PATH", &path);
    bench.set("CONSUL_HTTP_TOKEN", CANARY);
    bench.set("CONSUL_HTTP_ADDR", "127.0.0.1:1");
    bench.write("repos.yaml", "m: {source: 'ssh://git@git.example.org/m.git', dest: modules/m, ref: main}\n");
    bench.run("mirror-sync", ["keygen", "--out", "site.sec.asc", "--public", "site.gpg"]).is(0);
    bench.write(
        "mirror.yaml",
        format!(
            "root: {}\nurl: http://m\nsigning_key: {}\nlimits: {{retries: 0}}\nsources:\n\
             - {{name: g, type: git, manifest: repos.yaml, mirror: {}}}\n",
            bench.text("mirror"),
            bench.text("site.sec.asc"),
            bench.text("upstream"),
        ),
    );
    let sync = bench.run("mirror-sync", ["--config", "mirror.yaml", "sync"]);
    assert_ne!(sync.code, 0);
    let clone = bench.run("cloner", ["--root", "code", "--retries", "0", "repos.yaml"]).is(1);
    for text in [&sync.out, &sync.err, &clone.out, &clone.err] {
        assert!(!text.contains(CANARY), "{text}");
    }
    let seen = bench.lines("seen");
    assert!(seen.iter().any(|line| line.starts_with("git ")), "no git was started: {sync:?} {clone:?}");
    let leak: Vec<_> = seen.iter().filter(|line| line.contains(CANARY)).collect();
    assert!(leak.is_empty(), "{leak:?}");
}

/// While a tool goes on, anybody can read its command line, and those of what it started.
#[test]
fn long_running_tools_keep_it_out_of_command_lines() {
    let consul = FakeConsul::start();
    let bench = bench(&consul);
    consul.require_token(CANARY);
    consul.put("k", b"1");
    let seen = bench.text("seen");
    let hook = bench.script("hook.sh", &format!("tr '\\0' '\\n' < /proc/self/environ > {seen}; sleep 30"));
    bench.write("watch.yaml", format!("watches:\n- {{name: a, type: key, key: k, run: ['{hook}']}}\n"));
    let mut watch = bench.command("consul-watch-handler", ["-vv", "watch", "watch.yaml"]);
    watch.env("CONSUL_HTTP_TOKEN", CANARY);
    let watch = bench.start(watch, "watch.err");
    let mut elect = bench.command("consul-elect", ["-vv", "run", "lead", "--", "sleep", "30"]);
    elect.env("CONSUL_HTTP_TOKEN", CANARY);
    let elect = bench.start(elect, "elect.err");
    let mut wait = bench.command("consul-kv", ["-vv", "wait", "none"]);
    wait.env("CONSUL_HTTP_TOKEN", CANARY);
    let wait = bench.start(wait, "wait.err");
    let mut kick = bench.command("ts", ["-f", "sleep", "30"]);
    kick.env("CONSUL_HTTP_TOKEN", CANARY);
    let kick = bench.start(kick, "kick.err");
    until("all of them are at work", || {
        !bench.lines("seen").is_empty()
            && consul.holder("stacktira/leader/lead").is_some()
            && bench.run("ts", ["-s", "--json"]).is(0).out.contains("\"pid\"")
    });
    std::thread::sleep(Duration::from_millis(100));
    let pids = [watch.pid(), elect.pid(), wait.pid(), kick.pid()];
    let mut checked = 0;
    for pid in descendants(&pids) {
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        assert!(!String::from_utf8_lossy(&line).contains(CANARY), "{}", String::from_utf8_lossy(&line));
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} processes were found");
    let environment = bench.lines("seen").join("\n");
    assert!(environment.contains("STACKTIRA_WATCH_NAME=a") && !environment.contains(CANARY), "{environment}");
    // What ts remembers of the environment is for its owner alone, and no command of it prints it.
    for words in ["-s", "-s --json", "-l", "-l --json", "-c"] {
        let run = bench.run("ts", words.split(' ')).is(0);
        assert!(!run.out.contains(CANARY) && !run.err.contains(CANARY), "ts {words}");
    }
    for file in files(&bench.path("ts")) {
        use std::os::unix::fs::PermissionsExt;
        let Ok(bytes) = std::fs::read(&file) else { continue };
        if String::from_utf8_lossy(&bytes).contains(CANARY) {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", file.display());
        }
    }
    bench.run("ts", ["-k"]).is(0);
    for (tool, name) in [(watch, "watch"), (elect, "elect"), (wait, "wait"), (kick, "kick")] {
        assert!(!tool.said().contains(CANARY), "{name}: {}", tool.said());
        tool.end();
    }
    for file in files(&bench.path("watch")) {
        assert!(!String::from_utf8_lossy(&std::fs::read(&file).unwrap()).contains(CANARY), "{}", file.display());
    }
}

/// These processes and everything below them.
fn descendants(pids: &[u32]) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name in parentheses may hold anything.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.push((pid, parent.unwrap_or(0)));
    }
    let mut found = pids.to_vec();
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// A secret must not be given where everybody can read it: no tool has a flag that takes one.
#[test]
fn no_flag_takes_a_token() {
    let bench = Bench::new();
    for tool in integration_tests::TOOLS {
        let mut command = bench.command(tool, ["--help"]);
        command.env("CONSUL_HTTP_TOKEN", CANARY).stdin(Stdio::null());
        let run = Run::from(command.output().unwrap()).is(0);
        assert!(!run.out.contains(CANARY), "{tool}");
        assert!(!run.out.contains("--token "), "{tool}");
    }
}
