//! RPM packages: real rpmbuild, createrepo_c and dnf, and upstreams that are broken.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use test_support::upstream::{Fault, Upstream};

use crate::dnf::Dnf;
use crate::signing::{gzip, sha256, sign};
use crate::support::{Run, Site, has};

pub(crate) fn run(program: &str, arguments: &[&str], home: &Path) -> Run {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("a PATH")).env("HOME", home).env("LC_ALL", "C");
    Run::from(command.args(arguments).output().expect("runs"))
}

/// Makes a package below `site/rpms`.
pub(crate) fn rpm(site: &Site, name: &str, version: &str, fields: &str, file: &str) {
    let spec = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: A <test> & more\nLicense: Apache-2.0\nBuildArch: noarch\n{fields}\n\
         %description\nText.\n%install\nmkdir -p %{{buildroot}}$(dirname {file}) %{{buildroot}}/usr/share/{name}\n\
         echo {name} > %{{buildroot}}{file}\n%files\n{file}\n%dir /usr/share/{name}\n%changelog\n\
         * Wed Mar 01 2000 Site <site@example.org> - {version}-1\n- first & \"best\"\n"
    );
    build(site, name, &spec);
}

fn build(site: &Site, name: &str, spec: &str) {
    let path = site.path(&format!("{name}.spec"));
    std::fs::write(&path, spec).expect("writable");
    let top = format!("_topdir {}", site.text("build"));
    let target = format!("_rpmdir {}", site.text("rpms"));
    let flat = "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm";
    let path = path.to_string_lossy().into_owned();
    let defines =
        ["--define", &top, "--define", &target, "--define", flat, "--define", "_source_filedigest_algorithm 8"];
    let mut arguments = vec!["-bb", "--quiet"];
    arguments.extend(defines);
    arguments.push(&path);
    run("rpmbuild", &arguments, site.dir.path()).is(0);
}

pub(crate) fn has_rpm() -> bool {
    has("rpmbuild") && has("createrepo_c") && has("dnf")
}

/// A site with `rpms` as its source `own`.
pub(crate) fn site() -> Site {
    let mut site = Site::new();
    std::fs::create_dir(site.path("rpms")).expect("made");
    site.extra = format!("- {{name: own, type: rpm, dir: {}}}\n", site.text("rpms"));
    site.write_config();
    site.run(&["keygen", "--out", &site.text("site.sec.asc"), "--public", &site.text("site.asc")]).is(0);
    site
}

/// Makes packages `many-0`, … of this version from one specification.
fn many(site: &Site, packages: std::ops::Range<u32>, version: &str) {
    let (mut install, mut parts) = (String::new(), String::new());
    for number in packages {
        let here = format!("/usr/share/many-{number}");
        install += &format!("mkdir -p %{{buildroot}}{here}; for i in $(seq 20); do : >%{{buildroot}}{here}/$i; done\n");
        parts += &format!(
            "%package -n many-{number}\nSummary: Number {number}\n%description -n many-{number}\nNumber {number}.\n\
             %files -n many-{number}\n{here}\n"
        );
    }
    let spec = format!(
        "Name: many\nVersion: {version}\nRelease: 1\nSummary: Many\nLicense: Apache-2.0\nBuildArch: noarch\n\
         %description\nText.\n{parts}%install\n{install}"
    );
    build(site, "many", &spec);
}

/// What `primary` says of each package, field by field, whatever the order.
fn primary(repository: &Path) -> BTreeMap<String, Vec<String>> {
    let directory = std::fs::read_dir(repository.join("repodata")).expect("there");
    let path = directory
        .map(|entry| entry.expect("readable").path())
        .find(|path| path.to_string_lossy().contains("primary.xml"))
        .expect("a primary");
    let mut text = String::new();
    let bytes = std::fs::read(&path).expect("readable");
    if path.extension().is_some_and(|extension| extension == "zst") {
        text = String::from_utf8(zstd::decode_all(&bytes[..]).expect("unpacks")).expect("text");
    } else {
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).expect("unpacks");
    }
    let mut packages = BTreeMap::new();
    for element in text.split("<package ").skip(1) {
        let name = element.split_once("<name>").expect("a name").1.split('<').next().expect("text").to_owned();
        let mut lines: Vec<String> = element
            .split("</package>")
            .next()
            .expect("text")
            .lines()
            .map(|line| line.trim().to_owned())
            // The place is ours to choose, and the time of the file is no property of the package.
            .filter(|line| !line.starts_with("<location") && !line.starts_with("<time") && !line.is_empty())
            .filter(|line| {
                !line.ends_with("></rpm:vendor>") && !line.ends_with("></packager>") && !line.ends_with("></url>")
            })
            .filter(|line| !matches!(line.as_str(), "<packager/>" | "<url/>" | "<rpm:vendor/>"))
            .collect();
        lines.sort();
        packages.insert(name, lines);
    }
    packages
}

