//! Clients refresh while the channel's pointer flips between two snapshots: every refresh succeeds, because what a
//! pointer names never changes and never goes away under a client.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::apt::{Apt, usable};
use crate::dnf::Dnf;
use crate::rpm::{self, has_rpm};
use crate::support::{Server, Site};

/// How long the pointer stays where it is.
const PAUSE: Duration = Duration::from_millis(30);

/// Flips the pointer between two snapshots, `first` and `second` with version 1.0 and 2.0 of something, while `refresh`
/// is called with the one that the pointer names; it tells the version that the client then sees.
#[allow(clippy::print_stderr, reason = "the numbers are the result")]
fn refresh_under_flips(
    site: &Site,
    server: &Server,
    snapshots: [&str; 2],
    count: usize,
    refresh: impl Fn(&str) -> Result<String, String>,
) {
    let (done, flips) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let began = Instant::now();
                let number = flips.fetch_add(1, Ordering::SeqCst);
                site.run(&["promote", snapshots[(number + 1) % 2], "--channel", "stable"]).is(0);
                std::thread::sleep(PAUSE.saturating_sub(began.elapsed()));
            }
        });
        let ended = Ended(&done);
        let (mut seen, mut failed) = ([0, 0], Vec::new());
        for _ in 0..count {
            let body = ureq::get(format!("{}/channel/stable.json", server.url())).call().expect("served");
            let text = body.into_body().read_to_string().expect("text");
            let pointer: serde_json::Value = serde_json::from_str(&text).expect("whole");
            let id = pointer["snapshot"].as_str().expect("an id");
            let number = snapshots.iter().position(|snapshot| *snapshot == id).expect("one of the two");
            seen[number] += 1;
            match refresh(id) {
                Ok(version) if version == ["1.0", "2.0"][number] => {}
                Ok(version) => failed.push(format!("{id}: {version}")),
                Err(why) => failed.push(why),
            }
        }
        drop(ended);
        let flips = flips.load(Ordering::SeqCst);
        eprintln!("flip: {} of {count} refreshes failed, the pointer flipped {flips} times", failed.len());
        assert!(failed.is_empty(), "{failed:?}");
        assert!(seen.iter().all(|count| *count > 0), "both were seen: {seen:?}");
        assert!(flips > count, "it flipped {flips} times");
    });
}

/// Says that it is over when it is dropped, by a panic too: whoever flips goes on until then.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// How many refreshes there are, unless `name` in the environment says otherwise.
fn count(name: &str, ordinary: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(ordinary)
}

#[test]
fn apt_refreshes_while_the_pointer_flips_never_fail() {
    if !usable() {
        return;
    }
    let site = Site::new();
    for number in 0..20 {
        site.deb(&format!("st-n{number}"), "1.0", "");
    }
    let first = site.snapshot();
    site.deb("st-n0", "2.0", "");
    let second = site.snapshot();
    site.run(&["promote", &first, "--channel", "stable"]).is(0);
    let server = site.serve();
    let apt = Apt::new(&site.path("apt"));
    let key = site.path("site.gpg");
    refresh_under_flips(&site, &server, [&first, &second], count("STACKTIRA_REFRESHES", 60), |id| {
        apt.source(&server, id, &key);
        let run = apt.update();
        if run.code == 0 { apt.candidate("st-n0") } else { Err(run.err) }
    });
}

#[test]
fn dnf_refreshes_while_the_pointer_flips_never_fail() {
    if !has_rpm() {
        return;
    }
    let site = rpm::site();
    for number in 0..3 {
        rpm::rpm(&site, &format!("st-n{number}"), "1.0", "", &format!("/etc/st-n{number}"));
    }
    let first = site.snapshot();
    rpm::rpm(&site, "st-n0", "2.0", "", "/etc/st-n0");
    let second = site.snapshot();
    site.run(&["promote", &first, "--channel", "stable"]).is(0);
    let server = site.serve();
    let key = site.text("site.asc");
    let dnf = Dnf::new(&site, "dnf", "http://127.0.0.1:1", &key);
    refresh_under_flips(&site, &server, [&first, &second], count("STACKTIRA_DNF_REFRESHES", 25), |id| {
        dnf.source(&format!("{}/snap/{id}/rpm/own", server.url()), &key, "gpgcheck=0");
        let run = dnf.refresh();
        if run.code == 0 { Ok(dnf.candidate("st-n0")) } else { Err(run.err) }
    });
}
