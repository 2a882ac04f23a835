//! A node of a site that follows `stable`, with its root in the site's directory `node`.

use std::path::PathBuf;

use crate::apt::Apt;
use crate::rpm;
use crate::support::{Server, Site};

/// What installs packages on a node.
enum Manager {
    Apt(Apt),
    Dnf,
}

pub(crate) struct Node {
    pub(crate) site: Site,
    pub(crate) server: Server,
    manager: Manager,
}

impl Node {
    /// Serves a site, and makes a node of it that has apt.
    pub(crate) fn with_apt(mut site: Site) -> Node {
        let apt = Apt::new(&site.path("node"));
        site.environment.push(("APT_CONFIG".into(), apt.config().to_string_lossy().into_owned()));
        Node::new(site, Manager::Apt(apt))
    }

    /// Serves a site, and makes a node of it that has dnf, and a source of its own that stays as it is.
    pub(crate) fn with_dnf(site: Site) -> Node {
        let root = site.path("node");
        for (file, text) in [
            ("etc/dnf/dnf.conf", "[main]\nplugins=0\nzchunk=0\nretries=1\ntimeout=10\n"),
            ("etc/yum.repos.d/other.repo", "[other]\nname=o\nbaseurl=http://127.0.0.1:1\nenabled=0\n"),
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("below")).expect("made");
            std::fs::write(path, text).expect("writable");
        }
        Node::new(site, Manager::Dnf)
    }

    fn new(mut site: Site, manager: Manager) -> Node {
        let server = site.serve();
        site.environment.push(("STACKTIRA_ROOT".into(), site.text("node")));
        let node = Node { site, server, manager };
        node.configure("site.gpg");
        node
    }

    /// Tells site and node in one file what they are; the node trusts `keyring`.
    pub(crate) fn configure(&self, keyring: &str) {
        let formats = match self.manager {
            Manager::Apt(_) => "",
            Manager::Dnf => ", formats: [rpm]",
        };
        self.site.write_config_with(&format!(
            "limits: {{retries: 0, stall: 5s}}\nnode: {{mirror: '{}', channel: stable, keyring: {}{formats}}}\n",
            self.server.url(),
            self.site.text(keyring),
        ));
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.site.path("node").join(relative)
    }

    #[track_caller]
    pub(crate) fn promote(&self, id: &str) {
        self.site.run(&["promote", id, "--channel", "stable"]).is(0);
    }

    /// Runs `apply` in order to have this version of a package.
    #[track_caller]
    pub(crate) fn apply_and_get(&self, name: &str, version: &str) {
        self.site.run(&["apply"]).is(0);
        assert_eq!(self.candidate(name), version, "{name}");
    }

    /// The sources that `apply` has written.
    pub(crate) fn sources(&self) -> Option<String> {
        std::fs::read_to_string(self.path(match self.manager {
            Manager::Apt(_) => "etc/apt/sources.list.d/stacktira.sources",
            Manager::Dnf => "etc/yum.repos.d/stacktira.repo",
        }))
        .ok()
    }

    /// How many keys of dnf's there are.
    pub(crate) fn keys(&self) -> usize {
        std::fs::read_dir(self.path("etc/pki/rpm-gpg")).map_or(0, Iterator::count)
    }

    pub(crate) fn apt(&self) -> &Apt {
        match &self.manager {
            Manager::Apt(apt) => apt,
            Manager::Dnf => panic!("a node with dnf has no apt"),
        }
    }

    /// The version of a package that would be installed, by the metadata that `apply` fetched.
    #[track_caller]
    pub(crate) fn candidate(&self, name: &str) -> String {
        match &self.manager {
            Manager::Apt(apt) => apt.candidate(name).expect("there is one"),
            Manager::Dnf => {
                let root = format!("--installroot={}", self.site.text("node"));
                let query = ["repoquery", "--latest-limit=1", "--qf", "%{version}", name];
                let arguments = [&[root.as_str(), "--releasever=9", "-q", "-y", "-C"][..], &query].concat();
                rpm::run("dnf", &arguments, &self.site.path("node")).is(0).out.trim().to_owned()
            }
        }
    }
}
