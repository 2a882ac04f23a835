//! Repositories of deb packages, made of nothing but bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use test_support::upstream::Upstream;

use crate::signing::{gzip, sha256, sign};
use crate::support::Site;

/// A repository that an upstream signs; files are written by `publish`.
pub(crate) struct Repo<'a> {
    site: &'a Site,
    directory: PathBuf,
    /// Stanzas without what follows from the content, and contents, by file name.
    packages: BTreeMap<String, (String, Vec<u8>)>,
    pub(crate) key: &'static str,
    pub(crate) by_hash: bool,
    pub(crate) inline: bool,
    pub(crate) date: &'static str,
    /// Further lines of `Release`.
    pub(crate) more: String,
    /// Further lines of `Packages`, as they are.
    pub(crate) raw: String,
}

const OLD: &str = "Tue, 29 Feb 2000 00:00:00 UTC";
pub(crate) const NEW: &str = "Wed, 01 Mar 2000 00:00:00 UTC";

impl<'a> Repo<'a> {
    pub(crate) fn new(site: &'a Site, name: &str) -> Repo<'a> {
        site.run(&["keygen", "--out", &site.text("up.sec.asc"), "--public", &site.text("up.gpg")]).is(0);
        let directory = site.path(name);
        std::fs::create_dir_all(&directory).expect("made");
        Repo {
            site,
            directory,
            packages: BTreeMap::new(),
            key: "up.sec.asc",
            by_hash: false,
            inline: true,
            date: OLD,
            more: String::new(),
            raw: String::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, version: &str, fields: &str) {
        let stanza = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: U <u@example.org>\n{fields}"
        );
        let content = format!("{name} {version} ").repeat(3000).into_bytes();
        self.packages.insert(format!("pool/{name}_{version}.deb"), (stanza, content));
    }

    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.directory.join(path);
        std::fs::create_dir_all(path.parent().expect("below the repository")).expect("made");
        std::fs::write(path, content).expect("writable");
    }

    /// Writes packages, the index and the signed root.
    pub(crate) fn publish(&self) {
        let mut index = String::new();
        for (path, (stanza, content)) in &self.packages {
            self.write(path, content);
            let _ = writeln!(
                index,
                "{}\nFilename: {path}\nSize: {}\nSHA256: {}\nDescription: test\n",
                stanza.trim_end(),
                content.len(),
                sha256(content)
            );
        }
        index.push_str(&self.raw);
        self.publish_index(index.as_bytes(), &gzip(index.as_bytes()));
    }

    pub(crate) fn publish_index(&self, plain: &[u8], packed: &[u8]) {
        let base = "main/binary-amd64";
        let mut release = format!(
            "Origin: Upstream\nLabel: Up\nSuite: stable\nCodename: bookworm\nDate: {}\n{}{}SHA256:\n",
            self.date,
            self.more,
            if self.by_hash { "Acquire-By-Hash: yes\n" } else { "" }
        );
        for (name, content, there) in [("Packages", plain, false), ("Packages.gz", packed, true)] {
            let _ = writeln!(release, " {} {} {base}/{name}", sha256(content), content.len());
            if there {
                self.write(&format!("dists/bookworm/{base}/{name}"), content);
                self.write(&format!("dists/bookworm/{base}/by-hash/SHA256/{}", sha256(content)), content);
            }
        }
        if self.inline {
            self.write("dists/bookworm/InRelease", &sign(self.site, self.key, &release, false));
        } else {
            self.write("dists/bookworm/Release", release.as_bytes());
            self.write("dists/bookworm/Release.gpg", &sign(self.site, self.key, &release, true));
        }
    }

    pub(crate) fn serve(&self) -> Upstream {
        Upstream::serve(&self.directory)
    }
}

/// Configures the upstream as source `up`; `more` are further keys of the source.
pub(crate) fn configure(site: &mut Site, url: &str, more: &str) {
    configure_with(site, url, more, 0);
}

/// Does the same; failed requests are tried again so many times.
pub(crate) fn configure_with(site: &mut Site, url: &str, more: &str, retries: u32) {
    site.extra = format!(
        "- {{name: up, type: deb, url: '{url}', suites: [bookworm], components: [main], architectures: [amd64], \
         keyring: {}{more}}}\n",
        site.text("up.gpg")
    );
    site.write_config_with(&format!("limits: {{retries: {retries}, stall: 1s, total: 3s, connect: 2s}}\n"));
}
