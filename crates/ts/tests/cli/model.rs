//! The protocol's model, checked by spin where that is installed; and the faults that must be found in it.

use std::path::Path;
use std::process::Command;

use crate::skipped;

/// Checks the model exhaustively and returns whether every assertion holds.
fn holds(defines: &[&str]) -> bool {
    let dir = tempfile::tempdir().expect("scratch directory");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/ts.pml");
    let run = |command: &mut Command| {
        let output = command.current_dir(dir.path()).output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    run(Command::new("spin").arg("-a").args(defines).arg(model));
    run(Command::new("cc").args(["-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"]));
    let text = run(Command::new("./pan").arg("-m100000"));
    assert!(text.contains("errors: ") && !text.contains("max search depth too small"), "{text}");
    text.contains("errors: 0")
}

fn can_check() -> bool {
    ["spin", "cc"].iter().all(|program| Command::new(program).arg("--version").output().is_ok())
}

#[test]
fn the_protocol_holds() {
    if !can_check() {
        return skipped("spin or cc is not installed");
    }
    for defines in [
        &["-DNK=1", "-DNJ=0", "-DNCRASH=3"][..],
        &["-DNK=2", "-DNJ=0", "-DNCRASH=1", "-DNO_HEIRS"],
        &["-DNK=1", "-DNJ=1", "-DNCRASH=1", "-DNO_HEIRS"],
    ] {
        assert!(holds(defines), "{defines:?}");
    }
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn the_protocol_holds_with_more_participants() {
    assert!(can_check(), "spin or cc is not installed");
    for defines in [
        &["-DNK=1", "-DNJ=1", "-DNCRASH=1"][..],
        &["-DNK=3", "-DNJ=0", "-DNCRASH=0", "-DNO_HEIRS"],
        &["-DNK=2", "-DNJ=1", "-DNCRASH=1", "-DNO_HEIRS"],
        &["-DNK=1", "-DNJ=1", "-DNCRASH=3", "-DNO_HEIRS"],
    ] {
        assert!(holds(defines), "{defines:?}");
    }
}

#[test]
fn every_seeded_fault_is_found() {
    if !can_check() {
        return skipped("spin or cc is not installed");
    }
    let both = ["-DNK=1", "-DNJ=1", "-DNCRASH=1", "-DNO_HEIRS"].as_slice();
    let one = ["-DNK=1", "-DNJ=0", "-DNCRASH=1"].as_slice();
    let two = ["-DNK=2", "-DNJ=0", "-DNCRASH=1"].as_slice();
    for (participants, faults) in [
        (both, &["NO_REREAD", "SAMPLE_LATE", "EXEC_FIRST", "NO_ADOPTION", "JOINER_LEAVES", "CLOSE_BEFORE_START"][..]),
        (one, &["NO_HEIR", "NO_HEIR_OF_FIRST", "HEIR_NO_ADOPTION", "LEADER_MAKES_HEIR"]),
        (two, &["HEIR_LETS_GO_FIRST"]),
    ] {
        for fault in faults {
            assert!(!holds(&[participants, &[&format!("-DBUG_{fault}")]].concat()), "{fault}");
        }
    }
}
