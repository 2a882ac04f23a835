//! Where the tests of several tools find the tools; the tests themselves are in `tests/`.
//!
//! Cargo builds the binaries of other packages before this package's tests only when the whole workspace is
//! tested. So the tools beside the test are used if they are newer than the sources that Cargo's dependency
//! files name, and are built first if not. `STACKTIRA_BINARIES` names a directory of tools to test instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Every program that is installed.
pub const TOOLS: [&str; 8] = [
    "cloner",
    "consul-elect",
    "consul-kv",
    "consul-watch-handler",
    "hiera-consul",
    "mirror-sync",
    "node-metadata",
    "ts",
];

/// Returns the path of a tool, built from the present sources.
///
/// # Panics
/// The tools cannot be built, or there is none of that name.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.is_file(), "there is no {}", path.display());
    path
}

/// Returns the directory of the tools; see [`tool`].
///
/// # Panics
/// The tools cannot be built.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(given) = std::env::var_os("STACKTIRA_BINARIES").filter(|v| !v.is_empty()) {
            return std::fs::canonicalize(&given)
                .unwrap_or_else(|error| panic!("STACKTIRA_BINARIES={}: {error}", given.display()));
        }
        let test = std::env::current_exe().expect("a running program has a path");
        // TARGET/PROFILE/deps/this-test
        let profile = test.ancestors().nth(2).expect("cargo puts tests two levels deep");
        if !TOOLS.iter().all(|name| is_fresh(&profile.join(name))) {
            build(profile);
        }
        profile.to_owned()
    })
}

/// Whether a binary is newer than everything in its dependency file, `TARGET: SOURCE SOURCE…`.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let Some(built) = modified(binary) else { return false };
    let Ok(text) = std::fs::read_to_string(binary.with_extension("d")) else { return false };
    let Some((_, sources)) = text.split_once(": ") else { return false };
    // A path with a blank, which is escaped, makes this false: then cargo is asked.
    sources.split_ascii_whitespace().all(|source| modified(Path::new(source)).is_some_and(|changed| changed <= built))
}

fn build(profile: &Path) {
    let target = profile.parent().expect("a profile's directory lies in the target directory");
    let name = match profile.file_name().and_then(|name| name.to_str()).expect("cargo names profiles in ASCII") {
        "debug" => "dev",
        other => other,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--bins", "--profile", name, "--target-dir"]).arg(target);
    cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    // What cargo sets for tests of this package makes build scripts of others run again.
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|start| text.starts_with(start)) {
            cargo.env_remove(&variable);
        }
    }
    let built = cargo.status().expect("cargo can be run");
    assert!(built.success(), "the tools cannot be built; STACKTIRA_BINARIES names a directory with others");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_fresh_while_no_source_is_newer() {
        let place = std::env::temp_dir().join(format!("integration-tests-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a temporary directory can be made");
        let [source, binary] = ["source.rs", "tool"].map(|name| place.join(name));
        let age = |path: &Path, seconds: u64| {
            let file = std::fs::File::create(path).expect("a temporary file can be made");
            let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
            file.set_modified(time).expect("times can be set");
        };
        age(&source, 20);
        age(&binary, 10);
        assert!(!is_fresh(&binary), "without a dependency file nobody knows");
        let dependencies = format!("{}: {}\n", binary.display(), source.display());
        std::fs::write(place.join("tool.d"), dependencies).expect("a temporary file can be made");
        assert!(is_fresh(&binary));
        age(&source, 5);
        assert!(!is_fresh(&binary));
        std::fs::remove_file(&source).expect("it was made above");
        assert!(!is_fresh(&binary));
        std::fs::remove_dir_all(&place).expect("it was made above");
    }
}
