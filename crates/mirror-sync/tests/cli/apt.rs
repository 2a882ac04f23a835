//! apt itself against the server, in a root of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Altered, Harm, Run, Server, Site, has, tree};

pub(crate) fn usable() -> bool {
    has("apt-get") && has("dpkg-deb") && has("gpgv")
}

/// A root for apt that has nothing of the host's configuration in it.
pub(crate) struct Apt {
    root: PathBuf,
}

impl Apt {
    pub(crate) fn new(root: &Path) -> Apt {
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
            std::fs::create_dir_all(root.join(directory)).expect("made");
        }
        std::fs::write(root.join("var/lib/dpkg/status"), "").expect("writable");
        let r = root.display();
        // `-o Dir=…` would be read after the host's own apt.conf.d.
        let conf = format!(
            "Dir \"{r}\";\nDir::Etc \"{r}/etc/apt\";\nDir::State \"{r}/var/lib/apt\";\n\
             Dir::State::status \"{r}/var/lib/dpkg/status\";\nDir::Cache \"{r}/var/cache/apt\";\nDir::Log \"{r}/var/log/apt\";\n\
             Dir::Bin::dpkg \"/usr/bin/dpkg\";\nDPkg::Options {{\"--root={r}\";\"--force-script-chrootless\";}};\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{\"amd64\";}};\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"0\";\nAcquire::Check-Valid-Until \"true\";\n"
        );
        std::fs::write(root.join("apt.conf"), conf).expect("writable");
        Apt { root: root.to_owned() }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("apt.conf")
    }

    pub(crate) fn source(&self, server: &Server, id: &str, keyring: &Path) {
        let line = format!(
            "deb [arch=amd64 signed-by={}] {}/snap/{id}/deb/debian bookworm main\n",
            keyring.display(),
            server.url()
        );
        std::fs::write(self.root.join("etc/apt/sources.list"), line).expect("writable");
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let output = Command::new("apt-get")
            .arg("-q")
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("a PATH"))
            .env("LC_ALL", "C")
            .env("APT_CONFIG", self.config())
            .output()
            .expect("runs");
        Run::from(output)
    }

    pub(crate) fn update(&self) -> Run {
        self.run(&["update", "--error-on=any"])
    }

    /// The version of a package that would be installed, by the lists that were fetched; else what apt says.
    pub(crate) fn candidate(&self, name: &str) -> Result<String, String> {
        let simulated = self.run(&["install", "-s", name]);
        let begin = format!("Inst {name} (");
        match simulated.out.split_once(&begin).and_then(|(_, rest)| rest.split(' ').next()) {
            Some(version) if simulated.code == 0 => Ok(version.to_owned()),
            _ => Err(simulated.out + &simulated.err),
        }
    }

    /// Names and versions of what is installed.
    fn installed(&self) -> Vec<String> {
        let output = Command::new("dpkg-query")
            .arg(format!("--admindir={}", self.root.join("var/lib/dpkg").display()))
            .args(["-W", "-f", "${db:Status-Abbrev}${Package} ${Version}\n"])
            .output();
        let out = Run::from(output.expect("runs")).is(0).out;
        let mut names: Vec<String> =
            out.lines().filter_map(|line| line.strip_prefix("ii ")).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Forgets the lists and the packages that were fetched.
    fn forget(&self) {
        for directory in ["var/lib/apt/lists", "var/cache/apt"] {
            std::fs::remove_dir_all(self.root.join(directory)).expect("ours");
        }
        for directory in ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial"] {
            std::fs::create_dir_all(self.root.join(directory)).expect("made");
        }
    }

    fn archives(&self) -> usize {
        let directory = std::fs::read_dir(self.root.join("var/cache/apt/archives")).expect("there");
        directory.filter(|entry| entry.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|x| x == "deb"))).count()
    }
}

#[test]
fn apt_installs_from_a_snapshot_and_follows_it_both_ways() {
    if !usable() {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "st-b (>= 1)");
    site.deb("st-b", "1:2.0-1", "libst");
    site.deb("libst", "0.1~rc1", "");
    for number in 0..30 {
        site.deb(&format!("st-n{number}"), "1", "");
    }
    let first = site.snapshot();
    site.deb("st-a", "3.0", "");
    let second = site.snapshot();
    let server = site.serve();
    let apt = Apt::new(&site.path("apt"));
    apt.source(&server, &first, &site.path("site.gpg"));
    apt.update().is(0);
    apt.run(&["install", "-d", "-y", "--no-install-recommends", "st-a"]).is(0);
    assert_eq!(apt.archives(), 3);
    // Many small files: apt pipelines them on one connection.
    let all: Vec<String> = (0..30).map(|number| format!("st-n{number}")).collect();
    let mut arguments = vec!["install", "-d", "-y"];
    arguments.extend(all.iter().map(String::as_str));
    apt.run(&arguments).is(0);
    assert_eq!(apt.archives(), 33);
    assert_eq!(apt.candidate("st-a").as_deref(), Ok("1.0"));
    apt.source(&server, &second, &site.path("site.gpg"));
    apt.update().is(0);
    assert_eq!(apt.candidate("st-a").as_deref(), Ok("3.0"));
    apt.source(&server, &first, &site.path("site.gpg"));
    apt.update().is(0);
    assert_eq!(apt.candidate("st-a").as_deref(), Ok("1.0"), "back at the older snapshot");
}

