//! Upstreams for apt: signed, broken in every way, mirrored whole and in part.

use std::collections::BTreeMap;

use test_support::upstream::{Fault, Upstream};

use crate::deb_repo::{NEW, Repo, configure, configure_with};
use crate::signing::{gzip, sha256};
use crate::support::{Run, Site, tree};

fn names(site: &Site, id: &str) -> Vec<String> {
    let out = site.run(&["show", id, "--json"]).is(0).out;
    let objects = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let packages = objects.filter(|object| object["type"] == "package");
    packages.map(|object| format!("{} {}", object["name"], object["version"]).replace('"', "")).collect()
}

#[test]
fn a_whole_upstream_is_published_as_it_is() {
    for (by_hash, inline) in [(false, true), (true, true), (false, false)] {
        let mut site = Site::new();
        let upstream = {
            let mut repo = Repo::new(&site, "up");
            (repo.by_hash, repo.inline) = (by_hash, inline);
            for number in 0..20 {
                repo.add(&format!("st-{number}"), "1.0", "");
            }
            repo.publish();
            repo.serve()
        };
        configure(&mut site, &upstream.url(), "");
        let id = site.snapshot();
        assert_eq!(names(&site, &id).len(), 20);
        let published = site.published(&id).join("deb/up");
        let signed: &[&str] = if inline { &["InRelease"] } else { &["Release", "Release.gpg"] };
        for file in signed {
            let file = format!("dists/bookworm/{file}");
            assert_eq!(
                std::fs::read(published.join(&file)).expect("published"),
                std::fs::read(site.path("up").join(&file)).expect("there"),
                "{file}"
            );
        }
        site.run(&["verify"]).is(0);
        // Nothing changed: one question, and no other id.
        drop(upstream.asked());
        site.run(&["sync"]).is(0);
        let asked = upstream.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0].status, 304);
        assert_eq!(site.snapshot(), id);
        // Even when the server cannot say so.
        upstream.fault("Release", Fault::NoValidators);
        drop(upstream.asked());
        site.run(&["sync"]).is(0);
        assert_eq!(upstream.asked().len(), 1);
        assert_eq!(site.snapshot(), id);
    }
}

#[test]
fn a_closure_is_published_with_an_index_of_the_sites() {
    let mut site = Site::new();
    let upstream = {
        let mut repo = Repo::new(&site, "up");
        repo.add("app", "1.0", "Depends: libx (>= 2), mta | other\nRecommends: doc\n");
        repo.add("libx", "1.0", "");
        repo.add("libx", "2.0", "Pre-Depends: base\n");
        repo.add("postfix", "3", "Provides: mta\n");
        repo.add("unrelated", "1", "");
        repo.add("doc", "1", "");
        repo.publish();
        repo.serve()
    };
    // What a directory holds counts.
    site.deb("base", "1.0", "");
    configure(&mut site, &upstream.url(), ", select: {closure: [app]}");
    let id = site.snapshot();
    assert_eq!(names(&site, &id), ["base 1.0", "app 1.0", "libx 2.0", "postfix 3"]);
    let release = std::fs::read_to_string(site.published(&id).join("deb/up/dists/bookworm/Release")).expect("there");
    for line in
        ["Origin: Upstream", "Label: Up", "Suite: stable", "Codename: bookworm", "Date: Tue, 29 Feb 2000 00:00:00 UTC"]
    {
        assert!(release.contains(line), "{line}: {release}");
    }
    site.run(&["verify"]).is(0);
    drop(upstream.asked());
    site.run(&["sync"]).is(0);
    assert_eq!(upstream.asked().len(), 1);
    configure(&mut site, &upstream.url(), ", select: {closure: [app], recommends: true}");
    let id = site.snapshot();
    assert!(names(&site, &id).contains(&"doc 1".to_owned()));
    // What is open is named, by whom it is needed too.
    configure(&mut site, &upstream.url(), ", select: {closure: [app, ghost, libx]}");
    std::fs::remove_file(site.path("debs/base_1.0_amd64.deb")).expect("ours");
    let open = site.run(&["sync"]).is(1);
    for part in ["ghost: no source has it", "app: app 1.0: libx 2.0 needs base, which no source has"] {
        assert!(open.err.contains(part), "{part}: {}", open.err);
    }
    site.run(&["snapshot"]).is(1);
}

