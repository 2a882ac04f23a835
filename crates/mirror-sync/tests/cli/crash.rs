//! Killed at any point, the mirror is in its old state or its new one, and the next run mends the rest.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Site, has, tree};

#[test]
fn killed_anywhere_nothing_is_half_and_the_result_is_the_same() {
    if !has("dpkg-deb") {
        return;
    }
    let site = Site::new();
    for number in 0..8 {
        site.deb_of(&format!("st-n{number}"), "1.0", "", &format!("{number}").repeat(100_000));
    }
    // What an undisturbed run makes, and how long it takes.
    let calm = Site::new();
    std::fs::remove_dir(calm.path("debs")).expect("empty");
    std::os::unix::fs::symlink(site.path("debs"), calm.path("debs")).expect("link");
    let started = Instant::now();
    let expected = calm.snapshot();
    let whole = started.elapsed();
    for round in 0..10u32 {
        let _ = std::fs::remove_dir_all(site.path("mirror"));
        for command in ["sync", "snapshot"] {
            let mut child = site.command(&[command]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
            std::thread::sleep(Duration::from_micros(500) + whole * round / 20);
            let _ = child.kill();
            child.wait().expect("ours");
            // Whatever is published is whole.
            if site.path("mirror/pub/snap").exists() {
                site.run(&["verify"]).is(0);
            }
        }
        assert_eq!(site.snapshot(), expected, "round {round}");
        site.run(&["verify"]).is(0);
        assert!(tree(&site.path("mirror/tmp")).is_empty());
    }
}
