//! From packages and repositories on a build node to a node's apt and modules, with the channel in Consul.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, Running, has, until};

/// Makes a package with dpkg-deb.
fn deb(bench: &Bench, name: &str, version: &str) {
    let tree = format!("tree/{name}");
    bench.write(
        &format!("{tree}/DEBIAN/control"),
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Site <site@example.org>\n\
             Description: test package\n"
        ),
    );
    bench.write(&format!("{tree}/usr/share/{name}/version"), version);
    std::fs::create_dir_all(bench.path("debs")).unwrap();
    let target = format!("debs/{name}_{version}_all.deb");
    let made = bench.run("/usr/bin/dpkg-deb", ["--root-owner-group", "-Zgzip", "--build", &tree, &target]);
    made.is(0);
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    std::fs::create_dir_all(directory).unwrap();
    let mut git = Command::new("git");
    git.args(["-c", "user.name=Site", "-c", "user.email=site@example.org", "-c", "init.defaultBranch=main"]);
    git.args(arguments).current_dir(directory).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    let output = git.env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Commits a new `init.pp` to the upstream of a module.
fn commit(bench: &Bench, module: &str, content: &str) -> String {
    let work = bench.path(&format!("upstream/git.example.org/site/{module}.git"));
    if !work.exists() {
        git(&work, &["init", "--quiet"]);
    }
    bench.write(&format!("upstream/git.example.org/site/{module}.git/manifests/init.pp"), content);
    git(&work, &["add", "--all"]);
    git(&work, &["commit", "--quiet", "-m", content]);
    git(&work, &["rev-parse", "HEAD"])
}

/// A root of its own for apt, with nothing of this machine's configuration in it.
fn apt_root(bench: &mut Bench) {
    for directory in [
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "etc/apt/trusted.gpg.d",
        "etc/apt/sources.list.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
        "var/log/apt",
    ] {
        std::fs::create_dir_all(bench.path("node").join(directory)).unwrap();
    }
    bench.write("node/var/lib/dpkg/status", "");
    let root = bench.text("node");
    let config = bench.write(
        "node/apt.conf",
        format!(
            "Dir \"{root}\";\nDir::Etc \"{root}/etc/apt\";\nDir::State \"{root}/var/lib/apt\";\n\
             Dir::State::status \"{root}/var/lib/dpkg/status\";\nDir::Cache \"{root}/var/cache/apt\";\n\
             Dir::Log \"{root}/var/log/apt\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{\"amd64\";}};\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"0\";\n"
        ),
    );
    bench.set("APT_CONFIG", &config);
}

/// Starts the server; returns it with its URL.
fn serve(bench: &Bench) -> (Running, String) {
    let command = bench.command("mirror-sync", ["--config", "mirror.yaml", "-v", "serve", "--listen", "127.0.0.1:0"]);
    let server = bench.start(command, "serve.err");
    until("the server listens", || server.said().contains("http://127.0.0.1:"));
    let said = server.said();
    let url = said.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:")).unwrap().to_owned();
    (server, url)
}