#[test]
fn dnf_installs_from_a_directory_and_from_mirrors_of_it() {
    if !has_rpm() {
        return;
    }
    let site = site();
    rpm(
        &site,
        "st-app",
        "1.0",
        "Requires: st-lib >= 2, /usr/share/tool/data\nRequires(post): /bin/st-sh",
        "/usr/bin/st-app",
    );
    rpm(
        &site,
        "st-lib",
        "2.5",
        "Epoch: 1\nProvides: other = 3\nObsoletes: ancient < 2\nConflicts: foe",
        "/etc/st-lib.conf",
    );
    rpm(&site, "st-tool", "1.0", "Recommends: nothing\nSuggests: st-app", "/usr/share/tool/data");
    rpm(&site, "st-sh", "1.0", "", "/bin/st-sh");
    rpm(&site, "st-alone", "1.0", "", "/opt/alone");
    let id = site.snapshot();
    let own = site.published(&id).join("rpm/own");
    run("createrepo_c", &["--quiet", "--no-database", &site.text("rpms")], site.dir.path()).is(0);
    let (ours, theirs) = (primary(&own), primary(&site.path("rpms")));
    assert_eq!(ours.len(), 5);
    for (name, lines) in &theirs {
        assert_eq!(ours[name], *lines, "{name}");
    }
    site.run(&["verify"]).is(0);
    assert_eq!(site.snapshot(), id);
    let server = site.serve();
    let url = format!("{}/snap/{id}/rpm/own", server.url());
    let dnf = Dnf::new(&site, "dnf", &url, &site.text("site.asc"));
    dnf.run(&["install", "st-app"]).is(0);
    let names: Vec<String> = dnf.installed();
    assert_eq!(names, ["st-app-1.0-1", "st-lib-2.5-1", "st-sh-1.0-1", "st-tool-1.0-1"]);
    dnf.rpm(&["-V", "st-app", "st-lib", "st-sh", "st-tool"]).is(0);
    dnf.run(&["check"]).is(0);
    site.run(&["keygen", "--out", &site.text("no.sec.asc"), "--public", &site.text("no.asc")]).is(0);
    Dnf::new(&site, "dnf-no", &url, &site.text("no.asc")).run(&["makecache"]).is(1);

    // The published snapshot is an upstream itself.
    let upstream = Upstream::serve(&own);
    let mut mirror = Site::new();
    let mut configure = |more: &str| {
        mirror.extra =
            format!("- {{name: el, type: rpm, url: '{}', keyring: {}{more}}}\n", upstream.url(), site.text("site.asc"));
        mirror.write_config_with("limits: {retries: 0, stall: 2s}\n");
        let id = mirror.snapshot();
        let out = mirror.run(&["show", &id, "--json"]).is(0).out;
        (mirror.published(&id).join("rpm/el"), out.lines().filter(|line| line.contains("\"type\":\"package\"")).count())
    };
    let (whole, count) = configure("");
    assert_eq!(count, 5);
    for file in ["repodata/repomd.xml", "repodata/repomd.xml.asc"] {
        assert_eq!(std::fs::read(whole.join(file)).expect("there"), std::fs::read(own.join(file)).expect("there"));
    }
    drop(upstream.asked());
    configure("");
    let asked = upstream.asked();
    assert_eq!((asked.len(), asked[0].status), (1, 304));
    let (part, count) = configure(", select: {closure: [st-app]}");
    assert_eq!(count, 4, "without what is alone");
    let part_primary = primary(&part);
    assert!(!part_primary.contains_key("st-alone"));
    for (name, lines) in &part_primary {
        assert_eq!(ours[name], *lines, "{name}");
    }
    mirror.run(&["verify"]).is(0);
    mirror.run(&["keygen", "--out", &mirror.text("site.sec.asc"), "--public", &mirror.text("site.asc")]).is(0);
    let server = mirror.serve();
    let id = mirror.snapshot();
    let url = format!("{}/snap/{id}/rpm/el", server.url());
    Dnf::new(&mirror, "dnf", &url, &mirror.text("site.asc")).run(&["install", "st-app"]).is(0);
    // The diff has versions as rpm writes them.
    rpm(&site, "st-sh", "2.0", "", "/bin/st-sh");
    std::fs::remove_file(site.path("rpms/st-sh-1.0-1.noarch.rpm")).expect("ours");
    let first = site.run(&["list"]).is(0).out.split(' ').next().expect("an id").to_owned();
    let second = site.snapshot();
    let diff = site.run(&["diff", &first, &second, "--json"]).is(1).out;
    assert!(diff.contains("\"old\":\"1.0-1\",\"new\":\"2.0-1\""), "{diff}");
}