#[test]
fn apt_installs_from_a_whole_mirror_and_from_a_closure() {
    if !crate::apt::usable() {
        return;
    }
    let mut site = Site::new();
    let upstream = {
        let mut repo = Repo::new(&site, "up");
        repo.by_hash = true;
        repo.add("app", "1.0", "Depends: libx (>= 2), mta\n");
        repo.add("libx", "2.0", "");
        repo.add("postfix", "3", "Provides: mta\n");
        repo.add("exim", "4", "Provides: mta\n");
        repo.add("unrelated", "1", "");
        repo.publish();
        repo.serve()
    };
    for (select, key, all) in [("", "up.gpg", 5), (", select: {closure: [app]}", "site.gpg", 4)] {
        configure(&mut site, &upstream.url(), select);
        let id = site.snapshot();
        let server = site.serve();
        let name = format!("apt-{all}");
        let apt = crate::apt::Apt::new(&site.path(&name));
        let line =
            format!("deb [arch=amd64 signed-by={}] {}/snap/{id}/deb/up bookworm main\n", site.text(key), server.url());
        std::fs::write(site.path(&name).join("etc/apt/sources.list"), line).expect("writable");
        apt.update().is(0);
        let names = names(&site, &id);
        assert_eq!(names.len(), all);
        // Everything that is published can be installed, one by one.
        for package in &names {
            let package = package.split(' ').next().expect("a name");
            let planned = apt.run(&["install", "-s", "-y", "--no-install-recommends", package]).is(0);
            assert!(planned.out.contains(&format!("Inst {package} ")), "{}", planned.out);
        }
        apt.run(&["install", "-d", "-y", "--no-install-recommends", "app"]).is(0);
    }
}

#[test]
fn the_configuration_is_explained() {
    let mut site = Site::new();
    drop(Repo::new(&site, "up"));
    std::fs::write(
        site.path("web.catalog.json"),
        r#"{"name": "web1", "resources": [{"type": "Package", "title": "nginx"}]}"#,
    )
    .expect("writable");
    let select = ", select: {closure: [app], packages: [web.catalog.json]}";
    configure(&mut site, "http://me:s3cret@upstream.example/debian", select);
    let said = site.run(&["check"]).is(0).out;
    for part in
        ["from http://upstream.example/debian", "signed by ", "    app", "catalog web.catalog.json of web1: nginx"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("s3cret"));
    let fingerprint = "0".repeat(40);
    configure(&mut site, "http://upstream.example", &format!(", fingerprints: ['{fingerprint}']"));
    assert!(site.run(&["check"]).is(65).err.contains(&fingerprint));
}

#[test]
fn catalogs_choose_packages() {
    let mut site = Site::new();
    let upstream = {
        let mut repo = Repo::new(&site, "up");
        repo.add("nginx", "1.22-9", "");
        repo.add("haproxy", "2.6", "");
        repo.publish();
        repo.serve()
    };
    let catalog = |title: &str, ensure: &str| {
        format!(
            r#"{{"name": "web1", "resources": [{{"type": "Package", "title": "{title}", "parameters": {{"ensure": "{ensure}"}}}}]}}"#
        )
    };
    std::fs::write(site.path("web.catalog.json"), catalog("nginx", "1.22-9")).expect("writable");
    configure(&mut site, &upstream.url(), ", select: {packages: [./web.catalog.json]}");
    let id = site.snapshot();
    assert_eq!(names(&site, &id), ["nginx 1.22-9"]);
    std::fs::write(site.path("web.catalog.json"), catalog("haproxy", "installed")).expect("writable");
    let id = site.snapshot();
    assert_eq!(names(&site, &id), ["haproxy 2.6"], "another catalog is another selection");
    std::fs::write(site.path("web.catalog.json"), catalog("nginx", "9.9")).expect("writable");
    let open = site.run(&["sync"]).is(1);
    assert!(open.err.contains("catalog web.catalog.json of web1: nginx (= 9.9): no source has it"), "{}", open.err);
    std::fs::write(site.path("web.catalog.json"), "not JSON").expect("writable");
    let wrong = site.run(&["sync"]).is(65);
    assert!(wrong.err.contains("web.catalog.json"), "{}", wrong.err);
}

