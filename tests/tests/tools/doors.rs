//! Bad input at each door: one clear line that names the file or the address, the right code, nothing on stdout.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Run, has, until};

/// The id of no snapshot.
macro_rules! zeros {
    () => {
        "0000000000000000000000000000000000000000000000000000000000000000"
    };
}

/// An address at which nobody listens.
const AWAY: &str = "127.0.0.1:1";

/// A call that must fail.
struct Door {
    /// What is typed; words are separated by blanks.
    words: &'static str,
    /// What stands on stdin.
    input: &'static str,
    /// The exit code.
    code: i32,
    /// What the line has to name.
    names: &'static [&'static str],
}

const fn door(words: &'static str, code: i32, names: &'static [&'static str]) -> Door {
    Door { words, input: "", code, names }
}

const fn fed(input: &'static str, words: &'static str, code: i32, names: &'static [&'static str]) -> Door {
    Door { words, input, code, names }
}

/// The one line on stderr that says what is wrong.
#[track_caller]
fn refused(tool: &str, words: &str, run: &Run, code: i32, names: &[&str]) {
    let context = format!("{tool} {words}\n{run:?}");
    assert_eq!(run.code, code, "{context}");
    assert_eq!(run.out, "", "{context}");
    let mut lines = run.err.lines();
    let line = lines.next().unwrap_or_else(|| panic!("it says nothing: {context}"));
    if line.starts_with("error: ") {
        // The command line itself: clap's own words, with usage.
        assert!(code == 2 || code == 125, "{context}");
    } else {
        assert!(line.starts_with(&format!("{tool}: error: ")), "{context}");
        let rest: Vec<&str> = lines.collect();
        assert!(rest.len() <= 1 && rest.iter().all(|l| l.starts_with(&format!("{tool}: hint: "))), "{context}");
    }
    for name in names {
        assert!(line.contains(name), "it does not name {name}: {context}");
    }
    assert!(line.len() < 500 && !line.contains("panicked") && !line.contains('\u{1b}'), "{context}");
}

fn check(bench: &Bench, doors: &[Door]) {
    for door in doors {
        let (tool, words) = door.words.split_once(' ').unwrap();
        let mut command = bench.command(tool, words.split(' '));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may refuse before it has read everything.
        drop(child.stdin.take().unwrap().write_all(door.input.as_bytes()));
        let run = Run::from(child.wait_with_output().unwrap());
        refused(tool, words, &run, door.code, door.names);
    }
}

