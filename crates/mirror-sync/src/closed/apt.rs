//! apt as a solver.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LIMIT, Solver, Verdict, plain};
use crate::child;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::Deb;
use crate::select::Asked;

/// Directories that apt wants to be there.
const DIRECTORIES: [&str; 8] = [
    "etc/apt/apt.conf.d",
    "etc/apt/preferences.d",
    "etc/apt/trusted.gpg.d",
    "etc/apt/sources.list.d",
    "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial",
    "var/lib/dpkg",
    "var/log/apt",
];

/// apt with a snapshot's files as its only source.
pub(super) struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Makes the root and lets apt read the snapshot's indices.
    ///
    /// # Errors
    /// [`Error::Rejected`] when apt cannot use them; [`Error::Write`].
    pub(super) fn new(
        root: &Path,
        tree: &Path,
        sources: &[&Deb],
        arch: &str,
        installed: Option<&Path>,
    ) -> Result<Self> {
        for directory in DIRECTORIES {
            files::make_dir(&root.join(directory))?;
        }
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::write(&path, text).map_err(Error::write(&path))
        };
        write("var/lib/dpkg/status", "")?;
        let status = installed.map_or_else(|| root.join("var/lib/dpkg/status"), Path::to_owned);
        let (r, status) = (plain(root)?, plain(&status)?);
        // Read before anything of the host's own configuration, which is then not looked for.
        write(
            "apt.conf",
            &format!(
                "Dir \"{r}\";\nDir::Etc \"{r}/etc/apt\";\nDir::State \"{r}/var/lib/apt\";\nDir::State::status \"{status}\";\n\
                 Dir::Cache \"{r}/var/cache/apt\";\nDir::Log \"{r}/var/log/apt\";\nAPT::Architecture \"{arch}\";\n\
                 APT::Architectures {{\"{arch}\";}};\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
                 APT::Install-Recommends \"false\";\n"
            ),
        )?;
        let mut text = String::new();
        for deb in sources.iter().filter(|deb| deb.architectures.iter().any(|own| own == arch)) {
            // The index is the one that is about to be published, on this machine's own disk.
            let _ = writeln!(
                text,
                "Types: deb\nURIs: file:{}\nSuites: {}\nComponents: {}\nArchitectures: {arch}\nTrusted: yes\n\
                 Check-Valid-Until: no\nCheck-Date: no\n",
                plain(&tree.join("deb").join(&deb.name))?,
                deb.suites.join(" "),
                deb.components.join(" "),
            );
        }
        write("etc/apt/sources.list.d/snapshot.sources", &text)?;
        let apt = Self { root: root.to_owned() };
        let answer = apt.run(apt.command().args(["update", "--error-on=any"]))?;
        if let Some(words) = answer.complaint("E:") {
            return Err(Error::rejected("the snapshot as apt reads it", words));
        }
        Ok(apt)
    }

    fn command(&self) -> Command {
        let mut command = child::command("apt-get", &[]);
        command.env("APT_CONFIG", self.root.join("apt.conf")).env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        command
    }

    fn run(&self, command: &mut Command) -> Result<child::Answer> {
        child::run(command, LIMIT).map_err(|why| Error::unavailable("apt-get", why))
    }
}

impl Solver for Apt {
    fn solve(&self, asked: &[&Asked]) -> Result<Verdict> {
        let mut command = self.command();
        command.args(["-s", "satisfy", "--"]);
        for asked in asked {
            command.arg(match &asked.version {
                Some(version) => format!("{} (= {version})", asked.name),
                None => asked.name.clone(),
            });
        }
        let answer = self.run(&mut command)?;
        if answer.status.success() {
            return Ok(Verdict::Fits);
        }
        Ok(verdict(&answer.out, &answer.err))
    }
}

/// What apt's words mean.
fn verdict(out: &str, err: &str) -> Verdict {
    let mut missing = std::collections::BTreeSet::new();
    let mut words = Vec::new();
    let (_, unmet) = out.split_once("The following packages have unmet dependencies:\n").unwrap_or_default();
    let mut whose = "";
    for line in unmet.lines().take_while(|line| line.starts_with(' ')) {
        let what = match line.split_once(" : ") {
            Some((name, what)) => {
                whose = name.trim();
                what
            }
            None => line.trim(),
        };
        // Its name for what the command line asks for.
        if whose != "satisfy:command-line" {
            words.push(format!("{whose} {}", lower(what)));
        } else if let Some(name) =
            what.strip_prefix("Depends: ").and_then(|what| what.strip_suffix(" but it is not installable"))
        {
            missing.insert(name.split(' ').next().unwrap_or(name).to_owned());
        } else {
            words.push(lower(what));
        }
    }
    if !missing.is_empty() {
        return Verdict::Missing(missing);
    }
    if words.is_empty() {
        words = err.lines().filter_map(|line| line.strip_prefix("E: ")).map(str::to_owned).collect();
    }
    words.truncate(5);
    Verdict::Open(words)
}

/// `Depends: x` in the middle of a sentence.
fn lower(what: &str) -> String {
    what.replacen("PreDepends: ", "needs ", 1).replacen("Depends: ", "needs ", 1).replacen(
        "Conflicts: ",
        "conflicts with ",
        1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_words_are_understood() {
        let out = "Reading package lists...\nThe following packages have unmet dependencies:\n \
                   satisfy:command-line : Depends: nix but it is not installable\n                        Depends: st-a but it is not going to be installed\n";
        assert_eq!(verdict(out, ""), Verdict::Missing(["nix".to_owned()].into()));
        let out = "The following packages have unmet dependencies:\n st-a : Depends: st-b (>= 2) but it is not going to be installed\n        Depends: deep but it is not installable\nX";
        let words =
            ["st-a needs st-b (>= 2) but it is not going to be installed", "st-a needs deep but it is not installable"];
        assert_eq!(verdict(out, "E: Unable"), Verdict::Open(words.map(str::to_owned).to_vec()));
        assert_eq!(verdict("", "W: x\nE: Unable to do it\n"), Verdict::Open(vec!["Unable to do it".into()]));
    }
}
