//! What `sync --dry-run` says is what `sync` then does; and what a person at a terminal sees of it.

use std::collections::BTreeSet;
use std::process::Command;

use test_support::upstream::Upstream;

use crate::deb_repo::{NEW, Repo};
use crate::git;
use crate::signing::sha256;
use crate::support::{Run, Site, has, tree};

/// A site with a source of each type, and its upstream.
fn site() -> (Site, Upstream) {
    let (mut site, _) = git::site();
    let upstream = {
        let mut repo = Repo::new(&site, "up");
        repo.add("st-a", "1.0", "Depends: st-b\n");
        repo.add("st-b", "1.0", "");
        repo.add("st-unneeded", "1.0", "");
        repo.write("tool.bin", b"tool");
        repo.publish();
        repo.serve()
    };
    site.deb("st-own", "1.0", "");
    site.extra.push_str(&format!(
        "- {{name: up, type: deb, url: '{url}', suites: [bookworm], components: [main], architectures: [amd64], \
         keyring: {key}, select: {{closure: [st-a]}}}}\n\
         - {{name: tools, type: files, files: [{{url: '{url}/tool.bin', sha256: {digest}, path: tool.bin}}]}}\n",
        url = upstream.url(),
        key = site.text("up.gpg"),
        digest = sha256(b"tool"),
    ));
    site.write_config();
    (site, upstream)
}

/// The paths of a plan by verb.
fn planned(site: &Site, verb: &str) -> BTreeSet<String> {
    let out = site.run(&["sync", "--dry-run"]).is(0).out;
    let words = out.lines().map(|line| line.splitn(4, ' ').collect::<Vec<_>>());
    words.filter(|words| words[0] == verb).map(|words| words[3].to_owned()).collect()
}

fn fetched(upstream: &Upstream) -> BTreeSet<String> {
    let asked = upstream.asked().into_iter().map(|asked| asked.path.trim_start_matches('/').to_owned());
    asked.filter(|path| path.starts_with("pool/") || path == "tool.bin").collect()
}

#[test]
fn the_plan_is_what_is_done_and_changes_nothing() {
    let (site, upstream) = site();
    let plan = planned(&site, "fetch");
    assert_eq!(plan, BTreeSet::from(["pool/st-a_1.0.deb", "pool/st-b_1.0.deb", "tool.bin"].map(str::to_owned)));
    assert_eq!(planned(&site, "take"), BTreeSet::from(["st-own_1.0_amd64.deb".to_owned()]));
    assert_eq!(planned(&site, "update"), BTreeSet::from([git::PATH.to_owned()]));
    assert!(fetched(&upstream).is_empty(), "nothing was fetched");
    assert!(tree(&site.path("mirror/sources")).is_empty() && !site.path("mirror/git").join(git::PATH).exists());
    site.run(&["snapshot"]).is(1);

    site.run(&["sync"]).is(0);
    assert_eq!(fetched(&upstream), plan);
    assert_eq!(site.run(&["sync", "--dry-run"]).is(0).out, "");
    // One new package, one that changed, one commit; what is there already is not planned again.
    let id = site.run(&["snapshot"]).is(0).out;
    git::push(&site, "next");
    let own = site.deb("st-new", "1.0", "");
    {
        let mut repo = Repo::new(&site, "up");
        repo.add("st-a", "2.0", "Depends: st-b\n");
        repo.add("st-b", "1.0", "");
        repo.date = NEW;
        repo.publish();
    }
    let before = tree(&site.path("mirror/sources"));
    let out = site.run(&["sync", "--dry-run", "--json"]).is(0).out;
    assert_eq!(tree(&site.path("mirror/sources")), before);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let found: BTreeSet<(String, String)> = lines
        .iter()
        .map(|line| (line["what"].as_str().expect("text").to_owned(), line["path"].as_str().expect("text").to_owned()))
        .collect();
    let expected = [
        ("fetch", "pool/st-a_2.0.deb".to_owned()),
        ("take", own.file_name().expect("a name").to_string_lossy().into_owned()),
        ("update", git::PATH.to_owned()),
    ];
    assert_eq!(found, expected.map(|(what, path)| (what.to_owned(), path)).into());
    assert!(lines.iter().all(|line| line["type"] == "planned" && line["v"] == 1));
    drop(upstream.asked());
    assert_eq!(site.run(&["snapshot"]).is(0).out, id, "nothing has changed");
    site.run(&["sync"]).is(0);
    assert_eq!(fetched(&upstream), BTreeSet::from(["pool/st-a_2.0.deb".to_owned()]));
    site.run(&["sync", "--json"]).is(2);
}

#[test]
fn a_person_at_a_terminal_sees_rate_and_rest() {
    if !has("script") {
        return;
    }
    let (site, _upstream) = site();
    site.write_config_with("limits: {rate: 30KiB}\n");
    let command = format!("{} --config {} sync", env!("CARGO_BIN_EXE_mirror-sync"), site.text("mirror.yaml"));
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").output();
    let run = Run::from(output.expect("runs")).is(0);
    let shown: Vec<&str> = run.out.split('\r').filter(|line| line.starts_with("up: ")).collect();
    assert!(
        shown.iter().any(|line| line.contains("/2 files, ") && line.contains(" MB/s, ") && line.contains(" left")),
        "{shown:?}"
    );
    // Elsewhere there is no such line.
    site.write_config();
    assert!(!site.run(&["sync"]).is(0).err.contains("MB/s"));
}