#[test]
fn manifests_and_modules() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("empty")).unwrap();
    bench.write("broken.yaml", "a:\n  source: [x\n");
    bench.write("list.yaml", "a:\n  source: x\n  dest: d\n  ref: [1]\n");
    bench.write("twice.yaml", "a: 1\na: 2\n");
    bench.write("undefined.yaml", "m:\n  source: /x\n  dest: \"%{nowhere}/m\"\n");
    bench.write("cycle.yaml", "x: \"%{y}\"\ny: \"%{x}\"\nm:\n  source: \"%{x}\"\n  dest: m\n");
    bench.write("nodest.yaml", "m:\n  source: /x\n");
    bench.write("nested.yaml", "a: {source: /x, dest: d}\nb: {source: /y, dest: d/e}\n");
    bench.write("escape.yaml", "a: {source: /x, dest: ../../d}\n");
    bench.write("binary.yaml", b"a: \xff\xfe\n");
    bench.write("gone.yaml", format!("m: {{source: {}, dest: m}}\n", bench.text("nowhere.git")));
    bench.write("away.yaml", "m: {source: 'http://127.0.0.1:1/m.git', dest: m}\n");
    bench.write("remote.yaml", "m: {source: 'https://git.example.org/m.git', dest: m}\n");
    bench.write("fine.yaml", "m: {source: /x, dest: m}\n");
    bench.write("broken.lock", "{");
    check(
        &bench,
        &[
            door("cloner none.yaml", 65, &["none.yaml", "No such file"]),
            door("cloner empty", 65, &["empty", "directory"]),
            door("cloner broken.yaml", 65, &["broken.yaml:"]),
            door("cloner list.yaml", 65, &["list.yaml:4:8", "ref"]),
            door("cloner twice.yaml", 65, &["twice.yaml:2:1"]),
            door("cloner undefined.yaml", 65, &["undefined.yaml:3:", "nowhere"]),
            door("cloner cycle.yaml", 65, &["cycle.yaml:"]),
            door("cloner nodest.yaml", 65, &["nodest.yaml:", "dest"]),
            door("cloner nested.yaml", 65, &["nested.yaml:2:", "'d/e'"]),
            door("cloner binary.yaml", 65, &["binary.yaml"]),
            door("cloner --locked --lock none.lock fine.yaml", 65, &["none.lock"]),
            door("cloner --locked --lock broken.lock fine.yaml", 65, &["broken.lock"]),
            door("cloner fine.yaml --m::reff x", 2, &["--m::reff"]),
            door("cloner --timeout soon fine.yaml", 2, &["--timeout", "soon"]),
            // A module that is not where it should be: named, with the place that was asked.
            door("cloner gone.yaml", 1, &["m (m): ", "nowhere.git"]),
            door("cloner --retries 0 away.yaml", 1, &["m (m): network: ", AWAY]),
            door("cloner --retries 0 --mirror http://127.0.0.1:1/git remote.yaml", 1, &["m (m): network: ", AWAY]),
            door("cloner escape.yaml", 1, &["a (", "../../d"]),
            // Places that cannot be written.
            door("cloner --root /proc/none fine.yaml", 73, &["/proc/none"]),
            door("cloner --root fine.yaml fine.yaml", 73, &["fine.yaml"]),
        ],
    );
}

#[test]
fn hierarchies_data_and_facts() {
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", AWAY);
    let level = |line: &str| format!("version: 5\nhierarchy:\n- {{name: a, {line}}}\n");
    bench.write("broken/hiera.yaml", "version: 5\nhierarchy: [\n");
    bench.write("shape/hiera.yaml", "version: 5\nhierarchy: 3\n");
    bench.write("version/hiera.yaml", "version: 4\n");
    bench.write("key/hiera.yaml", level("pathh: d.yaml"));
    bench.write("fine/hiera.yaml", level("path: d.yaml"));
    bench.write("fine/data/d.yaml", "a: 1\n");
    bench.write("data/hiera.yaml", level("path: d.yaml"));
    bench.write("data/data/d.yaml", "a: [\n");
    bench.write("json/hiera.yaml", level("path: d.json, data_hash: json_data"));
    bench.write("json/data/d.json", "{");
    bench.write("consul/hiera.yaml", level("lookup_key: 'stacktira::consul', options: {prefix: hiera/}"));
    bench.write("option/hiera.yaml", level("lookup_key: 'stacktira::consul', options: {prefix: hiera/, formaat: raw}"));
    bench.write("list.json", "[");
    bench.write("three.yaml", ":backends: 7\n");
    check(
        &bench,
        &[
            door("hiera-consul lookup --hiera_config none/hiera.yaml a", 65, &["none/hiera.yaml"]),
            door("hiera-consul lookup --hiera_config broken/hiera.yaml a", 65, &["broken/hiera.yaml"]),
            door("hiera-consul lookup --hiera_config shape/hiera.yaml a", 65, &["shape/hiera.yaml", "hierarchy"]),
            door("hiera-consul lookup --hiera_config version/hiera.yaml a", 65, &["version/hiera.yaml"]),
            door("hiera-consul lookup --hiera_config key/hiera.yaml a", 65, &["key/hiera.yaml", "pathh"]),
            door("hiera-consul lookup --hiera_config three.yaml a", 65, &["three.yaml"]),
            door("hiera-consul lookup --hiera_config data/hiera.yaml a", 65, &["data/d.yaml"]),
            door("hiera-consul lookup --hiera_config json/hiera.yaml a", 65, &["data/d.json"]),
            door("hiera-consul lookup --hiera_config option/hiera.yaml a", 65, &["formaat"]),
            door("hiera-consul lookup --hiera_config fine/hiera.yaml --facts none.json a", 65, &["none.json"]),
            door("hiera-consul lookup --hiera_config fine/hiera.yaml --facts list.json a", 65, &["list.json"]),
            door("hiera-consul lookup --hiera_config fine/hiera.yaml --type Strin[ a", 2, &["Strin["]),
            door("hiera-consul lookup --hiera_config fine/hiera.yaml --type String a", 65, &["String"]),
            door("hiera-consul lookup --hiera_config fine/hiera.yaml --merge most a", 2, &["--merge", "most"]),
            door("hiera-consul lookup --hiera_config consul/hiera.yaml a", 69, &[AWAY]),
            door("hiera-consul lookup --hiera_config consul/hiera.yaml leader__db", 69, &[AWAY]),
            door("hiera-consul lookup --hiera_config consul/hiera.yaml --default x a", 69, &[AWAY]),
        ],
    );
}

