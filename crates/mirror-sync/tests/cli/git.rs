//! git repositories: mirrored, pinned, served to the git program and to libgit2.

use std::path::Path;
use std::process::Command;

use crate::signing::sha256;
use crate::support::{Altered, Harm, Server, Site, git};

/// A bare upstream of `team/mod` with two commits and a tag, and a working tree to add more.
fn upstream(site: &Site) -> String {
    let work = site.path("work");
    std::fs::create_dir_all(&work).expect("made");
    git(&work, &["init", "--quiet"]);
    git(&work, &["commit", "--quiet", "--allow-empty", "-m", "one"]);
    std::fs::write(work.join("file"), "two").expect("writable");
    git(&work, &["add", "file"]);
    git(&work, &["commit", "--quiet", "-m", "two"]);
    git(&work, &["tag", "-a", "v1", "-m", "v1"]);
    let bare = site.path("upstream/git.example_8443/team");
    std::fs::create_dir_all(&bare).expect("made");
    git(&bare, &["clone", "--quiet", "--bare", work.to_str().expect("UTF-8"), "mod.git"]);
    git(&work, &["rev-parse", "HEAD"])
}

pub(crate) fn push(site: &Site, message: &str) -> String {
    let work = site.path("work");
    git(&work, &["commit", "--quiet", "--amend", "--allow-empty", "-m", message]);
    let bare = site.text("upstream/git.example_8443/team/mod.git");
    git(&work, &["push", "--quiet", "--force", &bare, "HEAD:refs/heads/main"]);
    git(&work, &["rev-parse", "HEAD"])
}

pub(crate) fn site() -> (Site, String) {
    let mut site = Site::new();
    let head = upstream(&site);
    site.with_git(&[
        ("mod", "https://git.example:8443/team/mod.git"),
        ("again", "ssh://git@git.example:8443/team/mod"),
    ]);
    (site, head)
}

pub(crate) const PATH: &str = "git.example_8443/team/mod.git";

#[test]
fn snapshots_pin_commits_that_upstream_throws_away() {
    let (site, old) = site();
    let first = site.snapshot();
    assert_eq!(site.snapshot(), first);
    let new = push(&site, "rewritten");
    assert_ne!(old, new);
    let second = site.snapshot();
    assert_ne!(first, second);
    let mirror = site.path("mirror/git").join(PATH);
    assert_eq!(git(&mirror, &["rev-parse", "refs/heads/main"]), new);
    assert_eq!(git(&mirror, &["rev-parse", &format!("refs/stacktira/snap/{first}/heads/main")]), old);
    git(&mirror, &["-c", "gc.pruneExpire=now", "gc", "--quiet", "--prune=now"]);
    git(&mirror, &["cat-file", "-e", &old]);
    site.run(&["verify"]).is(0);
    let changes = site.run(&["diff", &first, &second]).is(1).out;
    assert!(changes.contains(&old) && changes.contains(&new) && changes.contains("refs/heads/main"), "{changes}");
    git(&mirror, &["update-ref", "-d", &format!("refs/stacktira/snap/{first}/heads/main")]);
    assert!(site.run(&["verify"]).is(1).out.contains("refs/heads/main"));
    site.run(&["verify", "--repair"]).is(0);
    assert_eq!(git(&mirror, &["rev-parse", &format!("refs/stacktira/snap/{first}/heads/main")]), old);
}

#[test]
fn a_damaged_repository_is_fetched_again_with_what_only_snapshots_have() {
    let (site, old) = site();
    let first = site.snapshot();
    let new = push(&site, "rewritten");
    site.snapshot();
    let mirror = site.path("mirror/git").join(PATH);
    git(&mirror, &["-c", "pack.writeBitmaps=false", "repack", "-a", "-d", "-q"]);
    // The newest commit is damaged: loose and broken, it goes before the packs.
    let (head, tail) = new.split_at(2);
    std::fs::create_dir_all(mirror.join("objects").join(head)).expect("made");
    std::fs::write(mirror.join("objects").join(head).join(tail), "broken").expect("writable");
    let packs: Vec<_> = std::fs::read_dir(mirror.join("objects/pack")).expect("there").collect();
    assert!(!packs.is_empty());
    site.run(&["verify", "--repair"]).is(0);
    site.run(&["verify"]).is(0);
    assert_eq!(git(&mirror, &["rev-parse", &format!("refs/stacktira/snap/{first}/heads/main")]), old);
    assert_eq!(git(&mirror, &["rev-parse", "refs/heads/main"]), new);
    git(&mirror, &["fsck", "--full"]);

    // Nothing of it is left, and upstream has thrown the old commit away: named, and what can be is there again.
    std::fs::remove_dir_all(&mirror).expect("ours");
    let bare = site.path("upstream/git.example_8443/team/mod.git");
    git(&bare, &["tag", "-d", "v1"]);
    git(&bare, &["gc", "--quiet", "--prune=now"]);
    let refused = site.run(&["verify", "--repair"]).is(1);
    assert!(refused.out.contains(&first), "{}", refused.out);
    assert_eq!(git(&mirror, &["rev-parse", "refs/heads/main"]), new);
}

