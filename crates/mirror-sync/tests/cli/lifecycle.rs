//! Snapshots, channels, differences, garbage, damage; the codes of each.

use std::process::Command;

use test_support::consul::FakeConsul;

use crate::support::{Site, has, tree};

#[test]
fn the_same_content_has_the_same_id_and_the_same_bytes_anywhere() {
    if !has("dpkg-deb") {
        return;
    }
    let (one, two) = (Site::new(), Site::new());
    for site in [&one, &two] {
        site.deb("st-a", "1.0", "st-b");
        site.deb("st-b", "1:2.0-1", "");
    }
    let id = one.snapshot();
    assert_eq!(one.snapshot(), id, "again");
    assert_eq!(two.snapshot(), id, "another host and key");
    let unsigned = |site: &Site| {
        let mut files = tree(&site.published(&id));
        let is_signature =
            |name: &str| name.ends_with(".sig") || name.ends_with("InRelease") || name.ends_with("Release.gpg");
        files.retain(|(name, _)| !is_signature(name));
        files
    };
    assert_eq!(unsigned(&one), unsigned(&two));
    let names: Vec<String> = unsigned(&one).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"deb/debian/pool/main/s/st-b/st-b_2.0-1_amd64.deb".to_owned()), "{names:?}");
}

#[test]
fn a_snapshot_needs_a_complete_sync_and_refused_content_changes_nothing() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    assert!(site.run(&["snapshot"]).is(1).err.contains("debian"));
    site.deb("st-a", "1.0", "");
    let first = site.snapshot();
    let bad = site.deb("st-b", "1.0", "");
    let whole = std::fs::read(&bad).expect("there");
    std::fs::write(&bad, &whole[..whole.len() / 2]).expect("writable");
    let refused = site.run(&["sync"]).is(1);
    assert!(refused.err.contains("st-b_1.0_amd64.deb") && refused.err.contains("truncated"), "{}", refused.err);
    assert!(refused.err.starts_with("mirror-sync: error: source debian: "), "{}", refused.err);
    assert_eq!(refused.err.lines().count(), 1, "the only source is named once: {}", refused.err);
    assert_eq!(site.run(&["snapshot"]).is(0).out.trim(), first);
    std::fs::write(&bad, &whole).expect("writable");
    assert_ne!(site.snapshot(), first);
    std::fs::remove_file(&bad).expect("there");
    assert_eq!(site.snapshot(), first, "what was before has its id again");
    std::fs::remove_dir_all(site.path("debs")).expect("there");
    site.run(&["sync"]).is(69);
}

#[test]
fn two_different_packages_of_one_name_and_version_are_refused() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    let first = site.deb_of("st-a", "1.0", "", "one");
    std::fs::rename(first, site.path("debs/copy.deb")).expect("ours");
    site.deb_of("st-a", "1.0", "", "other");
    site.run(&["sync"]).is(0);
    let refused = site.run(&["snapshot"]).is(1);
    assert!(refused.err.contains("copy.deb") && refused.err.contains("st-a_1.0_amd64.deb"), "{}", refused.err);
}

#[test]
fn channels_move_and_go_back() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "");
    let first = site.snapshot();
    site.deb("st-a", "2.0", "");
    let second = site.snapshot();
    assert_eq!(site.pointer("stable"), None);
    site.run(&["rollback", "--channel", "stable"]).is(1);
    site.run(&["promote", &first, "--channel", "stable"]).is(0);
    site.run(&["promote", &first, "--channel", "stable"]).is(0);
    site.run(&["promote", &second, "--channel", "stable"]).is(0);
    assert_eq!(site.pointer("stable").as_deref(), Some(second.as_str()));
    site.run(&["rollback", "--channel", "stable"]).is(0);
    assert_eq!(site.pointer("stable").as_deref(), Some(first.as_str()));
    site.run(&["rollback", "--channel", "stable"]).is(1);
    assert_eq!(site.pointer("stable").as_deref(), Some(first.as_str()));
    assert!(site.run(&["promote", &first, "--channel", "other"]).is(65).err.contains("edge, stable"));
    site.run(&["promote", &"0".repeat(64), "--channel", "stable"]).is(1);
    site.run(&["promote", "nonsense", "--channel", "stable"]).is(1);
    site.run(&["promote", &first]).is(2);

    let list = site.run(&["list"]).is(0).out;
    let line = list.lines().find(|line| line.starts_with(&first)).expect("listed");
    assert!(line.ends_with(" stable"), "{line}");
    assert_eq!(list.lines().count(), 2);
    let shown = site.run(&["show", &first, "--json"]).is(0).out;
    let object: serde_json::Value = serde_json::from_str(shown.lines().next().expect("a line")).expect("JSON");
    assert_eq!((object["id"].as_str(), object["type"].as_str()), (Some(first.as_str()), Some("snapshot")));
    site.run(&["show", &"0".repeat(64)]).is(1);

    site.run(&["diff", &first, &first]).is(0);
    let changes = site.run(&["diff", &first, &second, "--json"]).is(1).out;
    let line = "{\"type\":\"change\",\"v\":1,\"source\":\"debian\",\"name\":\"st-a\",\"arch\":\"amd64\",\"old\":null,\"new\":\"2.0\"}\n";
    assert_eq!(changes, line);
    site.run(&["diff", &first, &"0".repeat(64)]).is(65);
}

