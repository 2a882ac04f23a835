//! Levels that are kept on disk while Consul is away.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::consul::{FakeConsul, Fault};
use test_support::real_consul::RealConsul;

use super::{Ran, Scratch};

const LEVELS: &str = "version: 5
hierarchy:
- name: node
  lookup_key: stacktira::consul
  options: {prefix: hiera/node/n1/, stale_if_error: 2h}
- name: common
  lookup_key: stacktira::consul
  options: {prefix: hiera/common/, stale_if_error: 2h, services: true}
- name: files
  path: common.yaml
";

struct World {
    scratch: Scratch,
    consul: FakeConsul,
}

impl World {
    /// A Consul whose levels were read once.
    fn kept() -> World {
        let scratch = Scratch::new();
        scratch.write("hiera.yaml", LEVELS);
        scratch.write("data/common.yaml", "motd: file\nonly: file\nweb_Address: file\n");
        let world = World { scratch, consul: FakeConsul::start() };
        world.consul.put("hiera/common/motd", b"common");
        world.consul.put("hiera/common/bytes/list", b"[1, \"\\u0000\"]");
        world.lookup(&["motd"]).found("\"common\"");
        world
    }

    fn lookup(&self, args: &[&str]) -> Ran {
        let mut command = self.scratch.command();
        command.env("CONSUL_HTTP_ADDR", self.consul.url()).args(["lookup", "--render-as", "json"]);
        command.args(["--hiera_config", "hiera.yaml"]).args(args).output().expect("it runs").into()
    }

    fn file(&self, prefix: &str) -> PathBuf {
        file(&self.scratch, prefix).expect("a snapshot")
    }

    /// Rewrites the head of a snapshot.
    fn change(&self, prefix: &str, change: impl FnOnce(&mut Value)) {
        let path = self.file(prefix);
        let content = std::fs::read(&path).expect("a snapshot");
        let end = content.iter().position(|byte| *byte == b'\n').expect("a head");
        let mut head: Value = serde_json::from_slice(&content[..end]).expect("JSON");
        change(&mut head);
        std::fs::write(&path, [head.to_string().as_bytes(), &content[end..]].concat()).expect("write");
    }

    /// The lookup fails because of Consul, and names the snapshot and why it does not answer.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let directory = self.scratch.path("var/lib/stacktira/hiera-consul/hiera_common_");
        let (address, directory) = (self.consul.url(), directory.display().to_string());
        let always = ["key 'motd'", "hierarchy 'common'", "hiera/common/", &address, &directory];
        let ran = self.lookup(&["motd"]);
        let error: Vec<_> = ran.err.lines().filter(|line| !line.contains("warning: ")).collect();
        let ran = Ran { err: error.join("\n"), ..ran };
        ran.failed(69, &[words, &always].concat());
    }
}

fn file(scratch: &Scratch, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(scratch.path("var/lib/stacktira/hiera-consul")).ok()?;
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
}

#[test]
fn an_outage_is_answered_from_disk_and_said() {
    let mut world = World::kept();
    let path = world.file("hiera_common_");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().expect("a parent"))), (0o600, 0o700));
    world.consul.stop();
    let ran = world.lookup(&["motd"]);
    ran.found("\"common\"");
    let warnings: Vec<_> = ran.err.lines().collect();
    assert_eq!(warnings.len(), 2, "one for each level: {}", ran.err);
    for (warning, prefix) in warnings.iter().zip(["hiera/node/n1/", "hiera/common/"]) {
        let words = ["warning: ", &world.consul.url(), prefix, " s ago"];
        assert!(words.iter().all(|word| warning.contains(word)), "{warning}");
    }
    world.lookup(&["bytes/list.1"]).found("\"\\u0000\"");
    world.lookup(&["only"]).found("\"file\"");
    assert_eq!(world.lookup(&["nowhere"]).code, 1);
    // The age is that of the last read.
    let hour = 3_600_000;
    world.change("hiera_common_", |head| head["read_at"] = json!(head["read_at"].as_u64().expect("a time") - hour));
    let ran = world.lookup(&["--explain", "motd"]);
    assert!(
        ran.out.contains("keys below hiera/common/ at index") && ran.out.contains("kept 1 h 0 min ago"),
        "{}",
        ran.out
    );
    // What is not kept is not made up: keys of the catalog and of elections.
    for key in ["web_Address", "leader__db"] {
        let ran = world.lookup(&[key]);
        assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{key}: {}", ran.err);
    }
    world.consul.restart();
    world.consul.put("hiera/common/motd", b"new");
    let ran = world.lookup(&["motd"]);
    ran.found("\"new\"");
    assert_eq!(ran.err, "");
    world.consul.stop();
    world.lookup(&["motd"]).found("\"new\"");
}

