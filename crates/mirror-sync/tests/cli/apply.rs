//! A node that follows a channel.

use crate::apt::usable;
use crate::deb_repo::{self, Repo};
use crate::git;
use crate::node::Node;
use crate::rpm::{self, has_rpm, rpm};
use crate::support::{Altered, Harm, Site, tree};

/// A node with apt, and two snapshots, of which the first is stable.
fn node() -> (Node, String, String) {
    let site = Site::new();
    site.deb("st-a", "1.0", "");
    let first = site.snapshot();
    site.deb("st-a", "2.0", "");
    let second = site.snapshot();
    let node = Node::with_apt(site);
    node.promote(&first);
    (node, first, second)
}

#[test]
fn a_node_follows_its_channel() {
    if !usable() {
        return;
    }
    let (node, first, second) = node();
    let printed = node.site.run(&["apply", "--print"]).is(0).out;
    assert!(printed.contains(&first), "{printed}");
    assert_eq!(node.sources(), None);
    node.apply_and_get("st-a", "1.0");
    assert_eq!(node.sources().as_deref(), Some(printed.as_str()));
    node.promote(&second);
    node.apply_and_get("st-a", "2.0");
    node.site.run(&["rollback", "--channel", "stable"]).is(0);
    node.apply_and_get("st-a", "1.0");
}