#[test]
fn consul_holds_the_pointer_and_nothing_moves_without_it() {
    if !has("dpkg-deb") {
        return;
    }
    let mut consul = FakeConsul::start();
    let site = Site::new();
    let settings = format!("consul: {{address: '{}'}}\n", consul.url());
    site.write_config_with(&settings);
    site.deb("st-a", "1.0", "");
    let first = site.snapshot();
    site.run(&["promote", &first, "--channel", "stable"]).is(0);
    let key = "stacktira/mirror/channel/stable";
    assert_eq!(consul.get(key).as_deref(), Some(first.as_bytes()));
    site.deb("st-a", "2.0", "");
    let second = site.snapshot();
    consul.stop();
    let away = site.run(&["promote", &second, "--channel", "stable"]).is(69);
    assert!(away.err.contains("consul"), "{}", away.err);
    assert_eq!(site.pointer("stable").as_deref(), Some(first.as_str()));
    consul.restart();
    site.run(&["promote", &second, "--channel", "stable"]).is(0);
    assert_eq!(consul.get(key).as_deref(), Some(second.as_bytes()));
    site.run(&["rollback", "--channel", "stable"]).is(0);
    assert_eq!(consul.get(key).as_deref(), Some(first.as_bytes()));
}

#[test]
fn gc_removes_what_nothing_needs_and_nothing_else() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    site.write_config_with("keep: 1\ngrace: 0s\n");
    let mut ids = Vec::new();
    for version in ["1.0", "2.0", "3.0"] {
        let deb = site.deb("st-a", version, "");
        ids.push(site.snapshot());
        std::fs::remove_file(deb).expect("there");
        // Creation times are in whole seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    site.run(&["promote", &ids[0], "--channel", "stable"]).is(0);
    site.run(&["sync"]).is(0);
    site.run(&["gc"]).is(0);
    assert!(site.published(&ids[0]).exists() && site.published(&ids[2]).exists());
    assert!(!site.published(&ids[1]).exists());
    site.run(&["verify"]).is(0);
    let blobs = tree(&site.path("mirror/cas"));
    site.run(&["gc"]).is(0);
    assert_eq!(tree(&site.path("mirror/cas")), blobs);
    assert_eq!(blobs.iter().filter(|(_, content)| content.starts_with(b"!<arch>")).count(), 2);
}

#[test]
fn damage_is_named() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "");
    let id = site.snapshot();
    assert_eq!(site.run(&["verify"]).is(0).out, "");
    let package = site.published(&id).join("deb/debian/pool/main/s/st-a/st-a_1.0_amd64.deb");
    let mut content = std::fs::read(&package).expect("there");
    let last = content.len() - 2;
    content[last] ^= 1;
    std::fs::remove_file(&package).expect("ours");
    std::fs::write(&package, content).expect("writable");
    std::fs::remove_file(site.published(&id).join("deb/debian/dists/bookworm/InRelease")).expect("ours");
    let found = site.run(&["verify"]).is(1).out;
    assert!(found.contains("st-a_1.0_amd64.deb") && found.contains("InRelease"), "{found}");
    assert_eq!(found.lines().count(), 2);
    assert_eq!(site.run(&["verify", "--repair"]).is(0).out, "");
    site.run(&["verify"]).is(0);
}

/// Changes a byte of a file in place: all its hard links are damaged.
fn damage(path: &std::path::Path) {
    let mut content = std::fs::read(path).expect("there");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("ours");
    std::fs::write(path, content).expect("writable");
}

#[test]
fn damage_is_repaired_or_refused_by_name() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    let kept = site.deb("st-a", "1.0", "");
    let lost = site.deb("st-b", "1.0", "");
    let id = site.snapshot();
    let base = site.published(&id);
    let before = tree(&base);
    let pool = base.join("deb/debian/pool/main/s");
    let dists = base.join("deb/debian/dists/bookworm");
    let blobs = tree(&site.path("mirror/cas")).len();

    // Content that the source still has, every form of an index but one, signatures, a file that is gone.
    damage(&pool.join("st-a/st-a_1.0_amd64.deb"));
    damage(&dists.join("main/binary-amd64/Packages"));
    damage(&dists.join("main/binary-amd64/Packages.gz"));
    damage(&dists.join("Release.gpg"));
    std::fs::remove_file(dists.join("InRelease")).expect("ours");
    std::fs::remove_file(base.join("manifest.json.sig")).expect("ours");
    std::fs::remove_dir_all(pool.join("st-b")).expect("ours");
    assert!(site.run(&["verify"]).is(1).out.lines().count() >= 7);
    assert_eq!(site.run(&["verify", "--repair"]).is(0).out, "");
    site.run(&["verify"]).is(0);
    let unsigned = |files: &[(String, Vec<u8>)]| {
        let content = |(name, _): &&(String, Vec<u8>)| {
            !name.ends_with(".sig") && !name.ends_with(".gpg") && !name.ends_with("InRelease")
        };
        files.iter().filter(content).cloned().collect::<Vec<_>>()
    };
    assert_eq!(unsigned(&tree(&base)), unsigned(&before));
    assert_eq!(tree(&site.path("mirror/cas")).len(), blobs);

    // Content that nobody has any more is named, and never taken for sound again.
    std::fs::remove_file(&lost).expect("there");
    damage(&pool.join("st-b/st-b_1.0_amd64.deb"));
    let refused = site.run(&["verify", "--repair"]).is(1);
    assert!(refused.out.contains("st-b_1.0_amd64.deb") && refused.err.contains("st-b"), "{}", refused.out);
    assert_eq!(tree(&site.path("mirror/cas")).len(), blobs - 1);
    // It comes back as soon as the source has it.
    site.deb("st-b", "1.0", "");
    site.run(&["sync"]).is(0);
    site.run(&["verify", "--repair"]).is(0);
    assert!(kept.exists());
    let held = toolkit::lock::FileLock::exclusive(&site.path("mirror/lock")).expect("free");
    site.run(&["verify", "--repair"]).is(75);
    site.run(&["verify"]).is(0);
    drop(held);
}

