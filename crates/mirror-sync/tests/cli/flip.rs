//! apt refreshes while the channel's pointer flips between two snapshots: every one of them succeeds, because what a
//! pointer names never changes and never goes away under a client.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::apt::{Apt, usable};
use crate::support::Site;

/// How long the pointer stays where it is.
const PAUSE: Duration = Duration::from_millis(30);

fn refresh(count: usize) -> (usize, usize) {
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
    let (done, flips, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let began = Instant::now();
                let number = flips.fetch_add(1, Ordering::SeqCst);
                site.run(&["promote", [&second, &first][number % 2], "--channel", "stable"]).is(0);
                std::thread::sleep(PAUSE.saturating_sub(began.elapsed()));
            }
        });
        let mut seen = [0, 0];
        for _ in 0..count {
            let body = ureq::get(format!("{}/channel/stable.json", server.url())).call().expect("served");
            let text = body.into_body().read_to_string().expect("text");
            let pointer: serde_json::Value = serde_json::from_str(&text).expect("whole");
            let id = pointer["snapshot"].as_str().expect("an id");
            apt.source(&server, id, &key);
            let run = apt.update();
            let candidate = apt.run(&["install", "-s", "st-n0"]).out;
            let version = if id == first { "1.0" } else { "2.0" };
            seen[usize::from(id == second)] += 1;
            if run.code != 0 || !candidate.contains(&format!("st-n0 ({version}")) {
                failed.fetch_add(1, Ordering::SeqCst);
            }
        }
        done.store(true, Ordering::SeqCst);
        assert!(seen.iter().all(|count| *count > 0), "both were seen: {seen:?}");
    });
    (failed.into_inner(), flips.into_inner())
}

#[test]
#[allow(clippy::print_stderr, reason = "the numbers are the result")]
fn refreshes_while_the_pointer_flips_never_fail() {
    if !usable() {
        return;
    }
    let count = std::env::var("STACKTIRA_REFRESHES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let (failed, flips) = refresh(count);
    eprintln!("flip: {failed} of {count} refreshes failed, the pointer flipped {flips} times");
    assert_eq!(failed, 0);
}
