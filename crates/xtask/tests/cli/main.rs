//! The real binary.

use std::process::Command;

#[test]
fn pages_and_completions_are_written() {
    let dir = std::env::temp_dir().join(format!("xtask-test-{}", std::process::id()));
    for (task, count) in [("man", 8), ("completions", 24)] {
        let target = dir.join(task);
        let status = Command::new(env!("CARGO_BIN_EXE_xtask")).arg(task).arg(&target).status().expect("it runs");
        assert!(status.success());
        assert_eq!(std::fs::read_dir(&target).expect("made").count(), count);
    }
    std::fs::write(dir.join("file"), "").expect("written");
    let status = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("man").arg(dir.join("file")).status().expect("it runs");
    assert_eq!(status.code(), Some(73));
    std::fs::remove_dir_all(&dir).expect("removed");
}