/// The server gives nothing by a link, whatever it leads to.
#[test]
fn a_link_in_the_place_of_a_published_file_is_damage() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "");
    let base = site.published(&site.snapshot());
    let names = ["Release", "InRelease", "Release.gpg"].map(|name| format!("deb/debian/dists/bookworm/{name}"));
    for (number, name) in names.iter().map(String::as_str).chain(["manifest.json.sig"]).enumerate() {
        let (file, aside) = (base.join(name), site.path(&format!("aside{number}")));
        std::fs::rename(&file, &aside).expect("ours");
        std::os::unix::fs::symlink(&aside, &file).expect("a link");
        let found = site.run(&["verify"]).is(1).out;
        assert!(found.contains(&format!("{name}: a symbolic link, where a file is expected")), "{found}");
        site.run(&["verify", "--repair"]).is(0);
        assert!(file.symlink_metadata().expect("there").is_file(), "{name}");
    }
}

#[test]
fn the_second_writer_is_told_at_once_and_readers_do_not_wait() {
    let site = Site::new();
    std::fs::create_dir(site.path("mirror")).expect("made");
    std::fs::set_permissions(site.path("mirror"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let held = toolkit::lock::FileLock::exclusive(&site.path("mirror/lock")).expect("free");
    let started = std::time::Instant::now();
    for command in ["sync", "snapshot", "gc"] {
        site.run(&[command]).is(75);
    }
    site.run(&["list"]).is(0);
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    drop(held);
    site.run(&["sync"]).is(0);
}

#[test]
fn what_is_typed_or_configured_wrongly_is_told_by_its_code() {
    let site = Site::new();
    site.run(&["frobnicate"]).is(2);
    site.run(&["serve"]).is(2);
    site.run(&["--version"]).is(0);
    assert!(site.run(&["--help"]).is(0).out.contains("Exit status:"));
    std::fs::write(site.path("mirror.yaml"), "rooot: /x\n").expect("writable");
    let refused = site.run(&["sync"]).is(65).err;
    assert!(refused.contains("mirror.yaml") && refused.contains("rooot"), "{refused}");
    std::fs::write(site.path("mirror.yaml"), "sources: [{name: el9, type: snap, dir: /x}]\n").expect("writable");
    let refused = site.run(&["sync"]).is(65).err;
    assert!(refused.contains("mirror.yaml") && refused.contains("snap"), "{refused}");
    std::fs::remove_file(site.path("mirror.yaml")).expect("there");
    site.run(&["list"]).is(65);
}

#[test]
fn the_key_is_kept_private_and_never_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let secret = site.path("site.sec.asc");
    let mode = std::fs::metadata(&secret).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&secret).expect("there");
    site.run(&["keygen", "--out", &site.text("site.sec.asc"), "--public", &site.text("site.asc")]).is(0);
    assert_eq!(std::fs::read(&secret).expect("there"), before);
    assert!(std::fs::read_to_string(site.path("site.asc")).expect("there").contains("PUBLIC KEY BLOCK"));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).expect("ours");
    site.run(&["sync"]).is(0);
    site.run(&["snapshot"]).is(77);
    site.run(&["keygen", "--out", "/nonexistent/key", "--public", "/nonexistent/pub"]).is(73);
}

#[test]
fn gpgv_accepts_what_is_signed() {
    if !has("dpkg-deb") || !has("gpgv") {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "");
    let base = site.published(&site.snapshot());
    let dists = base.join("deb/debian/dists/bookworm");
    let gpgv = |files: &[std::path::PathBuf]| {
        let output =
            Command::new("gpgv").arg("--keyring").arg(site.path("site.gpg")).args(files).output().expect("runs");
        assert!(output.status.success(), "{files:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    gpgv(&[dists.join("InRelease")]);
    gpgv(&[dists.join("Release.gpg"), dists.join("Release")]);
    gpgv(&[base.join("manifest.json.sig"), base.join("manifest.json")]);
}