#[test]
fn locks_that_a_killed_git_left_do_not_stop_the_next_sync() {
    let (site, _) = site();
    site.snapshot();
    let new = push(&site, "next");
    let mirror = site.path("mirror/git").join(PATH);
    for lock in ["HEAD.lock", "packed-refs.lock", "refs/heads/main.lock", "refs/stacktira/x.lock"] {
        std::fs::write(mirror.join(lock), "").expect("writable");
    }
    site.snapshot();
    assert_eq!(git(&mirror, &["rev-parse", "refs/heads/main"]), new);
    site.run(&["verify"]).is(0);
}

#[test]
fn while_an_orphaned_git_writes_the_mirror_is_busy() {
    use std::os::unix::fs::PermissionsExt;
    let (mut site, _) = site();
    site.run(&["sync"]).is(0);
    push(&site, "next");
    // A git that takes its time over a fetch and outlives its parent.
    let real = std::env::split_paths(&std::env::var_os("PATH").expect("a PATH"))
        .map(|directory| directory.join("git"))
        .find(|path| path.is_file())
        .expect("git is there");
    let bin = site.path("bin");
    std::fs::create_dir(&bin).expect("made");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" fetch \"*) : >{0}/begun; while [ ! -e {0}/go ]; do sleep 0.05; done ;; esac\nexec {1} \"$@\"\n",
        site.dir.path().display(),
        real.display()
    );
    std::fs::write(bin.join("git"), script).expect("writable");
    std::fs::set_permissions(bin.join("git"), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    site.environment.push(("PATH".into(), path));
    let mut child = site.command(&["sync"]).spawn().expect("runs");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let until = |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(std::time::Instant::now() < deadline, "in time");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    until(&|| site.path("begun").exists());
    child.kill().expect("ours");
    child.wait().expect("ours");
    site.run(&["snapshot"]).is(75);
    std::fs::write(site.path("go"), "").expect("writable");
    until(&|| site.run(&["sync"]).code == 0);
}

#[test]
fn an_upstream_that_is_away_or_a_bad_manifest_is_told() {
    let (site, _) = site();
    let first = site.snapshot();
    std::fs::rename(site.path("upstream"), site.path("gone")).expect("ours");
    let away = site.run(&["sync"]).is(69).err;
    assert!(away.contains(PATH), "{away}");
    assert_eq!(site.run(&["snapshot"]).is(0).out.trim(), first);
    std::fs::write(site.path("repos.yaml"), "mod: [1]\n").expect("writable");
    let told = site.run(&["sync"]).is(65).err;
    assert_eq!(told.matches("repos.yaml").count(), 1, "{told}");
    std::fs::write(site.path("repos.yaml"), "dest: /x\nmod: {source: 'ext::sh -c id'}\n").expect("writable");
    let told = site.run(&["sync"]).is(65).err;
    assert!(told.matches("repos.yaml").count() == 1 && told.contains("mod: a source with '::'"), "{told}");
}

#[test]
fn the_git_program_clones_fetches_and_goes_shallow() {
    let (site, old) = site();
    let first = site.snapshot();
    let new = push(&site, "rewritten");
    site.snapshot();
    let server = site.serve();
    let url = format!("{}/git/{PATH}", server.url());
    for version in ["0", "1", "2"] {
        let target = format!("clone{version}");
        let protocol = format!("protocol.version={version}");
        git(site.dir.path(), &["-c", &protocol, "clone", "--quiet", &url, &target]);
        assert_eq!(git(&site.path(&target), &["rev-parse", "HEAD"]), new);
    }
    let clone = site.path("clone2");
    git(&clone, &["fetch", "--quiet", "origin", &format!("refs/stacktira/snap/{first}/heads/main")]);
    assert_eq!(git(&clone, &["rev-parse", "FETCH_HEAD"]), old);
    git(site.dir.path(), &["clone", "--quiet", "--depth", "1", &url, "shallow"]);
    assert_eq!(git(&site.path("shallow"), &["rev-list", "--count", "HEAD"]), "1");
    git(site.dir.path(), &["init", "--quiet", "exact"]);
    git(&site.path("exact"), &["fetch", "--quiet", "--depth", "1", &url, &old]);
    assert_eq!(git(&site.path("exact"), &["rev-parse", "FETCH_HEAD"]), old);

    let work = site.text("work");
    let refused = Command::new("git").args(["-C", &work, "push", "--quiet", &url, "HEAD:refs/heads/evil"]).output();
    assert!(!refused.expect("runs").status.success());
}

