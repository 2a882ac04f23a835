//! dnf itself against the server, in a root of its own.

use std::path::{Path, PathBuf};

use crate::rpm::{has_rpm, rpm, run, site};
use crate::support::{Altered, Harm, Run, Site, tree};

/// A root for dnf that has nothing of the host's configuration in it.
pub(crate) struct Dnf {
    root: PathBuf,
}

impl Dnf {
    pub(crate) fn new(site: &Site, name: &str, url: &str, key: &str) -> Dnf {
        let root = site.path(name);
        for directory in ["repos", "cache", "persist", "log", "vars", "plugins", "root"] {
            std::fs::create_dir_all(root.join(directory)).expect("made");
        }
        let r = root.display();
        std::fs::write(
            root.join("dnf.conf"),
            format!(
                "[main]\nreposdir={r}/repos\ncachedir={r}/cache\npersistdir={r}/persist\nlogdir={r}/log\nvarsdir={r}/vars\n\
                 pluginconfpath={r}/plugins\nplugins=0\nretries=1\ntimeout=10\nzchunk=0\n"
            ),
        )
        .expect("writable");
        let dnf = Dnf { root };
        dnf.source(url, key, "gpgcheck=0");
        dnf
    }

    /// Points it at a repository.
    pub(crate) fn source(&self, url: &str, key: &str, more: &str) {
        let text = format!("[site]\nname=site\nbaseurl={url}\nrepo_gpgcheck=1\ngpgkey=file://{key}\n{more}\n");
        std::fs::write(self.root.join("repos/site.repo"), text).expect("writable");
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let conf = self.root.join("dnf.conf").to_string_lossy().into_owned();
        let install = format!("--installroot={}", self.root.join("root").display());
        let mut all = vec!["-c", &conf, &install, "--releasever=9", "--forcearch=x86_64", "-y", "-q"];
        all.extend(["--setopt=install_weak_deps=0", "--setopt=tsflags=nodocs"]);
        all.extend(arguments);
        run("dnf", &all, &self.root)
    }

    /// Fetches the metadata again, whatever is in the cache.
    pub(crate) fn refresh(&self) -> Run {
        self.run(&["makecache", "--refresh"])
    }

    /// The version of a package that would be installed, by the metadata that was fetched.
    pub(crate) fn candidate(&self, name: &str) -> String {
        let found = self.run(&["-C", "repoquery", "--latest-limit=1", "--qf", "%{version}", name]);
        found.is(0).out.trim().to_owned()
    }

    pub(crate) fn rpm(&self, arguments: &[&str]) -> Run {
        let root = self.root.join("root").to_string_lossy().into_owned();
        let mut all = vec!["--root", &root];
        all.extend(arguments);
        run("rpm", &all, &self.root)
    }

