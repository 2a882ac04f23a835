//! `export` and `import`: a snapshot in one file, from a mirror to one that no network reaches.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::git::{self, PATH};
use crate::rpm;
use crate::support::{Run, Site, git, tree};

/// A mirror that takes in what another one exports: no sources, no secret key, the other's public one.
fn far(near: &Site) -> Site {
    let far = Site::new();
    fs::copy(near.path("site.gpg"), far.path("near.gpg")).expect("copied");
    fs::remove_file(far.path("site.sec.asc")).expect("there");
    configure(&far, "");
    far
}

fn configure(far: &Site, more: &str) {
    let text = format!(
        "root: {}\nurl: http://far.example:8080\nchannels: [stable]\n{more}\
         node: {{mirror: 'http://far.example:8080', channel: stable, keyring: {}}}\n",
        far.text("mirror"),
        far.text("near.gpg")
    );
    fs::write(far.path("mirror.yaml"), text).expect("writable");
}

#[track_caller]
fn export(near: &Site, id: &str, since: Option<&str>) -> String {
    let out = near.text("export.tar");
    let mut arguments = vec!["export", id, "--out", &out];
    arguments.extend(since.iter().flat_map(|since| ["--since", since]));
    near.run(&arguments).is(0);
    assert!(!near.path("export.tar.partial").exists());
    assert_eq!(fs::metadata(&out).expect("there").permissions().mode() & 0o777, 0o644);
    out
}

#[track_caller]
fn is_the_same(near: &Site, far: &Site, id: &str) {
    assert_eq!(tree(&near.published(id)), tree(&far.published(id)));
    far.run(&["verify"]).is(0);
}

