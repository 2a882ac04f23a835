//! A node that follows a channel.

use crate::apt::{Apt, usable};
use crate::support::{Server, Site};
use crate::upstream::{self, Repo};

struct Node {
    site: Site,
    server: Server,
    first: String,
    second: String,
}

impl Node {
    /// A mirror with two snapshots, the first of them stable, and a node of it in the same directory.
    fn new() -> Node {
        let mut site = Site::new();
        site.deb("st-a", "1.0", "");
        let first = site.snapshot();
        site.deb("st-a", "2.0", "");
        let second = site.snapshot();
        site.run(&["promote", &first, "--channel", "stable"]).is(0);
        let server = site.serve();
        let apt = Apt::new(&site.path("node"));
        site.environment.push(("STACKTIRA_ROOT".into(), site.text("node")));
        site.environment.push(("APT_CONFIG".into(), apt.config().to_string_lossy().into_owned()));
        let node = Node { site, server, first, second };
        node.configure("site.gpg");
        node
    }

    fn configure(&self, keyring: &str) {
        self.site.write_config_with(&format!(
            "limits: {{retries: 0, stall: 5s}}\nnode: {{mirror: '{}', channel: stable, keyring: {}}}\n",
            self.server.url(),
            self.site.text(keyring),
        ));
    }

    fn sources(&self) -> Option<String> {
        std::fs::read_to_string(self.site.path("node/etc/apt/sources.list.d/stacktira.sources")).ok()
    }
}

#[test]
fn a_node_follows_its_channel() {
    if !usable() {
        return;
    }
    let node = Node::new();
    let printed = node.site.run(&["apply", "--print"]).is(0).out;
    assert!(printed.contains(&node.first), "{printed}");
    assert_eq!(node.sources(), None);
    node.site.run(&["apply"]).is(0);
    assert_eq!(node.sources().as_deref(), Some(printed.as_str()));
    let apt = Apt::new(&node.site.path("node"));
    assert!(apt.run(&["install", "-s", "st-a"]).is(0).out.contains("st-a (1.0"));
    node.site.run(&["promote", &node.second, "--channel", "stable"]).is(0);
    node.site.run(&["apply"]).is(0);
    assert!(apt.run(&["install", "-s", "st-a"]).is(0).out.contains("st-a (2.0"));
    node.site.run(&["rollback", "--channel", "stable"]).is(0);
    node.site.run(&["apply"]).is(0);
    assert!(apt.run(&["install", "-s", "st-a"]).is(0).out.contains("st-a (1.0"));
}

#[test]
fn what_is_forged_or_away_leaves_the_old_sources() {
    if !usable() {
        return;
    }
    let mut node = Node::new();
    node.site.run(&["apply"]).is(0);
    let before = node.sources();
    node.site.run(&["promote", &node.second, "--channel", "stable"]).is(0);

    node.site
        .run(&["keygen", "--out", &node.site.text("other.sec.asc"), "--public", &node.site.text("other.gpg")])
        .is(0);
    node.configure("other.gpg");
    node.site.run(&["apply"]).is(1);
    assert_eq!(node.sources(), before);
    node.configure("site.gpg");

    // The manifest of another snapshot under this one's name.
    let manifest = node.site.published(&node.second).join("manifest.json");
    let genuine = std::fs::read(&manifest).expect("there");
    let other = std::fs::read(node.site.published(&node.first).join("manifest.json")).expect("there");
    std::fs::remove_file(&manifest).expect("ours");
    std::fs::write(&manifest, other).expect("writable");
    node.site.run(&["apply"]).is(1);
    std::fs::write(&manifest, genuine).expect("writable");

    // Everything is genuine but apt cannot fetch an index.
    let indices = node.site.published(&node.second).join("deb/debian/dists/bookworm/main");
    std::fs::rename(&indices, node.site.path("aside")).expect("ours");
    node.site.run(&["apply"]).is(69);
    assert_eq!(node.sources(), before);
    std::fs::rename(node.site.path("aside"), &indices).expect("ours");

    node.server.terminate();
    node.site.run(&["apply"]).is(69);
    assert_eq!(node.sources(), before);
}

#[test]
fn a_source_that_is_mirrored_whole_keeps_its_upstreams_signature() {
    if !usable() {
        return;
    }
    for inline in [true, false] {
        let mut node = Node::new();
        let site = &node.site;
        let published = {
            let mut repo = Repo::new(site, "up");
            repo.by_hash = true;
            repo.inline = inline;
            // It expires before the node gets to see it.
            let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(4);
            let date = std::process::Command::new("date")
                .args(["-u", "-R", "-d"])
                .arg(format!("@{}", soon.duration_since(std::time::UNIX_EPOCH).expect("now").as_secs()))
                .output()
                .expect("date runs");
            repo.more = format!("Valid-Until: {}\n", String::from_utf8_lossy(&date.stdout).trim());
            repo.add("st-up", "1.0", "");
            repo.publish();
            repo.serve()
        };
        upstream::configure(&mut node.site, &published.url(), "");
        let id = node.site.snapshot();
        node.site.run(&["promote", &id, "--channel", "stable"]).is(0);
        node.configure("site.gpg");
        std::thread::sleep(std::time::Duration::from_secs(5));
        node.site.run(&["apply"]).is(0);
        let sources = node.sources().expect("written");
        assert_eq!(sources.matches("-----BEGIN PGP PUBLIC KEY BLOCK-----").count(), 1, "{sources}");
        assert_eq!(sources.matches("Signed-By: ").count(), 1, "{sources}");
        let apt = Apt::new(&node.site.path("node"));
        assert!(apt.run(&["install", "-s", "st-up"]).is(0).out.contains("st-up (1.0"));
        assert!(apt.run(&["install", "-s", "st-a"]).is(0).out.contains("st-a (2.0"));
        apt.run(&["install", "-d", "-y", "st-up"]).is(0);

        // An index that the upstream has signed as well, and the snapshot does not have.
        let name = if inline { "InRelease" } else { "Release.gpg" };
        let file = node.site.published(&id).join("deb/up/dists/bookworm").join(name);
        let other = {
            let mut repo = Repo::new(&node.site, "other");
            repo.inline = inline;
            repo.add("st-up", "9.0", "");
            repo.publish();
            std::fs::read(node.site.path("other/dists/bookworm").join(name)).expect("there")
        };
        std::fs::remove_file(&file).expect("ours");
        std::fs::write(&file, other).expect("writable");
        let run = node.site.run(&["apply"]).is(1);
        assert!(run.err.contains("it is not what the manifest says"), "{}", run.err);
        assert_eq!(node.sources(), Some(sources));
    }
}
