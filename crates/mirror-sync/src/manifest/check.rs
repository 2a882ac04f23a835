//! What must hold of a manifest that was made somewhere else, before anything is done with it.
//!
//! A signature says who made it, not that it is of any use: its paths become files, its names parts of URLs and refs.

use std::collections::BTreeSet;

use super::{Git, Manifest, Package, Source};
use crate::git;
use crate::names;
use crate::repository;

impl Manifest {
    /// Checks names, paths, refs and their order.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        for pair in self.sources.windows(2) {
            if pair[0].name() >= pair[1].name() {
                return Err(format!("the source {:?} is not in its place", pair[1].name()));
            }
        }
        for source in &self.sources {
            names::check(source.name()).map_err(|why| format!("the source {:?} {why}", source.name()))?;
            check_source(source).map_err(|why| format!("source {}: {why}", source.name()))?;
        }
        Ok(())
    }
}

fn check_source(source: &Source) -> Result<(), String> {
    let names: Vec<&String> = match source {
        Source::Deb(deb) => deb.suites.iter().chain(&deb.components).chain(&deb.architectures).collect(),
        Source::Rpm(rpm) => rpm.architectures.iter().collect(),
        Source::Files(_) => Vec::new(),
        Source::Git(git) => check_git(git).map(|()| Vec::new())?,
    };
    for name in names {
        names::check(name).map_err(|why| format!("the name {name:?} {why}"))?;
    }
    source.packages().iter().try_for_each(check_package)?;
    let mut paths = BTreeSet::new();
    let mut add = |path: &str| -> Result<(), String> {
        if !repository::is_plain(path) {
            return Err(format!("the path {path:?} leaves the repository"));
        }
        if paths.insert(path.to_owned()) { Ok(()) } else { Err(format!("{path:?} is there twice")) }
    };
    let mut total: u64 = 0;
    for (path, size, _) in source.files() {
        add(path)?;
        total = total.checked_add(size).ok_or("its files are too large")?;
    }
    for signed in source.signed() {
        let content = signed.content();
        if !source.files().any(|(path, ..)| path == content) {
            return Err(format!("{content:?} is missing"));
        }
        signed.signatures().iter().try_for_each(|path| add(path))?;
    }
    // A file cannot be where another's directory is.
    let below = |path: &&String| path.match_indices('/').any(|(end, _)| paths.contains(&path[..end]));
    match paths.iter().find(below) {
        Some(path) => Err(format!("{path:?} lies below another file")),
        None => Ok(()),
    }
}

fn check_package(package: &Package) -> Result<(), String> {
    let fine = |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace());
    if [&package.name, &package.version, &package.arch].into_iter().all(fine) {
        Ok(())
    } else {
        Err(format!("{:?} is no package", package.path))
    }
}

fn check_git(part: &Git) -> Result<(), String> {
    if part.repos.windows(2).any(|pair| pair[0].path >= pair[1].path) {
        return Err("its repositories are not in order".into());
    }
    for repo in &part.repos {
        git::check_path(&repo.path)?;
        if repo.head.as_deref().is_some_and(|head| !is_ref(head)) {
            return Err(format!("{}: HEAD names no branch", repo.path));
        }
        if let Some(name) = repo.peeled.keys().find(|name| !repo.refs.contains_key(*name)) {
            return Err(format!("{}: {name:?} is no tag of it", repo.path));
        }
        for (name, target) in repo.refs.iter().chain(&repo.peeled) {
            let hex = matches!(target.len(), 40 | 64) && target.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !is_ref(name) || !hex {
                return Err(format!("{}: {name:?} is no ref", repo.path));
            }
        }
    }
    Ok(())
}

/// Whether git takes it as the name of a branch or tag.
fn is_ref(name: &str) -> bool {
    let rest = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
    rest.is_some_and(|rest| {
        let plain = |c: char| !c.is_control() && !" ~^:?*[\\".contains(c);
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        name.len() < 500
            && rest.chars().all(plain)
            && rest.split('/').all(part)
            && !rest.contains("..")
            && !rest.contains("@{")
            && !rest.ends_with('.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use std::path::Path;

    fn judge(sources: &str) -> Result<(), String> {
        let zero = Digest::of(b"");
        let text = format!(r#"{{"v":1,"sources":[{sources}]}}"#).replace("ZERO", zero.as_str());
        Manifest::decode(text.as_bytes(), Path::new("m")).map_err(|error| toolkit::exit::chain(&error))?.check()
    }

    fn files(paths: &[&str]) -> Result<(), String> {
        let files: Vec<String> =
            paths.iter().map(|path| format!(r#"{{"path":"{path}","size":1,"sha256":"ZERO"}}"#)).collect();
        judge(&format!(r#"{{"type":"files","name":"tools","files":[{}]}}"#, files.join(",")))
    }

    #[test]
    fn paths_stay_inside_and_apart() {
        assert_eq!(files(&["a", "b/c", "b/d"]), Ok(()));
        for wrong in [&["../a"][..], &["/a"], &["a/../b"], &["a//b"], &[""], &["a\\u0000"], &["a", "a"], &["a", "a/b"]]
        {
            assert!(files(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_signed_is_there_and_its_signature_is_not() {
        let deb = |files: &str| {
            judge(&format!(
                r#"{{"type":"deb","name":"d","suites":["s"],"components":["main"],"architectures":["amd64"],"packages":[],"files":[{files}]}}"#
            ))
        };
        let release = r#"{"path":"dists/s/Release","size":1,"sha256":"ZERO"}"#;
        assert_eq!(deb(release), Ok(()));
        assert!(deb("").is_err());
        assert!(deb(&format!(r#"{{"path":"dists/s/InRelease","size":1,"sha256":"ZERO"}},{release}"#)).is_err());
    }

    #[test]
    fn refs_are_those_of_git() {
        let target = "a".repeat(40);
        let git = |path: &str, name: &str, target: &str| {
            judge(&format!(
                r#"{{"type":"git","name":"m","repos":[{{"path":"{path}","head":null,"refs":{{"{name}":"{target}"}}}}]}}"#
            ))
        };
        assert_eq!(git("h/x.git", "refs/heads/a/b", &target), Ok(()));
        for (path, name) in [
            ("../x.git", "refs/heads/a"),
            ("x.git", "refs/heads/a"),
            ("h/x.git", "refs/heads/a\\nupdate refs/heads/b"),
            ("h/x.git", "refs/heads/a..b"),
            ("h/x.git", "refs/heads/"),
            ("h/x.git", "HEAD"),
            ("h/x.git", "refs/stacktira/snap/x"),
        ] {
            assert!(git(path, name, &target).is_err(), "{path} {name}");
        }
        assert!(git("h/x.git", "refs/heads/a", "HEAD").is_err());
    }

    #[test]
    fn sources_are_in_order_and_each_is_there_once() {
        let files = |name: &str| format!(r#"{{"type":"files","name":"{name}","files":[]}}"#);
        assert_eq!(judge(&[files("a"), files("b")].join(",")), Ok(()));
        assert!(judge(&[files("b"), files("a")].join(",")).is_err());
        assert!(judge(&[files("a"), files("a")].join(",")).is_err());
        assert!(judge(&files("..")).is_err());
    }
}
