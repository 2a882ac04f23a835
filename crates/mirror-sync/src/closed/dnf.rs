//! dnf as a solver.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{LIMIT, Solver, Verdict, plain};
use crate::child;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::Rpm;
use crate::select::Asked;

/// Directories that are dnf's own in the root.
const DIRECTORIES: [&str; 7] = ["repos", "cache", "persist", "log", "vars", "plugins", "root"];
/// Architectures of packages that a machine of another one uses too.
const SECOND: [(&str, &[&str]); 2] = [("x86_64", &["i686", "i586", "i486", "i386"]), ("aarch64", &["armv7hl"])];

/// Returns the architectures of machines that these sources are for.
pub(super) fn machines<'a>(sources: &[&'a Rpm]) -> BTreeSet<&'a str> {
    let named = sources.iter().flat_map(|rpm| {
        let own = rpm.architectures.iter().map(String::as_str);
        // Without a list it is what the packages are for.
        let all = rpm.packages.iter().filter(|_| rpm.architectures.is_empty()).map(|package| package.arch.as_str());
        own.chain(all)
    });
    let mut machines: BTreeSet<&str> = named.filter(|arch| !matches!(*arch, "noarch" | "src" | "nosrc")).collect();
    for (first, second) in SECOND {
        if machines.contains(first) {
            machines.retain(|arch| !second.contains(arch));
        }
    }
    if machines.is_empty() && !sources.is_empty() {
        machines.insert(std::env::consts::ARCH);
    }
    machines
}

/// dnf with a snapshot's files as its only source.
pub(super) struct Dnf {
    root: PathBuf,
    arch: String,
}

impl Dnf {
    /// Makes the root and lets dnf read the snapshot's metadata.
    ///
    /// # Errors
    /// [`Error::Rejected`] when dnf cannot use it; [`Error::Write`].
    pub(super) fn new(root: &Path, tree: &Path, sources: &[&Rpm], arch: &str) -> Result<Self> {
        for directory in DIRECTORIES {
            files::make_dir(&root.join(directory))?;
        }
        let r = plain(root)?;
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::write(&path, text).map_err(Error::write(&path))
        };
        write(
            "dnf.conf",
            &format!(
                "[main]\nreposdir={r}/repos\ncachedir={r}/cache\npersistdir={r}/persist\nlogdir={r}/log\nvarsdir={r}/vars\n\
                 pluginconfpath={r}/plugins\nplugins=0\nzchunk=0\ninstall_weak_deps=0\nbest=0\n"
            ),
        )?;
        let mut text = String::new();
        for rpm in sources {
            let _ = writeln!(
                text,
                "[{0}]\nname={0}\nbaseurl=file://{1}\ngpgcheck=0\nrepo_gpgcheck=0\n",
                rpm.name,
                plain(&tree.join("rpm").join(&rpm.name))?
            );
        }
        write("repos/snapshot.repo", &text)?;
        let dnf = Self { root: root.to_owned(), arch: arch.to_owned() };
        let answer = dnf.run(&["makecache"])?;
        if let Some(words) = answer.complaint("Error:") {
            return Err(Error::rejected("the snapshot as dnf reads it", words));
        }
        Ok(dnf)
    }

    fn run(&self, arguments: &[&str]) -> Result<child::Answer> {
        let mut command = child::command("dnf", &[]);
        command.env("HOME", &self.root).arg("-c").arg(self.root.join("dnf.conf"));
        command.arg(format!("--installroot={}", self.root.join("root").display()));
        command.args(["-q", "--releasever=1", &format!("--forcearch={}", self.arch)]).args(arguments);
        child::run(&mut command, LIMIT).map_err(|why| Error::unavailable("dnf", why))
    }
}

impl Solver for Dnf {
    fn solve(&self, asked: &[&Asked]) -> Result<Verdict> {
        let specs: Vec<String> = asked.iter().map(|asked| spec(asked)).collect();
        let mut arguments = vec!["--assumeno", "install", "--"];
        arguments.extend(specs.iter().map(String::as_str));
        let answer = self.run(&arguments)?;
        Ok(verdict(asked, &answer.out, &answer.err))
    }
}

/// How dnf is asked for a package.
fn spec(asked: &Asked) -> String {
    match &asked.version {
        Some(version) => format!("{}-{version}", asked.name),
        None => asked.name.clone(),
    }
}

/// What dnf's words mean. That it was told not to go on is no failure, though its exit status is the same.
fn verdict(asked: &[&Asked], out: &str, err: &str) -> Verdict {
    if err.lines().chain(out.lines()).any(|line| line == "Operation aborted." || line == "Nothing to do.") {
        return Verdict::Fits;
    }
    let mut words = Vec::new();
    for line in err.lines() {
        if let Some(names) = line.strip_prefix("Error: Unable to find a match: ") {
            let specs: BTreeSet<&str> = names.split(' ').collect();
            let missing = asked.iter().filter(|asked| specs.contains(&*spec(asked)));
            return Verdict::Missing(missing.map(|asked| asked.name.clone()).collect());
        }
        let line = line.trim().trim_start_matches("Error:").trim();
        let line = line.trim_start_matches("- ").trim_start_matches("Problem: ");
        if !line.is_empty() && line != "conflicting requests" {
            words.push(line.to_owned());
        }
    }
    // The reason before its consequences.
    words.sort_by_key(|line| !line.starts_with("nothing provides"));
    words.truncate(5);
    if words.is_empty() {
        words.push("dnf finds no solution and does not say why".into());
    }
    Verdict::Open(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, version: Option<&str>) -> Asked {
        Asked { name: name.into(), version: version.map(str::to_owned), from: String::new() }
    }

    #[test]
    fn dnfs_words_are_understood() {
        let (a, b) = (asked("st-a", None), asked("st-b", Some("2")));
        let all = [&a, &b];
        assert_eq!(verdict(&all, "", "Operation aborted.\n"), Verdict::Fits);
        let missing = verdict(&all, "", "Error: Unable to find a match: st-b-2\n");
        assert_eq!(missing, Verdict::Missing(["st-b".to_owned()].into()));
        let err = "Error: \n Problem: conflicting requests\n  - nothing provides gone >= 3 needed by st-a-1-1.noarch\n";
        let open = Verdict::Open(vec!["nothing provides gone >= 3 needed by st-a-1-1.noarch".into()]);
        assert_eq!(verdict(&all, "", err), open);
        let Verdict::Open(words) = verdict(&all, "", "") else { panic!("an answer without words is no solution") };
        assert_eq!(words.len(), 1);
    }

    #[test]
    fn machines_are_those_of_the_sources() {
        let rpm = |architectures: &[&str]| Rpm {
            name: "x".into(),
            architectures: architectures.iter().map(|arch| (*arch).to_owned()).collect(),
            packages: Vec::new(),
            files: Vec::new(),
            keyring: None,
        };
        let (one, two) = (rpm(&["x86_64", "noarch", "i686"]), rpm(&["aarch64"]));
        assert_eq!(machines(&[&one, &two]), BTreeSet::from(["aarch64", "x86_64"]));
        assert_eq!(machines(&[&rpm(&["noarch"])]), BTreeSet::from([std::env::consts::ARCH]));
        assert_eq!(machines(&[]), BTreeSet::new());
    }
}