/// Faults F1 to F9 and those of the network: each is noticed, and what was published stays as it is.
#[test]
fn faults_are_noticed_and_change_nothing() {
    let mut site = Site::new();
    let mut repo_files = BTreeMap::new();
    let site_path = site.path("up");
    let publish = |site: &Site, change: &dyn Fn(&mut Repo<'_>)| {
        let mut repo = Repo::new(site, "up");
        for number in 0..10 {
            repo.add(&format!("st-{number}"), "1.0", "");
        }
        change(&mut repo);
        repo.publish();
    };
    publish(&site, &|_| {});
    let upstream = Upstream::serve(&site_path);
    configure(&mut site, &upstream.url(), "");
    let first = site.snapshot();
    site.run(&["promote", &first, "--channel", "stable"]).is(0);
    // The page and the figures say how the last attempt went; everything else is what clients read.
    let said = ["index.html", "status.json", "metrics"];
    repo_files.extend(tree(&site.path("mirror/pub")).into_iter().filter(|(path, _)| !said.contains(&path.as_str())));
    let unchanged = |site: &Site, what: &str| {
        for (path, content) in &repo_files {
            assert!(std::fs::read(site.path("mirror/pub").join(path)).expect("there") == *content, "{what}: {path}");
        }
        assert_eq!(site.run(&["snapshot"]).is(0).out.trim(), first, "{what}");
    };
    let newer = |repo: &mut Repo<'_>| {
        repo.date = NEW;
        repo.add("st-new", "2.0", "");
    };
    let refused = |site: &Site, what: &str, code: i32, words: &str| {
        let run: Run = site.run(&["sync"]);
        assert_eq!(run.code, code, "{what}: {}", run.err);
        assert!(run.err.contains(words), "{what}: {}", run.err);
        unchanged(site, what);
        upstream.mend();
    };
    let new = "st-new_2.0.deb";
    publish(&site, &newer);
    upstream.fault(new, Fault::Garbage);
    refused(&site, "F1", 1, new);
    upstream.fault(new, Fault::Truncated(1000));
    refused(&site, "F2", 1, new);
    site.run(&["keygen", "--out", &site.text("other.sec.asc"), "--public", &site.text("other.gpg")]).is(0);
    publish(&site, &|repo| {
        newer(repo);
        repo.key = "other.sec.asc";
    });
    refused(&site, "F3", 1, "no valid signature by a trusted key");
    publish(&site, &|repo| {
        newer(repo);
        repo.more = format!("Valid-Until: {NEW}\n");
    });
    refused(&site, "F4", 1, "expired");
    publish(&site, &|repo| repo.date = "Mon, 28 Feb 2000 00:00:00 UTC");
    refused(&site, "F5", 1, "back in time");
    for path in ["pool/../../../evil", "/etc/evil", "dists/bookworm/InRelease", "pool/a\\b"] {
        publish(&site, &|repo| {
            newer(repo);
            let zeros = "0".repeat(64);
            repo.raw =
                format!("Package: evil\nVersion: 1\nArchitecture: all\nFilename: {path}\nSize: 1\nSHA256: {zeros}\n\n");
        });
        refused(&site, "F6", 1, "evil");
    }
    // An index that came before is not asked for again, so each of these is new.
    let fresh = |site: &Site, number: u32| {
        publish(site, &|repo| {
            newer(repo);
            repo.add(&format!("st-fresh{number}"), "1.0", "");
        });
    };
    fresh(&site, 7);
    upstream.fault("Packages", Fault::Content(gzip(b"of another generation")));
    refused(&site, "F7", 1, "Packages");
    publish(&site, &newer);
    let bomb = vec![b'x'; 3 << 20];
    let mut repo = Repo::new(&site, "up");
    repo.date = NEW;
    repo.publish_index(&bomb, &gzip(&bomb));
    refused(&site, "F9", 1, "longer than 1 MiB");
    // A bomb of which the index itself says nothing.
    repo.publish_index(b"Package: small\n", &gzip(&bomb));
    refused(&site, "F9 unsigned size", 1, "larger");

    publish(&site, &newer);
    upstream.fault(new, Fault::Stall(1000));
    refused(&site, "stall", 69, new);
    upstream.fault("InRelease", Fault::Stall(10));
    refused(&site, "stalled root", 69, "InRelease");
    upstream.fault(new, Fault::Cut(700, 9));
    refused(&site, "reset", 69, new);
    fresh(&site, 503);
    upstream.fault("Packages", Fault::Status(503, 9));
    refused(&site, "503", 69, "503");
    upstream.fault(new, Fault::Status(404, 9));
    refused(&site, "404", 69, new);
    upstream.fault(new, Fault::Drip(100));
    refused(&site, "slow drip", 69, new);
    upstream.fault("InRelease", Fault::Redirect("/dists/bookworm/InRelease".into()));
    refused(&site, "redirects in a circle", 69, "redirects");
    fresh(&site, 302);
    upstream.fault("Packages.gz", Fault::Redirect("http://127.0.0.1:1/".into()));
    refused(&site, "redirect to nowhere", 69, "Packages");

    // What passes by itself is no failure.
    configure_with(&mut site, &upstream.url(), "", 1);
    upstream.fault("InRelease", Fault::Status(503, 1));
    upstream.fault(new, Fault::Cut(700, 1));
    let second = site.snapshot();
    assert_ne!(second, first);
    assert!(names(&site, &second).contains(&"st-new 2.0".to_owned()));
    site.run(&["verify"]).is(0);
}