#[test]
fn one_conditional_request_tells_whether_any_repository_is_new() {
    let (site, old) = site();
    site.run(&["sync"]).is(0);
    let server = site.serve();
    let url = format!("{}/git/refs.index", server.url());
    let mut answer = ureq::get(&url).call().expect("served");
    let etag = answer.headers()["etag"].clone();
    let text = answer.body_mut().read_to_string().expect("text");
    let index = cloner::refsindex::Index::parse(text).expect("whole");
    let refs = index.find(PATH).expect("valid").expect("there");
    assert_eq!(refs.head.as_deref(), Some("refs/heads/main"));
    assert_eq!(refs.refs["refs/heads/main"], (old.clone(), None));
    assert_eq!(refs.refs["refs/tags/v1"].1.as_deref(), Some(old.as_str()), "the commit behind the tag");
    site.run(&["sync"]).is(0);
    let again = ureq::get(&url).header("If-None-Match", &etag).call().expect("served");
    assert_eq!(again.status().as_u16(), 304);
    let new = push(&site, "next");
    site.run(&["sync"]).is(0);
    let mut changed = ureq::get(&url).header("If-None-Match", &etag).call().expect("served");
    assert!(changed.body_mut().read_to_string().expect("text").contains(&new));
}

/// Runs cloner with the mirror, in a place of its own; its exit code.
fn cloner(site: &Site, server: &Server, place: &str) -> u8 {
    let mirror = format!("{}/git", server.url());
    let (root, manifest) = (site.text(place), site.text("cloner.yaml"));
    std::fs::write(&manifest, "mod:\n  source: https://git.example:8443/team/mod.git\n  dest: modules/mod\n")
        .expect("writable");
    let words = ["cloner", "--mode", "export", "--root", &root, "--mirror", &mirror, &manifest];
    let cli = <cloner::cli::Cli as clap::Parser>::try_parse_from(words).expect("parses");
    let mut io = toolkit::Io::stdio("cloner", toolkit::io::Level::Quiet);
    cloner::run(&cli, &mut io).unwrap_or(255)
}

#[test]
fn a_commit_and_all_of_a_repository_are_files() {
    let (site, old) = site();
    site.run(&["sync"]).is(0);
    let server = site.serve();
    let bundle = site.path("mirror/git/git.example_8443/team/mod.bundle");
    let made = std::fs::metadata(&bundle).expect("there").modified().expect("a time");
    site.run(&["sync"]).is(0);
    assert_eq!(std::fs::metadata(&bundle).expect("there").modified().expect("a time"), made, "made once");
    let fetched = |path: &str| {
        let body = ureq::get(format!("{}/git/{path}", server.url())).call().expect("served").into_body();
        body.into_with_config().limit(1 << 20).read_to_vec().expect("whole")
    };
    std::fs::write(site.path("got.bundle"), fetched("git.example_8443/team/mod.bundle")).expect("writable");
    git(site.dir.path(), &["clone", "--quiet", "got.bundle", "from-bundle"]);
    assert_eq!(git(&site.path("from-bundle"), &["rev-parse", "HEAD"]), old);
    assert_eq!(git(&site.path("from-bundle"), &["rev-parse", "v1^{commit}"]), old);

    let index = || {
        let text = String::from_utf8(fetched("refs.index")).expect("text");
        cloner::refsindex::Index::parse(text).expect("whole").find(PATH).expect("valid").expect("there")
    };
    let pack = index().packs[&old].clone();
    let content = fetched(&cloner::refsindex::pack_path(&pack.digest));
    assert_eq!((sha256(&content), content.len() as u64), (pack.digest.clone(), pack.bytes));
    std::fs::write(site.path("got.pack"), &content).expect("writable");
    git(site.dir.path(), &["init", "--quiet", "--bare", "alone"]);
    git(&site.path("alone"), &["index-pack", &site.text("got.pack")]);
    let listed = git(site.dir.path(), &["verify-pack", "-v", &site.text("got.idx")]);
    assert_eq!(listed.lines().filter(|line| line.contains(" commit ")).count(), 1, "no parents: {listed}");

    // The index and the pack are all that cloner needs: the repository itself is not there to be asked.
    let aside = site.path("aside.git");
    std::fs::rename(site.path("mirror/git").join(PATH), &aside).expect("ours");
    assert_eq!(cloner(&site, &server, "placed"), 0);
    assert_eq!(std::fs::read_to_string(site.path("placed/modules/mod/file")).expect("placed"), "two");
    std::fs::rename(&aside, site.path("mirror/git").join(PATH)).expect("ours");

    // A pack that lies is refused, the repository is asked, and `verify` says so.
    let file = site.path("mirror/git").join(cloner::refsindex::pack_path(&pack.digest));
    {
        let _altered = Altered::new(file.clone(), Harm::Flipped);
        assert_eq!(cloner(&site, &server, "placed-too"), 0);
        assert_eq!(std::fs::read_to_string(site.path("placed-too/modules/mod/file")).expect("placed"), "two");
        assert!(site.run(&["verify"]).is(1).out.contains(&pack.digest));
        site.run(&["verify", "--repair"]).is(0);
        assert!(!file.exists());
    }
    let new = push(&site, "next");
    site.run(&["sync"]).is(0);
    assert!(index().packs.contains_key(&new) && !index().packs.contains_key(&old));
    git(
        &site.path("alone"),
        &["bundle", "verify", "--quiet", &site.text("mirror/git/git.example_8443/team/mod.bundle")],
    );
    assert!(
        git(site.dir.path(), &["bundle", "list-heads", &site.text("mirror/git/git.example_8443/team/mod.bundle")])
            .contains(&new)
    );
    assert!(file.exists(), "somebody may just have read of it");
    site.write_config_with("grace: 0s\n");
    site.run(&["gc"]).is(0);
    assert!(!file.exists());
    assert_eq!(cloner(&site, &server, "placed"), 0);
    // What is lost is made again.
    std::fs::remove_file(&bundle).expect("there");
    std::fs::remove_dir_all(site.path("mirror/git/packs")).expect("there");
    site.run(&["sync"]).is(0);
    assert!(
        bundle.exists()
            && site.path("mirror/git").join(cloner::refsindex::pack_path(&index().packs[&new].digest)).exists()
    );
    for path in ["packs/x.pack", "packs/../../sources/modules.json", "git.example_8443/team/none.bundle", "packs/"] {
        let answer = ureq::get(format!("{}/git/{path}", server.url())).call();
        assert!(matches!(answer, Err(ureq::Error::StatusCode(400 | 403 | 404))), "{path}: {answer:?}");
    }
}