#[test]
fn watch_files_and_payloads() {
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", AWAY);
    bench.write("broken.yaml", "watches: [\n");
    bench.write("type.yaml", "watches:\n- {name: a, type: kye, run: [x]}\n");
    bench.write("key.yaml", "watches:\n- {name: a, type: nodes, runn: [x], run: [x]}\n");
    bench.write("fine.yaml", "watches: []\n");
    bench.write("plain", "");
    check(
        &bench,
        &[
            door("consul-watch-handler watch none.yaml", 65, &["none.yaml"]),
            door("consul-watch-handler agent-config none.yaml", 65, &["none.yaml"]),
            door("consul-watch-handler agent-config type.yaml", 65, &["type.yaml:2:19", "kye"]),
            door("consul-watch-handler watch /proc", 65, &["/proc"]),
            door("consul-watch-handler watch broken.yaml", 65, &["broken.yaml:"]),
            door("consul-watch-handler watch type.yaml", 65, &["type.yaml:2:19", "kye"]),
            door("consul-watch-handler watch key.yaml", 65, &["key.yaml:2:", "runn"]),
            door("consul-watch-handler handle --frob -- true", 125, &["--frob"]),
            door("consul-watch-handler replay none.ndjson", 65, &["none.ndjson"]),
            fed("{", "consul-watch-handler handle --type nodes -- true", 125, &["JSON"]),
            fed("", "consul-watch-handler handle --type nodes -- true", 125, &["JSON"]),
            fed("7", "consul-watch-handler handle --type nodes -- true", 125, &["payload"]),
            // Nothing there, says a payload, and nobody can be asked.
            fed("[]", "consul-watch-handler handle --type nodes -- true", 125, &[AWAY]),
            fed("[{}]", "consul-watch-handler handle --type nodes -- /none/command", 127, &["/none/command"]),
            fed("[{}]", "consul-watch-handler handle --name ../x --type nodes -- true", 125, &["../x"]),
        ],
    );
    let place = bench.text("plain");
    bench.set("STACKTIRA_WATCH_DIR", &place);
    check(
        &bench,
        &[
            door("consul-watch-handler watch fine.yaml", 73, &["plain"]),
            fed("[{}]", "consul-watch-handler handle --type nodes -- true", 125, &["plain"]),
        ],
    );
}

/// A watcher without Consul goes on and says so, once, with the address.
#[test]
fn a_watcher_without_consul_says_so_and_goes_on() {
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", AWAY);
    bench.write("watch.yaml", "watches:\n- {name: a, type: key, key: k, run: ['/none/command']}\n");
    let watch = bench.start(bench.command("consul-watch-handler", ["watch", "watch.yaml"]), "watch.err");
    until("it is said", || watch.said().contains(AWAY));
    std::thread::sleep(Duration::from_millis(500));
    let said = watch.said();
    assert_eq!(said.lines().filter(|line| line.contains(AWAY)).count(), 1, "{said}");
    assert!(said.starts_with("consul-watch-handler: warning: "), "{said}");
    assert_eq!(watch.end(), 0);
}