/// Nothing of a refused import is to be seen, and there is one line that says why.
#[track_caller]
fn is_refused(far: &Site, run: Run, word: &str) {
    let run = run.is(1);
    let errors: Vec<&str> = run.err.lines().filter(|line| !line.contains(" hint: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(word), "{word}: {}", run.err);
    assert_eq!(run.out, "");
    assert_eq!(fs::read_dir(far.path("mirror/pub/snap")).map_or(0, Iterator::count), 0);
    assert_eq!(fs::read_dir(far.path("mirror/tmp")).map_or(0, Iterator::count), 0, "{}", run.err);
}

/// What the refs index says, but for packs: those are made where the manifest is that names refs.
fn refs(site: &Site) -> Vec<String> {
    let text = fs::read_to_string(site.path("mirror/git/refs.index")).expect("there");
    text.lines().filter(|line| !line.starts_with("pack ")).map(str::to_owned).collect()
}

#[test]
fn a_snapshot_is_the_same_on_the_other_side() {
    let (near, head) = git::site();
    near.deb("st-a", "1.0", "");
    near.deb("st-b", "1.0", "st-a");
    let id = near.snapshot();
    let file = export(&near, &id, None);
    let before = fs::read(&file).expect("there");
    export(&near, &id, None);
    assert_eq!(fs::read(&file).expect("there"), before, "the same snapshot is the same file");
    let far = far(&near);
    assert_eq!(far.run(&["import", &file]).is(0).out, format!("{id}\n"));
    is_the_same(&near, &far, &id);
    let mirror = far.path("mirror/git").join(PATH);
    assert_eq!(git(&mirror, &["rev-parse", "HEAD"]), head);
    assert_eq!(git(&mirror, &["rev-parse", "v1^{commit}"]), head);
    assert_eq!(refs(&far), refs(&near));
    far.run(&["promote", &id, "--channel", "stable"]).is(0);
    let again = far.run(&["-v", "import", &file]).is(0);
    assert!(again.out == format!("{id}\n") && again.err.contains("is here already"), "{}", again.err);
    // Nothing needs what it leaves behind.
    far.run(&["gc"]).is(0);
    is_the_same(&near, &far, &id);
}

#[test]
fn a_delta_brings_only_what_is_new_and_needs_what_is_old() {
    let (near, _) = git::site();
    near.deb_of("st-a", "1.0", "", &"incompressible-ish ".repeat(20_000));
    let first = near.snapshot();
    let whole = export(&near, &first, None);
    let far = far(&near);
    near.deb("st-b", "1.0", "st-a");
    let head = git::push(&near, "rewritten");
    // A tag of an old commit, which no bundle can hold.
    let bare = near.path("upstream/git.example_8443/team/mod.git");
    let old = git(&near.path("work"), &["rev-parse", "v1^{commit}"]);
    git(&bare, &["tag", "older", &format!("{old}^")]);
    let second = near.snapshot();
    fs::rename(&whole, near.path("whole.tar")).expect("ours");
    let delta = export(&near, &second, Some(&first));
    let names = {
        let output = Command::new("tar").arg("-tf").arg(&delta).output().expect("tar runs");
        String::from_utf8(output.stdout).expect("names")
    };
    let sha256 = |path: &str| crate::signing::sha256(&fs::read(near.published(&second).join(path)).expect("there"));
    let pool = "deb/debian/pool/main/s";
    assert!(!names.contains(&sha256(&format!("{pool}/st-a/st-a_1.0_amd64.deb"))), "{names}");
    assert!(names.contains(&sha256(&format!("{pool}/st-b/st-b_1.0_amd64.deb"))), "{names}");

    is_refused(&far, far.run(&["import", &delta]), &format!("beyond {first}, and that one is not here"));
    far.run(&["import", &near.text("whole.tar")]).is(0);
    far.run(&["import", &delta]).is(0);
    is_the_same(&near, &far, &second);
    is_the_same(&near, &far, &first);
    let mirror = far.path("mirror/git").join(PATH);
    assert_eq!(git(&mirror, &["rev-parse", "HEAD"]), head);
    assert_eq!(git(&mirror, &["rev-parse", "refs/tags/older"]), git(&bare, &["rev-parse", "refs/tags/older"]));
    // Nothing but a package changes: no commit has to come along.
    near.deb("st-c", "1.0", "");
    let third = near.snapshot();
    far.run(&["import", &export(&near, &third, Some(&second))]).is(0);
    is_the_same(&near, &far, &third);
    near.run(&["export", &"0".repeat(64), "--out", &near.text("x")]).is(1);
    near.run(&["export", &third, "--since", &"0".repeat(64), "--out", &near.text("x")]).is(1);
    assert!(!near.path("x").exists());
}

#[test]
fn what_is_truncated_or_changed_is_refused_unless_it_decides_nothing() {
    let (near, _) = git::site();
    near.deb("st-a", "1.0", "");
    let id = near.snapshot();
    let file = export(&near, &id, None);
    let bytes = fs::read(&file).expect("there");
    let far = far(&near);
    let broken = far.text("broken.tar");
    // The end of the archive is two empty blocks after the last entry, which nobody needs.
    let needed = bytes.len() - 1024;
    for length in (0..needed).step_by(needed / 11).chain([needed - 1]) {
        fs::write(&broken, &bytes[..length]).expect("writable");
        is_refused(&far, far.run(&["import", &broken]), "ends before its end");
    }
    let mut offsets = vec![0, 600];
    let mut archive = tar_entries(&bytes);
    archive.retain(|(_, size, _)| *size > 0);
    offsets.extend(archive.iter().flat_map(|(_, size, at)| [at - 500, at + size / 2]));
    let (mut accepted, offered) = (0, offsets.len());
    for at in offsets {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fs::write(&broken, &changed).expect("writable");
        let run = far.run(&["import", &broken]);
        // Times in the head, bits of base64 and names of refs in a bundle decide nothing: then all is as it should be.
        if run.code == 0 {
            accepted += 1;
            is_the_same(&near, &far, &id);
            assert_eq!(refs(&far), refs(&near));
            fs::remove_dir_all(far.path("mirror")).expect("ours");
        } else {
            is_refused(&far, run, "");
        }
    }
    assert!(accepted < offered / 4, "{accepted} of {offered} damaged files were accepted");
    // What came in before the damage is used; the rest follows.
    far.run(&["import", &file]).is(0);
    is_the_same(&near, &far, &id);
}

/// Name, size and start of the content of each entry.
fn tar_entries(bytes: &[u8]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while bytes[at] != 0 {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&bytes[range]).trim_end_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(text(at + 124..at + 136).trim(), 8).expect("octal");
        found.push((text(at..at + 100), size, at + 512));
        at += 512 + size.div_ceil(512) * 512;
    }
    found
}

#[test]
fn a_foreign_key_is_refused_and_a_key_of_ones_own_signs_anew() {
    let near = Site::new();
    near.deb("st-a", "1.0", "");
    let id = near.snapshot();
    let file = export(&near, &id, None);
    // It has a key, and not the one that signed.
    let far = Site::new();
    is_refused(&far, far.run(&["import", &file]), "the manifest's signature: no valid signature by a trusted key");
    far.run(&["import", &file, "--keyring", &near.text("site.gpg")]).is(0);
    far.run(&["verify"]).is(0);
    let unsigned = |site: &Site| {
        let mut files = tree(&site.published(&id));
        files.retain(|(name, _)| !name.ends_with("InRelease") && !name.ends_with(".gpg") && !name.ends_with(".sig"));
        files
    };
    assert_eq!(unsigned(&near), unsigned(&far));
    assert_ne!(tree(&near.published(&id)), tree(&far.published(&id)));
    // Somebody who has neither.
    let nobody = self::far(&near);
    let text = format!("root: {}\nchannels: [stable]\n", nobody.text("mirror"));
    fs::write(nobody.path("mirror.yaml"), text).expect("writable");
    let run = nobody.run(&["import", &file]).is(65);
    assert!(run.err.contains("neither signing_key nor node.keyring"), "{}", run.err);
}

#[test]
fn a_repository_for_dnf_crosses_too() {
    if !rpm::has_rpm() {
        return;
    }
    let near = rpm::site();
    rpm::rpm(&near, "st-a", "1.0", "", "/usr/share/st-a/data");
    let id = near.snapshot();
    let far = far(&near);
    far.run(&["import", &export(&near, &id, None)]).is(0);
    is_the_same(&near, &far, &id);
    assert!(tree(&far.published(&id)).iter().any(|(name, _)| name.ends_with("repodata/repomd.xml.asc")));
    assert!(far.run(&["show", &id]).is(0).out.contains("st-a 1.0-1"));
}

#[test]
fn it_goes_through_a_pipe() {
    let near = Site::new();
    near.deb("st-a", "1.0", "");
    let id = near.snapshot();
    let far = far(&near);
    let mut writer = near.command(&["export", &id, "--out", "-"]).stdout(Stdio::piped()).spawn().expect("runs");
    let pipe = writer.stdout.take().expect("piped");
    let reader = far.command(&["import", "-"]).stdin(pipe).output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&reader.stdout), format!("{id}\n"));
    assert!(writer.wait().expect("ends").success());
    is_the_same(&near, &far, &id);
}