#[test]
fn an_interrupted_download_is_continued() {
    let mut site = Site::new();
    {
        let mut repo = Repo::new(&site, "up");
        for number in 0..6 {
            repo.add(&format!("st-{number}"), "1.0", "");
        }
        repo.publish();
    }
    let upstream = Upstream::serve(&site.path("up"));
    configure(&mut site, &upstream.url(), "");
    upstream.fault("st-5_1.0.deb", Fault::Stall(5000));
    let mut child = site.command(&["sync"]).spawn().expect("runs");
    // All others are whole, and the sixth stands still where it stalls.
    let wanted: Vec<usize> = tree(&site.path("up"))
        .iter()
        .filter(|(path, _)| path.ends_with(".deb"))
        .map(|(path, content)| if path.contains("st-5") { 5000 } else { content.len() })
        .collect();
    let all_wait = || {
        let directory = site.path("mirror/partial");
        let mut lengths: Vec<usize> = if directory.exists() {
            tree(&directory).iter().map(|(_, content)| content.len()).collect()
        } else {
            Vec::new()
        };
        wanted.iter().all(|wanted| {
            let found = lengths.iter().position(|length| length == wanted);
            found.map(|at| lengths.swap_remove(at)).is_some()
        })
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !all_wait() {
        assert!(std::time::Instant::now() < deadline, "the download does not stall");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().expect("ours");
    child.wait().expect("ours");
    upstream.mend();
    // The server writes a request down when it has done with it; the stalled one, when it sees that nobody reads.
    while !upstream.asked().iter().any(|asked| asked.path.contains("st-5")) {
        assert!(std::time::Instant::now() < deadline, "the server has not noticed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = site.snapshot();
    let asked = upstream.asked();
    let packages: Vec<_> = asked.iter().filter(|asked| asked.path.contains(".deb")).collect();
    assert!(packages.len() <= 4, "only what was in flight: {packages:?}");
    assert!(!asked.iter().any(|asked| asked.path.contains("Packages")), "indices had come: {asked:?}");
    let resumed = packages.iter().find(|asked| asked.path.contains("st-5")).expect("asked for");
    assert_eq!((resumed.headers.get("range").map(String::as_str), resumed.status), (Some("bytes=5000-"), 206));
    assert_eq!(names(&site, &id).len(), 6);
    site.run(&["verify"]).is(0);
    assert!(tree(&site.path("mirror/partial")).is_empty());
}

#[test]
fn a_dead_mirror_is_passed_over_and_a_password_stays_secret() {
    let mut site = Site::new();
    {
        let mut repo = Repo::new(&site, "up");
        repo.add("st-a", "1.0", "");
        repo.publish();
    }
    let upstream = Upstream::serve(&site.path("up"));
    let stale = {
        let mut repo = Repo::new(&site, "stale");
        repo.date = "Mon, 28 Feb 2000 00:00:00 UTC";
        repo.add("st-a", "0.9", "");
        repo.publish();
        repo.serve()
    };
    let with_login = upstream.url().replace("://", "://me:s3cret@");
    configure(&mut site, "http://127.0.0.1:1", &format!(", mirrors: ['{with_login}']"));
    let id = site.snapshot();
    assert_eq!(names(&site, &id), ["st-a 1.0"]);
    assert!(upstream.asked().iter().all(|asked| asked.headers["authorization"] == "Basic bWU6czNjcmV0"));
    // A mirror that lags behind is not followed back.
    configure(&mut site, "http://127.0.0.1:1", &format!(", mirrors: ['{}', '{with_login}']", stale.url()));
    assert_eq!(site.snapshot(), id);
    // Another host gets no password, and no message shows it.
    upstream.fault("InRelease", Fault::Redirect(format!("{}/dists/bookworm/InRelease", stale.url())));
    drop(stale.asked());
    configure(&mut site, &with_login, "");
    std::fs::remove_dir_all(site.path("mirror/sources")).expect("ours");
    let run = site.run(&["-v", "sync"]);
    assert!(!run.err.contains("s3cret") && !run.out.contains("s3cret"), "{}", run.err);
    assert!(stale.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
    let secret = |content: &[u8]| content.windows(6).any(|window| window == b"s3cret");
    let left: Vec<_> = tree(&site.path("mirror")).into_iter().filter(|(_, content)| secret(content)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn single_files_come_by_digest() {
    let mut site = Site::new();
    std::fs::create_dir(site.path("up")).expect("made");
    std::fs::write(site.path("up/tool 1.zip"), b"archive").expect("writable");
    let upstream = Upstream::serve(&site.path("up"));
    let configure = |site: &mut Site, digest: &str| {
        site.extra = format!(
            "- {{name: tools, type: files, files: [{{url: '{}/tool%201.zip', sha256: '{digest}', path: t/tool.zip}}]}}\n",
            upstream.url()
        );
        site.write_config_with("limits: {retries: 0}\n");
    };
    configure(&mut site, &sha256(b"other"));
    let wrong = site.run(&["sync"]).is(1);
    assert!(wrong.err.contains("tool%201.zip"), "{}", wrong.err);
    configure(&mut site, &sha256(b"archive"));
    let id = site.snapshot();
    assert_eq!(std::fs::read(site.published(&id).join("files/tools/t/tool.zip")).expect("there"), b"archive");
    drop(upstream.asked());
    assert_eq!(site.snapshot(), id);
    assert!(upstream.asked().is_empty(), "what is there is not asked for again");
    site.run(&["verify"]).is(0);
    site.run(&["promote", &id, "--channel", "stable"]).is(0);
    site.run(&["gc"]).is(0);
    site.run(&["verify"]).is(0);
}
