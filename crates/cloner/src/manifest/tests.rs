//! What manifests mean and what is refused.

use super::*;

fn repos(text: &str) -> Result<Vec<Repo>, String> {
    Manifest::parse("m.yaml", text.as_bytes()).and_then(|manifest| manifest.repos()).map_err(|err| err.to_string())
}

fn refusal(text: &str) -> String {
    repos(text).expect_err("refused")
}

const NESTED: &str = "destdir: modules
ref: stable/2026.1
os:
  source: https://opendev.org/openstack/puppet-%{name}.git
  dest: '%{destdir}/%{name}'
  keystone: {}
  nova: {ref: 1.10}
";

#[test]
fn scalars_are_inherited_as_written_and_the_nearest_wins() {
    let repos = repos(NESTED).expect("valid");
    assert_eq!(repos.len(), 2);
    assert_eq!(repos[0].source, "https://opendev.org/openstack/puppet-keystone.git");
    assert_eq!(repos[0].dest, "modules/keystone");
    assert_eq!(repos[0].reference.as_deref(), Some("stable/2026.1"));
    assert_eq!(repos[1].reference.as_deref(), Some("1.10"));
    assert_eq!(repos[1].path, "os::nova");
    assert_eq!(repos[1].at, "m.yaml:7:3");
}

#[test]
fn expansion_goes_to_a_fixed_point_in_the_scope_of_the_repository() {
    let repos =
        repos("a: '%{b}/x'\nb: '%{c}'\nc: top\ng:\n  c: '%{name}'\n  r: {source: s, dest: '%{a}'}\n").expect("valid");
    assert_eq!(repos[0].dest, "r/x");
}

#[test]
fn errors_name_file_line_and_column() {
    assert_eq!(refusal("r:\n  source: s\n  dest: x/%{desdir}\n"), "m.yaml:3:11: variable 'desdir' is not defined");
    assert_eq!(
        refusal("r:\n  source: s\n  dest: '%{a}'\n  a: '%{b}'\n  b: '%{a}'\n"),
        "m.yaml:4:6: variable 'a' needs itself: a -> b -> a"
    );
    assert_eq!(refusal("r: {source: s, dest: 'x/%{dest}'}"), "m.yaml:1:22: variable 'dest' needs itself: dest -> dest");
    assert_eq!(refusal("r: {source: s}"), "m.yaml:1:1: 'r' has no dest");
    assert_eq!(
        refusal("r: {source: [s], dest: d}"),
        "m.yaml:1:13: 'source' is a list; a manifest has texts and mappings only"
    );
    assert_eq!(refusal("a: 1\na: 2\n"), "m.yaml:2:1: 'a' stands here a second time");
    assert_eq!(refusal("- a\n"), "m.yaml:1:1: the manifest must be a mapping of names to repositories, not a list");
    assert_eq!(refusal("r: {source: s, dest: 'a%{'}"), "m.yaml:1:22: '%{' without '}'");
    assert_eq!(refusal("r:\n"), "m.yaml:1:1: 'r' has no value");
    assert!(refusal("r: {source: s, dest: d\n").starts_with("m.yaml:"));
    assert_eq!(refusal("source: s\ndest: d\n"), "m.yaml:1:1: no repository has a name");
    assert_eq!(refusal("r: {ref: x, dest: d}"), "m.yaml:1:10: 'r' has ref but no source");
}

#[test]
fn an_undefined_variable_comes_with_a_suggestion() {
    let err = Manifest::parse("m", b"destdir: x\nr: {source: s, dest: '%{desdir}/r'}").and_then(|m| m.repos());
    let Err(ManifestError::At { hint, .. }) = err else { panic!("refused with a place") };
    assert_eq!(hint.as_deref(), Some("did you mean %{destdir}?"));
}

#[test]
fn json_is_read_too_with_tabs() {
    let text = "{\n\t\"g\": {\n\t\t\"dest\": \"m/%{name}\",\n\t\t\"r\": {\"source\": \"s\", \"ref\": 2.0}\n\t}\n}";
    let repos = repos(text).expect("valid");
    assert_eq!((repos[0].dest.as_str(), repos[0].reference.as_deref()), ("m/r", Some("2.0")));
}

#[test]
fn empty_manifests_have_no_repository() {
    for text in ["", "# nothing\n", "{}", "~", "vars: {a: b}"] {
        assert_eq!(repos(text), Ok(Vec::new()), "{text:?}");
    }
}