#[test]
fn a_damaged_mirror_is_not_carried_further() {
    let near = Site::new();
    near.deb("st-a", "1.0", "");
    let id = near.snapshot();
    fs::write(near.path("export.tar"), "what was there").expect("writable");
    let package = near.published(&id).join("deb/debian/pool/main/s/st-a/st-a_1.0_amd64.deb");
    let mut bytes = fs::read(&package).expect("there");
    let blob =
        near.path("mirror/cas/sha256").join(&crate::signing::sha256(&bytes)[..2]).join(crate::signing::sha256(&bytes));
    bytes[100] ^= 1;
    fs::remove_file(&blob).expect("there");
    let run = near.run(&["export", &id, "--out", &near.text("export.tar")]).is(1);
    assert!(run.err.contains("is not there"), "{}", run.err);
    fs::write(&blob, bytes).expect("writable");
    let run = near.run(&["export", &id, "--out", &near.text("export.tar")]).is(1);
    assert!(run.err.contains("does not have the digest it should have"), "{}", run.err);
    assert_eq!(fs::read_to_string(near.path("export.tar")).expect("there"), "what was there");
    assert!(!near.path("export.tar.partial").exists());
    near.run(&["export", &id, "--out", "/dev/full/x"]).is(73);
}

#[test]
fn killed_anywhere_an_import_goes_on_and_an_export_leaves_the_old_file() {
    let (near, _) = git::site();
    for number in 0..12 {
        near.deb_of(&format!("st-{number}"), "1.0", "", &format!("payload {number}").repeat(2000));
    }
    let id = near.snapshot();
    let file = export(&near, &id, None);
    let whole = fs::read(&file).expect("there");
    let far = far(&near);
    let mut killed = 0;
    for round in 0..24_u64 {
        let mut child = far.command(&["import", &file]).stdout(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(round * 7 % 90));
        let _ = child.kill();
        if child.wait().expect("ends").code().is_none() {
            killed += 1;
        }
        let published = far.published(&id);
        assert!(!published.exists() || tree(&published) == tree(&near.published(&id)));
        let mut child = near.command(&["export", &id, "--out", &file]).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(round * 5 % 60));
        let _ = child.kill();
        child.wait().expect("ends");
        assert_eq!(fs::read(&file).expect("there"), whole);
    }
    assert!(killed > 0, "every import was faster than its kill");
    far.run(&["import", &file]).is(0);
    is_the_same(&near, &far, &id);
    export(&near, &id, None);
    assert_eq!(fs::read(&file).expect("there"), whole);
}

#[test]
fn a_second_writer_is_told_and_an_export_never_waits() {
    let near = Site::new();
    near.deb("st-a", "1.0", "");
    let id = near.snapshot();
    let file = export(&near, &id, None);
    let far = far(&near);
    // An import that waits for its input is a writer.
    let mut waiting = far.command(&["import", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    while !far.path("mirror/lock").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    far.run(&["import", &file]).is(75);
    drop(waiting.stdin.take());
    assert_eq!(waiting.wait().expect("ends").code(), Some(1));
    let lock = writers_lock(&near);
    export(&near, &id, None);
    drop(lock);
}

/// Holds the writer's lock as another process would.
fn writers_lock(site: &Site) -> nix::fcntl::Flock<fs::File> {
    let file = fs::File::open(site.path("mirror/lock")).expect("there");
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).expect("free")
}