#[test]
fn what_is_forged_or_away_leaves_the_old_sources() {
    if !usable() {
        return;
    }
    let (mut node, first, second) = node();
    node.site.run(&["apply"]).is(0);
    let before = node.sources();
    node.promote(&second);

    node.site
        .run(&["keygen", "--out", &node.site.text("other.sec.asc"), "--public", &node.site.text("other.gpg")])
        .is(0);
    node.configure("other.gpg");
    node.site.run(&["apply"]).is(1);
    assert_eq!(node.sources(), before);
    node.configure("site.gpg");

    // The manifest of another snapshot under this one's name.
    let manifest = node.site.published(&second).join("manifest.json");
    let genuine = std::fs::read(&manifest).expect("there");
    let other = std::fs::read(node.site.published(&first).join("manifest.json")).expect("there");
    std::fs::remove_file(&manifest).expect("ours");
    std::fs::write(&manifest, other).expect("writable");
    node.site.run(&["apply"]).is(1);
    std::fs::write(&manifest, genuine).expect("writable");

    // Everything is genuine but apt cannot fetch an index.
    let indices = node.site.published(&second).join("deb/debian/dists/bookworm/main");
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
        let (mut node, ..) = node();
        let published = {
            let mut repo = Repo::new(&node.site, "up");
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
        deb_repo::configure(&mut node.site, &published.url(), "");
        let id = node.site.snapshot();
        node.promote(&id);
        node.configure("site.gpg");
        std::thread::sleep(std::time::Duration::from_secs(5));
        node.apply_and_get("st-up", "1.0");
        assert_eq!(node.candidate("st-a"), "2.0");
        let sources = node.sources().expect("written");
        assert_eq!(sources.matches("-----BEGIN PGP PUBLIC KEY BLOCK-----").count(), 1, "{sources}");
        assert_eq!(sources.matches("Signed-By: ").count(), 1, "{sources}");
        node.apt().run(&["install", "-d", "-y", "st-up"]).is(0);

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

#[test]
fn a_node_with_dnf_follows_its_channel_and_keeps_what_it_has_when_something_is_wrong() {
    if !has_rpm() {
        return;
    }
    let site = rpm::site();
    rpm(&site, "st-a", "1.0", "", "/usr/share/st-a/data");
    let first = site.snapshot();
    rpm(&site, "st-a", "2.0", "", "/usr/share/st-a/data");
    let second = site.snapshot();
    // Its key file is one for apt, which does as well.
    let mut node = Node::with_dnf(site);
    node.promote(&first);
    let site = &node.site;
    let printed = site.run(&["apply", "--print"]).is(0).out;
    assert_eq!(node.sources(), None);
    node.apply_and_get("st-a", "1.0");
    assert_eq!(node.sources().as_deref(), Some(printed.as_str()));
    assert!(printed.contains(&format!("/snap/{first}/rpm/own\n")), "{printed}");
    assert!(site.run(&["-v", "apply"]).is(0).err.contains("is in place"));
    node.promote(&second);
    node.apply_and_get("st-a", "2.0");
    site.run(&["rollback", "--channel", "stable"]).is(0);
    node.apply_and_get("st-a", "1.0");
    assert_eq!(node.keys(), 1);

    let before = tree(&site.path("node/etc"));
    // Nothing of it is in dnf's cache yet.
    rpm(site, "st-a", "3.0", "", "/usr/share/st-a/data");
    node.configure("site.asc");
    let third = site.snapshot();
    node.promote(&third);
    let stays = |what: &str, code: i32| {
        let run = site.run(&["apply"]);
        assert_eq!(run.code, code, "{what}: {}", run.err);
        assert_eq!(tree(&site.path("node/etc")), before, "{what}");
    };
    site.run(&["keygen", "--out", &site.text("other.sec.asc"), "--public", &site.text("other.asc")]).is(0);
    node.configure("other.asc");
    stays("another key", 1);
    node.configure("site.asc");
    let own = site.published(&third).join("rpm/own/repodata");
    for harm in [Harm::Flipped, Harm::Cut] {
        for name in ["repomd.xml", "repomd.xml.asc"] {
            let _altered = Altered::new(own.join(name), harm);
            stays(name, 1);
        }
    }
    for (harm, part) in [(Harm::Flipped, "-primary.xml"), (Harm::Missing, "-filelists.xml")] {
        let name = tree(&own).into_iter().map(|(name, _)| name).find(|name| name.contains(part)).expect("there");
        // Everything is genuine but dnf cannot fetch an index.
        let _altered = Altered::new(own.join(name), harm);
        stays(part, 69);
    }
    node.apply_and_get("st-a", "3.0");
    node.promote(&first);
    node.server.terminate();
    let before = tree(&node.site.path("node/etc"));
    node.site.run(&["apply"]).is(69);
    assert_eq!(tree(&node.site.path("node/etc")), before, "the mirror is away");
}

#[test]
fn dnf_gets_the_keys_of_an_upstream_that_is_mirrored_whole() {
    if !has_rpm() {
        return;
    }
    let upstream = rpm::site();
    rpm(&upstream, "st-up", "1.0", "", "/usr/share/st-up/data");
    let id = upstream.snapshot();
    let served = test_support::upstream::Upstream::serve(&upstream.published(&id).join("rpm/own"));
    let mut site = Site::new();
    site.extra = format!(
        "- {{name: el, type: rpm, url: '{}', keyring: {}}}\n- {{name: own, type: rpm, dir: {}}}\n",
        served.url(),
        upstream.text("site.asc"),
        site.text("rpms")
    );
    std::fs::create_dir(site.path("rpms")).expect("made");
    rpm(&site, "st-own", "1.0", "", "/usr/share/st-own/data");
    site.write_config();
    let id = site.snapshot();
    let mut node = Node::with_dnf(site);
    node.promote(&id);
    node.site.run(&["apply"]).is(0);
    assert_eq!(node.keys(), 2);
    assert_eq!((node.candidate("st-up"), node.candidate("st-own")), ("1.0".into(), "1.0".into()));
    let sources = node.sources();
    {
        let _altered = Altered::new(node.site.published(&id).join("rpm/el/repodata/repomd.xml.asc"), Harm::Flipped);
        // What is in place is proven each time.
        let run = node.site.run(&["apply"]).is(1);
        assert!(run.err.contains("it is not what the manifest says"), "{}", run.err);
    }
    assert_eq!(node.sources(), sources);
    // Not every node uses every source.
    let config = std::fs::read_to_string(node.site.path("mirror.yaml")).expect("there");
    let of = |names: &str| config.replace("formats: [rpm]", &format!("formats: [rpm], sources: [{names}]"));
    std::fs::write(node.site.path("mirror.yaml"), of("own, none")).expect("writable");
    assert!(node.site.run(&["apply"]).is(1).err.contains("no source none"));
    std::fs::write(node.site.path("mirror.yaml"), of("own")).expect("writable");
    let one = node.site.run(&["apply", "--print"]).is(0).out;
    assert!(one.contains("[stacktira-own]") && !one.contains("[stacktira-el]"), "{one}");
    // Only what the site makes itself: the other key goes.
    node.site.extra = format!("- {{name: own, type: rpm, dir: {}}}\n", node.site.text("rpms"));
    node.configure("site.gpg");
    node.promote(&node.site.snapshot());
    node.site.run(&["apply"]).is(0);
    assert_eq!(node.keys(), 1);
    assert!(node.path("etc/yum.repos.d/other.repo").is_file());
}

#[test]
fn a_node_gets_the_refs_of_its_snapshot_and_not_what_the_mirror_has_by_now() {
    if !usable() {
        return;
    }
    let (site, old) = git::site();
    site.deb("st-a", "1.0", "");
    let first = site.snapshot();
    let new = git::push(&site, "rewritten");
    let second = site.snapshot();
    let mut node = Node::with_apt(site);
    node.promote(&first);
    let index = node.path("var/lib/stacktira/apply/refs.index");
    let main = || {
        let index = cloner::refsindex::Index::parse(std::fs::read_to_string(&index).expect("there")).expect("whole");
        index.find(git::PATH).expect("valid").expect("there")
    };
    let site = &node.site;
    site.run(&["apply", "--check"]).is(1);
    assert!(!index.exists());
    site.run(&["apply"]).is(0);
    site.run(&["apply", "--check"]).is(0);
    assert_eq!(main().refs["refs/heads/main"].0, old, "the mirror has {new} by now");
    assert_eq!(main().refs["refs/tags/v1"].1.as_deref(), Some(old.as_str()), "the commit behind the tag");

    // One that is lost or changed by hand comes again, though the snapshot is in place.
    std::fs::write(&index, "changed").expect("ours");
    site.run(&["apply"]).is(0);
    assert_eq!(main().refs["refs/heads/main"].0, old);
    for (id, commit) in [(&second, &new), (&first, &old)] {
        node.promote(id);
        site.run(&["apply", "--check"]).is(1);
        site.run(&["apply"]).is(0);
        site.run(&["apply", "--check"]).is(0);
        assert_eq!(&main().refs["refs/heads/main"].0, commit);
    }

    // A snapshot without git has no refs to give.
    node.site.extra.clear();
    node.configure("site.gpg");
    node.promote(&node.site.snapshot());
    node.site.run(&["apply"]).is(0);
    assert!(!index.exists());
}