#[test]
fn a_node_gets_packages_and_modules_from_the_mirror_alone() {
    if !(has("apt-get") && has("dpkg-deb") && has("gpgv") && has("git")) {
        return;
    }
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    apt_root(&mut bench);

    // The build node.
    bench.run("mirror-sync", ["keygen", "--out", "site.sec.asc", "--public", "site.gpg"]).is(0);
    bench.write(
        "repos.yaml",
        "dest: modules/%{name}\nsource: https://git.example.org/site/%{name}.git\nref: main\napp: {}\nbase: {ref: v1}\n"
            .replace("app: {}", "app: {submodules: false}"),
    );
    let config = |consul: &str| {
        format!(
            "root: {root}\nurl: http://build1:8080\nsigning_key: {key}\nchannels: [edge, stable]\n{consul}sources:\n\
             - {{name: site, type: deb, dir: {debs}, suites: [stable], components: [main], architectures: [amd64]}}\n\
             - {{name: modules, type: git, manifest: repos.yaml, mirror: {upstream}}}\n",
            root = bench.text("mirror"),
            key = bench.text("site.sec.asc"),
            debs = bench.text("debs"),
            upstream = bench.text("upstream"),
        )
    };
    bench.write("mirror.yaml", config("consul: {prefix: stacktira/mirror}\n"));
    deb(&bench, "st-app", "1.0");
    let old = commit(&bench, "app", "class app { }");
    let base = commit(&bench, "base", "class base { }");
    git(&bench.path("upstream/git.example.org/site/base.git"), &["tag", "v1"]);
    commit(&bench, "base", "class base { notice('later') }");
    let snapshot = || {
        bench.run("mirror-sync", ["--config", "mirror.yaml", "sync"]).is(0);
        bench.run("mirror-sync", ["--config", "mirror.yaml", "snapshot"]).is(0).out.trim_end().to_owned()
    };
    let promote =
        |id: &str| bench.run("mirror-sync", ["--config", "mirror.yaml", "promote", id, "--channel", "stable"]);
    let first = snapshot();
    promote(&first).is(0);
    let pointer = || bench.run("consul-kv", ["get", "stacktira/mirror/channel/stable"]).is(0).out;
    assert_eq!(pointer(), first, "the key holds the id alone");
    let (server, url) = serve(&bench);

    // A node: modules by cloner, from the mirror only; the manifest's own host does not exist.
    let mirror = format!("{url}/git");
    let cloner =
        || bench.run("cloner", ["--root", "code", "--retries", "0", "--mirror", &mirror, "--json", "repos.yaml"]);
    let placed = cloner().is(0).out;
    assert!(placed.contains(&old) && placed.contains(&base), "{placed}");
    assert_eq!(bench.lines("code/modules/app/manifests/init.pp"), ["class app { }"]);
    assert_eq!(bench.lines("code/modules/base/manifests/init.pp"), ["class base { }"], "the tag, not the branch");

    // Packages by apt, from the snapshot that Consul names.
    bench.write(
        "node.yaml",
        format!(
            "consul: {{prefix: stacktira/mirror}}\nlimits: {{retries: 0, stall: 5s}}\n\
             node: {{mirror: '{url}', channel: stable, keyring: {}}}\n",
            bench.text("site.gpg")
        ),
    );
    let apply = || bench.run("mirror-sync", ["--config", "node.yaml", "apply"]);
    let candidate = || {
        let run = bench.run("/usr/bin/apt-get", ["-q", "install", "-s", "st-app"]).is(0);
        let line = run.out.lines().find(|line| line.starts_with("Inst st-app")).unwrap().to_owned();
        line.split(['(', ' ']).find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap().to_owned()
    };
    apply().is(0);
    assert_eq!(candidate(), "1.0");
    bench.run("/usr/bin/apt-get", ["-q", "install", "-y", "-d", "st-app"]).is(0);

    // Upstream moves on; nothing changes for the node before the channel does.
    deb(&bench, "st-app", "2.0");
    let new = commit(&bench, "app", "class app { notice('new') }");
    let second = snapshot();
    assert_ne!(first, second);
    apply().is(0);
    assert_eq!(candidate(), "1.0");
    promote(&second).is(0);
    assert_eq!(pointer(), second);
    apply().is(0);
    assert_eq!(candidate(), "2.0");
    assert!(cloner().is(0).out.contains(&new));

    // What is missing is named, by whoever misses it.
    let missing = bench.run("/usr/bin/apt-get", ["-q", "install", "-s", "st-none"]).is(100);
    assert!(missing.err.contains("st-none"), "{}", missing.err);
    bench.write(
        "more.yaml",
        "dest: modules/%{name}\nsource: https://git.example.org/site/%{name}.git\nnone: {ref: main}\n",
    );
    let missing = bench.run("cloner", ["--root", "code", "--retries", "0", "--mirror", &mirror, "more.yaml"]).is(1);
    assert!(missing.err.contains("none (modules/none): ") && missing.err.contains(&mirror), "{}", missing.err);
    let unknown = "0".repeat(64);
    promote(&unknown).is(1);
    assert_eq!(pointer(), second);

    // An operator may move the key by hand; a rollback goes back to what was promoted before.
    bench.sh(&format!("printf %s {first} | consul-kv put stacktira/mirror/channel/stable -")).is(0);
    apply().is(0);
    assert_eq!(candidate(), "1.0");
    promote(&second).is(0);
    bench.run("mirror-sync", ["--config", "mirror.yaml", "rollback", "--channel", "stable"]).is(0);
    assert_eq!(pointer(), first);

    // A pointer to what does not exist, and a mirror that is away: the old sources stay.
    let sources = || std::fs::read(bench.path("node/etc/apt/sources.list.d/stacktira.sources")).unwrap();
    let before = sources();
    bench.run("consul-kv", ["put", "stacktira/mirror/channel/stable", &unknown]).is(0);
    apply().is(69);
    bench.run("consul-kv", ["put", "stacktira/mirror/channel/stable", "latest"]).is(0);
    let wrong = apply().is(65).err;
    assert!(wrong.contains("stacktira/mirror/channel/stable"), "{wrong}");
    assert_eq!(server.end(), 0);
    bench.run("consul-kv", ["put", "stacktira/mirror/channel/stable", &second]).is(0);
    apply().is(69);
    assert_eq!(sources(), before);
    assert_eq!(candidate(), "1.0");
}

/// Without Consul nothing moves, neither the key nor the file.
#[test]
fn a_channel_does_not_move_without_consul() {
    if !has("dpkg-deb") {
        return;
    }
    let mut bench = Bench::new();
    bench.run("mirror-sync", ["keygen", "--out", "site.sec.asc", "--public", "site.gpg"]).is(0);
    deb(&bench, "st-app", "1.0");
    bench.write(
        "mirror.yaml",
        format!(
            "root: {root}\nurl: http://m\nsigning_key: {key}\nchannels: [stable]\nconsul: {{}}\nsources:\n\
             - {{name: site, type: deb, dir: {debs}, suites: [stable], components: [main], architectures: [amd64]}}\n",
            root = bench.text("mirror"),
            key = bench.text("site.sec.asc"),
            debs = bench.text("debs"),
        ),
    );
    bench.set("CONSUL_HTTP_ADDR", "127.0.0.1:1");
    let run = |words: &[&str]| bench.run("mirror-sync", ["--config", "mirror.yaml"].iter().chain(words));
    run(&["sync"]).is(0);
    let id = run(&["snapshot"]).is(0).out;
    let failed = run(&["promote", id.trim_end(), "--channel", "stable"]).is(69);
    assert!(failed.err.contains("127.0.0.1:1") && failed.err.contains("stacktira/mirror/"), "{}", failed.err);
    assert!(!bench.path("mirror/pub/channel/stable.json").exists());
}