/// A repository of nothing but bytes.
fn publish(site: &Site, key: &str, time: u64, location: &str, change: impl Fn(&mut String)) {
    let content = b"not really a package".repeat(100);
    let mut element = format!(
        "<metadata packages=\"1\"><package type=\"rpm\"><name>tool</name><arch>noarch</arch>\
         <version epoch=\"0\" ver=\"{time}\" rel=\"1\"/><checksum type=\"sha256\" pkgid=\"YES\">{}</checksum>\
         <size package=\"{}\"/><location href=\"{location}\"/><format><rpm:provides><rpm:entry name=\"tool\"/></rpm:provides>\
         </format></package></metadata>",
        sha256(&content),
        content.len()
    );
    change(&mut element);
    let packed = gzip(element.as_bytes());
    let name = format!("repodata/{}-primary.xml.gz", sha256(&packed));
    let repomd = format!(
        "<repomd><revision>{time}</revision><data type=\"primary\"><checksum type=\"sha256\">{}</checksum>\
         <location href=\"{name}\"/><timestamp>{time}</timestamp><size>{}</size></data></repomd>",
        sha256(&packed),
        packed.len()
    );
    std::fs::create_dir_all(site.path("up/repodata")).expect("made");
    std::fs::write(site.path("up/tool.rpm"), &content).expect("writable");
    std::fs::write(site.path("up").join(name), packed).expect("writable");
    std::fs::write(site.path("up/repodata/repomd.xml"), &repomd).expect("writable");
    std::fs::write(site.path("up/repodata/repomd.xml.asc"), sign(site, key, &repomd, true)).expect("writable");
}

#[test]
fn faults_of_an_upstream_are_noticed() {
    let mut site = Site::new();
    site.run(&["keygen", "--out", &site.text("up.sec.asc"), "--public", &site.text("up.gpg")]).is(0);
    site.run(&["keygen", "--out", &site.text("other.sec.asc"), "--public", &site.text("other.gpg")]).is(0);
    publish(&site, "up.sec.asc", 1000, "tool.rpm", |_| {});
    let upstream = Upstream::serve(&site.path("up"));
    site.extra = format!("- {{name: el, type: rpm, url: '{}', keyring: {}}}\n", upstream.url(), site.text("up.gpg"));
    site.write_config_with("limits: {retries: 0, stall: 1s, total: 3s}\n");
    let first = site.snapshot();
    let refused = |what: &str, code: i32, words: &str| {
        let run = site.run(&["sync"]);
        assert_eq!(run.code, code, "{what}: {}", run.err);
        assert!(run.err.contains(words), "{what}: {}", run.err);
        assert_eq!(site.run(&["snapshot"]).is(0).out.trim(), first, "{what}");
        upstream.mend();
    };
    publish(&site, "other.sec.asc", 2000, "tool.rpm", |_| {});
    refused("another key", 1, "no valid signature");
    publish(&site, "up.sec.asc", 2000, "tool.rpm", |_| {});
    upstream.fault("repomd.xml.asc", Fault::Status(404, 1));
    refused("no signature", 1, "there is no signature");
    publish(&site, "up.sec.asc", 900, "tool.rpm", |_| {});
    refused("older", 1, "back in time");
    for path in ["../../evil.rpm", "/evil.rpm", "repodata/repomd.xml"] {
        publish(&site, "up.sec.asc", 2000, path, |_| {});
        refused("path", 1, "location");
    }
    publish(&site, "up.sec.asc", 2000, "tool.rpm", |text| *text = text.replace("\"sha256\"", "\"sha\""));
    refused("weak digest", 1, "SHA-256");
    publish(&site, "up.sec.asc", 2001, "tool.rpm", |text| text.push_str(&" ".repeat(300 << 10)));
    upstream.fault("primary.xml.gz", Fault::Garbage);
    refused("primary", 1, "primary.xml.gz");
    publish(&site, "up.sec.asc", 2002, "tool.rpm", |text| *text = text.replace("</package>", ""));
    refused("cut", 1, "does not end");
    publish(&site, "up.sec.asc", 2003, "tool.rpm", |text| *text = text.replace("2003", "&bomb;"));
    site.run(&["sync"]).is(1);
    publish(&site, "up.sec.asc", 2004, "tool.rpm", |text| {
        let zeros = "0".repeat(64);
        let from = text.find("YES\">").expect("a digest") + 5;
        text.replace_range(from..from + 64, &zeros);
    });
    refused("other content", 1, "tool.rpm");
    publish(&site, "up.sec.asc", 2005, "tool.rpm", |_| {});
    assert_ne!(site.snapshot(), first);
}