#[test]
fn metadata() {
    let mut bench = Bench::new();
    check(&bench, &[door("node-metadata get --timeout 300ms role", 69, &["http://127.0.0.1:1/"])]);
    for (content, says) in [("[", "JSON"), ("[]", "list"), ("", "JSON"), ("\u{0}", "JSON")] {
        bench.write("node/etc/stacktira/metadata.json", content);
        check(
            &bench,
            &[
                door("node-metadata get role", 65, &["node/etc/stacktira/metadata.json"]),
                door("node-metadata dump", 65, &["node/etc/stacktira/metadata.json"]),
            ],
        );
        let said = bench.run("node-metadata", ["dump"]).err;
        assert!(said.contains(says), "{content:?}: {said}");
    }
    bench.set("STACKTIRA_METADATA_URL", "ftp://nowhere");
    std::fs::remove_dir_all(bench.path("node")).unwrap();
    let run = bench.run("node-metadata", ["get", "role"]);
    refused("node-metadata", "get role", &run, run.code, &["ftp://nowhere"]);
    assert!([65, 69].contains(&run.code), "{run:?}");
}

#[test]
fn consul_is_away() {
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", AWAY);
    check(
        &bench,
        &[
            door("consul-kv get k", 69, &[AWAY]),
            door("consul-kv put k v", 69, &[AWAY]),
            door("consul-kv delete k", 69, &[AWAY]),
            door("consul-kv list k", 69, &[AWAY]),
            door("consul-kv wait --timeout 200ms k", 69, &[AWAY]),
            door("consul-elect once db", 69, &[AWAY]),
            door("consul-elect once --reset db", 69, &[AWAY]),
            door("consul-elect show db", 69, &[AWAY]),
        ],
    );
    // Waiting for leadership is what `run` is for: it says once what it waits for.
    let run = bench.run("consul-elect", ["run", "--timeout", "300ms", "db", "--", "true"]).is(124);
    assert!(run.err.lines().all(|line| line.starts_with("consul-elect: ")) && run.err.contains(AWAY), "{run:?}");
    assert_eq!(run.err.matches("error: ").count(), 1, "{run:?}");
    bench.set("CONSUL_HTTP_ADDR", "ftp://nowhere");
    bench.set("CONSUL_CACERT", "");
    check(
        &bench,
        &[
            door("consul-kv get k", 65, &["CONSUL_HTTP_ADDR", "ftp"]),
            door("consul-elect show db", 65, &["CONSUL_HTTP_ADDR", "ftp"]),
        ],
    );
    bench.set("CONSUL_HTTP_ADDR", AWAY);
    check(&bench, &[door("consul-kv --token-file none get k", 65, &["none"])]);
    check(&bench, &[door("consul-kv --ca-file none --http-addr https://127.0.0.1:1 get k", 65, &["none"])]);
    let big = "x".repeat(512 * 1024 + 1);
    bench.write("big", big);
    let run = bench.sh("consul-kv put k < big");
    refused("consul-kv", "put k", &run, 65, &["k", "512 KiB"]);
}