#[test]
fn libgit2_clones_and_goes_shallow() {
    let (site, old) = site();
    site.snapshot();
    let server = site.serve();
    let url = format!("{}/git/{PATH}", server.url());
    // This build of libgit2 has no HTTP of its own: the transport below speaks it.
    transport::register();
    let clone = git2::Repository::clone(&url.replace("http://", "testhttp://"), site.path("plain")).expect("clones");
    assert_eq!(clone.head().expect("a head").target().expect("a commit").to_string(), old);
    let mut options = git2::FetchOptions::new();
    options.depth(1);
    let mut builder = git2::build::RepoBuilder::new();
    builder.fetch_options(options).bare(true);
    let shallow = builder
        .clone(&url.replace("http://", "testhttp://"), Path::new(&site.path("shallow")))
        .expect("clones shallow");
    assert!(shallow.is_shallow());
}

/// The smallest smart transport for libgit2 over plain HTTP.
mod transport {
    use std::io::{self, Read, Write};
    use std::sync::Once;

    use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};

    struct Http;

    struct Call {
        agent: ureq::Agent,
        url: String,
        content_type: Option<&'static str>,
        body: Vec<u8>,
        answer: Option<Box<dyn Read + Send>>,
    }

    pub(crate) fn register() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: called once, before any other use of libgit2 in this process by this test's `Once`.
            unsafe { git2::transport::register("testhttp", |remote| Transport::smart(remote, true, Http)) }
                .expect("registers");
        });
    }

    impl SmartSubtransport for Http {
        fn action(&self, url: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
            let url = url.replace("testhttp://", "http://");
            let (url, content_type) = match action {
                Service::UploadPackLs => (format!("{url}/info/refs?service=git-upload-pack"), None),
                Service::UploadPack => {
                    (format!("{url}/git-upload-pack"), Some("application/x-git-upload-pack-request"))
                }
                _ => return Err(git2::Error::from_str("read-only")),
            };
            let agent = ureq::Agent::new_with_defaults();
            Ok(Box::new(Call { agent, url, content_type, body: Vec::new(), answer: None }))
        }

        fn close(&self) -> Result<(), git2::Error> {
            Ok(())
        }
    }

    impl Write for Call {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.body.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Call {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.answer.is_none() {
                let response = match self.content_type {
                    Some(kind) => self.agent.post(&self.url).content_type(kind).send(&self.body[..]),
                    None => self.agent.get(&self.url).call(),
                };
                self.answer = Some(Box::new(response.map_err(io::Error::other)?.into_body().into_reader()));
            }
            self.answer.as_mut().expect("set above").read(buffer)
        }
    }
}