#[test]
fn merge_keys_and_aliases_work_and_bombs_do_not() {
    let merged = repos("x: &x {source: s, dest: 'd/%{name}'}\ny: {<<: *x, ref: v1}\n").expect("valid");
    assert_eq!((merged[1].source.as_str(), merged[1].reference.as_deref()), ("s", Some("v1")));
    let mut bomb = String::from("a0: &a0 {x: y}\n");
    for level in 1..30 {
        let parts: Vec<String> = (0..9).map(|part| format!("k{part}: *a{}", level - 1)).collect();
        bomb.push_str(&format!("a{level}: &a{level} {{{}}}\n", parts.join(", ")));
    }
    assert!(refusal(&bomb).contains("too large"));
    let mut doubling = String::from("v0: xxxxxxxx\n");
    for level in 1..40 {
        doubling.push_str(&format!("v{level}: '%{{v{0}}}%{{v{0}}}'\n", level - 1));
    }
    doubling.push_str("r: {source: s, dest: '%{v39}'}\n");
    assert!(refusal(&doubling).contains("expands to more than"));
    assert!(refusal(&"[".repeat(100_000)).contains("nested"));
    let big = format!("a: {}", "x".repeat(MAX_BYTES));
    assert!(refusal(&big).contains("larger than 1024 KiB"));
}

#[test]
fn overrides_change_what_is_there_and_nothing_else() {
    let mut manifest = Manifest::parse("m", NESTED.as_bytes()).expect("valid");
    manifest.set("--destdir", "destdir", "elsewhere").expect("known");
    manifest.set("--os::nova::ref", "os::nova::ref", "master").expect("known");
    manifest.set("--os::keystone::ref", "os::keystone::ref", "a=b").expect("inherited");
    let repos = manifest.repos().expect("valid");
    assert_eq!(repos[0].dest, "elsewhere/keystone");
    assert_eq!(repos[0].reference.as_deref(), Some("a=b"));
    assert_eq!(repos[1].reference.as_deref(), Some("master"));
    for (path, near) in [
        ("os::nvoa::ref", Some("the nearest known one is --os::nova::ref")),
        ("destdri", Some("the nearest known one is --destdir")),
        ("os::nova::ref::deep", None),
        ("zzzzzzzzzzzzz", None),
    ] {
        let Err(ManifestError::Override { hint, .. }) = manifest.set(path, path, "x") else {
            panic!("{path} must be refused")
        };
        assert!(near.is_none() || hint.as_deref() == near, "{path}: {hint:?}");
    }
    assert!(manifest.set("--os::nova", "os::nova", "x").is_err());
    let repos_after = manifest.repos().expect("valid");
    assert_eq!(repos, repos_after);
}

#[test]
fn an_error_in_an_overridden_value_blames_the_override() {
    let mut manifest = Manifest::parse("m", NESTED.as_bytes()).expect("valid");
    manifest.set("--destdir", "destdir", "%{nowhere}").expect("known");
    let text = manifest.repos().expect_err("undefined").to_string();
    assert_eq!(text, "override '--destdir': variable 'nowhere' is not defined");
}

fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, std::path::PathBuf) {
    let scratch = tempfile::tempdir().expect("scratch");
    for (name, text) in files {
        let path = scratch.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    let path = scratch.path().join(files[0].0);
    (scratch, path)
}

#[test]
fn a_manifest_is_laid_on_those_that_it_extends() {
    let (_scratch, path) = files(&[
        ("site/m.yaml", "extends: [../base.yaml, more.json]\nref: v2\nos: {nova: {ref: v3}, new: {}}\n"),
        ("base.yaml", "dest: 'm/%{name}'\nref: v1\nos:\n  source: s/%{name}\n  nova: {}\n  heat: {}\n"),
        ("site/more.json", "{\"os\": {\"heat\": {\"ref\": 1.10}}, \"x\": {\"source\": \"y\"}}"),
    ]);
    let repos = Manifest::load(&path).and_then(|manifest| manifest.repos()).expect("valid");
    let found: Vec<(&str, &str, &str)> = repos
        .iter()
        .map(|repo| (repo.path.as_str(), repo.source.as_str(), repo.reference.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        found,
        [("os::nova", "s/nova", "v3"), ("os::heat", "s/heat", "1.10"), ("os::new", "s/new", "v2"), ("x", "y", "v2")]
    );
    // An override reaches what came from below, and what is wrong there is found there.
    let mut manifest = Manifest::load(&path).expect("valid");
    manifest.set("--os::heat::ref", "os::heat::ref", "%{nowhere}").expect("known");
    assert!(manifest.repos().expect_err("undefined").to_string().starts_with("override '--os::heat::ref'"));
}

#[test]
fn what_cannot_be_extended_is_named_with_its_place() {
    for (texts, expected) in [
        (&[("a", "extends: b\n"), ("b", "extends: a\n")][..], "b:1:10: the manifest extends itself: "),
        (&[("a", "extends: a\n")], "a:1:10: the manifest extends itself: "),
        (&[("a", "x: y\nextends: nowhere\n")], "a:2:10: cannot read "),
        (&[("a", "extends: '.'\n")], "a directory, where a file is expected"),
        (&[("a", "extends: ''\n")], "a:1:10: 'extends' takes the path"),
        (&[("a", "extends:\n")], "'extends' takes the path"),
        (&[("a", "extends: [[b]]\n"), ("b", "")], "a:1:11: 'extends' takes the path"),
        (&[("a", "extends: b\n"), ("b", "x: [1]\n")], "b:1:4: 'x' is a list"),
        (&[("a", "extends: b\nx: y\n"), ("b", "x: {}\n")], "a:2:4: 'x' is a text here and a mapping in "),
        (&[("a", "extends: b\nx: {}\n"), ("b", "x: y\n")], "a:2:1: 'x' is a mapping here and a text in "),
        (&[("a", "extends: b\nr: {source: s}\n"), ("b", "dest: '%{no}'\n")], "b:1:7: variable 'no' is not defined"),
    ] {
        let (_scratch, path) = files(texts);
        let err = Manifest::load(&path).and_then(|manifest| manifest.repos()).expect_err(expected).to_string();
        assert!(err.contains(expected), "{texts:?}: {err}");
    }
    let list = format!("extends: [{}]\n", "b, ".repeat(70));
    let (_scratch, path) = files(&[("a", list.as_str()), ("b", "")]);
    assert!(Manifest::load(&path).expect_err("too many").to_string().contains("more than 64 files"));
    let big = format!("x: {}\n", "y".repeat(MAX_BYTES - 100));
    let (_scratch, path) = files(&[("a", "extends: [b, b]\n"), ("b", big.as_str())]);
    assert!(Manifest::load(&path).expect_err("too large").to_string().contains("larger than 1024 KiB"));
}

#[test]
fn a_pipe_that_is_extended_does_not_hold_the_run_up() {
    let (scratch, path) = files(&[("a", "extends: pipe\n")]);
    nix::unistd::mkfifo(&scratch.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    assert!(Manifest::load(&path).expect_err("refused").to_string().contains("a pipe, where a file is expected"));
}

#[test]
fn a_repository_may_be_called_extends() {
    let repos = repos("extends: {source: s, dest: d}\n").expect("valid");
    assert_eq!(repos[0].name, "extends");
}

#[test]
fn texts_that_nothing_uses_are_warned_about() {
    let text =
        "destdir: x\nspare: y\nr: {source: s, dest: '%{destdir}/r', brnach: main, ref: '%{branch}', branch: b}\n";
    let manifest = Manifest::parse("m", text.as_bytes()).expect("valid");
    assert_eq!(
        manifest.warnings(),
        ["m:2:8: nothing uses 'spare'", "m:3:46: nothing uses 'brnach' (did you mean 'branch'?)"]
    );
    assert!(Manifest::parse("m", NESTED.as_bytes()).expect("valid").warnings().is_empty());
}

#[test]
fn a_large_manifest_costs_time_in_proportion() {
    let mut text = String::from("source: s/%{name}\ndest: d/%{name}\n");
    for number in 0..24_000 {
        text.push_str(&format!("r{number}: {{ref: v{number}}}\n"));
    }
    // A quadratic reader takes minutes for this.
    assert_eq!(repos(&text).expect("valid").len(), 24_000);
}

/// The workspace's own manifest: inheritance gives every module its source, ref and place.
#[test]
fn the_manifest_of_the_nodes_means_what_it_says() {
    let manifest =
        Manifest::parse("repos.yaml", include_bytes!("../../../../repos.yaml")).expect("the workspace's manifest");
    assert!(manifest.warnings().is_empty());
    let repos = manifest.repos().expect("valid");
    assert_eq!(repos.len(), 51);
    for (name, source, reference) in [
        ("keystone", "https://opendev.org/openstack/puppet-keystone", Some("stable/2026.1")),
        ("rsync", "https://github.com/puppetlabs/puppetlabs-rsync", Some("1.2.0")),
        ("systemd", "https://github.com/voxpupuli/puppet-systemd", Some("v9.4.0")),
        ("haproxy", "https://github.com/puppetlabs/puppetlabs-haproxy", None),
    ] {
        let repo = repos.iter().find(|repo| repo.name == name).expect(name);
        assert_eq!((repo.source.as_str(), repo.reference.as_deref()), (source, reference));
        assert_eq!(repo.dest, format!("modules/{name}"));
    }
}

#[test]
fn puppetfiles_mean_what_r10k_makes_of_them() {
    let text = "# who\nforge 'https://forge.puppet.com'\nmoduledir 'thirdparty'\n\nmod 'puppetlabs/apache',\n  :git => 'https://h/apache', # where\n  :tag => 'v1.10'\nmod \"nova\", git: 'https://h/nova', ref: \"main\", install_path: 'os/'\nmod 'me-x', :git => '/srv/it\\'s'\n";
    let manifest = Manifest::parse("site/Puppetfile", text.as_bytes()).expect("valid");
    let found: Vec<String> = manifest
        .repos()
        .expect("valid")
        .iter()
        .map(|repo| format!("{} {} {:?} {}", repo.name, repo.source, repo.reference.as_deref(), repo.dest))
        .collect();
    assert_eq!(
        found,
        [
            "puppetlabs/apache https://h/apache Some(\"v1.10\") thirdparty/apache",
            "nova https://h/nova Some(\"main\") os/nova",
            "me-x /srv/it's None thirdparty/x",
        ]
    );
    for (text, why) in [
        ("mod 'puppetlabs/apache', '1.0'", "1:26: 'puppetlabs/apache' is a module of the Forge"),
        ("mod 'apache'", "1:1: 'apache' is a module of the Forge"),
        ("mod 'apache', :latest", "is a module of the Forge"),
        ("mod 'a', :git => 'x', :branch => :control_branch", "1:23: the :branch of 'a' is not a text"),
        ("mod 'a', :git => 'x', :ref => 'y', :tag => 'z'", "more than one of"),
        ("mod 'a', :svn => 'x'", "the :svn of 'a' is not understood"),
        ("mod 'a', :git => 'x' :ref => 'y'", "are not `:key => 'value'`"),
        ("mod 'a', :git => 'x'\nmod 'a', :git => 'y'", "2:1: the module 'a' stands here a second time"),
        ("mod :a", "1:1: 'mod' takes a name in quotes"),
        ("system('touch evil')", "1:7: not a name in quotes"),
        ("system 'touch evil'", "1:1: only mod, forge and moduledir"),
        ("mod 'a', :git => \"x#{`touch evil`}\"", "1:18: not a name in quotes"),
        ("mod 'a', :git => 'x", "1:18: not a name in quotes"),
        ("`touch evil`", "1:1: not a name in quotes"),
        ("if true", "1:1: only mod"),
    ] {
        let err = Manifest::parse("Puppetfile", text.as_bytes()).expect_err(why).to_string();
        assert!(err.contains(why), "{text}: {err}");
    }
}

#[test]
fn repos_files_mean_what_vcstool_makes_of_them() {
    let text = "repositories:\n  src/nova:\n    type: git\n    url: https://h/nova\n    version: 1.10\n  x: {type: git, url: s}\n";
    let repos = Manifest::parse("all.repos", text.as_bytes()).and_then(|manifest| manifest.repos()).expect("valid");
    assert_eq!((repos[0].dest.as_str(), repos[0].reference.as_deref()), ("src/nova", Some("1.10")));
    assert_eq!((repos[1].source.as_str(), repos[1].reference.as_deref()), ("s", None));
    for (text, why) in [
        ("{}", "no 'repositories'"),
        ("repositories: []", "must be a mapping"),
        ("repositories: {a: {type: hg, url: x}}", "1:26: only repositories of the type git"),
        ("repositories: {a: {type: git}}", "1:16: this repository has no url"),
        ("repositories: {a: {url: x, depth: 1}}", "only type, url and version"),
        ("repositories: {a: {url: x}, a: {url: y}}", "a second time"),
        ("repositories: {a: {url: x}}\nextends: y", "2:1: only 'repositories'"),
        ("repositories: {a: {url: [x]}}", "must be a text"),
    ] {
        let err = Manifest::parse("all.repos", text.as_bytes()).expect_err(why).to_string();
        assert!(err.contains(why), "{text}: {err}");
    }
}