    /// Names and versions of what is installed.
    pub(crate) fn installed(&self) -> Vec<String> {
        let out = self.rpm(&["-qa", "--qf", "%{name}-%{version}-%{release}\\n"]).is(0).out;
        let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Forgets every package that was fetched.
    fn forget(&self) {
        self.run(&["clean", "all"]).is(0);
    }
}

impl Drop for Dnf {
    fn drop(&mut self) {
        // dnf leaves an agent for each key directory; it ends when its directory is gone.
        let _ = std::fs::remove_dir_all(self.root.join("cache"));
    }
}

fn file_of(repository: &Path, part: &str) -> PathBuf {
    let directory = std::fs::read_dir(repository.join("repodata")).expect("there");
    let found =
        directory.map(|entry| entry.expect("readable").path()).find(|path| path.to_string_lossy().contains(part));
    found.unwrap_or_else(|| panic!("no {part}"))
}

#[test]
fn dnf_follows_snapshots_both_ways() {
    if !has_rpm() {
        return;
    }
    let site = site();
    rpm(&site, "st-app", "1.0", "Requires: st-lib", "/usr/bin/st-app");
    rpm(&site, "st-lib", "1.0", "", "/etc/st-lib.conf");
    let first = site.snapshot();
    rpm(&site, "st-lib", "2.0", "", "/etc/st-lib.conf");
    let second = site.snapshot();
    let server = site.serve();
    let key = site.text("site.asc");
    let url = |id: &str| format!("{}/snap/{id}/rpm/own", server.url());
    let dnf = Dnf::new(&site, "dnf", &url(&first), &key);
    dnf.run(&["install", "st-app"]).is(0);
    assert_eq!(dnf.installed(), ["st-app-1.0-1", "st-lib-1.0-1"]);
    for (id, version) in [(&second, "2.0"), (&first, "1.0"), (&second, "2.0"), (&first, "1.0")] {
        dnf.source(&url(id), &key, "gpgcheck=0");
        // A new address is fetched anew, whatever is in the cache.
        dnf.refresh().is(0);
        assert_eq!(dnf.candidate("st-lib"), version);
        dnf.run(&["distro-sync"]).is(0);
        assert_eq!(dnf.installed(), ["st-app-1.0-1".to_owned(), format!("st-lib-{version}-1")]);
        dnf.run(&["check"]).is(0);
    }
}

#[test]
fn dnf_refuses_another_key_and_broken_content() {
    if !has_rpm() {
        return;
    }
    let site = site();
    rpm(&site, "st-a", "1.0", "", "/usr/share/st-a/data");
    let id = site.snapshot();
    let own = site.published(&id).join("rpm/own");
    let server = site.serve();
    let key = site.text("site.asc");
    let url = format!("{}/snap/{id}/rpm/own", server.url());
    site.run(&["keygen", "--out", &site.text("no.sec.asc"), "--public", &site.text("no.asc")]).is(0);
    let dnf = Dnf::new(&site, "dnf", &url, &site.text("no.asc"));
    let refused = |what: &str, words: &str, dnf: &Dnf, arguments: &[&str]| {
        let run = dnf.run(arguments);
        assert_eq!(run.code, 1, "{what}: {}{}", run.out, run.err);
        assert!(run.err.contains(words), "{what}: {}", run.err);
        assert!(dnf.installed().is_empty(), "{what}");
        dnf.forget();
    };
    let refresh = ["makecache", "--refresh"];
    let install = ["install", "st-a"];
    refused("another key", "GPG", &dnf, &refresh);
    dnf.source(&format!("{}/snap/{}/rpm/own", server.url(), "0".repeat(64)), &key, "gpgcheck=0");
    refused("no such snapshot", "repomd.xml", &dnf, &refresh);
    dnf.source(&url, &key, "gpgcheck=1");
    refused("a package without a signature", "is not signed", &dnf, &install);

    dnf.source(&url, &key, "gpgcheck=0");
    {
        let _altered = Altered::new(own.join("repodata/repomd.xml"), Harm::Flipped);
        refused("repomd.xml", "GPG", &dnf, &refresh);
    }
    {
        let _altered = Altered::new(own.join("repodata/repomd.xml.asc"), Harm::Missing);
        refused("no signature", "repomd.xml", &dnf, &refresh);
    }
    {
        let _altered = Altered::new(file_of(&own, "primary"), Harm::Flipped);
        refused("primary", "-primary.xml", &dnf, &refresh);
    }
    {
        let _altered = Altered::new(file_of(&own, "primary"), Harm::Missing);
        refused("no primary", "-primary.xml", &dnf, &refresh);
    }
    let package =
        own.join(tree(&own).into_iter().map(|(path, _)| path).find(|path| path.ends_with(".rpm")).expect("one"));
    for harm in [Harm::Flipped, Harm::Cut, Harm::Missing] {
        let _altered = Altered::new(package.clone(), harm);
        refused(&format!("{harm:?}"), "st-a", &dnf, &install);
    }
    // Whatever was refused leaves nothing that stays in the way.
    dnf.run(&install).is(0);
    assert_eq!(dnf.installed(), ["st-a-1.0-1"]);
}