#[test]
fn apt_installs_the_closure_and_goes_back_with_what_is_installed() {
    if !usable() {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "st-b (>= 1) | st-z, st-c");
    site.deb("st-b", "1:2.0-1", "libst");
    site.deb("st-c", "1", "virtual");
    site.deb("libst", "0.1~rc1", "");
    let tree = site.path("tree/st-v");
    std::fs::create_dir_all(tree.join("DEBIAN")).expect("made");
    std::fs::write(
        tree.join("DEBIAN/control"),
        "Package: st-v\nVersion: 1\nArchitecture: amd64\nMaintainer: Site <site@example.org>\nProvides: virtual\nDescription: v\n",
    )
    .expect("writable");
    let made = Command::new("dpkg-deb").arg("-b").arg(&tree).arg(site.path("debs/st-v_1_amd64.deb")).output();
    Run::from(made.expect("runs")).is(0);
    site.deb("st-other", "1", "");
    let first = site.snapshot();
    site.deb("st-a", "2.0", "st-b");
    site.deb("libst", "0.1", "");
    let second = site.snapshot();
    let server = site.serve();
    let apt = Apt::new(&site.path("apt"));
    let key = site.path("site.gpg");
    apt.source(&server, &first, &key);
    apt.update().is(0);
    apt.run(&["install", "-y", "--no-install-recommends", "st-a"]).is(0);
    let of_first = ["libst 0.1~rc1", "st-a 1.0", "st-b 1:2.0-1", "st-c 1", "st-v 1"];
    assert_eq!(apt.installed(), of_first);
    apt.run(&["check"]).is(0);
    let preferences = "Package: *\nPin: release o=*\nPin-Priority: 1001\n";
    std::fs::write(site.path("apt/etc/apt/preferences.d/site"), preferences).expect("writable");
    let of_second = ["libst 0.1", "st-a 2.0", "st-b 1:2.0-1", "st-c 1", "st-v 1"];
    for (id, installed) in [(&second, of_second), (&first, of_first), (&second, of_second), (&first, of_first)] {
        apt.source(&server, id, &key);
        apt.update().is(0);
        apt.run(&["dist-upgrade", "-y", "--allow-downgrades"]).is(0);
        assert_eq!(apt.installed(), installed);
        apt.run(&["check"]).is(0);
    }
}

#[test]
fn apt_refuses_another_key_and_broken_content() {
    if !usable() {
        return;
    }
    let site = Site::new();
    site.deb("st-a", "1.0", "");
    let id = site.snapshot();
    let server = site.serve();
    let other = site.path("other.gpg");
    site.run(&["keygen", "--out", &site.text("other.sec.asc"), "--public", &site.text("other.gpg")]).is(0);
    let apt = Apt::new(&site.path("apt"));
    apt.source(&server, &id, &other);
    apt.update().is(100);
    apt.source(&server, &"0".repeat(64), &site.path("site.gpg"));
    apt.update().is(100);
    apt.source(&server, &id, &site.path("site.gpg"));
    apt.update().is(0);
    site.run(&["keygen", "--out", &site.text("site.sec.asc"), "--public", &site.text("site.asc")]).is(0);
    apt.source(&server, &id, &site.path("site.asc"));
    apt.update().is(0);

    let dists = site.published(&id).join("deb/debian/dists/bookworm");
    let index = std::fs::read_dir(dists.join("main/binary-amd64")).expect("there");
    let mut indices: Vec<_> =
        index.map(|entry| entry.expect("readable").path()).filter(|path| path.is_file()).collect();
    let by_hash: Vec<String> =
        tree(&dists).into_iter().map(|(path, _)| path).filter(|path| path.contains("/by-hash/")).collect();
    indices.extend(by_hash.iter().map(|path| dists.join(path)));
    for harm in [Harm::Flipped, Harm::Cut, Harm::Missing] {
        apt.forget();
        let altered = Altered::new(dists.join("InRelease"), harm);
        // Without InRelease apt takes Release and Release.gpg, which are as good.
        let code = if altered.path.exists() { 100 } else { 0 };
        apt.update().is(code);
        drop(altered);
        apt.forget();
        let altered: Vec<Altered> = indices.iter().map(|index| Altered::new(index.clone(), harm)).collect();
        let run = apt.update().is(100);
        assert!(run.err.contains("dists/bookworm/main/binary-amd64/"), "{}", run.err);
        drop(altered);
        apt.forget();
        apt.update().is(0);
        let package = site.published(&id).join("deb/debian/pool/main/s/st-a/st-a_1.0_amd64.deb");
        let _altered = Altered::new(package, harm);
        apt.run(&["install", "-y", "st-a"]).is(100);
        assert!(apt.installed().is_empty() && apt.archives() == 0);
    }
    apt.run(&["install", "-y", "st-a"]).is(0);
    assert_eq!(apt.installed(), ["st-a 1.0"]);
}

#[test]
fn a_small_file_that_was_fetched_in_part_is_resumed() {
    if !usable() {
        return;
    }
    let site = Site::new();
    site.deb_of("st-a", "1.0", "", &"x1y2z3".repeat(1000));
    let id = site.snapshot();
    let server = site.serve();
    let apt = Apt::new(&site.path("apt"));
    apt.source(&server, &id, &site.path("site.gpg"));
    apt.update().is(0);
    let package = site.published(&id).join("deb/debian/pool/main/s/st-a/st-a_1.0_amd64.deb");
    let content = std::fs::read(&package).expect("there");
    std::fs::write(site.path("apt/var/cache/apt/archives/partial/st-a_1.0_amd64.deb"), &content[..200])
        .expect("writable");
    apt.run(&["install", "-d", "-y", "st-a"]).is(0);
    assert_eq!(apt.archives(), 1);
}