#[test]
fn what_is_no_package_is_named() {
    let site = site();
    std::fs::write(site.path("rpms/broken.rpm"), b"\xed\xab\xee\xdb and nothing else").expect("writable");
    let run = site.run(&["sync"]).is(1);
    assert!(run.err.contains("broken.rpm"), "{}", run.err);
}

#[test]
fn an_index_is_packed_again_only_where_it_changed_and_dnf_reads_it() {
    if !has_rpm() {
        return;
    }
    let site = site();
    many(&site, 0..200, "1.0");
    site.snapshot();
    let kept = std::fs::read(site.path("mirror/pieces/own.json")).expect("kept");
    many(&site, 77..78, "1.1");
    std::fs::remove_file(site.path("rpms/many-77-1.0-1.noarch.rpm")).expect("ours");
    let id = site.snapshot();
    let server = site.serve();
    let url = format!("{}/snap/{id}/rpm/own", server.url());
    let dnf = Dnf::new(&site, "dnf", &url, &site.text("site.asc"));
    let list = dnf.run(&["--quiet", "repoquery", "--queryformat", "%{name} %{version}"]).is(0).out;
    let mut seen: Vec<&str> = list.lines().collect();
    seen.sort_unstable();
    let version = |number| if number == 77 { "1.1" } else { "1.0" };
    let mut wanted: Vec<String> = (0..200).map(|number| format!("many-{number} {}", version(number))).collect();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
    let owner = dnf.run(&["--quiet", "repoquery", "--file", "/usr/share/many-199/20"]).is(0).out;
    assert!(owner.starts_with("many-199-"), "{owner}");
    // Without what was kept the same snapshot comes out.
    assert_ne!(std::fs::read(site.path("mirror/pieces/own.json")).expect("kept"), kept);
    for lost in [None, Some(&kept)] {
        std::fs::remove_dir_all(site.published(&id)).expect("ours");
        match lost {
            None => std::fs::remove_file(site.path("mirror/pieces/own.json")).expect("there"),
            Some(older) => std::fs::write(site.path("mirror/pieces/own.json"), older).expect("writable"),
        }
        assert_eq!(site.snapshot(), id);
    }
}

#[test]
fn elements_that_a_disk_damaged_are_read_from_the_packages_again() {
    if !has_rpm() {
        return;
    }
    let site = site();
    rpm(&site, "st-one", "1.0", "", "/opt/one");
    let id = site.snapshot();
    let state = std::fs::read_to_string(site.path("mirror/sources/own.json")).expect("there");
    let digest = state.split_once("\"elements\":\"").expect("named").1[..64].to_owned();
    let blob = site.path(&format!("mirror/cas/sha256/{}/{digest}", &digest[..2]));
    let damage = || {
        let text = std::fs::read_to_string(&blob).expect("readable");
        std::fs::remove_file(&blob).expect("ours");
        std::fs::write(&blob, text.replacen("st-one", "st-two", 1)).expect("writable");
    };
    damage();
    let run = site.run(&["snapshot"]).is(1);
    assert!(run.err.contains("st-one-1.0-1.noarch.rpm") && run.err.contains("mirror-sync sync"), "{}", run.err);
    assert_eq!(site.snapshot(), id);
    damage();
    rpm(&site, "st-more", "1.0", "", "/opt/more");
    let run = site.run(&["sync"]).is(1);
    assert!(run.err.contains("st-one-1.0-1.noarch.rpm"), "{}", run.err);
    assert_ne!(site.snapshot(), id);
    assert!(!blob.exists(), "nothing takes it for what it was");
    std::fs::remove_file(site.path("rpms/st-more-1.0-1.noarch.rpm")).expect("ours");
    assert_eq!(site.snapshot(), id);
}