/// A Consul, or a cloud, that takes the connection and never answers is as good as none.
#[test]
fn who_never_answers_is_given_up() {
    let silent = test_support::consul::FakeConsul::start();
    silent.fault("", test_support::consul::Fault::Hang);
    let address = silent.address();
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &address);
    bench.set("STACKTIRA_METADATA_URL", &silent.url());
    let level = "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/}}\n";
    bench.write("hiera.yaml", level);
    let start = Instant::now();
    let all = [
        "consul-kv get k",
        "consul-kv put k v",
        "consul-kv list k",
        "consul-kv wait --timeout 2s k",
        "consul-elect once db",
        "consul-elect show db",
        "hiera-consul lookup --hiera_config hiera.yaml k",
        "node-metadata get --timeout 2s role",
    ]
    .map(|words| {
        let (tool, rest) = words.split_once(' ').unwrap();
        let mut command = bench.command(tool, rest.split(' '));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (tool, rest, child)
    });
    for (tool, rest, child) in all {
        let run = Run::from(child.wait_with_output().unwrap());
        let says: Vec<&str> = run.err.lines().filter(|line| line.contains("error: ")).collect();
        assert!(run.code == 69 && run.out.is_empty(), "{tool} {rest}: {run:?}");
        assert!(says.len() == 1 && says[0].contains(&address), "{tool} {rest}: {run:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[test]
fn mirrors_and_packages() {
    if !has("git") {
        return;
    }
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", AWAY);
    bench.run("mirror-sync", ["keygen", "--out", "site.sec.asc", "--public", "site.gpg"]).is(0);
    let root = bench.text("");
    let config = |name: &str, more: &str| {
        let head =
            format!("root: {root}/mirror\nurl: http://m\nsigning_key: {root}/site.sec.asc\nchannels: [stable]\n");
        bench.write(name, format!("{head}limits: {{retries: 0, stall: 2s}}\n{more}"));
    };
    let debs = |dir: &str| {
        format!(
            "sources:\n- {{name: s, type: deb, dir: {root}/{dir}, suites: [s], components: [main], architectures: [amd64]}}\n"
        )
    };
    std::fs::create_dir(bench.path("debs")).unwrap();
    bench.write("damaged/st-app_1_amd64.deb", "no package");
    bench.write("repos.yaml", "m: {source: 'https://git.example.org/m.git', dest: m}\n");
    bench.write("broken.yaml", "root: [\n");
    config("key.yaml", "bogus: 1\n");
    config("type.yaml", "sources: [{name: x, type: floppy}]\n");
    config("nodebs.yaml", &debs("nodebs"));
    config("damaged.yaml", &debs("damaged"));
    let mirrored = |base: &str| format!("sources: [{{name: g, type: git, manifest: repos.yaml, mirror: '{base}'}}]\n");
    config("git.yaml", &mirrored(&bench.text("upstream")));
    config("away.yaml", &mirrored("http://127.0.0.1:1"));
    config("nogit.yaml", "sources: [{name: g, type: git, manifest: none.yaml}]\n");
    config("fine.yaml", &debs("debs"));
    config("consul.yaml", &format!("consul: {{}}\n{}", debs("debs")));
    bench.write("relative.yaml", "root: mirror\n");
    bench.write("unwritable.yaml", "root: /proc/none/mirror\nurl: http://m\n");
    bench.write("node.yaml", format!(
        "limits: {{retries: 0}}\nnode: {{mirror: 'http://127.0.0.1:1', channel: stable, keyring: {root}/site.gpg}}\n"
    ));
    bench.write("nokey.yaml", "node: {mirror: 'http://127.0.0.1:1', channel: stable, keyring: /none/site.gpg}\n");
    check(
        &bench,
        &[
            door("mirror-sync --config none.yaml list", 65, &["none.yaml"]),
            door("mirror-sync --config broken.yaml list", 65, &["broken.yaml"]),
            door("mirror-sync --config key.yaml list", 65, &["key.yaml", "bogus"]),
            door("mirror-sync --config type.yaml list", 65, &["type.yaml", "floppy"]),
            door("mirror-sync --config relative.yaml list", 65, &["relative.yaml", "root"]),
            door("mirror-sync --config node.yaml sync", 65, &["node.yaml", "root"]),
            door("mirror-sync --config fine.yaml apply", 65, &["fine.yaml", "node"]),
            // Packages and modules that are missing or damaged.
            door("mirror-sync --config nodebs.yaml sync", 69, &["source s", "nodebs"]),
            door("mirror-sync --config damaged.yaml sync", 1, &["source s", "st-app_1_amd64.deb"]),
            door("mirror-sync --config git.yaml sync", 69, &["source g", "upstream/git.example.org/m.git"]),
            door("mirror-sync --config away.yaml sync", 69, &["source g", "http://127.0.0.1:1/git.example.org/m.git"]),
            door("mirror-sync --config nogit.yaml sync", 65, &["none.yaml", "No such file"]),
            door("mirror-sync --config nodebs.yaml snapshot", 1, &["source s"]),
            // Snapshots and channels that do not exist.
            door("mirror-sync --config fine.yaml show 00", 1, &["00"]),
            door("mirror-sync --config fine.yaml promote 00 --channel stable", 1, &["00"]),
            door(
                concat!("mirror-sync --config fine.yaml promote ", zeros!(), " --channel none"),
                65,
                &["fine.yaml", "none"],
            ),
            door("mirror-sync --config fine.yaml rollback --channel stable", 1, &["stable"]),
            // Places that cannot be written or listened on, addresses where nobody is.
            door("mirror-sync --config unwritable.yaml sync", 73, &["/proc/none"]),
            door("mirror-sync keygen --out /proc/none/a --public b", 73, &["/proc/none/a"]),
            door("mirror-sync --config fine.yaml serve --listen nowhere", 2, &["--listen", "nowhere"]),
            door("mirror-sync --config fine.yaml serve --listen 203.0.113.1:8080", 69, &["203.0.113.1:8080"]),
            door("mirror-sync --config node.yaml apply", 69, &["http://127.0.0.1:1/"]),
            door("mirror-sync --config nokey.yaml apply", 65, &["/none/site.gpg"]),
        ],
    );
    bench.run("mirror-sync", ["--config", "consul.yaml", "sync"]).is(0);
    let id = bench.run("mirror-sync", ["--config", "consul.yaml", "snapshot"]).is(0).out;
    let run = bench.run("mirror-sync", ["--config", "consul.yaml", "promote", id.trim(), "--channel", "stable"]);
    refused("mirror-sync", "promote", &run, 69, &[AWAY]);
    // A signing key that others may read.
    std::fs::set_permissions(bench.path("site.sec.asc"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    check(&bench, &[door("mirror-sync --config fine.yaml snapshot", 77, &["site.sec.asc"])]);
}

#[test]
fn the_runner_and_its_directory() {
    let mut bench = Bench::new();
    check(
        &bench,
        &[
            door("ts -Q ../x true", 125, &["../x"]),
            door("ts -w 999999", 125, &["999999"]),
            door("ts --timeout soon true", 125, &["soon"]),
            door("ts --resume -f", 125, &["-f"]),
        ],
    );
    let run = bench.run("ts", ["-f", "/none/command"]).is(127);
    assert_eq!((run.out.as_str(), run.err.lines().count()), ("", 1), "{run:?}");
    assert!(run.err.contains("/none/command"), "{run:?}");
    bench.write("plain", "");
    std::fs::create_dir(bench.path("open")).unwrap();
    std::fs::set_permissions(bench.path("open"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(bench.path("elsewhere"), bench.path("link")).unwrap();
    for place in
        ["relative".to_owned(), bench.text("plain"), bench.text("open"), bench.text("link"), "/proc/none".into()]
    {
        bench.set("TS_DIR", &place);
        for words in ["true", "-f true", "--disable because"] {
            let run = bench.run("ts", words.split(' '));
            refused("ts", words, &run, 125, &[&place]);
        }
    }
    assert!(!bench.path("elsewhere").exists() && !bench.path("relative").exists());
}

/// Data that cannot be written is an error of its own, never a success.
#[test]
fn a_full_disk_behind_stdout() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let bench = Bench::new();
    bench.write("hiera.yaml", "version: 5\nhierarchy:\n- {name: a, path: d.yaml}\n");
    bench.write("data/d.yaml", "a: 1\n");
    bench.write("node/etc/stacktira/metadata.json", r#"{"role": "x"}"#);
    bench.write("repos.yaml", "{}\n");
    let consul = test_support::consul::FakeConsul::start();
    consul.put("k", b"v");
    for words in [
        "consul-kv get k",
        "consul-kv list --json k",
        "consul-elect once db",
        "consul-elect show db",
        "hiera-consul lookup --hiera_config hiera.yaml a",
        "node-metadata get role",
        "node-metadata dump",
        "cloner -q --json repos.yaml",
    ] {
        let (tool, rest) = words.split_once(' ').unwrap();
        let mut command = bench.command(tool, rest.split(' '));
        command.env("CONSUL_HTTP_ADDR", consul.url()).stdout(std::fs::File::create("/dev/full").unwrap());
        let run = Run::from(command.output().unwrap());
        refused(tool, rest, &run, 73, &["output"]);
    }
}