#[test]
fn an_empty_level_is_kept_too_and_one_without_the_option_is_not() {
    let mut world = World::kept();
    world.consul.put("hiera/node/n1/motd", b"node");
    world.lookup(&["motd"]).found("\"node\"");
    world.consul.delete("hiera/node/n1/motd");
    world.lookup(&["motd"]).found("\"common\"");
    world.consul.stop();
    world.lookup(&["motd"]).found("\"common\"");
    world.scratch.write("hiera.yaml", &LEVELS.replace(", stale_if_error: 2h, services: true", ""));
    let ran = world.lookup(&["motd"]);
    assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{}", ran.err);
    assert!(ran.err.contains("hierarchy 'common'"), "{}", ran.err);
}

#[test]
fn only_an_outage_is_answered_from_disk() {
    let refusals = [
        Fault::Status(403, "Permission denied".to_owned()),
        Fault::Status(500, "ACL not found".to_owned()),
        Fault::Filtered,
    ];
    let others = [
        Fault::Status(500, "internal error".to_owned()),
        Fault::Status(502, "<html>proxy</html>".to_owned()),
        Fault::Body("<html>proxy</html>".to_owned()),
        Fault::Body("null".to_owned()),
    ];
    let outages =
        [Fault::Close, Fault::Truncate, Fault::NoLeader, Fault::Status(500, "rpc error: No cluster leader".to_owned())];
    let world = World::kept();
    let fail = |fault: &Fault| {
        world.consul.fault("txn", fault.clone());
        world.consul.fault("kv/", fault.clone());
        let ran = world.lookup(&["motd"]);
        world.consul.heal();
        ran
    };
    for fault in &outages {
        let ran = fail(fault);
        assert_eq!((ran.code, ran.out.as_str()), (0, "\"common\"\n"), "{fault:?}: {}", ran.err);
    }
    for fault in &others {
        fail(fault).failed(69, &["hiera/node/n1/"]);
    }
    for fault in &refusals {
        world.lookup(&["motd"]).found("\"common\"");
        fail(fault).failed(77, &["hiera/node/n1/"]);
        // What may not be read is not kept either.
        assert_eq!(file(&world.scratch, "hiera_node"), None, "{fault:?}");
    }
}

#[test]
fn a_right_that_was_taken_away_takes_the_snapshot_with_it() {
    let mut world = World::kept();
    world.consul.deny_keys("hiera/common/");
    world.lookup(&["motd"]).failed(77, &["hiera/common/"]);
    assert_eq!(file(&world.scratch, "hiera_common"), None);
    world.consul.stop();
    world.refused(&["is not there"]);
}

#[test]
fn a_snapshot_that_cannot_be_believed_is_refused_by_name() {
    let mut world = World::kept();
    world.consul.stop();
    let path = world.file("hiera_common_");
    let good = std::fs::read(&path).expect("a snapshot");
    let restore = || {
        std::fs::write(&path, &good).expect("write");
        world.lookup(&["motd"]).found("\"common\"");
    };
    // Old, from the future, of something else, damaged, cut, and none at all.
    let hours = |n: i64| {
        move |head: &mut Value| head["read_at"] = json!(head["read_at"].as_i64().expect("a time") + n * 3_600_000)
    };
    world.change("hiera_common_", hours(-3));
    world.refused(&["is 3 h 0 min old", "stale_if_error allows 2h"]);
    restore();
    world.change("hiera_common_", hours(1));
    world.refused(&["from the future"]);
    restore();
    world.change("hiera_common_", |head| head["subject"]["prefix"] = json!("hiera/other/"));
    world.refused(&["is of hiera/other/"]);
    restore();
    world.change("hiera_common_", |head| head["format"] = json!("hiera-consul snapshot 2"));
    world.refused(&["another version"]);
    restore();
    world.change("hiera_common_", |head| head["pairs"] = json!(3));
    world.refused(&["is damaged"]);
    restore();
    let text = String::from_utf8_lossy(&good).replace("6:common", "6:kommon");
    std::fs::write(&path, text).expect("write");
    world.refused(&["is damaged"]);
    for length in [0, 10, good.len() - 1] {
        std::fs::write(&path, &good[..length]).expect("write");
        world.refused(&["is damaged"]);
    }
    restore();
    // Open to others, as is the directory, and a link.
    for mode in [0o644, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        world.refused(&["is open to others", &format!("{mode:04o}")]);
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let directory = path.parent().expect("a directory");
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o770)).expect("chmod");
    let ran = world.lookup(&["motd"]);
    let words = ["hiera/node/n1/", "cannot be trusted", "others may write to it (mode 0770)"];
    assert!(ran.code == 69 && words.iter().all(|word| ran.err.contains(word)), "{}", ran.err);
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    restore();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).expect("chown");
        world.refused(&["belongs to user 65534"]);
        std::os::unix::fs::chown(&path, Some(0), None).expect("chown");
    }
    let aside = world.scratch.path("aside");
    std::fs::rename(&path, &aside).expect("rename");
    std::os::unix::fs::symlink(&aside, &path).expect("link");
    world.refused(&["cannot be opened: a symbolic link"]);
    std::fs::remove_file(&path).expect("remove");
    std::fs::create_dir(&path).expect("mkdir");
    world.refused(&["cannot be opened: a directory"]);
    std::fs::remove_dir(&path).expect("rmdir");
    world.refused(&["is not there"]);
    // A Consul that answers makes it whole again.
    world.consul.restart();
    world.lookup(&["motd"]).found("\"common\"");
    world.consul.stop();
    world.lookup(&["motd"]).found("\"common\"");
}

