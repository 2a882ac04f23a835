//! `convert`: what a machine installs from becomes a configuration that `check` takes.

use crate::support::Site;

#[test]
fn the_sources_of_a_machine_become_a_configuration() {
    let site = Site::new();
    let keys = site.text("site.gpg");
    std::fs::write(
        site.path("debian.sources"),
        format!(
            "Types: deb\nURIs: http://deb.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: {keys}\n\n\
             Types: deb\nURIs: http://deb.invalid/debian-security\nSuites: bookworm-security\nComponents: main\nSigned-By: {keys}\n"
        ),
    )
    .expect("written");
    std::fs::write(
        site.path("more.list"),
        format!(
            "deb [signed-by={keys}] http://deb.invalid/debian bookworm-backports main\n\
             deb [signed-by={keys}] https://other.invalid/debian 13 main\n\
             deb [trusted=yes] http://flat.invalid ./\n"
        ),
    )
    .expect("written");
    std::fs::write(
        site.path("base.repo"),
        format!("[base]\nbaseurl=http://rpm.invalid/$releasever/$basearch\ngpgkey=file://{keys}\n"),
    )
    .expect("written");
    let files = ["debian.sources", "more.list", "base.repo"].map(|name| site.text(name));
    let mut arguments = vec!["convert", "--architecture", "amd64", "--releasever", "9"];
    arguments.extend(files.iter().map(String::as_str));
    let made = site.run(&arguments).is(0);
    let said = format!("{}:3: left out: it is a flat repository", files[1]);
    assert!(made.err.contains(&said) && made.err.lines().count() == 1, "{}", made.err);

    std::fs::write(
        site.path("mirror.yaml"),
        format!("root: {}\nurl: http://m.invalid\n{}", site.text("other"), made.out),
    )
    .expect("written");
    let checked = site.run(&["check"]).is(0).out;
    for line in [
        "source debian: deb, suites bookworm bookworm-updates bookworm-backports, components main, architectures amd64",
        "source debian-security: deb, suites bookworm-security, components main, architectures amd64",
        "source debian-2: deb, suites 13, components main, architectures amd64",
        "source base: rpm, architectures x86_64 noarch",
        "  from http://rpm.invalid/9/x86_64",
    ] {
        assert!(checked.lines().any(|found| found == line), "{line}\n{checked}");
    }
}

#[test]
fn files_without_a_source_that_can_be_mirrored_are_refused() {
    let site = Site::new();
    std::fs::write(site.path("a.list"), "deb http://h.invalid/debian bookworm main\n").expect("written");
    let refused = site.run(&["convert", &site.text("a.list")]).is(65);
    assert!(refused.out.is_empty());
    assert!(refused.err.contains("a.list:1: left out: it names no keys; next: --keyring FILE"), "{}", refused.err);
    assert!(refused.err.contains("no file has a source that can be mirrored"), "{}", refused.err);
    std::fs::write(site.path("b.list"), b"deb \xff\n").expect("written");
    assert!(site.run(&["convert", &site.text("b.list")]).is(65).err.contains("b.list: is no text"));
    std::fs::write(site.path("c.list"), vec![b'#'; 2 << 20]).expect("written");
    site.run(&["convert", &site.text("c.list")]).is(65);
    site.run(&["convert", &site.text("none.list")]).is(65);
    site.run(&["convert"]).is(2);
}
