//! Snapshots that apt or dnf could not install from what their nodes need are refused, by the real solvers.

use crate::apt::usable;
use crate::deb_repo::{Repo, configure};
use crate::rpm::{self, has_rpm, rpm};
use crate::support::{Site, tree};

/// Writes a compiled catalog of these packages.
fn catalog(site: &Site, name: &str, packages: &[(&str, &str)]) {
    let resources: Vec<serde_json::Value> = packages
        .iter()
        .map(|(title, ensure)| serde_json::json!({"type": "Package", "title": title, "parameters": {"ensure": ensure}}))
        .collect();
    let catalog = serde_json::json!({"name": "node1", "resources": resources});
    std::fs::create_dir_all(site.path("catalogs")).expect("made");
    std::fs::write(site.path("catalogs").join(name), catalog.to_string()).expect("writable");
}

/// Snapshots what was synchronised, which is refused; returns the words.
#[track_caller]
fn refused(site: &Site) -> String {
    site.run(&["sync"]).is(0);
    let before = site.run(&["list"]).is(0).out;
    let run = site.run(&["snapshot"]).is(1);
    assert_eq!(run.out, "");
    assert_eq!(site.run(&["list"]).is(0).out, before, "nothing is published");
    assert!(tree(&site.path("mirror/tmp")).is_empty(), "nothing is left");
    run.err
}

#[test]
fn what_catalogs_name_has_to_be_installable_with_apt() {
    if !usable() {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "st-b, base");
    site.deb("st-b", "1.0", "deep | virtual-none");
    site.deb("st-c", "1.0", "");
    catalog(&site, "web.catalog.json", &[("st-a", "installed"), ("st-c", "2.0"), ("st-ghost", "installed")]);
    catalog(&site, "db.catalog.json", &[("st-c", "latest"), ("st-gone", "absent")]);
    site.write_config_with("closed: {deb: [catalogs]}\n");
    let words = refused(&site);
    let web = "catalog web.catalog.json of node1";
    for line in [
        format!("{web}: st-ghost: no source has it"),
        format!("{web}: st-c (= 2.0): needs st-c (= 2.0)"),
        format!("{web}: st-a: "),
    ] {
        assert!(words.contains(&line), "{line}: {words}");
    }
    assert!(!words.contains("db.catalog.json") && !words.contains("st-gone"), "{words}");

    site.deb("st-c", "2.0", "");
    site.deb("st-ghost", "1", "");
    site.deb("deep", "1", "");
    let words = refused(&site);
    assert!(words.contains("base") && !words.contains("st-c") && !words.contains("st-ghost"), "{words}");
    // What every node has anyway need not be in the mirror.
    std::fs::write(
        site.path("status"),
        "Package: base\nStatus: install ok installed\nArchitecture: amd64\nMaintainer: x\nVersion: 1\nDescription: x\n",
    )
    .expect("writable");
    site.write_config_with("closed: {deb: [catalogs/web.catalog.json, catalogs/db.catalog.json], installed: status}\n");
    let id = site.snapshot();
    assert_eq!(site.snapshot(), id);

    // The same content, and another demand.
    catalog(&site, "db.catalog.json", &[("st-c", "3.0")]);
    let words = refused(&site);
    assert!(words.contains("catalog db.catalog.json of node1: st-c (= 3.0)"), "{words}");
    std::fs::remove_file(site.path("catalogs/db.catalog.json")).expect("ours");
    site.run(&["snapshot"]).is(65);
    site.run(&["check"]).is(65);
}

#[test]
fn packages_of_one_node_have_to_fit_together() {
    if !usable() {
        return;
    }
    let mut site = Site::new();
    let published = {
        let mut repo = Repo::new(&site, "up");
        repo.add("st-a", "1.0", "");
        repo.add("st-b", "1.0", "Conflicts: st-a\n");
        repo.add("st-c", "1.0", "Depends: st-b | st-d\n");
        repo.add("st-d", "1.0", "");
        repo.publish();
        repo.serve()
    };
    // Names of a configuration may be those of different nodes.
    configure(&mut site, &published.url(), ", select: {closure: [st-a, st-b]}");
    let first = site.snapshot();
    catalog(&site, "one.json", &[("st-a", "present"), ("st-c", "present")]);
    configure(&mut site, &published.url(), ", select: {packages: [catalogs/one.json]}");
    let second = site.snapshot();
    assert_ne!(first, second);
    catalog(&site, "one.json", &[("st-a", "present"), ("st-b", "present"), ("st-d", "present")]);
    let words = refused(&site);
    assert!(words.contains("catalog one.json of node1: st-a, st-b, st-d together: "), "{words}");
    assert!(words.contains("st-b conflicts with st-a"), "{words}");
}

#[test]
fn what_catalogs_name_has_to_be_installable_with_dnf() {
    if !has_rpm() {
        return;
    }
    let site = rpm::site();
    rpm(&site, "st-a", "1.0", "Requires: st-b >= 2", "/usr/share/st-a/data");
    rpm(&site, "st-b", "1.0", "", "/usr/share/st-b/data");
    catalog(&site, "el.json", &[("st-a", "installed"), ("st-b", "1.0-1"), ("st-ghost", "installed")]);
    site.write_config_with("closed: {rpm: [catalogs/el.json]}\n");
    let words = refused(&site);
    for line in [
        "of node1: st-ghost: no source has it",
        "of node1: st-a: nothing provides st-b >= 2 needed by st-a-1.0-1.noarch",
    ] {
        assert!(words.contains(line), "{line}: {words}");
    }
    rpm(&site, "st-b", "2.0", "", "/usr/share/st-b/data");
    rpm(&site, "st-ghost", "1.0", "", "/usr/share/st-ghost/data");
    let words = refused(&site);
    assert!(words.contains("st-a, st-b, st-ghost together: "), "{words}");
    catalog(&site, "el.json", &[("st-a", "installed"), ("st-b", "2.0-1"), ("st-ghost", "installed")]);
    site.snapshot();
}

#[test]
fn a_proof_that_was_demanded_and_cannot_be_made_is_an_error() {
    let mut site = Site::new();
    site.deb("st-a", "1.0", "");
    catalog(&site, "a.json", &[("st-a", "installed")]);
    site.write_config_with("closed: {deb: [catalogs]}\n");
    site.run(&["sync"]).is(0);
    site.environment.push(("PATH".into(), "/nonexistent".into()));
    let run = site.run(&["snapshot"]).is(69);
    assert!(run.err.contains("no apt-get here"), "{}", run.err);
    site.environment.clear();
    // A format that the mirror does not have.
    site.write_config_with("closed: {rpm: [catalogs]}\n");
    if has_rpm() {
        assert!(refused(&site).contains("no source of this format"));
    }
    site.write_config_with("closed: {deb: [catalogs], typo: 1}\n");
    assert!(site.run(&["check"]).is(65).err.contains("typo"));
}