#[test]
fn what_did_not_change_is_not_written_again_before_its_time() {
    let world = World::kept();
    let inode = || std::fs::metadata(world.file("hiera_common_")).expect("there").ino();
    let first = inode();
    world.lookup(&["motd"]).found("\"common\"");
    assert_eq!(inode(), first);
    // A twentieth of two hours.
    world.change("hiera_common_", |head| head["read_at"] = json!(head["read_at"].as_u64().expect("a time") - 361_000));
    world.lookup(&["motd"]).found("\"common\"");
    assert_ne!(inode(), first);
    let second = inode();
    world.consul.put("hiera/common/motd", b"new");
    world.lookup(&["motd"]).found("\"new\"");
    assert_ne!(inode(), second);
    assert_eq!(std::fs::read_dir(world.scratch.path("var/lib/stacktira/hiera-consul")).expect("there").count(), 2);
}

#[test]
fn a_place_that_cannot_be_written_is_a_warning() {
    let world = World::kept();
    std::fs::remove_dir_all(world.scratch.path("var/lib/stacktira")).expect("remove");
    world.scratch.write("var/lib/stacktira", "a file");
    let ran = world.lookup(&["motd"]);
    ran.found("\"common\"");
    assert!(ran.err.contains("warning: no snapshot of hiera/common/ is kept: "), "{}", ran.err);
}

#[test]
fn an_outage_costs_one_time_limit_whatever_the_number_of_levels() {
    let world = World::kept();
    world.consul.fault("", Fault::Hang);
    let began = Instant::now();
    world.lookup(&["motd"]).found("\"common\"");
    assert!(began.elapsed() < Duration::from_secs(19), "{:?}", began.elapsed());
}

#[test]
fn the_coprocess_hands_over_what_is_kept_and_says_so() {
    let mut world = World::kept();
    world.consul.stop();
    let mut command = world.scratch.command();
    command.env("CONSUL_HTTP_ADDR", world.consul.url()).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let options = json!({"prefix": "hiera/common/", "stale_if_error": "2h"});
    let request = json!({"id": 1, "op": "snapshot", "run": "r", "options": options});
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, format!("{request}\n").as_bytes()).expect("it reads");
    drop(input);
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    let answer: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(answer["values"]["motd"], json!("common"), "{answer}");
    assert!(answer["age"].as_u64().is_some_and(|age| age < 60), "{answer}");
    assert!(answer["warnings"][0].as_str().is_some_and(|text| text.contains("hiera/common/")), "{answer}");
}

#[test]
fn check_says_that_consul_is_away() {
    let mut world = World::kept();
    world.scratch.write("data/common.yaml", "motd: file\n");
    world.consul.stop();
    let mut command = world.scratch.command();
    command.env("CONSUL_HTTP_ADDR", world.consul.url()).args(["check", "--hiera_config", "hiera.yaml", "--strict"]);
    let ran = Ran::from(command.output().expect("it runs"));
    assert_eq!(ran.code, 1, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("warning: ") && ran.out.contains("hiera/common/"), "{}", ran.out);
}

#[test]
fn a_real_consul_that_ends_is_stood_in_for() {
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root"}}});
    let Some(consul) = RealConsul::start(&acl) else { return };
    let scratch = Scratch::new();
    scratch.write("hiera.yaml", LEVELS);
    scratch.write("data/common.yaml", "motd: file\n");
    scratch.write("token", "root\n");
    scratch.write("other", "00000000-0000-0000-0000-000000000000\n");
    let url = consul.url();
    let run = |token: &str| -> Ran {
        let mut command = scratch.command();
        command.env("CONSUL_HTTP_ADDR", &url).args(["lookup", "--render-as", "json", "--hiera_config", "hiera.yaml"]);
        command.args(["--token-file", token, "motd"]).output().expect("it runs").into()
    };
    run("token").found("\"file\"");
    assert!(file(&scratch, "hiera_common_").is_some());
    // A token that Consul does not know is refused, and nothing is kept.
    run("other").failed(77, &["hiera/node/n1/"]);
    assert_eq!(file(&scratch, "hiera_node_"), None);
    run("token").found("\"file\"");
    drop(consul);
    let ran = run("token");
    ran.found("\"file\"");
    assert!(ran.err.contains("going on with the keys below hiera/common/"), "{}", ran.err);
}
